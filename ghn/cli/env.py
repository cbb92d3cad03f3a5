"""`ghn env`: what this installation sees: versions, devices, kernels, data, checkpoints."""

from __future__ import annotations

from typing import Any

from ghn.cli.models import AsJson
from ghn.cli.output import print_json, print_table

__all__ = ["env"]


def env(as_json: AsJson = False) -> None:
    """Show versions, devices, threads, kernels, data and checkpoints; for bug reports.

    Example: ghn env --json
    """
    from ghn.benchmarks.records import machine, versions
    from ghn.kernels.dispatch import explain

    found: dict[str, Any] = {
        **versions(),
        **machine(),
        "kernels": explain(),
        "data": _data(),
        "checkpoints": _checkpoints(),
    }
    if as_json:
        print_json(found)
        return
    rows = [[k, ", ".join(v) if isinstance(v, list) else str(v)] for k, v in found.items()]
    print_table("ghn environment", ["what", "value"], rows)


def _data() -> list[str]:
    """Names of known data sets and where they were found."""
    from ghn.data import find_data
    from ghn.errors import DataError

    found = ["digits: scikit-learn"]
    for name in ("cifar10", "cifar100"):
        try:
            found.append(f"{name}: {find_data(name)}")
        except DataError:
            found.append(f"{name}: not found")
    return found


def _checkpoints() -> list[str]:
    from ghn.engine import embedded_checkpoints

    return list(embedded_checkpoints())
