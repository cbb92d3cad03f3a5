"""A small trained-like network whose two blocks are resized, and settings of seconds."""

from __future__ import annotations

import torch
from ties_helpers import with_random_values

from ghn.decoders import ImplicitDecoderConfig
from ghn.methods.neumeta import FamilyConfig
from ghn.methods.neumeta.networks import ResNet

CHANNELS = 12
GENERATE = "blocks.*"


def tail():
    """Two blocks of 12 channels and a head."""
    return with_random_values(ResNet((CHANNELS,), (0,), 2, 4).tail)


def inputs(count=8, seed=0):
    return torch.randn(count, CHANNELS, 4, 4, generator=torch.Generator().manual_seed(seed))


def batches(count=3):
    return [(inputs(8, seed), torch.arange(8) % 4) for seed in range(count)]


def settings(**changes):
    decoder = ImplicitDecoderConfig(dim=24, hidden=16, layers=1, rank=6, bands=4)
    plain = {"decoder": decoder, "steps": 4, "widths": 3, "calibration": 0}
    return FamilyConfig(**{**plain, **changes})
