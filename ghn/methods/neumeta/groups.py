"""Groups of channels whose width a user may choose, and what a user may say of them.

A group is a set of channels (`ghn.graphs.ties`) all of whose weights are generated. Where sets are
nested, as heads and the channels of each head are, whole heads come and go; where sets lie side by
side in a folded axis, they change together.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from torch import nn

from ghn.engine.select import Generate, keep_reasons
from ghn.engine.support import Support
from ghn.errors import ConfigError, ShapeError, UnsupportedModelError
from ghn.graphs import ParamGraph
from ghn.graphs.blocks import find_blocks
from ghn.graphs.resize import Resizer
from ghn.graphs.ties import ChannelSet, TiedAxis, named_tensors
from ghn.registry import unknown_name

__all__ = [
    "Group",
    "SizeWarning",
    "Widths",
    "chosen_parameters",
    "find_groups",
    "last_block",
    "widths_of",
]

CALLER = 5  # frames from where a warning is given to who asked for a sample
Width = int | float
Widths = Width | Mapping[str, Width]


class SizeWarning(UserWarning):
    """A size is not one that a family was trained for, or not one that the network can have."""


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Channels whose number may be chosen.

    Attributes:
        name: The module that makes them, such as `"layer3.1.conv1"`.
        full: Their number in the full network.
        unit: Channels that come and go together, such as those of a head.
        sets: Names of the sets that change.
    """

    name: str
    full: int
    unit: int
    sets: tuple[str, ...]

    def nearest(self, width: float) -> int:
        """Return the nearest number of channels that the network can have."""
        return self.unit * min(max(round(width / self.unit), 1), self.full // self.unit)

    def set_widths(self, width: int) -> dict[str, int]:
        """Return the width of each set for a number of channels."""
        return dict.fromkeys(self.sets, width // self.unit)


def find_groups(resizer: Resizer, generated: Collection[str]) -> dict[str, Group]:
    """Return the groups of a model all of whose parameters are generated, by name.

    Groups whose number the model's own code does not let change are left out: those of the heads of
    `nn.MultiheadAttention`, which are as wide together as its input.

    Args:
        resizer: Of the full model.
        generated: Names of the parameters that are generated.

    Raises:
        UnsupportedModelError: If there is none.
    """
    groups = _resizable(resizer, _candidates(resizer, generated))
    if not groups:
        known = ", ".join(s.name for s in resizer.ties.sets) or "none"
        raise UnsupportedModelError(
            "a family needs channels whose weights are all generated, and whose number the model's "
            f"code lets change; there are none among {len(generated)} generated parameters. Choose "
            f"more with generate=. Sets of channels of the model: {known}"
        )
    return groups


def _candidates(resizer: Resizer, generated: Collection[str]) -> dict[str, Group]:
    parameters = dict(resizer.model.named_parameters())
    free = [
        s
        for s in resizer.ties.sets
        if all(a.name in generated for a in s.axes if a.name in parameters)
    ]
    sizes = {s.name: s.size for s in free}
    groups: dict[str, Group] = {}
    taken: set[str] = set()
    for channels in free:
        if channels.name in taken or channels.size < 2:
            continue
        together = {channels.name, *_side_by_side(resizer, channels.name)}
        # One number of channels is for all of them.
        if not together <= set(sizes) or len({sizes[name] for name in together}) > 1:
            continue
        taken |= together | {s.name for s in free if _overlap(s, channels)}
        begin, unit = _begin_and_unit(channels, resizer.graph)
        name = _unique(begin.name.rpartition(".")[0], groups)
        groups[name] = Group(name, unit * channels.size, unit, tuple(sorted(together)))
    return groups


def _begin_and_unit(channels: ChannelSet, graph: ParamGraph) -> tuple[TiedAxis, int]:
    """Return the axis where channels begin, and how many of it come and go together.

    They begin where the first weight makes them; queries, keys and values of one projection, or a
    channel and its gate, count as one.
    """
    for tied in channels.axes:
        spec = graph.specs.get(tied.name)
        if not spec or spec.axes[tied.axis] != "o":
            continue
        if spec.fan_in or "v" in spec.axes:
            count = tied.index.shape[1]
            return tied, count if count % spec.sections else count // spec.sections
    return channels.axes[0], channels.axes[0].index.shape[1]


def _resizable(resizer: Resizer, groups: dict[str, Group]) -> dict[str, Group]:
    """Return the groups that can be made smaller.

    All are made smaller at once, each to another share, since equal shares may hide that one group
    cannot change without another; only if that fails are they tried one by one.
    """
    widths = {
        name: min(group.nearest(group.full * place / (len(groups) + 1)), group.full - group.unit)
        for place, (name, group) in enumerate(groups.items(), 1)
    }
    changes = {name: group.set_widths(widths[name]) for name, group in groups.items()}
    if _can_have(resizer, {s: n for change in changes.values() for s, n in change.items()}):
        return groups
    if len(groups) == 1:
        return {}
    return {name: g for name, g in groups.items() if _can_have(resizer, changes[name])}


def _can_have(resizer: Resizer, widths: Mapping[str, int]) -> bool:
    try:
        resizer.resize(widths)
    except (UnsupportedModelError, ShapeError):
        return False
    return True


def chosen_parameters(
    model: nn.Module, graph: ParamGraph, generate: Generate, example_inputs: Any
) -> tuple[list[str], bool]:
    """Return the parameters that are generated, and whether none is left out.

    Args:
        model: The full network.
        graph: Its graph.
        generate: As for `Family`.
        example_inputs: As for `ghn.trace`.

    Raises:
        UnsupportedModelError: As `last_block`, if `generate` is None.
    """
    if generate is None:
        names = set(last_block(model, graph, example_inputs))
        generate = names.__contains__
    tensors = named_tensors(model)
    parameters = {n: p for n, p in tensors.items() if isinstance(p, nn.Parameter)}
    reasons = keep_reasons(graph, parameters, Support(), generate, "predict")
    chosen = [name for name, reason in reasons.items() if reason is None]
    return chosen, "not-selected" not in reasons.values()


def last_block(model: nn.Module, graph: ParamGraph, example_inputs: Any = None) -> list[str]:
    """Return the parameters of the last block in which there is a group of channels.

    Raises:
        UnsupportedModelError: If there is no such block.
    """
    resizer = Resizer(model, example_inputs)
    for block in sorted(find_blocks(graph), key=lambda b: (-b.last, b.last - b.first)):
        inside = [name for name in graph.specs if name.startswith(f"{block.scope}.")]
        if _candidates(resizer, inside):
            return inside
    raise UnsupportedModelError(
        f"{type(model).__name__} has no block with channels of its own that could be resized; "
        "say with generate= which parameters to generate"
    )


def _side_by_side(resizer: Resizer, name: str) -> Iterator[str]:
    for together in resizer.same_width:
        if name in together:
            yield from together


def _overlap(one: ChannelSet, other: ChannelSet) -> bool:
    places = {(a.name, a.axis): a for a in other.axes}
    return any(
        (a.name, a.axis) in places and _share_positions(a, places[a.name, a.axis]) for a in one.axes
    )


def _share_positions(one: TiedAxis, other: TiedAxis) -> bool:
    return bool(set(one.index.ravel().tolist()) & set(other.index.ravel().tolist()))


def _unique(name: str, taken: Mapping[str, Group]) -> str:
    number, found = 2, name
    while found in taken:
        found, number = f"{name}#{number}", number + 1
    return found


def widths_of(
    groups: Mapping[str, Group], wanted: Widths, low: float = 0.0, high: float = 1.0
) -> dict[str, int]:
    """Return the number of channels of every group.

    Args:
        groups: All groups, by name.
        wanted: A share of the full width (a float), a number of channels for every group (an
            integer), or a dict from groups to such. A key is the name of a group, of a module that
            they lie in, or a glob; the nearest one counts. Groups that are not named stay full.
        low: Smallest share that was trained.
        high: Largest one.

    Raises:
        ConfigError: If a width is not positive, or larger than the full one.
        UnknownNameError: If a key names no group.
    """
    named = wanted if isinstance(wanted, Mapping) else dict.fromkeys(groups, wanted)
    found = {name: group.full for name, group in groups.items()}
    rounded, outside = [], []
    for key, width in sorted(named.items(), key=lambda item: _nearness(groups, item[0])):
        for name in _matching(groups, key):
            group = groups[name]
            exact = _channels(name, group, width)
            found[name] = group.nearest(exact)
            if abs(found[name] - exact) >= (0.5 if isinstance(width, Integral) else 1):
                rounded.append(
                    f"{name}: {exact:g} of {group.full} is no multiple of {group.unit}, "
                    f"{found[name]} is"
                )
            share = found[name] / group.full
            least, most = group.nearest(low * group.full), group.nearest(high * group.full)
            if not least <= found[name] <= most:
                outside.append(f"{name}: {found[name]} of {group.full} ({share:.0%})")
    if rounded:
        text = f"nearest valid widths are taken: {_some(rounded)}"
        warnings.warn(text, SizeWarning, stacklevel=CALLER)
    if outside:
        text = f"widths outside of the trained {low:.0%} to {high:.0%}: {_some(outside)}"
        warnings.warn(f"{text}; expect less of them", SizeWarning, stacklevel=CALLER)
    return found


def _nearness(groups: Mapping[str, Group], key: str) -> tuple[bool, bool, int]:
    """A group's own name counts for more than a module's, the inner one first, than a pattern."""
    is_module = any(name.startswith(f"{key}.") for name in groups)
    return key in groups, is_module, len(str(key))


def _some(texts: Sequence[str]) -> str:
    return "; ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def _matching(groups: Mapping[str, Group], key: str) -> list[str]:
    if not isinstance(key, str):
        raise ConfigError(f"widths are for names of groups or modules, got {key!r}")
    names = [n for n in groups if n == key or n.startswith(f"{key}.")]
    names = names or [n for n in groups if fnmatch.fnmatchcase(n, key)]
    if not names:
        raise unknown_name("group of channels", key, list(groups))
    return names


def _channels(name: str, group: Group, width: Width) -> float:
    if isinstance(width, bool) or not isinstance(width, Real):
        raise ConfigError(f"a width is a share or a number of channels, got {name}: {width!r}")
    exact = float(width) * (1 if isinstance(width, Integral) else group.full)
    if not 0 < exact <= group.full:
        raise ConfigError(
            f"a width lies above 0 and goes up to {group.full} channels (the share 1.0), got "
            f"{name}: {width!r}"
        )
    return exact
