"""Settings of families."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ghn.config import Config
from ghn.decoders import ImplicitDecoderConfig
from ghn.device import check_precision
from ghn.errors import ConfigError

__all__ = ["FamilyConfig"]

BASES = ("none", "frozen", "trained")
NODES, SIZE = 16, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyConfig(Config):
    """Settings of `Family`.

    Attributes:
        decoder: The field. Its `dim` is that of a node's code and of the sizes' vector.
        base: What the field's values are added to: `"none"`, a tensor's mean only; `"frozen"`,
            the full network's weights, resampled by place; `"trained"`, the same, trained too.
        reach: Size of the field's values, in standard deviations of the tensor that they are for; 0
            for no field, so that a trained base alone is what remains.
        noise: How far places of the base move while training, in channels; that of the field is the
            decoder's.
        low: Smallest share of the full width that is trained.
        high: Largest one.
        widths: How many widths between these are trained, evenly spaced.
        depths: For runs of blocks, `[fewest, most]` blocks that are trained.
        steps: Steps of AdamW.
        warm: Steps before these in which the field only learns the full network's weights.
        rate: Learning rate; it falls to zero along half a cosine.
        base_rate: That of a trained base.
        decay: Weight decay.
        task: Weight of the task's loss.
        distillation: Weight of the divergence from the full network's outputs.
        temperature: Of both outputs in it.
        reconstruction: Weight of the distance from the full network's weights, at full size.
        magnitude: Weight of the norms of what is emitted.
        ema: Share that an average of the trained numbers keeps at each step; the average is what is
            used in the end. 0 for none.
        clip: Largest norm of a gradient; 0 for any.
        mixed_precision: `"bf16"` for running networks while training, on processors that are faster
            so; `"no"`: in the precision of their weights. Weights are emitted in that one anyway.
        calibration: Inputs that are kept, with which statistics of BatchNorm are measured for each
            size that is sampled; 0 for none: statistics are then resampled by place.
        seed: Of everything that is drawn.
    """

    decoder: ImplicitDecoderConfig = dataclasses.field(
        default_factory=lambda: ImplicitDecoderConfig(dim=NODES + SIZE, noise=1.0)
    )
    base: str = "trained"
    reach: float = 0.1
    noise: float = 2.0
    low: float = 0.5
    high: float = 1.0
    widths: int = 33
    depths: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    steps: int = 2000
    warm: int = 0
    rate: float = 1e-3
    base_rate: float = 3e-3
    decay: float = 1e-2
    task: float = 1.0
    distillation: float = 1.0
    temperature: float = 2.0
    reconstruction: float = 0.0
    magnitude: float = 0.0
    ema: float = 0.995
    clip: float = 1.0
    mixed_precision: str = "no"
    calibration: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_sizes()
        if self.base not in BASES:
            raise ConfigError(f"base must be one of {', '.join(BASES)}, got {self.base!r}")
        check_precision(self.mixed_precision)
        if not self.reach and self.base == "none":
            raise ConfigError("without a field (reach=0) weights come from a base, got base='none'")
        weights = (self.task, self.distillation, self.reconstruction, self.magnitude, self.decay)
        numbers = (*weights, self.clip, self.reach, self.noise)
        if not all(0 <= number < math.inf for number in numbers):
            raise ConfigError(
                f"weights, clip, reach and noise must be finite and not negative, got {self}"
            )
        if not all(0 < rate < math.inf for rate in (self.rate, self.base_rate)):
            raise ConfigError(f"rates must be above 0 and finite, got {self}")
        if not 0 <= self.ema < 1 or not self.temperature > 0:
            raise ConfigError(f"ema must lie in [0, 1), temperature be above 0, got {self}")

    def _check_sizes(self) -> None:
        if not 0 < self.low <= self.high <= 1 or self.widths < 1:
            raise ConfigError(f"0 < low <= high <= 1 and a width are needed, got {self}")
        if self.decoder.dim <= SIZE or (self.decoder.dim - SIZE) % 2:
            raise ConfigError(
                f"decoder.dim must be even and above {SIZE}, which are those of the sizes' vector, "
                f"got {self.decoder.dim}"
            )
        if min(self.steps, self.warm, self.calibration) < 0:
            raise ConfigError(f"steps, warm and calibration must not be negative, got {self}")
        for name, pair in self.depths.items():
            if not _is_range(pair):
                raise ConfigError(
                    f"depths of {name!r} must be [fewest, most] blocks, two whole numbers with "
                    f"1 <= fewest <= most, got {pair!r}"
                )


def _is_range(pair: Any) -> bool:
    return (
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(isinstance(n, int) and not isinstance(n, bool) for n in pair)
        and 1 <= pair[0] <= pair[1]
    )
