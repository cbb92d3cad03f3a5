import json
import sys

import pytest
import torch
from continual_helpers import toy_learner, toy_model, toy_task
from safetensors.torch import load_file
from typer.testing import CliRunner

from ghn.cli import app
from ghn.errors import ConfigError, InputError, MissingExtraError, UnknownNameError
from ghn.methods.continual import BENCHMARKS, TaskData, evaluate, from_avalanche, learn_sequence
from ghn.methods.continual import run as run_module
from ghn.methods.continual.report import Result, Row
from ghn.methods.continual.run import RunConfig, run
from ghn.training.anchor import AnchorConfig

TASKS = [TaskData(f"task {i}", toy_task(i), toy_task(i, seed=1)) for i in range(3)]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", ["recurrent", "joint", "ewc"])
def test_a_killed_run_goes_on_after_its_last_task_with_the_same_result(name, tmp_path):
    def make():
        return toy_learner(name, steps=6)

    def sequence(path, progress=None):
        return learn_sequence(
            make, toy_model(), TASKS, path=tmp_path / path, settings={"a": 1}, progress=progress
        )

    def kill(done, total, text):
        if text == "task 2" and done > 0.8 * total:
            raise KilledError

    whole, matrix = sequence("whole.safetensors")
    with pytest.raises(KilledError):
        sequence("killed.safetensors", kill)
    again, same = sequence("killed.safetensors")

    assert same == matrix
    assert [len(row) for row in matrix] == [1, 2, 3]
    one, other = (load_file(tmp_path / f"{n}.safetensors") for n in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert evaluate(again, TASKS) == evaluate(whole, TASKS)


def test_a_file_of_a_run_with_other_settings_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    arguments = (lambda: toy_learner("recurrent", steps=2), toy_model(), TASKS[:1])
    learn_sequence(*arguments, path=path, settings={"steps": 2})

    with pytest.raises(ConfigError, match="other settings"):
        learn_sequence(*arguments, path=path, settings={"steps": 3})
    toy_learner("recurrent").save(path)
    with pytest.raises(ConfigError, match=r"other settings \(None\)"):
        learn_sequence(*arguments, path=path, settings={"steps": 3})


def test_a_run_whose_settings_hold_tuples_and_configs_goes_on_from_its_file(tmp_path):
    settings = {"hidden": (4,), "anchor": AnchorConfig()}

    def sequence(tasks):
        return learn_sequence(
            lambda: toy_learner("recurrent", steps=2),
            toy_model(),
            tasks,
            path=tmp_path / "run.safetensors",
            settings=settings,
        )

    sequence(TASKS[:1])

    assert len(sequence(TASKS[:2])[1]) == 2


def test_settings_that_no_file_could_hold_are_refused_before_anything_is_learned(tmp_path):
    learner = toy_learner("recurrent", steps=2)

    with pytest.raises(ConfigError, match="settings must be texts"):
        learn_sequence(lambda: learner, toy_model(), TASKS[:1], settings={"t": torch.zeros(1)})

    assert not learner.tasks


def test_notes_that_no_file_could_hold_are_refused_and_the_file_stays(tmp_path):
    learner, path = toy_learner("recurrent", steps=2), tmp_path / "run.safetensors"
    learner.save(path, {"scores": (1, 2)})

    with pytest.raises(ConfigError, match=r"notes must be texts.*Tensor"):
        learner.save(path, {"t": torch.zeros(1)})

    assert type(learner).load(path, toy_model())[1] == {"scores": [1, 2]}


def test_a_file_of_a_run_with_more_tasks_than_are_asked_for_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    arguments = (lambda: toy_learner("fine-tuning", steps=2), toy_model())
    learn_sequence(*arguments, TASKS[:2], path=path)

    with pytest.raises(ConfigError, match="holds 2 tasks, 1 are asked for"):
        learn_sequence(*arguments, TASKS[:1], path=path)
    assert len(learn_sequence(*arguments, TASKS, path=path)[1]) == 3


def test_benchmarks_are_balanced_seeded_and_fit_their_networks():
    benchmark = BENCHMARKS["permuted-digits"]
    tasks, again, other = (benchmark.tasks(s, ("fit", "val"), 64) for s in (0, 0, 1))

    assert len(tasks) == benchmark.count == 10
    (x, _), (same, _) = next(iter(tasks[3].train)), next(iter(again[3].train))
    assert torch.equal(x, same)
    assert not torch.equal(x, next(iter(other[3].train))[0])
    assert benchmark.network(1.0)(x).shape == (64, 10)
    plain = next(iter(tasks[0].train))[0]
    torch.testing.assert_close(x.sort(1).values, plain.sort(1).values)
    assert not torch.equal(x, plain)
    assert sum(len(labels) for _, labels in tasks[0].test) == 287

    split = BENCHMARKS["split-digits"].tasks(0, ("train", "test"), 64)
    labels = torch.cat([y for _, y in split[4].test])
    assert len(split) == 5
    assert labels.unique().tolist() == [0, 1]


def test_the_published_setting_for_resnet_32_comes_out_by_instantiation():
    from ghn.methods.continual import ContinualConfig, ContinualLearner

    benchmark = BENCHMARKS["resnet32-cifar"]
    model = benchmark.network(1.0)
    settings = benchmark.settings["chunked-learned"]
    learner = ContinualLearner(
        model,
        config=ContinualConfig.from_dict(settings),
        example_inputs=torch.empty(2, 3, 32, 32),
    )
    for i in range(6):
        learner.ghn.condition.add(f"task {i}")

    assert sum(p.numel() for p in model.parameters()) == 468_540
    assert learner.num_parameters() == 457_336
    emitted = learner.ghn(learner.graph, condition="task 0")
    assert {n: t.shape for n, t in emitted.items()} == {
        n: p.shape for n, p in model.named_parameters()
    }


def test_a_run_gives_a_table_and_a_matched_network_has_the_hypernetworks_size(tmp_path):
    config = RunConfig(
        methods=("recurrent", "fine-tuning-matched"),
        seeds=(0, 1),
        steps=3,
        tasks=2,
        out=str(tmp_path),
    )

    result = run(config)

    columns, rows = result.table()
    assert [row[0] for row in rows] == ["recurrent", "fine-tuning-matched"]
    assert all(len(row) == len(columns) for row in rows)
    sizes = [int(row[1].replace(",", "")) for row in rows]
    assert 0.9 < sizes[1] / sizes[0] < 1.05
    result.write(tmp_path, {"command": "ghn run", "machine": {}, "versions": {}})
    written = json.loads((tmp_path / "continual-split-digits.json").read_text())
    assert len(written["rows"]) == 4
    assert "backward_transfer" in written["rows"][0]["metrics"]
    assert "| recurrent |" in (tmp_path / "continual-split-digits.md").read_text()
    assert (tmp_path / "continual-split-digits.svg").read_text().lstrip().startswith("<?xml")
    page = (tmp_path / "continual-split-digits.html").read_text()
    assert "<pre>ghn run</pre>" in page
    assert page.count("<figure>") == 3  # curves, and a matrix for each method
    assert all(f"<td>{method}</td>" in page for method in config.methods)


def test_the_table_shows_means_and_deviations_over_seeds():
    rows = [Row("m", s, 10, [[90.0], [80.0 + s, 90.0]], 1.0, {}) for s in (0, 2)]

    cells = Result("name", "title", rows).table()[1][0]

    assert cells[:5] == ["m", "10", "85.5 ± 0.7", "90.0 ± 0.0", "-9.0 ± 1.4"]


def test_the_transfer_to_new_tasks_is_from_separate_networks_of_the_same_seed():
    rows = [
        Row("m", 0, 10, [[90.0], [80.0, 91.0]], 1.0, {}),
        Row("m", 1, 10, [[90.0], [80.0, 92.0]], 1.0, {}),
        Row("separate", 0, 10, [[90.0], [90.0, 95.0]], 1.0, {}),
    ]

    found = [row["metrics"] for row in Result("name", "title", rows).to_dict()["rows"]]

    assert [row.get("transfer_to_new") for row in found] == [-4.0, None, 0.0]
    assert all(None not in row.values() for row in found)
    assert all("forward_transfer" not in row for row in found)
    assert found[0]["backward_transfer"] == -10.0


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"split": "train"}, ConfigError),
        ({"seeds": ()}, ConfigError),
        ({"seeds": (0, 1, 0)}, ConfigError),
        ({"methods": ("ewc", "ewc")}, ConfigError),
        ({"steps": -1}, ConfigError),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, error):
    with pytest.raises(error):
        RunConfig(**settings)


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="permuted-digits"):
        run(RunConfig(benchmark="permuted-digit", out=str(tmp_path)))
    with pytest.raises(UnknownNameError, match="recurrent"):
        run(RunConfig(methods=("recurent",), out=str(tmp_path)))
    with pytest.raises(ConfigError, match="what others are matched to"):
        run(RunConfig(methods=("chunked-matched",), out=str(tmp_path)))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--methods", "nope"), "unknown learner 'nope'"),
        (("--methods", "ewc", "--settings", '{"dim": 8}'), "ewc does not take these settings"),
        (("--out", "FILE"), "cannot make the folder"),
        (("--results", "FILE"), "cannot make the folder"),
        (("--methods", "recurrent"), "methods must differ"),
        (("--seeds", "0", "--seeds", "0"), "seeds must differ"),
    ],
    ids=lambda words: words[0] if isinstance(words, tuple) else "",
)
def test_what_is_wrong_with_a_run_is_told_before_anything_is_trained(
    words, told, tmp_path, monkeypatch
):
    (tmp_path / "FILE").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module, "_run_one", lambda *_: pytest.fail("it was trained"))

    result = CliRunner().invoke(app, ["run", "continual", "--methods", "recurrent", *words])

    assert result.exit_code == 1
    assert told in " ".join(result.output.split())


def test_the_command_runs_writes_and_goes_on(tmp_path):
    arguments = ["run", "continual", "--methods", "recurrent", "--steps", "2", "--tasks", "2"]
    arguments += ["--out", str(tmp_path / "runs"), "--json"]

    first = CliRunner().invoke(app, arguments)
    second = CliRunner().invoke(app, arguments)

    assert first.exit_code == 0, first.output
    results = [json.loads(r.stdout[r.stdout.index("{") :]) for r in (first, second)]
    assert results[0]["rows"] == results[1]["rows"]
    assert "ghn" in results[0]["record"]["command"]
    folder = tmp_path / "runs" / "split-digits-test"
    assert {p.name for p in folder.iterdir()} == {
        "recurrent-0.safetensors",
        *(f"continual-split-digits.{end}" for end in ("json", "md", "svg", "html")),
    }
    help_text = CliRunner().invoke(app, ["run", "continual", "--help"]).output
    assert "--benchmark" in help_text


def test_avalanche_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "avalanche", None)

    with pytest.raises(MissingExtraError, match="avalanche-lib"):
        from_avalanche(object())


def test_an_avalanche_benchmark_becomes_tasks(monkeypatch):
    from types import ModuleType, SimpleNamespace

    from torch.utils.data import TensorDataset

    def experience(number, first):
        labels = torch.tensor([first, first + 1] * 5)
        dataset = TensorDataset(torch.randn(10, 12), labels, torch.full((10,), number))
        return SimpleNamespace(
            dataset=dataset,
            current_experience=number,
            classes_in_this_experience=[first + 1, first],
        )

    monkeypatch.setitem(sys.modules, "avalanche", ModuleType("avalanche"))
    stream = [experience(0, 0), experience(1, 1)]
    tasks = from_avalanche(SimpleNamespace(train_stream=stream, test_stream=stream), batch=5)

    learner = toy_learner("recurrent", steps=3)
    for task in tasks:
        learner.learn(task.name, task.train, classes=task.classes)

    assert [t.classes for t in tasks] == [(0, 1), (1, 2)]
    assert set(evaluate(learner, tasks)) == {"experience 0", "experience 1"}
    with pytest.raises(ConfigError, match="train_stream"):
        from_avalanche(object())
    with pytest.raises(InputError, match="got 1 for 2; split the test data"):
        from_avalanche(SimpleNamespace(train_stream=stream, test_stream=stream[:1]))
