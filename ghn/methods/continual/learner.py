"""The learner: a hypernetwork with one condition for each task, held by the output anchor.

Once a task is learned, its data may be forgotten; see `ghn.methods.sequence.hypernetwork`.

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

from ghn.engine.hypernet import GHN
from ghn.engine.run import buffers_of, in_mode, run_batch, stacked
from ghn.engine.select import Generate
from ghn.errors import ConfigError
from ghn.methods.continual.config import ContinualConfig
from ghn.methods.continual.fisher import diagonal_fisher
from ghn.methods.continual.loop import TaskLearner, explained
from ghn.methods.sequence import TaskHypernetwork
from ghn.methods.sequence.learner import under
from ghn.rng import make_generator
from ghn.training.anchor import OutputAnchor, normalised_fisher

__all__ = ["ContinualLearner"]


class ContinualLearner(TaskLearner):
    """Learns tasks one after another with one hypernetwork, without keeping their data.

    Args:
        model: Any module that emits logits. It is never changed; what is not generated for tasks
            stays as it is there.
        decoder: `"recurrent"`, `"chunked"` or `"dense"`; overrules that of `config`, unless all of
            the hypernetwork's settings are given there: then it must be the same.
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
            if config.decoder_name != decoder:
                raise ConfigError(
                    f"decoder={decoder!r} contradicts the settings of hypernetwork=, whose decoder "
                    f"is {config.decoder_name!r}; leave one of them out"
                )
        super().__init__(model, config, example_inputs=example_inputs, generate=generate)
        self._source = TaskHypernetwork(self.graph, config, config.seed, self.device)
        self._buffers: dict[str, dict[str, Tensor]] = {}

    @property
    def ghn(self) -> GHN:
        """The hypernetwork."""
        return self._source.ghn

    @property
    def anchor(self) -> OutputAnchor:
        """What holds the networks of earlier tasks."""
        return self._source.anchor

    def grow(self, units: int) -> None:
        """Enlarge the state of a recurrent decoder; what tasks get stays as it was.

        Args:
            units: How many units to add, at least 1.

        Raises:
            ConfigError: If the decoder is of another kind, or the units are no whole number.
        """
        self._source.grow(units, self.num_parameters())

    def infer_task(self, inputs: Any) -> list[str]:
        """Guess the task of each input: the one whose network is most certain of a class.

        Experimental: on five tasks of two digits it is right for about half of the inputs, where
        chance is a fifth. See docs/methods/continual.md.

        Args:
            inputs: As for `predict`.

        Source:
            HNET+ENT of arXiv 1906.00695.
        """
        names = list(self.tasks)
        if not names:
            raise ConfigError("no task is learned yet; call learn() first")
        with torch.no_grad(), in_mode(self.model, training=False):
            parameters = self._source.parameters_of(names)
            buffers = stacked([self._buffers[name] for name in names])
            with explained():
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
        return self._source.parameters_of(task)

    def buffers_of(self, task: str) -> dict[str, Tensor]:
        """Return a task's buffers of the network by name, such as statistics of BatchNorm."""
        self.record(task)
        return self._buffers[task]

    def num_parameters(self) -> int:
        """Return the number of parameters of the hypernetwork, embeddings of tasks included."""
        return self._source.num_parameters()

    def _begin(self, task: str) -> None:
        done = len(self.tasks) - 1
        if self.config.grow and done and done % self.config.grow_every == 0:
            self._source.grow(self.config.grow, len(self.tasks))
        self._source.add(task)
        self._buffers[task] = buffers_of(self.model)

    def _trained(self, task: str) -> list[nn.Parameter]:
        return self._source.trained(task)

    def _backward(
        self, task: str, inputs: Any, labels: Int64[Tensor, " b"], optimizer: torch.optim.Optimizer
    ) -> float:
        def loss_of(parameters: dict[str, Tensor]) -> Float[Tensor, ""]:
            logits, self._buffers[task] = self._run(parameters, inputs, self._buffers[task])
            return self._loss(task, logits, labels)

        return self._source.backward(task, loss_of, optimizer)

    def _finish(self, task: str, batches: Callable[[], Iterator[Any]]) -> None:
        importance = None
        if self.config.importance:
            fisher = diagonal_fisher(
                self._logits(task),
                self.parameters_of(task),
                batches(),
                make_generator(self.config.seed, "fisher", task),
            )
            importance = normalised_fisher(fisher)
        self._source.finish(task, importance, self._head_mask(task))

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

    def _tensors(self) -> dict[str, Tensor]:
        tensors = self._source.tensors()
        for place, name in enumerate(self._buffers):
            own = self._buffers[name].items()
            tensors |= {f"buffers/{place}/{k}": v for k, v in own}
        return tensors

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), **self._source.facts()}

    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self._source.set(tensors, facts)
        self._buffers = {n: under(f"buffers/{i}/", tensors) for i, n in enumerate(self.tasks)}
