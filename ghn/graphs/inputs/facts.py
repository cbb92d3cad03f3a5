"""What a transformers model says of its own inputs: the signature, the config, its sub-configs.

A fact is looked up by the names under which configs store it, first in the sub-configs of the
modality that asks (vision, audio, text), then in the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["Facts"]

SECTIONS = {
    "vision": ("vis", "image", "video", "vit", "backbone"),
    "audio": ("audio", "speech", "acoustic", "sound", "codec"),
    "text": ("text", "language", "llm", "decoder"),
}


class Facts:
    """Looks up sizes in a model's config.

    Args:
        model: A transformers model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config: Any = model.config
        self.parameters = inspect.signature(model.forward).parameters
        self._configs = list(_with_sub_configs(self.config, "", set()))

    @property
    def accepted(self) -> list[str]:
        """Names of the arguments of the forward pass, in order."""
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return [p.name for p in self.parameters.values() if p.kind not in variadic]

    @property
    def required(self) -> list[str]:
        """Names of the arguments without a default."""
        return [n for n in self.accepted if self.parameters[n].default is inspect.Parameter.empty]

    def built_sizes(self) -> list[tuple[int, int]]:
        """Return the image sizes that the model's own modules were built for."""
        found = (getattr(module, "img_size", None) for module in self.model.modules())
        sizes = [tuple(size) for size in found if isinstance(size, (tuple, list))]
        return list(dict.fromkeys((int(s[0]), int(s[1])) for s in sizes if len(s) == 2))

    def takes_tensor(self, name: str) -> bool:
        """Whether an argument is annotated as a tensor, or not annotated."""
        annotation = self.parameters[name].annotation
        return annotation is inspect.Parameter.empty or "Tensor" in str(annotation)

    def first_widths(self, modality: str) -> list[int]:
        """Return the input widths of the first layers of a modality's modules."""
        layers = (nn.Linear, nn.Conv1d)
        mine = self.has(modality)
        found = [
            m.in_features if isinstance(m, nn.Linear) else m.in_channels
            for name, m in self.model.named_modules()
            if isinstance(m, layers) and (_belongs(name, modality) or not mine)
        ]
        return found[:2]

    def has(self, modality: str) -> bool:
        """Whether the config has a part for a modality."""
        return any(_belongs(path, modality) for path, _ in self._configs if path)

    def values(self, modality: str, *names: str) -> Iterator[Any]:
        """Yield every value stored under one of the names, the modality's own parts first."""
        own = [c for path, c in self._configs if path and _belongs(path, modality)]
        others = [c for path, c in self._configs if not (path and _belongs(path, modality))]
        for config in own + others:
            for name in names:
                value = getattr(config, name, None)
                if value is not None:
                    yield value

    def number(self, modality: str, *names: str, default: int) -> int:
        """Return the first whole number stored under one of the names."""
        for value in self.values(modality, *names):
            found = _first_number(value)
            if found:
                return found
        return default

    def size(self, modality: str, *names: str, default: int) -> tuple[int, int]:
        """Return the first (height, width) stored under one of the names."""
        for value in self.values(modality, *names):
            numbers = _numbers(value)
            if numbers:
                return (numbers[-2], numbers[-1]) if len(numbers) > 1 else (numbers[0],) * 2
        return default, default


def _with_sub_configs(config: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(config) in seen:
        return
    seen.add(id(config))
    yield path, config
    for name, value in vars(config).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _with_sub_configs(value, f"{path}.{name}" if path else name, seen)


def _belongs(path: str, modality: str) -> bool:
    return any(word in path for word in SECTIONS[modality])


def _numbers(value: Any) -> list[int]:
    if isinstance(value, bool):
        return []
    if isinstance(value, (int, float)):
        return [int(value)] if value >= 1 else []
    if isinstance(value, dict):
        return [n for v in value.values() for n in _numbers(v)]
    if isinstance(value, (tuple, list)):
        return [n for v in value for n in _numbers(v)]
    return []


def _first_number(value: Any) -> int | None:
    return next(iter(_numbers(value)), None)
