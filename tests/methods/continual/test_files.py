"""Files of learners, and the modules that they are loaded into."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
from continual_helpers import CLASSES, SIZE, toy_learner, toy_model, toy_task
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ghn.errors import CheckpointError
from ghn.methods.continual import ContinualConfig, ContinualLearner, LoopConfig, Separate

X = torch.randn(5, SIZE, generator=torch.Generator().manual_seed(3))


class Pretrained(nn.Module):
    """A body with statistics, which is not generated, and a head, which is."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.norm, self.body = nn.BatchNorm1d(SIZE), nn.Linear(SIZE, 6)
        self.head = nn.Linear(6, CLASSES)
        self.norm.running_mean += torch.randn(SIZE)

    def forward(self, x):
        return self.head(self.body(self.norm(x)).tanh())


def headed(kind, model):
    if kind is Separate:
        return Separate(model, LoopConfig(steps=4), generate="head.*")
    return ContinualLearner(model, config=ContinualConfig(steps=4, size=900), generate="head.*")


@pytest.mark.parametrize("kind", [ContinualLearner, Separate])
def test_a_learner_predicts_the_same_in_a_fresh_module_when_only_a_head_is_generated(
    kind, tmp_path
):
    learner = headed(kind, Pretrained(0))
    learner.learn("a", toy_task(0))
    learner.save(tmp_path / "learner.safetensors")
    fresh = Pretrained(1)
    before = copy.deepcopy(fresh.state_dict())

    loaded, _ = kind.load(tmp_path / "learner.safetensors", fresh)

    assert torch.equal(loaded.predict(X, "a"), learner.predict(X, "a"))
    assert torch.equal(loaded.export("a")(X), learner.export("a")(X))
    assert torch.equal(loaded.model.norm.running_mean, learner.model.norm.running_mean)
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())


def test_a_file_holds_nothing_of_the_module_if_everything_is_generated(tmp_path):
    learner = toy_learner("recurrent", steps=2)
    learner.learn("a", toy_task(0))

    learner.save(tmp_path / "learner.safetensors")

    assert load_file(tmp_path / "learner.safetensors").keys() == learner.state()[0].keys()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    learner = toy_learner("recurrent", Pretrained(0), steps=2)
    learner.learn("a", toy_task(0))
    path = tmp_path_factory.mktemp("files") / "learner.safetensors"
    learner.save(path)
    return path


def test_every_flipped_bit_of_a_file_is_found(saved, tmp_path):
    data = saved.read_bytes()
    damaged = tmp_path / "damaged.safetensors"
    draw = random.Random(0)

    for place in [draw.randrange(len(data)) for _ in range(30)]:
        changed = bytearray(data)
        changed[place] ^= 1 << draw.randrange(8)
        damaged.write_bytes(changed)
        with pytest.raises(CheckpointError):
            ContinualLearner.load(damaged, Pretrained(0))


@pytest.mark.parametrize(
    "missing", ["facts", "config", "ghn/condition.rows.0", "anchor/targets",
                "buffers/0/norm.running_mean"],
)  # fmt: skip
def test_a_file_without_one_of_its_parts_is_refused(saved, tmp_path, missing):
    tensors = load_file(saved)
    with safe_open(saved, framework="pt") as file:
        found = file.metadata()
    header = json.loads(found["ghn-learner"])
    assert tensors.pop(missing, None) is not None or header.pop(missing) is not None
    path = tmp_path / "part.safetensors"
    save_file(tensors, path, metadata={**found, "ghn-learner": json.dumps(header)})

    with pytest.raises(CheckpointError, match="is damaged"):
        ContinualLearner.load(path, Pretrained(0))


def test_a_module_with_other_parameters_than_the_files_is_named_and_refused(saved, tmp_path):
    with pytest.raises(CheckpointError, match=r"than this Linear: shape of norm.weight is \[12\]"):
        ContinualLearner.load(saved, nn.Linear(3, 3))
    learner = headed(ContinualLearner, Pretrained(0))
    learner.save(tmp_path / "head.safetensors")
    wider = Pretrained(0)
    wider.more = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"more.weight is none in the file, \[1, 1\] here"):
        ContinualLearner.load(tmp_path / "head.safetensors", wider)


def test_a_file_of_a_newer_version_with_unknown_settings_is_a_checkpoint_error(
    tmp_path, monkeypatch
):
    learner = toy_learner("recurrent", toy_model(), steps=2)
    newer = {**learner.config.to_dict(), "novelty": 1}
    monkeypatch.setattr(ContinualConfig, "to_dict", lambda self: newer)
    learner.save(tmp_path / "newer.safetensors")

    with pytest.raises(CheckpointError, match="no setting 'novelty'"):
        ContinualLearner.load(tmp_path / "newer.safetensors", toy_model())


@pytest.mark.parametrize("kind", [ContinualLearner, Separate])
def test_an_exported_network_with_batch_norm_gives_what_predict_gives(kind):
    learner = headed(kind, Pretrained(0))
    learner.learn("a", toy_task(0))
    expected = learner.predict(X, "a")

    network = learner.export("a")

    assert not any(part.training for part in network.modules())
    for _ in range(2):
        torch.testing.assert_close(network(X), expected)
