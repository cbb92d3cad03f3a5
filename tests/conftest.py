"""What every test runs under: one thread a worker, no network, shapes and types checked."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Before torch and transformers are imported, and inherited by processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="ghn-tests-")
    os.environ["XDG_CACHE_HOME"] = CACHE.name

from collections.abc import Iterator
from typing import Any

import annotation_checks
import browser as system_browser
import pytest
import torch

PACKAGE = Path(__file__).parents[1] / "ghn"

# jaxtyping's hook wraps every function, which breaks those under `@triton.jit`, so that the
# kernels stay out; command functions are typer's to convert and check; the texts of a structural
# hash come from functions too small and too many to be wrapped.
UNCHECKED = {"ghn.kernels", "ghn.cli", "ghn.graphs.code", "ghn.__main__"}


def checked_modules(package: Path = PACKAGE, name: str = "ghn") -> list[str]:
    """Names of the subpackages and modules whose annotations are checked while testing."""
    found = []
    for path in sorted(package.iterdir()):
        full = f"{name}.{path.stem}"
        if full in UNCHECKED or path.stem == "__init__":
            continue
        if any(other.startswith(f"{full}.") for other in UNCHECKED):
            found += checked_modules(path, full)
        elif path.suffix == ".py" or (path / "__init__.py").exists():
            found.append(full)
    return found


annotation_checks.install(checked_modules())
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real browser, driven by selenium; tests that need one are skipped where there is none."""
    if reason := system_browser.missing():
        pytest.skip(reason)
    with system_browser.open_browser() as driver:
        yield driver


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need data packs where there are none."""
    if Path(os.environ.get("GHN_DATA", "")).is_dir() and os.environ.get("GHN_DATA"):
        return
    skip = pytest.mark.skip(reason="needs the data packs: set GHN_DATA to their folder")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(skip)
