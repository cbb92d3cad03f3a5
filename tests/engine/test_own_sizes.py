import copy
import math

import pytest
import torch
from torch import nn

from ghn.engine import GHN, predict_params, predict_state_dict
from ghn.zoo.library import resolve_model

IMAGES = torch.empty(1, 3, 8, 8)


class Residual(nn.Module):
    """Two branches with layer scales, a head, and no other surprise."""

    def __init__(self, width=64):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.scales = nn.ParameterList(torch.full((width, 1, 1), 1e-3) for _ in range(2))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv, scale in zip(self.norms, self.convs, self.scales, strict=True):
            x = x + scale * conv(norm(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def ghn():
    torch.manual_seed(0)
    return GHN().eval()


def model_with(**factors):
    torch.manual_seed(1)
    model = Residual()
    with torch.no_grad():
        for name, factor in factors.items():
            model.get_parameter(name.replace("_", ".")).mul_(factor)
    return model


def size(tensor):
    return tensor.detach().square().mean().sqrt().item()


def predict(model, ghn, **settings):
    images = IMAGES.to(model.head.weight.dtype)
    return predict_params(
        model, images, checkpoint=ghn, unsupported="predict", follow_sizes=True, **settings
    )


@pytest.mark.parametrize("power", [-12, -6, 6])
def test_a_head_that_starts_at_another_size_is_predicted_at_that_size(ghn, power):
    plain, odd = model_with(), model_with(head_weight=2.0**power)

    predict(plain, ghn)
    report = predict(odd, ghn)

    ratio = size(odd.head.weight) / size(plain.head.weight)
    assert math.log2(ratio) == pytest.approx(power, abs=1.5)
    assert math.log2(report.followed["head.weight"]).is_integer()
    assert torch.equal(odd.convs[0].weight, plain.convs[0].weight)


def test_a_bias_goes_down_with_its_weight_but_not_below_the_models_own(ghn):
    low = {"head_weight": 2.0**-10, "head_bias": 0.0}
    plain, without, loud = model_with(), model_with(**low), model_with(**low)
    nn.init.constant_(loud.head.bias, 0.3)

    for model in (plain, without, loud):
        predict(model, ghn)

    assert size(without.head.bias) < size(plain.head.bias) / 100
    assert torch.equal(loud.head.bias, plain.head.bias)


def test_layer_scales_are_followed_and_gains_of_one_say_nothing(ghn):
    model = model_with()

    report = predict(model, ghn)

    for scale in model.scales:
        assert scale.abs().mean().item() == pytest.approx(1e-3, rel=0.5)
    assert not any(name.startswith("norms") for name in report.followed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"noise": 0.5, "orthogonalize": True}])
def test_to_predict_twice_gives_the_same_bits(ghn, dtype, settings):
    generator = torch.Generator().manual_seed(2)
    model = model_with().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0 ** torch.empty(1).uniform_(-12, 4, generator=generator).item())
    first = predict(model, ghn, **settings)
    once = copy.deepcopy(model.state_dict())

    second = predict(model, ghn, **settings)

    assert first.followed == second.followed != {}
    assert all(torch.equal(value, once[name]) for name, value in model.state_dict().items())


def test_values_of_zero_and_models_without_values_get_the_sizes_of_the_rules(ghn):
    zeros = model_with()
    with torch.no_grad():
        for parameter in zeros.parameters():
            parameter.zero_()
    with torch.device("meta"):
        meta = Residual()

    report = predict(zeros, ghn)
    state = predict_state_dict(meta, IMAGES, checkpoint=ghn, unsupported="predict")

    assert report.followed == {}
    assert all(torch.equal(value, state[name]) for name, value in zeros.named_parameters())


def test_transformers_of_the_training_family_keep_all_sizes_but_that_of_their_logits(ghn):
    torch.manual_seed(0)
    model = resolve_model("vits:3")

    report = predict_params(model, checkpoint=ghn, unsupported="predict", follow_sizes=True)

    assert set(report.followed) <= {"head.weight", "head.bias"}


def test_the_report_says_how_many_sizes_were_followed(ghn):
    report = predict(model_with(head_weight=1e-4), ghn)

    assert f"{len(report.followed)} of them at the size of the model's own values" in str(report)
    assert report.to_dict()["followed"] == report.followed
