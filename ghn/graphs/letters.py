"""Letters of axes, carried from the tensor that an operator consumes to what it was made from.

The tensor is a view of something stored, and comparing strides is exact for any chain of views; a
size decides only where a copy or arithmetic lies between that cannot be followed.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ["activation_axes", "carried_axes", "stored_axes"]


def activation_axes(tensor: Tensor, channels: int) -> str:
    """Letters for a parameter that meets an activation: channels, and positions for the rest."""
    wide = [
        d
        for d, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))
        if size > 1 and stride
    ]
    letters = ["1"] * tensor.ndim
    if not wide:
        return "".join(letters)
    matching = [d for d in wide if tensor.shape[d] == channels]
    channel = matching[-1] if matching else wide[-1]
    for d in wide:
        letters[d] = "o" if d == channel else "t"
    return "".join(letters)


def stored_axes(parameter: Tensor, consumed: Tensor, letters: str, same_storage: bool) -> str:
    """Carry the letters of a consumed tensor back to the axes of the stored parameter.

    Args:
        parameter: The parameter as stored.
        consumed: The tensor that an operator received, made from the parameter.
        letters: One letter for each axis of `consumed`.
        same_storage: Whether `consumed` is a view of `parameter`.
    """
    if consumed.shape == parameter.shape and (
        not same_storage or consumed.stride() == parameter.stride()
    ):
        return letters
    if same_storage:
        return "".join(
            _letter_by_stride(size, stride, consumed, letters)
            for size, stride in zip(parameter.shape, parameter.stride(), strict=True)
        )
    return _letters_by_size(parameter, consumed, letters)


def carried_axes(base: Tensor, view: Tensor, letters: str) -> str | None:
    """Carry the letters of a view back to the tensor that it views; None if they mix in an axis.

    Args:
        base: The tensor that was viewed.
        view: A view of it.
        letters: One letter for each axis of `view`.
    """
    if (base.shape, base.stride()) == (view.shape, view.stride()):
        return letters
    result = ""
    for size, stride in zip(base.shape, base.stride(), strict=True):
        met = set(_letters_met(size, stride, view, letters))
        if size > 1 and len(met) != 1:
            return None
        result += met.pop() if size > 1 else "1"
    return result


def _letters_met(size: int, stride: int, view: Tensor, letters: str) -> Iterator[str]:
    """Yield the letters of a view's axes that run along an axis of what it views."""
    for letter, s, n in zip(letters, view.stride(), view.shape, strict=True):
        covers = s <= stride < s * n
        inside = stride <= s < stride * size
        if n > 1 and s > 0 and (covers or inside) and letter != "1":
            yield letter


def _letter_by_stride(size: int, stride: int, view: Tensor, letters: str) -> str:
    return "1" if size == 1 else next(_letters_met(size, stride, view, letters), "o")


def _letters_by_size(parameter: Tensor, consumed: Tensor, letters: str) -> str:
    """Match axes by size where a copy or arithmetic lies between; unmatched ones are channels."""
    left = [(n, a) for n, a in zip(consumed.shape, letters, strict=True) if n > 1]
    result = []
    for size in parameter.shape:
        if size == 1:
            result.append("1")
            continue
        match = next((pair for pair in left if pair[0] == size), None)
        if match is not None:
            left.remove(match)
        result.append(match[1] if match and match[1] != "1" else "o")
    return "".join(result)
