"""Encoders: from a graph to one vector for each of its nodes."""

from ghn.encoders.features import NodeInput
from ghn.encoders.fixed import FixedCodes, FixedCodesConfig
from ghn.encoders.gated_gnn import GatedGNN, GatedGNNConfig
from ghn.encoders.graphormer import Graphormer, GraphormerConfig
from ghn.encoders.pyg import PyGConfig, PyGEncoder
from ghn.encoders.registry import ENCODERS

__all__ = [
    "ENCODERS",
    "FixedCodes",
    "FixedCodesConfig",
    "GatedGNN",
    "GatedGNNConfig",
    "Graphormer",
    "GraphormerConfig",
    "NodeInput",
    "PyGConfig",
    "PyGEncoder",
]
