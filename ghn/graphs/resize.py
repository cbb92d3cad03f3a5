"""Resize a module along its channel ties: fewer channels in some sets, the same class.

Parameters and buffers are sliced. The sizes that modules remember are of two kinds: those of layers
(`in_features`, `groups`, ...), which follow from the operator that the layer runs, and numbers with
which a module's own code splits, folds and reshapes (`num_heads`, `head_dim`, ...). The latter are
found by their values: a number that equals the size of an axis in this module's own calls changes
as that axis does. Where that can be read in several ways, they are tried. The result is checked by
a forward pass without values: every call in it must have the shape that the channels say.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import ConfigError, UnsupportedModelError
from ghn.graphs.channels.kept import Kept, side_by_side
from ghn.graphs.channels.rules import Step
from ghn.graphs.graph import ParamGraph
from ghn.graphs.isolate import copied, unwrap
from ghn.graphs.module_sizes import ModuleSizes
from ghn.graphs.record import Call
from ghn.graphs.ties import ChannelTies, follow, named_tensors
from ghn.graphs.trace import ForwardError, recorded

__all__ = ["Resizer", "resize_channels"]

# Ways to read numbers that are tried.
MAX_READINGS = 64

# Whether a view needs a copy first depends on sizes.
_COPIES = frozenset({"clone", "contiguous"})

Shape = tuple[int, ...]


def resize_channels(
    model: nn.Module, widths: Mapping[str, int], example_inputs: Any = None
) -> nn.Module:
    """Return a smaller model of the same class, with fewer channels in some sets.

    Args:
        model: Any module; it is left as it was.
        widths: Wanted number of channels for some sets, by `ChannelSet.name`; the first ones stay.
        example_inputs: As for `ghn.trace`.

    Raises:
        ConfigError: If a name is no set of the model, or a width is not in 1 to the set's size.
        ShapeError: If sets must be resized together and are not.
        UnsupportedModelError: If the module computes sizes in a way that cannot be followed.
        GHNError: As `ghn.trace`.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> resize_channels(model, {"0.weight[0]": 5}, torch.empty(1, 3))[2]
        Linear(in_features=5, out_features=2, bias=True)
    """
    return Resizer(model, example_inputs).resize(widths)


class Resizer:
    """Makes smaller models out of one; the model is looked at once.

    Args:
        model: Any module.
        example_inputs: As for `ghn.trace`.
    """

    def __init__(self, model: nn.Module, example_inputs: Any = None) -> None:
        self.model = unwrap(model)
        self._followed = follow(self.model, example_inputs)

    @property
    def ties(self) -> ChannelTies:
        """The model's sets of channels."""
        return self._followed.ties

    @property
    def graph(self) -> ParamGraph:
        """The model's graph."""
        return self._followed.graph

    @functools.cached_property
    def same_width(self) -> list[tuple[str, ...]]:
        """Names of sets that lie side by side in one folded axis, and so need the same width."""
        return side_by_side(self._followed.run, self._followed.atoms)

    def positions(self, widths: Mapping[str, int]) -> dict[str, list[Tensor]]:
        """Return which positions stay, for each axis of each parameter and buffer.

        Args:
            widths: As for `resize_channels`.

        Raises:
            ConfigError: If a name is no set of the model, or a width is not in 1 to its size.
        """
        kept = self._kept(widths)
        return {
            name: [torch.from_numpy(kept.positions(layout, d)) for d in range(len(layout.shape))]
            for name, layout in self._followed.layouts.items()
        }

    def resize(self, widths: Mapping[str, int]) -> nn.Module:
        """Return a smaller copy of the model; see `resize_channels`."""
        kept = self._kept(widths)
        expected = [
            (step, [kept.shape(layout) for layout in results])
            for step, results in self._followed.run.steps
        ]
        small = _sliced(self.model, self.positions(widths))
        found = ModuleSizes(small, kept, expected)
        problem = ""
        for reading in itertools.islice(found.readings(), MAX_READINGS):
            found.write(reading)
            difference = self._difference(small, expected)
            if not difference:
                return small
            problem = problem or difference
        raise UnsupportedModelError(
            f"{type(self.model).__name__} cannot be resized to {dict(widths)}: {problem}"
        )

    def _kept(self, widths: Mapping[str, int]) -> Kept:
        atoms = self._followed.atoms
        dropped: list[int] = []
        for name, width in widths.items():
            if name not in atoms:
                raise ConfigError(
                    f"widths must name sets of channels, got {name!r}; there are {', '.join(atoms)}"
                )
            if isinstance(width, bool) or not isinstance(width, Integral):
                raise ConfigError(f"the width of {name} must be a whole number, got {width!r}")
            if not 1 <= width <= len(atoms[name]):
                raise ConfigError(
                    f"the width of {name} must lie in [1, {len(atoms[name])}], got {width}"
                )
            dropped += atoms[name][width:].tolist()
        return Kept(self._followed.run, dropped)

    def _difference(self, small: nn.Module, expected: Sequence[tuple[Step, list[Shape]]]) -> str:
        """Run a resized model without values; say where it first differs from what is expected."""
        try:
            with recorded(small, self._followed.inputs, self._followed.device) as recording:
                calls = [c for c in recording.recorder.calls if c.name not in _COPIES]
        except ForwardError as error:
            return f"{type(error.failure.error).__name__}: {error.failure.error}"
        wanted = [(step.call, shapes) for step, shapes in expected if step.name not in _COPIES]
        for call, (twin, shapes) in zip(calls, wanted, strict=False):
            got = [tuple(t.shape) for t in call.outputs[: len(shapes)]]
            if _kind(call) != _kind(twin) or _filled(got) != _filled(shapes):
                return (
                    f"module {call.scope!r} runs {call.name} with a result of shape {got}, "
                    f"where {twin.name} and {shapes} were expected"
                )
        return "" if len(calls) == len(wanted) else f"{len(calls)} calls, not {len(wanted)}"


def _kind(call: Call) -> str:
    """A view is spelled in two ways, depending on whether a copy came before it."""
    return call.name.removeprefix("_unsafe_")


def _filled(shapes: Sequence[Shape]) -> list[Shape | None]:
    """Nothing depends on the other axes of what has no elements."""
    return [shape if 0 not in shape else None for shape in shapes]


def _sliced(model: nn.Module, positions: Mapping[str, Sequence[Tensor]]) -> nn.Module:
    """Return a copy of a model with slices of its parameters and buffers; tied ones stay tied."""
    small = copied(model)
    slices = {id(t): _slice(t, positions[name]) for name, t in named_tensors(small).items()}
    for module in small.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = slices[id(tensor)]
    return small


@torch.no_grad()
def _slice(tensor: Tensor, positions: Sequence[Tensor]) -> Tensor:
    part = tensor
    for axis, stay in enumerate(positions):
        if len(stay) < part.shape[axis]:
            part = part.index_select(axis, stay.to(part.device))
    if part is not tensor and isinstance(tensor, nn.Parameter):
        return nn.Parameter(part, requires_grad=tensor.requires_grad)
    return part
