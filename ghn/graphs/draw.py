"""Draw a parameter graph as a picture that can be read.

Operators are boxes in layers from top to bottom, by the longest path from an input; a tall graph
goes on in a further column. Blocks that repeat (`blocks.0`, `blocks.1`, ...) with the same
operators and the same parameter shapes are drawn once, with their number. A colour says the kind
of operator.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ghn.errors import ConfigError
from ghn.graphs.blocks import Folded, fold
from ghn.graphs.graph import Node, ParamGraph
from ghn.pages.pictures import INK, picture
from ghn.pages.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.path import Path as MatplotlibPath

__all__ = ["KINDS", "KIND_OF", "draw"]

# Kind of operator, its colour, and the operators of that kind; what is not listed is "other".
KINDS: dict[str, tuple[str, str]] = {
    "convolution": ("#4477aa", "conv depthwise_conv conv_transpose fold"),
    "linear": ("#66ccee", "linear matmul bilinear linalg"),
    "attention": ("#aa3377", "attention softmax"),
    "recurrent": ("#cc6699", "recurrent cumulative"),
    "embedding": ("#bb9955", "embedding index scatter"),
    "normalisation": (
        "#ccbb44",
        "batch_norm layer_norm rms_norm group_norm instance_norm l2_norm variance",
    ),
    "activation": (
        "#ee8866",
        "relu relu6 leaky_relu prelu elu gelu silu mish glu sigmoid tanh hard_sigmoid hard_swish "
        "softplus clamp pow exp log trigonometric",
    ),
    "pooling": ("#44aa77", "max_pool avg_pool mean sum max interpolate grid_sample"),
    "arithmetic": ("#bbbbbb", "add mul div concat where compare pad roll"),
    "input and output": ("#777777", "input output"),
    "other": ("#dddddd", ""),
}
KIND_OF = {op: kind for kind, (_, ops) in KINDS.items() for op in ops.split()}

ROW, PITCH = 0.42, 2.25  # inches from layer to layer, and from box to box in a layer
BOX_WIDTH, BOX_HEIGHT = 1.95, 0.28
MIN_ROWS = 34  # layers in a column; more for very deep graphs
LEGEND_WIDTH, LEGEND_ROW = 1.35, 0.24
MAX_INCHES = 120.0
DETAIL_LENGTH = 38  # characters that fit a box in its small font
BOX_TEXT, LINE = "#1b1f24", COLOURS[0]  # boxes are light, and lines are grey, on any background


class Place(NamedTuple):
    """Centre of a box in inches, y pointing up and 0 at the top, and the column it is in."""

    x: float
    y: float
    column: int


def _layers(kept: Iterable[int], edges: list[tuple[int, int]]) -> dict[int, int]:
    """Length of the longest path that ends in each node."""
    depth = dict.fromkeys(kept, 0)
    for u, v in edges:  # sorted by u, so that u's depth is final when its edges are met
        depth[v] = max(depth[v], depth[u] + 1)
    return depth


def _columns(
    depth: Mapping[int, int], edges: list[tuple[int, int]], wholes: Iterable[list[int]]
) -> list[int]:
    """Choose the first layer of every column: where few ways and no repeated blocks are cut."""
    total = max(depth.values(), default=0) + 1
    lowest: dict[int, int] = {}
    for u, v in edges:
        lowest[u] = max(lowest.get(u, 0), depth[v])
    cut = [0] * (total + 1)  # cut[l]: operators above layer l that one at l or below reads
    for u, low in lowest.items():
        for layer in range(depth[u] + 1, low + 1):
            cut[layer] += 1
    for whole in wholes:
        layers = [depth[node] for node in whole]
        for layer in range(min(layers) + 1, max(layers) + 1):
            cut[layer] += len(edges)
    rows = max(MIN_ROWS, int(math.sqrt(total * PITCH * 1.3 / ROW)))
    starts = [0]
    while total - starts[-1] > rows:
        latest = starts[-1] + rows
        starts.append(min(range(latest, latest - rows // 3, -1), key=lambda layer: cut[layer]))
    return starts


def _places(folded: Folded, wholes: Iterable[list[int]] = ()) -> dict[int, Place]:
    """Give every node a place: nodes of a layer sorted by the mean place of what they read.

    Args:
        folded: What is drawn.
        wholes: Nodes that stay in one column where that can be.
    """
    depth = _layers(folded.kept, folded.edges)
    starts = _columns(depth, folded.edges, wholes)
    sources: dict[int, list[int]] = {n: [] for n in folded.kept}
    for u, v in folded.edges:
        sources[v].append(u)
    layers: list[list[int]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node in folded.kept:
        layers[depth[node]].append(node)
    column_of = [bisect.bisect_right(starts, layer) - 1 for layer in range(len(layers))]
    offset: dict[int, float] = {}
    widths = [1] * len(starts)
    for layer, members in enumerate(layers):
        row = sorted(
            members, key=lambda n: sum(offset[s] for s in sources[n]) / max(1, len(sources[n]))
        )
        for position, node in enumerate(row):
            offset[node] = position - (len(row) - 1) / 2
        widths[column_of[layer]] = max(widths[column_of[layer]], len(row))
    lefts = [sum(widths[:c]) * PITCH + 0.7 * c for c in range(len(widths))]
    places = {}
    for node, layer in depth.items():
        column = column_of[layer]
        centre = lefts[column] + widths[column] * PITCH / 2
        y = -(layer - starts[column]) * ROW
        places[node] = Place(centre + offset[node] * PITCH, y, column)
    return places


def _detail(graph: ParamGraph, node: Node) -> str:
    """Return the box's second line: where the operator ran, and the shape of its main parameter."""
    shapes = [graph.specs[name].shape for name, _ in node.parameters]
    main = max(shapes, key=len, default=())
    shape = " " + "×".join(map(str, main)) if main else ""  # noqa: RUF001
    room = DETAIL_LENGTH - len(shape)
    scope = node.scope if len(node.scope) <= room else "…" + node.scope[1 - room :]
    return scope + shape


def draw(graph: ParamGraph, path: str | Path, *, fold_blocks: bool = True) -> None:
    """Write a picture of a graph.

    Args:
        graph: What `ghn.trace` returned.
        path: Where to write; the suffix chooses the format, `.svg`, `.png` or `.pdf`.
        fold_blocks: Draw equal consecutive blocks once.

    Raises:
        ConfigError: If the suffix names no format that can be written.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in {"svg", "png", "pdf"}:
        raise ConfigError(
            f"a picture's name must end in .svg, .png or .pdf, got {path.name!r}; the page of "
            "a graph ends in .html, the graph itself in .json"
        )
    folded = fold(graph) if fold_blocks else Folded([*range(len(graph.nodes))], graph.edges, {})
    repeats = _repeated(graph, folded)
    places = _places(folded, repeats.values()) or {0: Place(0.0, 0.0, 0)}
    left = min(p.x for p in places.values()) - PITCH / 2 - LEGEND_WIDTH
    right = max(p.x for p in places.values()) + PITCH / 2 + 0.35
    kinds = _kinds_present(graph, folded)
    bottom = min(*(p.y for p in places.values()), -len(kinds) * LEGEND_ROW) - ROW
    top = ROW
    scale = min(1.0, MAX_INCHES / max(right - left, top - bottom))
    size = (right - left) * scale, (top - bottom) * scale
    with picture(path, size, layout=None, dpi=150) as figure:
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        axes.set_axis_off()
        _draw_repeats(axes, folded, repeats, places)
        _draw_edges(axes, folded.edges, places, scale)
        _draw_boxes(axes, graph, [n for n in folded.kept if n in places], places, scale)
        _draw_legend(axes, kinds, left + 0.15, scale)


def _draw_boxes(
    axes: Axes,
    graph: ParamGraph,
    kept: Iterable[int],
    places: Mapping[int, Place],
    scale: float,
) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyBboxPatch

    for index in kept:
        node, place = graph.nodes[index], places[index]
        colour = to_rgb(KINDS[KIND_OF.get(node.op, "other")][0])
        axes.add_patch(
            FancyBboxPatch(
                (place.x - BOX_WIDTH / 2, place.y - BOX_HEIGHT / 2),
                BOX_WIDTH,
                BOX_HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=[1 - (1 - c) * 0.35 for c in colour],
                edgecolor=colour,
                linewidth=0.9,
                zorder=3,
            )
        )
        detail = _detail(graph, node)
        lift = 0.06 if detail else 0.0
        style: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 4, "color": BOX_TEXT}
        axes.text(place.x, place.y + lift, node.op, fontsize=7 * scale, weight="bold", **style)
        if detail:
            axes.text(place.x, place.y - 0.07, detail, fontsize=5 * scale, **style)


def _draw_edges(
    axes: Axes, edges: list[tuple[int, int]], places: Mapping[int, Place], scale: float
) -> None:
    """Draw edges inside a column as lines, and those to another column as pairs of numbers."""
    from matplotlib.patches import FancyArrowPatch

    numbers: dict[int, int] = {}
    tagged: set[tuple[int, int]] = set()
    for u, v in edges:
        if places[u].column == places[v].column:
            axes.add_patch(
                FancyArrowPatch(
                    path=_route(places[u], places[v], places.values()),
                    arrowstyle="-|>",
                    mutation_scale=6 * scale,
                    linewidth=0.7 * scale,
                    color=LINE,
                    zorder=2,
                )
            )
        else:
            number = numbers.setdefault(u, len(numbers) + 1)
            tagged |= {(u, number), (v, number)}
    seen: dict[int, int] = {}
    for node, number in sorted(tagged):
        sign = 1 if numbers.get(node) == number else -1  # below its source, above its target
        step = 0 if sign > 0 else seen.setdefault(node, 0)
        seen[node] = step + 1
        axes.text(
            places[node].x + sign * 0.25 - 0.2 * step,
            places[node].y - sign * (BOX_HEIGHT / 2 + 0.07),
            str(number),
            fontsize=5 * scale,
            color="white",
            ha="center",
            va="center",
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": "#59626e", "edgecolor": "none"},
            zorder=5,
        )


def _route(start: Place, end: Place, boxes: Iterable[Place]) -> MatplotlibPath:
    """Return the way of an edge: down to the next layer, or around the boxes in between."""
    from matplotlib.path import Path as MatplotlibPath

    below, above = start.y - BOX_HEIGHT / 2, end.y + BOX_HEIGHT / 2
    if start.y - end.y < 1.5 * ROW:
        return MatplotlibPath([(start.x, below), (end.x, above)])
    if abs(start.x - end.x) < PITCH / 4:
        # Out of the left side and back into it, further out the longer the way is.
        side = -BOX_WIDTH / 2
        further = min(0.16 + 0.025 * (start.y - end.y) / ROW, 0.42)
        beside = [
            box.x
            for box in boxes
            if box.column == start.column and end.y < box.y < start.y and box.x < start.x - 0.1
        ]
        if beside:
            return _detour(start, end, min(beside) + side - further)
        out = side - further
        points = [
            (start.x + side, start.y),
            (start.x + out, start.y),
            (end.x + out, end.y),
            (end.x + side, end.y),
        ]
        return MatplotlibPath(points, [1, 4, 4, 4])
    side = math.copysign(BOX_WIDTH / 2, start.x - end.x)
    points = [(start.x, below), (start.x, end.y), (end.x + side, end.y)]
    return MatplotlibPath(points, [1, 3, 3])


def _detour(start: Place, end: Place, x: float) -> MatplotlibPath:
    """Return a way that goes down at `x`, with round corners."""
    from matplotlib.path import Path as MatplotlibPath

    edge, turn = start.x - BOX_WIDTH / 2, 0.1
    points = [
        (edge, start.y),
        (x + turn, start.y),
        *((x, start.y), (x, start.y - turn)),
        (x, end.y + turn),
        *((x, end.y), (x + turn, end.y)),
        (edge, end.y),
    ]
    return MatplotlibPath(points, [1, 2, 3, 3, 2, 3, 3, 2])


def _repeated(graph: ParamGraph, folded: Folded) -> dict[str, list[int]]:
    """Return the drawn nodes of each repeated block."""
    return {
        scope: [n for n in folded.kept if f"{graph.nodes[n].scope}.".startswith(f"{scope}.")]
        for scope in folded.repeats
    }


def _draw_repeats(
    axes: Axes,
    folded: Folded,
    repeats: Mapping[str, list[int]],
    places: Mapping[int, Place],
) -> None:
    """Shade each folded block and write how often it occurs."""
    from matplotlib.patches import Rectangle

    for scope, nodes in repeats.items():
        columns: dict[int, list[Place]] = {}
        for node in nodes:
            columns.setdefault(places[node].column, []).append(places[node])
        longest = max(columns.values(), key=len)
        for inside in columns.values():
            left = min(p.x for p in inside) - BOX_WIDTH / 2 - 0.12
            right = max(p.x for p in inside) + BOX_WIDTH / 2 + 0.3
            low = min(p.y for p in inside) - ROW / 2 + 0.02
            high = max(p.y for p in inside) + ROW / 2 - 0.02
            size = right - left, high - low
            shade = Rectangle((left, low), *size, facecolor=LINE, alpha=0.16, zorder=0)
            axes.add_patch(shade)
            if inside is longest:
                style: dict[str, Any] = {"rotation": 270, "ha": "right", "va": "top", "color": INK}
                words = f"{scope}, {folded.repeats[scope]} times"
                axes.text(right - 0.06, high - 0.06, words, fontsize=7, **style)


def _kinds_present(graph: ParamGraph, folded: Folded) -> list[str]:
    present = {KIND_OF.get(graph.nodes[n].op, "other") for n in folded.kept}
    return [kind for kind in KINDS if kind in present]


def _draw_legend(axes: Axes, kinds: list[str], x: float, scale: float) -> None:
    for row, kind in enumerate(kinds):
        y = -row * LEGEND_ROW
        axes.plot([x], [y], marker="s", markersize=7 * scale, color=KINDS[kind][0])
        axes.text(x + 0.15, y, kind, fontsize=7 * scale, va="center", color=INK)
