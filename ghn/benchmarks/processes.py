"""Work on many models, each in a process of its own, with a limit on time and on memory.

Processes are forked from a server that has the libraries loaded, so that each costs little.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from ghn.errors import ConfigError

__all__ = ["Failure", "Limits", "run_each"]

PRELOADED = [
    "__main__",
    "torch._dynamo",
    "torchvision",
    "timm",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "ghn.benchmarks.soundness",
    "ghn.graphs",
    "ghn.zoo.library",
]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one model may take.

    Attributes:
        seconds: Time for all that is done with it.
        gigabytes: Memory, in GiB.

    Raises:
        ConfigError: If one is negative or not finite.
    """

    seconds: float = 60.0
    gigabytes: float = 6.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"{name} must be a number of at least 0, got {value}")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A process that gave no result.

    Attributes:
        seconds: How long it ran.
        group: Kind of failure.
        text: What happened.
    """

    seconds: float
    group: str
    text: str


@dataclasses.dataclass
class _Running:
    name: str
    process: Any
    start: float


def run_each(
    work: Callable[[str], Any], names: Iterable[str], jobs: int, limits: Limits
) -> Iterator[tuple[str, Any]]:
    """Yield each name with what `work` returned for it, or with a `Failure`, as they come.

    Args:
        work: Called with one name in a process of its own, with one thread; can be pickled.
        names: Names of models.
        jobs: Number of processes at a time.
        limits: What each may take.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    waiting = list(reversed(list(names)))
    running: dict[Connection, _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                arguments = (work, name, limits.gigabytes, sender)
                process = context.Process(target=_work, args=arguments)
                process.start()
                sender.close()
                running[receiver] = _Running(name, process, time.perf_counter())
            ready = multiprocessing.connection.wait(list(running), timeout=0.2)
            for receiver in list(running):
                job = running[receiver]
                late = time.perf_counter() - job.start > limits.seconds
                if receiver in ready or late:
                    del running[receiver]
                    yield job.name, _collect(job, None if late else receiver, limits)
    finally:
        for job in running.values():
            job.process.kill()


def _work(work: Callable[[str], Any], name: str, gigabytes: float, sender: Connection) -> None:
    import resource

    import torch

    os.dup2(2, 1)  # what libraries print must not mix with the command's own output
    torch.set_num_threads(1)
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    sender.send(work(name))


def _collect(job: _Running, receiver: Connection | None, limits: Limits) -> Any:
    seconds = time.perf_counter() - job.start
    result: Any
    try:
        if receiver is None:
            result = Failure(seconds, "too slow", f"took more than {limits.seconds:g} s")
        else:
            result = receiver.recv()
    except EOFError:
        job.process.join(5)
        text = f"the process ended with status {job.process.exitcode}"
        result = Failure(seconds, "crashed or too large", text)
    job.process.kill()
    job.process.join()
    return result
