"""Graphs of models: what a network computes, and which tensor is used where."""

from ghn.graphs.cache import cached_trace
from ghn.graphs.graph import Node, ParamGraph, ParamSpec, Use
from ghn.graphs.ops import OPERATORS, ROLES, VOCABULARY_VERSION
from ghn.graphs.trace import trace

__all__ = [
    "OPERATORS",
    "ROLES",
    "VOCABULARY_VERSION",
    "Node",
    "ParamGraph",
    "ParamSpec",
    "Use",
    "cached_trace",
    "trace",
]
