"""Initializations that the benchmark compares.

| start | what it does to a model that has its own initialization |
|---|---|
| `default` | nothing |
| `orthogonal` | weights of linear maps and convolutions become orthogonal, at the size they had |
| `lsuv` | orthogonal, then layer by layer scaled until the output's variance is 1 |
| `trained` | weights of one trained network of the family, cropped or tiled |
| `ghn` | `predict_params` from the embedded checkpoint for what the model reads |
| `ghn:CHECKPOINT` | the same from another one: a name, folder or hub id |
| `ghn+noise` | the same, with noise of a tenth of each weight's root mean square |
| `ghn+orthogonalize`, `ghn+calibrate` | the same, with these options of `predict_params` |

Several may be named, as in `ghn+noise+calibrate:CHECKPOINT`; noise comes first, calibration last.

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
        weights = _weights(model, network.example(config.side))
        _orthogonal(weights, seed)
        scaled = _unit_variance(model, weights, inputs) if kind == "lsuv" else 0
        return {"orthogonal": len(weights), "scaled": scaled}
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


def _weights(model: nn.Module, example: Tensor) -> dict[str, nn.Parameter]:
    """Return the weights of linear maps and convolutions, whatever modules they are in."""
    specs = cached_trace(model, example).specs
    chosen = {n for n, s in specs.items() if s.role == "weight" and s.fan_in and len(s.shape) > 1}
    return {name: p for name, p in model.named_parameters() if name in chosen}


@torch.no_grad()
def _orthogonal(weights: dict[str, nn.Parameter], seed: int) -> None:
    """Make weights orthogonal; each keeps its root mean square."""
    generator = make_generator(seed, "orthogonal")
    for weight in weights.values():
        size = weight.norm()
        nn.init.orthogonal_(weight, generator=generator)
        weight.mul_(size / weight.norm().clamp_min(1e-12))


@torch.no_grad()
def _unit_variance(model: nn.Module, weights: dict[str, nn.Parameter], inputs: Tensor) -> int:
    """Scale each layer, in the order they run, until its output has a variance of about 1.

    Layers are modules that have one of the weights and are called. Returns how many there are.
    """
    layers = {
        model.get_submodule(path): weight
        for name, weight in weights.items()
        for path, _, last in [name.rpartition(".")]
        if last == "weight"
    }
    order: list[nn.Module] = []
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
            layers[layer].div_(variance**0.5)
    return len(dict.fromkeys(order))


def _output_variance(model: nn.Module, layer: nn.Module, inputs: Tensor) -> float:
    found: list[Tensor] = []
    watch = layer.register_forward_hook(lambda module, args, output: found.append(output))
    try:
        model(inputs)
    finally:
        watch.remove()
    return float(found[0].var())
