"""From a finished run to a checkpoint that users load: averaged weights, support, model card."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import torch

from ghn.data import load_images
from ghn.engine.support import Support
from ghn.errors import CheckpointError
from ghn.io import write_text
from ghn.training.config import TrainConfig
from ghn.training.evaluate import Evaluation, evaluate, held_out_split
from ghn.training.loop import Trainer

__all__ = ["export"]

EVALUATED = ("test", "wide", "deep")


def export(
    run: str | Path,
    folder: str | Path,
    *,
    command: str,
    dtype: str = "float16",
    networks: int = 20,
    images: int = 1_000,
) -> dict[str, Evaluation]:
    """Write a run's averaged hypernetwork as a checkpoint with a model card.

    Args:
        run: Folder of a run that `train` wrote.
        folder: Where the checkpoint goes.
        command: The command that trained it, for the card.
        dtype: How weights are stored.
        networks: Networks of each family and split that the card's table is measured on.
        images: Number of images, not trained on, that they are scored on.

    Returns:
        The evaluation of each split, measured with the weights as stored.

    Raises:
        CheckpointError: If the folder holds no run with a checkpoint.
    """
    trainer = _load_run(Path(run))
    config = trainer.config
    graphs = [trainer.pool[i].graph for i in range(len(trainer.pool))]
    ghn = trainer.averaged()
    ghn.config = ghn.config.replace(support=Support.from_graphs(graphs))
    ghn.save_pretrained(folder, dtype=dtype)
    stored = type(ghn).from_pretrained(folder).eval()
    settings = config.replace(eval_networks=networks)
    found = {split: evaluate(stored, settings, split, images) for split in EVALUATED}
    write_text(
        Path(folder) / "README.md", _card(Path(folder).name, trainer, found, command, images)
    )
    return found


def _load_run(run: Path) -> Trainer:
    try:
        settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{run} holds no run: {error}") from error
    trainer = Trainer(TrainConfig.from_dict(settings).replace(out=str(run)))
    if not trainer.resume():
        raise CheckpointError(f"{run} holds no checkpoint yet; train for a few minutes first")
    return trainer


def _card(
    name: str, trainer: Trainer, found: dict[str, Evaluation], command: str, images: int
) -> str:
    config = trainer.config
    count = sum(p.numel() for p in trainer.ghn.parameters())
    data = load_images(config.data, held_out_split(config))
    rows = [_row(split, result) for split, result in found.items()]
    norms = ", ".join(f"{k} {v:.1%}" for k, v in found["test"].by_norm().items())
    families = ", ".join(
        f"{f} ({s:.0%})" for f, s in zip(config.families, config.shares, strict=True)
    )
    return "\n".join(
        [
            f"# {name}",
            "",
            f"A graph hypernetwork of {count:,} parameters that predicts the parameters of image "
            "classifiers.",
            "",
            f"- **Data**: {config.data}, split `{config.split}`, 32 x 32, flipped and shifted "
            f"(folder hash `{data.hash}`).",
            f"- **Networks**: {config.pool:,} sampled by `ghn.zoo`: {families}.",
            f"- **Training**: {trainer.step:,} of {config.steps:,} steps of {config.meta_batch} "
            f"networks on {config.batch} images, seed {config.seed}, "
            f"{trainer.seconds / 3600:.2f} hours, {trainer.skipped} networks skipped. Exported on "
            f"{platform.machine()} with {os.cpu_count()} cores, torch {torch.__version__}.",
            f"- **Command**: `{command}`",
            "",
            f"Accuracy before any training, on {min(images, len(data)):,} images of `{data.name}`, "
            "which training left out, batch statistics in batch norms, one seed:",
            "",
            "| networks | number | predicted: mean | lowest | highest | default: mean |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"In-distribution networks by normalisation: {norms}.",
            "",
            "**Limits**: ten classes, three image channels; other heads and stems keep their own "
            "initialization. Accuracy before training says little about how well a network trains.",
            "",
        ]
    )


def _row(split: str, result: Evaluation) -> str:
    label = {"test": "in distribution", "wide": "wider", "deep": "deeper"}[split]
    predicted = [s.predicted for s in result.scores]
    default = sum(s.default for s in result.scores) / len(result.scores)
    mean = sum(predicted) / len(predicted)
    return (
        f"| {label} | {len(predicted)} | {mean:.1%} | {min(predicted):.1%} | {max(predicted):.1%} "
        f"| {default:.1%} |"
    )
