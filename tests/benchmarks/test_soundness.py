import copy

import pytest
import torch
from torch import nn

from ghn.benchmarks.soundness import (
    check_all,
    check_prediction,
    degenerate,
    draw_names,
    layer_stds,
)
from ghn.engine import GHN
from ghn.errors import ConfigError


def net():
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 5)),
    )


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (torch.full((4, 5), 0.3), "constant"),
        (torch.arange(1.0, 5)[:, None] * torch.arange(1.0, 6), "rank 1"),
        (torch.eye(4)[[0, 1, 2, 1]], "rows twice"),
        (torch.eye(4), ""),
        (torch.ones(1, 5), ""),
    ],
)
def test_what_is_wrong_with_a_matrix_is_named(matrix, reason):
    assert degenerate(matrix) == reason


def test_deviations_are_those_of_the_layers_outputs_and_leave_no_mark():
    torch.manual_seed(0)
    model = net().eval()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(4, 3, 8, 8)

    found = layer_stds(model, ((images,), {}))

    assert list(found) == ["0", "1", "6"]
    assert found["0"] == pytest.approx(model[0](images).std().item(), rel=1e-5)
    assert found["1"] == pytest.approx(1.0, abs=0.01)  # normalised by the batch itself
    assert not model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_prediction_is_sound_and_one_that_is_spoilt_is_not(monkeypatch):
    torch.manual_seed(0)
    ghn = GHN()

    good = check_prediction("net", net(), ghn)

    assert good.sound
    assert (good.tensors, good.kept, good.kept_share) == (6, {}, 0.0)

    def spoil(model, **options):
        report = predict(model, **options)
        with torch.no_grad():
            model[0].weight.mul_(1e3)
            model[6].weight[1] = model[6].weight[0]
        return report

    import ghn.benchmarks.soundness as module

    predict = module.predict_params
    monkeypatch.setattr(module, "predict_params", spoil)
    bad = check_prediction("net", net(), ghn)

    assert not bad.sound
    assert bad.far["0"] > 10
    assert bad.degenerate == {"6.weight": "rows twice"}


def test_models_are_drawn_by_seed_and_by_size():
    names = [f"vits:{seed}" for seed in range(20)]

    first, again, other = (draw_names(names, 5, seed, 10**7) for seed in (0, 0, 1))

    assert first == again != other
    assert len(set(first)) == 5
    with pytest.raises(ConfigError, match="at most 10 "):
        draw_names(names, 5, 0, 10)


def test_each_model_is_checked_and_a_fault_of_one_is_its_own(tmp_path):
    GHN().save_pretrained(tmp_path / "untrained")

    found = check_all(["convnets:1", "no:such"], 1, str(tmp_path / "untrained"))

    assert [f.name for f in found] == ["convnets:1", "no:such"]
    assert found[0].error == ""
    assert found[0].tensors > 0
    assert "UnknownNameError" in found[1].error
