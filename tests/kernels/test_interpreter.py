from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

triton = pytest.importorskip("triton")


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


HERE = Path(__file__).parent


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    version(triton.__version__) < (3, 7) and version(numpy.__version__) >= (2, 4),
    reason="Triton 3.6's interpreter needs a NumPy before 2.4",
)
def test_the_triton_kernels_are_exact_in_the_interpreter():
    """In a process of its own: Triton reads the variable when kernels are defined."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "GHN_KERNELS": "triton"}
    environment.pop("PYTEST_ADDOPTS", None)

    files = [HERE / "interpreted_forward.py", HERE / "interpreted_backward.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files],
        capture_output=True,
        text=True,
        env=environment,
        cwd=HERE.parents[1],
        check=False,
    )

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
