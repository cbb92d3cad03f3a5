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
        {"shares": [1e308, 1e308]},
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


def test_a_name_or_a_batch_that_would_fail_later_is_refused_at_once():
    with pytest.raises(ConfigError, match="out must name a folder"):
        TrainConfig(out="")
    with pytest.raises(ConfigError, match="batch must be at least 2"):
        TrainConfig(batch=1)
    TrainConfig(batch=1, families=("gpts",), shares=(1.0,), data="books")


def test_a_hypernetwork_writes_for_what_the_families_read():
    texts = {"families": ["gpts"], "shares": [1.0], "data": "books"}

    assert TrainConfig.from_dict({**texts, "ghn": {}}).ghn.modality == "text"
    assert TrainConfig.from_dict({"ghn": {"modality": "text"}}).ghn.modality == "vision"


def test_a_wrong_setting_of_a_named_decoder_is_told_without_the_other_decoders():
    decoder = {"type": "LowRankDecoderConfig", "rowz": 1}

    with pytest.raises(ConfigError, match=r"^LowRankDecoderConfig has no setting 'rowz'.*'rows'"):
        TrainConfig.from_dict({"ghn": {"decoder": decoder}})


def test_what_a_run_can_use_is_taken():
    TrainConfig(shares=(0.0, 1.0), warmup=0, eval_networks=0, weight_decay=0.0, tracker="wandb")
