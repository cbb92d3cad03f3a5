"""From a finished run to a checkpoint that users load: averaged weights, support, model card."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ghn.data import BYTES, TextData, load_text, load_tokenizer, token_entropies
from ghn.engine.support import Support
from ghn.errors import CheckpointError, ConfigError
from ghn.io import write_json, write_text
from ghn.training.config import TrainConfig
from ghn.training.evaluate import Evaluation, evaluate, held_out_split
from ghn.training.tasks import TextTask, format_score
from ghn.training.trainer import Trainer

__all__ = ["export"]

EVALUATED = ("test", "wide", "deep")


def export(
    run: str | Path,
    folder: str | Path,
    *,
    command: str,
    dtype: str = "float16",
    networks: int = 20,
    inputs: int | None = None,
) -> dict[str, Evaluation]:
    """Write a run's averaged hypernetwork as a checkpoint with a model card and its settings.

    The settings are `training.json`; a vocabulary that was learned is `tokenizer.json`. Its support
    is what occurred in the networks that the run's steps took, and that of the checkpoint that the
    run began with.

    Args:
        run: Folder of a run that `train` wrote.
        folder: Where the checkpoint goes.
        command: The command that trained it, for the card.
        dtype: How weights are stored.
        networks: Networks of each family and split that the card's table is measured on; 0 for a
            card without.
        inputs: Number of images or excerpts, not trained on, that they are scored on; see
            `ghn.training.evaluate`.

    Returns:
        The evaluation of each split, measured with the weights as stored; none for 0 networks.

    Raises:
        ConfigError: If `networks` is negative, or `inputs` not positive.
        CheckpointError: If the folder holds no run with a checkpoint.
    """
    if networks < 0 or (inputs is not None and inputs < 1):
        raise ConfigError(
            f"networks must be at least 0 and inputs at least 1, got {networks=}, {inputs=}"
        )
    trainer = _load_run(Path(run))
    config = trainer.config
    drawn = trainer.drawn()
    support = Support.from_graphs(trainer.pool[i].graph for i in drawn)
    side = trainer.task.settings.get("image")
    support = support.replace(image_sides=(side,) if side else ())
    ghn = trainer.averaged()
    learned = ghn.config.replace(learning_rate=None)  # this and its support are of `start`, perhaps
    settings = config.replace(ghn=learned.replace(support=Support()))
    ghn.config = learned.replace(support=support.joined(learned.support))
    with _all_or_nothing(Path(folder)) as made:
        ghn.save_pretrained(made, dtype=dtype)
        stored = type(ghn).from_pretrained(made).eval()
        splits = EVALUATED if networks else ()
        found = {
            split: evaluate(stored, config.replace(eval_networks=networks), split, inputs)
            for split in splits
        }
        write_json(made / "training.json", settings.to_dict())
        if isinstance(trainer.task, TextTask) and config.vocabulary > BYTES:
            tokenizer = load_tokenizer(config.data, config.vocabulary)
            write_text(made / "tokenizer.json", tokenizer.to_str())
        inside = Path(folder).parent.resolve() == Path(run).resolve()
        title = Path(run if inside else folder).resolve().name
        different = len({repr(trainer.pool.architecture(i)) for i in drawn})
        write_text(made / "README.md", _card(title, trainer, different, found, command))
    return found


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """Return a new folder, whose files take the places of another's when all are there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as made:
        yield Path(made)
        for file in Path(made).iterdir():
            file.replace(folder / file.name)


def _load_run(run: Path) -> Trainer:
    try:
        settings = json.loads((run / "config.json").read_text(encoding="utf-8"))
        config = TrainConfig.from_dict(settings).replace(out=str(run))
    except OSError as error:
        raise CheckpointError(f"{run} holds no run: {error}") from error
    except ValueError as error:
        raise CheckpointError(
            f"{run / 'config.json'} is damaged, or no settings of a run: {error}"
        ) from error
    trainer = Trainer(config.replace(tracker="none"))  # nothing is tracked, it need not be there
    trainer.config = trainer.config.replace(tracker=config.tracker)
    if not trainer.resume():
        raise CheckpointError(f"{run} holds no checkpoint yet; train for a few minutes first")
    return trainer


_SHAPES = {"vision": "numbers of classes and image channels", "text": "vocabularies"}


def _card(
    name: str,
    trainer: Trainer,
    different: int,
    found: dict[str, Evaluation],
    command: str,
) -> str:
    config, task = trainer.config, trainer.task
    count = sum(p.numel() for p in trainer.ghn.parameters())
    total = sum(config.shares)
    families = ", ".join(
        f"{f} ({s / total:.0%})" for f, s in zip(config.families, config.shares, strict=True)
    )
    return "\n".join(
        [
            f"# {name}",
            "",
            f"A graph hypernetwork of {count:,} parameters that predicts the parameters of "
            f"{_reads(trainer)}.",
            "",
            f"- **Data**: `{task.name}` (hash `{task.hash}`){_augmented(config)}.",
            f"- **Networks**: {different:,} different ones, sampled by `ghn.zoo`: {families}.",
            f"- **Training**: {trainer.step:,} steps of {config.meta_batch} networks, each on "
            f"{config.batch} inputs, seed {config.seed}, {trainer.seconds / 3600:.2f} hours of "
            f"{trainer.machine}, {trainer.skipped} networks skipped; torch {torch.__version__}.",
            f"- **Command**: `{command}`; all settings are in `training.json`.",
            "",
            *(_scores(found) if found else ["It was not evaluated.", ""]),
            *(_entropies(task.data, config) if isinstance(task, TextTask) else ()),
            f"**Limits**: other {_SHAPES[config.modality]} than those trained keep their own "
            "initialization. The score before training says little about how well a network "
            "trains.",
            "",
        ]
    )


def _reads(trainer: Trainer) -> str:
    task = trainer.task
    if isinstance(task, TextTask):
        return f"language models of {task.data.vocabulary} tokens in texts of {task.context}"
    return f"image classifiers, {task.settings['image']} x {task.settings['image']}"


def _augmented(config: TrainConfig) -> str:
    if config.modality == "text":
        return ""
    return f", {config.flip:.0%} flipped, shifted by up to {config.shift} pixels"


def _scores(found: dict[str, Evaluation]) -> list[str]:
    """Return the lines of the card that say how predicted networks do."""
    first = found["test"]
    norms = ", ".join(f"{k} {format_score(v, first.metric)}" for k, v in first.by_norm().items())
    return [
        f"{first.metric.capitalize()} before any training, on {first.inputs:,} inputs of "
        f"`{first.data}`, batch statistics in batch norms, one seed:",
        "",
        "| networks | number | predicted: mean | lowest | highest | default: mean |",
        "|---|---|---|---|---|---|",
        *(_row(split, result) for split, result in found.items()),
        "",
        f"In-distribution networks by normalisation: {norms}.",
        "",
    ]


def _entropies(train: TextData, config: TrainConfig) -> list[str]:
    """Return the line that says what scores of language models are to be compared with."""
    held = load_text(config.data, held_out_split(config), config.vocabulary)
    single, paired = token_entropies(train, held)
    return [
        f"For comparison: the same text costs {single:.2f} bits per byte by the frequencies of "
        f"tokens in the training text, {paired:.2f} by those of pairs.",
        "",
    ]


def _row(split: str, result: Evaluation) -> str:
    label = {"test": "in distribution", "wide": "wider", "deep": "deeper"}[split]
    predicted = [s.predicted for s in result.scores]
    default = sum(s.default for s in result.scores) / len(result.scores)
    values = [sum(predicted) / len(predicted), min(predicted), max(predicted), default]
    cells = " | ".join(format_score(value, result.metric) for value in values)
    return f"| {label} | {len(predicted)} | {cells} |"
