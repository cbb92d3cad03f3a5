"""BatchNorm statistics measured again, on batches that the user supplies."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ghn.device import cuda_devices
from ghn.engine.undo import Snapshot
from ghn.errors import InputError
from ghn.graphs.inputs import ExampleInputs, candidates

__all__ = ["batch_norms", "recalibrate_statistics"]


def batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return the BatchNorm modules that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]


def recalibrate_statistics(
    model: nn.Module, batches: Sequence[Any], only: Collection[nn.Module] | None = None
) -> None:
    """Set running means and variances to their average over batches.

    Args:
        model: Its BatchNorm modules run in training mode, everything else in evaluation mode.
            Afterwards all but their statistics is as before. Those that no batch reaches, such as
            in heads for training alone, keep theirs.
        batches: Each as `trace` takes example inputs: a tensor, a tuple of positional arguments or
            a dict of keyword arguments.
        only: The BatchNorm modules to measure; all by default. The others keep their statistics.

    Raises:
        InputError: If the forward pass fails on a batch, or the statistics are not finite. They are
            then undefined: the caller restores them.
    """
    device = next(model.parameters()).device
    with _averaging(model, only), torch.random.fork_rng(cuda_devices(model)), torch.no_grad():
        for index, batch in enumerate(batches):
            inputs: ExampleInputs = next(candidates(model, batch))
            args, kwargs = inputs.on(device)
            try:
                model(*args, **kwargs)
            except Exception as error:
                raise InputError(
                    f"recalibrating BatchNorm statistics failed on batch {index}: {error}. The "
                    "model was left as it was; pass batches that its forward pass accepts"
                ) from error
        for norm in batch_norms(model):
            if norm.training and not _finite(norm):
                raise InputError(
                    "recalibrating BatchNorm statistics gave some that are not finite; the model "
                    "was left as it was. Look for nan in the batches, or in what it computes"
                )


def _finite(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    statistics = (norm.running_mean, norm.running_var)
    return all(bool(t.isfinite().all()) for t in statistics if t is not None)


@contextmanager
def _averaging(model: nn.Module, only: Collection[nn.Module] | None) -> Iterator[None]:
    """Put BatchNorm into cumulative averaging, the rest into evaluation mode; then restore."""
    norms = [norm for norm in batch_norms(model) if only is None or norm in only]
    measured = {id(buffer) for norm in norms for buffer in norm.buffers(recurse=False)}
    undo = Snapshot(model, (b for b in model.buffers() if id(b) not in measured))
    kept = {norm: [b.clone() for b in norm.buffers(recurse=False)] for norm in norms}
    try:
        for module in model.modules():
            module.training = module in norms
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative average
        yield
        for norm, buffers in kept.items():
            if norm.num_batches_tracked == 0:
                for buffer, old in zip(norm.buffers(recurse=False), buffers, strict=True):
                    buffer.copy_(old)
    finally:
        undo.restore()
