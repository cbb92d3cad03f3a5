from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from bench_init_helpers import MODELS, MODELS_FILE, config
from PIL import Image

from ghn import GHN
from ghn.benchmarks.init import bench, run_bench, save_result, trials
from ghn.benchmarks.init.curves import group_lines
from ghn.benchmarks.init.trials import load_bench_data, runs_folder, scored_counts
from ghn.data import load_images, normalize
from ghn.errors import ConfigError, GHNError
from ghn.io import sole_writer, write_text


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    return config(out), run_bench(config(out))


def test_every_network_runs_from_every_start_with_every_seed(finished):
    _, result = finished

    assert [n.name for n in result.networks] == list(MODELS)
    for network in result.networks:
        assert set(network.runs) == {"default", "ghn"}
        assert all(len(runs) == 2 for runs in network.runs.values())
        assert all(len(network.tried[start]) >= 2 for start in network.runs)
        assert all(
            network.rates[start] == min(losses, key=losses.get)
            for start, losses in network.tried.items()
        )
    assert result.networks[0].notes["ghn"]["predicted"] > 10


def test_a_finished_benchmark_trains_nothing_again(finished, monkeypatch):
    settings, result = finished
    monkeypatch.setattr(bench, "try_trial", lambda *_: pytest.fail("trained again"))

    again = run_bench(settings)

    assert again.to_dict()["networks"] == result.to_dict()["networks"]


def test_a_lost_run_is_made_again_with_the_same_bits(finished):
    settings, _ = finished
    files = sorted(path for path in runs_folder(settings).glob("*.json"))
    lost = next(f for f in files if f.name != "settings.json")
    before = lost.read_text()
    lost.unlink()

    run_bench(settings)

    assert json.loads(lost.read_text())["run"] == json.loads(before)["run"]


def test_a_damaged_run_is_made_again(finished):
    settings, result = finished
    damaged = sorted(p for p in runs_folder(settings).glob("*.json") if p.stem != "settings")
    for path, text in zip(damaged, ('{"trunc', "[1]", "{}"), strict=False):
        path.write_text(text)

    again = run_bench(settings)

    assert [n.runs for n in again.networks] == [n.runs for n in result.networks]
    assert [n.tried for n in again.networks] == [n.tried for n in result.networks]


def test_each_of_the_test_data_has_scores_and_tables_of_its_own(finished, tmp_path):
    _, alone = finished
    settings = config(tmp_path, test_data=("digits:val", "digits:test"))

    result = run_bench(settings)
    again = run_bench(settings)
    save_result(again, tmp_path)

    [other] = result.others().values()
    for network, elsewhere, once in zip(
        result.networks, other.networks, alone.networks, strict=True
    ):
        assert network.rates == elsewhere.rates == once.rates
        assert network.finals("ghn") == once.finals("ghn")
        assert elsewhere.finals("ghn") != network.finals("ghn")
    found = json.loads((tmp_path / "result.json").read_text())
    assert again.others()["digits/test"].summaries() == other.summaries()
    assert found["others"]["digits/test"]["summary"][0]["final"] == other.summaries()[0].final
    text = (tmp_path / "result.md").read_text()
    assert "of digits/val, which verdicts and curves are of, and on the first 40" in text
    assert "## Networks on digits/test" in text
    assert "The split val is the end of the training images" in text
    assert "--test-data digits:val --test-data digits:test" in text


def test_each_of_the_test_data_is_scored_on_as_much_as_it_has(tmp_path):
    folder = tmp_path / "few"
    for number in range(40):
        place = folder / f"{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(place / f"{number}.png")

    data = load_bench_data(config(tmp_path, test_data=("digits", f"{folder}:test")), "vision")

    assert scored_counts(data) == {"digits/val": 40, f"{folder}/test": 4}


def test_images_are_moved_as_is_asked_for(tmp_path):
    def picked(**changes):
        data = load_bench_data(config(tmp_path, **changes), "vision")
        return data.train.batch(8, torch.Generator().manual_seed(0))[0]

    index = torch.randint(
        len(load_images("digits", "fit")), (8,), generator=torch.Generator().manual_seed(0)
    )
    still = normalize(load_images("digits", "fit").images[index])

    assert torch.equal(picked(flip=0.0, shift=0), still)
    assert torch.equal(picked(flip=1.0, shift=0), still.flip(-1))
    assert not torch.equal(picked(), still)


def test_the_grid_is_widened_until_the_best_rate_lies_within_it(tmp_path, monkeypatch):
    def best_at_one(settings, trial):
        loss = abs(math.log10(trial.rate))
        run = {"losses": [loss], "scores": [[0, 0.1], [4, 0.2]]}
        return {"run": run, "parameters": 1, "notes": {}}

    monkeypatch.setattr(bench, "try_trial", best_at_one)
    [wide, _] = run_bench(config(tmp_path / "wide")).networks
    [single, _] = run_bench(config(tmp_path / "single", rates=(1e-3,))).networks

    assert wide.rates["ghn"] == pytest.approx(1.0, rel=0.1)
    assert not wide.on_edge("ghn")
    assert max(wide.tried["ghn"]) < 4
    assert list(single.tried["ghn"]) == [1e-3]
    assert not single.on_edge("ghn")


def test_results_of_other_settings_are_not_mixed(finished):
    settings, _ = finished

    run_bench(settings)  # the same ones are
    file = runs_folder(settings) / "settings.json"
    found = json.loads(file.read_text())
    del found["clip"]  # as an earlier version wrote it
    file.write_text(json.dumps(found))
    run_bench(settings)
    for changes in ({"steps": 5}, {"clip": 1.0}, {"mixed_precision": "bf16"}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            run_bench(settings.replace(**changes))


def test_the_files_say_what_was_measured(finished, tmp_path):
    _, result = finished

    files = save_result(result, tmp_path)

    text = (tmp_path / "result.md").read_text()
    assert all(f.is_file() for f in files)
    assert "ghn bench init" in text
    assert all(name in text for name in MODELS)
    assert json.loads((tmp_path / "result.json").read_text())["config"]["steps"] == 4
    page = (tmp_path / "result.html").read_text()
    assert f"<pre>{result.record.command}</pre>" in page
    assert page.count("<figure>") == len({n.group for n in result.networks})
    assert all(name in page for name in MODELS)
    assert "Recommended learning rate" in page


def test_a_curve_is_the_mean_over_networks_with_the_spread_of_seeds(finished):
    _, result = finished
    both = dataclasses.replace(
        result, networks=[dataclasses.replace(n, group="both") for n in result.networks]
    )

    lines = group_lines(both)["both"]

    assert [line.label for line in lines] == list(result.config.starts)
    for line in lines:
        finals = [[run.scores[-1][1] for run in n.runs[line.label]] for n in both.networks]
        expected = [50 * (a + b) for a, b in zip(*finals, strict=True)]
        assert [run[-1] for run in line.runs] == pytest.approx(expected)


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_damaged_settings_of_a_folder_are_told_in_words(tmp_path, text):
    settings = config(tmp_path)
    write_text(runs_folder(settings) / "settings.json", text)

    with pytest.raises(ConfigError, match="is damaged"):
        run_bench(settings)


def test_a_seed_that_diverges_is_a_loss_whatever_the_norm(tmp_path, monkeypatch):
    file = tmp_path / "nets.py"
    file.write_text(MODELS_FILE)
    models = (f"{file}:plain", f"{file}:normed")
    settings = config(tmp_path / "out", models=models, seeds=(1, 2), rates=(1e-3,), steps=3)
    begin = trials.initialize

    def spoiled(model, start, *rest):
        notes = begin(model, start, *rest)
        if start == "ghn" and rest[2] == 2:
            torch.nn.init.constant_(model[0].weight, math.inf)
        return notes

    monkeypatch.setattr(trials, "initialize", spoiled)

    result = run_bench(settings)

    assert [n.name for n in result.networks] == list(models)
    assert not result.failed
    for network in result.networks:
        assert network.diverged("ghn")
        assert network.gain("ghn", "default").verdict == "loss"


def test_a_network_whose_file_has_changed_is_measured_anew(tmp_path):
    file = tmp_path / "nets.py"
    settings = config(tmp_path / "out", models=(f"{file}:net",), seeds=(1,), rates=(1e-3,))
    found = []
    for width in (8, 16):
        file.write_text(
            "from torch import nn\ndef net(): return nn.Sequential("
            f"nn.Flatten(), nn.Linear(3072, {width}), nn.ReLU(), nn.Linear({width}, 10))\n"
        )
        found.append(run_bench(settings).networks[0].parameters)

    assert found == [3073 * 8 + 90, 3073 * 16 + 170]


def test_a_start_that_predicts_nothing_is_named(finished, tmp_path):
    _, result = finished
    idle = dataclasses.replace(result.networks[0], notes={"default": {}, "ghn": {"predicted": 0}})

    save_result(dataclasses.replace(result, networks=[idle]), tmp_path)

    assert f"ghn predicts nothing of {idle.name}" in (tmp_path / "result.md").read_text()


def test_a_checkpoint_with_other_weights_is_measured_anew(tmp_path):
    ghn = GHN.from_pretrained("vision-cifar10")
    ghn.save_pretrained(tmp_path / "checkpoint")
    start = f"ghn:{tmp_path / 'checkpoint'}"
    settings = config(
        tmp_path / "out", models=MODELS[1:], starts=("default", start), seeds=(1,), rates=(1e-3,)
    )
    first = run_bench(settings).networks[0].runs

    with torch.no_grad():
        for parameter in ghn.parameters():
            parameter.mul_(0.5)
    ghn.save_pretrained(tmp_path / "checkpoint")
    second = run_bench(settings).networks[0].runs

    assert second["default"] == first["default"]
    assert second[start] != first[start]


def test_a_checkpoint_with_other_settings_is_measured_anew(tmp_path, monkeypatch):
    ghn = GHN.from_pretrained("vision-cifar10")
    ghn.save_pretrained(tmp_path / "checkpoint")
    start = f"ghn:{tmp_path / 'checkpoint'}"
    settings = config(
        tmp_path / "out", models=MODELS[1:], starts=("default", start), seeds=(1,), rates=(1e-3,)
    )
    run_bench(settings)
    ghn.config = ghn.config.replace(spread=2 * ghn.config.spread)
    ghn.save_pretrained(tmp_path / "checkpoint")
    trained = []

    def record(_, trial):
        trained.append(trial.start)
        return {"run": {"losses": [1.0], "scores": [[0, 0.1]]}, "parameters": 1, "notes": {}}

    monkeypatch.setattr(bench, "try_trial", record)
    run_bench(settings)

    assert trained == [start, start]


def test_results_of_workers_that_write_elsewhere_are_kept(tmp_path, monkeypatch):
    def elsewhere(_, trial):
        return {"run": {"losses": [1.0], "scores": [[0, 0.1]]}, "parameters": 1, "notes": {}}

    monkeypatch.setattr(bench, "try_trial", elsewhere)
    first = run_bench(config(tmp_path))
    monkeypatch.setattr(bench, "try_trial", lambda *_: pytest.fail("trained again"))

    assert run_bench(config(tmp_path)).to_dict()["networks"] == first.to_dict()["networks"]


def test_where_all_rates_diverge_the_search_goes_down_in_any_order(tmp_path, monkeypatch):
    def diverging(_, trial):
        loss = abs(math.log10(trial.rate) + 4) if trial.rate < 2e-4 else math.inf
        return {"run": {"losses": [loss], "scores": [[0, 0.1]]}, "parameters": 1, "notes": {}}

    monkeypatch.setattr(bench, "try_trial", diverging)
    for number, rates in enumerate([(1e-3, 3e-3), (3e-3, 1e-3)]):
        [network, _] = run_bench(config(tmp_path / str(number), rates=rates)).networks
        assert network.rates["ghn"] == 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": ("default", "ghn:")}, "unknown start"),
        ({"rates": (1e-3, float("nan"))}, "finite learning rates"),
        ({"clip": -1.0}, "clip must be finite and at least 0, got -1.0"),
        ({"mixed_precision": "fp8"}, "'no' or 'bf16', got 'fp8'"),
        ({"models": ("vits:1", "vits:1:test")}, "vits:1:test"),
        ({"models": ("timm:resnet_18",)}, "resnet18"),
        ({"models": ("nothere.py:net",)}, "nothere.py"),
        ({"starts": ("default", "ghn:nowhere")}, "vision-cifar10"),
        ({"starts": ("default", "magic")}, "unknown start 'magic'"),
        ({"starts": ("default", "ghn+magic")}, "ghn.noise, ghn.orthogonalize"),
        ({"starts": ("default", "lsuv+noise")}, "unknown start"),
        ({"starts": ("default", "ghn+noise+noise")}, r"'ghn\+noise\+noise' does something twice"),
        (
            {"starts": ("ghn+noise+calibrate", "ghn+calibrate+noise")},
            "starts must be at least two different ones",
        ),
        ({"starts": ("ghn", "ghn:vision-cifar10")}, "'ghn' and 'ghn:vision-cifar10' are the same"),
        ({"starts": ("default", "ghn:text-bytes")}, "writes networks for text"),
        ({"test_data": ("OTHER",)}, r"classes 2, image 32 .0, 1., not classes 10, image 32 .0, 1"),
        ({"test_data": ("digits", "digits:val")}, "test_data must differ"),
        ({"test_data": ("digits:fit",)}, "scores are taken on val or test, got 'digits:fit'"),
        ({"networks": 0}, "networks must be at least 1, got 0"),
        ({"tests": 1}, "tests must be at least 2, got 1"),
        ({"flip": 1.5}, "flip must be between 0 and 1, got 1.5"),
        ({"shift": -1}, "shift must be at least 0, got -1"),
        ({"seeds": (0, 1)}, "seed 0"),
        ({"models": ("vits:x",)}, "named by a seed"),
        ({"models": ("vits:0:test", "gpts:0:test")}, "all read images, or all read text"),
    ],
)
def test_wrong_settings_are_named_before_anything_runs(tmp_path, changes, message):
    if changes.get("test_data") == ("OTHER",):
        for number in range(20):
            place = tmp_path / "other" / f"{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(place / f"{number}.png")
        changes = {"test_data": (str(tmp_path / "other"),)}
    with pytest.raises(GHNError, match=message):
        run_bench(config(tmp_path, **changes))


def test_a_folder_is_written_by_one_benchmark_at_a_time(tmp_path):
    with sole_writer(tmp_path), pytest.raises(ConfigError, match="another process writes"):
        run_bench(config(tmp_path))
