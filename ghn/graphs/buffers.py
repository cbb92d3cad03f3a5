"""Values of the small integer buffers of a model that was built on the meta device.

Codecs and others keep strides and lengths in buffers and read them in their forward pass. A model
built on meta has lost them; the library's own initialization writes them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from ghn.graphs.values import Values

__all__ = ["initialise_counts"]

MAX_ELEMENTS = 64


def initialise_counts(model: nn.Module, values: Values) -> None:
    """Run the initialization of every module with a small integer buffer that has no values.

    To be called where nothing is written: on stand-ins on meta, while values are followed.
    """
    for initialise, module in _initialisers(model, None):
        if any(_is_lost_count(buffer, values) for buffer in module._buffers.values()):
            initialise(module)


def _is_lost_count(buffer: Tensor | None, values: Values) -> bool:
    if buffer is None or buffer.is_floating_point() or buffer.numel() > MAX_ELEMENTS:
        return False
    return values.get(buffer) is None


def _initialisers(
    module: nn.Module, initialise: Callable[[nn.Module], Any] | None
) -> Iterator[tuple[Callable[[nn.Module], Any], nn.Module]]:
    """Yield each module below a transformers model, with that model's initialization."""
    own = getattr(module, "_init_weights", None)
    if callable(own) and hasattr(module, "config"):
        initialise = own
    if initialise is not None:
        yield initialise, module
    for child in module.children():
        yield from _initialisers(child, initialise)
