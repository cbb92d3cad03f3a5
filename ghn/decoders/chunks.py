"""Chunks: all parameters of one network as pieces of one size, in the order of its operators.

A decoder of chunks emits `[B, n, c]`: n chunks of c numbers. Parameters are cut in topological
order. With codes from the graph each parameter begins a chunk of its own, so that a chunk belongs
to one node; with learned codes the parameters are one long vector, and a chunk may straddle some.
What is left over at the end of a parameter, or of the vector, is dropped.

Source: chunks with learned codes from von Oswald et al. 2020 (arXiv 1906.00695). Codes from the
graph are ours: they need no parameter, and no list of known networks.

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size. n: chunks. c: numbers of a chunk. p: place features.
    z: size of a learned code. w: size of a chunk's code.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from ghn.decoders.nodes import stacks_of
from ghn.device import ordinary_tensors
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.kernels import Dense, Layout, Recipe

__all__ = ["PLACE", "ChunkCodes", "Cut", "as_recipes", "cut"]

_BIASES = frozenset({"bias", "recurrent_bias"})
_FACTORS = frozenset({"gain", "scale", "slope", "magnitude"})
# Wavelengths, in parameters and in chunks of a parameter: short ones tell neighbours apart.
ORDER = (2.5, 6.0, 16.0)
WITHIN = (2.5, 6.0, 16.0, 50.0)
PLACE = 3 + 2 * (len(ORDER) + len(WITHIN))
"""Number p of features that say which chunk of which parameter a chunk is."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the parameters of one network are cut.

    Attributes:
        size: Numbers c of a chunk.
        lengths: How the numbers of all chunks are split: each parameter and, where it is not zero,
            what is dropped behind it.
        pieces: For each parameter, in the given order, its place in that split.
        tensors: For each chunk, the number of the parameter that it begins in, topologically.
        nodes: For each chunk, the node of that parameter.
        places: For each chunk, the features of its place.
    """

    size: int
    lengths: tuple[int, ...]
    pieces: tuple[int, ...]
    tensors: tuple[int, ...]
    nodes: tuple[int, ...]
    places: Float32[Tensor, "n p"]

    @property
    def count(self) -> int:
        """Number n of chunks."""
        return len(self.nodes)

    @functools.cached_property
    def firsts(self) -> list[int]:
        """The first chunk of each parameter, topologically."""
        return [i for i, t in enumerate(self.tensors) if i == 0 or self.tensors[i - 1] != t]


def cut(specs: Mapping[Any, ParamSpec], size: int, straddle: bool) -> Cut:
    """Cut parameters into chunks; computed once for the same parameters.

    Args:
        specs: Parameters of one network.
        size: Numbers c of a chunk.
        straddle: Whether a chunk may hold the end of one parameter and the beginning of the next.
    """
    return _cut(tuple(specs.values()), size, straddle)


@functools.lru_cache(maxsize=64)
@ordinary_tensors()
def _cut(specs: tuple[ParamSpec, ...], size: int, straddle: bool) -> Cut:
    order = sorted(range(len(specs)), key=lambda i: specs[i].node)
    pieces = [0] * len(specs)
    lengths: list[int] = []
    tensors: list[int] = []
    end = 0
    for rank, index in enumerate(order):
        pieces[index] = len(lengths)
        lengths.append(specs[index].numel)
        end += specs[index].numel
        whole = -(-end // size) * size
        if whole > end and (not straddle or rank == len(order) - 1):
            lengths.append(whole - end)
            end = whole
        tensors += [rank] * (-(-end // size) - len(tensors))
    firsts = {rank: i for i, rank in reversed([*enumerate(tensors)])}
    within = [i - firsts[rank] for i, rank in enumerate(tensors)]
    chosen = [specs[order[rank]] for rank in tensors]
    places = [
        _place(spec, rank, number)
        for spec, rank, number in zip(chosen, tensors, within, strict=True)
    ]
    return Cut(
        size=size,
        lengths=tuple(lengths),
        pieces=tuple(pieces),
        tensors=tuple(tensors),
        nodes=tuple(spec.node for spec in chosen),
        places=torch.tensor(places).reshape(-1, PLACE),
    )


def _place(spec: ParamSpec, rank: int, number: int) -> list[float]:
    waves = [2 * math.pi * rank / length for length in ORDER]
    waves += [2 * math.pi * number / length for length in WITHIN]
    facts = [spec.role in _BIASES, spec.role in _FACTORS, math.log2(1 + spec.numel) / 16]
    return [*map(float, facts), *map(math.sin, waves), *map(math.cos, waves)]


def as_recipes(
    values: Float[Tensor, "B n c"], specs: Mapping[Any, ParamSpec], plan: Cut
) -> dict[tuple[Any, ...], Recipe]:
    """Join chunks to one recipe for each stack of parameters that are alike."""
    # Split at once: gradients of single slices would each fill a tensor of the whole size.
    parts_of_all = values.flatten(1).split(plan.lengths, 1)
    own = {key: parts_of_all[piece] for key, piece in zip(specs, plan.pieces, strict=True)}
    recipes: dict[tuple[Any, ...], Recipe] = {}
    for stack in stacks_of(specs):
        parts = [own[key] for key in stack.keys]
        joined = parts[0][:, None] if len(parts) == 1 else torch.stack(parts, 1)
        layout = Layout(stack.spec.shape, stack.spec.axes)
        recipes[stack.keys] = Dense(
            joined.reshape(len(values), len(parts), *stack.spec.shape), layout
        )
    return recipes


class ChunkCodes(nn.Module):
    """What a decoder of chunks reads: one vector for each chunk.

    With codes from the graph it is the node's conditioned embedding and the chunk's place; with
    learned ones, the embedding (the condition alone, if there is no encoder) and a learned code.

    Args:
        dim: Embedding size d.
        learned: Number of learned codes, one for each chunk of the one network that they are for;
            0 for codes from the graph.
        size: Size z of a learned code.
    """

    def __init__(self, dim: int, learned: int, size: int) -> None:
        super().__init__()
        self.learned = learned
        self.width = dim + (size if learned else PLACE)
        if learned:
            self.table = nn.Parameter(torch.randn(learned, size))

    def forward(self, embeddings: Float[Tensor, "B N d"], plan: Cut) -> Float[Tensor, "B n w"]:
        """Return the codes of all chunks.

        Raises:
            ConfigError: If there are learned codes, but not as many as chunks.
        """
        if self.learned and self.learned != plan.count:
            raise ConfigError(
                f"the decoder has learned codes of {self.learned} chunks of {plan.size} numbers, "
                f"this network needs {plan.count}; learned codes fit one network, codes from the "
                "graph (codes=0) fit any"
            )
        nodes = torch.tensor(plan.nodes, device=embeddings.device)
        own = self.table if self.learned else plan.places.to(embeddings)
        return torch.cat(
            [embeddings.index_select(1, nodes), own.expand(len(embeddings), -1, -1)], -1
        )
