"""Annotations of `ghn` are checked while testing, each function's at the price that it needs.

jaxtyping's import hook puts `jaxtyping.jaxtyped` on every function. That binds the arguments of
each call to their names and checks them twice, which makes tracing a model twice as long, and it
compiles two checks for a function inside another one whenever the outer one is called. Only shapes
need all that, since one call's axes must agree with each other. So functions without shapes in
their annotations are checked by beartype alone here, and those inside other functions not at all.
"""

from __future__ import annotations

import inspect
import typing
from typing import Any

import beartype
import jaxtyping

__all__ = ["install"]

_jaxtyped = jaxtyping.jaxtyped
_typed = beartype.beartype(conf=beartype.BeartypeConf(violation_type=TypeError))


def install(modules: list[str]) -> None:
    """Check the annotations of modules that are imported from now on.

    Args:
        modules: Names; their submodules are checked too.
    """
    jaxtyping.jaxtyped = _checked
    jaxtyping.install_import_hook(modules, "beartype.beartype")


def _checked(item: Any = None, *, typechecker: Any) -> Any:
    """What the hook decorates functions and classes with."""
    if item is None:
        return lambda decorated: _checked(decorated, typechecker=typechecker)
    if not inspect.isfunction(item) or _has_shapes(item):
        return _jaxtyped(item, typechecker=typechecker)
    return item if "<locals>" in item.__qualname__ else _typed(item)


def _has_shapes(function: Any) -> bool:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError:  # of something imported for type checkers alone: jaxtyping takes it for Any
        return True
    return any(map(_is_shape, hints.values()))


def _is_shape(hint: Any) -> bool:
    """Whether an annotation is, or holds, a type of arrays with named axes."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    parts = typing.get_args(hint)
    return any(_is_shape(x) for p in parts for x in (p if isinstance(p, list) else [p]))
