"""One loop for all samplers: the likelihood of the data under each set of parameters, and a prior.

Shape letters used in this file:
    B: sets of parameters. M: networks of a prediction. N: training examples. b: of a batch.
    k: outputs of the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.config import Config
from ghn.engine.run import in_mode, run_batch
from ghn.errors import ConfigError
from ghn.methods.bayesian.metrics import moments
from ghn.methods.bayesian.samplers import Sampler
from ghn.rng import derive_seed, make_generator, preserve_global_state

__all__ = ["FitConfig", "fit", "predict"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    """Settings of `fit`.

    Attributes:
        steps: Adam steps.
        rate: Learning rate.
        prior: Precision of the prior: factor on the sampler's penalty, over twice the number of
            examples.
        draws: Sets of parameters in a step, for samplers that can choose.
        batch: Examples in a step.
        seed: Of batches, of draws and of dropout.
    """

    steps: int = 200
    rate: float = 3e-3
    prior: float = 0.1
    draws: int = 8
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.draws, self.batch) < 1 or not self.rate > 0 or self.prior < 0:
            raise ConfigError(
                f"sizes must be at least 1, rate above 0, prior not below, got {self}"
            )


def fit(
    sampler: Sampler,
    network: nn.Module,
    inputs: Float[Tensor, "N ..."],
    targets: Tensor,
    config: FitConfig,
    watch: Callable[[int], None] | None = None,
) -> None:
    """Train a sampler; the network itself is not changed.

    Args:
        sampler: Gives sets of the network's parameters.
        network: Emits logits `[b, k]`, or `[b, 2]`: means and logarithms of variances.
        inputs: All of them.
        targets: Classes, or numbers to be predicted, `[N]`.
        config: Settings.
        watch: Called after each step with the number of steps done.
    """
    order = make_generator(config.seed, "batches")
    noise = make_generator(config.seed, "draws")
    optimizer = torch.optim.Adam(
        [p for p in sampler.parameters() if p.requires_grad], lr=config.rate, fused=True
    )
    with preserve_global_state(), in_mode(network, training=True):
        torch.default_generator.manual_seed(derive_seed(config.seed, "dropout"))
        for step in range(config.steps):
            drawn = sampler.draw(config.draws, noise)
            sets = len(next(iter(drawn.parameters.values())))
            chosen = torch.randint(len(inputs), (sets, config.batch), generator=order)
            output = run_batch(network, drawn.parameters, inputs[chosen], shared=False)[0]
            losses = negative_log_likelihood(output, targets[chosen])
            if drawn.weights is not None:
                losses = losses * drawn.weights.gather(1, chosen)
            penalty = config.prior * drawn.penalty / (2 * len(inputs))
            optimizer.zero_grad()
            (losses.mean() + penalty).backward()
            optimizer.step()
            if watch is not None:
                watch(step + 1)


@torch.no_grad()
def predict(
    sampler: Sampler,
    network: nn.Module,
    inputs: Float[Tensor, "N ..."],
    count: int = 50,
    seed: int = 0,
) -> Float[Tensor, "M N k"]:
    """Return what each of several networks says.

    Args:
        sampler: Trained by `fit`.
        network: The network that it gives parameters of.
        inputs: What to predict for.
        count: Number of networks, where the sampler can choose.
        seed: Of draws and of dropout.
    """
    with preserve_global_state(), in_mode(network, training=sampler.drops_out):
        torch.default_generator.manual_seed(derive_seed(seed, "dropout at test"))
        drawn = sampler.draw(count, make_generator(seed, "draws at test"))
        return run_batch(network, drawn.parameters, inputs)[0]


def negative_log_likelihood(
    output: Float[Tensor, "B b k"], targets: Shaped[Tensor, "B b"]
) -> Float[Tensor, "B b"]:
    """Return the negative log-likelihood of each network's targets, up to a constant."""
    if targets.is_floating_point():
        mean, log_variance = moments(output)
        return 0.5 * (log_variance + (targets - mean).square() / log_variance.exp())
    losses = F.cross_entropy(output.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.unflatten(0, targets.shape)
