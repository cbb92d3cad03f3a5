"""`predict_params`: a model's parameters from a hypernetwork, all of them or none.

First comes everything that can fail: the graph, the selection, the recipes, their shapes and
finiteness. Then the recipes are written; see `ghn.engine.compose` and `ghn.engine.materialize`.
"""

from __future__ import annotations

import dataclasses
import numbers
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghn.device import choose_device
from ghn.engine.calibrate import calibrate as calibrate_layers
from ghn.engine.compose import (
    check_recipes,
    check_targets,
    hold_interrupts,
    new_tensor,
    write,
)
from ghn.engine.guards import check_model
from ghn.engine.materialize import Build, materialize
from ghn.engine.outputs import Outputs, measure
from ghn.engine.recalibrate import batch_norms, recalibrate_statistics
from ghn.engine.refine import refine
from ghn.engine.report import Report
from ghn.engine.select import Generate, Unsupported, keep_reasons, selection_notes
from ghn.engine.source import Hypernetwork, find_hypernetwork, run_hypernetwork
from ghn.engine.spectral import fit_spectral_norms, spectral_vectors
from ghn.engine.undo import Snapshot
from ghn.errors import ConfigError, PredictionError
from ghn.graphs import ParamGraph
from ghn.graphs.inputs import ExampleInputs, candidates
from ghn.graphs.ties import forget_caches
from ghn.graphs.trace import parameter_names, trace_with_inputs
from ghn.kernels import Recipe

__all__ = ["predict_params", "predict_state_dict"]

Checkpoint = str | Path | Hypernetwork | None
Device = torch.device | str | int | None


@dataclasses.dataclass(frozen=True)
class _Plan:
    """All that is known before anything is written.

    Attributes:
        parameters: The model's parameters by leading name.
        aliases: Further names of tied parameters, to the leading one.
        recipes: What to write, by leading name.
        report: The report, but for its time and for what calibration does.
        own: Outputs under the model's own values, for calibration.
    """

    parameters: dict[str, nn.Parameter]
    aliases: dict[str, str]
    recipes: dict[str, Recipe]
    report: Report
    own: Outputs | None


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What is asked for, as in `predict_params`."""

    checkpoint: Checkpoint
    generate: Generate
    unsupported: Unsupported
    condition: Any
    noise: float
    orthogonalize: bool
    calibrate: bool
    seed: int


def predict_params(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    checkpoint: Checkpoint = None,
    generate: Generate = None,
    unsupported: Unsupported = "keep",
    condition: Any = None,
    noise: float = 0.0,
    orthogonalize: bool = False,
    calibrate: bool = False,
    graph: ParamGraph | None = None,
    seed: int | None = None,
    build: Build | None = None,
    device: Device = None,
    dtype: torch.dtype | None = None,
    recalibrate: Iterable[Any] | None = None,
) -> Report:
    """Write predicted parameters into a model, in place; all of them, or on an error none.

    A model with values keeps its Parameter objects, so that an optimiser stays valid; its buffers,
    modes and flags stay, but for the vectors of spectral norms, which follow their weights. A model
    on the meta device gets new Parameters, its own initialization for those that are not predicted,
    and its buffers. Tied weights stay tied.

    Args:
        model: Any module: timm, transformers, torchvision or your own, on a CPU, CUDA or the meta
            device. `torch.compile`, DataParallel and DistributedDataParallel are looked through.
        example_inputs: As for `ghn.trace`: a tensor, a tuple of positional arguments, or a dict of
            keyword arguments; inferred if None. Only shapes and types matter.
        checkpoint: Name of an embedded checkpoint, a local folder, a hub id, or a `GHN`. By
            default the embedded one for images or for text, by what the model reads.
        generate: Which parameters to predict: a glob such as `"*.attn.*"`, several globs, or a
            function of the name. All by default.
        unsupported: What happens to parameters that the checkpoint was never trained for: `"keep"`
            their own values, or `"predict"` them all the same.
        condition: What the parameters are for, if the hypernetwork takes a condition: one value of
            the kind that it was built for. None for all others.
        noise: Standard deviation of noise in the predicted weights, as a share of each one's root
            mean square; as `ghn.engine.refine` says. It sets channels apart that are alike, and
            takes the memory of these weights once more.
        orthogonalize: Whether predicted weights, but for the last layer's, are made orthogonal;
            the same memory.
        calibrate: Whether predicted layers whose outputs are more than about six times larger or
            smaller than under the model's own values are scaled by a power of two: for networks
            unlike those that the checkpoint was trained for; see `ghn.engine.calibrate`. Costs two
            forward passes of four images; while it runs, the model holds a copy of the old values.
        graph: The model's graph, where it is known from before; traced by default.
        seed: Seeds the noise, and the initialization of a meta model's kept parameters; None
            counts as 0. The prediction itself draws nothing. The global random state is left alone.
        build: For meta models: makes the same model on the CPU. Kept parameters and buffers are
            then copied from it. Needed only where the model's modules cannot make them.
        device: For meta models: where the new tensors live; the CPU by default.
        dtype: For meta models: type of the new floating-point tensors; their own by default.
        recalibrate: Batches, each as `example_inputs`, over which the statistics of BatchNorm are
            measured again with the predicted parameters. While this runs, a model with values
            holds a copy of the old ones.

    Returns:
        What was predicted, what was kept and why. Complex, integer, sparse and empty parameters
        are kept as `"unsupported"`.

    Raises:
        InputError: If no example input can be inferred, or a batch to recalibrate with fails.
        TraceError: If the forward pass fails.
        UnsupportedModelError: If the model is sharded, quantised, lazy or without parameters, or a
            meta model's values cannot be made.
        ConfigError: If a setting does not fit the model or the checkpoint.
        CheckpointError: If the checkpoint cannot be used.
        PredictionError: If a prediction is not finite in the parameter's type.

    Example:
        >>> model = timm.create_model("resnet50")       # doctest: +SKIP
        >>> print(predict_params(model))                # doctest: +SKIP
    """
    start = time.perf_counter()
    if recalibrate is not None and not isinstance(recalibrate, Iterable):
        raise ConfigError(f"recalibrate= needs batches, got {recalibrate!r}")
    batches = None if recalibrate is None else list(recalibrate)
    if batches == []:
        raise ConfigError("recalibrate= needs at least one batch, got none; or leave it out")
    inner = check_model(model)
    has_meta = _has_meta(inner)
    target = _check_settings(has_meta, build, device, dtype)
    settings = _checked(
        checkpoint, generate, unsupported, condition, noise, orthogonalize, calibrate, seed
    )
    with torch.device("cpu"):  # the caller may be building models on the meta device
        plan = _plan(inner, example_inputs, graph, settings, dtype)
    real = {n: r for n, r in plan.recipes.items() if not plan.parameters[n].is_meta}
    meta = {n: r for n, r in plan.recipes.items() if n not in real}
    check_targets(real, plan.parameters)
    # By what may fail when all is written.
    followed = bool(plan.own is not None or batches is not None or spectral_vectors(inner))
    undo = Snapshot(inner, _what_changes(inner, real, plan.parameters) if followed else ())
    complete, notes, scaled = False, plan.report.notes, {}
    try:
        with hold_interrupts():
            if has_meta:
                notes += materialize(
                    inner,
                    meta,
                    device=target or torch.device("cpu"),
                    dtype=dtype,
                    seed=settings.seed,
                    build=build,
                )
            write(real, plan.parameters)
            forget_caches(inner)
            complete = not followed
        named = parameter_names(inner)[0]
        fit_spectral_norms(inner, [named[name] for name in plan.recipes])
        if plan.own is not None:
            scaled = calibrate_layers(inner, plan.own, real)
            forget_caches(inner)
        if batches is not None:
            recalibrate_statistics(inner, batches)
    except BaseException:
        if not complete:
            undo.restore()
        raise
    if batches is not None and not batch_norms(inner):
        notes += ("recalibrate= had no effect: no BatchNorm of the model keeps statistics",)
    seconds = time.perf_counter() - start
    return dataclasses.replace(plan.report, seconds=seconds, notes=notes, scaled=scaled)


def predict_state_dict(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    checkpoint: Checkpoint = None,
    generate: Generate = None,
    unsupported: Unsupported = "keep",
    condition: Any = None,
    noise: float = 0.0,
    orthogonalize: bool = False,
    calibrate: bool = False,
    graph: ParamGraph | None = None,
    seed: int | None = None,
    device: Device = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Return predicted parameters and leave the model alone.

    Args:
        model: As for `predict_params`; on the meta device too.
        example_inputs: As for `predict_params`.
        checkpoint: As for `predict_params`.
        generate: As for `predict_params`.
        unsupported: As for `predict_params`.
        condition: As for `predict_params`.
        noise: As for `predict_params`.
        orthogonalize: As for `predict_params`.
        calibrate: As for `predict_params`.
        graph: As for `predict_params`.
        seed: Seeds the noise; None counts as 0.
        device: Where the tensors live; where the parameters are by default, for meta the CPU.
        dtype: Their type; each parameter's own by default.

    Returns:
        Parameter name to tensor, without those that `predict_params` would keep, and without
        buffers: load it with `strict=False`. All names of a tied parameter hold one tensor.

    Raises:
        GHNError: As `predict_params`.
    """
    inner = check_model(model)
    target = _check_settings(True, None, device, dtype)
    settings = _checked(
        checkpoint, generate, unsupported, condition, noise, orthogonalize, calibrate, seed
    )
    with torch.device("cpu"):  # the caller may be building models on the meta device
        plan = _plan(inner, example_inputs, graph, settings, dtype)
    tensors: dict[str, Tensor] = {}
    for name, recipe in plan.recipes.items():
        like = plan.parameters[name]
        place = torch.device("cpu") if like.is_meta else like.device
        if plan.own is None:
            tensors[name] = new_tensor(recipe, like, target or place, dtype or like.dtype)
        else:  # measured in the model, as it is
            tensors[name] = new_tensor(recipe, like, place, like.dtype)
    if plan.own is not None:
        forget_caches(inner)
        calibrate_layers(inner, plan.own, tensors, tensors)
        forget_caches(inner)
        tensors = {n: t.to(target or t.device, dtype or t.dtype) for n, t in tensors.items()}
        _check_finite(tensors)
    for alias, name in plan.aliases.items():
        if name in tensors:
            tensors[alias] = tensors[name]
    return tensors


def _checked(*asked: Any) -> _Settings:
    """Return settings; refuse what would pass for another value, as "no" does for True."""
    values = dict(zip((f.name for f in dataclasses.fields(_Settings)), asked, strict=True))
    for name in ("orthogonalize", "calibrate"):
        if not isinstance(values[name], bool):
            raise ConfigError(f"{name} must be True or False, got {values[name]!r}")
    seed = 0 if values["seed"] is None else values["seed"]
    if not isinstance(seed, numbers.Integral) or isinstance(seed, bool):
        raise ConfigError(f"seed must be an integer, got {seed!r}")
    return _Settings(**{**values, "seed": int(seed)})


def _plan(
    model: nn.Module,
    example_inputs: Any,
    graph: ParamGraph | None,
    settings: _Settings,
    dtype: torch.dtype | None,
) -> _Plan:
    """Do everything that can fail and changes nothing."""
    parameters, aliases = parameter_names(model)
    if graph is not None:
        _check_graph(graph, parameters)
    form = ExampleInputs()
    if graph is None or (settings.calibrate and example_inputs is None):
        traced = trace_with_inputs(model, example_inputs)
        graph, form = graph or traced.graph, traced.inputs
    elif example_inputs is not None:
        form = next(candidates(model, example_inputs))
    hypernetwork, label, notes = find_hypernetwork(settings.checkpoint, graph)
    support = hypernetwork.config.support
    notes = (*notes, *support.notes((*form.args, *form.kwargs.values())))
    reasons = keep_reasons(graph, parameters, support, settings.generate, settings.unsupported)
    if settings.unsupported == "keep":
        notes = (*notes, *selection_notes(graph, reasons))
    names = [name for name, reason in reasons.items() if reason is None]
    condition = settings.condition
    found = run_hypernetwork(hypernetwork, graph, set(names), condition) if names else {}
    recipes = {name: found[name] for name in names}
    check_recipes(recipes, parameters, dtype)
    if settings.noise != 0 or settings.orthogonalize:
        recipes = refine(
            recipes,
            graph,
            noise=settings.noise,
            orthogonalize=settings.orthogonalize,
            seed=settings.seed,
        )
        check_recipes(recipes, parameters, dtype)
    own = None
    if settings.calibrate:
        _check_calibration(hypernetwork, label, {name: parameters[name] for name in names})
        own = measure(model, form, settings.seed)
    report = Report(
        predicted=dict.fromkeys(names, hypernetwork.decoder_name),
        kept={name: reason for name, reason in reasons.items() if reason is not None},
        checkpoint=label,
        seconds=0.0,
        notes=(*notes, *graph.assumptions),
        learning_rate=getattr(hypernetwork.config, "learning_rate", None) if names else None,
    )
    return _Plan(parameters, aliases, recipes, report, own)


def _check_graph(graph: ParamGraph, parameters: dict[str, nn.Parameter]) -> None:
    known = {name: spec.shape for name, spec in graph.specs.items()}
    wrong = [n for n, shape in known.items() if n not in parameters or parameters[n].shape != shape]
    if missing := set(parameters) - set(known) - set(graph.untouched):
        wrong += sorted(missing)
    if wrong:
        raise ConfigError(
            f"graph= is of another model: they differ in {', '.join(wrong[:3])}; leave it out"
        )


def _check_calibration(
    hypernetwork: Hypernetwork, label: str, parameters: dict[str, nn.Parameter]
) -> None:
    if getattr(hypernetwork.config, "magnitude", None) != "bounded":
        raise ConfigError(
            "calibrate=True is for hypernetworks that predict where training starts "
            f"(magnitude='bounded'); {label} is none"
        )
    if missing := [name for name, parameter in parameters.items() if parameter.is_meta]:
        raise ConfigError(
            "calibrate=True compares with the model's own values; "
            f"{len(missing)} parameters are on the meta device and have none, such as {missing[0]}"
        )


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise PredictionError(
                f"{name}: the prediction, calibrated, is not finite in {tensor.dtype}; choose "
                "another dtype"
            )


def _check_settings(
    has_meta: bool, build: Build | None, device: Device, dtype: torch.dtype | None
) -> torch.device | None:
    """Return the device that was asked for, if one was."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ConfigError(f"dtype must be a floating-point type of torch, got {dtype!r}")
    given = {"build": build, "device": device, "dtype": dtype}
    if not has_meta and (names := [k for k, v in given.items() if v is not None]):
        raise ConfigError(
            f"{', '.join(names)} given for a model that already has values; it is for models on "
            "the meta device. Use model.to(...) instead"
        )
    return None if device is None else choose_device(device)


def _has_meta(model: nn.Module) -> bool:
    return any(t.is_meta for t in [*model.parameters(), *model.buffers()])


def _what_changes(
    model: nn.Module, recipes: dict[str, Recipe], parameters: dict[str, nn.Parameter]
) -> list[Tensor]:
    """Return the tensors with values that a prediction and what follows it write into."""
    statistics = [b for norm in batch_norms(model) for b in norm.buffers(recurse=False)]
    statistics = [b for b in statistics if not b.is_meta] + spectral_vectors(model)
    return [*(parameters[name] for name in recipes), *statistics]
