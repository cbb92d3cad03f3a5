"""Prediction of parameters from graphs: the configurations that papers describe, and ours.

Sources: Knyazev et al. 2021 (GHN-2, arXiv 2110.13100) and 2023 (GHN-3, arXiv 2303.04143); Zhou et
al. 2024 (LoGAH, arXiv 2405.16287).
"""

from __future__ import annotations

from ghn.decoders import LowRankDecoderConfig, TiledDecoderConfig
from ghn.encoders import GatedGNNConfig, GraphormerConfig
from ghn.engine import GHN, GHNConfig
from ghn.graphs import ParamGraph

__all__ = ["specimen"]


def specimen(kind: str, graph: ParamGraph) -> GHN:
    """Return a small hypernetwork of a kind in `ghn.methods.METHODS`; the graph does not matter."""
    gated = GatedGNNConfig(dim=16)
    graphormer = GraphormerConfig(dim=16, layers=1, heads=2)
    tiled = TiledDecoderConfig(dim=16, hidden=16, block=8)
    lowrank = LowRankDecoderConfig(dim=16, hidden=16, rank=4, rows=32)
    configs = {
        "ghn2": GHNConfig(encoder=gated, decoder=tiled),
        "ghn3": GHNConfig(encoder=graphormer, decoder=tiled),
        "logah": GHNConfig(encoder=graphormer, decoder=lowrank.replace(head="reshaped")),
        "factor": GHNConfig(encoder=graphormer, decoder=lowrank),
    }
    return GHN(configs[kind])
