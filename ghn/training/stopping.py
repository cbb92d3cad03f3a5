"""Ctrl-C and a request to end, heard between two steps instead of within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["leave_stops_to_the_run", "stop_signals"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def leave_stops_to_the_run(worker: int) -> None:
    """Ignore them in a process that prepares batches, as they reach a whole group of processes.

    Args:
        worker: Its number; `torch.utils.data.DataLoader` gives it to `worker_init_fn`.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Gather SIGINT and SIGTERM in the list that is given; they take effect at the end.

    A second one takes effect at once. Signals that the process ignores stay ignored, and as they
    reach the main thread alone, the list stays empty elsewhere.
    """
    stops: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    before = {
        n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        restore()
        stops.append(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield stops
    finally:
        restore()
    for stop in stops:
        signal.raise_signal(stop)
