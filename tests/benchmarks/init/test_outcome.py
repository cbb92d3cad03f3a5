from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from ghn.benchmarks.compare import Run
from ghn.benchmarks.init.config import InitConfig
from ghn.benchmarks.init.outcome import InitResult, NetworkResult, bootstrap, steps_to
from ghn.benchmarks.init.save import save_result
from ghn.benchmarks.records import Record, make_record


def network(metric: str = "accuracy", **finals: list[float]) -> NetworkResult:
    """A network whose starts go in a straight line from 0 to each seed's final score."""
    runs = {
        start: [Run([1.0], [(0, 0.0), (100, value)]) for value in values]
        for start, values in finals.items()
    }
    rates = dict.fromkeys(finals, 1e-3)
    return NetworkResult("n", "g", 10, metric, rates, {}, runs, {})


def test_a_curve_meets_a_goal_between_two_scores():
    curve = [(0, 0.1), (100, 0.3), (200, 0.4)]

    assert steps_to(curve, 0.2, 1.0) == pytest.approx(50.0)
    assert steps_to(curve, 0.1, 1.0) == 0
    assert steps_to(curve, 0.5, 1.0) == math.inf
    assert steps_to([(0, 8.0), (10, 4.0)], 6.0, -1.0) == pytest.approx(5.0)


def test_the_interval_holds_the_mean_and_narrows_with_agreement():
    low, high = bootstrap([0.1, 0.2, 0.3, 0.4])
    assert 0.1 <= low < 0.25 < high <= 0.4

    assert bootstrap([0.2, 0.2, 0.2]) == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize(("count", "most"), [(3, 0.28), (5, 0.11), (20, 0.08)])
def test_noise_is_rarely_taken_for_a_gain(count, most):
    draws = np.random.default_rng(1).normal(size=(400, count))

    ends = [bootstrap(values.tolist()) for values in draws]

    assert sum(not low <= 0 <= high for low, high in ends) / 400 < most


def test_seeds_that_agree_make_a_win_and_seeds_that_do_not_make_a_tie():
    assert network(a=[0.3, 0.3, 0.3], b=[0.4, 0.5, 0.45]).gain("b", "a").verdict == "win"
    assert network(a=[0.3, 0.3, 0.3], b=[0.2, 0.4, 0.3]).gain("b", "a").verdict == "tie"

    behind = network(a=[0.30, 0.30], b=[0.295, 0.294]).gain("b", "a")

    assert behind.verdict == "loss"
    assert not behind.worse  # by half a point
    assert network(a=[0.3, 0.3], b=[0.27, 0.28]).gain("b", "a").worse


def test_a_single_seed_decides_nothing():
    gain = network(a=[0.3], b=[0.1]).gain("b", "a")

    assert gain.mean == pytest.approx(-0.2)
    assert (gain.low, gain.high) == (-math.inf, math.inf)
    assert gain.verdict == "tie"
    assert not gain.worse


def test_a_start_some_of_whose_runs_diverge_has_lost_and_one_that_is_compared_with_such_has_won():
    found = network("bits per byte", a=[3.0, 3.1], b=[2.0, math.nan])

    assert found.gain("b", "a").verdict == "loss"
    assert found.gain("b", "a").worse
    assert found.gain("a", "b").verdict == "win"
    assert found.gain("b", "b").verdict == "tie"


def test_a_classifier_whose_loss_is_no_number_has_lost_whatever_its_accuracy():
    found = network(a=[0.1, 0.1], b=[0.1, 0.1])
    broken = [dataclasses.replace(run, losses=[2.3, math.nan]) for run in found.runs["b"]]
    found = dataclasses.replace(found, runs={**found.runs, "b": broken})

    assert found.gain("b", "a").verdict == "loss"
    assert found.gain("a", "b").verdict == "win"


def test_what_diverged_is_shown_and_written(tmp_path):
    finals = {"default": [3.0, 3.1], "ghn": [2.0, math.nan]}
    fine = {"default": [3.0, 3.1], "ghn": [2.5, 2.6]}
    lost = {"default": [math.nan, 3.1], "ghn": [2.5, 2.6]}
    networks = [network("bits per byte", **values) for values in (finals, fine, lost)]
    networks = [dataclasses.replace(n, tried={s: {1e-3: 1.0} for s in finals}) for n in networks]
    record = make_record("ghn bench init", (1, 2), {"name": "books/fit", "hash": "0"})
    scored = {"books/val": 100}
    result = InitResult(InitConfig(), networks, record, scored, {"vits:0": "from ghn: too large"})

    save_result(result, tmp_path)

    text = (tmp_path / "result.md").read_text()
    assert "3.050 ± 0.071" in text
    assert text.count(" (diverged) |") == 2
    assert "| default diverged | - |" in text
    assert "mean gains leave these out" in text
    assert "+0.500" in next(line for line in text.splitlines() if line.startswith("| g | ghn"))
    assert "Left out: vits:0, from ghn: too large" in text
    assert "scored on 100 excerpts at equal distances of books/val." in text
    assert "images" not in text
    assert json.loads((tmp_path / "result.json").read_text())["summary"][1]["losses"] == 1


def test_fewer_bits_are_a_gain():
    gain = network("bits per byte", a=[3.0, 3.0], b=[2.5, 2.6]).gain("b", "a")

    assert gain.mean == pytest.approx(0.45)
    assert gain.verdict == "win"


def test_reach_is_where_the_mean_curve_meets_the_others_end():
    gain = network(a=[0.2, 0.2], b=[0.4, 0.4]).gain("b", "a")

    assert gain.reach == pytest.approx(0.5)


def test_the_rate_to_begin_with_is_one_that_networks_chose_and_half_of_them_at_most_exceed():
    networks = [
        dataclasses.replace(network(default=[0.2], ghn=[0.4]), rates={"default": 1e-3, "ghn": rate})
        for rate in (3e-2, 1e-3, 3e-3, 1e-2)
    ]

    record = Record(command="", seeds=(), machine={}, versions={})
    *_, summary = InitResult(InitConfig(), networks, record, {}, {}).summaries()

    assert summary.rate == 3e-3
