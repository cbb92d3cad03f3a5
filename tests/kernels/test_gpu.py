"""What the interpreter cannot show: the compiled kernels on a GPU."""

from __future__ import annotations

import pytest
import torch
from kernel_helpers import (
    BACKWARD,
    FORWARD,
    assert_close,
    assert_gradients,
    low_rank,
    mapped,
    mixture,
    random_grads,
)

from ghn.kernels import expand, expand_all, expand_all_out
from ghn.kernels.dispatch import explain

pytestmark = pytest.mark.gpu


def on_gpu(recipes):
    return [mapped(r, torch.Tensor.cuda) for r in recipes]


def test_triton_runs_on_the_gpu():
    assert explain("cuda").startswith("triton")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", list(FORWARD))
def test_recipes_of_any_shape_come_out_exact_and_the_same_twice(seed, dtype):
    recipes = on_gpu(mixture(seed, dtype))

    first, second = expand_all(recipes), expand_all(recipes)

    for one, two, recipe in zip(first, second, recipes, strict=True):
        assert torch.equal(one, two)
        assert_close(one, recipe, FORWARD[dtype])


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("ieee", 1e-6), ("tf32x3", 1e-6), ("tf32", 1e-3)]
)
@pytest.mark.parametrize(("shape", "axes"), [((4096, 4099), "oi"), ((4099, 8192), "io")])
def test_large_tensors_are_exact_in_every_precision(precision, tolerance, shape, axes):
    recipe = low_rank(shape, axes, 32, torch.Generator().manual_seed(0))
    (recipe,) = on_gpu([recipe])

    (out,) = expand_all([recipe], precision=precision)

    assert_close(out, recipe, tolerance)


@pytest.mark.parametrize("update", ["add", "multiply"])
def test_large_targets_are_updated_in_place(update):
    generator = torch.Generator().manual_seed(0)
    (recipe,) = on_gpu([low_rank((4096, 2048), "oi", 17, generator)])
    out = torch.randn(4096, 2048, generator=generator).cuda()
    whole = expand(recipe)
    wanted = out + whole if update == "add" else out * (1.0 + whole)

    expand_all_out([recipe], [out], update=update)

    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", list(BACKWARD))
def test_gradients_are_exact_and_the_same_twice(seed, dtype):
    large = low_rank((3000, 5000), "oi", 64, torch.Generator().manual_seed(0), dtype=dtype)
    recipes = on_gpu([*mixture(seed, dtype), large])

    assert_gradients(recipes, random_grads(recipes, seed, dtype), BACKWARD[dtype])
