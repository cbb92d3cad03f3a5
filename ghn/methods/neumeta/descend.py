"""Steps of training: AdamW, an average of what is trained, and looks at the losses in between."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import PredictionError
from ghn.methods.neumeta.config import FamilyConfig
from ghn.training.schedule import rise_and_fall

__all__ = ["Losses", "descend", "write_values"]

HELD = 10.0  # steps; an average of few steps is an average of those
READ = 20  # steps between looks at the losses: a GPU is waited for no more often than that


class Losses:
    """Losses of steps, read every twentieth step and at the end.

    Args:
        steps: Steps in all.
        tell: Called with steps done and the last loss, whenever losses were read.
    """

    def __init__(self, steps: int, tell: Callable[[int, float], None]) -> None:
        self.values: list[float] = []
        self._unread: list[Tensor] = []
        self._steps, self._tell = steps, tell

    def add(self, loss: Tensor) -> None:
        """Take the loss of a step.

        Raises:
            PredictionError: If a loss is not finite; up to nineteen steps were taken after it.
        """
        self._unread.append(loss.detach())
        done = len(self.values) + len(self._unread)
        if len(self._unread) < READ and done < self._steps:
            return
        for value in torch.stack(self._unread).tolist():
            if not math.isfinite(value):
                raise PredictionError(
                    f"training diverged at step {len(self.values)}: the loss is {value}. Lower the "
                    "learning rate, or clip more"
                )
            self.values.append(value)
        self._unread.clear()
        self._tell(done, self.values[-1])


def descend(
    groups: list[dict[str, Any]],
    config: FamilyConfig,
    steps: int,
    objective: Callable[[], Tensor],
    tell: Callable[[int, float], None] = lambda done, value: None,
) -> list[float]:
    """Take steps of AdamW, and leave the average of the trained numbers behind.

    Args:
        groups: Parameters and their learning rates, as optimisers take them.
        config: Decay, clipping, averaging.
        steps: Number of steps.
        objective: Computes the loss of a step.
        tell: As for `Losses`.

    Returns:
        The loss of each step.

    Raises:
        PredictionError: As `Losses.add`.
    """
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW([dict(g) for g in groups], weight_decay=config.decay)
    rise = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rise_and_fall(step, steps, rise)
    )
    average = [p.detach().clone() for p in parameters]
    losses = Losses(steps, tell)
    for step in range(steps):
        value = objective()
        optimizer.zero_grad()
        value.backward()
        if config.clip:
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        schedule.step()
        keep = min(config.ema, step / (step + HELD))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1.0 - keep)
        losses.add(value)
    write_values(parameters, average)
    return losses.values


@torch.no_grad()
def write_values(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    """Write values into parameters, in place."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
