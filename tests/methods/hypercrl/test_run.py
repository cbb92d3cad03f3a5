"""The command: it runs, goes on, and writes what it found."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="needs the extra rl: pip install -e '.[rl]'")

from hypercrl_helpers import Cart, cart_cost
from typer.testing import CliRunner

from ghn.cli import app
from ghn.errors import ConfigError, UnknownNameError
from ghn.methods.hypercrl import run as module
from ghn.methods.hypercrl.film import film_of, film_strip
from ghn.methods.hypercrl.run import METHODS, RunConfig, run
from ghn.methods.hypercrl.scenarios import SCENARIOS, Scenario
from ghn.methods.hypercrl.variants import Variant

TINY = {
    "hidden": [8],
    "random": 30,
    "steps": 4,
    "rounds": 1,
    "round_transitions": 4,
    "round_steps": 2,
    "planner": {"horizon": 2, "samples": 4, "elites": 2, "iterations": 1},
}


@pytest.fixture
def carts(monkeypatch):
    """A scenario without a simulator."""
    scenario = Scenario(
        summary="carts",
        make=lambda variant, **_: Cart(variant.gear),
        tasks={"plain": Variant(), "reversed": Variant(gear=-1.0)},
        cost=cart_cost,
        settings=TINY,
        success=lambda states: bool((states[:, 3].abs() < 0.3).any()),
        episodes=1,
    )
    monkeypatch.setitem(SCENARIOS._entries, "carts", scenario)
    monkeypatch.setattr(module, "TESTED", 40)
    monkeypatch.setattr(module, "check_variants", lambda environments: {"reversed": 1.0})
    return scenario


def test_a_run_compares_methods_and_writes_tables_plots_and_a_report(carts, tmp_path):
    config = RunConfig(
        scenario="carts",
        methods=("dense", "coreset"),
        out=str(tmp_path),
    )

    result = run(config)
    result.write(tmp_path, {"command": "ghn run", "machine": {}, "versions": {}})

    columns, cells = result.table()
    assert [line[0] for line in cells] == ["dense", "coreset"]
    assert all(len(line) == len(columns) for line in cells)
    assert ">reached, reversed" in columns
    written = json.loads((tmp_path / "hypercrl-carts.json").read_text())
    scores = written["rows"][0]["scores"]
    assert [list(score) for score in scores] == [["plain"], ["plain", "reversed"]]
    assert len(scores[1]["plain"]["returns"]) == 1
    assert "| coreset |" in (tmp_path / "hypercrl-carts.md").read_text()
    page = (tmp_path / "hypercrl-carts.html").read_text()
    assert "no film" in page  # carts cannot be drawn
    assert "Model error of task 1" in page


def test_a_run_goes_on_after_the_last_task_with_the_same_scores(carts, tmp_path):
    settings = {"scenario": "carts", "methods": ("dense",), "film": False}
    whole = run(RunConfig(out=str(tmp_path / "whole"), **settings))
    run(RunConfig(out=str(tmp_path / "parts"), tasks=1, **settings))

    parts = run(RunConfig(out=str(tmp_path / "parts"), **settings))

    for one, other in zip(whole.rows[0].scores, parts.rows[0].scores, strict=True):
        for name in one:
            assert one[name]["error"] == other[name]["error"]
            assert one[name]["returns"] == other[name]["returns"]
    with pytest.raises(ConfigError, match="other settings"):
        run(RunConfig(out=str(tmp_path / "parts"), settings={"batch": 9}, **settings))


def test_the_ratio_is_the_first_tasks_last_error_over_its_first(carts, tmp_path):
    [row] = run(
        RunConfig(scenario="carts", methods=("separate",), out=str(tmp_path), film=False)
    ).rows

    assert row.error_ratio() == 1.0  # networks of their own forget nothing
    row.scores[-1]["plain"]["error"] *= 3
    assert row.error_ratio() == pytest.approx(3.0)


def test_the_command_prints_json_and_nothing_else(carts, tmp_path):
    words = ["run", "hypercrl", "--scenario", "carts", "--methods", "separate", "--json"]

    done = CliRunner().invoke(app, [*words, "--no-film", "--out", str(tmp_path / "runs")])

    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["tasks"] == ["plain", "reversed"]
    assert found["record"]["data"].keys() == {"gymnasium", "mujoco"}
    assert "Example: ghn run hypercrl" in CliRunner().invoke(app, [*words[:2], "--help"]).output


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="reacher"):
        run(RunConfig(scenario="reachr", out=str(tmp_path)))
    with pytest.raises(UnknownNameError, match="dense"):
        run(RunConfig(methods=("denze",), out=str(tmp_path)))
    with pytest.raises(ConfigError, match="a method, a seed"):
        RunConfig(seeds=())


def test_every_learner_has_a_name_and_a_setting_without_hints():
    assert {n.removesuffix("-first") for n in METHODS} == {n for n in METHODS if "first" not in n}
    assert METHODS["joint-first"].settings["normalise"] == "first"


def test_pictures_lie_side_by_side():
    from io import BytesIO

    from PIL import Image

    frames = [np.full((10, 12, 3), shade, np.uint8) for shade in (0, 120, 250)]

    strip = np.asarray(Image.open(BytesIO(film_strip(frames))).convert("RGB"))

    assert strip.shape == (10, 3 * 12 + 2 * 4, 3)
    assert strip[5, 6].tolist() == [0, 0, 0]
    assert abs(int(strip[5, 38, 0]) - 250) < 6


@pytest.mark.slow
def test_an_episode_of_the_door_is_filmed(tmp_path):
    from ghn.methods.hypercrl import DynamicsConfig, Separate

    scenario = SCENARIOS["door"]
    env = scenario.make(scenario.tasks["standard"])
    learner = Separate(env, DynamicsConfig.from_dict({**TINY, "rounds": 0}))
    learner.learn("standard", env)

    films = film_of(learner, scenario, ["standard"], tmp_path)

    if isinstance(films["standard"], str):
        pytest.skip(films["standard"])
    assert films["standard"].startswith(b"\x89PNG")
    assert film_of(learner, scenario, ["standard"], tmp_path) == films
