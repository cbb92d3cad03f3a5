"""Networks with more or fewer of a block that repeats.

A run is a stretch of equal blocks that follow each other in one `nn.Sequential` or `nn.ModuleList`.
Fewer means that the last ones go; more means that copies of the last one come behind it.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Collection, Mapping
from numbers import Integral
from typing import Any

from torch import nn

from ghn.errors import ConfigError
from ghn.graphs import ParamGraph
from ghn.graphs.isolate import copied
from ghn.registry import unknown_name

__all__ = ["Run", "depths_of", "find_runs", "with_depths"]

MOST = 4  # times the full number of blocks


@dataclasses.dataclass(frozen=True)
class Run:
    """Equal blocks that follow each other.

    Attributes:
        container: Path of the module that holds them.
        first: Place of the first in it.
        count: Their number in the full network.
    """

    container: str
    first: int
    count: int


def find_runs(model: nn.Module, graph: ParamGraph, generated: Collection[str]) -> dict[str, Run]:
    """Return the runs of blocks all of whose parameters are generated, by their container.

    Blocks are equal if they run the same operators with parameters of the same shapes. Of a
    container with several runs, the last one counts; what lies inside of a block is left alone.
    """
    runs: dict[str, Run] = {}
    for container, holder in model.named_modules():
        numbers = [str(place) for place in range(len(holder._modules))]
        is_list = isinstance(holder, (nn.Sequential, nn.ModuleList))
        inside = any(container.startswith(f"{name}.") for name in runs)
        if inside or not is_list or list(holder._modules) != numbers:
            continue
        prefix = f"{container}." if container else ""
        signatures = [_signature(graph, f"{prefix}{number}", generated) for number in numbers]
        place = 0
        for signature, members in itertools.groupby(signatures):
            count = len(list(members))
            if signature and count > 1:
                runs[container] = Run(container, place, count)
            place += count
    return runs


def _signature(graph: ParamGraph, scope: str, generated: Collection[str]) -> tuple[Any, ...]:
    """Return what a block runs; nothing if it has no parameters, or some are not generated."""
    nodes = [node for node in graph.nodes if f"{node.scope}.".startswith(f"{scope}.")]
    names = [name for node in nodes for name, _ in node.parameters]
    if not names or not all(name in generated for name in names):
        return ()
    return tuple(
        (node.op, tuple((graph.specs[name].shape, role) for name, role in node.parameters))
        for node in nodes
    )


def depths_of(runs: Mapping[str, Run], wanted: Mapping[str, int]) -> dict[str, int]:
    """Return the number of blocks of every run.

    Raises:
        ConfigError: If a number is not positive, or more than four times the full one.
        UnknownNameError: If a key names no run.
    """
    if not isinstance(wanted, Mapping):
        raise ConfigError(f"depth is a dict from runs of blocks to numbers, got {wanted!r}")
    found = {name: run.count for name, run in runs.items()}
    for name, depth in wanted.items():
        if name not in runs:
            raise unknown_name("run of blocks", name, list(runs))
        most = MOST * runs[name].count
        if isinstance(depth, bool) or not isinstance(depth, Integral) or not 1 <= depth <= most:
            raise ConfigError(f"a depth is a whole number in [1, {most}], got {name}: {depth!r}")
        found[name] = int(depth)
    return found


def with_depths(
    model: nn.Module, runs: Mapping[str, Run], depths: Mapping[str, int]
) -> tuple[nn.Module, dict[str, str]]:
    """Return a copy with other numbers of blocks.

    Returns:
        The copy, and for each of its parameters and buffers the one of the model that it is of.
    """
    made = copied(model)
    moves: list[tuple[str, list[int]]] = []
    for name, run in runs.items():
        holder = made.get_submodule(name)
        count = len(holder._modules)
        own = [run.first + min(i, run.count - 1) for i in range(depths[name])]
        places = [*range(run.first), *own, *range(run.first + run.count, count)]
        children = list(holder.children())
        new = [copied(children[p]) if p in places[:i] else children[p]
               for i, p in enumerate(places)]  # fmt: skip
        holder._modules.clear()
        for place, child in enumerate(new):
            holder.add_module(str(place), child)
        moves.append((name, places))
    names = [n for n, _ in (*made.named_parameters(), *made.named_buffers())]
    return made, {name: _source(name, moves) for name in names}


def _source(name: str, moves: list[tuple[str, list[int]]]) -> str:
    for container, places in moves:
        prefix = f"{container}." if container else ""
        if found := re.fullmatch(rf"{re.escape(prefix)}(\d+)(\..*)", name):
            return f"{prefix}{places[int(found[1])]}{found[2]}"
    return name
