"""Where to compute, and in which precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import nn

from ghn.errors import ConfigError

__all__ = ["check_precision", "choose_device", "cuda_devices", "ordinary_tensors", "run_in"]

Outputs = TypeVar("Outputs")


def choose_device(name: str | int | torch.device = "auto") -> torch.device:
    """Return the device that a name stands for, after it has held a number.

    Args:
        name: `"auto"` for a CUDA or ROCm GPU if there is one and else the CPU, or what
            `torch.device` takes, such as `"cpu"`, `"cuda:1"` or `"mps"`.

    Raises:
        ConfigError: If there is no such device, or it holds no values, as torch's meta device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    # What a backend raises when it is not there is its own: RuntimeError, AssertionError, ...
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device must be 'auto' or a device of this machine, got {name!r} ({reason}); there "
            f"are {torch.cuda.device_count()} CUDA devices, and 'cpu'"
        ) from error
    return device


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Make tensors as torch does by default, whatever the caller has set; also a decorator.

    That is on the CPU, in float32, no inference tensors, and computed without autocast. Whether
    gradients are recorded stays.
    """
    before, records = torch.get_default_dtype(), torch.is_grad_enabled()
    types = {"cpu", "cuda"} if torch.cuda.is_available() else {"cpu"}
    with ExitStack() as stack:
        stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))  # which records gradients
        stack.enter_context(torch.set_grad_enabled(records))
        for kind in types:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.callback(torch.set_default_dtype, before)
        torch.set_default_dtype(torch.float32)
        yield


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """Return the CUDA devices that a model's parameters are on, each once."""
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})


def check_precision(name: str) -> None:
    """Raise a ConfigError for a mixed precision that `run_in` does not know."""
    if name not in ("no", "bf16"):
        raise ConfigError(f"mixed_precision must be 'no' or 'bf16', got {name!r}")


def run_in(precision: str, device: torch.device, call: Callable[[], Outputs]) -> Outputs:
    """Run a network in mixed precision, and return its outputs in float32.

    Args:
        precision: `"bf16"`, or `"no"`: as it is.
        device: Where it runs.
        call: Runs it.
    """
    if precision == "no":
        return call()
    from accelerate.utils import convert_to_fp32

    with torch.autocast(device.type, torch.bfloat16):
        outputs = call()
    full: Outputs = convert_to_fp32(outputs)
    return full
