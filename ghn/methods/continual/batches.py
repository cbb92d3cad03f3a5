"""What a learner accepts as a batch, and the loss of one.

Shape letters used in this file:
    b: inputs. k: classes. n: labels, as many as inputs if data are sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ghn.errors import ConfigError, InputError

__all__ = [
    "advice_on",
    "check_labels",
    "checked_batch",
    "checked_classes",
    "one_pass",
    "plain",
    "renumbered",
    "task_loss",
]


def checked_classes(task: str, classes: Iterable[Any] | None) -> tuple[int, ...] | None:
    """Return a task's classes as plain integers.

    Args:
        task: Name of the task, for errors.
        classes: Whole numbers in a list, an array or a tensor; None: all outputs.

    Raises:
        ConfigError: If they are none, no whole numbers from 0 on, or one is there twice.
    """
    if classes is None:
        return None
    try:
        values = torch.tensor(list(classes))
    except (TypeError, ValueError, RuntimeError):
        values = torch.tensor([-1])  # no numbers, refused as a wrong one is
    found = values.long().flatten().tolist()
    whole = values.ndim == 1 and values.dtype != torch.bool and values.tolist() == found
    if not whole or not found or min(found) < 0 or len(set(found)) < len(found):
        raise ConfigError(
            f"classes of task {task!r} must be different outputs of the network, whole numbers "
            f"from 0 on such as (4, 5), got {classes!r}"
        )
    return tuple(found)


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
    if not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        raise InputError(
            f"the loader of task {task!r} must give batches (inputs, labels), such as a DataLoader "
            f"or a list of them, got {type(loader).__name__}"
        )
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
    try:
        inputs, labels = plain(batch[0]), torch.as_tensor(batch[1])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels of task {task!r} must be integers: {error}") from error
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim != 1 or not whole:
        raise InputError(
            f"labels of task {task!r} must be integers of shape [b], got {labels.dtype} "
            f"{list(labels.shape)}; numbers of classes from 0 on, such as labels.long()"
        )
    tensors = [t for t in torch.utils._pytree.tree_leaves(inputs) if isinstance(t, Tensor)]
    if not all(t.isfinite().all() for t in tensors if t.is_floating_point()):
        raise InputError(
            f"inputs of task {task!r} hold NaN or infinite numbers; the learner was left as it was"
        )
    return inputs, labels.long()


def plain(inputs: Any) -> Any:
    """Return inputs as a tensor, a tuple or a dict.

    A DataLoader makes lists of tuples, and tokenizers mappings that are no dicts.
    """
    if isinstance(inputs, list):
        return tuple(inputs)
    return dict(inputs) if isinstance(inputs, Mapping) else inputs


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
    labels: Int64[Tensor, " n"],
    classes: tuple[int, ...] | None,
) -> Float[Tensor, ""]:
    """Return the cross-entropy over a task's classes.

    Args:
        task: Name of the task, for errors.
        logits: All outputs of the network.
        labels: Places among the task's classes.
        classes: The outputs that are the task's classes; None: all.

    Raises:
        ConfigError: If classes are no outputs.
        InputError: If there are not as many labels as inputs, a label is no class, or the loss is
            not finite.
    """
    count = logits.shape[1]
    if classes is not None and max(classes) >= count:
        raise ConfigError(
            f"classes={classes} of task {task!r} must be different outputs of a network with "
            f"{count}, which are numbered from 0"
        )
    if classes is not None:
        logits = logits[:, list(classes)]
    check_labels(task, logits, labels)
    loss = F.cross_entropy(logits, labels)
    if not loss.isfinite():
        raise InputError(f"the loss of task {task!r} is not finite; try a smaller rate")
    return loss


def check_labels(task: str, logits: Float[Tensor, "b k"], labels: Int64[Tensor, " n"]) -> None:
    """Refuse labels that do not fit a network's outputs.

    Args:
        task: Name of the task, for errors.
        logits: Of the task's classes.
        labels: Places among them.

    Raises:
        InputError: If there are not as many labels as inputs, or one is no class.
    """
    inputs, count = logits.shape
    if len(labels) != inputs:
        raise InputError(
            f"a batch of task {task!r} needs a label for each input, got {len(labels)} labels and "
            f"{inputs} rows of logits"
        )
    if int(labels.max()) >= count or int(labels.min()) < 0:
        wrong = labels[(labels < 0) | (labels >= count)].unique().tolist()
        raise InputError(
            f"task {task!r} has the labels {wrong[:5]}, but the network has {count} outputs, which "
            "are numbered from 0. A task with more classes needs a network with more outputs"
        )


def advice_on(error: Exception) -> str:
    """Return what to do about an error of a network's forward pass."""
    if "Expected more than 1 value per channel" in str(error):  # torch's words, of BatchNorm
        return (
            "BatchNorm cannot train on a batch of one input, such as the last one of a loader: use "
            "drop_last=True or another batch size"
        )
    return "Inputs must be what its forward takes"
