"""Which models and parameters can be written, and what to do about those that cannot.

Kinds of model are told by class names and attributes, so that none of the libraries that define
them is imported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from ghn.errors import UnsupportedModelError
from ghn.graphs.isolate import unwrap
from ghn.graphs.ties import overlaps

__all__ = ["check_apart", "check_model", "check_writable", "is_predictable"]

PREDICT_FIRST = "predict the plain model first, then {}"
_WRAPPERS = {
    "FullyShardedDataParallel": ("sharded by FSDP", "wrap it"),
    "FSDPModule": ("sharded by FSDP (fully_shard)", "wrap it"),
    "DeepSpeedEngine": ("wrapped by DeepSpeed", "call deepspeed.initialize"),
    "ScriptModule": ("compiled by TorchScript", "script it"),
}
_TENSORS = {
    "DTensor": ("a DTensor", "distribute it"),
    "Params4bit": ("quantised to 4 bits by bitsandbytes", "quantise it"),
    "Int8Params": ("quantised to 8 bits by bitsandbytes", "quantise it"),
}
_QUANTISED_PACKAGES = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torchao.")
_QUANTISED_MODULES = frozenset({"Linear4bit", "Linear8bitLt", "LinearPackedParamsBase"})


def check_model(model: nn.Module) -> nn.Module:
    """Return the module whose parameters are predicted; refuse kinds that cannot be written.

    Args:
        model: The user's model. `torch.compile`, DataParallel and DistributedDataParallel are
            looked through: what they wrap is predicted, under the names of the inner model.

    Raises:
        UnsupportedModelError: If the model is sharded, quantised, scripted or lazy, or has no
            parameters; the message says what to do instead.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(f"needed a torch.nn.Module, got {type(model).__name__}")
    _check_module("", model)  # a scripted or sharded model cannot even be looked into
    inner = unwrap(model)
    for name, module in inner.named_modules():
        _check_module(name, module)
    for name, tensor in _tensors(inner):
        _check_tensor(name, tensor)
    if next(inner.parameters(), None) is None:
        raise UnsupportedModelError(
            f"{type(inner).__name__} has no parameters; there is nothing to predict"
        )
    return inner


def is_predictable(parameter: Tensor) -> bool:
    """Whether a parameter is a plain floating-point tensor with at least one element.

    Complex, integer and sparse parameters and those of size zero keep their own values.
    """
    plain = parameter.layout is torch.strided and parameter.is_floating_point()
    return plain and parameter.numel() > 0


def check_writable(name: str, parameter: Tensor) -> None:
    """Refuse storage that torch would not let us write in place.

    Raises:
        UnsupportedModelError: If the tensor is an inference tensor or an expanded view.
    """
    if parameter.is_inference():
        raise UnsupportedModelError(
            f"parameter {name!r} was made under torch.inference_mode() and cannot be changed in "
            "place; build the model outside of it"
        )
    sizes = zip(parameter.shape, parameter.stride(), strict=True)
    if any(size > 1 and stride == 0 for size, stride in sizes):
        raise UnsupportedModelError(
            f"parameter {name!r} is an expanded view whose elements share memory; replace it by "
            "nn.Parameter(parameter.clone())"
        )


def check_apart(written: Collection[str], parameters: Mapping[str, Tensor]) -> None:
    """Refuse to write into memory that is also a parameter's that keeps its values.

    Raises:
        UnsupportedModelError: If there is such a pair; two that are both written are a tie.
    """
    # Of others, such as every second row of a matrix, the range says too little.
    held = {
        name: parameter
        for name, parameter in parameters.items()
        if is_predictable(parameter) and not parameter.is_meta and parameter.is_contiguous()
    }
    for one, other in overlaps(held):
        if (one in written) != (other in written):
            raise UnsupportedModelError(
                f"parameters {one!r} and {other!r} share memory, but only one of them is to be "
                "predicted; give one a copy (clone()), or make them one parameter"
            )


def _check_module(name: str, module: nn.Module) -> None:
    where = f"module {name!r}" if name else "the model"
    for cls in type(module).__mro__:
        if cls.__name__ in _WRAPPERS:
            what, then = _WRAPPERS[cls.__name__]
            raise UnsupportedModelError(f"{where} is {what}; {PREDICT_FIRST.format(then)}")
        in_package = f"{cls.__module__}.".startswith(_QUANTISED_PACKAGES)
        if in_package or cls.__name__ in _QUANTISED_MODULES:
            raise UnsupportedModelError(
                f"{where} is quantised ({cls.__module__}.{cls.__name__}); "
                f"{PREDICT_FIRST.format('quantise it')}"
            )


def _check_tensor(name: str, tensor: Tensor) -> None:
    if nn.parameter.is_lazy(tensor):
        raise UnsupportedModelError(
            f"{name!r} has no shape yet; run one batch through the model so that its lazy modules "
            "are initialised"
        )
    if hasattr(tensor, "ds_id"):
        raise UnsupportedModelError(
            f"parameter {name!r} is partitioned by DeepSpeed ZeRO; "
            f"{PREDICT_FIRST.format('call deepspeed.initialize')}"
        )
    for kind in {type(tensor), type(tensor.data)}:
        if kind.__name__ in _TENSORS:
            what, then = _TENSORS[kind.__name__]
            raise UnsupportedModelError(
                f"parameter {name!r} is {what}; {PREDICT_FIRST.format(then)}"
            )
        if kind.__module__.startswith("torchao."):
            raise UnsupportedModelError(
                f"parameter {name!r} is quantised by torchao; {PREDICT_FIRST.format('quantise it')}"
            )
    if tensor.is_quantized:
        raise UnsupportedModelError(
            f"{name!r} is a quantised tensor; {PREDICT_FIRST.format('quantise it')}"
        )


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
