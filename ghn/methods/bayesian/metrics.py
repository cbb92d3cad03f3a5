"""How good predictions are, and how far what they say of themselves is true.

Shape letters used in this file:
    M: networks. N: examples. k: classes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

__all__ = ["classification_metrics", "moments", "regression_metrics", "reliability"]

BINS = 10
LEAST, MOST = -6.0, 6.0  # logarithm of a variance
LEVELS = [i / 20 for i in range(1, 20)]


def moments(
    output: Float[Tensor, "M N 2"],
) -> tuple[Float[Tensor, "M N"], Float[Tensor, "M N"]]:
    """Return means, and logarithms of variances within bounds, of what networks emit."""
    return output[..., 0], output[..., 1].clamp(LEAST, MOST)


def classification_metrics(
    logits: Float[Tensor, "M N k"], labels: Int64[Tensor, " N"]
) -> dict[str, float]:
    """Return metrics of the mean of several networks' probabilities.

    Returns:
        `nll`: mean negative log-likelihood, in nats. `score`: share of right classes. `brier`: mean
        squared distance of probabilities to the class, summed over classes. `calibration`: expected
        calibration error, the mean over examples of |confidence - accuracy| of their bin among 10.
    """
    chances = logits.softmax(-1).mean(0)
    confidence, guesses = chances.max(1)
    right = (guesses == labels).float()
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    gaps = [
        (confidence[bins == b].mean() - right[bins == b].mean()).abs() * (bins == b).sum()
        for b in bins.unique().tolist()
    ]
    truth = F.one_hot(labels, chances.shape[1])
    return {
        "nll": float(F.nll_loss(chances.clamp_min(1e-12).log(), labels)),
        "score": float(right.mean()),
        "brier": float((chances - truth).square().sum(1).mean()),
        "calibration": float(torch.stack(gaps).sum() / len(labels)),
    }


def regression_metrics(
    output: Float[Tensor, "M N 2"], targets: Float[Tensor, " N"]
) -> dict[str, float]:
    """Return metrics of an even mixture of normal distributions, one a network.

    Args:
        output: Means and logarithms of variances.
        targets: What was to be predicted.

    Returns:
        `nll`: mean negative log-density, in nats. `score`: root mean squared error of the mean.
        `coverage`: share of targets in the central 90 %. `calibration`: mean over levels 0.05,
        0.10, ..., 0.95 of |share of targets below the predicted quantile - level|.
    """
    mean, log_variance = moments(output)
    log_density = -0.5 * (
        math.log(2 * math.pi) + log_variance + (targets - mean).square() / log_variance.exp()
    )
    mixture = log_density.logsumexp(0) - math.log(len(output))
    places = _places(output, targets)
    gaps = [abs(float((places <= level).float().mean()) - level) for level in LEVELS]
    return {
        "nll": float(-mixture.mean()),
        "score": float((mean.mean(0) - targets).square().mean().sqrt()),
        "coverage": float(((places > 0.05) & (places < 0.95)).float().mean()),
        "calibration": sum(gaps) / len(gaps),
    }


def reliability(output: Tensor, targets: Tensor) -> list[tuple[float, float]]:
    """Return pairs (what is said, what is so), which are equal where predictions are calibrated.

    For classes: mean confidence and accuracy of each bin. For numbers: a level, and the share of
    targets below the predicted quantile.
    """
    if targets.is_floating_point():
        places = _places(output, targets)
        return [(level, float((places <= level).float().mean())) for level in LEVELS]
    confidence, guesses = output.softmax(-1).mean(0).max(1)
    bins = (confidence * BINS).long().clamp_max(BINS - 1)
    pairs = []
    for number in bins.unique().tolist():
        inside = bins == number
        right = (guesses[inside] == targets[inside]).float().mean()
        pairs.append((float(confidence[inside].mean()), float(right)))
    return pairs


def _places(output: Float[Tensor, "M N 2"], targets: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the mixture's distribution function at the targets."""
    mean, log_variance = moments(output)
    return torch.special.ndtr((targets - mean) / (0.5 * log_variance).exp()).mean(0)
