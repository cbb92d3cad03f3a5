from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from ghn.cli import app
from ghn.cli.group import Commands
from ghn.cli.output import complain, note, print_table
from ghn.errors import ConfigError


def failing(error: BaseException) -> typer.Typer:
    """A program with one command that raises."""
    program = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @program.callback()
    def root() -> None: ...

    @program.command()
    def fail() -> None:
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("rate must be [positive]"), 1, "Error: rate must be [positive]"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_an_expected_error_is_a_message_and_a_status(error, status, message):
    result = CliRunner().invoke(failing(error), ["fail"])

    assert result.exit_code == status
    assert message in result.stderr
    assert result.stdout == ""


def test_an_error_in_our_own_code_is_not_hidden():
    result = CliRunner().invoke(failing(ZeroDivisionError("bug")), ["fail"])

    assert isinstance(result.exception, ZeroDivisionError)


def test_debugging_shows_the_error_itself(monkeypatch):
    monkeypatch.setenv("GHN_DEBUG", "1")

    result = CliRunner().invoke(failing(ConfigError("wrong")), ["fail"])

    assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize(
    "command",
    [
        "predict",
        "graph",
        "train",
        "demo",
        "env",
        "zoo#list",
        "zoo#trace",
        "zoo#sample",
        "zoo#predict",
        "bench#speed",
        "bench#predict",
        "bench#init",
        "zoo",
        "bench",
        "run",
        "",
    ],
)
def test_every_command_explains_itself_with_an_example(command):
    result = CliRunner().invoke(app, [*filter(None, command.split("#")), "--help"])

    assert result.exit_code == 0
    assert f"Example: ghn {command.replace('#', ' ')}" in result.stdout


def test_brackets_in_what_users_name_are_no_markup(capsys):
    note("Checkpoint: runs/a [b]/checkpoint [/b]")
    complain("no folder [red]x[/]")
    print_table("title [x]", ["name"], [["runs/[h w]"], ["[/x]"]])

    found = capsys.readouterr()
    assert "runs/a [b]/checkpoint [/b]" in found.err
    assert "Error: no folder [red]x[/]" in found.err
    assert "title [x]" in found.out
    assert "runs/[h w]" in found.out
    assert "[/x]" in found.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"lr = '\xff'", "cannot read settings"),
        (b"seed = 2020-01-01", "settings must be texts, numbers"),
        (b"ghn = 3", "ghn must be a table of settings"),
    ],
)
def test_settings_in_a_wrong_form_are_told_in_words(text, message, tmp_path):
    (tmp_path / "settings.toml").write_bytes(text)
    flags = ["--config", str(tmp_path / "settings.toml"), "--ghn.spread", "1.3"]

    result = CliRunner().invoke(app, ["train", *flags])

    assert result.exit_code == 1
    assert message in result.stderr


def test_a_recipe_that_is_not_there_is_told_with_those_that_are():
    result = CliRunner().invoke(app, ["train", "--config", "vision-cifar10-tiled-long"])

    assert result.exit_code == 1
    assert "neither a file nor a recipe" in result.stderr
    assert "vision-cifar10-tiled," in result.stderr


def test_zoo_sample_repeats_itself_and_counts_parameters():
    def networks(*extra: str) -> list[dict]:
        result = CliRunner().invoke(app, ["zoo", "sample", "vits", "--count", "3", *extra])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    first, again, other = networks("--json"), networks("--json"), networks("--json", "--seed", "9")

    assert first == again != other
    assert [n["seed"] for n in other] == [9, 10, 11]
    assert all(n["parameters"] > 1000 for n in first)


def test_an_unknown_model_is_one_line_on_stderr_of_a_real_process():
    done = subprocess.run(
        [sys.executable, "-m", "ghn.cli", "graph", "timm:resnet5o"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert "Did you mean 'resnet50'" in done.stderr
    assert "Traceback" not in done.stderr


# Says when the demo has begun, so that the signal meets it at work. Shells start what runs in the
# background with the signal ignored.
TELLING = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import ghn.benchmarks.demo as demo
from ghn.cli import main
run = demo.run_demo
def telling(*args):
    print("begun", file=sys.stderr, flush=True)
    return run(*args)
demo.run_demo = telling
main()
"""


def test_ctrl_c_ends_a_real_process_with_status_130_and_no_file(tmp_path):
    words = ["demo", "--fast", "--steps", "100000", "--out", str(tmp_path / "report.html")]
    with subprocess.Popen(
        [sys.executable, "-c", TELLING, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any(line == "begun\n" for line in process.stderr)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()

    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
