"""The networks that are initialized and trained, by name.

Names are those of `ghn.zoo.resolve_model`; a sampler's network is of the split `test` if its name
says none. Networks are built for the data's classes and size of images, where a library lets them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import ConfigError, GHNError
from ghn.graphs.trace import trace_with_inputs
from ghn.io import expanded
from ghn.rng import derive_seed, preserve_global_state
from ghn.zoo import SAMPLERS, find_architecture, resolve_model, sample_distinct

__all__ = ["SPLITS", "Network", "find_network", "list_networks"]

VISION, TEXT = ("convnets", "vits"), ("gpts",)
UNSEEN = (
    "mobilenetv3_small_050",
    "mobilenetv2_050",
    "regnetx_002",
    "regnety_002",
    "convnext_atto",
    "efficientnet_lite0",
    "densenet121",
    "swin_tiny_patch4_window7_224",
    "ghostnet_100",
    "mixnet_s",
    "mobilevitv2_050",
    "resnet10t",
)
# Windows and patches that leave a model something to do on images of less than 64 pixels.
_SMALL: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": {"patch_size": 2, "window_size": 4},
}

SPLITS: dict[str, tuple[tuple[str, ...], str]] = {
    "test": (VISION, "test"),
    "wide": (VISION, "wide"),
    "deep": (VISION, "deep"),
    "unseen": (("timm",), ""),
    "gpts": (TEXT, "test"),
    "gpts-wide": (TEXT, "wide"),
    "gpts-deep": (TEXT, "deep"),
}
"""Families and samplers' split of each of the benchmark's splits; `unseen` are timm's families."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network.

    Attributes:
        name: Full name.
        group: What results are summed up by: `"ViT"`, `"CNN, batch norm"`, a library.
        modality: `"vision"` or `"text"`.
        settings: For its constructor, beyond what the data decide.
    """

    name: str
    group: str
    modality: str
    settings: dict[str, Any]

    def build(self, data: dict[str, Any], seed: int, device: str | None = None) -> nn.Module:
        """Return it with its own initialization.

        Args:
            data: What the data decide: `classes` and `image`, or `vocabulary` and `context`.
            seed: Of the initialization.
            device: Where to build it.
        """
        family, _, rest = self.name.partition(":")
        arguments = dict(self.settings)
        if family in ("timm", "torchvision"):
            arguments["num_classes"] = data["classes"]
        elif family == "transformers" and "vocabulary" in data:
            arguments["vocab_size"] = data["vocabulary"]
        with preserve_global_state(derive_seed(seed, "default", self.name)):
            if family in SAMPLERS:
                with torch.device(device or "cpu"):
                    return SAMPLERS[family].build(find_architecture(family, rest, data))
            return resolve_model(self.name, device, **arguments)

    @property
    def file(self) -> Path | None:
        """The Python file that makes it, if one does."""
        file, _, _ = self.name.rpartition(":")
        return expanded(file) if file.endswith(".py") else None

    def digest(self) -> str:
        """Return what tells the file of a network from what it held before; empty without one."""
        if self.file is None:
            return ""
        return hashlib.blake2b(self.file.read_bytes(), digest_size=8).hexdigest()

    def example(self, side: int) -> Tensor:
        """Return an input of the right form: an image of a height and width, or 16 tokens."""
        if self.modality == "text":
            return torch.zeros(1, 16, dtype=torch.int64)
        return torch.zeros(1, 3, side, side)


def find_network(name: str, side: int = 32) -> Network:
    """Return a network by its full name.

    Args:
        name: As for `ghn.zoo.resolve_model`.
        side: Height and width of the images that it will read.

    Raises:
        ConfigError: If it names no network of a sampler.
    """
    name = name if ":" in name else f"timm:{name}"
    family, _, rest = name.partition(":")
    if family in SAMPLERS:
        rest = rest if ":" in rest else f"{rest}:test"
        architecture = find_architecture(family, rest)
        seed, _, split = rest.partition(":")
        group = _group(family, architecture)
        return Network(f"{family}:{int(seed)}:{split}", group, SAMPLERS[family].modality, {})
    if family == "timm":
        return Network(name, family, "vision", _sized(rest, side))
    if family == "torchvision":
        return Network(name, family, "vision", {})
    return Network(name, family, _modality(name), {})


def _sized(model: str, side: int) -> dict[str, Any]:
    """Return what makes a model of timm read images of a size, if it is made for one size."""
    from timm.models import get_pretrained_cfg, is_model

    found = get_pretrained_cfg(model) if is_model(model) else None
    if found is None or not found.fixed_input_size:
        return {}
    return {"img_size": side, **(_SMALL.get(model, {}) if side < 64 else {})}


def _modality(name: str) -> str:
    """Return what a model reads, by what it can be traced with."""
    try:
        inputs = trace_with_inputs(resolve_model(name, "meta")).inputs
    except GHNError:
        return "vision"
    tensors = [t for t in (*inputs.args, *inputs.kwargs.values()) if isinstance(t, Tensor)]
    return "vision" if not tensors or tensors[0].is_floating_point() else "text"


def _group(family: str, architecture: Any) -> str:
    norm = getattr(architecture, "norm", None)
    if norm is None:
        return {"vits": "ViT", "gpts": "GPT"}.get(family.removesuffix("-1k"), family)
    return "CNN, no norm" if norm == "none" else f"CNN, {norm} norm"


def list_networks(split: str, count: int, side: int = 32, context: int = 256) -> list[Network]:
    """Return the first networks of a split, families taking turns; no two are alike.

    Args:
        split: Name in `SPLITS`.
        count: How many; families of timm that no training saw are twelve.
        side: Height and width of the images that they will read.
        context: Tokens of the texts that they will read.

    Raises:
        ConfigError: If a sampler's split has fewer.
    """
    families, part = SPLITS[split]
    if families == ("timm",):
        return [find_network(f"timm:{name}", side) for name in UNSEEN[:count]]
    each = -(-count // len(families))
    data = {"image": side, "context": context}
    drawn = [
        [f"{family}:{seed}:{part}" for seed in sample_distinct(family, each, part, data)]
        for family in families
    ]
    names = [name for turn in zip(*drawn, strict=False) for name in turn]
    if len(names) < count:
        raise ConfigError(f"split {split!r} has {len(names)} networks, got networks={count}")
    return [find_network(name) for name in names[:count]]
