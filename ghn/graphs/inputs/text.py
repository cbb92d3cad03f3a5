"""Token ids, masks, positions and hidden states."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ghn.graphs.inputs.facts import Facts
from ghn.graphs.inputs.tensors import TOKENS, floats, ids, ones

__all__ = [
    "fixed_length_ids",
    "hidden_states",
    "mask",
    "positions",
    "single_id",
    "step_ids",
    "tokens",
    "tokens_or_states",
    "zeros",
]


def tokens(facts: Facts) -> Iterator[Tensor]:
    """Ids; with several codebooks a position has several."""
    yield ids(1, TOKENS)
    books = facts.number("text", "num_codebooks", "num_channels", "num_quantizers", default=9)
    yield ids(1, TOKENS, books)
    yield ids(1, books, TOKENS)
    yield ids(1, 2048)


def tokens_or_states(facts: Facts) -> Iterator[Tensor]:
    """What a model of any modality takes: ids, or states."""
    yield from tokens(facts)
    yield from hidden_states(facts)


def mask(facts: Facts) -> Iterator[Tensor]:
    """Ones: nothing is masked."""
    yield ones(1, TOKENS)
    yield torch.ones(1, TOKENS, dtype=torch.bool)


def step_ids(facts: Facts) -> Iterator[Tensor]:
    """The number of each step."""
    yield ids(1, TOKENS)


def zeros(facts: Facts) -> Iterator[Tensor]:
    """Types that are all the first one."""
    yield torch.zeros(1, TOKENS, dtype=torch.long)


def positions(facts: Facts) -> Iterator[Tensor]:
    """Positions in one or three dimensions, or of the words of an entity."""
    yield torch.arange(TOKENS)[None]
    yield torch.arange(TOKENS).expand(3, 1, TOKENS)
    yield torch.zeros(1, TOKENS, 30, dtype=torch.long)


def single_id(facts: Facts) -> Iterator[Tensor]:
    """One id for a whole text or image."""
    yield ids(1)
    yield ids(1, 1)


def fixed_length_ids(facts: Facts) -> Iterator[Tensor]:
    """Token ids padded to a fixed length."""
    yield ids(1, facts.number("text", "task_seq_len", "max_seq_len", default=TOKENS))


def hidden_states(facts: Facts) -> Iterator[Tensor]:
    """States as wide as the model."""
    for width in dict.fromkeys(
        n
        for v in facts.values(
            "text", "hidden_size", "d_model", "embed_dim", "latent_dim", "encoder_hidden_size"
        )
        if (n := v) and isinstance(n, int)
    ):
        yield floats(1, TOKENS, width)
        yield floats(1, width, TOKENS)
