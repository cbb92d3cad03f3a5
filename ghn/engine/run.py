"""A target runs under emitted parameters: one set of them, or a batch of sets at once.

The module itself stays as it was, whatever happens: parameters and buffers are passed together, and
what a forward pass writes, such as the statistics of BatchNorm, comes back with the output. So each
condition can have statistics of its own. A module that stands at several places, or a tensor that
does, is given the same values at each (`torch.func.functional_call` would leave the former with
them).

Shape letters used in this file:
    B: parameter sets.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from ghn.engine.undo import Snapshot
from ghn.errors import ShapeError

__all__ = ["buffers_of", "in_mode", "run", "run_batch", "stacked"]

Tensors = dict[str, Tensor]


def buffers_of(model: nn.Module) -> Tensors:
    """Return copies of a module's buffers, by name."""
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers()}


def stacked(sets: list[Tensors]) -> Tensors:
    """Stack several sets of tensors, by name, along a new first axis."""
    return {name: torch.stack([one[name] for one in sets]) for name in sets[0]}


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a module and all of its parts into training or evaluation mode; then restore theirs."""
    modes = {part: part.training for part in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def run(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    inputs: Any,
    *,
    buffers: Mapping[str, Tensor] | None = None,
) -> tuple[Any, Tensors]:
    """Run a module under given parameters.

    Args:
        model: In the mode in which it shall run; not changed.
        parameters: By name; those that are missing are the module's own.
        inputs: A tensor, a tuple of positional arguments, or a dict of keyword arguments.
        buffers: By name; the module's own by default.

    Returns:
        What the module returns, and its buffers after the pass.
    """
    before = {**buffers_of(model), **{k: v.detach().clone() for k, v in (buffers or {}).items()}}
    return _call(model, parameters, before, *_arguments(inputs))


def _call(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, Tensors]:
    """Call a module with tensors in the place of its own; the module is then as it was.

    Buffers are written in place, or replaced, by the pass; they come back as they are after it.
    """
    places = _places(model)
    snapshot = Snapshot(model)
    try:
        for name, tensor in {**parameters, **buffers}.items():
            for table, leaf in places.get(name, ()):
                table[leaf] = tensor
        output = model(*args, **kwargs)
        after = {n: _held(places.get(n, ()), tensor).detach() for n, tensor in buffers.items()}
    finally:
        snapshot.restore()
    return output, after


def _held(places: Sequence[tuple[dict[str, Any], str]], tensor: Tensor) -> Tensor:
    """Return the tensor that stands at the first of some places now, or this one if none does."""
    found = places[0][0].get(places[0][1]) if places else None
    return tensor if found is None else found


def _places(model: nn.Module) -> dict[str, list[tuple[dict[str, Any], str]]]:
    """Return by name every table of a module in which the tensor of this name stands, and where."""
    tables: dict[int, list[tuple[dict[str, Any], str]]] = defaultdict(list)
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for leaf, tensor in table.items():
                if tensor is not None:
                    tables[id(tensor)].append((table, leaf))
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: tables[id(tensor)] for name, tensor in named}


def run_batch(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    inputs: Any,
    *,
    buffers: Mapping[str, Tensor] | None = None,
    shared: bool = True,
    vectorize: bool = True,
) -> tuple[Any, Tensors]:
    """Run a module under each of B sets of parameters.

    Random operators draw on their own for each set. What `torch.vmap` cannot do, such as control
    flow that reads values, is done set by set, with equal results.

    Args:
        model: In the mode in which it shall run; not changed.
        parameters: By name, each with a leading axis B.
        inputs: As for `run`.
        buffers: By name, each with a leading axis B; by default the module's own for every set.
        shared: Whether all sets see the same inputs; otherwise inputs have a leading axis B too.
        vectorize: Whether to try `torch.vmap` at all.

    Returns:
        What the module returns for each set, and the buffers after the pass, with a leading axis B.

    Raises:
        ShapeError: If the leading axes differ, or there is no parameter.
    """
    sets = _count(parameters, buffers or {}, () if shared else inputs)
    own = {k: v.expand(sets, *v.shape) for k, v in buffers_of(model).items()}
    before = {**own, **(buffers or {})}
    args, kwargs = _arguments(inputs)

    call = functools.partial(_call, model)
    axis = None if shared else 0
    if vectorize:
        copies = {k: v.detach().clone() for k, v in before.items()}
        mapped = vmap(call, in_dims=(0, 0, axis, axis), randomness="different")
        try:
            return mapped(dict(parameters), copies, args, kwargs)
        except Exception:
            # Not for vmap, or wrong: then the loop says so.
            pass
    outputs = []
    for index in range(sets):
        chosen = (args, kwargs) if shared else _map(lambda t, i=index: t[i], (args, kwargs))
        copies = {k: v[index].detach().clone() for k, v in before.items()}
        outputs.append(call({k: v[index] for k, v in parameters.items()}, copies, *chosen))
    return _stack(outputs)


def _count(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Any) -> int:
    leaves = [t for t in torch.utils._pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
    tensors = {**parameters, **buffers, **{f"input {i}": t for i, t in enumerate(leaves)}}
    sizes = {name: t.shape[:1] for name, t in tensors.items()}
    if len(set(sizes.values())) != 1 or () in map(tuple, sizes.values()):
        raise ShapeError(
            "a batch needs at least one parameter, and tensors with one leading axis B, got "
            f"{ {name: list(size) for name, size in [*sizes.items()][-5:]} }"
        )
    return next(iter(sizes.values()))[0]


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _map(function: Any, value: Any) -> Any:
    """Apply a function to all tensors of nested tuples, lists and dicts."""
    return torch.utils._pytree.tree_map_only(Tensor, function, value)


def _stack(values: list[Any]) -> Any:
    """Stack the tensors of equally nested values."""
    leaves, specs = zip(*map(torch.utils._pytree.tree_flatten, values), strict=True)
    joined = [torch.stack(column) for column in zip(*leaves, strict=True)]
    return torch.utils._pytree.tree_unflatten(joined, specs[0])
