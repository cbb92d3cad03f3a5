"""A table of learned embeddings that grows: one row for each task, client or subject, by name.

Every row is a parameter of its own, so that no step of any optimiser, weight decay included,
touches a row that was frozen. Names and frozen rows are part of the state, as the bytes of a JSON
text.

Shape letters used in this file:
    B: conditions. c: size of an embedding.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ghn.conditioning.registry import CONDITIONS
from ghn.config import Config
from ghn.errors import ConfigError, ShapeError
from ghn.registry import unknown_name

__all__ = ["EmbeddingTable", "EmbeddingTableConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingTableConfig(Config):
    """Settings of `EmbeddingTable`.

    Attributes:
        dim: Size c of an embedding.
        std: Standard deviation of a new row.
        names: Names of the rows.
        frozen: Names of those that are no longer trained.
    """

    dim: int = 24
    std: float = 1.0
    names: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()

    gives_tokens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.dim < 1 or self.std < 0:
            raise ConfigError(f"dim must be at least 1 and std at least 0, got {self}")
        if len(set(self.names)) < len(self.names) or not set(self.frozen) <= set(self.names):
            raise ConfigError(f"names must differ and include those that are frozen, got {self}")


@CONDITIONS.register("table")
class EmbeddingTable(nn.Module):
    """Rows by name; a value is a name or a sequence of names.

    Args:
        config: Size, and the rows to begin with.

    Example:
        >>> table = EmbeddingTable(EmbeddingTableConfig(dim=8))
        >>> table.add("cats")
        >>> table.encode(["cats"])[0].shape
        torch.Size([1, 8])
    """

    Config: ClassVar[type[Config]] = EmbeddingTableConfig
    source: ClassVar[str] = "task"
    is_open: ClassVar[bool] = False

    def __init__(self, config: EmbeddingTableConfig) -> None:
        super().__init__()
        self._settings = config.replace(names=(), frozen=())
        self.names: list[str] = []
        self.rows = nn.ParameterList()
        self.labels: Tensor
        self.register_buffer("labels", torch.zeros(0, dtype=torch.uint8))
        for name in config.names:
            self.add(name)
        for name in config.frozen:
            self.freeze(name)
        self._write_labels()
        self.register_load_state_dict_pre_hook(_match_rows)

    @property
    def config(self) -> EmbeddingTableConfig:
        """The settings, with the rows that there are now."""
        return self._settings.replace(names=tuple(self.names), frozen=tuple(self.frozen))

    @property
    def frozen(self) -> list[str]:
        """Names of the rows that are no longer trained."""
        pairs = zip(self.names, self.rows, strict=True)
        return [name for name, row in pairs if not row.requires_grad]

    def add(
        self,
        name: str,
        value: Float[Tensor, " c"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Add a row; existing rows and optimisers over them stay as they are.

        Args:
            name: Its name, new to the table.
            value: What it starts with; drawn from a normal distribution if None.
            generator: Where the draw comes from.

        Raises:
            ConfigError: If the name is taken or no text.
            ShapeError: If the value is no vector of floats of the table's size.
        """
        if not isinstance(name, str) or name in self.names:
            raise ConfigError(
                f"a row needs a new name, a text, got {name!r}; there are {self.names}"
            )
        size = self._settings.dim
        if value is None:
            value = self._settings.std * torch.randn(size, generator=generator)
        if not (isinstance(value, Tensor) and value.is_floating_point() and value.shape == (size,)):
            got = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ShapeError(
                f"a row of this table is a tensor of floats of shape [{size}], got {got}"
            )
        like = self.rows[0] if len(self.rows) else self.labels.new_zeros(0, dtype=value.dtype)
        self.rows.append(nn.Parameter(value.detach().clone().to(like)))
        self.names.append(name)
        self._write_labels()

    def freeze(self, name: str) -> None:
        """Train a row no longer.

        Raises:
            UnknownNameError: If there is no such row.
        """
        row = self.rows[self._place(name)]
        row.requires_grad_(False)
        row.grad = None
        self._write_labels()

    def encode(self, value: Any) -> tuple[Float[Tensor, "B c"], bool]:
        """Return the rows of names; see `ghn.conditioning.registry.Condition`."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
            raise ConfigError(f"this condition is a name or a list of names, got {value!r}")
        if not names:
            raise ConfigError(f"a batch of conditions needs at least one name of {self.names}")
        rows = [self.rows[self._place(name)] for name in names]
        return torch.stack(rows), isinstance(value, str)

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise unknown_name("name of a condition", name, self.names)
        return self.names.index(name)

    def _write_labels(self) -> None:
        self.labels = _to_bytes({"names": self.names, "frozen": self.frozen}).to(self.labels.device)


def _to_bytes(value: Any) -> UInt8[Tensor, " n"]:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).clone()


def _match_rows(module: EmbeddingTable, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the table the rows of a state dict that is about to be loaded."""
    labels = state.get(f"{prefix}labels")
    if labels is None:
        return
    found = json.loads(bytes(labels.cpu().tolist()).decode())
    rows = [state[f"{prefix}rows.{i}"] for i in range(len(found["names"]))]
    wrong = [list(row.shape) for row in rows if row.shape != (module._settings.dim,)]
    if wrong:
        raise ShapeError(
            f"the state dict has rows of shape {wrong[0]}, this table of [{module._settings.dim}]"
        )
    if found["names"] != module.names:
        kept = next(iter(module.rows), module.labels.new_zeros(0, dtype=torch.float32))
        module.rows = nn.ParameterList(nn.Parameter(row.clone().to(kept)) for row in rows)
        module.names = list(found["names"])
    for name, row in zip(module.names, module.rows, strict=True):
        row.requires_grad_(name not in found["frozen"])
    module._write_labels()
