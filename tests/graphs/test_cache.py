import os
import subprocess
import sys
import types

import numpy as np
import pytest
import timm
import torch
from torch import nn

from ghn.graphs import cache, cached_trace, trace
from ghn.graphs.cache import structural_hash

IMAGES = torch.empty(1, 3, 32, 32)
FACTOR = 2
SETTINGS = {"act": "relu"}


class Choice:
    double = False


def activate(x):
    x = getattr(torch, SETTINGS["act"])(x)
    return x + x if Choice.double else x


class Net(nn.Module):
    def __init__(self, width=8, act="relu"):
        super().__init__()
        self.act = act
        self.conv = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = getattr(torch, self.act)(self.conv(x)) * FACTOR
        return self.head(x.mean((2, 3)))


@pytest.fixture
def traces(monkeypatch):
    """The models that were really traced."""
    seen = []

    def counting(model, inputs=None):
        seen.append(model)
        return trace(model, inputs)

    monkeypatch.setattr(cache, "trace", counting)
    return seen


def files(folder):
    return [p for p in folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("resnet18"),
        lambda: timm.create_model("swin_tiny_patch4_window7_224"),
        Net,
    ],
)
def test_the_same_architecture_is_traced_once(tmp_path, traces, make):
    with torch.device("meta"):
        first, second = make(), make()

    graphs = [cached_trace(m, folder=tmp_path) for m in (first, second)]

    assert traces == [first]
    assert graphs[0] == graphs[1] == trace(second)
    assert len(files(tmp_path)) == 1


def other_settings():
    yield Net(9), None
    yield Net(act="tanh"), None
    yield Net(), torch.empty(1, 3, 64, 64)
    yield Net().half(), None
    yield nn.Sequential(Net()), None
    tied = Net(3)
    tied.conv.bias = tied.head.bias = nn.Parameter(torch.zeros(2))
    yield tied, None
    replaced = Net()
    replaced.head = nn.Bilinear(8, 8, 2)
    yield replaced, None
    with torch.device("meta"):
        yield Net(), None


def test_whatever_changes_the_graph_changes_the_hash():
    plain = structural_hash(Net(), None)
    hashes = [structural_hash(model, inputs) for model, inputs in other_settings()]

    assert None not in [plain, *hashes]
    assert len({plain, *hashes}) == 1 + len(hashes)


def test_what_does_not_change_the_graph_leaves_the_hash():
    model = Net()
    plain = structural_hash(model)
    nn.init.zeros_(model.conv.weight)

    assert structural_hash(model.eval()) == plain
    assert structural_hash(torch.compile(model)) == plain


def test_libraries_and_configs_are_told_apart():
    from transformers import AutoModel, GPT2Config

    def gpt2(**settings):
        with torch.device("meta"):
            return AutoModel.from_config(GPT2Config(n_layer=1, **settings))

    eager = gpt2()
    eager.set_attn_implementation("eager")
    hashes = [structural_hash(m) for m in (gpt2(), gpt2(), eager, gpt2(n_head=6))]

    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_globals_of_a_users_module_count(monkeypatch):
    before = structural_hash(Net())
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3)

    assert structural_hash(Net()) != before


class Reader(nn.Module):
    use_norm = True

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.order = np.zeros(2001, dtype=bool)

    def forward(self, x):
        x = self.linear(x)
        if self.use_norm:
            x = self.norm(x)
        return x.flip(0) if self.order[1000] else activate(x)


def without_norm(self, x):
    return self.linear(x)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch, model: patch.setattr(Reader, "use_norm", False),
        lambda patch, model: patch.setattr(Reader, "forward", without_norm),
        lambda patch, model: patch.setitem(SETTINGS, "act", "tanh"),
        lambda patch, model: patch.setattr(Choice, "double", True),
        lambda patch, model: patch.setattr(sys.modules[__name__], "activate", torch.tanh),
        lambda patch, model: model.order.__setitem__(1000, True),
    ],
    ids=["attribute", "forward", "dictionary", "class", "function", "array"],
)
def test_what_code_reads_and_patches_of_it_are_never_answered_with_an_old_graph(
    tmp_path, monkeypatch, change
):
    model, inputs = Reader(), torch.empty(2, 8)
    before = cached_trace(model, inputs, tmp_path)
    assert cached_trace(Reader(), inputs, tmp_path) == before
    change(monkeypatch, model)

    after = cached_trace(model, inputs, tmp_path)

    assert after == trace(model, inputs)
    assert after != before


def test_a_patch_of_a_librarys_block_is_seen(monkeypatch):
    from timm.models import resnet

    with torch.device("meta"):
        model = timm.create_model("resnet18")
    before = structural_hash(model)
    monkeypatch.setattr(resnet.BasicBlock, "forward", lambda self, x: self.bn1(self.conv1(x)))

    assert structural_hash(model) not in (before, None)


@pytest.mark.slow
def test_another_process_finds_the_graph():
    code = (
        "import timm, torch; from ghn.graphs.cache import structural_hash\n"
        "with torch.device('meta'): print(structural_hash(timm.create_model('resnet18')))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip

    assert len(found) == 1
    assert found != {"None\n"}


def closure():
    depth = 3

    class Local(nn.Linear):
        def forward(self, x):
            return super().forward(x) * depth

    return Local(4, 4)


def hooked():
    model = Net()
    model.conv.register_forward_hook(lambda *args: None)
    return model


def with_setting(value):
    model = Net()
    model.setting = value
    return model


def replaced_forward():
    model = Net()
    model.forward = types.MethodType(lambda self, x: self.head(self.conv(x).mean((2, 3))), model)
    return model


@pytest.mark.parametrize(
    "model",
    [
        closure(),
        hooked(),
        replaced_forward(),
        with_setting(lambda x: x),
        with_setting([object()]),
        with_setting((nn.Linear(2, 2),)),
    ],
)
def test_what_cannot_be_hashed_for_certain_is_traced_anew(tmp_path, model):
    assert structural_hash(model) is None

    cached_trace(model, torch.empty(1, 4) if isinstance(model, nn.Linear) else IMAGES, tmp_path)

    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: file.write_bytes(file.read_bytes().replace(b"\n", b"\nx", 1)),
        lambda file: file.write_bytes(bytes(100)),
        lambda file: (file.unlink(), file.mkdir()),
    ],
)
def test_a_damaged_entry_is_rebuilt_and_never_trusted(tmp_path, traces, spoil):
    model = Net()
    expected = cached_trace(model, folder=tmp_path)
    spoil(*files(tmp_path))

    assert cached_trace(model, folder=tmp_path) == expected
    assert len(traces) == 2


def test_an_entry_of_another_model_under_this_name_is_rebuilt(tmp_path, traces):
    cached_trace(Net(16), folder=tmp_path / "other")
    expected = cached_trace(Net(), folder=tmp_path / "own")
    files(tmp_path / "own")[0].write_bytes(files(tmp_path / "other")[0].read_bytes())

    assert cached_trace(Net(), folder=tmp_path / "own") == expected
    assert len(traces) == 3


@pytest.mark.parametrize(
    ("name", "value"), [("VOCABULARY_VERSION", 99), ("_code_of_ghn", lambda: "newer")]
)
def test_entries_of_other_versions_are_stale(tmp_path, traces, monkeypatch, name, value):
    cached_trace(Net(), folder=tmp_path)
    monkeypatch.setattr(cache, name, value)

    cached_trace(Net(), folder=tmp_path)

    assert len(traces) == 2


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_cache(tmp_path):
    (tmp_path / "file").write_text("in the way")

    assert cached_trace(Net(), folder=tmp_path / "file") == trace(Net())


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    cached_trace(Net())

    assert [p.suffix for p in files(tmp_path / "ghn" / "graphs")] == [".graph"]


class Gated(Net):
    def __init__(self, on):
        super().__init__()
        self.register_buffer("on", torch.tensor(on))

    def forward(self, x):
        return super().forward(x) if self.on else self.conv(x)


def test_a_switch_in_a_buffer_tells_models_apart_and_values_of_images_do_not():
    assert structural_hash(Gated(0.0), IMAGES) != structural_hash(Gated(1.0), IMAGES)
    ones, zeros = torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    assert structural_hash(Gated(1.0), ones) == structural_hash(Gated(1.0), zeros)
