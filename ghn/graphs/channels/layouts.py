"""How layouts come from layouts: what views and combinations of tensors do to labels.

Axes that were split from one share one array of labels (`ghn.graphs.channels.layout`) until an
operator treats one of them by itself; only then are its labels written as pairs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from ghn.graphs.channels.labels import Array, Labels
from ghn.graphs.channels.layout import Block, Layout, matched_axes

__all__ = ["Layouts"]

# Axes folded into more positions than this are still.
MAX_LABELS = 1 << 22
TOO_MANY = "more channels than are followed"


class Layouts:
    """Makes layouts out of layouts.

    Args:
        labels: The labels that they are made of.

    Attributes:
        alone: Labels of positions that were taken by themselves out of an axis of several.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.alone: list[Array] = []

    def still(self, shape: Iterable[int], why: str) -> Layout:
        """Return the layout of a tensor that must not move at all."""
        shape = tuple(shape)
        return Layout(shape, (), (why,) * len(shape))

    def fresh(self, shape: Iterable[int], why: str = TOO_MANY) -> Layout:
        """Return a layout with new labels on every axis."""
        shape = tuple(shape)
        blocks = tuple(
            Block((d,), self.labels.fresh(n)) for d, n in enumerate(shape) if 1 < n <= MAX_LABELS
        )
        return Layout(shape, blocks, (why,) * len(shape))

    def fix(self, layout: Layout, dims: Iterable[int], why: str) -> None:
        """Say that axes must not move."""
        for dim in dims:
            if layout.of(dim) is not None:
                self.labels.fix(self.vector(layout, dim), why)

    def fix_all(self, layout: Layout, why: str) -> None:
        """Say that nothing of a tensor must move."""
        for block in layout.blocks:
            self.labels.fix(block.labels, why)

    def separate(self, layout: Layout, dims: Iterable[int]) -> Layout:
        """Return a layout in which each of `dims` has labels of its own."""
        for dim in dims:
            block = layout.of(dim)
            if block is not None and len(block.dims) > 1:
                blocks = tuple(b for b in layout.blocks if b is not block)
                layout = dataclasses.replace(layout, blocks=blocks + self._factored(block))
        return layout

    def _factored(self, block: Block) -> tuple[Block, ...]:
        rest, vectors = block.labels, []
        while rest.ndim > 1:
            row, column = self.labels.factor(rest.reshape(len(rest), -1))
            vectors.append(row)
            rest = column.reshape(rest.shape[1:])
        vectors.append(rest)
        return tuple(Block((d,), v) for d, v in zip(block.dims, vectors, strict=True))

    def take(self, layout: Layout, dim: int, positions: Array) -> Layout:
        """Return the layout of some positions along an axis; see `Layout.take`.

        One position by itself has no axis any more that its label could be seen on, but may be used
        in another way than its neighbours: it is noted down.
        """
        block = layout.of(dim)
        if block is not None and len(block.dims) == 1 and len(positions) == 1:
            self.alone.append(block.labels[positions])
        return layout.take(dim, positions)

    def vector(self, layout: Layout, dim: int) -> Array:
        """Return the labels of one axis `[n]`; of a still one they are fixed."""
        block = self.separate(layout, (dim,)).of(dim)
        if block is None:
            return self.labels.fixed(layout.shape[dim], layout.why[dim])
        return block.labels

    def tie(self, one: Layout, dim: int, two: Layout, other: int) -> None:
        """Make the labels of an axis of one tensor those of an axis of another, of equal size."""
        dim, other = one.axis(dim), two.axis(other)
        if one.of(dim) is not None or two.of(other) is not None:
            self.labels.unify(self.vector(one, dim), self.vector(two, other))

    def grid(self, layout: Layout, dim: int, rows: int) -> tuple[Array, Array]:
        """Split an axis of size `rows * c` into labels of rows `[rows]` and of columns `[c]`."""
        vector = self.vector(layout, dim)
        columns = len(vector) // rows
        if rows == 1 or columns == 1:
            lone = self.labels.fixed(1, "the only one")
            return (lone, vector) if rows == 1 else (vector, lone)
        return self.labels.factor(vector.reshape(rows, columns))

    def keep(self, layout: Layout, moved: Iterable[int], shape: Iterable[int], why: str) -> Layout:
        """Return the layout of a result with the axes of its source, some of them still from now.

        Args:
            layout: Layout of the source.
            moved: Axes along which positions matter; their labels become fixed.
            shape: Shape of the result, which differs from the source's in the moved axes alone.
            why: The reason, in words.
        """
        moved = {layout.axis(d) for d in moved}
        self.fix(layout, moved, why)
        layout = self.separate(layout, moved)
        blocks = tuple(b for b in layout.blocks if not moved & set(b.dims))
        reasons = tuple(why if d in moved else w for d, w in enumerate(layout.why))
        return Layout(tuple(shape), blocks, reasons)

    def drop(self, layout: Layout, dims: Iterable[int]) -> Layout:
        """Return the layout without some axes; these must have size 1 or no labels in common."""
        gone = set(dims)
        layout = self.separate(layout, gone)
        keep = [d for d in range(len(layout.shape)) if d not in gone]
        place = {old: new for new, old in enumerate(keep)}
        blocks = (b for b in layout.blocks if not gone & set(b.dims))
        return Layout(
            tuple(layout.shape[d] for d in keep),
            tuple(Block(tuple(place[d] for d in b.dims), b.labels) for b in blocks),
            tuple(layout.why[d] for d in keep),
        )

    def insert(
        self, layout: Layout, dim: int, size: int = 1, labels: Array | None = None
    ) -> Layout:
        """Return the layout with one more axis, which is still unless labels are given."""
        blocks = tuple(
            Block(tuple(d + (d >= dim) for d in b.dims), b.labels) for b in layout.blocks
        )
        if labels is not None and size > 1:
            blocks += (Block((dim,), labels),)
        why = (*layout.why[:dim], "a new axis", *layout.why[dim:])
        return Layout((*layout.shape[:dim], size, *layout.shape[dim:]), blocks, why)

    def reshape(self, layout: Layout, shape: Sequence[int]) -> Layout:
        """Return the layout of a tensor viewed in another shape of as many elements."""
        shape = tuple(shape)
        if shape == layout.shape:
            return layout
        if math.prod(shape) == 0:
            return self.still(shape, "no elements")
        layout = self._settled(layout)
        shift = len(layout.shape)  # new axes are counted from here until all are known
        blocks = list(layout.blocks)
        why = ["a new axis"] * len(shape)
        for old, new in matched_axes(layout.shape, shape):
            touched = [b for b in blocks if set(b.dims) & set(old)]
            for d in new:
                why[d] = layout.why[old[0]]
            blocks = [b for b in blocks if b not in touched]
            blocks += self._refolded(layout, touched, old, [d + shift for d in new], shape)
        shifted = (Block(tuple(d - shift for d in b.dims), b.labels) for b in blocks)
        return Layout(shape, tuple(shifted), tuple(why))

    def _settled(self, layout: Layout) -> Layout:
        """Return the layout with axes still if none of their labels may move."""
        still = [b for b in layout.blocks if self.labels.is_still(b.labels)]
        reasons = dict.fromkeys((d for b in still for d in b.dims), "tied to what must not move")
        why = tuple(reasons.get(d, w) for d, w in enumerate(layout.why))
        return Layout(layout.shape, tuple(b for b in layout.blocks if b not in still), why)

    def _refolded(
        self,
        layout: Layout,
        touched: list[Block],
        old: list[int],
        new: list[int],
        shape: tuple[int, ...],
    ) -> list[Block]:
        """Return blocks in which the axes `old` have become the axes `new`."""
        if not touched:
            return []
        if len(old) == len(new) == 1:
            dims = tuple(new[0] if d == old[0] else d for d in touched[0].dims)
            return [Block(dims, touched[0].labels)]
        covered = {d for b in touched for d in b.dims}
        parts = touched + [
            Block((d,), self.labels.fixed(layout.shape[d], layout.why[d]))
            for d in old
            if d not in covered
        ]
        if math.prod(p.labels.size for p in parts) > MAX_LABELS:
            for block in touched:
                self.labels.fix(block.labels, TOO_MANY)
            return []
        joint = self.joint(parts)
        rest = [d for d in joint.dims if d not in old]
        order = [joint.dims.index(d) for d in [*rest, *old]]
        labels = joint.labels.transpose(order)
        shift = len(layout.shape)
        sizes = [*labels.shape[: len(rest)], *(shape[d - shift] for d in new)]
        return [Block((*rest, *new), labels.reshape(sizes))]

    def joint(self, blocks: Sequence[Block]) -> Block:
        """Return one block for the axes of several."""
        blocks = sorted(blocks, key=lambda b: min(b.dims))
        labels = self.labels.outer([b.labels for b in blocks])
        return Block(tuple(d for b in blocks for d in b.dims), labels)

    def meet(self, layouts: Sequence[Layout], shape: Iterable[int]) -> Layout:
        """Make the labels of tensors equal that are combined element by element.

        Args:
            layouts: Layouts of the tensors; axes of size 1, and missing ones in front, broadcast.
            shape: Shape of the result.

        Returns:
            The layout of the result.
        """
        shape = tuple(shape)
        result: Layout | None = None
        for layout in layouts:
            wide = layout.widened(len(shape))
            result = wide if result is None else self._met(result, wide)
        return result if result is not None else self.still(shape, "made of numbers")

    def _met(self, one: Layout, two: Layout) -> Layout:
        if any(len(b.dims) > 1 for b in (*one.blocks, *two.blocks)):
            one, two = self._settled(one), self._settled(two)
        shape = np.broadcast_shapes(one.shape, two.shape)
        blocks: list[Block] = []
        left = [*one.blocks, *two.blocks]
        while left:
            group = [left.pop(0)]
            while more := [b for b in left if any(set(b.dims) & set(g.dims) for g in group)]:
                group += more
                left = [b for b in left if b not in more]
            blocks += self._met_blocks(one, two, group)
        why = [
            a if one.shape[d] > 1 else b
            for d, (a, b) in enumerate(zip(one.why, two.why, strict=True))
        ]
        return Layout(shape, tuple(blocks), tuple(why))

    def _met_blocks(self, one: Layout, two: Layout, group: list[Block]) -> list[Block]:
        """Unify the labels that two tensors have on axes that belong together."""
        dims = [d for b in group for d in b.dims]
        if all(two.shape[d] == 1 for d in dims) or all(one.shape[d] == 1 for d in dims):
            return group
        first = self._over(one, two, sorted(set(dims)))
        second = self._over(two, one, sorted(set(dims)))
        if first is None or second is None:
            for block in group:
                self.labels.fix(block.labels, TOO_MANY)
            return []
        order = [second.dims.index(d) for d in first.dims]
        self.labels.unify(first.labels, second.labels.transpose(order))
        return [first]

    def _over(self, layout: Layout, other: Layout, dims: list[int]) -> Block | None:
        """Return one block of a layout for some axes; those that broadcast get new labels."""
        parts = [b for b in layout.blocks if set(b.dims) & set(dims)]
        covered = {d for b in parts for d in b.dims}
        for d in dims:
            if d not in covered and layout.shape[d] == 1:
                parts.append(Block((d,), self.labels.fresh(other.shape[d])))
            elif d not in covered:
                parts.append(Block((d,), self.labels.fixed(layout.shape[d], layout.why[d])))
        if math.prod(p.labels.size for p in parts) > MAX_LABELS:
            return None
        return self.joint(parts)

    def concat(self, layouts: Sequence[Layout], dim: int) -> Layout:
        """Return the layout of tensors laid side by side along one axis."""
        others = [self.drop(layout, (dim,)) for layout in layouts]
        shape = np.broadcast_shapes(*(o.shape for o in others))
        sizes = [layout.shape[dim] for layout in layouts]
        vector = None
        if any(layout.of(dim) is not None for layout in layouts):
            vector = np.concatenate([self.vector(layout, dim) for layout in layouts])
        return self.insert(self.meet(others, shape), dim, sum(sizes), vector)
