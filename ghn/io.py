"""Files that are either complete or absent.

A file is written to a temporary name in the same folder, flushed to the disk, then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ghn.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "append_line",
    "atomic_path",
    "cache_folder",
    "current_umask",
    "expanded",
    "made_folder",
    "read_tensors",
    "sole_writer",
    "tensor_digest",
    "write_json",
    "write_tensors",
    "write_text",
]


def cache_folder() -> Path:
    """Return the folder where data and graphs are cached; it may not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ghn"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes `path`, on error it is removed.

    Args:
        path: The final place. Its folder is made if needed; an existing file is replaced at once.

    Example:
        >>> with atomic_path("weights.bin") as temporary:      # doctest: +SKIP
        ...     temporary.write_bytes(b"...")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~current_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def current_umask() -> int:
    """Return the permissions that new files lack; the system tells them only by setting others."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def made_folder(folder: str | Path) -> Path:
    """Return a folder, made if needed.

    Raises:
        ConfigError: If it cannot be made, as where there is a file of its name.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error}; choose another") from error
    return folder


@contextmanager
def sole_writer(folder: str | Path) -> Iterator[None]:
    """Keep other processes from writing to a run's folder; a process that dies lets go of it.

    Args:
        folder: Made if needed.

    Raises:
        ConfigError: If another process writes to it, or it cannot be made.
    """
    folder = made_folder(folder)
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield
    except Timeout:
        raise ConfigError(
            f"another process writes to {folder}; wait for it, stop it, or choose another folder"
        ) from None


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, all of it or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by a home folder, where there is one of that user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, all of it or nothing."""
    write_text(path, json.dumps(value, indent=1, sort_keys=False) + "\n")


def append_line(path: str | Path, line: str) -> None:
    """Append one line to a UTF-8 text file, and put it on the disk.

    A last line that was cut off stays a line of its own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], kind: str, header: Mapping[str, Any]
) -> None:
    """Write tensors in safetensors, and everything else in its header, all of it or nothing.

    A digest of all of it goes with it: the format finds files that are cut off, only a digest tells
    that a bit has flipped.

    Args:
        path: The file.
        tensors: By name.
        kind: What the file holds, such as `"learner"`.
        header: Of JSON types.
    """
    from safetensors.torch import save

    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    text = json.dumps(header)
    digest = _file_digest(plain, text)
    data = save(plain, metadata={f"ghn-{kind}": text, "ghn-digest": digest})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        CheckpointError: If the file is missing, cut off, of another kind, or not what was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = file.metadata() or {}
        text = found[f"ghn-{kind}"]
        header = json.loads(text)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"cannot read a {kind} from {path}: {error!r}; it may be missing, cut off or foreign"
        ) from error
    if found.get("ghn-digest") != _file_digest(tensors, text) or not isinstance(header, dict):
        raise CheckpointError(
            f"{path} is damaged: it is not what was written, as its digest says; copy it again "
            f"from where it is whole, or make the {kind} again"
        )
    return tensors, header


def _file_digest(tensors: Mapping[str, Tensor], text: str) -> str:
    return hashlib.sha256(f"{tensor_digest(tensors)} {text}".encode()).hexdigest()


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256, in hexadecimal digits, of tensors: of names, types, shapes and bytes.

    Order and devices are of no account.

    Args:
        tensors: By name.
    """
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(values.view(torch.uint8).numpy().data)
    return found.hexdigest()
