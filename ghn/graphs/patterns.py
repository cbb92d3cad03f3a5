"""Operators that models write out by hand, recognised in the graph and named.

Root-mean-square normalisation, which most language models spell as
`weight * (x * rsqrt(mean(x ** 2) + eps))` and timm's SimpleNorm by the variance, and low-rank
adapters, `layer(x) + s * B(A(x))` and its kin. What the name replaces loses its readers and is
pruned.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["fold_adapters", "fold_rms_norms"]


# What signals are divided by, from the last operator to the first.
_SCALES = (("pow", "add", "mean", "pow"), ("pow", "mean", "pow"), ("pow", "add", "variance"))

# Parameters of adapters by a part of their names: of `lora_b @ lora_a`, and what scales its rows.
_ADAPTERS = {
    "lora_A": "lora_a",
    "lora_B": "lora_b",
    "lora_embedding_A": "lora_a",
    "lora_embedding_B": "lora_b",
    "lora_magnitude_vector": "magnitude",
    "hada_w1_a": "lora_b",
    "hada_w1_b": "lora_a",
    "hada_w2_a": "lora_b",
    "hada_w2_b": "lora_a",
}
_LARGEST_ADAPTER = 32  # nodes; DoRA has 14


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

    An adapter is told by the names of its parameters, which are those of LoRA, DoRA and LoHa in
    PEFT, and by where it stands: it reads what a layer reads, or the layer's output, and a sum adds
    it to that output.

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
            nodes = _adapter(drafts, layer, tip)
            if not nodes:
                continue
            names = dict.fromkeys(name for node in nodes for name, _ in drafts[node].parameters)
            roles = [(name, role) for name in names if (role := _adapter_role(name))]
            drafts[layer].parameters += roles
            moved |= {name: (role, layer) for name, role in roles}
            for node in nodes:
                drafts[node].parameters = []
            merged[index] = layer
            break
    return moved, merged


def _adapter(drafts: list[Any], layer: int, tip: int) -> list[int]:
    """Return the nodes from a layer's inputs or output to `tip`; none if they are no adapter.

    They hold parameters of an adapter, and of others only such as the layer has too.
    """
    own = {name for name, _ in drafts[layer].parameters}
    ends = {layer, *drafts[layer].inputs}
    waiting, found, roles = [tip], set[int](), set[str]()
    while waiting:
        node = waiting.pop()
        if node in found or node in ends:
            continue
        found.add(node)
        strangers = [name for name, _ in drafts[node].parameters if name not in own]
        roles |= {_adapter_role(name) for name in strangers}
        if "" in roles or len(found) > _LARGEST_ADAPTER or drafts[node].op == "input":
            return []
        waiting += drafts[node].inputs
    return sorted(found) if own and {"lora_a", "lora_b"} <= roles else []


def _adapter_role(name: str) -> str:
    return next((_ADAPTERS[part] for part in name.split(".") if part in _ADAPTERS), "")


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
