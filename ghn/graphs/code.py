"""Texts that stand for settings, and for code with what it reads: equal for equal ones.

A setting's text is exact, or there is none. Of code the text holds what can be known without
running it: for each class its functions and its plain attributes; for each function its
instructions, constants and defaults, and what it finds in its module under the names that it uses.
Functions found on the way count too, and classes, if they are no installed package's. Not followed
are Python's own library, torch and numpy, whose versions stand for them, the values of objects that
are neither plain nor arrays, and what code looks up by names that are made while it runs.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import sys
import sysconfig
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MappingProxyType, ModuleType
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from ghn.graphs.values import steers

__all__ = ["Texts", "UnhashableError", "is_installed", "tensor_text"]

# Their repr says all that they are.
_ATOMS: tuple[type, ...] = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), range, slice),
    *(enum.Enum, PurePath, np.generic, np.dtype),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_DICTS = (dict, OrderedDict, defaultdict, MappingProxyType)  # others may load what they name
_SETTLED = sys.stdlib_module_names | {"torch", "numpy"}


class UnhashableError(Exception):
    """Something that no hash can stand for; `structural_hash` answers it with None."""


class Texts:
    """Makes texts, and remembers the functions and classes that they lead to."""

    def __init__(self) -> None:
        self._found: dict[FunctionType | type, None] = {}
        self._waiting: list[FunctionType | type] = []

    def setting(self, value: Any) -> str:
        """Return the text of a value that a model or its inputs hold.

        Raises:
            UnhashableError: If there is no saying what the value is.
        """
        text = _plain(value, self.setting)
        if text is not None:
            return text
        if isinstance(value, nn.Module):  # outside the tree of modules
            raise UnhashableError(type(value).__name__)
        if isinstance(value, Mapping):
            return _joined(f"{self.setting(k)}:{self.setting(v)}" for k, v in value.items())
        if isinstance(value, functools.partial):
            parts = map(self.setting, (value.func, value.args, value.keywords))
            return f"partial({_joined(parts)})"
        if callable(value):
            return self._callable(value)
        if not hasattr(value, "__dict__"):
            raise UnhashableError(repr(value))
        self.add_class(type(value))
        return f"{_name(type(value))}{self.setting(vars(value))}"

    def add_class(self, cls: type) -> None:
        """Count a class in, with those that it inherits from."""
        for base in cls.__mro__:
            if base not in (object, nn.Module):
                self._add(base)

    def code(self) -> Iterator[str]:
        """Yield a text for each class and function found so far, and for those that they use."""
        while self._waiting:
            item = self._waiting.pop()
            yield from self._class(item) if isinstance(item, type) else self._function(item)

    def _add(self, item: FunctionType | type) -> None:
        if item not in self._found:
            self._found[item] = None
            self._waiting.append(item)

    def _callable(self, value: Any) -> str:
        """Functions and classes are their names, if they have one that leads back to them."""
        name = getattr(value, "__qualname__", "")
        if not name or "<" in name or getattr(value, "__closure__", None):
            raise UnhashableError(repr(value))
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, (type, ModuleType, nn.Module)):
            raise UnhashableError(repr(value))
        self._follow(value)
        return _name(value)

    def _class(self, cls: type) -> Iterator[str]:
        for name, value in vars(cls).items():
            functions = list(_functions(value))
            for function in functions:
                yield f"{_name(cls)}.{name}={_name(function)}"
                self._add(function)
            if not functions and not name.startswith("__"):
                yield f"{_name(cls)}.{name}={self._loose(value)}"

    def _function(self, function: FunctionType) -> Iterator[str]:
        code, names = _digest(function.__code__), _names(function.__code__)
        cells = [_content_of(cell) for cell in function.__closure__ or ()]
        read = [*cells, function.__defaults__, function.__kwdefaults__]
        yield f"{_name(function)}={code}{_joined(map(self._loose, read))}"
        for name in names & function.__globals__.keys():
            value = function.__globals__[name]
            yield f"{function.__module__}:{name}={self._loose(value)}"
            # The attributes of a lazy module depend on what was asked of it before.
            if type(value) is ModuleType and not _is_settled(value.__name__):
                for attribute in names & vars(value).keys():
                    yield f"{value.__name__}:{attribute}={self._loose(vars(value)[attribute])}"

    def _loose(self, value: Any) -> str:
        """Return the text of something that code reads; where it is not plain, its name or type."""
        text = _plain(value, self._loose)
        if text is None:
            self._follow(value)
            text = _name(value if callable(value) else type(value))
        return text

    def _follow(self, value: Any) -> None:
        if isinstance(value, type):
            package = sys.modules.get(value.__module__.partition(".")[0])
            # A library's classes would lead to all of it.
            if not (_is_settled(value.__module__) or is_installed(package)):
                self.add_class(value)
        else:
            for function in _functions(value):
                if not _is_settled(function.__module__):
                    self._add(function)


def tensor_text(tensor: Tensor) -> str:
    """Shape and type; values where control flow may read them."""
    text = f"{tuple(tensor.shape)} {tensor.dtype} {tensor.is_meta}"
    if not steers(tensor):
        return text
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{text} {hashlib.blake2b(values.numpy().data, digest_size=16).hexdigest()}"


def is_installed(package: ModuleType | None) -> TypeGuard[ModuleType]:
    """Whether a version stands for a package's code."""
    file = getattr(package, "__file__", None)
    return file is not None and hasattr(package, "__version__") and _in_site_packages(file)


@functools.lru_cache(maxsize=4096)
def _in_site_packages(file: str) -> bool:
    paths = sysconfig.get_paths()
    return str(Path(file).resolve()).startswith((paths["purelib"], paths["platlib"]))


def _plain(value: Any, part: Callable[[Any], str]) -> str | None:
    """Return the text of a plain value, an array, or a container, whose parts are as `part` says.

    Raises:
        UnhashableError: If it is an array of objects.
    """
    if isinstance(value, _ATOMS):
        return repr(value)
    if isinstance(value, Tensor):
        return tensor_text(value)
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise UnhashableError("an array of objects")
        content = hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()
        return f"{value.shape} {value.dtype} {content}"
    if type(value) in _DICTS:
        return _joined(f"{part(k)}:{part(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return _joined(map(part, value))
    if isinstance(value, (set, frozenset)):
        return _joined(sorted(map(part, value)))
    return None


def _joined(parts: Iterable[str]) -> str:
    return f"[{','.join(parts)}]"


def _name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value))}"


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yield the Python functions in a function, method, property or wrapper."""
    for part in ("__func__", "__wrapped__", "func", "fget", "fset"):
        inner = getattr(value, part, None) if not isinstance(value, type) else None
        if isinstance(inner, FunctionType):
            yield _unchecked(inner)
    if isinstance(value, FunctionType):
        yield _unchecked(value)


def _unchecked(function: FunctionType) -> FunctionType:
    """Return what jaxtyping or beartype check the types of: they compute nothing themselves."""
    inner = getattr(function, "__wrapped__", None)
    made_by = f"{function.__globals__.get('__name__')} {function.__code__.co_filename}"
    if isinstance(inner, FunctionType) and made_by.startswith(("jaxtyping.", "None <@beartype(")):
        return _unchecked(inner)
    return function


def _content_of(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing is in it yet
        return None


def _is_settled(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _SETTLED


@functools.lru_cache(maxsize=65536)
def _digest(code: CodeType) -> str:
    """A hash of instructions, names and constants, those of inner functions included."""
    text = f"{code.co_code!r}{code.co_names}{code.co_varnames}{_constant(code.co_consts)}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _digest(value)
    return _plain(value, _constant) or type(value).__name__


@functools.lru_cache(maxsize=65536)
def _names(code: CodeType) -> frozenset[str]:
    """All names that code uses, of variables and of attributes, in inner functions too."""
    inner = (_names(c) for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(code.co_names).union(*inner)
