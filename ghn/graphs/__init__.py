"""Graphs of models: what a network computes, and which tensor is used where."""

from ghn.graphs.cache import cached_trace
from ghn.graphs.graph import Node, ParamGraph, ParamSpec, Use
from ghn.graphs.ops import OPERATORS, ROLES, VOCABULARY_VERSION
from ghn.graphs.resize import Resizer, resize_channels
from ghn.graphs.smooth import Smoothed, smooth_channels
from ghn.graphs.ties import ChannelSet, ChannelTies, channel_ties, shuffle_channels
from ghn.graphs.trace import trace

__all__ = [
    "OPERATORS",
    "ROLES",
    "VOCABULARY_VERSION",
    "ChannelSet",
    "ChannelTies",
    "Node",
    "ParamGraph",
    "ParamSpec",
    "Resizer",
    "Smoothed",
    "Use",
    "cached_trace",
    "channel_ties",
    "resize_channels",
    "shuffle_channels",
    "smooth_channels",
    "trace",
]
