"""What a learner accepts as a batch, and the loss of one.

Shape letters used in this file:
    b: inputs. k: classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ghn.errors import ConfigError, InputError

__all__ = ["checked_batch", "one_pass", "renumbered", "task_loss"]


def one_pass(
    task: str, loader: Iterable[Any], classes: tuple[int, ...] | None
) -> Iterator[tuple[Any, Int64[Tensor, " b"]]]:
    """Go through a loader once; give inputs, and labels as places among a task's classes.

    Args:
        task: Name of the task, for errors.
        loader: Batches; empty ones are left out.
        classes: The task's classes; None: labels are places already.

    Raises:
        InputError: If there is no batch, or a batch is none that a learner accepts.
    """
    empty = True
    for batch in loader:
        inputs, labels = checked_batch(task, batch)
        if len(labels):
            empty = False
            yield inputs, renumbered(task, labels, classes)
    if empty:
        raise InputError(
            f"the loader of task {task!r} gave no batch; it must be readable more than once, "
            "such as a DataLoader or a list"
        )


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


def task_loss(
    task: str,
    logits: Float[Tensor, "b k"],
    labels: Int64[Tensor, " b"],
    classes: tuple[int, ...] | None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy over a task's classes.

    Args:
        task: Name of the task, for errors.
        logits: All outputs of the network.
        labels: Places among the task's classes.
        classes: The outputs that are the task's classes; None: all.

    Raises:
        ConfigError: If classes are no outputs, or one is there twice.
        InputError: If a label is no class, or the loss is not finite.
    """
    count = logits.shape[1]
    if classes is not None and (len(set(classes)) < len(classes) or max(classes) >= count):
        raise ConfigError(
            f"classes={classes} of task {task!r} must be different outputs of a network with "
            f"{count}"
        )
    if classes is not None:
        logits = logits[:, list(classes)]
    if int(labels.max()) >= logits.shape[1] or int(labels.min()) < 0:
        raise InputError(
            f"task {task!r} has a label {int(labels.max())}, but the network has "
            f"{logits.shape[1]} outputs: classes are numbered from 0. A task with more classes "
            "needs a network with more outputs"
        )
    loss = F.cross_entropy(logits, labels)
    if not loss.isfinite():
        raise InputError(f"the loss of task {task!r} is not finite; try a smaller rate")
    return loss
