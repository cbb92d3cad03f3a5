import sys

import pytest
import torch
from torch import nn

from ghn.errors import ConfigError, UnknownNameError
from ghn.zoo import ConvNet, families, find_family, list_models, resolve_model, sample


def test_names_of_all_libraries_build_on_meta():
    for name in ("timm:resnet18", "resnet18", "torchvision:resnet18", "vits:3", "convnets:3"):
        model = resolve_model(name, device="meta")
        assert isinstance(model, nn.Module)
        assert next(model.parameters()).is_meta


def test_a_transformers_type_builds_with_config_arguments():
    model = resolve_model("transformers:gpt2", n_layer=1, n_embd=16, n_head=2, vocab_size=32)

    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model(torch.zeros(1, 4, dtype=torch.long)).logits.shape == (1, 4, 32)
    assert type(resolve_model("transformers:bert", device="meta")).__name__ == "BertModel"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ernie4_5", "Ernie4_5ForCausalLM"),  # no encoder, though ernie is
        ("modernbert-decoder", "ModernBertDecoderForCausalLM"),
        ("roformer", "RoFormerModel"),
        ("data2vec-text", "Data2VecTextModel"),
        ("bart", "BartModel"),
    ],
)
def test_language_models_have_their_head_and_encoders_have_none(name, kind):
    assert type(resolve_model(f"transformers:{name}", device="meta")).__name__ == kind


def test_an_encoder_that_is_to_be_a_decoder_has_a_head():
    model = resolve_model("transformers:bert", device="meta", is_decoder=True)

    assert type(model).__name__ == "BertLMHeadModel"


def test_a_factory_in_a_file_builds(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\ndef net(width=3):\n    return nn.Linear(2, width)\n")

    assert resolve_model(f"{path}:net", width=5).out_features == 5
    with pytest.raises(UnknownNameError, match="'net'"):
        resolve_model(f"{path}:nett")
    with pytest.raises(ConfigError, match="no file"):
        resolve_model(f"{tmp_path}/other.py:net")


def test_a_file_imports_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [*sys.path])
    (tmp_path / "neighbour_of_net.py").write_text("from torch.nn import Linear\n")
    (tmp_path / "net.py").write_text(
        "from neighbour_of_net import Linear\ndef net(): return Linear(2, 3)\n"
    )

    assert resolve_model(f"{tmp_path}/net.py:net").out_features == 3


def test_a_folder_called_like_a_type_does_not_stand_in_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()

    assert resolve_model("transformers:gpt2", "meta").config.model_type == "gpt2"


def test_a_file_named_like_a_module_does_not_replace_it(tmp_path):
    import colorsys

    path = tmp_path / "colorsys.py"
    path.write_text("from torch import nn\ndef net():\n    return nn.Linear(2, 2)\n")

    resolve_model(f"{path}:net")

    assert sys.modules["colorsys"] is colorsys


def test_unknown_names_and_arguments_are_answered_in_words():
    with pytest.raises(UnknownNameError, match="resnet50"):
        resolve_model("timm:resnet5o")
    with pytest.raises(UnknownNameError, match="gpt2"):
        resolve_model("transformers:gpt-2")
    with pytest.raises(UnknownNameError, match="unknown family"):
        resolve_model("keras:resnet50")
    with pytest.raises(ConfigError, match="cannot build 'timm:resnet18'"):
        resolve_model("timm:resnet18", colour="red")


def test_families_are_listed_with_their_models():
    samplers = {"vits", "vits-1k", "convnets", "gpts", "gpts-1k"}
    assert {"timm", "torchvision", "transformers", *samplers} == set(families())
    assert "timm:resnet50" in list_models("timm")
    assert len(list_models("timm")) > 1000


@pytest.mark.parametrize(
    ("family", "model"),
    [
        ("timm", "resnet10t"),
        ("torchvision", "squeezenet1_1"),
        ("transformers", "fnet"),
        ("convnets", "3:wide"),
        ("gpts", "0"),
        ("vits", "1:deep"),
    ],
)
def test_models_of_every_family_are_built_fed_and_traced_alike(family, model):
    found = find_family(family)

    network, inputs = found.build(model), found.example(model)
    args, kwargs = inputs.on(torch.device("cpu"))
    network.eval()(*args, **kwargs)  # takes what the family says it takes

    graph = found.graph(model)
    used = {p: name for name, p in network.named_parameters()}.values()
    assert set(used) == graph.specs.keys() | set(graph.untouched)


@pytest.mark.parametrize("family", ["timm", "torchvision", "transformers", "vits"])
def test_families_are_sampled_by_seed(family):
    found = find_family(family)

    drawn = [found.sample(seed) for seed in range(8)]

    assert drawn == [found.sample(seed) for seed in range(8)]
    assert len(set(drawn)) > 6


def test_samplers_have_splits_and_libraries_have_none():
    assert find_family("vits").sample(2, "wide") == "2:wide"
    with pytest.raises(ConfigError, match="split must be"):
        find_family("vits").sample(2, "broad")
    with pytest.raises(ConfigError, match="timm are not split"):
        find_family("timm").sample(2, "wide")
    with pytest.raises(UnknownNameError, match="timm"):
        find_family("tim")


def test_a_sampled_network_is_built_from_its_name_with_fields_of_its_architecture():
    model = resolve_model("convnets:3:wide", classes=7)
    wanted = sample("convnets", 3, "wide").replace(classes=7)
    assert list(model.state_dict()) == list(ConvNet(wanted).state_dict())
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ConfigError, match="klasses"):
        resolve_model("convnets:3", klasses=7)
