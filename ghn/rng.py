"""Randomness that is asked for by name and never taken from the global state.

Functions that draw take a `torch.Generator`; this module makes such generators from a seed and a
label, so that two uses of one seed stay independent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive_seed", "make_generator", "preserve_global_state"]


def derive_seed(seed: int, *labels: str | int) -> int:
    """Mix a seed with labels into a new 63-bit seed, the same on every machine.

    Args:
        seed: Base seed.
        labels: What the randomness is for, such as `("noise", "layer1.0.conv1.weight")`.
    """
    text = "\x1f".join([str(seed), *map(str, labels)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def make_generator(
    seed: int, *labels: str | int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator seeded by `derive_seed(seed, *labels)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *labels))


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """Run a block that may draw from torch's global CPU generator and undo what it drew."""
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)
