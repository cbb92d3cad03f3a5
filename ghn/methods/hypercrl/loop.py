"""What all learners of dynamics have in common: random actions, then planned ones, task by task.

A task begins with random actions. Then the planner acts with what was learned so far, and the
network is trained on, some rounds long. Only the most recent transitions of the task at hand are
kept, and none once it is learned. Transactions and files are those of `ghn.methods.sequence`.

Source: Huang et al. 2021 (HyperCRL, arXiv 2009.11997), as its code does it.

Shape letters used in this file:
    n: transitions. s: numbers of a state. a: numbers of an action. m: members. o: outputs.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.func import functional_call

from ghn.errors import ConfigError, InputError
from ghn.graphs import trace
from ghn.methods import sequence
from ghn.methods.hypercrl.acting import Diary, random_actions
from ghn.methods.hypercrl.config import DynamicsConfig
from ghn.methods.hypercrl.environments import Environment, Spaces, Transition, steps_of
from ghn.methods.hypercrl.memory import Recent, Transitions
from ghn.methods.hypercrl.network import (
    LEAST,
    DynamicsNetwork,
    TaskDynamics,
    first_bounds,
    misfit,
    scaled,
    units_of,
)
from ghn.methods.hypercrl.planner import CEM, Cost, Dynamics, Planner
from ghn.methods.sequence.learner import under
from ghn.rng import derive_seed, make_generator, preserve_global_state

__all__ = ["DynamicsLearner", "DynamicsRecord"]

L = TypeVar("L", bound="DynamicsLearner")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicsRecord(sequence.TaskRecord):
    """What is known of a task: what every learner keeps, and what its parts took.

    Attributes:
        transitions: How many were made.
        phases: Seconds of the processor by what they were spent on: `"random"` actions,
            `"planned"` actions, `"fitting"`.
        returns: Sums of rewards of the episodes that the planner finished while learning.
    """

    transitions: int = 0
    phases: dict[str, float] = dataclasses.field(default_factory=dict)
    returns: tuple[float, ...] = ()


class DynamicsLearner(sequence.SequenceLearner[DynamicsRecord]):
    """Learns how environments move, one after another; subclasses say what tasks share.

    Args:
        env: Any environment with the tasks' spaces; only these are read.
        config: See `DynamicsConfig`.
    """

    Config = DynamicsConfig
    Record = DynamicsRecord
    config: DynamicsConfig

    def __init__(self, env: Environment | Spaces, config: DynamicsConfig) -> None:
        super().__init__(config)
        self.spaces = env if isinstance(env, Spaces) else Spaces.of(env)
        states, actions = self.spaces.states, self.spaces.actions
        outputs = states * (2 if config.gaussian else 1)
        with preserve_global_state(config.seed):
            self.network = DynamicsNetwork(states + actions, outputs, config.hidden, config.members)
        self.graph = trace(self.network, torch.empty(config.members, 2, states + actions))
        self._units: dict[str, dict[str, Tensor]] = {}
        self._bounds: dict[str, nn.Parameter] = {}

    def learn(
        self,
        task: str,
        env: Environment,
        cost: Cost | None = None,
        *,
        planner: Planner | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> DynamicsRecord:
        """Learn a task; on any error the learner is as it was.

        Args:
            task: A new name.
            env: An environment with the spaces of the first one.
            cost: What the planner minimises, from the states that are reached, [n, s], and the
                actions, [n, a], to [n]. Not needed if `config.rounds` is 0.
            planner: Acts in place of `CEM`; see `ghn.methods.hypercrl.planner.Planner`.
            progress: Called with steps done and steps in all.

        Raises:
            ConfigError: If the name is taken, the spaces differ, or there is no cost.
            InputError: If the environment or the planner give what cannot be used.
        """
        self.spaces.check(env)
        if cost is None and self.config.rounds:
            raise ConfigError(
                f"rounds={self.config.rounds} needs cost=, which the planner minimises; with "
                "rounds=0 random actions are all there is"
            )
        tell = progress or (lambda done, total: None)

        def work() -> list[float]:
            with preserve_global_state(derive_seed(self.config.seed, "learn", task)):
                return self._learn(task, env, cost, planner, tell)

        return self._learn_new(DynamicsRecord(name=task), work)

    def _learn(
        self,
        task: str,
        env: Environment,
        cost: Cost | None,
        planner: Planner | None,
        progress: Callable[[int, int], None],
    ) -> list[float]:
        config = self.config
        self._begin(task)
        optimizer = self._optimizer(task)
        recent, diary = Recent(config.capacity), Diary()
        losses: list[float] = []
        total = config.steps + config.rounds * config.round_steps
        planner = planner or self.planner("learn", task)
        for number in range(config.rounds + 1):
            if cost is None or number == 0:
                with diary.timed("random"):
                    self._explore(task, env, recent, diary)
            else:
                with diary.timed("planned"):
                    self._act(task, env, number, recent, diary, planner, cost)
            with diary.timed("fitting"):
                data = recent.all()
                self._measure(task, data)
                steps = config.round_steps if number else config.steps
                batches = self._batches(task, data, self._generator("batch", task, number))
                for batch in itertools.islice(batches, steps):
                    losses.append(self._step(task, batch, optimizer))
                    progress(len(losses), total)
        if config.gaussian:
            self._bounds[task].requires_grad_(False)
        self._finish(task, data)
        self.tasks[task] = dataclasses.replace(
            self.tasks[task],
            transitions=diary.transitions,
            phases=diary.phases,
            returns=tuple(diary.returns),
        )
        return losses

    def _explore(self, task: str, env: Environment, recent: Recent, diary: Diary) -> None:
        """Make the first transitions of a task, by random actions."""
        config = self.config
        act = random_actions(self.spaces, config.hold, self._generator("act", task))
        seed = derive_seed(config.seed, "env", task, 0)
        steps = steps_of(env, act, self.spaces, longest=config.longest, seed=seed)
        for step in itertools.islice(steps, config.random):
            recent.add(step)
        diary.transitions += config.random

    def _act(
        self,
        task: str,
        env: Environment,
        number: int,
        recent: Recent,
        diary: Diary,
        planner: Planner,
        cost: Cost,
    ) -> None:
        """Make the transitions of a round, by the planner."""
        seed = derive_seed(self.config.seed, "env", task, number)
        gained = 0.0
        steps = self._planned_steps(task, env, planner, cost, seed)
        for step in itertools.islice(steps, self.config.round_transitions):
            recent.add(step)
            gained = step.reward + (0.0 if step.first else gained)
            if step.last:
                diary.returns.append(gained)
        diary.transitions += self.config.round_transitions

    def _planned_steps(
        self, task: str, env: Environment, planner: Planner, cost: Cost, seed: int
    ) -> Iterator[Transition]:
        """Step through episodes in which the planner acts by the task's dynamics as it is now."""
        dynamics: Dynamics = self.dynamics(task)

        def act(state: Float32[Tensor, " s"]) -> Float32[Tensor, " a"]:
            with torch.no_grad():
                return planner(dynamics, cost, state)

        begin = getattr(planner, "reset", lambda: None)
        longest = self.config.longest
        return steps_of(env, act, self.spaces, longest=longest, seed=seed, begin=begin)

    def _optimizer(self, task: str) -> torch.optim.Optimizer:
        own = [self._bounds[task]] if self.config.gaussian else []
        trained = [*self._trained(task), *own]
        return torch.optim.Adam(trained, lr=self.config.rate, fused=True)

    def _step(
        self, task: str, batch: list[tuple[str, Transitions]], optimizer: torch.optim.Optimizer
    ) -> float:
        optimizer.zero_grad()
        loss = self._backward(task, batch, optimizer)
        if not math.isfinite(loss):
            raise InputError(f"the loss of task {task!r} is not finite; try a smaller rate")
        if self.config.clip:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.config.clip)
        optimizer.step()
        return loss

    def _measure(self, task: str, data: Transitions) -> None:
        """Set the units of a task."""
        first = next(iter(self._units), task)
        if self.config.normalise == "task" or first == task:
            self._units[task] = units_of(data.inputs, data.changes)
        else:
            self._units[task] = self._units[first]

    def _batches(
        self, task: str, data: Transitions, generator: torch.Generator
    ) -> Iterator[list[tuple[str, Transitions]]]:
        """Yield batches without end: for each task in them its name and its transitions.

        Each member of an ensemble has transitions of its own.
        """
        while True:
            yield [(task, data.batch(self.config.batch * self.config.members, generator))]

    @abc.abstractmethod
    def _begin(self, task: str) -> None:
        """Make room for a task."""
        self._bounds[task] = nn.Parameter(first_bounds(self.spaces.states))

    @abc.abstractmethod
    def _trained(self, task: str) -> list[nn.Parameter]:
        """Return what the optimiser of a task changes."""

    @abc.abstractmethod
    def _backward(
        self, task: str, batch: list[tuple[str, Transitions]], optimizer: torch.optim.Optimizer
    ) -> float:
        """Add the gradients of a batch; return its loss."""

    def _finish(self, task: str, data: Transitions) -> None:
        """Do what is to be done once a task is learned; `data` is gone after that."""

    @abc.abstractmethod
    def parameters_of(self, task: str) -> dict[str, Tensor]:
        """Return the parameters of a task's network by name, without gradients."""

    def _loss(
        self, task: str, parameters: dict[str, Tensor], data: Transitions
    ) -> Float[Tensor, ""]:
        """Return the loss of one task's transitions under given parameters."""
        units, members = self._units[task], self.config.members
        inputs = scaled(data.inputs, units, "input").unflatten(0, (members, -1))
        wanted = scaled(data.changes, units, "change").unflatten(0, (members, -1))
        outputs = functional_call(self.network, parameters, (inputs,))
        moves = units["change_std"] > LEAST
        bounds = self._bounds[task] if self.config.gaussian else None
        loss = misfit(outputs, wanted, moves, bounds)
        if self.config.decay:
            # Of all tensors; HyperCRL's code overwrites the sum, so that the last one alone counts.
            loss = loss + self.config.decay * sum(p.square().sum() for p in parameters.values())
        return loss

    def dynamics(self, task: str) -> TaskDynamics:
        """Return a task's dynamics as a module in its own right, without the learner.

        Raises:
            UnknownNameError: If the task was never learned.
        """
        self.record(task)
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.parameters_of(task))
        bounds = self._bounds[task].detach().clone() if self.config.gaussian else None
        return TaskDynamics(network, self._units[task], bounds)

    @torch.no_grad()
    def error(self, task: str, data: Transitions) -> float:
        """Return the share of the variance of changes that is not explained.

        It is the mean over the numbers of a state of the mean squared error over the variance, both
        of the given transitions; numbers that never change are left out.
        """
        missed = self.dynamics(task)(data.states, data.actions) - data.reached
        variance = data.changes.var(0, correction=0)
        moves = variance > LEAST**2
        return (missed.square().mean(0)[moves] / variance[moves]).mean().item()

    def planner(self, *labels: str) -> Planner:
        """Return a planner with the learner's settings; labels tell its draws from others'."""
        low, high = self.spaces.bounds
        return CEM(low, high, self.config.planner, self._generator("planner", *labels))

    def play(
        self,
        task: str,
        env: Environment,
        cost: Cost,
        *,
        episodes: int = 1,
        seed: int = 0,
        planner: Planner | None = None,
        watch: Callable[[Float32[Tensor, " s"]], None] | None = None,
    ) -> list[float]:
        """Let the planner act in a learned task; return the sum of rewards of each episode.

        Args:
            task: Whose dynamics to plan with.
            env: Where to act.
            cost: What to minimise.
            episodes: How many.
            seed: Of the environment's starts.
            planner: In place of `CEM`.
            watch: Called with each state that is reached.

        Raises:
            UnknownNameError: If the task was never learned.
            InputError: If the environment or the planner give what cannot be used.
        """
        self.spaces.check(env)
        planner = planner or self.planner("play", task)
        returns: list[float] = []
        gained = 0.0
        for step in self._planned_steps(task, env, planner, cost, seed):
            if watch is not None:
                watch(step.reached)
            gained += step.reward
            if step.last:
                returns.append(gained)
                gained = 0.0
            if len(returns) == episodes:
                break
        return returns

    def _generator(self, *labels: str | int) -> torch.Generator:
        return make_generator(self.config.seed, *labels)

    def bytes_held(self) -> int:
        """Return the bytes of everything that the learner keeps between tasks."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for place, task in enumerate(self.tasks):
            if task in self._units:
                tensors |= {f"units/{place}/{k}": v for k, v in self._units[task].items()}
            if self.config.gaussian and task in self._bounds:
                tensors[f"bounds/{place}"] = self._bounds[task]
        return tensors

    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        names = list(self.tasks)
        self._units = {n: under(f"units/{i}/", tensors) for i, n in enumerate(names)}
        self._bounds = {
            n: nn.Parameter(tensors[f"bounds/{i}"], requires_grad=False)
            for i, n in enumerate(names)
            if f"bounds/{i}" in tensors
        }

    def _header(self) -> dict[str, Any]:
        return {"spaces": dataclasses.asdict(self.spaces)}

    @classmethod
    def load(cls: type[L], path: str | Path) -> tuple[L, dict[str, Any]]:
        """Read a learner that `save` wrote; return it and the notes that were saved with it.

        Raises:
            CheckpointError: If the file is damaged or foreign.
        """
        tensors, header = cls._read(path)
        found = header["spaces"]
        spaces = Spaces(found["states"], tuple(found["low"]), tuple(found["high"]))
        learner = cls(spaces, cls.Config.from_dict(header["config"]))
        learner.restore(tensors, header["facts"])
        return learner, header["notes"]
