from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_model
from ties_helpers import with_random_values

from ghn.data import load_images, normalize
from ghn.errors import CheckpointError, ConfigError, UnknownNameError, UnsupportedModelError
from ghn.methods.neumeta import Family, arms
from ghn.methods.neumeta import run as module
from ghn.methods.neumeta import source as source_module
from ghn.methods.neumeta.benchmarks import BENCHMARKS, _shift
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.features import Examples
from ghn.methods.neumeta.run import RunConfig, run
from ghn.methods.neumeta.source import source_of
from ghn.methods.neumeta.tasks import accuracy
from ghn.zoo import resolve_model

TINY = {"decoder": {"hidden": 8, "layers": 1, "rank": 4, "bands": 3}, "widths": 2}
RECORD = {"command": "ghn run neumeta", "machine": {}, "versions": {}}


@pytest.fixture(autouse=True)
def _quick_search(monkeypatch):
    """Two blocks of few channels need no second for each order."""
    monkeypatch.setattr(arms, "EFFORT", 0.1)


def config(out, **changes):
    plain = {
        "arms": ("field", "slimmable", "individual", "zeroed"),
        "widths": (0.5, 1.0),
        "steps": 1,
        "source_steps": 2,
        "settings": TINY,
        "out": str(out),
    }
    return RunConfig(**{**plain, **changes})


def test_a_run_scores_every_arm_at_every_width_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    first = run(config(tmp_path, arms=("field", "zeroed")))
    rows = tmp_path / "digits-test" / "rows.jsonl"
    kept = rows.read_text().splitlines()
    rows.write_text("\n".join([kept[0], kept[1][:30]]) + "\n")  # stopped while it wrote
    trained = []
    score = module._score
    monkeypatch.setattr(
        module, "_score", lambda arm, setting, w: trained.append((arm, w)) or score(arm, setting, w)
    )

    second = run(config(tmp_path, arms=("field", "zeroed")))

    assert trained == [("field", [1.0]), ("zeroed", [0.5, 1.0])]
    assert [row.score for row in second.rows] == [row.score for row in first.rows]


def test_results_have_a_table_a_plot_a_report_and_the_family_files(tmp_path):
    result = run(config(tmp_path))

    result.write(tmp_path / "written", RECORD)

    found = json.loads((tmp_path / "written" / "neumeta-digits.json").read_text())
    assert [r["arm"] for r in found["rows"]][::2] == ["field", "slimmable", "individual", "zeroed"]
    assert found["rows"][0]["parameters"] < found["rows"][1]["parameters"]
    assert "| field |" in (tmp_path / "written" / "neumeta-digits.md").read_text()
    assert "<svg" in (tmp_path / "written" / "neumeta-digits.html").read_text()
    assert {p.name for p in result.files} >= {"neumeta-digits.svg", "field-0.safetensors"}


def test_the_score_is_over_all_test_images(tmp_path):
    source = source_of(
        dataclasses.replace(BENCHMARKS["digits"], steps=1),
        *("test", 0, tmp_path / "s", torch.device("cpu"), lambda *_: 0, FamilyConfig()),
    )
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(512, 10)).requires_grad_(False)

    found = accuracy(model, source.test)

    assert len(source.test.labels) == 360
    assert source.test.labels.bincount().min() > 25
    right = model(source.test.values.float()).argmax(1) == source.test.labels
    assert found == pytest.approx(100 * right.float().mean().item())


@pytest.mark.parametrize("name", ["digits", "mnist-vae"])
def test_a_training_of_the_full_network_that_was_stopped_ends_with_the_same_bits(
    name, tmp_path, monkeypatch
):
    """Of SGD and images that shift, and of AdamW and codes with noise."""
    digits = BENCHMARKS["digits"].read
    benchmark = dataclasses.replace(BENCHMARKS[name], steps=45, batch=8, vary=_shift)
    if name == "mnist-vae":

        def grey(split):
            data = digits(split)
            pixels = torch.nn.functional.interpolate(data.images[:200, :1].float(), (28, 28)).byte()
            return Examples(pixels, pixels, data.hash)

        benchmark = dataclasses.replace(benchmark, read=grey, vary=None)

    def train(path, ticker=lambda *_: None):
        place = (path, torch.device("cpu"), ticker, FamilyConfig())
        return source_of(benchmark, "test", 0, *place).network.state_dict()

    def stop(done, total, text):
        if done == 40:
            raise OSError("the machine is gone")

    monkeypatch.setattr(source_module, "SECONDS", 0.0)
    whole = train(tmp_path / "whole.safetensors")
    with pytest.raises(OSError, match="gone"):
        train(tmp_path / "stopped.safetensors", stop)
    steps = []
    found = train(tmp_path / "stopped.safetensors", lambda done, *_: steps.append(done))

    assert steps == [45]
    assert all(torch.equal(value, whole[key]) for key, value in found.items())
    assert not (tmp_path / "stopped-training").exists()


@pytest.mark.parametrize(
    "wrong", [{"split": "all"}, {"widths": (0.0,)}, {"widths": (1.5,)}, {"arms": ()}, {"steps": -1}]
)
def test_a_run_refuses_nonsense(tmp_path, wrong):
    with pytest.raises(ConfigError):
        config(tmp_path, **wrong)


def test_a_device_that_is_not_there_is_told_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="device"):
        run(config(tmp_path, device="cuda:99"))
    assert not any(tmp_path.iterdir())


def test_depths_that_no_run_of_blocks_has_are_told_before_a_network_is_trained(tmp_path):
    told = []
    wrong = {**TINY, "depths": {"bloks": [1, 2]}}

    with pytest.raises(UnknownNameError, match="bloks"):
        run(config(tmp_path, settings=wrong), lambda *said: told.append(said))

    assert not told
    assert not list(tmp_path.rglob("*.safetensors"))


def test_rows_of_another_full_network_are_not_taken_for_ones_own(tmp_path):
    run(config(tmp_path, arms=("zeroed",), source_steps=2))

    with pytest.raises(CheckpointError, match=r"trained with steps 2, not 3\. .*--out"):
        run(config(tmp_path, arms=("zeroed",), source_steps=3))
    half = {**TINY, "mixed_precision": "bf16"}
    with pytest.raises(CheckpointError, match="trained with mixed_precision none, not bf16"):
        run(config(tmp_path, arms=("zeroed",), settings=half))


@pytest.mark.parametrize("changed", [{"steps": 2}, {"settings": {**TINY, "calibration": 8}}])
def test_rows_of_other_settings_are_measured_anew(tmp_path, changed, monkeypatch):
    arms = ("field", "pruned")
    run(config(tmp_path, arms=arms))
    scored = []
    score = module._score
    monkeypatch.setattr(
        module, "_score", lambda arm, setting, w: scored.append(arm) or score(arm, setting, w)
    )

    run(config(tmp_path, arms=arms, **changed))
    again = list(scored)
    run(config(tmp_path, arms=arms, **changed))

    assert again == scored == ["field", "pruned"]


def test_a_family_of_another_full_network_is_made_anew(tmp_path):
    run(config(tmp_path, arms=("field",), source_steps=2))
    family = tmp_path / "digits-test" / "field-0.safetensors"
    before = family.read_bytes()
    (tmp_path / "digits-test" / "source-0.safetensors").unlink()

    run(config(tmp_path, arms=("field",), source_steps=3))

    assert family.read_bytes() != before


@pytest.mark.gpu
def test_what_was_made_on_a_gpu_is_made_again_from_its_files_on_a_cpu(tmp_path):
    arms = ("field-on-base", "field", "slimmable", "individual", "interpolated-smooth", "zeroed")
    run(config(tmp_path, arms=arms, device="cuda", steps=3))
    (tmp_path / "digits-test" / "rows.jsonl").unlink()
    written = {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}

    result = run(config(tmp_path, arms=arms[:3], device="cpu", steps=3))

    assert len(result.rows) == 6
    assert {p: p.read_bytes() for p in written} == written


def test_an_unknown_arm_is_told_before_anything_runs(tmp_path):
    with pytest.raises(UnknownNameError, match="slimmable"):
        run(config(tmp_path, arms=("slimable",)))
    assert not any(tmp_path.iterdir())


NETWORK = """
from torch import nn


def make(width=8, classes=10):
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)),
    )
"""


def own(folder, **changes):
    (folder / "net.py").write_text(NETWORK)
    plain = {
        "model": f"{folder}/net.py:make",
        "data": "digits",
        "side": 8,
        "generate": ("0.*", "1.*", "3.*"),
        "arms": ("field-on-base", "slimmable", "zeroed"),
        "source_steps": 0,
    }
    return config(folder / "out", **{**plain, **changes})


def with_weights(folder, seed=0, **arguments):
    network = resolve_model(own(folder).model, **arguments)
    with_random_values(network, seed)
    save_model(network, str(folder / "net.safetensors"))
    return network.eval()


def test_a_network_of_ones_own_is_scored_and_its_family_loads_into_it(tmp_path):
    network = with_weights(tmp_path)

    result = run(own(tmp_path, weights=f"{tmp_path}/net.safetensors"))

    full = {r.arm: r for r in result.rows if r.width == 1.0}
    half = {r.arm: r for r in result.rows if r.width == 0.5}
    assert full["slimmable"].parameters == sum(p.numel() for p in network.parameters())
    assert half["slimmable"].parameters < full["slimmable"].parameters
    test = load_images("digits", "test", 8)
    answers = network(normalize(test.images)).argmax(1)
    head = network[-1].bias.argmax().item()  # zeroed convolutions leave the last layer's bias
    assert full["zeroed"].score == pytest.approx(100 * (test.labels == head).float().mean().item())
    family, _ = Family.load(result.folder / "field-on-base-0.safetensors", network)
    assert family.sample(0.5)[0].out_channels == 4
    untrained = run(own(tmp_path, weights=f"{tmp_path}/net.safetensors", arms=("interpolated",)))
    # Statistics are measured on some training images there.
    score = 100 * (answers == test.labels).float().mean().item()
    assert untrained.rows[-1].score == pytest.approx(score, abs=15)


def test_rows_of_other_weights_are_not_taken_for_those_of_a_network(tmp_path):
    with_weights(tmp_path)
    weights = f"{tmp_path}/net.safetensors"
    run(own(tmp_path, weights=weights, arms=("zeroed",)))
    with_weights(tmp_path, seed=1)

    with pytest.raises(CheckpointError, match="--out"):
        run(own(tmp_path, weights=weights, arms=("zeroed",)))


def test_a_network_without_weights_is_trained_first(tmp_path):
    few = run(own(tmp_path, arms=("interpolated",), source_steps=1, seeds=(0, 1)))
    (tmp_path / "many").mkdir()
    many = run(own(tmp_path / "many", arms=("interpolated",), source_steps=150))

    assert len(few.rows) == 4
    assert many.rows[-1].score > 50 > 2 * few.rows[1].score


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"data": ""}, ConfigError, "--data"),
        ({"model": ""}, ConfigError, "--model"),
        ({"weights": "x.safetensors", "source_steps": 3}, ConfigError, "--source-steps 3"),
        ({"side": 0}, ConfigError, "side"),
        ({"model_args": {"classes": 5}}, ConfigError, "each of the 10 classes"),
        ({"weights": "missing.safetensors"}, CheckpointError, "state dict"),
        ({"generate": ("nothing.*",)}, ConfigError, "nothing"),
        ({"generate": ("8.*",)}, UnsupportedModelError, "generate="),
    ],
)
def test_what_a_network_of_ones_own_lacks_is_told_before_anything_runs(
    tmp_path, changes, error, words
):
    with pytest.raises(error, match=words):
        run(own(tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def test_weights_of_another_network_are_refused(tmp_path):
    with_weights(tmp_path, width=4)

    with pytest.raises(CheckpointError, match="another network"):
        run(own(tmp_path, weights=f"{tmp_path}/net.safetensors"))
