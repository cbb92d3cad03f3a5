"""Record a step on a GPU once and replay it: steps of small networks wait for their launches.

Source: CUDA graphs as torch offers them, https://docs.pytorch.org/docs/stable/notes/cuda.html.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Replayed"]

EAGER = 3  # calls before recording, in which libraries choose kernels and take workspaces


class Replayed:
    """A step of which, after a few calls, only a recording is played.

    Args:
        step: From tensors on a GPU, always of the same shapes, to one tensor. Every call launches
            the same kernels on the same memory: it reads nothing back, branches on no value, and
            numbers that change, such as a learning rate, are tensors.
    """

    def __init__(self, step: Callable[..., Tensor]) -> None:
        self._step = step
        self._stream = torch.cuda.Stream()
        self._eager = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._output = torch.empty(())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Take the step.

        Raises:
            RuntimeError: If it cannot be recorded, as it waits for the GPU.
        """
        if self._graph is None and self._eager < EAGER:
            return self._run(inputs)
        if self._graph is None:
            self._graph = self._record(inputs)
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value)
        self._graph.replay()
        return self._output.clone()

    def _run(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Take the step on the stream that it is recorded on later."""
        self._eager += 1
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            output = self._step(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return output

    def _record(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        self._inputs = [value.clone() for value in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._output = self._step(*self._inputs)
        return graph
