from __future__ import annotations

import torch
from engine_helpers import FakeGHN
from torch import nn

from ghn.engine import predict_params


class Caching(nn.Module):
    """Keeps what it computed from its weight while it is evaluated, as timm's LeViT does."""

    def __init__(self):
        super().__init__()
        self.table = nn.Linear(4, 4)
        self.kept = {}

    def train(self, mode=True):
        if mode:
            self.kept.clear()
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return self.table(x)
        if x.device not in self.kept:
            self.kept[x.device] = self.table.weight.T.clone()
        return x @ self.kept[x.device] + self.table.bias


def test_what_a_module_computed_from_its_old_weights_is_forgotten():
    model = Caching().eval()
    x = torch.randn(2, 4)
    model(x)

    predict_params(model, x, checkpoint=FakeGHN())

    assert not model.training
    assert torch.equal(model(x), x @ model.table.weight.T + model.table.bias)
