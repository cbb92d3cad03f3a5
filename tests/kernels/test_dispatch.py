from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings

import pytest
import torch

from ghn.errors import ConfigError
from ghn.kernels import dispatch, reference


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Forget what was chosen before and after."""
    monkeypatch.delenv("GHN_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for function in (dispatch.choose, dispatch._warn):
        function.cache_clear()
    yield
    for function in (dispatch.choose, dispatch._warn):
        function.cache_clear()


def test_a_cpu_runs_pytorch_and_the_reason_is_told():
    assert dispatch.backend_for([torch.ones(1)]) is reference
    assert dispatch.explain("cpu") == "torch on cpu: Triton compiles for GPUs only"


def test_one_variable_overrules_the_rule(monkeypatch):
    monkeypatch.setattr(dispatch, "_obstacle", lambda kind, index: "")

    assert dispatch.choose("cuda", 0, "torch")[0] == "torch"
    assert dispatch.choose("cuda", 0, "triton")[0] == "triton"
    assert dispatch.choose("cuda", 0, "auto")[0] == "triton"
    assert dispatch.choose("mps", None, "auto")[0] == "torch"


def test_asking_for_what_cannot_run_or_is_unknown_is_an_error(monkeypatch):
    monkeypatch.setenv("GHN_KERNELS", "triton")
    with pytest.raises(ConfigError, match="unset the variable"):
        dispatch.backend_for([torch.ones(1)])

    monkeypatch.setenv("GHN_KERNELS", "cuda")
    with pytest.raises(ConfigError, match="auto, triton, torch"):
        dispatch.explain("cpu")


def test_a_gpu_without_triton_warns_once(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "triton" else find(name)
    )
    tensor = type("OnGPU", (), {"device": torch.device("cuda", 0)})()

    with pytest.warns(RuntimeWarning, match="Triton is not installed"):
        assert dispatch.backend_for([tensor]) is reference
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dispatch.backend_for([tensor])
    assert "Triton is not installed" in dispatch.explain("cuda")


def test_a_gpu_that_is_too_old_runs_pytorch(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))

    name, reason, slow = dispatch.choose("cuda", 0, "auto")

    assert (name, slow) == ("torch", True)
    assert "(7, 5)" in reason


def test_expanding_on_a_cpu_imports_neither_triton_nor_the_compiler():
    code = (
        "import sys, torch\n"
        "from ghn.kernels import *\n"
        "recipe = LowRank(torch.ones(2, 1), torch.ones(1, 2), Layout((2, 2), 'oi'))\n"
        "expand_all_out([recipe], expand_all([recipe]))\n"
        "print(*[m for m in sys.modules if m in ('triton', 'sympy', 'torch._dynamo')])"
    )

    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert output.stdout.split() == []
