"""Independent pieces of work, here, in processes, or on a Ray cluster."""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from ghn.benchmarks.timing import threads_of_torch
from ghn.errors import ConfigError, GHNError

__all__ = ["RunAll", "workers"]

DIED = "its process has died: out of memory, killed, or a crash outside of Python"

W = TypeVar("W")
R = TypeVar("R")

Lost = Callable[[str], Any]
"""Returns the result of a piece whose process has died, from what is known of that."""


def _not_lost(reason: str) -> Any:
    raise GHNError(reason)


@runtime_checkable
class RunAll(Protocol):
    """Does work on pieces, and yields each piece with its result, as they come.

    Where a process dies, the others go on; by default its piece is then an error.
    """

    def __call__(
        self, work: Callable[[Any], Any], pieces: Sequence[Any], lost: Lost = _not_lost
    ) -> Iterator[tuple[Any, Any]]:
        """Yield pieces with results.

        Args:
            work: What is done.
            pieces: To what.
            lost: Makes the result of a piece whose process has died.
        """
        ...


@contextmanager
def workers(jobs: int, ray: bool = False) -> Iterator[RunAll]:
    """Give a function that does work in processes, which live on between its calls.

    The work, and its pieces, can be pickled, unless `jobs` is 1.

    Args:
        jobs: Number of processes, each with one thread; 1 stays in this one.
        ray: Whether a Ray cluster runs them: the one of `RAY_ADDRESS`, else a local one of `jobs`
            processes.

    Raises:
        ConfigError: If Ray is asked for and not installed.
    """
    if ray:
        with _ray_cluster(jobs) as run:
            yield run
        return
    if jobs == 1:
        yield _here
        return
    pool = _Pool(jobs)
    try:
        yield pool.run
    except BaseException:  # an error or Ctrl-C: what has not begun never shall
        pool.close(wait=False)
        raise
    pool.close(wait=True)


class _Pool:
    """Processes that live on between calls, and are started anew if one of them dies.

    Args:
        jobs: Their number.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def run(
        self, work: Callable[[W], R], pieces: Sequence[W], lost: Lost = _not_lost
    ) -> Iterator[tuple[W, R]]:
        waiting = list(pieces)
        while waiting:
            for piece, result in self._together(work, waiting.copy()):
                waiting.remove(piece)
                yield piece, result
            # If a process died, it was at one of the first that are left: each by itself tells.
            for piece in waiting[: self.jobs]:
                waiting.remove(piece)
                found = [result for _, result in self._together(work, [piece])]
                yield piece, found[0] if found else lost(DIED)

    def _together(self, work: Callable[[W], R], pieces: list[W]) -> Iterator[tuple[W, R]]:
        """Yield pieces with their results, until all are done or a process dies."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self.jobs, mp_context=context, initializer=_begin
            )
        try:
            futures = {self._pool.submit(work, piece): piece for piece in pieces}
        except BrokenProcessPool:  # one has died since the last call
            self.close(wait=True)
            return
        for future in concurrent.futures.as_completed(futures):
            if isinstance(future.exception(), BrokenProcessPool):
                self.close(wait=True)
            else:
                yield futures[future], future.result()

    def close(self, *, wait: bool) -> None:
        """End the processes.

        Args:
            wait: Whether to return when they have ended.
        """
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=True)
            self._pool = None


def _begin() -> None:
    """Set up a process of the pool."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process once the one that started it is gone: a pool outlives a parent's kill."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _here(
    work: Callable[[W], R], pieces: Sequence[W], lost: Lost = _not_lost
) -> Iterator[tuple[W, R]]:
    for piece in pieces:
        with threads_of_torch(1):  # as in a process of its own: sums depend on it
            result = work(piece)
        yield piece, result


@contextmanager
def _ray_cluster(jobs: int) -> Iterator[RunAll]:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("a Ray cluster needs Ray: pip install 'ghn[ray]'") from error

    owned = not ray.is_initialized()
    if owned and "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    elif owned:
        ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False)
    # GPUs are shared evenly among the processors: a piece takes its part of one.
    found = ray.cluster_resources()
    share = min(1.0, found.get("GPU", 0.0) / found["CPU"])

    def run(
        work: Callable[[W], R], pieces: Sequence[W], lost: Lost = _not_lost
    ) -> Iterator[tuple[W, R]]:
        @ray.remote(num_cpus=1, num_gpus=math.floor(share * 1e4) / 1e4)
        def do(piece: W) -> R:
            torch.set_num_threads(1)
            return work(piece)

        waiting = {do.remote(piece): piece for piece in pieces}
        while waiting:
            [done], _ = ray.wait(list(waiting), num_returns=1)
            try:
                result = ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
                result = lost(DIED)
            yield waiting.pop(done), result

    try:
        yield run
    finally:
        if owned:
            ray.shutdown()
