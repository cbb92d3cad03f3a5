"""Example inputs: given by the user, or inferred from what the model says of itself.

Only shapes and types matter to a trace. Inference returns a list of candidates, best first; the
first one that the forward pass accepts is used.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ghn.errors import InputError

__all__ = ["ExampleInputs", "candidates", "describe"]

IMAGE_SIZES = (224, 32, 28, 64, 256, 299, 384, 96, 128, 512, 16, 8)
TOKENS = 16
FRAMES = 16
WAVE_SAMPLES = 16_000


@dataclasses.dataclass(frozen=True)
class ExampleInputs:
    """Arguments of one forward call; tensors may be without values (meta)."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)

    def on(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with tensors on a device; missing values are made up there."""
        return _move(self.args, device), _move(self.kwargs, device)


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        if device.type == "meta":
            return torch.empty_like(value, device="meta", requires_grad=False)
        return _with_values(value, device) if value.is_meta else value.detach().to(device)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_move(v, device) for v in value)
    if isinstance(value, dict):
        return {k: _move(v, device) for k, v in value.items()}
    return value


def _with_values(value: Tensor, device: torch.device) -> Tensor:
    if value.is_floating_point() or value.is_complex():
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
        return noise.to(device=device, dtype=value.dtype)
    return torch.ones(value.shape, dtype=value.dtype, device=device)


def describe(inputs: ExampleInputs) -> str:
    """Return a short text such as `(float32[1, 3, 224, 224])` for messages."""
    parts = [_describe_value(v) for v in inputs.args]
    parts += [f"{k}={_describe_value(v)}" for k, v in inputs.kwargs.items()]
    return f"({', '.join(parts)})"


def _describe_value(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_describe_value, value))}]"
    return repr(value)


def candidates(model: nn.Module, given: Any = None) -> list[ExampleInputs]:
    """Return inputs to try, best first.

    Args:
        model: The module whose forward pass will run.
        given: The user's example inputs, or None to infer them.

    Raises:
        InputError: If nothing can be inferred, or what was given is not an input.
    """
    if given is not None:
        return [_given(given)]
    for infer in (_from_timm, _from_transformers, _from_torchvision, _from_layers):
        found = infer(model)
        if found:
            return found
    raise InputError(
        f"cannot infer example inputs for {type(model).__name__}: its forward pass takes "
        f"{_signature(model)}; pass example_inputs= (a tensor, a tuple of positional arguments, "
        "or a dict of keyword arguments)"
    )


def _given(given: Any) -> ExampleInputs:
    if isinstance(given, ExampleInputs):
        return given
    if isinstance(given, Tensor):
        return ExampleInputs((given,))
    if isinstance(given, (tuple, list)):
        return ExampleInputs(tuple(given))
    if isinstance(given, dict) or hasattr(given, "keys"):
        return ExampleInputs((), dict(given))
    raise InputError(
        "example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword "
        f"arguments, got {type(given).__name__}"
    )


def _floats(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _ids(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=torch.long)


def _signature(model: nn.Module) -> str:
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


def _from_timm(model: nn.Module) -> list[ExampleInputs]:
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
    return [ExampleInputs((_floats(1, channels, *size),)) for size in sizes]


def _image_channels(model: nn.Module) -> int | None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return None


def _from_torchvision(model: nn.Module) -> list[ExampleInputs]:
    package = type(model).__module__
    if not package.startswith("torchvision.models"):
        return []
    if ".detection" in package:
        return [ExampleInputs(([_floats(3, 320, 320)],))]
    if ".optical_flow" in package:
        return [ExampleInputs((_floats(1, 3, 128, 128), _floats(1, 3, 128, 128)))]
    if ".video" in package:
        return [ExampleInputs((_floats(1, 3, FRAMES, s, s),)) for s in (112, 224)]
    sizes: list[tuple[int, ...]] = [(s, s) for s in IMAGE_SIZES]
    own = getattr(model, "image_size", None)
    return _images(3, [_pair(own), *sizes] if own else sizes)


def _from_transformers(model: nn.Module) -> list[ExampleInputs]:
    config, main = getattr(model, "config", None), getattr(model, "main_input_name", None)
    if config is None or not isinstance(main, str) or not hasattr(config, "to_dict"):
        return []
    accepted = inspect.signature(model.forward).parameters
    make: dict[str, Callable[[Any], Tensor]] = {
        "input_ids": lambda c: _ids(1, TOKENS),
        "pixel_values": _pixels,
        "input_values": lambda c: _floats(1, WAVE_SAMPLES),
        "input_features": _features,
        "decoder_input_ids": lambda c: _ids(1, TOKENS),
    }
    if main not in make:
        return []
    names = [main]
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        names.append("decoder_input_ids")
    if "pixel_values" in accepted and hasattr(config, "vision_config") and main == "input_ids":
        names.append("pixel_values")
    kwargs: dict[str, Any] = {name: make[name](config) for name in names}
    if "use_cache" in accepted:
        kwargs["use_cache"] = False
    return [ExampleInputs((), kwargs)]


def _pixels(config: Any) -> Tensor:
    vision = getattr(config, "vision_config", None) or config
    height, width = _pair(getattr(vision, "image_size", None) or 224)
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    return _floats(1, int(channels), height, width)


def _features(config: Any) -> Tensor:
    bins = getattr(config, "num_mel_bins", None) or getattr(config, "feature_size", None) or 80
    positions = getattr(config, "max_source_positions", None)
    return _floats(1, int(bins), 2 * int(positions) if positions else 3000)


def _from_layers(model: nn.Module) -> list[ExampleInputs]:
    """Guess from the first layer with weights; every required argument gets the same guess."""
    required = _required(model)
    shapes = list(_first_layer_inputs(model))
    if len(required) > 3:
        return []
    return [ExampleInputs(tuple(_named(name, tensor) for name in required)) for tensor in shapes]


def _named(name: str, tensor: Tensor) -> Tensor:
    if any(word in name.lower() for word in ("ids", "token", "index", "indices")):
        return _ids(1, TOKENS)
    return tensor


def _first_layer_inputs(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        guesses = list(_layer_inputs(module))
        if guesses:
            yield from guesses
            return
    widths = [p.shape for p in model.parameters() if p.ndim == 2]
    if widths:
        yield _floats(1, widths[0][1])
        yield _floats(1, widths[0][0])
    elif (first := next(iter(model.parameters()), None)) is not None:
        yield _floats(1, *first.shape[-1:])
        yield _floats(1, *first.shape)


def _layer_inputs(module: nn.Module) -> Iterator[Tensor]:
    convolutions = (nn.modules.conv._ConvNd,)
    if isinstance(module, convolutions):
        dims = len(module.kernel_size)
        for size in IMAGE_SIZES:
            time = (FRAMES,) if dims == 3 else ()
            yield _floats(1, module.in_channels, *time, *(size,) * min(dims, 2))
    elif isinstance(module, nn.Embedding):
        yield _ids(1, TOKENS)
    elif isinstance(module, nn.EmbeddingBag):
        yield _ids(2, TOKENS)
    elif isinstance(module, nn.RNNBase):
        yield _floats(TOKENS, 1, module.input_size)
    elif isinstance(module, nn.MultiheadAttention):
        yield _floats(1, TOKENS, module.embed_dim)
    elif isinstance(module, (nn.Linear, nn.Bilinear, nn.RNNCellBase)):
        width = next(
            int(getattr(module, n))
            for n in ("in_features", "in1_features", "input_size")
            if hasattr(module, n)
        )
        yield _floats(1, width)
        yield _floats(1, TOKENS, width)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        yield _floats(1, *module.normalized_shape)
        yield _floats(1, TOKENS, *module.normalized_shape)
    elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)):
        channels = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        yield _floats(2, channels, 32, 32)
        yield _floats(2, channels)
