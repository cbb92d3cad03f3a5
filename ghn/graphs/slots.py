"""Which argument of an operator is what, and what the axes of a parameter mean there.

A slot is the place of an argument in an operator: data, or a weight of some role. Axis letters are
given to the tensor that the operator consumes and carried back to the stored parameter by comparing
strides, which is exact for any chain of views.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

from ghn.graphs.record import Call
from ghn.graphs.values import tensors_in

__all__ = ["DATA", "Slot", "activation_axes", "attributes_of", "slots_of", "stored_axes"]


class Slot(NamedTuple):
    """The place of one tensor argument. `axes` are letters of the consumed tensor."""

    role: str
    axes: str = ""


DATA = Slot("data")

_NORM = {"gain": "o", "bias": "o"}
# Positions (or keyword names) of weights; letters are completed by the tensor's dimensions.
_POSITIONS: dict[str, dict[int | str, str]] = {
    "linear": {1: "weight", "weight": "weight", 2: "bias", "bias": "bias"},
    "convolution": {1: "weight", 2: "bias"},
    "_convolution": {1: "weight", 2: "bias"},
    "embedding": {0: "table"},
    "_embedding_bag": {0: "table"},
    "_embedding_bag_forward_only": {0: "table"},
    "native_batch_norm": {1: "gain", 2: "bias"},
    "cudnn_batch_norm": {1: "gain", 2: "bias"},
    "_native_batch_norm_legit": {1: "gain", 2: "bias"},
    "_native_batch_norm_legit_no_training": {1: "gain", 2: "bias"},
    "_batch_norm_with_update": {1: "gain", 2: "bias"},
    "_batch_norm_no_update": {1: "gain", 2: "bias"},
    "native_layer_norm": {2: "gain", 3: "bias"},
    "native_group_norm": {1: "gain", 2: "bias"},
    "rms_norm": {2: "gain", "weight": "gain"},
    "_fused_rms_norm": {2: "gain"},
    "prelu": {1: "slope"},
    "_prelu_kernel": {1: "slope"},
    "scaled_dot_product_attention": {3: "position", "attn_mask": "position"},
    "bilinear": {2: "weight", 3: "bias"},
    "_trilinear": {1: "weight"},
}
# Products: positions of the two factors, and of what is added.
_PRODUCTS: dict[str, tuple[int, int, int | None]] = {
    "mm": (0, 1, None),
    "bmm": (0, 1, None),
    "matmul": (0, 1, None),
    "_grouped_mm": (0, 1, None),
    "mv": (0, 1, None),
    "dot": (0, 1, None),
    "vdot": (0, 1, None),
    "addmm": (1, 2, 0),
    "baddbmm": (1, 2, 0),
    "addbmm": (1, 2, 0),
    "addmv": (1, 2, 0),
}
_CELL = ("weight", "recurrent_weight", "bias", "recurrent_bias")


def slots_of(call: Call, is_data: list[bool], has_parameter: list[bool]) -> list[Slot]:
    """Return the slot of each tensor argument of a call.

    Args:
        call: A recorded call.
        is_data: For each tensor argument, whether it depends on the model's input.
        has_parameter: For each tensor argument, whether a parameter is in it.
    """
    places = _places(call)
    if call.name in _PRODUCTS:
        return _product_slots(call, places, is_data, has_parameter)
    if call.name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return _recurrent_slots(call, places)
    if call.name == "addcmul":
        return [_factor_slot(p, t, d) for (p, t), d in zip(places, is_data, strict=True)]
    if call.name.endswith("_cell"):
        return [_weight_slot(_CELL[p - 2], t) if p >= 2 else DATA for p, t in places]
    table = _POSITIONS.get(call.name, {})
    slots = []
    for place, tensor in places:
        role = table.get(place)
        if role is None:
            slots.append(DATA)
        elif call.name in ("convolution", "_convolution") and role == "weight":
            letters = "io" if call.args[6] else "oi"
            slots.append(Slot(role, letters + "k" * (tensor.ndim - 2)))
        elif role == "position":
            slots.append(Slot(role, ("o" + "t" * 8)[: tensor.ndim]))
        else:
            slots.append(_weight_slot(role, tensor))
    return slots


def _places(call: Call) -> list[tuple[Any, Tensor]]:
    """Return (position or keyword, tensor) for each tensor argument, in recorded order."""
    places: list[tuple[Any, Tensor]] = []
    for position, value in enumerate(call.args):
        places.extend((position, t) for t in tensors_in((value,)))
    for key, value in call.kwargs.items():
        places.extend((key, t) for t in tensors_in((value,)))
    return places


def _weight_slot(role: str, tensor: Tensor) -> Slot:
    if role in ("weight", "recurrent_weight"):
        return Slot(role, "o" + "i" * (tensor.ndim - 1))
    if role == "table":
        return Slot(role, "v" + "o" * (tensor.ndim - 1))
    return Slot(role, "o" * tensor.ndim)


def _factor_slot(place: Any, tensor: Tensor, is_data: bool) -> Slot:
    """Of `addcmul(a, b, c)` = a + b c, parameters are a shift (a) and a factor (b or c)."""
    axes = activation_axes(tensor, 0)
    return DATA if is_data else Slot("bias" if place == 0 else "scale", axes)


def _product_slots(
    call: Call, places: list[tuple[Any, Tensor]], is_data: list[bool], has_parameter: list[bool]
) -> list[Slot]:
    """The factor that holds a parameter and no data is the weight; of two, the second."""
    first, second, added = _PRODUCTS[call.name]
    free = {
        p: has and not data
        for (p, _), data, has in zip(places, is_data, has_parameter, strict=True)
    }
    slots = []
    for place, tensor in places:
        lead = "e" * max(tensor.ndim - 2, 0)
        if place == second and free.get(second):
            slots.append(Slot("weight", lead + ("io" if tensor.ndim > 1 else "i")))
        elif place == first and free.get(first) and not free.get(second):
            slots.append(Slot("weight", lead + ("oi" if tensor.ndim > 1 else "i")))
        elif place == added and free.get(added):
            slots.append(_added_slot(tensor))
        else:
            slots.append(DATA)
    return slots


def _added_slot(tensor: Tensor) -> Slot:
    wide = [s for s, stride in zip(tensor.shape, tensor.stride(), strict=True) if s > 1 and stride]
    if len(wide) <= 1:
        return Slot("bias", "1" * (tensor.ndim - 1) + "o")
    return Slot("position", ("o" + "t" * 8)[: tensor.ndim])


def _recurrent_slots(call: Call, places: list[tuple[Any, Tensor]]) -> list[Slot]:
    """Weights come as one list: for each layer and direction w_ih, w_hh, b_ih, b_hh."""
    packed = isinstance(call.args[3], (tuple, list))
    at = 3 if packed else 2
    biased = bool(call.args[at + 1])
    count = len(call.args[at])
    per_cell = 4 if biased else 2
    roles = _CELL[:per_cell]
    if count % per_cell or (biased and call.args[at][2].ndim == 2):  # LSTM with projections
        per_cell += 1
        roles = (*roles, "weight")
    slots, seen = [], 0
    for place, tensor in places:
        if place == at:
            slots.append(_weight_slot(roles[seen % per_cell], tensor))
            seen += 1
        else:
            slots.append(DATA)
    return slots


def activation_axes(tensor: Tensor, channels: int) -> str:
    """Letters for a parameter that meets an activation: channels, and positions for the rest."""
    wide = [
        d
        for d, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))
        if size > 1 and stride
    ]
    letters = ["1"] * tensor.ndim
    if not wide:
        return "".join(letters)
    matching = [d for d in wide if tensor.shape[d] == channels]
    channel = matching[-1] if matching else wide[-1]
    for d in wide:
        letters[d] = "o" if d == channel else "t"
    return "".join(letters)


def stored_axes(parameter: Tensor, consumed: Tensor, letters: str, same_storage: bool) -> str:
    """Carry the letters of a consumed tensor back to the axes of the stored parameter.

    Args:
        parameter: The parameter as stored.
        consumed: The tensor that an operator received, made from the parameter.
        letters: One letter for each axis of `consumed`.
        same_storage: Whether `consumed` is a view of `parameter`.
    """
    if consumed.shape == parameter.shape and (
        not same_storage or consumed.stride() == parameter.stride()
    ):
        return letters
    if same_storage:
        return "".join(
            _letter_by_stride(size, stride, consumed, letters)
            for size, stride in zip(parameter.shape, parameter.stride(), strict=True)
        )
    return _letters_by_size(parameter, consumed, letters)


def _letter_by_stride(size: int, stride: int, view: Tensor, letters: str) -> str:
    if size == 1:
        return "1"
    for letter, s, n in zip(letters, view.stride(), view.shape, strict=True):
        covers = s <= stride < s * n
        inside = stride <= s < stride * size
        if n > 1 and s > 0 and (covers or inside) and letter != "1":
            return letter
    return "o"


def _letters_by_size(parameter: Tensor, consumed: Tensor, letters: str) -> str:
    """Match axes by size where a copy or arithmetic lies between; unmatched ones are channels."""
    left = [(n, a) for n, a in zip(consumed.shape, letters, strict=True) if n > 1]
    result = []
    for size in parameter.shape:
        if size == 1:
            result.append("1")
            continue
        match = next((pair for pair in left if pair[0] == size), None)
        if match is not None:
            left.remove(match)
        result.append(match[1] if match and match[1] != "1" else "o")
    return "".join(result)


def attributes_of(call: Call, op: str) -> dict[str, Any]:
    """Return what distinguishes operators of one kind: kernel, stride, groups, heads, ..."""
    if call.name in ("convolution", "_convolution"):
        weight = call.args[1]
        return {
            "kernel": tuple(weight.shape[2:]),
            "stride": tuple(call.args[3]),
            "dilation": tuple(call.args[5]),
            "groups": int(call.args[8]),
        }
    if call.name == "native_group_norm":
        return {"groups": int(call.args[6])}
    if op == "attention" and call.sources[0][0].ndim == 4:
        return {"heads": int(call.sources[0][0].shape[1])}
    if op == "recurrent":
        return _recurrent_attributes(call)
    if "_pool" in call.name and len(call.args) > 1 and not call.name.startswith(("adaptive", "_a")):
        kernel = tuple(call.args[1])
        stride = tuple(call.args[2]) if len(call.args) > 2 and call.args[2] else kernel
        return {"kernel": kernel, "stride": stride}
    return {}


def _recurrent_attributes(call: Call) -> dict[str, Any]:
    kind = call.name.removesuffix("_cell")
    if call.name.endswith("_cell"):
        return {"kind": kind}
    at = 3 if isinstance(call.args[3], (tuple, list)) else 2
    return {
        "kind": kind,
        "layers": int(call.args[at + 2]),
        "bidirectional": bool(call.args[at + 5]),
    }


def conv_op(call: Call) -> str:
    """Tell dense, depthwise and transposed convolutions apart."""
    if call.args[6]:
        return "conv_transpose"
    weight, groups = call.args[1], int(call.args[8])
    return "depthwise_conv" if groups > 1 and weight.shape[1] == 1 else "conv"


def fan_in(axes: str, shape: tuple[int, ...], call: Call) -> int:
    """Number of products summed into one output element of the call."""
    count = math.prod(s for s, a in zip(shape, axes, strict=True) if a in "ik")
    if call.name in ("convolution", "_convolution") and call.args[6]:
        count = max(count // math.prod(call.args[3]), 1)
    return max(count, 1)
