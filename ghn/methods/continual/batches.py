"""What a learner accepts as a batch.

Shape letters used in this file:
    b: inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from ghn.errors import InputError

__all__ = ["checked_batch", "renumbered"]


def checked_batch(task: str, batch: Any) -> tuple[Any, Int64[Tensor, " b"]]:
    """Return inputs and labels of a batch; further entries, as Avalanche's have, are left out.

    Raises:
        InputError: If it is no pair, labels are no integers, or inputs are not finite.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise InputError(f"a batch of task {task!r} must be (inputs, labels), got {type(batch)}")
    inputs, labels = batch[0], torch.as_tensor(batch[1])
    if labels.ndim != 1 or labels.is_floating_point():
        raise InputError(
            f"labels of task {task!r} must be integers of shape [b], got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    tensors = [t for t in torch.utils._pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
    if not all(t.isfinite().all() for t in tensors if t.is_floating_point()):
        raise InputError(
            f"inputs of task {task!r} hold NaN or infinite numbers; the learner was left as it was"
        )
    return inputs, labels.long()


def renumbered(
    task: str, labels: Int64[Tensor, " b"], classes: tuple[int, ...] | None
) -> Int64[Tensor, " b"]:
    """Return labels as places among a task's classes.

    Raises:
        InputError: If a label is none of them.
    """
    if classes is None:
        return labels
    places = labels[:, None] == torch.tensor(classes, device=labels.device)
    if not places.any(1).all():
        wrong = sorted(set(labels[~places.any(1)].tolist()))
        raise InputError(f"labels {wrong} of task {task!r} are not among its classes {classes}")
    return places.long().argmax(1)
