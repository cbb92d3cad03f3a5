"""Shortest-path distances between the operators of a graph.

GHN-2 calls them virtual edges, GHN-3 turns them into attention biases.

Sources: Knyazev et al. 2021 (arXiv 2110.13100, section 4.1); Knyazev et al. 2023
(arXiv 2303.04143, section 3).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int16

from ghn.errors import ConfigError
from ghn.graphs.graph import ParamGraph

__all__ = ["shortest_distances"]

LONGEST = int(np.iinfo(np.int16).max)
# scipy answers in float64: a block of sources at a time keeps the peak near the int16 result.
SOURCES_AT_ONCE = 1024


def shortest_distances(graph: ParamGraph, limit: int | None = None) -> Int16[np.ndarray, "N N"]:
    """Count the edges on the shortest directed path between all pairs of nodes.

    Args:
        graph: Graph of `N` nodes.
        limit: Longest distance told apart: all longer paths count as this long, so that a limited
            table still tells "far downstream" from "unrelated". At most 32,767, the default.

    Returns:
        Entry `[u, v]` is the number of edges from `u` to `v`; 0 if there is no path or `u` is `v`.
        Backward distances are the transpose.

    Raises:
        ConfigError: If `limit` lies outside [1, 32767].
    """
    from scipy import sparse
    from scipy.sparse import csgraph

    limit = LONGEST if limit is None else limit
    if not 1 <= limit <= LONGEST:
        raise ConfigError(f"limit must lie in [1, {LONGEST}], got {limit}")

    size = len(graph.nodes)
    distances = np.zeros((size, size), dtype=np.int16)
    if not graph.edges:
        return distances
    start, end = np.array(graph.edges, dtype=np.int32).T
    weights = np.ones(len(start))
    adjacency = sparse.csr_array((weights, (start, end)), shape=(size, size))
    for first in range(0, size, SOURCES_AT_ONCE):
        rows = np.arange(first, min(first + SOURCES_AT_ONCE, size))
        block = csgraph.dijkstra(adjacency, unweighted=True, indices=rows)
        np.minimum(block, limit, out=block, where=np.isfinite(block))
        block[np.isinf(block)] = 0
        distances[rows] = block
    return distances
