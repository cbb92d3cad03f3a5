"""Operators that models write out by hand, recognised in the graph and named.

Only one so far: root-mean-square normalisation, which most language models spell as
`weight * (x * rsqrt(mean(x ** 2) + eps))`. What the name replaces loses its readers and is pruned.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["fold_rms_norms"]


class Draft(Protocol):
    """What this module needs of a node under construction."""

    op: str
    inputs: tuple[int, ...]
    parameters: list[tuple[str, str]]
    attributes: dict[str, Any]


def fold_rms_norms(drafts: list[Any]) -> dict[str, str]:
    """Turn written-out RMS normalisations into `rms_norm` nodes.

    Args:
        drafts: Nodes in topological order; changed in place.

    Returns:
        The parameters whose role changed, with the new role.
    """
    changed: dict[str, str] = {}
    for draft in drafts:
        if draft.op != "mul" or not draft.parameters or len(draft.inputs) != 1:
            continue
        source = _normalised(drafts, draft.inputs[0])
        if source is None:
            continue
        draft.op, draft.inputs = "rms_norm", (source,)
        draft.parameters = [(n, "gain" if r == "scale" else r) for n, r in draft.parameters]
        changed.update(dict(draft.parameters))
    return changed


def _normalised(drafts: list[Any], index: int) -> int | None:
    """Return x if node `index` is x * rsqrt(mean(x ** 2) [+ eps]), else None."""
    product = drafts[index]
    if product.op not in ("mul", "div") or product.parameters or len(product.inputs) != 2:
        return None
    for data, factor in (product.inputs, product.inputs[::-1]):
        chain = _descend(drafts, factor, ("pow", "add", "mean", "pow"))
        if chain is None:
            chain = _descend(drafts, factor, ("pow", "mean", "pow"))
        if chain == data:
            return data
    return None


def _descend(drafts: list[Any], index: int, ops: tuple[str, ...]) -> int | None:
    """Follow single inputs through nodes of the given operators; return what the last one reads."""
    for op in ops:
        draft = drafts[index]
        if draft.op != op or draft.parameters or len(set(draft.inputs)) != 1:
            return None
        index = draft.inputs[0]
    return index
