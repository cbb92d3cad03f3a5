"""How commands fail, and how one command's flags are made only when it is called.

A `GHNError`, or a file that cannot be read or written, becomes one message on standard error and
exit status 1; a wrong command line is status 2; Ctrl-C is status 130. With GHN_DEBUG=1 the error
is raised as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from ghn.cli.output import complain, note
from ghn.errors import GHNError

__all__ = ["Commands", "LateCommands", "add_late"]


class LateCommands(TyperGroup):
    """A group of commands, some of which are built when they are called.

    Attributes:
        late: Names of commands whose flags need heavy imports, with those of the groups that they
            are in, such as `"bench init"`, and functions that build them.
    """

    late: ClassVar[dict[str, Callable[[], Any]]] = {}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command to run; a late one is built now, so that `ghn --help` stays quick."""
        name, command, rest = super().resolve_command(ctx, args)
        path, context = [name], ctx
        while context.parent is not None:
            path.insert(0, context.info_name)
            context = context.parent
        build = self.late.get(" ".join(map(str, path)))
        return name, build() if build else command, rest


def add_late(app: typer.Typer, path: str, summary: str, build: Callable[[], Any]) -> None:
    """Give a group a command that is built when it is called.

    Args:
        app: The group.
        path: The command's name after those of the groups that it is in, such as `"bench init"`.
        summary: Its help, for lists of commands.
        build: Makes the command with all of its flags.
    """

    def stand_in() -> None:
        """Keep the command's place in lists of commands."""

    app.command(path.rpartition(" ")[2], help=summary)(stand_in)
    LateCommands.late[path] = build


class Commands(LateCommands):
    """The root of all commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command and turn this library's errors into messages."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            raise
        except (GHNError, OSError) as error:
            if os.environ.get("GHN_DEBUG") == "1":
                raise
            complain(str(error))
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            note("Interrupted.")
            raise typer.Exit(130) from error
