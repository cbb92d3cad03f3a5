"""One file for a learner: tensors in safetensors, and everything else in its header as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ghn.errors import CheckpointError
from ghn.io import atomic_path

__all__ = ["read_learner", "write_learner"]

METADATA = "ghn-continual"


def write_learner(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and a header of JSON types, all of it or nothing."""
    from safetensors.torch import save

    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    data = save(plain, metadata={METADATA: json.dumps(header)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_learner(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_learner` wrote.

    Raises:
        CheckpointError: If the file is missing, cut off or foreign.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads((file.metadata() or {})[METADATA])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"cannot read a learner from {path}: {error!r}; it may be missing, cut off or foreign"
        ) from error
    return tensors, header
