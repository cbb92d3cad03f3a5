"""Continual learning: tasks one after another, without the data of earlier ones."""

from ghn.methods.continual.baselines import EWC, EWCConfig, FineTuning, Joint, Separate
from ghn.methods.continual.config import ContinualConfig, LoopConfig
from ghn.methods.continual.evaluate import evaluate, learn_sequence
from ghn.methods.continual.learner import ContinualLearner
from ghn.methods.continual.loop import TaskLearner, TaskRecord
from ghn.methods.continual.metrics import Metrics, metrics
from ghn.methods.continual.tasks import BENCHMARKS, Batches, Benchmark, TaskData, from_avalanche

__all__ = [
    "BENCHMARKS",
    "EWC",
    "Batches",
    "Benchmark",
    "ContinualConfig",
    "ContinualLearner",
    "EWCConfig",
    "FineTuning",
    "Joint",
    "LoopConfig",
    "Metrics",
    "Separate",
    "TaskData",
    "TaskLearner",
    "TaskRecord",
    "evaluate",
    "from_avalanche",
    "learn_sequence",
    "metrics",
]
