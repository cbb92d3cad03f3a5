from __future__ import annotations

import dataclasses
import json

import pytest

from ghn.benchmarks.processes import Limits
from ghn.benchmarks.sweep import Traced, summarize, trace_all, trace_one
from ghn.benchmarks.sweep_report import save_results
from ghn.io import append_line

DONE = Traced("timm:done", 0.1, nodes=4, parameters=10, untouched=1, reasons={"off": 1})
MANY = Traced("timm:many", 0.1, nodes=4, parameters=10, untouched=90, reasons={"a": 89, "b": 1})
LOST = Traced("timm:lost", 0.1, error="ImportError: no | natten", group="needs a package")


def test_a_model_counts_if_it_is_traced_and_few_parameters_are_untouched():
    assert [r.counted for r in (DONE, MANY, LOST)] == [True, False, False]
    summary = summarize([DONE, MANY, LOST])
    assert (summary["counted"], summary["many_untouched"], summary["failed"]) == (1, 1, 1)
    assert summary["failed_by_group"] == {"needs a package": 1}


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("transformers:dinat", "needs a package that is not installed"),
        ("transformers:dots1", "cannot be built with its default config"),
        ("transformers:bark", "has no forward pass"),
    ],
)
def test_failures_are_told_apart(name, group):
    assert trace_one(name).group == group


def test_a_sweep_goes_on_where_it_stopped_and_a_torn_line_is_done_again(tmp_path):
    journal = tmp_path / "journal.jsonl"
    append_line(journal, json.dumps(dataclasses.asdict(DONE)))
    journal.write_text(journal.read_text() + '{"name": "vits:1", "secon', encoding="utf-8")

    results = trace_all(["timm:done"], journal=journal)

    assert results == [DONE]
    append_line(journal, json.dumps(dataclasses.asdict(MANY)))
    assert trace_all(["timm:done", "timm:many"], journal=journal) == [DONE, MANY]


@pytest.mark.timeout(240)
def test_each_model_has_its_own_process_and_limits(tmp_path):
    journal = tmp_path / "journal.jsonl"
    names = ["vits:1", "no:such", "vits:2"]

    results = trace_all(names, jobs=1, limits=Limits(seconds=100.0), journal=journal)
    late = trace_all(["vits:3"], jobs=1, limits=Limits(seconds=0.0))

    assert [r.name for r in results] == names
    assert [r.counted for r in results] == [True, False, True]
    assert results == trace_all(names, journal=journal)
    assert late[0].group == "too slow"


def test_the_tables_name_what_falls_short_and_why(tmp_path):
    save_results("timm", [DONE, MANY, LOST], tmp_path, "ghn zoo trace timm")

    text = (tmp_path / "trace-timm.md").read_text()
    record = json.loads((tmp_path / "trace-timm.json").read_text())
    assert "3 models: 1 counted" in text
    assert "| lost | ImportError: no \\| natten |" in text
    assert "| many | 90 | 100 | a |" in text
    assert "| done |" not in text
    assert [m["name"] for m in record["models"]] == ["timm:done", "timm:many", "timm:lost"]
