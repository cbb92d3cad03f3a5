import json
import re

import pytest
import torch
from typer.testing import CliRunner

from ghn.benchmarks.outcome import fast_config
from ghn.benchmarks.timing import threads_of_torch
from ghn.cli import app
from ghn.engine import GHN, GHNConfig

TINY = ["--steps", "3", "--model", "PooledViT", "--batch", "4", "--test-images", "50"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ghn") / "untrained"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GHN(GHNConfig()).save_pretrained(folder)
    return str(folder)


def test_the_demo_prints_what_it_measured_and_writes_a_report_without_the_network(
    checkpoint, tmp_path
):
    out, picture = tmp_path / "report.html", tmp_path / "curves.png"
    arguments = ["demo", "--fast", *TINY, "--checkpoint", checkpoint, "--out", str(out), "--json"]

    result = CliRunner().invoke(app, [*arguments, "--picture", str(picture)])

    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout[result.stdout.index("{") :])
    assert found["dataset"] == "digits"
    assert found["config"]["steps"] == 3  # flags go before --fast
    page = out.read_text()
    assert "PooledViT" in page
    assert not re.search(r"(src|href)=[\"']https?:", page)
    assert "default-src 'none'" in page  # the browser may fetch nothing
    assert picture.stat().st_size > 5_000


def test_two_runs_of_the_demo_measure_the_same_whatever_threads_torch_had(checkpoint):
    from ghn.benchmarks.demo import run_demo

    config = fast_config().replace(
        models=("PooledViT",), steps=3, batch=4, test_images=50, checkpoint=checkpoint, seeds=(0,)
    )

    first = run_demo(config)
    with threads_of_torch(2):
        second = run_demo(config)

    assert first.models[0].runs == second.models[0].runs
    assert first.record.machine["threads"] == second.record.machine["threads"] == 1
    starts = first.models[0].runs
    assert starts["default"][0].losses != starts["predicted"][0].losses
