"""Build the documentation site: `make docs`.

Pages link to each other by their places in the repository, so that the same links work where the
files are read as they are. The site's source is therefore a copy of the repository's Markdown and
of what it shows, folders and all. Warnings are errors: a broken link, a page that is in no menu,
a public name that the reference leaves out.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "build" / "docs"
SITE = ROOT / "build" / "site"
COPIED = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "LICENSE",
    "docs/**/*.md",
    "docs/images/*",
    "results/**/*",
    "ghn/checkpoints/*/README.md",
    "ghn/graphs/page/vendor/README.md",
)
# Not listed in the reference: sweeps and benchmarks are commands, the tracer's inputs are its own.
PRIVATE = {"ghn.benchmarks", "ghn.cli", "ghn.graphs.inputs"}
ELSEWHERE = {"ghn.trace": "ghn.graphs.trace"}  # listed once, at home


def main() -> int:
    """Copy the source afresh, build the site, and compare it with what is public."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for pattern in COPIED:
        for file in filter(Path.is_file, ROOT.glob(pattern)):
            target = SOURCE / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.md")]
    if stray := [page for page in pages if not re.search(rf"[ :]{re.escape(page)}$", menu, re.M)]:
        sys.stderr.write(f"In no menu of mkdocs.yml: {', '.join(stray)}.\n")
        return 1
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    if status := subprocess.call(command, cwd=ROOT):
        return status
    listed = names_in_inventory(SITE / "objects.inv")
    if missing := [name for name in public_names() if not is_listed(name, listed)]:
        sys.stderr.write(
            f"Public, but in no page of docs/reference: {', '.join(missing)}.\n"
            "Add `::: ghn.SUBPACKAGE` to a page there, and the page to mkdocs.yml.\n"
        )
        return 1
    return 0


def public_names() -> list[str]:
    """Return the full name of everything in `__all__` of the package and its subpackages."""
    names = []
    for file in sorted((ROOT / "ghn").rglob("__init__.py")):
        package = ".".join(file.parent.relative_to(ROOT).parts)
        if package not in PRIVATE:
            names += [f"{package}.{name}" for name in _exported(file)]
    return names


def is_listed(name: str, listed: set[str]) -> bool:
    """Whether the reference has a name; a function called like its module is listed inside it."""
    name = ELSEWHERE.get(name, name)
    return name in listed or f"{name}.{name.rpartition('.')[2]}" in listed


def names_in_inventory(path: Path) -> set[str]:
    """Return the names that a site documents, from the inventory that it publishes."""
    packed = path.read_bytes().split(b"\n", 4)[4]  # after four lines of header
    return {line.split()[0] for line in zlib.decompress(packed).decode().splitlines() if line}


def _exported(file: Path) -> list[str]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


if __name__ == "__main__":
    raise SystemExit(main())
