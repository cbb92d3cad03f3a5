import json
import math

import pytest
import torch
from typer.testing import CliRunner

from ghn.benchmarks.mip import MIPConfig, run_mip
from ghn.benchmarks.mip.arms import ARMS, CONDITIONS, IMAGES, Piece, build, constant_loss, train
from ghn.benchmarks.mip.bench import further_rate
from ghn.benchmarks.mip.outcome import TaskResult, Trained
from ghn.benchmarks.mip.tasks import TASKS, images_of
from ghn.cli import app
from ghn.engine.run import run
from ghn.errors import ConfigError, UnknownNameError
from ghn.rng import make_generator


def plain_run(arm, rate, seed, steps):
    """One run in a loop of its own, condition by condition; return the losses of its steps."""
    ghn, graph, network = build("beta-vae", arm, seed)
    images, task = images_of("beta-vae", "fit"), TASKS["beta-vae"]
    draws = make_generator(seed, "batches", "beta-vae")
    numbers = make_generator(0, "conditions", "beta-vae")
    optimizer = torch.optim.Adam(ghn.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        chosen = images[torch.randint(len(images), (CONDITIONS, IMAGES), generator=draws)]
        noise = torch.randn(CONDITIONS, IMAGES, task.noise, generator=draws)
        g = torch.rand(CONDITIONS, generator=numbers)
        parts = []
        for x, e, number in zip(chosen, noise, g, strict=True):
            output = run(network, ghn(graph, condition=number[None]), (x, e))[0]
            parts.append(task.loss(tuple(t[None] for t in output), x[None], number[None])[0])
        loss = torch.stack(parts).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return ghn, losses


@pytest.mark.parametrize("arm", ["default", "MIP"])
def test_runs_side_by_side_are_what_each_is_alone(arm):
    together = train(Piece("beta-vae", arm, (1e-3, 1e-2), (0, 1), 3, 1))

    assert [(run.rate, run.seed) for run in together] == [
        *((1e-3, 0), (1e-3, 1)),
        *((1e-2, 0), (1e-2, 1)),
    ]
    ghn, _ = plain_run(arm, 1e-2, 1, 3)
    graph, network = build("beta-vae", arm, 1)[1:]
    images = images_of("beta-vae", "val")[:500]
    noise = torch.randn(len(images), 8, generator=make_generator(0, "noise", "val"))
    losses = []
    with torch.no_grad():
        for number in torch.linspace(0, 1, 11):
            output = run(network, ghn(graph, condition=number[None]), (images, noise))[0]
            loss = TASKS["beta-vae"].loss(
                tuple(t[None] for t in output), images[None], number[None]
            )
            losses.append(float(loss[0]))
    assert together[3].val == pytest.approx(sum(losses) / 11, rel=1e-3)


def test_arms_differ_in_their_encoding_and_their_base_alone():
    built = {arm: build("beta-vae", arm, 0) for arm in ARMS}

    own = dict(built["MIP"][2].named_parameters())
    for arm, (circle, has_base) in ARMS.items():
        ghn = built[arm][0]
        assert ghn.condition.config.encoding == ("circle" if circle else "raw")
        assert (ghn.base is not None) == has_base
        if has_base:
            held = dict(zip(ghn.base.names, ghn.base.tensors, strict=True))
            assert all(torch.equal(held[name], p) for name, p in own.items())


def test_the_best_constant_loses_the_variance_of_the_data():
    images, mean = images_of("beta-vae", "test"), images_of("beta-vae", "fit").mean(0)
    task = TASKS["beta-vae"]
    silent = (mean.expand(len(images), -1), torch.zeros(1, 8), torch.zeros(1, 8))

    loss = task.loss(tuple(t[None] for t in silent), images[None], torch.tensor([0.7]))

    assert constant_loss("beta-vae") == pytest.approx(float(loss), rel=1e-5)


def made_up(slopes=(1.0, 1.0)):
    def runs(values):
        return [
            Trained(rate, seed, [(10, 9.0), (20, loss)], loss + 0.5)
            for rate, losses in values.items()
            for seed, loss in enumerate(losses)
        ]

    tables = {
        "default": {0.1: (4.0, 4.2), 0.2: (4.0, math.inf)},
        "MIP": {0.1: (3.0, 3.2), 0.2: (2.0, 2.2)},
    }
    others = dict.fromkeys(ARMS, tables["default"])
    arms = {arm: runs(values) for arm, values in {**others, **tables}.items()}
    return TaskResult("beta-vae", 5.0, {arm: list(slopes) for arm in ARMS}, arms)


def test_each_arm_has_its_best_rate_by_validation_and_a_run_that_diverged_is_not_it():
    task = made_up()

    assert task.best("default")[0] == 0.1
    assert task.best("MIP")[0] == 0.2
    assert task.test("MIP") == pytest.approx(2.6)
    assert task.steps("MIP") == 20


def test_an_arm_gets_further_rates_until_its_best_lies_between_worse_ones():
    def runs(losses):
        return [Trained(rate, 0, [(1, loss)], loss) for rate, loss in losses.items()]

    assert further_rate(runs({1e-3: 3.0, 1e-2: 2.0})) == 3e-2
    assert further_rate(runs({1e-3: 2.0, 1e-2: 3.0})) == 3e-4
    assert further_rate(runs({1e-3: 3.0, 1e-2: 2.0, 3e-2: math.inf})) is None
    assert further_rate(runs({1e-2: 3.0, 1e-1: 2.0})) is None  # the ladder ends


def test_a_benchmark_goes_on_where_it_stopped_and_writes_its_results(tmp_path, monkeypatch):
    config = MIPConfig(
        tasks=("beta-vae",), seeds=(0, 1), rates=(1e-2,), steps=2, tests=1, out=str(tmp_path)
    )
    monkeypatch.setattr("ghn.benchmarks.mip.bench.LADDER", ())
    result = run_mip(config)
    monkeypatch.setattr("ghn.benchmarks.mip.bench.train", lambda piece: pytest.fail("ran again"))

    again = run_mip(config)
    result.write(tmp_path, {"command": "ghn bench mip"})

    assert json.dumps(again.to_dict()) == json.dumps(result.to_dict())
    columns, rows = result.table()
    assert [row[1] for row in rows] == [*ARMS, "constant"]
    assert all(len(row) == len(columns) for row in rows)
    assert rows[0][2] == "1.000 to 1.000"
    assert "| beta-vae | MIP |" in (tmp_path / "mip.md").read_text()
    assert (tmp_path / "mip.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.slow
def test_the_command_prints_and_writes(tmp_path):
    arguments = ["bench", "mip", "--tasks", "beta-vae", "--seeds", "0", "--rates", "0.01"]
    arguments += ["--steps", "4", "--tests", "2", "--out", str(tmp_path), "--json"]

    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found["record"]["data"] == {"digits": "sklearn-digits"}
    tried = {(run["arm"], run["rate"]) for run in found["tasks"][0]["runs"]}
    assert len({arm for arm, _ in tried}) == 4
    # The one rate asked for lies on the edge of its grid, which is widened.
    assert {rate for _, rate in tried} > {0.01}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"rates": (0.0,)}, ConfigError),
        ({"tests": 0}, ConfigError),
        ({"seeds": ()}, ConfigError),
        ({"tasks": ("beta",)}, UnknownNameError),
    ],
)
def test_benchmarks_that_make_no_sense_are_refused(change, error):
    with pytest.raises(error):
        MIPConfig(**change)
