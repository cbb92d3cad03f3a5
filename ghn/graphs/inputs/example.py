"""Example inputs of one forward call, and how they are moved to the device of a trace."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ghn.graphs.values import Values

__all__ = ["ExampleInputs", "describe"]


@dataclasses.dataclass(frozen=True)
class ExampleInputs:
    """Arguments of one forward call; tensors may be without values (meta)."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def on(
        self, device: torch.device, values: Values | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with tensors on a device; missing values are made up there.

        Args:
            device: Where the model runs.
            values: On the meta device, where the values of integers and truth values are filed.
        """
        return _move(self.args, device, values), _move(self.kwargs, device, values)

    def cast(self, dtype: torch.dtype) -> ExampleInputs:
        """Return the inputs with their floating-point tensors in another type."""

        def convert(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        args, kwargs = pytree.tree_map_only(Tensor, convert, (self.args, self.kwargs))
        return ExampleInputs(args, kwargs)


def _move(value: Any, device: torch.device, values: Values | None) -> Any:
    if isinstance(value, Tensor):
        if device.type == "meta":
            return _without_values(value, values)
        return _with_values(value, device) if value.is_meta else value.detach().to(device)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_move(v, device, values) for v in value)
    if isinstance(value, dict):
        return {k: _move(v, device, values) for k, v in value.items()}
    return value


def _without_values(value: Tensor, values: Values | None) -> Tensor:
    """Return a meta tensor; grids, lengths and masks keep their numbers beside it."""
    twin = torch.empty_like(value, device="meta", requires_grad=False)
    counts = not (value.is_floating_point() or value.is_complex() or value.is_meta)
    if counts and values is not None:
        values.put(twin, value.detach().cpu().clone())
    return twin


def _with_values(value: Tensor, device: torch.device) -> Tensor:
    if value.is_floating_point() or value.is_complex():
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
        return noise.to(device=device, dtype=value.dtype)
    return torch.ones(value.shape, dtype=value.dtype, device=device)


def describe(inputs: ExampleInputs) -> str:
    """Return a short text such as `(float32[1, 3, 224, 224])` for messages."""
    parts = [_describe_value(v) for v in inputs.args]
    parts += [f"{k}={_describe_value(v)}" for k, v in inputs.kwargs.items()]
    return f"({', '.join(parts)})"


def _describe_value(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_describe_value, value))}]"
    return repr(value)
