"""What the site needs of its sources; the build itself, `make docs`, checks it once more."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def load_build():
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as sites and forges make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.replace("`", "")).lower().replace(" ", "-") for t in titles}


def test_every_page_table_of_results_and_card_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()

    cards = sorted((ROOT / "ghn" / "checkpoints").glob("*/README.md"))
    pages = [*PAGES[1:], *sorted((ROOT / "results").rglob("*.md")), *cards]

    assert [p for p in pages if f" {p.relative_to(ROOT).as_posix()}\n" not in menu] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_inside_the_repository_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)

    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        path, _, anchor = (target[0] or target[1]).partition("#")
        if "://" in path:
            continue
        file = (page.parent / path) if path else page
        assert file.exists(), f"{path} does not exist"
        assert not anchor or anchor in anchors(file), f"{path} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_page_is_in_the_menu(page):
    assert f": {page.relative_to(ROOT)}\n" in (ROOT / "mkdocs.yml").read_text().replace(
        "- docs/", ": docs/"
    )


def test_every_picture_of_the_docs_is_shown_somewhere():
    text = "".join(page.read_text() for page in PAGES)

    for picture in (ROOT / "docs" / "images").iterdir():
        assert f"images/{picture.name}" in text
        assert picture.stat().st_size < 250_000, f"{picture.name} is too large"


def test_every_public_subpackage_has_a_page_in_the_reference():
    packages = {name.rpartition(".")[0] for name in build.public_names()}
    text = "".join(p.read_text() for p in (ROOT / "docs" / "reference").glob("*.md"))
    listed = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))

    missing = sorted(packages - listed)

    assert missing == [], f"add a page with `::: {missing[:1]}` to docs/reference and mkdocs.yml"


@pytest.mark.parametrize("name", [n for n in build.public_names() if not n.endswith("__")])
def test_every_public_name_is_documented(name):
    package, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(package), attribute)

    if inspect.isclass(value) or inspect.isroutine(value):
        text = inspect.getdoc(value) or ""
        assert len(text) > 20, f"{name} has no docstring"
        # A dataclass without one gets its signature as a docstring.
        assert not text.startswith(f"{attribute}("), f"{name} has no docstring"
        # Two pairs of brackets are a link in Markdown, and what they link to is not there.
        link = re.search(r"\w\]\[\w", re.sub(r"`[^`]*`|^ *(>>>|\.\.\.).*", "", text, flags=re.M))
        assert link is None, f"{name}: write {link} as code, between backticks"


@pytest.mark.slow
def test_the_site_builds_without_a_warning():
    pytest.importorskip("zensical", reason="needs the docs extra: pip install -e '.[docs]'")

    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "build.py"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "build" / "site" / "docs" / "reference" / "graphs.html").is_file()
