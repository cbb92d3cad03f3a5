import pytest

from ghn.benchmarks.init.networks import find_network, list_networks
from ghn.errors import ConfigError


def test_a_sampled_network_without_a_split_is_one_that_no_training_saw():
    assert find_network("vits:2") == find_network("vits:2:test") == list_networks("test", 6)[5]


def test_networks_have_as_many_outputs_as_the_data_have_classes():
    for name in ("convnets:1:wide", "timm:resnet10t", "resnet10t"):
        model = find_network(name).build({"classes": 7}, seed=0).eval()
        assert model(find_network(name).example(32)).shape == (1, 7)


def test_a_network_that_is_not_named_by_a_seed_is_refused():
    with pytest.raises(ConfigError, match="named by a seed"):
        find_network("convnets:small")
