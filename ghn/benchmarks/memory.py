"""How much memory a piece of work holds at most."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["MIB", "peak_memory"]

EVERY = 0.005  # seconds between two looks
MIB = 2**20


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Watch this process; the list's one entry is then the most it held above the start, in MiB."""
    found = [float("nan")]
    start = _resident()
    if start is None:
        yield found
        return
    highest, done = start, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(EVERY):
            highest = max(highest, _resident() or 0)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found[0] = (max(highest, _resident() or 0) - start) / MIB


def _resident() -> int | None:
    """Return the bytes of memory that this process holds, where Linux tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
