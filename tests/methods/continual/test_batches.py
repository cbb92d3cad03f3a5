"""What a learner accepts as classes, loaders, batches, labels and outputs of a network."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from continual_helpers import CLASSES, SIZE, toy_learner, toy_model, toy_task
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ghn.errors import ConfigError, InputError
from ghn.methods.continual.batches import checked_batch, one_pass
from ghn.methods.continual.loop import TaskRecord

X = torch.randn(6, SIZE, generator=torch.Generator().manual_seed(3))
Y = torch.tensor([0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    "classes", [np.array([0, 1]), np.array([0.0, 1.0]), torch.arange(2), [0.0, 1], range(2),
                [np.int64(0), torch.tensor(1)]],
    ids=str,
)  # fmt: skip
def test_classes_of_any_kind_of_number_become_integers_and_survive_a_failure_and_a_file(
    classes, tmp_path
):
    learner = toy_learner("fine-tuning", steps=2)
    record = learner.learn("a", [(X, Y)], classes=classes)

    with pytest.raises(InputError, match="NaN"):
        learner.learn("b", [(X * torch.nan, Y)], classes=classes)
    learner.save(tmp_path / "learner.safetensors")
    loaded, _ = type(learner).load(tmp_path / "learner.safetensors", toy_model())

    assert list(learner.tasks) == ["a"]
    assert list(map(type, record.classes)) == [int, int]
    assert loaded.tasks["a"].classes == (0, 1)
    assert torch.equal(loaded.predict(X, "a"), learner.predict(X, "a"))


@pytest.mark.parametrize(
    "classes", [(-1,), (0, -CLASSES), (0, 0), (0, CLASSES), (0.5, 1), (), ("a",), (None,),
                (True, False), torch.arange(5), torch.zeros(1, 2), (float("nan"), 1)],
    ids=str,
)  # fmt: skip
def test_classes_that_are_no_different_outputs_are_refused_in_words(classes):
    learner = toy_learner("fine-tuning", steps=2)

    with pytest.raises(ConfigError, match="must be different outputs"):
        learner.learn("a", [(X, Y * 0)], classes=classes)

    assert not learner.tasks


def test_a_task_whose_name_no_file_could_hold_is_refused_before_it_is_learned():
    learner, record = toy_learner("fine-tuning", steps=2), TaskRecord(name="a")
    object.__setattr__(record, "name", 3)  # past the checks of types that tests run under

    with pytest.raises(ConfigError, match="name must be str"):
        learner._learn_new(record, lambda: [0.0])

    assert not learner.tasks


def test_labels_that_are_no_class_are_refused_by_evaluation_and_named():
    learner = toy_learner("fine-tuning", steps=2)
    learner.learn("a", toy_task(0))

    with pytest.raises(InputError, match=r"the labels \[50, 51\].*4 outputs"):
        learner.evaluate([(X, Y + 50)], "a")
    with pytest.raises(InputError, match=r"the labels \[-1\].*4 outputs"):
        learner.evaluate([(X, Y - 1)], "a")
    with pytest.raises(InputError, match=r"the labels \[-1\].*4 outputs"):
        learner.learn("b", [(X, torch.tensor([3, 3, -1, 3, 3, 3]))])


def test_batches_with_more_or_fewer_labels_than_inputs_are_refused():
    learner = toy_learner("fine-tuning", steps=2)
    with pytest.raises(InputError, match="got 5 labels and 6 rows"):
        learner.learn("a", [(X, Y[:5])])

    learner.learn("a", toy_task(0))

    with pytest.raises(InputError, match="got 6 labels and 1 rows"):
        learner.evaluate([(X[:1], Y)], "a")


def test_loaders_and_labels_of_other_kinds_are_refused_in_words():
    with pytest.raises(InputError, match="DataLoader or a list of them, got int"):
        next(inspect.unwrap(one_pass)("a", 3, None))
    for labels in (None, ["cat"], object(), Y.bool(), [True, False], Y.to(torch.complex64), Y / 1):
        with pytest.raises(InputError, match="must be integers"):
            checked_batch("a", (X[:1], labels))


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.body, self.wrap = toy_model(), wrap

    def forward(self, x):
        return self.wrap(self.body(x))


@pytest.mark.parametrize(
    ("wrap", "got"),
    [(lambda y: (y, y), "tuple"), (lambda y: {"logits": y}, "dict"),
     (lambda y: y[:, 0], r"Tensor \[6\]")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["chunked", "fine-tuning"])
def test_networks_that_return_no_logits_are_refused_in_words(name, wrap, got):
    learner = toy_learner(name, Wrapped(wrap), steps=2)

    with pytest.raises(InputError, match=rf"must return logits of shape \[b, k\], got {got}"):
        learner.learn("a", [(X, Y)])


@pytest.mark.parametrize("name", ["recurrent", "ewc"])
def test_a_last_batch_of_one_input_for_batch_norm_is_answered_with_drop_last(name):
    learner = toy_learner(name, nn.Sequential(nn.BatchNorm1d(SIZE), toy_model()), steps=4)
    loader = DataLoader(TensorDataset(X[:5], Y[:5]), batch_size=2)

    with pytest.raises(InputError, match="use drop_last=True"):
        learner.learn("a", loader)

    learner.learn("a", DataLoader(loader.dataset, batch_size=2, drop_last=True))
    assert 0 <= learner.evaluate(loader, "a") <= 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["recurrent", "ewc"])
def test_networks_of_other_types_are_learned_and_keep_their_type(name, dtype):
    more = {"importance": True} if name == "recurrent" else {}
    learner = toy_learner(name, toy_model().to(dtype), steps=60, **more)
    typed = [[(x.to(dtype), y) for x, y in toy_task(i)] for i in range(2)]

    for i, batches in enumerate(typed):
        learner.learn(f"task {i}", batches)

    assert all(t.dtype == dtype for t in learner.parameters_of("task 0").values())
    assert learner.predict(X.to(dtype), "task 0").dtype == dtype
    assert learner.evaluate(typed[1], "task 1") > 0.8
    if name == "recurrent":
        assert set(learner.infer_task(X.to(dtype))) <= {"task 0", "task 1"}


def test_joint_training_goes_on_with_another_task_after_one_that_failed():
    learner = toy_learner("joint", steps=2)
    learner.learn("a", toy_task(0))
    with pytest.raises(InputError, match="NaN"):
        learner.learn("b", [(X * torch.nan, Y)])

    learner.learn("c", toy_task(1))

    assert list(learner.tasks) == ["a", "c"]
