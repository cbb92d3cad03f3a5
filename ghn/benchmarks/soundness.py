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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghn.benchmarks import processes
from ghn.benchmarks.processes import Limits, run_each
from ghn.engine import predict_params
from ghn.engine.guards import check_model
from ghn.engine.outputs import drawn_inputs, floats_of, layer_stds, measure
from ghn.errors import ConfigError, GHNError, UnknownNameError
from ghn.graphs import ParamGraph
from ghn.graphs.inputs import ExampleInputs
from ghn.graphs.trace import trace, trace_with_inputs
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
]

WITHIN = 10.0  # how far a layer's standard deviation may be from the default's, as a factor
CHECKED_ON = 1  # a seed of inputs that no calibration has seen
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
        scaled: Number of parameters that calibration scaled; see `ghn.engine.calibrate`.
        degenerate: Predicted matrices that are constant, of rank 1 or have rows twice, and why.
        far: Layers whose standard deviation is more than ten times, or less than a tenth of, the
            default's, with the ratio. Layers whose default deviation is 0 are left out.
        finite: Whether all outputs are finite, in evaluation mode with measured batch statistics.
        differ: Whether two inputs give different outputs.
        own_differ: Whether they do under the model's own values. Those of untrained codebooks and
            of detectors that find nothing are alike.
        error: What was raised; empty if nothing was.
        passed_over: Why the model does not count; empty if it does.
    """

    name: str
    elements: int = 0
    tensors: int = 0
    layers: int = 0
    scaled: int = 0
    kept: dict[str, int] = dataclasses.field(default_factory=dict)
    degenerate: dict[str, str] = dataclasses.field(default_factory=dict)
    far: dict[str, float] = dataclasses.field(default_factory=dict)
    finite: bool = False
    differ: bool = False
    own_differ: bool = True
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
        return not (self.error or self.degenerate or self.far or self.output_fault)

    @property
    def output_fault(self) -> str:
        """What is wrong with the outputs; empty if nothing is."""
        if self.error or (self.finite and (self.differ or not self.own_differ)):
            return ""
        return "two inputs give the same outputs" if self.finite else "outputs are not finite"


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
    calibrate: bool = True,
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
            package that is not installed, have no working defaults or cannot be traced.
        jobs: Number of processes at a time.
        checkpoint: As for `predict_params`.
        calibrate: As for `predict_params`.
        progress: Called with (done, total, name) after each model.
        limits: What one model may take.
        journal: File that results are appended to; models that are in it are not checked again.

    Returns:
        The first `count` models of the order that are not passed over.

    Raises:
        ConfigError: If all of them are passed over.
    """
    work = functools.partial(_check_name, checkpoint, calibrate, limit)
    known = {r.name: r for r in _read_journal(journal)} if journal else {}
    remaining = drawn_order(names, seed)
    results: list[Soundness] = []
    while remaining and len(results) < count:
        # As many as are missing: which models are checked does not depend on their speed.
        batch, remaining = remaining[: count - len(results)], remaining[count - len(results) :]
        found = {name: known[name] for name in batch if name in known}
        missing = [name for name in batch if name not in found]
        for name, result in run_each(work, missing, jobs, limits or Limits(600.0, 12.0)):
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


def _check_name(checkpoint: str | None, calibrate: bool, limit: int, name: str) -> Soundness:
    try:
        bare = check_model(resolve_model(name, device="meta"))
        elements = sum(p.numel() for p in bare.parameters())
        if elements > limit:
            return Soundness(name, elements, passed_over="too large")
        trace(bare)
    except UnknownNameError as error:
        return Soundness(name, error=f"{type(error).__name__}: {error}")
    except GHNError as error:  # needs a package, has no working defaults, or cannot be traced
        return Soundness(name, passed_over=str(error))
    torch.manual_seed(0)
    try:
        return check_prediction(name, resolve_model(name), checkpoint, calibrate)
    except Exception as error:  # one model's fault must not end the sweep; the table names it
        return Soundness(name, error=f"{type(error).__name__}: {error}")


def check_prediction(
    name: str, model: nn.Module, checkpoint: Any = None, calibrate: bool = True
) -> Soundness:
    """Predict all parameters of a model and compare it with its own initialization.

    Args:
        name: What to call the model.
        model: With its own initial values, on the CPU; its parameters are overwritten.
        checkpoint: As for `predict_params`.
        calibrate: As for `predict_params`.
    """
    traced = trace_with_inputs(model)
    graph, form = traced.graph, traced.inputs
    default = measure(model.eval(), form, CHECKED_ON)
    own_outputs = _two_outputs(model, form)
    report = predict_params(
        model,
        example_inputs=form,
        checkpoint=checkpoint,
        unsupported="predict",
        calibrate=calibrate,
        graph=graph,
        seed=0,
        recalibrate=[default.inputs],
    )
    predicted = layer_stds(model, default.inputs)
    outputs = _two_outputs(model, form)
    parameters = dict(model.named_parameters())
    ratios = _ratios(default.stds, predicted)
    return Soundness(
        name=name,
        elements=sum(p.numel() for p in parameters.values()),
        tensors=len(parameters),
        layers=len(ratios),
        kept=dict(Counter(report.kept.values())),
        scaled=len(report.scaled),
        degenerate=_degenerate_in(graph, parameters, set(report.predicted)),
        far={n: r for n, r in ratios.items() if not 1 / WITHIN <= r <= WITHIN},
        finite=all(bool(o.isfinite().all()) for o in outputs),
        differ=not torch.equal(*outputs),
        own_differ=not torch.equal(*own_outputs),
    )


def _ratios(
    default: Mapping[str, list[float]], predicted: Mapping[str, list[float]]
) -> dict[str, float]:
    """Return by how much each layer's deviation is off; of one that runs often, the worst."""
    ratios = {}
    for name, stds in default.items():
        found = predicted.get(name, [])
        found = found if len(found) == len(stds) else [math.nan] * len(stds)
        off = [f / s for f, s in zip(found, stds, strict=True) if s > 0]
        if off:
            ratios[name] = max(off, key=_distance)
    return ratios


def _distance(ratio: float) -> float:
    return abs(math.log(ratio)) if ratio > 0 else math.inf


def _two_outputs(model: nn.Module, form: ExampleInputs) -> list[Tensor]:
    inputs = [drawn_inputs(form, seed, 1) for seed in (0, 1)]
    with torch.no_grad():
        return [floats_of(model(*i.args, **i.kwargs)) for i in inputs]


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
