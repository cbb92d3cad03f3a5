"""Single trainings of the initialization benchmark, each of which is written down in a file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghn.benchmarks.compare import Data, Schedule, logits_of, train
from ghn.benchmarks.init.config import InitConfig
from ghn.benchmarks.init.networks import find_network
from ghn.benchmarks.init.starts import initialize
from ghn.benchmarks.records import machine, versions
from ghn.data import load_images, load_text
from ghn.device import choose_device
from ghn.errors import ConfigError
from ghn.io import write_json
from ghn.pages.page import finite_json
from ghn.rng import derive_seed, make_generator, preserve_global_state
from ghn.training.tasks import ImageTask, Task, TextTask

__all__ = [
    "CHOICE_SEED",
    "Trial",
    "load_bench_data",
    "path_of",
    "run_trial",
    "runs_folder",
    "scored_counts",
    "try_trial",
]

CHOICE_SEED = 0
CLASSES_TOLD = 5


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: a network from one start, at one rate, with one seed.

    Attributes:
        network: Its full name.
        start: Name of the start.
        origin: Digests of the network's file and of what the start takes from one: a checkpoint, a
            trained network.
        rate: Peak learning rate.
        seed: Of batches, draws and the network's own initialization.
    """

    network: str
    start: str
    origin: str
    rate: float
    seed: int


@functools.lru_cache(maxsize=1)
def load_bench_data(config: InitConfig, modality: str) -> Data:
    """Load what the networks are trained and scored on."""
    device = choose_device(config.device)
    tasks: list[Task] = []
    for name, split in ((config.data, "fit"), *config.scored_data):
        if modality == "text":
            tasks.append(TextTask(load_text(name, split), config.context))
        else:
            images = load_images(name, split, config.side).to(device)
            tasks.append(ImageTask(images, config.flip, config.shift))
    train, *tests = tasks
    for test in tests:
        if train.settings != test.settings or _classes(train) != _classes(test):
            raise ConfigError(
                f"{test.name} cannot score networks that are trained on {config.data}: it has "
                f"{_kind(test)}, not {_kind(train)}"
            )
    return Data(train, tests[0], config.scored, tuple(tests[1:]))


def scored_counts(data: Data) -> dict[str, int]:
    """Return by the names of the test data how many of their images or excerpts are scored."""
    return {
        test.name: min(data.scored, len(test.data)) if isinstance(test, ImageTask) else data.scored
        for test in data.tests
    }


def _classes(task: Task) -> tuple[str, ...]:
    return task.data.classes if isinstance(task, ImageTask) else ()


def _kind(task: Task) -> str:
    sizes = ", ".join(f"{name} {value}" for name, value in task.settings.items())
    classes = _classes(task)
    more = ", ..." if len(classes) > CLASSES_TOLD else ""
    return f"{sizes} ({', '.join(classes[:CLASSES_TOLD])}{more})" if classes else sizes


def try_trial(config: InitConfig, trial: Trial) -> dict[str, Any] | str:
    """Run a trial; return its result, or in words why the network cannot be trained."""
    try:
        return run_trial(config, trial)
    except Exception as error:  # a model's own code raises anything
        return f"{type(error).__name__}: {error}"


def run_trial(config: InitConfig, trial: Trial) -> dict[str, Any]:
    """Build, initialize and train one network; write the result down and return it.

    It depends on nothing but its arguments. Trials that a rate is chosen by are not scored.
    """
    network = find_network(trial.network, config.side)
    data = load_bench_data(config, network.modality)
    model = network.build(data.train.settings, trial.seed)
    inputs, labels = data.train.batch(config.batch, make_generator(trial.seed, "start"))
    _check_model(model, inputs[:2].cpu(), labels[:2], data.train.settings)
    with preserve_global_state(derive_seed(trial.seed, "start")):
        notes = initialize(model, trial.start, network, inputs.cpu(), trial.seed, config)
    device = choose_device(config.device)
    model.to(device)
    tests = 0 if trial.seed == CHOICE_SEED else config.tests
    schedule = Schedule(
        steps=config.steps,
        batch=config.batch,
        rate=trial.rate,
        tests=tests,
        clip=config.clip,
        mixed_precision=config.mixed_precision,
        cuda_graphs=config.cuda_graphs,
    )
    run = train(model, data, schedule, trial.seed)
    result = {
        "trial": dataclasses.asdict(trial),
        "run": finite_json(dataclasses.asdict(run)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "notes": notes,
        "trained on": _place(device),
        "trained with": _libraries(),
    }
    write_json(path_of(config, trial), result)
    return result


def _place(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else machine()["processor"]


def _libraries() -> str:
    found = versions()
    return ", ".join(f"{name} {found[name]}" for name in ("ghn", "torch", "timm", "transformers"))


@torch.no_grad()
def _check_model(model: nn.Module, inputs: Tensor, labels: Tensor, data: dict[str, Any]) -> None:
    """Raise an error if a network has nothing to train, or emits no logits of all classes."""
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("it has no parameter that could be trained")
    output = logits_of(model.eval()(inputs))
    if not isinstance(output, Tensor) or output.shape[:-1] != labels.shape:
        found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(f"it emits {found}, not logits of shape {[*labels.shape, 'classes']}")
    needed = data.get("classes") or data["vocabulary"]
    if output.shape[-1] < needed:  # on a GPU the loss would take the whole process with it
        raise ConfigError(f"it emits {output.shape[-1]} logits, the data have {needed} classes")


def path_of(config: InitConfig, trial: Trial) -> Path:
    """Return where a trial's result is kept."""
    name = hashlib.blake2b(repr(trial).encode(), digest_size=8).hexdigest()
    return runs_folder(config) / f"{name}.json"


def runs_folder(config: InitConfig) -> Path:
    """Return the folder of single runs."""
    return Path(config.out) / "runs"
