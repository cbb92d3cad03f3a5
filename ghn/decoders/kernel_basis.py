"""Coefficients of kernel elements, for kernels of any size.

Shape letters used in this file:
    K: kernel elements.
    s: basis functions.
"""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from ghn.decoders.places import AXES, offsets, reach
from ghn.device import ordinary_tensors

__all__ = ["KernelBasis"]

HIDDEN = 64
# Wavelengths in kernel elements: short ones tell neighbours apart, long ones cover large kernels.
WAVELENGTHS = (2.5, 4.0, 7.0, 13.0)
FEATURES = AXES * (3 + 2 * len(WAVELENGTHS))


class KernelBasis(nn.Module):
    """Maps each element of a kernel to `s` coefficients.

    A small network of sine units reads the element's offset from the centre, in elements and
    relative to the kernel, and the kernel's size. So 3 x 3 and 7 x 7 kernels share what is known
    of the centre, and no size is too large. Over a kernel, the coefficient vectors have a root mean
    square length of 1; at the start those of a 3 x 3 kernel are nearly independent.

    Args:
        size: Number of basis functions s.

    Source:
        Ours: coordinates in place of a table of kernel elements.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.hidden = nn.Linear(FEATURES, HIDDEN)
        self.out = nn.Linear(HIDDEN, size)
        # Inputs this wide make neighbours differ from the start.
        nn.init.normal_(self.hidden.weight, std=1.0)
        nn.init.uniform_(self.hidden.bias, -math.pi, math.pi)
        nn.init.normal_(self.out.weight, std=math.sqrt(2.0 / (HIDDEN * size)))
        nn.init.zeros_(self.out.bias)

    def forward(self, kernel: tuple[int, ...]) -> Float[Tensor, "K s"]:
        """Return the coefficients of all elements of a kernel, in storage order."""
        features = _features(kernel).to(self.out.weight)
        raw = self.out(torch.sin(self.hidden(features)))
        return raw * torch.rsqrt(raw.square().sum(1).mean() + 1e-12)


@functools.lru_cache(maxsize=64)
@ordinary_tensors()
def _features(kernel: tuple[int, ...]) -> Float32[Tensor, "K f"]:
    places = offsets(kernel)
    angles = [2 * math.pi / length * places for length in WAVELENGTHS]
    waves = [wave for angle in angles for wave in (angle.sin(), angle.cos() - 1.0)]
    size = reach(places).log2().expand_as(places)
    return torch.cat([places / reach(places), places / 4, size, *waves], 1)
