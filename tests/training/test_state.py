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
    file = save_state(tmp_path, 7, *saved, {"skipped": 3})
    model, (muon, adamw), average = parts(seed=1)

    rest = load_state(file, model, (muon, adamw), average)

    assert rest == {"step": 7, "skipped": 3}
    assert torch.equal(model.weight, saved[0].weight)
    assert torch.equal(average["bias"], saved[2]["bias"])
    moments, expected = adamw.state[model.bias], saved[1][1].state[saved[0].bias]
    assert all(torch.equal(moments[k], expected[k]) for k in ("step", "exp_avg", "exp_avg_sq"))
    assert muon.state[model.weight].keys() == {"momentum_buffer"}
    expected = saved[1][0].state[saved[0].weight]["momentum_buffer"]
    assert torch.equal(muon.state[model.weight]["momentum_buffer"], expected)


def test_moments_come_to_where_the_parameters_are(tmp_path):
    file = save_state(tmp_path, 7, *parts(), {})
    model = nn.Linear(3, 2, device="meta")  # as good as a GPU: somewhere else
    optimizers = Muon([model.weight]), torch.optim.AdamW([model.bias])

    with pytest.warns(UserWarning, match="meta"):
        load_state(file, model, optimizers, {})

    moments = [*optimizers[0].state[model.weight].values()]
    moments += optimizers[1].state[model.bias].values()
    assert len(moments) == 4
    assert {value.device.type for value in moments} == {"meta"}


def test_the_newest_two_stay_and_what_a_killed_process_left_is_neither_taken_nor_kept(tmp_path):
    for step in (1, 2, 3):
        save_state(tmp_path, step, *parts(), {})
    left = tmp_path / ".step-00000009.safetensors.x.tmp"
    left.write_text("half of it")

    assert newest(tmp_path) == tmp_path / "step-00000003.safetensors"
    save_state(tmp_path, 4, *parts(), {})

    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["step-00000003.safetensors", "step-00000004.safetensors"]


def test_copies_beside_a_runs_checkpoints_are_neither_taken_nor_removed(tmp_path):
    for step in (99_999_999, 100_000_000):
        file = save_state(tmp_path, step, *parts(), {})
    copies = {tmp_path / f"step-{name}.safetensors" for name in ("00000001-kept", "best")}
    for copy in copies:
        copy.write_bytes(file.read_bytes())

    assert newest(tmp_path) == file
    save_state(tmp_path, 100_000_001, *parts(), {})

    assert {*tmp_path.iterdir()} == {*copies, file, tmp_path / "step-100000001.safetensors"}


def test_a_damaged_or_foreign_checkpoint_is_refused_in_words(tmp_path):
    file = save_state(tmp_path, 1, *parts(), {})
    other = nn.Linear(4, 2)
    with pytest.raises(CheckpointError, match="other sizes"):
        load_state(file, other, [torch.optim.AdamW(other.parameters())], {})
    whole = file.read_bytes()
    for damaged in (whole[:-8], whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:]):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"cut off|damaged.*checkpoint before it"):
            load_state(file, *parts())
