"""Rules of operators that compute: layers, normalisations, attention, reductions, pooling.

Every rule answers one question: which permutations of the axes of what is read make the result a
permutation of itself, and which one? An operator that has no rule is not understood, and what it
reads must not move.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import torch

from ghn.graphs.channels.labels import Array
from ghn.graphs.channels.layout import Layout
from ghn.graphs.channels.layouts import Layouts
from ghn.graphs.channels.rules import RULES, Rule, Step, rule

__all__ = ["not_understood", "rule_of"]

# Pointwise operators that PyTorch does not tag as such.
_POINTWISE = frozenset({"hardswish", "_prelu_kernel", "complex", "polar", "copy", "floor_divide"})


def rule_of(name: str) -> Rule:
    """Return the rule of an operator."""
    if name in RULES:
        return RULES[name]
    return _pointwise if _is_pointwise(name) else not_understood


@functools.cache
def _is_pointwise(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    if name in _POINTWISE or packet is None:
        return name in _POINTWISE
    return any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads())


def _pointwise(ops: Layouts, step: Step) -> list[Layout]:
    layouts = list(step.layouts())
    if any(len(layout.shape) > len(shape) for layout in layouts for shape in step.shapes):
        return not_understood(ops, step)  # its result was given another shape in place later
    return [ops.meet(layouts, shape) for shape in step.shapes]


def not_understood(ops: Layouts, step: Step) -> list[Layout]:
    """Say that nothing that a call reads may move."""
    for layout in step.layouts():
        ops.fix_all(layout, f"read by {step.name}, which is not understood")
    return []


@rule("as_strided")
def _as_strided(ops: Layouts, step: Step) -> list[Layout]:
    """Another way to write a view; only one that changes nothing is understood."""
    source, result = step.call.args[0], step.call.outputs[0]
    wide = [d for d, n in enumerate(result.shape) if n > 1]
    if source.shape == result.shape and all(source.stride(d) == result.stride(d) for d in wide):
        return [step.args[0]]
    return not_understood(ops, step)


@rule("linear")
def _linear(ops: Layouts, step: Step) -> Layout:
    layout, weight, bias = (step.get(k, n) for k, n in enumerate(("input", "weight", "bias")))
    last = len(layout.shape) - 1
    ops.tie(layout, -1, weight, 1)
    if bias is not None:
        ops.tie(weight, 0, bias, 0)
    return _with_axis(ops, ops.drop(layout, (last,)), last, weight, 0)


def _with_axis(ops: Layouts, layout: Layout, dim: int, source: Layout, axis: int) -> Layout:
    """Insert an axis of another tensor into a layout."""
    return ops.insert(layout, dim, source.shape[axis], _axis(ops, source, axis))


@rule("mm bmm matmul")
def _product(ops: Layouts, step: Step) -> Layout:
    return _matmul(ops, *step.args[:2])


@rule("addmm baddbmm")
def _added_product(ops: Layouts, step: Step) -> Layout:
    added, *factors = step.args[:3]
    return ops.meet([_matmul(ops, *factors), added], step.shapes[0])


def _matmul(ops: Layouts, one: Layout, two: Layout) -> Layout:
    """Labels of `[..., n, k] @ [..., k, m]`; the leading axes are equal or absent."""
    last = len(one.shape) - 1
    ops.tie(one, last, two, -2)
    rows = ops.drop(one, (last,))
    lead = ops.drop(two, (len(two.shape) - 2, len(two.shape) - 1))
    for _ in range(last - len(lead.shape)):
        lead = ops.insert(lead, len(lead.shape))
    rows = ops.meet([rows, lead], rows.shape) if last else rows
    return _with_axis(ops, rows, last, two, len(two.shape) - 1)


@rule("mv dot vdot")
def _vector_product(ops: Layouts, step: Step) -> Layout:
    one, two = step.args[:2]
    ops.tie(one, -1, two, 0)
    return ops.drop(one, (len(one.shape) - 1,))


@rule("convolution _convolution")
def _convolution(ops: Layouts, step: Step) -> Layout:
    layout, weight, bias = step.args[:3]
    transposed, groups = step.args[6], step.args[8]
    ops.fix(weight, range(2, len(weight.shape)), "places of a kernel")
    channels = _grouped_channels(ops, layout, weight, groups, transposed)
    lead, _, *space = step.shapes[0]
    result = ops.drop(layout, (1,))
    result = ops.keep(result, range(1, len(result.shape)), (lead, *space), "places of an image")
    result = ops.insert(result, 1, len(channels), channels)
    if bias is not None:
        ops.tie(result, 1, bias, 0)
    return result


def _grouped_channels(
    ops: Layouts, layout: Layout, weight: Layout, groups: int, transposed: bool
) -> Array:
    """Tie the channels that a convolution reads to its weight; return labels of what it writes.

    A weight is `[groups * out, in]`, that of a transposed convolution `[groups * in, out]`.
    """
    if groups == 1:
        ops.tie(layout, 1, weight, 0 if transposed else 1)
        return ops.vector(weight, 1 if transposed else 0)
    read = ops.grid(layout, 1, groups)
    stored = ops.grid(weight, 0, groups)
    ops.labels.unify(read[0], stored[0])
    within = ops.vector(weight, 1)
    if not transposed:
        ops.labels.unify(read[1], within)
        return ops.vector(weight, 0)
    ops.labels.unify(read[1], stored[1])
    return read[0] if len(within) == 1 else ops.labels.outer([read[0], within]).ravel()


@rule(
    "native_batch_norm cudnn_batch_norm _native_batch_norm_legit _batch_norm_with_update "
    "_native_batch_norm_legit_no_training _batch_norm_no_update"
)
def _batch_norm(ops: Layouts, step: Step) -> Layout:
    layout = ops.separate(step.args[0], (1,))
    for other in step.args[1:5]:
        if isinstance(other, Layout):
            ops.tie(layout, 1, other, 0)
    return layout


@rule("native_layer_norm rms_norm _fused_rms_norm")
def _layer_norm(ops: Layouts, step: Step) -> Layout:
    layout, shape = step.args[0], step.args[1]
    ndim = len(layout.shape)
    layout = ops.separate(layout, range(ndim - len(shape), ndim))
    return ops.meet([layout, *list(step.layouts())[1:]], layout.shape)


@rule("native_group_norm")
def _group_norm(ops: Layouts, step: Step) -> Layout:
    layout, gain, bias = step.args[:3]
    ops.grid(layout, 1, step.args[6])
    for other in (gain, bias):
        if other is not None:
            ops.tie(layout, 1, other, 0)
    return ops.separate(layout, (1,))


@rule("weight_norm")
def _weight_norm(ops: Layouts, step: Step) -> Layout:
    direction, magnitude = step.args[:2]
    direction = ops.separate(direction, range(len(direction.shape)))
    return ops.meet([direction, magnitude], direction.shape)


@rule("scaled_dot_product_attention")
def _attention(ops: Layouts, step: Step) -> Layout:
    """Labels of queries `[..., n, d]`, keys `[..., m, d]`, values `[..., m, e]`."""
    query, key, value = (step.get(k, name) for k, name in enumerate(("query", "key", "value")))
    ndim = len(query.shape)
    ops.tie(query, -1, key, -1)
    ops.tie(key, -2, value, -2)
    heads, *others = (ops.drop(t, (ndim - 2, ndim - 1)) for t in (query, key, value))
    for other in others:
        heads = _same_heads(ops, heads, other)
    scores = ops.insert(heads, ndim - 2, query.shape[-2], _axis(ops, query, ndim - 2))
    scores = ops.insert(scores, ndim - 1, key.shape[-2], _axis(ops, key, ndim - 2))
    mask = step.get(3, "attn_mask")
    if mask is not None:
        scores = ops.meet([scores, mask], scores.shape)
    if step.get(5, "is_causal", False):
        ops.fix(scores, (-2 % ndim, -1 % ndim), "order of a causal mask")
    result = ops.drop(scores, (ndim - 1,))
    return ops.insert(result, ndim - 1, value.shape[-1], _axis(ops, value, ndim - 1))


def _same_heads(ops: Layouts, heads: Layout, other: Layout) -> Layout:
    """Tie the leading axes of queries to those of keys, of which there may be fewer heads."""
    last = len(heads.shape) - 1
    if last >= 0 and 1 < other.shape[last] < heads.shape[last]:
        rows, _ = ops.grid(heads, last, other.shape[last])
        ops.labels.unify(rows, ops.vector(other, last))
        return ops.separate(heads, (last,))
    return ops.meet([heads, other], heads.shape)


def _axis(ops: Layouts, layout: Layout, dim: int) -> Array | None:
    return None if layout.of(dim) is None else ops.vector(layout, dim)


@rule("_softmax _safe_softmax softmax _log_softmax log_softmax")
def _softmax(ops: Layouts, step: Step) -> Layout:
    layout = step.args[0]
    return ops.separate(layout, (layout.axis(step.args[1]),))


# Where these operators have the axes that they reduce; all of them if there is no such argument.
_REDUCED = {"linalg_vector_norm": 2, "norm": 2}


@rule(
    "sum nansum mean amax amin prod any all logsumexp var std var_mean std_mean "
    "linalg_vector_norm norm"
)
def _reduce(ops: Layouts, step: Step) -> list[Layout]:
    """A sum does not change with the order of what is summed."""
    layout = step.args[0]
    dims = step.get(_REDUCED.get(step.name, 1), "dim")
    dims = _axes(layout, dims)
    result = ops.drop(layout, dims)
    if len(step.shapes[0]) == len(layout.shape):
        for dim in sorted(dims):
            result = ops.insert(result, dim)
    return [result] * len(step.shapes)


def _axes(layout: Layout, dims: int | Sequence[int] | None) -> list[int]:
    if isinstance(dims, int):
        dims = [dims]
    return [layout.axis(d) for d in dims] if dims else list(range(len(layout.shape)))


@rule("max min median argmax argmin mode cummax cummin cumsum cumprod logcumsumexp sort topk")
def _ordered(ops: Layouts, step: Step) -> list[Layout]:
    """Operators along one axis whose results tell positions apart."""
    layout = step.args[0]
    if len(step.args) == 1 and step.shapes == [()]:
        return not_understood(ops, step) if step.name.startswith("arg") else _reduce(ops, step)
    at = 2 if step.name == "topk" else 1
    dim = layout.axis(step.get(at, "dim", -1))
    kept = len(step.shapes[0]) == len(layout.shape)
    shape = step.shapes[0] if kept else (*layout.shape[:dim], 1, *layout.shape[dim + 1 :])
    result = ops.keep(layout, (dim,), shape, f"ordered by {step.name}")
    return [result if kept else ops.drop(result, (dim,))] * len(step.shapes)


@rule("roll flip _fft_r2c _fft_c2r _fft_c2c")
def _positional(ops: Layouts, step: Step) -> Layout:
    at = 2 if step.name == "roll" else 1
    dims = _axes(step.args[0], step.get(at, "dims"))
    return ops.keep(step.args[0], dims, step.shapes[0], f"places that {step.name} moves")


_WINDOWS = (
    "max_pool{}_with_indices max_pool{} avg_pool{} adaptive_avg_pool{} _adaptive_avg_pool{} "
    "adaptive_max_pool{} upsample_nearest{} _upsample_nearest_exact{} upsample_linear{} "
    "upsample_bilinear{} _upsample_bilinear{}_aa upsample_bicubic{} _upsample_bicubic{}_aa "
    "upsample_trilinear{} reflection_pad{} replication_pad{}"
)


@rule(" ".join(_WINDOWS.replace("{}", f"{k}d") for k in (1, 2, 3)))
def _window(ops: Layouts, step: Step) -> list[Layout]:
    """Pooling, resampling and padding of the last axes, as many as the name says."""
    found = re.search(r"(\d)d", step.name)
    count = int(found.group(1)) if found else 0
    layout = step.args[0]
    dims = range(len(layout.shape) - count, len(layout.shape))
    return [ops.keep(layout, dims, shape, "places of an image") for shape in step.shapes]


@rule("grid_sampler_2d grid_sampler_3d")
def _grid_sample(ops: Layouts, step: Step) -> Layout:
    layout, grid = step.args[:2]
    ops.fix_all(grid, "places to sample at")
    dims = range(2, len(layout.shape))
    return ops.keep(layout, dims, step.shapes[0], "places of an image")
