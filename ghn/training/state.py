"""Checkpoints of a training run: complete or absent, and never pickled.

A checkpoint is a folder `step-00001234` with the tensors in safetensors and the rest in JSON. It is
written under a temporary name, flushed, then renamed; the newest complete one wins.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ghn.errors import CheckpointError

__all__ = ["load_state", "newest", "save_state"]

KEPT = 2
TENSORS, REST = "state.safetensors", "state.json"


def newest(out: Path) -> Path | None:
    """Return the newest complete checkpoint folder of a run, or None."""
    folders = _complete(out)
    return folders[-1] if folders else None


def _complete(out: Path) -> list[Path]:
    return sorted(p for p in out.glob("step-*") if (p / REST).is_file() and p.suffix != ".tmp")


def save_state(
    out: Path,
    step: int,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: dict[str, Tensor],
    rest: dict[str, Any],
) -> Path:
    """Write a checkpoint and remove all but the newest two.

    Args:
        out: The run's folder.
        step: Optimiser steps taken.
        model: The hypernetwork.
        optimizers: Of the model's parameters, each in one of them.
        average: Averaged weights, by name.
        rest: JSON values: counters and settings.

    Raises:
        CheckpointError: If it cannot be written.
    """
    tensors = {f"model/{k}": v.detach() for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.items()}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = value
    final = out / f"step-{step:08d}"
    for left in out.glob("step-*.tmp"):  # by a process that was killed while saving
        shutil.rmtree(left, ignore_errors=True)
    temporary = final.with_suffix(".tmp")
    temporary.mkdir(parents=True)
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary / TENSORS)
    except SafetensorError as error:  # a full disk, most likely
        raise CheckpointError(f"cannot write {temporary / TENSORS}: {error}") from error
    text = json.dumps({"step": step, **rest}, indent=1)
    (temporary / REST).write_text(text, encoding="utf-8")
    for path in temporary.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in _complete(out)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_state(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: dict[str, Tensor],
) -> dict[str, Any]:
    """Read a checkpoint into a model, its optimisers and averaged weights; return the rest.

    Raises:
        CheckpointError: If the checkpoint is damaged or does not belong to this model.
    """
    try:
        tensors = load_file(folder / TENSORS)
        rest: dict[str, Any] = json.loads((folder / REST).read_text(encoding="utf-8"))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is damaged ({error}); remove it to go on from the checkpoint before it"
        ) from error
    try:
        model.load_state_dict({k: tensors[f"model/{k}"] for k in model.state_dict()})
        for name in average:
            average[name].copy_(tensors[f"average/{name}"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} belongs to a hypernetwork of other sizes ({error}); choose another folder"
        ) from error
    owners = {id(p): o for o in optimizers for g in o.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        prefix = f"optimizer/{name}/"
        found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if found:  # counters of steps too: fused optimisers keep them beside the parameter
            owners[id(parameter)].state[parameter] = {
                key: value.to(parameter.device) for key, value in found.items()
            }
    return rest
