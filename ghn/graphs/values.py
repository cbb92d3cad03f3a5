"""Values beside tensors that have none: what control flow reads while a model runs on meta.

A forward pass on the meta device carries no numbers, yet some of them are known: constants, what
the example inputs give (grids, lengths, masks), the model's own switches and counters in buffers
and attributes, and everything computed from these alone. They are
kept on the CPU beside the meta tensors, by running the same operators there. Whatever a parameter
or an unknown input has entered is unknown, and a control flow that reads it gets a fixed answer:
a truth value is true, a number is one, a selection selects everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Values", "steers", "storage_of", "tensors_in"]

META = torch.device("meta")
CPU = torch.device("cpu")
# Larger values are not kept: masks and grids are small.
MAX_ELEMENTS = 1 << 22
# Floating-point buffers up to this size may be switches and thresholds; others are statistics.
MAX_FLOATS = 8


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RANDOM = _names(
    "rand randn randint randperm rand_like randn_like randint_like bernoulli multinomial normal "
    "uniform exponential random native_dropout dropout poisson geometric log_normal cauchy"
)
_OVERWRITES = frozenset({"copy", "fill", "zero"})
_UNINITIALISED = _names("empty empty_like new_empty empty_strided new_empty_strided")


class Values:
    """Known values of the meta tensors of one forward pass.

    Attributes:
        guessed: Tensors whose values were asked for and unknown, in order.
    """

    def __init__(self) -> None:
        self._known: dict[int, Tensor] = {}
        self._stale: set[int] = set()
        self._alive: list[Tensor] = []
        self.guessed: list[Tensor] = []

    def put(self, tensor: Tensor, value: Tensor) -> None:
        """File the value of a meta tensor."""
        if value.numel() <= MAX_ELEMENTS:
            self._known[id(tensor)] = value
            self._alive.append(tensor)

    def get(self, tensor: Tensor) -> Tensor | None:
        """Return what a tensor holds, or None if that is unknown."""
        if not tensor.is_meta:
            return tensor
        value = self._known.get(id(tensor))
        if value is None or storage_of(value) in self._stale:
            return None
        return value

    def follow(self, tensor: Tensor, source: Tensor) -> None:
        """Say that a tensor now is what another one is, in one storage."""
        value = self.get(source)
        if value is None:
            self._known.pop(id(tensor), None)
        else:
            self.put(tensor, value)

    def forget(self, tensor: Tensor) -> None:
        """Drop the value of a tensor, and of its views, after an unknown write."""
        if (old := self._known.get(id(tensor))) is not None:
            self._stale.add(storage_of(old))
            self._alive.append(old)

    def assumed(self, tensor: Tensor) -> Tensor:
        """Return what a tensor holds; of one that is unknown, the fixed answer: ones."""
        value = self.get(tensor)
        if value is None:
            self.guessed.append(tensor)
            return torch.ones(tensor.shape, dtype=tensor.dtype, device=CPU)
        return value

    def twin(self, value: Tensor) -> Tensor:
        """Return a meta tensor that is known to hold `value`."""
        twin = torch.empty_like(value, device=META, requires_grad=False)
        self.put(twin, value)
        return twin

    def run(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], written: Any
    ) -> Any:
        """Run an aten operator on meta tensors, and on the values beside them if all are known.

        Args:
            name: Operator name as recorded.
            func: The operator.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            written: The tensors among them that it changes in place.
        """
        select = _SELECTIONS.get(name)
        if select is not None and select.applies(args):
            return select.run(self, func, args, kwargs)
        if isinstance(kwargs.get("device"), torch.device):
            kwargs = {**kwargs, "device": META}
        args = self._on_meta(args)
        if name == "split_with_sizes":
            args = self._whole_split(args)
        output = func(*args, **kwargs)
        self._follow(name, func, args, kwargs, output, written)
        return output

    def _follow(
        self,
        name: str,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        written: Sequence[Tensor],
    ) -> None:
        outputs = list(tensors_in((output,)))
        read = list(tensors_in((*args, *kwargs.values())))
        if name in _OVERWRITES and _fills_storage(read[0]):
            self._overwrite(args, kwargs)
            return
        known = name not in _RANDOM and all(self.get(t) is not None for t in read)
        if known and sum(t.numel() for t in outputs) <= MAX_ELEMENTS:
            try:
                value = func(*self._real(args), **self._real(kwargs))
            except (RuntimeError, NotImplementedError, IndexError, TypeError, ValueError):
                value = None
            if value is not None:
                if name in _UNINITIALISED:
                    value.zero_()
                for tensor, real in zip(outputs, tensors_in((value,)), strict=True):
                    self.put(tensor, real)
                return
        for tensor in written:
            self.forget(tensor)

    def _overwrite(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Follow an operator that sets every element of its first argument."""
        source = args[1] if len(args) > 1 else 0
        value = self.get(source) if isinstance(source, Tensor) else torch.tensor(source, device=CPU)
        old = self._known.get(id(args[0]))
        if value is not None and args[0].numel() <= MAX_ELEMENTS:
            if old is None:
                old = torch.empty(args[0].shape, dtype=args[0].dtype, device=CPU)
                self.put(args[0], old)
            old.copy_(value)
        else:
            self.forget(args[0])

    def _whole_split(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Make sizes that are unknown counts, each answered as one, add up to what there is."""
        tensor, sizes, axis = args[0], args[1], args[2] if len(args) > 2 else 0
        length = tensor.shape[axis]
        if sum(sizes) == length or any(size != 1 for size in sizes):
            return args
        share, rest = divmod(length, len(sizes))
        return (tensor, [share + (i < rest) for i in range(len(sizes))], *args[2:])

    def _on_meta(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value if value.is_meta else self.twin(value)
        if isinstance(value, (tuple, list)):
            return type(value)(self._on_meta(v) for v in value)
        return value

    def _real(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.get(value)
        if isinstance(value, (tuple, list)):
            return type(value)(self._real(v) for v in value)
        if isinstance(value, dict):
            return {k: self._real(v) for k, v in value.items()}
        return CPU if isinstance(value, torch.device) else value


def steers(tensor: Tensor) -> bool:
    """Whether control flow may read a tensor that a model holds: a switch, a count, a table.

    Parameters with floating-point values are what is predicted; a trace does not depend on them.
    """
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_complex():
        return False
    if tensor.is_floating_point():
        return tensor.numel() <= MAX_FLOATS and not isinstance(tensor, nn.Parameter)
    return tensor.numel() <= MAX_ELEMENTS


def storage_of(tensor: Tensor) -> int:
    """Return a number that tensors share that share memory; sparse ones share none."""
    has_storage = tensor.layout in (torch.strided, torch.jagged)
    return tensor.untyped_storage()._cdata if has_storage else -id(tensor)


def tensors_in(values: Any) -> Any:
    """Yield the tensors of nested tuples and lists, in order."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(value)


def _fills_storage(tensor: Tensor) -> bool:
    strided = tensor.layout is torch.strided
    return strided and tensor.untyped_storage().nbytes() == tensor.nbytes


class _Selection:
    """How to run an operator whose output's shape depends on values.

    Args:
        run: Takes the values, the operator, and its arguments.
        applies: Whether these arguments make its shape depend on values.
    """

    def __init__(
        self,
        run: Callable[[Values, Any, tuple[Any, ...], dict[str, Any]], Any],
        applies: Callable[[tuple[Any, ...]], bool] = lambda args: True,
    ) -> None:
        self.run = run
        self.applies = applies


def _by_value(values: Values, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run on assumed values; the outputs are known."""

    def assume(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return type(value)(assume(v) for v in value)
        return values.assumed(value) if isinstance(value, Tensor) else value

    real = func(*assume(args), **{k: assume(v) for k, v in kwargs.items()})
    return _as_meta(values, real)


def _as_meta(values: Values, real: Any) -> Any:
    if isinstance(real, Tensor):
        return values.twin(real)
    if isinstance(real, (tuple, list)):
        return type(real)(_as_meta(values, r) for r in real)
    return real


def _masked_select(
    values: Values, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    source, mask = args[:2]
    shape = torch.broadcast_shapes(source.shape, mask.shape)
    count = int(values.assumed(mask).expand(shape).sum())
    return source.new_empty(count)


def _without_masks(values: Values, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Indexing by truth values: index by the positions of the true ones."""
    indices: list[Tensor | None] = []
    for index in args[1]:
        if _is_mask(index):
            found = values.assumed(index).nonzero().unbind(1)
            indices.extend(_as_meta(values, position.contiguous()) for position in found)
        else:
            indices.append(index)
    return values.run("indexed", func, (args[0], indices, *args[2:]), kwargs, args[:1])


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8)


def _has_mask(args: tuple[Any, ...]) -> bool:
    return any(_is_mask(index) for index in args[1])


def _put(values: Values, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Writing where a mask is true: whatever the mask, the shape stays as it is."""
    if all(values.get(index) is not None for index in args[1] if _is_mask(index)):
        return _without_masks(values, func, args, kwargs)
    for index in args[1]:
        if _is_mask(index):
            values.assumed(index)
    values.forget(args[0])
    written = func._schema.arguments[0].alias_info
    return args[0] if written is not None else torch.empty_like(args[0])


_SELECTIONS: dict[str, _Selection] = {
    "nonzero": _Selection(_by_value),
    "_unique2": _Selection(_by_value),
    "unique_dim": _Selection(_by_value),
    "unique_consecutive": _Selection(_by_value),
    "bincount": _Selection(_by_value),
    "equal": _Selection(_by_value),
    "repeat_interleave": _Selection(_by_value),
    "masked_select": _Selection(_masked_select),
    "index": _Selection(_without_masks, _has_mask),
    "index_put": _Selection(_put, _has_mask),
    "_index_put_impl": _Selection(_put, _has_mask),
    "_unsafe_index": _Selection(_without_masks, _has_mask),
}
