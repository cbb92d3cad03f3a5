"""Families of models: libraries and samplers behind one interface.

A family lists and samples names of models, builds one, says what it reads, and gives its graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ghn.errors import ConfigError, GHNError
from ghn.graphs import ParamGraph, cached_trace
from ghn.graphs.inputs import ExampleInputs
from ghn.graphs.trace import trace_with_inputs
from ghn.registry import unknown_name
from ghn.rng import make_generator
from ghn.zoo.registry import SAMPLERS, sample

__all__ = ["Family", "bare_transformers", "families", "find_architecture", "find_family"]

LISTED = 100  # a sampler has no end


@dataclasses.dataclass(frozen=True)
class Family:
    """Models of one source.

    Attributes:
        name: Prefix of its models' full names, as in `timm:resnet18`.
        summary: One line.
        names: Returns the models' names without the prefix; of a sampler the first hundred.
        make: Builds a model, from its name and arguments.
    """

    name: str
    summary: str
    names: Callable[[], list[str]]
    make: Callable[[str, dict[str, Any]], nn.Module]

    def models(self) -> list[str]:
        """Return the full names of the models, such as `"timm:resnet50"`."""
        return [f"{self.name}:{name}" for name in self.names()]

    def sample(self, seed: int, split: str | None = None) -> str:
        """Return the name of a random model, without the prefix; the same seed gives the same one.

        Args:
            seed: Any integer; of a sampler, whose networks it names, from 0.
            split: Of a sampler, `"train"` by default; see `ghn.zoo.sample`. A library has none.

        Raises:
            ConfigError: If a library is asked for a split.
        """
        if split is not None:
            raise ConfigError(f"the models of {self.name} are not split, got split={split!r}")
        names = self.names()
        generator = make_generator(seed, "zoo family", self.name)
        return names[int(torch.randint(len(names), (), generator=generator))]

    def build(
        self, model: str, device: torch.device | str | None = None, **arguments: Any
    ) -> nn.Module:
        """Return a model with its own initialization.

        Args:
            model: Its name without the prefix.
            device: Where to build it; `"meta"` for a model without values.
            **arguments: Passed to the constructor; for transformers, to the config; fields of a
                sampled architecture, such as `classes`.

        Raises:
            UnknownNameError: If there is no such model; the message suggests near ones.
            ConfigError: If the model cannot be built with these arguments.
        """
        try:
            place = torch.device(device) if device is not None else contextlib.nullcontext()
        except RuntimeError as error:
            raise ConfigError(f"device={device!r} is none of torch's: {error}") from error
        with place:
            try:
                return self.make(model, arguments)
            except GHNError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"cannot build '{self.name}:{model}' with "
                    f"{arguments or 'its default arguments'}: {type(error).__name__}: {error}"
                ) from error

    def example(self, model: str) -> ExampleInputs:
        """Return inputs that a model takes, on the meta device; small integers have values.

        Raises:
            InputError: If none can be inferred.
        """
        return trace_with_inputs(self.build(model, "meta")).inputs

    def graph(self, model: str) -> ParamGraph:
        """Return a model's graph, from the cache if it was traced before."""
        return cached_trace(self.build(model, "meta"))


class _SampledFamily(Family):
    """The networks of a sampler, named by seed and split."""

    def sample(self, seed: int, split: str | None = None) -> str:
        if seed < 0:
            raise ConfigError(f"a network of {self.name} is named by a seed from 0, got {seed}")
        sample(self.name, seed, split or "train")  # tells unknown splits
        return f"{seed}:{split or 'train'}"

    def example(self, model: str) -> ExampleInputs:
        architecture = find_architecture(self.name, model)
        return ExampleInputs((SAMPLERS[self.name].example(architecture).to("meta"),))

    def graph(self, model: str) -> ParamGraph:
        return SAMPLERS[self.name].graph(find_architecture(self.name, model))


def families() -> dict[str, Family]:
    """Return all families by name: libraries, and samplers of small networks."""
    samplers = {name: _of_sampler(name) for name in SAMPLERS}
    return {family.name: family for family in _LIBRARIES} | samplers


def find_family(name: str) -> Family:
    """Return a family by its name.

    Raises:
        UnknownNameError: If there is none; the message suggests near ones.
    """
    known = families()
    if name not in known:
        raise unknown_name("family", name, list(known))
    return known[name]


def find_architecture(
    family: str, name: str, settings: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """Return the architecture of a sampled network by its name.

    Args:
        family: The sampler.
        name: `SEED` or `SEED:SPLIT`, such as `"3:test"`; the split is `"train"` by default.
        settings: What data decide of it; see `ghn.zoo.registry.Sampler.fit_to`.

    Raises:
        ConfigError: If it names none.
    """
    seed, _, split = name.partition(":")
    if not seed.isdecimal():
        raise ConfigError(f"a network of {family!r} is named by a seed, got {name!r}")
    return sample(family, int(seed), split or "train", settings)


def _timm_names() -> list[str]:
    import timm

    return timm.list_models()


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models()


def _transformers_names() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return list(MODEL_MAPPING_NAMES)


def _from_timm(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise unknown_name("model", name, _timm_names())
    return timm.create_model(name, **arguments)


def _from_torchvision(name: str, arguments: dict[str, Any]) -> nn.Module:
    import torchvision

    if name not in _torchvision_names():
        raise unknown_name("model", name, _torchvision_names())
    if "detection" in torchvision.models.get_model_builder(name).__module__ or name.startswith(
        ("fcn", "deeplab", "lraspp")
    ):
        arguments = {"weights_backbone": None, **arguments}
    return torchvision.models.get_model(name, weights=None, **arguments)


def _from_transformers(name: str, arguments: dict[str, Any]) -> nn.Module:
    from transformers import AutoModel, AutoModelForCausalLM

    config = _transformers_config(name, arguments)
    return (AutoModelForCausalLM if _is_decoder(config) else AutoModel).from_config(config)


def bare_transformers(name: str, arguments: dict[str, Any]) -> nn.Module:
    """Return the model that `AutoModel` gives, without the head of a language model."""
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    config = _transformers_config(name, arguments)
    classes: Any = MODEL_MAPPING.get(type(config), None)
    if isinstance(classes, (tuple, list)) and config.architectures is None:
        config.architectures = [classes[0].__name__]  # AutoModel cannot choose without
    return AutoModel.from_config(config)


def _transformers_config(name: str, arguments: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    if name in _transformers_names():  # also where a folder of that name lies about
        return AutoConfig.for_model(name, **arguments)
    if Path(name).is_dir():
        return AutoConfig.from_pretrained(name, local_files_only=True, **arguments)
    raise unknown_name("model type", name, _transformers_names())


def _is_decoder(config: Any) -> bool:
    """Whether the type is a language model by itself, not an encoder that could be made one.

    An encoder that could be made one is also trained to fill in masked tokens.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    if getattr(config, "is_encoder_decoder", False):
        return False
    encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and (
        not encoder or getattr(config, "is_decoder", False)
    )


_LIBRARIES = (
    Family("timm", "image models of timm", _timm_names, _from_timm),
    Family("torchvision", "models of torchvision", _torchvision_names, _from_torchvision),
    Family(
        *("transformers", "types of transformers that have an AutoModel"),
        *(_transformers_names, _from_transformers),
    ),
)


def _of_sampler(name: str) -> Family:
    def make(model: str, arguments: dict[str, Any]) -> nn.Module:
        return SAMPLERS[name].build(find_architecture(name, model).replace(**arguments))

    numbered = [str(seed) for seed in range(LISTED)]
    return _SampledFamily(name, SAMPLERS[name].summary, numbered.copy, make)
