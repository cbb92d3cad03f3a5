"""Trained networks that the start `trained` takes weights from: one a family, trained once."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ghn.benchmarks.compare import Data, Schedule, train
from ghn.benchmarks.init.config import InitConfig
from ghn.benchmarks.init.networks import Network
from ghn.config import Config
from ghn.device import choose_device
from ghn.graphs import ParamGraph, cached_trace
from ghn.io import atomic_path, tensor_digest
from ghn.rng import derive_seed, preserve_global_state
from ghn.zoo import SAMPLERS
from ghn.zoo.convnets import ConvNetConfig
from ghn.zoo.gpts import GPTConfig
from ghn.zoo.vits import ViTConfig

__all__ = ["load_source", "source_family", "train_source"]

SEED = 0
RATE = 3e-3
# In the middle of what their samplers draw.
ARCHITECTURES: dict[str, Config] = {
    "convnets": ConvNetConfig(kind="residual", widths=(32, 64, 128), depths=(1, 1, 1)),
    "vits": ViTConfig(width=128, layers=5, heads=4, patch=4),
    "gpts": GPTConfig(width=128, layers=5, heads=4),
}


def source_family(network: Network) -> str:
    """Return the family whose trained network a network takes weights from."""
    family = network.name.partition(":")[0].removesuffix("-1k")
    if family in ARCHITECTURES:
        return family
    return "gpts" if network.modality == "text" else "convnets"


def train_source(config: InitConfig, family: str, data: Data) -> str:
    """Train a family's network and keep it beside the results, unless it is there.

    Args:
        config: Names the folder, the batch and the number of steps.
        family: Key of `ARCHITECTURES`.
        data: What to train on.

    Returns:
        A digest of its parameters.
    """
    path = _path(config, family)
    with contextlib.suppress(FileNotFoundError, SafetensorError):  # a damaged one is made again
        return tensor_digest(load_file(path))
    architecture = SAMPLERS[family].fit_to(ARCHITECTURES[family], data.train.settings)
    with preserve_global_state(derive_seed(SEED, "source", family)):
        model = SAMPLERS[family].build(architecture)
    schedule = Schedule(
        steps=config.source_steps,
        batch=config.batch,
        rate=RATE,
        tests=2,
        clip=config.clip,
        mixed_precision=config.mixed_precision,
        cuda_graphs=config.cuda_graphs,
    )
    run = train(model.to(choose_device(config.device)), data, schedule, SEED)
    tensors = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"score": f"{run.scores[-1][1]:.4f}"})
    return tensor_digest(tensors)


def load_source(config: InitConfig, family: str) -> tuple[ParamGraph, dict[str, Tensor]]:
    """Return the graph and the trained parameters of a family's network."""
    values = load_file(_path(config, family))
    heads = {"head.weight": "classes", "gpt2.lm_head.weight": "vocabulary"}
    settings = {key: len(values[name]) for name, key in heads.items() if name in values}
    settings |= {"image": config.side, "context": config.context}
    architecture = SAMPLERS[family].fit_to(ARCHITECTURES[family], settings)
    with torch.device("meta"):
        model = SAMPLERS[family].build(architecture)
    return cached_trace(model, SAMPLERS[family].example(architecture).to("meta")), values


def _path(config: InitConfig, family: str) -> Path:
    return Path(config.out) / "runs" / f"source-{family}.safetensors"
