"""A model on the meta device gets values: predicted parameters, its own for the rest, buffers.

The peak of memory is the finished model, plus one tensor. Until everything has a value the model
can be given back as it was, because nothing that it holds is changed: tensors are replaced.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ghn.engine.compose import new_tensor
from ghn.engine.guards import check_model
from ghn.engine.rebuild import (
    fill_buffers,
    fill_parameters,
    has_buffer_hook,
    is_filled,
    same_timm_model,
    unfilled_like,
)
from ghn.engine.undo import Snapshot
from ghn.errors import ConfigError, UnsupportedModelError
from ghn.kernels import Recipe
from ghn.rng import derive_seed, preserve_global_state

__all__ = ["Build", "materialize"]

CPU = torch.device("cpu")
INEXACT = (
    "parameters that are not predicted were initialised by their modules' reset_parameters; the "
    "model's constructor may do more: pass build= to have its values"
)
TWIN = (
    "parameters that are not predicted are those that timm makes of this model by default; pass "
    "build= if it was made with other arguments for its initialization"
)
Build = Callable[[], nn.Module]


@dataclasses.dataclass
class _Slots:
    """One tensor without values, and all the places that hold it.

    Attributes:
        tensor: A parameter, a buffer or a plain attribute.
        places: Pairs (module, key in its table); several if the tensor is tied.
        name: The first of its dotted names.
    """

    tensor: Tensor
    places: list[tuple[nn.Module, str]]
    name: str


def materialize(
    model: nn.Module,
    recipes: Mapping[str, Recipe],
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    build: Build | None = None,
) -> tuple[str, ...]:
    """Give values to every tensor of a model that is on the meta device, in place.

    Args:
        model: Some or all of its tensors are on the meta device; the others are left alone. On an
            error it is as it was.
        recipes: By leading parameter name; checked by `ghn.engine.compose.check_recipes`.
        device: Where the new tensors live.
        dtype: Type of the new floating-point tensors; their own by default. Tables whose precision
            matters (rotary frequencies) keep theirs, as in `from_pretrained(dtype=...)`.
        seed: Seeds the initialization of parameters without a recipe; the global random state is
            left alone.
        build: Makes the same model on the CPU. If given, parameters without a recipe and buffers
            are copied from it by name; the rest of it is dropped before anything is predicted.

    Returns:
        Notes: whether kept parameters may differ from what the model's constructor draws.

    Raises:
        UnsupportedModelError: If a tensor's value cannot be found; names such tensors.
        ConfigError: If `build` makes another model.
    """
    snapshot = Snapshot(model)
    try:
        with torch.no_grad(), _seeded(seed):
            return _materialize(model, recipes, device, dtype, build)
    except BaseException:
        snapshot.restore()
        raise


def _materialize(
    model: nn.Module,
    recipes: Mapping[str, Recipe],
    device: torch.device,
    dtype: torch.dtype | None,
    build: Build | None,
) -> tuple[str, ...]:
    parameters = _slots(model, "_parameters")
    tables = {**_slots(model, "_buffers"), **_slots(model, "__dict__")}
    kept = {name: slots for name, slots in parameters.items() if name not in recipes}
    own, notes = _own_values(model, kept, tables, build)
    _require_values("parameters that are not predicted", own)
    for name, slots in parameters.items():
        if name in recipes:
            like = slots.tensor
            value = new_tensor(recipes[name], like, device, dtype or like.dtype)
        else:
            value = _cast(own.pop(name), device, dtype)
        _install_parameter(slots, value)
    own.update(_computed(model, {n: s for n, s in tables.items() if n not in own}, device))
    _require_values("buffers", own)
    for name, slots in tables.items():
        for module, key in slots.places:
            home = module._buffers if key in module._buffers else module.__dict__
            home[key] = _cast(own[name], device, None if _keeps_precision(module, key) else dtype)
    return notes


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with preserve_global_state():
        torch.default_generator.manual_seed(derive_seed(seed, "own initialization"))
        yield


def _slots(model: nn.Module, table: str) -> dict[str, _Slots]:
    """Group the places of the tensors without values by the identity of the tensor."""
    found: dict[int, _Slots] = {}
    for prefix, module in model.named_modules():
        for key, tensor in getattr(module, table).items():
            if isinstance(tensor, Tensor) and tensor.is_meta:
                name = f"{prefix}.{key}" if prefix else key
                slots = found.setdefault(id(tensor), _Slots(tensor, [], name))
                slots.places.append((module, key))
    return {slots.name: slots for slots in found.values()}


def _require_values(what: str, values: Mapping[str, Tensor]) -> None:
    missing = [name for name, value in values.items() if not is_filled(value)]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UnsupportedModelError(
            f"the meta model has no values for {what}, and none of its modules says how to make "
            f"them: {', '.join(missing[:5])}{more}. Pass build=, a function that makes the same "
            "model on the CPU; the missing values are copied from it"
        )


def _cast(value: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    return value.to(device, dtype if value.is_floating_point() else None)


def _install_parameter(slots: _Slots, value: Tensor) -> None:
    new = nn.Parameter(value, requires_grad=slots.tensor.requires_grad)
    new.__dict__.update(slots.tensor.__dict__)
    for module, key in slots.places:
        setattr(module, key, new)  # recurrent layers keep a second list of their parameters


def _own_values(
    model: nn.Module,
    kept: Mapping[str, _Slots],
    tables: Mapping[str, _Slots],
    build: Build | None,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return what is known before anything is predicted: kept parameters, and some buffers.

    The second value says where the model's constructor may make others.
    """
    if build is not None:
        with CPU:
            found = _copied(build(), {**kept, **tables})
            # The caller may go on with what build() made: nothing is shared with it.
            return {name: tensor.clone() for name, tensor in found.items()}, ()
    unhooked = {n: s for n, s in tables.items() if not has_buffer_hook(s.places[0][0])}
    wanted = {**{n: s for n, s in kept.items() if s.tensor.numel()}, **unhooked}
    if wanted and (twin := same_timm_model(model)) is not None:
        return _copied(twin, {**kept, **unhooked}), (TWIN,) if kept else ()
    values, exact = _initialised(model, kept)
    return values, () if exact else (INEXACT,)


def _copied(source: nn.Module, wanted: Mapping[str, _Slots]) -> dict[str, Tensor]:
    """Return the wanted tensors of another instance of the same model."""
    model = check_model(source)
    found: dict[str, Tensor] = {
        f"{prefix}.{key}" if prefix else key: tensor
        for prefix, module in model.named_modules()
        for table in (module.__dict__, module._buffers, module._parameters)
        for key, tensor in table.items()
        if isinstance(tensor, Tensor) and not tensor.is_meta
    }
    for name, slots in wanted.items():
        if name not in found or found[name].shape != slots.tensor.shape:
            got = f"shape {tuple(found[name].shape)}" if name in found else "no such tensor"
            raise ConfigError(
                f"build= must make the same model, with values: {name!r} has shape "
                f"{tuple(slots.tensor.shape)}, build() made {got}"
            )
    return {name: found[name].detach().to(slots.tensor.dtype) for name, slots in wanted.items()}


def _initialised(model: nn.Module, kept: Mapping[str, _Slots]) -> tuple[dict[str, Tensor], bool]:
    """Run the model's own initialization, on the CPU, so that it reaches kept parameters only."""
    values = {name: unfilled_like(slots.tensor, CPU) for name, slots in kept.items()}
    if all(map(is_filled, values.values())):
        return values, True
    snapshot = Snapshot(model)
    try:
        for module in model.modules():
            _stand_in(module)
        for name, slots in kept.items():
            _install_parameter(slots, values[name])
        exact = fill_parameters(model, _owners(kept.values()))
    finally:
        snapshot.restore()
    return values, exact


def _stand_in(module: nn.Module) -> None:
    """Replace what has values by what may be written to."""
    for key, parameter in module._parameters.items():
        if parameter is not None:
            hidden = torch.empty_like(parameter, device="meta", requires_grad=False)
            module._parameters[key] = nn.Parameter(hidden, requires_grad=False)
    for key, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[key] = buffer.clone()


def _computed(
    model: nn.Module, tables: Mapping[str, _Slots], device: torch.device
) -> dict[str, Tensor]:
    """Let the modules compute their buffers; return those that the tables name."""
    owners = _owners(tables.values())
    valued = [
        (module, key, buffer)
        for module in owners
        for key, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_meta
    ]
    for module, key, buffer in valued:
        module._buffers[key] = buffer.clone()
    for slots in tables.values():
        empty = unfilled_like(slots.tensor, device)
        for module, key in slots.places:
            if key in module._buffers:
                module._buffers[key] = empty
    fill_buffers(model, owners)
    for module, key, buffer in valued:
        module._buffers[key] = buffer
    return {name: getattr(*slots.places[0]) for name, slots in tables.items()}


def _owners(slots: Iterable[_Slots]) -> list[nn.Module]:
    return list(dict.fromkeys(module for s in slots for module, _ in s.places))


def _keeps_precision(module: nn.Module, key: str) -> bool:
    """Whether `model.to(dtype)` would leave this table as it is, or should.

    timm's rotary embeddings override `_apply` to keep their frequencies: a copy of the module is
    asked. transformers keeps `inv_freq` in full precision when it loads a model in half.
    """
    if key.endswith("inv_freq"):
        return True
    if type(module)._apply is nn.Module._apply:
        return False
    probe = copy.copy(module)
    probe.__dict__ = {**module.__dict__, "_parameters": {}, "_modules": {}}
    probe._buffers = {name: torch.zeros(1) for name in module._buffers}
    probe._apply(lambda tensor: tensor.to(torch.bfloat16))
    return getattr(probe, key).dtype == torch.float32
