import copy
import math

import pytest
import torch
from torch import nn

from ghn.engine import GHN, GHNConfig, predict_params, predict_state_dict
from ghn.engine.calibrate import calibrate
from ghn.engine.outputs import Outputs, layer_stds, measure
from ghn.errors import ConfigError, InputError
from ghn.graphs.inputs import ExampleInputs
from ghn.zoo.library import resolve_model

IMAGES = torch.empty(1, 3, 8, 8)


class Residual(nn.Module):
    """Branches with layer scales, batch norms, a head."""

    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))
        self.scales = nn.ParameterList(torch.full((width, 1, 1), 0.3) for _ in range(2))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        for norm, conv, scale in zip(self.norms, self.convs, self.scales, strict=True):
            x = x + scale * conv(norm(x))
        return self.head(x.mean((2, 3)))


class Gain(nn.Module):
    """Its output is the square of what its parameter is."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.full((8,), 1.0))

    def forward(self, x):
        return x * self.gain.square()


@pytest.fixture(scope="module")
def ghn():
    torch.manual_seed(0)
    return GHN().eval()


def model_with(**factors):
    torch.manual_seed(1)
    model = Residual()
    with torch.no_grad():
        for name, factor in factors.items():
            model.get_parameter(name.replace("__", ".")).mul_(factor)
    return model


def predict(model, ghn, **settings):
    settings = {"calibrate": True, "unsupported": "predict", "checkpoint": ghn, **settings}
    return predict_params(model, settings.pop("inputs", IMAGES), **settings)


def outputs_of_head(model):
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    found = []
    handle = model.head.register_forward_hook(lambda module, args, output: found.append(output))
    with torch.no_grad():
        copy.deepcopy(model).train()(images)
        model.train()(images)
    handle.remove()
    return found[-1].std().item()


@pytest.mark.parametrize("power", [-12, -6, 6])
def test_outputs_of_a_layer_that_starts_at_another_size_come_near_it(ghn, power):
    plain, odd = model_with(), model_with(head__weight=2.0**power, head__bias=2.0**power)
    wanted = outputs_of_head(copy.deepcopy(odd))

    predict(plain, ghn)
    report = predict(odd, ghn)

    assert abs(math.log2(outputs_of_head(odd) / wanted)) < 3.2
    assert math.log2(report.scaled["head.weight"]).is_integer()
    assert report.scaled["head.weight"] == report.scaled["head.bias"]
    assert torch.equal(odd.convs[0].weight, plain.convs[0].weight)


def test_layers_of_about_the_usual_size_are_left_as_they_were_predicted(ghn):
    model, plain = model_with(), model_with()

    report = predict(model, ghn)
    predict(plain, ghn, calibrate=False)

    assert report.scaled == {}
    assert all(map(torch.equal, model.state_dict().values(), plain.state_dict().values()))


def test_later_layers_are_judged_by_what_they_will_read(ghn):
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(3)))
    with torch.no_grad():
        model[0].weight.mul_(2.0**-9)

    report = predict(model, ghn, inputs=torch.empty(8, 64))

    assert set(report.scaled) == {"0.weight"}


def test_an_output_that_is_not_in_proportion_to_its_parameter_leaves_it_alone(ghn):
    model, plain = (nn.Sequential(nn.Linear(8, 8), Gain()) for _ in range(2))
    with torch.no_grad():
        model[1].gain.fill_(2.0**-5)

    report = predict(model, ghn, inputs=torch.empty(8, 8))
    predict(plain, ghn, inputs=torch.empty(8, 8), calibrate=False)

    assert report.scaled == {}
    assert torch.equal(model[1].gain, plain[1].gain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"noise": 0.5, "orthogonalize": True}])
def test_to_predict_twice_gives_the_same_bits(ghn, dtype, settings):
    generator = torch.Generator().manual_seed(2)
    model = model_with().to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0 ** torch.empty(1).uniform_(-12, 4, generator=generator).item())
    inputs = IMAGES.to(dtype)
    first = predict(model, ghn, inputs=inputs, **settings)
    once = copy.deepcopy(model.state_dict())

    second = predict(model, ghn, inputs=inputs, **settings)

    assert first.scaled == second.scaled != {}
    assert all(torch.equal(value, once[name]) for name, value in model.state_dict().items())


def test_a_bias_does_not_drown_what_a_layer_makes_of_a_very_small_input():
    numbers = 1e-9 * torch.randn(64, 16, generator=torch.Generator().manual_seed(3))
    model = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16))
    with torch.no_grad():
        model[1].bias.zero_()
    form = ExampleInputs((numbers,))
    own = Outputs(form, layer_stds(model, form))
    with torch.no_grad():
        model[0].bias.copy_(torch.linspace(-1, 1, 16))  # as a prediction for inputs of usual size

    factors = calibrate(model, own, [name for name, _ in model.named_parameters()])

    assert factors.keys() == {"0.bias"}
    first, second = model(numbers[:1]), model(numbers[1:2])
    assert (first - second).abs().max() > 0.1 * first.std()


def test_weights_that_would_become_zero_stay_as_they_were_predicted(ghn):
    model, plain = (nn.Sequential(nn.Linear(16, 16, bias=False)) for _ in range(2))
    with torch.no_grad():
        model[0].weight.mul_(1e-25)
    inputs = torch.empty(8, 16, dtype=torch.float16)
    settings = {"checkpoint": ghn, "unsupported": "predict"}
    own = measure(model, ExampleInputs((torch.empty(8, 16),)))

    predict_params(plain.half(), inputs, **settings)
    before = plain[0].weight.clone()

    assert calibrate(plain, Outputs(ExampleInputs((torch.ones(8, 16).half().normal_(),)), own.stds),
                     ["0.weight"]) == {}  # fmt: skip
    assert torch.equal(plain[0].weight, before)
    assert calibrate(plain.float(), own, ["0.weight"])["0.weight"] < 2**-70


def test_a_weight_that_is_normalised_is_scaled_by_its_magnitude(ghn):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 16, bias=False)))
    magnitude = "0.parametrizations.weight.original0"
    with torch.no_grad():
        model.get_parameter(magnitude).mul_(2.0**-9)
    numbers = torch.randn(64, 16, generator=torch.Generator().manual_seed(3))
    wanted = model(numbers).std().item()

    report = predict(model, ghn, inputs=torch.empty(8, 16))

    assert report.scaled[magnitude] < 2**-5
    assert abs(math.log2(model(numbers).std().item() / wanted)) < 3.2


def test_a_state_dict_is_what_would_be_written_and_tied_weights_are_scaled_once(ghn):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.body = nn.Embedding(40, 16), nn.Linear(16, 16)
            self.head = nn.Linear(16, 40, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.body(self.embedding(ids)))

    torch.manual_seed(0)
    model = Tied()
    with torch.no_grad():
        model.embedding.weight.mul_(2.0**-12)
    before = copy.deepcopy(model.state_dict())
    settings = {"checkpoint": ghn, "unsupported": "predict", "calibrate": True}
    ids = torch.arange(12)[None]

    state = predict_state_dict(model, ids, **settings)
    untouched = all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    report = predict_params(model, ids, **settings)

    assert untouched
    assert state["head.weight"] is state["embedding.weight"]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert report.scaled["embedding.weight"] < 2**-5


def test_only_what_is_predicted_is_scaled(ghn):
    model = model_with(head__weight=2.0**-9, head__bias=2.0**-9)
    bias = model.head.bias.detach().clone()

    report = predict(model, ghn, generate="*weight")

    assert "head.weight" in report.scaled
    assert "head.bias" not in report.scaled
    assert torch.equal(model.head.bias, bias)


def test_a_model_whose_second_pass_fails_is_as_it_was(ghn):
    passes = []

    class Once(Residual):
        def forward(self, x):
            if not x.is_meta:
                passes.append(x)
                if len(passes) == 2:
                    raise RuntimeError("no more")
            return super().forward(x)

    model = Once()
    with torch.no_grad():
        model.stem.weight.mul_(2.0**-9)
    before = copy.deepcopy(model.state_dict())

    with pytest.raises(RuntimeError, match="no more"):
        predict(model, ghn)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_what_cannot_be_compared_is_an_error(ghn):
    with torch.device("meta"):
        meta = Residual()
    learned = GHN(GHNConfig(magnitude="plain")).eval()

    class Broken(Residual):
        def forward(self, x):
            if not x.is_meta:
                raise RuntimeError("not here")
            return super().forward(x)

    with pytest.raises(ConfigError, match="meta device"):
        predict(meta, ghn)
    with pytest.raises(ConfigError, match="magnitude='bounded'"):
        predict(model_with(), learned)
    with pytest.raises(InputError, match="not here"):
        predict(Broken(), ghn)


def test_the_report_says_how_many_were_scaled(ghn):
    report = predict(model_with(head__weight=1e-4, head__bias=1e-4), ghn)

    assert f"scaled {len(report.scaled)} of them" in str(report)
    assert report.to_dict()["scaled"] == report.scaled


def test_attention_biases_that_a_module_keeps_are_forgotten(ghn):
    torch.manual_seed(0)
    model = resolve_model("timm:levit_128s").eval()
    with torch.no_grad():
        model.head.linear.weight.mul_(2.0**-8)

    report = predict_params(model, checkpoint=ghn, unsupported="predict", calibrate=True)
    fresh = resolve_model("timm:levit_128s")
    fresh.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    assert report.scaled
    with torch.no_grad():
        torch.testing.assert_close(model(images), fresh.eval()(images))


class Counting(Residual):
    """Counts and keeps things in its forward pass, in every way that there is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.calls, self.seen, self.cache = 0, [], None

    def forward(self, x):
        y = super().forward(x)
        self.steps = self.steps + 1
        self.calls += 1
        self.seen.append(y.shape)
        self.cache = y.mean()
        return y


@pytest.mark.parametrize(
    "settings", [{"calibrate": True}, {"recalibrate": [torch.randn(4, 3, 8, 8)]}]
)
def test_passes_leave_no_mark_of_theirs_on_the_model(ghn, settings):
    model = Counting()
    old = model.norms[0].running_mean.clone()
    settings = {"checkpoint": ghn, "unsupported": "predict", **settings}

    predict_params(model, IMAGES, **settings)

    assert (model.steps, model.calls, model.seen, model.cache) == (0, 0, [], None)
    assert torch.equal(model.norms[0].running_mean, old) == ("calibrate" in settings)
    if "calibrate" in settings:
        predict_state_dict(model, IMAGES, **settings)
        assert (model.steps, model.calls, model.seen, model.cache) == (0, 0, [], None)


@pytest.mark.parametrize("kept", [True, False])
def test_rows_of_limited_length_are_as_predicted_or_as_they_were(ghn, kept):
    model = nn.Sequential(nn.Embedding(9, 16, max_norm=1e-3), nn.Linear(16, 4))
    with torch.no_grad():
        model[0].weight.fill_(5.0)
    ids, settings = torch.randint(9, (2, 6)), {"checkpoint": ghn, "unsupported": "predict"}
    settings |= {"generate": "1.*"} if kept else {}
    plain = copy.deepcopy(model)

    predict_params(plain, ids, **settings)
    report = predict_params(model, ids, calibrate=True, **settings)

    assert torch.equal(model[0].weight, plain[0].weight)
    assert ("0.weight" in report.kept) == kept


def test_recalibration_over_no_batch_is_refused_and_keeps_the_statistics(ghn):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[1].running_mean.fill_(7.0)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    with pytest.raises(ConfigError, match="recalibrate= needs at least one batch"):
        predict_params(model, torch.zeros(1, 3, 8, 8), checkpoint=ghn, recalibrate=[])

    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_adapted_attention_that_wraps_its_weights_anew_is_calibrated_around(ghn):
    peft = pytest.importorskip("peft")

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0])

    model = peft.get_peft_model(Attention(), peft.LoraConfig(r=2, target_modules=["attention"]))
    x = torch.randn(2, 5, 8)

    report = predict_params(model, x, checkpoint=ghn, unsupported="predict", calibrate=True)

    assert not report.kept
    assert model(x).isfinite().all()
