from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import timm
import torch
from engine_helpers import FakeGHN, bits, photograph
from torch import nn

from ghn.engine import predict_params, predict_state_dict
from ghn.engine.rebuild import is_filled, unfilled_like
from ghn.errors import ConfigError, InputError, PredictionError, UnsupportedModelError

X = torch.zeros(2, 3, 8, 8)
ROOT = Path(__file__).parents[2]


class Table(nn.Module):
    """A buffer that only the constructor knows how to make."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scales", torch.linspace(1, 2, 6), persistent=False)

    def forward(self, x):
        return x * self.scales


class Small(nn.Module):
    def __init__(self, table=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.table = Table() if table else nn.Identity()
        self.head = nn.Linear(6, 5)
        self.again = self.head  # tied modules

    def forward(self, x):
        x = self.table(self.norm(self.conv(x)).relu().mean((2, 3)))
        return self.head(x) + self.again(x)


def on_meta(make, *args, **kwargs):
    with torch.device("meta"):
        return make(*args, **kwargs)


def test_a_predicted_meta_model_equals_a_predicted_cpu_model():
    real, meta = Small(), on_meta(Small)

    predict_params(real, X, checkpoint=FakeGHN())
    predict_params(meta, X, checkpoint=FakeGHN())

    assert list(meta.state_dict()) == list(real.state_dict())
    for (name, a), b in zip(meta.state_dict().items(), real.state_dict().values(), strict=True):
        assert bits(a) == bits(b), name
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(meta(x), real(x))


def test_ties_gradient_flags_modes_and_parameter_attributes_survive():
    meta = on_meta(Small).eval()
    meta.conv.train()
    meta.conv.bias.requires_grad_(False)
    meta.conv.weight.no_decay = True

    predict_params(meta, X, checkpoint=FakeGHN())

    assert meta.again.weight is meta.head.weight
    assert not meta.conv.bias.requires_grad
    assert meta.conv.weight.requires_grad
    assert meta.conv.weight.is_leaf
    assert meta.conv.weight.no_decay
    assert (meta.training, meta.conv.training, meta.norm.training) == (False, True, False)
    assert isinstance(meta.conv.weight, nn.Parameter)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_asked_for_is_that_of_parameters_and_buffers_as_after_to(dtype):
    meta, real = on_meta(Small), Small().to(dtype)

    predict_params(meta, X, checkpoint=FakeGHN(), dtype=dtype)

    assert [(n, t.dtype) for n, t in meta.state_dict().items()] == [
        (n, t.dtype) for n, t in real.state_dict().items()
    ]


def test_kept_parameters_get_their_modules_own_initialization_seeded():
    models = [on_meta(Small) for _ in range(3)]
    state = torch.get_rng_state()

    reports = [
        predict_params(m, X, checkpoint=FakeGHN(), generate="head.*", seed=s)
        for m, s in zip(models, (0, 0, 1), strict=True)
    ]

    assert torch.equal(state, torch.get_rng_state())
    assert bits(models[0].conv.weight) == bits(models[1].conv.weight)
    assert bits(models[0].conv.weight) != bits(models[2].conv.weight)
    assert bits(models[0].head.weight) == bits(models[2].head.weight)
    limit = (3 * 9) ** -0.5  # of torch's default for this convolution
    assert 0.8 * limit < models[0].conv.weight.abs().max() <= limit
    assert torch.equal(models[0].norm.weight, torch.ones(6))
    assert any("pass build=" in note for note in reports[0].notes)


def test_a_module_with_one_predicted_and_one_kept_parameter_has_both_right():
    meta, whole = on_meta(Small), on_meta(Small)

    predict_params(whole, X, checkpoint=FakeGHN())
    predict_params(meta, X, checkpoint=FakeGHN(), generate="*.weight")

    assert bits(meta.conv.weight) == bits(whole.conv.weight)
    assert bits(meta.conv.bias) != bits(whole.conv.bias)
    assert meta.conv.bias.isfinite().all()


def test_build_supplies_exactly_the_kept_parameters_and_the_buffers():
    def build():
        torch.manual_seed(5)
        model = Small(table=True)
        model.norm.running_mean.fill_(3.0)
        return model

    meta, other = on_meta(Small, table=True), build()
    state = torch.get_rng_state()

    report = predict_params(meta, X, checkpoint=FakeGHN(), generate="head.*", build=build)

    assert torch.equal(state, torch.get_rng_state())
    assert bits(meta.conv.weight) == bits(other.conv.weight)
    assert bits(meta.head.weight) != bits(other.head.weight)
    assert torch.equal(meta.table.scales, torch.linspace(1, 2, 6))
    assert meta.norm.running_mean.tolist() == [3.0] * 6
    assert report.notes == ()
    meta.conv.weight.data.zero_()
    meta.norm.running_mean.zero_()
    assert other.conv.weight.any()  # nothing is shared with what build() made
    assert other.norm.running_mean.any()


def test_a_timm_model_of_another_size_needs_no_build_and_other_arguments_are_noted():
    vit = on_meta(timm.create_model, "vit_tiny_patch16_224", img_size=32, depth=1, num_classes=5)
    net = on_meta(timm.create_model, "resnet10t", num_classes=5, zero_init_last=False)

    predict_params(vit, torch.zeros(1, 3, 32, 32), checkpoint=FakeGHN(), generate="blocks.*")
    report = predict_params(net, X, checkpoint=FakeGHN(), generate="conv1.*")

    assert vit.pos_embed.shape == (1, 5, 192)
    assert vit.pos_embed.isfinite().all()
    assert any("timm makes of this model by default" in note for note in report.notes)


@pytest.mark.parametrize("device", [-1, 99, "nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_in_words(device):
    meta = on_meta(Small)

    with pytest.raises(ConfigError, match="device must be"):
        predict_params(meta, X, checkpoint=FakeGHN(), device=device)
    with pytest.raises(ConfigError, match="device must be"):
        predict_state_dict(Small(), X, checkpoint=FakeGHN(), device=device)
    assert meta.conv.weight.is_meta


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device 0")
def test_the_first_gpu_is_not_taken_for_none_given():
    with pytest.raises(ConfigError, match="device must be"):
        predict_params(on_meta(Small), X, checkpoint=FakeGHN(), device=0)


def test_buffers_that_nothing_can_make_are_named_and_the_model_stays_meta():
    meta = on_meta(Small, table=True)
    before = photograph(meta)

    with pytest.raises(UnsupportedModelError, match=r"buffers.*table\.scales.*build="):
        predict_params(meta, X, checkpoint=FakeGHN())

    assert photograph(meta) == before
    assert all(t.is_meta for t in [*meta.parameters(), *meta.buffers()])


def test_kept_parameters_that_nothing_can_make_are_named_and_the_model_stays_meta():
    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.randn(3))
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(x + self.token)

    meta = on_meta(Token)
    before = photograph(meta)

    with pytest.raises(UnsupportedModelError, match=r"not predicted.*: token\..*build="):
        predict_params(meta, torch.zeros(1, 3), checkpoint=FakeGHN(), generate="layer.*")
    assert photograph(meta) == before

    predict_params(meta, torch.zeros(1, 3), checkpoint=FakeGHN(), generate="layer.*", build=Token)
    assert meta.token.isfinite().all()


def test_a_plain_tensor_attribute_without_values_is_named_and_can_be_built():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.steps = torch.arange(3.0)  # not a buffer

        def forward(self, x):
            return self.layer(x + self.steps)

    meta, x = on_meta(Plain), torch.zeros(1, 3)
    before = photograph(meta)

    with pytest.raises(UnsupportedModelError, match="steps"):
        predict_params(meta, x, checkpoint=FakeGHN())
    assert photograph(meta) == before

    predict_params(meta, x, checkpoint=FakeGHN(), build=Plain)
    assert meta.steps.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "build",
    [lambda: nn.Linear(3, 3), lambda: on_meta(Small, table=True), Small],
    ids=["another model", "meta", "a module less"],
)
def test_a_build_that_makes_another_model_is_refused_and_the_model_stays_meta(build):
    meta = on_meta(Small, table=True)
    before = photograph(meta)

    with pytest.raises(ConfigError, match="build= must make the same model"):
        predict_params(meta, X, checkpoint=FakeGHN(), build=build)

    assert photograph(meta) == before


def test_an_error_inside_build_passes_and_the_model_stays_meta():
    meta = on_meta(Small)
    before = photograph(meta)

    def build():
        raise OSError("no such weights")

    with pytest.raises(OSError, match="no such weights"):
        predict_params(meta, X, checkpoint=FakeGHN(), build=build)

    assert photograph(meta) == before


def test_a_bad_prediction_leaves_a_meta_model_meta():
    meta = on_meta(Small)
    before = photograph(meta)

    with pytest.raises(PredictionError, match=r"'head\.bias'.*float16"):
        predict_params(meta, X, checkpoint=FakeGHN(spoil={"head.bias": 1e6}), dtype=torch.float16)

    assert photograph(meta) == before


def test_an_interrupted_materialisation_leaves_a_meta_model_meta(monkeypatch):
    from ghn.engine import compose

    meta, writes = on_meta(Small), []
    before = photograph(meta)

    def out_of_memory(recipe, out):
        writes.append(out.shape)
        if len(writes) == 4:
            raise MemoryError

    monkeypatch.setattr(compose, "expand_out", out_of_memory)

    with pytest.raises(MemoryError):
        predict_params(meta, X, checkpoint=FakeGHN())
    assert photograph(meta) == before


def test_a_failing_recalibration_leaves_a_meta_model_meta():
    meta = on_meta(Small)
    before = photograph(meta)

    with pytest.raises(InputError, match="batch 0"):
        predict_params(meta, X, checkpoint=FakeGHN(), recalibrate=[torch.zeros(1, 9, 8, 8)])

    assert photograph(meta) == before


def test_a_model_with_some_tensors_on_meta_keeps_the_values_of_the_others():
    model = Small()
    model.conv = on_meta(nn.Conv2d, 3, 6, 3)
    model.norm.running_mean.fill_(4.0)
    head, weight = model.head.weight, model.norm.weight

    report = predict_params(model, X, checkpoint=FakeGHN(), generate=["conv.weight", "head.*"])

    assert model.head.weight is head
    assert model.norm.weight is weight
    assert model.norm.running_mean.tolist() == [4.0] * 6
    assert not any(p.is_meta for p in model.parameters())
    assert set(report.predicted) == {"conv.weight", "head.weight", "head.bias"}
    whole = Small()
    predict_params(whole, X, checkpoint=FakeGHN())
    assert bits(model.conv.weight) == bits(whole.conv.weight)
    assert bits(model.head.weight) == bits(whole.head.weight)


def test_a_recurrent_meta_model_computes_with_its_new_parameters():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(4, 5)

        def forward(self, x):
            return self.rnn(x)[0]

    real, meta, x = Recurrent(), on_meta(Recurrent), torch.randn(6, 2, 4)

    predict_params(real, x, checkpoint=FakeGHN())
    predict_params(meta, x, checkpoint=FakeGHN())

    assert torch.equal(real(x), meta(x))


def test_integer_complex_and_empty_parameters_of_a_meta_model_come_from_build():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.count = nn.Parameter(torch.arange(3), requires_grad=False)
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))
            self.none = nn.Parameter(torch.empty(0, 3))

        def forward(self, x):
            return self.layer(x + self.count + self.phase.real) + self.none.sum()

    meta = on_meta(Odd)

    report = predict_params(meta, torch.zeros(1, 3), checkpoint=FakeGHN(), build=Odd)

    assert set(report.predicted) == {"layer.weight", "layer.bias"}
    assert meta.count.tolist() == [0, 1, 2]
    assert meta.phase.dtype is torch.complex64
    assert meta.none.shape == (0, 3)
    assert not meta.none.is_meta


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.int64, torch.complex64, torch.bool, torch.uint8]
)
def test_a_tensor_counts_as_filled_only_once_values_were_written(dtype):
    tensor = unfilled_like(torch.empty(4, dtype=dtype, device="meta"), torch.device("cpu"))

    assert not is_filled(tensor)
    tensor.zero_()
    assert is_filled(tensor)


def test_a_tensor_that_is_half_written_is_not_filled():
    tensor = unfilled_like(torch.empty(4, device="meta"), torch.device("cpu"))

    tensor[:2] = 1.0

    assert not is_filled(tensor)


MEMORY = """
    from pathlib import Path
    import torch
    from torch import nn
    from engine_helpers import FakeGHN
    from ghn.engine import predict_params

    torch.set_num_threads(1)
    WIDTH, LAYERS = 2048, 24

    def make(width, layers):
        with torch.device("meta"):
            return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))

    def peak():
        # Not getrusage: its peak is inherited from the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    predict_params(make(8, 2), torch.zeros(1, 8), checkpoint=FakeGHN())
    before = peak()
    model = make(WIDTH, LAYERS)
    predict_params(model, torch.zeros(1, WIDTH), checkpoint=FakeGHN())
    print(peak() - before, sum(p.nbytes for p in model.parameters()))
"""


@pytest.mark.slow
def test_the_peak_of_memory_is_the_models_bytes_and_a_small_constant():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "tests",
    )

    used, size = map(int, done.stdout.split())
    assert size > 400e6
    assert size < used < size + 40e6
