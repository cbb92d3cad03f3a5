"""Initializations that the benchmark compares.

| start | what it does to a model that has its own initialization |
|---|---|
| `default` | nothing |
| `orthogonal` | every weight becomes orthogonal, at the size that it had |
| `lsuv` | orthogonal, then layer by layer scaled until the output's variance is 1 |
| `trained` | weights of one trained network of the family, cropped or tiled |
| `ghn` | `predict_params` from the embedded checkpoint for what the model reads |
| `ghn:CHECKPOINT` | the same from another one: a name, folder or hub id |
| `ghn+noise` | the same, with noise of a tenth of each weight's root mean square |
| `ghn+orthogonalize`, `ghn+calibrate` | the same, with these options of `predict_params` |

Several may follow one another, as in `ghn+noise+calibrate:CHECKPOINT`.

Source: LSUV is Mishkin and Matas 2016 (arXiv 1511.06422), algorithm 1.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from ghn.benchmarks.init.config import AFTERWARDS, InitConfig, parts_of
from ghn.benchmarks.init.networks import Network
from ghn.benchmarks.init.sources import load_source, source_family
from ghn.benchmarks.init.transplant import transplant
from ghn.engine import predict_params
from ghn.graphs import cached_trace
from ghn.rng import make_generator

__all__ = ["initialize"]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
LSUV_ROUNDS, LSUV_TOLERANCE = 5, 0.1


def initialize(
    model: nn.Module, start: str, network: Network, inputs: Tensor, seed: int, config: InitConfig
) -> dict[str, Any]:
    """Give a model another start, in place.

    Args:
        model: With its own initialization.
        start: Name of the start, which `InitConfig` has checked.
        network: What the model is.
        inputs: A training batch, for starts that look at data; on the CPU, as the model.
        seed: For starts that draw.
        config: Where trained networks are.

    Returns:
        What there is to say of it, as JSON types.
    """
    kind, afterwards, checkpoint = parts_of(start)
    if kind == "ghn":
        options = {key: value for name in afterwards for key, value in AFTERWARDS[name].items()}
        return _predict(model, network.example(config.side), checkpoint or None, seed, options)
    if kind == "trained":
        graph = cached_trace(model, network.example(config.side))
        written = transplant(model, graph, *load_source(config, source_family(network)))
        return {"written": len(written), "kept": len(graph.specs) - len(written)}
    if kind in ("orthogonal", "lsuv"):
        _orthogonal(model, seed)
    if kind == "lsuv":
        _unit_variance(model, inputs)
    return {}


def _predict(
    model: nn.Module, example: Tensor, checkpoint: str | None, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    report = predict_params(model, example, checkpoint=checkpoint, seed=seed, **options)
    return {
        "predicted": len(report.predicted),
        "kept": dict(Counter(report.kept.values())),
        "checkpoint": str(report.checkpoint),
        "seconds": report.seconds,
    }


@torch.no_grad()
def _orthogonal(model: nn.Module, seed: int) -> None:
    """Make weights of layers orthogonal; each keeps its root mean square."""
    generator = make_generator(seed, "orthogonal")
    for module in model.modules():
        if isinstance(module, LAYERS) and module.weight.ndim > 1:
            size = module.weight.norm()
            nn.init.orthogonal_(module.weight, generator=generator)
            module.weight.mul_(size / module.weight.norm().clamp_min(1e-12))


@torch.no_grad()
def _unit_variance(model: nn.Module, inputs: Tensor) -> None:
    """Scale each layer, in the order they run, until its output has a variance of about 1."""
    order: list[nn.Module] = []
    layers = [m for m in model.modules() if isinstance(m, LAYERS)]
    hooks = [m.register_forward_hook(lambda module, *_: order.append(module)) for m in layers]
    model.train()
    model(inputs)
    for hook in hooks:
        hook.remove()
    for layer in dict.fromkeys(order):
        for _ in range(LSUV_ROUNDS):
            variance = _output_variance(model, layer, inputs)
            if abs(variance - 1.0) < LSUV_TOLERANCE or variance < 1e-12:
                break
            layer.get_parameter("weight").div_(variance**0.5)


def _output_variance(model: nn.Module, layer: nn.Module, inputs: Tensor) -> float:
    found: list[Tensor] = []
    watch = layer.register_forward_hook(lambda module, args, output: found.append(output))
    try:
        model(inputs)
    finally:
        watch.remove()
    return float(found[0].var())
