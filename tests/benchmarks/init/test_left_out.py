from __future__ import annotations

import dataclasses
import json
import shlex

from bench_init_helpers import MODELS, MODELS_FILE, config
from typer.testing import CliRunner

from ghn.benchmarks.init import run_bench
from ghn.benchmarks.init.save import save_result
from ghn.cli import app


def test_networks_that_cannot_be_trained_are_left_out_with_a_reason(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(MODELS_FILE)
    bad = [f"{file}:{name}" for name in ("frozen", "wrong", "raising", "few")]
    settings = config(tmp_path / "out", models=(*bad, MODELS[1]), seeds=(1,), rates=(1e-3,))

    result = run_bench(settings)

    assert [n.name for n in result.networks] == [MODELS[1]]
    assert "no parameter that could be trained" in result.failed[bad[0]]
    assert "it emits [2, 10, 30, 30], not logits of shape [2, 'classes']" in result.failed[bad[1]]
    assert "channels" in result.failed[bad[2]]
    assert "it emits 5 logits, the data have 10 classes" in result.failed[bad[3]]
    save_result(dataclasses.replace(result, failed={"net": "first line\n\n  second"}), tmp_path)
    page = (tmp_path / "result.md").read_text()
    assert "\n- Left out: net, first line second\n" in page
    assert "Every start was trained at the rate 0.001; results are from seeds 1." in page


def test_a_network_that_kills_its_process_is_left_out_and_the_others_are_not(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(MODELS_FILE)
    models = (f"{file}:dying", MODELS[1])
    settings = config(tmp_path / "out", models=models, seeds=(1,), rates=(1e-3,), jobs=2)

    result = run_bench(settings)

    assert [n.name for n in result.networks] == [MODELS[1]]
    assert "process has died" in result.failed[models[0]]


def test_the_command_ends_with_status_1_if_a_network_was_left_out(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(MODELS_FILE)
    flags = ["--data", "digits", "--steps", "1", "--batch", "4", "--rates", "1e-3", "--seeds", "1"]
    flags += ["--scored", "8", "--tests", "2", "--jobs", "1", "--json", "--starts", "default"]
    flags += ["--starts", "lsuv", "--models", f"{file}:wrong", "--models", MODELS[1]]

    flags += ["--cuda-graphs", "--out", str(tmp_path / "a b")]

    found = CliRunner().invoke(app, ["bench", "init", *flags])

    assert found.exit_code == 1
    assert "Left out" in found.stderr
    result = json.loads(found.stdout)
    assert list(result["failed"]) == [f"{file}:wrong"]
    words = shlex.split(result["record"]["command"])
    assert str(tmp_path / "a b") in words
    assert "--cuda-graphs" in words
    assert "True" not in words
