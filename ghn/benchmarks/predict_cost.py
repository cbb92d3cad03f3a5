"""What `predict_params` costs: time against the model's own initialization, memory against size.

Each model is measured in a fresh process: predicted from the meta device, predicted again into the
memory it then has, and built with its own random initialization, in turn, `repeats` times. Tracing
is part of a prediction; loading the checkpoint and building the model without values are not.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ghn.benchmarks.memory import MIB, peak_memory
from ghn.benchmarks.records import Record, make_record
from ghn.benchmarks.timing import clock
from ghn.errors import ConfigError
from ghn.pages.pictures import picture
from ghn.pages.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MODELS", "PredictCost", "PredictCosts", "draw_costs", "measure_costs"]


def _timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name)


def _gpt2_large() -> nn.Module:
    from transformers import AutoModelForCausalLM, GPT2Config

    return AutoModelForCausalLM.from_config(GPT2Config(n_embd=1280, n_layer=36, n_head=20))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gpt2-large": _gpt2_large,
    "vit_base_patch16_224": functools.partial(_timm, "vit_base_patch16_224"),
    "swin_base_patch4_window7_224": functools.partial(_timm, "swin_base_patch4_window7_224"),
    "convnext_base": functools.partial(_timm, "convnext_base"),
    "resnet50": functools.partial(_timm, "resnet50"),
}
"""What is measured by default: name to how it is built."""


@dataclasses.dataclass(frozen=True)
class PredictCost:
    """One model; times are medians in seconds.

    Attributes:
        model: Name in `MODELS`.
        model_mib: Size of its parameters.
        own: Building it with its own random initialization.
        from_meta: `predict_params` of the model on the meta device.
        in_place: `predict_params` into the memory of a model that has values.
        peak_mib: Most memory held during the first prediction from meta, above what the process
            held before it; NaN where the system does not tell.
    """

    model: str
    model_mib: float
    own: float
    from_meta: float
    in_place: float
    peak_mib: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types, ratios included."""
        return {
            **dataclasses.asdict(self),
            "from_meta_over_own": self.from_meta / self.own,
            "in_place_over_own": self.in_place / self.own,
            "peak_over_model": self.peak_mib / self.model_mib,
        }


@dataclasses.dataclass(frozen=True)
class PredictCosts:
    """All rows, with where they come from."""

    rows: list[PredictCost]
    record: Record

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {"rows": [row.to_dict() for row in self.rows], "record": self.record.to_dict()}


def measure_costs(
    models: tuple[str, ...] = tuple(MODELS),
    repeats: int = 3,
    threads: int = 2,
    checkpoint: str | None = None,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> PredictCosts:
    """Measure models, each in a process of its own.

    Args:
        models: Names in `MODELS`.
        repeats: Repetitions; medians are reported.
        threads: Threads of torch.
        checkpoint: Checkpoint to predict from; None for the embedded default.
        progress: Called with (models done, models in all, name).

    Raises:
        ConfigError: If a model is not in `MODELS`.
    """
    unknown = sorted(set(models) - set(MODELS))
    if unknown or not models:
        raise ConfigError(f"models must be among {', '.join(MODELS)}, got {list(models)}")
    rows = []
    context = multiprocessing.get_context("spawn")
    for done, name in enumerate(models):
        progress(done, len(models), name)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            rows.append(pool.submit(measure_one, name, repeats, threads, checkpoint).result())
    progress(len(models), len(models), "")
    words = [f"--model {m}" for m in models] + [f"--repeats {repeats} --threads {threads}"]
    return PredictCosts(rows, make_record(" ".join(["ghn bench predict", *words])))


def measure_one(name: str, repeats: int, threads: int, checkpoint: str | None) -> PredictCost:
    """Measure one model in this process."""
    from ghn.engine import predict_params

    torch.set_num_threads(threads)
    predict = functools.partial(
        predict_params, checkpoint=checkpoint, unsupported="predict", seed=0
    )
    predict(_timm("resnet18"))  # what is paid once in a process
    times: dict[str, list[float]] = {"own": [], "from_meta": [], "in_place": []}
    peak = size = 0.0
    for repeat in range(repeats):
        with torch.device("meta"):
            model = MODELS[name]()
        with peak_memory() as memory:
            times["from_meta"].append(clock(functools.partial(predict, model))[0])
        peak = memory[0] if repeat == 0 else peak
        times["in_place"].append(clock(functools.partial(predict, model))[0])
        size = sum(p.numel() * p.element_size() for p in model.parameters()) / MIB
        del model
        times["own"].append(clock(MODELS[name])[0])
    medians = {key: statistics.median(values) for key, values in times.items()}
    return PredictCost(name, size, peak_mib=peak, **medians)


def draw_costs(costs: PredictCosts, path: str | Path) -> None:
    """Draw both ratios of every model as bars, in a file whose ending decides its type."""
    with picture(path, (7.0, 0.6 * len(costs.rows) + 1.4)) as figure:
        _fill(figure, costs)


def _fill(figure: Figure, costs: PredictCosts) -> None:
    axes = figure.subplots()
    places = range(len(costs.rows))
    for shift, label, color, values in (
        (-0.2, "from the meta device", COLOURS[1], [r.from_meta / r.own for r in costs.rows]),
        (0.2, "into memory it has", COLOURS[2], [r.in_place / r.own for r in costs.rows]),
    ):
        bars = axes.barh([p + shift for p in places], values, 0.38, label=label, color=color)
        axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1.0, color="0.5", linewidth=1)
    axes.set_yticks(places, [f"{r.model} ({r.model_mib:,.0f} MiB)" for r in costs.rows])
    axes.invert_yaxis()
    axes.set_xlim(right=max(1.1, 1.12 * max(r.from_meta / r.own for r in costs.rows)))
    figure.supxlabel("seconds of predict_params / seconds of the own initialization", size=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
