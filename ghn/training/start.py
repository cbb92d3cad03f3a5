"""The hypernetwork that a run begins with: fresh, or from the weights of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from ghn.engine.hypernet import GHN, GHNConfig
from ghn.errors import ConfigError
from ghn.rng import derive_seed, preserve_global_state
from ghn.training.config import TrainConfig
from ghn.training.state import newest, read_state

__all__ = ["first_hypernetwork"]


def first_hypernetwork(config: TrainConfig) -> GHN:
    """Return the hypernetwork of a run's first step.

    One that goes on has the settings of its last checkpoint, which are all that matters then.
    With `config.start` it has the weights of that checkpoint. It has its settings too, unless
    `config.ghn` is given: then what fits is taken over, tables with fewer rows are cut, and what
    the checkpoint lacks is fresh.

    Raises:
        ConfigError: If the checkpoint's encoder or decoder is of another type, or it writes
            networks for other inputs.
        CheckpointError: If the checkpoint cannot be used.
    """
    if (file := newest(Path(config.out))) is not None:
        _, kept = read_state(file)
        with preserve_global_state():
            return GHN(GHNConfig.from_dict(kept["ghn"]))
    wanted = config.ghn or GHNConfig(modality=config.modality)
    with preserve_global_state(derive_seed(config.seed, "init")):
        fresh = GHN(wanted)
    if not config.start:
        return fresh
    found = GHN.from_pretrained(config.start)
    if found.config.modality != config.modality:
        raise ConfigError(
            f"start={config.start!r} writes networks for {found.config.modality}, the families "
            f"{config.families} are for {config.modality}"
        )
    if config.ghn is not None:
        for part in ("encoder", "decoder"):
            ours, theirs = getattr(wanted, part), getattr(found.config, part)
            if type(ours) is not type(theirs):
                raise ConfigError(
                    f"start={config.start!r} has a {type(theirs).__name__}, ghn.{part} is a "
                    f"{type(ours).__name__}; leave ghn out to take the checkpoint's"
                )
        _take_over(fresh, found)
        fresh.config = fresh.config.replace(support=found.config.support)
        found = fresh
    return found.train().requires_grad_(True)


@torch.no_grad()
def _take_over(fresh: GHN, found: GHN) -> None:
    """Copy a hypernetwork's tensors into another's, as far as both reach along each axis."""
    theirs = found.state_dict()
    for name, tensor in fresh.state_dict().items():
        other = theirs.get(name)
        if other is not None and other.ndim == tensor.ndim:
            both = tuple(slice(min(a, b)) for a, b in zip(tensor.shape, other.shape, strict=True))
            tensor[both] = other[both]
