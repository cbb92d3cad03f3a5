"""Checkpoints: a folder with `config.json` and `model.safetensors`, embedded, local or on the hub.

Nothing is ever unpickled. A folder is read completely and checked before a module is returned, and
files are written under temporary names first.
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from huggingface_hub import HfApi, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor

from ghn.config import Config
from ghn.device import ordinary_tensors
from ghn.errors import CheckpointError, ConfigError
from ghn.graphs.ops import OPERATORS, ROLES, VOCABULARY_VERSION
from ghn.io import atomic_path, expanded, tensor_digest
from ghn.registry import unknown_name

if TYPE_CHECKING:
    from ghn.engine.hypernet import GHN

__all__ = ["HubCheckpoint", "checkpoint_digest", "embedded_checkpoints", "load_ghn"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT_VERSION = 1
# Tables with one row for each word of a vocabulary, and the row of `other`.
VOCABULARY_TABLES = {
    "operator.weight": list(OPERATORS).index("other"),
    "role.weight": list(ROLES).index("other"),
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

H = TypeVar("H", bound="HubCheckpoint")


def embedded_checkpoints() -> dict[str, Path]:
    """Return the folders of the checkpoints that ship with the library, by name."""
    root = Path(str(resources.files("ghn"))) / "checkpoints"
    return {p.parent.name: p.parent for p in sorted(root.glob(f"*/{CONFIG_FILE}"))}


@functools.lru_cache(maxsize=4)
def _load_cached(folder: str, modified: tuple[int, ...]) -> GHN:
    from ghn.engine.hypernet import GHN

    ghn = GHN.from_pretrained(folder).eval()
    return ghn.requires_grad_(False)


def load_ghn(name: str | Path, **download: Any) -> GHN:
    """Return a hypernetwork in evaluation mode, loaded once for each process and shared.

    Predictions use it too: to change it or to train it, load your own by `GHN.from_pretrained`.

    Args:
        name: Name of an embedded checkpoint, a local folder, or a hub id (`owner/name`).
        **download: Passed to the hub download: `revision`, `cache_dir`, `token`,
            `local_files_only`.

    Raises:
        UnknownNameError: If the name is none of these.
        CheckpointError: If the checkpoint cannot be used.
    """
    folder = find_checkpoint(name, **download)
    files = (folder / CONFIG_FILE, folder / WEIGHTS_FILE)
    modified = tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
    return _load_cached(str(folder), modified)


def checkpoint_digest(name: str | Path) -> str:
    """Return what tells a checkpoint's weights and settings from those that it had before.

    Args:
        name: As for `load_ghn`.

    Raises:
        UnknownNameError: As `load_ghn`.
        CheckpointError: As `load_ghn`.
    """
    settings = (find_checkpoint(name) / CONFIG_FILE).read_bytes()
    weights = tensor_digest(load_ghn(name).state_dict())
    return weights + hashlib.blake2b(settings, digest_size=8).hexdigest()


def find_checkpoint(name: str | Path, **download: Any) -> Path:
    """Return the local folder of a checkpoint, downloading it if the name is a hub id."""
    if not isinstance(name, str | Path):
        raise ConfigError(f"a checkpoint is a name, a folder or a hub id, got {name!r}")
    embedded = embedded_checkpoints()
    if str(name) in embedded:
        return embedded[str(name)]
    folder = expanded(name)
    if folder.is_dir():
        return folder
    text = str(name)
    if text.count("/") != 1 or text.startswith((".", "/", "~")):
        raise unknown_name("checkpoint", text, list(embedded))
    try:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            path = hf_hub_download(repo_id=text, filename=file, **download)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"cannot download checkpoint {text!r}: {error}. Embedded checkpoints: "
            f"{', '.join(embedded) or 'none'}"
        ) from error
    return Path(path).parent


class HubCheckpoint(ModelHubMixin):
    """Saves and loads a module with a `config`; both halves of the hub mixin are strict here."""

    Config: ClassVar[type[Config]]
    config: Any

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        dtype: str = "float32",
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write `config.json` and `model.safetensors`; existing files are replaced at the end.

        Args:
            save_directory: Folder, made if needed.
            dtype: How floating-point tensors are stored: float32, float16 or bfloat16.
            repo_id: Hub repository, with `push_to_hub`; the folder's name if None.
            push_to_hub: Whether to upload the folder too, with all that lies in it.
            **push_to_hub_kwargs: `token`, `private`, and what `huggingface_hub.upload_folder`
                takes, such as `commit_message`.

        Returns:
            The commit's address if pushed, else None.
        """
        folder = Path(save_directory)
        self._save_pretrained(folder, dtype)
        if push_to_hub:
            api = HfApi(token=push_to_hub_kwargs.pop("token", None))
            private = push_to_hub_kwargs.pop("private", None)
            url = api.create_repo(repo_id or folder.name, private=private, exist_ok=True)
            return api.upload_folder(repo_id=url.repo_id, folder_path=folder, **push_to_hub_kwargs)
        return None

    def _save_pretrained(self, save_directory: Path, dtype: str = "float32") -> None:
        from safetensors.torch import save

        if dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        module: Any = self
        tensors = {k: _stored(k, v, DTYPES[dtype]) for k, v in module.state_dict().items()}
        header = {
            "library": "ghn",
            "format_version": FORMAT_VERSION,
            "vocabulary_version": VOCABULARY_VERSION,
            **self.config.to_dict(),
        }
        with (
            atomic_path(save_directory / CONFIG_FILE) as config,
            atomic_path(save_directory / WEIGHTS_FILE) as weights,
        ):
            # As bytes through Python: a full disk is then an OSError, not a fault in mapped memory.
            weights.write_bytes(save(tensors))
            config.write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(
        cls: type[H], pretrained_model_name_or_path: str | Path, **download: Any
    ) -> H:
        """Load a checkpoint in float32 on the CPU.

        Args:
            pretrained_model_name_or_path: Name of an embedded checkpoint, a local folder, or a hub
                id.
            **download: Passed to the hub download: `revision`, `cache_dir`, `token`,
                `local_files_only`.

        Raises:
            UnknownNameError: If there is no such checkpoint.
            CheckpointError: If it is truncated, foreign, newer, or does not fit its config.
        """
        folder = find_checkpoint(pretrained_model_name_or_path, **download)
        return cls._from_folder(folder)

    @classmethod
    @ordinary_tensors()
    def _from_folder(cls: type[H], folder: Path) -> H:
        try:
            config = cls.Config.from_dict(_read_config(folder))
        except ConfigError as error:
            raise CheckpointError(f"{folder / CONFIG_FILE} does not fit: {error}") from error
        module: Any = cls(config)
        expected = module.state_dict()
        tensors = _read_tensors(folder / WEIGHTS_FILE)
        _pad_vocabularies(tensors, expected)
        _check_tensors(tensors, expected, folder)
        module.load_state_dict(tensors, strict=True)
        return module


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    stored = tensor.to(dtype)
    if not stored.isfinite().all():
        raise CheckpointError(
            f"{name} is not finite in {dtype}, and such a checkpoint could not be loaded; nothing "
            "was written. Save as float32 or bfloat16, or look for the step that diverged"
        )
    return stored


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"no readable {CONFIG_FILE} in {folder}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}; the file may be truncated") from error
    if not isinstance(header, dict) or header.pop("library", None) != "ghn":
        raise CheckpointError(
            f"{path} is not a checkpoint of ghn. Published GHN-3 and LoGAH files do not load: "
            "they speak of another graph vocabulary (see docs/architecture.md)"
        )
    for key, known in (
        ("format_version", FORMAT_VERSION),
        ("vocabulary_version", VOCABULARY_VERSION),
    ):
        version = header.pop(key, None)
        if not isinstance(version, int) or version > known:
            raise CheckpointError(
                f"{path} has {key} {version!r}, this version of ghn reads up to {known}; update ghn"
            )
    return header


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; the file may be missing, truncated or foreign"
        ) from error
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _pad_vocabularies(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Give operators and roles that were appended since the row of `other`."""
    for name, tensor in tensors.items():
        other = next((row for end, row in VOCABULARY_TABLES.items() if name.endswith(end)), None)
        wanted = expected.get(name)
        if other is None or wanted is None or not other < len(tensor) < len(wanted):
            continue
        missing = len(wanted) - len(tensor)
        tensors[name] = torch.cat([tensor, tensor[other : other + 1].expand(missing, -1)])


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, Tensor], folder: Path) -> None:
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{k} is {list(tensors[k].shape)}, needs {list(v.shape)}"
        for k, v in expected.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    broken = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
    problems = [
        *(f"missing {k}" for k in missing[:3]),
        *(f"unexpected {k}" for k in extra[:3]),
        *shapes[:3],
        *(f"{k} is not finite" for k in broken[:3]),
    ]
    if problems:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} does not fit its config: {problems}")
