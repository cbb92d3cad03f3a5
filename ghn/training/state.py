"""Checkpoints of a training run: one file each, complete or absent, and never pickled.

A checkpoint is `step-00001234.safetensors`: weights, optimisers, averaged weights, and in its
header counters and the settings of what is trained. The newest one wins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import CheckpointError
from ghn.io import read_tensors, write_tensors

__all__ = ["load_state", "newest", "read_state", "save_state"]

KEPT = 2
KIND = "training-state"


def newest(out: Path) -> Path | None:
    """Return the newest checkpoint of a run, or None."""
    files = _checkpoints(out)
    return files[-1] if files else None


def _checkpoints(out: Path) -> list[Path]:
    """Return a run's own files by age; copies that somebody put beside them are not touched."""
    found = (re.fullmatch(r"step-(\d{8,})\.safetensors", p.name) for p in out.glob("step-*"))
    return [out / m[0] for m in sorted(filter(None, found), key=lambda m: int(m[1]))]


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
        out: The run's folder, which no other process writes to.
        step: Optimiser steps taken.
        model: The hypernetwork.
        optimizers: Of the model's parameters, each in one of them.
        average: Averaged weights, by name.
        rest: JSON values: counters and settings.

    Raises:
        CheckpointError: If it cannot be written.
    """
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.items()}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{name}/{key}"] = value
    for left in out.glob(".step-*.tmp"):  # by a process that was killed while saving
        left.unlink(missing_ok=True)
    file = out / f"step-{step:08d}.safetensors"
    try:
        write_tensors(file, tensors, KIND, {"step": step, **rest})
    except OSError as error:  # a full disk, most likely
        raise CheckpointError(f"cannot write {file}: {error}") from error
    for old in _checkpoints(out)[:-KEPT]:
        old.unlink(missing_ok=True)
    return file


def read_state(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a checkpoint, and the rest.

    Raises:
        CheckpointError: If it is damaged.
    """
    try:
        return read_tensors(file, KIND)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}. Remove it to go on from the checkpoint before it"
        ) from error


def load_state(
    file: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    average: dict[str, Tensor],
) -> dict[str, Any]:
    """Read a checkpoint into a model, its optimisers and averaged weights; return the rest.

    Raises:
        CheckpointError: If the checkpoint is damaged or does not belong to this model.
    """
    tensors, rest = read_state(file)
    try:
        model.load_state_dict({k: tensors[f"model/{k}"] for k in model.state_dict()})
        for name in average:
            average[name].copy_(tensors[f"average/{name}"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} belongs to a hypernetwork of other sizes ({error}); choose another folder"
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
