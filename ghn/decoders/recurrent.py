"""Recurrent decoder: an LSTM runs through a network's parameters in the order of its operators.

The state is carried from chunk to chunk and from layer to layer, so that what a layer gets depends
on what the layers before it got. A large parameter takes several steps. Networks of more than about
a hundred chunks are read node by node instead: one step for each parameter, and a small network
that emits all chunks of it from the state and their places, in one batch.

Source: after the idea of Chandra et al. 2023 (Continual learning with dependency preserving
hypernetworks, arXiv 2209.07712): a recurrent hypernetwork, whose state grows. Of that paper only
the abstract could be read, so that all else is ours.

Shape letters used in this file:
    B: conditions. N: nodes. d: embedding size. n: chunks. c: numbers of a chunk. s: steps.
    w: size of a code. h: units of the state.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.config import Config
from ghn.decoders.chunks import PLACE, ChunkCodes, Cut, as_recipes, cut
from ghn.decoders.registry import DECODERS
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.kernels import Recipe

__all__ = ["RecurrentDecoder", "RecurrentDecoderConfig"]

GATES = 4
# Root mean square of a state at the start, about; the readout makes up for it.
STATE = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecurrentDecoderConfig(Config):
    """Settings of `RecurrentDecoder`.

    Attributes:
        dim: Size d of a conditioned node embedding.
        state: Units h of the LSTM.
        chunk: Numbers c of a chunk.
        readout: `"step"`: one step of the LSTM for each chunk; `"node"`: one for each parameter,
            whose chunks are then emitted in one batch.
        codes: Number of learned codes, one for each chunk of the one network that the decoder is
            for; 0 takes codes from the graph, for any network. Only with `"step"`.
        code_dim: Size of a learned code.
        reset: Whether the state is reset before each step, which undoes the recurrence: for
            comparisons.
    """

    dim: int = 32
    state: int = 48
    chunk: int = 256
    readout: str = "step"
    codes: int = 0
    code_dim: int = 8
    reset: bool = False

    def __post_init__(self) -> None:
        if min(self.dim, self.state, self.chunk, self.code_dim, self.codes + 1) < 1:
            raise ConfigError(f"all sizes of a decoder must be at least 1, got {self}")
        if self.readout not in ("step", "node") or (self.codes and self.readout == "node"):
            raise ConfigError(
                "readout must be 'step' or, with codes from the graph (codes=0), 'node', got "
                f"readout={self.readout!r}, codes={self.codes}"
            )


@DECODERS.register("recurrent")
class RecurrentDecoder(nn.Module):
    """Emits dense recipes, step by step, for the parameters of one network.

    Args:
        config: Sizes.
    """

    Config: ClassVar[type[Config]] = RecurrentDecoderConfig
    shared_codes = False
    single_graph = True
    pieces = "chunk"
    architecture: ClassVar[tuple[str, ...]] = ("rnn",)

    def __init__(self, config: RecurrentDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.codes = ChunkCodes(config.dim, config.codes, config.code_dim)
        rows, bound = GATES * config.state, 1.0 / math.sqrt(config.state)
        # Two biases, as in torch's and cuDNN's LSTM.
        self.weight_in = nn.Parameter(_uniform(rows, self.codes.width, bound=bound))
        self.weight_state = nn.Parameter(_uniform(rows, config.state, bound=bound))
        self.bias_in = nn.Parameter(_uniform(rows, bound=bound))
        self.bias_state = nn.Parameter(_uniform(rows, bound=bound))
        if config.readout == "node":
            self.place = nn.Linear(PLACE, config.state, bias=False)
            self.mix = nn.Linear(config.state, config.state)
            nn.init.normal_(self.place.weight, std=1.0 / math.sqrt(PLACE))
            nn.init.normal_(self.mix.weight, std=bound)
        self.readout = nn.Linear(config.state, config.chunk)
        nn.init.normal_(self.readout.weight, std=bound / STATE)
        nn.init.zeros_(self.readout.bias)

    @property
    def any_network(self) -> bool:
        """Whether codes come from the graph; learned ones are of one network."""
        return not self.config.codes

    def forward(
        self, embeddings: Float[Tensor, "B N d"], specs: Mapping[Any, ParamSpec]
    ) -> dict[tuple[Any, ...], Recipe]:
        """Return recipes of stacks of specs; see `ghn.decoders.registry.Decoder`."""
        plan = cut(specs, self.config.chunk, straddle=bool(self.config.codes))
        codes = self.codes(embeddings, plan)
        if self.config.readout == "node":
            states = self._read_nodes(codes, plan)
        else:
            states = self._run(codes)
        return as_recipes(self.readout(states), specs, plan)

    def _read_nodes(self, codes: Float[Tensor, "B n w"], plan: Cut) -> Float[Tensor, "B n h"]:
        """Run over first chunks only; let the places of all chunks change the states."""
        firsts = torch.tensor(plan.firsts, device=codes.device)
        tensors = torch.tensor(plan.tensors, device=codes.device)
        states = self._run(codes.index_select(1, firsts)).index_select(1, tensors)
        moved = self.mix(states / STATE) + self.place(plan.places.to(codes))
        return STATE * F.silu(moved)

    def _run(self, inputs: Float[Tensor, "B s w"]) -> Float[Tensor, "B s h"]:
        """Return the LSTM's state after each step."""
        batch, steps = inputs.shape[:2]
        if self.config.reset:
            inputs = inputs.reshape(batch * steps, 1, -1)
        start = inputs.new_zeros(1, len(inputs), self.config.state)
        weights: list[Tensor] = [
            self.weight_in,
            self.weight_state,
            self.bias_in,
            self.bias_state,
        ]
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (inputs, *weights))
        # Always as in training: oneDNN's kernel for inference differs in the last bits, and what is
        # emitted shall not depend on who asks.
        with torch.enable_grad():
            if not learns:
                inputs = inputs.detach().requires_grad_()
            states = torch.lstm(inputs, (start, start), weights, True, 1, 0.0, True, False, True)[0]
        return (states if learns else states.detach()).reshape(batch, steps, -1)

    @torch.no_grad()
    def grow(self, units: int, generator: torch.Generator | None = None) -> None:
        """Enlarge the state; everything that is emitted stays as it was, up to rounding.

        Nothing reads the new units at first: weights from them are zero, weights to them random, so
        that the first step of training connects them. Parameters are new objects: make a new
        optimiser.

        Args:
            units: How many units to add, at least 1.
            generator: Where the random weights come from.
        """
        if units < 1:
            raise ConfigError(f"grow needs at least one unit to add, got {units}")
        old, new = self.config.state, self.config.state + units
        bound = 1.0 / math.sqrt(new)
        for name in ("weight_in", "weight_state", "bias_in", "bias_state"):
            weight = getattr(self, name)
            added = _uniform(GATES, units, *weight.shape[1:], bound=bound, generator=generator)
            rows = torch.cat([weight.unflatten(0, (GATES, old)), added.to(weight)], 1).flatten(0, 1)
            if name == "weight_state":
                from_new = _uniform(GATES, new, units, bound=bound, generator=generator)
                from_new[:, :old] = 0.0
                rows = torch.cat([rows, from_new.flatten(0, 1).to(weight)], 1)
            setattr(self, name, nn.Parameter(rows, weight.requires_grad))
        if self.config.readout == "node":
            self.place.weight = _extended(self.place.weight, (units, 0), bound, generator)
            self.mix.weight = _extended(self.mix.weight, (units, 0), bound, generator)
            self.mix.weight = _extended(self.mix.weight, (0, units), 0.0, generator)
            self.mix.bias = _extended(self.mix.bias, (units,), bound, generator)
        self.readout.weight = _extended(self.readout.weight, (0, units), 0.0, generator)
        self.config = self.config.replace(state=new)


def _uniform(
    *shape: int, bound: float, generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    return bound * (2.0 * torch.rand(shape, generator=generator) - 1.0)


def _extended(
    weight: Tensor, more: tuple[int, ...], bound: float, generator: torch.Generator | None
) -> nn.Parameter:
    """Add rows or columns of random numbers up to `bound`."""
    grown = weight
    for axis, count in enumerate(more):
        shape = (*grown.shape[:axis], count, *grown.shape[axis + 1 :])
        added = _uniform(*shape, bound=bound, generator=generator).to(weight)
        grown = torch.cat([grown, added], axis)
    return nn.Parameter(grown, weight.requires_grad)
