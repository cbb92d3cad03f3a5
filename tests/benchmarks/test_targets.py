from __future__ import annotations

import pytest
import torch

from ghn.benchmarks.targets import TARGETS
from ghn.graphs import trace


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_tells_ten_classes_from_small_images(name):
    model = TARGETS[name][1]().eval()

    logits = model(torch.zeros(2, 3, 32, 32))

    assert logits.shape == (2, 10)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", TARGETS)
def test_every_parameter_of_a_target_is_traced(name):
    model = TARGETS[name][1]()

    graph = trace(model, torch.zeros(1, 3, 32, 32))

    assert graph.untouched == []
    assert list(graph.specs) == [n for n, _ in model.named_parameters()]


def test_one_target_is_from_timm_and_one_is_hand_written():
    homes = {type(build()).__module__.partition(".")[0] for _, build in TARGETS.values()}

    assert homes == {"timm", "ghn"}


def test_the_dense_network_keeps_what_earlier_layers_emitted():
    model = TARGETS["TinyDenseNet"][1]().eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    stem = model.stem(images)

    after = model.stages[0](stem)

    assert torch.equal(after[:, : stem.shape[1]], stem)
    assert after.shape[1] > stem.shape[1]
