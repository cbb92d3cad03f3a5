"""Triton's forward kernels on a CPU; `test_interpreter.py` runs this file in its own process."""

from __future__ import annotations

import pytest
import torch
from kernel_helpers import (
    CUT_OFF,
    FORWARD,
    assert_close,
    exact,
    largest_sum,
    low_rank,
    mapped,
    mixture,
    tiled,
)

from ghn.kernels import Layout, LowRank, Tiled, expand_all, expand_all_out, triton_backend
from ghn.kernels.dispatch import backend_for
from ghn.kernels.plan import decode, encode, of_items


def test_these_tests_run_the_triton_kernels():
    assert triton_backend.INTERPRETED
    assert backend_for([torch.ones(1)]) is triton_backend


@pytest.mark.parametrize("seed", range(3))
def test_recipes_of_any_shape_come_out_exact_and_the_same_twice(seed):
    recipes = mixture(seed)

    first, second = expand_all(recipes), expand_all(recipes)

    for one, two, recipe in zip(first, second, recipes, strict=True):
        assert one.is_contiguous()
        assert torch.equal(one, two)
        assert_close(one, recipe, FORWARD[torch.float32])


@pytest.mark.parametrize(
    ("dtype", "out", "tolerance"),
    [
        (torch.float16, torch.float16, FORWARD[torch.float16]),
        (torch.bfloat16, torch.float32, FORWARD[torch.float32]),
        (torch.bfloat16, torch.bfloat16, CUT_OFF),
    ],
)
def test_factors_of_half_precision_are_multiplied_exactly(dtype, out, tolerance):
    recipes = mixture(4, dtype)

    results = expand_all(recipes, dtype=out)

    for result, recipe in zip(results, recipes, strict=True):
        assert result.dtype == out
        assert_close(result, recipe, tolerance)


def test_factors_of_one_type_fill_targets_of_another():
    recipes = mixture(7)

    outs = expand_all(recipes, dtype=torch.float16)

    for out, recipe in zip(outs, recipes, strict=True):
        assert out.dtype == torch.float16
        assert_close(out, recipe, FORWARD[torch.float16])


def test_contiguous_rows_are_stored_several_elements_at_a_time(monkeypatch):
    monkeypatch.setattr(triton_backend, "SPLIT", 0)
    generator = torch.Generator().manual_seed(0)
    recipes = [*mixture(3), low_rank((100, 96), "oi", 5, generator)]
    tensors, plan = encode(recipes)
    items, outs = decode(plan), expand_all(recipes)

    jobs, left_over = triton_backend.forward_tables(
        items, of_items(items, tensors), outs, outs, [1.0] * len(outs), "replace"
    )

    assert {kind.vector for kind in jobs} == {1, 4}
    assert left_over == []
    for out, recipe in zip(outs, recipes, strict=True):
        assert_close(out, recipe, 1e-6)


@pytest.mark.parametrize(
    ("shape", "axes", "rank", "folded"),
    [
        ((8192, 8192), "oi", 32, 1),
        ((8191, 4099), "io", 256, 1),
        ((2048, 1024, 3, 3), "oikk", 64, 9),
        ((8192, 256, 3, 3), "oikk", 17, 1),
    ],
)
def test_sampled_tiles_of_wide_tensors_are_exact(shape, axes, rank, folded):
    generator = torch.Generator().manual_seed(rank)
    recipe = low_rank(shape, axes, rank, generator, folded=folded)
    tensors, plan = encode([recipe])
    out = torch.empty(shape)
    jobs, _ = triton_backend.forward_tables(
        decode(plan), [tuple(tensors)], [out], [out], [1.0], "replace"
    )
    ((kind, job),) = jobs.items()
    built = job.table.build()
    total = len(built.tiles)
    chosen = torch.cat([torch.randint(total, (4,), generator=generator), torch.tensor([total - 1])])

    sampled = triton_backend.Built(built.bases, built.rows, built.tiles[chosen])
    triton_backend.run_forward(kind, job, sampled, "replace", "ieee")

    # W in the recipe's own matrix form, and the same with each element's place in the tensor.
    matrix = recipe.layout.from_storage(out).reshape(recipe.layout.rows, recipe.layout.cols, -1)
    q = recipe.layout.kernel // folded
    swapped = bool(built.rows[0, triton_backend.Field.M] != recipe.left.shape[0])
    across = int(built.rows[0, triton_backend.Field.TILES_N])
    for inside in chosen.tolist():
        m = torch.arange(inside // across * kind.tile[0], (inside // across + 1) * kind.tile[0])
        n = torch.arange(inside % across * kind.tile[1], (inside % across + 1) * kind.tile[1])
        m, n = (n, m) if swapped else (m, n)
        m, n = m[m < recipe.left.shape[0]], n[n < recipe.right.shape[1]]
        left, right = recipe.left[m].double(), recipe.right[:, n].double()
        found = matrix[(m // folded)[:, None], n // q, (m % folded * q)[:, None] + n % q]
        bound = 1e-6 * (left.abs() @ right.abs()).max()
        assert (found - left @ right).abs().max() <= bound


def strided_targets():
    """Pairs of a layout and a view of larger storage with that shape."""
    yield (
        Layout((13, 11, 3, 3), "oikk"),
        torch.zeros(13, 11, 3, 3).to(memory_format=torch.channels_last),
    )
    yield Layout((13, 11, 3, 3), "oikk"), torch.zeros(20, 16, 5, 7)[3:16, 2:13, 1:4, ::2][..., :3]
    yield Layout((65, 70), "oi"), torch.zeros(70, 65).T
    yield Layout((65, 70), "oi"), torch.zeros(65, 3, 70, 2)[:, 1, :, 1]
    yield Layout((50,), "o"), torch.zeros(200)[7::3][:50]
    yield Layout((4, 6, 10), "eoi"), torch.zeros(10, 4, 6).permute(1, 2, 0)


@pytest.mark.parametrize("kind", ["low rank", "tiled"])
def test_targets_of_any_strides_are_written_and_nothing_around_them(kind):
    generator = torch.Generator().manual_seed(1)
    recipes, outs = [], []
    for layout, out in strided_targets():
        for folded in {1, layout.kernel, 3 if layout.kernel == 9 else 1}:
            if kind == "low rank":
                form = layout.shape, layout.axes, 7, generator
                recipes.append(low_rank(*form, folded=folded))
            else:
                recipes.append(tiled(layout.shape, layout.axes, (4, 5), generator))
            whole = torch.full((out.untyped_storage().nbytes() // 4,), 7.0)
            outs.append(whole.as_strided(out.shape, out.stride(), out.storage_offset()))

    expand_all_out(recipes, outs)

    for out, recipe in zip(outs, recipes, strict=True):
        assert_close(out, recipe, 1e-6)
        out.fill_(7.0)
        whole = torch.empty(0).set_(out.untyped_storage())
        assert (whole == 7.0).all()


def test_storage_too_intricate_for_the_kernels_is_written_by_the_reference():
    generator = torch.Generator().manual_seed(2)
    recipe = low_rank((3, 2, 2, 3, 2, 2), "okkkkk", 5, generator, folded=24)
    out = torch.zeros(4, 3, 3, 4, 3, 3)[:3, :2, :2, :3, :2, :2]

    expand_all_out([recipe], [out])

    assert_close(out, recipe, 1e-6)


@pytest.mark.parametrize("update", ["replace", "add", "multiply"])
@pytest.mark.parametrize("in_place", [True, False])
def test_targets_are_scaled_and_updated(update, in_place):
    recipes = mixture(11)
    generator = torch.Generator().manual_seed(0)
    wholes = [exact(r) for r in recipes]
    bases = [torch.randn(w.shape, generator=generator).mT.contiguous().mT if w.ndim > 1
             else torch.randn(w.shape, generator=generator) for w in wholes]  # fmt: skip
    before = [base.double() for base in bases]
    outs = bases if in_place else [torch.empty_like(b) for b in bases]
    scales = [0.5 + index for index in range(len(recipes))]

    expand_all_out(recipes, outs, scales=scales, update=update, bases=None if in_place else bases)

    for out, recipe, whole, base, scale in zip(outs, recipes, wholes, before, scales, strict=True):
        wanted = {
            "replace": scale * whole,
            "add": base + scale * whole,
            "multiply": base * (1.0 + scale * whole),
        }[update]
        if out.numel():
            size = scale * largest_sum(recipe) * max(base.abs().max().item(), 1.0)
            assert (out.double() - wanted).abs().max() <= 2e-6 * (1.0 + size)


@pytest.mark.parametrize("size", [1e-37, 1e-18, 1e15, 1e18])
def test_extreme_magnitudes_in_float32(size):
    generator = torch.Generator().manual_seed(3)
    recipe = mapped(low_rank((33, 65), "oi", 9, generator), lambda t: t * size)

    (out,) = expand_all([LowRank(recipe.left, recipe.right / size, recipe.layout)])

    assert_close(out, LowRank(recipe.left, recipe.right / size, recipe.layout), 1e-6)


def test_float16_overflows_to_infinity_and_keeps_small_numbers():
    layout = Layout((2, 2), "oi")
    left = torch.tensor([[60000.0], [6e-8]], dtype=torch.float16)
    right = torch.tensor([[2.0, 1.0]], dtype=torch.float16)

    product, tile = expand_all([LowRank(left, right, layout), Tiled(left[..., None], layout)])

    assert product[0].tolist() == [float("inf"), 60000.0 - 60000.0 % 32]
    assert product[1, 1] == left[1, 0]
    assert torch.equal(tile, left.expand(2, 2))


def test_a_rank_of_zero_gives_zeros():
    recipe = LowRank(torch.empty(3, 0), torch.empty(0, 5), Layout((3, 5), "oi"))

    (out,) = expand_all([recipe])

    assert torch.equal(out, torch.zeros(3, 5))
