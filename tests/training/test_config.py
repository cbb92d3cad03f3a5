import math

import pytest

from ghn.errors import ConfigError
from ghn.training import TrainConfig

NUMBERS = ("lr", "clip", "penalty", "weight_decay", "ema", "cooldown", "checkpoint_seconds")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_that_no_run_can_use_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        TrainConfig.from_dict({name: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"shares": [0.0, 0.0]},
        {"shares": [-1.0, 2.0]},
        {"shares": [math.nan, 1.0]},
        {"warmup": -5},
        {"eval_every": -1},
        {"eval_networks": -1},
        {"lr": 0.0},
        {"flip": 1.5},
        {"shift": -1},
        {"mixed_precision": "fp16"},
        {"tracker": "foo"},
        {"tracker": ""},
    ],
)
def test_settings_out_of_range_are_refused_with_what_was_given(settings):
    ((name, value),) = settings.items()

    with pytest.raises(ConfigError, match=name) as caught:
        TrainConfig.from_dict(settings)

    assert str(tuple(value) if isinstance(value, list) else value) in str(caught.value)


def test_what_a_run_can_use_is_taken():
    TrainConfig(shares=(0.0, 1.0), warmup=0, eval_networks=0, weight_decay=0.0, tracker="wandb")
