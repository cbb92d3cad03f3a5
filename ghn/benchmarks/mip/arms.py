"""The four ways to give a hypernetwork its number, and how one of them is trained and scored.

Shape letters used in this file:
    R: runs. G: conditions of a batch. b: images of each. D: numbers of an image.
    z: numbers of noise. N: images.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from ghn.benchmarks.mip.tasks import TASKS, images_of
from ghn.conditioning import ValuesConfig
from ghn.decoders import DenseDecoderConfig
from ghn.engine import GHN, BaseConfig, GHNConfig, diagnose_magnitude
from ghn.engine.run import run_batch
from ghn.graphs import ParamGraph, trace
from ghn.rng import make_generator, preserve_global_state

__all__ = ["ARMS", "Piece", "RowAdam", "Trained", "constant_loss", "initial_slope", "train"]

ARMS = {
    "default": (False, False),
    "encoding only": (True, False),
    "base only": (False, True),
    "MIP": (True, True),
}
"""For each arm whether its number is a point of a circle, and whether changes add to a base."""
HIDDEN = (256, 32)
CONDITIONS, IMAGES = 8, 16  # of a step
GRID = 11  # conditions that losses are taken at
SCORED = 500  # images at a time


@dataclasses.dataclass(frozen=True)
class Piece:
    """An arm on a task, at all rates and with all seeds: runs that are trained side by side.

    Attributes:
        task: Name in `TASKS`.
        arm: Name in `ARMS`.
        rates: Learning rates of Adam.
        seeds: Of initial weights, of images and of noise; conditions are the same for all.
        steps: Number of steps.
        tests: Number of times that losses are taken, the last step included.
    """

    task: str
    arm: str
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    steps: int
    tests: int


@dataclasses.dataclass(frozen=True)
class Trained:
    """What one run gave; infinite where a loss was not finite.

    Attributes:
        rate: Learning rate.
        seed: The seed.
        curve: Pairs (step, loss on validation data).
        test: Loss on test data in the end.
    """

    rate: float
    seed: int
    curve: list[tuple[int, float]]
    test: float

    @property
    def val(self) -> float:
        """Loss on validation data in the end."""
        return self.curve[-1][1]


def build(task: str, arm: str, seed: int) -> tuple[GHN, ParamGraph, torch.nn.Module]:
    """Return a new hypernetwork for a task, the graph of the task's network, and the network."""
    circle, has_base = ARMS[arm]
    found = TASKS[task]
    with preserve_global_state():
        torch.manual_seed(seed)
        network = found.network()
        images, noise = images_of(task, "fit")[:2], torch.zeros(2, found.noise)
        inputs = found.inputs(images[None], noise[None], torch.zeros(1))
        graph = trace(network, tuple(tensor[0] for tensor in inputs))
        condition = ValuesConfig(encoding="circle" if circle else "raw")
        config = GHNConfig(
            encoder=None,
            condition=condition,
            decoder=DenseDecoderConfig(
                dim=condition.dim, hidden=HIDDEN, outputs=graph.num_parameters
            ),
            base=BaseConfig() if has_base else None,
            magnitude="plain",
        )
        ghn = GHN(config)
    if ghn.base is not None:
        ghn.base.hold(network)
    return ghn, graph, network


def initial_slope(task: str, arm: str, seed: int) -> float:
    """Return the slope of the emitted change before training; see `ghn.diagnose_magnitude`."""
    ghn, graph, _ = build(task, arm, seed)
    return diagnose_magnitude(ghn, graph).slope


def train(piece: Piece) -> list[Trained]:
    """Train runs with Adam at constant rates, and take losses on validation data along the way.

    The runs are rows of stacked weights, so that one call serves all of them; nothing of a row
    enters another one.
    """
    runs = [(rate, seed) for rate in piece.rates for seed in piece.seeds]
    side = SideBySide(piece.task, piece.arm, [seed for _, seed in runs])
    optimizer = RowAdam(side.weights, piece.rates)
    draws = [make_generator(seed, "batches", piece.task) for seed in piece.seeds]
    numbers = make_generator(0, "conditions", piece.task)
    due = {round(piece.steps * (i + 1) / piece.tests) for i in range(piece.tests)}
    curve = []
    for step in range(1, piece.steps + 1):
        drawn = [_draw(piece.task, generator) for generator in draws]
        images, noise = (
            torch.stack(part).repeat(len(piece.rates), 1, 1, 1) for part in zip(*drawn, strict=True)
        )
        side.losses(images, noise, torch.rand(CONDITIONS, generator=numbers)).sum().backward()
        optimizer.step()
        if step in due:
            curve.append((step, side.scores("val")))
    tests = side.scores("test")
    return [
        Trained(rate, seed, [(step, losses[i]) for step, losses in curve], tests[i])
        for i, (rate, seed) in enumerate(runs)
    ]


def _draw(task: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the images and the noise of a step."""
    images = images_of(task, "fit")
    places = torch.randint(len(images), (CONDITIONS, IMAGES), generator=generator)
    noise = torch.randn(CONDITIONS, IMAGES, TASKS[task].noise, generator=generator)
    return images[places], noise


class SideBySide:
    """Hypernetworks of one arm as rows of stacked weights.

    Args:
        task: Name in `TASKS`.
        arm: Name in `ARMS`.
        seeds: Of the initial weights, one a row.
    """

    def __init__(self, task: str, arm: str, seeds: list[int]) -> None:
        built = [build(task, arm, seed) for seed in seeds]
        self.task = task
        self.ghn, self.graph, self.network = built[0]
        self.weights, self.buffers = stack_module_state([ghn for ghn, _, _ in built])

    def losses(
        self,
        images: Float[Tensor, "R G b D"],
        noise: Float[Tensor, "R G b z"],
        g: Float[Tensor, " G"],
    ) -> Float[Tensor, " R"]:
        """Return the loss of each row on its own images and noise; conditions are shared."""
        every: Any = vmap(self._loss, in_dims=(0, 0, 0, 0, None))
        return every(self.weights, self.buffers, images, noise, g)

    def _loss(
        self, weights: Any, buffers: Any, images: Tensor, noise: Tensor, g: Tensor
    ) -> Float[Tensor, ""]:
        found = TASKS[self.task]
        arguments = (self.graph, g[:, None])
        parameters = functional_call(self.ghn, {**weights, **buffers}, arguments)
        inputs = found.inputs(images, noise, g)
        output = run_batch(self.network, parameters, inputs, shared=False)[0]
        return found.loss(output, images, g).mean()

    @torch.no_grad()
    def scores(self, split: str) -> list[float]:
        """Return each row's mean loss over a grid of conditions; all see one set of images.

        Args:
            split: `"test"`, all of it, or `"val"`, its first images.
        """
        images = images_of(self.task, split)[: None if split == "test" else SCORED]
        shape = (len(images), TASKS[self.task].noise)
        noise = torch.randn(shape, generator=make_generator(0, "noise", split))
        g = torch.linspace(0, 1, GRID)
        every: Any = vmap(self._loss, in_dims=(0, 0, None, None, None))
        total = torch.zeros(())
        for part in zip(images.split(SCORED), noise.split(SCORED), strict=True):
            tensors = [tensor.expand(GRID, *tensor.shape) for tensor in part]
            losses = every(self.weights, self.buffers, *tensors, g)
            total = total + losses * (len(part[0]) / len(images))
        return [loss if math.isfinite(loss) else math.inf for loss in total.tolist()]


class RowAdam:
    """One Adam for each rate, over the rows of stacked weights that have that rate.

    Args:
        weights: By name, each with a leading axis of as many rows for each rate.
        rates: The rates.
    """

    def __init__(self, weights: dict[str, Any], rates: tuple[float, ...]) -> None:
        self.weights = [weight for weight in weights.values() if weight.requires_grad]
        self.parts = [weight.detach().chunk(len(rates)) for weight in self.weights]
        self.optimizers = [
            torch.optim.Adam(part, lr=rate, fused=True)
            for part, rate in zip(zip(*self.parts, strict=True), rates, strict=True)
        ]

    def step(self) -> None:
        """Change the weights and clear their gradients."""
        for weight, parts in zip(self.weights, self.parts, strict=True):
            for part, gradient in zip(parts, weight.grad.chunk(len(parts)), strict=True):
                part.grad = gradient
            weight.grad = None
        for optimizer in self.optimizers:
            optimizer.step()


def constant_loss(task: str, split: str = "test") -> float:
    """Return the loss of the best constant prediction: the mean training image."""
    images: Float[Tensor, "N D"] = images_of(task, split)
    return float((images - images_of(task, "fit").mean(0)).square().sum(1).mean())
