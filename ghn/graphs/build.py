"""From recorded calls to a parameter graph.

Every recorded call becomes a *value*: which nodes wrote it, and which parameters are in it that no
node has consumed yet. Calls that only change shape pass values on. A call that reads data becomes a
node, and the parameters in its arguments hang on it. A call that reads parameters alone (weight
standardisation, a gathered position table, a class token's normalisation) waits: if its result is
used as a weight the call is contracted into the consumer, if it is used as data it becomes a node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from torch import Tensor

from ghn.graphs.assemble import LAYER_OPS, Draft, assemble
from ghn.graphs.aten import CONSTANTS, LAYERS, NODES, READS_SHAPE, SHAPE_ONLY
from ghn.graphs.graph import ParamGraph, ParamSpec
from ghn.graphs.letters import activation_axes, stored_axes
from ghn.graphs.parts import Part, Parts, Piece
from ghn.graphs.patterns import adapter_role, fold_adapters, fold_rms_norms
from ghn.graphs.record import Call
from ghn.graphs.sections import Sections
from ghn.graphs.slots import DATA, Slot, attributes_of, conv_op, fan_in, slots_of
from ghn.graphs.values import storage_of

__all__ = ["GraphBuilder"]

_COPIES = frozenset({"clone", "contiguous", "_to_copy", "copy", "repeat"})
_TOKEN_OPS = frozenset({"concat", "where", "scatter", "attention"})
_SCALE_OPS = frozenset({"mul", "div", "pow"})
_WEIGHT_ROLES = frozenset({"weight", "recurrent_weight"})
_FAN_IN_ROLES = _WEIGHT_ROLES | {"direction", "lora_a", "lora_b"}
_MADE_OF_PARTS = _WEIGHT_ROLES | {"table"}


@dataclasses.dataclass(frozen=True, slots=True)
class Ref:
    """A parameter inside a value: its name, and role and letters where the way there set them."""

    name: str
    role: str = ""
    axes: str = ""


@dataclasses.dataclass(slots=True)
class Value:
    """What is known of a tensor: the nodes that wrote it and the parameters still in it.

    `waiting` is the call that made it out of parameters alone, if that was a layer.
    """

    nodes: tuple[int, ...] = ()
    refs: tuple[Ref, ...] = ()
    waiting: int | None = None


_CONSTANT = Value()


class GraphBuilder:
    """Builds the graph of one recorded forward pass.

    Args:
        calls: The recorded calls, in order.
        parameters: Leading name and tensor of each parameter, as the forward pass saw them.
        inputs: The tensors passed to the model, in order.
        has_values: Whether the forward pass had values, so that none was guessed.

    Attributes:
        assumptions: What was taken for granted of values that the model's code read.
        read_as_numbers: Names of the parameters whose values the model's code read.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        parameters: dict[str, Tensor],
        inputs: Sequence[Tensor],
        has_values: bool = False,
    ) -> None:
        self.calls = calls
        self.parameters = parameters
        self.has_values = has_values
        self.read_as_numbers: set[str] = set()
        self.drafts: list[Draft] = []
        self.specs: dict[str, ParamSpec] = {}
        self.assumptions: list[str] = []
        self._values: list[Value] = []
        self._arguments: list[list[Value]] = []
        self._emitted: dict[int, int] = {}
        self._storages = {storage_of(t): name for name, t in parameters.items()}
        self._leaves: dict[int, Value] = {
            id(t): Value(refs=(Ref(name),)) for name, t in parameters.items()
        }
        self._parts = Parts(
            calls, parameters, lambda t, writers: [r.name for r in self._read(t, writers).refs]
        )
        self._sections = Sections()
        for tensor in inputs:
            if id(tensor) not in self._leaves:
                node = self._add_node(Draft("input"))
                self._leaves[id(tensor)] = Value(nodes=(node,))

    def build(
        self, outputs: Iterable[tuple[Tensor, tuple[int, ...]]], names: Sequence[str]
    ) -> ParamGraph:
        """Process all calls and return the graph.

        Args:
            outputs: The tensors that the model returned, each with the calls that wrote it.
            names: Leading names of all parameters, in the model's order.
        """
        for index, call in enumerate(self.calls):
            self._values.append(self._process(index, call))
        self._add_output(list(outputs))
        for name, role in fold_rms_norms(self.drafts).items():
            self.specs[name] = dataclasses.replace(self.specs[name], role=role)
        moved, merged = fold_adapters(self.drafts)
        for name, (role, node) in moved.items():
            self.specs[name] = dataclasses.replace(self.specs[name], role=role, node=node)
        channels = [draft.channels for draft in self.drafts]
        sections = self._sections.counts(channels, merged)
        return assemble(self.drafts, self.specs, sections, names, self.assumptions)

    def _process(self, index: int, call: Call) -> Value:
        arguments = [self._read(tensor, writers) for tensor, writers in call.sources]
        self._arguments.append(arguments)
        name = call.name
        if name == "copy" and arguments[0].nodes and arguments[1].refs and not arguments[1].nodes:
            return Value(nodes=(self._emit(index),))  # a parameter written into a signal
        if name in SHAPE_ONLY:
            if name in _COPIES:
                self._note_reads(call, arguments)
                self._sections.copied(call.sources[0][0], call.outputs[0], arguments[0].nodes)
            return _union(arguments[1:2] if name == "copy" else arguments)
        if name == "embedding_renorm":  # limits rows of a table in place
            return arguments[0]
        if name in CONSTANTS or name in READS_SHAPE:
            if name == "_local_scalar_dense":
                self._note_reading(call, _union(arguments))
            return _CONSTANT
        if any(a.nodes for a in arguments):
            return Value(nodes=(self._emit(index),))
        merged = _union(arguments)
        if not merged.refs:
            return _CONSTANT
        if name in LAYERS or merged.waiting is not None:
            return Value(refs=merged.refs, waiting=index)
        return Value(refs=_transform(call, merged.refs))

    def _note_reading(self, call: Call, read: Value) -> None:
        """Note that the model's code, and not an operator, reads a value."""
        guess, fact = "the trace took it for true, or 1", "the graph holds for the value it had"
        answer = fact if self.has_values else guess
        where = f"module {call.scope!r}" if call.scope else "the model"
        names = [ref.name for ref in read.refs]
        if read.nodes:
            text = f"{where} reads a value computed from its input; {answer}"
        elif names:
            text = f"{where} reads parameter {', '.join(map(repr, names))} as a number; {answer}"
            self.read_as_numbers.update(names)
        else:
            return
        if text not in self.assumptions:
            self.assumptions.append(text)

    def _read(self, tensor: Tensor, writers: tuple[int, ...]) -> Value:
        if not writers:
            leaf = self._leaves.get(id(tensor))
            if leaf is None and (owner := self._storages.get(storage_of(tensor))) is not None:
                leaf = Value(refs=(Ref(owner),))
            return leaf or _CONSTANT
        if len(writers) == 1:
            return self._values[writers[0]]
        return _union([self._values[w] for w in writers])

    def _emit(self, index: int) -> int:
        """Make a node of a call, once; calls it waits for become nodes before it."""
        if index in self._emitted:
            return self._emitted[index]
        call, arguments = self.calls[index], self._arguments[index]
        op = LAYERS.get(call.name) or NODES.get(call.name, "other")
        slots = slots_of(
            call, [bool(a.nodes) for a in arguments], [bool(a.refs) for a in arguments]
        )
        inputs: list[int] = []
        for argument, slot in zip(arguments, slots, strict=True):
            if argument.waiting is not None and not _contracts(slot):
                inputs.append(self._emit(argument.waiting))
            inputs.extend(argument.nodes)
        op = self._refine(op, call, slots, arguments)
        self._note_reads(call, arguments)
        node = self._add_node(Draft(op, call.scope, attributes_of(call, op), tuple(inputs)))
        self.drafts[node].channels = self._channels(call, op, inputs)
        for source, argument, slot in zip(call.sources, arguments, slots, strict=True):
            if argument.refs and (argument.waiting is None or _contracts(slot)):
                self._attach(node, call, source, argument.refs, slot)
        if op in ("linear", "conv") and call.outputs:
            self._sections.begin(node, call.outputs[0])
        self._emitted[index] = node
        return node

    def _add_node(self, draft: Draft) -> int:
        self.drafts.append(draft)
        return len(self.drafts) - 1

    def _refine(self, op: str, call: Call, slots: list[Slot], arguments: list[Value]) -> str:
        if op == "conv":
            return conv_op(call)
        if op == "linear" and not any(s.role == "weight" for s in slots):
            return "matmul"
        if op == "index" and arguments[0].refs and not arguments[0].nodes:
            return "embedding"
        return "scatter" if call.name == "copy" else op

    def _channels(self, call: Call, op: str, inputs: list[int]) -> int:
        if call.outputs and call.outputs[0].ndim > 1:
            if op == "linear":
                return call.outputs[0].shape[-1]
            if op in ("conv", "depthwise_conv", "conv_transpose"):
                return call.outputs[0].shape[1]
        return next((self.drafts[i].channels for i in inputs if self.drafts[i].channels), 0)

    def _attach(
        self,
        node: int,
        call: Call,
        source: tuple[Tensor, tuple[int, ...]],
        refs: tuple[Ref, ...],
        slot: Slot,
    ) -> None:
        """Hang the parameters of one argument on a node."""
        draft, tensor = self.drafts[node], source[0]
        if slot is DATA:
            slot = self._data_slot(draft, tensor, refs)
        parts: dict[str, Part] = {}
        if slot.role in _MADE_OF_PARTS:
            count = fan_in(slot.axes, tensor.shape, call)
            parts = self._parts.of(Piece(*source, slot.role, slot.axes, count))
        others = "scale" if slot.role in _WEIGHT_ROLES else slot.role
        for ref in refs:
            part = parts.get(ref.name)
            role = ref.role or (part.role if part else others)
            if (ref.name, role) not in draft.parameters:
                draft.parameters.append((ref.name, role))
            if self._is_undescribed(ref.name):
                self.specs[ref.name] = self._spec(node, call, tensor, ref, role, slot, part)

    def _is_undescribed(self, name: str) -> bool:
        """Whether what a parameter is has to be said: at its first use; an adapter's on data."""
        known = self.specs.get(name)
        return known is None or bool(adapter_role(name) and not self.drafts[known.node].inputs)

    def _data_slot(self, draft: Draft, tensor: Tensor, refs: tuple[Ref, ...]) -> Slot:
        """The role of a parameter that enters as data follows from the operator and its shape."""
        axes = activation_axes(tensor, draft.channels)
        if draft.op == "embedding":
            return Slot("table", "v" + "o" * (tensor.ndim - 1))
        if draft.op in _TOKEN_OPS or draft.op in LAYER_OPS:
            return Slot("token", axes)
        if draft.op in _SCALE_OPS:
            return Slot("scale", axes)
        if draft.op == "add":
            vectors = all(self.parameters[r.name].shape == (draft.channels,) for r in refs)
            # One bias for each member of an ensemble has as many axes as a table of positions.
            is_position = ("t" in axes and not vectors) or any("t" in r.axes for r in refs)
            return Slot("position" if is_position else "bias", axes)
        if draft.op in ("grid_sample", "interpolate"):
            return Slot("position", axes)
        return Slot("other", axes)

    def _spec(
        self,
        node: int,
        call: Call,
        tensor: Tensor,
        ref: Ref,
        role: str,
        slot: Slot,
        part: Part | None,
    ) -> ParamSpec:
        stored = self.parameters[ref.name]
        shape = tuple(stored.shape)
        axes = ref.axes if len(ref.axes) == stored.ndim else part.axes if part else ""
        if not axes:
            same = self._storages.get(storage_of(tensor)) == ref.name
            axes = stored_axes(stored, tensor, slot.axes, same)
        count = (part.fan_in if part else 0) or fan_in(axes, shape, call)
        groups = int(self.drafts[node].attributes.get("groups", 1))
        return ParamSpec(
            name=ref.name,
            shape=shape,
            dtype=str(stored.dtype).removeprefix("torch."),
            node=node,
            role=role,
            axes=axes,
            fan_in=count if role in _FAN_IN_ROLES else 0,
            groups=groups if "conv" in self.drafts[node].op else 1,
            sections=slot.gates,
        )

    def _note_reads(self, call: Call, arguments: list[Value]) -> None:
        for (tensor, _), value in zip(call.sources, arguments, strict=True):
            self._sections.read(tensor, value.nodes)

    def _add_output(self, outputs: list[tuple[Tensor, tuple[int, ...]]]) -> None:
        draft = Draft("output")
        inputs: list[int] = []
        refs: list[Ref] = []
        for tensor, writers in outputs:
            value = self._read(tensor, writers)
            if value.waiting is not None:
                inputs.append(self._emit(value.waiting))
            else:
                refs.extend(value.refs)
            inputs.extend(value.nodes)
        draft.inputs = tuple(inputs)
        node = self._add_node(draft)
        for ref in refs:
            call = Call("output", (), {}, [], [], "")
            self._attach(node, call, (self.parameters[ref.name], ()), (ref,), DATA)


def _contracts(slot: Slot) -> bool:
    """Whether layers among parameters are folded into the consumer instead of becoming nodes."""
    return slot is not DATA and slot.role != "position"


def _union(values: Sequence[Value]) -> Value:
    if len(values) == 1:
        return values[0]
    nodes: dict[int, None] = {}
    refs: dict[Ref, None] = {}
    waiting = None
    for value in values:
        nodes.update(dict.fromkeys(value.nodes))
        refs.update(dict.fromkeys(value.refs))
        waiting = value.waiting if value.waiting is not None else waiting
    return Value(tuple(nodes), tuple(refs), waiting)


def _transform(call: Call, refs: tuple[Ref, ...]) -> tuple[Ref, ...]:
    """Pass parameters through arithmetic among parameters; note what it makes of them."""
    if call.name == "weight_norm":
        roles = ("direction", "magnitude")
        return tuple(dataclasses.replace(r, role=n) for r, n in zip(refs, roles, strict=False))
    if call.name in ("index", "index_select", "gather") and call.sources:
        table = call.sources[0][0]
        axes = "t" + "o" * (table.ndim - 1) if table.ndim else ""
        return tuple(dataclasses.replace(r, axes=r.axes or axes) for r in refs)
    return refs
