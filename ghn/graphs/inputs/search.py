"""Find the arguments of a transformers model's forward pass by trying.

The first try gives every essential argument in its most common layout. A forward pass that fails
names the culprit: its message, or the line it failed on, mentions an argument. That argument is
added, or given its next layout. After a success, arguments that have not been given are tried while
parameters are untouched. The number of tries is bounded and their order is fixed.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any

from torch import nn

from ghn.graphs.graph import ParamGraph
from ghn.graphs.inputs.example import ExampleInputs
from ghn.graphs.inputs.facts import Facts
from ghn.graphs.inputs.modalities import ESSENTIAL, alternatives

__all__ = ["Outcome", "search_transformers"]

MAX_TRIES = 24
# Further arguments are tried while more than this share of the parameters is untouched.
MUCH_UNTOUCHED = 0.1

Outcome = ParamGraph | Exception
_ABSENT = re.compile(r"None|specif|missing|requir|must|provide|pass|expected", re.IGNORECASE)


def search_transformers(model: nn.Module) -> Generator[ExampleInputs, Outcome, None]:
    """Yield arguments to try; receive what became of them."""
    facts = Facts(model)
    form = _Form(facts)
    tried: set[tuple[tuple[str, int], ...]] = set()
    for _ in range(MAX_TRIES):
        tried.add(form.key())
        outcome = yield form.inputs()
        if isinstance(outcome, ParamGraph):
            yield from _fill(form, outcome)
            return
        if not form.repair(outcome, tried):
            return


def _fill(form: _Form, graph: ParamGraph) -> Generator[ExampleInputs, Outcome, None]:
    """Try further arguments one by one; keep those that reach more parameters."""
    untouched = len(graph.untouched)
    total = untouched + len(graph.specs)
    for name in form.absent():
        if untouched <= MUCH_UNTOUCHED * total:
            return
        for choice in range(min(3, len(form.options[name]))):
            form.chosen[name] = choice
            outcome = yield form.inputs()
            if isinstance(outcome, ParamGraph) and len(outcome.untouched) < untouched:
                untouched = len(outcome.untouched)
                break
        else:
            del form.chosen[name]


class _Form:
    """The arguments of a forward pass, and which alternative each has."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.options = {n: o for n in facts.accepted if (o := alternatives(facts, n))}
        start = {n for n in self.options if ESSENTIAL.fullmatch(n)}
        if any(n.startswith("pixel_values") for n in start):
            start -= {n for n in start if "video" in n}
        start |= set(facts.required) & set(self.options)
        self.chosen = {n: 0 for n in self.options if n in start}

    def key(self) -> tuple[tuple[str, int], ...]:
        """What is chosen, as a value that can be compared."""
        return tuple(sorted(self.chosen.items()))

    def absent(self) -> list[str]:
        """Arguments with a rule that are not given."""
        return [n for n in self.options if n not in self.chosen]

    def inputs(self) -> ExampleInputs:
        """The keyword arguments."""
        kwargs: dict[str, Any] = {n: self.options[n][i] for n, i in self.chosen.items()}
        if "use_cache" in self.facts.accepted:
            kwargs["use_cache"] = False
        return ExampleInputs((), kwargs)

    def repair(self, error: Exception, tried: set[tuple[tuple[str, int], ...]]) -> bool:
        """Change one argument that the error names; return whether there was one to change."""
        adds = bool(_ABSENT.search(f"{type(error).__name__} {error}"))
        for words in _mentions(error):
            named = [n for n in self.options if _names(n, words)]
            for name in sorted(named, key=lambda n: (n in self.chosen) == adds):
                if self._change(name, tried):
                    return True
        return any(self._change(name, tried) for name in self.chosen)

    def _change(self, name: str, tried: set[tuple[tuple[str, int], ...]]) -> bool:
        before = dict(self.chosen)
        choice = self.chosen.get(name, -1) + 1
        while choice < len(self.options[name]):
            self.chosen[name] = choice
            if self.key() not in tried:
                return True
            choice += 1
        self.chosen = before
        return False


def _names(argument: str, words: set[str]) -> bool:
    """Whether an argument is among the words, or one of the words is the end of its name."""
    return argument in words or any(
        len(word) > 4 and argument.endswith(f"_{word}") for word in words
    )


def _mentions(error: Exception) -> Iterator[set[str]]:
    """Yield the identifiers of the message, then of each line on the stack, innermost first."""
    yield set(re.findall(r"[A-Za-z_]\w*", str(error)))
    lines = list(_lines(error.__traceback__))
    for line in reversed(lines):
        yield set(re.findall(r"[A-Za-z_]\w*", line))


def _lines(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        code = traceback.tb_frame.f_code
        yield linecache.getline(code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
