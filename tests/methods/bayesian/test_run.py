import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from ghn.cli import app
from ghn.errors import ConfigError, UnknownNameError
from ghn.methods.bayesian.run import METHODS, RunConfig, run
from ghn.methods.bayesian.tasks import TASKS, network, split


@pytest.mark.parametrize("task", ["diabetes", "digits"])
def test_parts_are_disjoint_seeded_and_scaled_on_training_data_alone(task):
    parts, again, other = (split(task, seed) for seed in (0, 0, 1))

    whole = sum(len(part.inputs) for part in parts.values())
    assert whole == len(TASKS[task].load()[0])
    assert [len(parts["fit"].inputs), len(parts["val"].inputs)] == list(TASKS[task].parts)
    assert torch.equal(parts["test"].inputs, again["test"].inputs)
    assert not torch.equal(parts["test"].inputs, other["test"].inputs)
    assert float(parts["fit"].inputs.mean(0).abs().max()) < 1e-5
    assert float(parts["test"].inputs.mean(0).abs().max()) > 1e-3
    assert network(task)(parts["val"].inputs).shape[1] == TASKS[task].sizes[2]


def test_every_method_chooses_among_equally_many_settings():
    assert {len(maker.settings) for maker in METHODS.values()} == {12}


def test_a_run_chooses_by_validation_data_and_writes_its_results(tmp_path, monkeypatch):
    maker = METHODS["single"]
    few = dataclasses.replace(maker, settings=maker.settings[:2])
    monkeypatch.setitem(METHODS._entries, "single", few)
    config = RunConfig(tasks=("diabetes",), methods=("single",), seeds=(0, 1), steps=8, count=4)

    result = run(config)
    result.write(tmp_path, {"command": "ghn run bayesian", "machine": {}, "versions": {}})

    [choice] = result.choices
    assert choice.settings in few.settings
    assert choice.tried == 2
    assert choice.steps in (1, 2, 4, 8)
    columns, [row] = result.table()
    assert len(row) == len(columns)
    assert row[:4] == ["diabetes", "single", "1,474", "1"]
    written = json.loads((tmp_path / "bayesian.json").read_text())
    assert [r["seed"] for r in written["rows"]] == [0, 1]
    assert set(written["rows"][0]["metrics"]) == {"nll", "score", "coverage", "calibration"}
    assert "| diabetes | single |" in (tmp_path / "bayesian.md").read_text()
    assert (tmp_path / "bayesian.svg").read_text().lstrip().startswith("<?xml")
    page = (tmp_path / "bayesian.html").read_text()
    assert f"diabetes: single ({sum(r.metrics['nll'] for r in result.rows) / 2:.3f})" in page
    assert "<svg" in page


@pytest.mark.slow
def test_the_command_compares_all_methods_on_classes(tmp_path):
    arguments = ["run", "bayesian", "--tasks", "digits", "--seeds", "0", "--steps", "16"]

    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path), "--json"])

    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert [row["method"] for row in found["rows"]] == ["noise", "ensemble", "dropout", "single"]
    assert [row["networks"] for row in found["rows"]] == [50, 10, 50, 1]
    assert all("brier" in row["metrics"] for row in found["rows"])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"steps": 4}, ConfigError),
        ({"seeds": ()}, ConfigError),
        ({"tasks": ("diabetis",)}, UnknownNameError),
        ({"methods": ("nois",)}, UnknownNameError),
    ],
)
def test_runs_that_make_no_sense_are_refused(change, error):
    with pytest.raises(error):
        RunConfig(**change)
