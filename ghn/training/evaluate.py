"""Accuracy of predicted networks before any training: what a checkpoint is watched by.

Batch norms use the statistics of the batch they see, for predicted and default weights alike.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import torch
from torch import Tensor

from ghn.data import ImageData, load_images, normalize
from ghn.engine.hypernet import GHN
from ghn.rng import derive_seed
from ghn.training.config import TrainConfig
from ghn.training.targets import Target, make_target
from ghn.zoo import SAMPLERS, sample

__all__ = [
    "Evaluation",
    "NetworkScore",
    "evaluate",
    "held_out_split",
    "held_out_targets",
    "score",
]

BATCH = 250


@dataclasses.dataclass(frozen=True)
class NetworkScore:
    """One held-out network.

    Attributes:
        family: Its sampler.
        norm: Its normalisation, `"layer"` for transformers.
        parameters: Number of its parameters.
        predicted: Accuracy with predicted parameters.
        default: Accuracy with its own initialization.
    """

    family: str
    norm: str
    parameters: int
    predicted: float
    default: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of several networks."""

    scores: list[NetworkScore]

    def by_family(self) -> dict[str, float]:
        """Return the mean predicted accuracy of each family, and of all."""
        return {**self._means("family"), "all": _mean([s.predicted for s in self.scores])}

    def by_norm(self) -> dict[str, float]:
        """Return the mean predicted accuracy for each kind of normalisation."""
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


def held_out_targets(families: tuple[str, ...], count: int, split: str = "val") -> list[Target]:
    """Return `count` networks of each family that no training run sees."""
    return [make_target(f, sample(f, seed, split)) for f in families for seed in range(count)]


def evaluate(
    ghn: GHN,
    config: TrainConfig,
    split: str = "val",
    images: int = 1_000,
    targets: list[Target] | None = None,
) -> Evaluation:
    """Score predicted and default parameters of held-out networks on held-out images.

    Args:
        ghn: The hypernetwork.
        config: Names the data, the families and the number of networks.
        split: Split of the samplers.
        images: Number of images, the first of those that were not trained on.
        targets: Networks to score instead of the split's.
    """
    data = load_images(config.data, held_out_split(config)).take(slice(0, images))
    chosen = targets or held_out_targets(config.families, config.eval_networks, split)
    return Evaluation([_score_one(ghn, target, data) for target in chosen])


@torch.no_grad()
def _score_one(ghn: GHN, target: Target, data: ImageData) -> NetworkScore:
    predicted = ghn(target.graph)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "default"))
        default = dict(SAMPLERS[target.family].build(target.config).named_parameters())
    return NetworkScore(
        family=target.family,
        norm=getattr(target.config, "norm", "layer"),
        parameters=sum(p.numel() for p in predicted.values()),
        predicted=score(target, predicted, data),
        default=score(target, {k: p.detach() for k, p in default.items()}, data),
    )


@torch.no_grad()
def score(target: Target, parameters: dict[str, Tensor], data: ImageData) -> float:
    """Return the accuracy of a target under given parameters."""
    hits = 0
    for start in range(0, len(data), BATCH):
        part = data.take(slice(start, start + BATCH))
        logits = target.run(parameters, normalize(part.images))
        hits += int((logits.argmax(1) == part.labels).sum())
    return hits / len(data)
