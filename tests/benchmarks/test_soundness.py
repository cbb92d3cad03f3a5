import dataclasses
import json

import pytest
import torch
from torch import nn

from ghn.benchmarks.soundness import (
    Soundness,
    check_prediction,
    check_sample,
    degenerate,
    drawn_order,
)
from ghn.benchmarks.soundness_report import save_checked
from ghn.engine import GHN
from ghn.errors import ConfigError
from ghn.zoo.library import resolve_model


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


def test_models_are_drawn_by_seed():
    names = [f"vits:{seed}" for seed in range(20)]

    first, again, other = (drawn_order(names, seed) for seed in (0, 0, 1))

    assert first == again != other
    assert sorted(first) == sorted(other) == sorted(names)


def elements(name):
    return sum(p.numel() for p in resolve_model(name, device="meta").parameters())


def test_each_model_is_checked_once_and_a_fault_of_one_is_its_own(tmp_path):
    GHN().save_pretrained(tmp_path / "untrained")
    names, journal = ["convnets:1", "no:such", "vits:0"], tmp_path / "journal.jsonl"
    settings = {"jobs": 1, "checkpoint": str(tmp_path / "untrained"), "journal": journal}

    found = check_sample(names, 3, **settings)
    written = journal.read_text()
    with journal.open("a") as file:
        file.write('{"name": "cut o')
    again = check_sample(names, 3, **settings)

    assert [f.name for f in found] == drawn_order(names, 0)
    by_name = {f.name: f for f in found}
    assert by_name["convnets:1"].error == ""
    assert by_name["convnets:1"].elements == elements("convnets:1")
    assert "UnknownNameError" in by_name["no:such"].error
    assert again == found
    assert journal.read_text().startswith(written)
    assert len(journal.read_text().splitlines()) == 4  # nothing was checked again


def test_models_that_are_too_large_are_passed_over_and_others_take_their_place():
    names = [f"convnets:{seed}" for seed in range(6)]
    sizes = {name: elements(name) for name in names}
    limit = sorted(sizes.values())[2]
    wanted = [name for name in drawn_order(names, 4) if sizes[name] <= limit][:2]

    found = check_sample(names, 2, seed=4, limit=limit, jobs=1)

    assert [f.name for f in found] == wanted
    with pytest.raises(ConfigError, match="at most 10 "):
        check_sample(names[:1], 1, limit=10, jobs=1)


def test_what_was_found_is_saved_with_the_command_and_the_failures_by_name(tmp_path):
    good = Soundness("timm:good", 10, 4, layers=3, finite=True, differ=True, scaled=1)
    far = dataclasses.replace(good, name="timm:far", far={"a": 20.0, "b": 0.01})
    bad = Soundness("timm:bad", error="RuntimeError: no")

    save_checked("timm", [good, far, bad], tmp_path, "the command")

    record = json.loads((tmp_path / "predict-timm.json").read_text())
    assert record["command"] == "the command"
    assert record["summary"]["within"] == record["summary"]["sound"] == 1
    assert record["summary"]["layers_far"] == 2
    text = (tmp_path / "predict-timm.md").read_text()
    assert "| far | 2 of 3 | 0.01 to 20 | b |  |" in text
    assert "RuntimeError: no" in text
    assert "All holds for 1: good." in text


def test_two_texts_are_two_inputs():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(120, 16), nn.Linear(16, 120)

        def forward(self, ids):
            return self.head(self.table(ids))

    assert check_prediction("text", Text(), GHN()).differ


def test_outputs_that_are_alike_count_as_a_fault_where_the_models_own_differ():
    class Thresholded(nn.Module):
        """Finds nothing unless its bias is raised."""

        def __init__(self):
            super().__init__()
            self.map = nn.Linear(8, 4)

        def forward(self, numbers):
            return (self.map(numbers) > 1e3).float()

    found = check_prediction("nothing", Thresholded(), GHN())

    assert (found.differ, found.own_differ, found.output_fault) == (False, False, "")
    worse = dataclasses.replace(found, own_differ=True)
    assert worse.output_fault == "two inputs give the same outputs"
    assert not worse.sound
