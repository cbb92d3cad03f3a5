"""NeuMeta: families of networks of any size, whose weights a field over places emits."""

from ghn.methods.neumeta.baselines import Slimmable, fresh, strongest_first, tune
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.depths import Run
from ghn.methods.neumeta.family import ExperimentalWarning, Family
from ghn.methods.neumeta.fit import Fitted
from ghn.methods.neumeta.groups import Group, SizeWarning
from ghn.methods.neumeta.structures import Structure, Structures

__all__ = [
    "ExperimentalWarning",
    "Family",
    "FamilyConfig",
    "Fitted",
    "Group",
    "Run",
    "SizeWarning",
    "Slimmable",
    "Structure",
    "Structures",
    "fresh",
    "strongest_first",
    "tune",
]
