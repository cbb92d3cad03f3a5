import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from ghn.methods.bayesian import classification_metrics, regression_metrics
from ghn.methods.bayesian.metrics import reliability

G = torch.Generator().manual_seed(0)


def test_the_likelihood_of_a_regression_is_that_of_an_even_mixture():
    output, targets = torch.randn(3, 20, 2, generator=G), torch.randn(20, generator=G)
    mixture = MixtureSameFamily(
        Categorical(torch.ones(20, 3)),
        Normal(output[..., 0].T, (output[..., 1].T / 2).exp()),
    )

    found = regression_metrics(output, targets)

    assert found["nll"] == pytest.approx(-float(mixture.log_prob(targets).mean()), rel=1e-4)
    error = (output[..., 0].mean(0) - targets).square().mean().sqrt()
    assert found["score"] == pytest.approx(float(error))
    inside = mixture.cdf(targets).sub(0.5).abs() < 0.45
    assert found["coverage"] == pytest.approx(float(inside.float().mean()))


def test_true_predictions_are_calibrated_and_overconfident_ones_are_not():
    targets = 2.0 * torch.randn(4000, generator=G)
    honest = torch.stack([torch.zeros(4000), torch.full((4000,), 4.0).log()], -1)[None]
    certain = torch.zeros(1, 4000, 2)

    true, false = regression_metrics(honest, targets), regression_metrics(certain, targets)

    assert true["calibration"] < 0.02
    assert abs(true["coverage"] - 0.9) < 0.02
    assert false["calibration"] > 0.08
    assert false["coverage"] < 0.65
    assert all(abs(said - so) < 0.03 for said, so in reliability(honest, targets))


def test_calibration_of_classes_is_the_gap_between_confidence_and_accuracy():
    chances = torch.tensor([0.8, 0.2]).expand(1, 10, 2)
    labels = torch.tensor([0, 1] * 5)

    found = classification_metrics(chances.log(), labels)

    assert found["calibration"] == pytest.approx(0.3, abs=1e-5)
    assert found["score"] == 0.5
    assert found["brier"] == pytest.approx(0.5 * (2 * 0.2**2) + 0.5 * (2 * 0.8**2))
    expected = -0.5 * (torch.tensor(0.8).log() + torch.tensor(0.2).log())
    assert found["nll"] == pytest.approx(float(expected))
    assert reliability(chances.log(), labels) == [pytest.approx((0.8, 0.5))]


def test_probabilities_are_averaged_and_not_logits():
    logits = torch.tensor([[[10.0, 0.0]], [[0.0, 1.0]]])

    found = classification_metrics(logits, torch.tensor([0]))

    chance = logits.softmax(-1).mean(0)[0, 0]
    assert found["nll"] == pytest.approx(-float(chance.log()), rel=1e-5)
