"""Run a model without leaving a mark on it: a stand-in for every tensor, and everything restored.

While a model is isolated its parameters and buffers are replaced by stand-ins on another device
(the meta device needs no memory), all modules are in evaluation mode, and whatever the forward pass
stores on a module is undone afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ghn.errors import UnsupportedModelError
from ghn.graphs.values import Values, steers, storage_of

__all__ = ["Twin", "copied", "isolate", "unwrap"]

CONTAINERS = (dict, list, set)
# What every module has: tables of tensors and modules, which are replaced one by one, and hooks.
_OWN = frozenset(vars(nn.Module()))


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile`, DistributedDataParallel and DataParallel."""
    while not isinstance(model, torch.jit.ScriptModule):
        if isinstance(inner := model.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            model = inner
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            break
    return model


def copied(model: nn.Module) -> nn.Module:
    """Return a copy of a module, whatever tensors it computes from others and keeps.

    Such are the weights of the older `weight_norm` and of `nn.utils.prune`, which a forward pass
    computes anew, and which torch does not copy.
    """
    computed = (t for module in model.modules() for t in vars(module).values())
    found = {id(t): t.detach().clone() for t in computed if isinstance(t, Tensor) and t.grad_fn}
    return copy.deepcopy(model, found)


class Twin:
    """Stand-ins for the tensors of a model, one for each tensor object.

    Args:
        device: Where stand-ins live. On the meta device they have no values; elsewhere they are
            copies, and those of tensors without values are filled with noise.
        values: On the meta device, where the values that control flow may read are filed.

    Attributes:
        stand_ins: Each stand-in by the `id` of its original.
    """

    def __init__(self, device: torch.device, values: Values | None = None) -> None:
        self.device = device
        self.values = values
        self.stand_ins: dict[int, Tensor] = {}
        self._originals: list[Tensor] = []
        self._containers: dict[int, Any] = {}

    def of(self, tensor: Tensor) -> Tensor:
        """Return the stand-in of a tensor; the same object for the same tensor."""
        found = self.stand_ins.get(id(tensor))
        if found is None:
            found = self._make(tensor)
            self.stand_ins[id(tensor)] = found
            self._originals.append(tensor)
        return found

    def holding(self, tensor: Tensor) -> Tensor:
        """Return the stand-in of a tensor, or of the one that a module has put in its place since.

        The multi-head attention of PEFT wraps its weights anew whenever parameters are listed.
        """
        if id(tensor) not in self.stand_ins:
            place = _place(tensor)
            for original in self._originals:
                if _place(original) == place:
                    return self.of(original)
        return self.of(tensor)

    def _make(self, tensor: Tensor) -> Tensor:
        if tensor.device == self.device and tensor.is_meta:
            return tensor
        is_parameter = isinstance(tensor, nn.Parameter)
        if self.device.type == "meta":
            data = torch.empty_like(tensor, device="meta", requires_grad=False).detach()
        elif tensor.is_meta:
            data = _noise(tensor, self.device)
        else:
            data = tensor.detach().to(self.device, copy=True)
        found = nn.Parameter(data, requires_grad=tensor.requires_grad) if is_parameter else data
        if self.values is not None and steers(tensor):
            self.values.put(found, tensor.detach().cpu().clone())
        return found

    def of_value(self, value: Any) -> Any:
        """Replace tensors in a value that a module holds: a tensor, or containers of tensors.

        A container without tensors is returned as it is; one container gives one.
        """
        if isinstance(value, Tensor):
            return self.of(value)
        if not isinstance(value, (list, tuple, dict)):
            return value
        if id(value) not in self._containers:
            self._containers[id(value)] = value  # a container inside itself is left alone
            self._containers[id(value)] = self._refilled(value)
        return self._containers[id(value)]

    def _refilled(self, value: Any) -> Any:
        contents = list(value.values() if isinstance(value, dict) else value)
        replaced = [self.of_value(content) for content in contents]
        if all(new is old for new, old in zip(replaced, contents, strict=True)):
            return value
        if isinstance(value, tuple):
            return type(value)(*replaced) if hasattr(value, "_fields") else type(value)(replaced)
        twin = copy.copy(value)
        if isinstance(twin, dict):
            twin.update(zip(value, replaced, strict=True))
        else:
            twin[:] = replaced
        return twin


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two tensors have in common if they are one part of one storage."""
    if tensor.layout is not torch.strided:
        return (storage_of(tensor),)
    layout = tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
    return (storage_of(tensor), *layout)


def _noise(tensor: Tensor, device: torch.device) -> Tensor:
    generator = torch.Generator(device=device).manual_seed(0)
    empty = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
    return empty.normal_(0.0, 0.02, generator=generator) if empty.is_floating_point() else empty


@contextmanager
def isolate(model: nn.Module, device: torch.device, values: Values | None = None) -> Iterator[Twin]:
    """Give every module stand-ins and evaluation mode; restore each module's state at the end.

    Args:
        model: Any module.
        device: Where the stand-ins live.
        values: On the meta device, where the values that control flow may read are filed.

    Raises:
        UnsupportedModelError: If a tensor of the model has no stand-in there, as quantised ones.
    """
    twin = Twin(device, values)
    modules = list(model.modules())
    saved = [_snapshot(module) for module in modules]
    try:
        for module in modules:
            _substitute(module, twin)
        with _no_cached_weights():
            yield twin
    finally:
        for module, state in zip(modules, saved, strict=True):
            _restore(module, state)


@contextmanager
def _no_cached_weights() -> Iterator[None]:
    """Keep the block out of `parametrize.cached()`: weights are made, and none is remembered."""
    before = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        yield
    finally:
        parametrize._cache_enabled, parametrize._cache = before


State = tuple[dict[str, Any], dict[str, Any]]


def _snapshot(module: nn.Module) -> State:
    """Copy a module's attributes, and one level of the containers among them."""
    attributes = dict(module.__dict__)
    contents = {k: v.copy() for k, v in attributes.items() if isinstance(v, CONTAINERS)}
    return attributes, contents


def _restore(module: nn.Module, state: State) -> None:
    attributes, contents = state
    for key, content in contents.items():
        container = attributes[key]
        container.clear()
        container.extend(content) if isinstance(container, list) else container.update(content)
    module.__dict__.clear()
    module.__dict__.update(attributes)


def _substitute(module: nn.Module, twin: Twin) -> None:
    state = module.__dict__
    try:
        for table in (state["_parameters"], state["_buffers"]):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = twin.of(tensor)
        for name, value in state.items():
            if name not in _OWN:
                state[name] = twin.of_value(value)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise UnsupportedModelError(
            f"{type(module).__name__} holds a tensor that cannot be stood in for: {error}. "
            "Quantised and sharded models are predicted before they are converted."
        ) from error
    state["training"] = False
