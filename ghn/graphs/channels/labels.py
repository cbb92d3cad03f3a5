"""Labels of channels, and which of them are the same channel.

Every position of an axis of a tensor has a label. Operators make labels equal (a bias shares those
of the output channels it is added to), or fold two axes into one, whose labels are pairs: in a
linear layer that reads attention heads, input `h * d + j` is labelled (head h, place j). Labels are
the terms of a unification problem, kept as numbers in a union-find structure; everything works on
arrays of labels. A label that is *fixed* stands for a position that must not move.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Labels"]

Array = npt.NDArray[np.int64]

NONE = -1
FOLDED = "its axis is folded in two ways that do not fit together"


class Labels:
    """A growing set of labels: atoms, fixed atoms, and pairs of labels."""

    def __init__(self) -> None:
        self._count = 0
        self._parent = np.zeros(1024, np.int64)
        self._left = np.zeros(1024, np.int64)
        self._right = np.zeros(1024, np.int64)
        self._fixed = np.zeros(1024, bool)
        self._why: dict[int, str] = {}

    @property
    def count(self) -> int:
        """Number of labels there are."""
        return self._count

    def fresh(self, count: int) -> Array:
        """Return new atoms."""
        new = np.arange(self._count, self._count + count)
        while len(self._parent) < self._count + count:
            self._parent, self._left, self._right, self._fixed = (
                np.concatenate([table, np.zeros_like(table)])
                for table in (self._parent, self._left, self._right, self._fixed)
            )
        self._parent[new] = new
        self._left[new] = NONE
        self._count += count
        return new

    def fixed(self, count: int, why: str) -> Array:
        """Return new atoms that must not move, for a reason in words."""
        new = self.fresh(count)
        self._fixed[new] = True
        self._why.update(dict.fromkeys(new.tolist(), why))
        return new

    def pair(self, left: Array, right: Array) -> Array:
        """Return labels of the pairs of two arrays of one shape."""
        new = self.fresh(left.size)
        self._left[new] = left.ravel()
        self._right[new] = right.ravel()
        return new.reshape(left.shape)

    def find(self, labels: Array) -> Array:
        """Return, for each label, the one that stands for all that are equal to it."""
        roots = self._parent[labels]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[labels] = roots
        return roots

    def leaves(self, labels: Array) -> Iterator[tuple[Array, Array]]:
        """Take pairs of pairs apart.

        Args:
            labels: A one-dimensional array.

        Yields:
            For each number of leaves `L` that occurs, the positions in `labels` `[n]` and their
            leaves `[n, L]`, which are atoms.
        """
        found: dict[int, list[tuple[Array, Array]]] = {}
        open_groups = [(np.arange(len(labels)), [self.find(labels)])]
        while open_groups:
            where, columns = open_groups.pop()
            for k, column in enumerate(columns):
                paired = self._left[column] != NONE
                if not paired.any():
                    continue
                inner = column[paired]
                halves = [self.find(self._left[inner]), self.find(self._right[inner])]
                before, after = columns[:k], columns[k + 1 :]
                split = [*(c[paired] for c in before), *halves, *(c[paired] for c in after)]
                open_groups.append((where[paired], split))
                if not paired.all():
                    open_groups.append((where[~paired], [c[~paired] for c in columns]))
                break
            else:
                found.setdefault(len(columns), []).append((where, np.stack(columns, 1)))
        for groups in found.values():
            yield np.concatenate([w for w, _ in groups]), np.concatenate([m for _, m in groups])

    def is_still(self, labels: Array) -> bool:
        """Return whether none of some labels may move."""
        return all(self._fixed[leaves].all() for _, leaves in self.leaves(labels.ravel()))

    def is_fixed(self, atoms: Array) -> npt.NDArray[np.bool_]:
        """Return which atoms must not move."""
        return self._fixed[self.find(atoms)]

    def why(self, atom: int) -> str:
        """Return the reason for which an atom must not move; empty if it may."""
        return self._why.get(self._root(atom), "")

    def fix(self, labels: Array, why: str) -> None:
        """Say that labels, and everything they are pairs of, must not move."""
        for _, leaves in self.leaves(labels.ravel()):
            atoms = np.unique(leaves)
            atoms = atoms[~self._fixed[atoms]]
            self._fixed[atoms] = True
            self._why.update(dict.fromkeys(atoms.tolist(), why))

    def unify(self, first: Array, second: Array) -> None:
        """Make two arrays of labels equal, element by element."""
        one, two = self.find(first.ravel()), self.find(second.ravel())
        differ = one != two
        if not differ.any():
            return
        rows = np.unique(np.stack([one[differ], two[differ]], 1), axis=0)
        paired = (self._left[rows] != NONE).all(1)
        if paired.any():
            self._unify_pairs(*rows[paired].T)
        rows = rows[~paired]
        plain = (self._left[rows] == NONE).all() and not self._fixed[rows].any()
        if plain and len(np.unique(rows)) == rows.size:
            self._parent[rows[:, 1]] = rows[:, 0]
            return
        for u, v in rows.tolist():
            self._join(u, v)

    def _unify_pairs(self, one: Array, two: Array) -> None:
        """Pairs are equal if their leaves are; two numbers of leaves are not understood."""
        left, right = ({g[1].shape[1]: g for g in self.leaves(side)} for side in (one, two))
        for n, (where, leaves) in left.items():
            there, others = right.get(n, (np.zeros(0, np.int64), leaves[:0]))
            both, i, j = np.intersect1d(where, there, return_indices=True)
            for k in range(n if len(both) else 0):
                self.unify(leaves[i, k], others[j, k])
            lone = np.setdiff1d(where, both)
            self.fix(one[lone], FOLDED)
            self.fix(two[lone], FOLDED)

    def _root(self, label: int) -> int:
        while (above := int(self._parent[label])) != label:
            label = above
        return label

    def _join(self, u: int, v: int) -> None:
        u, v = self._root(u), self._root(v)
        if u == v or (self._fixed[u] and self._fixed[v]):
            return
        if self._left[u] != NONE and self._left[v] != NONE:
            self._unify_pairs(np.array([u]), np.array([v]))
            return
        for one, other in ((u, v), (v, u)):
            if self._fixed[one]:
                self.fix(np.array([other]), self._why[one])
                return
        atom, label = (u, v) if self._left[v] != NONE else (v, u)
        if self._left[label] != NONE and any(
            (leaves == atom).any() for _, leaves in self.leaves(np.array([label]))
        ):
            self.fix(np.array([label]), FOLDED)
        else:
            self._parent[atom] = label

    def factor(self, grid: Array) -> tuple[Array, Array]:
        """Write the labels of a grid as pairs (label of the row, label of the column).

        Args:
            grid: Labels `[r, c]`.

        Returns:
            Labels of the rows `[r]` and of the columns `[c]`. Where the labels of the grid cannot
            be such pairs, they become fixed.
        """
        r, c = grid.shape
        groups = list(self.leaves(grid.ravel()))
        if len(groups) > 1:
            self.fix(grid, FOLDED)
            return self.fixed(r, FOLDED), self.fixed(c, FOLDED)
        where, flat = groups[0]
        leaves = np.empty_like(flat)
        leaves[where] = flat
        rows: list[Array] = []
        columns: list[Array] = []
        for leaf in leaves.T:
            table = leaf.reshape(r, c)
            if (table == table[:, :1]).all():
                rows.append(table[:, 0])
            elif (table == table[:1]).all():
                columns.append(table[0])
            else:
                row, column = self._split(table)
                rows.append(row)
                columns.append(column)
        return self._product(rows, r), self._product(columns, c)

    def _split(self, table: Array) -> tuple[Array, Array]:
        """Bind atoms that differ along both axes of a table to pairs of new ones."""
        r, c = table.shape
        fixed = self._fixed[table]
        if fixed.any():
            why = self._why[int(table[fixed][0])]
            self.fix(table, why)
            return self.fixed(r, why), self.fixed(c, why)
        rows, row_of = np.unique(table, axis=0, return_inverse=True)
        core, column_of = np.unique(rows, axis=1, return_inverse=True)
        row, column = (self.fresh(n) for n in core.shape)
        pairs = self.outer([row, column])
        if len(np.unique(core)) == core.size:
            self._parent[core] = pairs
        else:
            self.unify(core, pairs)
        return row[row_of.ravel()], column[column_of.ravel()]

    def _product(self, parts: list[Array], count: int) -> Array:
        """Pair up parts in order; without any, nothing tells which position is which."""
        if not parts:
            return self.fixed(count, FOLDED)
        label = parts[0]
        for part in parts[1:]:
            label = self.pair(label, part)
        return label

    def outer(self, arrays: list[Array]) -> Array:
        """Return the labels of several axes taken together; its shape is that of all in turn."""
        label = arrays[0]
        for array in arrays[1:]:
            shape = label.shape + array.shape
            left = np.broadcast_to(label.reshape(label.shape + (1,) * array.ndim), shape)
            label = self.pair(left, np.broadcast_to(array, shape))
        return label
