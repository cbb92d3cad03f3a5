"""Settings of continual learning.

The defaults learn ten permutations of scikit-learn's digits to about 93 % with 28,500 parameters:
`ghn run continual --benchmark permuted-digits --methods recurrent --seeds 0`, about a minute on one
core.
"""

from __future__ import annotations

import dataclasses

from ghn.errors import ConfigError
from ghn.methods import sequence
from ghn.methods.sequence.config import HypernetworkConfig

__all__ = ["ContinualConfig", "LoopConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopConfig(sequence.LoopConfig):
    """Settings that all learners of classification tasks share.

    Attributes:
        cooldown: Share of a task's steps, the last ones, over which the learning rate falls to 0 in
            a straight line.
    """

    cooldown: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.cooldown <= 1:
            raise ConfigError(f"cooldown is a share of the steps, in [0, 1], got {self.cooldown}")

    def rate_at(self, step: int, steps: int) -> float:
        """Return the factor on the learning rate at a step, from 0, of so many."""
        left = (steps - step) / steps
        return min(1.0, left / self.cooldown) if self.cooldown else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinualConfig(HypernetworkConfig, LoopConfig):
    """Settings of `ContinualLearner`, beside those of its hypernetwork and of the loop.

    Attributes:
        grow: Units added to the recurrent state before the next task whenever `grow_every` more
            are learned: by default before the third, the fifth, the seventh.
        grow_every: See `grow`; with 1 the state grows before each task but the first.
        importance: Whether the anchor weighs parameters by their Fisher information.
    """

    grow: int = 0
    grow_every: int = 2
    importance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_hypernetwork()
        if self.grow < 0 or self.grow_every < 1:
            raise ConfigError(f"grow must be at least 0 and grow_every 1, got {self}")
        if self.decoder_name != "recurrent" and self.grow:
            raise ConfigError(f"grow is for decoder='recurrent', got {self.decoder_name!r}")
