"""Graphs on disk, by a hash of everything that a trace depends on.

The hash covers the model's structure and settings, the example inputs, the source of the code that
runs, the versions of the libraries involved and of the operator vocabulary. What cannot be hashed
for certain is traced anew; so is a file that is damaged or was written for something else.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghn.errors import CheckpointError
from ghn.graphs.graph import FORMAT, ParamGraph
from ghn.graphs.isolate import unwrap
from ghn.graphs.ops import VOCABULARY_VERSION
from ghn.graphs.trace import trace
from ghn.graphs.values import steers
from ghn.io import atomic_path, cache_folder

__all__ = ["cached_trace", "structural_hash"]

_ROOT = Path(__file__).parents[1]
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_PLAIN = (bool, int, float, str, type(None))
_HOOKS = re.compile(r"_(forward|backward|state_dict|load_state_dict)\w*hooks\w*$")
# Told apart elsewhere, or without a say in what the forward pass computes.
_SKIPPED = frozenset(
    {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}
    | {"_is_torch_compile", "_compiled_call_impl"}
)


class _UnhashableError(Exception):
    """Something that no hash can stand for; never leaves this module."""


def cached_trace(
    model: nn.Module, example_inputs: Any = None, folder: str | Path | None = None
) -> ParamGraph:
    """Return the graph of a model, from the cache if it was traced before; else trace and keep it.

    Args:
        model: As for `trace`.
        example_inputs: As for `trace`.
        folder: Where graphs are kept; `graphs` in ghn's cache folder by default. A folder that
            cannot be written to is no error.

    Raises:
        GHNError: As `trace`.

    Example:
        >>> cached_trace(nn.Linear(4, 2), torch.empty(1, 4))      # doctest: +SKIP
    """
    key = structural_hash(model, example_inputs)
    if key is None:
        return trace(model, example_inputs)
    path = Path(folder or cache_folder() / "graphs") / key[:2] / f"{key}.graph"
    graph = _read(path, key)
    if graph is None:
        graph = trace(model, example_inputs)
        _write(path, key, graph)
    return graph


def structural_hash(model: nn.Module, example_inputs: Any = None) -> str | None:
    """Return a hash of all that the model's graph depends on, or None if there is no saying.

    Two models with one hash have one graph. Models with hooks, with settings that are no plain
    values, or with classes that have no source file have no hash.
    """
    model = unwrap(model)
    digest = hashlib.blake2b(digest_size=20)
    try:
        for part in _parts(model, example_inputs):
            digest.update(part.encode())
            digest.update(b"\0")
    except (_UnhashableError, RecursionError):
        return None
    return digest.hexdigest()


def _read(path: Path, key: str) -> ParamGraph | None:
    """Return a stored graph, or None if there is none that can be trusted."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if head != _head(key, body):
            return None
        return ParamGraph.from_json(zlib.decompress(body).decode())
    except (OSError, zlib.error, UnicodeDecodeError, CheckpointError):
        return None


def _write(path: Path, key: str, graph: ParamGraph) -> None:
    body = zlib.compress(graph.to_json().encode())
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(_head(key, body) + b"\n" + body)
    except OSError:  # a full or read-only disk costs the cache, not the graph
        return


def _head(key: str, body: bytes) -> bytes:
    """What a file is for, and a hash of what it must hold."""
    return f"{key} {hashlib.blake2b(body, digest_size=20).hexdigest()}".encode()


def _parts(model: nn.Module, example_inputs: Any) -> Iterator[str]:
    yield f"{FORMAT} {VOCABULARY_VERSION} {torch.__version__} {sys.version} {_code_of_ghn()}"
    yield _value(pytree.tree_map_only(Tensor, _without_floats, example_inputs))
    numbers: dict[int, int] = {}  # shared modules and tied tensors, by order of appearance
    classes: dict[type, None] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        yield f"{name}:{numbers.setdefault(id(module), len(numbers))}"
        classes.update(dict.fromkeys(type(module).__mro__))
        yield f"{type(module).__module__}.{type(module).__qualname__}"
        yield from _state(module, numbers)
    yield from _sources(classes)


def _state(module: nn.Module, numbers: dict[int, int]) -> Iterator[str]:
    """Everything that one module holds, its children excepted."""
    for name, value in sorted(vars(module).items()):
        if _HOOKS.match(name):
            if value:
                raise _UnhashableError(name)
        elif name not in _SKIPPED:
            yield f"{name}={_value(value)}"
    for kind in (module._parameters, module._buffers):
        for name, tensor in kind.items():
            if tensor is not None:
                number = numbers.setdefault(id(tensor), len(numbers))
                yield f"{name}:{number}:{_tensor(tensor)}:{type(tensor).__name__}"


def _tensor(tensor: Tensor) -> str:
    """Shape and type; values where control flow may read them."""
    text = f"{tuple(tensor.shape)} {tensor.dtype} {tensor.is_meta}"
    if not steers(tensor):
        return text
    values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{text} {hashlib.blake2b(values.numpy().data, digest_size=16).hexdigest()}"


def _without_floats(tensor: Tensor) -> Tensor:
    """Of example inputs only integers and truth values steer a trace."""
    return tensor.to("meta") if tensor.is_floating_point() else tensor


def _value(value: Any) -> str:
    """A text that is equal for equal settings, and different for different ones."""
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, nn.Module):  # outside the tree of modules
        raise _UnhashableError(type(value).__name__)
    if isinstance(value, Mapping):
        return _joined(f"{_value(k)}:{_value(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return _joined(map(_value, value))
    if isinstance(value, (set, frozenset)):
        return _joined(sorted(map(_value, value)))
    if isinstance(value, functools.partial):
        return f"partial({_value(value.func)},{_value(value.args)},{_value(value.keywords)})"
    if callable(value):
        return _function(value)
    text = repr(value)
    if not _ADDRESS.search(text) and not hasattr(value, "__dict__"):
        return text
    if not hasattr(value, "__dict__"):
        raise _UnhashableError(text)
    return f"{type(value).__module__}.{type(value).__qualname__}{_value(vars(value))}"


def _joined(parts: Iterable[str]) -> str:
    return f"[{','.join(parts)}]"


def _function(value: Any) -> str:
    """Functions and classes are their names, if they have one that leads back to them."""
    name = getattr(value, "__qualname__", "")
    if not name or "<" in name or getattr(value, "__closure__", None):
        raise _UnhashableError(repr(value))
    if (owner := getattr(value, "__self__", None)) is not None and not isinstance(
        owner, (type, ModuleType, nn.Module)
    ):
        raise _UnhashableError(repr(value))
    return f"{getattr(value, '__module__', '')}.{name}"


def _sources(classes: Iterable[type]) -> Iterator[str]:
    """Versions of the packages that the classes come from; of code without one, its content."""
    for cls in classes:
        package = sys.modules.get(cls.__module__.partition(".")[0])
        if cls.__module__.startswith(("builtins", "torch.", "ghn.")):
            continue
        if _is_installed(package):
            yield f"{package.__name__} {package.__version__}"
        else:
            yield from _user_class(cls)


def _user_class(cls: type) -> Iterator[str]:
    """All loaded code, and the plain values that a class's methods may read from outside."""
    module = sys.modules.get(cls.__module__)
    if getattr(module, "__file__", None) is None:
        raise _UnhashableError(f"{cls.__qualname__} was written in a session")
    yield _code_of_user()
    for value in vars(cls).values():
        code = getattr(value, "__code__", None)
        if code is not None and set(code.co_freevars) - {"__class__"}:
            raise _UnhashableError(f"{cls.__qualname__} reads what its maker had in variables")
    yield _value({k: v for k, v in vars(module).items() if isinstance(v, _PLAIN)})


def _is_installed(module: ModuleType | None) -> TypeGuard[ModuleType]:
    file = getattr(module, "__file__", None)
    if file is None or not hasattr(module, "__version__"):
        return False
    paths = sysconfig.get_paths()
    return str(Path(file).resolve()).startswith((paths["purelib"], paths["platlib"]))


def _code_of_user() -> str:
    """A hash of all loaded code that is not ours, not installed and not part of Python."""
    folders = sysconfig.get_paths()
    known = (str(_ROOT), *(folders[k] for k in ("stdlib", "platstdlib", "purelib", "platlib")))
    loaded = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    own = (f for f in loaded if f.endswith(".py") and not f.startswith(known))
    # torch gives some of its modules files that are none.
    return _hash_files(tuple(sorted(f for f in own if Path(f).is_absolute())))


@functools.cache
def _code_of_ghn() -> str:
    return _hash_files(tuple(str(p) for p in sorted(_ROOT.rglob("*.py"))))


def _hash_files(files: tuple[str, ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            status = Path(file).stat()
            digest.update(_content(file, status.st_mtime_ns, status.st_size))
        except OSError as error:
            raise _UnhashableError(file) from error
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _content(file: str, changed: int, size: int) -> bytes:
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).digest()
