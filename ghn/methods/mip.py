"""Magnitude-invariant parametrization: an encoding of one length, and changes that add to a base.

It is no engine of its own but two settings of any: the condition (`ValuesConfig` for numbers with
bounds, `UnitConfig` for all others) and `base=BaseConfig()`. See docs/methods/mip.md.

Source: Gonzalez Ortiz, Guttag, Dalca 2023 (arXiv 2304.07645).
"""

from __future__ import annotations

import torch

from ghn.conditioning import ValuesConfig
from ghn.decoders import DenseDecoderConfig
from ghn.engine import GHN, BaseConfig, GHNConfig
from ghn.graphs import ParamGraph

__all__ = ["specimen"]


def specimen(kind: str, graph: ParamGraph) -> GHN:
    """Return a small hypernetwork of a kind in `ghn.methods.METHODS`, on a base of zeros."""
    condition = ValuesConfig()
    decoder = DenseDecoderConfig(dim=condition.dim, hidden=(16, 16), outputs=graph.num_parameters)
    ghn = GHN(
        GHNConfig(
            encoder=None,
            condition=condition,
            decoder=decoder,
            magnitude="plain",
            base=BaseConfig(),
        )
    )
    base = {name: torch.zeros(spec.shape) for name, spec in graph.specs.items()}
    if ghn.base is not None:
        ghn.base.hold(base)
    return ghn
