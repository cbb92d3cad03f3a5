"""The learner: a hypernetwork with one condition for each task, held by the output anchor.

A task's network is emitted from the task's embedding. While a task is learned, its embedding and
the hypernetwork are trained on its loss, and what is emitted for earlier tasks is anchored. After
that its embedding is frozen, and its data may be forgotten.

Source: von Oswald et al. 2020 (Continual learning with hypernetworks, arXiv 1906.00695); the
recurrent decoder after Chandra et al. 2023 (arXiv 2209.07712), see `ghn.decoders.recurrent`.

Shape letters used in this file:
    b: inputs. k: classes. T: tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ghn.engine.hypernet import GHN, GHNConfig
from ghn.engine.run import buffers_of, in_mode, run_batch, stacked
from ghn.engine.select import Generate
from ghn.errors import ConfigError
from ghn.methods.continual.config import ContinualConfig
from ghn.methods.continual.fisher import diagonal_fisher
from ghn.methods.continual.loop import TaskLearner
from ghn.methods.continual.model import build
from ghn.rng import make_generator, preserve_global_state
from ghn.training.anchor import OutputAnchor, coming_step, normalised_fisher

__all__ = ["ContinualLearner"]


class ContinualLearner(TaskLearner):
    """Learns tasks one after another with one hypernetwork, without keeping their data.

    Args:
        model: Any module that emits logits. It is never changed; what is not generated for tasks
            stays as it is there.
        decoder: `"recurrent"`, `"chunked"` or `"dense"`; overrules `config`.
        config: All settings; see `ContinualConfig`.
        example_inputs: As for `ghn.trace`; inferred from the module if None.
        generate: Which parameters are generated for tasks: a glob such as `"head.*"`, several, or a
            function of the name; all by default.

    Example:
        >>> learner = ContinualLearner(model)                       # doctest: +SKIP
        >>> learner.learn("digits 0 to 4", loader)                  # doctest: +SKIP
        >>> logits = learner.predict(images, task="digits 0 to 4")  # doctest: +SKIP
    """

    Config = ContinualConfig
    config: ContinualConfig

    def __init__(
        self,
        model: nn.Module,
        decoder: str | None = None,
        *,
        config: ContinualConfig | None = None,
        example_inputs: Any = None,
        generate: Generate = None,
    ) -> None:
        config = config or ContinualConfig()
        if decoder is not None:
            config = config.replace(decoder=decoder)
        super().__init__(model, config, example_inputs=example_inputs, generate=generate)
        with preserve_global_state():
            torch.default_generator.manual_seed(config.seed)
            self.ghn = build(config, self.graph).to(self.device)
        self.anchor = OutputAnchor(self.ghn, self.graph, config.anchor)
        self._buffers: dict[str, dict[str, Tensor]] = {}
        self._draws = torch.Generator()

    def grow(self, units: int) -> None:
        """Enlarge the state of a recurrent decoder; what tasks get stays as it was.

        Raises:
            ConfigError: If the decoder is of another kind.
        """
        if not hasattr(self.ghn.decoder, "grow"):
            raise ConfigError(
                f"decoder {self.ghn.decoder_name!r} cannot grow; decoder='recurrent' can"
            )
        self.ghn.decoder.grow(units, self._generator("grow", len(self.tasks)))
        self.anchor.refresh()

    def infer_task(self, inputs: Any) -> list[str]:
        """Guess the task of each input: the one whose network is most certain of a class.

        Experimental: on ten permutations of the digits it is right for about a fifth of the
        inputs, where chance is a tenth. See docs/methods/continual.md.

        Args:
            inputs: As for `predict`.

        Source:
            HNET+ENT of arXiv 1906.00695.
        """
        names = list(self.tasks)
        if not names:
            raise ConfigError("no task is learned yet; call learn() first")
        with torch.no_grad(), in_mode(self.model, training=False):
            parameters = self.ghn(self.graph, condition=names)
            buffers = stacked([self._buffers[name] for name in names])
            logits = run_batch(self.model, parameters, self._moved(inputs), buffers=buffers)[0]
        entropies = []
        for record, own in zip(self.tasks.values(), logits, strict=True):
            chosen = own if record.classes is None else own[:, list(record.classes)]
            chances = chosen.log_softmax(1)
            entropies.append(-(chances.exp() * chances).sum(1))
        return [names[i] for i in torch.stack(entropies).argmin(0).tolist()]

    def parameters_of(self, task: str) -> dict[str, Tensor]:
        """Return a task's parameters of the network by name, without gradients."""
        self.record(task)
        with torch.no_grad():
            return {n: t.detach() for n, t in self.ghn(self.graph, condition=task).items()}

    def buffers_of(self, task: str) -> dict[str, Tensor]:
        """Return a task's buffers of the network by name, such as statistics of BatchNorm."""
        self.record(task)
        return self._buffers[task]

    def num_parameters(self) -> int:
        """Return the number of parameters of the hypernetwork, embeddings of tasks included."""
        return sum(p.numel() for p in self.ghn.parameters())

    def _begin(self, task: str) -> None:
        done = len(self.tasks) - 1
        if self.config.grow and done and done % self.config.grow_every == 0:
            self.grow(self.config.grow)
        self.ghn.condition.add(task, generator=self._generator("embedding", task))
        self._buffers[task] = buffers_of(self.model)
        self._draws = self._generator("subset", task)
        self.ghn.train()

    def _trained(self, task: str) -> list[nn.Parameter]:
        return [p for p in self.ghn.parameters() if p.requires_grad]

    def _backward(
        self, task: str, inputs: Any, labels: Int64[Tensor, " b"], optimizer: torch.optim.Optimizer
    ) -> float:
        """Add the gradients of the loss and of the anchor's penalty.

        Source:
            arXiv 1906.00695, equation 2. The current embedding gets no gradient from the penalty.
        """
        old = self.anchor.choose(self._draws) if self.config.anchor.beta else []
        ahead = self.config.anchor.lookahead
        # One call for all tasks, unless the old ones are looked at after the coming step.
        together = [] if ahead else [str(name) for name in old]
        batch = self.ghn(self.graph, condition=[task, *together])
        parts = {name: values.split([1, len(together)]) for name, values in batch.items()}
        own = {name: part[0][0] for name, part in parts.items()}
        logits, self._buffers[task] = self._run(own, inputs, self._buffers[task])
        loss = self._loss(task, logits, labels)
        if together:
            kept = {name: part[1] for name, part in parts.items()}
            (loss + self.anchor.penalty(old, emitted=kept)).backward()
        else:
            loss.backward()
            if old:
                self.anchor.penalty(old, ahead=coming_step(self.ghn, optimizer)).backward()
        return loss.item()

    def _finish(self, task: str, batches: Callable[[], Iterator[Any]]) -> None:
        self.ghn.condition.freeze(task)
        self.ghn.eval()
        importance = None
        if self.config.importance:
            fisher = diagonal_fisher(
                self._logits(task),
                self.parameters_of(task),
                batches(),
                self._generator("fisher", task),
            )
            importance = normalised_fisher(fisher)
        self.anchor.keep(task, importance=importance, mask=self._head_mask(task))

    def _logits(self, task: str) -> Callable[[dict[str, Tensor], Any], Float[Tensor, "b k"]]:
        classes = self.tasks[task].classes

        def logits(parameters: dict[str, Tensor], inputs: Any) -> Float[Tensor, "b k"]:
            with in_mode(self.model, training=False):
                found = self._run(parameters, inputs, self._buffers[task])[0]
            return found if classes is None else found[:, list(classes)]

        return logits

    def _head_mask(self, task: str) -> dict[str, Tensor] | None:
        """Say which rows of the head are the task's own; other tasks' rows may drift."""
        classes = self.tasks[task].classes
        if classes is None:
            return None
        mask = {}
        for name, spec in self.graph.specs.items():
            if spec.head and "o" in spec.axes:
                axis = spec.axes.index("o")
                rows = torch.zeros(spec.shape[axis], dtype=torch.bool)
                rows[list(classes)] = True
                ones = [1] * len(spec.shape)
                ones[axis] = -1
                mask[name] = rows.reshape(ones).expand(spec.shape)
        return mask

    def _generator(self, *labels: str | int) -> torch.Generator:
        return make_generator(self.config.seed, *labels)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"ghn/{k}": v for k, v in self.ghn.state_dict().items()}
        tensors |= {f"anchor/{k}": v for k, v in self.anchor.state_dict().items()}
        for place, name in enumerate(self._buffers):
            own = self._buffers[name].items()
            tensors |= {f"buffers/{place}/{k}": v for k, v in own}
        return tensors

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), "ghn": self.ghn.config.to_dict()}

    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        config = GHNConfig.from_dict(facts["ghn"])
        if config != self.ghn.config:
            with preserve_global_state():
                self.ghn = GHN(config).to(self.device)
        self.ghn.load_state_dict(_under("ghn/", tensors))
        names = list(self.tasks)
        self._buffers = {n: _under(f"buffers/{i}/", tensors) for i, n in enumerate(names)}
        self.anchor = OutputAnchor(self.ghn, self.graph, self.config.anchor)
        self.anchor.load_state_dict(_under("anchor/", tensors), names)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
