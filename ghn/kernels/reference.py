"""The plain-PyTorch backend: any device and type, tensor by tensor.

It defines what the other backends compute, and serves wherever they do not apply.

Shape letters used in this file:
    *b: batch axes. R, C, K: rows, cols and kernel size of the matrix form.
    p, q: kernel sizes folded into rows and cols.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ghn.kernels.expand import expand as expand_one
from ghn.kernels.expand import expand_out as expand_one_out
from ghn.kernels.expand import scaled, updated
from ghn.kernels.plan import Item, of_items
from ghn.kernels.recipes import Layout, Recipe

__all__ = ["backward", "expand", "expand_out"]


def expand(
    items: Sequence[Item], tensors: Sequence[Tensor], dtype: torch.dtype | None, precision: str
) -> list[Tensor]:
    """Return the tensor of each item, contiguous; see `ghn.kernels.dispatch.Backend`."""
    result = []
    for item, own in zip(items, of_items(items, tensors), strict=True):
        tensor = expand_one(item.recipe(own))
        result.append(tensor.to(dtype or tensor.dtype).contiguous())
    return result


def expand_out(
    items: Sequence[Item],
    tensors: Sequence[Tensor],
    outs: Sequence[Tensor],
    bases: Sequence[Tensor],
    scales: Sequence[float],
    update: str,
    precision: str,
) -> None:
    """Write the tensor of each item; see `ghn.kernels.dispatch.Backend`."""
    for item, own, out, base, scale in zip(
        items, of_items(items, tensors), outs, bases, scales, strict=True
    ):
        recipe: Recipe = item.recipe(own)
        recipe = recipe if scale == 1.0 else scaled(recipe, scale)
        if item.lead(own):
            out.copy_(updated(expand_one(recipe), base, update))
        else:
            expand_one_out(recipe, out, update=update, base=base)


def backward(
    items: Sequence[Item], tensors: Sequence[Tensor], grads: Sequence[Tensor], precision: str
) -> list[Tensor]:
    """Return the gradient of each factor and block; see `ghn.kernels.dispatch.Backend`."""
    result: list[Tensor] = []
    for item, own, grad in zip(items, of_items(items, tensors), grads, strict=True):
        matrix = item.layout.from_storage(grad)
        if item.low_rank:
            left, right = own
            product = _unfold(matrix, left, item.layout).to(torch.promote_types(*_types(grad, own)))
            result.append((product @ right.to(product.dtype).mT).to(left.dtype))
            result.append((left.to(product.dtype).mT @ product).to(right.dtype))
        else:
            result.append(_untile(matrix, own[0]).to(own[0].dtype))
    return [gradient.contiguous() for gradient in result]


def _types(grad: Tensor, own: Sequence[Tensor]) -> tuple[torch.dtype, torch.dtype]:
    return grad.dtype, own[0].dtype


def _unfold(
    matrix: Float[Tensor, "*b R C K"], left: Float[Tensor, "*b Rp r"], layout: Layout
) -> Float[Tensor, "*b Rp Cq"]:
    """Move the kernel's elements back to the factors' rows and columns."""
    p = left.shape[-2] // max(layout.rows, 1)
    q = layout.kernel // max(p, 1)
    split = matrix.reshape(*matrix.shape[:-1], p, q).transpose(-3, -2)
    return split.reshape(*matrix.shape[:-3], left.shape[-2], layout.cols * q)


def _untile(
    matrix: Float[Tensor, "*b R C K"], block: Float[Tensor, "*b o i K"]
) -> Float[Tensor, "*b o i K"]:
    """Sum over the repetitions of a block, with zeros for what was cropped."""
    o, i, kernel = block.shape[-3:]
    rows, cols = matrix.shape[-3:-1]
    down, across = -(-rows // o), -(-cols // i)
    padding = (0, 0, 0, across * i - cols, 0, down * o - rows)
    padded = torch.nn.functional.pad(matrix, padding)
    split = padded.reshape(*matrix.shape[:-3], down, o, across, i, kernel)
    return split.sum((-5, -3), dtype=None if matrix.dtype == torch.float64 else torch.float32)
