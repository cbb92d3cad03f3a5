"""A family: one network at any width and depth, whose weights a field emits.

With s the sizes and t a generated tensor of mean m and standard deviation d in the full network,

    W_t(s) = base_t(s) + reach d G(s) field_t(s)

where the base is m, or the full tensor resampled by place, and G divides what is summed over fewer
channels among them: C / w along the axes that the operator sums over, so that a layer of any width
is the same sum, read at fewer places. Statistics of BatchNorm are resampled by place.

Source: Yang et al. 2024 (NeuMeta, arXiv 2410.11878). The base and the sums are ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ghn.device import run_in
from ghn.engine.recalibrate import recalibrate_statistics
from ghn.engine.run import run
from ghn.engine.select import Generate
from ghn.engine.spectral import fit_spectral_norms
from ghn.errors import CheckpointError, UnsupportedModelError
from ghn.graphs import trace
from ghn.graphs.isolate import copied, unwrap
from ghn.graphs.resample import resample, with_gains
from ghn.graphs.ties import named_tensors
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.depths import depths_of
from ghn.methods.neumeta.file import read_family, write_family
from ghn.methods.neumeta.fit import Fitted, fit
from ghn.methods.neumeta.groups import Group, Widths, chosen_parameters
from ghn.methods.neumeta.model import build
from ghn.methods.neumeta.structures import Structure, Structures
from ghn.rng import preserve_global_state

__all__ = ["ExperimentalWarning", "Family"]

AT_ONCE = 256  # inputs
FULL_PRECISION = (torch.float32, torch.float64)


class ExperimentalWarning(UserWarning):
    """What was asked for is known to work in part only."""


class Family:
    """One network at any size.

    Args:
        model: The trained full network; it is copied.
        config: Settings.
        generate: Which parameters are generated: a glob such as `"layer4.1.*"`, several, or a
            function of the name; by default those of the last block. If nothing is left out, a
            warning says that this is experimental.
        example_inputs: As for `ghn.trace`.

    Raises:
        UnsupportedModelError: If no channels can be resized whose weights are all generated, or
            these are in half precision or not finite.
        ConfigError: If `depths` of the settings are more than a run of blocks can have.
        UnknownNameError: If they name no run.

    Example:
        >>> family = Family(model)                       # doctest: +SKIP
        >>> family.fit(loader)                           # doctest: +SKIP
        >>> small = family.sample(width=0.6)             # doctest: +SKIP
        >>> small = family.sample({"layer4": 200})       # doctest: +SKIP
    """

    kind: ClassVar[str] = "family"
    """What its files are called, so that none is taken for one of another class."""

    def __init__(
        self,
        model: nn.Module,
        config: FamilyConfig | None = None,
        *,
        generate: Generate = None,
        example_inputs: Any = None,
    ) -> None:
        self.config = config or FamilyConfig()
        self.model = copied(unwrap(model)).eval().requires_grad_(False)
        graph = trace(self.model, example_inputs)
        self._tensors = named_tensors(self.model)
        self.generated, whole = chosen_parameters(self.model, graph, generate, example_inputs)
        _check_weights(self._tensors, self.generated)
        if whole and self.config.reach:
            warnings.warn(
                "a field that emits the whole network is experimental: the method is known to work "
                "for the last block or blocks, the default of generate=",
                ExperimentalWarning,
                stacklevel=2,
            )
        self.structures = Structures(self.model, graph, self.generated, example_inputs)
        depths_of(self.structures.runs, {n: many for n, (_, many) in self.config.depths.items()})
        with preserve_global_state():
            torch.default_generator.manual_seed(self.config.seed)
            self.ghn = build(self.config, self.structures.full)
        self.ghn.to(self.device).eval()
        trained = self.config.base == "trained"
        stored = self.generated if self.config.base != "none" else ()
        self.base = {
            name: nn.Parameter(self._tensors[name].detach().clone(), requires_grad=trained)
            for name in stored
        }
        self.calibration: Tensor | None = None
        self._facts = {name: _facts(self._tensors[name]) for name in self.generated}

    @property
    def device(self) -> torch.device:
        """Where the family computes: where the full network is."""
        return next(iter(self._tensors.values())).device

    @property
    def groups(self) -> dict[str, Group]:
        """The groups of channels whose width may be chosen, by name."""
        return self.structures.groups

    def sample(self, width: Widths = 1.0, depth: Mapping[str, int] | None = None) -> nn.Module:
        """Return the network at a size: of the same class, with weights of its own.

        Args:
            width: A share of the full width (a float), a number of channels for every group (an
                integer), or a dict from groups, modules that groups lie in, or globs, to such. What
                is not named stays full, and the nearest name counts. Widths that the network cannot
                have become the nearest that it can, with a warning.
            depth: Blocks of runs of equal blocks, by the module that holds them.

        Sizes outside of the trained ranges get a warning (`SizeWarning`).

        Raises:
            ConfigError: If a width or depth is not positive, or too large.
            UnknownNameError: If a key names no group, or no run.
        """
        structure = self.structures.at(self.sizes(width, depth))
        with torch.no_grad():
            weights = self.weights(structure, self.emit(structure))
            model = copied(structure.model)
            for name, tensor in named_tensors(model).items():
                tensor.copy_(weights[name])
            fit_spectral_norms(model, list(model.parameters()))
        if self.calibration is not None and structure.norms:
            norms = [model.get_submodule(name) for name in structure.norms]
            recalibrate_statistics(model, self.calibration.split(AT_ONCE), only=norms)
        return model.eval().requires_grad_(True)

    def sizes(self, width: Widths = 1.0, depth: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return all sizes that arguments of `sample` stand for."""
        config = self.config
        return self.structures.sizes(width, depth or {}, config.low, config.high, config.depths)

    def weights(self, structure: Structure, emitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return all parameters and buffers of a structure, given those that are generated."""
        return {
            name: emitted[name] if name in emitted else self.resampled(structure, name)
            for name in structure.source
        }

    def resampled(self, structure: Structure, name: str) -> Tensor:
        """Return a tensor of a structure as the full network's, read between its channels."""
        tensor = self._tensors[structure.source[name]].detach()
        return resample(tensor, structure.maps.get(name, {}), structure.summed.get(name, ()))

    def emit(self, structure: Structure) -> dict[str, Tensor]:
        """Return the generated parameters of a structure; see the module's equation.

        While the field is trained, places of the base are moved as those of the field are.
        """
        found = {}
        moved = structure.maps
        if self.base and self.ghn.training and self.config.noise:
            moved = structure.resampling.maps(self.config.noise)
        field = self._field(structure)
        for name, old in structure.source.items():
            if old not in self._facts:
                continue
            mean, deviation = self._facts[old]
            summed = structure.summed.get(name, ())
            value = torch.full((), mean, device=self.device)
            if self.base:
                value = resample(self.base[old], moved.get(name, {}), summed)
            if field:
                size = self.config.reach * deviation
                value = value + with_gains(size * field[name], structure.maps.get(name, {}), summed)
            found[name] = value.to(self._tensors[old].dtype)
        return found

    def _field(self, structure: Structure) -> dict[str, Tensor]:
        if not self.config.reach:
            return {}
        generated = set(self.generated)
        return self.ghn(
            structure.graph,
            condition=structure.sizes,
            select=lambda graph, spec: structure.source[spec.name] in generated,
        )

    def run(self, structure: Structure, inputs: Any, emitted: Mapping[str, Tensor]) -> Any:
        """Run the network of a structure, with statistics of the batch in its generated norms."""
        weights = self.weights(structure, emitted)
        buffers = {n: weights[n] for n, _ in structure.model.named_buffers()}
        norms = [structure.model.get_submodule(name) for name in structure.norms]
        for norm in norms:
            norm.train()
        try:
            call = partial(run, structure.model, weights, inputs, buffers=buffers)
            return run_in(self.config.mixed_precision, self.device, call)[0]
        finally:
            for norm in norms:
                norm.eval()

    def fit(self, batches: Iterable[Any], **further: Any) -> Fitted:
        """Train the field; see `ghn.methods.neumeta.fit.fit`."""
        return fit(self, batches, **further)

    def save(self, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write the family to one file: field, base, what is not generated, kept inputs.

        Args:
            path: A `.safetensors` file; it is written completely or not at all.
            notes: JSON types to keep with it; see `load`.
        """
        tensors = {f"model/{n}": t for n, t in self._tensors.items()}
        tensors |= {f"ghn/{n}": t for n, t in self.ghn.state_dict().items()}
        tensors |= {f"base/{n}": t for n, t in self.base.items()}
        if self.calibration is not None:
            tensors["calibration"] = self.calibration
        header = {
            "config": self.config.to_dict(),
            "generated": self.generated,
            "sizes": self.structures.full,
            "notes": dict(notes or {}),
        }
        write_family(path, tensors, self.kind, header)

    @classmethod
    def load(
        cls, path: str | Path, model: nn.Module, *, example_inputs: Any = None
    ) -> tuple[Family, dict[str, Any]]:
        """Read a family that `save` wrote; every width is made from the file.

        Args:
            path: The file.
            model: The full network, with any weights; its own come from the file.
            example_inputs: As for the constructor.

        Returns:
            The family, and the notes that were saved with it.

        Raises:
            CheckpointError: If the file is damaged, foreign, or belongs to another network.
        """
        tensors, config, header = read_family(path, cls.kind)
        model = copied(unwrap(model))
        _set_all(path, named_tensors(model), _under("model/", tensors))
        names = set(header["generated"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # it was given when it was made
            family = cls(model, config, generate=names.__contains__, example_inputs=example_inputs)
        if family.structures.full != header["sizes"]:
            raise CheckpointError(f"{path} belongs to another network; its sizes differ")
        _set_all(path, family.ghn.state_dict(), _under("ghn/", tensors))
        _set_all(path, family.base, _under("base/", tensors))
        if "calibration" in tensors:
            kept = tensors["calibration"].to(family.device)
            like = family._tensors[family.generated[0]].dtype
            family.calibration = kept.to(like) if kept.is_floating_point() else kept
        return family, header["notes"]

    def trained(self) -> list[nn.Parameter]:
        """Return all numbers that are trained."""
        field = list(self.ghn.parameters()) if self.config.reach else []
        return [*field, *(p for p in self.base.values() if p.requires_grad)]

    def num_parameters(self) -> int:
        """Return how many numbers stand for the generated weights: the field's and the base's."""
        return sum(p.numel() for p in {*self.trained(), *self.base.values()})


def _check_weights(tensors: Mapping[str, Tensor], generated: list[str]) -> None:
    """Raise an error for weights that are not finite, or would not notice small steps."""
    for name in generated:
        if tensors[name].dtype not in FULL_PRECISION:
            raise UnsupportedModelError(
                f"a family needs weights in float32 or float64, got {name} in {tensors[name].dtype}"
                "; convert the network and its inputs: Family(model.float()). What is sampled can "
                "be converted back"
            )
        if not tensors[name].isfinite().all():
            raise UnsupportedModelError(f"a family needs finite weights; those of {name} are not")


def _facts(tensor: Tensor) -> tuple[float, float]:
    """Return the mean of a tensor and its standard deviation."""
    mean = tensor.mean().item()
    return mean, (tensor - mean).square().mean().sqrt().item()


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@torch.no_grad()
def _set_all(path: str | Path, targets: Mapping[str, Tensor], values: dict[str, Tensor]) -> None:
    """Write values into tensors of the same names and shapes."""
    shapes = {name: tuple(t.shape) for name, t in targets.items()}
    found = {name: tuple(t.shape) for name, t in values.items()}
    if shapes != found:
        differ = sorted({*shapes.items()} ^ {*found.items()})[:3]
        raise CheckpointError(f"{path} belongs to another network; they differ in {differ}")
    for name, target in targets.items():
        target.copy_(values[name])
