"""The trainer: emit the parameters of a few networks, run them on data, learn from that.

Gradients are taken in two stages: each network's loss with respect to its emitted parameters, one
network at a time, then all of these through the hypernetwork at once. Memory then holds one
network's activations, and a network whose loss is not finite is left out without harm.

All that a step draws follows from the seed and the step's number, so that a resumed run repeats the
uninterrupted one bit for bit. Several processes share the networks of a step: each takes its part,
and gradients are summed.

Source: amortised training of GHN-2 and GHN-3 (arXiv 2110.13100, 2303.04143).
"""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ghn.engine.hypernet import GHN
from ghn.errors import CheckpointError, ConfigError
from ghn.rng import derive_seed, make_generator, preserve_global_state
from ghn.training.config import TrainConfig
from ghn.training.evaluate import held_out_split
from ghn.training.muon import make_optimizers
from ghn.training.schedule import rise_and_fall
from ghn.training.start import first_hypernetwork
from ghn.training.state import load_state, newest, save_state
from ghn.training.targets import Target, TargetPool
from ghn.training.tasks import cross_entropy, make_task

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Trainer"]


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
        if precision == "no":  # `accelerate launch` may say, but no earlier run of this process
            precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        try:
            self.accelerator = Accelerator(
                # Said outright, or several processes on a CPU would each think to be alone.
                cpu=not torch.accelerator.is_available(),
                mixed_precision=precision,
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
        self.machine = _machine(self.accelerator)

    def resume(self) -> bool:
        """Continue from the newest checkpoint of the run's folder, if there is one.

        Raises:
            CheckpointError: If it is damaged.
            ConfigError: If the data are no longer those that it was trained on.
        """
        file = newest(Path(self.config.out))
        if file is None:
            return False
        rest = load_state(file, self.ghn, self.optimizers, self.average)
        try:
            self.step, self.skipped = rest["step"], rest["skipped"]
            self.seconds, self.machine = rest["seconds"], rest["machine"]
            trained_on = rest["data"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} is damaged (no {error} in it); remove it to go on from the checkpoint "
                "before it"
            ) from error
        if trained_on != self._data():
            raise ConfigError(
                f"the data have changed since {file} was written: they were {trained_on}, "
                f"{self.task.name} is {self._data()}; choose another out folder"
            )
        return True

    def save(self) -> Path:
        """Write a checkpoint."""
        rest = {
            "skipped": self.skipped,
            "seconds": self.seconds,
            "machine": self.machine,
            "data": self._data(),
            "ghn": self.ghn.config.to_dict(),
        }
        out = Path(self.config.out)
        return save_state(out, self.step, self.ghn, self.optimizers, self.average, rest)

    def _data(self) -> dict[str, Any]:
        return {"hash": self.task.hash, **self.task.settings}

    def learning_rate(self) -> float:
        """Linear warm-up, constant, then a cosine to zero over the last steps."""
        config = self.config
        share = rise_and_fall(self.step, config.steps, config.warmup, config.cooldown)
        return config.lr * share

    def take_step(self, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
        """Take one step on a batch; return the mean loss and accuracy of its networks.

        Both are nan if all networks are skipped.
        """
        rank, device = self.accelerator.process_index, self.accelerator.device
        chosen = self.draw(self.step)
        targets = [self.pool[i] for i in chosen[rank :: self.accelerator.num_processes]]
        self.ghn.zero_grad(set_to_none=True)
        # What a decoder draws, such as noise on places, follows from the step too.
        with preserve_global_state(derive_seed(self.config.seed, "step", self.step, rank)):
            rows = self._learn(targets, inputs.to(device), labels.to(device))
        loss_sum, hits, count = self._reduce(
            [sum((row[i] for row in rows), 0.0) for i in (0, 1)] + [float(len(rows))]
        )
        self.skipped += len(chosen) - int(count)
        if not self._update():
            self.skipped += int(count)
        return (loss_sum / count, hits / count) if count else (math.nan, math.nan)

    def _learn(self, targets: list[Target], inputs: Tensor, labels: Tensor) -> list[list[float]]:
        """Add up the gradients of networks; return the loss and accuracy of those not skipped."""
        emitted = self.ghn([t.graph for t in targets]) if targets else []
        found: list[list[Tensor]] = []
        measured: list[Tensor] = []
        for target, parameters in zip(targets, emitted, strict=True):
            leaves = {k: v.detach().requires_grad_() for k, v in parameters.items()}
            with self.accelerator.autocast():
                logits = target.run(leaves, inputs)
            loss = cross_entropy(logits.float(), labels)
            found.append(self._gradients(loss, list(leaves.values())))
            hit = (logits.argmax(-1) == labels).float().mean()
            measured.append(torch.stack([loss.detach(), hit, _largest(found[-1])]))
        # All read at once: each reading waits for an accelerator.
        rows = torch.stack(measured).tolist() if measured else []
        kept = [n for n, row in enumerate(rows) if all(map(math.isfinite, row))]
        if kept:
            heads = [tensor for n in kept for tensor in emitted[n].values()]
            torch.autograd.backward(heads, [tensor for n in kept for tensor in found[n]])
        return [rows[n] for n in kept]

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


def _machine(accelerator: Accelerator) -> str:
    """Return what a run goes on, for its card."""
    count = accelerator.num_processes
    processes = f"{count} process{'es' if count > 1 else ''}"
    if accelerator.device.type == "cuda":
        return f"{processes} on {torch.cuda.get_device_name(accelerator.device)}"
    return f"{processes} on {platform.machine()} with {os.cpu_count()} cores"


def _largest(gradients: list[Tensor]) -> Tensor:
    """Return the largest magnitude of any element; not finite if one is not."""
    return torch.stack(torch._foreach_norm(gradients, math.inf)).max().float()
