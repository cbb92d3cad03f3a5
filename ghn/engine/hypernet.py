"""`GHN`: encoder, condition, decoder and magnitude as one module that emits parameters of graphs.

Shape letters used in this file:
    B: conditions. N: nodes of all graphs. d: embedding size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.conditioning import (
    CONDITIONS,
    ENTRIES,
    EmbeddingTableConfig,
    ImageEncoderConfig,
    NoiseConfig,
    SizeConfig,
    UnitConfig,
    ValuesConfig,
    VectorEncoderConfig,
)
from ghn.config import Config
from ghn.decoders import (
    DECODERS,
    ChunkedDecoderConfig,
    DenseDecoderConfig,
    ImplicitDecoderConfig,
    LowRankDecoderConfig,
    RecurrentDecoderConfig,
    TiledDecoderConfig,
)
from ghn.encoders import (
    ENCODERS,
    FixedCodesConfig,
    GatedGNNConfig,
    GraphormerConfig,
    PyGConfig,
)
from ghn.engine.base import Base, BaseConfig, added_to
from ghn.engine.checkpoint import HubCheckpoint
from ghn.engine.describe import Description, describe
from ghn.engine.magnitude import MODES, apply_magnitude, magnitude_rules
from ghn.engine.support import Support
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph, ParamSpec
from ghn.graphs.batch import GraphBatch, batch_specs
from ghn.graphs.ops import OPERATORS
from ghn.kernels import (
    Recipe,
    entries,
    expand_all,
    expand_entries,
    merged,
    parted,
    picked,
    scaled,
)
from ghn.registry import build, name_of

__all__ = ["GHN", "GHNConfig"]

T = TypeVar("T")


EncoderConfig = GraphormerConfig | GatedGNNConfig | PyGConfig | FixedCodesConfig
ConditionConfig = (
    EmbeddingTableConfig
    | VectorEncoderConfig
    | ImageEncoderConfig
    | ValuesConfig
    | NoiseConfig
    | SizeConfig
    | UnitConfig
)
DecoderConfig = (
    LowRankDecoderConfig
    | TiledDecoderConfig
    | DenseDecoderConfig
    | ChunkedDecoderConfig
    | RecurrentDecoderConfig
    | ImplicitDecoderConfig
)
Select = Callable[[ParamGraph, ParamSpec], bool]
"""Says which parameters of a graph are emitted."""
Key = tuple[int, str]
"""A parameter: number of its graph and name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GHNConfig(Config):
    """Settings of `GHN`.

    Attributes:
        encoder: Settings of the encoder; their type chooses it. None gives embeddings of size 0,
            for decoders that read nothing but the condition.
        decoder: Settings of the decoder; their type chooses it.
        condition: Settings of what encodes conditions; their type chooses it. None: no condition.
        entry: How a condition enters node embeddings: `"concatenation"`, `"addition"`, `"film"` or
            `"cross_attention"`.
        magnitude: `"bounded"`, `"plain"` or `"unit"`; see `ghn.engine.magnitude`.
        base: Settings of stored parameters that emissions are added to; see `ghn.engine.base`.
            None: what is emitted replaces.
        modality: What the training networks read: `"vision"` or `"text"`.
        spread: Largest factor by which an emitted weight's size may differ from the rule of
            `ghn.engine.magnitude`; above 1.
        learning_rate: Recommended to train what is predicted with AdamW: the median of what a
            benchmark's networks chose. None where nothing was measured.
        support: What the hypernetwork was trained for; see `Support`.
        operators: Number of operators in the vocabulary it was built with.
    """

    encoder: EncoderConfig | None = dataclasses.field(default_factory=GraphormerConfig)
    decoder: DecoderConfig = dataclasses.field(default_factory=LowRankDecoderConfig)
    condition: ConditionConfig | None = None
    entry: str = "concatenation"
    magnitude: str = "bounded"
    base: BaseConfig | None = None
    modality: str = "vision"
    spread: float = 1.25
    learning_rate: float | None = None
    support: Support = dataclasses.field(default_factory=Support)
    operators: int = len(OPERATORS)

    def __post_init__(self) -> None:
        entry: Any = ENTRIES[self.entry]
        if self.condition and self.condition.gives_tokens and not entry.takes_tokens:
            raise ConfigError(f"tokens enter by cross_attention, got entry={self.entry!r}")
        if self.decoder.dim != self.embedding_dim:
            raise ConfigError(
                f"encoder and decoder must agree on dim: nodes come out with {self.embedding_dim} "
                f"numbers, the condition's included, the decoder takes {self.decoder.dim}"
            )
        if self.modality not in ("vision", "text"):
            raise ConfigError(f"modality must be 'vision' or 'text', got {self.modality!r}")
        if self.magnitude not in MODES:
            raise ConfigError(f"magnitude must be one of {MODES}, got {self.magnitude!r}")
        if self.base and self.magnitude != "plain":
            raise ConfigError(
                "what is added to a base has magnitude='plain'; 'bounded' is for emissions that "
                f"replace, got {self.magnitude!r}"
            )
        if not self.spread > 1.0:
            raise ConfigError(f"spread must be above 1, got {self.spread}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be above 0, got {self.learning_rate}")

    @property
    def embedding_dim(self) -> int:
        """Size of the embeddings that the decoder reads."""
        nodes = self.encoder.dim if self.encoder else 0
        entry: Any = ENTRIES[self.entry]
        return entry.width(nodes, self.condition.dim) if self.condition else nodes


class GHN(HubCheckpoint, nn.Module):
    """A graph hypernetwork: a parameter graph in, that network's parameters out.

    Args:
        config: Encoder, condition and decoder with their sizes.

    Example:
        >>> ghn = GHN(GHNConfig())
        >>> graph = trace(model)                      # doctest: +SKIP
        >>> parameters = ghn(graph)                   # doctest: +SKIP
        >>> torch.func.functional_call(model, parameters, (x,))  # doctest: +SKIP
    """

    Config: ClassVar[type[Config]] = GHNConfig

    def __init__(self, config: GHNConfig | None = None) -> None:
        super().__init__()
        config = self._settings = config or GHNConfig()
        self.encoder: Any = config.encoder and build(ENCODERS, config.encoder)
        self.condition: Any = config.condition and build(CONDITIONS, config.condition)
        self.entry: Any = None
        if config.condition:
            nodes = config.encoder.dim if config.encoder else 0
            self.entry = ENTRIES[config.entry](nodes, config.condition.dim)
        self.decoder: Any = build(DECODERS, config.decoder)
        self.decoder_name = name_of(DECODERS, config.decoder)
        self.base = Base(config.base) if config.base else None

    @property
    def config(self) -> GHNConfig:
        """The settings that build this module anew, with what was added to its parts since."""
        condition = self.condition.config if self.condition is not None else None
        base = self.base.config if self.base is not None else None
        return self._settings.replace(decoder=self.decoder.config, condition=condition, base=base)

    @config.setter
    def config(self, config: GHNConfig) -> None:
        self._settings = config

    def describe(self) -> Description:
        """Return what this hypernetwork is: stages, size, and the five axes of `ghn.axes`.

        Example:
            >>> print(ghn.describe())      # doctest: +SKIP
        """
        return describe(self)

    def recipes(
        self,
        graphs: Sequence[ParamGraph],
        *,
        select: Select | None = None,
        condition: Any = None,
    ) -> list[dict[str, Recipe]]:
        """Return one recipe for each parameter of each graph, with its final magnitude.

        Args:
            graphs: Any number of graphs; encoded and decoded together.
            select: Which parameters to emit; all if None.
            condition: As in a call of the module; a batch gives recipes with a leading axis B.
        """
        stacks, batch = self._stacks(graphs, select, condition)
        found = {
            key: recipe
            for keys, stack in stacks.items()
            for key, recipe in zip(keys, _entries(stack, batch), strict=True)
        }
        return _by_graph(graphs, found)

    def _stacks(
        self,
        graphs: Sequence[ParamGraph],
        select: Select | None = None,
        condition: Any = None,
    ) -> tuple[dict[tuple[Key, ...], Recipe], int | None]:
        """Return recipes of parameters that are alike, by (graph, name), and B if it was a batch.

        Each has one batch axis: for each condition in turn, the parameters in the order of the key.
        """
        specs = {k: spec for k, spec in batch_specs(graphs).items() if spec.numel}
        wanted = {
            (i, name)
            for i, name in specs
            if select is None or select(graphs[i], graphs[i].specs[name])
        }
        if not wanted:
            return {}, None
        embeddings, batch = self._embed(graphs, condition)
        if self.decoder.single_graph:
            emitted = _only(self._graph_by_graph(embeddings, graphs), wanted)
        else:
            emitted = self.decoder(embeddings, {k: s for k, s in specs.items() if k in wanted})
        # From here on the only batch axis counts parameters, those of all conditions.
        stacks = {keys: merged(recipe) for keys, recipe in emitted.items()}
        rules = {
            keys: [magnitude_rules(graphs[i])[name] for i, name in keys] * len(embeddings)
            for keys in stacks
        }
        sized = apply_magnitude(
            stacks,
            rules,
            self._settings.spread,
            shared_codes=self.decoder.shared_codes,
            mode=self._settings.magnitude if self.base is None else "change",
        )
        return (sized if self.base is None else self._on_base(sized, graphs, self.base)), batch

    @staticmethod
    def _on_base(
        changes: Mapping[tuple[Key, ...], Recipe], graphs: Sequence[ParamGraph], base: Base
    ) -> dict[tuple[Key, ...], Recipe]:
        """Return recipes of the base and the changes to it."""
        held = {(i, n): base.of(graphs[i].specs[n]) for keys in changes for i, n in keys}
        return added_to(held, {k: scaled(r, base.config.scale) for k, r in changes.items()})

    def _embed(
        self, graphs: Sequence[ParamGraph], condition: Any
    ) -> tuple[Float[Tensor, "B N d"], int | None]:
        """Return the embeddings of all nodes under each condition, and B if it was a batch."""
        device = next(self.parameters()).device
        nodes = torch.zeros(sum(len(graph.nodes) for graph in graphs), 0, device=device)
        if self.encoder is not None:
            nodes = self.encoder(GraphBatch.from_graphs(graphs, device=device))
        if (self.condition is None) != (condition is None):
            raise ConfigError(
                f"condition={condition!r} was given, but the hypernetwork takes none; leave it out"
                if self.condition is None
                else "this hypernetwork needs condition=: "
                f"{type(self.condition).__name__} encodes it"
            )
        if self.condition is None:
            return nodes[None], None
        encoded, single = self.condition.encode(condition)
        return self.entry(nodes, encoded), None if single else len(encoded)

    def _graph_by_graph(
        self, embeddings: Float[Tensor, "B N d"], graphs: Sequence[ParamGraph]
    ) -> dict[tuple[Key, ...], Recipe]:
        """Decode the graphs one after another, each with all of its parameters."""
        emitted: dict[tuple[Key, ...], Recipe] = {}
        parts = embeddings.split([len(graph.nodes) for graph in graphs], 1)
        for index, (graph, part) in enumerate(zip(graphs, parts, strict=True)):
            specs = {(index, name): spec for name, spec in graph.specs.items() if spec.numel}
            if specs:
                emitted.update(self.decoder(part, specs))
        return emitted

    @overload
    def forward(
        self, graphs: ParamGraph, condition: Any = None, select: Select | None = None
    ) -> dict[str, Tensor]: ...

    @overload
    def forward(
        self, graphs: Sequence[ParamGraph], condition: Any = None, select: Select | None = None
    ) -> list[dict[str, Tensor]]: ...

    def forward(
        self,
        graphs: ParamGraph | Sequence[ParamGraph],
        condition: Any = None,
        select: Select | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the parameters of a graph, or of each of several, by name.

        The tensors have the shapes that the models store, the hypernetwork's dtype, and gradients
        to the hypernetwork. Tied parameters appear once, under their leading name.

        Args:
            graphs: One graph or a sequence of them.
            condition: What the parameters are for, if the hypernetwork takes a condition: one value
                of the kind that it was built for, or a batch of B. Tensors then have a leading axis
                B.
            select: As for `recipes`.

        Raises:
            ConfigError: If a condition is missing, or given to a hypernetwork without one.
        """
        many = [graphs] if isinstance(graphs, ParamGraph) else list(graphs)
        stacks, batch = self._stacks(many, select, condition)
        found = {
            key: tensor
            for keys, tensors in zip(stacks, _expanded(list(stacks.values()), batch), strict=True)
            for key, tensor in zip(keys, tensors, strict=True)
        }
        tensors = _by_graph(many, found)
        return tensors[0] if isinstance(graphs, ParamGraph) else tensors


def _entries(stack: Recipe, batch: int | None) -> list[Recipe]:
    """Return the recipe of each parameter of a stack, under all conditions if there is a batch."""
    return entries(stack) if batch is None else entries(parted(stack, batch), 1)


def _expanded(stacks: list[Recipe], batch: int | None) -> list[list[Tensor]]:
    """Return the tensors of each parameter of each stack; see `_entries`."""
    if batch is None:
        return expand_entries(stacks)
    return [list(t.unflatten(0, (batch, -1)).unbind(1)) for t in expand_all(stacks)]


def _only(
    emitted: Mapping[tuple[Key, ...], Recipe], wanted: set[Key]
) -> dict[tuple[Key, ...], Recipe]:
    """Return stacks of the wanted parameters only."""
    result: dict[tuple[Key, ...], Recipe] = {}
    for keys, recipe in emitted.items():
        places = [place for place, key in enumerate(keys) if key in wanted]
        if places:
            chosen = recipe if len(places) == len(keys) else picked(recipe, places, 1)
            result[tuple(keys[place] for place in places)] = chosen
    return result


def _by_graph(
    graphs: Sequence[ParamGraph], found: Mapping[tuple[int, str], T]
) -> list[dict[str, T]]:
    """Sort what was found under (graph, name) into a dict for each graph, in the graph's order."""
    return [
        {name: found[index, name] for name in graph.specs if (index, name) in found}
        for index, graph in enumerate(graphs)
    ]
