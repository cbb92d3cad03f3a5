"""Predicted layers brought to the size of output that the model's own values give.

No rule of structure can know that a constructor starts a head at 4e-4 or shrinks weights with
depth, nor how alike the channels of a network are that the hypernetwork was never trained for. Two
forward passes show it. In the first, under the model's own values, the standard deviation of every
layer's output is noted (`ghn.engine.outputs`). In the second, `calibrate` multiplies the parameters
of a layer that is more than about six times off by a power of two, as the pass gets there (only its
bias, if that is why), and goes on with the output that the layer then has: what follows is judged
by what it will read.

Layers nearer than that keep the size that they were predicted at, which training knows better than
an untrained network does. Powers of two change no digit of a weight, and make predicting twice the
same as predicting once.

Source: Mishkin & Matas 2016 (LSUV, arXiv 1511.06422, section 3) scale layers in the order of a
forward pass; the model's own initialization as the goal, the tolerance and the powers are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, nn

from ghn.engine.outputs import (
    Outputs,
    floats_of,
    own_parameters,
    run_steadily,
    shortens_rows,
)

__all__ = ["calibrate"]

FAR = 3  # as a power of two, rounded: from 2^2.5 on
LARGEST = 100  # as a power of two: float32 holds little more


def calibrate(
    model: nn.Module,
    own: Outputs,
    names: Collection[str],
    tensors: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Bring predicted layers near the outputs of the model's own values, in place.

    A parameter is scaled at most once, by the first layer in the forward pass that has to be. A
    layer whose output does not come near by it stays as it was.

    Args:
        model: With its predictions, or with any values if they are in `tensors`.
        own: Measured under the model's own values.
        names: Parameters that may be scaled, by the first name that the model gives them.
        tensors: Predictions that are not in the model, by name; scaled in place.

    Returns:
        By parameter name, the power of two that it was scaled by, of those that were. If the
        forward pass fails, parameters are left half scaled and the exception goes to the caller.
    """
    first = {id(p): name for name, p in model.named_parameters()}
    scaling = _Scaling(set(names))
    handles = []
    for name, module in model.named_modules():
        # A module may wrap its parameters anew whenever they are listed (PEFT's attention).
        own_ids = {k: id(p) for k, p in own_parameters(module).items()}
        inner = {k: first[i] for k, i in own_ids.items() if i in first}
        if inner and not shortens_rows(module) and own.stds.get(name, [0.0])[0] > 0:
            scaling.layers[module] = (own.stds[name][0], inner)
            handles.append(module.register_forward_hook(scaling.hook, with_kwargs=True))
    try:
        run_steadily(model, own.inputs, tensors)
    finally:
        for handle in handles:
            handle.remove()
    return scaling.factors


class _Scaling:
    """A forward hook that corrects layers as they run, each the first time.

    Args:
        free: Names of the parameters that may be scaled.
    """

    def __init__(self, free: set[str]) -> None:
        self.layers: dict[nn.Module, tuple[float, dict[str, str]]] = {}
        self.factors: dict[str, float] = {}
        self._free = free
        self._correcting = False

    def hook(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        """Return the output that a layer has after its parameters were scaled, if they had to be.

        The wanted size and the parameters, their names in the layer to those in the model, come
        from `layers`.
        """
        if self._correcting or module not in self.layers:
            return output
        wanted, inner = self.layers.pop(module)
        own = own_parameters(module)
        free = {key: own[key].detach() for key, name in inner.items() if name in self._free}
        if not (free and _power(wanted, output)):  # nothing to scale, or no need
            return output
        predicted = {key: tensor.clone() for key, tensor in free.items()}
        self._correcting = True  # parts of the layer that run again are not judged again
        try:
            corrected, powers = _corrected(
                free, wanted, output, lambda: module.forward(*args, **kwargs)
            )
        finally:
            self._correcting = False
        if _power(wanted, corrected) != 0:  # not in proportion to the parameters, or gone
            for key, tensor in free.items():
                tensor.copy_(predicted[key])
            return output
        scaled = {inner[key]: 2.0**power for key, power in powers.items() if power}
        self._free -= set(scaled)
        self.factors |= scaled
        return corrected


def _corrected(
    tensors: dict[str, Tensor], wanted: float, output: Any, run: Callable[[], Any]
) -> tuple[Any, dict[str, int]]:
    """Scale a layer's parameters in place; return its output then, and powers of two by name.

    A bias may drown what the layer makes of its input. That is lost if both are scaled alike, so
    the bias is brought to the same size first.
    """
    powers = dict.fromkeys(tensors, 0)

    def scale(names: Collection[str], power: int) -> Any:
        for name in names:
            tensors[name].mul_(2.0**power)
            powers[name] += power
        return run()

    if len(tensors) > 1 and "bias" in tensors:
        bias = tensors["bias"].clone()
        tensors["bias"].zero_()
        power = _power(_std(run()), output)
        tensors["bias"].copy_(bias)
        if power and power < 0:
            output = scale(["bias"], power)
    power = _power(wanted, output)
    if power:
        output = scale(tensors, power)
    return output, powers


def _power(wanted: float, output: Any) -> int | None:
    """Return the power of two by which an output is too small; 0 if it is near enough.

    None if no power helps: all of it is one number, or it is not finite, or nothing is wanted.
    """
    std = _std(output)
    if not (0 < std < math.inf and wanted > 0):
        return None
    power = round(math.log2(wanted / std))
    return power if FAR <= abs(power) <= LARGEST else 0


def _std(output: Any) -> float:
    numbers = floats_of(output)
    return numbers.std().item() if numbers.numel() > 1 else 0.0
