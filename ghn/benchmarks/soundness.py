"""Is a prediction sane? What must hold for any model, trained for or not.

Kept parameters are few, predicted matrices are neither constant, nor of rank 1, nor have rows
twice, two inputs give different finite outputs, and every layer's activations have about the size
that the default initialization gives them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghn.benchmarks import processes
from ghn.benchmarks.processes import Limits, run_each
from ghn.engine import predict_params
from ghn.engine.guards import check_model
from ghn.errors import ConfigError, GHNError, UnknownNameError
from ghn.graphs import ParamGraph, cached_trace
from ghn.graphs.inputs import ExampleInputs, Failure, candidates
from ghn.io import append_line
from ghn.kernels import Layout
from ghn.rng import make_generator
from ghn.zoo.library import resolve_model

__all__ = [
    "Soundness",
    "check_prediction",
    "check_sample",
    "degenerate",
    "drawn_order",
    "layer_stds",
]

WITHIN = 10.0  # how far a layer's standard deviation may be from the default's, as a factor
BATCH = 4
SAMPLED = 256  # rows and columns of a matrix that are looked at


@dataclasses.dataclass(frozen=True)
class Soundness:
    """What was found for one model.

    Attributes:
        name: The model's name.
        elements: Number of the parameters' elements.
        tensors: Number of its parameters.
        layers: Number of its layers, without those whose default deviation is 0.
        kept: Number of parameters that were not predicted, by reason.
        followed: Number of parameters whose own size was followed; see `ghn.engine.own_sizes`.
        degenerate: Predicted matrices that are constant, of rank 1 or have rows twice, and why.
        far: Layers whose standard deviation is more than ten times, or less than a tenth of, the
            default's, with the ratio. Layers whose default deviation is 0 are left out.
        finite: Whether all outputs are finite, in evaluation mode without recalibration.
        differ: Whether two inputs give different outputs.
        error: What was raised; empty if nothing was.
        passed_over: Why the model does not count; empty if it does.
    """

    name: str
    elements: int = 0
    tensors: int = 0
    layers: int = 0
    followed: int = 0
    kept: dict[str, int] = dataclasses.field(default_factory=dict)
    degenerate: dict[str, str] = dataclasses.field(default_factory=dict)
    far: dict[str, float] = dataclasses.field(default_factory=dict)
    finite: bool = False
    differ: bool = False
    error: str = ""
    passed_over: str = ""

    @property
    def within(self) -> bool:
        """Whether it ran and all layers are within the factor."""
        return not (self.error or self.far)

    @property
    def kept_share(self) -> float:
        """Share of the parameters, by count, that were not predicted."""
        return sum(self.kept.values()) / max(1, self.tensors)

    @property
    def sound(self) -> bool:
        """Whether all of it holds."""
        outputs = self.finite and self.differ
        return not (self.error or self.degenerate or self.far) and outputs


def drawn_order(names: Sequence[str], seed: int) -> list[str]:
    """Return names in a random order that depends on nothing but the seed."""
    places = torch.randperm(len(names), generator=make_generator(seed, "zoo predict"))
    return [names[place] for place in places.tolist()]


def check_sample(
    names: Sequence[str],
    count: int,
    seed: int = 0,
    limit: int = 100_000_000,
    jobs: int = 2,
    checkpoint: str | None = None,
    follow_sizes: bool = False,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
    limits: Limits | None = None,
    journal: Path | None = None,
) -> list[Soundness]:
    """Draw models at random and check each in a process of its own, forked from a warm one.

    Args:
        names: Names as the command line takes them.
        count: How many are checked, if there are as many.
        seed: Seeds the order in which models are drawn.
        limit: Largest number of elements; larger models are passed over, as are those that need a
            package that is not installed or have no working defaults.
        jobs: Number of processes at a time.
        checkpoint: As for `predict_params`.
        follow_sizes: As for `predict_params`.
        progress: Called with (done, total, name) after each model.
        limits: What one model may take.
        journal: File that results are appended to; models that are in it are not checked again.

    Returns:
        The first `count` models of the order that are not passed over.

    Raises:
        ConfigError: If all of them are passed over.
    """
    work = functools.partial(_check_name, checkpoint, follow_sizes, limit)
    known = {r.name: r for r in _read_journal(journal)} if journal else {}
    remaining = drawn_order(names, seed)
    results: list[Soundness] = []
    while remaining and len(results) < count:
        # As many as are missing: which models are checked does not depend on their speed.
        batch, remaining = remaining[: count - len(results)], remaining[count - len(results) :]
        found = {name: known[name] for name in batch if name in known}
        missing = [name for name in batch if name not in found]
        for name, result in run_each(work, missing, jobs, limits or Limits(240.0, 12.0)):
            failed = isinstance(result, processes.Failure)
            found[name] = Soundness(name, error=result.text) if failed else result
            if journal is not None:
                append_line(journal, json.dumps(dataclasses.asdict(found[name])))
            done = len(results) + sum(not r.passed_over for r in found.values())
            progress(done, count, name)
        results += [found[name] for name in batch if not found[name].passed_over]
    if not results:
        raise ConfigError(f"none of {len(names)} models has at most {limit:,} parameter elements")
    return results


def _read_journal(journal: Path) -> Iterator[Soundness]:
    if not journal.exists():
        return
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            yield Soundness(**json.loads(line))
        except (ValueError, TypeError):  # cut off when the sweep was killed
            continue


def _check_name(checkpoint: str | None, follow_sizes: bool, limit: int, name: str) -> Soundness:
    try:
        bare = check_model(resolve_model(name, device="meta"))
    except UnknownNameError as error:
        return Soundness(name, error=f"{type(error).__name__}: {error}")
    except GHNError as error:  # needs a package, has no working defaults, or is quantised
        return Soundness(name, passed_over=str(error))
    elements = sum(p.numel() for p in bare.parameters())
    if elements > limit:
        return Soundness(name, elements, passed_over="too large")
    torch.manual_seed(0)
    try:
        return check_prediction(name, resolve_model(name), checkpoint, follow_sizes)
    except Exception as error:  # one model's fault must not end the sweep; the table names it
        return Soundness(name, error=f"{type(error).__name__}: {error}")


def check_prediction(
    name: str, model: nn.Module, checkpoint: Any = None, follow_sizes: bool = False
) -> Soundness:
    """Predict all parameters of a model and compare it with its own initialization.

    Args:
        name: What to call the model.
        model: With its own initial values, on the CPU; its parameters are overwritten.
        checkpoint: As for `predict_params`.
        follow_sizes: As for `predict_params`.
    """
    graph = cached_trace(model)
    found, default = _first_that_runs(model)
    report = predict_params(
        model,
        checkpoint=checkpoint,
        unsupported="predict",
        follow_sizes=follow_sizes,
        graph=graph,
        seed=0,
    )
    predicted = layer_stds(model, _filled(found, 0, BATCH))
    with torch.no_grad():
        outputs = [_numbers(_call(model.eval(), _filled(found, seed, 1))) for seed in (0, 1)]
    parameters = dict(model.named_parameters())
    deviating = {n: s for n, s in default.items() if s > 0}
    ratios = {n: predicted.get(n, math.nan) / s for n, s in deviating.items()}
    return Soundness(
        name=name,
        elements=sum(p.numel() for p in parameters.values()),
        tensors=len(parameters),
        layers=len(ratios),
        kept=dict(Counter(report.kept.values())),
        followed=len(report.followed),
        degenerate=_degenerate_in(graph, parameters, set(report.predicted)),
        far={n: r for n, r in ratios.items() if not 1 / WITHIN <= r <= WITHIN},
        finite=all(bool(o.isfinite().all()) for o in outputs),
        differ=not torch.equal(*outputs),
    )


def layer_stds(
    model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]
) -> dict[str, float]:
    """Return the standard deviation of the output of every module with parameters of its own.

    The model runs in training mode if it has batch normalisation, else in evaluation mode; its
    buffers are as before afterwards.
    """
    found: dict[str, float] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            numbers = _numbers(output)
            if numbers.numel() > 1:
                found[name] = numbers.std().item()

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    with _as_in_training(model), torch.no_grad():
        try:
            _call(model, inputs)
        finally:
            for handle in handles:
                handle.remove()
    return found


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Training mode for batch norms only: dropout would differ from run to run."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for module in modes:
        module.training = isinstance(module, _BatchNorm)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])


def _first_that_runs(model: nn.Module) -> tuple[ExampleInputs, dict[str, float]]:
    """Return the first inferred inputs that the model accepts, and the deviations they give."""
    options = candidates(model)
    found = next(options)
    while True:
        try:
            return found, layer_stds(model.eval(), _filled(found, 0, BATCH))
        except Exception as error:  # whatever the model says of inputs that do not fit
            try:
                found = options.send(Failure(error, 0, guessed=False))
            except StopIteration:
                raise error from None


def _filled(found: ExampleInputs, seed: int, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs with random values; of images so many."""
    args, kwargs = found.on(torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)

    def fill(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            shape = (batch, *value.shape[1:]) if value.ndim == 4 else value.shape
            return torch.randn(shape, generator=generator)
        if isinstance(value, Tensor) and value.dtype == torch.long and value.ndim == 2:
            return torch.randint(1, 100, value.shape, generator=generator)
        return value

    return tuple(fill(a) for a in args), {k: fill(v) for k, v in kwargs.items()}


def _call(model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    return model(*inputs[0], **inputs[1])


def _numbers(output: Any) -> Tensor:
    """Return the floating-point numbers of an output of any structure as one vector."""
    if isinstance(output, Tensor):
        return output.detach().float().flatten() if output.is_floating_point() else torch.empty(0)
    parts = output.values() if isinstance(output, dict) else output
    if isinstance(parts, (tuple, list)) or isinstance(output, dict):
        vectors = [_numbers(part) for part in parts]
        return torch.cat(vectors) if vectors else torch.empty(0)
    return torch.empty(0)


def _degenerate_in(
    graph: ParamGraph, parameters: dict[str, nn.Parameter], predicted: set[str]
) -> dict[str, str]:
    found = {}
    for name, spec in graph.specs.items():
        if name in predicted and name in parameters and spec.numel:
            layout = Layout(spec.shape, spec.axes)
            reason = degenerate(layout.from_storage(parameters[name].detach()).flatten(1))
            if reason:
                found[name] = reason
    return found


def degenerate(matrix: Tensor) -> str:
    """Say what is wrong with a matrix: constant, of rank 1, rows twice; empty if nothing is.

    Of large matrices the first 256 rows and columns are looked at.
    """
    part = matrix[:SAMPLED, :SAMPLED].double()
    if min(part.shape) < 2:
        return ""
    if (part.max() - part.min()) <= 1e-6 * part.abs().max():
        return "constant"
    values = torch.linalg.svdvals(part)
    if values[1] <= 1e-6 * values[0]:
        return "rank 1"
    if len(part.unique(dim=0)) < len(part):
        return "rows twice"
    return ""
