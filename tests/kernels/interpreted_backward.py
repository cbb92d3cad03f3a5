"""Triton's backward kernels on a CPU; `test_interpreter.py` runs this file in its own process."""

from __future__ import annotations

import pytest
import torch
from kernel_helpers import (
    BACKWARD,
    CUT_OFF,
    assert_gradients,
    low_rank,
    mixture,
    random_grads,
    tiled,
)

from ghn.kernels import LowRank, expand_all, triton_gradients


@pytest.mark.parametrize(
    ("seed", "every", "dtype", "tolerance"),
    [
        (0, 1, torch.float32, BACKWARD[torch.float32]),
        (3, 3, torch.bfloat16, CUT_OFF),
    ],
)
def test_gradients_of_any_shape_are_exact_and_the_same_twice(seed, every, dtype, tolerance):
    recipes = mixture(seed, dtype)[::every]

    assert_gradients(recipes, random_grads(recipes, seed, dtype), tolerance)


def test_gradients_of_targets_of_another_type():
    recipes = mixture(5)[::3]

    assert_gradients(recipes, random_grads(recipes, 0, torch.bfloat16), 1e-5)


def test_long_sums_are_added_in_chunks(monkeypatch):
    monkeypatch.setattr(triton_gradients, "CHUNK", 128)
    monkeypatch.setattr(triton_gradients, "REPETITIONS", 16)
    generator = torch.Generator().manual_seed(0)
    recipes = [
        low_rank((7, 401), "oi", 33, generator),
        low_rank((261, 5), "io", 150, generator),
        low_rank((3, 50, 3, 3), "oikk", 4, generator, lead=(2,)),
        tiled((30, 31), "oi", (3, 2), generator),
        tiled((2, 151), "oi", (3, 7), generator, lead=(2,)),
    ]

    assert_gradients(recipes, random_grads(recipes), 1e-5)


def test_a_wide_tensor_has_exact_gradients():
    recipes = [low_rank((33, 2500), "oi", 32, torch.Generator().manual_seed(0))]

    assert_gradients(recipes, random_grads(recipes), 1e-5)


def test_a_rank_beyond_one_tile():
    recipes = [low_rank((37, 41), "oi", 300, torch.Generator().manual_seed(0))]

    assert_gradients(recipes, random_grads(recipes), 1e-5)


def test_incoming_gradients_may_have_any_strides():
    generator = torch.Generator().manual_seed(0)
    recipes = [low_rank((20, 30), "oi", 5, generator) for _ in range(3)]
    recipes.append(tiled((20, 30), "oi", (4, 7), generator))
    grads = [
        torch.ones(()).expand(20, 30),
        torch.randn(30, 20, generator=generator).T,
        torch.randn(40, 90, generator=generator)[::2, ::3],
        torch.randn(30, 20, generator=generator).T,
    ]

    assert_gradients(recipes, grads, 1e-5)


def test_extreme_magnitudes():
    generator = torch.Generator().manual_seed(0)
    recipe = low_rank((33, 65), "oi", 9, generator)
    recipes = [LowRank(recipe.left * 1e15, recipe.right * 1e-15, recipe.layout)]

    assert_gradients(recipes, [g * 1e10 for g in random_grads(recipes)], 1e-5)
    assert_gradients(recipes, [g * 1e-10 for g in random_grads(recipes)], 1e-5)


def test_shared_factors_collect_the_gradients_of_all_recipes():
    generator = torch.Generator().manual_seed(0)
    one, two = (low_rank((6, 8), "oi", 3, generator) for _ in range(2))
    left = one.left.requires_grad_()
    grads = random_grads([one, two])

    outs = expand_all([one, LowRank(left, two.right, two.layout)])
    (found,) = torch.autograd.grad(outs, left, grads)

    wanted = grads[0] @ one.right.T + grads[1] @ two.right.T
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
