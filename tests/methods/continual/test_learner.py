"""What a hypernetwork does that the baselines do not."""

from __future__ import annotations

import inspect

import pytest
import timm
import torch
from continual_helpers import SIZE, toy_learner, toy_model, toy_task
from torch import nn

from ghn.conditioning import EmbeddingTableConfig, UnitConfig, VectorEncoderConfig
from ghn.decoders import ChunkedDecoderConfig
from ghn.encoders import FixedCodesConfig
from ghn.engine import GHNConfig
from ghn.engine.select import _selected
from ghn.errors import ConfigError
from ghn.graphs import trace
from ghn.methods.continual import ContinualConfig, ContinualLearner, EWCConfig
from ghn.methods.sequence import TaskHypernetwork
from ghn.methods.sequence.model import hypernetwork_config
from ghn.training.anchor import AnchorConfig

X = torch.randn(5, SIZE, generator=torch.Generator().manual_seed(3))
ANCHOR = AnchorConfig(beta=1.0, reduction="paper")


def learned(name, count=3, **settings):
    learner = toy_learner(name, **settings)
    for i in range(count):
        learner.learn(f"task {i}", toy_task(i))
    return learner


def accuracies(learner, count=3):
    return [learner.evaluate(toy_task(i, seed=1), f"task {i}") for i in range(count)]


@pytest.mark.parametrize("name", ["recurrent", "chunked"])
def test_earlier_tasks_are_kept_where_fine_tuning_forgets(name):
    kept = accuracies(learned(name, 4), 4)
    forgotten = accuracies(learned("fine-tuning", 4), 4)

    assert min(kept) > 0.9
    assert sum(kept) > sum(forgotten) + 0.3


def test_what_is_emitted_for_earlier_tasks_drifts_less_the_larger_beta():
    drifts = []
    for beta in (0.0, 0.01, 0.1, 1.0):
        learner = toy_learner("recurrent", steps=30, anchor=ANCHOR.replace(beta=beta))
        learner.learn("first", toy_task(0))
        before = torch.cat([t.flatten() for t in learner.parameters_of("first").values()])
        learner.learn("second", toy_task(1))
        after = torch.cat([t.flatten() for t in learner.parameters_of("first").values()])
        drifts.append(((after - before).norm() / before.norm()).item())

    assert drifts == sorted(drifts, reverse=True)
    assert drifts[-1] < 0.3 * drifts[0]


def test_right_after_a_task_its_network_is_the_anchors_target():
    learner = learned("recurrent", count=2, steps=10)

    assert learner.anchor.penalty().item() == 0.0
    emitted = learner.parameters_of("task 1")
    targets = learner.anchor.targets[1].split([s.numel for s in learner.graph.specs.values()])
    for (name, spec), target in zip(learner.graph.specs.items(), targets, strict=True):
        torch.testing.assert_close(emitted[name], target.reshape(spec.shape), rtol=0, atol=1e-6)


def test_the_drift_of_earlier_tasks_is_seen_while_a_task_is_learned():
    learner = toy_learner("recurrent", steps=6)
    learner.learn("first", toy_task(0))
    before = torch.cat([t.flatten() for t in learner.parameters_of("first").values()])
    seen = []

    learner.learn("second", toy_task(1), progress=lambda *_: seen.append(learner.anchor.drift()))

    after = torch.cat([t.flatten() for t in learner.parameters_of("first").values()])
    moved = ((after - before).norm() / before.norm()).item()
    assert len(seen) == 6
    assert seen[-1] == {"first": pytest.approx(moved, rel=1e-3)}
    assert learner.anchor.drift() == {"first": 0.0, "second": 0.0}


def test_a_task_belongs_to_its_embedding():
    learner = learned("recurrent", count=2)
    right = accuracies(learner, 2)

    with torch.no_grad():  # the embeddings change places
        first, second = learner.ghn.condition.rows
        first.data, second.data = second.data.clone(), first.data.clone()

    crossed = [learner.evaluate(toy_task(1 - i, seed=1), f"task {i}") for i in range(2)]
    wrong = accuracies(learner, 2)
    assert crossed == right[::-1]
    assert max(wrong) < 0.8
    assert min(right) > 0.9


def test_an_embedding_of_an_earlier_task_is_not_touched():
    learner = learned("recurrent", count=1, steps=10)
    before = learner.ghn.condition.rows[0].clone()

    learner.learn("task 1", toy_task(1))

    assert torch.equal(learner.ghn.condition.rows[0], before)
    assert learner.ghn.condition.frozen == ["task 0", "task 1"]


@pytest.mark.parametrize("memory", ["targets", "snapshot"])
def test_looking_ahead_learns_and_keeps(memory):
    anchor = ANCHOR.replace(lookahead=True, memory=memory)
    plain, ahead = learned("recurrent", 2), learned("recurrent", 2, anchor=anchor)

    assert min(accuracies(ahead, 2)) > 0.9
    same = [
        torch.equal(plain.parameters_of(f"task {i}")["0.weight"],
                    ahead.parameters_of(f"task {i}")["0.weight"])
        for i in range(2)
    ]  # fmt: skip
    assert same == [False, False]


def test_the_state_grows_between_tasks_without_changing_what_they_get():
    learner = learned("recurrent", count=2)
    before = learner.predict(X, "task 0")

    learner.grow(8)

    torch.testing.assert_close(learner.predict(X, "task 0"), before, rtol=0, atol=1e-5)
    assert learner.anchor.penalty().item() == 0.0
    learner.learn("task 2", toy_task(2))
    assert learner.ghn.decoder.config.state == 24
    assert min(accuracies(learner)) > 0.9
    with pytest.raises(ConfigError, match="cannot grow"):
        toy_learner("chunked").grow(8)


@pytest.mark.parametrize("units", [2.5, "8", None, True, 0, -1])
def test_what_is_no_number_of_units_is_refused_and_nothing_grows(units):
    learner = toy_learner("recurrent")

    with pytest.raises(ConfigError, match="whole number from 1 on"):
        inspect.unwrap(TaskHypernetwork.grow)(learner._source, units, 0)  # the tests' own check off

    assert learner.ghn.decoder.config.state == 16


def test_growth_by_schedule_starts_with_the_third_task_and_survives_files(tmp_path):
    learner = learned("recurrent", count=3, steps=4, grow=4)
    assert learner.ghn.decoder.config.state == 20
    learner.save(tmp_path / "grown.safetensors")

    loaded, _ = ContinualLearner.load(tmp_path / "grown.safetensors", toy_model())

    assert loaded.ghn.decoder.config.state == 20
    assert torch.equal(loaded.predict(X, "task 0"), learner.predict(X, "task 0"))


@pytest.mark.parametrize(
    ("every", "states"), [(1, [16, 20, 24, 28]), (2, [16, 16, 20, 20]), (3, [16, 16, 16, 20])]
)
def test_growth_comes_whenever_so_many_tasks_more_are_learned(every, states):
    learner = toy_learner("recurrent", steps=1, grow=4, grow_every=every)
    found = []
    for i in range(4):
        learner.learn(f"task {i}", toy_task(i))
        found.append(learner.ghn.decoder.config.state)

    assert found == states


def test_other_tasks_rows_of_a_shared_head_are_not_anchored():
    learner = toy_learner("recurrent", steps=4)
    learner.learn("first", [(x[y < 2], y[y < 2]) for x, y in toy_task(0)], classes=(0, 1))
    leaves = {
        n: t.detach()[None].clone().add_(0.1).requires_grad_()
        for n, t in learner.parameters_of("first").items()
    }

    learner.anchor.penalty(["first"], emitted=leaves).backward()

    assert not leaves["2.weight"].grad[0, 2].any()
    assert leaves["2.weight"].grad[0, :2].abs().sum(1).all()
    assert leaves["0.weight"].grad.any()


def test_importance_by_fisher_is_kept_with_the_anchor():
    learner = learned("recurrent", count=2, steps=30, importance=True)

    weights = learner.anchor.weights["task 0"]
    assert weights.shape == (learner.graph.num_parameters,)
    assert 0.05 <= weights.min() < weights.max() <= 20


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.body = nn.BatchNorm1d(SIZE), toy_model()

    def forward(self, x):
        return self.body(self.norm(x))


@pytest.mark.parametrize("name", ["recurrent", "separate"])
def test_each_task_has_its_own_statistics_of_batch_norm(name):
    shifted = [(10 + 5 * x, y) for x, y in toy_task(1)]
    learner = toy_learner(name, Normed(), steps=80)
    learner.learn("near", toy_task(0))
    learner.learn("far", shifted)

    near, far = (learner.buffers_of(t)["norm.running_mean"].mean() for t in ("near", "far"))
    own = learner.evaluate(toy_task(0, seed=1), "near")
    network = learner.export("near").eval()
    network.norm.running_mean.copy_(learner.buffers_of("far")["norm.running_mean"])
    network.norm.running_var.copy_(learner.buffers_of("far")["norm.running_var"])
    x, y = toy_task(0, seed=1)[0]
    other = (network(x).argmax(1) == y).float().mean().item()

    assert abs(near) < 2
    assert far > 8
    assert own > 0.9
    assert other < own - 0.2


def test_the_last_stage_and_head_of_a_timm_model_are_generated():
    model = timm.create_model("test_resnet", num_classes=3)
    names = dict(model.named_parameters())
    learner = ContinualLearner(
        model,
        config=ContinualConfig(steps=2),
        example_inputs=torch.empty(2, 3, 32, 32),
        generate=["layer4.*", "fc.*"],
    )
    batch = [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))]

    learner.learn("a", batch)
    learner.learn("b", batch)

    generated = {n for n in names if n.startswith(("layer4.", "fc."))}
    assert set(learner.parameters_of("a")) == generated
    exported = dict(learner.export("a").named_parameters())
    for name, parameter in names.items():
        assert torch.equal(exported[name], parameter) == (name not in generated), name


def test_a_glob_that_fits_nothing_is_refused():
    with pytest.raises(ConfigError, match="fits no parameter"):
        ContinualLearner(toy_model(), generate="stem.*")
    with pytest.raises(ConfigError, match="no parameter of Sequential to learn"):
        ContinualLearner(toy_model(), generate=lambda name: False)
    for generate in (3, [3], [None]):
        with pytest.raises(ConfigError, match="generate must be a glob"):
            inspect.unwrap(_selected)({}, {}, generate)  # the tests' own check off


def test_the_task_of_an_input_is_guessed_by_certainty():
    learner = learned("recurrent", count=2)
    x, _ = toy_task(0, seed=1)[0]

    names = learner.infer_task(x)

    chances = torch.stack([learner.predict(x, f"task {i}").softmax(1) for i in range(2)])
    entropy = -(chances * chances.log()).sum(2)
    assert names == [f"task {i}" for i in entropy.argmin(0).tolist()]
    with pytest.raises(ConfigError, match="no task is learned"):
        toy_learner("recurrent").infer_task(x)


@pytest.mark.parametrize("codes", ["graph", "learned"])
@pytest.mark.parametrize("decoder", ["recurrent", "chunked"])
@pytest.mark.parametrize(("hidden", "size"), [(50, 0), (50, 12_000), (300, 0)])
def test_a_hypernetwork_has_about_the_wanted_size(decoder, codes, hidden, size):
    model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                          nn.Linear(hidden, 10))  # fmt: skip
    config = ContinualConfig(decoder=decoder, codes=codes, size=size)
    wanted = size or sum(p.numel() for p in model.parameters()) + 22_000

    learner = ContinualLearner(model, config=config)

    assert 0.93 * wanted < learner.num_parameters() < 1.03 * wanted


def test_networks_of_many_chunks_are_read_node_by_node():
    wide = nn.Sequential(nn.Linear(64, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU(),
                         nn.Linear(500, 10))  # fmt: skip
    graph = trace(wide, torch.empty(1, 64))

    assert hypernetwork_config(ContinualConfig(chunk=256), graph).decoder.readout == "node"
    learned = hypernetwork_config(ContinualConfig(chunk=256, codes="learned"), graph).decoder
    assert learned.readout == "step"
    assert learned.codes == -(-graph.num_parameters // 256)
    assert hypernetwork_config(ContinualConfig(), trace(toy_model())).decoder.readout == "step"


OWN = GHNConfig(
    encoder=None,
    condition=EmbeddingTableConfig(dim=5),
    decoder=ChunkedDecoderConfig(dim=5, hidden=(), chunk=24, codes=3, code_dim=4),
    magnitude="plain",
)


def test_all_settings_of_the_hypernetwork_can_be_given():
    learner = toy_learner("recurrent", hypernetwork=OWN, steps=5)

    learner.learn("a", toy_task(0))

    assert learner.num_parameters() == 24 * 10 + 3 * 4 + 5


def test_a_decoder_beside_all_settings_of_the_hypernetwork_must_be_theirs():
    config = ContinualConfig(hypernetwork=OWN)

    same = ContinualLearner(toy_model(), "chunked", config=config)

    assert same.ghn.decoder_name == "chunked"
    with pytest.raises(ConfigError, match=r"'recurrent' contradicts .* 'chunked'; leave one"):
        ContinualLearner(toy_model(), "recurrent", config=config)
    with pytest.raises(ConfigError, match="grow is for"):
        ContinualConfig(hypernetwork=OWN, grow=4)


@pytest.mark.parametrize(
    "condition",
    [None, VectorEncoderConfig(dim=5), UnitConfig(of=EmbeddingTableConfig(dim=5)),
     EmbeddingTableConfig(dim=5, names=("a",))],
    ids=str,
)  # fmt: skip
def test_a_hypernetwork_whose_condition_cannot_take_tasks_is_refused_before_it_is_made(condition):
    size = condition.dim if condition else 0
    encoder = FixedCodesConfig(dim=8)
    decoder = ChunkedDecoderConfig(dim=8 + size, hidden=(), chunk=24)
    settings = GHNConfig(encoder=encoder, condition=condition, decoder=decoder, magnitude="plain")

    with pytest.raises(ConfigError, match="must be a table without names"):
        ContinualConfig(hypernetwork=settings)


@pytest.mark.parametrize(
    "settings",
    [{"decoder": "lstm"}, {"codes": "none"}, {"steps": 0}, {"rate": 0.0}, {"size": -1}, {"dim": 0},
     {"decoder": "chunked", "grow": 4}, {"decoder": "dense", "reset": True}, {"grow_every": 0},
     {"rate": float("nan")}, {"rate": float("inf")}, {"anchor": {"beta": float("nan")}},
     {"anchor": {"beta": float("inf")}}, {"anchor": {"subset": 1.5}}, {"steps": 2.5},
     {"seed": None}],
    ids=str,
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        ContinualConfig(**settings)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_a_strength_of_ewc_is_a_number_from_0_on(strength):
    with pytest.raises(ConfigError, match="strength must be at least 0"):
        EWCConfig(strength=strength)
