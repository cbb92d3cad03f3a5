"""Where a run computes."""

from __future__ import annotations

import torch

from ghn.errors import ConfigError

__all__ = ["choose_device"]


def choose_device(name: str) -> torch.device:
    """Return the device of a name; `"auto"` is the accelerator if there is one, else the CPU.

    Args:
        name: `"auto"`, or what torch calls it: `"cpu"`, `"cuda"`, `"cuda:1"`, `"mps"`.

    Raises:
        ConfigError: If there is no such device here.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"device {name!r} cannot be used here: {str(error).splitlines()[0]}. Give 'auto', "
            "'cpu', or an accelerator that this torch was built for, such as 'cuda'"
        ) from error
    return device
