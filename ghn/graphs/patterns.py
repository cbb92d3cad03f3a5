"""Operators that models write out by hand, recognised in the graph and named.

Root-mean-square normalisation, which most language models spell as
`weight * (x * rsqrt(mean(x ** 2) + eps))` and timm's SimpleNorm by the variance, and low-rank
adapters, `layer(x) + s * B(A(x))`. What the name replaces loses its readers and is pruned.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["fold_adapters", "fold_rms_norms"]


# What signals are divided by, from the last operator to the first.
_SCALES = (("pow", "add", "mean", "pow"), ("pow", "mean", "pow"), ("pow", "add", "variance"))


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


def fold_adapters(drafts: list[Any]) -> tuple[dict[str, tuple[str, int]], dict[int, int]]:
    """Hang the parameters of low-rank adapters on the layers that they adapt.

    An adapter is told by the names of its parameters, `lora_A` and `lora_B` as in PEFT, and by
    where it stands: it reads what a layer reads, and a sum adds it to that layer's output.

    Args:
        drafts: Nodes in topological order; changed in place.

    Returns:
        Role and node of the parameters that moved, and for each sum the layer it is now part of.
    """
    moved: dict[str, tuple[str, int]] = {}
    merged: dict[int, int] = {}
    for index, draft in enumerate(drafts):
        draft.inputs = tuple(merged.get(u, u) for u in draft.inputs)
        if draft.op != "add" or draft.parameters or len(draft.inputs) != 2:
            continue
        for layer, tip in (draft.inputs, draft.inputs[::-1]):
            adapter = _adapter(drafts, tip)
            if adapter is None or drafts[adapter[0]].inputs != drafts[layer].inputs:
                continue
            for place, role in zip(adapter, ("lora_a", "lora_b"), strict=True):
                moved |= {name: (role, layer) for name, _ in drafts[place].parameters}
                drafts[layer].parameters += [(n, role) for n, _ in drafts[place].parameters]
                drafts[place].parameters = []
            merged[index] = layer
            break
    return moved, merged


def _adapter(drafts: list[Any], tip: int) -> tuple[int, int] | None:
    """Return the nodes of A and B if `tip` is B(A(x)), perhaps scaled, else None."""
    up = drafts[tip].inputs[0] if drafts[tip].op == "mul" and drafts[tip].inputs else tip
    if not _belongs(drafts[up], "lora_B") or len(drafts[up].inputs) != 1:
        return None
    down = drafts[up].inputs[0]
    return (down, up) if _belongs(drafts[down], "lora_A") else None


def _belongs(draft: Any, part: str) -> bool:
    return bool(draft.parameters) and all(part in name.split(".") for name, _ in draft.parameters)


def _normalised(drafts: list[Any], index: int) -> int | None:
    """Return x if node `index` is x * rsqrt(mean(x ** 2) [+ eps]) or by variance, else None."""
    product = drafts[index]
    if product.op not in ("mul", "div") or product.parameters or len(product.inputs) != 2:
        return None
    for data, factor in (product.inputs, product.inputs[::-1]):
        if any(_descend(drafts, factor, chain) == data for chain in _SCALES):
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
