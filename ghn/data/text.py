"""Text as tokens: bytes, or the merges of a byte-level BPE learned from the training split.

Shape letters used in this file:
    N: tokens. b: texts of a batch. t: tokens of a text.
"""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import lzma
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ghn.data.files import is_hidden
from ghn.data.find import find_data, resolved
from ghn.data.hub import HUB_PREFIX, parquet_files, read_texts
from ghn.errors import ConfigError, DataError
from ghn.io import atomic_path, cache_folder

__all__ = ["BYTES", "TextData", "load_text", "load_tokenizer", "token_entropies"]

BYTES = 256
TEXTS = ("books", "wikitext2", "tinyshakespeare")
SELDOM = 0.01  # what every pair of tokens counts more than it occurs
HELD_OUT = 0.05  # of a text in one file: one such part for validation, one for the test
# A file's name in each split, without its suffix; the first that exists is read.
_STEMS = {"train": ("train",), "val": ("valid", "validation", "val"), "test": ("test",)}
_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".txt": bytes,
    ".bz2": bz2.decompress,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}

# How files begin that would be learned as noise: zip, PDF, parquet, zstd, 7z, gzip, bzip2, xz.
_NO_TEXTS = (
    *(b"PK\x03\x04", b"%PDF-", b"PAR1", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"),
    *(b"\x1f\x8b", b"BZh", b"\xfd7zXZ"),
)


@dataclasses.dataclass(frozen=True)
class TextData:
    """One split of a text.

    Attributes:
        name: Data set and split, such as `"books/train"`.
        tokens: All tokens in order, int32.
        vocabulary: Number of different tokens.
        bytes: Length of the text in bytes.
        hash: Identifies the text in records of results.
    """

    name: str
    tokens: Tensor
    vocabulary: int
    bytes: int
    hash: str

    def __len__(self) -> int:
        return len(self.tokens)

    def excerpts(
        self, starts: Int64[Tensor, " b"], length: int
    ) -> tuple[Int64[Tensor, "b t"], Int64[Tensor, "b t"]]:
        """Return excerpts, and for each of their tokens the one that follows.

        Args:
            starts: First tokens.
            length: Tokens t of an excerpt.

        Raises:
            DataError: If the text has no excerpt of this length.
        """
        if len(self) <= length:
            raise DataError(f"{self.name} has {len(self)} tokens, too few for {length} at a time")
        taken = self.tokens[starts[:, None] + torch.arange(length + 1)].long()
        return taken[:, :-1], taken[:, 1:]


def load_text(name: str, split: str = "train", vocabulary: int = BYTES) -> TextData:
    """Load a text, all of it into memory.

    Args:
        name: `"books"`, `"wikitext2"` or `"tinyshakespeare"` (see `ghn.data.find` for where they
            are looked for), `"hf:OWNER/NAME"` for a data set with a column of texts on the Hugging
            Face hub, or a path to your own: a folder with `train.txt`, `valid.txt` and `test.txt`,
            or one file (`.txt`, `.txt.gz`, `.txt.xz`, `.txt.bz2`), alone in a folder or not. Of a
            text for training alone the last tenth is kept for `"val"` and `"test"`.
        split: `"train"`, `"val"` or `"test"`; `"fit"` is `"train"`, as `"val"` is apart from it.
        vocabulary: 256 for bytes; more for a byte-level BPE of that many tokens, learned from the
            training split and kept in the cache folder.

    Raises:
        DataError: If the text cannot be found or read, or has no such split.
        ConfigError: If the name is neither known nor a path, or an argument is out of range.
    """
    if split not in ("train", "val", "test", "fit"):
        raise ConfigError(f"split must be train, val, test or fit, got {split!r}")
    if vocabulary < BYTES:
        raise ConfigError(f"vocabulary must be at least {BYTES}, the bytes, got {vocabulary}")
    return _load(name, "train" if split == "fit" else split, vocabulary, _place(name))


def token_entropies(counted: TextData, text: TextData) -> tuple[float, float]:
    """Return what a text costs if nothing is known but how often tokens, or pairs of them, occur.

    Args:
        counted: Where they are counted.
        text: What is coded by these frequencies; of the same vocabulary.

    Returns:
        Bits per byte by single tokens, and by each token after the one before. Each token counts
        once more than it occurs, each pair 0.01 times.
    """
    size = counted.vocabulary
    known, coded = counted.tokens.long(), text.tokens.long()
    singles = known.bincount(minlength=size).double() + 1.0
    single = -(singles / singles.sum()).log()[coded].sum()
    # Only pairs that occur are counted: all of them would be a matrix of vocabulary by vocabulary.
    kinds, counts = (known[:-1] * size + known[1:]).unique(return_counts=True)
    wanted = coded[:-1] * size + coded[1:]
    places = torch.searchsorted(kinds, wanted).clamp_max(len(kinds) - 1)
    found = torch.where(kinds[places] == wanted, counts[places], 0).double() + SELDOM
    firsts = known[:-1].bincount(minlength=size).double() + SELDOM * size
    paired = -(found / firsts[coded[:-1]]).log().sum()
    bits = math.log(2) * text.bytes
    return single.item() / bits, paired.item() / bits


@functools.lru_cache(maxsize=8)
def _load(name: str, split: str, vocabulary: int, place: Path) -> TextData:
    """Load a text of a place once."""
    text = _read(place, split)
    if vocabulary == BYTES:
        tokens = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).astype(np.int32))
    else:
        encoding = load_tokenizer(name, vocabulary).encode(text.decode(errors="replace"))
        tokens = torch.tensor(encoding.ids, dtype=torch.int32)
    return TextData(f"{name}/{split}", tokens, vocabulary, len(text), _hash(text))


def _place(name: str) -> Path:
    """Return the file or folder that a name means now."""
    if name in TEXTS or name.startswith(HUB_PREFIX):
        return find_data(name).resolve()
    place = resolved(name)
    if not place.exists():
        raise ConfigError(
            f"unknown text {name!r}: not one of {', '.join(TEXTS)}, and no file or folder"
        )
    return place


def _read(place: Path, split: str) -> bytes:
    try:
        return _read_place(place, split)
    except DataError:
        raise
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"cannot read {place}: {error}") from error


def _read_place(place: Path, split: str) -> bytes:
    """Read a split; one text without others is divided among them."""
    if place.is_file():
        return _part(_decompress(place), split)
    tables = {name: parquet_files(place, name) for name in _STEMS}
    if [*filter(tables.get, tables)] == ["train"]:
        return _part(read_texts(tables["train"]), split)
    if tables[split]:
        return read_texts(tables[split])
    files = [p for p in sorted(place.iterdir()) if p.suffix in _DECOMPRESS and _is_text(p)]
    if len(files) == 1:
        return _part(_decompress(files[0]), split)
    named = {p.name.partition(".")[0]: p for p in files}
    for stem in _STEMS[split]:
        if stem in named:
            return _decompress(named[stem])
    held = [p.name for p in files] or [f"parquet files of {n!r}" for n in tables if tables[n]]
    advice = '; split="train" scores on the test text' if split == "val" and tables["test"] else ""
    raise DataError(
        f"{place} has no text for {split!r}: it holds {', '.join(held) or 'none'}{advice}"
    )


def _is_text(path: Path) -> bool:
    return ".txt" in path.name and not is_hidden(Path(path.name))


def _decompress(path: Path) -> bytes:
    text = _DECOMPRESS.get(path.suffix, bytes)(path.read_bytes())
    if text.startswith(_NO_TEXTS) or text[257:262] == b"ustar":
        raise DataError(
            f"{path} is an archive or a document, not a text; read are plain texts, and those "
            f"whose names end in {', '.join(list(_DECOMPRESS)[1:])}"
        )
    return text


def _part(text: bytes, split: str) -> bytes:
    held = int(len(text) * HELD_OUT)
    if not held:
        raise DataError(f"a text of {len(text)} bytes is too short to keep some for val and test")
    first, second = len(text) - 2 * held, len(text) - held
    return {"train": text[:first], "val": text[first:second], "test": text[second:]}[split]


def load_tokenizer(name: str, vocabulary: int) -> Any:
    """Return the byte-level BPE of a text's training split, a `tokenizers.Tokenizer`; learned once.

    Args:
        name: As for `load_text`.
        vocabulary: Its number of tokens, above 256.

    Raises:
        DataError: As `load_text`.
        ConfigError: As `load_text`.
    """
    from tokenizers import ByteLevelBPETokenizer, Tokenizer

    text = _read(_place(name), "train")
    path = cache_folder() / "tokenizers" / f"{_hash(text)}-{vocabulary}.json"
    with contextlib.suppress(Exception):  # absent or damaged: tokenizers says it no better
        return Tokenizer.from_file(str(path))
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(
        text.decode(errors="replace").splitlines(keepends=True),
        vocab_size=vocabulary,
        show_progress=False,
    )
    with atomic_path(path) as temporary:
        learner.save(str(temporary))
    return Tokenizer.from_file(str(path))


def _hash(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()
