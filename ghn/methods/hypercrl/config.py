"""Settings of learners of dynamics.

Each scenario of `ghn.methods.hypercrl.scenarios` has settings over these defaults. The command
`ghn run hypercrl --scenario half-cheetah --methods dense`, with 4,000 random transitions and 500
steps, takes half a minute of a processor; the error of the first of three tasks grows by 1 %.
"""

from __future__ import annotations

import dataclasses

from ghn.errors import ConfigError
from ghn.methods.hypercrl.planner import CEMConfig
from ghn.methods.sequence import HypernetworkConfig, LoopConfig
from ghn.training.anchor import AnchorConfig

__all__ = ["DynamicsConfig", "HyperCRLConfig"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicsConfig(LoopConfig):
    """Settings that all learners of dynamics share.

    Attributes:
        steps: Adam steps on the first, random transitions of a task.
        rate: Learning rate.
        seed: Of initial weights, environments, actions and batches.
        hidden: Widths of the dynamics network's hidden layers.
        gaussian: Whether it predicts variances too, between bounds that it learns.
        members: Networks of an ensemble.
        decay: Weight of the sum of the squares of all of the network's parameters.
        batch: Transitions of a batch.
        clip: Largest norm of a gradient; 0: any.
        random: Transitions by random actions, at the beginning of a task.
        hold: Steps for which a random action is kept.
        rounds: How often, after that, the planner acts and the network is trained on.
        round_transitions: Transitions of each round.
        round_steps: Adam steps after each round.
        capacity: Most recent transitions of the task at hand that are kept.
        longest: Steps after which an episode is ended, if the environment does not end it before.
        normalise: Whose means and deviations scale inputs and outputs: `"task"`: each task's own;
            `"first"`: those of the first task, so that they say nothing of which task it is.
        planner: Settings of the planner where none is given.
    """

    steps: int = 1500
    rate: float = 3e-3
    hidden: tuple[int, ...] = (64, 64)
    gaussian: bool = False
    members: int = 1
    decay: float = 0.0
    batch: int = 128
    clip: float = 5.0
    random: int = 2000
    hold: int = 2
    rounds: int = 2
    round_transitions: int = 500
    round_steps: int = 500
    capacity: int = 10_000
    longest: int = 1000
    normalise: str = "task"
    planner: CEMConfig = dataclasses.field(default_factory=CEMConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        least = (*self.hidden, self.members, self.batch, self.random, self.hold)
        if min(*least, self.round_transitions, self.capacity, self.longest, self.round_steps) < 1:
            raise ConfigError(f"sizes and numbers of transitions must be at least 1, got {self}")
        if self.decay < 0 or self.clip < 0 or self.rounds < 0:
            raise ConfigError(f"decay, clip and rounds must be at least 0, got {self}")
        if self.normalise not in ("task", "first"):
            raise ConfigError(f"normalise must be 'task' or 'first', got {self.normalise!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperCRLConfig(HypernetworkConfig, DynamicsConfig):
    """Settings of `HyperCRL`: those of `DynamicsConfig` and of its hypernetwork.

    The anchor keeps one copy of the hypernetwork and looks at a few earlier tasks in each step, so
    that neither memory nor time grows with the number of tasks.
    """

    decoder: str = "dense"
    anchor: AnchorConfig = dataclasses.field(
        default_factory=lambda: AnchorConfig(memory="snapshot", subset=2)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_hypernetwork()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoresetConfig(DynamicsConfig):
    """Settings of `Coreset`.

    Attributes:
        kept: Transitions that are kept of each task, drawn at random.
    """

    kept: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kept < 1:
            raise ConfigError(f"kept must be at least 1, got {self.kept}")
