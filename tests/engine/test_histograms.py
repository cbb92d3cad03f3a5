from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ghn.engine.histograms import PIECE, histogram, parameter_histograms


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def test_counts_and_moments_are_numpys():
    values = normal(50, 40)

    found = histogram(values, bins=20)

    counts, edges = np.histogram(values.double().numpy(), bins=20)
    assert found.counts == tuple(counts)
    assert (found.low, found.high) == (edges[0], edges[-1])
    assert found.mean == pytest.approx(values.double().mean().item())
    assert found.std == pytest.approx(values.double().std(correction=0).item())


def test_pieces_of_a_large_tensor_add_up():
    values = normal(2 * PIECE + 5)

    found = histogram(values)

    assert sum(found.counts) == values.numel()
    assert found.counts == tuple(np.histogram(values.double().numpy(), bins=len(found.counts))[0])


def test_equal_values_are_one_bin():
    found = histogram(torch.full((7,), 3.0))

    assert (found.low, found.high, found.mean, found.std) == (3.0, 3.0, 3.0, 0.0)
    assert found.counts == (7,)


def test_values_that_are_not_finite_are_left_out():
    found = histogram(torch.tensor([1.0, 2.0, torch.nan, torch.inf]))

    assert (found.low, found.high, sum(found.counts)) == (1.0, 2.0, 2)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.empty(0),
        torch.tensor([torch.nan]),
        torch.arange(3),
        torch.zeros(2, dtype=torch.complex64),
        torch.empty(3, device="meta"),
    ],
)
def test_without_finite_floating_point_values_there_is_none(tensor):
    assert histogram(tensor) is None


def test_half_precision_and_transposed_values_count_alike():
    values = normal(30, 20)

    assert histogram(values.T).counts == histogram(values).counts
    assert sum(histogram(values.bfloat16()).counts) == 600


def test_a_models_parameters_are_taken_once_and_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model.append(model[0])  # tied
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    found = parameter_histograms(model)

    assert list(found) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert found["1.weight"].counts == (4,)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
