"""The file of a family: tensors, and a header of JSON types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ghn.errors import CheckpointError, ConfigError
from ghn.io import read_tensors, write_tensors
from ghn.methods.neumeta.config import FamilyConfig

__all__ = ["read_family", "write_family"]

FORMAT = 2
HEADER = {"config": dict, "generated": list, "sizes": dict, "notes": dict}


def write_family(
    path: str | Path, tensors: Mapping[str, Tensor], kind: str, header: Mapping[str, Any]
) -> None:
    """Write tensors, and a header with all of `HEADER`; all of it or nothing."""
    write_tensors(path, tensors, kind, {"format": FORMAT, **header})


def read_family(
    path: str | Path, kind: str
) -> tuple[dict[str, Tensor], FamilyConfig, dict[str, Any]]:
    """Return the tensors, settings and header of a file of a kind.

    Raises:
        CheckpointError: If the file is missing, foreign, of another format, not as it was written,
            or holds numbers that are not finite.
    """
    tensors, header = read_tensors(path, kind)
    found = header.get("format")
    if found != FORMAT:
        raise CheckpointError(
            f"{path} holds a {kind} in format {found!r}, and this version reads format {FORMAT}; "
            f"make the {kind} again"
        )
    wrong = [key for key, wanted in HEADER.items() if not isinstance(header.get(key), wanted)]
    if wrong:
        raise CheckpointError(
            f"{path} is damaged: its header lacks {', '.join(wrong)}; make the {kind} again"
        )
    # What is kept may hold infinities, as masks do; what is trained, or measured with, may not.
    trained = {n: t for n, t in tensors.items() if not n.startswith("model/")}
    broken = [name for name, t in trained.items() if not t.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path} holds numbers that are not finite, in {broken[:3]}")
    try:
        return tensors, FamilyConfig.from_dict(header["config"]), header
    except ConfigError as error:
        raise CheckpointError(f"{path} has settings of another version: {error}") from error
