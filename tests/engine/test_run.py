import copy

import pytest
import torch
from torch import nn

from ghn.engine.run import buffers_of, in_mode, run, run_batch, stacked
from ghn.errors import ShapeError


def convnet():
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    )


def sets_of(model, count=3):
    """Several sets of parameters, as copies of the module would have."""
    torch.manual_seed(0)
    copies = [copy.deepcopy(model) for _ in range(count)]
    for one in copies:
        for parameter in one.parameters():
            parameter.data.normal_()
    return copies, stacked([dict(one.named_parameters()) for one in copies])


X = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_sets_runs_as_copies_of_the_module_would(training, vectorize):
    model = convnet()
    model[3].p = 0.0
    copies, parameters = sets_of(model)
    before = copy.deepcopy(model.state_dict())

    with in_mode(model, training):
        outputs, buffers = run_batch(model, parameters, X, vectorize=vectorize)

    for index, one in enumerate(copies):
        one.train(training)
        torch.testing.assert_close(outputs[index], one(X), rtol=1e-4, atol=1e-5)
        for name, buffer in one.named_buffers():
            torch.testing.assert_close(buffers[name][index], buffer, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    if training:
        assert (buffers["1.running_mean"][0] - buffers["1.running_mean"][1]).abs().max() > 0.01


def test_one_set_runs_with_buffers_of_its_own_and_gives_back_what_they_became():
    model = convnet().train()
    model[3].p = 0.0
    (first, _, _), parameters = sets_of(model)
    own = {**buffers_of(model), "1.running_mean": torch.full((6,), 3.0)}

    output, after = run(model, {k: v[0] for k, v in parameters.items()}, X, buffers=own)

    first.train()
    torch.testing.assert_close(output, first(X))
    moved = after["1.running_mean"] - first[1].running_mean
    torch.testing.assert_close(moved, torch.full((6,), 2.7))  # 0.9 of what they began with
    assert (own["1.running_mean"] == 3.0).all()
    assert after["1.num_batches_tracked"] == 1


def test_gradients_reach_every_set():
    model = convnet().eval()
    _, parameters = sets_of(model)
    leaves = {k: v.detach().requires_grad_() for k, v in parameters.items()}

    run_batch(model, leaves, X)[0].square().sum().backward()

    assert all(v.grad.flatten(1).abs().sum(1).all() for v in leaves.values())


def test_dropout_draws_for_each_set_on_its_own():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 8))
    weights = {"1.weight": torch.eye(8).expand(4, 8, 8), "1.bias": torch.zeros(4, 8)}

    outputs, _ = run_batch(model, weights, torch.ones(3, 8))

    assert len(outputs.unique(dim=0)) == 4


class Stubborn(nn.Module):
    """Reads a value, which vmap refuses."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        y = self.linear(x)
        return {"out": y if y.sum().item() > 0 else -y, "twice": (y, 2 * y)}


def test_what_vmap_refuses_is_done_set_by_set():
    model = Stubborn()
    copies, parameters = sets_of(model)
    x = torch.randn(4, 3)

    outputs, _ = run_batch(model, parameters, x)

    for index, one in enumerate(copies):
        torch.testing.assert_close(outputs["out"][index], one(x)["out"])
        torch.testing.assert_close(outputs["twice"][1][index], one(x)["twice"][1])


@pytest.mark.parametrize("vectorize", [True, False])
def test_inputs_may_differ_from_set_to_set(vectorize):
    model = nn.Linear(3, 2)
    copies, parameters = sets_of(model)
    x = torch.randn(3, 4, 3)

    outputs, _ = run_batch(model, parameters, x, shared=False, vectorize=vectorize)

    for index, one in enumerate(copies):
        torch.testing.assert_close(outputs[index], one(x[index]))


@pytest.mark.parametrize("training", [True, False])
def test_an_error_in_the_module_leaves_it_as_it_was(training):
    model = convnet()
    _, parameters = sets_of(model)
    before, objects = copy.deepcopy(model.state_dict()), list(map(id, model.parameters()))

    with in_mode(model, training), pytest.raises(RuntimeError):
        run_batch(model, parameters, torch.randn(5, 4, 8, 8))
    with pytest.raises(RuntimeError), in_mode(model, training):
        run(model, {k: v[0] for k, v in parameters.items()}, torch.randn(5, 4, 8, 8))

    assert list(map(id, model.parameters())) == objects
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


def test_sets_of_unequal_number_are_refused():
    model = nn.Linear(3, 2)
    _, parameters = sets_of(model)

    with pytest.raises(ShapeError, match="leading axis B"):
        run_batch(model, {**parameters, "bias": torch.zeros(2, 2)}, torch.zeros(1, 3))
    with pytest.raises(ShapeError):
        run_batch(model, {}, torch.zeros(1, 3))


class Twice(nn.Module):
    """One module at two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.second = self.first
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


def test_a_module_that_stands_at_two_places_gets_the_values_at_both_and_its_own_back():
    model = Twice().train()
    copies, parameters = sets_of(model, 2)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(6, 4)

    one, after = run(model, {k: v[0] for k, v in parameters.items()}, x)
    many, _ = run_batch(model, parameters, x)

    torch.testing.assert_close(many, torch.stack([c.train()(x) for c in copies]))
    torch.testing.assert_close(one, many[0])
    torch.testing.assert_close(after["first.1.running_var"], copies[0].first[1].running_var)
    assert all(p.is_leaf for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Assigns(nn.Module):
    """Writes its buffer by assignment, and an attribute that is none."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(4))
        self.last = None

    def forward(self, x):
        self.mean = 0.5 * self.mean + 0.5 * (self.scale * x).mean(0)
        self.last = x
        return x - self.mean


@pytest.mark.parametrize("vectorize", [True, False])
def test_buffers_that_are_assigned_come_back_and_attributes_do_not_stay(vectorize):
    model, x = Assigns(), torch.randn(6, 4)

    one = run(model, {}, x)[1]["mean"]
    many = run_batch(model, {"scale": torch.ones(3, 4)}, x, vectorize=vectorize)[1]["mean"]

    torch.testing.assert_close(one, 0.5 * x.mean(0))
    torch.testing.assert_close(many, one.expand(3, 4))
    assert not one.requires_grad
    assert model.last is None
    assert not model.mean.any()


@pytest.mark.parametrize("rows", [1, 3])
def test_inputs_for_each_set_must_be_as_many_as_sets(rows):
    model = nn.Linear(4, 2)
    parameters = {"weight": torch.randn(2, 2, 4), "bias": torch.randn(2, 2)}

    with pytest.raises(ShapeError, match=f"input 0': \\[{rows}\\]"):
        run_batch(model, parameters, torch.randn(rows, 5, 4), shared=False)
