"""What checking predictions over a zoo leaves behind: totals, and tables of what falls short."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ghn.benchmarks.soundness import WITHIN, Soundness
from ghn.benchmarks.sweep_report import cell, versions, without_folders
from ghn.io import write_json, write_text

__all__ = ["CODE", "save_checked", "summarize_checked"]

# The parts of the package that decide about what is found.
CODE = ("benchmarks", "conditioning", "decoders", "encoders", "engine", "graphs", "kernels", "zoo")


def summarize_checked(results: list[Soundness]) -> dict[str, Any]:
    """Return totals: models, sane ones, those with all layers within ten times, kept tensors."""
    tensors = sum(r.tensors for r in results)
    return {
        "models": len(results),
        "sound": sum(r.sound for r in results),
        "within": sum(r.within for r in results),
        "errors": sum(bool(r.error) for r in results),
        "degenerate": sum(bool(r.degenerate) for r in results),
        "outputs_finite_and_different": sum(r.finite and r.differ for r in results),
        "outputs_alike_as_by_default": sum(
            r.finite and not (r.differ or r.own_differ) for r in results
        ),
        "kept_share": sum(sum(r.kept.values()) for r in results) / max(1, tensors),
        "scaled_share": sum(r.scaled for r in results) / max(1, tensors),
        "layers": sum(r.layers for r in results),
        "layers_far": sum(len(r.far) for r in results),
    }


def save_checked(family: str, results: list[Soundness], folder: Path, command: str) -> None:
    """Write `predict-FAMILY.json` with every model, and `predict-FAMILY.md` with what falls short.

    Args:
        family: Name of the zoo.
        results: One for each model.
        folder: Where to.
        command: What made them.
    """
    summary = summarize_checked(results)
    models = [dataclasses.asdict(r) | {"error": without_folders(r.error)} for r in results]
    rows = [
        {k: v for k, v in m.items() if v or k in ("finite", "differ", "own_differ")} for m in models
    ]
    record = {"command": command, "versions": versions(), "summary": summary, "models": rows}
    write_json(folder / f"predict-{family}.json", record)
    write_text(folder / f"predict-{family}.md", _markdown(family, results, summary, command))


def _markdown(family: str, results: list[Soundness], summary: dict[str, Any], command: str) -> str:
    alike = summary["outputs_alike_as_by_default"]
    lines = [
        f"# Predictions over {family}: what falls short",
        "",
        f"Made by `{command}` with "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
        + ".",
        "",
        f"{summary['models']} models drawn at random: {summary['within']} have all layers within "
        f"{WITHIN:g} times the default's standard deviation ({summary['layers_far']} of "
        f"{summary['layers']:,} layers are not), {summary['outputs_finite_and_different']} give "
        f"different finite outputs for two inputs (and {alike} the same, as under their own "
        f"values), {summary['degenerate']} have a degenerate weight, {summary['errors']} failed. "
        f"{summary['kept_share']:.2%} of all tensors were kept, {summary['scaled_share']:.0%} "
        "scaled by calibration.",
        "",
    ]
    if short := [_row(r) for r in results if not r.sound]:
        head = "| model | layers off | by, lowest and highest | the furthest | else |"
        lines += [head, "|---|---|---|---|---|", *short, ""]
    names = ", ".join(r.name.partition(":")[2] for r in results if r.sound)
    return "\n".join([*lines, f"All holds for {summary['sound']}: {names}."]) + "\n"


def _row(result: Soundness) -> str:
    far = sorted(result.far.items(), key=lambda item: item[1])
    furthest = max(far, key=lambda item: max(item[1], 1 / max(item[1], 1e-30)), default=("", 0.0))
    degenerate = (f"{name}: {why}" for name, why in result.degenerate.items())
    else_ = [result.error, *degenerate, result.output_fault]
    between = f"{far[0][1]:.2g} to {far[-1][1]:.2g}" if far else ""
    text = cell("; ".join(part for part in else_ if part))
    name = result.name.partition(":")[2]
    return f"| {name} | {len(far)} of {result.layers} | {between} | {furthest[0]} | {text} |"
