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
from torch.utils import _pytree as pytree

from ghn.engine.undo import Snapshot
from ghn.errors import InputError
from ghn.graphs.inputs import ExampleInputs, Failure, candidates, describe
from ghn.rng import make_generator

__all__ = ["Outputs", "drawn_inputs", "floats_of", "layer_stds", "measure", "run_steadily"]

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


def measure(model: nn.Module, example_inputs: Any = None, seed: int = 0) -> Outputs:
    """Run a model on drawn inputs and note how large the outputs of its layers are.

    Args:
        model: With values; left as it was.
        example_inputs: As for `ghn.trace`, inferred if None. Floating-point numbers are drawn, four
            images for batch norms; integers keep their values if they have any.
        seed: Of the inputs.

    Raises:
        InputError: If nothing can be inferred, or the forward pass fails on all that was tried.
    """
    images = BATCH if any(isinstance(m, _BatchNorm) for m in model.modules()) else None
    options = candidates(model, example_inputs)
    found = next(options)
    while True:
        error: Exception
        for batch, ids in dict.fromkeys(((images, IDS), (None, IDS), (None, 2))):
            inputs = drawn_inputs(found, seed, batch, ids)
            try:
                return Outputs(inputs, layer_stds(model, inputs))
            except Exception as failure:  # whatever the model says of inputs that do not fit
                error = failure
        try:
            found = options.send(Failure(error, 0, guessed=False))
        except StopIteration:
            raise InputError(
                f"the forward pass fails on drawn inputs of the form {describe(found)}: {error}"
            ) from error


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
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        run_steadily(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


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
    with _steady(model), torch.no_grad(), torch.random.fork_rng(_cuda_devices(model)):
        return functional_call(model, dict(tensors or {}), args, kwargs)


def drawn_inputs(
    found: ExampleInputs, seed: int, batch: int | None = None, ids: int = IDS
) -> ExampleInputs:
    """Return inputs with values.

    Args:
        found: Values may be missing. Floating-point numbers become normally distributed ones;
            integers without values become such from 1 to below `ids`.
        seed: Of what is drawn.
        batch: Number of images, which are what has four axes; as in `found` by default.
        ids: See `found`.
    """
    generator = make_generator(seed, "drawn inputs")

    def fill(value: Tensor) -> Tensor:
        if value.is_floating_point():
            images = batch is not None and value.ndim == 4
            shape = (batch, *value.shape[1:]) if images else value.shape
            return torch.randn(shape, generator=generator).to(value.dtype)
        if value.is_meta and value.dtype == torch.long:
            return torch.randint(1, ids, value.shape, generator=generator)
        return value

    args, kwargs = pytree.tree_map_only(Tensor, fill, (found.args, found.kwargs))
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
    undo = Snapshot(model, model.buffers())
    try:
        for module in model.modules():
            module.training = isinstance(module, _BatchNorm)
        yield
    finally:
        undo.restore()


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    return list({p.device for p in model.parameters() if p.device.type == "cuda"})
