"""What a measurement must say of itself: command, seeds, machine, versions, data.

A number without these cannot be checked, so that every result this package writes carries a
`Record`.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["Record", "machine", "make_record", "versions"]

LIBRARIES = ("torch", "torchvision", "timm", "transformers", "torch-geometric", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Where a result comes from.

    Attributes:
        command: The command line that makes the result again.
        seeds: All seeds that went into it.
        machine: Processor, cores, threads, system, accelerator.
        versions: Versions of Python, of ghn, and of the libraries it measures.
        data: Name and digest of the data; empty if none was read.
        date: Day of the run, UTC, as `YYYY-MM-DD`.
    """

    command: str
    seeds: tuple[int, ...]
    machine: dict[str, Any]
    versions: dict[str, str]
    data: dict[str, str] = dataclasses.field(default_factory=dict)
    date: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        return {**dataclasses.asdict(self), "seeds": list(self.seeds)}


def make_record(
    command: str, seeds: tuple[int, ...] = (), data: dict[str, str] | None = None
) -> Record:
    """Return a record of this machine, now.

    Args:
        command: The command line that makes the result again.
        seeds: All seeds that went into it.
        data: Name and digest of the data that was read.
    """
    return Record(
        command=command,
        seeds=seeds,
        machine=machine(),
        versions=versions(),
        data=data or {},
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def versions() -> dict[str, str]:
    """Return the versions of Python, ghn and the libraries whose behaviour a result depends on."""
    import ghn

    found = {"python": platform.python_version(), "ghn": ghn.__version__}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Return what the speed and the last bits of a result depend on."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "accelerators": [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ],
    }


def _processor() -> str:
    """Return the processor's model name; Linux keeps it in a file, others in `platform`."""
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"
