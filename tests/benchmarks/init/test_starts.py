from __future__ import annotations

import torch
from bench_init_helpers import MODELS, config
from safetensors.torch import load_file
from torch import nn

from ghn.benchmarks.init import InitConfig, run_bench
from ghn.benchmarks.init.networks import find_network
from ghn.benchmarks.init.sources import source_family
from ghn.benchmarks.init.starts import initialize


def test_a_trained_start_is_of_the_kind_that_reads_the_same():
    names = {"transformers:gpt2": "gpts", "timm:resnet18": "convnets", "vits:3": "vits"}
    names |= {"gpts-1k:0": "gpts", "vits-1k:0": "vits"}

    assert {name: source_family(find_network(name)) for name in names} == names


def test_lsuv_gives_every_layer_a_variance_of_one(tmp_path):
    network = find_network("convnets:1:test")
    model = network.build({"classes": 10, "image": 32}, 0)
    torch.manual_seed(0)
    inputs = torch.randn(64, 3, 32, 32)
    variances = []

    initialize(model, "lsuv", network, inputs, 0, config(tmp_path))

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        layer.register_forward_hook(lambda m, args, out: variances.append(out.var().item()))
    model.train()(inputs)
    assert len(variances) >= 3
    assert all(0.85 < v < 1.15 for v in variances)


def test_every_weight_of_a_language_model_is_made_orthogonal_but_no_table():
    network = find_network("gpts:1")
    model = network.build({"vocabulary": 256, "context": 256}, seed=0)
    before = {n: p.clone() for n, p in model.named_parameters()}
    tokens = torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0))

    notes = initialize(model, "lsuv", network, tokens, 0, InitConfig())

    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    matrices = {n for n, p in model.named_parameters() if ".h." in n and p.ndim == 2}
    assert matrices <= changed
    assert changed - matrices <= {"gpt2.lm_head.weight"}
    assert notes["scaled"] >= len(matrices)
    weight = dict(model.named_parameters())["gpt2.transformer.h.0.mlp.c_fc.weight"].detach()
    gram = weight @ weight.T
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(len(gram)), atol=1e-4, rtol=0)


def test_a_damaged_network_to_take_weights_from_is_trained_again(tmp_path):
    settings = config(
        tmp_path, models=MODELS[:1], starts=("default", "trained"), rates=(1e-3,), seeds=(1,)
    )
    first = run_bench(settings)
    [source] = (tmp_path / "runs").glob("source-*.safetensors")
    source.write_bytes(source.read_bytes()[:1000])

    assert run_bench(settings).to_dict()["networks"] == first.to_dict()["networks"]
    load_file(source)


def test_all_starts_are_fit_to_run(tmp_path):
    settings = config(
        tmp_path,
        models=MODELS[:1],
        starts=(
            *("default", "orthogonal", "lsuv", "trained", "ghn", "ghn+noise"),
            "ghn+orthogonalize+calibrate:vision-cifar10",
        ),
        rates=(1e-3,),
        seeds=(1,),
        steps=2,
    )

    result = run_bench(settings)

    first = [result.networks[0].runs[start][0].losses[0] for start in settings.starts]
    assert len(set(first)) == len(first)  # all different
