"""Models by name: `timm:NAME`, `torchvision:NAME`, `transformers:TYPE`, `path/to/file.py:factory`.

A name without a prefix is looked up in timm. Nothing is downloaded: models come with their own
random initialization, or on the meta device without any values.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghn.errors import ConfigError, GHNError
from ghn.registry import unknown_name
from ghn.zoo.registry import SAMPLERS, sample

__all__ = ["families", "list_models", "resolve_model"]


def families() -> list[str]:
    """Return the names of all families: libraries, and samplers of small networks."""
    return [*_LISTERS, *SAMPLERS]


def list_models(family: str) -> list[str]:
    """Return the full names of a family's models, such as `"timm:resnet50"`.

    Of a sampler, whose networks are numbered by seed, the first 100.
    """
    if family in SAMPLERS:
        return [f"{family}:{seed}" for seed in range(100)]
    if family not in _LISTERS:
        raise unknown_name("family", family, families())
    return [f"{family}:{name}" for name in _LISTERS[family]()]


def resolve_model(
    name: str,
    device: torch.device | str | None = None,
    bare: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: `timm:NAME` (or just `NAME`), `torchvision:NAME`, `transformers:TYPE` (a model type
            such as `gpt2`, or a folder with a `config.json`), `vits:SEED`, `convnets:SEED`, or
            `path/to/file.py:factory`.
        device: Where to build it; `"meta"` for a model without values.
        bare: For a transformers type, the model that `AutoModel` gives, without the head of a
            language model.
        **arguments: Passed to the constructor or factory; for transformers, to the config.

    Raises:
        UnknownNameError: If there is no such model; the message suggests near ones.
        ConfigError: If the model cannot be built with these arguments.
    """
    family, _, rest = name.rpartition(":") if ".py:" in name else name.partition(":")
    if not rest:
        family, rest = "timm", name
    with torch.device(device) if device is not None else contextlib.nullcontext():
        try:
            if bare and family == "transformers":
                return _bare_transformers(rest, arguments)
            return _builder(family)(rest, arguments)
        except GHNError:
            raise
        except Exception as error:
            raise ConfigError(
                f"cannot build {name!r} with {arguments or 'its default arguments'}: "
                f"{type(error).__name__}: {error}"
            ) from error


def _builder(family: str) -> Callable[[str, dict[str, Any]], nn.Module]:
    if family.endswith(".py"):
        return lambda factory, arguments: _from_file(family, factory, arguments)
    if family in SAMPLERS:
        return lambda seed, arguments: _from_sampler(family, seed, arguments)
    if family not in _BUILDERS:
        raise unknown_name("family", family, families())
    return _BUILDERS[family]


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
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = _transformers_config(name, arguments)
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and _is_decoder(config)
    return (AutoModelForCausalLM if causal else AutoModel).from_config(config)


def _bare_transformers(name: str, arguments: dict[str, Any]) -> nn.Module:
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    config = _transformers_config(name, arguments)
    classes: Any = MODEL_MAPPING.get(type(config), None)
    if isinstance(classes, (tuple, list)) and config.architectures is None:
        config.architectures = [classes[0].__name__]  # AutoModel cannot choose without
    return AutoModel.from_config(config)


def _transformers_config(name: str, arguments: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    if Path(name).is_dir():
        return AutoConfig.from_pretrained(name, local_files_only=True, **arguments)
    if name in _transformers_names():
        return AutoConfig.for_model(name, **arguments)
    raise unknown_name("model type", name, _transformers_names())


def _is_decoder(config: Any) -> bool:
    """Whether the type is a language model by itself, not an encoder that could be made one."""
    encoders = ("bert", "roberta", "electra", "ernie", "xlm", "rembert", "camembert", "bart")
    return not getattr(config, "is_encoder_decoder", False) and not any(
        word in config.model_type for word in encoders
    )


def _from_sampler(family: str, seed: str, arguments: dict[str, Any]) -> nn.Module:
    if not seed.isdigit():
        raise ConfigError(f"a network of {family!r} is named by a seed, got {seed!r}")
    return SAMPLERS[family].build(sample(family, int(seed), **arguments))


def _from_file(file: str, factory: str, arguments: dict[str, Any]) -> nn.Module:
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"no file {file!r}; a model in a file is named path/to/file.py:factory")
    # A name of its own: a user's random.py must not stand in for the standard library's.
    name = f"_ghn_model_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file!r} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    if not hasattr(module, factory):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise unknown_name(f"factory in {file}", factory, known)
    model = getattr(module, factory)
    model = model if isinstance(model, nn.Module) else model(**arguments)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{file}:{factory} returned {type(model).__name__}, not an nn.Module")
    return model


_LISTERS: dict[str, Callable[[], list[str]]] = {
    "timm": _timm_names,
    "torchvision": _torchvision_names,
    "transformers": _transformers_names,
}
_BUILDERS: dict[str, Callable[[str, dict[str, Any]], nn.Module]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "transformers": _from_transformers,
}
