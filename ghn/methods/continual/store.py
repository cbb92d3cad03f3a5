"""A learner as tensors and JSON types: copied, taken over, written to one file, read again.

The tensors are in safetensors, everything else is in the file's header.
"""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from ghn.engine.guards import check_model
from ghn.engine.select import Generate
from ghn.errors import CheckpointError
from ghn.io import atomic_path
from ghn.methods.continual.config import LoopConfig
from ghn.methods.continual.model import generated_graph
from ghn.methods.continual.records import TaskRecord

__all__ = ["StoredLearner", "read_learner", "write_learner"]

L = TypeVar("L", bound="StoredLearner")

METADATA = "ghn-continual"
FORMAT = 1


class StoredLearner(abc.ABC):
    """What a learner is and can be made again from; subclasses say which tensors and facts.

    Args:
        model: The module that it learns for; never changed, and not part of the state.
        config: Settings.
        example_inputs: As for `ghn.trace`; inferred if None.
        generate: Which parameters are learned for tasks; all by default.

    Attributes:
        graph: The parameters that are learned for tasks.
        device: Where they are.
        tasks: Records of the tasks learned so far, by name.
    """

    Config: type[LoopConfig] = LoopConfig

    def __init__(
        self,
        model: nn.Module,
        config: LoopConfig,
        *,
        example_inputs: Any = None,
        generate: Generate = None,
    ) -> None:
        self.model = check_model(model)
        self.config = config
        self.graph = generated_graph(self.model, example_inputs, generate)
        self.device = next(self.model.parameters()).device
        self.tasks: dict[str, TaskRecord] = {}

    @abc.abstractmethod
    def _tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the learner's state by name."""

    def _facts(self) -> dict[str, Any]:
        """Return the rest of the learner's state as JSON types."""
        return {"tasks": [dataclasses.asdict(r) for r in self.tasks.values()]}

    @abc.abstractmethod
    def _set(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take over a state; the tensors are the learner's from now on."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a copy of the whole state: tensors by name, and JSON types."""
        return {k: v.detach().clone() for k, v in self._tensors().items()}, self._facts()

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take over a state that `state` returned."""
        self.tasks = {r["name"]: TaskRecord.from_dict(r) for r in facts["tasks"]}
        self._set({k: v.clone().to(self.device) for k, v in tensors.items()}, dict(facts))

    def save(self, path: str | Path, notes: Mapping[str, Any] | None = None) -> None:
        """Write the learner to one file, all of it or nothing; the module itself is not in it.

        Args:
            path: A `.safetensors` file.
            notes: Plain values to keep with it; see `load`.
        """
        tensors, facts = self.state()
        header = {
            "learner": type(self).__name__,
            "config": self.config.to_dict(),
            "shapes": self._shapes(),
            "facts": facts,
            "notes": dict(notes or {}),
        }
        write_learner(path, tensors, header)

    @classmethod
    def load(
        cls: type[L], path: str | Path, model: nn.Module, *, example_inputs: Any = None
    ) -> tuple[L, dict[str, Any]]:
        """Read a learner that `save` wrote.

        Args:
            path: The file.
            model: A module like the one it learned for; what is not generated is taken from it.
            example_inputs: As for the constructor.

        Returns:
            The learner, and the notes that were saved with it.

        Raises:
            CheckpointError: If the file is damaged, foreign, or belongs to another network.
        """
        tensors, header = read_learner(Path(path), cls.__name__)
        names = set(header["shapes"])
        learner = cls(
            model,
            config=cls.Config.from_dict(header["config"]),
            example_inputs=example_inputs,
            generate=lambda name: name in names,
        )
        if learner._shapes() != header["shapes"]:
            raise CheckpointError(f"{path} belongs to another network; its parameters differ")
        learner.restore(tensors, header["facts"])
        return learner, header["notes"]

    def _shapes(self) -> dict[str, list[int]]:
        return {name: list(spec.shape) for name, spec in self.graph.specs.items()}


def write_learner(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and a header of JSON types, all of it or nothing."""
    from safetensors.torch import save

    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    data = save(plain, metadata={METADATA: json.dumps({"format": FORMAT, **header})})
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_learner(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_learner` wrote.

    Args:
        path: The file.
        kind: Class of the learner that it must be of, as the header's `learner` says.

    Raises:
        CheckpointError: If the file is missing, cut off, foreign, or of another kind of learner.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads((file.metadata() or {})[METADATA])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"cannot read a learner from {path}: {error!r}; it may be missing, cut off or foreign"
        ) from error
    if (header.get("format"), header.get("learner")) != (FORMAT, kind):
        raise CheckpointError(
            f"{path} holds a {header.get('learner')} of format {header.get('format')}, not a "
            f"{kind} of format {FORMAT}"
        )
    return tensors, header
