"""The graph page: a model's graph as one HTML file to look at, search, fold and unfold."""

from ghn.graphs.page.build import graph_page
from ghn.graphs.page.facts import Histogram, Provenance

__all__ = ["Histogram", "Provenance", "graph_page"]
