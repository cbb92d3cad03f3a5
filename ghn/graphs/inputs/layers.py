"""Example inputs from what timm and torchvision say of a model, or from its first layer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ghn.graphs.inputs.example import ExampleInputs
from ghn.graphs.inputs.tensors import TOKENS, floats, ids

__all__ = ["from_layers", "from_timm", "from_torchvision", "signature"]

IMAGE_SIZES = (224, 32, 28, 64, 256, 299, 384, 96, 128, 512, 16, 8)
FRAMES = 16


def signature(model: nn.Module) -> str:
    """Return the forward pass's signature as text."""
    try:
        return str(inspect.signature(model.forward))
    except (TypeError, ValueError):
        return "unknown arguments"


def _required(model: nn.Module) -> list[str]:
    """Names of the positional arguments without a default; empty if they cannot be read."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return ["input"]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in positional and p.default is p.empty]
    variadic = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    return names or (["input"] if variadic or not names else [])


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = tuple(size)[-2:]
    return int(height), int(width)


def from_timm(model: nn.Module) -> list[ExampleInputs]:
    """Return images of the size in timm's config, then of common sizes."""
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    get = getattr(config, "get", None)
    size = get("input_size") if get else getattr(config, "input_size", None)
    if size is None or not type(model).__module__.startswith("timm."):
        return []
    sizes = [tuple(size[1:])]
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if own is not None:
        sizes.insert(0, _pair(own))
    sizes += [(s, s) for s in IMAGE_SIZES]
    sizes = list(dict.fromkeys(sizes))
    first = _image_channels(model)
    other = _images(first, sizes) if first and first != size[0] else []
    return _images(int(size[0]), sizes) + other


def _images(channels: int, sizes: list[tuple[int, ...]]) -> list[ExampleInputs]:
    return [ExampleInputs((floats(1, channels, *size),)) for size in sizes]


def _image_channels(model: nn.Module) -> int | None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return None


def from_torchvision(model: nn.Module) -> list[ExampleInputs]:
    """Return images or clips as torchvision's model families take them."""
    package = type(model).__module__
    if not package.startswith("torchvision.models"):
        return []
    if ".detection" in package:
        return [ExampleInputs(([floats(3, 320, 320)],))]
    if ".optical_flow" in package:
        return [ExampleInputs((floats(1, 3, 128, 128), floats(1, 3, 128, 128)))]
    if ".video" in package:
        return [ExampleInputs((floats(1, 3, FRAMES, s, s),)) for s in (112, 224)]
    sizes: list[tuple[int, ...]] = [(s, s) for s in IMAGE_SIZES]
    own = getattr(model, "image_size", None)
    return _images(3, [_pair(own), *sizes] if own else sizes)


def from_layers(model: nn.Module) -> list[ExampleInputs]:
    """Guess from the first layer with weights; every required argument gets the same guess."""
    required = _required(model)
    shapes = list(_first_layer_inputs(model))
    if len(required) > 3:
        return []
    return [ExampleInputs(tuple(_named(name, tensor) for name in required)) for tensor in shapes]


def _named(name: str, tensor: Tensor) -> Tensor:
    if any(word in name.lower() for word in ("ids", "token", "index", "indices")):
        return ids(1, TOKENS)
    return tensor


def _first_layer_inputs(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        guesses = list(_layer_inputs(module))
        if guesses:
            yield from guesses
            return
    widths = [p.shape for p in model.parameters() if p.ndim == 2]
    if widths:
        yield floats(1, widths[0][1])
        yield floats(1, widths[0][0])
    elif (first := next(iter(model.parameters()), None)) is not None:
        yield floats(1, *first.shape[-1:])
        yield floats(1, *first.shape)


def _layer_inputs(module: nn.Module) -> Iterator[Tensor]:
    convolutions = (nn.modules.conv._ConvNd,)
    if isinstance(module, convolutions):
        dims = len(module.kernel_size)
        for size in IMAGE_SIZES:
            time = (FRAMES,) if dims == 3 else ()
            yield floats(1, module.in_channels, *time, *(size,) * min(dims, 2))
    elif isinstance(module, nn.Embedding):
        yield ids(1, TOKENS)
    elif isinstance(module, nn.EmbeddingBag):
        yield ids(2, TOKENS)
    elif isinstance(module, nn.RNNBase):
        yield floats(TOKENS, 1, module.input_size)
    elif isinstance(module, nn.MultiheadAttention):
        yield floats(1, TOKENS, module.embed_dim)
    elif isinstance(module, (nn.Linear, nn.Bilinear, nn.RNNCellBase)):
        width = next(
            int(getattr(module, n))
            for n in ("in_features", "in1_features", "input_size")
            if hasattr(module, n)
        )
        yield floats(1, width)
        yield floats(1, TOKENS, width)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        yield floats(1, *module.normalized_shape)
        yield floats(1, TOKENS, *module.normalized_shape)
    elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
        channels = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        yield floats(2, channels, 32, 32)
        yield floats(2, channels)
