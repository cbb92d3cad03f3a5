"""Which hypernetwork predicts, and running it without leaving a mark on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from ghn.device import ordinary_tensors
from ghn.engine.checkpoint import embedded_checkpoints, load_ghn
from ghn.errors import CheckpointError, ConfigError
from ghn.graphs.graph import ParamGraph, ParamSpec
from ghn.kernels import Recipe, mean_square
from ghn.rng import preserve_global_state

__all__ = ["Hypernetwork", "default_checkpoint", "find_hypernetwork", "run_hypernetwork"]


@runtime_checkable
class Hypernetwork(Protocol):
    """What a prediction needs of a hypernetwork; `ghn.GHN` has it.

    Attributes:
        config: Settings; `config.support` says what it was trained for. One whose
            `config.condition` is not None takes `condition=` in `recipes`.
        decoder_name: The decoder that emits its recipes.
    """

    config: Any
    decoder_name: str

    def recipes(
        self,
        graphs: Sequence[ParamGraph],
        *,
        select: Callable[[ParamGraph, ParamSpec], bool] | None = None,
    ) -> list[dict[str, Recipe]]:
        """Return, for each graph, one recipe for each parameter that `select` picks."""
        ...


def find_hypernetwork(
    checkpoint: str | Path | Hypernetwork | None, graph: ParamGraph
) -> tuple[Hypernetwork, str, tuple[str, ...]]:
    """Return a hypernetwork, what to call it in a report, and notes on how it was chosen.

    Args:
        checkpoint: A hypernetwork, or what `load_ghn` takes; None chooses the embedded one that was
            trained on what the graph's model reads: images or text.
        graph: The graph of the model to predict.

    Raises:
        CheckpointError: If it cannot be used, or none is embedded.
        UnknownNameError: If there is no checkpoint of that name.
        ConfigError: If `checkpoint` is none of these types.
    """
    if isinstance(checkpoint, str | Path):
        return load_ghn(checkpoint), str(checkpoint), ()
    if checkpoint is None:
        name, notes = default_checkpoint("text" if _reads_text(graph) else "vision")
        return load_ghn(name), name, notes
    if isinstance(checkpoint, Hypernetwork):
        return checkpoint, type(checkpoint).__name__, ()
    raise ConfigError(
        f"checkpoint must be a name, a folder, a hub id or a GHN, got {type(checkpoint).__name__}"
    )


@torch.no_grad()
def run_hypernetwork(
    hypernetwork: Hypernetwork, graph: ParamGraph, names: set[str], condition: Any = None
) -> dict[str, Recipe]:
    """Return recipes for some parameters of a graph, in evaluation mode.

    Raises:
        ConfigError: If a condition is missing, is a batch, or is given to a hypernetwork without.
    """
    takes = getattr(hypernetwork.config, "condition", None) is not None
    if condition is not None and not takes:
        raise ConfigError(
            f"condition={condition!r} was given, but the hypernetwork takes none; leave it out"
        )
    given: dict[str, Any] = {"condition": condition} if takes else {}
    module = hypernetwork if isinstance(hypernetwork, nn.Module) else nn.Identity()
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with preserve_global_state(), ordinary_tensors():
            recipes = hypernetwork.recipes(
                [graph], select=lambda _, spec: spec.name in names, **given
            )[0]
    finally:
        for part, mode in modes.items():
            part.training = mode
    if any(_is_batch(recipe) for recipe in recipes.values()):
        raise ConfigError(
            "condition= is a batch, but one model takes the parameters of one condition; pass a "
            "single value"
        )
    return recipes


def _is_batch(recipe: Recipe) -> bool:
    return mean_square(recipe).ndim > 0


def _reads_text(graph: ParamGraph) -> bool:
    """Whether the model's input is looked up in a table."""
    return any(spec.stem and spec.role == "table" for spec in graph.specs.values())


def default_checkpoint(modality: str) -> tuple[str, tuple[str, ...]]:
    """Return the embedded checkpoint for what a model reads, and notes on how it was chosen.

    Args:
        modality: `"vision"` or `"text"`.

    Raises:
        CheckpointError: If none is embedded.
    """
    by_modality: dict[str, str] = {}
    for name, folder in embedded_checkpoints().items():
        header = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        by_modality.setdefault(header.get("modality", "vision"), name)
    if modality in by_modality:
        return by_modality[modality], ()
    if "vision" in by_modality:
        name = by_modality["vision"]
        return name, (
            f"the model reads {modality}, for which no checkpoint is embedded yet; {name!r}, "
            "trained on images, was used",
        )
    raise CheckpointError(
        "no checkpoint is embedded in this installation; pass checkpoint= (a folder, a hub id or "
        "a GHN)"
    )
