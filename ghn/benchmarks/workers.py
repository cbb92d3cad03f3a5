"""Independent pieces of work, here, in processes, or on a Ray cluster."""

from __future__ import annotations

import concurrent.futures
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from ghn.benchmarks.timing import threads_of_torch
from ghn.errors import ConfigError

__all__ = ["RunAll", "workers"]

W = TypeVar("W")
R = TypeVar("R")

RunAll = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[tuple[Any, Any]]]
"""Does work on pieces, and yields each piece with its result, as they come."""


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
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_begin
    ) as pool:

        def run(work: Callable[[W], R], pieces: Sequence[W]) -> Iterator[tuple[W, R]]:
            futures = {pool.submit(work, piece): piece for piece in pieces}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()

        try:
            yield run
        except BaseException:  # an error or Ctrl-C: what has not begun never shall
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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


def _here(work: Callable[[W], R], pieces: Sequence[W]) -> Iterator[tuple[W, R]]:
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

    def run(work: Callable[[W], R], pieces: Sequence[W]) -> Iterator[tuple[W, R]]:
        @ray.remote(num_cpus=1, num_gpus=math.floor(share * 1e4) / 1e4)
        def do(piece: W) -> R:
            torch.set_num_threads(1)
            return work(piece)

        waiting = {do.remote(piece): piece for piece in pieces}
        while waiting:
            [done], _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), ray.get(done)

    try:
        yield run
    finally:
        if owned:
            ray.shutdown()
