"""Find the arguments of a transformers model's forward pass by trying.

The first try gives every essential argument in its most common layout. A forward pass that fails
names the culprit: its message, or a line on its stack, mentions an argument. That argument is
added, dropped, or given another layout; a change is kept if the forward pass gets further with it.
After a success, arguments that have not been given are tried while many parameters are untouched.
The number of tries is bounded and their order is fixed.
"""

from __future__ import annotations

import itertools
import linecache
import re
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from torch import nn

from ghn.graphs.graph import ParamGraph
from ghn.graphs.inputs.example import ExampleInputs
from ghn.graphs.inputs.facts import Facts
from ghn.graphs.inputs.modalities import ESSENTIAL, alternatives, fallback

__all__ = ["Failure", "Outcome", "search_transformers"]

MAX_TRIES = 64
FILL_TRIES = 6
MAX_LINES = 24  # of one call expression
# Further arguments are tried while more than this share of the parameters is untouched.
MUCH_UNTOUCHED = 0.1

# A message that an argument is wanting.
_WANTING = re.compile(r"None|specif|missing|requir|provide|unknown", re.IGNORECASE)

_AXES = re.compile(r"unpack \(expected (\d+), got (\d+)|must be a (\d+)D")
# Arguments that steer more than they carry: tried last.
_STEERING = re.compile(r".*mask.*|.*position_ids|.*embeds|.*type_ids")

Choice = dict[str, int]  # which alternative each given argument has


class Failure(NamedTuple):
    """A forward pass that failed.

    Attributes:
        error: What the model raised.
        progress: How many operators it ran before.
        guessed: Whether a value that it read was unknown.
    """

    error: Exception
    progress: int
    guessed: bool = False


Outcome = ParamGraph | Failure
T = TypeVar("T")
Search = Generator[ExampleInputs, Outcome, T]


def search_transformers(model: nn.Module) -> Search[None]:
    """Yield arguments to try; receive what became of them."""
    form = _Form(Facts(model))
    chosen, outcome = yield from _climb(form, form.start(), MAX_TRIES)
    if isinstance(outcome, ParamGraph):
        yield from _fill(form, chosen, outcome)


def _climb(form: _Form, chosen: Choice, tries: int) -> Search[tuple[Choice, Outcome]]:
    """Change one argument after the other until the forward pass succeeds, or nothing helps."""
    outcome = yield form.inputs(chosen)
    tried = {_key(chosen)}
    while isinstance(outcome, Failure):
        refused: set[tuple[str, int]] = set()
        for name, change in form.changes(chosen, outcome.error):
            layout = (name, form.axes(name, change))
            if layout in refused or _key(change) in tried:
                continue
            if len(tried) >= tries:
                return chosen, outcome
            tried.add(_key(change))
            result = yield form.inputs(change)
            if not isinstance(result, Failure) or _is_better(
                result, outcome, added=len(change) > len(chosen)
            ):
                chosen, outcome = change, result
                break
            if layout[1] != form.axes(name, chosen):
                useless = result.progress < outcome.progress
            else:
                useless = _is_same_complaint(result, outcome)
            if useless:
                refused.add(layout)
        else:
            return chosen, outcome
    return chosen, outcome


def _key(chosen: Choice) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(chosen.items()))


def _is_same_complaint(result: Failure, before: Failure) -> bool:
    """Whether the model itself, not an operator for whose shapes it failed, says the same again."""
    error = before.error
    of_shapes = isinstance(error, (RuntimeError, IndexError)) or _AXES.search(str(error))
    return not of_shapes and str(result.error) == str(error)


def _is_better(result: Failure, before: Failure, added: bool) -> bool:
    """Whether a change led further; an argument that was wanting need only end the complaint."""
    if result.progress > before.progress:
        return True
    settled = str(result.error) != str(before.error) and _WANTING.search(str(before.error))
    return result.progress == before.progress and added and bool(settled)


def _fill(form: _Form, chosen: Choice, graph: ParamGraph) -> Search[None]:
    """Try further arguments one by one; keep those that reach more parameters."""
    for name in sorted(form.absent(chosen), key=lambda n: bool(_STEERING.fullmatch(n))):
        if len(graph.untouched) <= MUCH_UNTOUCHED * (len(graph.untouched) + len(graph.specs)):
            return
        changed, outcome = yield from _climb(form, {**chosen, name: 0}, FILL_TRIES)
        if isinstance(outcome, ParamGraph) and len(outcome.untouched) < len(graph.untouched):
            chosen, graph = changed, outcome


class _Form:
    """The arguments of a forward pass, and the alternatives of each."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.options = {n: o for n in facts.accepted if (o := alternatives(facts, n))}
        for name in facts.required:
            self.options.setdefault(name, fallback(facts))

    def start(self) -> Choice:
        """The first choice: what is required or essential, each in its first alternative."""
        names = {n for n in self.options if ESSENTIAL.fullmatch(n)}
        if any(n.startswith("pixel_values") for n in names):
            names -= {n for n in names if "video" in n}
        names |= set(self.facts.required) & set(self.options)
        return {n: 0 for n in self.options if n in names}

    def absent(self, chosen: Choice) -> list[str]:
        """Arguments with a rule that are not given, in order."""
        return [n for n in self.options if n not in chosen]

    def inputs(self, chosen: Choice) -> ExampleInputs:
        """The keyword arguments of a choice."""
        kwargs: dict[str, Any] = {n: self.options[n][i] for n, i in chosen.items()}
        if "use_cache" in self.facts.accepted:
            kwargs["use_cache"] = False
        return ExampleInputs((), kwargs)

    def axes(self, name: str, chosen: Choice) -> int:
        """Number of axes of an argument as chosen; -1 if it is not given."""
        return self.options[name][chosen[name]].ndim if name in chosen else -1

    def changes(self, chosen: Choice, error: Exception) -> Iterator[tuple[str, Choice]]:
        """Yield an argument and the choice with it changed, those that the error names first."""
        named: dict[str, None] = {}
        for words in _mentions(error):
            named.update(dict.fromkeys(n for n in self.options if _names(n, words)))
        wanting = bool(_WANTING.search(f"{type(error).__name__}: {error}"))
        order = sorted(named, key=lambda n: (n in chosen) == wanting)
        groups = [order, [n for n in chosen if n not in named]]
        if wanting:
            groups.append([n for n in self.absent(chosen) if n not in named])
        for names in groups:
            for name in names:
                for choice in self._ranked(name, chosen, error):
                    yield name, {**chosen, name: choice}
            for name in names:
                if name in chosen and name not in self.facts.required and len(chosen) > 1:
                    yield name, {n: c for n, c in chosen.items() if n != name}

    def _ranked(self, name: str, chosen: Choice, error: Exception) -> list[int]:
        """Other alternatives of an argument: those with the number of axes asked for come first."""
        options = self.options[name]
        wanted = _AXES.search(str(error))
        axes = self.axes(name, chosen)
        if wanted is not None and name in chosen:
            needed, got, exact = wanted.groups()
            axes = int(exact) if exact else axes + int(needed) - int(got)
        others = [i for i in range(len(options)) if chosen.get(name) != i]
        fitting = [i for i in others if options[i].ndim == axes]
        if wanted is not None and fitting:
            return fitting
        return fitting + [i for i in others if i not in fitting]


def _names(argument: str, words: set[str]) -> bool:
    """Whether an argument is among the words, or one of the words is the end of its name."""
    return any(
        argument == word.lower() or (len(word) > 4 and argument.endswith(f"_{word}"))
        for word in words
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
        positions = next(itertools.islice(code.co_positions(), traceback.tb_lasti // 2, None))
        first = positions[0] or traceback.tb_lineno
        last = min(positions[1] or first, first + MAX_LINES)
        yield "".join(linecache.getline(code.co_filename, n) for n in range(first, last + 1))
        traceback = traceback.tb_next
