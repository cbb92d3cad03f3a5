"""The output anchor: what a hypernetwork emits for earlier conditions is kept while it learns.

A hypernetwork that learns for a new condition forgets the old ones, because all share its weights.
No old data is needed to prevent that: it suffices that, for each old condition, it goes on emitting
what it emitted, that is, that the squared difference between the two stays small. The same object
keeps tasks in continual learning, clients in federated learning, or preferences.

Source: von Oswald et al. 2020 (Continual learning with hypernetworks, arXiv 1906.00695), equation
2: the regulariser, its look-ahead, random subsets, the heads of other tasks left out, weights by
Fisher information. The reduction `"relative"` is ours.

Shape letters used in this file:
    C: kept conditions.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ghn.config import Config
from ghn.engine.hypernet import GHN
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph

__all__ = ["AnchorConfig", "OutputAnchor", "coming_step", "normalised_fisher"]

LEAST, MOST = 0.05, 20.0  # of a normalised importance
FLOOR = 1e-3  # of a mean square that differences are divided by: small tensors count for less


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchorConfig(Config):
    """Settings of `OutputAnchor`.

    Attributes:
        beta: Weight of the penalty beside the loss; 0 switches it off.
        memory: `"targets"` keeps what was emitted, C times the network's parameters; `"snapshot"`
            keeps one copy of the hypernetwork and emits from it again.
        reduction: How the squared differences of one condition become a number. `"relative"`: the
            mean over elements of the squared difference over the mean square of the tensor's
            targets, or over 0.001 if that is more. It does not depend on the size of a network, nor
            on the scale of tensors with a mean square above 0.001 (elements of about 0.03); smaller
            ones, mostly biases, are held less, by the square of their scale. `"paper"`: the sum, as
            published, so that the right beta depends on the network's size; 0.01 to 1 are common.
        subset: Most conditions that one penalty looks at, drawn at random; 0 for all.
        lookahead: Whether the penalty is taken after the optimiser's coming step on the loss
            instead of before it.
    """

    beta: float = 100.0
    memory: str = "targets"
    reduction: str = "relative"
    subset: int = 0
    lookahead: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.beta < math.inf or self.subset < 0:
            raise ConfigError(f"beta and subset must be at least 0 and finite, got {self}")
        if self.memory not in ("targets", "snapshot"):
            raise ConfigError(f"memory must be 'targets' or 'snapshot', got {self.memory!r}")
        if self.reduction not in ("paper", "relative"):
            raise ConfigError(f"reduction must be 'paper' or 'relative', got {self.reduction!r}")


class OutputAnchor:
    """Keeps what a hypernetwork emits for one network under conditions that it has learned.

    Args:
        ghn: The hypernetwork, with a condition. It trains on; the anchor never changes it.
        graph: The network.
        config: How strongly, and how it remembers.

    Example:
        >>> anchor = OutputAnchor(ghn, graph, AnchorConfig(beta=1.0))    # doctest: +SKIP
        >>> anchor.keep("first")                                         # doctest: +SKIP
        >>> (loss_on_the_second + anchor.penalty()).backward()           # doctest: +SKIP
    """

    def __init__(self, ghn: GHN, graph: ParamGraph, config: AnchorConfig) -> None:
        self.ghn, self.graph, self.config = ghn, graph, config
        self.kept: dict[Hashable, Any] = {}
        self.targets: Tensor | None = None
        self.weights: dict[Hashable, Tensor] = {}
        self._snapshot: GHN | None = None
        self._scale: Tensor | None = None

    def keep(
        self,
        key: Hashable,
        condition: Any = None,
        *,
        importance: Mapping[str, Tensor] | None = None,
        mask: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep what is emitted now, for a condition and for all that were kept before.

        Right after this call the penalty is zero.

        Args:
            key: Name of the condition; one that is kept already is replaced.
            condition: Its value; the key itself if None.
            importance: How much each element counts, by parameter name; such as
                `normalised_fisher`.
            mask: Which elements count at all, by parameter name; those of missing names do.

        Raises:
            ConfigError: If importance or mask name what is no parameter, or have another shape.
        """
        weights = None
        if importance is not None or mask is not None:
            weights = self._weights(importance or {}, mask or {})
        before = self.kept
        self.kept = {**before, key: key if condition is None else condition}
        try:
            self.refresh()
        except BaseException:  # a condition that there is not
            self.kept = before
            raise
        self.weights.pop(key, None)
        if weights is not None:
            self.weights[key] = weights

    @torch.no_grad()
    def refresh(self) -> None:
        """Take what is emitted now as the target of every kept condition."""
        if not self.kept:
            return
        modes = {part: part.training for part in self.ghn.modules()}
        self.ghn.eval()
        try:
            targets = self._emit(list(self.kept))
        finally:
            for part, mode in modes.items():
                part.training = mode
        self._scale = self._scales(targets)
        if self.config.memory == "targets":
            self.targets = targets
        else:
            self._snapshot = copy.deepcopy(self.ghn).eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the anchor remembers, by name; keys are not in it."""
        state = {f"weights/{list(self.kept).index(k)}": v for k, v in self.weights.items()}
        if self._scale is not None:
            state["scale"] = self._scale
        if self.targets is not None:
            state["targets"] = self.targets
        if self._snapshot is not None:
            state |= {f"snapshot/{k}": v for k, v in self._snapshot.state_dict().items()}
        return state

    def load_state_dict(
        self, state: Mapping[str, Tensor], keys: Sequence[Hashable], values: Sequence[Any] = ()
    ) -> None:
        """Take over what `state_dict` returned.

        Args:
            state: Tensors; they are the anchor's from now on.
            keys: Names of the kept conditions, in the order in which they were kept.
            values: Their values; the keys themselves if empty.
        """
        keys = list(keys)
        self.kept = dict(zip(keys, values or keys, strict=True))
        self.weights = {k: state[p] for i, k in enumerate(keys) if (p := f"weights/{i}") in state}
        self._scale, self.targets = state.get("scale"), state.get("targets")
        prefix = "snapshot/"
        old = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self._snapshot = None
        if old:
            self._snapshot = copy.deepcopy(self.ghn).eval()
            self._snapshot.load_state_dict(old)
            self._snapshot.requires_grad_(False)

    def choose(self, generator: torch.Generator | None = None) -> list[Hashable]:
        """Return the conditions that the next penalty is about: all, or some drawn at random."""
        keys = list(self.kept)
        count = self.config.subset
        if not count or count >= len(keys):
            return keys
        drawn = torch.randperm(len(keys), generator=generator)[:count]
        return [keys[i] for i in drawn.sort().values.tolist()]

    def penalty(
        self,
        keys: Sequence[Hashable] | None = None,
        *,
        emitted: Mapping[str, Float[Tensor, "C ..."]] | None = None,
        ahead: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, ""]:
        """Return beta times the mean penalty of kept conditions; 0 if there are none.

        Args:
            keys: Which; all by default.
            emitted: What the hypernetwork emits for them, if the caller has it already.
            ahead: Parameters to emit under in place of the hypernetwork's own, such as
                `coming_step` returns.

        Raises:
            ConfigError: If a key is not kept.

        Source:
            Equation 2 of arXiv 1906.00695.
        """
        keys = list(self.kept) if keys is None else list(keys)
        if unknown := [key for key in keys if key not in self.kept]:
            raise ConfigError(
                f"the anchor does not keep {unknown}; it keeps {list(self.kept)}: call keep() first"
            )
        if not keys or self.config.beta == 0:
            return next(self.ghn.parameters()).new_zeros(())
        now = self._emit(keys, ahead) if emitted is None else _flat(emitted, self.graph)
        difference = (now - self._targets(keys)).square()
        if self._scale is not None:
            difference = difference * self._scale
        if any(key in self.weights for key in keys):
            one = torch.ones_like(difference[0])
            difference = difference * torch.stack([self.weights.get(key, one) for key in keys])
        return self.config.beta * difference.sum(1).mean()

    @torch.no_grad()
    def drift(self) -> dict[Hashable, float]:
        """Return for each kept condition how far its emission is from the target, relative to it.

        It is the norm of the difference of all parameters over the norm of the targets; 0 right
        after `keep` or `refresh`, which take new targets.
        """
        if not self.kept:
            return {}
        keys = list(self.kept)
        targets = self._targets(keys)
        ratio = (self._emit(keys) - targets).norm(dim=1) / targets.norm(dim=1)
        return dict(zip(keys, ratio.tolist(), strict=True))

    def _targets(self, keys: Sequence[Hashable]) -> Float[Tensor, "C P"]:
        if self.targets is not None:
            places = {key: place for place, key in enumerate(self.kept)}
            return self.targets[[places[key] for key in keys]]
        if self._snapshot is None:
            raise ConfigError("the anchor keeps nothing yet; call keep() first")
        with torch.no_grad():
            return self._emit(keys, module=self._snapshot)

    def _emit(
        self,
        keys: Sequence[Hashable],
        ahead: Mapping[str, Tensor] | None = None,
        module: GHN | None = None,
    ) -> Float[Tensor, "C P"]:
        module = module or self.ghn
        values = [self.kept[key] for key in keys]
        condition = torch.stack(values) if isinstance(values[0], Tensor) else values
        if ahead is None:
            return _flat(module(self.graph, condition), self.graph)
        return _flat(functional_call(module, dict(ahead), (self.graph, condition)), self.graph)

    def _scales(self, targets: Float[Tensor, "C P"]) -> Float[Tensor, " P"] | None:
        """Return what each squared difference is multiplied with, alike within a tensor."""
        if self.config.reduction == "paper":
            return None
        sizes = [spec.numel for spec in self.graph.specs.values()]
        squares = [part.square().mean().clamp_min(FLOOR) for part in targets.split(sizes, 1)]
        parts = [
            (1.0 / (s * targets.shape[1])).expand(n) for s, n in zip(squares, sizes, strict=True)
        ]
        return torch.cat(parts)

    def _weights(
        self, importance: Mapping[str, Tensor], mask: Mapping[str, Tensor]
    ) -> Float[Tensor, " P"]:
        _check_parts("importance", importance, self.graph)
        _check_parts("mask", mask, self.graph)
        like = next(self.ghn.parameters())
        parts = []
        for name, spec in self.graph.specs.items():
            weight = importance.get(name, torch.ones(spec.shape)).to(like).reshape(-1)
            counted = mask.get(name, torch.ones(spec.shape, dtype=torch.bool)).to(like)
            parts.append(weight * counted.reshape(-1))
        return torch.cat(parts)


def _check_parts(what: str, parts: Mapping[str, Tensor], graph: ParamGraph) -> None:
    """Refuse tensors by parameter name that do not belong to a graph's parameters."""
    for name, part in parts.items():
        if name not in graph.specs:
            raise ConfigError(
                f"{what} names {name!r}, which is not emitted; parameters are "
                f"{', '.join(list(graph.specs)[:5])}"
            )
        if tuple(part.shape) != graph.specs[name].shape:
            raise ConfigError(
                f"{what} of {name} must have its shape {list(graph.specs[name].shape)}, got "
                f"{list(part.shape)}"
            )


def _flat(emitted: Mapping[str, Tensor], graph: ParamGraph) -> Float[Tensor, "C P"]:
    """Join parameters to one vector for each condition, in the order of the graph."""
    return torch.cat([emitted[name].flatten(1) for name in graph.specs if name in emitted], 1)


def normalised_fisher(squares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn mean squared gradients of a network's parameters into importances.

    They are divided by their mean over all parameters, and clipped to 0.05 .. 20.
    """
    total = sum(float(s.sum()) for s in squares.values())
    count = sum(s.numel() for s in squares.values())
    mean = max(total / max(count, 1), 1e-30)
    return {name: (s / mean).clamp(LEAST, MOST) for name, s in squares.items()}


def coming_step(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return a module's parameters as they will be after the optimiser's coming step.

    The real optimiser takes the step, on a copy of itself and of the parameters, so that momentum,
    moments and weight decay are what they are. Values are those after the step; gradients go to the
    parameters before it, as if the step were a constant.

    Args:
        module: Parameters with gradients; those without, or unknown to the optimiser, stay.
        optimizer: Its state is not changed.

    Returns:
        All parameters of the module by name.
    """
    memo: dict[int, Any] = {}
    twin = copy.deepcopy(optimizer, memo)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                memo[id(parameter)].grad = parameter.grad.detach().clone()
    twin.step()
    return {
        name: p + (memo[id(p)].detach() - p.detach()) if id(p) in memo else p
        for name, p in module.named_parameters()
    }
