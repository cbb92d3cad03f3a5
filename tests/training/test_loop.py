import json
import math
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from training_helpers import SMALL, state, step

import ghn.training.loop as loop
from ghn.data import images
from ghn.decoders import ImplicitDecoderConfig
from ghn.engine import GHNConfig
from ghn.errors import CheckpointError, ConfigError, DataError, GHNError
from ghn.training import TrainConfig, Trainer, make_target, train
from ghn.training.evaluate import evaluate
from ghn.training.state import newest
from ghn.zoo import ConvNetConfig

NOISY = GHNConfig(
    encoder=SMALL.encoder,
    decoder=ImplicitDecoderConfig(dim=16, noise=1.0),
)


def test_the_loss_falls(config):
    trainer = Trainer(config.replace(steps=50, meta_batch=1, batch=64, lr=0.1))
    trainer.pool = [make_target("convnets", ConvNetConfig(widths=(16, 16), stem_stride=2))]

    losses = [step(trainer)[0] for _ in range(50)]

    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


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


def test_a_run_whose_settings_are_lost_does_not_go_on_under_others(config):
    train(config)
    (Path(config.out) / "config.json").unlink()

    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        train(config.replace(steps=8, lr=0.7))


def test_a_record_has_the_learning_rate_of_its_step(config):
    rates = []
    train(config.replace(steps=1, warmup=0, lr=0.5), progress=lambda r: rates.append(r.lr))

    assert rates == [0.5]


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


def test_a_run_that_has_diverged_ends(config, monkeypatch):
    monkeypatch.setattr(loop, "HOPELESS", 3)

    with pytest.raises(GHNError, match=r"last 3 steps every network was skipped.* lr=1e\+38"):
        train(config.replace(lr=1e38, steps=40))


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


def test_an_untrained_hypernetwork_scores_about_chance(config):
    result = evaluate(Trainer(config).averaged(), config.replace(eval_networks=2), inputs=200)

    assert 0.0 <= result.by_family()["all"] < 0.35
    assert {s.family for s in result.scores} == {"convnets", "vits"}
    assert set(result.by_norm()) <= {"batch", "group", "layer", "none"}
