"""The one rule that chooses what expands recipes: by device and availability, never silently.

On an NVIDIA GPU that Triton can compile for, the Triton kernels run; everywhere else PyTorch does.
The environment variable `GHN_KERNELS` overrules that: `auto` (the default), `triton` or `torch`.
`explain` says what runs and why; `ghn env` prints it.

A further backend is a module with the three functions of `Backend`, and a line in `choose`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ghn.errors import ConfigError
from ghn.kernels.plan import Item

__all__ = ["Backend", "backend_for", "choose", "explain"]

VARIABLE = "GHN_KERNELS"
CHOICES = ("auto", "triton", "torch")
OLDEST = (8, 0)  # compute capability: below it, bfloat16 and TF32 are missing


class Backend(Protocol):
    """What expands many recipes at once. All tensors of a call are on one device, none is empty.

    `tensors` are the factors and blocks of all items in their order, with any number of batch axes
    and any strides; `precision` is how float32 factors are multiplied on a GPU.
    """

    def expand(
        self,
        items: Sequence[Item],
        tensors: Sequence[Tensor],
        dtype: torch.dtype | None,
        precision: str,
    ) -> list[Tensor]:
        """Return new contiguous tensors, of `dtype` or the type of each item's factors."""
        ...

    def expand_out(
        self,
        items: Sequence[Item],
        tensors: Sequence[Tensor],
        outs: Sequence[Tensor],
        bases: Sequence[Tensor],
        scales: Sequence[float],
        update: str,
        precision: str,
    ) -> None:
        """Write scale W, base + scale W or base (1 + scale W) into `outs`, of any strides."""
        ...

    def backward(
        self,
        items: Sequence[Item],
        tensors: Sequence[Tensor],
        grads: Sequence[Tensor],
        precision: str,
    ) -> list[Tensor]:
        """Return contiguous gradients like `tensors` from those of the expanded tensors."""
        ...


def backend_for(tensors: Sequence[Tensor]) -> Backend:
    """Return the backend for tensors on one device; warn once where a GPU runs without kernels."""
    device = tensors[0].device
    name, reason, slow = choose(device.type, device.index, os.environ.get(VARIABLE, "auto"))
    if slow:
        _warn(f"expanding recipes on {device} without fused kernels: {reason}")
    return _load(name)


def explain(device: torch.device | str | None = None) -> str:
    """Say which backend runs on a device, and why.

    Args:
        device: By default a GPU if there is one, else the CPU.

    Example:
        >>> explain("cpu")                            # doctest: +SKIP
        'torch on cpu: Triton compiles for GPUs only'
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    setting = os.environ.get(VARIABLE, "auto")
    name, reason, _ = choose(device.type, device.index, setting)
    return f"{name} on {device}: {reason}"


@functools.lru_cache
def choose(kind: str, index: int | None, setting: str) -> tuple[str, str, bool]:
    """Apply the rule.

    Args:
        kind: Type of the device, such as `"cuda"`.
        index: Which of them.
        setting: Value of `GHN_KERNELS`.

    Returns:
        The backend's name, why it was chosen, and whether a faster one should have run.

    Raises:
        ConfigError: If the setting is unknown, or asks for what cannot run.
    """
    if setting not in CHOICES:
        raise ConfigError(f"{VARIABLE} must be one of {', '.join(CHOICES)}, got {setting!r}")
    if setting == "torch":
        return "torch", f"{VARIABLE}=torch", False
    obstacle = _obstacle(kind, index)
    if setting == "triton" and obstacle:
        raise ConfigError(
            f"{VARIABLE}=triton, but Triton cannot run on {kind}: {obstacle}; unset the variable"
        )
    if setting == "triton":
        return "triton", f"{VARIABLE}=triton", False
    if kind != "cuda":
        return "torch", "Triton compiles for GPUs only", False
    if obstacle:
        return "torch", obstacle, True
    return "triton", f"Triton {importlib.import_module('triton').__version__}", False


def _obstacle(kind: str, index: int | None) -> str:
    """Say what keeps Triton from running on a device; empty if nothing does."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "" if kind == "cpu" else "TRITON_INTERPRET=1 is set"
    if kind != "cuda":
        return "it compiles for GPUs only"
    capability = torch.cuda.get_device_capability(index)
    if torch.version.hip is None and capability < OLDEST:
        return f"compute capability {capability} is below {OLDEST}"
    try:
        importlib.import_module("triton").runtime.driver.active.get_current_target()
    except Exception as error:  # a driver that Triton cannot use raises whatever it likes
        return f"Triton cannot use the driver: {error}"
    return ""


@functools.lru_cache
def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


@functools.lru_cache
def _load(name: str) -> Backend:
    """Import a backend; Triton only now."""
    module = "ghn.kernels.triton_backend" if name == "triton" else "ghn.kernels.reference"
    loaded: Backend = importlib.import_module(module)
    return loaded
