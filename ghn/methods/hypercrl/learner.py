"""The learner: one hypernetwork emits the dynamics network of each task from its embedding.

Source: Huang et al. 2021 (Continual model-based reinforcement learning with hypernetworks, arXiv
2009.11997).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ghn.engine.hypernet import GHN
from ghn.methods.hypercrl.config import HyperCRLConfig
from ghn.methods.hypercrl.environments import Environment, Spaces
from ghn.methods.hypercrl.loop import DynamicsLearner
from ghn.methods.hypercrl.memory import Transitions
from ghn.methods.sequence import TaskHypernetwork
from ghn.training.anchor import OutputAnchor

__all__ = ["HyperCRL"]


class HyperCRL(DynamicsLearner):
    """Learns the dynamics of tasks one after another without keeping their transitions.

    Args:
        env: Any environment with the tasks' spaces; only these are read.
        config: All settings; see `HyperCRLConfig`.

    Example:
        >>> learner = HyperCRL(env)                                        # doctest: +SKIP
        >>> learner.learn("weak motors", env, cost)                        # doctest: +SKIP
        >>> reached = learner.dynamics("weak motors")(states, actions)     # doctest: +SKIP
        >>> returns = learner.play("weak motors", env, cost, episodes=5)   # doctest: +SKIP
    """

    Config = HyperCRLConfig
    config: HyperCRLConfig

    def __init__(self, env: Environment | Spaces, config: HyperCRLConfig | None = None) -> None:
        config = config or HyperCRLConfig()
        super().__init__(env, config)
        self._source = TaskHypernetwork(self.graph, config, config.seed, torch.device("cpu"))

    @property
    def ghn(self) -> GHN:
        """The hypernetwork."""
        return self._source.ghn

    @property
    def anchor(self) -> OutputAnchor:
        """What holds the networks of earlier tasks."""
        return self._source.anchor

    def parameters_of(self, task: str) -> dict[str, Tensor]:
        """Return the parameters of a task's network by name, without gradients."""
        self.record(task)
        return self._source.parameters_of(task)

    def num_parameters(self) -> int:
        """Return the number of parameters of the hypernetwork, embeddings of tasks included."""
        return self._source.num_parameters()

    def _begin(self, task: str) -> None:
        super()._begin(task)
        self._source.add(task)

    def _trained(self, task: str) -> list[nn.Parameter]:
        return self._source.trained(task)

    def _backward(
        self, task: str, batch: list[tuple[str, Transitions]], optimizer: torch.optim.Optimizer
    ) -> float:
        [(_, data)] = batch

        def loss_of(parameters: dict[str, Tensor]) -> Float[Tensor, ""]:
            return self._loss(task, parameters, data)

        return self._source.backward(task, loss_of, optimizer)

    def _finish(self, task: str, data: Transitions) -> None:
        self._source.finish(task)

    def _tensors(self) -> dict[str, Tensor]:
        return {**super()._tensors(), **self._source.tensors()}

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), **self._source.facts()}

    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        super()._set(tensors, facts)
        self._source.set(tensors, facts)
