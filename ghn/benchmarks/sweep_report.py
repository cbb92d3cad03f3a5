"""What a sweep over a zoo leaves behind: a journal while it runs, and tables when it is done."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ghn.benchmarks.sweep import MANY_UNTOUCHED, Traced, summarize
from ghn.io import write_json, write_text

__all__ = ["cell", "journal_path", "save_results", "versions", "without_folders"]


def journal_path(
    sweep: str, settings: object = None, code: Sequence[str] = ("graphs", "zoo", "benchmarks")
) -> Path:
    """Return the file where an unfinished sweep keeps its results.

    Its name carries a hash of the code that counts, of the libraries' versions and of settings:
    results of other code are not gone on with.

    Args:
        sweep: Its name.
        settings: What else decides about results; told apart by its `repr`.
        code: Parts of the package that decide about results.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "ghn" / f"{sweep}-{_hash(code, settings)}.jsonl"


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a sweep finds."""
    names = ("torch", "torchvision", "timm", "transformers")
    return {name: importlib.metadata.version(name) for name in names}


def _hash(code: Sequence[str], settings: object) -> str:
    import ghn

    root = Path(ghn.__file__).parent
    digest = hashlib.sha256(repr((versions(), settings)).encode())
    for folder in code:
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
    row["error"] = without_folders(result.error)
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
        lines += [f"| {_short(r.name)} | {cell(r.error)} |" for r in results if r.group == group]
    many = [r for r in results if not r.error and not r.counted]
    if many:
        lines += ["", f"## Many parameters untouched ({len(many)})", ""]
        lines += ["| model | untouched | of | most common reason |", "|---|---|---|---|"]
        lines += [
            f"| {_short(r.name)} | {r.untouched} | {r.untouched + r.parameters} | "
            f"{cell(max(r.reasons, key=lambda k: r.reasons[k], default=''))} |"
            for r in many
        ]
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    return name.partition(":")[2]


def cell(text: str) -> str:
    """Fit a text into a table's cell."""
    text = without_folders(" ".join(text.split())).replace("|", "\\|")
    return text if len(text) <= 300 else text[:297] + "..."


def without_folders(text: str) -> str:
    """Cut the folder of the installation off the paths in a message."""
    return re.sub(r"/[^\s'\"]*/site-packages/", "", text)
