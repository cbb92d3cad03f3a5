"""What expanding low-rank recipes costs, against filling memory and against a loop of products.

For the shapes of real models, with random factors of a given rank. The bandwidth of `fill_` is the
roof of anything that writes each element once; a product of rank r also has 2 r operations for each
element, which is what limits a CPU and, at high rank, a GPU.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ghn.benchmarks.predict_cost import MODELS
from ghn.benchmarks.records import Record, make_record
from ghn.benchmarks.timing import median_seconds, threads_of_torch
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph, cached_trace
from ghn.kernels import Layout, LowRank, expand_all_out
from ghn.kernels.dispatch import explain
from ghn.kernels.many import Precision
from ghn.kernels.ops import backward_op
from ghn.kernels.plan import encode
from ghn.pages.pictures import picture
from ghn.pages.plots import COLOURS
from ghn.rng import make_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CASES", "CPU_CASES", "Case", "Expansion", "Expansions", "draw_roofline", "measure"]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        model: Name in `ghn.benchmarks.predict_cost.MODELS`.
        rank: Rank of all factors.
        dtype: Type of factors and results.
        precision: How a GPU multiplies float32 factors; without effect on a CPU.
    """

    model: str
    rank: int = 32
    dtype: str = "float32"
    precision: Precision = "ieee"


CPU_CASES = tuple(Case(m) for m in ("resnet50", "vit_base_patch16_224", "gpt2-large"))
"""What a CPU is measured on."""

CASES = (
    *(Case(m, 32, "bfloat16") for m in ("resnet50", "vit_base_patch16_224", "gpt2-large")),
    *(Case(m, 32, "float32", "tf32x3") for m in ("resnet50", "vit_base_patch16_224")),
    *(Case(m, 32, "float32", "ieee") for m in ("resnet50", "vit_base_patch16_224")),
    *(Case(m, 256, "bfloat16") for m in ("vit_base_patch16_224", "gpt2-large")),
)
"""What a GPU is measured on."""


@dataclasses.dataclass(frozen=True)
class Expansion:
    """One case; times are medians in seconds.

    Attributes:
        case: What was measured.
        gigabytes: Size of all expanded tensors.
        fill: Writing a constant into all of them.
        grouped: `expand_all_out`.
        loop: A product, a rearrangement and a copy for each tensor.
        products: The products alone, each into a buffer that exists.
        backward: The gradients of all factors, by the grouped operator.
    """

    case: Case
    gigabytes: float
    fill: float
    grouped: float
    loop: float
    products: float
    backward: float

    @property
    def share_of_fill(self) -> float:
        """Bandwidth, as a share of that of `fill_`."""
        return self.fill / self.grouped

    @property
    def training_over_bound(self) -> float:
        """Forward and backward, over the time to write W once and read its gradient twice."""
        return (self.grouped + self.backward) / (3.0 * self.fill)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types, ratios included."""
        return {
            **dataclasses.asdict(self),
            "share_of_fill": self.share_of_fill,
            "loop_over_grouped": self.loop / self.grouped,
            "products_over_grouped": self.products / self.grouped,
            "training_over_bound": self.training_over_bound,
        }


@dataclasses.dataclass(frozen=True)
class Expansions:
    """All rows, with what ran and where they come from."""

    rows: list[Expansion]
    backend: str
    record: Record

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        rows = [row.to_dict() for row in self.rows]
        return {"rows": rows, "backend": self.backend, "record": self.record.to_dict()}


def measure(
    cases: Sequence[Case],
    device: str = "cpu",
    repeats: int = 5,
    threads: int = 2,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> Expansions:
    """Measure cases on a device.

    Args:
        cases: What to measure.
        device: `"cpu"` or a CUDA device.
        repeats: Repetitions after one that does not count; medians are reported.
        threads: Threads of torch on a CPU.
        progress: Called with (cases done, cases in all, model).

    Raises:
        ConfigError: If there is no such device, or a model is not in `MODELS`.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={device!r}, but torch sees no GPU here")
    unknown = sorted({case.model for case in cases} - set(MODELS))
    if unknown:
        raise ConfigError(f"models must be among {', '.join(MODELS)}, got {', '.join(unknown)}")
    rows = []
    with threads_of_torch(threads):
        for done, case in enumerate(cases):
            progress(done, len(cases), case.model)
            rows.append(_measure_one(case, torch.device(device), repeats))
        progress(len(cases), len(cases), "")
        command = f"ghn bench kernels --device {device} --repeats {repeats} --threads {threads}"
        return Expansions(rows, explain(device), make_record(command))


def _measure_one(case: Case, device: torch.device, repeats: int) -> Expansion:
    with torch.device("meta"):
        graph = cached_trace(MODELS[case.model]())
    dtype: torch.dtype = getattr(torch, case.dtype)
    recipes = _random_recipes(graph, case.rank, device, dtype)
    outs = [torch.empty(r.layout.shape, device=device, dtype=dtype) for r in recipes]
    buffers = [r.left.new_empty(r.left.shape[0], r.right.shape[1]) for r in recipes]
    tensors, plan = encode(recipes)

    def fill() -> None:
        for out in outs:
            out.fill_(1.0)

    def grouped() -> None:
        expand_all_out(recipes, outs, precision=case.precision)

    def loop() -> None:
        for recipe, out in zip(recipes, outs, strict=True):
            out.copy_(_rearranged(recipe.left @ recipe.right, recipe))

    def products() -> None:
        for recipe, buffer in zip(recipes, buffers, strict=True):
            torch.mm(recipe.left, recipe.right, out=buffer)

    def backward() -> None:
        backward_op(outs, tensors, plan, case.precision)

    works = {
        work.__name__: functools.partial(_finish, work, device)
        for work in (fill, grouped, loop, products, backward)
    }
    times = median_seconds(works, repeats)
    size = sum(out.numel() * out.element_size() for out in outs)
    return Expansion(case, size / 1e9, **times)


def _random_recipes(
    graph: ParamGraph, rank: int, device: torch.device, dtype: torch.dtype
) -> list[LowRank]:
    """Return random factors for every parameter with more than one column, as the decoder folds."""
    generator = make_generator(0, "bench kernels")
    recipes = []
    for spec in graph.specs.values():
        layout = Layout(spec.shape, spec.axes)
        if layout.cols < 2 or not spec.numel:
            continue
        p, q = (1, layout.kernel) if layout.rows >= layout.cols else (layout.kernel, 1)
        left = torch.randn(layout.rows * p, rank, generator=generator)
        right = torch.randn(rank, layout.cols * q, generator=generator)
        recipes.append(LowRank(left.to(device, dtype), right.to(device, dtype), layout))
    return recipes


def _rearranged(product: Tensor, recipe: LowRank) -> Tensor:
    p, q = recipe.folds
    layout = recipe.layout
    split = product.reshape(layout.rows, p, layout.cols, q).transpose(1, 2)
    return layout.to_storage(split.reshape(layout.rows, layout.cols, p * q))


def _finish(work: Callable[[], None], device: torch.device) -> None:
    """Do a piece of work to its end on a device; each starts when the one before is done."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def draw_roofline(result: Expansions, path: str | Path) -> None:
    """Draw the bandwidth of each case against that of `fill_`, in a file of any picture type."""
    with picture(path, (7.0, 0.75 * len(result.rows) + 1.4)) as figure:
        _fill(figure, result)


def _fill(figure: Figure, result: Expansions) -> None:
    axes = figure.subplots()
    places = range(len(result.rows))
    for shift, label, color, times in (
        (-0.25, "fill_: the roof", COLOURS[0], [r.fill for r in result.rows]),
        (0.0, "grouped expansion", COLOURS[1], [r.grouped for r in result.rows]),
        (0.25, "loop of product, rearrangement, copy", COLOURS[2], [r.loop for r in result.rows]),
    ):
        speeds = [r.gigabytes / t for r, t in zip(result.rows, times, strict=True)]
        bars = axes.barh([p + shift for p in places], speeds, 0.24, label=label, color=color)
        axes.bar_label(bars, fmt="%.1f", padding=3)
    labels = [f"{r.case.model}\n{r.case.dtype}, rank {r.case.rank}" for r in result.rows]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    figure.supxlabel("gigabytes written a second", size=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper right", ncols=3, fontsize=9)
