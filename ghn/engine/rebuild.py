"""Values for tensors of a meta model that no hypernetwork emits, by the model's own means.

Parameters that keep their own initialization, and buffers (rotary frequencies, relative-position
indices, masks, running statistics), are filled by the hooks that torch, timm and transformers
define for it. A tensor starts full of NaN (integers: their smallest value), so that what no hook
has filled is noticed.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "fill_buffers",
    "fill_parameters",
    "has_buffer_hook",
    "is_filled",
    "same_timm_model",
    "unfilled_like",
]

UNFILLED = "_ghn_unfilled"
BUFFER_HOOKS = ("init_non_persistent_buffers", "_init_buffers", "reset_running_stats")


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


def same_timm_model(model: nn.Module) -> nn.Module | None:
    """Make a timm model once more, on the CPU; None if its structure comes out different.

    Most of timm's models are initialised by code that only their constructor runs.
    """
    if not type(model).__module__.startswith("timm.models."):
        return None
    import timm

    config: Any = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("architecture")
    if not isinstance(name, str) or not timm.is_model(name):
        return None
    classes = getattr(model, "num_classes", None)
    with torch.device("meta"):
        like = timm.create_model(name, num_classes=classes)
    if repr(like) != repr(model) or _shapes(like) != _shapes(model):
        return None
    with torch.device("cpu"):
        return timm.create_model(name, num_classes=classes)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.shape for name, tensor in tensors}


def fill_parameters(model: nn.Module, owners: Iterable[nn.Module]) -> bool:
    """Initialise the parameters of some modules as the model's own constructor would.

    First torch's `reset_parameters` of each owner, then what the library adds to it: transformers'
    `_init_weights`, timm's `init_weights` or `_init_weights`. These also write into other modules:
    what must not change is a stand-in on the meta device while this runs.

    Returns:
        Whether the library promises that this is what the constructor does: transformers does.
    """
    owners = list(owners)
    for owner in owners:
        _call_first(owner, "reset_parameters", "_reset_parameters")
    promised: set[nn.Module] = set()
    for initialise, modules in _by_pretrained_model(model, owners):
        for module in modules:
            initialise(module)
        promised.update(modules)
    for part in _topmost_timm_models(model):
        _call_timm(part)
    return promised.issuperset(owners)


def fill_buffers(model: nn.Module, owners: Iterable[nn.Module]) -> None:
    """Compute the buffers of some modules: what their constructor would have put there.

    Parameters are not written: hooks that might do so see stand-ins.
    """
    owners = list(owners)
    for owner in owners:
        _call_first(owner, *BUFFER_HOOKS)
    rest = [o for o in owners if not all(map(is_filled, _own_buffers(o)))]
    for initialise, modules in _by_pretrained_model(model, rest):
        for module in modules:
            with _parameters_hidden(module):
                initialise(module)
    for owner in rest:
        if not all(map(is_filled, _own_buffers(owner))):
            with _parameters_hidden(owner):
                _call_first(owner, "reset_parameters", "_reset_parameters")


def has_buffer_hook(module: nn.Module) -> bool:
    """Whether a module says how its buffers are computed."""
    return any(_hook(module, name) for name in BUFFER_HOOKS)


def _has_nan(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _marker(dtype: torch.dtype) -> float | int:
    if dtype is torch.bool:
        return 0
    return float("nan") if _has_nan(dtype) else torch.iinfo(dtype).min


def _own_buffers(module: nn.Module) -> list[Tensor]:
    return [b for b in module._buffers.values() if b is not None]


def _hook(module: nn.Module, name: str) -> Callable[..., object] | None:
    found: Any = getattr(module, name, None)
    return found if callable(found) else None


def _call_first(module: nn.Module, *names: str) -> None:
    for name in names:
        if hook := _hook(module, name):
            hook()
            return


def _by_pretrained_model(
    model: nn.Module, owners: list[nn.Module]
) -> Iterator[tuple[Callable[[nn.Module], object], list[nn.Module]]]:
    """Group modules by the `_init_weights` of the innermost transformers model around them.

    The modules that contain them come too, after what they contain: GPT-2's blocks, for one,
    rescale some of the layers inside of them.
    """
    home: dict[nn.Module, nn.Module] = {}
    for candidate in model.modules():  # outer models come first, inner ones overwrite
        if _hook(candidate, "_init_weights") and _hook(candidate, "initialize_weights"):
            home.update(dict.fromkeys(candidate.modules(), candidate))
    wanted = set(owners)
    groups: dict[nn.Module, list[nn.Module]] = {}
    for module in reversed(list(model.modules())):  # children first
        if module in home and not wanted.isdisjoint(module.modules()):
            groups.setdefault(home[module], []).append(module)
    for pretrained, modules in groups.items():
        if hook := _hook(pretrained, "_init_weights"):
            yield hook, modules


def _topmost_timm_models(model: nn.Module) -> Iterator[nn.Module]:
    if type(model).__module__.startswith("timm.models."):
        yield model
        return
    for child in model.children():
        yield from _topmost_timm_models(child)


def _call_timm(model: nn.Module) -> None:
    if whole := _hook(model, "init_weights"):
        whole()
    elif each := _hook(model, "_init_weights"):
        parameters = inspect.signature(each).parameters.values()
        if sum(p.default is p.empty for p in parameters) == 1:  # some take a name too
            for module in reversed(list(model.modules())):  # as apply(): children first
                each(module)


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
