"""A hypernetwork small enough to train in tests, and what tests do with its runs."""

from ghn.decoders import LowRankDecoderConfig
from ghn.encoders import GraphormerConfig
from ghn.engine import GHNConfig
from ghn.training.tasks import Batches

SMALL = GHNConfig(
    encoder=GraphormerConfig(dim=16, layers=1, heads=2),
    decoder=LowRankDecoderConfig(dim=16, hidden=16, rank=8, kernel_basis=3, rows=64),
)


def step(trainer):
    """Take the next step on the run's own batch."""
    return trainer.take_step(*Batches(trainer.task, trainer.config)[trainer.step])


def state(trainer):
    return {**trainer.ghn.state_dict(), **{f"ema/{k}": v for k, v in trainer.average.items()}}
