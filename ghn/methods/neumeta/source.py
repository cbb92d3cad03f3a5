"""The trained full network of a benchmark, and what its body makes of the data, computed once."""

from __future__ import annotations

import dataclasses
import shutil
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghn.data import normalize
from ghn.device import run_in
from ghn.engine.select import Generate
from ghn.errors import CheckpointError
from ghn.io import read_tensors, write_tensors
from ghn.methods.neumeta.benchmarks import SPLITS, Benchmark
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.descend import Losses
from ghn.methods.neumeta.family import Family
from ghn.methods.neumeta.features import AT_ONCE, Examples, Features
from ghn.methods.neumeta.fit import Progress
from ghn.methods.neumeta.tasks import Task
from ghn.rng import make_generator, preserve_global_state
from ghn.training.state import load_state, newest, read_state, save_state

__all__ = ["Source", "source_of"]

KIND = "source"
SECONDS = 120.0  # between states of a training


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained network and its features.

    Attributes:
        network: The network.
        task: What it is for.
        train: Features to train on.
        test: Features to score on.
        generate: Which parameters of the tail are generated.
    """

    network: nn.Module
    task: Task
    train: Features
    test: Features
    generate: Generate

    @property
    def tail(self) -> nn.Module:
        """The part that is resized."""
        return self.network.get_submodule("tail")


def source_of(
    benchmark: Benchmark,
    split: str,
    seed: int,
    path: Path,
    device: torch.device,
    progress: Progress,
    config: FamilyConfig,
) -> Source:
    """Return the trained network of a seed, from its file if it was trained before.

    Args:
        benchmark: What it is.
        split: `"test"`, or `"val"` to choose settings by.
        seed: Of weights and batches.
        path: Where it is kept.
        device: Where the network and its features shall be.
        progress: Called with steps done, steps in all, and a text.
        config: Settings of the families to come. Their precision is that of this training, and
            what is wrong with them is told before it.

    Raises:
        CheckpointError: If the file holds a network that was trained otherwise.
    """
    train, test = (benchmark.read(s).to(device) for s in SPLITS[split])
    with preserve_global_state():
        torch.default_generator.manual_seed(seed)
        network = benchmark.network().to(device)
    header = {"summary": benchmark.summary, "steps": benchmark.steps, "data": train.hash}
    header |= {"network": benchmark.identity} if benchmark.identity else {}
    precision = config.mixed_precision
    header |= {"mixed_precision": precision} if precision != "no" else {}
    if path.exists():
        tensors, found = read_tensors(path, KIND)
        differ = [
            f"{key} {found.get(key, 'none')}, not {header.get(key, 'none')}"
            for key in {**header, **found}
            if header.get(key) != found.get(key)
        ]
        if differ:
            raise CheckpointError(
                f"{path} holds a network trained with {'; '.join(differ)}. Choose another --out"
            )
        network.load_state_dict(tensors)
    else:
        _check(network, benchmark, train, config)
        unfinished = path.with_name(f"{path.stem}-training")
        _Training(network, benchmark, seed, unfinished, header).run(train, progress, precision)
        write_tensors(path, network.state_dict(), KIND, header)
        shutil.rmtree(unfinished, ignore_errors=True)
    network.eval()
    body = network.get_submodule("body")
    return Source(
        network=network,
        task=benchmark.task,
        train=_features(body, train, benchmark.batch, seed),
        test=_features(body, test, benchmark.batch, seed),
        generate=benchmark.generate,
    )


@torch.no_grad()
def _check(network: nn.Module, benchmark: Benchmark, data: Examples, config: FamilyConfig) -> None:
    """Make a family of the untrained network: it fails where one of the trained network would."""
    features = network.eval().get_submodule("body")(normalize(data.images[:2]))
    Family(
        network.get_submodule("tail"),
        config,
        generate=benchmark.generate,
        example_inputs=features[0] if isinstance(features, tuple) else features,
    )


class _Training:
    """The training of a full network; one that was stopped goes on with the same bits.

    Args:
        network: Changed in place.
        benchmark: How it is trained.
        seed: Of batches and of what varies them.
        folder: Where its state is kept meanwhile.
        header: What a state must have been written for.
    """

    def __init__(
        self,
        network: nn.Module,
        benchmark: Benchmark,
        seed: int,
        folder: Path,
        header: dict[str, Any],
    ) -> None:
        self.network, self.benchmark = network, benchmark
        self.folder, self.header = folder, header
        self.generator = make_generator(seed, "source")
        self.optimizer = benchmark.optimizer(network.parameters(), benchmark.rate)
        self.step = 0

    def run(self, data: Examples, progress: Progress, precision: str) -> None:
        """Take all steps that are left."""
        benchmark = self.benchmark
        if not benchmark.steps:
            return
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, benchmark.rate, total_steps=benchmark.steps
        )
        self._resume(schedule)
        objective = benchmark.task.objective or _plain(benchmark.task)
        self.network.train()
        begun, saved = self.step, time.monotonic()
        losses = Losses(
            benchmark.steps - begun,
            lambda done, loss: progress(
                begun + done, benchmark.steps, f"full network, loss {loss:.3f}"
            ),
        )
        while self.step < benchmark.steps:
            inputs, labels = self._batch(data)
            call = partial(objective, self.network, inputs, labels, self.generator)
            loss = run_in(precision, inputs.device, call)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            schedule.step()
            losses.add(loss)
            self.step += 1
            if time.monotonic() - saved > SECONDS:
                self._save()
                saved = time.monotonic()

    def _batch(self, data: Examples) -> tuple[Tensor, Tensor]:
        count = (self.benchmark.batch,)
        index = torch.randint(len(data), count, generator=self.generator)
        images, labels = data.take(index)
        if self.benchmark.vary is not None:
            images, labels = self.benchmark.vary(images, labels, self.generator)
        return normalize(images).contiguous(memory_format=torch.channels_last), labels

    def _save(self) -> None:
        draws = self.generator.get_state().numpy().tobytes().hex()
        rest = {"header": self.header, "generator": draws}
        save_state(self.folder, self.step, self.network, [self.optimizer], {}, rest)

    def _resume(self, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
        file = newest(self.folder)
        if file is None or read_state(file)[1].get("header") != self.header:
            return
        rest = load_state(file, self.network, [self.optimizer], {})
        self.step = rest["step"]
        draws = bytearray.fromhex(rest["generator"])
        self.generator.set_state(torch.frombuffer(draws, dtype=torch.uint8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the optimiser's steps were taken before
            for _ in range(self.step):
                schedule.step()


def _plain(task: Task) -> Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]:
    return lambda network, images, labels, generator: task.loss(network(images), labels)


@torch.no_grad()
def _features(body: nn.Module, data: Examples, batch: int, seed: int) -> Features:
    found = [_halved(body(normalize(x))) for x in data.images.split(AT_ONCE * batch)]
    parts = [torch.cat(part) for part in zip(*found, strict=True)]
    return Features(parts[0], data.labels, batch, seed, *parts[1:])


def _halved(features: Tensor | tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return features, and their standard deviations if they have some, in half precision."""
    return [x.half() for x in ([features] if isinstance(features, Tensor) else features)]
