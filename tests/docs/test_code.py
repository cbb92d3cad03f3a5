"""Code in the documentation runs, and its command lines are ones that the commands take.

Every Python block of a page runs from top to bottom in one namespace. A comment in the line above
a block says if it is slow, `<!-- slow -->`, or cannot run, `<!-- not run: why -->`. A block without
a language right after one is what that one prints.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main

from ghn.cli import app
from ghn.cli.group import LateCommands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>slow|not run: [^>]+) -->\n)?```python\n(?P<code>.*?)```\n"
    r"(?:\n```\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code, its first line in the page, and what it is said to print."""

    code: str
    line: int
    slow: bool
    output: str | None


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page that claim to run."""
    return [
        Block(m["code"], text[: m.start("code")].count("\n") + 1, m["mark"] == "slow", m["output"])
        for m in BLOCK.finditer(text)
        if not (m["mark"] or "").startswith("not run")
    ]


def pages_with(slow: bool) -> list[Path]:
    return [p for p in PAGES if any(b.slow == slow for b in blocks_of(p.read_text()))]


def run_page(page: Path, with_slow: bool, capsys: pytest.CaptureFixture[str]) -> None:
    space: dict[str, object] = {"__name__": "page"}
    for block in blocks_of(page.read_text()):
        if block.slow and not with_slow:
            continue
        lines = "\n" * (block.line - 1)  # so that an error names the line of the page
        capsys.readouterr()
        exec(compile(lines + block.code, str(page), "exec"), space)
        if block.output is not None:
            assert capsys.readouterr().out == block.output


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", pages_with(slow=False), ids=name_of)
def test_code_in_the_docs_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page(page, False, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with(slow=True), ids=name_of)
def test_slow_code_in_the_docs_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_page(page, True, capsys)


def test_blocks_are_found_with_their_marks_and_outputs():
    text = "```python\nprint(1)\n```\n\n```\n1\n```\n\n<!-- slow -->\n```python\npass\n```\n"
    text += "<!-- not run: no network -->\n```python\nboom\n```\n"

    assert blocks_of(text) == [
        Block("print(1)\n", 2, False, "1\n"),
        Block("pass\n", 11, True, None),
    ]


def command_lines() -> list[str]:
    """Return the command lines of `ghn` in the docs, those with gaps left out."""
    found = set()
    for page in PAGES:
        for line in re.findall(r"`(?:\w+=\S+ )*(ghn [a-z][^`\n]*)`", page.read_text()):
            if not re.search(r"\.\.\.|…|\bMODEL\b|[A-Z]{4,}", line) and " | " not in line:
                found.add(line)
    return sorted(found)


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_in_the_docs_are_taken_by_their_commands(line):
    words = [word for word in shlex.split(line)[1:] if word != "--help"]
    command: click.Command = typer.main.get_command(app)
    path: list[str] = []

    while hasattr(command, "commands") and words:
        path.append(words.pop(0))
        assert path[-1] in command.commands, f"no command {path[-1]!r}"
        late = LateCommands.late.get(" ".join(path))
        command = late() if late else command.commands[path[-1]]

    if words:  # a bare name, such as `ghn train`, is a reference and no command line
        command.make_context("ghn", words)


def test_there_are_command_lines_and_pages_to_test():
    assert len(command_lines()) > 10
    assert len(pages_with(slow=False)) >= 3
