"""Settings of continual learning.

The defaults learn ten permutations of scikit-learn's digits to about 93 % with 28,500 parameters:
`ghn run continual --benchmark permuted-digits --methods recurrent --seeds 0`, about a minute on one
core.
"""

from __future__ import annotations

import dataclasses

from ghn.errors import ConfigError
from ghn.methods.sequence.config import HypernetworkConfig, LoopConfig

__all__ = ["ContinualConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContinualConfig(HypernetworkConfig, LoopConfig):
    """Settings of `ContinualLearner`, beside those of its hypernetwork and of the loop.

    Attributes:
        grow: Units added to the recurrent state before every `grow_every`-th task, from the third
            on.
        grow_every: See `grow`.
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
        if self.decoder != "recurrent" and self.grow:
            raise ConfigError(f"grow is for decoder='recurrent', got {self.decoder!r}")
