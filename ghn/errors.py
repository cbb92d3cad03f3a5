"""Every error that `ghn` raises on purpose.

Each class is a `GHNError` and also the builtin that a caller would expect, so both
`except ghn.GHNError` and `except ValueError` work.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GHNError",
    "InputError",
    "MissingExtraError",
    "PredictionError",
    "ShapeError",
    "TraceError",
    "UnknownNameError",
    "UnsupportedModelError",
]


class GHNError(Exception):
    """Base class of all errors raised by this library."""


class ConfigError(GHNError, ValueError):
    """A setting is outside its range, unknown, or contradicts another."""


class ShapeError(GHNError, ValueError):
    """A tensor or a requested size does not fit."""


class InputError(GHNError, ValueError):
    """Example inputs are missing, cannot be inferred, or do not fit the model."""


class TraceError(GHNError, RuntimeError):
    """The model's forward pass could not be recorded."""


class UnsupportedModelError(GHNError, TypeError):
    """The model is of a kind whose parameters cannot be written (wrapped, sharded, quantised)."""


class PredictionError(GHNError, RuntimeError):
    """The hypernetwork emitted something that must not be written into a model."""


class CheckpointError(GHNError, ValueError):
    """A checkpoint is truncated, foreign, newer than this library, or not found."""


class DataError(GHNError, FileNotFoundError):
    """A data set is missing or malformed."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingExtraError(GHNError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class UnknownNameError(GHNError, KeyError):
    """A name is not registered; the message lists what is and the nearest match."""

    def __str__(self) -> str:
        # KeyError shows repr(message), which would put quotes around a sentence.
        return str(self.args[0]) if self.args else ""
