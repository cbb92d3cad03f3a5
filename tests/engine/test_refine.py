from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from ghn import predict_params, predict_state_dict
from ghn.engine.refine import refine
from ghn.errors import ConfigError
from ghn.graphs import trace
from ghn.kernels import Dense, Layout, LowRank, Tiled, expand

MODEL = nn.Sequential(
    nn.Conv2d(3, 8, 3),
    nn.ReLU(),
    nn.Conv2d(8, 12, 3, groups=2),
    nn.BatchNorm2d(12),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(12, 20),
    nn.Tanh(),
    nn.Linear(20, 5),
)
GRAPH = trace(MODEL, torch.zeros(1, 3, 9, 9))


def recipes():
    """Recipes that need it: of rank 1, and tiled."""
    generator = torch.Generator().manual_seed(0)
    result = {}
    for name, spec in GRAPH.specs.items():
        layout = Layout(spec.shape, spec.axes)
        if name == "7.weight":
            left, right = torch.randn(20, 1, generator=generator), torch.ones(1, 12)
            result[name] = LowRank(left, right, layout)
        elif name == "9.weight":
            result[name] = Tiled(torch.randn(2, 3, 1, generator=generator), layout)
        else:
            result[name] = Dense(torch.randn(spec.shape, generator=generator), layout)
    return result


def rms(values):
    return values.square().mean().sqrt()


def test_noise_has_its_share_and_sizes_stay():
    before = recipes()
    after = {n: expand(r) for n, r in refine(before, GRAPH, noise=0.3).items()}

    for name in ("0.weight", "2.weight", "7.weight", "9.weight"):
        old, new = expand(before[name]), after[name]
        assert rms(new) == pytest.approx(rms(old).item(), rel=1e-5)
        # new = old (1 + 0.3 n) / norm, so the part along old is 1 / sqrt(1 + 0.3^2).
        along = (new * old).sum() / (new.norm() * old.norm())
        assert along == pytest.approx(1 / (1 + 0.3**2) ** 0.5, abs=0.03)
    for name in ("0.bias", "3.weight", "3.bias", "9.bias"):
        assert torch.equal(after[name], expand(before[name]))


def test_rows_that_a_decoder_repeats_differ_afterwards():
    tiled = expand(recipes()["9.weight"])
    noisy = expand(refine(recipes(), GRAPH, noise=0.01)["9.weight"])

    assert len(torch.unique(tiled, dim=0)) == 2
    assert len(torch.unique(noisy, dim=0)) == 5


def test_noise_follows_the_seed_alone():
    one, same, other = (
        expand(refine(recipes(), GRAPH, noise=0.1, seed=seed)["0.weight"]) for seed in (1, 1, 2)
    )

    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_weights_become_orthogonal_in_each_group_and_the_last_one_stays():
    before = recipes()
    after = {n: expand(r) for n, r in refine(before, GRAPH, orthogonalize=True).items()}

    for matrix in (after["0.weight"].flatten(1), *after["2.weight"].flatten(1).chunk(2)):
        gram = matrix @ matrix.T
        assert torch.allclose(gram, gram[0, 0] * torch.eye(len(gram)), atol=1e-5 * gram[0, 0])
    gram = after["7.weight"].T @ after["7.weight"]  # more rows than columns, and of rank 1 before
    assert torch.allclose(gram, gram[0, 0] * torch.eye(12), atol=1e-4 * gram[0, 0])
    assert rms(after["7.weight"]) == pytest.approx(rms(expand(before["7.weight"])).item(), rel=1e-5)
    assert torch.equal(after["9.weight"], expand(before["9.weight"]))


@pytest.mark.parametrize(("width", "groups"), [(6, 1), (6, 2), (6, 6)])
def test_transposed_kernels_become_orthogonal_in_each_group(width, groups):
    layer = nn.ConvTranspose2d(width, 12, 3, groups=groups)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12 * 7 * 7, 2))
    graph = trace(model, torch.zeros(1, width, 5, 5))
    spec = graph.specs["0.weight"]
    drawn = torch.randn(spec.shape, generator=torch.Generator().manual_seed(0))
    recipe = Dense(drawn, Layout(spec.shape, spec.axes))

    found = expand(refine({"0.weight": recipe}, graph, orthogonalize=True)["0.weight"])

    for kernel in found.chunk(groups):  # PyTorch stores [inputs of all groups, outputs of one]
        rows = kernel.transpose(0, 1).flatten(1)
        gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
        assert torch.allclose(gram, gram[0, 0] * torch.eye(len(gram)), atol=1e-4 * gram[0, 0])


def test_an_orthogonal_weight_is_the_nearest_one():
    values = expand(recipes()["0.weight"]).flatten(1)
    found = expand(refine(recipes(), GRAPH, orthogonalize=True)["0.weight"]).flatten(1)

    unit = found / found.norm(dim=1).mean()
    other = torch.linalg.qr(values.T).Q.T
    assert (values - unit).norm() < (values - other).norm()


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf"), "x", "", None, True])
def test_noise_that_is_no_share_is_refused(noise):
    with pytest.raises(ConfigError, match=f"noise must be a finite number.*{noise!r}"):
        inspect.unwrap(refine)(recipes(), GRAPH, noise=noise)  # the tests' own check of types off


def test_predictions_take_noise_and_orthogonal_weights_and_a_bad_noise_changes_nothing():
    x = torch.zeros(1, 3, 9, 9)
    settings = {"noise": 0.05, "orthogonalize": True, "seed": 3, "unsupported": "predict"}
    expected = predict_state_dict(MODEL, x, **settings)
    begin = {k: v.clone() for k, v in MODEL.state_dict().items()}

    with pytest.raises(ConfigError, match="noise"):
        predict_params(MODEL, x, noise=-1.0)
    assert all(torch.equal(v, begin[k]) for k, v in MODEL.state_dict().items())
    predict_params(MODEL, x, **settings)

    assert all(torch.equal(MODEL.state_dict()[k], v) for k, v in expected.items())
    matrix = MODEL[0].weight.detach().flatten(1)
    gram = matrix @ matrix.T
    assert torch.allclose(gram, gram[0, 0] * torch.eye(8), atol=1e-4 * gram[0, 0].item())


def test_noise_of_any_size_keeps_the_weights_size():
    for noise in (1e19, 1e300):
        for name, found in refine(recipes(), GRAPH, noise=noise).items():
            before, after = expand(recipes()[name]), expand(found)
            torch.testing.assert_close(after.square().mean(), before.square().mean())


def test_noise_is_drawn_alike_whatever_the_default_type():
    expected = refine(recipes(), GRAPH, noise=0.1, seed=3)
    given = recipes()
    torch.set_default_dtype(torch.float64)
    try:
        found = refine(given, GRAPH, noise=0.1, seed=3)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, recipe in expected.items():
        torch.testing.assert_close(expand(found[name]), expand(recipe))
