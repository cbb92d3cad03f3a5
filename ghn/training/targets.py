"""Target networks while a hypernetwork is trained: built without weights, traced once, run often.

Shape letters used in this file:
    b: images or texts. t: tokens, of texts. k: classes or tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ghn.config import Config
from ghn.graphs import ParamGraph, cached_trace
from ghn.zoo import SAMPLERS, sample

__all__ = ["Target", "TargetPool", "make_target"]


@dataclasses.dataclass
class Target:
    """A network without weights of its own.

    Attributes:
        family: Its sampler.
        config: Its architecture.
        model: On the meta device, in training mode.
        graph: Its parameter graph.
        buffers: Values of its buffers, as a new network has them.
    """

    family: str
    config: Config
    model: nn.Module
    graph: ParamGraph
    buffers: dict[str, Tensor]

    def run(
        self, parameters: dict[str, Tensor], inputs: Shaped[Tensor, "b ..."]
    ) -> Float[Tensor, "b *t k"]:
        """Return logits under given parameters; batch norms use the batch's own statistics."""
        # Moved once; running statistics are written by the forward pass: into copies.
        self.buffers = {name: value.to(inputs.device) for name, value in self.buffers.items()}
        buffers = {name: value.clone() for name, value in self.buffers.items()}
        return torch.func.functional_call(self.model, {**parameters, **buffers}, (inputs,))


def make_target(family: str, config: Config) -> Target:
    """Build one architecture of a sampler and trace it, unless the cache knows its graph."""
    with torch.device("meta"):
        model = SAMPLERS[family].build(config)
    buffers = {
        name: torch.ones(b.shape, dtype=b.dtype)
        if name.endswith("running_var")
        else torch.zeros(b.shape, dtype=b.dtype)
        for name, b in model.named_buffers()
    }
    graph = cached_trace(model, SAMPLERS[family].example(config).to("meta"))
    return Target(family, config, model.train(), graph, buffers)


class TargetPool:
    """Sampled networks by index, each built and traced when it is first drawn.

    Args:
        families: Names of samplers.
        shares: How many of the pool each family has, relative to the others.
        size: Number of networks.
        settings: What the data decide; see `ghn.zoo.registry.Sampler.fit_to`.

    Raises:
        ConfigError: If a family has no network for such data.
    """

    def __init__(
        self,
        families: Sequence[str],
        shares: Sequence[float],
        size: int,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        total = sum(shares)
        ends = [round(sum(shares[: i + 1]) / total * size) for i in range(len(shares))]
        self._family = [next(f for f, e in zip(families, ends, strict=True) if i < e)
                        for i in range(size)]  # fmt: skip
        self._targets: dict[int, Target] = {}
        self._of: dict[tuple[str, Config], Target] = {}  # indices may draw the same one
        self._settings = settings
        for family in set(self._family):
            sample(family, 0, settings=settings)

    def __len__(self) -> int:
        return len(self._family)

    def __getitem__(self, index: int) -> Target:
        if index not in self._targets:
            key = self.architecture(index)
            if key not in self._of:
                self._of[key] = make_target(*key)
            self._targets[index] = self._of[key]
        return self._targets[index]

    def architecture(self, index: int) -> tuple[str, Config]:
        """Return the family and the architecture of a network."""
        family = self._family[index]
        return family, sample(family, index, settings=self._settings)
