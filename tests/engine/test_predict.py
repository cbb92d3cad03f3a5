from __future__ import annotations

import inspect
import json
import os
import signal
from collections import OrderedDict

import numpy as np
import pytest
import torch
from engine_helpers import FakeGHN, Small, bits, photograph
from torch import nn

from ghn.engine import predict_params, predict_state_dict
from ghn.engine.support import Support
from ghn.errors import ConfigError, PredictionError, UnsupportedModelError
from ghn.graphs import trace
from ghn.kernels import expand

X = torch.zeros(2, 3, 8, 8)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, ids):
        return self.out(self.body(self.table(ids)))


IDS = torch.zeros(2, 5, dtype=torch.long)


def expected(model, inputs):
    graph = trace(model, inputs)
    return {name: expand(r) for name, r in FakeGHN().recipes([graph])[0].items()}


def test_every_parameter_is_written_and_the_report_says_so():
    model = Small()
    unused = model.unused.detach().clone()

    report = predict_params(model, X, checkpoint=FakeGHN())

    wanted = expected(model, X)
    assert report.predicted == dict.fromkeys(wanted, "fake")
    assert report.kept == {"unused": "untouched"}
    assert report.checkpoint == "FakeGHN"
    assert report.seconds > 0
    assert torch.equal(model.unused, unused)
    for name, value in wanted.items():
        assert torch.equal(model.get_parameter(name), value)


def test_everything_but_the_values_of_predicted_parameters_stays():
    model = Small()
    model.norm.eval()
    model.head.bias.requires_grad_(False)
    model.conv.register_forward_hook(lambda *args: None)
    before = photograph(model)

    report = predict_params(model, X, checkpoint=FakeGHN())

    after = photograph(model)
    changed = {a[0] for a, b in zip(before["values"], after["values"], strict=True) if a != b}
    assert changed == set(report.predicted)
    assert {k: v for k, v in before.items() if k != "values"} == {
        k: v for k, v in after.items() if k != "values"
    }


def test_an_optimiser_made_before_the_prediction_still_trains_the_model():
    model = Small()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)

    predict_params(model, X, checkpoint=FakeGHN())
    before = model.head.weight.detach().clone()
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimiser.step()

    assert not torch.equal(before, model.head.weight)


def test_two_calls_give_the_same_bits_and_no_random_state_moves():
    first, second = Small(), Small()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002

    predict_params(first, X, checkpoint=FakeGHN(), seed=3)
    predict_params(second, X, checkpoint=FakeGHN())

    assert bits(first.conv.weight) == bits(second.conv.weight)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_parameters_of_another_type_are_written_in_that_type(dtype):
    model = Small().to(dtype)
    wanted = expected(Small(), X)

    predict_params(model, X.to(dtype), checkpoint=FakeGHN())

    assert model.conv.weight.dtype is dtype
    torch.testing.assert_close(
        model.conv.weight.float(), wanted["conv.weight"].to(dtype).float(), rtol=0, atol=0
    )


def test_channels_last_models_keep_their_memory_format():
    model = Small().to(memory_format=torch.channels_last)

    predict_params(model, X, checkpoint=FakeGHN())

    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model.conv.weight, expected(Small(), X)["conv.weight"])


def test_tied_weights_are_predicted_once_and_stay_tied():
    model, ghn = Tied(), FakeGHN()

    report = predict_params(model, IDS, checkpoint=ghn)

    assert model.out.weight is model.table.weight
    assert list(report.predicted) == ["table.weight", "body.weight", "body.bias"]
    assert sorted(ghn.asked) == sorted(report.predicted)


@pytest.mark.parametrize(
    ("generate", "names"),
    [
        ("head.*", {"head.weight", "head.bias"}),
        (["*.bias", "conv.weight"], {"conv.bias", "norm.bias", "head.bias", "conv.weight"}),
        (lambda name: name.startswith("norm"), {"norm.weight", "norm.bias"}),
        ([], set()),
    ],
    ids=["glob", "globs", "predicate", "nothing"],
)
def test_only_selected_parameters_are_predicted_and_asked_for(generate, names):
    model, ghn = Small(), FakeGHN()

    report = predict_params(model, X, checkpoint=ghn, generate=generate)

    assert set(report.predicted) == names == set(ghn.asked)
    assert report.kept == {n: "not-selected" for n, _ in model.named_parameters() if n not in names}


def test_a_tied_parameter_is_selected_by_any_of_its_names():
    report = predict_params(Tied(), IDS, checkpoint=FakeGHN(), generate="out.*")

    assert list(report.predicted) == ["table.weight"]


def test_a_glob_that_fits_no_name_is_an_error():
    model = Small()
    before = photograph(model)

    with pytest.raises(ConfigError, match=r"'haed\.\*' fits no parameter"):
        predict_params(model, X, checkpoint=FakeGHN(), generate=["head.*", "haed.*"])

    assert photograph(model) == before


def test_what_the_checkpoint_was_never_trained_for_is_kept_unless_asked_for():
    support = Support(uses=("linear/weight/0/head", "linear/bias/0/head"), classes=(5,))
    kept, forced = Small(), Small()

    report = predict_params(kept, X, checkpoint=FakeGHN(support))
    everything = predict_params(forced, X, checkpoint=FakeGHN(support), unsupported="predict")

    assert set(report.predicted) == {"head.weight", "head.bias"}
    assert {n for n, r in report.kept.items() if r == "unsupported"} == {
        "conv.weight",
        "conv.bias",
        "norm.weight",
        "norm.bias",
    }
    assert set(everything.predicted) == {*report.predicted, *report.kept} - {"unused"}


def test_a_vocabulary_beyond_the_decoder_is_kept_as_oversized_in_both_modes():
    for mode in ("keep", "predict"):
        model = nn.Sequential(nn.Embedding(70_000, 2), nn.Linear(2, 2))
        report = predict_params(model, IDS, checkpoint=FakeGHN(), unsupported=mode)

        assert report.kept == {"0.weight": "oversized"}


def test_a_wrong_word_for_unsupported_is_an_error():
    with pytest.raises((ConfigError, TypeError), match=r"unsupported|Literal"):
        predict_params(Small(), X, checkpoint=FakeGHN(), unsupported="drop")


@pytest.mark.parametrize(
    ("name", "value"), [("orthogonalize", "no"), ("calibrate", 1), ("seed", 1.5), ("seed", "a")]
)
def test_settings_of_another_type_are_refused_by_name(name, value):
    for predict in (predict_params, predict_state_dict):
        with pytest.raises(ConfigError, match=f"{name} must be .*{value!r}"):
            inspect.unwrap(predict)(Small(), X, checkpoint=FakeGHN(), **{name: value})


def test_a_condition_is_refused_by_an_unconditional_hypernetwork():
    with pytest.raises(ConfigError, match="condition"):
        predict_params(Small(), X, checkpoint=FakeGHN(), condition=torch.zeros(3))


@pytest.mark.parametrize("option", [{"device": "cpu"}, {"dtype": torch.half}, {"build": Small}])
def test_options_for_meta_models_are_refused_for_models_with_values(option):
    with pytest.raises(ConfigError, match=r"already has values.*model\.to"):
        predict_params(Small(), X, checkpoint=FakeGHN(), **option)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["parallel", "compile"])
def test_wrapped_models_are_predicted_under_the_inner_names(wrap):
    inner = Small()

    report = predict_params(wrap(inner), X, checkpoint=FakeGHN())

    assert "conv.weight" in report.predicted
    assert torch.equal(inner.conv.weight, expected(inner, X)["conv.weight"])


def test_one_bad_prediction_among_good_ones_changes_nothing():
    model = Small()
    before = photograph(model)

    with pytest.raises(PredictionError, match=r"'head\.bias'"):
        predict_params(model, X, checkpoint=FakeGHN(spoil={"head.bias": float("nan")}))

    assert photograph(model) == before


def test_a_bad_prediction_that_is_not_selected_does_no_harm():
    ghn = FakeGHN(spoil={"head.bias": float("nan")})

    report = predict_params(Small(), X, checkpoint=ghn, generate="conv.*")

    assert len(report.predicted) == 2


def test_ctrl_c_during_the_writes_comes_after_the_last_one(monkeypatch):
    from ghn.engine import compose

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    model, writes = Small(), []
    original = compose.expand_all_out

    def interrupted(recipes, outs):
        for recipe, out in zip(recipes, outs, strict=True):
            os.kill(os.getpid(), signal.SIGINT)
            writes.append(out.shape)
            original([recipe], [out])

    monkeypatch.setattr(compose, "expand_all_out", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            predict_params(model, X, checkpoint=FakeGHN())
    finally:
        signal.signal(signal.SIGINT, handler)

    assert len(writes) == 6
    for name, value in expected(model, X).items():
        assert torch.equal(model.get_parameter(name), value)


def test_ctrl_c_before_the_writes_leaves_the_model_as_it_was(monkeypatch):
    model, ghn = Small(), FakeGHN()
    before = photograph(model)

    def interrupted(spec):
        raise KeyboardInterrupt

    monkeypatch.setattr(ghn, "recipe", interrupted)

    with pytest.raises(KeyboardInterrupt):
        predict_params(model, X, checkpoint=ghn)
    assert photograph(model) == before


def test_the_hypernetwork_runs_in_evaluation_mode_and_keeps_its_own():
    ghn, modes = FakeGHN().train(), []
    original = ghn.recipe
    ghn.recipe = lambda spec: (
        modes.append((ghn.training, torch.is_grad_enabled())) or original(spec)
    )

    predict_params(Small(), X, checkpoint=ghn)

    assert set(modes) == {(False, False)}
    assert ghn.training


def test_the_state_dict_holds_the_same_bits_and_leaves_the_model_alone():
    model = Small()
    before = photograph(model)

    state = predict_state_dict(model, X, checkpoint=FakeGHN())

    assert photograph(model) == before
    predict_params(model, X, checkpoint=FakeGHN())
    assert {n: bits(t) for n, t in state.items()} == {
        n: bits(p) for n, p in model.named_parameters() if n != "unused"
    }
    assert not any(t.requires_grad for t in state.values())


def test_the_state_dict_of_a_meta_model_loads_into_a_real_one():
    with torch.device("meta"):
        meta = Small()

    state = predict_state_dict(meta, X, checkpoint=FakeGHN(), dtype=torch.bfloat16)

    assert all(p.is_meta for p in meta.parameters())
    assert {t.dtype for t in state.values()} == {torch.bfloat16}
    missing, unexpected = Small().load_state_dict(state, strict=False)
    assert unexpected == []
    assert not any("weight" in name or "bias" in name for name in missing)


def test_all_names_of_a_tied_parameter_hold_one_tensor_in_the_state_dict():
    state = predict_state_dict(Tied(), IDS, checkpoint=FakeGHN())

    assert state["out.weight"] is state["table.weight"]


def test_recurrent_and_parametrised_layers_use_what_was_written():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(4, 5, batch_first=True)
            self.out = nn.utils.parametrizations.weight_norm(nn.Linear(5, 2))

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    model = Recurrent().eval()
    x = torch.randn(2, 6, 4)
    before = model(x)

    report = predict_params(model, x, checkpoint=FakeGHN())

    assert set(report.predicted) == {n for n, _ in model.named_parameters()}
    copy = Recurrent().eval()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(model(x), copy(x))
    assert not torch.equal(model(x), before)


def test_the_report_reads_as_text_and_as_json():
    support = Support(uses=("linear/weight/0/head",), classes=(5,))
    report = predict_params(Small(), X, checkpoint=FakeGHN(support))

    text, data = str(report), json.loads(report.to_json())

    assert text.startswith("predicted 1 of 7 parameters with FakeGHN in ")
    assert "kept 5, unsupported" in text
    assert "kept 1, untouched" in text
    assert "such as unused" in text
    assert data["predicted"] == {"head.weight": "fake"}
    assert data["kept"]["unused"] == "untouched"
    fields = {"predicted", "kept", "checkpoint", "scaled", "seconds", "notes", "learning_rate"}
    assert set(data) == fields
    assert "learning rate" not in text  # this checkpoint names none


def test_the_report_names_the_learning_rate_of_the_checkpoint():
    report = predict_params(Small(), X, checkpoint="vision-cifar10", unsupported="predict")

    assert "begin with a learning rate of 0.003 (AdamW)" in str(report)
    kept = predict_params(Small(), X, checkpoint="vision-cifar10", generate=lambda name: False)
    assert kept.learning_rate is None


def test_what_the_trace_assumed_is_in_the_report():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else self.b(x)

    report = predict_params(Branch(), torch.zeros(1, 3), checkpoint=FakeGHN())

    assert len(report.predicted) == 2
    assert set(report.kept.values()) == {"untouched"}
    assert report.notes == trace(Branch(), torch.zeros(1, 3)).assumptions != ()


def test_an_ordered_model_reports_names_in_its_own_order():
    layers = OrderedDict(z=nn.Linear(3, 3), a=nn.Linear(3, 3))

    report = predict_params(nn.Sequential(layers), torch.zeros(1, 3), checkpoint=FakeGHN())

    assert list(report.predicted) == ["z.weight", "z.bias", "a.weight", "a.bias"]


@pytest.mark.gpu
def test_a_cuda_model_is_written_where_it_is_by_a_hypernetwork_on_the_cpu():
    model = Small().cuda()

    predict_params(model, X.cuda(), checkpoint=FakeGHN())

    wanted = expected(Small(), X)
    assert model.conv.weight.is_cuda
    for name, value in wanted.items():
        torch.testing.assert_close(model.get_parameter(name).cpu(), value)


def test_a_graph_from_before_saves_the_trace_and_gives_the_same(monkeypatch):
    model, twin = Small(), Small()
    graph = trace(model, X)
    expected = predict_params(twin, X, checkpoint=FakeGHN())
    monkeypatch.setattr("ghn.engine.predict.trace_with_inputs", None)

    report = predict_params(model, checkpoint=FakeGHN(), graph=graph)

    assert (report.predicted, report.kept) == (expected.predicted, expected.kept)
    assert torch.equal(model.conv.weight, twin.conv.weight)


def without_unused():
    model = Small()
    del model.unused
    return model


def narrower():
    model = Small()
    model.head = nn.Linear(6, 4)
    return model


@pytest.mark.parametrize("other", [narrower, without_unused, lambda: Tied().body])
def test_a_graph_of_another_model_is_refused_before_anything_is_written(other):
    wrong = trace(other(), torch.zeros(1, 6) if isinstance(other(), nn.Linear) else X)
    model = Small()
    before = photograph(model)

    with pytest.raises(ConfigError, match="another model"):
        predict_params(model, X, checkpoint=FakeGHN(), graph=wrong)

    assert photograph(model) == before


def test_calibrated_tensors_have_the_type_that_was_asked_for():
    model = Small().eval()
    own = predict_state_dict(model, X, checkpoint="vision-cifar10", calibrate=True)

    half = predict_state_dict(
        model, X, checkpoint="vision-cifar10", calibrate=True, dtype=torch.bfloat16
    )

    assert all(torch.equal(half[name], own[name].bfloat16()) for name in own)


def test_a_kept_parameter_that_shares_memory_with_a_predicted_one_is_refused():
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
    model[2].weight.data = model[1].weight.data
    before = photograph(model)

    with pytest.raises(UnsupportedModelError, match=r"'1\.weight' and '2\.weight' share memory"):
        predict_params(model, torch.zeros(1, 4), checkpoint=FakeGHN(), generate=["0.*", "1.*"])

    assert photograph(model) == before
    predict_params(model, torch.zeros(1, 4), checkpoint=FakeGHN())  # all of it: a tie
    assert model[1].weight.data_ptr() == model[2].weight.data_ptr()
