"""Outputs on the meta device of operators that are slow, refused or missing there.

A recurrent layer would be unrolled over its whole sequence, attention into a dozen operators that
are written in Python; a grouped product asks for bfloat16.
Only the shape of the result matters to a trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["meta_output"]


def meta_output(name: str, args: tuple[Any, ...]) -> Any:
    """Return an output without values for operator `name`, or None to run it as usual.

    Args:
        name: Operator name as recorded.
        args: Its positional arguments.
    """
    make = _MAKERS.get(name)
    if make is None or not args or not args[0].is_meta:
        return None
    return make(args)


def _recurrent(args: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    if isinstance(args[3], (tuple, list)):  # packed sequences carry their lengths
        return None
    inputs, states = args[0], args[1] if isinstance(args[1], (tuple, list)) else (args[1],)
    directions = 2 if args[7] else 1
    output = inputs.new_empty(*inputs.shape[:-1], states[0].shape[-1] * directions)
    return (output, *(torch.empty_like(s) for s in states))


def _grouped_product(args: tuple[Any, ...]) -> Tensor | None:
    a, b = args[:2]
    if b.ndim != 3:
        return None
    return a.new_empty(*a.shape[:-1], b.shape[-1])


def _attention(args: tuple[Any, ...]) -> Tensor | None:
    if len(args) < 3 or args[0].shape[:-2] != args[2].shape[:-2]:
        return None
    query, value = args[0], args[2]
    return query.new_empty(*query.shape[:-1], value.shape[-1])


_MAKERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn_tanh": _recurrent,
    "rnn_relu": _recurrent,
    "_grouped_mm": _grouped_product,
    "scaled_dot_product_attention": _attention,
}
