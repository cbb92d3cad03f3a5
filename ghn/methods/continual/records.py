"""What a learner remembers of a task: its name, its classes, how learning went; no data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["TaskRecord"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """What is known of a task that was learned.

    Attributes:
        name: Its name.
        classes: The outputs of the network that are its classes, in order; None: all.
        loss: Mean loss of the last tenth of the steps.
        seconds: Time that it took.
    """

    name: str
    classes: tuple[int, ...] | None = None
    loss: float = float("nan")
    seconds: float = 0.0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskRecord:
        """Read what `dataclasses.asdict` gave, perhaps through JSON."""
        classes = values["classes"]
        return cls(**{**values, "classes": None if classes is None else tuple(classes)})
