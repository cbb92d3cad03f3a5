"""Sequences of tasks: what each is trained and scored on, and the network that learns them.

Shape letters used in this file:
    N: inputs. b: inputs of a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ghn.data import ImageData, augment, load_images, normalize
from ghn.errors import ConfigError, InputError, MissingExtraError
from ghn.methods.continual.networks import ResNet32, convnet, perceptron
from ghn.registry import Registry
from ghn.rng import make_generator

__all__ = ["BENCHMARKS", "Batches", "Benchmark", "TaskData", "from_avalanche"]

SCORED_AT_ONCE = 500


class Batches:
    """Labelled data in batches, in a new order each time that they are gone through.

    Orders depend on the seed and on how often it was gone through since `restart`.

    Args:
        inputs: All of them: floats, or bytes of images.
        labels: Their classes.
        size: Inputs of a batch; the last ones of a pass are left out if they are fewer.
        seed: Of the orders; None keeps the order and all inputs.
        augmented: Whether images are flipped and shifted at random.
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Int64[Tensor, " N"],
        size: int,
        seed: int | None = None,
        augmented: bool = False,
    ) -> None:
        self.inputs, self.labels, self.size = inputs, labels, size
        self.seed, self.augmented = seed, augmented
        self._passes = 0

    def restart(self) -> None:
        """Begin with the first order again."""
        self._passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Int64[Tensor, " b"]]]:
        if self.seed is None:
            parts = torch.arange(len(self.labels)).split(self.size)
            yield from ((_as_floats(self.inputs[i]), self.labels[i]) for i in parts)
            return
        generator = make_generator(self.seed, "order", self._passes)
        self._passes += 1
        order = torch.randperm(len(self.labels), generator=generator)
        whole = max(len(order) // self.size, 1)
        for index in order[: whole * self.size].split(self.size):
            inputs = self.inputs[index]
            if self.augmented:
                inputs = augment(inputs, generator)
            yield _as_floats(inputs), self.labels[index]


def _as_floats(inputs: Tensor) -> Float[Tensor, "b ..."]:
    return normalize(inputs) if inputs.dtype == torch.uint8 else inputs


@dataclasses.dataclass(frozen=True)
class TaskData:
    """One task.

    Attributes:
        name: Its name.
        train: What it is learned from.
        test: What it is scored on.
        classes: The outputs of the network that are its classes; None: all.
    """

    name: str
    train: Iterable[Any]
    test: Iterable[Any]
    classes: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A sequence of tasks with a network, and the settings that were chosen for each method.

    Attributes:
        summary: What it is, in a line.
        count: Number of tasks.
        network: Builds the network of a width; 1.0 is the benchmark's own.
        tasks: From a seed, the names of the splits to train and score on, and the size of batches
            to the tasks.
        settings: For each method, settings that differ from the defaults; chosen by the accuracy on
            the `val` split, training on `fit`.
        batch: Inputs in a batch.
        data: Names of the data.
    """

    summary: str
    count: int
    network: Callable[[float], nn.Module]
    tasks: Callable[[int, tuple[str, str], int], list[TaskData]]
    settings: dict[str, dict[str, Any]]
    batch: int
    data: tuple[str, ...]


BENCHMARKS: Registry[Benchmark] = Registry("benchmark")
"""Sequences of tasks by name."""


def _vectors(data: ImageData) -> Float[Tensor, "N d"]:
    """Return grey images as vectors."""
    return normalize(data.images[:, :1]).flatten(1)


def _permuted(
    name: str, side: int, count: int
) -> Callable[[int, tuple[str, str], int], list[TaskData]]:
    """Make tasks that differ in a fixed permutation of the pixels; the first has none."""

    def tasks(seed: int, splits: tuple[str, str], batch: int) -> list[TaskData]:
        train, test = (load_images(name, split, side) for split in splits)
        found = []
        for number in range(count):
            order = torch.randperm(side**2, generator=make_generator(seed, "pixels", number))
            order = order if number else torch.arange(side**2)
            found.append(
                TaskData(
                    f"permutation {number}",
                    Batches(_vectors(train)[:, order], train.labels, batch, seed=seed),
                    Batches(_vectors(test)[:, order], test.labels, SCORED_AT_ONCE),
                )
            )
        return found

    return tasks


def _split(
    name: str, side: int, each: int, flat: bool
) -> Callable[[int, tuple[str, str], int], list[TaskData]]:
    """Make tasks of a few classes each, numbered from 0 within the task."""

    def tasks(seed: int, splits: tuple[str, str], batch: int) -> list[TaskData]:
        halves = [load_images(name, split, side) for split in splits]
        found = []
        for first in range(0, len(halves[0].classes), each):
            parts = [d.take((d.labels >= first) & (d.labels < first + each)) for d in halves]
            inputs = [_vectors(d) if flat else d.images for d in parts]
            labels = [d.labels - first for d in parts]
            last = first + each - 1
            found.append(
                TaskData(
                    f"classes {first} to {last}",
                    Batches(inputs[0], labels[0], batch, seed=seed),
                    Batches(inputs[1], labels[1], SCORED_AT_ONCE),
                )
            )
        return found

    return tasks


def _cifar_tens(seed: int, splits: tuple[str, str], batch: int) -> list[TaskData]:
    """Make CIFAR-10 the first task, then five tasks of ten of CIFAR-100's classes."""
    found = []
    for number in range(6):
        name = "cifar100" if number else "cifar10"
        first = 10 * max(number - 1, 0)
        halves = [load_images(name, split) for split in splits]
        train, test = (d.take((d.labels >= first) & (d.labels < first + 10)) for d in halves)
        shift = 10 * number - first
        found.append(
            TaskData(
                "cifar10" if not number else f"cifar100, classes {first} to {first + 9}",
                Batches(train.images, train.labels + shift, batch, seed=seed, augmented=True),
                Batches(test.images, test.labels + shift, SCORED_AT_ONCE),
                tuple(range(10 * number, 10 * number + 10)),
            )
        )
    return found


# The published hypernetwork for ResNet-32: 457,336 parameters with six tasks.
RESNET_CHUNKED = {
    "encoder": None,
    "condition": {"type": "EmbeddingTableConfig", "dim": 32},
    "decoder": {
        "type": "ChunkedDecoderConfig",
        "dim": 32,
        "hidden": [],
        "chunk": 7000,
        "codes": 67,
        "code_dim": 32,
    },
    "magnitude": "plain",
}
BENCHMARKS.register("split-digits")(
    Benchmark(
        summary="scikit-learn's 8 x 8 digits, five tasks of two classes; 64-50-50-2",
        count=5,
        network=lambda width: perceptron(64, 50, 2, width),
        tasks=_split("digits", 8, 2, flat=True),
        settings={"": {"steps": 400}},
        batch=64,
        data=("digits",),
    )
)
BENCHMARKS.register("permuted-digits")(
    Benchmark(
        summary="scikit-learn's 8 x 8 digits, ten permutations of the pixels; 64-50-50-10",
        count=10,
        network=lambda width: perceptron(64, 50, 10, width),
        tasks=_permuted("digits", 8, 10),
        settings={
            "ewc": {"strength": 3000.0},
            "ewc-matched": {"strength": 3000.0},
            "recurrent-16": {"steps": 500},
            "recurrent-48": {"steps": 500},
            "recurrent-grow": {"steps": 500},
        },
        batch=64,
        data=("digits",),
    )
)
BENCHMARKS.register("permuted-mnist")(
    Benchmark(
        summary="MNIST at 14 x 14, ten permutations of the pixels; 196-64-64-10",
        count=10,
        network=lambda width: perceptron(196, 64, 10, width),
        tasks=_permuted("mnist", 14, 10),
        settings={},
        batch=64,
        data=("mnist",),
    )
)
# With the embeddings of five tasks 1.1 times the network's 56,610 parameters.
SMALL = {"size": 62_000}
BENCHMARKS.register("split-cifar10")(
    Benchmark(
        summary="CIFAR-10 at 32 x 32, five tasks of two classes; three normalised convolutions",
        count=5,
        network=lambda width: convnet(2, width),
        tasks=_split("cifar10", 32, 2, flat=False),
        settings={
            "": {"steps": 1600, "cooldown": 0.3},
            "recurrent": SMALL,
            "recurrent-learned": SMALL,
            "recurrent-reset": SMALL,
            "chunked": SMALL,
            "chunked-learned": SMALL,
        },
        batch=64,
        data=("cifar10",),
    )
)


BENCHMARKS.register("resnet32-cifar")(
    Benchmark(
        summary="CIFAR-10, then CIFAR-100 in tens, six tasks of one head of 60; ResNet-32",
        count=6,
        network=lambda width: ResNet32(60, width),
        tasks=_cifar_tens,
        settings={
            "": {"steps": 4000, "rate": 1e-3},
            "chunked-learned": {
                "hypernetwork": RESNET_CHUNKED,
                "anchor": {"beta": 0.05, "reduction": "paper"},
            },
        },
        batch=128,
        data=("cifar10", "cifar100"),
    )
)


def from_avalanche(benchmark: Any, batch: int = 64) -> list[TaskData]:
    """Return the tasks of an Avalanche benchmark; needs the package `avalanche-lib`.

    An experience becomes a task named by its number; its classes are those that occur in it.

    Args:
        benchmark: With `train_stream` and `test_stream` of experiences with task labels.
        batch: Inputs in a batch.

    Raises:
        MissingExtraError: If Avalanche is not installed.
        ConfigError: If the object is no such benchmark.
        InputError: If there is not one test experience for each training one.
    """
    try:
        import avalanche  # type: ignore[import-not-found]  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "from_avalanche needs Avalanche: pip install avalanche-lib"
        ) from error
    from torch.utils.data import DataLoader

    if not (hasattr(benchmark, "train_stream") and hasattr(benchmark, "test_stream")):
        raise ConfigError(
            f"an Avalanche benchmark has train_stream and test_stream, got {type(benchmark)}"
        )
    streams = list(benchmark.train_stream), list(benchmark.test_stream)
    if len(streams[0]) != len(streams[1]):
        raise InputError(
            "from_avalanche needs a test experience for each training one, got "
            f"{len(streams[1])} for {len(streams[0])}; split the test data by task, or make "
            "TaskData of them yourself"
        )
    return [
        TaskData(
            f"experience {train.current_experience}",
            DataLoader(train.dataset, batch_size=batch, shuffle=True),
            DataLoader(test.dataset, batch_size=SCORED_AT_ONCE),
            tuple(sorted(map(int, train.classes_in_this_experience))),
        )
        for train, test in zip(*streams, strict=True)
    ]
