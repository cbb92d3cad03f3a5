"""Rules of operators that rearrange a tensor: views, slices, concatenations, copies."""

from __future__ import annotations

from typing import Any

import numpy as np

from ghn.graphs.channels.layout import Layout
from ghn.graphs.channels.layouts import Layouts
from ghn.graphs.channels.rules import Step, rule

__all__ = ["CUTS"]

# Operators that leave positions out of a tensor, which nobody has read then.
CUTS = frozenset(
    {
        *("slice", "slice_copy", "select", "select_copy", "unbind", "unbind_copy"),
        *("split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "split_copy"),
        "constant_pad_nd",
    }
)


@rule(
    "view _unsafe_view reshape _reshape_alias unsqueeze squeeze unflatten view_copy "
    "unsqueeze_copy squeeze_copy"
)
def _view(ops: Layouts, step: Step) -> Layout:
    return ops.reshape(step.args[0], step.shapes[0])


@rule(
    "clone contiguous detach alias lift lift_fresh lift_fresh_copy _to_copy to positive dropout "
    "native_dropout resolve_conj resolve_neg _conj _conj_physical real imag detach_copy "
    "alias_copy fill zero zeros_like ones_like full_like empty_like"
)
def _same(ops: Layouts, step: Step) -> list[Layout]:
    return [step.args[0]] * len(step.shapes)


@rule("zeros ones full empty new_zeros new_ones new_full new_empty")
def _uniform(ops: Layouts, step: Step) -> Layout:
    """All elements are equal, so that any order of them will do."""
    return ops.fresh(step.shapes[0])


@rule("permute permute_copy")
def _permute(ops: Layouts, step: Step) -> Layout:
    layout = step.args[0]
    return layout.permute([layout.axis(d) for d in step.args[1]])


@rule("transpose t transpose_copy t_copy")
def _transpose(ops: Layouts, step: Step) -> Layout:
    layout = step.args[0]
    order = list(range(len(layout.shape)))
    if len(order) > 1:
        a, b = (layout.axis(d) for d in (step.get(1, default=0), step.get(2, default=1)))
        order[a], order[b] = order[b], order[a]
    return layout.permute(order)


@rule("expand expand_copy")
def _expand(ops: Layouts, step: Step) -> Layout:
    """The positions of an axis that is repeated are all alike."""
    return ops.meet([step.args[0], ops.fresh(_new_sizes(step))], step.shapes[0])


def _new_sizes(step: Step) -> list[int]:
    """Return the result's shape with 1 wherever the source has that axis."""
    old, new = step.args[0].shape, step.shapes[0]
    old = (1,) * (len(new) - len(old)) + old
    return [n if o == 1 else 1 for o, n in zip(old, new, strict=True)]


@rule("repeat tile")
def _repeat(ops: Layouts, step: Step) -> Layout:
    layout, times = step.args[0], list(step.args[1])
    times = [1] * (len(layout.shape) - len(times)) + times
    sizes = (1,) * (len(times) - len(layout.shape)) + layout.shape
    apart = [n for pair in zip(times, sizes, strict=True) for n in pair]
    source = [n for size in sizes for n in (1, size)]
    copies = ops.fresh([n for count in times for n in (count, 1)])
    return ops.reshape(ops.meet([ops.reshape(layout, source), copies], apart), step.shapes[0])


@rule("slice slice_copy")
def _slice(ops: Layouts, step: Step) -> Layout:
    layout, dim = step.args[0], step.args[0].axis(step.get(1, "dim", 0))
    positions = np.arange(layout.shape[dim])
    bounds = slice(step.get(2, "start"), step.get(3, "end"), step.get(4, "step", 1))
    return ops.take(layout, dim, positions[bounds])


@rule("select select_copy")
def _select(ops: Layouts, step: Step) -> Layout:
    layout, dim, index = step.args[0], step.args[0].axis(step.args[1]), step.args[2]
    return ops.drop(ops.take(layout, dim, np.arange(layout.shape[dim])[[index]]), (dim,))


@rule("split split_with_sizes unsafe_split unsafe_chunk split_copy unbind unbind_copy")
def _split(ops: Layouts, step: Step) -> list[Layout]:
    at = 1 if step.name.startswith("unbind") else 2
    layout = step.args[0]
    dim = layout.axis(step.get(at, "dim", 0))
    parts, start = [], 0
    for shape in step.shapes:
        size = 1 if at == 1 else shape[dim]
        part = ops.take(layout, dim, np.arange(start, start + size))
        parts.append(ops.drop(part, (dim,)) if at == 1 else part)
        start += size
    return parts


@rule("cat concat")
def _concat(ops: Layouts, step: Step) -> Layout:
    layouts = [t for t in step.args[0] if 0 not in t.shape] or step.args[0]
    return ops.concat(layouts, layouts[0].axis(step.get(1, "dim", 0)))


@rule("stack")
def _stack(ops: Layouts, step: Step) -> Layout:
    layouts = step.args[0]
    dim = step.get(1, "dim", 0) % len(step.shapes[0])
    return ops.insert(ops.meet(layouts, layouts[0].shape), dim, len(layouts))


@rule("constant_pad_nd")
def _pad(ops: Layouts, step: Step) -> Layout:
    """Padding has one value everywhere: its positions are all alike."""
    layout, widths = step.args[0], list(step.args[1])
    for k in range(len(widths) // 2):
        dim = len(layout.shape) - 1 - k
        before, after = widths[2 * k], widths[2 * k + 1]
        inner = np.arange(max(-before, 0), layout.shape[dim] + min(after, 0))
        layout = ops.take(layout, dim, inner)
        vector = None
        if layout.of(dim) is not None:
            sides = [ops.labels.fresh(max(n, 0)) for n in (before, after)]
            vector = np.concatenate([sides[0], ops.vector(layout, dim), sides[1]])
        size = len(inner) + max(before, 0) + max(after, 0)
        layout = ops.insert(ops.drop(layout, (dim,)), dim, size, vector)
    return layout


@rule("pixel_shuffle")
def _pixel_shuffle(ops: Layouts, step: Step) -> Layout:
    layout, factor = step.args
    *lead, channels, height, width = layout.shape
    folded = (*lead, channels // factor**2, factor**2, height, width)
    layout = ops.reshape(layout, folded)
    dim = len(lead) + 1
    ops.fix(layout, (dim,), "spread over pixels")
    return ops.keep(ops.drop(layout, (dim,)), (-2, -1), step.shapes[0], "pixels")


@rule("pixel_unshuffle")
def _pixel_unshuffle(ops: Layouts, step: Step) -> Layout:
    layout, factor = step.args
    layout = ops.keep(layout, (-2, -1), (*layout.shape[:-2], 1, 1), "pixels")
    dim = len(layout.shape) - 2
    layout = ops.insert(layout, dim, factor**2, ops.labels.fixed(factor**2, "pixels"))
    folded = ops.reshape(layout, (*step.shapes[0][:-2], 1, 1))
    return Layout(step.shapes[0], folded.blocks, folded.why)


@rule("channel_shuffle native_channel_shuffle")
def _channel_shuffle(ops: Layouts, step: Step) -> Layout:
    layout, groups = step.args
    batch, channels, *rest = layout.shape
    folded = ops.reshape(layout, (batch, groups, channels // groups, *rest))
    order = [0, 2, 1, *range(3, len(folded.shape))]
    return ops.reshape(folded.permute(order), layout.shape)


@rule("glu")
def _glu(ops: Layouts, step: Step) -> Layout:
    layout = step.args[0]
    dim = layout.axis(step.get(1, "dim", -1))
    half = layout.shape[dim] // 2
    parts = [ops.take(layout, dim, np.arange(half) + k * half) for k in range(2)]
    return ops.meet(parts, step.shapes[0])


@rule("index _unsafe_index")
def _index(ops: Layouts, step: Step) -> Layout:
    """Axes that are indexed are looked up by position; the others stay."""
    layout, indices = step.args[0], step.args[1]
    dims = [d for d, index in enumerate(indices) if index is not None]
    found = np.broadcast_shapes(*(indices[d].shape for d in dims))
    ops.fix(layout, dims, "looked up by index")
    result = ops.drop(layout, dims)
    adjacent = dims == list(range(dims[0], dims[-1] + 1))
    at = dims[0] if adjacent else 0
    for k, size in enumerate(found):
        result = ops.insert(result, at + k, size)
    return result


@rule("index_select")
def _index_select(ops: Layouts, step: Step) -> Layout:
    return ops.keep(step.args[0], (step.args[1],), step.shapes[0], "looked up by index")


@rule("embedding")
def _embedding(ops: Layouts, step: Step) -> Layout:
    table, indices = step.args[:2]
    ops.fix(table, (0,), "rows of a table, looked up by index")
    rows = ops.still(indices.shape, "positions")
    return _appended(ops, rows, table)


def _appended(ops: Layouts, rows: Layout, table: Layout) -> Layout:
    labels: Any = None if table.of(1) is None else ops.vector(table, 1)
    return ops.insert(rows, len(rows.shape), table.shape[1], labels)


@rule("view_as_complex")
def _view_as_complex(ops: Layouts, step: Step) -> Layout:
    layout = step.args[0]
    last = len(layout.shape) - 1
    ops.fix(layout, (last,), "real and imaginary parts")
    return ops.drop(layout, (last,))


@rule("view_as_real")
def _view_as_real(ops: Layouts, step: Step) -> Layout:
    return ops.insert(step.args[0], len(step.args[0].shape), 2)


@rule("im2col")
def _im2col(ops: Layouts, step: Step) -> Layout:
    """Channel c of window place k becomes channel `c * places + k`."""
    layout = step.args[0]
    *lead, channels, _, _ = layout.shape
    places = step.shapes[0][-2] // channels
    windows = ops.keep(layout, (-2, -1), (*lead, channels, 1, 1), "pixels")
    windows = ops.reshape(windows, (*lead, channels))
    windows = ops.insert(
        windows, len(lead) + 1, places, ops.labels.fixed(places, "places in a window")
    )
    return ops.insert(
        ops.reshape(windows, (*lead, channels * places)), len(lead) + 1, step.shapes[0][-1]
    )
