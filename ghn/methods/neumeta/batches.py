"""Batches without end, the first of which are looked at before anything is trained."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import InputError, PredictionError
from ghn.methods.neumeta.descend import READ

__all__ = ["Batches"]

NOT_FINITE = "numbers that are not finite (NaN or infinity): clean or leave out such examples"
Pair = tuple[Tensor, Tensor]


class Batches:
    """Pairs (inputs, labels) on a device, without end.

    Args:
        batches: Gone through again and again, in one go each time; an iterator can be gone through
            once, and must be long enough.
        device: Where the pairs go.
        keep: How many inputs of the first batches are kept.

    Attributes:
        kept: These inputs, or all of the first pass if it has fewer; None if `keep` is 0.

    Raises:
        InputError: If there is no batch, or one of the first is no pair of finite tensors.
    """

    def __init__(self, batches: Iterable[Any], device: torch.device, keep: int = 0) -> None:
        self._device = device
        self._recent: deque[Pair] = deque(maxlen=READ)
        once = iter(batches)
        first, count = [], 0
        for batch in once:
            first.append(self._pair(batch))
            count += len(first[-1][0])
            if count >= keep:
                break
        if not first:
            raise InputError("a family needs at least one batch (inputs, labels), got none")
        if not all(map(_is_finite, first)):
            raise InputError(f"the first batches hold {NOT_FINITE}")
        self._example = first[0][0]
        self.kept = _joined([inputs for inputs, _ in first])[:keep] if keep else None
        self._stream = _endless(itertools.chain(first, once), batches)

    def __next__(self) -> Pair:
        pair = self._pair(next(self._stream))
        self._recent.append(pair)
        return pair

    @torch.no_grad()
    def try_on(self, model: nn.Module) -> None:
        """Run a model on the inputs of the first batch.

        Raises:
            InputError: If it does not take them.
        """
        try:
            model(self._example)
        except Exception as error:
            shape, kind = tuple(self._example.shape), self._example.dtype
            raise InputError(
                f"{type(model).__name__} does not take the inputs of the first batch, of shape "
                f"{shape} and {kind}: {error}"
            ) from error

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Where training diverges, look for the reason in the latest batches.

        Raises:
            InputError: If they are not finite.
        """
        try:
            yield
        except PredictionError as error:
            if all(map(_is_finite, self._recent)):
                raise
            raise InputError(f"the loss is not finite, since a batch holds {NOT_FINITE}") from error

    def _pair(self, batch: Any) -> Pair:
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise InputError(f"a batch must be (inputs, labels), got {type(batch).__name__}")
        for value, what in zip(batch, ("inputs", "labels"), strict=False):
            if not isinstance(value, Tensor) or not value.ndim:
                raise InputError(
                    f"{what} of a batch must be one tensor with an axis of examples, got "
                    f"{type(value).__name__}; a network that takes something else can be wrapped "
                    "in a module that takes a tensor"
                )
        return batch[0].to(self._device), batch[1].to(self._device)


def _endless(first_pass: Iterable[Any], batches: Iterable[Any]) -> Iterator[Any]:
    count = 0
    for one_pass in itertools.chain([first_pass], itertools.repeat(batches)):
        before = count
        for batch in one_pass:
            count += 1
            yield batch
        if count == before:
            raise InputError(
                f"training needs more than the {count} batches that there were, and they cannot be "
                "gone through again; give a list or a DataLoader, or an iterator without end"
            )


def _joined(inputs: list[Tensor]) -> Tensor:
    try:
        return torch.cat(inputs)
    except RuntimeError as error:
        shapes = sorted({tuple(x.shape[1:]) for x in inputs})
        raise InputError(
            f"inputs that are kept must all have one shape, got {shapes[:3]}; make them alike, or "
            "keep none: calibration=0"
        ) from error


def _is_finite(pair: Pair) -> bool:
    return all(bool(t.isfinite().all()) for t in pair)
