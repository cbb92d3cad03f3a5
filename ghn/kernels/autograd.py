"""Derivatives of grouped expansion: of any order, and under the transforms of `torch.func`.

W = A B is bilinear, and so is its gradient (G B^T, A^T G): the derivatives of both are made of the
same two operators. The operators have them registered; `torch.func` cannot differentiate operators
that take lists, which is why `Expand` says the same once more as an `autograd.Function`.

Shape letters used in this file:
    A, B: factors. G: gradient of their product. S, T: gradients of G B^T and A^T G.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ghn.kernels.ops import backward_op, expand_op, in_front
from ghn.kernels.plan import decode, of_items

__all__ = ["Expand"]

Call = Callable[..., Sequence[Tensor]]
Gradients = Sequence[Tensor | None]


def _gradient(
    call: Call, grads: Gradients, tensors: Sequence[Tensor], plan: str, precision: str
) -> list[Tensor | None]:
    """Return gradients of factors and blocks; tensors that nobody used cost nothing."""
    owned = of_items(decode(plan), tensors)
    used = [i for i, grad in enumerate(grads) if grad is not None]
    words = plan.split(";")
    found: Sequence[Tensor] = ()
    if used:
        found = call(
            [grads[i] for i in used],
            [tensor for i in used for tensor in owned[i]],
            ";".join([words[i] for i in used]),
            precision,
        )
    remaining = iter(found)
    return [
        None if grad is None else next(remaining)
        for grad, own in zip(grads, owned, strict=True)
        for _ in own
    ]


def _gradient_of_gradient(
    expand: Call,
    backward: Call,
    cotangents: Gradients,
    grads: Sequence[Tensor],
    tensors: Sequence[Tensor],
    plan: str,
    precision: str,
) -> tuple[list[Tensor], list[Tensor]]:
    """Differentiate (G B^T, A^T G) once more.

    With respect to G it is S B + A T; with respect to (A, B) it is (G T^T, S^T G), which is what
    the backward operator makes of (S, T). A block's gradient depends on G alone.
    """
    items = decode(plan)
    given = _filled(cotangents, tensors)
    for_grads = _tangent(expand, given, tensors, plan, None, precision)
    for_tensors: list[Tensor] = []
    found = of_items(items, backward(grads, given, plan, precision))
    for item, own in zip(items, found, strict=True):
        for_tensors.extend(own if item.low_rank else [torch.zeros_like(own[0])])
    cast = [one.to(grad.dtype) for one, grad in zip(for_grads, grads, strict=True)]
    return cast, for_tensors


def _tangent(
    expand: Call,
    tangents: Sequence[Tensor],
    tensors: Sequence[Tensor],
    plan: str,
    dtype: torch.dtype | None,
    precision: str,
) -> list[Tensor]:
    """Return how tensors change with their factors and blocks: S B + A T, or a block's change."""
    items = decode(plan)
    words = plan.split(";")
    first: list[Tensor] = []
    second: list[Tensor] = []
    for item, own, other in zip(
        items, of_items(items, tensors), of_items(items, tangents), strict=True
    ):
        first.extend([other[0], own[1]] if item.low_rank else other)
        second.extend([own[0], other[1]] if item.low_rank else [])
    changes = list(expand(first, plan, dtype, precision))
    products = [i for i, item in enumerate(items) if item.low_rank]
    if products:
        more = expand(second, ";".join([words[i] for i in products]), dtype, precision)
        for i, change in zip(products, more, strict=True):
            changes[i] = changes[i] + change
    return changes


class Expand(torch.autograd.Function):
    """`ghn::expand` for autograd and `torch.func`; returns a tuple."""

    @staticmethod
    def forward(
        plan: str, dtype: torch.dtype | None, precision: str, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """Run the operator."""
        return tuple(expand_op(list(tensors), plan, dtype, precision))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the factors and blocks, not what they became."""
        ctx.plan, ctx.dtype, ctx.precision, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Return the gradients of factors and blocks."""
        found = _gradient(_apply_backward, grads, ctx.saved_tensors, ctx.plan, ctx.precision)
        return (None, None, None, *found)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        """Return how the tensors change along tangents of factors and blocks."""
        given = _filled(tangents[3:], ctx.saved_tensors)
        saved = (ctx.saved_tensors, ctx.plan, ctx.dtype, ctx.precision)
        return tuple(_tangent(_apply_expand, given, *saved))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, int]:
        """Make the mapped axis a batch axis."""
        plan, dtype, precision, *tensors = inputs
        batched = in_front(tensors, in_dims[3:], info.batch_size)
        return Expand.apply(plan, dtype, precision, *batched), 0


class _ExpandBackward(torch.autograd.Function):
    """`ghn::expand_backward` likewise; takes as many gradients as the plan has items."""

    @staticmethod
    def forward(plan: str, precision: str, *given: Tensor) -> tuple[Tensor, ...]:
        count = len(decode(plan))
        return tuple(backward_op(list(given[:count]), list(given[count:]), plan, precision))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.plan, ctx.precision, *given = inputs
        ctx.save_for_backward(*given)
        ctx.save_for_forward(*given)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        count = len(decode(ctx.plan))
        given = (ctx.saved_tensors[:count], ctx.saved_tensors[count:])
        calls = (_apply_expand, _apply_backward)
        one, two = _gradient_of_gradient(*calls, cotangents, *given, ctx.plan, ctx.precision)
        return (None, None, *one, *two)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors
        given = _filled(tangents[2:], saved)
        count = len(decode(ctx.plan))
        by_grads = _apply_backward(given[:count], saved[count:], ctx.plan, ctx.precision)
        by_factors = _apply_backward(saved[:count], given[count:], ctx.plan, ctx.precision)
        items = decode(ctx.plan)
        pairs = zip(of_items(items, by_grads), of_items(items, by_factors), strict=True)
        return tuple(
            one + two if item.low_rank else one
            for item, (own, more) in zip(items, pairs, strict=True)
            for one, two in zip(own, more, strict=True)
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, int]:
        plan, precision, *given = inputs
        batched = in_front(given, in_dims[2:], info.batch_size)
        return _ExpandBackward.apply(plan, precision, *batched), 0


def _filled(tangents: Gradients, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Put zeros in the place of what is missing."""
    return [
        torch.zeros_like(tensor) if tangent is None else tangent
        for tangent, tensor in zip(tangents, tensors, strict=True)
    ]


def _apply_expand(
    tensors: Sequence[Tensor], plan: str, dtype: torch.dtype | None, precision: str
) -> Sequence[Tensor]:
    return Expand.apply(plan, dtype, precision, *tensors)


def _apply_backward(
    grads: Sequence[Tensor], tensors: Sequence[Tensor], plan: str, precision: str
) -> Sequence[Tensor]:
    return _ExpandBackward.apply(plan, precision, *grads, *tensors)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, ctx.plan, _, ctx.precision = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _op_gradient(ctx: Any, grads: Gradients) -> tuple[Any, ...]:
    found = _gradient(backward_op, grads, ctx.saved_tensors, ctx.plan, ctx.precision)
    return found, None, None, None


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grads, tensors, ctx.plan, ctx.precision = inputs
    ctx.count = len(grads)
    ctx.save_for_backward(*grads, *tensors)
    ctx.set_materialize_grads(False)


def _op_gradient_of_gradient(ctx: Any, cotangents: Gradients) -> tuple[Any, ...]:
    given = (ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :])
    calls = (expand_op, backward_op)
    one, two = _gradient_of_gradient(*calls, cotangents, *given, ctx.plan, ctx.precision)
    return one, two, None, None


torch.library.register_autograd("ghn::expand", _op_gradient, setup_context=_save)
torch.library.register_autograd(
    "ghn::expand_backward", _op_gradient_of_gradient, setup_context=_save_backward
)
