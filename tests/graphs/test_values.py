"""Values beside meta tensors; the oracle is the same code run on the CPU."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
import transformers
from torch import Tensor, nn

from ghn.graphs import trace
from ghn.graphs.record import Recorder
from ghn.graphs.values import Values


def grid_positions(grid: Tensor) -> list[int]:
    """What vision towers do with a grid: loops, sums and splits by its values."""
    t, h, w = grid[0].tolist()
    rows = torch.arange(h).repeat_interleave(w)
    columns = torch.arange(w).repeat(h)
    inside = (rows < h // 2) & (columns < int(grid[0, 2]) // 2)
    return [*torch.stack([rows, columns], -1)[inside].flatten().tolist(), t]


def in_place(grid: Tensor) -> list[int]:
    lengths = torch.zeros(4, dtype=torch.long)
    lengths[1:] = torch.cumsum(grid[0], 0)
    lengths[0] += 7
    view = lengths.view(2, 2)
    view[0] *= 2
    return lengths.tolist()


def lookups(grid: Tensor) -> list[int]:
    mask = torch.tensor([True, False, True])
    picked = grid[0][mask]
    table = torch.full((8,), -1)
    table[picked] = torch.nonzero(mask).squeeze(-1)
    return [*table.tolist(), int(torch.unique(grid).numel()), int((grid > 2).sum())]


@pytest.mark.parametrize("code", [grid_positions, in_place, lookups])
def test_what_follows_from_known_values_is_known(code):
    grid = torch.tensor([[2, 4, 6]])
    values = Values()
    recorder = Recorder(nn.Linear(1, 1), values)
    twin = torch.empty_like(grid, device="meta")
    values.put(twin, grid.clone())

    with recorder.recording(), torch.device("meta"):
        found = code(twin)

    assert found == code(grid)
    assert not any(call.name == "_local_scalar_dense" for call in recorder.calls)


def test_an_unknown_write_makes_all_views_unknown():
    values = Values()
    with Recorder(nn.Linear(1, 1), values).recording(), torch.device("meta"):
        known = torch.arange(4)
        view = known[:2]
        view.add_(torch.empty(2, dtype=torch.long).random_(3))

    assert values.get(known) is None
    assert values.get(view) is None


def test_what_is_unknown_is_answered_by_one_and_noted():
    values = Values()
    recorder = Recorder(nn.Linear(1, 1), values)
    unknown = torch.empty(3, device="meta")

    with recorder.recording(), torch.device("meta"):
        chosen = unknown[unknown > 0]
        listed = (unknown > 0).tolist()
        text = f"expert {unknown.argmax()}"

    assert chosen.shape == (3,)
    assert (listed, text) == ([True, True, True], "expert 1")
    assert sum(call.name == "_local_scalar_dense" for call in recorder.calls) == 3


def test_routing_to_experts_traces_alike_with_and_without_values(monkeypatch):
    # Tokens enough that each expert gets some: the real run reaches all, the trace takes all.
    config = transformers.SwitchTransformersConfig(
        vocab_size=64, d_model=32, d_kv=16, d_ff=48, num_heads=2, num_layers=2,
        num_decoder_layers=2, num_experts=2, expert_capacity=64, num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    )  # fmt: skip
    model = transformers.SwitchTransformersModel(config).eval()
    ids = torch.randint(3, 60, (2, 40), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "decoder_input_ids": ids, "use_cache": False}

    meta = trace(model, inputs)
    monkeypatch.setattr(sys.modules["ghn.graphs.trace"], "META", torch.device("cpu"))
    real = trace(model, inputs)

    assert dataclasses.replace(meta, assumptions=()) == dataclasses.replace(real, assumptions=())
    assert all("took it for true" in note for note in meta.assumptions)
    assert all("the value it had" in note for note in real.assumptions)
    assert meta.untouched == []


class Switched(nn.Module):
    """Reads a tensor of its own to choose a layer and to count rounds."""

    def __init__(self, on: Tensor, change: str = "none", persistent: bool = True) -> None:
        super().__init__()
        self.yes, self.no = nn.Linear(4, 4), nn.Linear(4, 4)
        self.change = change
        if persistent:
            self.register_buffer("on", on)
        else:
            self.on = on

    def forward(self, x: Tensor) -> Tensor:
        CHANGES[self.change](self)
        x = self.yes(x) if self.on else self.no(x)
        for _ in range(int(self.on)):
            x = x.relu()
        return x


def add(module: Switched) -> None:
    module.on += 2


def fill_data(module: Switched) -> None:
    module.on.data.fill_(2)


def set_data(module: Switched) -> None:
    module.on.data = torch.ones_like(module.on)


def write_in_a_view(module: Switched) -> None:
    module.on.view(1)[0] = 1


CHANGES = {
    "none": lambda module: None,
    "add": add,
    "fill data": fill_data,
    "set data": set_data,
    "view": write_in_a_view,
}


@pytest.fixture
def real_trace(monkeypatch):
    """Trace with values, on the CPU."""

    def run(model, inputs):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["ghn.graphs.trace"], "META", torch.device("cpu"))
            return trace(model, inputs)

    return run


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(
    "on", [torch.tensor(False), torch.tensor(True), torch.tensor(0.0), torch.tensor(3)]
)
def test_control_flow_reads_the_values_of_a_models_own_tensors(on, persistent, real_trace):
    model, x = Switched(on, persistent=persistent), torch.zeros(2, 4)

    found = trace(model, x)

    assert found == real_trace(model, x)
    assert found.assumptions == ()
    assert sum(node.op == "relu" for node in found.nodes) == int(on)


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_a_tensor_changed_during_the_pass_has_its_new_value(change, real_trace):
    on = torch.tensor(0)
    model, x = Switched(on, change), torch.zeros(2, 4)

    assert trace(model, x) == real_trace(model, x)
    assert model.on is on
    assert int(on) == 0


def test_the_trace_of_a_switch_set_from_the_input_is_noted():
    class Set(Switched):
        def forward(self, x: Tensor) -> Tensor:
            self.on.data.copy_(x.sum() > 0)
            return super().forward(x)

    graph = trace(Set(torch.tensor(False)), torch.zeros(2, 4))

    assert "took it for true" in graph.assumptions[0]


class Strided(nn.Module):
    """Keeps its stride in a buffer, as codecs do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.config = object()
        self.register_buffer("stride", torch.tensor(2))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Strided):
            module.stride.fill_(2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(p) for p in x.split(int(self.stride))])


def test_a_buffer_lost_on_meta_has_the_value_of_its_initialization():
    with torch.device("meta"):
        meta = Strided()
    x = torch.empty(6, 4)

    assert [n.op for n in trace(meta, x).nodes] == [n.op for n in trace(Strided(), x).nodes]
    assert sum(n.op == "linear" for n in trace(meta, x).nodes) == 3
