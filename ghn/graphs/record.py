"""Record what a forward pass does: every operator call, with the tensors it reads and writes.

Calls are seen at two levels. A dispatch mode sees every aten operator, whoever calls it. A function
mode sees the few functions whose decomposition depends on the device (linear, attention, recurrent
layers, weight normalisation) as one call each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ghn.graphs.meta_outputs import meta_output
from ghn.graphs.questions import Questions
from ghn.graphs.values import Values, storage_of, tensors_in

__all__ = ["Call", "Recorder"]

# Aten operators that the meta device refuses; see `ghn.graphs.meta_outputs`.
REPLACED = frozenset({"_grouped_mm"})

FUNCTIONS: dict[Callable[..., Any], str] = {
    F.linear: "linear",
    F.scaled_dot_product_attention: "scaled_dot_product_attention",
    torch.lstm: "lstm",
    torch.gru: "gru",
    torch.rnn_tanh: "rnn_tanh",
    torch.rnn_relu: "rnn_relu",
    torch.lstm_cell: "lstm_cell",
    torch.gru_cell: "gru_cell",
    torch.rnn_tanh_cell: "rnn_tanh_cell",
    torch.rnn_relu_cell: "rnn_relu_cell",
    torch._weight_norm: "weight_norm",
    F.rms_norm: "rms_norm",
    F.one_hot: "one_hot",
}
# Functions that make tensors from numbers, or numbers from tensors, without a dispatched operator.
FROM_VALUES = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
TO_VALUES = {Tensor.tolist, Tensor.numpy, Tensor.__format__}
# Access to `Tensor.data`, which is no operator: what is read or set goes by another tensor.
_DATA: Any = Tensor.data
READS_DATA, SETS_DATA = _DATA.__get__, _DATA.__set__
# Python functions that call recorded functions: they are entered instead of run as one call.
ENTERED = {F.multi_head_attention_forward}


@dataclasses.dataclass(slots=True)
class Call:
    """One recorded operator call.

    Attributes:
        name: Operator name without namespace, overload or trailing underscore.
        args: Positional arguments as passed.
        kwargs: Keyword arguments as passed.
        outputs: Tensors it returned or wrote.
        sources: For each tensor argument in order, the tensor and the indices of the calls that
            wrote what it holds; no index for a leaf.
        scope: Dotted path of the module that was running.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]
    sources: list[tuple[Tensor, tuple[int, ...]]]
    scope: str


class Recorder:
    """Collects calls while its context is active.

    Args:
        model: The model whose modules give calls their scope.
        values: What is known of meta tensors; None if the model runs on a real device.
        stand_ins: What to read in place of the model's own tensors, by their `id`: code that holds
            a parameter in a variable of its own, as closures do, reads it past the modules.
    """

    def __init__(
        self,
        model: nn.Module,
        values: Values | None = None,
        stand_ins: Mapping[int, Tensor] | None = None,
    ) -> None:
        self.values = values
        self._stand_ins = stand_ins or {}
        self._questions = Questions(guessed=values is not None)
        self.calls: list[Call] = []
        self._writer: dict[int, int] = {}
        self._storage_writes: dict[int, list[int]] = {}
        self._muted = 0
        self._names = {id(m): name for name, m in model.named_modules()}
        self._scopes = [""]
        self.entered: set[str] = set()
        self.guessed = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record every call made inside the block."""
        enter = module_hooks.register_module_forward_pre_hook(self._enter_module)
        leave = module_hooks.register_module_forward_hook(self._leave_module, always_call=True)
        try:
            with _FunctionMode(self), _DispatchMode(self):
                yield
        finally:
            enter.remove()
            leave.remove()

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Run calls without recording them."""
        self._muted += 1
        try:
            yield
        finally:
            self._muted -= 1

    def sources(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the calls that wrote what `tensor` holds now."""
        writer = self._writer.get(id(tensor), -1)
        found: tuple[int, ...] = () if writer < 0 else (writer,)
        if self._storage_writes:
            writes = self._storage_writes.get(storage_of(tensor))
            if writes is not None:
                found += tuple(w for w in writes if w > writer)
        return found

    def add(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        written: list[Tensor] | None = None,
    ) -> None:
        """File a call. `written` are the arguments that it changed in place."""
        if self._muted:
            return
        inputs = list(tensors_in(args))
        if kwargs:
            inputs.extend(tensors_in(tuple(kwargs.values())))
        outputs = list(tensors_in((output,)))
        sources = [(t, self.sources(t)) for t in inputs]
        index = len(self.calls)
        self.calls.append(Call(name, args, kwargs, outputs, sources, self._scopes[-1]))
        for tensor in outputs:
            self._writer[id(tensor)] = index
        for tensor in written or ():
            self._writer[id(tensor)] = index
            self._storage_writes.setdefault(storage_of(tensor), []).append(index)

    def note_guesses(self) -> None:
        """File a call for each tensor whose unknown values were asked for since the last time."""
        if self.values is not None:
            self.guessed = self.guessed or bool(self.values.guessed)
            guessed = list(self.values.guessed)
            self.values.guessed.clear()
            for tensor in guessed:
                self.add("_local_scalar_dense", (tensor,), {}, None)
                self._questions.count(self._scopes[-1])

    def note_reading(self) -> None:
        """Count a value that was read while values are there."""
        self._questions.count(self._scopes[-1])

    def stood_in(self, value: Any) -> Any:
        """Return arguments of a call with stand-ins in the place of the model's own tensors."""
        if isinstance(value, Tensor):
            return self._stand_ins.get(id(value), value)
        if type(value) in (tuple, list):
            return type(value)(map(self.stood_in, value))
        if type(value) is dict:
            return {k: self.stood_in(v) for k, v in value.items()}
        return value

    def why_unused(self, parameter: str) -> str:
        """Say why a parameter was not used: a module that did not run, or ran without it."""
        *path, _ = parameter.split(".")
        for depth in range(1, len(path) + 1):
            module = ".".join(path[:depth])
            if not any(e == module or e.startswith(f"{module}.") for e in self.entered):
                return f"module {module!r} did not run"
        where = f"module {'.'.join(path)!r}" if path else "the model"
        return f"{where} was not asked for it"

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        scope = self._names.get(id(module), self._scopes[-1])
        self.entered.add(scope)
        self._scopes.append(scope)

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        if len(self._scopes) > 1:
            self._scopes.pop()


def _is_transformed() -> bool:
    """Whether `torch.func` wraps tensors (vmap, jacrev): below it come plain operators."""
    return torch._C._functorch.peek_interpreter_stack() is not None


@contextmanager
def _without_override_check() -> Iterator[None]:
    """Keep Python functions of `torch.nn.functional` from handing themselves to the mode again."""
    functions: Any = F
    check = functions.has_torch_function
    functions.has_torch_function = lambda _: False
    try:
        yield
    finally:
        functions.has_torch_function = check


class _FunctionMode(TorchFunctionMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in ENTERED:
            with _without_override_check(), self:
                return func(*args, **kwargs)
        if func in (READS_DATA, SETS_DATA):
            return self._pass_data(func, self.recorder.stood_in(args))
        if (answer := self._answer(func, args, kwargs)) is not None:
            return answer
        name = FUNCTIONS.get(func)
        if name is None or _is_transformed():
            return func(*args, **kwargs)
        args, kwargs = self.recorder.stood_in(args), self.recorder.stood_in(kwargs)
        with self.recorder.muted():
            output = meta_output(name, args)
            if output is None:
                output = func(*args, **kwargs)
        self.recorder.add(name, args, kwargs, output)
        return output

    def _pass_data(self, func: Any, args: Any) -> Any:
        """Follow `tensor.data`, and `tensor.data = source`."""
        output = func(*args)
        target, source = (output, args[0]) if func == READS_DATA else args
        self.recorder.add("detach", (source,), {}, target)
        if self.recorder.values is not None:
            self.recorder.values.follow(target, source)
        return output

    def _answer(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Answer functions that turn values into tensors on meta, or tensors into values."""
        values = self.recorder.values
        if values is None:
            return None
        if func in FROM_VALUES and next(tensors_in(args[-1:]), None) is None:
            with _disable_current_modes():
                return values.twin(func(*args, **{**kwargs, "device": "cpu"}))
        if func in TO_VALUES:
            with _disable_current_modes():
                known = values.assumed(self.recorder.stood_in(args[0]))
                answer = func(known, *args[1:], **kwargs)
            self.recorder.note_guesses()
            return answer
        return None


@dataclasses.dataclass(slots=True, frozen=True)
class _Operator:
    """What the dispatch mode must know of an aten operator, looked up once."""

    name: str
    written: tuple[int | str, ...]


_OPERATORS: dict[Any, _Operator] = {}


def _operator(func: Any) -> _Operator:
    known = _OPERATORS.get(func)
    if known is None:
        base = func._schema.name.split("::")[-1]
        written = tuple(
            a.name if a.kwarg_only else position
            for position, a in enumerate(func._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        )
        known = _Operator(base.rstrip("_") or base, written)
        _OPERATORS[func] = known
    return known


class _DispatchMode(TorchDispatchMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = _operator(func)
        values = self.recorder.values
        args, kwargs = self.recorder.stood_in(args), self.recorder.stood_in(kwargs)
        if operator.name == "_local_scalar_dense":
            if values is not None:
                answer = values.assumed(args[0]).item()
                self.recorder.note_guesses()
                return answer
            self.recorder.note_reading()
        output = meta_output(operator.name, args) if operator.name in REPLACED else None
        written = None
        if operator.written:
            changed = (
                kwargs.get(key) if isinstance(key, str) else args[key] if key < len(args) else None
                for key in operator.written
            )
            written = list(tensors_in(tuple(changed)))
        if output is None and values is not None:
            output = values.run(operator.name, func, args, kwargs, written or ())
            self.recorder.note_guesses()
        elif output is None:
            output = func(*args, **kwargs)
        self.recorder.add(operator.name, args, kwargs, output, written)
        return output
