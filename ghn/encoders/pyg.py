"""Any message-passing convolution of torch-geometric as an encoder."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.config import Config
from ghn.encoders.features import NodeInput
from ghn.encoders.registry import ENCODERS
from ghn.errors import ConfigError
from ghn.graphs.batch import GraphBatch
from ghn.registry import unknown_name

__all__ = ["PyGConfig", "PyGEncoder"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PyGConfig(Config):
    """Settings of `PyGEncoder`.

    Attributes:
        dim: Node embedding size `d`, even.
        layers: Number of layers, each with one convolution along the edges and one against them.
        conv: Name of a class in `torch_geometric.nn.conv` that is built as
            `conv(in_channels, out_channels, ...)` and called with features and edges.
        conv_kwargs: Further arguments of its constructor; JSON types only. The output must have
            `dim` columns, so several concatenated heads need `concat=False`.
    """

    dim: int = 64
    layers: int = 3
    conv: str = "GATv2Conv"
    conv_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2 or self.layers < 1:
            raise ConfigError(
                f"dim must be even and layers at least 1, got dim={self.dim}, layers={self.layers}"
            )
        if self.conv_kwargs.get("cached"):
            raise ConfigError(
                "conv_kwargs has cached=True, which keeps the edges of the first graph for all "
                "others; leave it out"
            )


@ENCODERS.register("pyg")
class PyGEncoder(nn.Module):
    """Pre-norm residual layers around a torch-geometric convolution, along edges and against them.

    Each layer is `x + act(conv(norm(x), edges) + conv_back(norm(x), reversed edges))`.

    Args:
        config: Which convolution, and sizes.

    Raises:
        UnknownNameError: If torch-geometric has no such convolution.
        ConfigError: If it cannot be built from, or called with, what the config says.

    Example:
        >>> encoder = PyGEncoder(PyGConfig(conv="SAGEConv", conv_kwargs={"aggr": "max"}))
    """

    Config: ClassVar[type[Config]] = PyGConfig
    architecture: ClassVar[tuple[str, ...]] = ("gnn",)

    def __init__(self, config: PyGConfig) -> None:
        super().__init__()
        self.config = config
        self.input = NodeInput(config.dim)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, batch: GraphBatch) -> Float[Tensor, "N d"]:
        """Return the embedding of every node of the batch."""
        x = self.input(batch)
        edges = batch.edge_index
        for layer in self.layers:
            x = layer(x, edges)
        return self.norm(x)


class _Layer(nn.Module):
    def __init__(self, config: PyGConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.ahead = _build_conv(config)
        self.back = _build_conv(config)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        y = self.norm(x)
        return x + F.gelu(self.ahead(y, edges) + self.back(y, edges.flip(0)))


def _build_conv(config: PyGConfig) -> nn.Module:
    """Build a convolution and try it on two nodes, so that a misfit shows before training."""
    from torch_geometric.nn import MessagePassing, conv

    known = [
        name
        for name, cls in vars(conv).items()
        if inspect.isclass(cls) and issubclass(cls, MessagePassing) and cls is not MessagePassing
    ]
    if config.conv not in known:
        raise unknown_name("torch-geometric convolution", config.conv, known)
    try:
        layer = getattr(conv, config.conv)(config.dim, config.dim, **config.conv_kwargs)
        with torch.no_grad():
            shape = layer.eval()(torch.ones(2, config.dim), torch.tensor([[0], [1]])).shape
    except Exception as error:  # whatever a foreign constructor or forward may raise
        raise ConfigError(
            f"{config.conv} cannot be an encoder with conv_kwargs={config.conv_kwargs}: it must be "
            f"built from (in_channels, out_channels) and called with features and edges, got "
            f"{type(error).__name__}: {error}"
        ) from error
    if shape != (2, config.dim):
        raise ConfigError(
            f"{config.conv} must return dim={config.dim} columns, got shape {tuple(shape)} for 2 "
            "nodes; change conv_kwargs (several heads need concat=False)"
        )
    return layer.train()
