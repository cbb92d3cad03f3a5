"""What every learner of tasks must do."""

from __future__ import annotations

import copy
import gc
import inspect
import random
import weakref

import numpy as np
import pytest
import torch
from continual_helpers import CLASSES, LEARNERS, SIZE, toy_learner, toy_model, toy_task
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ghn.errors import CheckpointError, ConfigError, InputError, UnknownNameError
from ghn.methods.continual import EWC, LoopConfig
from ghn.methods.continual.run import METHODS
from ghn.rng import preserve_global_state

X = torch.randn(5, SIZE, generator=torch.Generator().manual_seed(3))


def states_equal(one, other):
    (tensors, facts), (others, other_facts) = one, other
    return (
        facts == other_facts
        and tensors.keys() == others.keys()
        and all(torch.equal(tensors[k], others[k]) for k in tensors)
    )


def test_every_method_of_the_command_line_is_a_learner_under_test():
    kinds = {type(toy_learner(name)) for name in LEARNERS}

    assert {maker.learner for maker in METHODS.values()} == kinds


@pytest.mark.parametrize("name", LEARNERS)
def test_tasks_are_learned_one_after_another(name):
    model = toy_model()
    before = copy.deepcopy(model.state_dict())
    learner = toy_learner(name, model)

    records = [learner.learn(f"task {i}", toy_task(i)) for i in range(2)]

    assert list(learner.tasks) == ["task 0", "task 1"]
    assert learner.evaluate(toy_task(1, seed=1), "task 1") > 0.7  # chance: a quarter
    assert learner.predict(X, "task 0").shape == (5, CLASSES)
    assert all(0 <= r.loss < 1.0 and r.seconds > 0 for r in records)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("name", LEARNERS)
def test_an_exported_network_needs_no_learner(name):
    learner = toy_learner(name, steps=5)
    for i in range(2):
        learner.learn(f"task {i}", toy_task(i))

    networks = [learner.export(f"task {i}").eval() for i in range(2)]

    for i, network in enumerate(networks):
        torch.testing.assert_close(network(X), learner.predict(X, f"task {i}"))
    assert not torch.allclose(networks[0](X), networks[1](X))
    learner.learn("task 2", toy_task(2))
    assert type(networks[0]) is type(learner.model)


class Augmented(Dataset):
    """Inputs scaled by draws from Python's, NumPy's and torch's global generators."""

    def __init__(self):
        self.inputs, self.labels = (torch.cat(parts) for parts in zip(*toy_task(0), strict=True))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        scale = 1 + random.random() * np.random.rand() * torch.rand(())  # noqa: NPY002
        return scale.float() * self.inputs[index], self.labels[index]


@pytest.mark.parametrize("name", ["recurrent", "ewc"])
def test_a_task_does_not_depend_on_any_global_generator_nor_move_it(name):
    learned = []
    for seed in range(2):
        learner = toy_learner(name, steps=6)
        with preserve_global_state(seed):
            expected = np.random.rand(), torch.rand(()).item()  # noqa: NPY002
        with preserve_global_state(seed):
            learner.learn("a", DataLoader(Augmented(), batch_size=24, shuffle=True))
            assert (np.random.rand(), torch.rand(()).item()) == expected  # noqa: NPY002
        learned.append(learner.predict(X, "a"))

    assert torch.equal(*learned)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_network_is_made_once_for_an_evaluation_of_many_batches(name, monkeypatch):
    learner = toy_learner(name, steps=4)
    learner.learn("a", toy_task(0), classes=(0, 2, 1, 3))
    batches = toy_task(0, seed=1)
    places = torch.tensor([0, 2, 1, 3])
    right = sum((learner.predict(x, "a").argmax(1) == places[y]).sum().item() for x, y in batches)
    made, emit = [], type(learner).parameters_of
    monkeypatch.setattr(
        type(learner), "parameters_of", lambda self, task: made.append(task) or emit(self, task)
    )

    found = learner.evaluate(batches, "a")

    assert len(batches) == 4
    assert made == ["a"]
    assert found == right / 96


@pytest.mark.parametrize("name", LEARNERS)
def test_a_saved_learner_is_the_same_to_the_bit_and_goes_on_the_same(name, tmp_path):
    whole, first = toy_learner(name, steps=8), toy_learner(name, steps=8)
    for learner in (whole, first):
        learner.learn("a", toy_task(0))
        learner.learn("b.1", toy_task(1))
    first.save(tmp_path / "learner.safetensors", {"note": 1})

    loaded, notes = type(first).load(tmp_path / "learner.safetensors", toy_model(seed=0))

    assert notes == {"note": 1}
    assert states_equal(loaded.state(), first.state())
    assert torch.equal(loaded.predict(X, "b.1"), first.predict(X, "b.1"))
    if name == "joint":
        for task, i in (("a", 0), ("b.1", 1)):
            loaded.remember(task, toy_task(i))
    for learner in (whole, loaded):
        learner.learn("c", toy_task(2))
    for task in ("a", "b.1", "c"):
        assert torch.equal(whole.predict(X, task), loaded.predict(X, task))


BAD_DATA = {
    "empty": ([], InputError, "no batch"),
    "used up": (iter([]), InputError, "more than once"),
    "nan": ([(torch.full((4, SIZE), torch.nan), torch.zeros(4).long())], InputError, "NaN"),
    "nan later": ([*toy_task(1)[:2], (torch.full((4, SIZE), torch.inf), torch.zeros(4).long())],
                  InputError, "infinite"),
    "more classes": ([(X, torch.tensor([0, 1, 2, 4, 0]))], InputError, r"labels \[4\].*4 outputs"),
    "negative label": ([(X, torch.tensor([0, 1, -1, 1, 0]))], InputError, r"labels \[-1\]"),
    "float labels": ([(X, torch.rand(5))], InputError, "integers"),
    "no labels": ([X], InputError, r"\(inputs, labels\)"),
    "other inputs": ([(torch.randn(5, SIZE + 1), torch.zeros(5).long())], InputError, "failed"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_DATA)
@pytest.mark.parametrize("name", ["recurrent", "ewc", "joint"])
def test_bad_data_are_refused_and_leave_the_learner_as_it_was(name, what, tmp_path):
    learner = toy_learner(name, steps=5)
    learner.learn("first", toy_task(0))
    learner.save(tmp_path / "file.safetensors")
    before, file = learner.state(), (tmp_path / "file.safetensors").read_bytes()
    modes = [m.training for m in learner.model.modules()]
    random = torch.get_rng_state()
    loader, error, words = BAD_DATA[what]

    with pytest.raises(error, match=words):
        learner.learn("second", loader)

    assert states_equal(learner.state(), before)
    assert (tmp_path / "file.safetensors").read_bytes() == file
    assert [m.training for m in learner.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    learner.learn("second", toy_task(1))


@pytest.mark.parametrize("name", ["recurrent", "separate"])
def test_an_interrupt_leaves_the_learner_as_it_was(name):
    learner = toy_learner(name, steps=5)
    learner.learn("first", toy_task(0))
    before = learner.state()

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.learn("second", toy_task(1), progress=stop)

    assert states_equal(learner.state(), before)


@pytest.mark.parametrize("name", LEARNERS)
def test_unknown_tasks_and_taken_names_are_refused(name):
    learner = toy_learner(name, steps=2)
    learner.learn("cats", toy_task(0))

    for call in (
        lambda: learner.predict(X, "cat"),
        lambda: learner.evaluate(toy_task(0), "cat"),
        lambda: learner.export("cat"),
    ):
        with pytest.raises(UnknownNameError, match="Did you mean 'cats'"):
            call()
    for no_name in (3, None, ["cats"]):
        with pytest.raises(UnknownNameError, match=r"unknown task .* Registered: cats"):
            inspect.unwrap(type(learner).record)(learner, no_name)  # the tests' own check off
    with pytest.raises(ConfigError, match="learned already"):
        learner.learn("cats", toy_task(0))


@pytest.mark.parametrize("name", [n for n in LEARNERS if n != "joint"])
def test_no_data_are_kept_after_a_task(name, tmp_path, request):
    gc.freeze()  # what other tests have made is not looked through
    request.addfinalizer(gc.unfreeze)
    sizes = {}
    for count in (48, 480):
        learner = toy_learner(name, steps=4)
        inputs, labels = (torch.cat(parts) for parts in zip(*toy_task(0, count), strict=True))
        dataset = TensorDataset(inputs.clone(), labels)
        gone = weakref.ref(dataset)
        learner.learn("first", DataLoader(dataset, batch_size=16, shuffle=True))
        del dataset
        gc.collect()

        assert gone() is None
        learner.learn("second", toy_task(1))
        learner.save(tmp_path / f"{count}.safetensors")
        with (tmp_path / f"{count}.safetensors").open("rb") as file:
            sizes[count] = sum(t.numel() for t in learner.state()[0].values()), file.read(2)

    assert sizes[48][0] == sizes[480][0]


def test_settings_of_another_learner_are_refused_before_any_task():
    with pytest.raises(ConfigError, match=r"EWC needs settings of EWCConfig, got LoopConfig\("):
        EWC(toy_model(), LoopConfig())


@pytest.mark.parametrize("name", LEARNERS)
def test_a_file_of_another_learner_or_network_is_refused(name, tmp_path):
    learner = toy_learner(name, steps=2)
    learner.learn("a", toy_task(0))
    path = tmp_path / "learner.safetensors"
    learner.save(path)
    other = toy_learner("separate" if name != "separate" else "ewc")
    wider = torch.nn.Sequential(
        torch.nn.Linear(SIZE, 13), torch.nn.ReLU(), torch.nn.Linear(13, CLASSES)
    )

    with pytest.raises(CheckpointError, match="not a"):
        type(other).load(path, toy_model())
    with pytest.raises(CheckpointError, match="another network"):
        type(learner).load(path, wider)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="cannot read"):
        type(learner).load(path, toy_model())
    with pytest.raises(CheckpointError, match="cannot read"):
        type(learner).load(tmp_path / "nothing", toy_model())


@pytest.mark.parametrize("name", LEARNERS)
def test_a_module_without_anything_to_learn_is_refused(name):
    from ghn.errors import UnsupportedModelError

    with pytest.raises(UnsupportedModelError, match="no parameters"):
        toy_learner(name, torch.nn.Flatten())


@pytest.mark.parametrize("name", ["recurrent", "ewc", "separate"])
def test_tasks_may_be_different_outputs_of_one_head(name):
    learner = toy_learner(name, steps=40)
    two = [(x[y < 2], y[y < 2]) for x, y in toy_task(0)]
    other = [(x[(y > 0) & (y < 3)], y[(y > 0) & (y < 3)]) for x, y in toy_task(1)]

    learner.learn("first", two, classes=(0, 1))
    learner.learn("second", other, classes=(1, 2))

    assert learner.predict(X, "second").shape == (5, 2)
    assert learner.evaluate(other, "second") > 0.9
    with pytest.raises(InputError, match=r"labels \[2, 3\].*classes \(0, 1\)"):
        learner.learn("third", toy_task(2), classes=(0, 1))
    with pytest.raises(ConfigError, match="different outputs"):
        learner.learn("third", two, classes=(0, 1, 5))


def test_the_rate_falls_in_a_straight_line_over_the_last_steps():
    data = list(toy_task(0))[:1]
    learner = toy_learner("separate", steps=8, rate=0.01, cooldown=0.5)
    network = copy.deepcopy(learner.model)

    learner.learn("task 0", data)

    optimizer = torch.optim.Adam(network.parameters())
    for rate in (0.01, 0.01, 0.01, 0.01, 0.01, 0.0075, 0.005, 0.0025):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(data[0][0]), data[0][1]).backward()
        optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(learner.parameters_of("task 0")[name], parameter.detach())


@pytest.mark.parametrize("cooldown", [-0.1, 1.5, float("nan")])
def test_a_cooldown_is_a_share_of_the_steps(cooldown):
    with pytest.raises(ConfigError, match="cooldown"):
        toy_learner("separate", cooldown=cooldown)
