"""How large the outputs of a model's layers are, on inputs that are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils import _pytree as pytree

from ghn.device import cuda_devices
from ghn.engine.undo import Snapshot
from ghn.errors import InputError
from ghn.graphs.inputs import ExampleInputs, describe
from ghn.rng import make_generator

__all__ = [
    "Outputs",
    "drawn_inputs",
    "floats_of",
    "layer_stds",
    "measure",
    "own_parameters",
    "run_steadily",
    "shortens_rows",
]

BATCH = 4  # images; a batch norm needs more than one
IDS = 100  # most vocabularies have as many


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a model does under its own values.

    Attributes:
        inputs: What it was run on.
        stds: By module name, standard deviations of a layer's outputs; see `layer_stds`.
    """

    inputs: ExampleInputs
    stds: Mapping[str, list[float]]


def measure(model: nn.Module, form: ExampleInputs, seed: int = 0) -> Outputs:
    """Run a model on drawn inputs and note how large the outputs of its layers are.

    Args:
        model: With values; left as it was.
        form: Inputs that the model takes, such as those it was traced with. Floating-point numbers
            are drawn anew, four images for batch norms; integers keep their values if they have
            any.
        seed: Of the inputs.

    Raises:
        InputError: If the forward pass fails.
    """
    images = BATCH if any(isinstance(m, _BatchNorm) for m in model.modules()) else None
    tries = [(form, images, IDS), (form, None, IDS), (form, None, 2)]
    if images:
        tries.insert(1, (_repeated(form, BATCH), None, IDS))
    failure: Exception | None = None
    for wanted, batch, ids in tries:
        inputs = drawn_inputs(wanted, seed, batch, ids)
        try:
            return Outputs(inputs, layer_stds(model, inputs))
        except Exception as error:  # whatever the model says of numbers that do not fit
            failure = error
    raise InputError(
        f"the forward pass fails on drawn inputs of the form {describe(form)}: {failure}"
    ) from failure


def layer_stds(model: nn.Module, inputs: ExampleInputs) -> dict[str, list[float]]:
    """Return the standard deviations of the outputs of every module with parameters of its own.

    Args:
        model: Runs as `run_steadily` says.
        inputs: With values.

    Returns:
        One number for each call of a module, by the module's name; outputs of fewer than two
        numbers are left out.
    """
    found: dict[str, list[float]] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            numbers = floats_of(output)
            if numbers.numel() > 1:
                found.setdefault(name, []).append(numbers.std().item())

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if own_parameters(module)
    ]
    try:
        run_steadily(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def own_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return a layer's parameters, with those that its parametrized weights are made of."""
    if isinstance(module, ParametrizationList):
        return {}
    own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    for name, made_of in getattr(module, "parametrizations", {}).items():
        parts = made_of.named_parameters(recurse=False)
        own |= {f"{name}.{key}": value for key, value in parts}
    return own


def shortens_rows(module: nn.Module) -> bool:
    """Whether a forward pass writes to the module's weight: rows that are looked up get shorter."""
    return isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None


def run_steadily(
    model: nn.Module, inputs: ExampleInputs, tensors: Mapping[str, Tensor] | None = None
) -> Any:
    """Run a model without gradients, and leave no mark on it or on the global random state.

    Args:
        model: Its batch norms run in training mode, all else in evaluation mode. Afterwards modes,
            buffers and whatever else the pass set in modules are as before.
        inputs: With values.
        tensors: Values of parameters, by name, that take the place of the model's own.
    """
    device = next(model.parameters()).device
    args, kwargs = inputs.on(device)
    with _steady(model), torch.no_grad(), torch.random.fork_rng(cuda_devices(model)):
        return functional_call(model, dict(tensors or {}), args, kwargs)


def drawn_inputs(
    found: ExampleInputs, seed: int, batch: int | None = None, ids: int = IDS
) -> ExampleInputs:
    """Return inputs with values.

    Args:
        found: Values may be missing. Floating-point numbers become normally distributed ones;
            integers without values become such from 1 to below `ids`. Sparse tensors stay.
        seed: Of what is drawn.
        batch: Number of images, which are what has four axes; as in `found` by default.
        ids: See `found`.
    """
    generator = make_generator(seed, "drawn inputs")

    def fill(value: Tensor) -> Tensor:
        if value.layout is not torch.strided:
            return value
        if value.is_floating_point():
            images = batch is not None and value.ndim == 4
            shape = (batch, *value.shape[1:]) if images else value.shape
            return torch.randn(shape, generator=generator).to(value.dtype)
        if value.is_meta and value.dtype == torch.long:
            return torch.randint(1, ids, value.shape, generator=generator)
        return value

    args, kwargs = pytree.tree_map_only(Tensor, fill, (found.args, found.kwargs))
    return ExampleInputs(args, kwargs)


def _repeated(form: ExampleInputs, count: int) -> ExampleInputs:
    """Return inputs for several examples: of one text, one image, or a list of one image."""

    def repeat(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.repeat_interleave(count, 0) if value.shape[:1] == (1,) else value
        return [value[0]] * count if isinstance(value, list) and len(value) == 1 else value

    args, kwargs = pytree.tree_map(
        repeat, (form.args, form.kwargs), is_leaf=lambda value: isinstance(value, list)
    )
    return ExampleInputs(args, kwargs)


def floats_of(output: Any) -> Tensor:
    """Return the floating-point numbers of an output of any structure as one vector, in float32."""
    leaves = [t.detach().float().flatten() for t in _tensors(output) if t.is_floating_point()]
    return torch.cat(leaves) if leaves else torch.empty(0)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (dict, tuple, list)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _tensors(part)


@contextmanager
def _steady(model: nn.Module) -> Iterator[None]:
    tables = (next(m.parameters()) for m in model.modules() if shortens_rows(m))
    undo = Snapshot(model, [*model.buffers(), *tables])
    try:
        for module in model.modules():
            module.training = isinstance(module, _BatchNorm)
        yield
    finally:
        undo.restore()
