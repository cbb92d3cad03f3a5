"""`ghn methods`: the methods of the library, and where each stands on the five axes."""

from __future__ import annotations

from ghn.cli.models import AsJson
from ghn.cli.output import print_json, print_table
from ghn.methods.registry import METHODS

__all__ = ["methods"]

COLUMNS = ["method", "kind", "inputs", "outputs", "input var.", "output var.", "architecture"]


def methods(as_json: AsJson = False) -> None:
    """List methods by what they read, how they emit, what varies, and what they compute with.

    Example: ghn methods --json
    """
    if as_json:
        print_json(
            {
                name: {
                    "summary": method.summary.partition("\n")[0],
                    "kinds": {kind: axes.to_dict() for kind, axes in method.kinds.items()},
                }
                for name, method in METHODS.items()
            }
        )
        return
    rows = [
        [
            name,
            kind,
            axes.inputs,
            axes.outputs,
            axes.input_variability,
            axes.output_variability,
            ", ".join(axes.architecture),
        ]
        for name, method in METHODS.items()
        for kind, axes in method.kinds.items()
    ]
    title = "Five axes of hypernetworks; docs/methods/taxonomy.md says what they mean"
    print_table(title, COLUMNS, rows)
