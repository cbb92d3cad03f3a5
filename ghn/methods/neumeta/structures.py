"""What a network is at another size, apart from its weights: modules, graph, and how it came about.

Each size is made once and kept: a training step at a size that was there before costs nothing.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ghn.errors import ConfigError, GHNError, ShapeError, UnsupportedModelError
from ghn.graphs import ParamGraph, Resizer, trace
from ghn.graphs.resample import AxisMap, Resampling
from ghn.graphs.ties import named_tensors
from ghn.methods.neumeta.depths import Run, depths_of, find_runs, with_depths
from ghn.methods.neumeta.groups import CALLER, SizeWarning, Widths, find_groups, widths_of

__all__ = ["Structure", "Structures"]

_SUMMED = frozenset({"weight", "recurrent_weight", "lora_a", "lora_b"})


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """A network of one size.

    Attributes:
        model: The network; its weights are of no account.
        graph: Its graph.
        sizes: Channels of each group, and blocks of each run, by name.
        source: For each parameter and buffer, the one of the full network that it is of.
        resampling: How tensors come from those of the full network.
        maps: The same, by tensor and axis, without any noise.
        positions: Which positions of each axis of each tensor are left if the last channels go.
        summed: For each parameter, the axes that its operator sums over.
        norms: Paths of the BatchNorm modules whose parameters are generated, or that have none and
            stand in a module with some that are.
    """

    model: nn.Module
    graph: ParamGraph
    sizes: dict[str, int]
    source: dict[str, str]
    resampling: Resampling
    maps: dict[str, dict[int, AxisMap]]
    positions: dict[str, list[Tensor]]
    summed: dict[str, tuple[int, ...]]
    norms: tuple[str, ...]


class Structures:
    """Makes the structures of a network at other sizes.

    Args:
        model: The full network.
        graph: Its graph.
        generated: Names of the parameters that are generated.
        example_inputs: As for `ghn.trace`.
    """

    def __init__(
        self, model: nn.Module, graph: ParamGraph, generated: Collection[str], example_inputs: Any
    ) -> None:
        self.model, self._inputs, self._generated = model, example_inputs, set(generated)
        full = Resizer(model, example_inputs)
        self.groups = find_groups(full, generated)
        self.runs = find_runs(model, graph, generated)
        names = {name: name for name in named_tensors(model)}
        self._resizers = {self._key(depths_of(self.runs, {})): (full, names)}
        self._made: dict[tuple[Any, ...], Structure] = {}
        self._impossible: set[tuple[Any, ...]] = set()

    @property
    def full(self) -> dict[str, int]:
        """The sizes of the full network."""
        return {
            **{name: group.full for name, group in self.groups.items()},
            **{_depth_name(name): run.count for name, run in self.runs.items()},
        }

    def sizes(
        self,
        widths: Widths,
        depths: Mapping[str, int],
        low: float,
        high: float,
        trained: Mapping[str, Sequence[int]],
    ) -> dict[str, int]:
        """Return all sizes that a user's words stand for; see `widths_of` and `depths_of`.

        Widths that the model's own code cannot have, as where it takes channels apart by numbers of
        its own, become the nearest that it can, with a warning.
        """
        found = widths_of(self.groups, widths, low, high)
        blocks = depths_of(self.runs, depths)
        _warn_of_depths(self.runs, blocks, trained)
        sizes = {**found, **{_depth_name(name): n for name, n in blocks.items()}}
        if self._runs_at(sizes):
            return sizes
        possible = {**sizes, **{name: self._nearest(name, sizes) for name in self.groups}}
        changed = [f"{n}: {sizes[n]} becomes {w}" for n, w in possible.items() if w != sizes[n]]
        if changed:
            text = f"{type(self.model).__name__} cannot have these widths: {', '.join(changed)}"
            warnings.warn(text, SizeWarning, stacklevel=CALLER - 1)
        return possible

    def _runs_at(self, sizes: Mapping[str, int]) -> bool:
        if self._key(sizes) in self._impossible:
            return False
        try:
            self.at(sizes)
        except (ConfigError, UnsupportedModelError):
            self._impossible.add(self._key(sizes))
            return False
        return True

    def _nearest(self, name: str, sizes: Mapping[str, int]) -> int:
        """Return the nearest width that a group can have while the others are full."""
        group = self.groups[name]
        full = {n: self.groups[n].full if n in self.groups else many for n, many in sizes.items()}
        widths = range(group.unit, group.full + 1, group.unit)
        near = sorted(widths, key=lambda width: abs(width - sizes[name]))
        return next((w for w in near if self._runs_at({**full, name: w})), sizes[name])

    def at(self, sizes: Mapping[str, int]) -> Structure:
        """Return the structure at some sizes."""
        key = self._key(sizes)
        if key not in self._made:
            self._made[key] = self._make(dict(sizes))
        return self._made[key]

    def _make(self, sizes: dict[str, int]) -> Structure:
        resizer, source = self._resizer({n: sizes[_depth_name(n)] for n in self.runs})
        widths = self._set_widths(resizer, source, sizes)
        try:
            model = resizer.resize(widths)
        except ShapeError as error:
            raise ConfigError(
                f"{type(self.model).__name__} cannot have the widths {sizes}: {error}"
            ) from error
        graph = trace(model, self._inputs)
        idle = [name for name in graph.untouched if source[name] in self._generated]
        if idle:
            raise UnsupportedModelError(
                f"the forward pass of {type(model).__name__} does not run blocks that are added to "
                f"it, such as {idle[0].rpartition('.')[0]}: its code counts its blocks by itself"
            )
        shapes = {name: tuple(t.shape) for name, t in named_tensors(resizer.model).items()}
        positions = resizer.positions(widths)
        resampling = Resampling(resizer.ties.sets, widths, shapes, positions)
        return Structure(
            model=model.eval(),
            graph=graph,
            sizes=sizes,
            source=source,
            resampling=resampling,
            maps=resampling.maps(),
            positions=positions,
            summed=_summed_axes(graph),
            norms=tuple(self._norms(model, source)),
        )

    def _norms(self, model: nn.Module, source: Mapping[str, str]) -> Iterator[str]:
        """Yield the paths of BatchNorm modules that are generated, or stand beside what is."""
        generated = [name for name, old in source.items() if old in self._generated]
        for path, module in model.named_modules():
            if not isinstance(module, nn.modules.batchnorm._BatchNorm):
                continue
            beside = f"{path}." if module.affine else path[: path.rfind(".") + 1]
            if any(name.startswith(beside) for name in generated):
                yield path

    def _resizer(self, depths: dict[str, int]) -> tuple[Resizer, dict[str, str]]:
        key = self._key(depths)
        if key not in self._resizers:
            model, source = with_depths(self.model, self.runs, depths)
            try:
                self._resizers[key] = Resizer(model, self._inputs), source
            except GHNError as error:
                raise UnsupportedModelError(
                    f"{type(model).__name__} does not run with {depths} blocks: {error}"
                ) from error
        return self._resizers[key]

    def _set_widths(
        self, resizer: Resizer, source: Mapping[str, str], sizes: Mapping[str, int]
    ) -> dict[str, int]:
        """Return widths of the sets; those of added blocks follow the block they are of."""
        known: dict[str, int] = {}
        for name, group in self.groups.items():
            known |= group.set_widths(sizes[name])
        found = {}
        for channels in resizer.ties.sets:
            parameter = channels.axes[0].name
            old = source[parameter] + channels.name.removeprefix(parameter)
            if old in known:
                found[channels.name] = known[old]
        return found

    @staticmethod
    def _key(sizes: Mapping[str, int]) -> tuple[Any, ...]:
        return tuple(sorted(sizes.items()))


def _warn_of_depths(
    runs: Mapping[str, Run], blocks: Mapping[str, int], trained: Mapping[str, Sequence[int]]
) -> None:
    outside = []
    for name, number in blocks.items():
        fewest, most = trained.get(name, (runs[name].count,) * 2)
        if not fewest <= number <= most:
            outside.append(f"{name}: {number} blocks, trained with {fewest} to {most}")
    if outside:
        text = f"depths outside of the trained ones: {'; '.join(outside)}; expect less of them"
        warnings.warn(text, SizeWarning, stacklevel=CALLER)


def _summed_axes(graph: ParamGraph) -> dict[str, tuple[int, ...]]:
    """Return for each parameter the axes that its operator sums over.

    The channels that a transposed convolution in groups reads lie along one axis with the groups,
    which are not summed over; that axis is taken for one of groups.
    """
    found = {}
    for name, spec in graph.specs.items():
        node = graph.nodes[graph.parameters[name][0].node]
        in_groups = node.op == "conv_transpose" and node.attributes["groups"] > 1
        if spec.role in _SUMMED and not in_groups:
            found[name] = tuple(d for d, letter in enumerate(spec.axes) if letter == "i")
    return found


def _depth_name(run: str) -> str:
    return f"blocks of {run}"
