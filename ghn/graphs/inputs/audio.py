"""Spectrograms and waveforms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ghn.graphs.inputs.facts import Facts
from ghn.graphs.inputs.tensors import floats, ones
from ghn.graphs.inputs.text import hidden_states

__all__ = ["feature_mask", "features", "waveform"]

WAVE_SAMPLES = 16_000
COMMON_BINS = (80, 128)


def _bins(facts: Facts) -> int:
    return facts.number(
        "audio", "num_mel_bins", "n_mels", "input_feat_size", "feature_size", "input_dim",
        "input_feat_per_channel", "num_mel_channels", "mel_bins", default=80,
    )  # fmt: skip


def _frames(facts: Facts) -> int:
    positions = facts.number("audio", "max_source_positions", default=0)
    return 2 * positions if positions else 3000


def features(facts: Facts) -> Iterator[Tensor]:
    """A spectrogram: bins first, or time first, of one clip; then stacked ones."""
    frames = _frames(facts)
    widths = list(dict.fromkeys([_bins(facts), *facts.first_widths("audio"), *COMMON_BINS]))
    for bins in widths:
        yield floats(1, bins, frames)
        yield floats(1, 512, bins)
        yield floats(1, bins, 512)
        yield floats(1, WAVE_SAMPLES // 320, bins)
    length = facts.number("audio", "max_length", "spec_size", default=1024)
    yield floats(1, length, widths[0])
    yield floats(1, 1, length, widths[0])
    yield floats(1, 4, length, widths[0])
    yield floats(1, WAVE_SAMPLES)


def feature_mask(facts: Facts) -> Iterator[Tensor]:
    """Ones for every frame of a spectrogram."""
    yield ones(1, _frames(facts))
    yield ones(1, 512)
    yield torch.ones(1, 512, dtype=torch.bool)


def waveform(facts: Facts) -> Iterator[Tensor]:
    """A waveform, with or without a channel axis; or a spectrogram under the same name."""
    yield floats(1, WAVE_SAMPLES)
    yield floats(1, 1, WAVE_SAMPLES)
    yield floats(1, 15 * 1920)  # 1.2 s at 24 kHz, whole at every common hop
    yield from features(facts)
    yield from hidden_states(facts)
