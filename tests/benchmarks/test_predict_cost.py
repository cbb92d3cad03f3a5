import dataclasses
import subprocess
import sys

import pytest
from torch import nn

from ghn.benchmarks.predict_cost import (
    PredictCost,
    PredictCosts,
    draw_costs,
    measure_costs,
    measure_one,
)
from ghn.benchmarks.records import make_record
from ghn.engine import GHN, GHNConfig
from ghn.errors import ConfigError

MIB = 2**20


HELD = """
import hashlib
from ghn.benchmarks.memory import peak_memory
with peak_memory() as found:
    held = bytearray(b"x" * (64 * 2**20))
    for _ in range(5):
        hashlib.sha256(held)  # lets the watching thread run
    del held
print(found[0])
"""


def test_memory_that_was_held_and_freed_again_is_seen():
    # In a process of its own: memory that other tests free meanwhile would hide it.
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)

    assert 60 <= float(done.stdout) <= 200


def test_a_model_is_predicted_from_meta_and_in_place_and_its_size_is_that_of_its_parameters(
    tmp_path, monkeypatch
):
    GHN(GHNConfig()).save_pretrained(tmp_path / "untrained")
    monkeypatch.setattr(
        "ghn.benchmarks.predict_cost.MODELS",
        {"net": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))},
    )

    cost = measure_one("net", 2, 1, str(tmp_path / "untrained"))

    assert cost.model_mib * MIB == 4 * (8 * 27 + 8 + 4 * 72 + 4)
    assert min(cost.own, cost.from_meta, cost.in_place) > 0


def test_ratios_are_of_the_models_own_initialization():
    found = PredictCost("net", 100.0, 2.0, 1.0, 0.5, 150.0).to_dict()

    assert found["from_meta_over_own"] == 0.5
    assert found["in_place_over_own"] == 0.25
    assert found["peak_over_model"] == 1.5


def test_the_picture_is_drawn(tmp_path):
    row = PredictCost("net", 100.0, 2.0, 1.0, 0.5, 150.0)
    costs = PredictCosts([row, dataclasses.replace(row, model="other")], make_record("x"))

    draw_costs(costs, tmp_path / "costs.svg")

    assert "<svg" in (tmp_path / "costs.svg").read_text()


def test_an_unknown_model_is_refused_before_anything_is_measured():
    with pytest.raises(ConfigError, match="gpt2-large"):
        measure_costs(("gpt5",))
