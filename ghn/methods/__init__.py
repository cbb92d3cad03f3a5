"""Methods from papers, each a choice at every stage of the engine and a training objective."""

from ghn.methods.registry import METHODS, Method

__all__ = ["METHODS", "Method"]
