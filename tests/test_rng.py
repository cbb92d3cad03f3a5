import random

import numpy as np
import pytest
import torch

from ghn.rng import preserve_global_state


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


@pytest.mark.parametrize("seed", [None, 3])
def test_what_a_block_draws_from_global_generators_is_undone(seed):
    with preserve_global_state(0):
        expected = draw()

    with preserve_global_state(0):
        with preserve_global_state(seed):
            draw()
        found = draw()

    assert found == expected


@pytest.mark.parametrize("seed", [7, 2**62 + 5])
def test_a_seed_fixes_what_a_block_draws(seed):
    drawn = []
    for _ in range(2):
        with preserve_global_state(seed):
            drawn.append(draw())
        draw()

    assert drawn[0] == drawn[1]
