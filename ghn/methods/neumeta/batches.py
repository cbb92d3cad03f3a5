"""Batches without end, the first of which are looked at before anything is trained."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import GHNError, InputError, PredictionError
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
        if not all(map(len, first[0])):
            raise InputError("the first batch has no examples; leave out empty batches")
        self._example = first[0]
        self.kept = _joined([inputs for inputs, _ in first])[:keep] if keep else None
        self._stream = _endless(itertools.chain(first, once), batches)

    def __next__(self) -> Pair:
        pair = self._pair(next(self._stream))
        self._recent.append(pair)
        return pair

    @torch.no_grad()
    def try_on(self, model: nn.Module, score: Callable[[Any, Tensor], Tensor]) -> None:
        """Run a model and score its outputs on the first batch.

        Args:
            model: Takes the inputs.
            score: A number, of outputs and labels.

        Raises:
            InputError: If the model does not take the inputs, or the score is no number.
        """
        inputs, labels = self._example
        shape, kind = tuple(inputs.shape), inputs.dtype
        try:
            outputs = model(inputs)
        except Exception as error:
            raise InputError(
                f"{type(model).__name__} does not take the inputs of the first batch, of shape "
                f"{shape} and {kind}: {error}"
            ) from error
        said = f"labels of shape {tuple(labels.shape)} and {labels.dtype}"
        try:
            value = score(outputs, labels)
        except Exception as error:
            raise InputError(
                f"there is no loss or divergence of what {type(model).__name__} makes of the first "
                f"batch and of {said}: {error}. Others can be given: fit(loss=, divergence=)"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError(f"a loss must be one number, got {value!r} with {said}")

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Where training fails or diverges, look for the reason in the latest batches.

        Raises:
            InputError: If they are not finite, or unlike the first one.
        """
        try:
            yield
        except PredictionError as error:
            if all(map(_is_finite, self._recent)):
                raise
            raise InputError(f"the loss is not finite, since a batch holds {NOT_FINITE}") from error
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, GHNError) or not self._recent:
                raise
            shapes = [tuple(t.shape) for t in self._recent[-1]]
            raise InputError(
                f"training failed on a batch of inputs {shapes[0]} and labels {shapes[1]}: {error}"
            ) from error

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
