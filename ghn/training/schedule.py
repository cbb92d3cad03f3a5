"""How a learning rate goes over a run."""

from __future__ import annotations

import math

__all__ = ["rise_and_fall"]


def rise_and_fall(step: int, steps: int, rise: int, falling: float = 1.0) -> float:
    """Return the share of the peak rate: up along a line, level, down along half a cosine.

    Args:
        step: Steps done before this one.
        steps: Steps in all.
        rise: Steps until the peak.
        falling: Share of the steps after the rise in which the rate falls to zero: the last ones.
    """
    if step < rise:
        return (step + 1) / rise
    done = 1.0 - (steps - step) / (falling * max(steps - rise, 1))
    return 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))
