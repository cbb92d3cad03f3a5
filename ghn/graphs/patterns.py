"""Operators that models write out by hand, recognised in the graph and named.

Root-mean-square normalisation, which most language models spell as
`weight * (x * rsqrt(mean(x ** 2) + eps))` and timm's SimpleNorm by the variance, and low-rank
adapters, `layer(x) + s * B(A(x))` and its kin. What the name replaces loses its readers and is
pruned.
"""

from __future__ import annotations

from collections.abc import Iterable

from ghn.graphs.assemble import Draft

__all__ = ["adapter_role", "fold_adapters", "fold_rms_norms"]


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
# What adapters are made of: products, sums, and DoRA's norm of a weight.
_LINEAR_MAPS = frozenset(
    {"linear", "conv", "depthwise_conv", "conv_transpose", "embedding", "matmul"}
    | {"add", "mul", "div", "l2_norm"}
)


def fold_rms_norms(drafts: list[Draft]) -> dict[str, str]:
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


def fold_adapters(drafts: list[Draft]) -> tuple[dict[str, tuple[str, int]], dict[int, int]]:
    """Hang the parameters of low-rank adapters on the layers that they adapt.

    An adapter is told by the names of its parameters, which are those of LoRA, DoRA and LoHa in
    PEFT, and by what it does: it is a linear map of what a layer reads, a sum adds it to that
    layer's output, and nothing else reads any of it. Otherwise it stays a branch of its own.

    Args:
        drafts: Nodes in topological order; changed in place.

    Returns:
        Role and node of the parameters that moved, and for each sum the layer it is now part of.
    """
    moved: dict[str, tuple[str, int]] = {}
    merged: dict[int, int] = {}
    if not any(adapter_role(name) for draft in drafts for name, _ in draft.parameters):
        return moved, merged
    readers = _readers(drafts)
    for index, draft in enumerate(drafts):
        draft.inputs = tuple(merged.get(u, u) for u in draft.inputs)
        for layer in _adapted(drafts, index):
            nodes = _adapter(drafts, layer, draft.inputs)
            if not nodes or any(readers[n] - {index, *nodes} for n in (layer, *nodes)):
                continue
            held = [pair for node in nodes for pair in drafts[node].parameters]
            roles = {n: "bias" if r == "bias" else adapter_role(n) for n, r in held}
            drafts[layer].parameters += [(n, r) for n, r in roles.items() if adapter_role(n)]
            for name, _ in drafts[layer].parameters:
                if name in roles and adapter_role(name):
                    moved.setdefault(name, (roles[name], layer))
            for node in nodes:
                drafts[node].parameters = []
            merged[index], readers[layer] = layer, readers[index]
            break
    return moved, merged


def adapter_role(name: str) -> str:
    """Return the role of an adapter's parameter by its name; empty if it is none."""
    return next((_ADAPTERS[part] for part in name.split(".") if part in _ADAPTERS), "")


def _readers(drafts: list[Draft]) -> list[set[int]]:
    """Return what reads each node, of that which leads to the output or holds parameters."""
    readers: list[set[int]] = [set() for _ in drafts]
    for index in range(len(drafts) - 1, -1, -1):
        if readers[index] or drafts[index].parameters or index == len(drafts) - 1:
            for source in drafts[index].inputs:
                readers[source].add(index)
    return readers


def _adapted(drafts: list[Draft], index: int) -> list[int]:
    """Return the layers that a sum may adapt: what it adds up, or scales and adds up (DoRA)."""
    draft = drafts[index]
    if draft.op != "add" or draft.parameters or len(draft.inputs) != 2:
        return []
    scaled = [u for tip in draft.inputs if drafts[tip].op == "mul" for u in drafts[tip].inputs]
    found = dict.fromkeys((*draft.inputs, *scaled))
    return [u for u in found if any(not adapter_role(name) for name, _ in drafts[u].parameters)]


def _adapter(drafts: list[Draft], layer: int, tips: tuple[int, ...]) -> list[int]:
    """Return the nodes between what a layer reads and `tips`; none if they are no adapter.

    They hold parameters of an adapter, and of others only such as the layer has too. No shortcut
    leads past these, and what comes first in the adapter does not read the layer's output.
    """
    own, reads = {name for name, _ in drafts[layer].parameters}, set(drafts[layer].inputs)
    found = _between({layer, *reads}, drafts, tips)
    held = {node: {adapter_role(n) for n, _ in drafts[node].parameters} for node in found}
    strangers = {n for node in found for n, _ in drafts[node].parameters if n not in own}
    downs = [node for node, roles in held.items() if "lora_a" in roles]
    holders = {node for node, roles in held.items() if roles - {""}}
    is_adapter = (
        {"lora_a", "lora_b"} <= set().union(*held.values())
        and all(map(adapter_role, strangers))
        and len(found) <= _LARGEST_ADAPTER
        and all(drafts[node].op in _LINEAR_MAPS for node in found)
        and not any(layer in drafts[u].inputs for u in _between({layer, *reads}, drafts, downs))
        and not reads & _between({layer, *holders}, drafts, tips)
    )
    return sorted(found) if is_adapter else []


def _between(ends: set[int], drafts: list[Draft], tips: Iterable[int]) -> set[int]:
    """Return the nodes that lead to `tips`, without `ends` and what leads to these alone."""
    waiting, found = list(tips), set[int]()
    while waiting and len(found) <= _LARGEST_ADAPTER:
        node = waiting.pop()
        if node not in ends and node not in found:
            found.add(node)
            waiting += drafts[node].inputs
    return found


def _normalised(drafts: list[Draft], index: int) -> int | None:
    """Return x if node `index` is x * rsqrt(mean(x ** 2) [+ eps]) or by variance, else None."""
    product = drafts[index]
    if product.op not in ("mul", "div") or product.parameters or len(product.inputs) != 2:
        return None
    for data, factor in (product.inputs, product.inputs[::-1]):
        if any(_descend(drafts, factor, chain) == data for chain in _SCALES):
            return data
    return None


def _descend(drafts: list[Draft], index: int, ops: tuple[str, ...]) -> int | None:
    """Follow single inputs through nodes of the given operators; return what the last one reads."""
    for op in ops:
        draft = drafts[index]
        if draft.op != op or draft.parameters or len(set(draft.inputs)) != 1:
            return None
        index = draft.inputs[0]
    return index
