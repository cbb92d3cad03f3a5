import dataclasses
import json
import math
import random
import signal
from pathlib import Path

import accelerate
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import ghn.training.loop as loop
import ghn.training.trainer as trainer_module
from ghn.data import images
from ghn.decoders import ImplicitDecoderConfig, LowRankDecoderConfig, TiledDecoderConfig
from ghn.encoders import GraphormerConfig
from ghn.engine import GHNConfig
from ghn.errors import CheckpointError, ConfigError, DataError
from ghn.training import TrainConfig, Trainer, make_target, train
from ghn.training.evaluate import evaluate
from ghn.training.state import newest
from ghn.training.tasks import Batches
from ghn.zoo import ConvNetConfig, ViTConfig

SMALL = GHNConfig(
    encoder=GraphormerConfig(dim=16, layers=1, heads=2),
    decoder=LowRankDecoderConfig(dim=16, hidden=16, rank=8, kernel_basis=3, rows=64),
)


@pytest.fixture
def config(tmp_path):
    return TrainConfig(
        out=str(tmp_path / "run"), data="digits", pool=4, steps=6, meta_batch=2, batch=8, warmup=2,
        eval_every=0, checkpoint_seconds=1e9, ghn=SMALL,
    )  # fmt: skip


def step(trainer):
    """Take the next step on the run's own batch."""
    return trainer.take_step(*Batches(trainer.task, trainer.config)[trainer.step])


def state(trainer):
    return {**trainer.ghn.state_dict(), **{f"ema/{k}": v for k, v in trainer.average.items()}}


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


def test_the_loss_falls(config):
    trainer = Trainer(config.replace(steps=50, meta_batch=1, batch=64, lr=0.1))
    trainer.pool = [make_target("convnets", ConvNetConfig(widths=(16, 16), stem_stride=2))]

    losses = [step(trainer)[0] for _ in range(50)]

    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


NOISY = GHNConfig(
    encoder=SMALL.encoder,
    decoder=ImplicitDecoderConfig(dim=16, noise=1.0),
)


@pytest.mark.parametrize("hypernetwork", [SMALL, NOISY])
def test_a_resumed_run_ends_with_the_same_bits(config, hypernetwork):
    config = config.replace(ghn=hypernetwork)
    whole = Trainer(config)
    for _ in range(5):
        step(whole)
    part = Trainer(config)
    for _ in range(2):
        step(part)
    part.save()

    torch.manual_seed(99)  # another process draws something else
    resumed = Trainer(config)
    assert resumed.resume()
    for _ in range(3):
        step(resumed)

    assert resumed.step == whole.step == 5
    expected = state(whole)
    assert all(torch.equal(v, expected[k]) for k, v in state(resumed).items())


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


def test_the_learning_rate_warms_up_stays_and_cools_down(config):
    trainer = Trainer(config.replace(lr=1.0, warmup=10, steps=110, cooldown=0.5))
    rates = []
    for trainer.step in range(111):
        rates.append(trainer.learning_rate())

    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[10:61] == [1.0] * 51
    assert rates[61:] == pytest.approx([math.cos(math.pi * k / 100) ** 2 for k in range(1, 51)])


def test_a_run_can_be_given_more_steps(config):
    train(config)

    assert train(config.replace(steps=8)).step == 8
    assert json.loads((Path(config.out) / "config.json").read_text())["steps"] == 8


def test_a_resumed_run_logs_each_step_once(config):
    trainer = train(config.replace(eval_every=2, eval_networks=1))
    log = Path(config.out) / "log.jsonl"
    late = [json.dumps({"step": step}) for step in (trainer.step, trainer.step + 1)]
    log.write_text("\n".join([*late, '{"step": 9, "lo']))

    train(trainer.config)

    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [trainer.step]


def test_steps_without_a_finite_network_count_in_no_loss(config, monkeypatch):
    found = iter([(math.nan, math.nan), (2.0, 0.5), (math.nan, math.nan), (4.0, 0.25)])

    def take_step(trainer, inputs, labels):
        trainer.step += 1
        return next(found, (math.nan, math.nan))

    monkeypatch.setattr(Trainer, "take_step", take_step)
    records = []
    trainer = train(config.replace(steps=54, eval_networks=0), records.append)

    assert [r.step for r in records] == [50, 54]
    assert (records[0].loss, records[0].accuracy) == (3.0, 0.375)
    assert math.isnan(records[1].loss)
    lines = (Path(trainer.config.out) / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [3.0, None]


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


def test_an_interrupted_run_has_records_of_the_same_steps(config):
    settings = config.replace(steps=60, meta_batch=1, batch=2, eval_networks=0, pool=1)
    train(settings.replace(steps=30))
    train(settings)

    lines = (Path(config.out) / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [30, 50, 60]


def test_a_run_is_not_made_shorter(config):
    train(config)

    with pytest.raises(ConfigError, match="has taken 6 steps"):
        train(config.replace(steps=3))

    assert json.loads((Path(config.out) / "config.json").read_text())["steps"] == 6


@pytest.mark.parametrize("name", ["config.json", "step-*.safetensors"])
def test_a_damaged_run_is_told_in_words(config, name):
    train(config)
    [path] = Path(config.out).rglob(name)
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(CheckpointError, match=r"damaged|cut off"):
        train(config.replace(steps=8))


def pictures(place, count):
    for number in range(count):
        folder = place / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (9 * number, 0, 0)).save(folder / f"{number}.png")


def test_a_run_goes_on_with_its_own_data_alone_wherever_they_are(config, tmp_path):
    pictures(tmp_path / "old", 40)
    settings = config.replace(data=str(tmp_path / "old"), eval_networks=0)
    train(settings)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = settings.replace(data=str(tmp_path / "new"), steps=8)

    assert train(moved).step == 8
    pictures(tmp_path / "new", 42)
    images._load_whole.cache_clear()
    with pytest.raises(ConfigError, match="the data have changed"):
        train(moved.replace(steps=10))


def test_images_have_the_side_that_is_asked_for(config):
    trainer = Trainer(config.replace(side=16))

    assert trainer.task.settings["image"] == 16
    assert math.isfinite(step(trainer)[0])


def test_what_a_run_began_with_may_be_gone_when_it_goes_on(config, tmp_path):
    first = train(config)
    first.averaged().save_pretrained(tmp_path / "start")
    second = config.replace(start=str(tmp_path / "start"), out=str(tmp_path / "second"))
    train(second.replace(steps=2))
    (tmp_path / "start").rename(tmp_path / "elsewhere")

    assert train(second).step == 6


def test_a_run_without_a_checkpoint_takes_other_settings(config, monkeypatch):
    def stop(step):
        raise OSError("the machine is gone")

    with pytest.raises(OSError, match="gone"):
        train(config, tick=stop)

    assert train(config.replace(lr=1e-4)).step == 6


def test_what_does_not_touch_the_training_may_change_on_the_way(config):
    train(config)

    assert train(config.replace(steps=7, eval_every=7, eval_networks=1, workers=1)).step == 7


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: workers of a test run ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_run_after_its_step_and_loses_nothing(config, interruptible):
    whole = train(config.replace(out=f"{config.out}-whole"))

    def interrupt(step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, tick=interrupt)

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert newest(Path(config.out)).name == "step-00000003.safetensors"
    expected = state(whole)
    assert all(torch.equal(v, expected[k]) for k, v in state(train(config)).items())


def test_a_run_that_ignores_signals_goes_on_ignoring_them(config, interruptible):
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    assert train(config, tick=lambda step: signal.raise_signal(signal.SIGINT)).step == 6


def test_no_record_is_lost_where_a_run_dies_while_it_evaluates(config, monkeypatch):
    settings = config.replace(eval_every=3, eval_networks=1, checkpoint_seconds=0.0)

    def dies(*_):
        raise OSError("the machine is gone")

    with monkeypatch.context() as broken:
        broken.setattr(loop, "evaluate", dies)
        with pytest.raises(OSError, match="gone"):
            train(settings)
    train(settings)

    lines = (Path(config.out) / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]


def test_every_step_is_told(config):
    told = []

    train(config, tick=told.append)

    assert told == [1, 2, 3, 4, 5, 6]


def test_a_tracker_shows_no_step_twice_after_a_run_was_stopped(config):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = config.replace(eval_every=2, eval_networks=1, checkpoint_seconds=1e9)

    def stop(record):
        if record.step == 4:
            raise OSError("the machine is gone")

    with pytest.raises(OSError, match="gone"):
        train(settings, stop)
    train(settings)

    events = accumulator.EventAccumulator(str(Path(config.out) / "tracker")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]


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


def test_held_out_data_that_is_missing_is_told_before_the_first_step(config, tmp_path):
    (tmp_path / "train.txt").write_text("to be or not to be, " * 40)
    text = config.replace(data=str(tmp_path), families=("gpts",), shares=(1.0,), context=100)

    with pytest.raises(DataError, match="too few for 100"):
        Trainer(text)
    Trainer(text.replace(context=20))


def test_a_tracker_that_is_not_installed_is_refused(config):
    with pytest.raises(ConfigError, match="'wandb' is not installed"):
        Trainer(config.replace(tracker="wandb"))


def test_the_recipe_of_the_embedded_checkpoint_is_a_valid_configuration():
    recipes = list((Path(loop.__file__).parent / "recipes").glob("*.toml"))

    assert "vision-cifar10" in {path.stem for path in recipes}
    for path in recipes:
        assert TrainConfig.from_toml(path).data in ("cifar10", "books")


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="split must be"):
        TrainConfig(split="val")
    with pytest.raises(ConfigError, match="one entry for each family"):
        TrainConfig(shares=(1.0,))


def test_training_writes_its_settings_log_and_checkpoint_and_refuses_other_settings(config):
    records = []
    trainer = train(config.replace(eval_every=6, eval_networks=1), records.append)

    log = Path(trainer.config.out) / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert records[-1].step == lines[-1]["step"] == 6
    assert set(lines[-1]["held_out"]) == {"all", "convnets", "vits"}
    with pytest.raises(ConfigError, match="other settings"):
        train(trainer.config.replace(lr=1.0))
    assert train(trainer.config).step == 6


def test_batch_statistics_of_a_run_do_not_reach_the_target():
    target = make_target("convnets", ConvNetConfig(widths=(8, 8)))
    before = {k: v.clone() for k, v in target.buffers.items()}
    parameters = {k: torch.randn(p.shape) * 0.1 for k, p in target.model.named_parameters()}

    target.run(parameters, torch.randn(4, 3, 32, 32))

    assert all(torch.equal(v, before[k]) for k, v in target.buffers.items())


def test_an_untrained_hypernetwork_scores_about_chance(config):
    result = evaluate(Trainer(config).averaged(), config.replace(eval_networks=2), inputs=200)

    assert 0.0 <= result.by_family()["all"] < 0.35
    assert {s.family for s in result.scores} == {"convnets", "vits"}
    assert set(result.by_norm()) <= {"batch", "group", "layer", "none"}


def test_a_run_may_begin_with_the_weights_of_a_checkpoint(config, tmp_path):
    first = Trainer(config)
    first.averaged().save_pretrained(tmp_path / "start")

    again = config.replace(start=str(tmp_path / "start"), out=str(tmp_path / "second"), seed=1)
    second = Trainer(again)

    for name, value in first.ghn.named_parameters():
        assert torch.equal(second.ghn.get_parameter(name), value)
    step(second)
    assert second.skipped == 0
    assert any(not torch.equal(value, state(second)[name]) for name, value in state(first).items())


def test_a_run_with_settings_of_its_own_takes_over_what_fits(config, tmp_path):
    first = Trainer(config)
    first.averaged().save_pretrained(tmp_path / "start")
    smaller = SMALL.replace(spread=2.0, decoder=SMALL.decoder.replace(rows=24, rank=16))

    second = Trainer(
        config.replace(start=str(tmp_path / "start"), ghn=smaller, out=str(tmp_path / "second"))
    )

    theirs, ours = state(first), state(second)
    rows = ours["decoder.head.codes.out"]
    assert second.ghn.config.spread == 2.0
    assert rows.shape[0] == 24
    width = theirs["decoder.head.codes.out"].shape[1]
    assert torch.equal(rows[:, :width], theirs["decoder.head.codes.out"][:24])
    assert torch.equal(
        ours["encoder.input.operator.weight"], theirs["encoder.input.operator.weight"]
    )
    step(second)
    assert second.skipped == 0


def test_a_start_of_another_kind_or_for_other_inputs_is_refused(config, tmp_path):
    Trainer(config).averaged().save_pretrained(tmp_path / "start")
    start = str(tmp_path / "start")

    with pytest.raises(ConfigError, match="leave ghn out"):
        Trainer(config.replace(start=start, ghn=SMALL.replace(decoder=TiledDecoderConfig(dim=16))))
    (tmp_path / "a.txt").write_text("abc " * 2000)
    text = {"families": ("gpts",), "shares": (1.0,), "data": str(tmp_path / "a.txt"), "context": 16}
    with pytest.raises(ConfigError, match="for vision"):
        Trainer(config.replace(start=start, ghn=GHNConfig(), **text))
