"""Coordinates and what is computed at them: networks that make weights of places in a tensor.

A place along an axis is the middle of its channel, as a share of the axis: (a + 1/2) / A. It is
read through sines and cosines of octaves of half a period. Float32 carries 2^k pi x to about
2^k 2e-7, so that at most 16 octaves say anything.

Source: Yang et al. 2024 (NeuMeta, arXiv 2410.11878), coordinates, noise and residual layers. That a
node's vector modulates one network, in place of one network for each tensor, is ours.

Shape letters used in this file:
    B: conditions. P: parameters or their sections. h: size of their vectors. n: places.
    f: features of a place. w: width of the network. y: outputs.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.rng import make_generator

__all__ = ["MAX_BANDS", "FieldNet", "draws_of", "features_of", "num_features", "places_of"]

MAX_BANDS = 16
MODULATION = 0.5  # how far vectors of unit variance move the layers at the start


def places_of(
    count: int, noise: float = 0.0, generator: torch.Generator | None = None
) -> Float[Tensor, " n"]:
    """Return the places of an axis's channels, in [0, 1].

    Args:
        count: Number n of channels.
        noise: How far a place may move, in channels: 1 lets it lie anywhere in its channel.
        generator: Where the moves come from; torch's own if None, as for dropout.
    """
    middle = torch.arange(count) + 0.5
    if noise:
        middle = middle + noise * (torch.rand(count, generator=generator) - 0.5)
    return middle / count


def draws_of(count: int, noise: float, draws: int) -> list[Float[Tensor, " n"]]:
    """Return places for an average over draws: the middles, then moved ones, always the same."""
    generator = make_generator(0, "draws", count)
    moved = [places_of(count, noise, generator) for _ in range(draws - 1)] if noise else []
    return [places_of(count), *moved]


def num_features(bands: int) -> int:
    """Number f of features of a place."""
    return 1 + 2 * bands


def features_of(places: Float[Tensor, " n"], bands: int) -> Float[Tensor, "n f"]:
    """Return a place itself, and sines and cosines of its octaves, all of about unit size."""
    angles = math.pi * places[:, None] * 2.0 ** torch.arange(bands, device=places.device)
    waves = math.sqrt(2.0) * torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([math.sqrt(12.0) * (places[:, None] - 0.5), waves], 1)


class FieldNet(nn.Module):
    """Residual layers over places, each modulated by the vector of the parameter.

    Args:
        vector: Size h of a parameter's vector.
        width: Units w of a layer.
        layers: Number of residual layers.
        outputs: Number y of outputs at a place, of unit variance at the start.
    """

    def __init__(self, vector: int, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(vector, 2 * width * layers)
        hidden = [nn.Linear(width, width) for _ in range(layers)]
        self.layers = nn.ModuleList(hidden)
        self.readout = nn.Linear(width, outputs)
        nn.init.normal_(self.modulation.weight, std=MODULATION / math.sqrt(vector))
        nn.init.zeros_(self.modulation.bias)
        for layer in hidden:
            nn.init.normal_(layer.weight, std=math.sqrt(2.0 / width))
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.readout.weight, std=1.0 / math.sqrt(width))
        nn.init.zeros_(self.readout.bias)

    def forward(
        self, vectors: Float[Tensor, "B P h"], x: Float[Tensor, "*n w"]
    ) -> Float[Tensor, "B P *n y"]:
        """Return the outputs for each parameter at each place.

        Args:
            vectors: What the parameters are.
            x: First layer at the places.
        """
        ones = [1] * (x.ndim - 1)
        shape = (*vectors.shape[:2], *ones, len(self.layers), 2, x.shape[-1])
        modulation = self.modulation(vectors).reshape(shape)
        for index, layer in enumerate(self.layers):
            scale, shift = modulation[..., index, :, :].unbind(-2)
            x = x + F.gelu(layer(F.layer_norm(x, x.shape[-1:])) * (1.0 + scale) + shift)
        return self.readout(F.layer_norm(x, x.shape[-1:]))
