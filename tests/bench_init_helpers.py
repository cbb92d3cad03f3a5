"""A small benchmark of initializations, and networks that go wrong in it."""

from __future__ import annotations

from ghn.benchmarks.init import InitConfig

MODELS = ("vits:0:test", "convnets:1:test")

MODELS_FILE = """
import os, signal

import torch
from torch import nn

def frozen():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).requires_grad_(False)

def wrong():
    return nn.Sequential(nn.Conv2d(3, 10, 3))

def plain():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )

def normed():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )

def few():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))

def raising():
    return nn.Sequential(nn.Conv2d(1, 10, 3), nn.Flatten())

class Dying(nn.Linear):
    def forward(self, x):
        if torch.is_grad_enabled() and not x.is_meta:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x.flatten(1))

def dying():
    return Dying(3072, 10)
"""


def config(out, **changes) -> InitConfig:
    settings = {
        "models": MODELS,
        "data": "digits",
        "steps": 4,
        "batch": 8,
        "rates": (1e-3, 3e-3),
        "seeds": (1, 2),
        "scored": 40,
        "tests": 2,
        "jobs": 1,
        "source_steps": 2,
    }
    return InitConfig(out=str(out), **{**settings, **changes})
