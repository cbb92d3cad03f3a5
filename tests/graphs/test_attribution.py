"""Attribution over the timm zoo against autograd's own graph, one model of each family."""

import pytest
import timm
import torch
from autograd_oracle import agree, attributed, consumers

from ghn.graphs import trace

# swinv2 and xcit make position biases with small networks that see no input; they are tested apart.
MODELS = [
    "resnet18",
    "resnetv2_50",
    "regnetx_002",
    "regnety_002",
    "densenet121",
    "vgg11_bn",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "efficientnet_b0",
    "ghostnet_100",
    "convnext_atto",
    "convnextv2_atto",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "cait_xxs24_224",
    "eva02_tiny_patch14_224",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
    "gmlp_ti16_224",
    "resmlp_12_224",
    "poolformer_s12",
    "coat_tiny",
    "crossvit_tiny_240",
    "levit_128s",
    "mobilevit_xxs",
    "pvt_v2_b0",
    "twins_svt_small",
    "visformer_tiny",
    "nfnet_l0",
    "dpn48b",
    "dla34",
    "hrnet_w18_small",
    "repvgg_a0",
    "mobileone_s0",
    "fastvit_t8",
    "efficientformer_l1",
    "maxvit_nano_rw_256",
    "nest_tiny",
    "davit_tiny",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "res2net50_14w_8s",
    "hgnet_tiny",
    "mambaout_femto",
]
QUICK = {
    *("resnet18", "densenet121", "mobilenetv3_small_050", "efficientnet_b0", "convnextv2_atto"),
    *("vit_tiny_patch16_224", "cait_xxs24_224", "swin_tiny_patch4_window7_224", "gmlp_ti16_224"),
    *("poolformer_s12", "levit_128s", "mobilevit_xxs", "nfnet_l0", "dpn48b", "focalnet_tiny_srf"),
    "mambaout_femto",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MODELS]
)
def test_every_parameter_hangs_on_the_operators_that_autograd_says_consume_it(name):
    model = timm.create_model(name)
    image = torch.randn(1, *model.default_cfg["input_size"])

    expected = consumers(model, image)
    got = attributed(trace(model))

    wrong = {n: (expected[n], got[n]) for n in expected if not agree(expected[n], got[n])}
    assert wrong == {}
