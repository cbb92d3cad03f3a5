"""The training loop: emit the parameters of a few networks, run them on images, learn from that.

Gradients are taken in two stages: each network's loss with respect to its emitted parameters, one
network at a time, then all of these through the hypernetwork at once. Memory then holds one
network's activations, and a network whose loss is not finite is left out without harm.

All that a step draws follows from the seed and the step's number, so that a resumed run repeats the
uninterrupted one bit for bit.

Source: amortised training of GHN-2 and GHN-3 (arXiv 2110.13100, 2303.04143).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ghn.data import ImageData, augment, load_images, normalize
from ghn.engine.hypernet import GHN
from ghn.errors import ConfigError
from ghn.io import write_json, write_text
from ghn.rng import derive_seed, make_generator, preserve_global_state
from ghn.training.config import TrainConfig
from ghn.training.evaluate import evaluate
from ghn.training.state import load_state, newest, save_state
from ghn.training.targets import TargetPool

__all__ = ["StepRecord", "Trainer", "train"]

MOVABLE = {"out", "steps", "cooldown", "checkpoint_seconds"}  # by a resumed run


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """What one step gave.

    Attributes:
        step: Steps taken so far.
        loss: Mean cross-entropy over the step's networks, in nats; those skipped left out.
        accuracy: Mean accuracy on the step's images.
        skipped: Networks left out since the run began because something was not finite: their
            loss, its gradient, or the step's gradient in the hypernetwork.
        lr: Learning rate.
        networks_per_second: Since the last record.
        held_out: Mean accuracy on held-out networks by family, where this step measured it.
    """

    step: int
    loss: float
    accuracy: float
    skipped: int
    lr: float
    networks_per_second: float
    held_out: dict[str, float] | None = None


class Trainer:
    """One run: its hypernetwork, optimiser, averaged weights and counters.

    Args:
        config: Settings.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        with preserve_global_state():
            torch.manual_seed(derive_seed(config.seed, "init"))
            self.ghn = GHN(config.ghn)
        self.optimizer = torch.optim.AdamW(
            self.ghn.parameters(), lr=config.lr, weight_decay=config.weight_decay, foreach=True
        )
        self.average = {k: v.detach().clone() for k, v in self.ghn.named_parameters()}
        self.pool = TargetPool(config.families, config.shares, config.pool)
        self.step = 0
        self.skipped = 0
        self.seconds = 0.0

    def resume(self) -> bool:
        """Continue from the newest checkpoint of the run's folder, if there is one."""
        folder = newest(Path(self.config.out))
        if folder is None:
            return False
        rest = load_state(folder, self.ghn, self.optimizer, self.average)
        self.step, self.skipped = rest["step"], rest["skipped"]
        self.seconds = rest["seconds"]
        return True

    def save(self) -> Path:
        """Write a checkpoint."""
        rest = {
            "skipped": self.skipped,
            "seconds": self.seconds,
            "config": self.config.to_dict(),
        }
        out = Path(self.config.out)
        return save_state(out, self.step, self.ghn, self.optimizer, self.average, rest)

    def learning_rate(self) -> float:
        """Linear warm-up, constant, then a cosine to zero over the last steps."""
        config = self.config
        if self.step < config.warmup:
            return config.lr * (self.step + 1) / config.warmup
        falling = config.cooldown * max(config.steps - config.warmup, 1)
        done = 1.0 - (config.steps - self.step) / falling
        return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))

    def take_step(self, data: ImageData) -> tuple[float, float]:
        """Take one step; return the mean loss and accuracy of its networks."""
        config = self.config
        draws = make_generator(config.seed, "step", self.step)
        chosen = torch.randint(len(self.pool), (config.meta_batch,), generator=draws).tolist()
        index = torch.randint(len(data), (config.batch,), generator=draws)
        images = normalize(augment(data.images[index], draws))
        images = images.contiguous(memory_format=torch.channels_last)
        labels = data.labels[index]
        targets = [self.pool[i] for i in chosen]
        emitted = self.ghn([t.graph for t in targets])
        heads: list[Tensor] = []
        gradients: list[Tensor] = []
        losses, hits = [], []
        for target, parameters in zip(targets, emitted, strict=True):
            leaves = {k: v.detach().requires_grad_() for k, v in parameters.items()}
            logits = target.run(leaves, images)
            loss = F.cross_entropy(logits, labels)
            if not torch.isfinite(loss):
                self.skipped += 1
                continue
            found = torch.autograd.grad(loss / config.meta_batch, list(leaves.values()))
            if not all(torch.isfinite(g).all() for g in found):
                self.skipped += 1
                continue
            heads += parameters.values()
            gradients += found
            losses.append(loss.item())
            hits.append((logits.argmax(1) == labels).float().mean().item())
        if not self._update(heads, gradients):
            self.skipped += len(losses)
        count = max(len(losses), 1)
        return sum(losses) / count, sum(hits) / count

    def _update(self, heads: list[Tensor], gradients: list[Tensor]) -> bool:
        """Go through the hypernetwork and step; False if that gradient is not finite."""
        rate = self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        finite = True
        if heads:
            torch.autograd.backward(heads, gradients)
            norm = torch.nn.utils.clip_grad_norm_(self.ghn.parameters(), self.config.clip)
            # Clipping by a norm that is not finite would write nan into every weight.
            finite = bool(norm.isfinite())
            if finite:
                self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            # Early on the average follows closely, so that it is never the initial weights.
            decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
            weights = [p.detach() for p in self.ghn.parameters()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1.0 - decay)
        return finite

    def averaged(self) -> GHN:
        """Return a hypernetwork with the averaged weights, for evaluation and export."""
        with preserve_global_state():
            ghn = GHN(self.config.ghn)
        ghn.load_state_dict({**self.ghn.state_dict(), **self.average})
        return ghn.eval().requires_grad_(False)


def train(
    config: TrainConfig, progress: Callable[[StepRecord], None] = lambda record: None
) -> Trainer:
    """Train a hypernetwork, resuming what the run's folder holds.

    The folder receives `config.json`, `log.jsonl` (one record every 50 steps; what followed the
    checkpoint that a run resumes from is removed) and checkpoints.

    Args:
        config: Settings.
        progress: Called with each record.

    Returns:
        The trainer at its last step.

    Raises:
        ConfigError: If the folder holds a run with other settings.
        DataError: If the images cannot be found.
    """
    out = Path(config.out)
    _claim(out, config)
    data = load_images(config.data, config.split)
    trainer = Trainer(config)
    trainer.resume()
    path = out / "log.jsonl"
    _trim(path, trainer.step)
    with path.open("a", encoding="utf-8") as log:
        for record in _steps(trainer, data):
            log.write(json.dumps(dataclasses.asdict(record)) + "\n")
            log.flush()
            progress(record)
    return trainer


def _claim(out: Path, config: TrainConfig) -> None:
    """Write the settings; those of a run to be resumed must agree in all but their end."""
    path = out / "config.json"
    wanted: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = sorted(k for k in wanted.keys() - MOVABLE if found.get(k) != wanted[k])
        if changed:
            raise ConfigError(
                f"{out} holds a run with other settings ({', '.join(changed)}); choose another out "
                "folder, or remove this one"
            )
    write_json(path, wanted)


def _trim(log: Path, step: int) -> None:
    """Remove the records of steps that will be taken again, and a line cut short by a crash."""
    if not log.exists():
        return
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    complete = [line for line in lines if line.endswith("\n")]
    write_text(log, "".join(line for line in complete if json.loads(line)["step"] <= step))


def _steps(trainer: Trainer, data: ImageData, every: int = 50) -> Iterator[StepRecord]:
    """Take the remaining steps; yield a record every few, save every few minutes."""
    config = trainer.config
    losses: list[float] = []
    hits: list[float] = []
    saved = since = time.monotonic()
    while trainer.step < config.steps:
        began = time.monotonic()
        loss, hit = trainer.take_step(data)
        losses.append(loss)
        hits.append(hit)
        trainer.seconds += time.monotonic() - began
        last = trainer.step == config.steps
        if last or time.monotonic() - saved > config.checkpoint_seconds:
            trainer.save()
            saved = time.monotonic()
        taken = time.monotonic() - since
        held_out = None
        if config.eval_every and (last or trainer.step % config.eval_every == 0):
            held_out = evaluate(trainer.averaged(), config).by_family()
        if last or held_out is not None or len(losses) == every:
            yield StepRecord(
                step=trainer.step,
                loss=sum(losses) / len(losses),
                accuracy=sum(hits) / len(hits),
                skipped=trainer.skipped,
                lr=trainer.learning_rate(),
                networks_per_second=config.meta_batch * len(losses) / taken,
                held_out=held_out,
            )
            losses, hits, since = [], [], time.monotonic()
