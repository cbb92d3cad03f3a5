"""Fisher information of a network's parameters: how much each matters to what it predicts.

Shape letters used in this file:
    b: inputs. k: classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

__all__ = ["diagonal_fisher"]

INPUTS = 512
AT_ONCE = 32

Logits = Callable[[dict[str, Tensor], Any], Float[Tensor, "b k"]]
"""From parameters and inputs to logits."""


def diagonal_fisher(
    logits: Logits,
    parameters: Mapping[str, Tensor],
    batches: Iterator[tuple[Any, Tensor]],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the mean over inputs of the squared gradients of the log-likelihood.

    Labels are drawn from what the network predicts, which is the definition; those of the data give
    next to nothing once they are fitted.

    Args:
        logits: The network.
        parameters: Where to take the gradients.
        batches: Data of the task; about 512 inputs of them are read.
        generator: Where the labels are drawn.
    """
    fixed = {name: value.detach() for name, value in parameters.items()}
    total = {name: torch.zeros_like(value) for name, value in fixed.items()}
    seen = 0
    for inputs, labels in itertools.islice(batches, INPUTS):
        count = len(labels)
        for start in range(0, count, AT_ONCE):
            part = _cut(inputs, slice(start, min(start + AT_ONCE, count)))
            with torch.no_grad():
                chances = logits(fixed, part).softmax(1).cpu()
            drawn = torch.multinomial(chances, 1, generator=generator)[:, 0].to(labels.device)
            for name, squares in _squares(logits, fixed, part, drawn).items():
                total[name] += squares
        seen += count
        if seen >= INPUTS:
            break
    return {name: value / seen for name, value in total.items()}


def _squares(
    logits: Logits, parameters: dict[str, Tensor], inputs: Any, labels: Tensor
) -> dict[str, Tensor]:
    """Return the sum over inputs of the squared gradients of each."""

    def loss(parameters: dict[str, Tensor], one: Any, label: Tensor) -> Tensor:
        return F.cross_entropy(logits(parameters, _unsqueezed(one)), label[None])

    try:
        found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, inputs, labels)
        return {name: value.square().sum(0) for name, value in found.items()}
    except Exception:  # not for vmap, or wrong: then what is done one by one says so
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        for index, label in enumerate(labels):
            one = grad(loss)(parameters, _cut(inputs, index), label)
            for name, value in one.items():
                total[name] += value.square()
        return total


def _cut(inputs: Any, index: slice | int) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: t[index], inputs)


def _unsqueezed(inputs: Any) -> Any:
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: t[None], inputs)
