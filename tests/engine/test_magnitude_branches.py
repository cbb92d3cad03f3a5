"""Sizes of what ends a residual branch."""

import math

import pytest
import torch
from engine_helpers import Residual
from torch import nn

from ghn.engine.magnitude import Rule, magnitude_rules
from ghn.graphs import trace

IMAGES = torch.empty(1, 3, 8, 8)


def test_the_end_of_a_residual_branch_shrinks_with_the_number_of_branches():
    def chain(depth):
        blocks = [Residual(nn.Sequential(nn.Linear(6, 6))) for _ in range(depth)]
        return trace(nn.Sequential(nn.Linear(3, 6), *blocks, nn.Linear(6, 2)), torch.empty(1, 3))

    shallow, deep = magnitude_rules(chain(1)), magnitude_rules(chain(4))

    assert deep["4.branch.0.weight"].size == pytest.approx(shallow["1.branch.0.weight"].size / 2)
    assert deep["0.weight"] == shallow["0.weight"]
    assert magnitude_rules(chain(100))["100.branch.0.weight"].size == pytest.approx(
        shallow["1.branch.0.weight"].size / math.sqrt(14)
    )
    assert deep["4.branch.0.bias"] == shallow["1.branch.0.bias"]


def test_gains_of_layer_norms_that_end_branches_shrink_until_the_branches_add_up_to_two():
    def gain(depth):
        blocks = [Residual(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6))) for _ in range(depth)]
        graph = trace(nn.Sequential(nn.Linear(3, 6), *blocks, nn.Linear(6, 2)), torch.empty(1, 3))
        return magnitude_rules(graph)["1.branch.1.weight"].size

    assert gain(1) == 1.0
    assert gain(10) == pytest.approx(0.2)
    assert gain(100) == pytest.approx(0.15)


def test_a_depthwise_convolution_that_is_a_whole_branch_is_not_shrunk():
    position = Residual(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16)))
    body = nn.Sequential(nn.Conv2d(3, 16, 3), position, nn.GroupNorm(1, 16))
    rules = magnitude_rules(trace(nn.Sequential(body, nn.Conv2d(16, 2, 1)), IMAGES))

    assert rules["0.1.branch.0.weight"].size == pytest.approx(math.sqrt(0.4 / 9))


def test_a_layer_scale_is_tiny_where_only_a_batch_norm_reads_the_sum():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.gamma = nn.Conv2d(8, 8, 1), nn.Parameter(torch.ones(8, 1, 1))
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x):
            return self.norm(x + self.gamma * self.conv(x))

    model = nn.Sequential(nn.Conv2d(3, 8, 3), Scaled(), nn.Conv2d(8, 2, 1))
    rules = magnitude_rules(trace(model, IMAGES))

    assert rules["1.gamma"] == Rule("factor", 3e-6)


def test_branches_that_start_with_a_layer_norm_need_no_shrinking():
    def chain(depth):
        blocks = [Residual(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6))) for _ in range(depth)]
        return trace(nn.Sequential(nn.Linear(3, 6), *blocks, nn.Linear(6, 2)), torch.empty(1, 3))

    shallow, deep = magnitude_rules(chain(1)), magnitude_rules(chain(16))

    assert deep["16.branch.1.weight"] == shallow["1.branch.1.weight"]
