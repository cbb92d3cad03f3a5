"""What each parameter is in a weight that is made of several.

A weight can be copied, concatenated, summed or multiplied from low-rank factors before a layer uses
it. The weight's letters are followed back through the calls that made it, along with its role and
its fan-in: pieces of a concatenation and summands share the role, factors of a product divide the
axes among them, and what is only multiplied with the weight is left out. Where letters cannot be
followed, the largest parameters take the role and axes are matched by size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from ghn.graphs.aten import NODES, SHAPE_ONLY
from ghn.graphs.letters import carried_axes, stored_axes
from ghn.graphs.record import Call
from ghn.graphs.values import storage_of

__all__ = ["Part", "Parts", "Piece"]

_JOINS = frozenset({"cat", "stack"})
_ALTERNATIVES = frozenset({"add", "sub", "rsub", "where"})
_PRODUCTS = frozenset({"mm", "linear"})


class Part(NamedTuple):
    """A parameter in a weight.

    Attributes:
        role: Its role.
        axes: One letter for each axis of the stored parameter.
        fan_in: Number of products summed into one output element; 0 if only the axes tell.
        side: For factors of a product B A `"a"` or `"b"`, else empty.
    """

    role: str
    axes: str
    fan_in: int
    side: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A tensor on the way back.

    Attributes:
        tensor: The weight, or what it is made of.
        writers: Indices of the calls that wrote it.
        role: Role of the weight.
        axes: One letter for each axis of `tensor`.
        fan_in: Number of products summed into one output element.
        side: See `Part`.
    """

    tensor: Tensor
    writers: tuple[int, ...]
    role: str
    axes: str
    fan_in: int
    side: str = ""


class Parts:
    """Finds the parts of weights in one recorded forward pass.

    Args:
        calls: The recorded calls, in order.
        parameters: Stand-ins of the parameters by name.
        names_in: Names of the parameters in a tensor, given the calls that wrote it.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        parameters: Mapping[str, Tensor],
        names_in: Callable[[Tensor, tuple[int, ...]], Sequence[str]],
    ) -> None:
        self._calls = calls
        self._parameters = parameters
        self._names_in = names_in
        self._owners = {storage_of(t): name for name, t in parameters.items()}

    def of(self, weight: Piece) -> dict[str, Part]:
        """Return the parts of a weight by parameter; factors and gains on it are not among them."""
        return self._follow(weight, set())

    def _follow(self, piece: Piece, seen: set[tuple[tuple[int, ...], str]]) -> dict[str, Part]:
        owner = self._owners.get(storage_of(piece.tensor))
        if owner is not None:
            axes = stored_axes(self._parameters[owner], piece.tensor, piece.axes, True)
            return {owner: Part(piece.role, axes, piece.fan_in, piece.side)}
        names = self._names_in(piece.tensor, piece.writers)
        if not names or (piece.writers, piece.axes) in seen:
            return {}
        seen.add((piece.writers, piece.axes))
        call = self._maker(piece)
        sources = self._sources(piece, call) if call is not None else []
        found = [self._follow(source, seen) for source in sources]
        if call is not None and call.name in _ALTERNATIVES:
            found = _with_adapters(found)
        elif call is not None and call.name not in (*_JOINS, *_PRODUCTS):
            found = _without_factors(found)
        return _merged(found) or self._largest(piece, names)

    def _largest(self, piece: Piece, names: Sequence[str]) -> dict[str, Part]:
        most = max(self._parameters[name].numel() for name in names)
        largest = {n: self._parameters[n] for n in names if self._parameters[n].numel() == most}
        axes = {n: stored_axes(t, piece.tensor, piece.axes, False) for n, t in largest.items()}
        return {name: Part(piece.role, axes[name], 0, piece.side) for name in largest}

    def _maker(self, piece: Piece) -> Call | None:
        """Return the call that filled the storage of which a tensor is a view, if it was one."""
        writers = piece.writers
        while len(writers) == 1:
            call = self._calls[writers[0]]
            is_view = call.name in SHAPE_ONLY and call.name != "copy" and call.sources
            if not is_view or storage_of(call.sources[0][0]) != storage_of(piece.tensor):
                return call
            writers = call.sources[0][1]
        return None

    def _sources(self, piece: Piece, call: Call) -> list[Piece]:
        """Return what a tensor is made of, with letters; nothing if they cannot be followed."""
        whole, is_product = call.outputs[0], call.name in _PRODUCTS
        wanted = piece.axes.replace("k", "i") if is_product else piece.axes
        axes = carried_axes(whole, piece.tensor, wanted)
        if axes is None:
            return []
        if is_product:
            return _factors(piece, call, axes)
        if call.name == "stack":
            dim = call.args[1] if len(call.args) > 1 else 0
            axes = "".join(a for d, a in enumerate(axes) if d != dim % whole.ndim)
        elif call.name != "cat":
            if call.name not in SHAPE_ONLY and NODES.get(call.name, "linalg") == "linalg":
                return []
            alike = [(t, w) for t, w in call.sources if t.shape == whole.shape]
            return [dataclasses.replace(piece, tensor=t, writers=w, axes=axes) for t, w in alike]
        return [
            dataclasses.replace(piece, tensor=t, writers=w, axes=axes)
            for t, w in call.sources
            if t.ndim == len(axes)
        ]


def _factors(piece: Piece, call: Call, axes: str) -> list[Piece]:
    """Split B A, or the transpose of it: A reads what the weight reads, B emits what it emits."""
    if axes not in ("oi", "io") or len(call.sources) != 2:
        return []
    (first, first_writers), (second, second_writers) = call.sources
    rank = first.shape[-1]
    second_axes = axes[::-1] if call.name == "linear" else axes
    sides = ("b", "a") if axes == "oi" else ("a", "b")
    fans = {"a": piece.fan_in, "b": rank}
    make = functools.partial(dataclasses.replace, piece)
    return [
        make(tensor=t, writers=w, axes=a, side=side, fan_in=fans[side])
        for t, w, a, side in (
            (first, first_writers, axes, sides[0]),
            (second, second_writers, second_axes, sides[1]),
        )
    ]


def _with_adapters(found: list[dict[str, Part]]) -> list[dict[str, Part]]:
    """Beside a full weight, the factors of a product are those of a low-rank adapter."""
    if all(part.side for parts in found for part in parts.values()):
        return found
    return [
        {n: p._replace(role=f"lora_{p.side}") if p.side else p for n, p in parts.items()}
        for parts in found
    ]


def _without_factors(found: list[dict[str, Part]]) -> list[dict[str, Part]]:
    """Of what is multiplied element by element the first is the weight, or all if all are B A."""
    found = [parts for parts in found if parts]
    all_low_rank = all(part.side for parts in found for part in parts.values())
    return found if all_low_rank else found[:1]


def _merged(found: Iterable[dict[str, Part]]) -> dict[str, Part]:
    result: dict[str, Part] = {}
    for parts in found:
        result = parts | result
    return result
