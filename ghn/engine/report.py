"""What `predict_params` tells its caller: what was written, what was not, and why."""

from __future__ import annotations

import collections
import dataclasses
import json
from typing import Any

__all__ = ["REASONS", "Report"]

REASONS: dict[str, str] = {
    "untouched": "the forward pass never uses it",
    "unsupported": "not a plain floating-point tensor, or the checkpoint was never trained for it",
    "not-selected": "`generate` leaves it out",
    "oversized": "larger than the decoder can emit",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of a prediction. Every parameter of the model is in one of two dictionaries.

    Tied parameters are listed once, under their leading name (the first in `named_parameters()`).

    Attributes:
        predicted: Parameter name to the decoder that emitted it.
        kept: Parameter name to the reason why it has the model's own value; see `REASONS`.
        checkpoint: Which hypernetwork was used: its name, folder or hub id.
        scaled: Parameter name to the power of two that its prediction was multiplied with by
            `calibrate=True`; see `ghn.engine.calibrate`.
        seconds: Wall-clock time of the whole call, loading the checkpoint included.
        notes: Sentences on what was taken for granted, or is unlike what the checkpoint was trained
            on; empty for most models that read what it was trained on.
        learning_rate: Recommended to train the model with AdamW from here, as the checkpoint says;
            None where it says nothing, or nothing was predicted.
    """

    predicted: dict[str, str]
    kept: dict[str, str]
    checkpoint: str
    seconds: float
    notes: tuple[str, ...] = ()
    scaled: dict[str, float] = dataclasses.field(default_factory=dict)
    learning_rate: float | None = None

    def __str__(self) -> str:
        total = len(self.predicted) + len(self.kept)
        lines = [
            f"predicted {len(self.predicted)} of {total} parameters with {self.checkpoint} "
            f"in {self.seconds:.2f} s"
        ]
        if self.scaled:
            lines.append(f"scaled {len(self.scaled)} of them for outputs of the usual size")
        examples = {reason: name for name, reason in reversed(self.kept.items())}
        for reason, count in collections.Counter(self.kept.values()).most_common():
            lines.append(f"kept {count}, {reason} ({REASONS[reason]}), such as {examples[reason]}")
        if self.learning_rate is not None:
            lines.append(
                f"to train from here, begin with a learning rate of {self.learning_rate:g} (AdamW)"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        return {**dataclasses.asdict(self), "notes": list(self.notes)}

    def to_json(self, indent: int | None = None) -> str:
        """Return the report as a JSON text."""
        return json.dumps(self.to_dict(), indent=indent)
