"""Weights of one trained network, cropped or tiled to the shapes of another.

The baseline that has seen the data too: whatever a start gains over it, it does not gain by mere
acquaintance with the data. Each parameter takes the values of the source's parameter of the same
role at the same kind of operator that lies nearest in relative depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ghn.graphs import ParamGraph, ParamSpec

__all__ = ["fit", "transplant"]


@torch.no_grad()
def transplant(
    model: nn.Module, graph: ParamGraph, source: ParamGraph, values: Mapping[str, Tensor]
) -> list[str]:
    """Write a trained network's weights into a model of another shape, in place.

    Args:
        model: Has its own initialization, which stays where the source has nothing to give.
        graph: The model's graph.
        source: The trained network's graph.
        values: The trained network's parameters.

    Returns:
        Names of the parameters that were written.
    """
    parameters = dict(model.named_parameters())
    written = []
    for name, spec in graph.specs.items():
        found = _nearest(graph, spec, source)
        if found is not None:
            parameters[name].copy_(fit(values[found.name], found, spec))
            written.append(name)
    return written


def _nearest(graph: ParamGraph, spec: ParamSpec, source: ParamGraph) -> ParamSpec | None:
    """Return what the source has of the same kind, nearest in relative depth."""
    kind = _kind(graph, spec)
    depth = spec.node / len(graph.nodes)
    options = [other for other in source.specs.values() if _kind(source, other) == kind]
    return min(options, key=lambda other: abs(other.node / len(source.nodes) - depth), default=None)


def _kind(graph: ParamGraph, spec: ParamSpec) -> tuple[object, ...]:
    op = graph.nodes[spec.node].op
    return op, spec.role, spec.axes, spec.stem, spec.head, spec.sections


def fit(values: Tensor, have: ParamSpec, want: ParamSpec) -> Tensor:
    """Crop or tile a tensor along each axis.

    Channels repeat, kernels are cropped to their centre or padded with zeros, positions are those
    nearest in relative place. A sum over repeated inputs is the mean over the repetitions, as a
    network that repeats its channels repeats its signals; what is cropped is scaled up to the same
    output variance.

    Args:
        values: The tensor.
        have: Its spec.
        want: A spec with the same axes.
    """
    for axis, (letter, old, new) in enumerate(zip(want.axes, have.shape, want.shape, strict=True)):
        if letter == "k":
            values = _centre(values, axis, new)
        elif letter == "t":
            values = values.index_select(axis, torch.arange(new) * old // new)
        elif old != new:
            parts = want.sections if letter == "o" else 1
            index = torch.arange(new // parts) % (old // parts)
            whole = torch.cat([index + part * (old // parts) for part in range(parts)])
            values = values.index_select(axis, whole)
    return values * _gain(have, want)


def _gain(have: ParamSpec, want: ParamSpec) -> float:
    """Return what makes up for more or fewer terms in the sums over inputs."""
    if not want.fan_in or len(want.shape) < 2:
        return 1.0
    gain = 1.0
    for letter, old, new in zip(want.axes, have.shape, want.shape, strict=True):
        if letter in "ik" and new < old:
            gain *= math.sqrt(old / new)
        elif letter == "i":
            gain *= old / new
    return gain


def _centre(values: Tensor, axis: int, size: int) -> Tensor:
    old = values.shape[axis]
    if size <= old:
        return values.narrow(axis, (old - size) // 2, size)
    shape = list(values.shape)
    shape[axis] = size
    padded = values.new_zeros(shape)
    padded.narrow(axis, (size - old) // 2, old).copy_(values)
    return padded
