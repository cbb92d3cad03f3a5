"""One model, one graph: on the meta device and in a real run, wrapped, compiled, cast, adapted."""

import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

from ghn.graphs import ParamGraph, trace

TIMM = (
    "resnet18",
    "resnetv2_50",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "convnext_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "mixer_s32_224",
    "densenet121",
    "regnety_002",
    "beit_base_patch16_224",
    "coat_lite_tiny",
    "xcit_nano_12_p16_224",
    "nfnet_l0",
    "halonet26t",
)
TORCHVISION = ("resnet18", "mobilenet_v2", "googlenet", "squeezenet1_1", "swin_t", "maxvit_t")
TRANSFORMERS = {
    "gpt2": {"n_layer": 2},
    "llama": {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96},
    "bert": {"num_hidden_layers": 2},
    "t5": {"num_layers": 2},
    "bart": {"encoder_layers": 1, "decoder_layers": 1},
    "opt": {"num_hidden_layers": 2},
    "albert": {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4},
    "vit": {"num_hidden_layers": 2},
    "whisper": {"encoder_layers": 1, "decoder_layers": 1},
    "mamba": {"num_hidden_layers": 2},
}
WIDTHS = {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 99}


def build(name):
    library, _, rest = name.partition(":")
    if library == "timm":
        return timm.create_model(rest)
    if library == "torchvision":
        return (
            torchvision.models.get_model(rest, init_weights=False)
            if rest == "googlenet"
            else (torchvision.models.get_model(rest))
        )
    from transformers import AutoConfig, AutoModel

    settings = TRANSFORMERS[rest] | (WIDTHS if rest == "llama" else {})
    return AutoModel.from_config(AutoConfig.for_model(rest, **settings))


NAMES = (
    *(f"timm:{name}" for name in TIMM),
    *(f"torchvision:{name}" for name in TORCHVISION),
    *(f"transformers:{name}" for name in TRANSFORMERS),
)
# One of a kind; the others are slow ones.
QUICK = (
    *("timm:resnet18", "timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:nfnet_l0"),
    *("timm:mobilenetv3_small_050", "torchvision:googlenet", "torchvision:swin_t"),
    *("transformers:gpt2", "transformers:t5", "transformers:llama", "transformers:mamba"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]
)
def test_the_graph_on_meta_is_that_of_a_real_run(name, monkeypatch):
    model = build(name)
    with torch.device("meta"):
        empty = build(name)
    graphs = [trace(model), trace(empty)]
    monkeypatch.setattr(sys.modules["ghn.graphs.trace"], "META", torch.device("cpu"))

    real = trace(model)

    for graph in graphs:
        assert [n.op for n in graph.nodes] == [n.op for n in real.nodes]
        assert graph == real
        assert graph == ParamGraph.from_json(graph.to_json())


def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )


IMAGES = torch.zeros(1, 3, 8, 8)


def test_wrappers_are_looked_through():
    plain = trace(small(), IMAGES)
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        assert trace(nn.parallel.DistributedDataParallel(small()), IMAGES) == plain
    finally:
        torch.distributed.destroy_process_group()
    for wrapped in (
        torch.compile(small()),
        nn.DataParallel(small()),
        torch.compile(nn.DataParallel(small())),
    ):
        assert trace(wrapped, IMAGES) == plain


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "name", ["timm:vit_tiny_patch16_224", "timm:resnet18", "transformers:bert"]
)
def test_other_types_have_the_same_operators(name, dtype):
    with torch.device("meta"):
        plain, cast = trace(build(name)), trace(build(name).to(dtype))

    assert (cast.nodes, cast.edges) == (plain.nodes, plain.edges)
    assert {s.dtype for s in cast.specs.values()} == {str(dtype).removeprefix("torch.")}


class Double(nn.Module):
    def forward(self, weight):
        return 2.0 * weight


def reparametrised(kind):
    model = small()
    linear = model[4]
    if kind == "weight norm":
        nn.utils.parametrizations.weight_norm(linear)
    elif kind == "weight norm by hook":
        nn.utils.weight_norm(linear)
    elif kind == "spectral norm":
        nn.utils.parametrizations.spectral_norm(linear)
    else:
        nn.utils.parametrize.register_parametrization(linear, "weight", Double())
    return model


ROLES = {
    "weight norm": {"4.parametrizations.weight.original0": "magnitude",
                    "4.parametrizations.weight.original1": "direction"},
    "weight norm by hook": {"4.weight_g": "magnitude", "4.weight_v": "direction"},
    "spectral norm": {"4.parametrizations.weight.original": "weight"},
    "custom": {"4.parametrizations.weight.original": "weight"},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", ROLES)
def test_reparametrised_layers_are_the_same_operators_with_further_parameters(kind):
    plain = trace(small(), IMAGES)

    graph = trace(reparametrised(kind), IMAGES)

    assert [n.op for n in graph.nodes] == [n.op for n in plain.nodes]
    assert graph.edges == plain.edges
    layer = next(i for i, n in enumerate(graph.nodes) if n.op == "linear")
    found = {name: role for name, role in graph.nodes[layer].parameters if name != "4.bias"}
    assert found == ROLES[kind]


LORA = {"lora_A.default.weight": "lora_a", "lora_B.default.weight": "lora_b"}
ADAPTERS = {
    "lora": ("LoraConfig", {}, LORA),
    "dora": (
        *("LoraConfig", {"use_dora": True}),
        LORA | {"lora_magnitude_vector.default.weight": "magnitude"},
    ),
    "loha": (
        *("LoHaConfig", {}),
        {f"hada_w{n}_{side}.default": f"lora_{'ab'[side == 'a']}" for n in (1, 2) for side in "ab"},
    ),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_hang_on_the_layer_that_they_adapt(kind):
    peft = pytest.importorskip("peft")
    config, settings, wanted = ADAPTERS[kind]
    model = small()
    plain = trace(model, IMAGES)
    config = getattr(peft, config)(r=2, target_modules=["4"], **settings)
    adapted = peft.get_peft_model(model, config)

    graph = trace(adapted, IMAGES)

    assert [n.op for n in graph.nodes] == [n.op for n in plain.nodes]
    assert graph.edges == plain.edges
    layer = next(n for n in graph.nodes if n.op == "linear")
    roles = {name.split(".", 3)[-1]: role for name, role in layer.parameters}
    assert roles == {"base_layer.weight": "weight", "base_layer.bias": "bias"} | wanted


def test_adapters_of_a_transformer_leave_its_graph_as_it_was():
    peft = pytest.importorskip("peft")
    from transformers import AutoConfig, AutoModel

    model = AutoModel.from_config(AutoConfig.for_model("bert", num_hidden_layers=2))
    plain = trace(model)
    config = peft.LoraConfig(r=2, target_modules=["query", "value", "dense"])

    graph = trace(peft.get_peft_model(model, config))

    assert [n.op for n in graph.nodes] == [n.op for n in plain.nodes]
    assert graph.edges == plain.edges
    assert sum(spec.role == "lora_a" for spec in graph.specs.values()) == 2 * 5 + 1


@pytest.mark.parametrize(
    ("make", "shape", "settings"),
    [
        (lambda: nn.Conv2d(3, 4, 3, padding=1), (1, 3, 8, 8), {"use_dora": True}),
        (lambda: nn.Embedding(11, 8), (), {"use_dora": True}),
        (lambda: nn.Embedding(11, 8), (), {}),
        (lambda: nn.Linear(8, 6), (1, 8), {"use_dora": True, "lora_dropout": 0.5}),
        (lambda: nn.Linear(8, 6), (1, 8), {"lora_bias": True}),
    ],
)
def test_adapters_of_all_kinds_of_layers_are_described_by_what_they_do_to_signals(
    make, shape, settings
):
    peft = pytest.importorskip("peft")
    model = nn.Sequential(make(), nn.ReLU())
    inputs = torch.zeros(shape) if shape else torch.zeros(1, 5, dtype=torch.long)
    plain = trace(model, inputs)
    weight = plain.specs["0.weight"]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"], **settings))

    graph = trace(adapted, inputs)

    assert [n.op for n in graph.nodes] == [n.op for n in plain.nodes]
    assert graph.edges == plain.edges
    assert {spec.node for spec in graph.specs.values()} == {1}
    for name, spec in graph.specs.items():
        if "lora_magnitude_vector" in name:
            assert spec.role == "magnitude"
        elif name.endswith("bias"):
            assert spec.role == "bias"
        elif "_A" in name:  # an embedding's is stored as output x row
            wanted = "ov" if weight.role == "table" else weight.axes
            assert (spec.role, spec.axes, spec.fan_in) == ("lora_a", wanted, weight.fan_in)
        elif "_B" in name:
            kernel = "kk" if "k" in weight.axes else ""
            assert (spec.role, spec.axes, spec.fan_in) == ("lora_b", "oi" + kernel, 2)


class Adapted(nn.Module):
    """A layer beside what has the names of an adapter; `kind` says how they are put together."""

    def __init__(self, kind):
        super().__init__()
        self.stem, self.layer = nn.Linear(8, 8), nn.Linear(8, 8)
        self.lora_A, self.lora_B = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
        self.kind = kind

    def forward(self, x):
        x = self.stem(x)
        down = self.lora_A(x)
        change = self.lora_B(down.relu() if self.kind == "not linear" else down)
        if self.kind == "added to what it reads":
            return x + change
        y = self.layer(x)
        others = {"its output": change, "its middle": down, "the layer's output": y}
        total = x + change + y if self.kind == "added first" else y + change
        return (total, others[self.kind]) if self.kind in others else total


@pytest.mark.parametrize(
    "kind",
    [
        *("not linear", "added to what it reads", "added first"),
        *("its output", "its middle", "the layer's output"),
    ],
)
def test_what_only_has_the_names_of_an_adapter_stays_a_branch(kind):
    graph = trace(Adapted(kind), torch.zeros(1, 8))

    linear = [n for n in graph.nodes if n.op == "linear"]
    assert all(len({name.rpartition(".")[0] for name, _ in n.parameters}) == 1 for n in linear)
    assert {spec.role for spec in graph.specs.values()} == {"weight", "bias"}
    assert [n.op for n in graph.nodes].count("add") == 1 + (kind == "added first")
    assert [n.op for n in graph.nodes].count("relu") == (kind == "not linear")


def test_an_adapted_layer_that_runs_twice_is_described_at_its_first_run():
    peft = pytest.importorskip("peft")
    layer = nn.Linear(8, 8)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    graph = trace(
        peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0"])), torch.zeros(1, 8)
    )

    assert all(graph.specs[name].node == uses[0].node for name, uses in graph.parameters.items())
