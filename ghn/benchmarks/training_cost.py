"""What emission costs while a hypernetwork is trained: grouped, and tensor by tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ghn.benchmarks.records import Record, make_record
from ghn.benchmarks.timing import median_seconds, threads_of_torch
from ghn.engine.hypernet import GHN
from ghn.engine.magnitude import apply_magnitude, magnitude_rules
from ghn.graphs import ParamGraph, ParamSpec
from ghn.graphs.batch import GraphBatch, batch_specs
from ghn.kernels import entry, expand
from ghn.training.targets import Target, TargetPool

__all__ = ["TrainingCost", "measure_training"]

NETWORKS = 8
IMAGES = 32


@dataclasses.dataclass(frozen=True)
class TrainingCost:
    """Medians in seconds for one meta-batch of sampled networks.

    Attributes:
        networks: Number of networks.
        tensors: Number of tensors that they have together.
        stacks: Number of groups of tensors that are alike.
        emit_grouped: Emission, forward and backward: stacks are decoded, sized, expanded as one.
        emit_single: The same with each tensor decoded, sized and expanded by itself.
        targets: Running the networks on 32 images, forward and backward.
    """

    networks: int
    tensors: int
    stacks: int
    emit_grouped: float
    emit_single: float
    targets: float
    record: Record

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types, ratios included."""
        return {
            **dataclasses.asdict(self),
            "record": self.record.to_dict(),
            "emission_single_over_grouped": self.emit_single / self.emit_grouped,
            "step_single_over_grouped": (self.emit_single + self.targets)
            / (self.emit_grouped + self.targets),
        }


def measure_training(
    repeats: int = 5,
    threads: int = 2,
    progress: Callable[[float, float, str], None] = lambda done, total, text: None,
) -> TrainingCost:
    """Measure one meta-batch of eight sampled networks: convolutional ones and ViTs."""
    torch.manual_seed(0)
    ghn = GHN()
    pool = TargetPool(("convnets", "vits"), (0.7, 0.3), NETWORKS)
    targets = [pool[i] for i in range(NETWORKS)]
    graphs = [target.graph for target in targets]
    emitted = ghn(graphs)
    works = {
        "grouped": lambda: _backward(ghn, ghn(graphs)),
        "single": lambda: _backward(ghn, _one_by_one(ghn, graphs)),
        "targets": lambda: _run(targets, emitted),
    }
    with threads_of_torch(threads):
        medians = median_seconds(works, repeats, progress)
    return TrainingCost(
        networks=NETWORKS,
        tensors=sum(len(graph.specs) for graph in graphs),
        stacks=len(ghn.decoder(*_decoder_input(ghn, graphs))),
        emit_grouped=medians["grouped"],
        emit_single=medians["single"],
        targets=medians["targets"],
        record=make_record(f"ghn bench kernels --repeats {repeats} --threads {threads}", (0,)),
    )


def _decoder_input(
    ghn: GHN, graphs: list[ParamGraph]
) -> tuple[Float[Tensor, "1 N d"], dict[tuple[int, str], ParamSpec]]:
    return ghn.encoder(GraphBatch.from_graphs(graphs))[None], batch_specs(graphs)


def _one_by_one(ghn: GHN, graphs: list[ParamGraph]) -> list[dict[str, Tensor]]:
    """Emit as `GHN.forward` does, with a stack of one for each tensor."""
    embeddings, specs = _decoder_input(ghn, graphs)
    emitted: list[dict[str, Tensor]] = [{} for _ in graphs]
    for (index, name), spec in specs.items():
        [stack] = ghn.decoder(embeddings, {name: spec}).values()
        sized = apply_magnitude(
            {name: entry(stack, 0)},
            {name: [magnitude_rules(graphs[index])[name]]},
            ghn.config.spread,
            shared_codes=ghn.decoder.shared_codes,
        )
        emitted[index][name] = expand(sized[name])[0]
    return emitted


def _backward(ghn: GHN, emitted: list[dict[str, Tensor]]) -> None:
    tensors = [tensor for parameters in emitted for tensor in parameters.values()]
    ghn.zero_grad()
    torch.autograd.backward(tensors, [torch.ones_like(tensor) for tensor in tensors])


def _run(targets: list[Target], emitted: list[dict[str, Tensor]]) -> None:
    """Take the gradient of each network's loss with respect to its parameters."""
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.arange(IMAGES) % 10
    for target, parameters in zip(targets, emitted, strict=True):
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        loss = F.cross_entropy(target.run(leaves, images), labels)
        torch.autograd.grad(loss, list(leaves.values()))
