"""What a hypernetwork is, in words: its stages, its size, and where it stands on the five axes.

Each stage says its part in class attributes; whether they are true is probed by tests.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ghn.axes import ARCHITECTURES, Axes

if TYPE_CHECKING:
    from ghn.engine.hypernet import GHN

__all__ = ["Description", "describe"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What `GHN.describe` returns; it prints as a few lines.

    Attributes:
        axes: Where the hypernetwork stands; see `ghn.axes`.
        stages: What does the work at each stage, by class.
        parameters: Number of its parameters.
    """

    axes: Axes
    stages: dict[str, str]
    parameters: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {**dataclasses.asdict(self), "axes": self.axes.to_dict()}

    def __str__(self) -> str:
        axes = self.axes.to_dict() | {"architecture": ", ".join(self.axes.architecture)}
        lines = [*axes.items(), *self.stages.items(), ("parameters", f"{self.parameters:,}")]
        return "\n".join(f"{name.replace('_', ' '):<20}{text}" for name, text in lines)


def describe(ghn: GHN) -> Description:
    """Return what a hypernetwork is."""
    condition, decoder = ghn.condition, ghn.decoder
    parts = {
        "encoder": ghn.encoder,
        "condition": condition,
        "entry": ghn.entry,
        "decoder": decoder,
        "base": ghn.base,
    }
    present = {stage: part for stage, part in parts.items() if part is not None}
    found = {kind for part in present.values() for kind in getattr(part, "architecture", ())}
    is_open = ghn.encoder is not None if condition is None else condition.is_open
    any_network = decoder.any_network and ghn.base is None
    axes = Axes(
        # Without a condition, the network's graph is all that there is to read.
        inputs="task" if condition is None else condition.source,
        outputs=decoder.pieces,
        input_variability="dynamic" if is_open else "static",
        output_variability="dynamic" if any_network else "static",
        architecture=tuple(k for k in ARCHITECTURES if k in (found or {"mlp"})),
    )
    return Description(
        axes=axes,
        stages={stage: type(part).__name__ for stage, part in present.items()},
        parameters=sum(p.numel() for p in ghn.parameters()),
    )
