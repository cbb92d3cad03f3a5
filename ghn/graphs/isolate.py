"""Run a model without leaving a mark on it: a stand-in for every tensor, and everything restored.

While a model is isolated its parameters and buffers are replaced by stand-ins on another device
(the meta device needs no memory), all modules are in evaluation mode, and whatever the forward pass
stores on a module is undone afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import UnsupportedModelError

__all__ = ["Twin", "isolate", "unwrap"]

CONTAINERS = (dict, list, set)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile`, DistributedDataParallel and DataParallel."""
    while True:
        if isinstance(inner := model.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            model = inner
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


class Twin:
    """Stand-ins for the tensors of a model, one for each tensor object.

    Args:
        device: Where stand-ins live. On the meta device they have no values; elsewhere parameters
            are shared, buffers are copied, and tensors without values are filled with noise.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stand_ins: dict[int, Tensor] = {}
        self._originals: list[Tensor] = []

    def of(self, tensor: Tensor) -> Tensor:
        """Return the stand-in of a tensor; the same object for the same tensor."""
        found = self._stand_ins.get(id(tensor))
        if found is None:
            found = self._make(tensor)
            self._stand_ins[id(tensor)] = found
            self._originals.append(tensor)
        return found

    def _make(self, tensor: Tensor) -> Tensor:
        if tensor.device == self.device and tensor.is_meta:
            return tensor
        is_parameter = isinstance(tensor, nn.Parameter)
        if self.device.type == "meta":
            data = torch.empty_like(tensor, device="meta", requires_grad=False).detach()
        elif tensor.is_meta:
            data = _noise(tensor, self.device)
        elif is_parameter and tensor.device == self.device:
            return tensor
        else:
            data = tensor.detach().to(self.device, copy=True)
        return nn.Parameter(data, requires_grad=tensor.requires_grad) if is_parameter else data

    def of_value(self, value: Any) -> Any:
        """Replace tensors in a value that a module holds: a tensor, or a container of tensors."""
        if isinstance(value, Tensor):
            return self.of(value)
        if isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
            return type(value)(self.of(v) if isinstance(v, Tensor) else v for v in value)
        if type(value) is dict and any(isinstance(v, Tensor) for v in value.values()):
            return {k: self.of(v) if isinstance(v, Tensor) else v for k, v in value.items()}
        return value


def _noise(tensor: Tensor, device: torch.device) -> Tensor:
    generator = torch.Generator(device=device).manual_seed(0)
    empty = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
    return empty.normal_(0.0, 0.02, generator=generator) if empty.is_floating_point() else empty


@contextmanager
def isolate(model: nn.Module, device: torch.device) -> Iterator[Twin]:
    """Give every module stand-ins and evaluation mode; restore each module's state at the end.

    Args:
        model: Any module.
        device: Where the stand-ins live.

    Raises:
        UnsupportedModelError: If a tensor of the model has no stand-in there, as quantised ones.
    """
    twin = Twin(device)
    modules = list(model.modules())
    saved = [_snapshot(module) for module in modules]
    try:
        for module in modules:
            _substitute(module, twin)
        yield twin
    finally:
        for module, state in zip(modules, saved, strict=True):
            _restore(module, state)


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
            if not name.startswith("_") or name in ("_flat_weights",):
                state[name] = twin.of_value(value)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise UnsupportedModelError(
            f"{type(module).__name__} holds a tensor that cannot be stood in for: {error}. "
            "Quantised and sharded models are predicted before they are converted."
        ) from error
    state["training"] = False
