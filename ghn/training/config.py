"""Settings of a training run; there are no others."""

from __future__ import annotations

import dataclasses
import math

from ghn.config import Config
from ghn.device import check_precision
from ghn.engine.hypernet import GHNConfig
from ghn.errors import ConfigError
from ghn.io import expanded
from ghn.zoo import SAMPLERS

__all__ = ["TrainConfig"]

POSITIVE = ("lr", "clip")
NOT_NEGATIVE = (
    *("penalty", "weight_decay", "warmup", "workers", "shift"),
    *("checkpoint_seconds", "eval_every", "eval_networks"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Settings of `train`.

    The defaults are a run of hours: 110 to 200 ms for each network and core, so that 40,000 steps
    of 4 networks take five to nine hours on one core. Settings of other runs are in
    `ghn/training/recipes`.

    Attributes:
        out: Folder of checkpoints, log and settings; an interrupted run found there is resumed.
        data: Name of the training data; see `ghn.data.load_images` and `ghn.data.load_text`.
        start: Checkpoint that the run begins with, in place of fresh weights: the name of an
            embedded one, a folder or a hub id; empty for none. `ghn` is then the checkpoint's,
            unless it is given.
        split: Their split: `"fit"` keeps images back for choices, `"train"` uses all, so that
            only the `"test"` images are left to evaluate on.
        side: Height and width that images are cut and resized to, in pixels.
        flip: Share of images that are flipped left to right; 0 where that changes the class.
        shift: Largest shift of an image, in pixels.
        context: Tokens of an excerpt, for text.
        vocabulary: Number of tokens, for text: 256 bytes, or more by byte-level BPE.
        families: Samplers of target networks.
        shares: How often each family is drawn.
        pool: Number of sampled networks; the same ones whatever the seed.
        steps: Optimiser steps; a run may be resumed with another number.
        meta_batch: Networks in a step, all on one batch of data. Several
            processes share them.
        batch: Images or excerpts in a step.
        optimizer: `"muon"` for the hypernetwork's matrices, or `"adamw"` for all of it.
        lr: Peak learning rate.
        warmup: Steps of linear warm-up.
        cooldown: Share of the other steps in which the learning rate falls to zero, by a cosine;
            before, it is constant. Below 1, a run can be given more steps before it cools down.
        weight_decay: Decoupled from the gradient.
        clip: Largest norm of the gradient.
        penalty: Weight of the emitted parameters' norms in the loss (GHN-3 has 3e-5); sizes are
            bounded by `ghn.spread` without it.
        ema: Decay of the averaged weights, which are what is exported.
        seed: Of the initial weights and of what each step draws.
        mixed_precision: `"bf16"` for running the target networks; `"no"` for what
            `accelerate launch` says, else none. Gradients are not scaled, as fp16 would need.
        workers: Processes that prepare batches ahead.
        tracker: Where accelerate reports records: `"tensorboard"`, another of its trackers, or
            `"none"`.
        checkpoint_seconds: Time between checkpoints.
        eval_every: Steps between evaluations on held-out networks; 0 for none.
        eval_networks: Held-out networks of each family; 0 for no evaluation at all, in the
            checkpoint's model card neither.
        ghn: The hypernetwork, which writes for what `families` read; None for that of `start`,
            without one for the default.
    """

    out: str = "runs/train"
    data: str = "cifar10"
    start: str = ""
    split: str = "fit"
    side: int = 32
    flip: float = 0.5
    shift: int = 4
    context: int = 256
    vocabulary: int = 256
    families: tuple[str, ...] = ("convnets", "vits")
    shares: tuple[float, ...] = (0.7, 0.3)
    pool: int = 2000
    steps: int = 40_000
    meta_batch: int = 4
    batch: int = 64
    optimizer: str = "muon"
    lr: float = 1e-3
    warmup: int = 100
    cooldown: float = 1.0
    weight_decay: float = 1e-2
    clip: float = 1.0
    penalty: float = 0.0
    ema: float = 0.998
    seed: int = 0
    mixed_precision: str = "no"
    workers: int = 0
    tracker: str = "tensorboard"
    checkpoint_seconds: float = 300.0
    eval_every: int = 2_000
    eval_networks: int = 10
    ghn: GHNConfig | None = dataclasses.field(default=None, metadata={"nested": True})

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out must name a folder, got an empty name")
        object.__setattr__(self, "out", str(expanded(self.out)))  # ~ as in a shell
        if len(self.families) != len(self.shares) or not self.families:
            raise ConfigError(
                f"shares must have one entry for each family, got families={self.families}, "
                f"shares={self.shares}"
            )
        modalities = {SAMPLERS[family].modality for family in self.families}
        if len(modalities) > 1:
            raise ConfigError(f"families must all read images or all text, got {self.families}")
        if self.split not in ("fit", "train"):
            raise ConfigError(f"split must be 'fit' or 'train', got {self.split!r}")
        sizes = (self.pool, self.steps, self.meta_batch, self.batch, self.side, self.context)
        if min(sizes) < 1:
            raise ConfigError("pool, steps, meta_batch, batch, side and context must be at least 1")
        if self.batch == 1 and self.modality == "vision":
            raise ConfigError("batch must be at least 2 for images: batch norms compare them")
        if self.ghn is not None:
            object.__setattr__(self, "ghn", self.ghn.replace(modality=self.modality))
        check_precision(self.mixed_precision)
        if self.optimizer not in ("muon", "adamw"):
            raise ConfigError(f"optimizer must be 'muon' or 'adamw', got {self.optimizer!r}")
        self._check_numbers()
        if self.tracker not in ("none", "tensorboard"):
            _check_tracker(self.tracker)

    def _check_numbers(self) -> None:
        """Refuse numbers out of range; nan is out of all."""
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name} must be finite and at least 0, got {value}")
        for name in POSITIVE:
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be finite and above 0, got {value}")
        if not min(self.shares) >= 0 or not 0 < sum(self.shares) < math.inf:
            raise ConfigError(
                f"shares must be finite, at least 0, and not all 0, got {self.shares}"
            )
        if not 0 < self.cooldown <= 1:
            raise ConfigError(f"cooldown must be above 0 and at most 1, got {self.cooldown}")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip must be between 0 and 1, got {self.flip}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be at least 0 and below 1, got {self.ema}")

    @property
    def modality(self) -> str:
        """What the target networks read: `"vision"` or `"text"`."""
        return SAMPLERS[self.families[0]].modality


def _check_tracker(tracker: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    known = ["none", *map(str, LOGGER_TYPE_TO_CLASS)]
    if tracker not in known:
        raise ConfigError(f"tracker must be one of {', '.join(known)}, got {tracker!r}")
