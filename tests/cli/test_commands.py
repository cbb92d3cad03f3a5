import json
import re
import shlex

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from ghn.benchmarks.soundness import Soundness
from ghn.benchmarks.sweep import Traced
from ghn.cli import app
from ghn.cli.models import shell_command
from ghn.engine import GHN, GHNConfig, Report
from ghn.graphs import ParamGraph

RUN = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ghn") / "untrained"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GHN(GHNConfig()).save_pretrained(folder)
    return str(folder)


def ok(*arguments):
    result = RUN.invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_predict_writes_all_parameters_and_a_report(checkpoint, tmp_path):
    out = tmp_path / "weights.safetensors"

    text = ok("predict", "timm:resnet10t", "-o", str(out), "--checkpoint", checkpoint, "--json")

    report = json.loads(text[text.index("{") :])
    import timm

    model = timm.create_model("resnet10t")
    tensors = load_file(out)
    assert set(report["predicted"]) | set(report["kept"]) == {
        n for n, _ in model.named_parameters()
    }
    model.load_state_dict(tensors, strict=False)
    assert {n for n, _ in model.named_parameters()} <= set(tensors)
    again = RUN.invoke(app, ["predict", "timm:resnet10t", "-o", str(out)])
    assert again.exit_code == 1
    assert out.name in again.output


def test_predict_writes_a_page_with_both_distributions(checkpoint, tmp_path):
    out, page = tmp_path / "weights.safetensors", tmp_path / "page.html"
    words = ["predict", "vits:1", "-o", str(out), "--checkpoint", checkpoint, "--seed", "3"]

    ok(*words, "--report", str(page))

    text = page.read_text()
    assert "--report page.html" in text
    assert "--seed 3" in text
    data = json.loads(re.search(r'id="data">(.*?)<', text)[1])
    predicted = [p for p in data["provenance"].values() if "decoder" in p]
    assert len(predicted) > 10
    assert all(p["default"] != p["now"] for p in predicted)
    assert RUN.invoke(app, [*words, "--report", str(page)]).exit_code == 1


def test_graph_writes_json_that_reads_back_and_pictures(tmp_path):
    for ending in ("json", "svg", "png", "html"):
        ok("graph", "vits:1", "-o", str(tmp_path / f"graph.{ending}"))

    graph = ParamGraph.from_json((tmp_path / "graph.json").read_text())
    assert graph.specs["position"].role == "position"
    assert (tmp_path / "graph.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "graph.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "ghn graph vits:1 -o graph.html" in page


def test_a_page_with_ties_says_so_in_its_command_and_nothing_else_takes_them(tmp_path):
    page = tmp_path / "graph.html"

    ok("graph", "vits:1", "-o", str(page), "--ties")

    data = json.loads(re.search(r'id="data">(.*?)<', page.read_text())[1])
    assert any(axis[0] == "position" for tied in data["ties"] for axis in tied["axes"])
    assert data["command"] == "ghn graph vits:1 -o graph.html --ties"
    refused = RUN.invoke(app, ["graph", "vits:1", "-o", str(tmp_path / "x.svg"), "--ties"])
    assert refused.exit_code == 1
    assert "--ties needs a page" in refused.output
    assert [p.name for p in tmp_path.iterdir()] == ["graph.html"]


def test_a_page_begins_unfolded_where_asked_and_a_graph_without_a_drawing_refuses(tmp_path):
    ok("graph", "vits:1", "-o", str(tmp_path / "graph.html"), "--unfold")

    data = json.loads(re.search(r'id="data">(.*?)<', (tmp_path / "graph.html").read_text())[1])
    assert data["unfolded"] is True
    assert data["command"] == "ghn graph vits:1 -o graph.html --unfold"
    for given in (["-o", str(tmp_path / "x.json")], []):
        refused = RUN.invoke(app, ["graph", "vits:1", *given, "--unfold"])
        assert refused.exit_code == 1
        assert "--unfold needs a page or a picture" in refused.output
    assert [p.name for p in tmp_path.iterdir()] == ["graph.html"]


def test_a_command_line_is_written_that_a_shell_reads_back(tmp_path):
    flags = {
        "-o": tmp_path / "my page.html",
        "--seed": 0,
        "--force": True,
        "--generate": ["a", "*b"],
    }

    line = shell_command("predict", "timm:x", {**flags, "--checkpoint": None, "--json": False})

    words = ["ghn", "predict", "timm:x", "-o", "my page.html", "--seed", "0", "--force"]
    assert shlex.split(line) == [*words, "--generate", "a", "--generate", "*b"]


@pytest.fixture
def sweeps(monkeypatch, tmp_path):
    """What sweeps over zoos were called with; they find nothing."""
    seen = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def trace_all(names, jobs, ticker, limits, journal):
        seen.append((limits, journal))
        return [Traced(name, 0.1) for name in names]

    def check_sample(names, *arguments, limits, journal):
        seen.append((limits, journal))
        return [Soundness(names[0], finite=True, differ=names[0] != "vits:13")]

    monkeypatch.setattr("ghn.cli.zoo.trace_all", trace_all)
    monkeypatch.setattr("ghn.benchmarks.soundness.check_sample", check_sample)
    return seen


@pytest.mark.parametrize(
    "line",
    [
        "ghn zoo trace vits --filter '1*' --limit 2 --seconds 30.0 --save out",
        "ghn zoo trace vits --jobs 1 --gigabytes 2.0 --save out",
        "ghn zoo predict vits --sample 2 --filter '1*' --seconds 9.0 --no-calibrate --save out",
        "ghn zoo predict vits --seed 0 --millions 3.5 --checkpoint vision-cifar10 --save out",
    ],
)
def test_the_command_that_a_sweep_leaves_is_the_one_that_was_given(
    sweeps, line, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)

    ok(*shlex.split(line)[1:])

    what = line.split()[2]
    assert json.loads((tmp_path / "out" / f"{what}-vits.json").read_text())["command"] == line
    assert f"`{line}`" in (tmp_path / "out" / f"{what}-vits.md").read_text()


@pytest.mark.parametrize("what", ["trace", "predict"])
def test_a_small_sweep_leaves_what_an_interrupted_larger_one_found(sweeps, what):
    for pattern in ("1*", "*", "*"):
        ok("zoo", what, "vits", "--filter", pattern)

    (_, few), (_, all_of_them), (_, again) = sweeps
    assert few != all_of_them == again


def test_a_prediction_that_is_not_sane_ends_with_status_1(sweeps):
    found = RUN.invoke(app, ["zoo", "predict", "vits", "--filter", "13"])

    assert found.exit_code == 1
    assert "same outputs" in found.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "vits", "--millions", "inf"], "--millions must be a number above 0"),
        (["predict", "vits", "--seconds", "nan"], "seconds must be a number of at least 0"),
        (["trace", "vits", "--gigabytes", "-1"], "gigabytes must be a number of at least 0"),
        (["list", "--filter", "resnet*"], "name a family"),
    ],
)
def test_wrong_limits_and_filters_of_sweeps_are_told_in_words(sweeps, words, message):
    found = RUN.invoke(app, ["zoo", *words])

    assert found.exit_code == 1
    assert message in " ".join(found.output.split())
    assert not sweeps


@pytest.mark.parametrize("what", ["trace", "predict"])
def test_a_sweep_with_other_limits_does_not_go_on_with_what_was_found(sweeps, what):
    for seconds in ("30", "60", "60"):
        ok("zoo", what, "vits", "--seconds", seconds)

    (_, first), (_, second), (_, third) = sweeps
    assert first != second
    assert second == third


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_predict_says_all_that_the_report_says(form, tmp_path, monkeypatch):
    found = Report({"a": "lowrank"}, {"b": "untouched"}, "vision-x", 0.1,
                   ("the checkpoint is for images",), {"a": 0.5})  # fmt: skip
    monkeypatch.setattr("ghn.engine.predict_params", lambda model, **settings: found)

    text = ok("predict", "vits:1", "-o", str(tmp_path / "x.safetensors"), *form)

    if form:
        assert found.to_dict().items() <= json.loads(text).items()
    else:
        assert all(line in text for line in str(found).splitlines())


def test_env_and_zoo_list_answer_programs():
    assert {"torch", "kernels", "data", "checkpoints"} <= set(json.loads(ok("env", "--json")))
    assert "timm:resnet50" in json.loads(ok("zoo", "list", "timm", "--json"))


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["graph", "timm:resnet5o"], 1, "resnet50"),
        (["graph", "keras:x"], 1, "unknown family"),
        (["grap"], 2, "graph"),
        (["predict", "resnet18"], 2, "--out"),
        (["predict", "resnet18", "-o", "x.safetensors", "--checkpoint", "vision"], 1, "checkpoint"),
        (["graph", "resnet18", "-o", "x.xyz"], 1, ".svg"),
    ],
)
def test_errors_are_one_message_and_an_exit_status(arguments, status, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    result = RUN.invoke(app, arguments)

    assert result.exit_code == status
    assert words in result.output
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_short_training_run_ends_with_a_checkpoint_that_loads(tmp_path, monkeypatch):
    out = tmp_path / "run"
    ghn = ["--ghn.encoder", '{"type": "GraphormerConfig", "dim": 16, "layers": 1, "heads": 2}']
    ghn += ["--ghn.decoder"]
    ghn += ['{"type": "LowRankDecoderConfig", "dim": 16, "hidden": 16, "rank": 8, "rows": 64}']

    words = ["train", "--out", str(out), "--data", "digits", "--steps", "2", "--pool", "2"]
    words += ["--eval-every", "0", "--eval-networks", "1", *ghn]
    words += ["--families", "convnets", "--shares", "1.0"]
    monkeypatch.setattr("sys.argv", ["ghn", *words])
    ok(*words)

    loaded = GHN.from_pretrained(out / "checkpoint")
    assert loaded.config.decoder.rank == 8
    assert "conv/weight/2/stem" in loaded.config.support.uses
    assert "ghn train" in (out / "checkpoint" / "README.md").read_text()


def test_predict_says_that_the_checkpoint_learned_from_images_of_another_size(tmp_path):
    text = ok("predict", "timm:test_resnet", "-o", str(tmp_path / "x.safetensors"))

    assert "learned from images of 32 x 32" in " ".join(text.split())
