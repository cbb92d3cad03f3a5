"""Labels of channels, carried through a recorded forward pass."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ghn.graphs.channels import views  # noqa: F401  its rules are registered on import
from ghn.graphs.channels.labels import Labels
from ghn.graphs.channels.layout import Layout
from ghn.graphs.channels.layouts import Layouts
from ghn.graphs.channels.operators import not_understood, rule_of
from ghn.graphs.channels.rules import Step
from ghn.graphs.record import Call
from ghn.graphs.values import storage_of

__all__ = ["Propagation"]

OUTPUT = "output of the model"


class Propagation:
    """Follows labels from parameters through all calls of a forward pass.

    Args:
        tensors: Parameters and buffers by name, as the forward pass saw them; those in `held` must
            not move.
        held: For each name of a tensor that must not move, the reason.
        inputs: Tensors passed to the model.

    Attributes:
        labels: All labels.
        steps: All calls with layouts in the place of tensors, each with the layouts of those
            results that its rule knows.
    """

    def __init__(
        self, tensors: dict[str, Tensor], held: dict[str, str], inputs: Iterable[Tensor]
    ) -> None:
        self.labels = Labels()
        self.ops = Layouts(self.labels)
        self.steps: list[tuple[Step, list[Layout]]] = []
        self._layouts: dict[int, Layout] = {}
        self._owners: dict[int, Layout] = {}
        for name, tensor in tensors.items():
            shape = tuple(tensor.shape)
            why = held.get(name)
            layout = self.ops.fresh(shape) if why is None else self.ops.still(shape, why)
            self._put(tensor, layout)
            self._owners[storage_of(tensor)] = layout
        for tensor in inputs:
            self._put(tensor, self.ops.still(tensor.shape, "input of the model"))
        # Tensors are told apart by their addresses: they are kept, so that none is given twice.
        self._alive: list[Any] = [tensors, inputs]

    def of(self, tensor: Tensor) -> Layout:
        """Return the layout of a tensor."""
        layout = self._layouts.get(id(tensor))
        if layout is None or layout.shape != tuple(tensor.shape):
            owner = self._owners.get(storage_of(tensor))
            if owner is not None:
                self.ops.fix_all(owner, "seen by the model in another shape")
            layout = self.ops.still(tensor.shape, "a constant")
            self._put(tensor, layout)
        return layout

    def run(self, calls: Sequence[Call]) -> None:
        """Follow labels through calls, in order."""
        self._alive.append(calls)
        for call in calls:
            step = Step(
                call.name,
                self._layouts_in(call.args),
                self._layouts_in(call.kwargs),
                [tuple(t.shape) for t in call.outputs],
                call,
            )
            found = rule_of(call.name)(self.ops, step)
            results = [found] if isinstance(found, Layout) else list(found)
            if any(r.shape != s for r, s in zip(results, step.shapes, strict=False)):
                results = not_understood(self.ops, step)
            self.steps.append((step, results))
            for tensor, layout in itertools.zip_longest(call.outputs, results):
                other = layout or self.ops.still(tensor.shape, f"computed by {call.name}")
                self._write(tensor, other)

    def end(self, outputs: Iterable[Tensor]) -> None:
        """Say that what the model returns must not move."""
        for tensor in outputs:
            self.ops.fix_all(self.of(tensor), OUTPUT)

    def _write(self, tensor: Tensor, layout: Layout) -> None:
        """File a result; one that is written into a tensor agrees with what it held."""
        old = self._layouts.get(id(tensor))
        if old is not None and old is not layout:
            layout = self.ops.meet([old, layout], old.shape)
        self._put(tensor, layout)

    def _put(self, tensor: Tensor, layout: Layout) -> None:
        self._layouts[id(tensor)] = layout

    def _layouts_in(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.of(value)
        if isinstance(value, (tuple, list)):
            return [self._layouts_in(v) for v in value]
        if isinstance(value, dict):
            return {k: self._layouts_in(v) for k, v in value.items()}
        return value
