import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from decoder_helpers import small_decoders
from safetensors.torch import load_file, save_file
from torch import nn

from ghn.decoders.kernel_basis import _features
from ghn.decoders.places import position_features
from ghn.encoders import GraphormerConfig
from ghn.engine import GHN, GHNConfig, Support, load_ghn, predict_state_dict
from ghn.engine import checkpoint as checkpoint_module
from ghn.errors import CheckpointError, ConfigError, UnknownNameError
from ghn.graphs import OPERATORS, ROLES, trace

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def build(seed=0, **settings):
    torch.manual_seed(seed)
    encoder = GraphormerConfig(dim=16, layers=1, heads=2)
    return GHN(GHNConfig(encoder=encoder, decoder=small_decoders()["factor"], **settings))


@pytest.fixture
def folder(tmp_path):
    build(
        support=Support(uses=("linear/weight/0/head",), classes=(10,), widest=64)
    ).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def edit_config(folder, **changes):
    header = json.loads((folder / CONFIG).read_text())
    header.update(changes)
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in header.items() if v is not ...}))


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_what_is_loaded_is_what_was_saved_to_the_bit(folder):
    loaded = GHN.from_pretrained(folder)

    saved = build(support=Support(uses=("linear/weight/0/head",), classes=(10,), widest=64))
    assert same(loaded, saved)
    assert loaded.config == saved.config
    graph = trace(nn.Linear(4, 3), torch.empty(1, 4))
    assert torch.equal(loaded(graph)["weight"], saved(graph)["weight"])


def test_a_folder_holds_settings_and_weights_and_nothing_else(folder):
    assert {p.name for p in folder.iterdir()} == {CONFIG, WEIGHTS}
    header = json.loads((folder / CONFIG).read_text())
    assert header["library"] == "ghn"
    assert {"format_version", "vocabulary_version"} <= header.keys()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path, dtype):
    ghn = build()
    ghn.save_pretrained(tmp_path / "full")
    ghn.save_pretrained(tmp_path / "half", dtype=dtype)

    loaded = GHN.from_pretrained(tmp_path / "half")

    sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        rounded = ghn.state_dict()[name].to(getattr(torch, dtype)).float()
        assert torch.equal(value, rounded)


def test_saving_over_a_checkpoint_replaces_it(folder):
    other = build(seed=1)

    other.save_pretrained(folder)

    assert same(GHN.from_pretrained(folder), other)


CORRUPTIONS = {
    "no config": lambda f: (f / CONFIG).unlink(),
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "config cut short": lambda f: (f / CONFIG).write_text((f / CONFIG).read_text()[:-20]),
    "config that is a list": lambda f: (f / CONFIG).write_text("[]"),
    "foreign config": lambda f: edit_config(f, library="transformers"),
    "config without a library": lambda f: edit_config(f, library=...),
    "newer format": lambda f: edit_config(f, format_version=99),
    "no format": lambda f: edit_config(f, format_version=...),
    "newer vocabulary": lambda f: edit_config(f, vocabulary_version=99),
    "unknown setting": lambda f: edit_config(f, temperature=1.0),
    "setting out of range": lambda f: edit_config(f, spread=0.5),
    "other sizes": lambda f: edit_config(
        f, decoder={**json.loads((f / CONFIG).read_text())["decoder"], "rank": 7}
    ),
    "weights cut short": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-100]),
    "weights cut in the header": lambda f: (f / WEIGHTS).write_bytes(
        (f / WEIGHTS).read_bytes()[:50]
    ),
    "empty weights": lambda f: (f / WEIGHTS).write_bytes(b""),
    "pickled weights": lambda f: torch.save({}, f / WEIGHTS),
    "missing tensor": lambda f: edit_weights(f, lambda t: t.pop("encoder.norm.weight")),
    "unexpected tensor": lambda f: edit_weights(f, lambda t: t.update(extra=torch.zeros(2))),
    "misshaped tensor": lambda f: edit_weights(
        f, lambda t: t.update({"encoder.norm.weight": torch.zeros(17)})
    ),
    "not finite": lambda f: edit_weights(f, lambda t: t["encoder.norm.weight"].fill_(torch.nan)),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
def test_a_damaged_checkpoint_is_refused(folder, what):
    CORRUPTIONS[what](folder)

    with pytest.raises(CheckpointError, match=r"config\.json|model\.safetensors"):
        GHN.from_pretrained(folder)


def test_a_checkpoint_with_fewer_operators_and_roles_reads_new_ones_as_other(folder):
    operators, roles = "encoder.input.operator.weight", "decoder.sections.role.weight"
    other = list(ROLES).index("other")

    def shorten(tensors):
        tensors[operators] = tensors[operators][:-5].clone()

    edit_weights(folder, shorten)
    loaded, saved = GHN.from_pretrained(folder).state_dict(), build().state_dict()

    assert len(loaded[operators]) == len(OPERATORS)
    assert torch.equal(loaded[operators][:-5], saved[operators][:-5])
    assert torch.equal(loaded[operators][-5:], saved[operators][:1].expand(5, -1))
    assert torch.equal(loaded[roles][other], saved[roles][other])


def test_weights_that_half_precision_cannot_hold_are_refused_before_anything_is_written(tmp_path):
    ghn = build()
    ghn.save_pretrained(tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()
    with torch.no_grad():
        ghn.encoder.norm.weight.fill_(1e6)

    with pytest.raises(CheckpointError, match=r"encoder\.norm\.weight .*float16"):
        ghn.save_pretrained(tmp_path, dtype="float16")

    assert (tmp_path / WEIGHTS).read_bytes() == before


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="float32, float16, bfloat16"):
        build().save_pretrained(tmp_path, dtype="int8")


FULL_DISK = """
import resource, signal, sys, torch
sys.path[:0] = {path!r}
from test_checkpoint import build
from ghn.errors import GHNError
ghn = build(seed=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    ghn.save_pretrained({folder!r})
except (OSError, GHNError) as error:
    print("refused:", error)
"""


def test_a_full_disk_leaves_the_old_checkpoint(folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    here = Path(__file__).parent
    code = FULL_DISK.format(path=[str(here), str(here.parent)], folder=str(folder))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "refused:" in done.stdout, done.stderr
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_an_unknown_name_lists_near_ones(folder, monkeypatch):
    known = {"vision-cifar10": folder, "text-bytes": folder}
    monkeypatch.setattr(checkpoint_module, "embedded_checkpoints", lambda: known)

    with pytest.raises(UnknownNameError, match="Did you mean 'vision-cifar10'"):
        GHN.from_pretrained("vision-cifar")


@pytest.mark.parametrize(
    ("name", "table", "start"),
    [
        ("vision-cifar10", "test", "ghn:vision-cifar10"),
        ("vision-cifar10-tiled", "test", "ghn:vision-cifar10-tiled"),
        ("vision-cifar10-tiled-long", "test", "ghn:vision-cifar10-tiled-long"),
        ("text-bytes", "gpts-clip", "ghn"),
    ],
)
def test_embedded_checkpoints_recommend_the_rate_of_their_benchmark(name, table, start):
    results = Path(__file__).parents[2] / "results" / f"bench-init-{table}.json"
    summary = json.loads(results.read_text())["summary"]
    [rate] = {r["rate"] for r in summary if r["start"] == start and r["group"] in ("all", "GPT")}

    assert load_ghn(name).config.learning_rate == rate


def test_a_recommended_rate_is_a_rate():
    with pytest.raises(ConfigError, match="learning_rate must be above 0, got -1"):
        GHNConfig(learning_rate=-1.0)


def test_an_embedded_name_is_found(folder, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "embedded_checkpoints", lambda: {"mine": folder})

    assert same(GHN.from_pretrained("mine"), GHN.from_pretrained(folder))


def test_a_hub_id_downloads_both_files_and_no_other(folder, monkeypatch):
    asked = []

    def download(repo_id, filename, **settings):
        asked.append((repo_id, filename, settings))
        return str(folder / filename)

    monkeypatch.setattr(checkpoint_module, "hf_hub_download", download)

    loaded = GHN.from_pretrained("someone/something", revision="v1")

    assert same(loaded, GHN.from_pretrained(folder))
    assert asked == [("someone/something", f, {"revision": "v1"}) for f in (CONFIG, WEIGHTS)]


def test_a_hub_id_that_cannot_be_downloaded_is_a_clear_error(monkeypatch):
    def download(**settings):
        raise OSError("no network")

    monkeypatch.setattr(checkpoint_module, "hf_hub_download", download)

    with pytest.raises(CheckpointError, match=r"someone/something.*no network"):
        GHN.from_pretrained("someone/something")


def test_pushing_uploads_a_folder_that_loads(monkeypatch):
    import huggingface_hub

    ghn, uploaded = build(), []

    def create_repo(self, repo_id, **settings):
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, folder_path, **settings):
        uploaded.append(same(GHN.from_pretrained(folder_path), ghn))
        return "commit"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)

    assert ghn.push_to_hub("someone/something") == "commit"
    assert uploaded == [True]


def test_saving_can_upload_the_very_folder(tmp_path, monkeypatch):
    import huggingface_hub

    calls = []

    def create_repo(self, repo_id, **settings):
        calls.append((repo_id, settings))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **settings):
        header = (folder_path / WEIGHTS).read_bytes()[:2000]
        calls.append((repo_id, b"F16" in header, (folder_path / "README.md").exists(), settings))
        return "commit"

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    (tmp_path / "README.md").write_text("a card")

    found = build().save_pretrained(
        tmp_path, dtype="float16", push_to_hub=True, repo_id="a/b", private=True,
        commit_message="first",
    )  # fmt: skip

    assert found == "commit"
    assert calls == [
        ("a/b", {"private": True, "exist_ok": True}),
        ("a/b", True, True, {"commit_message": "first"}),
    ]


def test_a_checkpoint_is_loaded_once_and_again_when_it_changed(folder):
    first = load_ghn(folder)

    assert load_ghn(str(folder)) is first
    assert not first.training
    assert not any(p.requires_grad for p in first.parameters())

    os.utime(folder / "config.json", ns=(1, 1))
    assert load_ghn(folder) is not first

    build(seed=2).save_pretrained(folder)
    os.utime(folder / WEIGHTS, ns=(1, 1))
    assert not same(load_ghn(folder), first)


def test_a_checkpoint_is_the_same_whatever_the_caller_has_set(folder):
    first = GHN.from_pretrained(folder)

    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.inference_mode(), torch.device("meta"):
            second = GHN.from_pretrained(folder)
        assert torch.get_default_dtype() is torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)

    assert same(first, second)
    assert not any(p.is_inference() for p in second.parameters())
    assert all(p.requires_grad for p in second.parameters())


def test_what_is_predicted_in_inference_mode_and_autocast_is_as_outside_and_leaves_no_trace(folder):
    for features in (_features, position_features):
        features.cache_clear()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    inputs = torch.zeros(1, 3, 8, 8)
    ghn = GHN.from_pretrained(folder)

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        inside = predict_state_dict(model, inputs, checkpoint=ghn)
    outside = predict_state_dict(model, inputs, checkpoint=ghn)

    assert all(torch.equal(inside[name], value) for name, value in outside.items())
    ghn.train().requires_grad_(True)
    [emitted] = ghn([trace(model, inputs)])
    sum(value.square().sum() for value in emitted.values()).backward()  # of no inference tensors
    assert any(p.grad is not None and p.grad.any() for p in ghn.parameters())
