"""Predictions for models of timm, torchvision and transformers that nobody adapted anything to."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from ghn import GHN, GHNConfig, predict_params, predict_state_dict, trace

IMAGE = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
IDS = torch.arange(12).reshape(2, 6)


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2,
        n_embd=48,
        n_head=4,
        vocab_size=101,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=101,
    )
    return LlamaForCausalLM(config)


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=101,
    )
    return BertForSequenceClassification(config)


def vision(name, **kwargs):
    def make():
        return timm.create_model(name, **kwargs)

    make.__name__ = name
    return make


SWIN = vision("swin_tiny_patch4_window7_224")
BEIT = vision("beit_base_patch16_224", depth=2)
EVA = vision("eva02_tiny_patch14_224", img_size=224, depth=3)
MODELS = [SWIN, BEIT, EVA, vision("resnet18"), vision("levit_128s"), gpt2, llama, bert]


@pytest.fixture(scope="module")
def ghn():
    torch.manual_seed(0)
    return GHN(GHNConfig()).eval()


def on_meta(make):
    with torch.device("meta"):
        return make()


@torch.no_grad()
def logits(model, dtype=torch.float32):
    if hasattr(model, "pretrained_cfg"):
        return model.eval()(IMAGE.to(dtype))
    return model.eval()(IDS).logits


@pytest.mark.parametrize("make", MODELS, ids=lambda m: m.__name__)
def test_a_predicted_meta_model_equals_the_built_model_with_the_same_parameters(make, ghn):
    meta, built = on_meta(make), make()

    report = predict_params(meta, checkpoint=ghn)
    built.load_state_dict(meta.state_dict())

    assert set(report.predicted) | set(report.kept) == {n for n, _ in built.named_parameters()}
    assert torch.equal(logits(meta), logits(built))
    assert logits(meta).isfinite().all()
    assert not torch.equal(logits(meta)[0], logits(meta)[1])


@pytest.mark.parametrize("make", [SWIN, EVA, gpt2], ids=lambda m: m.__name__)
def test_a_meta_model_in_half_precision_equals_the_built_model_converted(make, ghn):
    meta, built = on_meta(make), make()

    predict_params(meta, checkpoint=ghn, dtype=torch.bfloat16)
    full = {n: b.clone() for n, b in built.named_buffers() if n.endswith("inv_freq")}
    built.to(torch.bfloat16).load_state_dict(meta.state_dict())
    for name, buffer in full.items():  # from_pretrained(dtype=...) keeps these in full precision
        module, _, key = name.rpartition(".")
        setattr(built.get_submodule(module), key, buffer)

    assert {p.dtype for p in meta.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(meta, torch.bfloat16), logits(built, torch.bfloat16))


@pytest.mark.parametrize(
    "make",
    [vision("resnet18"), vision("convnext_atto"), BEIT, gpt2, llama],
    ids=lambda m: m.__name__,
)
def test_kept_parameters_of_a_meta_model_have_the_libraries_own_initialization(make, ghn):
    meta, built = on_meta(make), make()

    report = predict_params(meta, checkpoint=ghn, generate=[])

    own = dict(built.named_parameters())
    assert set(report.kept) == set(own)
    for name, parameter in meta.named_parameters():
        if parameter.numel() < 1000:
            assert torch.equal(parameter.sort()[0], own[name].sort()[0]) or parameter.std() > 0
        else:
            torch.testing.assert_close(parameter.std(), own[name].std(), rtol=0.15, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [vision("resnet18"), vision("vit_tiny_patch16_224"), SWIN, gpt2],
    ids=lambda m: m.__name__,
)
def test_every_parameter_of_a_real_model_is_what_the_hypernetwork_emits(make, ghn):
    model = make().train()
    buffers = {n: b.clone() for n, b in model.named_buffers()}

    report = predict_params(model, checkpoint=ghn)

    with torch.no_grad():
        emitted = ghn(trace(model))
    assert report.kept == {}
    assert model.training
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), emitted[name], rtol=1e-4, atol=1e-6)
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
    assert logits(model).isfinite().all()


def test_gpt2_keeps_its_tied_head_and_gets_the_fan_in_of_its_transposed_layers(ghn):
    model = gpt2()

    predict_params(model, checkpoint=ghn)

    assert model.lm_head.weight is model.transformer.wte.weight
    spec = trace(model).specs["transformer.h.0.mlp.c_proj.weight"]
    assert (spec.fan_in, spec.axes) == (4 * 48, "io")


def test_torchvision_and_hand_written_models_are_predicted_too(ghn):
    import torchvision

    model = nn.Sequential(torchvision.models.mobilenet_v3_small(num_classes=7), nn.Linear(7, 2))

    report = predict_params(model, IMAGE, checkpoint=ghn)

    assert set(report.predicted) == {n for n, _ in model.named_parameters()}
    assert model.eval()(IMAGE).isfinite().all()


def test_a_state_dict_of_a_meta_model_equals_the_prediction_of_the_real_one(ghn):
    real = timm.create_model("resnet18", num_classes=10)
    meta = on_meta(lambda: timm.create_model("resnet18", num_classes=10))

    state = predict_state_dict(meta, checkpoint=ghn)
    predict_params(real, checkpoint=ghn)

    assert state.keys() == dict(real.named_parameters()).keys()
    assert all(torch.equal(state[n], p) for n, p in real.named_parameters())


def test_recalibrated_statistics_make_predicted_activations_normal(ghn):
    model = timm.create_model("resnet18")

    predict_params(model, checkpoint=ghn, recalibrate=[IMAGE])

    seen = {}
    model.bn1.register_forward_hook(lambda m, args, out: seen.update(out=args[0]))
    logits(model)
    normal = (seen["out"] - model.bn1.running_mean[:, None, None]).mean((0, 2, 3))
    assert normal.abs().max() < 1e-3
    assert model.bn1.num_batches_tracked == 1
