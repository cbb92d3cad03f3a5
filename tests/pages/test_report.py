from __future__ import annotations

import html
import json
import re

import pytest
from report_examples import EXAMPLES, control

from ghn.errors import ShapeError
from ghn.pages import (
    Cell,
    Line,
    Report,
    Table,
    bar_plot,
    facts_of,
    line_key,
    line_plot,
    matrix_plot,
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_report_says_what_was_run_and_how_to_run_it_again(name):
    report = EXAMPLES[name]()

    page = report.to_html()

    assert f"<h1>{report.title}</h1>" in page
    assert report.subtitle in page
    assert f"<pre>{report.command}</pre>" in page
    assert all(text in page for text in report.facts.values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_report_is_the_same_each_time(name):
    assert EXAMPLES[name]().to_html() == EXAMPLES[name]().to_html()


def test_a_cell_sorts_by_its_value_and_shows_its_text():
    table = Table(["name", ">n"], [["a", Cell("1.5 k", 1500.0, detail="<of> 2", mark=True)]])

    html = table.to_html()

    assert '<td class="number" data-value="1500.0"><strong>1.5 k</strong>' in html
    assert "<small>&lt;of&gt; 2</small>" in html
    assert '<th scope="col" class="number">n</th>' in html


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("85.3 ± 1.4", "85.3"),
        ("1,234,567", "1234567"),
        ("-17.3 ± 1.7", "-17.3"),
        ("+0.4", "+0.4"),
        ("1e-05", "1e-05"),
        ("43 of 200", "43"),
        ("never", None),
    ],
)
def test_a_column_of_numbers_sorts_by_the_first_number_of_each_cell(text, value):
    html = Table([">n", "words"], [[text, text]]).to_html()

    assert re.findall(r'data-value="(.*?)"', html) == ([value] if value else [])


def test_numbers_that_json_has_no_word_for_are_null():
    page = control().to_html()

    numbers = re.search(r"<summary>All numbers as JSON</summary><pre>(.*?)</pre>", page, re.DOTALL)
    assert json.loads(numbers[1].replace("&quot;", '"'))["broken"] is None


def test_text_from_outside_is_escaped_everywhere():
    evil = "<script>alert(1)</script>"
    report = Report(title=evil, subtitle=evil, verdict=evil, command=evil, facts={evil: evil})
    report.add(Table([evil], [[evil]], caption=evil, heading=evil))

    assert evil not in report.to_html()


def test_a_plot_takes_the_pages_text_colour_and_names_its_axes():
    svg = line_plot([Line("a", [1, 2], [[1.0, 2.0], [2.0, 3.0]])], "step", "loss", legend=True)

    assert svg.startswith('<svg role="img"')
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert {"step", "loss", "a"} <= set(re.findall(r">([^<>\n]+)</text>", svg))
    assert "http" not in svg


def test_a_band_shows_the_range_over_runs_and_one_run_has_none():
    one = line_plot([Line("a", [1, 2], [[1.0, 2.0]])], "x", "y")
    two = line_plot([Line("a", [1, 2], [[1.0, 2.0], [2.0, 5.0]])], "x", "y")

    assert "opacity: 0.25; stroke: none" not in one
    assert two.count("fill-opacity: 0.25") > one.count("fill-opacity: 0.25")


def test_the_key_has_the_colours_that_are_drawn():
    lines = [Line("a", [1, 2], [[1.0, 2.0]]), Line("b", [1, 2], [[2.0, 3.0]], "#123456")]

    svg = line_plot(lines, "x", "y")

    assert list(line_key(lines)) == ["a", "b"]
    assert all(f"stroke: {colour}" in svg for colour in line_key(lines).values())


def test_whole_steps_have_whole_ticks():
    flat = [[5.0, 5.0, 5.0]]

    whole = line_plot([Line("a", range(1, 4), flat)], "x", "y")
    broken = line_plot([Line("a", [1.0, 2.0, 3.0], flat)], "x", "y")

    assert ">1.5</text>" not in whole.replace(" ", "")
    assert re.search(r">\s*1\.50*</text>", broken)


def test_a_matrix_leaves_unknown_squares_empty():
    svg = matrix_plot([[90.0, None], [80.0, 91.0]], ["r1", "r2"], ["c1", "c2"], "x", "y")

    texts = re.findall(r">([^<>\n]+)</text>", svg)
    assert {"90", "80", "91", "r1", "c2"} <= set(texts)
    assert len([t for t in texts if t.isdigit()]) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Line("a", [1, 2], [[1.0]]),
        lambda: Line("a", [1], []),
        lambda: bar_plot(["a", "b"], [("x", [1.0], None)], "y"),
        lambda: matrix_plot([[1.0]], ["a"], ["b", "c"], "x", "y"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ShapeError, match="need"):
        wrong()


def test_the_facts_of_a_record_are_told_in_words():
    record = {
        "machine": {"processor": "P", "cores": 2},
        "versions": {"torch": "2"},
        "data": {},
        "seeds": [0, 1],
        "date": "2026-01-01",
    }

    assert facts_of(record) == {
        "Machine": "P, 2 cores",
        "Versions": "torch 2",
        "Seeds": "0, 1",
        "Date": "2026-01-01",
    }


def words_of(svg):
    return [html.unescape(word) for word in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def test_an_axis_writes_plain_numbers_whatever_its_scale():
    few = line_plot([Line("a", [1, 2], [[0.16, 0.9]])], "x", "y", log_y=True)
    many = line_plot([Line("a", [10, 10_000_000], [[1.0, 2.0]])], "x", "y", log_x=True)
    large = line_plot([Line("a", [0, 40_000], [[1.0, 2.0]])], "x", "y")

    assert {"0.2", "0.5"} <= set(words_of(few))
    assert {"10", "1,000", "10,000,000"} <= set(words_of(many))
    assert "20,000" in words_of(large)
    assert not re.search(r"mathtext|10\^|×", few + many)  # noqa: RUF001


def test_a_logarithmic_axis_takes_what_is_not_above_nothing():
    svg = line_plot([Line("a", [1, 2], [[0.0, 5.0]])], "x", "y", log_y=True)

    assert "1" in words_of(svg)
