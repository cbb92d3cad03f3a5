import json

import pytest
import timm
import torch
from typer.testing import CliRunner

from ghn.benchmarks import training_cost
from ghn.benchmarks.expansion import Case, Expansion, draw_roofline, measure
from ghn.cli import app
from ghn.engine import GHN
from ghn.errors import ConfigError
from ghn.training.targets import TargetPool


def test_expansion_of_a_model_is_measured_and_drawn(tmp_path):
    result = measure([Case("resnet50", rank=2)], repeats=1, threads=1)
    draw_roofline(result, tmp_path / "roofline.svg")

    [row] = result.rows
    model = timm.create_model("resnet50")
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    assert row.gigabytes == pytest.approx(4e-9 * matrices)
    assert min(row.fill, row.grouped, row.loop, row.products, row.backward) > 0
    assert result.backend.startswith("torch on cpu")
    assert json.loads(json.dumps(result.to_dict()))["rows"][0]["case"]["model"] == "resnet50"
    assert "grouped expansion" in (tmp_path / "roofline.svg").read_text()


def test_ratios_follow_from_the_times():
    row = Expansion(Case("x"), 1.0, fill=2.0, grouped=4.0, loop=8.0, products=1.0, backward=8.0)

    assert row.share_of_fill == 0.5
    assert row.training_over_bound == 2.0
    assert row.to_dict()["loop_over_grouped"] == 2.0


def test_unknown_models_and_missing_devices_are_refused():
    with pytest.raises(ConfigError, match="resnet51"):
        measure([Case("resnet51")])
    if not torch.cuda.is_available():
        done = CliRunner().invoke(app, ["bench", "kernels", "--device", "cuda"])
        assert done.exit_code != 0


def test_emission_tensor_by_tensor_is_what_the_hypernetwork_emits():
    torch.manual_seed(0)
    ghn = GHN()
    pool = TargetPool(("convnets", "vits"), (0.5, 0.5), 4)
    graphs = [pool[i].graph for i in range(4)]

    for grouped, single in zip(ghn(graphs), training_cost._one_by_one(ghn, graphs), strict=True):
        assert grouped.keys() == single.keys()
        for name in grouped:
            torch.testing.assert_close(grouped[name], single[name], atol=1e-5, rtol=1e-4)
