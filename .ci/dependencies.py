"""Print a fingerprint of what pyproject.toml asks to be installed, and of the Python asked.

It names the stamp of an installed virtual environment and CI's cache of one. A new version number
of the package does not change it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from pathlib import Path

asked = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
keys = ("requires-python", "dependencies", "optional-dependencies", "scripts")
parts = [sys.version_info[:2], asked["build-system"], *(asked["project"][key] for key in keys)]
sys.stdout.write(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12])
