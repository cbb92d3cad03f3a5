"""Make the pictures of the docs again: `make pictures`, or `make pictures ARGS="graph-page demo"`.

Below each picture its page says `Made by` and names the commands. They are run as they stand, in
build/pictures, where what a run has finished is found again.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "pictures"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = re.compile(r"Made by\s((?:`[^`]+`(?:,\s|,?\sand\s)?)+)")


def recipes() -> dict[str, list[str]]:
    """Return the commands that make each picture, by its name without the ending."""
    found = {}
    for page in PAGES:
        for made in MADE.findall(page.read_text(encoding="utf-8")):
            commands = [" ".join(c.split()) for c in re.findall(r"`([^`]+)`", made)]
            if picture := re.search(r"docs/images/([\w-]+)\.\w+", commands[-1]):
                found.setdefault(picture[1], commands)
    return found


def words_of(command: str) -> list[str]:
    """Return a command as this environment runs it: its own Python, files of this repository."""
    words = [w for w in shlex.split(command) if not w.startswith("GHN_DATA=")]
    start = ["-m", "ghn.cli"] if words[0] == "ghn" else []
    rest = [str(ROOT / w) if w.startswith(("docs/", "tests/")) else w for w in words[1:]]
    return [sys.executable, *start, *rest]


def main(wanted: list[str]) -> int:
    """Run the commands of all pictures, or of those that are named."""
    known = recipes()
    if unknown := set(wanted) - set(known):
        sys.stderr.write(f"No picture {', '.join(unknown)}; there are {', '.join(known)}.\n")
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in wanted or known:
        for command in known[name]:
            sys.stderr.write(f"{command}\n")
            done = subprocess.run(words_of(command), cwd=FOLDER, env=environment, check=False)
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
