"""Families of target networks that can be sampled, behind one interface.

Which split an architecture belongs to is a function of the architecture itself: its settings are
hashed, and the sampler redraws until the hash falls into the split. So splits are disjoint by
construction, whatever the seeds, provided that no two architectures are one network: a setting that
changes nothing has one value, and what the data decide of an architecture's sizes is decided before
it is hashed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ghn.config import Config
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph, cached_trace
from ghn.registry import Registry
from ghn.rng import make_generator

__all__ = ["SAMPLERS", "Sampler", "Split", "sample", "sample_distinct"]

Split = Literal["train", "val", "test", "wide", "deep"]
"""Train, val and test share their ranges; wide and deep lie outside of them."""

# Out of 10 hash values; wide and deep are out of the others' ranges and need none.
_SHARES = {"train": range(8), "val": range(8, 9), "test": range(9, 10)}

IN_A_ROW = 300  # draws without a new architecture, after which a split is taken to have no more
UNFIT = 1000  # draws in a row that do not fit the data, after which none is taken to


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A family.

    Attributes:
        draw: From a generator and a split to an architecture of the split's range.
        build: From an architecture to a module; works under `torch.device("meta")`.
        example: From an architecture to an input that the module can be traced with.
        modality: What the networks read: `"vision"` or `"text"`.
        summary: One line.
    """

    draw: Callable[[torch.Generator, Split], Any]
    build: Callable[[Any], nn.Module]
    example: Callable[[Any], Tensor]
    modality: str
    summary: str

    def fit_to(self, architecture: Any, settings: Mapping[str, Any]) -> Any:
        """Return an architecture for some data.

        Args:
            architecture: Of this family.
            settings: Those that the data decide, such as `classes`; what the family does not have
                is left out. Texts of `context` tokens need as many positions, or more.

        Raises:
            ConfigError: If it cannot read such data.
        """
        least = getattr(architecture, "least_image", 1)
        if settings.get("image", least) < least:
            raise ConfigError(f"images must be of {least} pixels or more, got {settings['image']}")
        known = {field.name for field in dataclasses.fields(architecture)}
        fitting = {key: value for key, value in settings.items() if key in known}
        if "context" in fitting:
            fitting["context"] = max(fitting["context"], architecture.context)
        return architecture.replace(**fitting)

    def graph(self, architecture: Any) -> ParamGraph:
        """Return an architecture's graph, from the cache if it was traced before."""
        with torch.device("meta"):
            model = self.build(architecture)
        return cached_trace(model, self.example(architecture).to("meta"))


SAMPLERS: Registry[Sampler] = Registry("sampler")


def sample(
    family: str,
    seed: int,
    split: str = "train",
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Return one architecture; the same seed gives the same one.

    Args:
        family: Name in `SAMPLERS`.
        seed: Any integer; each gives its own draw.
        split: `"train"`, `"val"`, `"test"`, `"wide"` (wider than any trained) or `"deep"`.
        settings: What the data decide of it; see `Sampler.fit_to`. What cannot be fitted, such as
            patches that do not divide the images, is drawn again.

    Raises:
        ConfigError: If there is no such split, or nothing that is drawn fits the data.
    """
    if split not in get_args(Split):
        raise ConfigError(f"split must be one of {get_args(Split)}, got {split!r}")
    sampler = SAMPLERS[family]
    chosen: Any = split
    generator = make_generator(seed, family, split)
    with torch.device("cpu"):  # the caller may be building models on the meta device
        unfit = 0
        while True:
            drawn = sampler.draw(generator, chosen)
            try:
                fitted = sampler.fit_to(drawn, settings)
            except ConfigError as error:
                if (unfit := unfit + 1) < UNFIT:
                    continue
                data = ", ".join(f"{name} {value}" for name, value in settings.items())
                raise ConfigError(f"no network of {family} fits {data}: {error}") from error
            unfit = 0
            if split not in _SHARES or _bucket(drawn, fitted) in _SHARES[split]:
                return fitted


def sample_distinct(
    family: str,
    count: int,
    split: str = "train",
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> dict[int, Any]:
    """Return the first architectures of a split that differ, by the seed that draws each.

    They are fewer than `count` if that many draws in a row give none that is new: splits of narrow
    ranges have few.

    Args:
        family: As for `sample`.
        count: How many.
        split: As for `sample`.
        settings: As for `sample`.
    """
    found: dict[int, Any] = {}
    seen: set[Any] = set()
    seed = last = 0
    while len(found) < count and seed - last <= IN_A_ROW:
        architecture = sample(family, seed, split, settings)
        if architecture not in seen:
            seen.add(architecture)
            found[seed], last = architecture, seed
        seed += 1
    return found


def _bucket(drawn: Config, fitted: Config) -> int:
    """Hash an architecture, with the positions that the data need: two may differ in these alone.

    Classes, vocabularies and sides of images are those of the data in all architectures.
    """
    values = drawn.to_dict()
    values |= {key: value for key, value in fitted.to_dict().items() if key == "context"}
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=2).digest()[0] % 10


def choose(
    generator: torch.Generator, options: list[Any], weights: list[float] | None = None
) -> Any:
    """Return one of the options at random, by weight."""
    # In one type, whatever torch's default is: rounded chances would draw something else.
    chances = torch.tensor(weights or [1.0] * len(options), dtype=torch.float32)
    return options[int(torch.multinomial(chances, 1, generator=generator))]


def between(generator: torch.Generator, low: int, high: int, step: int = 1) -> int:
    """Return a multiple of `step` between `low` and `high`, both included."""
    count = (high - low) // step + 1
    return low + step * int(torch.randint(0, count, (1,), generator=generator))
