"""Networks and inputs of unusual kinds; what goes wrong in them leaves a learner as it was."""

from __future__ import annotations

import collections
import copy

import pytest
import torch
from continual_helpers import CLASSES, SIZE, toy_learner, toy_model, toy_task
from torch import nn
from torch.utils.data import DataLoader

from ghn.errors import ConfigError, InputError, UnsupportedModelError
from ghn.methods.continual import ContinualConfig, ContinualLearner, FineTuning

KINDS = ("recurrent", "ewc", "separate")  # a hypernetwork, shared parameters, none
X = torch.randn(5, SIZE, generator=torch.Generator().manual_seed(3))


class Twice(nn.Module):
    """One module at two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(SIZE, SIZE), nn.BatchNorm1d(SIZE))
        self.second = self.first
        self.head = nn.Linear(SIZE, CLASSES)

    def forward(self, x):
        return self.head(self.second(self.first(x).tanh()))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.x, self.y = nn.Linear(SIZE // 2, CLASSES), nn.Linear(SIZE // 2, CLASSES)

    def forward(self, x, y):
        return self.x(x) + self.y(y)


class Reads(nn.Module):
    """Control flow that reads values."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(SIZE, CLASSES)

    def forward(self, x):
        return self.layer(x if x.sum().item() > 0 else 2 * x)


class Root(nn.Module):
    """A gradient that is infinite where an input is zero."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(SIZE, 4, bias=False), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(self.layer(x).abs().sqrt())


@pytest.mark.parametrize("name", KINDS)
def test_a_module_at_two_places_is_left_as_it_was_and_exported(name):
    model = Twice()
    before = copy.deepcopy(model.state_dict())
    learner = toy_learner(name, model, steps=3)

    learner.learn("a", toy_task(0))
    learner.learn("b", toy_task(1))

    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.is_leaf for p in model.parameters())
    torch.testing.assert_close(learner.export("b")(X), learner.predict(X, "b"))
    if name in ("recurrent", "separate"):  # each task begins with the module's statistics
        assert learner.buffers_of("b")["first.1.num_batches_tracked"] == 2 * 3


@pytest.mark.parametrize("name", KINDS)
def test_what_is_not_generated_gets_no_gradients(name):
    model = toy_model()
    whole = toy_learner(name, steps=2)
    kinds = {"config": whole.config, "generate": ["2.*"]}
    learner = type(whole)(model, **kinds)

    learner.learn("a", toy_task(0))

    assert all(p.grad is None for p in model.parameters())


def collated():
    pairs = [
        ((x[: SIZE // 2], x[SIZE // 2 :]), y)
        for xs, ys in toy_task(0)
        for x, y in zip(xs, ys, strict=True)
    ]
    return DataLoader(pairs, batch_size=24)


def named():
    return [
        (collections.UserDict(x=x[:, : SIZE // 2], y=x[:, SIZE // 2 :]), y) for x, y in toy_task(0)
    ]


@pytest.mark.parametrize("batches", [collated, named])
@pytest.mark.parametrize("name", ["recurrent", "ewc"])
def test_several_inputs_come_as_loaders_and_tokenizers_give_them(name, batches):
    halves = (torch.zeros(1, SIZE // 2), torch.zeros(1, SIZE // 2))
    whole = toy_learner(name)
    learner = type(whole)(TwoInputs(), config=whole.config, example_inputs=halves)

    learner.learn("a", batches())

    assert learner.evaluate(batches(), "a") > 0.7
    inputs = next(iter(batches()))[0]
    assert learner.predict(inputs, "a").shape == (24, CLASSES)
    if name == "recurrent":
        assert learner.infer_task(inputs) == ["a"] * 24


@pytest.mark.parametrize("name", ["chunked", "ewc"])
def test_fisher_information_of_a_network_that_reads_values_is_taken_one_by_one(name):
    further = {"importance": True} if name == "chunked" else {}
    learner = toy_learner(name, Reads(), steps=2, **further)

    learner.learn("a", toy_task(0))
    learner.learn("b", toy_task(1))

    assert list(learner.tasks) == ["a", "b"]


@pytest.mark.parametrize("name", KINDS)
def test_weights_that_the_last_step_breaks_are_not_taken_over(name):
    learner = toy_learner(name, Root(), steps=1)
    before = learner.state()[0]
    zeros = [(torch.zeros(24, SIZE), torch.arange(24) % CLASSES)]

    with pytest.raises(InputError, match="not finite"):
        learner.learn("a", zeros)

    after = learner.state()[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not learner.tasks


@pytest.mark.parametrize("name", KINDS)
def test_a_task_needs_a_name(name):
    learner = toy_learner(name, steps=1)

    with pytest.raises(ConfigError, match="name"):
        learner.learn("", toy_task(0))


def test_a_network_without_a_last_layer_is_told_that_tasks_share_all():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(SIZE, CLASSES), nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.scale * self.layer(x)

    with pytest.warns(UserWarning, match="share all parameters"):
        FineTuning(Scaled())


class Picky(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.layer, self.error = nn.Linear(SIZE, CLASSES), error

    def forward(self, x):
        if len(x) == 7:
            raise self.error
        return self.layer(x)


@pytest.mark.parametrize("error", [AssertionError("wrong size"), KeyError("ids"), AttributeError()])
def test_whatever_a_network_raises_becomes_an_error_about_its_inputs(error):
    learner = toy_learner("recurrent", Picky(error), steps=1)
    learner.learn("a", toy_task(0))

    with pytest.raises(InputError, match="what its forward takes"):
        learner.learn("b", [(torch.zeros(7, SIZE), torch.zeros(7, dtype=torch.long))])
    with pytest.raises(InputError, match="what its forward takes"):
        learner.infer_task(torch.zeros(7, SIZE))


def test_a_network_without_values_is_refused():
    with torch.device("meta"):
        model = nn.Linear(SIZE, CLASSES)

    for kind in (ContinualLearner, FineTuning):
        with pytest.raises(UnsupportedModelError, match="to_empty"):
            kind(model)


def test_a_network_that_cannot_be_copied_is_learned_for_and_says_why_it_cannot_be_exported():
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(SIZE, CLASSES)))
    learner = toy_learner("recurrent", model, steps=2)

    learner.learn("a", toy_task(0))

    assert learner.predict(X, "a").shape == (5, CLASSES)
    with pytest.raises(UnsupportedModelError, match="parametrizations"):
        learner.export("a")


@pytest.mark.parametrize("name", ["recurrent", "ewc"])
def test_what_was_learned_or_loaded_in_inference_mode_can_be_trained_on(name, tmp_path):
    learner = toy_learner(name, steps=2)
    tasks = [toy_task(i) for i in range(3)]
    with torch.inference_mode():
        learner.learn("a", tasks[0])
        learner.save(tmp_path / "l.safetensors")
        loaded, _ = type(learner).load(tmp_path / "l.safetensors", toy_model())

    for one in (learner, loaded):
        one.learn("b", tasks[1])
    torch.testing.assert_close(learner.predict(X, "b"), loaded.predict(X, "b"), rtol=0, atol=0)


def test_growing_twice_draws_other_units():
    learner = ContinualLearner(toy_model(), config=ContinualConfig(steps=1, state=8, chunk=40))
    learner.grow(4)
    learner.grow(4)

    rows = learner.ghn.decoder.weight_in.unflatten(0, (4, 16))

    assert not torch.allclose(
        rows[:, 8:12] / rows[:, 8:12].norm(), rows[:, 12:] / rows[:, 12:].norm()
    )


def test_growing_leaves_a_frozen_decoder_frozen():
    learner = ContinualLearner(toy_model(), config=ContinualConfig(steps=1, state=8, chunk=40))
    learner.ghn.decoder.requires_grad_(False)

    learner.grow(4)

    assert not any(p.requires_grad for p in learner.ghn.decoder.parameters())
