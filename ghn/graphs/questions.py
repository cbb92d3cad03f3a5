"""An end to loops that have none: how often one place in the code may ask for a value.

Without values every question gets the same answer, so `while x.norm() > 1` would never end. Layers
and experts ask at one place too, but each layer for itself, and there are fewer than a
thousand experts. A loop over values that are there may be longer.
"""

from __future__ import annotations

import collections
import inspect

__all__ = ["EndlessLoopError", "Questions"]

GUESSED_LIMIT = 2_000
READ_LIMIT = 10_000
# Frames of these packages are not where a question comes from; jaxtyping wraps functions.
_BETWEEN = ("torch.", "ghn.graphs.", "jaxtyping.")


class EndlessLoopError(Exception):
    """One place in a model's code asked for a value again and again; raised inside the pass."""


class Questions:
    """Counts the values that each place in the code of each module asks for.

    Args:
        guessed: Whether answers are guesses, which do not change from one round to the next.
    """

    def __init__(self, guessed: bool) -> None:
        self._limit = GUESSED_LIMIT if guessed else READ_LIMIT
        self._asked: collections.Counter[tuple[str, str, int]] = collections.Counter()

    def count(self, scope: str) -> None:
        """Count one question of the running code.

        Args:
            scope: Dotted path of the module that is running.

        Raises:
            EndlessLoopError: If this place has asked too often.
        """
        file, line = _place()
        self._asked[scope, file, line] += 1
        if self._asked[scope, file, line] > self._limit:
            raise EndlessLoopError(
                f"line {line} of {file} read a tensor's value more than {self._limit:,} times, as "
                "a loop does whose condition never changes. Give the loop a largest number of "
                "rounds, or pass example_inputs= with values for which it ends"
            )


def _place() -> tuple[str, int]:
    """Return file and line of the innermost frame outside of torch and of the tracer."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_back is not None:
        module = frame.f_globals.get("__name__")  # none where beartype checks types
        if module is not None and not module.startswith(_BETWEEN):
            break
        frame = frame.f_back
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
