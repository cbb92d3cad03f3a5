from __future__ import annotations

import sys

import pytest
import torch
from kernel_helpers import (
    BACKWARD,
    FORWARD,
    assert_close,
    low_rank,
    mapped,
    mixture,
    tensors_of,
    tiled,
)
from torch import Tensor

from ghn.errors import ConfigError, ShapeError
from ghn.kernels import (
    Dense,
    Layout,
    LowRank,
    Tiled,
    expand,
    expand_all,
    expand_all_out,
    expand_entries,
    expand_out,
    many,
)
from ghn.kernels.ops import backward_op, expand_op, expand_out_op
from ghn.kernels.plan import encode


def small(dtype=torch.float64):
    """One recipe of each kind, with and without batch axes and folds."""
    g = torch.Generator().manual_seed(0)
    return [
        low_rank((3, 2, 2, 2), "oikk", 2, g, folded=2, dtype=dtype),
        low_rank((3, 2), "io", 2, g, lead=(2,), dtype=dtype),
        tiled((5, 4, 2), "oik", (2, 3), g, dtype=dtype),
    ]


def leaves(recipes):
    tensors, plan = encode(recipes)
    return [t.detach().requires_grad_() for t in tensors], plan


@pytest.mark.parametrize("dtype", list(FORWARD))
def test_every_recipe_comes_out_exact_and_contiguous(dtype):
    recipes = mixture(0, dtype)

    outs = expand_all(recipes)

    for out, recipe in zip(outs, recipes, strict=True):
        assert out.dtype == dtype
        assert out.is_contiguous()
        assert_close(out, recipe, FORWARD[dtype])


def test_dense_recipes_are_their_values_and_keep_their_place():
    values = torch.randn(3, generator=torch.Generator().manual_seed(0))
    dense = Dense(values, Layout((3,), "o"))
    product = small()[0]

    first, second, third = expand_all([dense, product, dense])

    assert first is third is values
    assert torch.equal(second, expand(product))
    assert expand_all([dense], dtype=torch.float16)[0].dtype == torch.float16
    assert expand_all([]) == []


@pytest.mark.parametrize("dtype", list(BACKWARD))
def test_gradients_agree_with_float64(dtype):
    recipes = mixture(1, dtype)
    tensors, plan = leaves(recipes)
    outs = expand_op(tensors, plan, None, "ieee")
    grads = [torch.randn(o.shape, generator=torch.Generator().manual_seed(0)) for o in outs]
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    wanted = torch.autograd.grad(
        expand_op(doubles, plan, None, "ieee"), doubles, [g.to(dtype).double() for g in grads]
    )
    sizes = backward_op(
        [g.abs().double() for g in grads], [d.detach().abs() for d in doubles], plan, "ieee"
    )

    found = torch.autograd.grad(outs, tensors, [g.to(dtype) for g in grads])

    for one, exact, size in zip(found, wanted, sizes, strict=True):
        if one.numel():
            assert (one.double() - exact).abs().max() <= BACKWARD[dtype] * size.max()


def test_first_and_second_derivatives_pass_gradcheck():
    tensors, plan = leaves(small())

    def by_operator(*tensors: Tensor):
        return tuple(expand_op(list(tensors), plan, None, "ieee"))

    def by_function(left, right, *others: Tensor):
        recipes = small()
        recipes[0] = LowRank(left, right, recipes[0].layout)
        recipes[2] = mapped(recipes[2], lambda _: others[0])
        return tuple(expand_all(recipes))

    assert torch.autograd.gradcheck(by_operator, tensors)
    assert torch.autograd.gradgradcheck(by_operator, tensors)
    chosen = [tensors[0], tensors[1], tensors[4]]
    assert torch.autograd.gradcheck(by_function, chosen, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(by_function, chosen)


def test_tensors_that_nobody_used_cost_no_gradient():
    recipes = [mapped(r, lambda t: t.requires_grad_()) for r in small()]

    outs = expand_all(recipes)
    outs[1].sum().backward()

    assert recipes[1].left.grad is not None
    assert recipes[0].left.grad is recipes[2].block.grad is None


@pytest.mark.parametrize("name", ["expand", "expand_backward", "expand_out"])
def test_operators_pass_opcheck(name):
    tensors, plan = leaves(small(torch.float32))
    outs = [o.detach() for o in expand_op(tensors, plan, None, "ieee")]
    operator, arguments = {
        "expand": (expand_op, (tensors, plan, torch.float32, "ieee")),
        "expand_backward": (
            backward_op,
            ([o.clone().requires_grad_() for o in outs], tensors, plan, "ieee"),
        ),
        "expand_out": (
            expand_out_op,
            ([t.detach() for t in tensors], outs, [], plan, [1.0, 2.0, 3.0], "add", "ieee"),
        ),
    }[name]

    assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def losses():
    """The same loss through the operators, and through the reference."""
    layout, kernel = Layout((4, 6), "oi"), Layout((9, 5, 2), "oik")

    def loss(function, left, right):
        block = right[:2, :4].reshape(2, 2, 2)
        tensors = function([LowRank(left, right, layout), type(tiles)(block, kernel)])
        return tensors[0].sin().sum() + tensors[1].exp().sum()

    tiles = tiled((9, 5, 2), "oik", (2, 2), torch.Generator())
    return (
        lambda left, right: loss(expand_all, left, right),
        lambda left, right: loss(lambda rs: [expand(r) for r in rs], left, right),
    )


def test_function_transforms_agree_with_the_reference():
    g = torch.Generator().manual_seed(0)
    lefts, right = torch.randn(5, 4, 3, generator=g), torch.randn(3, 6, generator=g)
    ours, reference = losses()
    func = torch.func

    for transform, arguments in [
        (lambda f: func.vmap(func.grad(f, (0, 1)), (0, None)), (lefts, right)),
        (lambda f: func.vmap(f, (None, 1)), (lefts[0], torch.stack([right, 2 * right], 1))),
        (lambda f: func.vmap(func.vmap(f, (0, None)), (None, 0)), (lefts, right.expand(2, 3, 6))),
        (func.jacfwd, (lefts[0], right)),
        (func.jacrev, (lefts[0], right)),
        (func.hessian, (lefts[0], right)),
    ]:
        found, wanted = transform(ours)(*arguments), transform(reference)(*arguments)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_compiled_functions_expand_without_graph_breaks():
    g = torch.Generator().manual_seed(0)
    left = torch.randn(4, 3, generator=g, requires_grad=True)
    right = torch.randn(3, 6, generator=g, requires_grad=True)
    ours, reference = losses()

    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")

    found = torch.autograd.grad(compiled(left, right), (left, right))
    wanted = torch.autograd.grad(reference(left, right), (left, right))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_compiled_function_may_write_into_given_storage():
    recipe = low_rank((4, 6), "oi", 3, torch.Generator().manual_seed(0))

    def write(left, right, out):
        expand_all_out([LowRank(left, right, recipe.layout)], [out], update="add")
        return 2.0 * out

    out = torch.ones(4, 6)
    doubled = torch.compile(write, fullgraph=True, backend="aot_eager")(*tensors_of(recipe), out)

    torch.testing.assert_close(out, 1.0 + expand(recipe))
    torch.testing.assert_close(doubled, 2.0 * out)


@pytest.mark.parametrize("update", ["replace", "add", "multiply"])
def test_storage_is_scaled_and_updated_in_place_or_from_a_base(update):
    g = torch.Generator().manual_seed(0)
    recipes = [*mixture(2), Dense(torch.randn(3, 4, generator=g), Layout((3, 4), "oi"))]
    wholes = [expand(r) for r in recipes]
    bases = [torch.randn(w.shape, generator=g) for w in wholes]
    places, outs = [b.clone() for b in bases], [torch.empty_like(b) for b in bases]
    scales = [0.5] * len(recipes)

    expand_all_out(recipes, places, scales=scales, update=update)
    expand_all_out(recipes, outs, scales=scales, update=update, bases=bases)

    for place, out, whole, base in zip(places, outs, wholes, bases, strict=True):
        changed = {"add": base + 0.5 * whole, "multiply": base * (1.0 + 0.5 * whole)}
        torch.testing.assert_close(out, changed.get(update, 0.5 * whole))
        assert torch.equal(place, out)


def test_wrong_shapes_and_choices_are_refused_before_anything_is_written():
    recipe = small()[0]
    out = torch.zeros(recipe.layout.shape, dtype=torch.float64)

    with pytest.raises(ShapeError, match=r"\(3, 2, 2, 2\)"):
        expand_all_out([recipe, recipe], [out, torch.zeros(3, 2)])
    with pytest.raises(ShapeError, match="2 scales"):
        expand_all_out([recipe], [out], scales=[1.0, 2.0])
    with pytest.raises(ConfigError, match="replace, add, multiply"):
        expand_all_out([recipe], [out], update="subtract")
    with pytest.raises(ConfigError, match="tf32x3"):
        expand_all([recipe], precision="high")
    with pytest.raises(ShapeError, match="rank"):
        expand_all([LowRank(recipe.left, recipe.right[1:], recipe.layout)])
    with pytest.raises(ShapeError, match="folds p q = 4"):
        expand_all([LowRank(recipe.left[1:], recipe.right, recipe.layout)])
    with pytest.raises(ShapeError, match=r"\[o, i, 4\]"):
        expand_all([Tiled(recipe.left[:, :, None], recipe.layout)])
    assert not out.any()


@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize("kind", ["dense", "low_rank", "tiled"])
def test_entries_of_stacks_have_values_and_gradients_of_their_own(kind, limit, monkeypatch):
    monkeypatch.setattr(many, "LARGE", limit)
    generator = torch.Generator().manual_seed(0)
    shape, axes = (7, 5, 3, 3), "oikk"
    stack = {
        "dense": Dense(torch.randn(4, *shape, generator=generator), Layout(shape, axes)),
        "low_rank": low_rank(shape, axes, 3, generator, folded=3, lead=(4,)),
        "tiled": tiled(shape, axes, (4, 4), generator, lead=(4,)),
    }[kind]
    field = {"dense": "values", "low_rank": "left", "tiled": "block"}[kind]
    source = getattr(stack, field).requires_grad_()

    [tensors] = expand_entries([stack])
    weights = torch.arange(1.0, 5.0)
    sum(w * t.sum() for w, t in zip(weights, tensors, strict=True)).backward()

    torch.testing.assert_close(torch.stack(tensors), expand(stack))
    gradient, source.grad = source.grad, None
    (expand(stack).flatten(1).sum(1) * weights).sum().backward()
    torch.testing.assert_close(gradient, source.grad)


def test_a_convolution_is_written_by_one_product_without_a_copy(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    recipe = low_rank((7, 5, 3, 3), "oikk", 3, generator)
    out = torch.empty(7, 5, 3, 3)
    expected = expand(recipe)
    monkeypatch.setattr(sys.modules["ghn.kernels.expand"], "expand", None)

    expand_out(recipe, out)

    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("update", ["replace", "add", "multiply"])
@pytest.mark.parametrize("recipe_of", ["columns", "rows", "tiled", "no view"])
def test_a_few_rows_at_a_time_give_the_whole(recipe_of, update, dtype, monkeypatch):
    module = sys.modules["ghn.kernels.expand"]
    generator = torch.Generator().manual_seed(0)
    recipe = {
        "columns": lambda: low_rank((17, 5, 3, 3), "oikk", 3, generator),
        "rows": lambda: low_rank((17, 5, 3, 3), "oikk", 3, generator, folded=9),
        "tiled": lambda: tiled((17, 5, 3, 3), "oikk", (4, 3), generator),
        "no view": lambda: low_rank((3, 5, 17), "eio", 3, generator),
    }[recipe_of]()
    values = expand(recipe)
    base = torch.randn(recipe.layout.shape, generator=generator).to(dtype)
    expected = {"replace": values, "add": base + values, "multiply": base * (1 + values)}[update]
    seen = []
    original = module.expand
    monkeypatch.setattr(module, "SCRATCH", 4 * 45)
    monkeypatch.setattr(module, "expand", lambda r: seen.append(r.layout.rows) or original(r))

    elsewhere, in_place = torch.full_like(base, torch.nan), base.clone()
    expand_out(recipe, elsewhere, update=update, base=base)
    expand_out(recipe, in_place, update=update)

    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for out in (elsewhere, in_place):
        torch.testing.assert_close(out, expected.to(dtype), atol=tolerance, rtol=tolerance)
    assert recipe_of == "no view" or max(seen, default=0) <= 4
