"""The parameter graph: what a network computes, and which tensor is used where.

Nodes are operators in topological order. An edge says that one operator reads what another wrote.
Every parameter hangs on the nodes that consume it, each time with a role; operators that only
change a tensor's shape are not nodes. The graph holds no tensor.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ghn.errors import CheckpointError
from ghn.graphs.ops import VOCABULARY_VERSION, operator_index

if TYPE_CHECKING:
    import networkx
    import torch_geometric.data

__all__ = ["Node", "ParamGraph", "ParamSpec", "Use"]

G = TypeVar("G", bound="ParamGraph")

FORMAT = 1


class Use(NamedTuple):
    """One use of a parameter: the index of the node that consumes it, and in which role."""

    node: int
    role: str


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """One operator.

    Attributes:
        op: Name in `ghn.graphs.ops.OPERATORS`.
        scope: Dotted path of the module that ran it; empty for the root module.
        attributes: What distinguishes operators of one kind: `kernel`, `stride`, `groups`,
            `heads`, `layers`, ... as numbers, strings or tuples of them.
        parameters: Pairs (parameter name, role) in the order of the operator's arguments.
    """

    op: str
    scope: str = ""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ParamSpec:
    """What a decoder must know to emit one parameter.

    Attributes:
        name: Name in the model; the first of its names if it is tied.
        shape: Shape as the model stores it.
        dtype: Such as `"float32"`.
        node: Index of the node that uses it first.
        role: Role at that node; see `ghn.graphs.ops.ROLES`.
        axes: One letter for each axis of `shape`, read off the operator that consumes it:
            `o` output channels, `i` input channels, `k` kernel, `e` stacked copies (experts,
            gates), `v` vocabulary rows, `t` positions, `1` a broadcast axis of size 1.
        fan_in: Number of products summed into one output element, groups respected; 0 for roles
            without one.
        groups: Groups of the convolution that consumes it, else 1.
        sections: Number of equal blocks that the output channels are split into by what follows
            (3 for a fused query-key-value projection, 2 for a gated unit, 4 for LSTM gates).
        stem: Whether its operator reads the model's input directly.
        head: Whether its operator emits the model's output.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    node: int
    role: str
    axes: str
    fan_in: int = 0
    groups: int = 1
    sections: int = 1
    stem: bool = False
    head: bool = False

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def sizes(self, letters: str) -> tuple[int, ...]:
        """Sizes of the axes that carry one of `letters`, in storage order."""
        return tuple(s for s, a in zip(self.shape, self.axes, strict=True) if a in letters)


@dataclasses.dataclass(frozen=True)
class ParamGraph:
    """Operators, edges, and the parameters that hang on them.

    Attributes:
        nodes: Operators in topological order; indices below are positions in this list.
        edges: Sorted pairs (from, to) with from < to.
        specs: One spec for each parameter that the forward pass used, by name, in the order of
            `named_parameters()`.
        untouched: Names of the parameters that the forward pass never used.
        reasons: For each of these, why.
        aliases: For tied parameters, each further name and the leading name it stands for.
        assumptions: What the trace took for granted, in words; empty for most models.
        vocabulary: Version of the operator vocabulary.
        memo: What other stages computed from the graph, by name; not part of its value.
    """

    nodes: list[Node]
    edges: list[tuple[int, int]]
    specs: dict[str, ParamSpec]
    untouched: list[str] = dataclasses.field(default_factory=list)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    aliases: dict[str, str] = dataclasses.field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    vocabulary: int = VOCABULARY_VERSION
    memo: dict[str, Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def parameters(self) -> dict[str, list[Use]]:
        """Every used parameter's name and all its uses, in topological order."""
        uses: dict[str, list[Use]] = {name: [] for name in self.specs}
        for index, node in enumerate(self.nodes):
            for name, role in node.parameters:
                uses[name].append(Use(index, role))
        return uses

    @property
    def num_parameters(self) -> int:
        """Number of elements of all used parameters, tied ones counted once."""
        return sum(spec.numel for spec in self.specs.values())

    def only(self: G, names: Collection[str]) -> G:
        """Return the graph with some of the parameters; the others count as untouched.

        Args:
            names: Leading names of the parameters to keep; all operators are kept.
        """
        others = [name for name in self.specs if name not in names]
        nodes = [
            dataclasses.replace(n, parameters=tuple(p for p in n.parameters if p[0] in names))
            for n in self.nodes
        ]
        return dataclasses.replace(
            self,
            nodes=nodes,
            specs={name: spec for name, spec in self.specs.items() if name in names},
            untouched=[*self.untouched, *others],
            reasons={**self.reasons, **dict.fromkeys(others, "not selected")},
            aliases={k: v for k, v in self.aliases.items() if v in names},
        )

    def __repr__(self) -> str:
        return (
            f"ParamGraph({len(self.nodes)} nodes, {len(self.edges)} edges, "
            f"{len(self.specs)} parameters of {self.num_parameters:,} elements, "
            f"{len(self.untouched)} untouched)"
        )

    def to_networkx(self) -> networkx.DiGraph:
        """Return a `networkx.DiGraph` with node attributes `op`, `parameters`, `scope`, ...

        `parameters` is a list of pairs (name, role).
        """
        import networkx

        graph = networkx.DiGraph()
        for index, node in enumerate(self.nodes):
            graph.add_node(
                index,
                op=node.op,
                parameters=list(node.parameters),
                scope=node.scope,
                attributes=dict(node.attributes),
            )
        graph.add_edges_from(self.edges)
        return graph

    def to_pyg(self) -> torch_geometric.data.Data:
        """Return a torch-geometric `Data` with `op [N]` (int64) and `edge_index [2, E]`."""
        import torch
        from torch_geometric.data import Data

        return Data(
            op=torch.tensor([operator_index(n.op) for n in self.nodes], dtype=torch.long),
            edge_index=torch.tensor(self.edges, dtype=torch.long).reshape(-1, 2).T.contiguous(),
            num_nodes=len(self.nodes),
        )

    def to_json(self, indent: int | None = None) -> str:
        """Return the graph as a JSON text that `from_json` reads back to an equal graph."""
        value = {
            "format": FORMAT,
            "vocabulary": self.vocabulary,
            "nodes": [dataclasses.asdict(n) for n in self.nodes],
            "edges": self.edges,
            "specs": [dataclasses.asdict(s) for s in self.specs.values()],
            "untouched": self.untouched,
            "reasons": self.reasons,
            "aliases": self.aliases,
            "assumptions": self.assumptions,
        }
        return json.dumps(value, indent=indent)

    @classmethod
    def from_json(cls: type[G], text: str) -> G:
        """Read a graph that `to_json` wrote.

        Raises:
            CheckpointError: If the text is not such a graph or of a newer format.
        """
        try:
            value = json.loads(text)
            if value["format"] > FORMAT:
                raise CheckpointError(
                    f"graph has format {value['format']}, this version of ghn reads up to "
                    f"{FORMAT}; update ghn"
                )
            specs = [ParamSpec(**{**s, "shape": tuple(s["shape"])}) for s in value["specs"]]
            return cls(
                nodes=[_node_from_json(n) for n in value["nodes"]],
                edges=[(int(u), int(v)) for u, v in value["edges"]],
                specs={s.name: s for s in specs},
                untouched=list(value["untouched"]),
                reasons=dict(value.get("reasons", {})),
                aliases=dict(value["aliases"]),
                assumptions=tuple(value["assumptions"]),
                vocabulary=int(value["vocabulary"]),
            )
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"not a parameter graph in JSON: {error!r}") from error


def _node_from_json(value: dict[str, Any]) -> Node:
    return Node(
        op=value["op"],
        scope=value["scope"],
        attributes={
            k: tuple(v) if isinstance(v, list) else v for k, v in value["attributes"].items()
        },
        parameters=tuple((name, role) for name, role in value["parameters"]),
    )
