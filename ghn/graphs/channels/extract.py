"""From labels to sets of interchangeable channels.

An atom occurs in an array of labels at some positions, each time in a context: the other atoms of
its pairs, and its place among them. Two atoms can change places if they have the same contexts in
every array of the forward pass, counted with repetition: then the exchange maps every axis onto
itself. Contexts are compared by 64-bit hashes that add up, so that order does not matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ghn.graphs.channels.labels import Array, Labels
from ghn.graphs.channels.layout import Block, Layout
from ghn.graphs.channels.propagate import Propagation
from ghn.graphs.channels.views import CUTS

__all__ = ["Channels", "find_channels"]

Hash = npt.NDArray[np.uint64]

NONE = -1
ALONE = "no other channel is used in the same places"
UNREAD = "not read in the forward pass"


@dataclasses.dataclass(frozen=True)
class Occurrences:
    """Atoms in one array of labels; row k is one atom at one position.

    Attributes:
        position: Where, counted through the flattened array.
        atom: Which atom.
        context: Hash of what else is there.
    """

    position: Array
    atom: Array
    context: Hash


class Channels:
    """Sets of interchangeable channels, and where they are.

    Args:
        labels: All labels.
        set_of: For each atom the number of its set, or -1.
    """

    def __init__(self, labels: Labels, set_of: Array) -> None:
        self.labels = labels
        self.set_of = set_of

    def members(self, vector: Array) -> dict[int, tuple[Array, Array]]:
        """Return the positions of channels along one axis.

        Args:
            vector: Labels of the axis `[n]`.

        Returns:
            For each set that occurs its atoms `[c]`, and for each of them the positions that it
            labels `[c, m]`; those in one column correspond.
        """
        found = _occurrences(self.labels, vector)
        sets = self.set_of[found.atom]
        order = np.lexsort((found.position, found.context, found.atom, sets))
        result = {}
        for number in np.unique(sets[sets != NONE]).tolist():
            rows = order[sets[order] == number]
            atoms = np.unique(found.atom[rows])
            positions = found.position[rows].reshape(len(atoms), -1)
            result[number] = (atoms, positions[:, np.argsort(positions.min(0))])
        return result

    def why_still(self, vector: Array) -> tuple[int, str]:
        """Return how many positions of an axis are in no set, and why the first one is not."""
        moving = np.zeros(len(vector), bool)
        found = _occurrences(self.labels, vector)
        moving[found.position[self.set_of[found.atom] != NONE]] = True
        still = np.flatnonzero(~moving)
        reasons = (
            self.labels.why(atom)
            for place in still[:1]
            for atom in found.atom[found.position == place].tolist()
        )
        return len(still), next(filter(None, reasons), ALONE)


def find_channels(run: Propagation, leaves: Iterable[Layout]) -> Channels:
    """Group the atoms of a forward pass into sets of interchangeable channels.

    Args:
        run: Labels carried through the whole forward pass.
        leaves: Layouts of the parameters and buffers.
    """
    labels = run.labels
    leaves = list(leaves)
    atoms = _atoms(labels, (b for layout in leaves for b in layout.blocks))
    labels.fix(np.setdiff1d(atoms, _read(run)), UNREAD)
    arrays = [_occurrences(labels, array) for array in _arrays(run, leaves)]
    if not arrays:  # nothing has an axis that could move
        return Channels(labels, np.full(labels.count, NONE))
    signature = np.zeros(labels.count, np.uint64)
    for number, found in enumerate(arrays):
        np.add.at(signature, found.atom, _mixed(found.context, number + 1))
    atoms = np.unique(np.concatenate([found.atom for found in arrays]))
    atoms = atoms[~labels.is_fixed(atoms)]
    _, groups, sizes = np.unique(signature[atoms], return_inverse=True, return_counts=True)
    set_of = np.full(labels.count, NONE)
    shared = sizes[groups] > 1
    set_of[atoms[shared]] = groups[shared]
    for found in arrays:
        if len(np.unique(found.atom)) < len(found.atom):
            set_of[np.isin(set_of, _entangled(found, set_of))] = NONE
    return Channels(labels, set_of)


def _read(run: Propagation) -> Array:
    """Return the atoms that some call sums over, compares, or else has no more in its results.

    Positions that are cut off are not read: rows of a table of places beyond those of the example
    may be read for another input, and then are not alike.
    """
    read = [
        np.setdiff1d(
            _atoms(run.labels, (b for layout in step.layouts() for b in layout.blocks)),
            _atoms(run.labels, (b for layout in results for b in layout.blocks)),
        )
        for step, results in run.steps
        if step.name not in CUTS
    ]
    return np.unique(np.concatenate(read)) if read else np.zeros(0, np.int64)


def _atoms(labels: Labels, blocks: Iterable[Block]) -> Array:
    """Return all atoms that occur in some blocks, each once."""
    arrays = {id(block.labels): block.labels for block in blocks}
    found = [
        np.unique(leaves) for array in arrays.values() for _, leaves in labels.leaves(array.ravel())
    ]
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)


def _arrays(run: Propagation, leaves: Iterable[Layout]) -> Iterator[Array]:
    """Yield every array of labels once."""
    seen: set[int] = set()
    layouts = [*leaves, *(layout for _, results in run.steps for layout in results)]
    blocks: list[Block] = [block for layout in layouts for block in layout.blocks]
    for block in blocks:
        if id(block.labels) not in seen:
            seen.add(id(block.labels))
            yield block.labels.ravel()
    yield from run.ops.alone


def _occurrences(labels: Labels, vector: Array) -> Occurrences:
    positions, atoms, contexts = [], [], []
    for where, leaves in labels.leaves(vector):
        terms = np.stack([_mixed(leaf, place) for place, leaf in enumerate(leaves.T)])
        whole = terms.sum(0, dtype=np.uint64)
        for place, leaf in enumerate(leaves.T):
            positions.append(where)
            atoms.append(leaf)
            contexts.append(_mixed(whole - terms[place], place))
    return Occurrences(np.concatenate(positions), np.concatenate(atoms), np.concatenate(contexts))


def _mixed(values: npt.NDArray[np.integer], salt: int) -> Hash:
    """Hash numbers to 64 bits (the finaliser of splitmix64)."""
    x = values.astype(np.uint64) + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _entangled(found: Occurrences, set_of: Array) -> Array:
    """Return sets whose channels cannot be moved one by one along an axis.

    That is so where one position stands for two channels of a set, and where a channel has several
    positions in one context and it cannot be told which of them corresponds to which of another's.
    """
    sets = set_of[found.atom]
    rows = np.flatnonzero(sets != NONE)
    order = rows[np.lexsort((found.position[rows], sets[rows]))]
    s, p = sets[order], found.position[order]
    twice = (s[1:] == s[:-1]) & (p[1:] == p[:-1])
    wrong = [s[1:][twice]]
    order = rows[np.lexsort((found.position[rows], found.atom[rows], found.context[rows]))]
    s, a, c = sets[order], found.atom[order], found.context[order]
    again = (a[1:] == a[:-1]) & (c[1:] == c[:-1])
    for number in np.unique(s[1:][again]).tolist():
        mine = order[s == number]
        for context in np.unique(found.context[mine]):
            these = mine[found.context[mine] == context]
            _, counts = np.unique(found.atom[these], return_counts=True)
            table = found.position[these].reshape(len(counts), -1)  # channels x repetitions
            if (table[:, :-1].max(0) >= table[:, 1:].min(0)).any():
                wrong.append(np.array([number]))
    return np.unique(np.concatenate(wrong))
