"""Conditions that are sizes: how wide groups of channels are, or how many blocks there are.

Shape letters used in this file:
    B: conditions. g: sizes. c: size of a vector.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ghn.conditioning.registry import CONDITIONS
from ghn.config import Config
from ghn.errors import ConfigError
from ghn.registry import unknown_name

__all__ = ["Size", "SizeConfig"]

FACTS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizeConfig(Config):
    """Settings of `Size`.

    Attributes:
        names: Names of the sizes, such as those of groups of channels.
        full: The full size of each.
        dim: Size c of a vector.
    """

    names: tuple[str, ...] = ("width",)
    full: tuple[int, ...] = (1,)
    dim: int = 16

    gives_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) < len(self.names) or self.dim < 1:
            raise ConfigError(f"sizes need different names, and dim at least 1, got {self}")
        if len(self.full) != len(self.names) or min(self.full) < 1:
            raise ConfigError(f"each name needs a full size of at least 1, got {self}")


@CONDITIONS.register("size")
class Size(nn.Module):
    """A linear function of all sizes; a value is a dict of sizes by name, or a list of such.

    Sizes that a dict does not name are full. A size n of N counts as n / N and as its logarithm.

    Args:
        config: Names, full sizes, and the size of a vector.

    Example:
        >>> size = Size(SizeConfig(names=("layer3", "layer4"), full=(64, 128), dim=8))
        >>> size.encode([{"layer3": 40}, {"layer4": 32}, {}])[0].shape
        torch.Size([3, 8])
    """

    Config: ClassVar[type[Config]] = SizeConfig
    source: ClassVar[str] = "task"
    is_open: ClassVar[bool] = True

    def __init__(self, config: SizeConfig) -> None:
        super().__init__()
        self.config = config
        self.out = nn.Linear(FACTS * len(config.names), config.dim)

    def encode(self, value: Any) -> tuple[Float[Tensor, "B c"], bool]:
        """Return what sizes are encoded to; see `ghn.conditioning.registry.Condition`."""
        single = isinstance(value, Mapping)
        many = [value] if single else value
        if not isinstance(many, Sequence) or not many or isinstance(many, str):
            raise ConfigError(
                f"this condition is a dict of sizes, or a list of them, got {value!r}"
            )
        facts = [self._facts(one) for one in many]
        return self.out(self.out.weight.new_tensor(facts)), single

    def _facts(self, sizes: Any) -> list[float]:
        if not isinstance(sizes, Mapping):
            raise ConfigError(f"this condition is a dict of sizes by name, got {sizes!r}")
        for name, size in sizes.items():
            if name not in self.config.names:
                raise unknown_name("name of a size", name, list(self.config.names))
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ConfigError(f"a size is a whole number of at least 1, got {name}: {size!r}")
        pairs = zip(self.config.names, self.config.full, strict=True)
        shares = [sizes.get(name, full) / full for name, full in pairs]
        return [*shares, *(math.log2(share) for share in shares)]
