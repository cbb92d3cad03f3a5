"""A user's own network and images, in the place of a benchmark."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn

from ghn.data import ImageData, load_images, normalize
from ghn.errors import CheckpointError, ConfigError, UnsupportedModelError
from ghn.io import tensor_digest
from ghn.methods.neumeta.benchmarks import Benchmark, adamw, classes_of
from ghn.methods.neumeta.family import ExperimentalWarning, Family
from ghn.zoo.library import resolve_model

__all__ = ["name_of", "own_benchmark"]

STEPS = 2000  # of a network that comes without weights
RATE = 2e-3


class _Whole(nn.Module):
    """A network as benchmarks have it, with nothing before the part that is resized."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.body = nn.Identity()
        self.tail = network

    def forward(self, images: Tensor) -> Any:
        """Return what the network makes of images."""
        return self.tail(self.body(images))


def own_benchmark(
    model: str,
    arguments: Mapping[str, Any],
    weights: str,
    data: str,
    side: int,
    generate: Sequence[str],
) -> Benchmark:
    """Return a benchmark of a user's network: it classifies images, and all of it is run.

    Args:
        model: As for `ghn.zoo.resolve_model`.
        arguments: Of its constructor.
        weights: Its trained state dict, `.safetensors`; empty for none: it is trained first.
        data: As for `ghn.data.load_images`.
        side: Height and width of images in pixels.
        generate: As for `Family`; empty for its default.

    Raises:
        UnknownNameError, ConfigError: If there is no such model, it does not give a score for each
            class of the data, or has no parameters of these names.
        UnsupportedModelError: If there are no channels to resize.
        CheckpointError: If the weights cannot be read or are those of another network.
        DataError: If the data cannot be found.
    """
    chosen = tuple(generate) or None
    build = _builder(model, arguments, weights)
    network, images = build(), load_images(data, "test", side)
    _check_outputs(network, model, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # each arm gives it
        Family(network.tail, generate=chosen, example_inputs=normalize(images.images[:2]))
    digest = tensor_digest(network.state_dict()) if weights else ""
    return Benchmark(
        summary=f"{data}; {f'weights {digest[:16]}' if weights else 'trained first'}",
        data=data,
        read=classes_of(data, side),
        network=build,
        steps=0 if weights else STEPS,
        rate=RATE,
        optimizer=adamw,
        generate=chosen,
        identity={
            "model": model,
            "arguments": dict(arguments),
            "weights": digest,
            "data": images.hash,
            "side": side,
            "generate": list(generate),
        },
    )


def name_of(model: str) -> str:
    """Return a model's name as a part of a file's name: `timm:resnet18` as `timm-resnet18`."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", model).strip("-")


def _builder(model: str, arguments: Mapping[str, Any], weights: str) -> Callable[[], _Whole]:
    def build() -> _Whole:
        network = resolve_model(model, **arguments)
        if weights:
            _load(network, model, weights)
        return _Whole(network)

    return build


def _load(network: nn.Module, model: str, weights: str) -> None:
    try:
        missing, unexpected = load_model(network, weights, strict=False)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot read {weights}: {error}; it must be the network's state dict as a "
            ".safetensors file"
        ) from error
    except RuntimeError as error:  # sizes that differ; torch lists them
        raise CheckpointError(f"{weights} is of another network than {model}: {error}") from error
    if missing or unexpected:
        raise CheckpointError(
            f"{weights} is of another network than {model}: it lacks {sorted(missing)[:3]} and "
            f"has {sorted(unexpected)[:3]} besides"
        )


@torch.no_grad()
def _check_outputs(network: nn.Module, model: str, images: ImageData) -> None:
    """Raise an error if a network does not give a score for each class of images."""
    side = images.images.shape[-1]
    kinds = {p.dtype for p in network.parameters()}
    if kinds - {torch.float32}:
        raise UnsupportedModelError(f"{model} must have parameters in float32, got {kinds}")
    try:
        outputs = network.eval()(normalize(images.images[:2]))
    except Exception as error:
        raise ConfigError(
            f"{model} cannot read images of {side} x {side} pixels: {error}; choose another --side"
        ) from error
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    count = len(images.classes)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < count:
        raise ConfigError(
            f"{model} must give a score for each of the {count} classes of {images.name}; of two "
            f"images it made {shape}. A model's number of classes is set like "
            f"""--model-args '{{"num_classes": {count}}}'"""
        )
