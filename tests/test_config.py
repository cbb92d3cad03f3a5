from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch

from ghn.benchmarks.init import InitConfig
from ghn.benchmarks.mip.bench import MIPConfig
from ghn.benchmarks.outcome import DemoConfig
from ghn.config import Config, plain_values
from ghn.errors import ConfigError
from ghn.methods.registry import METHODS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner(Config):
    strength: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer(Config):
    steps: int = 1
    rate: float = 0.1
    sizes: tuple[int, ...] = ()
    fast: bool = False
    name: str | None = None
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 2.5}, {"steps": "5"}, {"steps": None}, {"steps": True}, {"steps": False},
     {"rate": "1"}, {"rate": True}, {"rate": 1j}, {"sizes": 3}, {"sizes": (1, 2.5)}, {"fast": 1},
     {"name": 3}, {"inner": 3}, {"inner": {"strength": "1"}}, {"inner": {"strenght": 1.0}}],
    ids=str,
)  # fmt: skip
def test_a_value_of_another_type_is_refused_by_name_however_a_config_is_made(wrong):
    ((name, _),) = wrong.items()
    for make in (
        lambda: Outer(**wrong),
        lambda: Outer.from_dict(wrong),
        lambda: Outer().replace(**wrong),
    ):
        with pytest.raises(ConfigError, match=rf"Outer\.{name}|Inner"):
            make()


def test_plain_values_become_those_of_the_fields():
    made = Outer(
        steps=np.int64(3), rate=1, sizes=[np.int32(4), 5], inner={"strength": np.float32(2)}
    )

    assert made == Outer(steps=3, rate=1.0, sizes=(4, 5), inner=Inner(strength=2.0))
    assert [type(v) for v in (made.steps, made.rate, made.sizes[0])] == [int, float, int]
    assert made == Outer.from_dict(made.to_dict())
    assert made == copy.deepcopy(made) == pickle.loads(pickle.dumps(made))
    assert math.isnan(Outer(rate=math.nan).rate)


def test_ranges_are_checked_after_types_and_unknown_names_are_pythons_error():
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        Outer(steps=0)
    with pytest.raises(TypeError, match="stepps"):
        Outer(stepps=1)


def test_what_a_file_gives_back_is_known_before_it_is_written():
    found = plain_values({"hidden": (4,), "inner": Inner(), 1: [None, True, "x"]}, "settings")

    assert found == {"hidden": [4], "inner": {"type": "Inner", "strength": 1.0},
                     "1": [None, True, "x"]}  # fmt: skip
    with pytest.raises(ConfigError, match=r"settings must be texts.*tensor\(1\.\)"):
        plain_values({"t": torch.tensor(1.0)}, "settings")


RUNS = ("continual", "hypercrl", "neumeta", "bayesian")


@pytest.mark.parametrize(
    "config",
    [*(METHODS[name].load().RunConfig for name in RUNS), InitConfig, MIPConfig, DemoConfig],
)
def test_no_seed_counts_twice_in_any_table(config):
    with pytest.raises(ConfigError, match=r"seeds must differ.*\(1, 2, 1\)"):
        config(seeds=(1, 2, 1))
