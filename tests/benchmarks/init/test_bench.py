from __future__ import annotations

import dataclasses
import json

import pytest

from ghn.benchmarks.init import InitConfig, bench, run_bench, save_result
from ghn.benchmarks.init.curves import group_lines
from ghn.errors import ConfigError

MODELS = ("vits:0:test", "convnets:1:test")


def config(out, **changes) -> InitConfig:
    settings = {
        "models": MODELS,
        "data": "digits",
        "steps": 4,
        "batch": 8,
        "rates": (1e-3, 3e-3),
        "seeds": (1, 2),
        "scored": 40,
        "tests": 2,
        "jobs": 1,
        "source_steps": 2,
    }
    return InitConfig(out=str(out), **{**settings, **changes})


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
    monkeypatch.setattr(bench, "run_trial", lambda *_: pytest.fail("trained again"))

    again = run_bench(settings)

    assert again.to_dict()["networks"] == result.to_dict()["networks"]


def test_a_lost_run_is_made_again_with_the_same_bits(finished):
    settings, _ = finished
    files = sorted(path for path in bench.runs_folder(settings).glob("*.json"))
    lost = next(f for f in files if f.name != "settings.json")
    before = lost.read_text()
    lost.unlink()

    run_bench(settings)

    assert json.loads(lost.read_text())["run"] == json.loads(before)["run"]


def test_results_of_other_settings_are_not_mixed(finished):
    settings, _ = finished

    with pytest.raises(ConfigError, match="steps"):
        run_bench(settings.replace(steps=5))


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


def test_all_starts_are_fit_to_run(tmp_path):
    settings = config(
        tmp_path,
        models=MODELS[:1],
        starts=(
            *("default", "orthogonal", "lsuv", "trained", "ghn", "ghn+noise"),
            "ghn+orthogonalize+calibrate:vision-cifar10",
        ),
        rates=(1e-3,),
        seeds=(1,),
        steps=2,
    )

    result = run_bench(settings)

    first = [result.networks[0].runs[start][0].losses[0] for start in settings.starts]
    assert len(set(first)) == len(first)  # all different


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": ("default", "magic")}, "unknown start 'magic'"),
        ({"starts": ("default", "ghn+magic")}, "ghn.noise, ghn.orthogonalize"),
        ({"starts": ("default", "lsuv+noise")}, "unknown start"),
        ({"seeds": (0, 1)}, "seed 0"),
        ({"models": ("vits:x",)}, "named by a seed"),
        ({"models": ("vits:0:test", "gpts:0:test")}, "all read images, or all read text"),
    ],
)
def test_wrong_settings_are_named_before_anything_runs(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        run_bench(config(tmp_path, **changes))
