"""Training of hypernetworks: one loop, its settings, its checkpoints."""

from ghn.training.config import TrainConfig
from ghn.training.evaluate import Evaluation, NetworkScore, evaluate
from ghn.training.export import export
from ghn.training.loop import StepRecord, train
from ghn.training.targets import Target, TargetPool, make_target
from ghn.training.trainer import Trainer

__all__ = [
    "Evaluation",
    "NetworkScore",
    "StepRecord",
    "Target",
    "TargetPool",
    "TrainConfig",
    "Trainer",
    "evaluate",
    "export",
    "make_target",
    "train",
]
