"""The numbers with which modules remember sizes, and what they become when channels go.

A layer's own numbers follow from the operator that it runs. Other numbers are known by their
values alone, which may be read in several ways; see `ghn.graphs.resize`. Those that are called as
sizes of channels are likely to be some, others to be no sizes, such as the place of a layer, a
factor, or the side of an image.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import nn

from ghn.graphs.channels.kept import Kept
from ghn.graphs.channels.layout import Layout
from ghn.graphs.channels.rules import Step

__all__ = ["ModuleSizes"]

Shape = tuple[int, ...]

_CHANNELS = re.compile(r"dim|size|feat|chan|head|width|hidden|inner|group|plane|n_embd|d_model")
_OTHERS = re.compile(r"ima?ge?_|patch|pixel|input|vocab|class|label|posi|index|idx|layer|depth|win")


class Number(NamedTuple):
    """A number of a module that may be a size: equal ones of one class are read alike."""

    cls: type
    attribute: str
    place: int | None
    value: int
    options: tuple[int, ...]

    @property
    def is_likely(self) -> bool:
        """Whether its name is one for sizes of channels."""
        name = self.attribute.lower()
        return bool(_CHANNELS.search(name)) and not _OTHERS.search(name)


class ModuleSizes:
    """Sets the numbers of a model whose tensors have been sliced.

    Args:
        model: The sliced model. The numbers of its layers are set at once.
        kept: Which channels are left.
        steps: The calls of the forward pass, each with the shapes that its results should have.
    """

    def __init__(
        self, model: nn.Module, kept: Kept, steps: Sequence[tuple[Step, list[Shape]]]
    ) -> None:
        modules = dict(model.named_modules())
        handled: dict[str, dict[int, set[int]]] = {}
        known: set[tuple[int, str]] = set()
        for step, results in steps:
            module = modules[step.call.scope]
            read = [(layout.shape, kept.shape(layout)) for layout in step.layouts()]
            written = zip(step.shapes, results, strict=False)
            for old, new in itertools.chain(read, written):
                for m, n in zip(old, new, strict=True):
                    handled.setdefault(step.call.scope, {}).setdefault(m, set()).add(n)
            for attribute, value in _layer_numbers(module, step, results, kept).items():
                if hasattr(module, attribute):
                    setattr(module, attribute, value)
                    known.add((id(module), attribute))
        self._numbers: dict[Number, list[nn.Module]] = {}
        for scope, sizes in handled.items():
            for number in _numbers(modules[scope], sizes):
                if (id(modules[scope]), number.attribute) not in known:
                    self._numbers.setdefault(number, []).append(modules[scope])

    def readings(self) -> Iterator[dict[Number, int]]:
        """Yield ways to read the numbers: first by their names, then one of them otherwise.

        After these all ways, first those in which most are sizes that change.
        """
        likely = {n: n.options[0] if n.is_likely else n.value for n in self._numbers}
        yield likely
        for number in self._numbers:
            for option in number.options:
                if option != likely[number]:
                    yield {**likely, number: option}
        for values in itertools.product(*(n.options for n in self._numbers)):
            yield dict(zip(self._numbers, values, strict=True))

    def write(self, reading: dict[Number, int]) -> None:
        """Set the numbers of all modules as they are read."""
        for number, value in reading.items():
            for module in self._numbers[number]:
                new: Any = value
                if number.place is not None:
                    old = getattr(module, number.attribute)
                    items = [*old[: number.place], value, *old[number.place + 1 :]]
                    new = items if isinstance(old, list) else tuple(items)
                setattr(module, number.attribute, new)


def _numbers(module: nn.Module, sizes: dict[int, set[int]]) -> Iterator[Number]:
    """Yield the numbers of a module that equal a size which changes."""
    for attribute, value in vars(module).items():
        if attribute.startswith("_") or isinstance(value, bool):
            continue
        single = isinstance(value, int)
        items = value if isinstance(value, (tuple, list)) else [value]
        for place, item in enumerate(items):
            if isinstance(item, bool) or not isinstance(item, int):
                continue
            changed = sorted(sizes.get(item, {item}) - {item})
            if changed:
                options = (*changed, item)
                yield Number(type(module), attribute, None if single else place, item, options)


def _layer_numbers(
    module: nn.Module, step: Step, results: list[Shape], kept: Kept
) -> dict[str, Any]:
    """Return what the layer that makes a call would call its sizes."""
    if not results:  # it is not understood, and nothing of it changes
        return {}
    shapes = [kept.shape(a) if isinstance(a, Layout) else a for a in step.args]
    match step.name:
        case "linear" | "addmm" | "mm":
            read = shapes[1] if step.name == "addmm" else kept.shape(step.get(0, "input"))
            inside, outside = read[-1], results[0][-1]
            return {"in_features": inside, "out_features": outside, "nx": inside, "nf": outside}
        case "convolution":
            return _convolution_numbers(shapes, results)
        case "embedding":
            return {"embedding_dim": shapes[0][1]}
        case "native_layer_norm" | "rms_norm" | "_fused_rms_norm":
            return {"normalized_shape": tuple(shapes[0][-len(step.args[1]) :])}
        case "native_group_norm":
            rows = kept.rows(step.args[0], 1, step.args[6])
            return {"num_channels": shapes[0][1], "num_groups": rows}
    if "batch_norm" in step.name:
        # Instance norms run as batch norms of all images' channels, side by side.
        before, after = step.args[0].shape[1], shapes[0][1]
        return {"num_features": getattr(module, "num_features", before) * after // before}
    return {}


def _convolution_numbers(shapes: list[Any], results: list[Shape]) -> dict[str, Any]:
    """A weight is `[groups * out, in]`, that of a transposed convolution `[groups * in, out]`."""
    inside, outside, within = shapes[0][1], results[0][1], shapes[1][1]
    groups = (outside if shapes[6] else inside) // within
    return {"in_channels": inside, "out_channels": outside, "groups": groups}
