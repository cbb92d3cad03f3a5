"""Tasks in which one number decides what a network is to do; its weights are a function of it.

Losses are sums over an image's numbers, so that the best constant prediction, the mean image, loses
the data's total variance.

Source: the autoencoder whose hypernetwork reads the weight of its regulariser is a task of this
kind in arXiv 2304.07645 and its sources; data and sizes are ours.

Shape letters used in this file:
    G: conditions of a batch. b: images of each. D: numbers of an image. z: size of a code.
    N: images.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ghn.data import load_images
from ghn.registry import Registry

__all__ = ["SIDE", "TASKS", "ScalarTask", "images_of"]

SIDE = 8  # height and width of an image
CODE = 8  # numbers of a code
LOWEST, DECADES = -3.0, 3.0  # of the regulariser's weight
QUIETEST, LOUDEST = 0.03, 0.5  # noise, in units where pixels go from 0 to 1


class Autoencoder(nn.Module):
    """A variational autoencoder; its noise is an input, so that it is a function.

    Args:
        size: Numbers D of an image.
        hidden: Width of the layers between.
    """

    def __init__(self, size: int = 64, hidden: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(size, hidden), nn.ReLU())
        self.code = nn.Linear(hidden, 2 * CODE)
        self.decoder = nn.Sequential(nn.Linear(CODE, hidden), nn.ReLU(), nn.Linear(hidden, size))

    def forward(
        self, images: Float[Tensor, "b D"], noise: Float[Tensor, "b z"]
    ) -> tuple[Float[Tensor, "b D"], Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Return reconstructions, means and log-variances of codes."""
        mean, log_variance = self.code(self.encoder(images)).chunk(2, -1)
        log_variance = log_variance.clamp(-10.0, 10.0)
        return self.decoder(mean + noise * (0.5 * log_variance).exp()), mean, log_variance


def perceptron() -> nn.Module:
    """Return a network from images to images."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))


@dataclasses.dataclass(frozen=True)
class ScalarTask:
    """A network and what it is to do for a number g in [0, 1].

    Attributes:
        summary: What it is, in a line.
        data: Name of the data.
        network: Builds the network.
        noise: Numbers of noise for an image.
        inputs: From images, noise and g to the network's arguments; all have an axis G.
        loss: From the network's output, images and g to a loss for each g.
    """

    summary: str
    data: str
    network: Callable[[], nn.Module]
    noise: int
    inputs: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
    loss: Callable[[object, Tensor, Tensor], Tensor]


TASKS: Registry[ScalarTask] = Registry("task")
"""Tasks by name."""


@functools.lru_cache(maxsize=8)
def images_of(task: str, split: str) -> Float[Tensor, "N D"]:
    """Return the images of a task's data as vectors, with pixels in [0, 1]."""
    return load_images(TASKS[task].data, split, SIDE).images[:, 0].flatten(1).float() / 255


def _elbo(output: tuple[Tensor, Tensor, Tensor], images: Tensor, g: Tensor) -> Tensor:
    """Return squared error + 10 ** (3 g - 3) times the divergence from a standard normal code."""
    made, mean, log_variance = output
    error = (made - images).square().sum(-1).mean(-1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean(-1)
    return error + 10.0 ** (LOWEST + DECADES * g) * divergence


def _with_noise(images: Tensor, noise: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    size = QUIETEST * (LOUDEST / QUIETEST) ** g
    return (images + size[:, None, None] * noise,)


def _rotation_error(output: Tensor, images: Tensor, g: Tensor) -> Tensor:
    """Return the squared error of images that were to be rotated by a quarter turn times g."""
    pixels = torch.eye(SIDE * SIDE).reshape(1, SIDE * SIDE, SIDE, SIDE)
    angles = math.pi / 2 * g
    rows = (angles.cos(), -angles.sin(), angles.sin(), angles.cos())
    turns = F.pad(torch.stack(rows, -1).unflatten(-1, (2, 2)), (0, 1))
    size = [len(g), *pixels.shape[1:]]
    grid = F.affine_grid(turns, size, align_corners=False)
    matrices = F.grid_sample(pixels.expand(size), grid, align_corners=False).flatten(2)
    return (output - images @ matrices).square().sum(-1).mean(-1)


TASKS.register("beta-vae")(
    ScalarTask(
        summary="autoencoder of scikit-learn's 8 x 8 digits, 64-32-8-32-64; g sets the weight of "
        "the codes' divergence, from 0.001 to 1",
        data="digits",
        network=Autoencoder,
        noise=CODE,
        inputs=lambda images, noise, g: (images, noise),
        loss=_elbo,  # type: ignore[arg-type]
    )
)
TASKS.register("denoising")(
    ScalarTask(
        summary="denoiser of MNIST at 8 x 8, 64-32-64; g sets the noise, from 0.03 to 0.5",
        data="mnist",
        network=perceptron,
        noise=64,
        inputs=_with_noise,
        loss=lambda output, images, g: (output - images).square().sum(-1).mean(-1),  # type: ignore[operator]
    )
)
TASKS.register("rotation")(
    ScalarTask(
        summary="rotator of scikit-learn's 8 x 8 digits, 64-32-64; g sets the angle, from 0 to a "
        "quarter turn",
        data="digits",
        network=perceptron,
        noise=1,
        inputs=lambda images, noise, g: (images,),
        loss=_rotation_error,  # type: ignore[arg-type]
    )
)
