import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ghn.errors import CheckpointError
from ghn.training.muon import Muon
from ghn.training.state import load_state, newest, save_state


def parts(seed=0):
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizers = Muon([model.weight]), torch.optim.AdamW([model.bias], lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    return model, optimizers, {k: v.detach() * 0.5 for k, v in model.named_parameters()}


def test_weights_moments_averages_and_counters_come_back(tmp_path):
    saved = parts()
    folder = save_state(tmp_path, 7, *saved, {"skipped": 3})
    model, (muon, adamw), average = parts(seed=1)

    rest = load_state(folder, model, (muon, adamw), average)

    assert rest == {"step": 7, "skipped": 3}
    assert torch.equal(model.weight, saved[0].weight)
    assert torch.equal(average["bias"], saved[2]["bias"])
    moments, expected = adamw.state[model.bias], saved[1][1].state[saved[0].bias]
    assert all(torch.equal(moments[k], expected[k]) for k in ("step", "exp_avg", "exp_avg_sq"))
    assert muon.state[model.weight].keys() == {"momentum_buffer"}
    expected = saved[1][0].state[saved[0].weight]["momentum_buffer"]
    assert torch.equal(muon.state[model.weight]["momentum_buffer"], expected)


def test_moments_come_to_where_the_parameters_are(tmp_path):
    folder = save_state(tmp_path, 7, *parts(), {})
    model = nn.Linear(3, 2, device="meta")  # as good as a GPU: somewhere else
    optimizers = Muon([model.weight]), torch.optim.AdamW([model.bias])

    with pytest.warns(UserWarning, match="meta"):
        load_state(folder, model, optimizers, {})

    moments = [*optimizers[0].state[model.weight].values()]
    moments += optimizers[1].state[model.bias].values()
    assert len(moments) == 4
    assert {value.device.type for value in moments} == {"meta"}


def test_the_newest_two_stay_and_what_a_killed_process_left_is_neither_taken_nor_kept(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, step, *parts(), {})
    left = tmp_path / "step-00000009.tmp"
    left.mkdir()
    (left / "state.json").write_text("{}")

    assert newest(tmp_path) == tmp_path / "step-00000003"
    save_state(tmp_path, 4, *parts(), {})

    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_a_damaged_or_foreign_checkpoint_is_refused_in_words(tmp_path):
    folder = save_state(tmp_path, 1, *parts(), {})
    other = nn.Linear(4, 2)
    with pytest.raises(CheckpointError, match="other sizes"):
        load_state(folder, other, [torch.optim.AdamW(other.parameters())], {})
    tensors = Path(folder / "state.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"damaged.*checkpoint before it"):
        load_state(folder, *parts())
    save_state(tmp_path, 1, *parts(), {})
    (folder / "state.json").write_text(json.dumps({"step": 1})[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(folder, *parts())


def test_a_run_without_checkpoints_has_no_newest(tmp_path):
    assert newest(tmp_path) is None
    assert newest(tmp_path / "nowhere") is None
