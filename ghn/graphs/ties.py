"""Channel ties: which axes of which tensors must be permuted, or resized, together.

A convolution's output channels are its weight's first axis, its bias, the norm behind it, and the
input axes of all that reads it; a residual stream joins many of these. Such a set of axes is read
off one recorded forward pass, in which every axis of every tensor carries labels that say which
channel a position belongs to (`ghn.graphs.channels`). Channels are interchangeable if they occur in
the same places of the same axes everywhere. What an operator outside the rules reads, what meets
the model's input, and what the model returns must not move.

The equivalence is ours; that channels come in such cliques is in Yang et al. 2024 (NeuMeta, arXiv
2410.11878) and Fang et al. 2023 (DepGraph, arXiv 2301.12900).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ghn.errors import UnsupportedModelError
from ghn.graphs.channels.extract import Channels, find_channels
from ghn.graphs.channels.labels import Array
from ghn.graphs.channels.layout import Layout
from ghn.graphs.channels.propagate import Propagation
from ghn.graphs.graph import ParamGraph
from ghn.graphs.inputs import ExampleInputs
from ghn.graphs.isolate import unwrap
from ghn.graphs.trace import parameter_names, recorded, trace_with_inputs
from ghn.rng import make_generator

__all__ = [
    "ChannelSet",
    "ChannelTies",
    "Followed",
    "FrozenAxis",
    "TiedAxis",
    "channel_ties",
    "check_movable",
    "follow",
    "forget_caches",
    "named_tensors",
    "overlaps",
    "permute_channels",
    "shuffle_channels",
]


@dataclasses.dataclass(frozen=True, eq=False)
class TiedAxis:
    """An axis of a parameter or buffer along which the channels of a set lie.

    Attributes:
        name: Name in the model; of a tied parameter its first.
        axis: Which axis.
        index: Positions along the axis `[channels, positions of one channel]`. Those in one column
            correspond: channel c takes the place of channel d if `index[c]` goes to `index[d]`.
    """

    name: str
    axis: int
    index: Array


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelSet:
    """Channels that can be put in any order, together wherever they occur.

    Attributes:
        name: The first axis, as `name[axis]`; if several sets begin there, with a number.
        size: Number of channels.
        axes: All axes of all tensors that the channels lie along.
    """

    name: str
    size: int
    axes: tuple[TiedAxis, ...]

    def __repr__(self) -> str:
        return f"ChannelSet({self.name}, {self.size} channels, {len(self.axes)} axes)"


@dataclasses.dataclass(frozen=True)
class FrozenAxis:
    """An axis of which some positions must not move: how many, and the reason for the first."""

    name: str
    axis: int
    positions: int
    why: str


@dataclasses.dataclass(frozen=True)
class ChannelTies:
    """All sets of channels of a model.

    Attributes:
        sets: In the order of the parameters that they occur in first.
        frozen: Axes that are in no set, wholly or in part.
        untouched: Parameters that the forward pass did not use; nothing is known of them.
    """

    sets: tuple[ChannelSet, ...]
    frozen: tuple[FrozenAxis, ...]
    untouched: tuple[str, ...] = ()

    def of(self, name: str, axis: int) -> list[ChannelSet]:
        """Return the sets whose channels lie along an axis of a tensor."""
        return [s for s in self.sets if any((a.name, a.axis) == (name, axis) for a in s.axes)]


@dataclasses.dataclass(frozen=True, eq=False)
class Followed:
    """A model's forward pass with the labels of all axes; see `follow`.

    Attributes:
        run: Labels carried through all calls.
        layouts: Layouts of parameters and buffers by name.
        atoms: For each set, by name, its atoms in the order of its channels.
        ties: The same for users.
        graph: The model's graph.
        inputs: What the forward pass was given.
        device: Where it ran.
    """

    run: Propagation
    layouts: dict[str, Layout]
    atoms: dict[str, Array]
    ties: ChannelTies
    graph: ParamGraph
    inputs: ExampleInputs
    device: torch.device


def channel_ties(model: nn.Module, example_inputs: Any = None) -> ChannelTies:
    """Find the sets of axes of a model's tensors that must be permuted or resized together.

    Args:
        model: As for `ghn.trace`; it is left as it was.
        example_inputs: As for `ghn.trace`.

    Raises:
        GHNError: As `ghn.trace`.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> channel_ties(model, torch.empty(1, 3)).sets
        (ChannelSet(0.weight[0], 8 channels, 3 axes),)
    """
    return follow(model, example_inputs).ties


def follow(model: nn.Module, example_inputs: Any = None) -> Followed:
    """Record a forward pass and carry the labels of channels through it; see `channel_ties`."""
    model = unwrap(model)
    found = trace_with_inputs(model, example_inputs)
    tensors = named_tensors(model)
    held = _held(model, tensors, found.graph.untouched)
    with recorded(model, found.inputs, found.device) as recording:
        stand_ins = {name: recording.stand_in(t) for name, t in tensors.items()}
        run = Propagation(stand_ins, held, recording.inputs)
        run.run(recording.recorder.calls)
        run.end(recording.outputs)
        layouts = {name: run.of(t) for name, t in stand_ins.items()}
    channels = find_channels(run, layouts.values())
    axes, atoms, frozen = _collect(channels, layouts)
    frozen += [FrozenAxis(n, d, s, held[n]) for n in held for d, s in enumerate(layouts[n].shape)]
    numbers = [n for n, a in axes.items() if any(x.name in found.graph.specs for x in a)]
    sets = tuple(
        ChannelSet(name, len(atoms[n]), tuple(axes[n]))
        for n, name in zip(numbers, _names([axes[n] for n in numbers]), strict=True)
    )
    ties = ChannelTies(sets, tuple(frozen), tuple(found.graph.untouched))
    ordered = {s.name: atoms[n] for n, s in zip(numbers, sets, strict=True)}
    return Followed(run, layouts, ordered, ties, found.graph, found.inputs, found.device)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, each once, parameters first."""
    return {**parameter_names(model)[0], **dict(model.named_buffers())}


def _held(model: nn.Module, tensors: dict[str, Tensor], untouched: Iterable[str]) -> dict[str, str]:
    """Return the tensors that must not move from the start, with reasons."""
    held = dict.fromkeys(untouched, "not used in the forward pass")
    saved = model.state_dict().keys()
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            held[name] = "a tensor of integers or complex numbers"
        elif name not in saved:
            held[name] = "a buffer that is not saved"
    return held


def _collect(
    channels: Channels, layouts: dict[str, Layout]
) -> tuple[dict[int, list[TiedAxis]], dict[int, Array], list[FrozenAxis]]:
    """Return for each set its axes and its atoms in order, and the axes that are not in one."""
    axes: dict[int, list[TiedAxis]] = {}
    atoms: dict[int, Array] = {}
    frozen = []
    for name, layout in layouts.items():
        for block in layout.blocks:
            (axis,) = block.dims
            members = channels.members(block.labels)
            for number in sorted(members, key=lambda n: _coarse_first(members[n][1])):
                found, positions = members[number]
                if number not in atoms:
                    atoms[number] = found[np.argsort(positions[:, 0])]
                index = positions[np.searchsorted(found, atoms[number])]
                axes.setdefault(number, []).append(TiedAxis(name, axis, index))
            still, why = channels.why_still(block.labels)
            if still:
                frozen.append(FrozenAxis(name, axis, still, why))
    return axes, atoms, frozen


def _coarse_first(positions: Array) -> tuple[int, int]:
    """Sets along one axis in the order of their first positions, whole heads before their parts."""
    first = np.sort(positions[:, 0])
    return int(first[0]), -int(first[1])


def _names(sets: Iterable[Sequence[TiedAxis]]) -> Iterator[str]:
    """Yield names of sets by their first axes; further ones that begin there get a number."""
    seen: dict[str, int] = {}
    for axes in sets:
        name = f"{axes[0].name}[{axes[0].axis}]"
        count = seen[name] = seen.get(name, 0) + 1
        yield name if count == 1 else f"{name}#{count}"


def shuffle_channels(
    model: nn.Module, example_inputs: Any = None, *, seed: int | None = None
) -> tuple[ChannelSet, ...]:
    """Permute the channels of every set of a model at random, in place.

    The model computes the same function afterwards, up to rounding.

    Args:
        model: As for `ghn.trace`, with values.
        example_inputs: As for `ghn.trace`.
        seed: Seed of the permutations; drawn from torch's generator if None.

    Returns:
        The sets that were permuted.

    Raises:
        UnsupportedModelError: If there is nothing to permute, tensors have no values, or share
            memory; nothing has moved then.
        GHNError: As `ghn.trace`.
    """
    ties = channel_ties(model, example_inputs)
    if not ties.sets:
        reasons = {f"{f.name}[{f.axis}]: {f.why}" for f in ties.frozen}
        raise UnsupportedModelError(
            f"{type(model).__name__} has no channels that may be permuted. "
            + "; ".join(sorted(reasons)[:5])
        )
    if seed is None:
        seed = int(torch.randint(1 << 62, ()))
    generator = make_generator(seed, "shuffle_channels")
    tensors = named_tensors(unwrap(model))
    check_movable(tensors, ties.sets)
    for channels in ties.sets:
        permute_channels(tensors, channels, _new_order(channels.size, generator))
    forget_caches(model)
    return ties.sets


def _new_order(count: int, generator: torch.Generator) -> Tensor:
    """Draw a permutation of two or more that moves something."""
    while True:
        order = torch.randperm(count, generator=generator)
        if not torch.equal(order, torch.arange(count)):
            return order


def check_movable(tensors: Mapping[str, Tensor], sets: Iterable[ChannelSet]) -> None:
    """Refuse tensors whose channels cannot be put in another order one tensor after the other.

    Raises:
        UnsupportedModelError: If one has no values, or an element of memory stands for two of its
            own or of two tensors.
    """
    moved = {tied.name for channels in sets for tied in channels.axes}
    for name in moved:
        steps = zip(tensors[name].shape, tensors[name].stride(), strict=True)
        if tensors[name].is_meta:
            raise UnsupportedModelError(f"{name} is on the meta device and has no values to move")
        if any(n > 1 and not step for n, step in steps):
            raise UnsupportedModelError(f"{name} is expanded: it has fewer numbers than elements")
    held = {name: t for name, t in tensors.items() if t.numel() and not t.is_meta}
    for one, other in overlaps(held):
        if {one, other} & moved:
            raise UnsupportedModelError(
                f"{one} and {other} share memory, so that moving one moves the other; give one a "
                "copy (clone()), or make them one parameter"
            )


def overlaps(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the names of tensors that follow each other in memory and share some of it."""
    ranges = sorted((*_memory(tensor), name) for name, tensor in tensors.items())
    for (here, _, end, one), (there, begin, _, other) in itertools.pairwise(ranges):
        if here == there and begin < end:
            yield one, other


def _memory(tensor: Tensor) -> tuple[str, int, int]:
    """Return the device of a tensor, and where its memory begins and ends."""
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    begin = tensor.data_ptr()
    return str(tensor.device), begin, begin + (last + 1) * tensor.element_size()


@torch.no_grad()
def permute_channels(tensors: dict[str, Tensor], channels: ChannelSet, order: Tensor) -> None:
    """Put the channels of a set in another order, in place.

    Args:
        tensors: Parameters and buffers by name; see `named_tensors`.
        channels: The set.
        order: A permutation: channel `order[c]` moves to place c.
    """
    for tied in channels.axes:
        tensor = tensors[tied.name]
        places = torch.arange(tensor.shape[tied.axis])
        index = torch.from_numpy(tied.index)
        places[index.ravel()] = index[order].ravel()
        tensor.copy_(tensor.index_select(tied.axis, places.to(tensor.device)))


def forget_caches(model: nn.Module) -> None:
    """Have modules drop what they computed from weights and kept for evaluation.

    Those that keep such things, such as the attention biases of timm's LeViT, drop them when they
    are put into training mode, by a `train` of their own. All modes are as before afterwards.
    """
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        if type(module).train is not nn.Module.train:
            module.train()
            module.train(modes[module])
    for module, mode in modes.items():
        module.training = mode
