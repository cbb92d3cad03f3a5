"""The table of rules: what each operator does to the labels of the tensors that it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ghn.graphs.channels.layout import Layout
from ghn.graphs.channels.layouts import Layouts
from ghn.graphs.record import Call

__all__ = ["RULES", "Rule", "Step", "rule"]


@dataclasses.dataclass(frozen=True)
class Step:
    """One recorded call, with layouts in the place of tensors.

    Attributes:
        name: Operator name as recorded.
        args: Positional arguments.
        kwargs: Keyword arguments.
        shapes: Shapes of the results.
        call: The call, with tensors.
    """

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    shapes: list[tuple[int, ...]]
    call: Call

    def get(self, position: int, key: str = "", default: Any = None) -> Any:
        """Return an argument by its position, or by its name if it was passed by that."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(key, default)

    def layouts(self) -> Iterator[Layout]:
        """Yield all layouts among the arguments."""
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Layout):
                yield value
            elif isinstance(value, (list, tuple)):
                yield from (v for v in value if isinstance(v, Layout))


# A rule makes labels equal or fixed, and returns the layouts of the results; what it returns fewer
# of than there are results is still.
Rule = Callable[[Layouts, Step], "Layout | list[Layout]"]

R = TypeVar("R", bound=Rule)

RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[R], R]:
    """Register the rule of the operators named in a text."""

    def register(function: R) -> R:
        for name in names.split():
            RULES[name] = function
        return function

    return register
