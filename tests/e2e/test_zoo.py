"""Whole zoos; minutes to half an hour each: `make test-zoo`."""

import json
import subprocess
import sys

import pytest
import timm


def run(*arguments):
    command = [sys.executable, "-m", "ghn.cli", *arguments, "--json"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.zoo
def test_every_model_of_timm_is_traced_with_every_parameter_attributed():
    result = run("zoo", "trace", "timm")

    models = {m["name"].removeprefix("timm:"): m for m in result["models"]}
    assert set(models) == set(timm.list_models())
    assert [m for m in models.values() if m["error"] or m["untouched"]] == []
    assert sum(m["other"] for m in models.values()) <= 0.01 * sum(
        m["nodes"] for m in models.values()
    )


def test_a_sample_of_timm_is_traced_by_the_command_line():
    result = run("zoo", "trace", "timm", "--filter", "resnet1*t", "--jobs", "1")

    assert result["summary"]["failed"] == 0
    assert {m["name"] for m in result["models"]} == {"timm:resnet10t", "timm:resnet14t"}
