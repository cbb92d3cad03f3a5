"""Runs the command line as `python -m ghn.cli`."""

from __future__ import annotations

from ghn.cli import main

main()
