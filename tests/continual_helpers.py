"""Toy tasks: noisy class prototypes whose components are permuted from task to task."""

from __future__ import annotations

import torch
from torch import nn

from ghn.methods.continual import EWC, ContinualLearner, FineTuning, Joint, Separate
from ghn.methods.continual.baselines import EWCConfig
from ghn.methods.continual.config import ContinualConfig, LoopConfig
from ghn.training.anchor import AnchorConfig

SIZE, CLASSES = 12, 4


def toy_task(number, count=96, seed=0):
    """Batches (inputs, labels) of a task; two tasks contradict each other in most components."""
    prototypes = torch.randn(CLASSES, SIZE, generator=torch.Generator().manual_seed(7)) * 2
    generator = torch.Generator().manual_seed(1000 * seed + number)
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(50 + number))
    labels = torch.arange(count) % CLASSES
    inputs = prototypes[labels] + 0.5 * torch.randn(count, SIZE, generator=generator)
    return list(zip(inputs[:, order].split(24), labels.split(24), strict=True))


def toy_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(SIZE, 4), nn.Tanh(), nn.Linear(4, CLASSES))


def toy_learner(name, model=None, **settings):
    """A learner by name, at a tiny size."""
    model = toy_model() if model is None else model
    steps = {"steps": settings.pop("steps", 60), "rate": settings.pop("rate", 0.02)}
    if name in ("recurrent", "chunked", "dense"):
        anchor = settings.pop("anchor", AnchorConfig(beta=1.0, reduction="paper"))
        sizes = {"dim": 8, "state": 16, "chunk": 40} if name != "dense" else {"dim": 8}
        config = ContinualConfig(decoder=name, anchor=anchor, **{**sizes, **settings}, **steps)
        return ContinualLearner(model, config=config)
    if name == "ewc":
        return EWC(model, EWCConfig(**steps, **settings))
    kinds = {"fine-tuning": FineTuning, "joint": Joint, "separate": Separate}
    return kinds[name](model, LoopConfig(**steps, **settings))


LEARNERS = ("recurrent", "chunked", "dense", "fine-tuning", "ewc", "joint", "separate")
