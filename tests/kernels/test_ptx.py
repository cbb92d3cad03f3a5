"""The kernels compile for GPUs that this machine does not have."""

from __future__ import annotations

import os

import pytest

triton = pytest.importorskip("triton")

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter replaces the compiler", allow_module_level=True)

backward = pytest.importorskip("ghn.kernels.triton_backward")
forward = pytest.importorskip("ghn.kernels.triton_forward")
compiler = pytest.importorskip("triton.compiler")

TABLES = {"scales": "*fp32", "table": "*i64", "tiles": "*i32", "tile_count": "i32"}
WRITE = {"update": "replace", "digits": 1, "vector": 1, "block_m": 64, "block_n": 128}
PRODUCT = {**WRITE, "precision": "ieee", "upcast": False, "block_r": 32}
SUM = {"precision": "ieee", "digits": 2, "block_kept": 64, "block_summed": 64, "block_r": 32}


def pointers(names: str, kind: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), f"*{kind}")


# Kernel, types of its pointers, constants, and an instruction that must be there.
CASES = {
    "bf16 in vectors": (
        forward.expand_lowrank,
        pointers("x y out base", "bf16"),
        {**PRODUCT, "vector": 8},
        "st.global.v4",
    ),
    "fp32 by three tf32 products": (
        forward.expand_lowrank,
        pointers("x y out base", "fp32"),
        {**PRODUCT, "vector": 4, "precision": "tf32x3", "update": "multiply"},
        "tf32",
    ),
    "strict fp32 into any strides": (
        forward.expand_lowrank,
        pointers("x y out base", "fp32"),
        {**PRODUCT, "digits": 3, "update": "add", "block_m": 32, "block_r": 16},
        "fma.rn.f32",
    ),
    "tiled": (
        forward.expand_tiled,
        pointers("x out base", "fp32"),
        {**WRITE, "digits": 2, "vector": 4},
        "st.global.v4",
    ),
    "gradient of rows": (
        backward.contract,
        pointers("grad factor", "bf16") | pointers("result", "fp32"),
        {**SUM, "transposed": False, "upcast": False},
        "st.global",
    ),
    "gradient of columns": (
        backward.contract,
        pointers("grad", "fp16") | pointers("factor result", "fp32"),
        {**SUM, "transposed": True, "upcast": True},
        "st.global",
    ),
    "gradient of a block": (
        backward.contract_tiled,
        pointers("grad", "bf16") | pointers("result", "fp32"),
        {"digits": 3, "block_m": 32, "block_n": 64},
        "add.f32",
    ),
    "sum of chunks": (
        backward.add_chunks,
        pointers("parts", "fp32") | pointers("result", "bf16"),
        {"block": 1024},
        "add.f32",
    ),
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_to_ptx_without_a_gpu(case, capability, tmp_path, monkeypatch):
    if "nvidia" not in triton.backends.backends:
        pytest.skip("this Triton has no NVIDIA backend")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, types, constants, instruction = CASES[case]
    types = types | TABLES
    names = [parameter.name for parameter in kernel.params]
    aligned = [i for i, name in enumerate(names) if types.get(name, "")[:1] == "*"]
    source = compiler.ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in aligned},
    )

    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": 8})

    ptx = compiled.asm["ptx"]
    assert f".target sm_{capability}" in ptx
    assert instruction in ptx
