"""`ghn run neumeta`: families and what they are compared with, over widths and seeds.

Every result of an arm, a width and a seed is kept as soon as it is there; a run that was stopped
goes on with what is missing. A family is one file, from which every width is made.
"""

from __future__ import annotations

import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from ghn.config import Config, check_distinct
from ghn.device import choose_device
from ghn.errors import ConfigError
from ghn.io import append_line, atomic_path
from ghn.methods.neumeta.arms import ARMS, Setting
from ghn.methods.neumeta.benchmarks import BENCHMARKS, SPLITS, Benchmark, classes_of
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.fit import Progress
from ghn.methods.neumeta.groups import SizeWarning
from ghn.methods.neumeta.own import name_of, own_benchmark
from ghn.methods.neumeta.report import Result, Row, picture_name
from ghn.methods.neumeta.source import Source, source_of
from ghn.methods.sequence.runs import laid_over
from ghn.pages import encode_png

__all__ = ["RunConfig", "data_of", "run"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Settings of `ghn run neumeta`.

    Attributes:
        benchmark: A network and its data: digits, cifar10, camvid, mnist-vae.
        model: Your own network in place of a benchmark, one that classifies images:
            timm:NAME, torchvision:NAME, path/to/file.py:factory.
        model_args: Arguments of its constructor.
        weights: Its trained state dict, a .safetensors file; empty: it is trained first.
        data: Its images: cifar10, cifar100, mnist, digits, hf:OWNER/NAME, a folder.
        side: Height and width of its images in pixels.
        generate: Its parameters that are resized, as patterns; none: those of the last block.
        arms: What to compare: field, field-on-base, field-on-frozen-base, base-alone, slimmable,
            slimmable-all-widths, individual, pruned-tuned, pruned, interpolated,
            interpolated-smooth, zeroed.
        widths: Shares of the full width at which networks are scored.
        seeds: Seeds; each sets the full network, initial weights and orders.
        split: `"test"`: train on all training data, score on test data; `"val"`: both on training
            data, to choose settings by.
        out: Folder of networks, families and results.
        steps: Steps of each training, in place of the settings' own; 0: those.
        source_steps: Steps of the full network's training; 0: the benchmark's, or 2,000.
        device: Where to compute: `"auto"`, a GPU if there is one, or a name such as `"cpu"` or
            `"cuda:1"`.
        settings: Settings of families, over the benchmark's own.
    """

    benchmark: str = "digits"
    model: str = ""
    model_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""
    data: str = ""
    side: int = 32
    generate: tuple[str, ...] = ()
    arms: tuple[str, ...] = ("field-on-base", "slimmable", "interpolated", "zeroed")
    widths: tuple[float, ...] = (0.125, 0.25, 0.5, 0.66, 0.75, 0.84, 1.0)
    seeds: tuple[int, ...] = (0,)
    split: str = "test"
    out: str = "runs/neumeta"
    steps: int = 0
    source_steps: int = 0
    device: str = "auto"
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if not self.arms or not self.seeds or min(self.steps, self.source_steps) < 0:
            raise ConfigError(f"a run needs an arm, a seed and no negative number, got {self}")
        self._check_model()
        if not self.widths or not all(0 < width <= 1 for width in self.widths):
            raise ConfigError(f"widths must lie above 0 and go up to 1, got {self.widths}")
        check_distinct(arms=self.arms, widths=self.widths, seeds=self.seeds)

    def _check_model(self) -> None:
        further = [self.model_args, self.weights, self.data, self.generate]
        if not self.model and any(further):
            raise ConfigError(
                "model_args, weights, data and generate are for a network of your own: name it "
                "with --model"
            )
        if self.model and not self.data:
            raise ConfigError(
                f"name the images that {self.model} is trained on, like --data cifar10"
            )
        if self.weights and self.source_steps:
            raise ConfigError(
                "source_steps trains a network that comes without weights; leave out one of "
                f"--source-steps {self.source_steps} and --weights {self.weights}"
            )
        if self.side < 1:
            raise ConfigError(f"side is a number of pixels, got {self.side}")

    @property
    def name(self) -> str:
        """Name of the folder of its results."""
        return f"{name_of(self.model) if self.model else self.benchmark}-{self.split}"


def run(config: RunConfig, ticker: Progress | None = None) -> Result:
    """Score arms at all widths.

    Args:
        config: What to run.
        ticker: Called with work done, work in all, and a text.
    """
    benchmark = _benchmark(config)
    device = choose_device(config.device)
    for arm in config.arms:
        ARMS[arm]  # unknown names are told before anything runs, as are wrong settings
    FamilyConfig.from_dict(_settings(config, benchmark, config.seeds[0]))
    folder = Path(config.out) / config.name
    done = _read(folder / "rows.jsonl")
    total = len(config.seeds) * (len(config.arms) + 1)
    for place, seed in enumerate(config.seeds):
        begun = place * (len(config.arms) + 1)
        source: Source | None = None
        for number, arm in enumerate(config.arms, 1):
            settings = _settings(config, benchmark, seed)
            key = _key(arm, seed, benchmark, settings)
            missing = [w for w in config.widths if (*key, w) not in done]
            if not missing:
                continue
            of_family = FamilyConfig.from_dict(settings)
            if source is None:
                path = folder / f"source-{seed}.safetensors"
                tell = _teller(ticker, begun, total, f"seed {seed}")
                source = source_of(benchmark, config.split, seed, path, device, tell, of_family)
            tell = _teller(ticker, begun + number, total, f"seed {seed}, {arm}")
            path = folder / f"{arm}-{seed}.safetensors"
            setting = Setting(source, of_family, path, tell)
            for row in _score(arm, setting, missing):
                done[(*key, row.width)] = row
                append_line(folder / "rows.jsonl", json.dumps([key[2], dataclasses.asdict(row)]))
    keys = [
        (*_key(arm, seed, benchmark, _settings(config, benchmark, seed)), width)
        for arm in config.arms
        for seed in config.seeds
        for width in config.widths
    ]
    title = f"{config.model or config.benchmark} ({benchmark.summary}), {config.split} split"
    return Result(folder.name, title, benchmark.task, [done[key] for key in keys], folder)


def data_of(config: RunConfig) -> dict[str, str]:
    """Return the name and the digest of the data of a run, for its record."""
    if config.model:  # no network is built again for this
        return {config.data: classes_of(config.data, config.side)("test").hash}
    benchmark = BENCHMARKS[config.benchmark]
    return {benchmark.data: benchmark.read("test").hash}


def _score(arm: str, setting: Setting, widths: list[float]) -> Iterator[Row]:
    """Yield the rows of an arm as they are measured; most arms are trained once for all widths."""
    begun = time.perf_counter()
    network, stored = ARMS[arm](setting)
    task = setting.source.task
    for width in widths:
        model = _quietly(network, width)
        if task.picture is not None:
            path = setting.path.parent / picture_name(arm, setting.config.seed, width)
            with atomic_path(path) as temporary:
                temporary.write_bytes(encode_png(task.picture(model, setting.source.test)))
        yield Row(
            arm=arm,
            width=width,
            seed=setting.config.seed,
            score=task.measure(model, setting.source.test),
            parameters=sum(p.numel() for p in model.parameters()),
            stored=stored,
            seconds=time.perf_counter() - begun,
        )
        begun = time.perf_counter()


def _quietly(network: Callable[[float], nn.Module], width: float) -> nn.Module:
    """Make a network; that a width was not trained is what is measured, and needs no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SizeWarning)
        return network(width)


def _benchmark(config: RunConfig) -> Benchmark:
    if config.model:
        found = own_benchmark(
            *(config.model, config.model_args, config.weights),
            *(config.data, config.side, config.generate),
        )
    else:
        found = BENCHMARKS[config.benchmark]
    if config.source_steps:
        found = dataclasses.replace(found, steps=config.source_steps)
    return found


def _settings(config: RunConfig, benchmark: Benchmark, seed: int) -> dict[str, Any]:
    steps = {"steps": config.steps} if config.steps else {}
    last = {"seed": seed, **steps}
    return laid_over([FamilyConfig().to_dict(), benchmark.settings, config.settings, last])


def _key(
    arm: str, seed: int, benchmark: Benchmark, settings: dict[str, Any]
) -> tuple[str, int, str]:
    """Return what a result depends on, apart from its width and what has a folder of its own.

    Arms without training depend on settings too: on the inputs that statistics are measured with. A
    device changes no more than rounding, and is not part of it.
    """
    known = {"source_steps": benchmark.steps, **benchmark.identity, **settings}
    return arm, seed, json.dumps(known, sort_keys=True)


def _read(path: Path) -> dict[tuple[str, int, str, float], Row]:
    """Read the rows that are there; a last line that was cut off is measured again."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            settings, values = json.loads(line)
            row = Row(**values)
        except (ValueError, TypeError):
            continue
        found[row.arm, row.seed, settings, row.width] = row
    return found


def _teller(ticker: Progress | None, begun: int, total: int, text: str) -> Progress:
    def tell(done: int, of: int, more: str) -> None:
        if ticker is not None:
            ticker((begun - 1) * of + done if begun else done, total * of, f"{text}: {more}")

    return tell
