"""HyperCRL: model-based reinforcement learning, task after task, with one hypernetwork."""

from ghn.methods.hypercrl.acting import transitions_of
from ghn.methods.hypercrl.baselines import Coreset, FineTuning, FineTuningHeads, Joint, Separate
from ghn.methods.hypercrl.config import CoresetConfig, DynamicsConfig, HyperCRLConfig
from ghn.methods.hypercrl.environments import Spaces
from ghn.methods.hypercrl.learner import HyperCRL
from ghn.methods.hypercrl.loop import DynamicsLearner, DynamicsRecord
from ghn.methods.hypercrl.memory import Transitions
from ghn.methods.hypercrl.network import TaskDynamics
from ghn.methods.hypercrl.planner import CEM, CEMConfig
from ghn.methods.hypercrl.scenarios import SCENARIOS, Scenario
from ghn.methods.hypercrl.variants import Variant, check_variants, one_step_change

__all__ = [
    "CEM",
    "SCENARIOS",
    "CEMConfig",
    "Coreset",
    "CoresetConfig",
    "DynamicsConfig",
    "DynamicsLearner",
    "DynamicsRecord",
    "FineTuning",
    "FineTuningHeads",
    "HyperCRL",
    "HyperCRLConfig",
    "Joint",
    "Scenario",
    "Separate",
    "Spaces",
    "TaskDynamics",
    "Transitions",
    "Variant",
    "check_variants",
    "one_step_change",
    "transitions_of",
]
