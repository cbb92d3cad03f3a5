from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ghn

ROOT = Path(__file__).parents[1]
HEAVY = {
    *("timm", "transformers", "torch_geometric", "torchvision", "scipy", "networkx"),
    *("matplotlib", "sklearn", "PIL", "accelerate", "rich", "typer", "huggingface_hub"),
}


def modules_after(code: str) -> set[str]:
    code = f"{code}\nimport sys\nprint(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.partition(".")[0] for name in output.stdout.split()}


def test_importing_the_package_and_its_public_names_imports_no_heavy_library():
    alone = modules_after("import ghn")
    used = modules_after("import ghn\nfor name in ghn.__all__: getattr(ghn, name)")

    assert "torch" in used
    assert sorted(alone & set(HEAVY)) == []
    assert sorted(used & set(HEAVY)) == ["huggingface_hub"]  # GHN is one of its mixins


def test_the_command_line_starts_without_torch():
    loaded = modules_after("import ghn.cli")

    assert "typer" in loaded
    assert sorted(loaded & {"torch", "numpy", *HEAVY} - {"typer", "rich"}) == []


def test_the_version_is_a_release_number():
    assert re.fullmatch(r"\d+\.\d+\.\d+", ghn.__version__)


@pytest.mark.parametrize("name", [n for n in ghn.__all__ if not n.startswith("__")])
def test_every_public_name_has_a_docstring(name):
    assert len(inspect.getdoc(getattr(ghn, name)) or "") > 20


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="predict_parms"):
        _ = ghn.predict_parms


def test_imports_point_downwards_only():
    script = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run([script], capture_output=True, text=True, cwd=ROOT, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_make_lists_the_documented_targets():
    done = subprocess.run(
        ["make", "help", f"PYTHON={sys.executable}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )

    listed = {line.split()[0] for line in done.stdout.splitlines()}
    assert {"demo", "test", "test-slow", "test-zoo", "check", "install", "clean"} <= listed


def test_the_dependency_fingerprint_changes_with_the_dependencies_alone(tmp_path):
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "dependencies.py"
    script.write_text((ROOT / ".ci" / "dependencies.py").read_text())
    text = (ROOT / "pyproject.toml").read_text()

    def fingerprint(project: str) -> str:
        (tmp_path / "pyproject.toml").write_text(project)
        return subprocess.check_output([sys.executable, script], text=True)

    before = fingerprint(text)

    assert fingerprint(text.replace("line-length = 100", "line-length = 99")) == before
    assert fingerprint(text.replace('"torch>=', '"einops",\n    "torch>=')) != before
