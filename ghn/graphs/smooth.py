"""Permutation smoothing: order channels so that neighbours have similar weights.

A network's function does not depend on the order of its channels, but a field that is to write the
weights as a function of channel position does: it fits smooth weights best. For each set of tied
channels the order is a shortest Hamiltonian path over the channels' weights, all of a set's slices
side by side: a travelling salesman's tour through them and one more city at distance zero from all,
cut there. The sets are ordered one by one, which is exact: the length of one set's path does not
depend on the order of another's channels.

Source: Yang et al. 2024 (NeuMeta, arXiv 2410.11878), section on weight permutation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ghn.errors import ConfigError, MissingExtraError, UnsupportedModelError
from ghn.graphs.isolate import unwrap
from ghn.graphs.ties import (
    ChannelSet,
    channel_ties,
    check_movable,
    forget_caches,
    named_tensors,
    permute_channels,
)

__all__ = ["Smoothed", "channel_distances", "path_length", "smooth_channels"]

# The solver takes distances in 16 bits.
LARGEST = (1 << 16) - 1
# The solver finds an order of 2,048 channels within 1 % of its best in about this time.
SECONDS_PER_CHANNEL = 1e-3
# No search gets less: up to about 128 channels it finds one and the same order in it.
LEAST_SECONDS = 0.1
# Elements of a weight that are compared at a time.
CHUNK = 1 << 14


@dataclasses.dataclass(frozen=True)
class Smoothed:
    """What smoothing did.

    Attributes:
        before: Length of the path through the channels in their former order, by set.
        after: Length of the path in their new order; their sum over all sets is the total
            variation of the weights along tied axes.
    """

    before: dict[str, float]
    after: dict[str, float]

    @property
    def reduction(self) -> float:
        """By which share the total variation along tied axes has fallen."""
        return 1.0 - sum(self.after.values()) / sum(self.before.values())


def smooth_channels(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    effort: float = 1.0,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> Smoothed:
    """Order the channels of every set so that neighbours are similar, in place.

    The model computes the same function afterwards, up to rounding. The solver takes no other bound
    than time. Up to about 128 channels it has found its best order long before, and two runs give
    the same; of more channels, they may give different orders of nearly the same length.

    Args:
        model: As for `ghn.trace`, with values.
        example_inputs: As for `ghn.trace`.
        effort: Multiplies the time for each search; 1 means a millisecond for each channel, and at
            least a tenth of a second.
        progress: Called with (sets done, sets in all, name of the set).

    Returns:
        The lengths of all paths before and after.

    Raises:
        UnsupportedModelError: If there is nothing to order, the weights have no values or are not
            finite, or tensors share memory; nothing has moved then.
        ConfigError: If `effort` is not above 0.
        MissingExtraError: If fast-tsp is not installed.
        GHNError: As `ghn.trace`.
    """
    if not 0 < effort < math.inf:
        raise ConfigError(f"effort must be above 0 and finite, got {effort}")
    sets = channel_ties(model, example_inputs).sets
    if not sets:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no channels that may be permuted; see channel_ties(model)"
        )
    model = unwrap(model)
    tensors = named_tensors(model)
    check_movable(tensors, sets)
    for channels in sets:
        if not all(bool(weights.isfinite().all()) for weights in _slices(tensors, channels)):
            raise _not_finite(channels)
    before, after = {}, {}
    for done, channels in enumerate(sets):
        progress(done, len(sets), channels.name)
        distances = channel_distances(tensors, channels)
        same = torch.arange(channels.size)
        before[channels.name] = after[channels.name] = path_length(distances, same)
        seconds = effort * max(LEAST_SECONDS, SECONDS_PER_CHANNEL * channels.size)
        order = _shortest_path(distances, seconds)
        length = path_length(distances, order)
        if length < before[channels.name]:
            permute_channels(tensors, channels, order)
            after[channels.name] = length
    progress(len(sets), len(sets), "")
    forget_caches(model)
    return Smoothed(before, after)


@torch.no_grad()
def channel_distances(tensors: dict[str, Tensor], channels: ChannelSet) -> Float[Tensor, "c c"]:
    """Return the L1 distances between the channels of a set, over all their weights.

    Buffers, such as running statistics, count for nothing: they move with the channels.

    Args:
        tensors: Parameters and buffers by name.
        channels: The set, of `c` channels.

    Raises:
        UnsupportedModelError: If a weight is not finite.
    """
    rows, columns = torch.triu_indices(channels.size, channels.size, 1)
    total = torch.zeros(len(rows))
    for weights in _slices(tensors, channels):
        for chunk in weights.float().split(CHUNK, 1):
            total += F.pdist(chunk, p=1).cpu()
    if not total.isfinite().all():
        raise _not_finite(channels)
    distances = torch.zeros(channels.size, channels.size)
    distances[rows, columns] = distances[columns, rows] = total
    return distances


def _slices(tensors: dict[str, Tensor], channels: ChannelSet) -> Iterator[Float[Tensor, "c n"]]:
    """Yield the weights of each channel of a set, parameter by parameter."""
    for tied in channels.axes:
        tensor = tensors[tied.name]
        if isinstance(tensor, nn.Parameter):
            index = torch.from_numpy(tied.index).to(tensor.device)
            slices = tensor.detach().movedim(tied.axis, 0)[index.flatten()]
            yield slices.reshape(channels.size, -1)


def _not_finite(channels: ChannelSet) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"channels can be ordered by weights that are finite; those of {channels.name} are not"
    )


def path_length(distances: Float[Tensor, "c c"], order: Tensor) -> float:
    """Return the length of the path through channels in an order."""
    return float(distances[order[:-1], order[1:]].sum())


def _shortest_path(distances: Float[Tensor, "c c"], seconds: float) -> Tensor:
    """Return an order `[c]` in which a path through all channels is short.

    Of its two directions it is the one that begins with the lower number.
    """
    count, largest = len(distances), float(distances.max())
    if count < 3 or not largest:  # all orders are alike
        return torch.arange(count)
    scale = LARGEST / largest
    cities = np.zeros((count + 1, count + 1), np.int32)  # the first city is at distance zero
    cities[1:, 1:] = (distances * scale).round().numpy()
    tour = _solver()(cities, duration_seconds=seconds, stop_when_converged=True)
    start = tour.index(0)
    path = torch.tensor(tour[start + 1 :] + tour[:start]) - 1
    return path if path[0] < path[-1] else path.flip(0)


def _solver() -> Any:
    try:
        import fast_tsp
    except ImportError as error:
        raise MissingExtraError(
            "ordering channels needs a solver of travelling salesman problems: "
            "pip install 'ghn[neumeta]' (fast-tsp)"
        ) from error
    return fast_tsp.find_tour
