"""The hypernetwork of a family: fixed codes of nodes, sizes as condition, the implicit decoder."""

from __future__ import annotations

from collections.abc import Mapping

from ghn.conditioning import SizeConfig
from ghn.encoders import FixedCodesConfig
from ghn.engine import GHN, GHNConfig
from ghn.graphs import ParamGraph
from ghn.methods.neumeta.config import SIZE, FamilyConfig

__all__ = ["build", "specimen"]


def build(config: FamilyConfig, full: Mapping[str, int]) -> GHN:
    """Return a new hypernetwork.

    Args:
        config: Settings of the family.
        full: The sizes of the full network by name.
    """
    return GHN(
        GHNConfig(
            encoder=FixedCodesConfig(dim=config.decoder.dim - SIZE),
            condition=SizeConfig(names=tuple(full), full=tuple(full.values()), dim=SIZE),
            decoder=config.decoder,
            magnitude="unit",
        )
    )


def specimen(kind: str, graph: ParamGraph) -> GHN:
    """Return a hypernetwork of a kind in `ghn.methods.METHODS`, for one width."""
    return build(FamilyConfig(), {"width": 24})
