"""Train a small run in a process of its own: `python run_steps.py OUT STEPS [OPTIONS]`.

`--sick` makes the loss of one network of the pool nan; `--worker` prepares batches in another
process; `--apart` gives each of several processes a folder of its own.
"""

import dataclasses
import os
import sys

import torch

import ghn.training.trainer as trainer
from ghn.decoders import LowRankDecoderConfig
from ghn.encoders import GraphormerConfig
from ghn.engine import GHNConfig
from ghn.training import TrainConfig, train


def small(out: str, steps: int, workers: int) -> TrainConfig:
    ghn = GHNConfig(
        encoder=GraphormerConfig(dim=16, layers=1, heads=2),
        decoder=LowRankDecoderConfig(dim=16, hidden=16, rank=8, kernel_basis=3, rows=64),
    )
    return TrainConfig(
        out=out, data="digits", pool=4, shares=(0.5, 0.5), steps=steps, meta_batch=4, batch=8,
        warmup=5, ema=0.9, eval_every=0, checkpoint_seconds=0.0, tracker="none", ghn=ghn,
        workers=workers,
    )  # fmt: skip


def make_one_sick() -> None:
    take = trainer.TargetPool.__getitem__

    def broken(pool, index):
        target = take(pool, index)
        if index != 1:
            return target
        target = dataclasses.replace(target)
        target.run = lambda parameters, inputs: (
            torch.full((len(inputs), 10), float("nan")) * sum(p.sum() for p in parameters.values())
        )
        return target

    trainer.TargetPool.__getitem__ = broken


def main(out: str, steps: str, *options: str) -> None:
    torch.set_num_threads(1)
    if "--sick" in options:
        make_one_sick()
    if "--apart" in options:
        out = f"{out}-{os.environ['RANK']}"
    train(small(out, int(steps), workers=int("--worker" in options)))


if __name__ == "__main__":
    main(*sys.argv[1:])
