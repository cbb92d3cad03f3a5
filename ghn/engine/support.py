"""What a hypernetwork was trained for, and so what it may be asked to predict.

A parameter is supported if its operator, in its role, with its number of kernel axes and at its
place in the network, occurred in the training networks. The place says more than one would think:
trained on transformers whose linear layers stand in residual branches alone, a hypernetwork knows
nothing of one that all signals must pass (`swin`'s downsampling), and what comes behind such a one
is not predicted either (`ghn.engine.select`). A class head is supported if its number of classes
occurred, a table of tokens if that was the number of tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from torch import Tensor

from ghn.config import Config
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph, ParamSpec
from ghn.graphs.structure import trunk

__all__ = ["Reason", "Support"]

Reason = Literal["unsupported", "oversized"]
S = TypeVar("S", bound="Support")
PLACES = ("stem", "head", "trunk", "branch")

# Rows that no table of codes can tell apart in a useful way: a vocabulary.
OVERSIZED = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True)
class Support(Config):
    """What occurred in training.

    Attributes:
        uses: "operator/role/number of kernel axes/place"; the place is `stem`, `head`, `trunk` (all
            signals pass the operator) or `branch`.
        classes: Numbers of classes, or of tokens.
        image_channels: Numbers of input channels of the first layer.
        image_sides: Heights and widths of the training images, in pixels; empty if not known.
        widest: Most rows or columns of any parameter, for information.

    Raises:
        ConfigError: If uses name no place, as those of older versions.
    """

    uses: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    image_channels: tuple[int, ...] = ()
    image_sides: tuple[int, ...] = ()
    widest: int = 0

    def __post_init__(self) -> None:
        unplaced = [use for use in self.uses if use.rpartition("/")[2] not in PLACES]
        if unplaced:
            raise ConfigError(
                f"a support says where its operators stand ({', '.join(PLACES)}), got "
                f"{unplaced[0]!r}: written by an older version, export the checkpoint again"
            )

    @classmethod
    def from_graphs(cls: type[S], graphs: Iterable[ParamGraph]) -> S:
        """Collect what occurs in training graphs."""
        uses: set[str] = set()
        classes: set[int] = set()
        channels: set[int] = set()
        widest = 0
        for graph in graphs:
            for spec in graph.specs.values():
                uses.add(_use(graph, spec))
                if spec.head:
                    classes.update(spec.sizes("o"))
                classes.update(spec.sizes("v"))
                if spec.stem and spec.role == "weight":
                    channels.update(spec.sizes("i"))
                widest = max(widest, *spec.shape, 0)
        return cls(
            uses=tuple(sorted(uses)),
            classes=tuple(sorted(classes)),
            image_channels=tuple(sorted(channels)),
            widest=widest,
        )

    def joined(self: S, other: Support) -> S:
        """Return what occurred in one training or in another."""
        return self.replace(
            uses=tuple(sorted({*self.uses, *other.uses})),
            classes=tuple(sorted({*self.classes, *other.classes})),
            image_channels=tuple(sorted({*self.image_channels, *other.image_channels})),
            image_sides=tuple(sorted({*self.image_sides, *other.image_sides})),
            widest=max(self.widest, other.widest),
        )

    def notes(self, inputs: Iterable[Any]) -> tuple[str, ...]:
        """Say where a model's example inputs are unlike those of training: images of other sizes.

        Args:
            inputs: What the model is called with.
        """
        images = [x for x in inputs if isinstance(x, Tensor) and x.is_floating_point()]
        other = [x for x in images if x.dim() == 4 and not {*x.shape[2:]} <= {*self.image_sides}]
        if not self.image_sides or not other:
            return ()
        known = ", ".join(f"{side} x {side}" for side in self.image_sides)
        height, width = other[0].shape[2:]
        return (
            f"the checkpoint learned from images of {known} pixels, and the example input has "
            f"{height} x {width}: at other sizes a model may learn more slowly from predicted "
            "weights than from its own, so compare both",
        )

    def reason(self, graph: ParamGraph, spec: ParamSpec) -> Reason | None:
        """Return why a parameter should keep its own values, or None if it may be predicted.

        With no recorded uses (an untrained hypernetwork) everything may be predicted.
        """
        if max(spec.sizes("v"), default=0) > OVERSIZED:
            return "oversized"
        if not self.uses:
            return None
        head = spec.head and not set(spec.sizes("o")) <= set(self.classes)
        stem = spec.stem and not set(spec.sizes("i")) <= set(self.image_channels)
        tokens = not set(spec.sizes("v")) <= set(self.classes)
        if _use(graph, spec) not in self.uses or head or stem or tokens:
            return "unsupported"
        return None


def _use(graph: ParamGraph, spec: ParamSpec) -> str:
    inside = "trunk" if spec.node in trunk(graph) else "branch"
    place = "head" if spec.head else "stem" if spec.stem else inside
    return f"{graph.nodes[spec.node].op}/{spec.role}/{len(spec.sizes('k'))}/{place}"
