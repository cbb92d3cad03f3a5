"""The template of all reports: what was run, what came out, and how to run it again.

A report is a list of parts: text, tables that sort, figures, what folds away. It follows the
reader's light or dark, prints, and needs nothing from outside.

Example:
    >>> report = Report(title="A comparison", subtitle="made-up data", command="ghn demo")
    >>> report.add(Table(["model", ">accuracy"], [["small", Cell("91.0 %", 0.91)]]))
    >>> page = report.to_html()
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ghn.pages.page import SHARED, escape, finite_json, make_page, read_asset

__all__ = ["Cell", "Details", "Figure", "Figures", "Points", "Report", "Table", "Text", "facts_of"]

MOST_COLUMNS = 8  # of a table that is set in full size


@runtime_checkable
class Part(Protocol):
    """Anything that a report is made of."""

    def to_html(self) -> str:
        """Return the part as HTML."""
        ...


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: Plain text.
        heading: Heading above it, if any.
        quiet: Set small, as a remark.
    """

    text: str
    heading: str = ""
    quiet: bool = False

    def to_html(self) -> str:
        """Return heading and paragraph."""
        kind = ' class="quiet"' if self.quiet else ""
        return _heading(self.heading) + f"<p{kind}>{escape(self.text)}</p>"


@dataclasses.dataclass(frozen=True)
class Points:
    """A list of sentences.

    Attributes:
        points: Plain texts.
        heading: Heading above them, if any.
    """

    points: Sequence[str]
    heading: str = ""

    def to_html(self) -> str:
        """Return heading and list."""
        items = "".join(f"<li>{escape(point)}</li>" for point in self.points)
        return _heading(self.heading) + f"<ul>{items}</ul>"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it shows.
        value: What its column is sorted by. By default the first number of the text where the
            column is one of numbers, else the text.
        detail: A second, smaller line.
        mark: Shown as the best of its row.
    """

    text: str
    value: float | int | None = None
    detail: str = ""
    mark: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose columns sort.

    Attributes:
        columns: Headings; one that starts with `>` belongs to a column of numbers.
        rows: Cells, or plain texts; a column of numbers is sorted by the first number of each.
        caption: What the numbers are, below the table.
        heading: Heading above it, if any.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    heading: str = ""

    def to_html(self) -> str:
        """Return the table; its headings become buttons where scripts run."""
        kinds = [' class="number"' if c.startswith(">") else "" for c in self.columns]
        head = "".join(
            f'<th scope="col"{kind}>{escape(column.removeprefix(">"))}</th>'
            for column, kind in zip(self.columns, kinds, strict=True)
        )
        body = "\n".join(
            "<tr>" + "".join(_cell(c, k) for c, k in zip(row, kinds, strict=True)) + "</tr>"
            for row in self.rows
        )
        caption = f'<p class="quiet">{escape(self.caption)}</p>' if self.caption else ""
        wide = " wide" if len(self.columns) > MOST_COLUMNS else ""
        return (
            f'{_heading(self.heading)}<div class="scroll"><table class="sortable{wide}">'
            f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>{caption}"
        )


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    Attributes:
        svg: What a function of `ghn.pages.plots` returned.
        caption: What it shows; also read to those who cannot see it.
    """

    svg: str
    caption: str

    def to_html(self) -> str:
        """Return the figure."""
        return f"<figure>{self.svg}<figcaption>{escape(self.caption)}</figcaption></figure>"


@dataclasses.dataclass(frozen=True)
class Figures:
    """Pictures side by side, below each other where there is no room.

    Attributes:
        figures: The pictures.
        key: Colours and what they stand for, shown once above all.
        heading: Heading above them, if any.
    """

    figures: Sequence[Figure]
    key: Mapping[str, str] = dataclasses.field(default_factory=dict)
    heading: str = ""

    def to_html(self) -> str:
        """Return heading, key and figures."""
        key = "".join(
            f'<span><i style="background: {escape(colour)}"></i>{escape(name)}</span>'
            for name, colour in self.key.items()
        )
        return (
            _heading(self.heading)
            + (f'<p class="key">{key}</p>' if key else "")
            + f'<div class="figures">{"".join(f.to_html() for f in self.figures)}</div>'
        )


@dataclasses.dataclass(frozen=True)
class Details:
    """Something that is folded away until it is wanted, such as all numbers.

    Attributes:
        summary: What is folded away.
        value: Plain text, or JSON types.
    """

    summary: str
    value: Any

    def to_html(self) -> str:
        """Return the folded part."""
        is_text = isinstance(self.value, str)
        text = self.value if is_text else json.dumps(finite_json(self.value), indent=1)
        return (
            f"<details><summary>{escape(self.summary)}</summary><pre>{escape(text)}</pre></details>"
        )


@dataclasses.dataclass(kw_only=True)
class Report:
    """A report.

    Attributes:
        title: What the report is about.
        subtitle: What was run, when, on which data, in one line.
        verdict: What came out, in one sentence; empty if the parts say it.
        command: The command line that makes the report again; shown at its end.
        facts: What the numbers depend on, by name: machine, versions, data, seeds.
        parts: What the report is made of, in order.
    """

    title: str
    subtitle: str
    command: str
    verdict: str = ""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    parts: list[Part] = dataclasses.field(default_factory=list)

    def add(self, *parts: Part) -> None:
        """Append parts."""
        self.parts += parts

    def to_html(self) -> str:
        """Return the report as one HTML page that refers to nothing outside."""
        facts = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in self.facts.items()
        )
        body = [
            '<header><button type="button" class="no-print" data-action="theme" '
            'title="Light or dark" aria-label="Light or dark">&#9680;</button>',
            f"<h1>{escape(self.title)}</h1>",
            f'<p class="quiet">{escape(self.subtitle)}</p></header>',
            f'<p class="verdict">{escape(self.verdict)}</p>' if self.verdict else "",
            *(f"<section>{part.to_html()}</section>" for part in self.parts),
            f"<section>{_heading('Make it again')}<pre>{escape(self.command)}</pre>",
            f"<dl>{facts}</dl></section>" if facts else "</section>",
        ]
        return make_page(
            self.title,
            "<main>" + "\n".join(filter(None, body)) + "</main>",
            styles=[read_asset(SHARED, "assets/report.css")],
        )


def _heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>" if text else ""


NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def _cell(cell: Cell | str, kind: str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    if kind and not value and (found := NUMBER.search(cell.text)):
        value = f' data-value="{found[0].replace(",", "")}"'
    text = f"<strong>{escape(cell.text)}</strong>" if cell.mark else escape(cell.text)
    detail = f"<small>{escape(cell.detail)}</small>" if cell.detail else ""
    return f"<td{kind}{value}>{text}{detail}</td>"


def _parts_of(machine: Mapping[str, Any]) -> list[str]:
    cores = f"{machine['cores']} cores"
    return [machine["processor"], cores, *machine.get("accelerators", ())]


def facts_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the facts of a run's record, in words.

    Args:
        record: `seeds`, `machine`, `versions`, `data` and `date`, as a benchmark's record has them.
    """
    machine: Mapping[str, Any] = record.get("machine", {})
    facts = {
        "Machine": ", ".join(_parts_of(machine)) if machine else "",
        "Versions": _pairs(record.get("versions", {})),
        "Data": _pairs(record.get("data", {})),
        "Seeds": ", ".join(map(str, record.get("seeds", ()))),
        "Date": str(record.get("date", "")),
    }
    return {name: text for name, text in facts.items() if text}


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
