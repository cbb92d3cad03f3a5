from __future__ import annotations

import dataclasses
import inspect
from typing import Literal

import click.testing
import pytest
import typer
from typer.testing import CliRunner

from ghn.cli import flags
from ghn.config import Config
from ghn.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Config):
    """Inner settings.

    Attributes:
        dim: Width of
            an embedding.
    """

    dim: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Config):
    """Outer settings.

    Attributes:
        rate: Learning rate.
        steps: Number of steps.
        fast: Whether to hurry.
        sizes: Sizes to draw from.
        kind: Which kind, `"a"` or `b[x]`.
        name: A name, or none.
        shares: Shares by family.
        inner: The inside.
        outside: Another, or none.
    """

    rate: float = 1e-3
    steps: int = 10
    fast: bool = False
    sizes: tuple[int, ...] = (1, 2)
    kind: Literal["a", "b"] = "a"
    name: str | None = None
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    inner: Inner = Inner()
    outside: Inner | None = dataclasses.field(default=None, metadata={"nested": True})


def run(*words: str, base: dict | None = None) -> Outer:
    """Parse words with a command made from the flags of `Outer`."""
    got: list[Outer] = []

    def command(**values):
        got.append(Outer.from_dict(flags.collect(Outer, values, base or {})))

    command.__signature__ = inspect.Signature(flags.parameters(Outer))
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return got[0]


def test_without_flags_the_defaults_hold():
    assert run() == Outer()


def test_every_kind_of_field_can_be_set():
    words = "--rate 0.5 --steps 3 --fast --sizes 4 --sizes 8 --kind b --name x --inner.dim 7"

    got = run(*words.split(), "--shares", '{"vit": 0.5}')

    assert got == Outer(
        rate=0.5,
        steps=3,
        fast=True,
        sizes=(4, 8),
        kind="b",
        name="x",
        shares={"vit": 0.5},
        inner=Inner(dim=7),
    )


def test_a_part_that_may_be_left_out_is_there_once_one_of_its_flags_is():
    assert run().outside is None
    assert run("--outside.dim", str(Inner().dim)).outside == Inner()
    assert run("--outside.dim", "7", base={"outside": None}).outside == Inner(dim=7)


def test_flags_go_before_the_file_and_the_file_before_defaults():
    base = {"rate": 0.2, "steps": 5, "fast": True, "inner": {"dim": 9}}

    got = run("--steps", "6", "--no-fast", base=base)

    assert got == Outer(rate=0.2, steps=6, fast=False, inner=Inner(dim=9))
    assert base == {"rate": 0.2, "steps": 5, "fast": True, "inner": {"dim": 9}}


def test_help_shows_the_docstrings_texts_and_the_defaults():
    command = flags.build_command("outer", "Summary.", Outer, lambda values: None, {})

    shown = click.testing.CliRunner().invoke(command, ["--help"], env={"COLUMNS": "140"}).output

    assert "Learning rate. [default: 0.001]" in shown
    assert "Width of an embedding. [default: 64]" in shown
    assert "Sizes to draw from. [may be repeated; default: 1 2]" in shown
    assert "Which kind, a or b[x]. [default: a]" in shown  # no markup of docstrings or terminals


def test_a_flag_that_is_not_json_where_it_must_be_is_refused():
    with pytest.raises(ConfigError, match="--shares needs JSON"):
        flags.collect(Outer, {"shares": "vit"}, {})
