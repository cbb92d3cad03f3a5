"""What is needed to put a model back as it was."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Snapshot"]


class Snapshot:
    """The attributes of all modules of a model, one level of containers included.

    Tensors that are replaced, or lost their place, come back; what is written *into* a tensor is
    undone only for those that were copied.

    Args:
        model: Its modules' attributes are noted down.
        copies: Tensors whose values are copied.
    """

    def __init__(self, model: nn.Module, copies: Iterable[Tensor] = ()) -> None:
        states = [module.__dict__ for module in model.modules()]
        self._states = [(state, dict(state)) for state in states]
        self._containers = [
            (value, value.copy())
            for state in states
            for value in state.values()
            if type(value) in (dict, list, set)
        ]
        self._copies = [(tensor, tensor.detach().clone()) for tensor in copies]

    def restore(self) -> None:
        """Put every attribute and every copied value back."""
        for container, content in self._containers:
            container.clear()
            container.extend(content) if type(container) is list else container.update(content)
        for state, content in self._states:
            state.clear()
            state.update(content)
        with torch.no_grad():
            for tensor, copy in self._copies:
                tensor.copy_(copy)
