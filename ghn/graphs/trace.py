"""`trace`: the parameter graph of any PyTorch module, from one forward pass without weights.

The forward pass runs in evaluation mode on the meta device: every operator is seen, no weight is
allocated, and the model is left exactly as it was. Where the control flow depends on values, the
trace falls back to a run on the CPU and says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from ghn.errors import GHNError, InputError, TraceError, UnsupportedModelError
from ghn.graphs.buffers import initialise_counts
from ghn.graphs.build import GraphBuilder
from ghn.graphs.graph import ParamGraph
from ghn.graphs.inputs import ExampleInputs, Failure, Outcome, candidates, describe
from ghn.graphs.isolate import isolate, unwrap
from ghn.graphs.questions import EndlessLoopError
from ghn.graphs.record import Recorder
from ghn.graphs.values import Values
from ghn.rng import preserve_global_state

__all__ = [
    "ForwardError",
    "Recording",
    "Traced",
    "parameter_names",
    "recorded",
    "trace",
    "trace_with_inputs",
]

META = torch.device("meta")
CPU = torch.device("cpu")
CHECKS_OFF = "TRANSFORMERS_DISABLE_TORCH_CHECK"
# A value-dependent model larger than this is not copied to the CPU for the fallback.
CPU_LIMIT_BYTES = 4 << 30


class ForwardError(Exception):
    """The model's own code raised `failure.error`; callers of this module's users never see it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure.error))
        self.failure = failure


@dataclasses.dataclass(frozen=True)
class Traced:
    """A graph, and the inputs and the device of the forward pass that it was read from."""

    graph: ParamGraph
    inputs: ExampleInputs
    device: torch.device


def trace(model: nn.Module, example_inputs: Any = None) -> ParamGraph:
    """Return the graph of operators that a model's forward pass runs, and of its parameters.

    Args:
        model: Any module, on any device, the meta device included. Wrappers (`torch.compile`,
            DistributedDataParallel) are looked through. The model is left as it was.
        example_inputs: A tensor, a tuple of positional arguments, or a dict of keyword arguments;
            only shapes and types matter. Inferred from the model if None: timm's and transformers'
            configs, torchvision's sizes, else the first layer's shape.

    Returns:
        The graph. Two traces of one model are equal.

    Raises:
        InputError: If no input can be inferred, or the model refuses the given one.
        TraceError: If the forward pass fails or cannot be recorded.
        UnsupportedModelError: If the module has no parameters or uninitialised tensors, or is
            scripted.

    Example:
        >>> trace(nn.Linear(4, 2), torch.empty(1, 4)).parameters
        {'weight': [Use(node=1, role='weight')], 'bias': [Use(node=1, role='bias')]}
    """
    return trace_with_inputs(model, example_inputs).graph


def trace_with_inputs(model: nn.Module, example_inputs: Any = None) -> Traced:
    """Return the graph of a model with the inputs that it was traced with; see `trace`."""
    model = unwrap(model)
    names, aliases = parameter_names(model)
    _check_traceable(model, names)
    options = candidates(model, example_inputs)
    found = _search(model, names, options, given=example_inputs is not None)
    found.graph.aliases.update(aliases)
    return found


def parameter_names(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """Return the parameters by leading name, and the alias names of tied ones.

    The leading name of a tied parameter is the first one of `named_parameters()`.
    """
    leading: dict[int, str] = {}
    parameters: dict[str, nn.Parameter] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = leading.setdefault(id(parameter), name)
        if first == name:
            parameters[name] = parameter
        else:
            aliases[name] = first
    return parameters, aliases


def _check_traceable(model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    if not parameters:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no parameters; there is nothing to trace or predict"
        )
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UnsupportedModelError(
            f"{type(model).__name__} is or holds a module compiled by TorchScript; trace the plain "
            "model instead"
        )
    held = {**parameters, **dict(model.named_buffers())}
    lazy = [n for n, tensor in held.items() if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise UnsupportedModelError(
            f"tensors without a shape yet: {', '.join(lazy[:5])}; run one batch through the "
            "model so that its lazy modules are initialised"
        )


def _search(
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    options: Generator[ExampleInputs, Outcome, None],
    given: bool,
) -> Traced:
    """Try inputs until the options are used up; return the graph that reaches most parameters."""
    best: Traced | None = None
    failures: list[tuple[ExampleInputs, Failure]] = []
    inputs: ExampleInputs | None = next(options)
    while inputs is not None:
        outcome: Outcome
        try:
            found = _try(model, parameters, inputs)
            outcome = found.graph
            if best is None or len(outcome.untouched) < len(best.graph.untouched):
                best = found
        except ForwardError as raised:
            outcome = raised.failure
            failures.append((inputs, outcome))
        try:
            inputs = options.send(outcome)
        except StopIteration:
            inputs = None
    if best is not None:
        return best
    tried, failure = max(failures, key=lambda f: f[1].progress)
    tried_values = _needs_values(failure.error)
    if failure.guessed and not tried_values and _bytes(parameters) <= CPU_LIMIT_BYTES:
        with contextlib.suppress(ForwardError):
            return _trace_on(CPU, model, parameters, tried)
    raise _explain(model, tried, failure.error, given) from failure.error


def _try(model: nn.Module, parameters: dict[str, nn.Parameter], inputs: ExampleInputs) -> Traced:
    """Trace on the meta device; if that needs values, on the CPU."""
    try:
        return _trace_on(META, model, parameters, inputs)
    except ForwardError as raised:
        if _needs_values(raised.failure.error) and _bytes(parameters) <= CPU_LIMIT_BYTES:
            with contextlib.suppress(ForwardError):
                return _trace_on(CPU, model, parameters, inputs)
        raise


@dataclasses.dataclass(frozen=True)
class Recording:
    """One forward pass, as long as the model has stand-ins for its tensors.

    Attributes:
        recorder: The calls, and which of them wrote what.
        inputs: Tensors passed to the model.
        outputs: Tensors that it returned.
        stand_in: Gives the stand-in of a parameter or buffer.
        device: Where the pass ran.
    """

    recorder: Recorder
    inputs: list[Tensor]
    outputs: list[Tensor]
    stand_in: Callable[[Tensor], Tensor]
    device: torch.device


@contextlib.contextmanager
def recorded(model: nn.Module, inputs: ExampleInputs, device: torch.device) -> Iterator[Recording]:
    """Run a model's forward pass and yield what it did; the model is as before afterwards.

    Args:
        model: A module without wrappers.
        inputs: Arguments of the forward pass.
        device: Where to run it; on the meta device nothing is allocated.
    """
    values = Values() if device.type == "meta" else None
    with _quiet_backends(), preserve_global_state(0), isolate(model, device, values) as twin:
        args, kwargs = inputs.on(device, values)
        recorder = Recorder(model, values, twin.stand_ins)
        with torch.no_grad(), recorder.recording(), torch.device(device):
            if values is not None:
                with recorder.muted():
                    initialise_counts(model, values)
            try:
                output = model(*args, **kwargs)
            except Exception as error:
                guessed = recorder.guessed
                raise ForwardError(Failure(error, len(recorder.calls), guessed)) from error
        outputs = _flatten(output) or _flatten(getattr(output, "__dict__", None))
        yield Recording(recorder, _flatten((args, kwargs)), outputs, twin.holding, device)


def _trace_on(
    device: torch.device,
    model: nn.Module,
    parameters: dict[str, nn.Parameter],
    inputs: ExampleInputs,
) -> Traced:
    with recorded(model, inputs, device) as run:
        recorder = run.recorder
        stand_ins = {name: run.stand_in(p) for name, p in parameters.items()}
        builder = GraphBuilder(recorder.calls, stand_ins, run.inputs, device.type != "meta")
        if device != META:
            builder.assumptions.append(
                "the forward pass depends on values; it was recorded on the CPU with random input"
            )
        try:
            results = [(t, recorder.sources(t)) for t in run.outputs]
            graph = builder.build(results, list(parameters))
        except Exception as error:
            raise TraceError(
                f"{type(model).__name__} was run, but its calls cannot be made into a graph: "
                f"{type(error).__name__}: {error}"
            ) from error
        for name in graph.untouched:
            read = name in builder.read_as_numbers
            graph.reasons[name] = "read as a number" if read else recorder.why_unused(name)
        return Traced(graph, inputs, device)


@contextlib.contextmanager
def _quiet_backends() -> Iterator[None]:
    """Keep fused encoder layers out, so that every device records the same operators.

    Transformers' own switch leaves out its comparisons of what example inputs cannot match, such as
    the number of placeholders in a text with the number of image features.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    checks = os.environ.get(CHECKS_OFF)
    os.environ[CHECKS_OFF] = "1"
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        os.environ.pop(CHECKS_OFF)
        if checks is not None:
            os.environ[CHECKS_OFF] = checks


def _flatten(value: Any) -> list[Tensor]:
    """Return the tensors of a nested structure: collections, mappings, dataclasses, distributions.

    What other objects hold inside of these, such as caches, is not counted.
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for v in value.values() for t in _flatten(v)]
    if isinstance(value, (tuple, list, set, frozenset, deque)):
        return [t for v in value for t in _flatten(v)]
    if hasattr(value, "__dataclass_fields__"):
        return [t for f in value.__dataclass_fields__ for t in _flatten(getattr(value, f))]
    if isinstance(value, (Distribution, Transform)):
        return [t for v in vars(value).values() for t in _flatten(v)]
    return []


def _needs_values(error: Exception) -> bool:
    text = str(error).lower()
    words = ("meta", "data-dependent", "data dependent", "fake tensor", "fake impl")
    known = isinstance(error, (NotImplementedError, EndlessLoopError))
    return known or any(word in text for word in words)


def _bytes(parameters: dict[str, nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters.values())


def _explain(model: nn.Module, inputs: ExampleInputs, error: Exception, given: bool) -> GHNError:
    what = f"{type(error).__name__}: {error}"
    message = (
        f"the forward pass of {type(model).__name__} failed on example inputs "
        f"{describe(inputs)}: {what}"
    )
    if given or isinstance(error, EndlessLoopError):
        return TraceError(message)
    return InputError(f"{message}. These inputs were inferred; pass example_inputs= to set them")
