"""Which argument of an operator is what, and what the axes of a parameter mean there.

A slot is the place of an argument in an operator: data, or a weight of some role. Axis letters are
given to the tensor that the operator consumes; `ghn.graphs.letters` carries them back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ghn.graphs.letters import activation_axes
from ghn.graphs.record import Call
from ghn.graphs.values import tensors_in

__all__ = ["DATA", "Slot", "attributes_of", "conv_op", "fan_in", "slots_of"]


class Slot(NamedTuple):
    """The place of one tensor argument.

    Attributes:
        role: See `ghn.graphs.ops.ROLES`; `"data"` for what is no weight.
        axes: Letters of the consumed tensor.
        gates: Number of gates that a recurrent layer stacks along the output channels.
    """

    role: str
    axes: str = ""
    gates: int = 1


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
    "_sparse_mm": (0, 1, None),
    "mv": (0, 1, None),
    "dot": (0, 1, None),
    "vdot": (0, 1, None),
    "addmm": (1, 2, 0),
    "baddbmm": (1, 2, 0),
    "addbmm": (1, 2, 0),
    "addmv": (1, 2, 0),
    "_sparse_addmm": (1, 2, 0),
}
_CELL = ("weight", "recurrent_weight", "bias", "recurrent_bias")
_GATES = {"lstm": 4, "lstm_cell": 4, "gru": 3, "gru_cell": 3}


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
        return [_cell_slot(call, _CELL[p - 2], t) if p >= 2 else DATA for p, t in places]
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


def _cell_slot(call: Call, role: str, tensor: Tensor) -> Slot:
    return _weight_slot(role, tensor)._replace(gates=_GATES.get(call.name, 1))


def _recurrent_slots(call: Call, places: list[tuple[Any, Tensor]]) -> list[Slot]:
    """Weights come as one list: for each layer and direction w_ih, w_hh, b_ih, b_hh, w_hr.

    The biases can be left out; w_hr is there if an LSTM projects what it emits.
    """
    at = _weights_at(call)
    weights, biased, layers = call.args[at : at + 3]
    per_cell = len(weights) // (layers * (2 if call.args[at + 5] else 1))
    roles = _CELL if biased else _CELL[:2]
    slots, seen = [], 0
    for place, tensor in places:
        if place == at:
            index, seen = seen % per_cell, seen + 1
            is_projection = index == len(roles)
            slots.append(
                _weight_slot("weight", tensor)
                if is_projection
                else _cell_slot(call, roles[index], tensor)
            )
        else:
            slots.append(DATA)
    return slots


def _weights_at(call: Call) -> int:
    """Return the position of the list of weights, which sequences of many lengths move by one."""
    return 3 if isinstance(call.args[3], (tuple, list)) else 2


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
    at = _weights_at(call)
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


def fan_in(axes: str, shape: Sequence[int], call: Call) -> int:
    """Number of products summed into one output element of the call."""
    count = math.prod(s for s, a in zip(shape, axes, strict=True) if a in "ik")
    if call.name in ("convolution", "_convolution") and call.args[6]:
        # The input axis of a transposed kernel counts the channels of all groups.
        count = max(count // (math.prod(call.args[3]) * call.args[8]), 1)
    return max(count, 1)
