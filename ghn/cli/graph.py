"""`ghn graph`: trace a model, then describe, draw or export its graph."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ghn.cli.models import (
    AsJson,
    ModelArguments,
    ModelName,
    parse_model_arguments,
    shell_command,
)
from ghn.cli.output import note, print_json, print_table, print_text
from ghn.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from ghn.graphs import ParamGraph

__all__ = ["graph"]


def graph(
    model: ModelName,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write it: a page to look at, .html; .json; or a picture, .svg, .png, .pdf.",
        ),
    ] = None,
    unfold: Annotated[
        bool,
        typer.Option(
            "--unfold", help="Draw every copy of repeated blocks, in a page or a picture."
        ),
    ] = False,
    ties: Annotated[
        bool,
        typer.Option(
            "--ties", help="In a page, show which axes are the same channels: point at one."
        ),
    ] = False,
    model_arg: ModelArguments = None,
    as_json: AsJson = False,
) -> None:
    """Trace a model without allocating its weights.

    Example: ghn graph timm:resnet18 -o resnet18.html
    """
    from ghn.graphs import trace
    from ghn.io import write_text
    from ghn.zoo.library import resolve_model

    kind = output.suffix.lower() if output else ""
    if ties and kind != ".html":
        raise ConfigError(f"--ties needs a page, -o FILE.html, got -o {output}")
    if unfold and kind in ("", ".json"):
        raise ConfigError(
            f"--unfold needs a page or a picture, -o FILE.html or FILE.svg, got -o {output}; a "
            "graph without one has every copy of its blocks anyway"
        )
    built = resolve_model(model, device="meta", **parse_model_arguments(model_arg))
    traced = trace(built)
    if output is not None:
        if kind == ".html":
            flags = {"-o": output, "--ties": ties, "--unfold": unfold, "--model-arg": model_arg}
            page = _page(built, traced, model, shell_command("graph", model, flags), ties, unfold)
            write_text(output, page)
        else:
            _write(traced, output, unfold)
        note(f"Wrote {output}.")
    if as_json:
        print_json(json.loads(traced.to_json()))
    else:
        _print_summary(model, traced)


def _page(
    built: nn.Module, traced: ParamGraph, name: str, command: str, ties: bool, unfold: bool
) -> str:
    from ghn.graphs import channel_ties
    from ghn.graphs.page import graph_page

    found = channel_ties(built) if ties else None
    return graph_page(traced, name, command=command, ties=found, unfolded=unfold)


def _write(traced: ParamGraph, output: Path, unfold: bool) -> None:
    from ghn.graphs.draw import draw
    from ghn.io import write_text

    if output.suffix.lower() == ".json":
        write_text(output, traced.to_json(indent=1) + "\n")
    else:
        draw(traced, output, fold_blocks=not unfold)


def _print_summary(name: str, traced: ParamGraph) -> None:
    counts = collections.Counter(node.op for node in traced.nodes)
    elements: collections.Counter[str] = collections.Counter()
    for spec in traced.specs.values():
        elements[traced.nodes[spec.node].op] += spec.numel
    rows = [[op, f"{count:,}", f"{elements[op]:,}"] for op, count in counts.most_common()]
    title = (
        f"{name}: {len(traced.nodes):,} operators, {len(traced.edges):,} edges, "
        f"{len(traced.specs):,} parameters of {traced.num_parameters:,} elements"
    )
    print_table(title, ["operator", ">operators", ">elements"], rows)
    if traced.untouched:
        print_text(f"Never used by the forward pass: {', '.join(traced.untouched)}")
    for assumption in traced.assumptions:
        print_text(f"Assumed: {assumption}")
