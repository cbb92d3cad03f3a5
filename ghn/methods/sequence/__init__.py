"""What methods that learn tasks one after another share: transactions, files, parameters."""

from ghn.methods.sequence.config import HypernetworkConfig, LoopConfig
from ghn.methods.sequence.hypernetwork import TaskHypernetwork
from ghn.methods.sequence.learner import SequenceLearner, TaskRecord
from ghn.methods.sequence.networks import SHARED, TaskNetworks

__all__ = [
    "SHARED",
    "HypernetworkConfig",
    "LoopConfig",
    "SequenceLearner",
    "TaskHypernetwork",
    "TaskNetworks",
    "TaskRecord",
]
