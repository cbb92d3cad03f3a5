"""The operators behind `expand_all` and `expand_all_out`, as `torch.library` knows them.

`ghn::expand` is functional, with gradients of any order (`ghn.kernels.autograd`); `ghn::expand_out`
writes into given storage and has none; they are apart because an operator that writes into its
arguments cannot have one. `ghn::expand_backward` is the gradient of the first.
`ghn.kernels.dispatch` chooses what runs.

They are defined one by one instead of by `torch.library.custom_op`, whose first call imports the
compiler: a second that a prediction on a CPU has no use for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ghn.kernels.dispatch import backend_for
from ghn.kernels.plan import checked, decode, of_items

__all__ = ["backward_op", "expand_op", "expand_out_op", "in_front"]


torch.library.define(
    "ghn::expand", "(Tensor[] tensors, str plan, ScalarType? dtype, str precision) -> Tensor[]"
)
torch.library.define(
    "ghn::expand_backward",
    "(Tensor[] grads, Tensor[] tensors, str plan, str precision) -> Tensor[]",
)
torch.library.define(
    "ghn::expand_out",
    "(Tensor[] tensors, Tensor(a!)[] outs, Tensor[] bases, str plan, float[] scales, str update, "
    "str precision) -> ()",
)


@torch.library.impl("ghn::expand", "CompositeExplicitAutograd")
def _expand(
    tensors: Sequence[Tensor], plan: str, dtype: torch.dtype | None, precision: str
) -> list[Tensor]:
    return backend_for(tensors).expand(checked(plan, tensors), tensors, dtype, precision)


@torch.library.impl("ghn::expand_backward", "CompositeExplicitAutograd")
def _backward(
    grads: Sequence[Tensor], tensors: Sequence[Tensor], plan: str, precision: str
) -> list[Tensor]:
    return backend_for(tensors).backward(decode(plan), tensors, grads, precision)


@torch.library.impl("ghn::expand_out", "CompositeExplicitAutograd")
def _expand_out(
    tensors: Sequence[Tensor],
    outs: Sequence[Tensor],
    bases: Sequence[Tensor],
    plan: str,
    scales: Sequence[float],
    update: str,
    precision: str,
) -> None:
    """Write into `outs`; an empty list of bases means that they are the bases."""
    items = checked(plan, tensors)
    backend = backend_for(tensors)
    backend.expand_out(items, tensors, outs, bases or outs, scales, update, precision)
    torch.autograd.graph.increment_version(tuple(outs))  # Triton writes behind autograd's back


@torch.library.register_fake("ghn::expand")
def _(
    tensors: Sequence[Tensor], plan: str, dtype: torch.dtype | None, precision: str
) -> list[Tensor]:
    items = decode(plan)
    return [
        own[0].new_empty((*item.lead(own), *item.layout.shape), dtype=dtype)
        for item, own in zip(items, of_items(items, tensors), strict=True)
    ]


@torch.library.register_fake("ghn::expand_backward")
def _(
    grads: Sequence[Tensor], tensors: Sequence[Tensor], plan: str, precision: str
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in tensors]


@torch.library.register_fake("ghn::expand_out")
def _(*arguments: Any) -> None:
    return None


@torch.library.register_vmap("ghn::expand")
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    tensors: Sequence[Tensor],
    plan: str,
    dtype: torch.dtype | None,
    precision: str,
) -> tuple[list[Tensor], list[int]]:
    outs = expand_op(in_front(tensors, in_dims[0], info.batch_size), plan, dtype, precision)
    return outs, [0] * len(outs)


@torch.library.register_vmap("ghn::expand_backward")
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    grads: Sequence[Tensor],
    tensors: Sequence[Tensor],
    plan: str,
    precision: str,
) -> tuple[list[Tensor], list[int]]:
    grads = in_front(grads, in_dims[0], info.batch_size)
    found = backward_op(grads, in_front(tensors, in_dims[1], info.batch_size), plan, precision)
    return found, [0] * len(found)


expand_op = torch.ops.ghn.expand.default
backward_op = torch.ops.ghn.expand_backward.default
expand_out_op = torch.ops.ghn.expand_out.default


def in_front(tensors: Sequence[Tensor], dims: Any, size: int) -> list[Tensor]:
    """Move each tensor's batch axis to the front; tensors without one get one without copies."""
    dims = [None] * len(tensors) if dims is None else dims
    return [
        tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, dims, strict=True)
    ]
