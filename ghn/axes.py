"""Five axes by which methods that write weights are told apart.

Source: Chauhan, Zhou, Lu, Molaei, Clifton 2023 (A brief review of hypernetworks in deep learning,
arXiv 2306.06955). Its tables could not be read in full, so that the words are its abstract's and
the definitions below ours. `"gnn"` is not among its architectures.
"""

from __future__ import annotations

import dataclasses

from ghn.errors import ConfigError

__all__ = ["ARCHITECTURES", "INPUTS", "OUTPUTS", "VARIABILITY", "Axes"]

INPUTS = {
    "task": "what the weights are for: a name, numbers that a user sets, the network's own graph",
    "data": "data of the kind that the network itself reads",
    "noise": "draws, which nobody chooses",
}
OUTPUTS = {
    "once": "all weights are one output",
    "multiple": "all at once, by several heads",
    "component": "one piece for each parameter or section of one, whatever its size",
    "chunk": "pieces of one size, as many as it takes",
}
VARIABILITY = {
    "static": "inputs: a closed set of values; outputs: weights of one network only",
    "dynamic": "inputs: any value of a kind, and each its own weights; outputs: networks of other "
    "sizes and depths too",
}
ARCHITECTURES = {
    "mlp": "linear maps and functions of single numbers alone",
    "cnn": "convolutions",
    "rnn": "a state that is carried along",
    "attention": "weighted means, whose weights come from queries and keys",
    "gnn": "messages along edges",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axes:
    """Where a method stands; the words are keys of this module's tables.

    Attributes:
        inputs: What a hypernetwork reads; a key of `INPUTS`.
        outputs: In what portions it emits; a key of `OUTPUTS`.
        input_variability: A key of `VARIABILITY`.
        output_variability: A key of `VARIABILITY`.
        architecture: What it computes with, in the order of `ARCHITECTURES`; `"mlp"` only where
            there is nothing else.
    """

    inputs: str
    outputs: str
    input_variability: str
    output_variability: str
    architecture: tuple[str, ...]

    def __post_init__(self) -> None:
        tables = {
            "inputs": INPUTS,
            "outputs": OUTPUTS,
            "input_variability": VARIABILITY,
            "output_variability": VARIABILITY,
        }
        for axis, table in tables.items():
            if getattr(self, axis) not in table:
                raise ConfigError(
                    f"{axis} must be one of {', '.join(table)}, got {getattr(self, axis)!r}"
                )
        if self.architecture != tuple(k for k in ARCHITECTURES if k in self.architecture):
            raise ConfigError(
                f"architecture must be some of {', '.join(ARCHITECTURES)} in this order, got "
                f"{self.architecture}"
            )

    def to_dict(self) -> dict[str, str | list[str]]:
        """Return the axes as plain JSON types."""
        return {**dataclasses.asdict(self), "architecture": list(self.architecture)}
