"""Randomness that is asked for by name and never taken from the global state.

Functions that draw take a `torch.Generator`; this module makes such generators from a seed and a
label, so that two uses of one seed stay independent.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
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
def preserve_global_state(seed: int | None = None) -> Iterator[None]:
    """Run a block that may draw from the global generators and undo what it drew.

    Those of a GPU are restored, and seeded, where one is in use already.

    Args:
        seed: Where the generators of torch, Python and NumPy start in the block; as they are if
            None.
    """
    numpy_state = np.random.get_state()  # noqa: NPY002  what other people's code draws from
    states = torch.get_rng_state(), random.getstate()
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  it takes no larger ones
            if on_gpu is not None:
                torch.cuda.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(states[0])
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
        random.setstate(states[1])
        np.random.set_state(numpy_state)  # noqa: NPY002
