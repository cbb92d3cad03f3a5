"""The methods that `ghn run METHOD` knows. Nothing heavy is imported until one is run."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ghn.axes import Axes
from ghn.registry import Registry

if TYPE_CHECKING:
    from ghn.engine import GHN
    from ghn.graphs import ParamGraph

__all__ = ["METHODS", "Method"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What the command line needs of a method.

    Attributes:
        summary: One line for lists, then an example.
        home: Module with `RunConfig`, whose fields become flags and among which are `seeds` and
            `out`; with `run(config, ticker) -> result`; and with `data_of(config)`, the names and
            digests of the data. A result has `name`, `title`, `table() -> (columns, rows)`,
            `to_dict()`, `write(folder, record)` and `files`, the paths that were written. Empty
            for methods that are no command of `ghn run`.
        kinds: Where each kind of the method stands on the five axes, by name.
        specimen: `"module:function"` that builds a small hypernetwork: of the name of a kind, and
            of the graph of a network.
    """

    summary: str
    home: str = ""
    kinds: Mapping[str, Axes] = dataclasses.field(default_factory=dict)
    specimen: str = ""

    def load(self) -> Any:
        """Import the module."""
        return importlib.import_module(self.home)

    def build(self, kind: str, graph: ParamGraph) -> GHN:
        """Return a small hypernetwork of a kind, for a network."""
        module, _, function = self.specimen.partition(":")
        return getattr(importlib.import_module(module), function)(kind, graph)


METHODS: Registry[Method] = Registry("method")
"""Methods by name."""


def _axes(
    inputs: str, outputs: str, input_variability: str, output_variability: str, *architecture: str
) -> Axes:
    return Axes(
        inputs=inputs,
        outputs=outputs,
        input_variability=input_variability,
        output_variability=output_variability,
        architecture=architecture,
    )


METHODS.register("prediction")(
    Method(
        summary="Predict the parameters of any network from its graph.\n\n"
        "Example: ghn predict timm:resnet18 -o weights.safetensors",
        kinds={
            "ghn2": _axes("task", "component", "dynamic", "dynamic", "rnn", "gnn"),
            "ghn3": _axes("task", "component", "dynamic", "dynamic", "attention"),
            "logah": _axes("task", "component", "dynamic", "dynamic", "attention"),
            "factor": _axes("task", "component", "dynamic", "dynamic", "attention"),
        },
        specimen="ghn.methods.prediction:specimen",
    )
)
METHODS.register("continual")(
    Method(
        summary="Learn tasks one after another without their old data.\n\n"
        "Example: ghn run continual --benchmark permuted-digits --methods recurrent",
        home="ghn.methods.continual.run",
        kinds={
            "recurrent": _axes("task", "chunk", "static", "dynamic", "rnn"),
            "recurrent-learned": _axes("task", "chunk", "static", "static", "rnn"),
            "chunked": _axes("task", "chunk", "static", "dynamic", "mlp"),
            "chunked-learned": _axes("task", "chunk", "static", "static", "mlp"),
            "dense": _axes("task", "once", "static", "static", "mlp"),
        },
        specimen="ghn.methods.sequence.model:specimen",
    )
)
METHODS.register("mip")(
    Method(
        summary="Make the size of weights independent of the size of the condition.\n\n"
        "Example: ghn bench mip --tasks beta-vae",
        kinds={"dense": _axes("task", "once", "dynamic", "static", "mlp")},
        specimen="ghn.methods.mip:specimen",
    )
)
METHODS.register("bayesian")(
    Method(
        summary="Draw networks from noise, for predictions that say how far they go.\n\n"
        "Example: ghn run bayesian --tasks diabetes --methods noise --methods ensemble",
        home="ghn.methods.bayesian.run",
        kinds={"dense": _axes("noise", "once", "dynamic", "static", "mlp")},
        specimen="ghn.methods.bayesian.samplers:specimen",
    )
)
METHODS.register("hypercrl")(
    Method(
        summary="Learn how variants of an environment move, one after another; plan in them.\n\n"
        "Example: ghn run hypercrl --scenario reacher --methods dense --methods fine-tuning",
        home="ghn.methods.hypercrl.run",
        kinds={
            "dense": _axes("task", "once", "static", "static", "mlp"),
            "chunked": _axes("task", "chunk", "static", "dynamic", "mlp"),
            "recurrent": _axes("task", "chunk", "static", "dynamic", "rnn"),
        },
        specimen="ghn.methods.sequence.model:specimen",
    )
)
METHODS.register("neumeta")(
    Method(
        summary="Fit one network's weights for all widths, and score them beside baselines.\n\n"
        "Example: ghn run neumeta --benchmark digits --arms field-on-base --arms slimmable",
        home="ghn.methods.neumeta.run",
        kinds={"field": _axes("task", "chunk", "dynamic", "dynamic", "mlp")},
        specimen="ghn.methods.neumeta.model:specimen",
    )
)
