from __future__ import annotations

import pytest
import torch
from engine_helpers import FakeGHN
from torch import Tensor, nn

from ghn.engine import predict_params

X = torch.zeros(2, 3, 8, 8)
NORMS = {
    "parametrized": nn.utils.parametrizations.spectral_norm,
    "by hook": nn.utils.spectral_norm,
}


class Scaled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 3.0 * weight


def make(norm):
    convolution = norm(nn.Conv2d(3, 8, 3))
    head = norm(nn.Linear(8, 4))
    return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def largest_singular_value(layer, x):
    layer(x)  # a hook makes the weight as the layer runs
    return torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2).item()


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("training", [False, True])
def test_a_predicted_weight_has_the_spectral_norm_that_its_layer_promises(kind, training):
    model = make(NORMS[kind]).train(training)

    predict_params(model, X, checkpoint=FakeGHN())

    assert all(module.training == training for module in model.modules())
    model.eval()
    assert largest_singular_value(model[0], X) == pytest.approx(1.0, rel=0.05)
    assert largest_singular_value(model[3], torch.zeros(1, 8)) == pytest.approx(1.0, rel=0.05)


def test_a_spectral_norm_of_a_weight_that_is_parametrized_before_fits_too():
    layer = nn.Linear(8, 4)
    nn.utils.parametrize.register_parametrization(layer, "weight", Scaled())
    layer = nn.utils.parametrizations.spectral_norm(layer).eval()

    predict_params(layer, torch.zeros(1, 8), checkpoint=FakeGHN())

    assert largest_singular_value(layer, torch.zeros(1, 8)) == pytest.approx(1.0, rel=0.05)


def test_norms_of_weights_that_are_kept_stay():
    model = make(NORMS["parametrized"])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}

    predict_params(model, X, checkpoint=FakeGHN(), generate="0.*")

    changed = {n for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    assert changed == {f"0.parametrizations.weight.0._{end}" for end in "uv"}


def test_a_model_on_meta_gets_vectors_that_fit():
    with torch.device("meta"):
        model = make(NORMS["parametrized"])

    predict_params(
        model, X, checkpoint=FakeGHN(), build=lambda: make(NORMS["parametrized"]), seed=0
    )

    assert largest_singular_value(model[0], X) == pytest.approx(1.0, rel=0.05)


def test_a_norm_that_cannot_be_fitted_leaves_the_model_as_it_was(monkeypatch):
    model = make(NORMS["parametrized"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    norm = model[3].parametrizations.weight[0]

    def fail(*args):
        raise RuntimeError("no")

    monkeypatch.setattr(type(norm), "_power_method", fail)
    with pytest.raises(RuntimeError, match="no"):
        predict_params(model, X, checkpoint=FakeGHN())

    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
