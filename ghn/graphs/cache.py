"""Graphs on disk, by a hash of everything that a trace depends on.

The hash covers the model's structure and settings, the example inputs, the code of its classes and
what that reads, as it is now, the versions of the libraries involved and of the operator
vocabulary. What cannot be hashed for certain is traced anew; so is a file that is damaged or was
written for something else.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghn.errors import CheckpointError
from ghn.graphs.code import Texts, UnhashableError, is_installed, tensor_text
from ghn.graphs.graph import FORMAT, ParamGraph
from ghn.graphs.isolate import unwrap
from ghn.graphs.ops import VOCABULARY_VERSION
from ghn.graphs.trace import trace
from ghn.io import atomic_path, cache_folder

__all__ = ["cached_trace", "structural_hash"]

_ROOT = Path(__file__).parents[1]
_HOOKS = re.compile(r"_(forward|backward|state_dict|load_state_dict)\w*hooks\w*$")
# Told apart elsewhere, or without a say in what the forward pass computes.
_SKIPPED = frozenset(
    {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}
    | {"_is_torch_compile", "_compiled_call_impl"}
)


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

    Code is what is loaded, patches included, with the plain values and arrays that it reads from
    its classes and modules; see `ghn.graphs.code`. What no hash can see: floating-point values of
    parameters and buffers, environment variables and files, patches of torch, numpy or Python
    themselves, objects in variables of a module, and what is looked up by a computed name. Where
    a forward pass depends on these, call `ghn.trace`.
    """
    model = unwrap(model)
    digest = hashlib.blake2b(digest_size=20)
    try:
        for part in _parts(model, example_inputs):
            digest.update(part.encode())
            digest.update(b"\0")
    except (UnhashableError, RecursionError):
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
    texts = Texts()
    yield texts.setting(pytree.tree_map_only(Tensor, _without_floats, example_inputs))
    numbers: dict[int, int] = {}  # shared modules and tied tensors, by order of appearance
    classes: dict[type, None] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        yield f"{name}:{numbers.setdefault(id(module), len(numbers))}"
        classes[type(module)] = None
        yield f"{type(module).__module__}.{type(module).__qualname__}"
        yield from _state(module, numbers, texts)
    for cls in classes:
        texts.add_class(cls)
    yield from _sources(dict.fromkeys(base for cls in classes for base in cls.__mro__))
    yield from sorted(texts.code())


def _state(module: nn.Module, numbers: dict[int, int], texts: Texts) -> Iterator[str]:
    """Everything that one module holds, its children excepted."""
    for name, value in sorted(vars(module).items()):
        if _HOOKS.match(name):
            if value:
                raise UnhashableError(name)
        elif name not in _SKIPPED:
            yield f"{name}={texts.setting(value)}"
    for kind in (module._parameters, module._buffers):
        for name, tensor in kind.items():
            if tensor is not None:
                number = numbers.setdefault(id(tensor), len(numbers))
                yield f"{name}:{number}:{tensor_text(tensor)}:{type(tensor).__name__}"


def _without_floats(tensor: Tensor) -> Tensor:
    """Of example inputs only integers and truth values steer a trace."""
    return tensor.to("meta") if tensor.is_floating_point() else tensor


def _sources(classes: Iterable[type]) -> Iterator[str]:
    """Versions of the packages that the classes come from; of code without one, its content."""
    for cls in classes:
        package = sys.modules.get(cls.__module__.partition(".")[0])
        if cls.__module__.startswith(("builtins", "torch.", "ghn.")):
            continue
        if is_installed(package):
            yield f"{package.__name__} {package.__version__}"
        else:
            yield from _user_class(cls)


def _user_class(cls: type) -> Iterator[str]:
    """All loaded code of the user, for what `Texts` does not follow."""
    module = sys.modules.get(cls.__module__)
    if getattr(module, "__file__", None) is None:
        raise UnhashableError(f"{cls.__qualname__} was written in a session")
    yield _code_of_user()
    for value in vars(cls).values():
        code = getattr(value, "__code__", None)
        if code is not None and set(code.co_freevars) - {"__class__"}:
            raise UnhashableError(f"{cls.__qualname__} reads what its maker had in variables")


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
            raise UnhashableError(file) from error
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _content(file: str, changed: int, size: int) -> bytes:
    return hashlib.blake2b(Path(file).read_bytes(), digest_size=16).digest()
