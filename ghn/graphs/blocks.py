"""Blocks of a model, and the blocks that repeat.

A block is what ran, without interruption, in a module whose name counts: `blocks.0`, `layer1`,
`cell_3`. Blocks nest. Blocks that follow each other and agree in operators, shapes and inner edges
form a run, of which a picture shows the first; a run may go through several kinds of blocks in
turn, as the plain and the shifted windows of a Swin transformer.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator

from ghn.graphs.graph import ParamGraph

__all__ = ["Block", "Folded", "find_blocks", "fold"]

LONGEST_PERIOD = 4  # kinds of blocks that may take turns in a run
# A name such as `layer1` is a block's only if this many of its operators have parameters: `conv1`
# and `norm1` count too, but are no blocks.
LEAST_LAYERS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """A block: an interval of the graph's nodes.

    Attributes:
        scope: The module's dotted path.
        first: Index of its first node.
        last: Index of its last node.
        parent: Position of the block that it lies in, or None.
        repeats: Position of the block that it repeats, or None.
    """

    scope: str
    first: int
    last: int
    parent: int | None = None
    repeats: int | None = None


@dataclasses.dataclass(frozen=True)
class Folded:
    """A graph with repeated blocks drawn once.

    Attributes:
        kept: Indices of the nodes that remain, ascending.
        edges: Edges between them, sorted.
        repeats: For each remaining copy of a block, its scope and how often it occurs.
    """

    kept: list[int]
    edges: list[tuple[int, int]]
    repeats: dict[str, int]


def find_blocks(graph: ParamGraph) -> list[Block]:
    """Return a graph's blocks in the order of their nodes, outer ones first.

    A block of one node counts only if it is part of a run, and one with exactly its parent's nodes
    is left out.
    """
    found = _nested(_intervals(graph))
    signatures = _Signatures(graph)
    siblings: dict[tuple[int | None, str], list[int]] = {}
    for position, block in enumerate(found):
        siblings.setdefault((block.parent, _stem(block.scope)), []).append(position)
    original: dict[int, int] = {}
    for members in siblings.values():
        for run in _adjacent(found, members):
            original |= _repeats([found[p] for p in run], run, signatures)
    firsts = set(original.values())
    alone = {
        position
        for position, block in enumerate(found)
        if block.first == block.last and position not in original and position not in firsts
    }
    return _without(found, alone, original)


def fold(graph: ParamGraph) -> Folded:
    """Keep the first of each run of equal blocks.

    An edge into a dropped copy becomes an edge into the same place of the kept one, unless it
    would point upwards.
    """
    blocks = find_blocks(graph)
    stands_for = list(range(len(graph.nodes)))
    repeats: dict[str, int] = {}
    for block in blocks:
        # Outer blocks come first: what lies in a dropped one is dropped already.
        if block.repeats is None or stands_for[block.first] != block.first:
            continue
        kept = blocks[block.repeats]
        repeats[kept.scope] = repeats.get(kept.scope, 1) + 1
        for node in range(block.first, block.last + 1):
            stands_for[node] = stands_for[kept.first + node - block.first]
    moved = {(stands_for[u], stands_for[v]) for u, v in graph.edges}
    return Folded(sorted(set(stands_for)), sorted((u, v) for u, v in moved if u < v), repeats)


def _stem(scope: str) -> str:
    """Return what blocks that count up together have in common."""
    return re.sub(r"_?\d+$", "", scope)


def _intervals(graph: ParamGraph) -> list[Block]:
    """Return every counted scope whose nodes lie side by side, outer ones first."""
    members: dict[str, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        for scope in _counted(node.scope):
            members.setdefault(scope, []).append(index)
    found = []
    for scope, nodes in members.items():
        layers = sum(bool(graph.nodes[n].parameters) for n in nodes)
        is_number = scope.rpartition(".")[2].isdigit()
        unbroken = len(nodes) == nodes[-1] - nodes[0] + 1
        if unbroken and (is_number or layers >= LEAST_LAYERS):
            found.append(Block(scope, nodes[0], nodes[-1]))
    return sorted(found, key=lambda b: (b.first, -b.last, b.scope.count(".")))


def _counted(scope: str) -> Iterator[str]:
    """Yield the parts of a path that end in a number: of `layer1.0.conv`, `layer1`, `layer1.0`."""
    parts = scope.split(".")
    for length, part in enumerate(parts, start=1):
        if part[-1:].isdigit():
            yield ".".join(parts[:length])


def _nested(blocks: list[Block]) -> list[Block]:
    """Give every block its parent; drop those that have exactly their parent's nodes."""
    nested: list[Block] = []
    stack: list[int] = []
    for block in blocks:
        while stack and nested[stack[-1]].last < block.first:
            stack.pop()
        parent = stack[-1] if stack else None
        if parent is not None and _same_interval(nested[parent], block):
            continue
        stack.append(len(nested))
        nested.append(dataclasses.replace(block, parent=parent))
    return nested


def _same_interval(one: Block, other: Block) -> bool:
    return (one.first, one.last) == (other.first, other.last)


def _adjacent(blocks: list[Block], members: list[int]) -> Iterator[list[int]]:
    """Yield the stretches of blocks with nothing in between."""
    stretch: list[int] = []
    for position in members:
        if stretch and blocks[stretch[-1]].last + 1 != blocks[position].first:
            yield stretch
            stretch = []
        stretch.append(position)
    yield stretch


class _Signatures:
    """What must agree for two blocks to be equal, each computed once."""

    def __init__(self, graph: ParamGraph) -> None:
        self._nodes = [
            (node.op, tuple((graph.specs[name].shape, role) for name, role in node.parameters))
            for node in graph.nodes
        ]
        self._sources: dict[int, list[int]] = collections.defaultdict(list)
        for start, end in graph.edges:
            self._sources[end].append(start)

    def __call__(self, block: Block) -> tuple[object, ...]:
        """Return operators, shapes and roles of a block's nodes, and the edges inside it."""
        indices = range(block.first, block.last + 1)
        edges = tuple(
            (source - block.first, node - block.first)
            for node in indices
            for source in self._sources[node]
            if source >= block.first
        )
        return tuple(self._nodes[i] for i in indices), edges


def _repeats(blocks: list[Block], positions: list[int], signature: _Signatures) -> dict[int, int]:
    """Return which of adjacent blocks repeat which, by position."""
    signatures = [signature(block) for block in blocks]
    found: dict[int, int] = {}
    start = 0
    while start < len(blocks):
        period, length = _longest_run(signatures[start:])
        for step in range(period, length):
            found[positions[start + step]] = positions[start + step % period]
        start += max(length, 1)
    return found


def _longest_run(signatures: list[tuple[object, ...]]) -> tuple[int, int]:
    """Return period and length of the run that begins here, in whole periods; (1, 1) if none."""
    for period in range(1, LONGEST_PERIOD + 1):
        length = period
        while length < len(signatures) and signatures[length] == signatures[length % period]:
            length += 1
        length -= length % period
        if length >= 2 * period:
            return period, length
    return 1, 1


def _without(blocks: list[Block], dropped: set[int], original: dict[int, int]) -> list[Block]:
    """Leave blocks out and say where the others are now; a single node holds no further block."""
    kept = [position for position in range(len(blocks)) if position not in dropped]
    place = {old: new for new, old in enumerate(kept)}

    def moved(old: int | None) -> int | None:
        return None if old is None else place[old]

    return [
        dataclasses.replace(
            blocks[p], parent=moved(blocks[p].parent), repeats=moved(original.get(p))
        )
        for p in kept
    ]
