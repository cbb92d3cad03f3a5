"""The networks that are initialized and trained, by name.

Names are those of `ghn.zoo.resolve_model`; a sampler's network is of the split `test` if its name
says none. Networks are built for the data's classes, and for small images where a library lets it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ghn.rng import derive_seed, preserve_global_state
from ghn.zoo import SAMPLERS, find_architecture, resolve_model

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
# What lets a library's model work on 32 x 32 images, beyond the number of classes.
_SMALL: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": {"img_size": 32, "patch_size": 2, "window_size": 4},
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

    def build(self, outputs: dict[str, Any], seed: int) -> nn.Module:
        """Return it with its own initialization.

        Args:
            outputs: What the data decide: `classes` or `vocabulary`.
            seed: Of the initialization.
        """
        with preserve_global_state():
            torch.manual_seed(derive_seed(seed, "default", self.name))
            arguments = dict(self.settings)
            family = self.name.partition(":")[0]
            if family in SAMPLERS:
                arguments |= outputs
            elif family in ("timm", "torchvision"):
                arguments["num_classes"] = outputs["classes"]
            return resolve_model(self.name, **arguments)

    def example(self, side: int) -> Tensor:
        """Return an input of the right form: an image of a height and width, or 16 tokens."""
        if self.modality == "text":
            return torch.zeros(1, 16, dtype=torch.int64)
        return torch.zeros(1, 3, side, side)


def find_network(name: str) -> Network:
    """Return a network by its full name.

    Raises:
        ConfigError: If it names no network of a sampler.
    """
    name = name if ":" in name else f"timm:{name}"
    family, _, rest = name.partition(":")
    if family not in SAMPLERS:
        return Network(name, family, "vision", _SMALL.get(rest, {}))
    rest = rest if ":" in rest else f"{rest}:test"
    group = _group(family, find_architecture(family, rest))
    return Network(f"{family}:{rest}", group, SAMPLERS[family].modality, {})


def _group(family: str, architecture: Any) -> str:
    norm = getattr(architecture, "norm", None)
    if norm is None:
        return {"vits": "ViT", "gpts": "GPT"}.get(family, family)
    return "CNN, no norm" if norm == "none" else f"CNN, {norm} norm"


def list_networks(split: str, count: int) -> list[Network]:
    """Return the first networks of a split, families taking turns."""
    families, part = SPLITS[split]
    if families == ("timm",):
        return [find_network(f"timm:{name}") for name in UNSEEN[:count]]
    return [
        find_network(f"{families[i % len(families)]}:{i // len(families)}:{part}")
        for i in range(count)
    ]
