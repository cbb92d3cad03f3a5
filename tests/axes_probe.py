"""Where a built hypernetwork stands on the five axes, from what it does and not from what it says.

- inputs: it can draw its own conditions (noise), takes an image (data), or does neither (task);
- outputs: how many rows its widest linear map has for one network, and whether that number grows
  with the width of the network;
- input variability: whether two values that it never heard of, or two graphs, get two weights;
- output variability: whether it emits for wider and deeper networks;
- architecture: which functions torch was asked for while it emitted.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ghn.axes import ARCHITECTURES, Axes
from ghn.conditioning import Size, Unit
from ghn.errors import GHNError
from ghn.graphs import trace

FUNCTIONS = {
    "cnn": ("conv1d", "conv2d", "conv3d"),
    "rnn": ("lstm", "gru", "rnn_tanh", "lstm_cell", "gru_cell"),
    "attention": ("scaled_dot_product_attention", "softmax"),
    "gnn": ("index_add_", "index_add", "scatter_add_", "scatter_add", "scatter_reduce_"),
}


def perceptron(width=24, depth=2):
    widths = [6, *[width] * (depth - 1)]
    layers = [
        part
        for size, following in itertools.pairwise(widths)
        for part in (nn.Linear(size, following), nn.ReLU())
    ]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 3))


def graph_of(**sizes):
    return trace(perceptron(**sizes), torch.empty(2, 6))


class Recorder(TorchFunctionMode):
    """Writes down every function that is called, and the rows and outputs of linear maps."""

    def __init__(self):
        self.names, self.linear = set(), []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        self.names.add(name)
        if name == "linear":
            rows = math.prod(args[0].shape[:-1])
            self.linear.append((rows, args[1].shape[0]))
        return function(*args, **(kwargs or {}))


def values_for(ghn, count=3):
    """Return what kind of condition a hypernetwork takes, and new values of it, or old ones."""
    condition = ghn.condition
    if condition is None:
        return "graph", []
    inner = condition.of if isinstance(condition, Unit) else condition
    draws = torch.Generator().manual_seed(0)
    if hasattr(inner, "sample"):
        return "noise", list(inner.sample(count, draws))
    if isinstance(inner, Size):
        return "sizes", [dict.fromkeys(inner.config.names, 5 + place) for place in range(count)]
    for size in range(1, 65):
        vectors = torch.rand(count, size, generator=draws)
        if accepts(condition, vectors):
            return "numbers", list(vectors)
    images = torch.rand(count, 3, 16, 16, generator=draws)
    if accepts(condition, images):
        return "images", list(images)
    new = [f"never heard of {number}" for number in range(count)]
    if accepts(condition, new):
        return "open names", new
    return "names", list(inner.names)


def accepts(condition, value):
    try:
        condition.encode(value)
    except GHNError:
        return False
    return True


def emit(ghn, graphs, values=()):
    """Emit for graphs, under one value each or several at once, or without any."""
    kind = [] if not len(values) else values
    batch = torch.stack(kind) if kind and isinstance(kind[0], torch.Tensor) else kind
    with torch.no_grad(), Recorder() as recorder:
        found = ghn(graphs, condition=batch) if kind else ghn(graphs)
    return found, recorder


def probe(ghn, graph):
    """Return the axes of a hypernetwork that was built for a network of `perceptron`."""
    ghn.eval()
    kind, values = values_for(ghn)
    others = [graph_of(width=60), graph_of(depth=3)]
    _, recorder = emit(ghn, [graph], values[:1])
    names = recorder.names
    found = tuple(k for k, known in FUNCTIONS.items() if names & set(known))
    fits = all(emits(ghn, other, values[:1]) for other in others)
    return Axes(
        inputs={"noise": "noise", "images": "data"}.get(kind, "task"),
        outputs=portions(ghn, graph, others[0] if fits else None, values),
        input_variability="dynamic" if differs(ghn, graph, kind, values) else "static",
        output_variability="dynamic" if fits else "static",
        architecture=tuple(k for k in ARCHITECTURES if k in (found or ("mlp",))),
    )


def emits(ghn, graph, values):
    try:
        found = emit(ghn, [graph], values)[0][0]
    except GHNError:
        return False
    batch = (len(values),) if values else ()
    return all(found[n].shape == (*batch, *spec.shape) for n, spec in graph.specs.items())


def differs(ghn, graph, kind, values):
    """Whether two inputs that were not there before get two weights."""
    if kind == "names":
        return False
    if kind == "graph":
        deeper = graph_of(depth=3)
        first, second = (emit(ghn, [g])[0][0]["0.weight"] for g in (graph, deeper))
    else:
        both = emit(ghn, [graph], values[:2])[0][0]["0.weight"]
        first, second = both
    return bool((first - second).abs().max() > 1e-6)


def portions(ghn, graph, wider, values):
    """Say in what portions parameters come, by the rows that linear maps gain with a network."""

    def pieces(graph):
        if values:
            one, two = (emit(ghn, [graph], values[:count])[1].linear for count in (1, 2))
        else:
            one, two = (emit(ghn, [graph] * count)[1].linear for count in (1, 2))
        gains = [(b[0] - a[0], a[1]) for a, b in zip(one, two, strict=True)]
        return max(gains)

    count, _ = pieces(graph)
    if count == 1:
        widest = max(out for _, out in emit(ghn, [graph], values[:1])[1].linear)
        return "once" if widest >= graph.num_parameters else "multiple"
    if wider is not None:
        return "chunk" if pieces(wider)[0] > count else "component"
    return "component" if count == len(graph.specs) else "chunk"
