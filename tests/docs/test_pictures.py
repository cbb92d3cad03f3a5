"""Every picture of the docs has the commands that make it below it."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REPORTS = ("demo", "init", "continual", "hypercrl", "neumeta")


def load_pictures():
    spec = importlib.util.spec_from_file_location("docs_pictures", ROOT / "docs" / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pictures = load_pictures()


def test_each_report_and_the_graph_page_twice_are_shown_with_their_commands():
    known = pictures.recipes()

    assert {f"{name}-report" for name in REPORTS} <= set(known)
    assert {"graph-page", "graph-ties", "prediction-page"} <= set(known)
    for name in known:
        assert list((ROOT / "docs" / "images").glob(f"{name}.*")), f"{name} was not made"


@pytest.mark.parametrize("name", [n for n, c in pictures.recipes().items() if len(c) > 1])
def test_the_page_that_is_photographed_is_one_that_the_first_command_writes(name):
    first, last = pictures.recipes()[name]

    page = pictures.words_of(last)[2]
    folder = page.split("/")[0]

    assert re.search(rf" {re.escape(page)}( |$)", first) or folder in ("runs", "bench")
    assert pictures.words_of(first)[1:3] == ["-m", "ghn.cli"]


def test_a_command_runs_in_this_environment_on_files_of_this_repository():
    words = pictures.words_of("python tests/browser.py a.html docs/images/a.png --do 'page.x'")

    assert words == [
        sys.executable,
        str(ROOT / "tests" / "browser.py"),
        "a.html",
        str(ROOT / "docs" / "images" / "a.png"),
        "--do",
        "page.x",
    ]


def test_a_picture_that_no_page_shows_is_refused(capsys):
    assert pictures.main(["no-such-picture"]) == 1
    assert "No picture no-such-picture" in capsys.readouterr().err
