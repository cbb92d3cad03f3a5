"""Reports of every kind that methods need, from made-up numbers: what the template must hold."""

from __future__ import annotations

import math

from ghn.pages import (
    Cell,
    Details,
    Figure,
    Figures,
    Line,
    Points,
    Report,
    Table,
    Text,
    bar_plot,
    line_key,
    line_plot,
    matrix_plot,
)

FACTS = {"Machine": "made up, 2 cores", "Seeds": "0, 1, 2"}


def initialization() -> Report:
    """A benchmark of starts over many models: bars, and a long table."""
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


def continual() -> Report:
    """Continual learning: accuracy of each task after each task, and the spread over seeds."""
    tasks = [f"task {i}" for i in range(1, 6)]
    matrix = [[90.0 - 3 * (j - i) if j >= i else None for j in range(5)] for i in range(5)]
    report = Report(
        title="Continual learning with a hypernetwork",
        subtitle="split data, made-up numbers",
        verdict="Forgetting is 3 points a task.",
        command="ghn run continual --seed 0",
        facts=FACTS,
    )
    report.add(
        Figures(
            [
                Figure(matrix_plot(matrix, tasks, tasks, "after", "accuracy of"), "Accuracy, %"),
                Figure(
                    line_plot(
                        [
                            Line("hypernetwork", range(1, 6), [[90, 89, 88, 87, 86]] * 3),
                            Line("fine-tuning", range(1, 6), [[90, 70, 50, 40, 30]] * 3),
                        ],
                        "tasks learned",
                        "mean accuracy, %",
                        legend=True,
                    ),
                    "Mean accuracy over the tasks so far",
                ),
            ],
            heading="Accuracy",
        ),
        Points(["Seeds set the order of tasks.", "Baselines have their own best rates."]),
    )
    return report


def control() -> Report:
    """Model-based control: returns over episodes on a logarithmic axis."""
    steps = [1, 10, 100, 1000]
    runs = [[-100.0 / s + seed for s in steps] for seed in range(3)]
    report = Report(title="Continual control", subtitle="made-up numbers", command="ghn run x")
    lines = [Line("ours", steps, runs)]
    report.add(
        Text("Returns of the current task.", heading="Returns", quiet=True),
        Figures([Figure(line_plot(lines, "step", "return", log_x=True), "Return of an episode")],
                key=line_key(lines)),
        Details("All numbers as JSON", {"runs": runs, "broken": math.nan}),
    )  # fmt: skip
    return report


EXAMPLES = {"initialization": initialization, "continual": continual, "control": control}
