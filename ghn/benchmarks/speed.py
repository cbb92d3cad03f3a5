"""How long tracing and predicting take, as ratios within one run.

Tracing is compared with one real forward pass in evaluation mode at batch 1, predicting (tracing
included, loading the checkpoint excluded) with the model's own default construction. All four are
timed in turn, so that a machine that slows down slows them alike.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ghn.benchmarks.records import Record, make_record
from ghn.benchmarks.timing import clock, threads_of_torch

__all__ = ["TARGETS", "SpeedResult", "SpeedRow", "measure_speed"]

TARGETS = (
    "timm:resnet50",
    "timm:vit_base_patch16_224",
    "timm:swin_base_patch4_window7_224",
    "timm:convnext_base",
    "transformers:gpt2",
)
WARM_UP = "timm:resnet18"
TOKENS = 128  # length of a text model's input


@dataclasses.dataclass(frozen=True)
class SpeedRow:
    """Median seconds for one model.

    Attributes:
        model: Name as the command line takes it.
        elements: Number of the parameters' elements.
        construct: Building the model with its own initialization.
        forward: One forward pass in evaluation mode at batch 1.
        trace: `trace(model)`.
        predict: `predict_params(model)`.
    """

    model: str
    elements: int
    construct: float
    forward: float
    trace: float
    predict: float


@dataclasses.dataclass(frozen=True)
class SpeedResult:
    """All rows, with where they come from.

    Attributes:
        rows: One a model.
        hypernetwork: Size of the hypernetwork that predicted, in words.
        record: Command, machine, versions.
    """

    rows: list[SpeedRow]
    hypernetwork: str
    record: Record

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types, ratios included."""
        rows = [
            {
                **dataclasses.asdict(r),
                "trace_over_forward": r.trace / r.forward,
                "predict_over_construct": r.predict / r.construct,
            }
            for r in self.rows
        ]
        return {
            "rows": rows,
            "hypernetwork": self.hypernetwork,
            "record": self.record.to_dict(),
        }


def measure_speed(
    models: tuple[str, ...] = TARGETS,
    repeats: int = 5,
    threads: int = 2,
    checkpoint: str | None = None,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> SpeedResult:
    """Time every model, after a warm-up on another one.

    Args:
        models: Names as the command line takes them.
        repeats: Repetitions; medians are reported.
        threads: Threads of torch; set back at the end.
        checkpoint: Checkpoint to predict from; None for the embedded default.
        progress: Called with (models done, models in all, name).
    """
    rows = []
    with threads_of_torch(threads):
        _measure(WARM_UP, 1, checkpoint)
        for done, model in enumerate(models):
            progress(done, len(models), model)
            rows.append(_measure(model, repeats, checkpoint))
        progress(len(models), len(models), "")
        words = [f"--model {m}" for m in models] + [f"--repeats {repeats} --threads {threads}"]
        command = " ".join(["ghn bench speed", *words])
        return SpeedResult(rows, _describe(checkpoint), make_record(command))


def _describe(checkpoint: str | None) -> str:
    """Say in words which hypernetwork predicts."""
    from ghn.engine import embedded_checkpoints, load_ghn

    name = checkpoint or next(iter(embedded_checkpoints()))
    ghn = load_ghn(name)
    count = sum(p.numel() for p in ghn.parameters())
    return (
        f"{name}: {count:,} parameters, encoder {ghn.config.encoder}, decoder {ghn.config.decoder}"
    )


def _measure(name: str, repeats: int, checkpoint: str | None) -> SpeedRow:
    from ghn.engine import predict_params
    from ghn.graphs import trace
    from ghn.zoo.library import resolve_model

    inputs = torch.zeros(1, TOKENS, dtype=torch.long) if name.startswith("transformers:") else None
    times: dict[str, list[float]] = {"construct": [], "forward": [], "trace": [], "predict": []}
    elements = 0
    for _ in range(repeats):
        seconds, model = clock(functools.partial(resolve_model, name))
        times["construct"].append(seconds)
        elements = sum(p.numel() for p in model.parameters())
        forward = _forward(model.eval(), inputs)
        forward()  # the first pass allocates and prepares
        times["forward"].append(clock(forward)[0])
        times["trace"].append(clock(functools.partial(trace, model, inputs))[0])
        predict = functools.partial(
            predict_params, model, inputs, checkpoint=checkpoint, unsupported="predict", seed=0
        )
        times["predict"].append(clock(predict)[0])
    return SpeedRow(name, elements, **{k: statistics.median(v) for k, v in times.items()})


def _forward(model: nn.Module, inputs: Any) -> Callable[[], Any]:
    from ghn.graphs.inputs import candidates

    args, kwargs = next(candidates(model, inputs)).on(torch.device("cpu"))

    def run() -> Any:
        with torch.no_grad():
            return model(*args, **kwargs)

    return run
