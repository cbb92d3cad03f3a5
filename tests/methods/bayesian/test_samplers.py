import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from ghn.engine.run import run_batch
from ghn.errors import ConfigError
from ghn.graphs import trace
from ghn.methods.bayesian import DeepEnsemble, Dropout, FitConfig, NoiseHypernetwork, fit, predict
from ghn.rng import make_generator

G = torch.Generator().manual_seed(0)
X = torch.randn(60, 5, generator=G)
LABELS = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
NUMBERS = X[:, 0] - 0.5 * X[:, 1] + 0.1 * torch.randn(60, generator=G)


def network(seed=0, outputs=3, dropout=0.0):
    torch.manual_seed(seed)
    layers = [nn.Linear(5, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, outputs)]
    return nn.Sequential(*layers)


def noise(model, examples=0):
    torch.manual_seed(1)
    return NoiseHypernetwork(model, trace(model, X[:2]), examples, seed=0)


def draw(sampler, count=4, seed=0):
    return sampler.draw(count, torch.Generator().manual_seed(seed))


def test_draws_of_noise_are_networks_of_their_own_and_follow_their_generator():
    sampler = noise(network())

    one, same, other = (draw(sampler, seed=s).parameters for s in (0, 0, 1))

    assert all(torch.equal(one[n], same[n]) for n in one)
    assert (one["0.weight"] - other["0.weight"]).abs().max() > 1e-3
    assert (one["0.weight"][0] - one["0.weight"][1]).abs().max() > 1e-3
    assert one["0.weight"].shape == (4, 16, 5)


def test_networks_are_held_to_where_they_began():
    sampler = noise(network())
    before = draw(sampler)

    with torch.no_grad():
        sampler.ghn.base.tensors[sampler.ghn.base.names.index("3.bias")].add_(2.0)
    after = draw(sampler)

    assert float(before.penalty.detach()) == 0.0
    assert float(after.penalty.detach()) == pytest.approx(3 * 2.0**2, rel=1e-4)


def test_draws_weigh_examples_like_a_bootstrap():
    weights = draw(noise(network(), examples=60), count=4000).weights

    assert weights.shape == (4000, 60)
    assert bool((weights > 0).all())
    # The exponential distribution has mean 1 and variance 1; unit vectors approach it.
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0), atol=0.05, rtol=0)
    torch.testing.assert_close(weights.var(), torch.tensor(1.0), atol=0.25, rtol=0)
    assert float(torch.corrcoef(weights.T).fill_diagonal_(0).abs().mean()) < 0.4
    assert draw(noise(network())).weights is None


def test_members_side_by_side_are_trained_as_each_would_be_alone():
    config = FitConfig(steps=5, rate=1e-2, prior=0.5, batch=8, seed=3)
    models = [network(seed) for seed in (0, 1)]
    ensemble = DeepEnsemble(models)

    fit(ensemble, network(), X, LABELS, config)

    order = make_generator(3, "batches")
    chosen = [torch.randint(60, (2, 8), generator=order) for _ in range(5)]
    for place, model in enumerate(models):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for rows in chosen:
            squares = sum(p.square().sum() for p in model.parameters())
            loss = F.cross_entropy(model(X[rows[place]]), LABELS[rows[place]])
            optimizer.zero_grad()
            (loss + 0.5 * squares / 120).backward()
            optimizer.step()
        for name, tensor in draw(ensemble).parameters.items():
            expected = model.get_parameter(name)
            torch.testing.assert_close(tensor[place], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "targets"),
    [("noise", NUMBERS), ("weighted noise", LABELS), ("ensemble", NUMBERS), ("dropout", LABELS)],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_every_sampler_learns_and_leaves_the_network_alone(kind, targets):
    outputs = 2 if targets.is_floating_point() else 3
    model = network(outputs=outputs, dropout=0.1 if kind == "dropout" else 0.0)
    before = copy.deepcopy(model.state_dict())
    sampler = {
        "noise": lambda: noise(model),
        "weighted noise": lambda: noise(model, examples=60),
        "ensemble": lambda: DeepEnsemble([network(s, outputs) for s in range(3)]),
        "dropout": lambda: Dropout(model),
    }[kind]()

    def error():
        found = predict(sampler, model, X, count=20)
        if targets.is_floating_point():
            return float((found[..., 0].mean(0) - targets).square().mean())
        return float((found.softmax(-1).mean(0).argmax(1) != targets).float().mean())

    first = error()
    fit(sampler, model, X, targets, FitConfig(steps=30, rate=3e-2, draws=4))

    assert error() < 0.5 * first
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_dropout_makes_predictions_differ_and_follows_the_seed():
    model = network(dropout=0.5)
    sampler = Dropout(model)

    one, same, other = (predict(sampler, model, X, 4, seed=s) for s in (0, 0, 1))

    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert (one[0] - one[1]).abs().max() > 0.01


def test_a_drawn_network_is_one_that_runs():
    model = network()
    drawn = draw(noise(model), count=3).parameters

    together = run_batch(model, drawn, X)[0]

    alone = functional_call(model, {n: t[1] for n, t in drawn.items()}, (X,))
    torch.testing.assert_close(together[1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [{"steps": 0}, {"rate": 0.0}, {"prior": -1.0}])
def test_settings_that_make_no_sense_are_refused(change):
    with pytest.raises(ConfigError):
        FitConfig(**change)
