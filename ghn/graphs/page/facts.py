"""What a page can show beyond the graph: where values come from, and how they are distributed."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["Histogram", "Provenance"]


@dataclasses.dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution, as counts in equal bins from the smallest to the largest value.

    Attributes:
        low: Smallest finite value.
        high: Largest finite value.
        mean: Mean of the finite values.
        std: Their standard deviation.
        counts: Values in each bin; one bin if all are the same.
    """

    low: float
    high: float
    mean: float
    std: float
    counts: tuple[int, ...]

    def to_json(self) -> list[Any]:
        """Return what the page reads: rounded numbers, and heights from 0 to 255."""
        top = max(self.counts, default=0) or 1
        heights = [round(255 * count / top) for count in self.counts]
        numbers = [float(f"{x:.4g}") for x in (self.low, self.high, self.mean, self.std)]
        return [*numbers, heights]


@dataclasses.dataclass(frozen=True, slots=True)
class Provenance:
    """Where one parameter's values come from.

    Attributes:
        decoder: Name of the decoder that emitted them; empty if they were kept.
        reason: Why they were kept; empty if they were predicted.
        default: Distribution of the model's own initialization, where it is known.
        now: Distribution of the values after the prediction, where it is known.
    """

    decoder: str = ""
    reason: str = ""
    default: Histogram | None = None
    now: Histogram | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what the page reads, without what is empty."""
        value = {
            "decoder": self.decoder,
            "reason": self.reason,
            "default": self.default and self.default.to_json(),
            "now": self.now and self.now.to_json(),
        }
        return {key: item for key, item in value.items() if item}
