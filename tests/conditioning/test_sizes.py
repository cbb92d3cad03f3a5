import pytest
import torch

from ghn.conditioning import Size, SizeConfig
from ghn.errors import ConfigError, UnknownNameError


def size():
    torch.manual_seed(0)
    return Size(SizeConfig(names=("layer3", "layer4"), full=(64, 128), dim=5))


def test_sizes_that_are_not_named_are_full():
    condition = size()

    some, single = condition.encode({"layer3": 40})
    all_named, _ = condition.encode({"layer4": 128, "layer3": 40})

    assert single
    assert torch.equal(some, all_named)
    assert not torch.equal(some, condition.encode({})[0])


def test_only_shares_of_full_sizes_count():
    double = Size(SizeConfig(names=("layer3", "layer4"), full=(128, 256), dim=5))
    double.load_state_dict(size().state_dict())

    assert torch.equal(double.encode({"layer3": 80})[0], size().encode({"layer3": 40})[0])


@pytest.mark.parametrize("value", [{"layer3": 0}, {"layer3": 1.5}, {"layer3": True}, 0.5, [], "a"])
def test_what_is_no_size_is_refused(value):
    with pytest.raises(ConfigError, match="size"):
        size().encode(value)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="layer3, layer4"):
        size().encode({"layer5": 3})


@pytest.mark.parametrize("wrong", [{"full": (64,)}, {"names": ("a", "a")}, {"full": (0, 1)}])
def test_a_config_needs_a_full_size_for_each_name(wrong):
    with pytest.raises(ConfigError):
        SizeConfig(**{"names": ("a", "b"), "full": (1, 2), **wrong})
