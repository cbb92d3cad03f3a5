"""Tensors at other widths: channels as samples of a function of their place, read between them.

The channels of a set of C lie at (c + 1/2) / C. At another width w new channels lie at
(c + 1/2) / w, and are mixed from the two old ones beside that place. Sums over a resampled axis
get C / w times as large a share from each channel, so that they stay what they were.

Source: linear interpolation along ordered channels as in integral neural networks (Solodskikh et
al. 2023) and Yang et al. 2024 (NeuMeta, arXiv 2410.11878); for sets of channels of any model, ours.

Shape letters used in this file:
    n, m: old and new length of an axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ghn.graphs.ties import ChannelSet, TiedAxis

__all__ = ["AxisMap", "Resampling", "resample", "with_gains"]

Maps = Mapping[int, "AxisMap"]


@dataclasses.dataclass(frozen=True, eq=False)
class AxisMap:
    """How an axis of a tensor is resampled.

    Attributes:
        mix: What each new position is mixed from; rows sum to one.
        gain: C / w of the sets that each new position belongs to.
    """

    mix: Float[Tensor, "m n"]
    gain: Float[Tensor, " m"]


class Resampling:
    """How the tensors of a model are resampled when sets of channels change their widths.

    Args:
        sets: Sets of channels.
        widths: New widths by set name; other sets stay.
        shapes: Old shapes of tensors by name.
        positions: What stays of them, from `Resizer.positions(widths)`.
    """

    def __init__(
        self,
        sets: Sequence[ChannelSet],
        widths: Mapping[str, int],
        shapes: Mapping[str, Sequence[int]],
        positions: Mapping[str, Sequence[Tensor]],
    ) -> None:
        self._sets = [s for s in sets if s.name in widths]
        self._widths, self._shapes, self._positions = dict(widths), shapes, positions

    def maps(
        self, noise: float = 0.0, generator: torch.Generator | None = None
    ) -> dict[str, dict[int, AxisMap]]:
        """Return, by tensor and axis, how axes that change are resampled.

        Args:
            noise: How far each place may move, in new channels, up or down by half of it. A channel
                moves in all of its tensors alike.
            generator: Where the moves come from; torch's own if None.
        """
        maps: dict[str, dict[int, AxisMap]] = {}
        for channels in self._sets:
            width = self._widths[channels.name]
            if width == channels.size and not noise:
                continue
            places = torch.arange(width) + 0.5
            if noise:
                places = places + noise * (torch.rand(width, generator=generator) - 0.5)
            for tied in channels.axes:
                own = maps.setdefault(tied.name, {})
                if tied.axis not in own:
                    length = self._shapes[tied.name][tied.axis]
                    own[tied.axis] = AxisMap(torch.eye(length), torch.ones(length))
                _mix(own[tied.axis], tied, channels.size, places)
        return {
            name: {d: _kept(axis, self._positions[name][d]) for d, axis in own.items()}
            for name, own in maps.items()
        }


def _mix(axis: AxisMap, tied: TiedAxis, size: int, places: Float[Tensor, " w"]) -> None:
    """Put mixtures of a set's channels, read at places, where its first ones are, in place."""
    width = len(places)
    source = (places * size / width - 0.5).clamp(0, size - 1)
    low = source.floor().long()
    high = (low + 1).clamp(max=size - 1)
    share = (source - low)[:, None, None]
    index = torch.from_numpy(tied.index)
    old = axis.mix.clone()
    axis.mix[index[:width]] = (1 - share) * old[index[low]] + share * old[index[high]]
    axis.gain[index[:width]] *= size / width


def _kept(axis: AxisMap, stay: Tensor) -> AxisMap:
    return AxisMap(axis.mix[stay], axis.gain[stay])


def resample(tensor: Tensor, maps: Maps, summed: Sequence[int] = ()) -> Tensor:
    """Return a tensor at other widths; differentiable.

    Args:
        tensor: The full tensor.
        maps: For each axis that changes, how.
        summed: Axes that its operator sums over.
    """
    for axis, how in maps.items():
        mix = how.mix.to(tensor, non_blocking=True)
        tensor = torch.tensordot(mix, tensor, dims=([1], [axis])).movedim(0, axis)
    return with_gains(tensor, maps, summed)


def with_gains(tensor: Tensor, maps: Maps, summed: Sequence[int]) -> Tensor:
    """Multiply a tensor of the new size by what channels along summed axes gain."""
    for axis in summed:
        if axis in maps:
            gain = maps[axis].gain.to(tensor, non_blocking=True)
            tensor = tensor * gain.reshape(-1, *[1] * (tensor.ndim - axis - 1))
    return tensor
