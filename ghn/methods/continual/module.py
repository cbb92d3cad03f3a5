"""The module that tasks are learned for: what of it is generated, and what it shares with them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghn.engine.select import Generate, keep_reasons
from ghn.engine.support import Support
from ghn.errors import CheckpointError, ConfigError, UnsupportedModelError
from ghn.graphs import ParamGraph, trace
from ghn.graphs.trace import parameter_names

__all__ = ["check_fits", "copy_with", "generated", "shared", "tensors_of"]


def generated(model: nn.Module, example_inputs: Any, generate: Generate) -> ParamGraph:
    """Return the graph of the parameters that are learned for tasks."""
    graph = trace(model, example_inputs)
    parameters, _ = parameter_names(model)
    reasons = keep_reasons(graph, parameters, Support(), generate, "predict")
    names = {name for name, reason in reasons.items() if reason is None}
    names = {name for name in names if graph.specs[name].numel}
    if not names:
        given = "the function generate=" if callable(generate) else f"generate={generate!r}"
        raise ConfigError(
            f"{given} leaves no parameter of {type(model).__name__} to learn; its parameters are "
            f"{', '.join(list(parameters)[:5])}"
        )
    return graph.only(names)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a module's parameters, by leading name, and buffers."""
    return {**parameter_names(model)[0], **dict(model.named_buffers())}


def copy_with(model: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a module with other values of some of its parameters and buffers.

    Raises:
        UnsupportedModelError: If it cannot be copied.
    """
    try:
        model = copy.deepcopy(model)
    except Exception as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be copied: {error}. A weight of "
            "torch.nn.utils.weight_norm or spectral_norm is such a tensor; those of "
            "torch.nn.utils.parametrizations can be copied"
        ) from error
    own = tensors_of(model)
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
    return model


def check_fits(
    path: str | Path, model: nn.Module, generated: Mapping[str, Any], rest: Mapping[str, Tensor]
) -> None:
    """Refuse a module whose parameters are others than those of the module of a file.

    Args:
        path: The file.
        model: The module.
        generated: Shapes of the parameters that are generated for tasks.
        rest: What the file holds of the module; nothing if all parameters are generated.

    Raises:
        CheckpointError: If a name is missing, or a shape differs.
    """
    own = tensors_of(model) if rest else parameter_names(model)[0]
    found = {name: list(tensor.shape) for name, tensor in own.items()}
    wanted = {**generated, **{name: list(tensor.shape) for name, tensor in rest.items()}}
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            raise CheckpointError(
                f"{path} belongs to another network than this {type(model).__name__}: shape of "
                f"{name} is {wanted.get(name, 'none')} in the file, {found.get(name, 'none')} "
                "here. Give a module like the one it learned for"
            )


def shared(model: nn.Module, graph: ParamGraph) -> dict[str, Tensor]:
    """Return what tasks take from a module, by name; nothing if every parameter is generated.

    Else it is the parameters that are not, and the buffers that tasks begin with.
    """
    parameters = parameter_names(model)[0]
    rest: dict[str, Tensor] = {n: p for n, p in parameters.items() if n not in graph.specs}
    return {**rest, **dict(model.named_buffers())} if rest else {}
