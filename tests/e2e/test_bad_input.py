"""Whatever is wrong, there is a clear error or a documented result, and nothing is half changed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from engine_helpers import FakeGHN, photograph
from torch import nn

from ghn import GHN, GHNConfig, GHNError, predict_params
from ghn.errors import (
    CheckpointError,
    InputError,
    PredictionError,
    TraceError,
    UnknownNameError,
    UnsupportedModelError,
)

ROOT = Path(__file__).parents[2]
X = torch.zeros(1, 3)


class Layer(nn.Module):
    """One linear layer, and a forward pass that a test replaces."""

    def __init__(self, forward=None):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))
        self._forward = forward

    def forward(self, x):
        return self.layer(x) if self._forward is None else self._forward(self, x)


def refused(model, error, match, inputs=X, **options):
    """Check that a prediction fails with an error of ours, and that the model is as it was."""
    before = photograph(model)
    options.setdefault("checkpoint", FakeGHN())

    with pytest.raises(error, match=match) as caught:
        predict_params(model, inputs, **options)

    assert isinstance(caught.value, GHNError)
    assert photograph(model) == before


def kept(model, reason, inputs=X):
    """Check which parameters a prediction keeps, and that these are as they were."""
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    report = predict_params(model, inputs, checkpoint=FakeGHN())
    names = [n for n, r in report.kept.items() if r == reason]

    assert names == list(report.kept)
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[n].detach(), before[n]) for n in names)
    assert not all(torch.equal(parameters[n].detach(), before[n]) for n in report.predicted)
    return set(names)


def test_a_forward_pass_that_raises():
    def broken(self, x):
        self.layer(x)
        self.calls += 1
        self.half_done = True
        raise RuntimeError("cable unplugged")

    refused(Layer(broken), TraceError, "cable unplugged")


def test_example_inputs_that_do_not_fit():
    refused(Layer(), TraceError, r"float32\[1, 7\]", inputs=torch.zeros(1, 7))


def test_inputs_that_cannot_be_inferred():
    class Many(Layer):
        def forward(self, a, b, c, d, e):
            return self.layer(a) + b + c + d + e

    refused(Many(), InputError, r"cannot infer example inputs.*example_inputs=", inputs=None)


def test_a_branch_that_depends_on_data_is_recorded_on_one_side_and_noted():
    def branch(self, x):
        return self.layer(x) if bool((x.sum() > 0).item()) else x

    report = predict_params(Layer(branch), X, checkpoint=FakeGHN())

    assert set(report.predicted) == {"layer.weight", "layer.bias"}
    assert len(report.notes) == 1


def test_complex_parameters_are_kept():
    class Complex(Layer):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))

        def forward(self, x):
            return self.layer(x) * self.phase.real

    assert kept(Complex(), "unsupported") == {"phase"}


def test_integer_parameters_are_kept():
    class Integer(Layer):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.arange(3), requires_grad=False)

        def forward(self, x):
            return self.layer(x) + self.shift

    assert kept(Integer(), "unsupported") == {"shift"}


def test_parameters_of_size_zero_are_kept():
    class Empty(Layer):
        def __init__(self):
            super().__init__()
            self.extra = nn.Parameter(torch.empty(0, 3))

        def forward(self, x):
            return self.layer(torch.cat([x, self.extra]))

    assert kept(Empty(), "unsupported") == {"extra"}


def test_a_parameter_that_is_never_used_is_kept():
    model = Layer()
    model.spare = nn.Linear(3, 3)

    assert kept(model, "untouched") == {"spare.weight", "spare.bias"}


def test_an_empty_module():
    refused(nn.Sequential(), UnsupportedModelError, "no parameters")


def test_something_that_is_no_module():
    with pytest.raises(Exception, match=r"nn\.Module|Module"):
        predict_params("resnet50", X, checkpoint=FakeGHN())


def test_a_lazily_initialised_module():
    refused(nn.Sequential(nn.LazyLinear(3)), UnsupportedModelError, "run one batch")


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_module():
    model = nn.Sequential(nn.Linear(3, 3), torch.ao.nn.quantized.dynamic.Linear(3, 3))

    with pytest.raises(UnsupportedModelError, match="predict the plain model first"):
        predict_params(model, X, checkpoint=FakeGHN())


def test_predictions_that_are_not_finite():
    for value in (float("nan"), float("inf")):
        ghn = FakeGHN(spoil={"layer.bias": value})
        refused(Layer(), PredictionError, r"'layer\.bias'.*not finite", checkpoint=ghn)


def test_predictions_too_large_for_the_models_type():
    ghn = FakeGHN(spoil={"layer.bias": 1e5})
    model = Layer().half()

    refused(model, PredictionError, "float16", inputs=X.half(), checkpoint=ghn)
    assert predict_params(Layer(), X, checkpoint=ghn).predicted


def test_a_hypernetwork_whose_own_weights_are_not_finite():
    ghn = GHN(GHNConfig())
    with torch.no_grad():
        next(ghn.decoder.parameters()).fill_(float("nan"))

    refused(Layer(), PredictionError, "not finite", checkpoint=ghn)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of the files of a good checkpoint."""
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    GHN(GHNConfig()).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def checkpoint(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_good_checkpoint_in_a_folder_is_used_and_named(saved, tmp_path):
    report = predict_params(Layer(), X, checkpoint=str(checkpoint(tmp_path, saved)))

    assert report.checkpoint == str(tmp_path)
    assert report.predicted == {"layer.weight": "lowrank", "layer.bias": "lowrank"}


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("part", ["nothing", "half", "all but a byte"])
def test_a_truncated_checkpoint(saved, tmp_path, file, part):
    size = len(saved[file])
    length = {"nothing": 0, "half": size // 2, "all but a byte": size - 1}[part]
    cut = saved[file].rstrip()[:length] if file == "config.json" else saved[file][:length]
    if part == "all but a byte" and file == "config.json":
        cut = saved[file].rstrip()[:-1]
    folder = checkpoint(tmp_path, {**saved, file: cut})

    refused(Layer(), CheckpointError, "truncated|JSON", checkpoint=folder)


def test_a_checkpoint_without_weights(saved, tmp_path):
    folder = checkpoint(tmp_path, {"config.json": saved["config.json"]})

    refused(Layer(), CheckpointError, r"model\.safetensors", checkpoint=folder)


@pytest.mark.parametrize(
    "foreign",
    [{"model_type": "gpt2"}, {"library": "other", "format_version": 1}, [1, 2], "text"],
    ids=["transformers", "another library", "a list", "a string"],
)
def test_a_foreign_checkpoint(saved, tmp_path, foreign):
    folder = checkpoint(tmp_path, {**saved, "config.json": json.dumps(foreign).encode()})

    refused(Layer(), CheckpointError, "not a checkpoint of ghn", checkpoint=folder)


def test_the_weights_of_something_else_under_our_config(saved, tmp_path):
    from safetensors.torch import save

    folder = checkpoint(tmp_path, {**saved, "model.safetensors": save({"a": torch.zeros(2)})})

    refused(Layer(), CheckpointError, "does not fit", checkpoint=folder)


@pytest.mark.parametrize("key", ["format_version", "vocabulary_version"])
def test_a_newer_checkpoint(saved, tmp_path, key):
    config = {**json.loads(saved["config.json"]), key: 99}
    folder = checkpoint(tmp_path, {**saved, "config.json": json.dumps(config).encode()})

    refused(Layer(), CheckpointError, "update ghn", checkpoint=folder)


def test_a_checkpoint_that_does_not_exist():
    refused(Layer(), UnknownNameError, "unknown checkpoint", checkpoint="visoin")
    refused(Layer(), UnknownNameError, "unknown checkpoint", checkpoint="/no/such/folder")


def python(code, cwd, **options):
    script = textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
        env={**__import__("os").environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        **options,
    )


LIMITED = """
    import resource
    import torch
    from ghn import GHN, GHNConfig
    from ghn.io import atomic_path, write_text

    ghn = GHN(GHNConfig())
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    failures = 0

    def through_atomic_path():
        with atomic_path("model.safetensors") as path:
            path.write_bytes(bytes(1 << 20))

    for save in (
        lambda: ghn.save_pretrained("."),
        lambda: ghn.save_pretrained("new"),
        through_atomic_path,
        lambda: write_text("config.json", "x" * 10_000),
    ):
        try:
            save()
        except Exception as error:
            failures += 1
            print(type(error).__name__, error)
    assert failures == 4, failures
"""


def test_a_full_disk_while_saving_leaves_the_old_files_and_no_rest(saved, tmp_path):
    checkpoint(tmp_path, saved)

    done = python(LIMITED, tmp_path)

    assert done.returncode == 0, done.stderr
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == saved
    assert list((tmp_path / "new").iterdir()) == []


def test_a_full_disk_while_the_command_line_saves_a_model(tmp_path):
    (tmp_path / "model.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Linear(99, 99)\n"
    )
    GHN(GHNConfig()).save_pretrained(tmp_path / "checkpoint")
    code = """
        import resource, sys
        import ghn.cli, ghn.engine, ghn.zoo
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        sys.argv = "ghn predict model.py:make -o out.safetensors --checkpoint checkpoint".split()
        ghn.cli.main()
    """

    done = python(code, tmp_path)

    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*out.safetensors*"))


INTERRUPTED = """
    import os, signal, sys
    import torch
    from torch import nn
    from engine_helpers import FakeGHN, photograph
    from ghn.engine import compose
    from ghn import predict_params

    signal.signal(signal.SIGINT, signal.default_int_handler)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    before = photograph(model)["values"]
    write, count = compose.expand_all_out, 0

    def slow(recipes, outs):
        global count
        for recipe, out in zip(recipes, outs):
            count += 1
            if count == 3:
                print("writing", flush=True)
                sys.stdin.readline()  # the test sends Ctrl-C, then a line
            write([recipe], [out])

    compose.expand_all_out = slow
    try:
        predict_params(model, torch.zeros(1, 4), checkpoint=FakeGHN())
        print("not interrupted")
    except KeyboardInterrupt:
        changed = sum(a != b for a, b in zip(before, photograph(model)["values"]))
        print("interrupted", count, changed)
"""


def test_ctrl_c_while_parameters_are_written():
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT / "tests",
    )
    with child:
        assert child.stdout.readline() == "writing\n"
        child.send_signal(signal.SIGINT)
        child.stdin.write("go on\n")
        child.stdin.flush()
        output = child.stdout.read()

    assert output == "interrupted 10 10\n"
    assert child.returncode == 0
