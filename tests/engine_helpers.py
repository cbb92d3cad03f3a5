"""A hypernetwork without weights, and photographs of models, for tests of predictions."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import nn

from ghn.engine.support import Support
from ghn.kernels import Dense, Layout, LowRank
from ghn.rng import make_generator


class FakeGHN(nn.Module):
    """Emits seeded noise of a sensible size: rank 3 for matrices, dense for the rest.

    Args:
        support: What it claims to be trained for; everything by default.
        spoil: Parameter name to a number that all of its elements shall have.
    """

    decoder_name = "fake"

    def __init__(self, support=None, spoil=None):
        super().__init__()
        self.config = SimpleNamespace(support=support or Support())
        self.spoil = spoil or {}
        self.asked = []

    def recipes(self, graphs, *, select=None):
        return [
            {s.name: self.recipe(s) for s in g.specs.values() if select is None or select(g, s)}
            for g in graphs
        ]

    def recipe(self, spec):
        self.asked.append(spec.name)
        layout = Layout(spec.shape, spec.axes)
        if spec.name in self.spoil:
            return Dense(torch.full(spec.shape, float(self.spoil[spec.name])), layout)
        generator = make_generator(0, spec.name)
        if len(spec.shape) < 2:
            offset = 1.0 if spec.role == "gain" else 0.0
            return Dense(offset + 0.1 * torch.randn(spec.shape, generator=generator), layout)
        size = 1 / math.sqrt(3 * max(spec.fan_in, 1))
        left = torch.randn(layout.rows, 3, generator=generator) * size
        right = torch.randn(3, layout.cols * layout.kernel, generator=generator)
        return LowRank(left, right, layout)


class Small(nn.Module):
    """A convolution, BatchNorm, dropout, a linear layer, and a parameter that nothing reads."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 5)
        self.unused = nn.Parameter(torch.arange(4.0))

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


def bits(tensor):
    """The bytes of a tensor, so that NaN equals NaN and 0.0 differs from -0.0."""
    if tensor.is_meta or tensor.layout is not torch.strided or nn.parameter.is_lazy(tensor):
        return None
    return tensor.detach().clone().contiguous().reshape(-1).view(torch.uint8).tolist()


def photograph(model):
    """Everything about a model that a failed call must not change."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "objects": [(name, id(t)) for name, t in tensors],
        "values": [(name, t.dtype, str(t.device), bits(t)) for name, t in tensors],
        "flags": [(name, t.requires_grad) for name, t in tensors],
        "modes": [(name, m.training) for name, m in model.named_modules()],
        "attributes": [
            (n, {k: id(v) for k, v in m.__dict__.items()}) for n, m in model.named_modules()
        ],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
    }


class Residual(nn.Module):
    """A branch beside its input."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return x + self.branch(x)
