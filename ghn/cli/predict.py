"""`ghn predict`: write a model's predicted parameters to a safetensors file, and a page on them."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghn.cli.models import (
    AsJson,
    ModelArguments,
    ModelName,
    parse_model_arguments,
    shell_command,
)
from ghn.cli.output import print_json, print_text
from ghn.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["predict"]


class Unsupported(enum.StrEnum):
    """What to do with a parameter that the checkpoint was never trained for."""

    keep = "keep"
    predict = "predict"


def predict(
    model: ModelName,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, .safetensors.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(help="An embedded checkpoint, a folder, or a hub id; default: by model."),
    ] = None,
    generate: Annotated[
        list[str] | None,
        typer.Option(help="Only parameters that match this pattern; may be repeated."),
    ] = None,
    unsupported: Annotated[
        Unsupported, typer.Option(help="Parameters that the checkpoint was not trained for.")
    ] = Unsupported.keep,
    noise: Annotated[
        float, typer.Option(help="Noise in the weights, as a share of their root mean square.")
    ] = 0.0,
    orthogonalize: Annotated[
        bool, typer.Option("--orthogonalize", help="Make weights, but the last, orthogonal.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Scale layers whose outputs are far from the usual size."),
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Seed of the model's own initialization and of the noise.")
    ] = 0,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write a page, .html: graph, provenance and histograms."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    model_arg: ModelArguments = None,
    as_json: AsJson = False,
) -> None:
    """Predict a model's parameters and save its state dict.

    Example: ghn predict timm:resnet50 -o resnet50.safetensors --report resnet50.html
    """
    for path in (output, report):
        if path is not None and path.exists() and not force:
            raise ConfigError(f"{path} exists; choose another name or pass --force to replace it")
    import torch

    from ghn.engine import parameter_histograms, predict_params, prediction_page
    from ghn.graphs import trace
    from ghn.io import atomic_path, write_text
    from ghn.rng import preserve_global_state
    from ghn.zoo.library import resolve_model

    settings: dict[str, Any] = {
        "checkpoint": checkpoint,
        "generate": generate or None,
        "unsupported": unsupported.value,
        "noise": noise,
        "orthogonalize": orthogonalize,
        "calibrate": calibrate,
        "seed": seed,
    }
    with preserve_global_state():
        torch.manual_seed(seed)
        built = resolve_model(model, **parse_model_arguments(model_arg))
        default = parameter_histograms(built) if report else {}
        found = predict_params(built, **settings)
    with atomic_path(output) as temporary:
        _save(built, temporary)
    if report is not None:
        flags: dict[str, object] = {"-o": output, "--report": report, "--model-arg": model_arg}
        flags |= {f"--{name}": value or None for name, value in settings.items()}
        command = shell_command("predict", model, flags)
        now = parameter_histograms(built)
        page = prediction_page(
            trace(built), found, model, default=default, now=now, command=command
        )
        write_text(report, page)
    if as_json:
        print_json({"model": model, "output": str(output), **found.to_dict()})
    else:
        print_text(f"{model}: {found}\nwrote {output}")


def _save(model: nn.Module, path: Path) -> None:
    """Write the state dict; of tied tensors one copy, with a note that `load_model` reads."""
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    try:
        save_model(model, str(path))
    except SafetensorError as error:
        raise OSError(f"cannot write the parameters: {error}") from error
