"""Training runs: steps, records of them, checkpoints, and how a run that was stopped goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from ghn.errors import CheckpointError, ConfigError, GHNError
from ghn.io import sole_writer, write_json, write_text
from ghn.pages.page import finite_json
from ghn.rng import preserve_global_state
from ghn.training.config import TrainConfig
from ghn.training.evaluate import evaluate
from ghn.training.state import newest
from ghn.training.stopping import leave_stops_to_the_run, stop_signals
from ghn.training.tasks import Batches
from ghn.training.trainer import Trainer

__all__ = ["StepRecord", "train"]

# What a resumed run may change; data, to where the same ones are now.
MOVABLE = {
    *("out", "data", "steps", "cooldown", "checkpoint_seconds", "workers", "tracker"),
    *("eval_every", "eval_networks"),
}
EVERY = 50  # steps between records
HOPELESS = 100  # steps in a row without a finite network after which a run ends
REFUSED = -1  # in place of a step


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """What one step gave.

    Attributes:
        step: Steps taken so far.
        loss: Mean cross-entropy over networks since the last record, in nats; those whose own loss
            or gradient is not finite left out, nan if all are (null in the log).
        accuracy: Mean accuracy on the labels, of the same: classes, or next tokens.
        skipped: Networks left out since the run began because something was not finite: their
            loss, its gradient, or the step's gradient in the hypernetwork.
        lr: Learning rate of the step.
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


def train(
    config: TrainConfig,
    progress: Callable[[StepRecord], None] = lambda record: None,
    tick: Callable[[int], None] = lambda step: None,
) -> Trainer:
    """Train a hypernetwork, resuming what the run's folder holds.

    The folder receives `config.json`, `log.jsonl` (one record every 50 steps; what followed the
    checkpoint that a run resumes from is removed), checkpoints, and what the tracker writes. Under
    `accelerate launch` or `torchrun` the processes share each step's networks, and the folder, on
    several machines too; the first one writes, evaluates and reports. A process that trains alone
    hears Ctrl-C and SIGTERM after each step, and saves before it ends.

    Args:
        config: Settings.
        progress: Called with each record.
        tick: Called with the number of steps so far, after each.

    Returns:
        The trainer at its last step.

    Raises:
        ConfigError: If the folder holds a run with other settings or data, or one that has taken
            more steps, another process writes to it, or machines do not share it.
        DataError: If the data, or what is held out of them, cannot be found.
        CheckpointError: If the folder's run is damaged.
        GHNError: If for 100 steps in a row every network was skipped: the run has diverged.
    """
    with preserve_global_state(), contextlib.ExitStack() as held:
        trainer = Trainer(config)
        _resume_together(trainer, held)
        if not trainer.accelerator.is_main_process:
            for _ in _steps(trainer, tick, []):
                pass
            return trainer
        write_json(Path(config.out) / "config.json", trainer.config.to_dict())
        if trainer.accelerator.num_processes > 1:  # all must end at one step
            _write_log(trainer, progress, tick, [])
        else:
            with stop_signals() as stops:
                _write_log(trainer, progress, tick, stops)
    return trainer


def _write_log(
    trainer: Trainer,
    progress: Callable[[StepRecord], None],
    tick: Callable[[int], None],
    stops: list[int],
) -> None:
    """Take all steps; file and report their records."""
    accelerator = trainer.accelerator
    _begin_tracking(trainer)
    path = Path(trainer.config.out) / "log.jsonl"
    _trim(path, trainer.step)
    with path.open("a", encoding="utf-8") as log:
        for record in _steps(trainer, tick, stops):
            values = dataclasses.asdict(record)
            log.write(json.dumps(finite_json(values)) + "\n")
            log.flush()
            accelerator.log(_scalars(record), step=record.step)
            progress(record)
    for tracker in accelerator.trackers:
        tracker.finish()


def _begin_tracking(trainer: Trainer) -> None:
    config = trainer.config
    if config.tracker == "tensorboard":  # which hides what an earlier process wrote of later steps
        options = {"tensorboard": {"purge_step": trainer.step + 1}}
        trainer.accelerator.init_trackers("tracker", init_kwargs=options)
    else:
        name = Path(config.out).resolve().name
        trainer.accelerator.init_trackers(f"ghn-{name}", config=config.to_dict())


def _resume_together(trainer: Trainer, held: contextlib.ExitStack) -> None:
    """Lock the run's folder and go on from what it holds; where one process cannot, none does.

    All must go on from one step: they must have read one folder.
    """
    accelerator, config = trainer.accelerator, trainer.config
    refusal: GHNError | None = None
    try:
        if accelerator.is_main_process:
            held.enter_context(sole_writer(config.out))
            _check_run(Path(config.out), config)
        trainer.resume()
        if trainer.step > config.steps:
            raise ConfigError(
                f"the run in {config.out} has taken {trainer.step} steps, got "
                f"steps={config.steps}; choose another out folder for a shorter run"
            )
    except GHNError as error:
        refusal = error
    step = REFUSED if refusal else trainer.step
    found = {*accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()}
    if refusal:
        raise refusal
    if REFUSED in found:
        raise GHNError("another process has refused the run; its message says why")
    if len(found) > 1:
        raise ConfigError(
            f"processes go on from different steps ({', '.join(map(str, sorted(found)))}): "
            f"out={config.out!r} must be one folder that all machines share"
        )


def _scalars(record: StepRecord) -> dict[str, float]:
    """Return a record as trackers want it: flat."""
    values = dataclasses.asdict(record)
    held_out = values.pop("held_out") or {}
    del values["step"]
    return {**values, **{f"held_out/{family}": score for family, score in held_out.items()}}


def _check_run(out: Path, config: TrainConfig) -> None:
    """Check that the settings of a run to be resumed agree in all but its end.

    What never wrote a checkpoint is no run yet.
    """
    path = out / "config.json"
    if newest(out) is None:
        return
    try:
        # Settings that the run did not know yet had their defaults.
        known = TrainConfig.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is missing or damaged ({error}): nothing says with which settings the run "
            "goes on; put it back, or choose another out folder"
        ) from error
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


def _steps(trainer: Trainer, tick: Callable[[int], None], stops: list[int]) -> Iterator[StepRecord]:
    """Take the remaining steps; yield a record every few, save every few minutes.

    Records are of the same steps whether or not a run was interrupted; the first one after a
    resumption sums up the steps since. A checkpoint is written after the record of its step, so
    that no record is lost.
    """
    config = trainer.config
    writes = trainer.accelerator.is_main_process
    batches = DataLoader(
        Batches(trainer.task, config),
        batch_size=None,
        sampler=range(trainer.step, config.steps),
        num_workers=config.workers,
        worker_init_fn=leave_stops_to_the_run,
    )
    losses: list[float] = []
    hits: list[float] = []
    steps = lost = 0
    saved = since = time.monotonic()
    for inputs, labels in batches:
        began = time.monotonic()
        skipped = trainer.skipped
        rate = trainer.learning_rate()
        loss, hit = trainer.take_step(inputs, labels)
        if not math.isnan(loss):
            losses.append(loss)
            hits.append(hit)
        steps += 1
        lost = lost + 1 if trainer.skipped - skipped == config.meta_batch else 0
        if lost == HOPELESS:
            raise GHNError(
                f"the run has diverged: in its last {lost} steps every network was skipped, at "
                f"step {trainer.step:,} with lr={config.lr:g}; start anew with a lower lr"
            )
        trainer.seconds += time.monotonic() - began
        tick(trainer.step)
        last = trainer.step == config.steps
        taken = time.monotonic() - since
        held_out = None
        evaluates = writes and config.eval_every and config.eval_networks
        if evaluates and (last or trainer.step % config.eval_every == 0):
            held_out = evaluate(trainer.averaged(), config).by_family()
        if last or held_out is not None or trainer.step % EVERY == 0:
            yield StepRecord(
                step=trainer.step,
                loss=sum(losses) / len(losses) if losses else math.nan,
                accuracy=sum(hits) / len(hits) if hits else math.nan,
                skipped=trainer.skipped,
                lr=rate,
                networks_per_second=config.meta_batch * steps / taken,
                held_out=held_out,
            )
            losses, hits, steps, since = [], [], 0, time.monotonic()
        due = time.monotonic() - saved > config.checkpoint_seconds
        if writes and (last or due or stops):
            trainer.save()
            saved = time.monotonic()
        if stops:
            return
