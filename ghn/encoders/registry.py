"""The names of all encoders."""

from __future__ import annotations

from torch import nn

from ghn.registry import Registry

__all__ = ["ENCODERS"]

ENCODERS: Registry[type[nn.Module]] = Registry("encoder")
"""Encoders by name.

An entry has a class attribute `Config`, is built as `cls(cls.Config(...))`, and maps a
`GraphBatch` of `N` nodes to embeddings `[N, config.dim]`. The rows of a graph depend on that graph
alone, and follow its nodes when they are reordered.
"""
