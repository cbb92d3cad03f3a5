"""What a sweep over a zoo leaves behind: a journal while it runs, and tables when it is done."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any

from ghn.benchmarks.sweep import MANY_UNTOUCHED, Traced, summarize
from ghn.io import write_json, write_text

__all__ = ["journal_path", "save_results", "versions"]


def journal_path(family: str) -> Path:
    """Return the file where an unfinished sweep keeps its results.

    Its name carries a hash of the tracer's code and of the libraries' versions: results of other
    code are not gone on with.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "ghn" / f"trace-{family}-{_code_hash()}.jsonl"


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a sweep finds."""
    names = ("torch", "torchvision", "timm", "transformers")
    return {name: importlib.metadata.version(name) for name in names}


def _code_hash() -> str:
    import ghn

    root = Path(ghn.__file__).parent
    digest = hashlib.sha256(repr(versions()).encode())
    for folder in ("graphs", "zoo", "benchmarks"):
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def save_results(family: str, results: list[Traced], folder: Path, command: str) -> None:
    """Write `trace-FAMILY.json` with every result, and `trace-FAMILY.md` with what falls short."""
    summary = summarize(results)
    record = {
        "command": command,
        "versions": versions(),
        "summary": summary,
        "models": [_row(r) for r in results],
    }
    write_json(folder / f"trace-{family}.json", record)
    write_text(folder / f"trace-{family}.md", _markdown(family, results, summary, command))


def _row(result: Traced) -> dict[str, Any]:
    row = dataclasses.asdict(result)
    del row["seconds"]  # differs from run to run
    row["error"] = _without_folders(result.error)
    return {k: v for k, v in row.items() if v or k in ("nodes", "parameters", "untouched", "other")}


def _markdown(family: str, results: list[Traced], summary: dict[str, Any], command: str) -> str:
    lines = [
        f"# Tracing {family}: what falls short, and why",
        "",
        f"Made by `{command}` with "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + ".",
        "",
        f"{summary['models']} models: {summary['counted']} counted (traced, less than "
        f"{MANY_UNTOUCHED:.0%} of the parameters untouched), {summary['many_untouched']} traced "
        f"with more untouched, {summary['failed']} failed.",
    ]
    for group, count in summary["failed_by_group"].items():
        lines += ["", f"## Failed: {group} ({count})", "", "| model | error |", "|---|---|"]
        lines += [f"| {_short(r.name)} | {_cell(r.error)} |" for r in results if r.group == group]
    many = [r for r in results if not r.error and not r.counted]
    if many:
        lines += ["", f"## Many parameters untouched ({len(many)})", ""]
        lines += ["| model | untouched | of | most common reason |", "|---|---|---|---|"]
        lines += [
            f"| {_short(r.name)} | {r.untouched} | {r.untouched + r.parameters} | "
            f"{_cell(max(r.reasons, key=lambda k: r.reasons[k], default=''))} |"
            for r in many
        ]
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    return name.partition(":")[2]


def _cell(text: str) -> str:
    """Fit a text into a table's cell."""
    text = _without_folders(" ".join(text.split())).replace("|", "\\|")
    return text if len(text) <= 300 else text[:297] + "..."


def _without_folders(text: str) -> str:
    """Cut the folder of the installation off the paths in a message."""
    return re.sub(r"/[^\s'\"]*/site-packages/", "", text)
