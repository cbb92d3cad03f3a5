"""Networks drawn from noise: a hypernetwork whose condition nobody chooses, and its uncertainty."""

from ghn.methods.bayesian.fit import FitConfig, fit, predict
from ghn.methods.bayesian.metrics import classification_metrics, regression_metrics
from ghn.methods.bayesian.samplers import DeepEnsemble, Dropout, NoiseHypernetwork, Sampler

__all__ = [
    "DeepEnsemble",
    "Dropout",
    "FitConfig",
    "NoiseHypernetwork",
    "Sampler",
    "classification_metrics",
    "fit",
    "predict",
    "regression_metrics",
]
