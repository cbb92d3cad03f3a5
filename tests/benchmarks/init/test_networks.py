import pytest
import torch

from ghn.benchmarks.init.networks import find_network, list_networks
from ghn.errors import ConfigError
from ghn.zoo import find_architecture


def test_a_sampled_network_without_a_split_is_one_that_no_training_saw():
    assert find_network("vits:2") == find_network("vits:2:test") == list_networks("test", 6)[5]


def test_networks_have_as_many_outputs_as_the_data_have_classes():
    for name in ("convnets:1:wide", "timm:resnet10t", "resnet10t"):
        model = find_network(name).build({"classes": 7}, seed=0).eval()
        assert model(find_network(name).example(32)).shape == (1, 7)


def test_networks_fit_the_data_they_are_for():
    images = torch.zeros(1, 3, 64, 64)
    for name in ("vits:1:test", "timm:vit_tiny_patch16_224", "timm:swin_tiny_patch4_window7_224"):
        model = find_network(name, side=64).build({"classes": 7, "image": 64}, seed=0).eval()
        assert model(images).shape == (1, 7)

    texts = torch.zeros(1, 700, dtype=torch.int64)
    model = find_network("gpts:1").build({"vocabulary": 300, "context": 700}, seed=0).eval()
    assert model(texts).shape == (1, 700, 300)


def test_what_a_network_reads_is_known():
    assert find_network("transformers:gpt2").modality == "text"
    assert find_network("transformers:vit").modality == "vision"
    assert find_network("gpts:1").modality == "text"


@pytest.mark.parametrize("split", ["test", "gpts"])
def test_no_two_networks_of_a_split_are_alike(split):
    names = [n.name.split(":", 1) for n in list_networks(split, 20)]
    architectures = [find_architecture(family, rest) for family, rest in names]

    assert len({str(a.to_dict()) for a in architectures}) == 20


@pytest.mark.parametrize("context", [256, 1024])
def test_no_two_networks_are_alike_once_they_fit_the_data(context):
    data = {"context": context, "vocabulary": 256}
    networks = list_networks("gpts", 12, context=context)

    built = [n.build(data, 0, "meta").config for n in networks]

    assert len(set(built)) == 12
    assert {n.group for n in networks} == {"GPT"}


def test_a_network_that_is_not_named_by_a_seed_is_refused():
    with pytest.raises(ConfigError, match="named by a seed"):
        find_network("convnets:small")


def test_more_networks_than_a_split_has_are_refused():
    with pytest.raises(ConfigError, match="'gpts' has 199 networks, got networks=300"):
        list_networks("gpts", 300)


def test_one_network_has_one_name():
    assert find_network("vits:03") == find_network("vits:3")
    with pytest.raises(ConfigError, match="named by a seed"):
        find_network("vits:²")
