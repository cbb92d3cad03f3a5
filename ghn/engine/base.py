"""A base: parameters of one network that the hypernetwork stores, and to which its emissions add.

With a base, what the decoder emits is a change; the network that is run is base + change. The base
begins as the network's own initialization, bit for bit, and is trained along with the hypernetwork,
or stays fixed.

Source: Gonzalez Ortiz, Guttag, Dalca 2023 (arXiv 2304.07645), additive output formulation.

Shape letters used in this file:
    B: conditions. n: parameters of a stack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ghn.config import Config
from ghn.errors import ConfigError
from ghn.graphs import ParamSpec
from ghn.graphs.trace import parameter_names
from ghn.kernels import Dense, Recipe, expand_all

__all__ = ["Base", "BaseConfig", "added_to"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConfig(Config):
    """Settings of `Base`.

    Attributes:
        trained: Whether the base is trained along with the hypernetwork.
        scale: Factor on the changes that are added to it.
        names: Names of the parameters that it holds.
        shapes: Their shapes.
    """

    trained: bool = True
    scale: float = 1.0
    names: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ConfigError(f"scale must be above 0, got scale={self.scale}")
        if len(self.names) != len(self.shapes) or len(set(self.names)) < len(self.names):
            raise ConfigError(
                f"a base needs different names and a shape for each, got {len(self.names)} names "
                f"and {len(self.shapes)} shapes"
            )


class Base(nn.Module):
    """Stored parameters of one network, by name.

    Args:
        config: What it holds, zeros at first, and whether that is trained.

    Example:
        >>> ghn.base.hold(model)      # doctest: +SKIP
    """

    Config: ClassVar[type[Config]] = BaseConfig

    def __init__(self, config: BaseConfig) -> None:
        super().__init__()
        self._settings = config
        self._places: dict[str, int] = {}
        self.tensors = nn.ParameterList()
        self.hold({n: torch.zeros(s) for n, s in zip(config.names, config.shapes, strict=True)})

    @property
    def names(self) -> list[str]:
        """Names of the parameters that are held, in the order of `tensors`."""
        return list(self._places)

    @property
    def config(self) -> BaseConfig:
        """The settings, with the names and shapes of what is held now."""
        return self._settings.replace(
            names=tuple(self.names), shapes=tuple(tuple(t.shape) for t in self.tensors)
        )

    def hold(
        self, source: nn.Module | Mapping[str, Tensor], names: Iterable[str] | None = None
    ) -> None:
        """Hold copies of parameters, instead of what is held; make the optimiser afterwards.

        Args:
            source: A network, or tensors by name.
            names: Which of its parameters; all by default.

        Raises:
            ConfigError: If it has no parameter of a name.
        """
        given = parameter_names(source)[0] if isinstance(source, nn.Module) else source
        chosen = list(given if names is None else names)
        if missing := [name for name in chosen if name not in given]:
            raise ConfigError(f"no parameter {missing[0]!r} to hold; there are {list(given)[:5]}")
        trained = self._settings.trained
        copies = [nn.Parameter(given[n].detach().clone(), requires_grad=trained) for n in chosen]
        self._places = {name: place for place, name in enumerate(chosen)}
        self.tensors = nn.ParameterList(copies)

    def of(self, spec: ParamSpec) -> Tensor:
        """Return what is held for a parameter.

        Raises:
            ConfigError: If that is nothing, or something of another shape.
        """
        place = self._places.get(spec.name)
        held = None if place is None else self.tensors[place]
        if held is None or held.shape != spec.shape:
            found = "nothing" if held is None else f"something of shape {list(held.shape)}"
            raise ConfigError(
                f"parameter {spec.name!r} has shape {list(spec.shape)}, the base holds {found} for "
                "it; a base is of one network: call ghn.base.hold(model) with it"
            )
        return held


def added_to(
    base: Mapping[Any, Tensor], changes: Mapping[tuple[Any, ...], Recipe]
) -> dict[tuple[Any, ...], Recipe]:
    """Return recipes of base + change; differentiable in both.

    Args:
        base: A tensor for each parameter.
        changes: Recipes of stacks of parameters, with one batch axis: for each condition in turn,
            the parameters in the order of the key.
    """
    result: dict[tuple[Any, ...], Recipe] = {}
    expanded = expand_all(list(changes.values()))
    for (keys, recipe), change in zip(changes.items(), expanded, strict=True):
        held = torch.stack([base[key] for key in keys])
        total = change.unflatten(0, (-1, len(keys))) + held.to(change)
        result[keys] = Dense(total.flatten(0, 1), recipe.layout)
    return result
