import dataclasses
import json
import math
import random
from pathlib import Path

import accelerate
import pytest
import torch
from torch.nn import functional as F
from training_helpers import step

import ghn.training.trainer as trainer_module
from ghn.errors import ConfigError
from ghn.training import Trainer, loop, make_target, train
from ghn.training.evaluate import Evaluation, NetworkScore
from ghn.training.tasks import Batches
from ghn.zoo import ConvNetConfig, ViTConfig


def test_two_stage_gradients_equal_those_through_everything_at_once(config):
    trainer = Trainer(config)
    target = make_target("vits", ViTConfig(width=16, layers=1, heads=2, patch=8, ratio=2))
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])

    emitted = trainer.ghn(target.graph)
    leaves = {k: v.detach().requires_grad_() for k, v in emitted.items()}
    loss = F.cross_entropy(target.run(leaves, images), labels)
    torch.autograd.backward(list(emitted.values()), torch.autograd.grad(loss, [*leaves.values()]))
    staged = {k: p.grad.clone() for k, p in trainer.ghn.named_parameters() if p.grad is not None}
    trainer.ghn.zero_grad()
    F.cross_entropy(target.run(trainer.ghn(target.graph), images), labels).backward()

    for name, parameter in trainer.ghn.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(staged[name], parameter.grad)


def test_a_network_whose_loss_is_not_finite_is_left_out_and_counted(config, monkeypatch):
    healthy, sick = Trainer(config), Trainer(config)
    bad = sick.pool[0]
    run = trainer_module.TargetPool.__getitem__

    def broken(pool, index):
        target = run(pool, index)
        if pool is sick.pool and target is bad:
            target = dataclasses.replace(target)
            target.run = lambda parameters, inputs: (
                torch.full((len(inputs), 10), float("nan"))
                * sum(p.sum() for p in parameters.values())
            )
        return target

    monkeypatch.setattr(trainer_module.TargetPool, "__getitem__", broken)
    for _ in range(6):
        step(healthy)
        step(sick)

    assert healthy.skipped == 0
    assert sick.skipped > 0
    assert all(v.isfinite().all() for v in sick.ghn.state_dict().values())


def test_a_step_whose_gradient_overflows_in_the_hypernetwork_is_left_out(config):
    trainer = Trainer(config)
    target = dataclasses.replace(trainer.pool[0])

    def steep(parameters, images):
        total = sum(p.sum() for p in parameters.values())
        return (total - total.detach()) * torch.full((len(images), 10), 1e38).cumsum(0)[:1] * (
            torch.arange(10) % 2
        ) + torch.zeros(len(images), 1)

    target.run = steep
    trainer.pool = [target]
    before = {k: v.clone() for k, v in trainer.ghn.state_dict().items()}

    loss, _ = step(trainer)

    assert loss == pytest.approx(math.log(10))
    assert trainer.skipped == config.meta_batch
    assert trainer.step == 1
    assert all(torch.equal(v, before[k]) for k, v in trainer.ghn.state_dict().items())


def test_a_step_all_of_whose_networks_are_skipped_has_no_loss(config):
    trainer = Trainer(config)
    target = dataclasses.replace(trainer.pool[0])
    target.run = lambda parameters, inputs: (
        torch.full((len(inputs), 10), math.nan) * sum(p.sum() for p in parameters.values())
    )
    trainer.pool = [target]

    loss, hit = step(trainer)

    assert math.isnan(loss)
    assert math.isnan(hit)
    assert trainer.skipped == config.meta_batch


def test_steps_without_a_finite_network_count_in_no_loss(config, monkeypatch):
    found = iter([(math.nan, math.nan), (2.0, 0.5), (math.nan, math.nan), (4.0, 0.25)])

    def take_step(trainer, inputs, labels):
        trainer.step += 1
        return next(found, (math.nan, math.nan))

    score = NetworkScore("vits", "layer", 1, math.nan, math.nan)
    held_out = Evaluation("accuracy", "digits/val", 1, [score])
    monkeypatch.setattr(Trainer, "take_step", take_step)
    monkeypatch.setattr(loop, "evaluate", lambda *_: held_out)
    records = []
    trainer = train(config.replace(steps=54, eval_every=54), records.append)

    assert [r.step for r in records] == [50, 54]
    assert (records[0].loss, records[0].accuracy) == (3.0, 0.375)
    assert math.isnan(records[1].loss)
    lines = (Path(trainer.config.out) / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [3.0, None]
    assert "NaN" not in lines[-1]
    assert json.loads(lines[-1])["held_out"]["all"] is None


def test_the_penalty_is_the_sum_of_the_norms_of_what_is_emitted(config):
    def gradients(penalty):
        trainer = Trainer(config.replace(penalty=penalty, meta_batch=1))
        target = trainer.pool[trainer.draw(0)[0]]
        x, y = Batches(trainer.task, trainer.config)[0]
        emitted = trainer.ghn(target.graph)
        loss = F.cross_entropy(target.run(emitted, x), y)
        (loss + penalty * sum(t.norm() for t in emitted.values())).backward()
        expected = {
            n: p.grad.clone() for n, p in trainer.ghn.named_parameters() if p.grad is not None
        }
        trainer.ghn.zero_grad(set_to_none=True)
        trainer._learn([target], x, y)
        return expected, dict(trainer.ghn.named_parameters())

    plain, _ = gradients(0.0)
    expected, found = gradients(0.3)

    for name, value in expected.items():
        torch.testing.assert_close(found[name].grad, value, rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(plain[name], expected[name]) for name in expected)


def test_gradients_are_clipped_and_weights_decay_as_the_settings_say(config, monkeypatch):
    norms = []

    def noted(parameters, largest):
        norms.append(largest)
        return clip(parameters, largest)

    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", noted)
    trainer = Trainer(config.replace(clip=0.123, weight_decay=0.045))

    step(trainer)

    assert norms == [0.123]
    grads = [p.grad.flatten() for p in trainer.ghn.parameters() if p.grad is not None]
    assert torch.cat(grads).norm() <= 0.123 * 1.001
    decays = {g["weight_decay"] for o in trainer.optimizers for g in o.param_groups}
    assert decays == {0.045}


def test_target_networks_run_in_the_precision_that_is_asked_for(config, monkeypatch):
    kinds = []
    run = trainer_module.Target.run

    def noted(target, parameters, inputs):
        logits = run(target, parameters, inputs)
        kinds.append(logits.dtype)
        return logits

    monkeypatch.setattr(trainer_module.Target, "run", noted)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        step(Trainer(config.replace(mixed_precision="bf16")))
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    step(Trainer(config))

    assert kinds == [torch.bfloat16] * 2 + [torch.float32] * 2


def test_what_the_launcher_says_of_precision_counts_and_is_kept(config, monkeypatch):
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    try:
        found = train(config).accelerator.mixed_precision
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)

    assert found == "bf16"
    settings = json.loads((Path(config.out) / "config.json").read_text())
    assert settings["mixed_precision"] == "bf16"


def test_a_second_run_of_a_process_has_its_own_precision_or_is_refused(config):
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Trainer(config.replace(mixed_precision="bf16"))
        with pytest.raises(ConfigError, match="mixed_precision='no'"):
            Trainer(config)
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_training_leaves_global_random_numbers_alone(config):
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()

    train(config)

    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_batch_statistics_of_a_run_do_not_reach_the_target():
    target = make_target("convnets", ConvNetConfig(widths=(8, 8)))
    before = {k: v.clone() for k, v in target.buffers.items()}
    parameters = {k: torch.randn(p.shape) * 0.1 for k, p in target.model.named_parameters()}

    target.run(parameters, torch.randn(4, 3, 32, 32))

    assert all(torch.equal(v, before[k]) for k, v in target.buffers.items())
