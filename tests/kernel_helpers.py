"""Recipes of many kinds for the tests of the kernels, and how exact their results must be."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from ghn.kernels import Layout, LowRank, Recipe, Tiled, expand
from ghn.kernels.ops import backward_op
from ghn.kernels.plan import encode

# Largest error, as a share of the largest sum of |A| |B|.
FORWARD = {torch.float32: 1e-6, torch.float16: 6e-4, torch.bfloat16: 4e-3}
BACKWARD = {torch.float32: 1e-5, torch.float16: 6e-4, torch.bfloat16: 4e-3}
# Where PyTorch and GPUs round to bfloat16, Triton's interpreter cuts off.
CUT_OFF = 8e-3

SHAPES = [
    ((64, 128), "oi"),
    ((65, 129), "oi"),
    ((1, 1), "oi"),
    ((131, 67), "oi"),
    ((127, 257), "io"),
    ((13, 11, 3, 3), "oikk"),
    ((11, 13, 2, 5), "iokk"),
    ((17, 7, 4), "oik"),
    ((3, 19, 23), "eio"),
    ((211,), "o"),
    ((), ""),
    ((37, 29), "to"),
    ((1, 41, 23), "1to"),
    ((0, 7), "oi"),
    ((5, 0, 3, 3), "oikk"),
]


def low_rank(
    shape: tuple[int, ...],
    axes: str,
    rank: int,
    generator: torch.Generator,
    *,
    folded: int = 1,
    lead: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> LowRank:
    """Return a product with `folded` kernel elements in its rows."""
    layout = Layout(shape, axes)
    across = layout.kernel // folded
    left = torch.randn(*lead, layout.rows * folded, rank, generator=generator)
    right = torch.randn(*lead, rank, layout.cols * across, generator=generator)
    return LowRank(left.to(dtype), right.to(dtype), layout)


def tiled(
    shape: tuple[int, ...],
    axes: str,
    block: tuple[int, int],
    generator: torch.Generator,
    *,
    lead: tuple[int, ...] = (),
    dtype: torch.dtype = torch.float32,
) -> Tiled:
    """Return a block and where it repeats."""
    layout = Layout(shape, axes)
    values = torch.randn(*lead, *block, layout.kernel, generator=generator)
    return Tiled(values.to(dtype), layout)


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def mixture(seed: int, dtype: torch.dtype = torch.float32) -> list[Recipe]:
    """Return one recipe of each shape, with random ranks, folds, batch axes and strides."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    result: list[Recipe] = []
    for shape, axes in SHAPES:
        lead = rng.choice([(), (), (2,)])
        if rng.random() < 0.3:
            block = (rng.randint(1, 40), rng.randint(1, 40))
            result.append(tiled(shape, axes, block, generator, lead=lead, dtype=dtype))
            continue
        rank = rng.choice([1, 2, 3, 7, 16, 31, 32, 33, 64, 100, 251, 256])
        folded = rng.choice(divisors(Layout(shape, axes).kernel))
        recipe = low_rank(shape, axes, rank, generator, folded=folded, lead=lead, dtype=dtype)
        if rng.random() < 0.3:  # factors that are views with strides of their own
            recipe = LowRank(recipe.left.mT.contiguous().mT, recipe.right, recipe.layout)
        result.append(recipe)
    return result


def tensors_of(recipe: Recipe) -> tuple[Tensor, ...]:
    if isinstance(recipe, LowRank):
        return recipe.left, recipe.right
    return (recipe.block,)


def mapped(recipe: Recipe, function) -> Recipe:
    """Return the recipe with a function applied to its tensors."""
    tensors = [function(t) for t in tensors_of(recipe)]
    return type(recipe)(*tensors, recipe.layout)


def exact(recipe: Recipe) -> Tensor:
    """Return the tensor in float64."""
    return expand(mapped(recipe, Tensor.double))


def largest_sum(recipe: Recipe) -> float:
    """Return the largest element of |A| |B|."""
    sums = expand(mapped(recipe, lambda t: t.double().abs()))
    return sums.max().item() if sums.numel() else 1.0


def assert_close(actual: Tensor, recipe: Recipe, tolerance: float) -> None:
    """Check a tensor against float64."""
    expected = exact(recipe)
    assert actual.shape == expected.shape
    if actual.numel():
        error = (actual.double() - expected).abs().max().item()
        assert error <= tolerance * largest_sum(recipe), recipe.layout


def gradients(recipes: list[Recipe], grads: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of all tensors of all recipes, by autograd through the reference."""
    recipes = [mapped(r, lambda t: t.detach().requires_grad_()) for r in recipes]
    outs = [expand(r) for r in recipes]
    given = [grad.to(out.dtype) for grad, out in zip(grads, outs, strict=True)]
    return torch.autograd.grad(outs, [t for r in recipes for t in tensors_of(r)], given)


def random_grads(
    recipes: list[Recipe], seed: int = 0, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [expand(r).shape for r in recipes]
    device = tensors_of(recipes[0])[0].device
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def assert_gradients(recipes: list[Recipe], grads: list[Tensor], tolerance: float) -> None:
    """Check gradients against float64, by the size of |dW| |B^T| and |A^T| |dW|, and twice."""
    tensors, plan = encode(recipes)
    found = backward_op(grads, tensors, plan, "ieee")
    again = backward_op(grads, tensors, plan, "ieee")
    doubles = [mapped(r, Tensor.double) for r in recipes]
    wanted = gradients(doubles, grads)
    sizes = gradients([mapped(r, Tensor.abs) for r in doubles], [g.abs() for g in grads])
    for one, two, exact_one, size in zip(found, again, wanted, sizes, strict=True):
        assert torch.equal(one, two)
        if one.numel():
            assert (one.double() - exact_one).abs().max() <= tolerance * size.max()
