"""The methods that `ghn run METHOD` knows. Nothing heavy is imported until one is run."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from ghn.registry import Registry

__all__ = ["METHODS", "Method"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What the command line needs of a method.

    Attributes:
        summary: One line for lists, then an example.
        home: Module with `RunConfig`, whose fields become flags and among which are `seeds` and
            `out`; with `run(config, ticker) -> result`; and with `data_of(config)`, the names and
            digests of the data. A result has `name`, `title`, `table() -> (columns, rows)`,
            `to_dict()`, `write(folder, record)` and `files`, the paths that were written.
    """

    summary: str
    home: str

    def load(self) -> Any:
        """Import the module."""
        return importlib.import_module(self.home)


METHODS: Registry[Method] = Registry("method")
"""Methods by name."""

METHODS.register("continual")(
    Method(
        summary="Learn tasks one after another without their old data.\n\n"
        "Example: ghn run continual --benchmark permuted-digits --methods recurrent",
        home="ghn.methods.continual.run",
    )
)
METHODS.register("neumeta")(
    Method(
        summary="Fit one network's weights for all widths, and score them beside baselines.\n\n"
        "Example: ghn run neumeta --benchmark digits --arms field-on-base --arms slimmable",
        home="ghn.methods.neumeta.run",
    )
)
