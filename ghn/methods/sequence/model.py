"""The hypernetwork of a learner: fixed codes of nodes, a table of tasks, a decoder of a given size.

Shape letters used in this file:
    S: parameters of the hypernetwork. P: parameters of the network. w: size of a chunk's code.
    h: units of a state or hidden layer. c: numbers of a chunk. n: chunks.
"""

from __future__ import annotations

import math

from ghn.conditioning import EmbeddingTableConfig
from ghn.decoders import ChunkedDecoderConfig, DenseDecoderConfig, RecurrentDecoderConfig
from ghn.decoders.chunks import PLACE, cut
from ghn.encoders import FixedCodesConfig
from ghn.engine import GHN, GHNConfig
from ghn.graphs import ParamGraph
from ghn.methods.sequence.config import HypernetworkConfig

__all__ = ["build", "hypernetwork_config", "specimen"]

NODE_DIM = 8
LEARNED_DIM = 8
ROOM = 22_000  # parameters beside as many as the network has
MOST_STEPS = 100
# Shares of the parameters before the readout; near the best of a few on permuted digits.
RECURRENT_SHARE, CHUNKED_SHARE = 0.56, 0.31
DENSE_HIDDEN = (32, 32)


def build(config: HypernetworkConfig, graph: ParamGraph) -> GHN:
    """Return a new hypernetwork for the parameters of a graph, without any task yet."""
    return GHN(config.hypernetwork or hypernetwork_config(config, graph))


def specimen(kind: str, graph: ParamGraph) -> GHN:
    """Return a hypernetwork of a kind in `ghn.methods.METHODS`, with two tasks."""
    decoder, _, learned = kind.partition("-")
    config = HypernetworkConfig(decoder=decoder, codes=learned or "graph", state=16, chunk=32)
    ghn = build(config, graph)
    for task in ("one", "two"):
        ghn.condition.add(task)
    return ghn


def hypernetwork_config(config: HypernetworkConfig, graph: ParamGraph) -> GHNConfig:
    """Return settings of a hypernetwork of the wanted size."""
    learned = config.codes == "learned"
    nodes = 0 if learned or config.decoder == "dense" else NODE_DIM
    return GHNConfig(
        encoder=FixedCodesConfig(dim=NODE_DIM) if nodes else None,
        condition=EmbeddingTableConfig(dim=config.dim),
        decoder=_decoder(config, graph, config.dim + nodes),
        magnitude="plain",
    )


def _decoder(
    config: HypernetworkConfig, graph: ParamGraph, dim: int
) -> RecurrentDecoderConfig | ChunkedDecoderConfig | DenseDecoderConfig:
    if config.decoder == "dense":
        return DenseDecoderConfig(dim=dim, hidden=DENSE_HIDDEN, outputs=graph.num_parameters)
    learned = config.codes == "learned"
    size = config.size or graph.num_parameters + ROOM
    width = dim + (LEARNED_DIM if learned else PLACE)
    if config.decoder == "chunked":
        units = config.state or _root(CHUNKED_SHARE * size, width + 2)
        before = units * (width + 1) + units * (units + 1)
    else:
        units = config.state or _root(RECURRENT_SHARE * size / 4, width + 2)
        before = 4 * units * (width + units + 2)
    chunk = config.chunk or _chunk(size - before, units, graph.num_parameters, learned)
    count = cut(graph.specs, chunk, straddle=learned).count
    codes = count if learned else 0
    if config.decoder == "chunked":
        return ChunkedDecoderConfig(
            dim=dim, hidden=(units, units), chunk=chunk, codes=codes, code_dim=LEARNED_DIM
        )
    by_node = count > MOST_STEPS and not learned
    if by_node:
        before += units * (PLACE + units + 1)
        chunk = config.chunk or _chunk(size - before, units, graph.num_parameters, learned)
    return RecurrentDecoderConfig(
        dim=dim,
        state=units,
        chunk=chunk,
        readout="node" if by_node else "step",
        codes=codes,
        code_dim=LEARNED_DIM,
        reset=config.reset,
    )


def _root(total: float, linear: int) -> int:
    """Return the h for which h * h + linear * h is about `total`."""
    return max(4, int((math.sqrt(linear**2 + 4 * total) - linear) / 2))


def _chunk(left: int, units: int, parameters: int, learned: bool) -> int:
    """Return the c that spends what is left: (h + 1) c, and codes of P / c chunks."""
    chunk = max(left, 1) / (units + 1)
    if learned:
        for _ in range(3):
            chunk = max(left - LEARNED_DIM * parameters / max(chunk, 1), 1) / (units + 1)
    return max(4, min(int(chunk), parameters))
