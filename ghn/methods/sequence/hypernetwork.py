"""One hypernetwork for all tasks: a condition for each, held by the output anchor.

A task's network is emitted from the task's embedding. While a task is learned, its embedding and
the hypernetwork are trained on its loss, and what is emitted for earlier tasks is anchored. After
that its embedding is frozen.

Source: von Oswald et al. 2020 (Continual learning with hypernetworks, arXiv 1906.00695).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.engine.hypernet import GHN, GHNConfig
from ghn.errors import ConfigError
from ghn.graphs import ParamGraph
from ghn.methods.sequence.config import HypernetworkConfig
from ghn.methods.sequence.learner import under
from ghn.methods.sequence.model import build
from ghn.rng import make_generator, preserve_global_state
from ghn.training.anchor import OutputAnchor, coming_step

__all__ = ["TaskHypernetwork"]

Loss = Callable[[dict[str, Tensor]], Float[Tensor, ""]]
"""From a network's parameters to the loss of a batch."""


class TaskHypernetwork:
    """A hypernetwork with an embedding for each task, and the anchor of what it emits.

    Args:
        graph: The network that is emitted.
        config: Decoder, sizes, anchor.
        seed: Of the initial weights and embeddings.
        device: Where the hypernetwork lives.
    """

    def __init__(
        self, graph: ParamGraph, config: HypernetworkConfig, seed: int, device: torch.device
    ) -> None:
        self.graph, self.config, self.seed, self.device = graph, config, seed, device
        with preserve_global_state():
            torch.default_generator.manual_seed(seed)
            self.ghn = build(config, graph).to(device)
        self.anchor = OutputAnchor(self.ghn, graph, config.anchor)
        self._draws = torch.Generator()

    def add(self, task: str) -> None:
        """Add an embedding for a task that is to be learned."""
        self.ghn.condition.add(task, generator=make_generator(self.seed, "embedding", task))
        self._draws = make_generator(self.seed, "subset", task)
        self.ghn.train()

    def grow(self, units: int, number: int) -> None:
        """Enlarge the state of a recurrent decoder; what tasks get stays as it was.

        Args:
            units: How many units to add, at least 1.
            number: What the draw of the new weights depends on beside the seed; another one for
                each growth.

        Raises:
            ConfigError: If the decoder is of another kind, or the units are no whole number.
        """
        if not hasattr(self.ghn.decoder, "grow"):
            raise ConfigError(
                f"decoder {self.ghn.decoder_name!r} cannot grow; decoder='recurrent' can"
            )
        if not isinstance(units, Integral) or isinstance(units, bool) or units < 1:
            raise ConfigError(f"units to add must be a whole number from 1 on, got {units!r}")
        self.ghn.decoder.grow(int(units), make_generator(self.seed, "grow", number))
        self.anchor.refresh()

    def trained(self, task: str) -> list[nn.Parameter]:
        """Return what the optimiser of a task changes."""
        return [p for p in self.ghn.parameters() if p.requires_grad]

    def backward(self, task: str, loss_of: Loss, optimizer: torch.optim.Optimizer) -> float:
        """Add the gradients of a batch's loss and of the anchor's penalty; return the loss.

        Source:
            arXiv 1906.00695, equation 2. The current embedding gets no gradient from the penalty.
        """
        old = self.anchor.choose(self._draws) if self.config.anchor.beta else []
        ahead = self.config.anchor.lookahead
        # One call for all tasks, unless the old ones are looked at after the coming step.
        together = [] if ahead else [str(name) for name in old]
        batch = self.ghn(self.graph, condition=[task, *together])
        parts = {name: values.split([1, len(together)]) for name, values in batch.items()}
        loss = loss_of(self._typed({name: part[0][0] for name, part in parts.items()}))
        if together:
            kept = {name: part[1] for name, part in parts.items()}
            (loss + self.anchor.penalty(old, emitted=kept)).backward()
        else:
            loss.backward()
            if old:
                self.anchor.penalty(old, ahead=coming_step(self.ghn, optimizer)).backward()
        return loss.item()

    def finish(
        self,
        task: str,
        importance: Mapping[str, Tensor] | None = None,
        mask: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Freeze a task's embedding and anchor what it gets; see `OutputAnchor.keep`."""
        self.ghn.condition.freeze(task)
        self.ghn.eval()
        self.anchor.keep(task, importance=importance, mask=mask)

    def parameters_of(self, task: str | list[str]) -> dict[str, Tensor]:
        """Return a task's parameters of the network by name, without gradients.

        Args:
            task: Its name; or several, then parameters have a leading axis of tasks.
        """
        with torch.no_grad():
            return self._typed(self.ghn(self.graph, condition=task))

    def _typed(self, emitted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return parameters in the types of those that they stand for."""
        specs = self.graph.specs
        return {name: t.to(getattr(torch, specs[name].dtype)) for name, t in emitted.items()}

    def num_parameters(self) -> int:
        """Return the number of parameters of the hypernetwork, embeddings of tasks included."""
        return sum(p.numel() for p in self.ghn.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by name."""
        tensors = {f"ghn/{k}": v for k, v in self.ghn.state_dict().items()}
        return tensors | {f"anchor/{k}": v for k, v in self.anchor.state_dict().items()}

    def facts(self) -> dict[str, Any]:
        """Return the rest of the state as JSON types."""
        return {"ghn": self.ghn.config.to_dict()}

    def set(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `facts` returned."""
        config = GHNConfig.from_dict(facts["ghn"])
        if config != self.ghn.config:
            with preserve_global_state():
                self.ghn = GHN(config).to(self.device)
        self.ghn.load_state_dict(under("ghn/", tensors))
        names = [name for name in self.ghn.condition.names if name in self.ghn.condition.frozen]
        self.anchor = OutputAnchor(self.ghn, self.graph, self.config.anchor)
        self.anchor.load_state_dict(under("anchor/", tensors), names)
