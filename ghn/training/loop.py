"""The training loop: emit the parameters of a few networks, run them on data, learn from that.

Gradients are taken in two stages: each network's loss with respect to its emitted parameters, one
network at a time, then all of these through the hypernetwork at once. Memory then holds one
network's activations, and a network whose loss is not finite is left out without harm.

All that a step draws follows from the seed and the step's number, so that a resumed run repeats the
uninterrupted one bit for bit. Several processes share the networks of a step: each takes its part,
and gradients are summed.

Source: amortised training of GHN-2 and GHN-3 (arXiv 2110.13100, 2303.04143).
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ghn.engine.hypernet import GHN
from ghn.errors import CheckpointError, ConfigError
from ghn.io import sole_writer, write_json, write_text
from ghn.rng import make_generator, preserve_global_state
from ghn.training.config import TrainConfig
from ghn.training.evaluate import evaluate, held_out_split
from ghn.training.muon import make_optimizers
from ghn.training.schedule import rise_and_fall
from ghn.training.start import first_hypernetwork
from ghn.training.state import load_state, newest, save_state
from ghn.training.targets import TargetPool
from ghn.training.tasks import Batches, cross_entropy, make_task

__all__ = ["StepRecord", "Trainer", "train"]

# What a resumed run may change.
MOVABLE = {"out", "steps", "cooldown", "checkpoint_seconds", "workers", "tracker"}


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """What one step gave.

    Attributes:
        step: Steps taken so far.
        loss: Mean cross-entropy over networks since the last record, in nats; those skipped left
            out, nan if all were (null in the log).
        accuracy: Mean accuracy on the labels, of the same: classes, or next tokens.
        skipped: Networks left out since the run began because something was not finite: their
            loss, its gradient, or the step's gradient in the hypernetwork.
        lr: Learning rate.
        networks_per_second: Since the last record.
        held_out: Mean score of held-out networks by family, where this step measured it: accuracy,
            or bits per byte.
    """

    step: int
    loss: float
    accuracy: float
    skipped: int
    lr: float
    networks_per_second: float
    held_out: dict[str, float] | None = None


class Trainer:
    """One run: its hypernetwork, optimisers, averaged weights and counters.

    Args:
        config: Settings.
    """

    def __init__(self, config: TrainConfig) -> None:
        from accelerate import Accelerator
        from accelerate.tracking import get_available_trackers
        from accelerate.utils import LoggerType

        trackers = get_available_trackers()
        if config.tracker != "none" and LoggerType(config.tracker) not in trackers:
            raise ConfigError(
                f"tracker {config.tracker!r} is not installed; install it, or choose 'none'"
            )
        precision = config.mixed_precision
        try:
            self.accelerator = Accelerator(
                # Said outright, or several processes on a CPU would each think to be alone.
                cpu=not torch.accelerator.is_available(),
                # None leaves it to `accelerate launch`.
                mixed_precision=None if precision == "no" else precision,
                log_with=None if config.tracker == "none" else config.tracker,
                project_dir=config.out,
            )
        except ValueError as error:  # this process has one of another precision
            raise ConfigError(f"mixed_precision={precision!r}: {error}") from error
        config = config.replace(mixed_precision=str(self.accelerator.mixed_precision))
        self.config = config
        self.task = make_task(config, config.split)
        if config.eval_networks:
            make_task(config, held_out_split(config))  # what is missing is told now, not in hours
        self.ghn = first_hypernetwork(config).to(self.accelerator.device)
        self.optimizers = make_optimizers(
            self.ghn, config.optimizer, config.lr, config.weight_decay
        )
        self.average = {k: v.detach().clone() for k, v in self.ghn.named_parameters()}
        self.pool = TargetPool(
            config.families, config.shares, config.pool, settings=self.task.settings
        )
        self.step = 0
        self.skipped = 0
        self.seconds = 0.0

    def resume(self) -> bool:
        """Continue from the newest checkpoint of the run's folder, if there is one."""
        folder = newest(Path(self.config.out))
        if folder is None:
            return False
        rest = load_state(folder, self.ghn, self.optimizers, self.average)
        try:
            self.step, self.skipped = rest["step"], rest["skipped"]
            self.seconds = rest["seconds"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder} is damaged (no {error} in it); remove it to go on from the checkpoint "
                "before it"
            ) from error
        return True

    def save(self) -> Path:
        """Write a checkpoint."""
        rest = {
            "skipped": self.skipped,
            "seconds": self.seconds,
            "config": self.config.to_dict(),
        }
        out = Path(self.config.out)
        return save_state(out, self.step, self.ghn, self.optimizers, self.average, rest)

    def learning_rate(self) -> float:
        """Linear warm-up, constant, then a cosine to zero over the last steps."""
        config = self.config
        share = rise_and_fall(self.step, config.steps, config.warmup, config.cooldown)
        return config.lr * share

    def take_step(self, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
        """Take one step on a batch; return the mean loss and accuracy of its networks.

        Both are nan if all networks are skipped.
        """
        accelerator = self.accelerator
        inputs, labels = inputs.to(accelerator.device), labels.to(accelerator.device)
        chosen = self.draw(self.step)
        mine = chosen[accelerator.process_index :: accelerator.num_processes]
        targets = [self.pool[i] for i in mine]
        emitted = self.ghn([t.graph for t in targets]) if targets else []
        found: list[list[Tensor]] = []
        measured: list[Tensor] = []
        for target, parameters in zip(targets, emitted, strict=True):
            leaves = {k: v.detach().requires_grad_() for k, v in parameters.items()}
            with accelerator.autocast():
                logits = target.run(leaves, inputs)
            loss = cross_entropy(logits.float(), labels)
            found.append(self._gradients(loss, list(leaves.values())))
            hit = (logits.argmax(-1) == labels).float().mean()
            measured.append(torch.stack([loss.detach(), hit, _largest(found[-1])]))
        # All read at once: each reading waits for an accelerator.
        rows = torch.stack(measured).tolist() if measured else []
        kept = [n for n, row in enumerate(rows) if all(map(math.isfinite, row))]
        self.ghn.zero_grad(set_to_none=True)
        if kept:
            heads = [tensor for n in kept for tensor in emitted[n].values()]
            torch.autograd.backward(heads, [tensor for n in kept for tensor in found[n]])
        sums = [sum((rows[n][i] for n in kept), 0.0) for i in (0, 1)]
        loss_sum, hits, count = self._reduce([*sums, float(len(kept))])
        self.skipped += len(chosen) - int(count)
        if not self._update():
            self.skipped += int(count)
        return (loss_sum / count, hits / count) if count else (math.nan, math.nan)

    def draw(self, step: int) -> list[int]:
        """Return which networks of the pool a step takes."""
        draws = make_generator(self.config.seed, "networks", step)
        count = (self.config.meta_batch,)
        return torch.randint(len(self.pool), count, generator=draws).tolist()

    def drawn(self) -> list[int]:
        """Return the networks of the pool that the steps so far took."""
        return sorted({index for step in range(self.step) for index in self.draw(step)})

    def _gradients(self, loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        """Return a network's share of the gradients."""
        if self.config.penalty:
            loss = loss + self.config.penalty * sum(leaf.norm() for leaf in leaves)
        return list(torch.autograd.grad(loss / self.config.meta_batch, leaves))

    def _reduce(self, counts: list[float]) -> list[float]:
        """Sum gradients and counts over all processes; a skipped network has added nothing."""
        if self.accelerator.num_processes == 1:
            return counts
        parameters = list(self.ghn.parameters())
        found = [p.grad is not None for p in parameters]
        counts = [*counts, *map(float, found)]
        flat = [
            (p if p.grad is None else p.grad).detach().flatten() * has
            for p, has in zip(parameters, found, strict=True)
        ]
        flat.append(torch.tensor(counts, device=flat[0].device, dtype=flat[0].dtype))
        total = self.accelerator.reduce(torch.cat(flat), reduction="sum")
        *sums, last = total.split([len(part) for part in flat])
        counts, used = last.tolist()[: -len(found)], last.tolist()[-len(found) :]
        for parameter, gradient, has in zip(parameters, sums, used, strict=True):
            # What no process used stays without a gradient, as in one process.
            parameter.grad = gradient.view_as(parameter) if has else None
        return counts

    def _update(self) -> bool:
        """Step by the gradients found; False if they are not finite."""
        rate = self.learning_rate()
        for group in (g for o in self.optimizers for g in o.param_groups):
            group["lr"] = rate
        norm = torch.nn.utils.clip_grad_norm_(self.ghn.parameters(), self.config.clip)
        # Clipping by a norm that is not finite would write nan into every weight.
        finite = bool(norm.isfinite())
        for optimizer in self.optimizers if finite else ():
            optimizer.step()
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
            ghn = GHN(self.ghn.config).to(self.accelerator.device)
        ghn.load_state_dict({**self.ghn.state_dict(), **self.average})
        return ghn.eval().requires_grad_(False)


def _largest(gradients: list[Tensor]) -> Tensor:
    """Return the largest magnitude of any element; not finite if one is not."""
    return torch.stack(torch._foreach_norm(gradients, math.inf)).max().float()


def train(
    config: TrainConfig, progress: Callable[[StepRecord], None] = lambda record: None
) -> Trainer:
    """Train a hypernetwork, resuming what the run's folder holds.

    The folder receives `config.json`, `log.jsonl` (one record every 50 steps; what followed the
    checkpoint that a run resumes from is removed), checkpoints, and what the tracker writes. Under
    `accelerate launch` or `torchrun` the processes share each step's networks; the first one
    writes, evaluates and reports.

    Args:
        config: Settings.
        progress: Called with each record.

    Returns:
        The trainer at its last step.

    Raises:
        ConfigError: If the folder holds a run with other settings, or one that has taken more
            steps, or another process writes to it.
        DataError: If the data, or what is held out of them, cannot be found.
        CheckpointError: If the folder's run is damaged.
    """
    with preserve_global_state():
        trainer = Trainer(config)
        if not trainer.accelerator.is_main_process:
            trainer.resume()
            for _ in _steps(trainer):
                pass
            return trainer
        with sole_writer(config.out):
            _check_run(Path(config.out), trainer.config)
            trainer.resume()
            if trainer.step > config.steps:
                raise ConfigError(
                    f"the run in {config.out} has taken {trainer.step} steps, got "
                    f"steps={config.steps}; choose another out folder for a shorter run"
                )
            write_json(Path(config.out) / "config.json", trainer.config.to_dict())
            _write_log(trainer, progress)
    return trainer


def _write_log(trainer: Trainer, progress: Callable[[StepRecord], None]) -> None:
    """Take all steps; file and report their records."""
    accelerator = trainer.accelerator
    accelerator.init_trackers("tracker")
    path = Path(trainer.config.out) / "log.jsonl"
    _trim(path, trainer.step)
    with path.open("a", encoding="utf-8") as log:
        for record in _steps(trainer):
            values = dataclasses.asdict(record)
            plain = {k: None if v != v else v for k, v in values.items()}  # nan is no JSON
            log.write(json.dumps(plain) + "\n")
            log.flush()
            accelerator.log(_scalars(record), step=record.step)
            progress(record)
    for tracker in accelerator.trackers:
        tracker.finish()


def _scalars(record: StepRecord) -> dict[str, float]:
    """Return a record as trackers want it: flat."""
    values = dataclasses.asdict(record)
    held_out = values.pop("held_out") or {}
    del values["step"]
    return {**values, **{f"held_out/{family}": score for family, score in held_out.items()}}


def _check_run(out: Path, config: TrainConfig) -> None:
    """Check that the settings of a run to be resumed agree in all but its end."""
    path = out / "config.json"
    if not path.exists():
        return
    try:
        # Settings that the run did not know yet had their defaults.
        known = TrainConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove {out}") from error
    wanted, found = (json.loads(json.dumps(c.to_dict())) for c in (config, known))
    changed = sorted(k for k in wanted.keys() - MOVABLE if found[k] != wanted[k])
    if changed:
        raise ConfigError(
            f"{out} holds a run with other settings ({', '.join(changed)}); choose another out "
            "folder, or remove this one"
        )


def _trim(log: Path, step: int) -> None:
    """Remove the records of steps that will be taken again, and lines that a crash damaged."""
    if not log.exists():
        return
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    write_text(log, "".join(line for line in lines if _is_record(line, step)))


def _is_record(line: str, last: int) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= last
    except (ValueError, KeyError, TypeError):
        return False


def _steps(trainer: Trainer, every: int = 50) -> Iterator[StepRecord]:
    """Take the remaining steps; yield a record every few, save every few minutes.

    Records are of the same steps whether or not a run was interrupted; the first one after a
    resumption sums up the steps since.
    """
    config = trainer.config
    writes = trainer.accelerator.is_main_process
    batches = DataLoader(
        Batches(trainer.task, config),
        batch_size=None,
        sampler=range(trainer.step, config.steps),
        num_workers=config.workers,
    )
    losses: list[float] = []
    hits: list[float] = []
    steps = 0
    saved = since = time.monotonic()
    for inputs, labels in batches:
        began = time.monotonic()
        loss, hit = trainer.take_step(inputs, labels)
        if not math.isnan(loss):
            losses.append(loss)
            hits.append(hit)
        steps += 1
        trainer.seconds += time.monotonic() - began
        last = trainer.step == config.steps
        if writes and (last or time.monotonic() - saved > config.checkpoint_seconds):
            trainer.save()
            saved = time.monotonic()
        taken = time.monotonic() - since
        held_out = None
        evaluates = writes and config.eval_every and config.eval_networks
        if evaluates and (last or trainer.step % config.eval_every == 0):
            held_out = evaluate(trainer.averaged(), config).by_family()
        if last or held_out is not None or trainer.step % every == 0:
            yield StepRecord(
                step=trainer.step,
                loss=sum(losses) / len(losses) if losses else math.nan,
                accuracy=sum(hits) / len(hits) if hits else math.nan,
                skipped=trainer.skipped,
                lr=trainer.learning_rate(),
                networks_per_second=config.meta_batch * steps / taken,
                held_out=held_out,
            )
            losses, hits, steps, since = [], [], 0, time.monotonic()
