"""Reports of every kind that methods need, from made-up numbers: what the template must hold."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np

from ghn.benchmarks.compare import Run
from ghn.benchmarks.init.config import InitConfig
from ghn.benchmarks.init.outcome import InitResult, NetworkResult
from ghn.benchmarks.init.save import init_report
from ghn.benchmarks.outcome import DemoConfig, DemoResult, ModelResult, Prediction
from ghn.benchmarks.records import make_record
from ghn.benchmarks.report import demo_report
from ghn.methods.continual.page import continual_report
from ghn.methods.continual.report import Result, Row
from ghn.methods.hypercrl import report as hypercrl
from ghn.methods.neumeta import report as neumeta
from ghn.methods.neumeta.tasks import CLASSES
from ghn.pages import (
    Cell,
    Details,
    Figure,
    Figures,
    Image,
    Line,
    Points,
    Report,
    Strip,
    Table,
    Text,
    bar_plot,
    encode_png,
    line_key,
    line_plot,
    matrix_plot,
)

FACTS = {"Machine": "made up, 2 cores", "Seeds": "0, 1, 2"}


def long() -> Report:
    """Many models: bars, and a long table."""
    models = [f"model_{i}" for i in range(30)]
    report = Report(
        title="Initialization benchmark",
        subtitle="ghn bench init, made-up numbers",
        verdict="The predicted start ends ahead on 17 of 30 models.",
        command="ghn bench init --steps 200",
        facts=FACTS,
    )
    bars = [
        ("default", [20.0, 30.0, 25.0], [1.0, 2.0, 1.5]),
        ("predicted", [33.0, 41.0, 24.0], [0.4, 0.9, 2.0]),
    ]
    rows = [
        [m, Cell(f"{i * 7 % 31} %", i * 7 % 31, mark=i * 7 % 31 > 25)] for i, m in enumerate(models)
    ]
    report.add(
        Table(["model", ">gain"], rows, caption="Gain in points.", heading="All models"),
        Figures([Figure(bar_plot(["mobilenetv3_small", "ViT", "DenseNet"], bars, "accuracy, %"),
                        "Accuracy after training, mean and deviation over seeds")]),
    )  # fmt: skip
    return report


def initialization() -> Report:
    """The report of `ghn bench init`, on networks that never were."""
    draws = random.Random(0)
    config = InitConfig(starts=("default", "orthogonal", "ghn"), steps=200, seeds=(1, 2, 3))

    def run(gain: float) -> Run:
        scores = [(s, 0.1 + gain * s / 200 + 0.02 * draws.random()) for s in range(0, 201, 20)]
        return Run([2.0, 1.0], scores)

    networks = [
        NetworkResult(
            name=f"{group}:{i}:test",
            group=group,
            parameters=40_000 * (i + 1),
            metric="accuracy",
            rates=dict.fromkeys(config.starts, 3e-3),
            tried={start: {1e-3: 1.0, 3e-3: 0.9} for start in config.starts},
            runs={
                start: [run(0.2 + 0.1 * place) for _ in config.seeds]
                for place, start in enumerate(config.starts)
            },
            notes={start: {} for start in config.starts},
        )
        for group in ("convnets", "vits")
        for i in range(3)
    ]
    record = make_record("ghn bench init --steps 200", (0, 1, 2, 3), {"name": "x", "hash": "0"})
    return init_report(InitResult(config, networks, record, {"cifar10/test": 100}, {}))


def continual() -> Report:
    """The report of `ghn run continual`, for methods that never ran."""
    rows = [
        Row(method, seed, 30_000, [[95.0 + seed - loss * (i - j) for j in range(i + 1)]
                                   for i in range(5)], 12.0, {})
        for method, loss in (("recurrent", 0.5), ("fine-tuning", 9.0))
        for seed in range(3)
    ]  # fmt: skip
    record = make_record("ghn run continual --seeds 0", (0, 1, 2), {"digits": "0"}).to_dict()
    return continual_report(Result("made-up", "split-digits, made-up numbers", rows), record)


def matrices() -> Report:
    """Matrices, lines with a legend, and points."""
    tasks = [f"task {i}" for i in range(1, 6)]
    matrix = [[90.0 - 3 * (j - i) if j >= i else None for j in range(5)] for i in range(5)]
    report = Report(title="Matrices", subtitle="made-up numbers", command="ghn run x", facts=FACTS)
    lines = [
        Line("hypernetwork", range(1, 6), [[90, 89, 88, 87, 86]] * 3),
        Line("fine-tuning", range(1, 6), [[90, 70, 50, 40, 30]] * 3),
    ]
    report.add(
        Figures(
            [
                Figure(matrix_plot(matrix, tasks, tasks, "after", "accuracy of"), "Accuracy, %"),
                Figure(line_plot(lines, "tasks", "accuracy, %", legend=True), "Mean accuracy"),
            ],
            heading="Accuracy",
        ),
        Points(["Seeds set the order of tasks.", "Baselines have their own best rates."]),
    )
    return report


def control() -> Report:
    """Model-based control: returns on a logarithmic axis, and the frames of a film."""
    steps = [1, 10, 100, 1000]
    runs = [[-100.0 / s + seed for s in steps] for seed in range(3)]
    report = Report(title="Continual control", subtitle="made-up numbers", command="ghn run x")
    lines = [Line("ours", steps, runs)]
    report.add(
        Text("Returns of the current task.", heading="Returns", quiet=True),
        Figures([Figure(line_plot(lines, "step", "return", log_x=True), "Return of an episode")],
                key=line_key(lines)),
        Strip(
            [Image(encode_png(np.full((32, 48), i / 11)), f"step {10 * i}") for i in range(12)],
            heading="An episode",
            caption="Every tenth step.",
        ),
        Details("All numbers as JSON", {"runs": runs, "broken": math.nan}),
    )  # fmt: skip
    return report


def demo() -> Report:
    """The report of `ghn demo`, for models that nobody trained."""
    config = DemoConfig(steps=20, seeds=(0, 1, 2))
    models = [
        ModelResult(
            name=name,
            what="made up",
            elements=123_456,
            prediction=Prediction(0.5, 7, {"unsupported": 2}, "made up"),
            rates={"default": 1e-2, "predicted": 3e-3},
            runs={
                start: [Run([2.3 - 0.05 * i for i in range(20)], [(0, low), (20, low + 0.2)])] * 3
                for start, low in (("default", 0.1), ("predicted", 0.3))
            },
        )
        for name in ("mobilenetv3_small_050", "ViT", "DenseNet")
    ]
    record = make_record("ghn demo --steps 20", (0, 1, 2), {"name": "digits"})
    return demo_report(DemoResult(config, "digits", models, record, 12.0))


def dynamics() -> Report:
    """The report of `ghn run hypercrl`: films, and a logarithmic axis."""
    tasks = ["standard", "reversed", "weak motors"]
    rows = [
        hypercrl.Row(
            method,
            seed,
            188_090,
            [
                {t: {"error": 0.1 * growth ** (i - j) + 0.01 * seed, "returns": [-8.0 - i, -7.0],
                     "done": None, "seconds": 1.0} for j, t in enumerate(tasks[: i + 1])}
                for i in range(3)
            ],
            [1_500_000 + 2_000 * i for i in range(3)],
            [{"random": 0.5, "planned": 20.0, "fitting": 4.0}] * 3,
            {},
        )
        for method, growth in (("dense", 1.0), ("fine-tuning", 4.0))
        for seed in range(2)
    ]  # fmt: skip
    film = encode_png(np.tile(np.linspace(0, 1, 900), (150, 1)))
    films = {"standard": film, "reversed": film, "weak motors": "no film: no display"}
    changes = {"reversed": 0.9, "weak motors": 0.4}
    result = hypercrl.Result("made-up", "reacher, made-up numbers", tasks, changes, rows, films)
    return result.report(make_record("ghn run hypercrl", (0, 1), {"mujoco": "0"}).to_dict())


def widths() -> Report:
    """The report of `ghn run neumeta`: seven widths, seven arms."""
    arms = ("field-on-base", "field", "slimmable", "pruned", "interpolated-smooth", "zeroed")
    rows = [
        neumeta.Row(arm, width, seed, 98.0 - (1 - width) ** 2 * 9 * place + seed / 9,
                    int(37_120 * width), 196_464 if "field" in arm else 0, 12.0)
        for place, arm in enumerate(arms)
        for width in (0.125, 0.25, 0.5, 0.66, 0.75, 0.84, 1.0)
        for seed in range(3)
    ]  # fmt: skip
    result = neumeta.Result("made-up", "digits, made-up numbers", CLASSES, rows, Path())
    return result.report(make_record("ghn run neumeta", (0, 1, 2), {"digits": "0"}).to_dict())


EXAMPLES = {
    "demo": demo,
    "dynamics": dynamics,
    "widths": widths,
    "long": long,
    "initialization": initialization,
    "continual": continual,
    "matrices": matrices,
    "control": control,
}
