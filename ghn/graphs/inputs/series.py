"""Time series, and the states, actions and rewards of a controller."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ghn.graphs.inputs.facts import Facts
from ghn.graphs.inputs.tensors import TOKENS, floats

__all__ = ["actions", "rewards", "series", "series_mask", "states"]


def _series_length(facts: Facts) -> int:
    context = facts.number("text", "context_length", "prediction_length", default=32)
    lags = list(facts.values("text", "lags_sequence"))
    return context + max((max(v) for v in lags if v), default=0)


def series(facts: Facts) -> Iterator[Tensor]:
    """Past values of each channel."""
    length = _series_length(facts)
    channels = facts.number("text", "num_input_channels", "input_size", default=1)
    yield floats(1, length, channels)
    yield floats(1, length)


def series_mask(facts: Facts) -> Iterator[Tensor]:
    """Ones for every value."""
    yield from (torch.ones(t.shape) for t in series(facts))


def rewards(facts: Facts) -> Iterator[Tensor]:
    """One number a step."""
    yield floats(1, TOKENS, 1)


def states(facts: Facts) -> Iterator[Tensor]:
    """What is observed at each step."""
    yield floats(1, TOKENS, facts.number("text", "state_dim", "obs_dim", default=1))


def actions(facts: Facts) -> Iterator[Tensor]:
    """What is done at each step."""
    yield floats(1, TOKENS, facts.number("text", "act_dim", "action_dim", default=1))
