"""Muon for stacks of matrices; `torch.optim.Muon` takes single ones only.

Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024), with the
step size of Liu et al., Muon is scalable for LLM training (2025, arXiv 2502.16982, section 2.2):
an update has the root mean square that AdamW's has, so that both share one learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.errors import ConfigError

__all__ = ["Muon", "make_optimizers"]

# Keller Jordan's quintic: five steps bring singular values into about [0.7, 1.2].
COEFFICIENTS = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
ADAMW_RMS = 0.2
SMALLEST = 16  # shorter side of a matrix that is worth it


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonalised, for each matrix of a stack by itself.

    Args:
        params: Tensors of at least two axes, (..., m, n).
        lr: Learning rate, of AdamW's scale.
        weight_decay: Decoupled: a step multiplies weights by 1 - lr * weight_decay.
        momentum: Of Nesterov's kind.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(list(params), defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step; parameters without a gradient stay."""
        if closure is not None:
            raise ConfigError("Muon takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(gradient, 1.0 - group["momentum"])
        step = orthogonalize(gradient.lerp(average, group["momentum"]))
        scale = ADAMW_RMS * max(parameter.shape[-2:]) ** 0.5
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(step, alpha=-group["lr"] * scale)


def orthogonalize(matrices: Float[Tensor, "*stack m n"]) -> Float[Tensor, "*stack m n"]:
    """Return U V^T for each matrix U S V^T, about: by five Newton-Schulz iterations."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def make_optimizers(
    model: nn.Module, kind: str, lr: float, weight_decay: float
) -> tuple[torch.optim.Optimizer, ...]:
    """Return the optimisers of a model, each parameter in one of them.

    Args:
        model: The hypernetwork.
        kind: `"muon"` for the weights of linear layers and stacks of matrices, with AdamW for
            vectors, thin matrices and tables (of these only some rows have a gradient, and to
            orthogonalise it would blow up what is noise); `"adamw"` for all.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
    """
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        mixes = kind == "muon" and (id(parameter) in linear or parameter.ndim > 2)
        wide = parameter.ndim > 1 and min(parameter.shape[-2:]) >= SMALLEST
        (matrices if mixes and wide else others).append(parameter)
    adamw = torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, fused=True)
    return (Muon(matrices, lr, weight_decay), adamw) if matrices else (adamw,)
