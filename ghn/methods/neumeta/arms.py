"""What the benchmark compares: each arm gives a network for every width.

All arms begin with the same trained network, and those that are trained see the same losses. An
arm's steps, rate and batches are those of the family's settings unless it says otherwise.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ghn.graphs import smooth_channels, trace
from ghn.graphs.ties import named_tensors
from ghn.io import tensor_digest
from ghn.methods.neumeta.baselines import Slimmable, fresh, strongest_first, tune
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.family import Family
from ghn.methods.neumeta.fit import Progress
from ghn.methods.neumeta.groups import chosen_parameters
from ghn.methods.neumeta.source import Source
from ghn.registry import Registry

__all__ = ["ARMS", "Setting", "zeroed"]

EFFORT = 10.0  # of smoothing: time enough for one order, however busy the machine is


@dataclasses.dataclass(frozen=True)
class Setting:
    """What an arm is given.

    Attributes:
        source: The trained network and its features.
        config: Settings of families.
        path: Where a trained family of this arm and seed is kept.
        progress: Called with steps done, steps in all, and a text.
    """

    source: Source
    config: FamilyConfig
    path: Path
    progress: Progress

    @property
    def tail(self) -> nn.Module:
        """The part of the network that is resized."""
        return self.source.tail

    @property
    def example(self) -> Any:
        """Inputs of the tail."""
        return self.source.train.values[:2].float()

    @property
    def further(self) -> dict[str, Any]:
        """What families of the tail are given beside settings."""
        return {"generate": self.source.generate, "example_inputs": self.example}


Maker = Callable[[Setting], tuple[Callable[[float], nn.Module], int]]
"""Returns what gives the network of a width, and how many numbers are stored for all widths."""


ARMS: Registry[Maker] = Registry("arm")
"""Arms by the names that tables show."""


def _family(smooth: bool = True, **changes: Any) -> Maker:
    """Return a maker of a family; it is read from its file if it was trained before."""

    def make(setting: Setting) -> tuple[Callable[[float], nn.Module], int]:
        tail = copy.deepcopy(setting.tail)
        if smooth:
            smooth_channels(tail, setting.example, effort=EFFORT)
        own = setting.config.to_dict() | changes
        return _fitted(Family(tail, FamilyConfig.from_dict(own), **setting.further), setting)

    return make


def _slimmable(**changes: Any) -> Maker:
    def make(setting: Setting) -> tuple[Callable[[float], nn.Module], int]:
        tail = strongest_first(setting.tail, setting.example)
        config = setting.config.replace(**changes)
        return _fitted(Slimmable(tail, config, **setting.further), setting)

    return make


def _fitted(family: Family, setting: Setting) -> tuple[Callable[[float], nn.Module], int]:
    """Train a family, or take it from its file if it is of the same network and settings."""
    notes = {"source": tensor_digest(setting.source.network.state_dict())}
    if setting.path.exists():
        kept, found = type(family).load(setting.path, family.model, example_inputs=setting.example)
        if (kept.config, found) == (family.config, notes):
            return kept.sample, kept.num_parameters()
    task = setting.source.task
    family.fit(
        setting.source.train,
        loss=task.loss,
        divergence=task.divergence,
        progress=setting.progress,
    )
    family.save(setting.path, notes)
    return family.sample, family.num_parameters()


def _one_by_one(begin_anew: bool) -> Maker:
    """Return a maker that trains a network for each width, from weights of its own or pruned."""

    def make(setting: Setting) -> tuple[Callable[[float], nn.Module], int]:
        tail = strongest_first(setting.tail, setting.example)
        pruned = Slimmable(tail, setting.config, **setting.further)
        steps = setting.config.steps

        def network(width: float) -> nn.Module:
            model = pruned.sample(width)
            if begin_anew:
                model = fresh(model, pruned.generated, setting.config.seed)
            return tune(
                model,
                pruned.generated,
                setting.source.train,
                setting.config.replace(steps=2 * steps if begin_anew else steps),
                teacher=setting.tail,
                loss=setting.source.task.loss,
                divergence=setting.source.task.divergence,
            )

        return network, 0

    return make


def zeroed(setting: Setting) -> nn.Module:
    """Return the tail with zeros for all that is generated: its blocks add nothing."""
    tail = copy.deepcopy(setting.tail)
    graph = trace(tail, setting.example)
    names, _ = chosen_parameters(tail, graph, setting.source.generate, setting.example)
    tensors = named_tensors(tail)
    for name in names:
        nn.init.zeros_(tensors[name])
    return tail


_UNTRAINED: dict[str, Any] = {"base": "frozen", "reach": 0.0, "steps": 0, "warm": 0}
ARMS.register("field")(_family(base="none", reach=1.0))
ARMS.register("field-on-base")(_family(base="trained"))
ARMS.register("field-on-frozen-base")(_family(base="frozen"))
ARMS.register("base-alone")(_family(base="trained", reach=0.0))
ARMS.register("slimmable")(_slimmable())
ARMS.register("slimmable-all-widths")(_slimmable(low=0.125))
ARMS.register("individual")(_one_by_one(begin_anew=True))
ARMS.register("pruned-tuned")(_one_by_one(begin_anew=False))
ARMS.register("pruned")(_slimmable(steps=0))
ARMS.register("interpolated")(_family(smooth=False, **_UNTRAINED))
ARMS.register("interpolated-smooth")(_family(**_UNTRAINED))
ARMS.register("zeroed")(lambda setting: (lambda width: zeroed(setting), 0))
