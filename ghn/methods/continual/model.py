"""The hypernetwork of a learner: fixed codes of nodes, a table of tasks, a decoder of a given size.

Shape letters used in this file:
    S: parameters of the hypernetwork. P: parameters of the network. w: size of a chunk's code.
    h: units of a state or hidden layer. c: numbers of a chunk. n: chunks.
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ghn.conditioning import EmbeddingTableConfig
from ghn.decoders import ChunkedDecoderConfig, DenseDecoderConfig, RecurrentDecoderConfig
from ghn.decoders.chunks import PLACE, cut
from ghn.encoders import FixedCodesConfig
from ghn.engine import GHN, GHNConfig
from ghn.engine.select import Generate, keep_reasons
from ghn.engine.support import Support
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph, trace
from ghn.graphs.trace import parameter_names
from ghn.methods.continual.config import ContinualConfig

__all__ = ["build", "generated_graph", "hypernetwork_config", "specimen"]

NODE_DIM = 8
LEARNED_DIM = 8
ROOM = 22_000  # parameters beside as many as the network has
MOST_STEPS = 100
# Shares of the parameters before the readout; near the best of a few on permuted digits.
RECURRENT_SHARE, CHUNKED_SHARE = 0.56, 0.31
DENSE_HIDDEN = (32, 32)


def generated_graph(model: nn.Module, example_inputs: Any, generate: Generate) -> ParamGraph:
    """Return the graph of those parameters of a network that are learned for tasks.

    Args:
        model: The network.
        example_inputs: As for `ghn.trace`.
        generate: Which parameters; all if None.

    Raises:
        ConfigError: If none is left.
    """
    graph = trace(model, example_inputs)
    parameters, _ = parameter_names(model)
    reasons = keep_reasons(graph, parameters, Support(), generate, "predict")
    names = {name for name, reason in reasons.items() if reason is None}
    names = {name for name in names if graph.specs[name].numel}
    if not names:
        raise ConfigError(
            f"generate={generate!r} leaves no parameter of {type(model).__name__} to learn; its "
            f"parameters are {', '.join(list(parameters)[:5])}"
        )
    return graph.only(names)


def build(config: ContinualConfig, graph: ParamGraph) -> GHN:
    """Return a new hypernetwork for the parameters of a graph, without any task yet."""
    return GHN(config.hypernetwork or hypernetwork_config(config, graph))


def specimen(kind: str, graph: ParamGraph) -> GHN:
    """Return a hypernetwork of a kind in `ghn.methods.METHODS`, with two tasks."""
    decoder, _, learned = kind.partition("-")
    config = ContinualConfig(decoder=decoder, codes=learned or "graph", state=16, chunk=32)
    ghn = build(config, graph)
    for task in ("one", "two"):
        ghn.condition.add(task)
    return ghn


def hypernetwork_config(config: ContinualConfig, graph: ParamGraph) -> GHNConfig:
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
    config: ContinualConfig, graph: ParamGraph, dim: int
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
