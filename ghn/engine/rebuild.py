"""Values for tensors of a meta model that no hypernetwork emits, by the model's own means.

Parameters that keep their own initialization, and buffers (rotary frequencies, relative-position
indices, masks, running statistics), are filled by the hooks that torch, timm and transformers
define for it. A tensor starts full of NaN (integers: their smallest value), so that what no hook
has filled is noticed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

__all__ = ["fill_buffers", "fill_parameters", "is_filled", "unfilled_like"]

UNFILLED = "_ghn_unfilled"


def unfilled_like(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor whose elements are recognisably not values yet."""
    out = torch.empty_like(tensor, device=device, requires_grad=False)
    # Through .data, so that the version counter counts only what the hooks write.
    out.data.fill_(_marker(out.dtype))
    setattr(out, UNFILLED, True)
    return out


def is_filled(tensor: Tensor) -> bool:
    """Whether a tensor has values; one made by `unfilled_like`, whether each element got one."""
    if tensor.is_meta:
        return False
    if not hasattr(tensor, UNFILLED) or tensor.numel() == 0:
        return True
    if tensor.dtype in (torch.bool, torch.uint8):  # every pattern is a value
        return tensor._version > 0
    unset = tensor.isnan() if _has_nan(tensor.dtype) else tensor == _marker(tensor.dtype)
    return not bool(unset.any())


def fill_parameters(model: nn.Module, owners: Iterable[nn.Module]) -> None:
    """Initialise the parameters of some modules as the model's own constructor would.

    First torch's `reset_parameters` of each owner, then what the library adds to it: transformers'
    `_init_weights`, timm's `init_weights` or `_init_weights`. These also write into other modules:
    what must not change is a stand-in on the meta device while this runs.
    """
    owners = list(owners)
    for owner in owners:
        _call_first(owner, "reset_parameters", "_reset_parameters")
    for pretrained, modules in _by_pretrained_model(model, owners):
        for module in modules:
            pretrained._init_weights(module)
    for part in _topmost_timm_models(model):
        _call_timm(part)


def fill_buffers(model: nn.Module, owners: Iterable[nn.Module]) -> None:
    """Compute the buffers of some modules: what their constructor would have put there.

    Parameters are not written: hooks that might do so see stand-ins.
    """
    owners = list(owners)
    for owner in owners:
        _call_first(owner, "init_non_persistent_buffers", "_init_buffers", "reset_running_stats")
    rest = [o for o in owners if not all(map(is_filled, _own_buffers(o)))]
    for pretrained, modules in _by_pretrained_model(model, rest):
        for module in modules:
            with _parameters_hidden(module):
                pretrained._init_weights(module)
    for owner in rest:
        if not all(map(is_filled, _own_buffers(owner))):
            with _parameters_hidden(owner):
                _call_first(owner, "reset_parameters", "_reset_parameters")


def _has_nan(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _marker(dtype: torch.dtype) -> float | int:
    if dtype is torch.bool:
        return 0
    return float("nan") if _has_nan(dtype) else torch.iinfo(dtype).min


def _own_buffers(module: nn.Module) -> list[Tensor]:
    return [b for b in module._buffers.values() if b is not None]


def _call_first(module: nn.Module, *hooks: str) -> None:
    for name in hooks:
        if callable(hook := getattr(module, name, None)):
            hook()
            return


def _by_pretrained_model(
    model: nn.Module, owners: list[nn.Module]
) -> Iterator[tuple[nn.Module, list[nn.Module]]]:
    """Group modules by the innermost transformers model that they belong to.

    The model itself comes last in its group: GPT-2, for one, rescales some of its layers there.
    """
    home: dict[nn.Module, nn.Module] = {}
    for candidate in model.modules():  # outer models come first, inner ones overwrite
        if hasattr(candidate, "_init_weights") and hasattr(candidate, "initialize_weights"):
            home.update(dict.fromkeys(candidate.modules(), candidate))
    groups: dict[nn.Module, list[nn.Module]] = {}
    for owner in owners:
        if owner in home:
            groups.setdefault(home[owner], []).append(owner)
    for pretrained, modules in groups.items():
        yield pretrained, [m for m in modules if m is not pretrained] + [pretrained]


def _topmost_timm_models(model: nn.Module) -> Iterator[nn.Module]:
    if type(model).__module__.startswith("timm.models."):
        yield model
        return
    for child in model.children():
        yield from _topmost_timm_models(child)


def _call_timm(model: nn.Module) -> None:
    if callable(getattr(model, "init_weights", None)):
        model.init_weights()
    elif callable(getattr(model, "_init_weights", None)):
        model.apply(model._init_weights)


@contextlib.contextmanager
def _parameters_hidden(module: nn.Module) -> Iterator[None]:
    """Put stand-ins without values in the place of a module's parameters."""
    tables = [m._parameters for m in module.modules()]
    saved = [dict(table) for table in tables]
    try:
        for table in tables:
            for key, parameter in table.items():
                if parameter is not None:
                    hidden = torch.empty_like(parameter, device="meta", requires_grad=False)
                    table[key] = nn.Parameter(hidden, requires_grad=False)
        yield
    finally:
        for table, content in zip(tables, saved, strict=True):
            table.update(content)
