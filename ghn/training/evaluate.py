"""Scores of predicted networks before any training: what a checkpoint is watched by.

Batch norms use the statistics of the batch they see, for predicted and default weights alike.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import torch

from ghn.engine.hypernet import GHN
from ghn.rng import derive_seed, preserve_global_state
from ghn.training.config import TrainConfig
from ghn.training.targets import Target, make_target
from ghn.training.tasks import ImageTask, Task, make_task
from ghn.zoo import SAMPLERS, sample_distinct

__all__ = [
    "Evaluation",
    "NetworkScore",
    "evaluate",
    "held_out_split",
    "held_out_targets",
]

INPUTS = {"vision": 1_000, "text": 64}


@dataclasses.dataclass(frozen=True)
class NetworkScore:
    """One held-out network.

    Attributes:
        family: Its sampler.
        norm: Its normalisation, `"layer"` for transformers.
        parameters: Number of its parameters.
        predicted: Score with predicted parameters: accuracy, or bits per byte.
        default: Score with its own initialization.
    """

    family: str
    norm: str
    parameters: int
    predicted: float
    default: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of several networks.

    Attributes:
        metric: What they are: `"accuracy"`, or `"bits per byte"`.
        data: Name and split of the data.
        inputs: Number of images or excerpts.
        scores: One for each network.
    """

    metric: str
    data: str
    inputs: int
    scores: list[NetworkScore]

    def by_family(self) -> dict[str, float]:
        """Return the mean predicted score of each family, and of all."""
        return {**self._means("family"), "all": _mean([s.predicted for s in self.scores])}

    def by_norm(self) -> dict[str, float]:
        """Return the mean predicted score for each kind of normalisation."""
        return self._means("norm")

    def _means(self, key: str) -> dict[str, float]:
        groups: dict[str, list[float]] = defaultdict(list)
        for entry in self.scores:
            groups[getattr(entry, key)].append(entry.predicted)
        return {name: _mean(values) for name, values in sorted(groups.items())}


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def held_out_split(config: TrainConfig) -> str:
    """Return the split of the images that a run does not train on."""
    return "val" if config.split == "fit" else "test"


def held_out_targets(config: TrainConfig, task: Task, split: str = "val") -> list[Target]:
    """Return different networks of each family that no training run sees.

    They are fewer than `eval_networks` if the split of a family has no more.
    """
    count = config.eval_networks
    return [
        make_target(family, architecture)
        for family in config.families
        for architecture in sample_distinct(family, count, split, task.settings).values()
    ]


def evaluate(
    ghn: GHN,
    config: TrainConfig,
    split: str = "val",
    inputs: int | None = None,
) -> Evaluation:
    """Score predicted and default parameters of held-out networks on held-out data.

    Args:
        ghn: The hypernetwork.
        config: Names the data, the families and the number of networks.
        split: Split of the samplers.
        inputs: Number of images (1,000 if None, or all; the first that were not trained on) or of
            excerpts (64 if None).
    """
    task = make_task(config, held_out_split(config))
    count = inputs or INPUTS[config.modality]
    if isinstance(task, ImageTask):
        count = min(count, len(task.data))
    targets = held_out_targets(config, task, split)
    scores = [_score_one(ghn, target, task, count) for target in targets]
    return Evaluation(task.metric, task.name, count, scores)


@torch.no_grad()
def _score_one(ghn: GHN, target: Target, task: Task, count: int) -> NetworkScore:
    predicted = ghn(target.graph)
    device = next(iter(predicted.values())).device
    with preserve_global_state(derive_seed(0, "default")):
        built = SAMPLERS[target.family].build(target.config).to(device)
    default = {name: p.detach() for name, p in built.named_parameters()}
    return NetworkScore(
        family=target.family,
        norm=getattr(target.config, "norm", "layer"),
        parameters=sum(p.numel() for p in predicted.values()),
        predicted=task.score(lambda x: target.run(predicted, x.to(device)), count),
        default=task.score(lambda x: target.run(default, x.to(device)), count),
    )
