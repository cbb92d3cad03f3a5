"""Values beside meta tensors; the oracle is the same code run on the CPU."""

from __future__ import annotations

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

    assert meta == real
    assert meta.untouched == []


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
