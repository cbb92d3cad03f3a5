"""Settings of the initialization benchmark."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ghn.benchmarks.init.networks import SPLITS
from ghn.config import Config, check_at_least, check_distinct
from ghn.device import check_precision
from ghn.errors import ConfigError
from ghn.io import expanded

__all__ = ["AFTERWARDS", "STARTS", "InitConfig", "parts_of"]

STARTS = ("default", "orthogonal", "lsuv", "trained", "ghn")
"""Kinds of initializations; `ghn` may name what is done afterwards, and a checkpoint."""

SCORED_ON = ("val", "test")

AFTERWARDS: dict[str, dict[str, Any]] = {
    "noise": {"noise": 0.1},
    "orthogonalize": {"orthogonalize": True},
    "calibrate": {"calibrate": True},
}
"""What `predict_params` may do to predicted weights, by its name in `"ghn+NAME"`."""


def parts_of(start: str) -> tuple[str, list[str], str]:
    """Return the kind of a start, what is done afterwards, and the checkpoint, as in `a+b:c`.

    What is done afterwards is sorted: it means the same in any order.
    """
    kind, _, checkpoint = start.partition(":")
    kind, *afterwards = kind.split("+")
    return kind, sorted(afterwards), checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitConfig(Config):
    """Settings of `ghn bench init`.

    Attributes:
        out: Folder of results; runs found there are not run again.
        split: Which networks: `"test"`, `"wide"` and `"deep"` ones of the samplers of images,
            `"unseen"` families of timm; `"gpts"`, `"gpts-wide"`, `"gpts-deep"`.
        networks: How many of them; of `"unseen"` there are twelve.
        models: These instead, such as `"timm:resnet18"` or `"convnets:3:wide"`.
        data: Images (`ghn.data.load_images`) or text (`ghn.data.load_text`), by what the networks
            read; training takes the split `"fit"`.
        test_data: Data sets that scores are taken on, if not `data` itself: the first for verdicts
            and curves, each further one in tables of its own. `"NAME:test"` or `"NAME:val"` where
            one takes another split than `scored_on`.
        side: Height and width of images in pixels.
        flip: Share of training images that are mirrored left to right; 0 for digits, letters and
            whatever has a left and a right.
        shift: Largest shift of training images, in pixels.
        scored_on: Split that scores are taken on: `"val"` for choices, `"test"` for reports.
        starts: Initializations: `"default"`, `"orthogonal"`, `"lsuv"`, `"trained"`, `"ghn"` or
            `"ghn:CHECKPOINT"`, and with `+noise`, `+orthogonalize` or `+calibrate` after `ghn`;
            see `ghn.benchmarks.init.starts`. The others are compared with the first.
        steps: AdamW steps of a run.
        batch: Images or excerpts in a step.
        context: Tokens of an excerpt.
        clip: Largest norm of the gradient; 0 for any.
        mixed_precision: `"bf16"` for what the networks compute, or `"no"`.
        rates: Learning rates that every start chooses from, for every network, on one seed; the
            grid is widened while the best lies on its edge. A single rate is taken as it is.
        seeds: Seeds of the reported runs. The rate is chosen on another one.
        source_steps: Steps that the networks of the start `trained` were trained for.
        scored: Images or excerpts that a score is taken on.
        tests: Number of scores along a run.
        device: Where networks are trained: `"auto"` for a GPU if there is one, `"cpu"`, `"cuda"`.
        jobs: Processes, each with one thread; 1 stays in this one. On one GPU they share it.
        cuda_graphs: Whether steps on a GPU are recorded once and replayed, for networks whose steps
            wait for launches; one that waits for the GPU in its forward pass is left out.
        ray: Whether a Ray cluster runs them instead (extra `ghn[ray]`).
    """

    out: str = "runs/bench-init"
    split: str = "test"
    networks: int = 20
    models: tuple[str, ...] = ()
    data: str = "cifar10"
    test_data: tuple[str, ...] = ()
    side: int = 32
    flip: float = 0.5
    shift: int = 4
    scored_on: str = "val"
    starts: tuple[str, ...] = ("default", "ghn")
    steps: int = 200
    batch: int = 128
    context: int = 256
    clip: float = 0.0
    mixed_precision: str = "no"
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    source_steps: int = 10_000
    scored: int = 2000
    tests: int = 11
    device: str = "auto"
    jobs: int = 2
    cuda_graphs: bool = False
    ray: bool = False

    @property
    def scored_data(self) -> list[tuple[str, str]]:
        """Names and splits of the data that scores are taken on."""
        found = []
        for given in self.test_data or (self.data,):
            name, _, split = given.rpartition(":")
            if name and split in ("fit", "train"):
                raise ConfigError(f"scores are taken on {' or '.join(SCORED_ON)}, got {given!r}")
            found.append((name, split) if split in SCORED_ON else (given, self.scored_on))
        return found

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", str(expanded(self.out)))  # ~ as in a shell
        if self.split not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.scored_on not in SCORED_ON:
            raise ConfigError(f"scored_on must be 'val' or 'test', got {self.scored_on!r}")
        distinct = {(kind, *then, name) for kind, then, name in map(parts_of, self.starts)}
        if len(distinct) != len(self.starts) or len(self.starts) < 2:
            raise ConfigError(f"starts must be at least two different ones, got {self.starts}")
        for start in self.starts:
            kind, afterwards, checkpoint = parts_of(start)
            more = bool(afterwards or checkpoint)
            unknown = set(afterwards) - set(AFTERWARDS)
            if len(set(afterwards)) < len(afterwards):
                raise ConfigError(f"start {start!r} does something twice; name it once")
            if kind not in STARTS or (more and kind != "ghn") or unknown or start.endswith(":"):
                known = ", ".join([*STARTS, *(f"ghn+{name}" for name in AFTERWARDS)])
                raise ConfigError(f"unknown start {start!r}; known: {known}, ghn:CHECKPOINT")
        if not self.rates or not all(0 < r < math.inf for r in self.rates) or not self.seeds:
            raise ConfigError(
                f"the benchmark needs finite learning rates above 0, and seeds, got {self.rates}, "
                f"{self.seeds}"
            )
        if not 0 <= self.clip < math.inf:
            raise ConfigError(f"clip must be finite and at least 0, got {self.clip}")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip must be between 0 and 1, got {self.flip}")
        check_at_least(0, shift=self.shift)
        check_precision(self.mixed_precision)
        check_distinct(
            models=self.models, seeds=self.seeds, rates=self.rates, test_data=self.scored_data
        )
        sizes = ("networks", "steps", "batch", "context", "scored", "jobs", "side", "source_steps")
        check_at_least(1, **{name: getattr(self, name) for name in sizes})
        check_at_least(2, tests=self.tests)
