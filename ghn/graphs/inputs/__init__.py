"""Example inputs: given by the user, or inferred from what the model says of itself.

Only shapes and types matter to a trace, and the values of small integers (grids, lengths, masks).
Inference yields candidates, best first, and learns from what became of them: transformers models
are searched (`search`), of other models a fixed list is tried (`layers`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import InputError
from ghn.graphs.graph import ParamGraph
from ghn.graphs.inputs.example import ExampleInputs, describe
from ghn.graphs.inputs.layers import from_layers, from_timm, from_torchvision, signature
from ghn.graphs.inputs.search import Failure, Outcome, search_transformers

__all__ = ["ExampleInputs", "Failure", "Outcome", "candidates", "describe"]


def candidates(model: nn.Module, given: Any = None) -> Generator[ExampleInputs, Outcome, None]:
    """Return a generator of inputs to try, best first; it is sent what became of each.

    Args:
        model: The module whose forward pass will run.
        given: The user's example inputs, or None to infer them.

    Raises:
        InputError: If nothing can be inferred, or what was given is not an input.
    """
    if given is not None:
        return _one_by_one([_given(given)])
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return _cast(_inferred(model), dtype)


def _inferred(model: nn.Module) -> Generator[ExampleInputs, Outcome, None]:
    base = getattr(model, "get_base_model", None)  # PEFT's wrappers take anything at all
    model = base() if callable(base) else model
    if found := from_timm(model):
        return _one_by_one(found)
    if _is_transformers(model):
        return search_transformers(model)
    for infer in (from_torchvision, from_layers):
        if found := infer(model):
            return _one_by_one(found)
    raise InputError(
        f"cannot infer example inputs for {type(model).__name__}: its forward pass takes "
        f"{signature(model)}; pass example_inputs= (a tensor, a tuple of positional arguments, "
        "or a dict of keyword arguments)"
    )


def _cast(
    options: Generator[ExampleInputs, Outcome, None], dtype: torch.dtype
) -> Generator[ExampleInputs, Outcome, None]:
    """Pass on inputs in the type of the model's parameters, and what became of them."""
    try:
        inputs = next(options)
        while True:
            inputs = options.send((yield inputs.cast(dtype)))
    except StopIteration:
        return


def _is_transformers(model: nn.Module) -> bool:
    config, main = getattr(model, "config", None), getattr(model, "main_input_name", None)
    return isinstance(main, (str, list)) and hasattr(config, "to_dict")


def _one_by_one(options: list[ExampleInputs]) -> Generator[ExampleInputs, Outcome, None]:
    for option in options:
        if isinstance((yield option), ParamGraph):
            return


def _given(given: Any) -> ExampleInputs:
    if isinstance(given, ExampleInputs):
        return given
    if isinstance(given, Tensor):
        return ExampleInputs((given,))
    if isinstance(given, (tuple, list)):
        return ExampleInputs(tuple(given))
    if isinstance(given, dict) or hasattr(given, "keys"):
        return ExampleInputs((), dict(given))
    raise InputError(
        "example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword "
        f"arguments, got {type(given).__name__}"
    )
