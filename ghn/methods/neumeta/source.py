"""The trained full network of a benchmark, and what its body makes of the data, computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ghn.data import normalize
from ghn.engine.select import Generate
from ghn.errors import CheckpointError
from ghn.io import read_tensors, write_tensors
from ghn.methods.neumeta.benchmarks import SPLITS, Benchmark
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.descend import Losses, run_in
from ghn.methods.neumeta.family import Family
from ghn.methods.neumeta.features import AT_ONCE, Examples, Features
from ghn.methods.neumeta.fit import Progress
from ghn.methods.neumeta.tasks import Task
from ghn.rng import make_generator, preserve_global_state

__all__ = ["Source", "source_of"]

KIND = "source"


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
        _train(network, benchmark, train, seed, progress, precision)
        write_tensors(path, network.state_dict(), KIND, header)
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


def _train(
    network: nn.Module,
    benchmark: Benchmark,
    data: Examples,
    seed: int,
    progress: Progress,
    precision: str,
) -> None:
    if not benchmark.steps:
        return
    generator = make_generator(seed, "source")
    optimizer = benchmark.optimizer(network.parameters(), benchmark.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, benchmark.rate, total_steps=benchmark.steps
    )
    objective = benchmark.task.objective or _plain(benchmark.task)
    network.train()
    losses = Losses(
        benchmark.steps,
        lambda done, loss: progress(done, benchmark.steps, f"full network, loss {loss:.3f}"),
    )
    for _ in range(benchmark.steps):
        index = torch.randint(len(data), (benchmark.batch,), generator=generator)
        images, labels = data.take(index)
        if benchmark.vary is not None:
            images, labels = benchmark.vary(images, labels, generator)
        inputs = normalize(images).contiguous(memory_format=torch.channels_last)
        call = partial(objective, network, inputs, labels, generator)
        loss = run_in(precision, inputs.device, call)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.add(loss)


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
