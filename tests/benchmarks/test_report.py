from __future__ import annotations

import html
import json
import math
import re
from html.parser import HTMLParser

import pytest

from ghn.benchmarks.compare import Run
from ghn.benchmarks.outcome import DemoConfig, DemoResult, ModelResult, Prediction
from ghn.benchmarks.records import make_record
from ghn.benchmarks.report import demo_report, table_rows


def run(first: float, last: float, accuracy: float, steps: int = 20) -> Run:
    """A run whose loss falls on a line and whose accuracy starts at 10 %."""
    losses = [first + (last - first) * i / (steps - 1) for i in range(steps)]
    return Run(losses, [(0, 0.1), (steps, accuracy)])


def model(name: str, default: list[float], predicted: list[float]) -> ModelResult:
    """Both starts of a model, with the given final accuracies, one a seed."""
    return ModelResult(
        name=name,
        what="a test <model>",
        elements=1234,
        prediction=Prediction(0.5, 7, {"unsupported": 2}, "test"),
        rates={"default": 1e-2, "predicted": 3e-3},
        runs={
            "default": [run(2.3, 1.0, a) for a in default],
            "predicted": [run(2.0, 0.5, a) for a in predicted],
        },
    )


def result(*models: ModelResult) -> DemoResult:
    config = DemoConfig(steps=20, seeds=(0, 1, 2))
    record = make_record("ghn demo --steps 20 --dataset digits", (0, 1, 2), {"name": "digits"})
    return DemoResult(config, "digits", list(models), record, 12.0)


AHEAD = model("Winner", [0.30, 0.32, 0.34], [0.40, 0.42, 0.44])
BEHIND = model("Loser", [0.50, 0.50, 0.50], [0.40, 0.42, 0.44])
LEVEL = model("Even", [0.50, 0.40, 0.50], [0.45, 0.45, 0.52])


class Tags(HTMLParser):
    """Checks that tags are closed in order and collects attributes."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("one", "verdict"), [(AHEAD, "ahead"), (BEHIND, "behind"), (LEVEL, "level")]
)
def test_a_verdict_needs_all_seeds_to_agree(one, verdict):
    assert one.verdict == verdict


def test_a_gain_of_less_than_a_point_is_no_verdict():
    assert model("x", [0.500, 0.501], [0.505, 0.506]).verdict == "level"


def test_the_sentence_says_plainly_where_the_prediction_loses():
    assert "ends ahead of the default on Winner" in result(AHEAD, BEHIND).sentence
    assert "the predicted start loses to the default on Loser" in result(AHEAD, BEHIND).sentence
    assert "loses to the default on Loser" in result(BEHIND).sentence
    assert "ahead" not in result(BEHIND).sentence
    assert result(LEVEL).sentence == "After 20 steps, no clear difference on Even (3 seeds each)."


def test_steps_to_the_defaults_final_loss_are_the_median_over_seeds():
    # The default's last two losses average 1.034; 2.0 - 1.5 i / 19 has a mean of two below that
    # from i = 13 on.
    assert AHEAD.reached == 14


def test_a_start_that_never_gets_there_is_reported_as_never():
    slow = model("Slow", [0.3] * 3, [0.3] * 3)
    for runs in slow.runs["predicted"]:
        runs.losses[:] = [3.0] * 20

    assert slow.reached is None
    assert "never of 20" in table_rows(result(slow))[1][0]


def test_the_table_shows_means_and_spreads():
    columns, rows = table_rows(result(AHEAD))

    assert len(columns) == len(rows[0])
    assert rows[0] == [
        "Winner",
        "10.0 % ± 0.0",
        "10.0 % ± 0.0",
        "32.0 % ± 2.0",
        "42.0 % ± 2.0",
        "14 of 20",
        "0.50",
    ]


def test_the_report_is_well_formed_and_has_two_figures_a_model():
    tags = Tags()

    tags.feed(demo_report(result(AHEAD, BEHIND)).to_html())

    assert tags.open == []
    assert tags.seen.count("svg") == 4  # loss and accuracy
    assert tags.seen.count("table") == 1


def test_the_report_refers_to_nothing_outside():
    page = demo_report(result(AHEAD, LEVEL)).to_html()
    tags = Tags()
    tags.feed(page)

    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert not {"img", "iframe"} & set(tags.seen)
    for name, value in tags.attributes:
        if name in ("href", "src", "xlink:href"):
            assert value.startswith("#") or value == "data:,"


def test_the_report_carries_the_command_the_seeds_and_all_numbers():
    page = html.unescape(demo_report(result(AHEAD)).to_html())

    assert "ghn demo --steps 20 --dataset digits" in page
    assert "Seeds 0, 1, 2" in page
    assert "7 of 9 tensors predicted, kept: 2 unsupported" in page
    numbers = json.loads(re.search(r"<pre>(\{.*\})</pre>", page, re.DOTALL)[1])
    assert numbers["models"][0]["runs"]["predicted"][0]["accuracy"] == [[0, 0.1], [20, 0.4]]


def test_text_from_outside_is_escaped():
    assert "a test <model>" not in demo_report(result(AHEAD)).to_html()
    assert "a test &lt;model&gt;" in demo_report(result(AHEAD)).to_html()


def test_a_report_of_a_diverged_run_still_forms():
    broken = model("Broken", [0.1], [0.1])
    broken.runs["predicted"][0].losses[:] = [math.nan] * 20

    page = html.unescape(demo_report(result(broken)).to_html())

    assert "never of 20" in page
    assert "NaN" not in re.search(r"<pre>(\{.*\})</pre>", page, re.DOTALL)[1]  # not valid in JSON
