"""Models by name: `timm:NAME`, `torchvision:NAME`, `transformers:TYPE`, `path/to/file.py:factory`.

A name without a prefix is looked up in timm. Nothing is downloaded: models come with their own
random initialization, or on the meta device without any values.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from typing import Any

import torch
from torch import nn

from ghn.errors import ConfigError
from ghn.io import expanded
from ghn.registry import unknown_name
from ghn.zoo.families import Family, bare_transformers, find_family

__all__ = ["list_models", "resolve_model"]


def list_models(family: str) -> list[str]:
    """Return the full names of a family's models, such as `"timm:resnet50"`.

    Of a sampler, whose networks are numbered by seed, the first 100.
    """
    return find_family(family).models()


def resolve_model(
    name: str,
    device: torch.device | str | None = None,
    bare: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: `timm:NAME` (or just `NAME`), `torchvision:NAME`, `transformers:TYPE` (a model type
            such as `gpt2`, or a folder with a `config.json`), `vits:SEED`, `convnets:SEED` or
            `convnets:SEED:SPLIT`, or `path/to/file.py:factory`.
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
    return _source(family, bare).build(rest, device, **arguments)


def _source(family: str, bare: bool) -> Family:
    if family.endswith(".py"):
        return Family(family, "a file", list, lambda name, args: _from_file(family, name, args))
    found = find_family(family)
    bare = bare and family == "transformers"
    return dataclasses.replace(found, make=bare_transformers) if bare else found


def _from_file(file: str, factory: str, arguments: dict[str, Any]) -> nn.Module:
    path = expanded(file).resolve()
    if not path.is_file():
        raise ConfigError(f"no file {file!r}; a model in a file is named path/to/file.py:factory")
    # A name of its own: a user's random.py must not stand in for the standard library's.
    name = f"_ghn_model_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file!r} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    if str(path.parent) not in sys.path:  # last: its neighbours stand in for nothing installed
        sys.path.append(str(path.parent))
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
