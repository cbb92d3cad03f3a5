"""How many channels of a model can be permuted, and whether its function stays.

Every set of tied channels is permuted at random, in float64 and with random weights and statistics,
so that a wrong permutation shows. Of the output channels of all convolutions and linear layers the
share is counted that is in a set; those that make the logits cannot be. Beside it, where it is
installed, the same for the groups of torch-pruning.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghn.benchmarks.processes import Failure, Limits, run_each
from ghn.benchmarks.records import Record, make_record
from ghn.benchmarks.ties_reference import permute_groups
from ghn.graphs import shuffle_channels
from ghn.graphs.trace import trace_with_inputs
from ghn.rng import make_generator
from ghn.zoo.library import resolve_model

__all__ = [
    "MODELS",
    "Outcome",
    "TiesReport",
    "TiesRow",
    "measure_model",
    "measure_ties",
    "randomise",
]

_NAMES = (
    "resnet18 resnet50 resnext50_32x4d seresnet50 ecaresnet26t resnest14d skresnet18 "
    "res2net50_26w_4s resnetv2_50 nf_resnet50 regnetx_002 regnety_002 mobilenetv2_100 "
    "mobilenetv3_small_100 mobilenetv4_conv_small efficientnet_b0 mnasnet_small ghostnet_100 "
    "lcnet_050 densenet121 vgg11_bn dla34 dpn68 hrnet_w18_small inception_v3 xception41 "
    "cspresnet50 ese_vovnet19b_dw convnext_tiny convnextv2_atto convmixer_768_32 "
    "poolformer_s12 mixer_s32_224 gmlp_s16_224 resmlp_12_224 vit_tiny_patch16_224 "
    "deit_tiny_distilled_patch16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 "
    "cait_xxs24_224 pvt_v2_b0 mobilevit_xxs efficientformer_l1 levit_128s edgenext_xx_small "
    "crossvit_tiny_240 twins_svt_small repvgg_a0 rexnet_100 visformer_tiny"
)
MODELS = tuple(f"timm:{name}" for name in _NAMES.split())
"""Fifty models of as many kinds."""

LIMITS = Limits(seconds=600.0, gigabytes=12.0)
UNCHANGED = 1e-8  # largest relative change of logits in float64 that counts as rounding


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one library did with one model.

    Attributes:
        share: Share of the output channels of convolutions and linear layers that it permuted.
        change: Largest change of a logit, over the largest logit.
        seconds: Time to find the sets.
        error: What was raised; empty if nothing was.
    """

    share: float = 0.0
    change: float = 0.0
    seconds: float = 0.0
    error: str = ""

    @property
    def unchanged(self) -> bool:
        """Whether all was found and the model computes what it did."""
        return not self.error and self.share > 0.0 and self.change < UNCHANGED


@dataclasses.dataclass(frozen=True)
class TiesRow:
    """One model: this library's outcome, and that of torch-pruning if it is installed."""

    model: str
    ours: Outcome
    reference: Outcome | None


@dataclasses.dataclass(frozen=True)
class TiesReport:
    """All rows, and where they come from."""

    rows: list[TiesRow]
    record: Record

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "record": self.record.to_dict(),
        }


def measure_ties(
    models: Sequence[str] = MODELS,
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> TiesReport:
    """Permute the channels of models and see what became of their functions.

    Args:
        models: Names as on the command line.
        seed: Of weights, inputs and permutations.
        jobs: Number of models at a time, each in a process of its own.
        progress: Called with (runs done, runs in all, model).
    """
    found: dict[tuple[str, bool], Outcome | None] = {}
    for reference in (False, True):
        work = functools.partial(measure_model, seed=seed, reference=reference)
        for name, outcome in run_each(work, models, jobs, LIMITS):
            lost = isinstance(outcome, Failure)
            found[name, reference] = Outcome(error=outcome.text) if lost else outcome
            progress(len(found), 2 * len(models), name)
    rows = [TiesRow(m, found[m, False] or Outcome(), found[m, True]) for m in models]
    return TiesReport(rows, make_record(f"ghn bench ties --seed {seed}", (seed,)))


def measure_model(name: str, seed: int = 0, reference: bool = False) -> Outcome | None:
    """Permute the channels of one model; see `measure_ties`.

    Args:
        name: As on the command line.
        seed: Of weights, inputs and permutations.
        reference: Whether by torch-pruning.

    Returns:
        The outcome; None if torch-pruning is not installed.
    """
    try:
        return _outcome(name, seed, permute_groups if reference else _shuffled)
    except ImportError:
        return None


def _shuffled(model: nn.Module, inputs: Sequence[Any], seed: int) -> dict[str, Tensor]:
    """Permute all channels; return which output channels of each weight took part."""
    took_part: dict[str, Tensor] = {}
    sizes = {name: len(p) for name, p in model.named_parameters() if p.ndim}
    for channels in shuffle_channels(model, tuple(inputs), seed=seed):
        for tied in channels.axes:
            if tied.axis == 0 and tied.name in sizes:
                mask = took_part.setdefault(tied.name, torch.zeros(sizes[tied.name]).bool())
                mask[torch.from_numpy(tied.index).flatten()] = True
    return took_part


def _outcome(
    name: str, seed: int, permute: Callable[[nn.Module, Sequence[Any], int], dict[str, Tensor]]
) -> Outcome:
    model = resolve_model(name).double().eval()
    randomise(model, seed)
    inputs = _inputs(model, seed)
    try:
        before = _logits(model, inputs)
        start = time.perf_counter()
        took_part = permute(model, inputs, seed)
        seconds = time.perf_counter() - start
        after = _logits(model, inputs)
    except ImportError:
        raise
    except Exception as error:  # whatever a library raises is its outcome
        return Outcome(error=f"{type(error).__name__}: {error}"[:200])
    change = float((before - after).abs().max() / before.abs().max())
    return Outcome(_share(model, took_part), change, seconds)


def _share(model: nn.Module, took_part: dict[str, Tensor]) -> float:
    layers = (nn.Linear, nn.modules.conv._ConvNd)
    weights = {
        f"{name}.weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, layers)
    }
    total = sum(len(weight) for weight in weights.values())
    moved = sum(int(mask.sum()) for name, mask in took_part.items() if name in weights)
    return moved / max(total, 1)


def _inputs(model: nn.Module, seed: int) -> tuple[Tensor, ...]:
    found = trace_with_inputs(model).inputs
    generator = make_generator(seed, "inputs")
    return tuple(torch.randn(a.shape, dtype=torch.float64, generator=generator) for a in found.args)


@torch.no_grad()
def _logits(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    output = model(*inputs)
    return output if isinstance(output, Tensor) else output[0]


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Give a model weights of about unit gain, gains and biases that differ, and statistics."""
    generator = make_generator(seed, "weights")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            fan_in = max(parameter[0].numel(), 1)
            parameter.normal_(0.0, (1.5 / fan_in) ** 0.5, generator=generator)
        else:
            parameter.uniform_(0.5, 1.5, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0, generator=generator)
        elif name.endswith("running_mean"):
            buffer.normal_(0.0, 0.5, generator=generator)
