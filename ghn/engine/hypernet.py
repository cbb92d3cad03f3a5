"""`GHN`: encoder, decoder and magnitude as one module that emits the parameters of any graph.

Shape letters used in this file:
    B: conditions. N: nodes of all graphs. d: embedding size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, overload

from torch import Tensor, nn

from ghn.config import Config
from ghn.decoders import DECODERS, LowRankDecoderConfig, TiledDecoderConfig
from ghn.encoders import ENCODERS, GatedGNNConfig, GraphormerConfig, PyGConfig
from ghn.engine.checkpoint import HubCheckpoint
from ghn.engine.magnitude import apply_magnitude, magnitude_rules
from ghn.engine.support import Support
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph, ParamSpec
from ghn.graphs.batch import GraphBatch, batch_specs
from ghn.graphs.ops import OPERATORS
from ghn.kernels import Recipe, entries, entry, expand_entries

__all__ = ["GHN", "GHNConfig"]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GHNConfig(Config):
    """Settings of `GHN`.

    Attributes:
        encoder: Settings of the encoder; their type chooses it.
        decoder: Settings of the decoder; their type chooses it.
        modality: What the training networks read: `"vision"` or `"text"`.
        spread: Largest factor by which an emitted weight's size may differ from the rule of
            `ghn.engine.magnitude`; above 1.
        support: What the hypernetwork was trained for; see `Support`.
        operators: Number of operators in the vocabulary it was built with.
    """

    encoder: GraphormerConfig | GatedGNNConfig | PyGConfig = dataclasses.field(
        default_factory=GraphormerConfig
    )
    decoder: LowRankDecoderConfig | TiledDecoderConfig = dataclasses.field(
        default_factory=LowRankDecoderConfig
    )
    modality: str = "vision"
    spread: float = 1.25
    support: Support = dataclasses.field(default_factory=Support)
    operators: int = len(OPERATORS)

    def __post_init__(self) -> None:
        if self.encoder.dim != self.decoder.dim:
            raise ConfigError(
                f"encoder and decoder must agree on dim, got {self.encoder.dim} and "
                f"{self.decoder.dim}"
            )
        if self.modality not in ("vision", "text"):
            raise ConfigError(f"modality must be 'vision' or 'text', got {self.modality!r}")
        if not self.spread > 1.0:
            raise ConfigError(f"spread must be above 1, got {self.spread}")


class GHN(HubCheckpoint, nn.Module):
    """A graph hypernetwork: a parameter graph in, that network's parameters out.

    Args:
        config: Encoder and decoder with their sizes.

    Example:
        >>> ghn = GHN(GHNConfig())
        >>> graph = trace(model)                      # doctest: +SKIP
        >>> parameters = ghn(graph)                   # doctest: +SKIP
        >>> torch.func.functional_call(model, parameters, (x,))  # doctest: +SKIP
    """

    Config: ClassVar[type[Config]] = GHNConfig

    def __init__(self, config: GHNConfig | None = None) -> None:
        super().__init__()
        self.config = config or GHNConfig()
        self.encoder: Any = _build(ENCODERS, self.config.encoder)
        self.decoder: Any = _build(DECODERS, self.config.decoder)
        self.decoder_name = _name_of(DECODERS, self.config.decoder)

    def recipes(
        self,
        graphs: Sequence[ParamGraph],
        *,
        select: Callable[[ParamGraph, ParamSpec], bool] | None = None,
    ) -> list[dict[str, Recipe]]:
        """Return one recipe for each parameter of each graph, with its final magnitude.

        Args:
            graphs: Any number of graphs; encoded and decoded together.
            select: Which parameters to emit; all if None.
        """
        found = {
            key: recipe
            for keys, stack in self._stacks(graphs, select).items()
            for key, recipe in zip(keys, entries(stack), strict=True)
        }
        return _by_graph(graphs, found)

    def _stacks(
        self,
        graphs: Sequence[ParamGraph],
        select: Callable[[ParamGraph, ParamSpec], bool] | None = None,
    ) -> dict[tuple[tuple[int, str], ...], Recipe]:
        """Return recipes of parameters that are alike, by (graph, name); one batch axis."""
        specs = {
            (i, name): spec
            for (i, name), spec in batch_specs(graphs).items()
            if spec.numel and (select is None or select(graphs[i], graphs[i].specs[name]))
        }
        if not specs:
            return {}
        batch = GraphBatch.from_graphs(graphs, device=next(self.parameters()).device)
        emitted = self.decoder(self.encoder(batch)[None], specs)
        # One condition, so far: from here on the only batch axis counts parameters.
        stacks = {keys: entry(recipe, 0) for keys, recipe in emitted.items()}
        rules = {keys: [magnitude_rules(graphs[i])[name] for i, name in keys] for keys in stacks}
        return apply_magnitude(
            stacks, rules, self.config.spread, shared_codes=self.decoder.shared_codes
        )

    @overload
    def forward(self, graphs: ParamGraph) -> dict[str, Tensor]: ...

    @overload
    def forward(self, graphs: Sequence[ParamGraph]) -> list[dict[str, Tensor]]: ...

    def forward(
        self, graphs: ParamGraph | Sequence[ParamGraph]
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the parameters of a graph, or of each of several, by name.

        The tensors have the shapes that the models store, the hypernetwork's dtype, and gradients
        to the hypernetwork. Tied parameters appear once, under their leading name.

        Args:
            graphs: One graph or a sequence of them.
        """
        many = [graphs] if isinstance(graphs, ParamGraph) else list(graphs)
        stacks = self._stacks(many)
        emitted = expand_entries(list(stacks.values()))
        found = {
            key: tensor
            for keys, tensors in zip(stacks, emitted, strict=True)
            for key, tensor in zip(keys, tensors, strict=True)
        }
        tensors = _by_graph(many, found)
        return tensors[0] if isinstance(graphs, ParamGraph) else tensors


def _by_graph(
    graphs: Sequence[ParamGraph], found: Mapping[tuple[int, str], T]
) -> list[dict[str, T]]:
    """Sort what was found under (graph, name) into a dict for each graph, in the graph's order."""
    return [
        {name: found[index, name] for name in graph.specs if (index, name) in found}
        for index, graph in enumerate(graphs)
    ]


def _name_of(registry: Any, config: Config) -> str:
    for name, known in registry.items():
        if known.Config is type(config):
            return name
    raise ConfigError(f"no {registry.kind} is configured by {type(config).__name__}")


def _build(registry: Any, config: Config) -> nn.Module:
    return registry[_name_of(registry, config)](config)
