"""Where sets of parameters come from: noise, members of an ensemble, or one network with dropout.

All of them are trained by one loop, `ghn.methods.bayesian.fit`, on the same loss.

Sources: deep ensembles, Lakshminarayanan, Pritzel, Blundell 2017 (arXiv 1612.01474); dropout, Gal,
Ghahramani 2016 (arXiv 1506.02142); noise-conditioned hypernetworks after Krueger et al. 2017
(arXiv 1710.04759). Their variational objective is not used: each draw has its own weights of the
data (the weighted likelihood bootstrap of Newton, Raftery 1994) and is drawn back to where it
began (as the anchored ensembles of Pearce et al. 2020, arXiv 1810.05546).

Shape letters used in this file:
    B: sets of parameters. N: training examples. c: size of a draw.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.conditioning import NoiseConfig, UnitConfig
from ghn.decoders import DenseDecoderConfig
from ghn.engine import GHN, BaseConfig, GHNConfig
from ghn.graphs import ParamGraph
from ghn.rng import make_generator

__all__ = ["DeepEnsemble", "Drawn", "Dropout", "NoiseHypernetwork", "Sampler", "build"]

NOISE = 8  # numbers of a draw
HIDDEN = (32,)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Sets of parameters.

    Attributes:
        parameters: By name, each with a leading axis B.
        penalty: Mean over sets of a sum of squares, as half the negative logarithm of a prior.
        weights: How much each training example counts for each set; 1 if None.
    """

    parameters: dict[str, Tensor]
    penalty: Float[Tensor, ""]
    weights: Float[Tensor, "B N"] | None = None


class Sampler(nn.Module, abc.ABC):
    """Gives sets of parameters of one network.

    Attributes:
        drops_out: Whether the network is to run in training mode when it predicts.
    """

    drops_out = False

    @abc.abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """Return sets of parameters, with gradients.

        Args:
            count: How many, B, where that can be chosen.
            generator: Where draws come from.
        """


class DeepEnsemble(Sampler):
    """Networks that begin differently and are trained alike; always all of them are drawn.

    Args:
        networks: The members, of one class.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        members = [dict(network.named_parameters()) for network in networks]
        self.names = list(members[0])
        stacks = [torch.stack([member[name].detach() for member in members]) for name in self.names]
        self.tensors = nn.ParameterList(nn.Parameter(stack) for stack in stacks)

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """Return all members, whatever the count; see `Sampler.draw`."""
        squares = torch.stack([t.square().sum() for t in self.tensors]).sum()
        parameters: dict[str, Tensor] = dict(zip(self.names, self.tensors, strict=True))
        return Drawn(parameters, squares / len(self.tensors[0]))


class Dropout(Sampler):
    """One network whose own dropout makes the sets differ.

    Args:
        network: With dropout layers.
    """

    drops_out = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        own = dict(network.named_parameters())
        self.names = list(own)
        self.tensors = nn.ParameterList(nn.Parameter(t.detach().clone()) for t in own.values())

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """Return one set of parameters, several times; see `Sampler.draw`."""
        squares = torch.stack([t.square().sum() for t in self.tensors]).sum()
        pairs = zip(self.names, self.tensors, strict=True)
        return Drawn({name: t.expand(count, *t.shape) for name, t in pairs}, squares)


class NoiseHypernetwork(Sampler):
    """A hypernetwork whose condition is noise: any number of networks, each from a draw.

    Args:
        network: What the base begins as.
        graph: Its graph.
        examples: Number N of training examples, if each draw is to weigh them its own way; 0: all
            count alike.
        seed: Of the hypernetwork and of the weights of examples.
    """

    def __init__(self, network: nn.Module, graph: ParamGraph, examples: int, seed: int) -> None:
        super().__init__()
        self.ghn = build(graph)
        if self.ghn.base is not None:
            self.ghn.base.hold(network)
        self.graph = graph
        self.start = copy.deepcopy(self.ghn).requires_grad_(False)
        directions = torch.randn(examples, NOISE, generator=make_generator(seed, "examples"))
        self.directions: Tensor
        self.register_buffer("directions", nn.functional.normalize(directions, dim=1))

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """Return networks of new draws; see `Sampler.draw`."""
        noise = self.ghn.condition.of.sample(count, generator)
        emitted = self.ghn(self.graph, condition=noise)
        with torch.no_grad():
            began = self.start(self.graph, condition=noise)
        squares = [(t - began[name]).square().sum() for name, t in emitted.items()]
        return Drawn(emitted, torch.stack(squares).sum() / count, self._weights(noise))

    def _weights(self, noise: Float[Tensor, "B c"]) -> Float[Tensor, "B N"] | None:
        """Return weights that are distributed exponentially over draws, and so have mean 1."""
        if not len(self.directions):
            return None
        places = self.ghn.condition.encode(noise)[0] @ self.directions.T  # about normal
        return -torch.special.log_ndtr(-places)


def build(graph: ParamGraph) -> GHN:
    """Return a hypernetwork that maps noise to changes of a base; the base is empty."""
    condition = UnitConfig(of=NoiseConfig(dim=NOISE))
    decoder = DenseDecoderConfig(dim=NOISE, hidden=HIDDEN, outputs=graph.num_parameters)
    return GHN(
        GHNConfig(
            encoder=None,
            condition=condition,
            decoder=decoder,
            magnitude="plain",
            base=BaseConfig(),
        )
    )


def specimen(kind: str, graph: ParamGraph) -> GHN:
    """Return a hypernetwork of a kind in `ghn.methods.METHODS`, on a base of zeros."""
    ghn = build(graph)
    if ghn.base is not None:
        ghn.base.hold({name: torch.zeros(spec.shape) for name, spec in graph.specs.items()})
    return ghn
