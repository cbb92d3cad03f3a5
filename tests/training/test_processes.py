"""Runs in processes of their own: several at once, and killed ones."""

import json
import os
import random
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ghn.training.state import newest, read_state
from ghn.training.targets import TargetPool

SCRIPT = Path(__file__).with_name("run_steps.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT))


def run(*command: str, fails: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode != 0) == fails, done.stderr[-2000:]
    return done.stderr


def final(out: Path) -> dict[str, torch.Tensor]:
    return read_state(newest(out))[0]


def alive_after(process: subprocess.Popen, seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


@pytest.mark.timeout(300)
def test_two_processes_take_the_steps_of_one(tmp_path, monkeypatch):
    run(*TWO, str(tmp_path / "two"), "20", "--sick")
    monkeypatch.setattr(TargetPool, "__getitem__", TargetPool.__getitem__)  # put back at the end
    runpy.run_path(str(SCRIPT))["main"](str(tmp_path / "one"), "20", "--sick")

    one, two = final(tmp_path / "one"), final(tmp_path / "two")
    for name, value in one.items():
        # A shift of all positions' codes is taken out of them: its gradient is rounding alone.
        if name.startswith(("model/", "average/")) and "position.2.bias" not in name:
            error = (two[name] - value).norm() / value.norm().clamp_min(1e-12)
            assert error < 1e-4, (name, error)
    records = [
        json.loads((tmp_path / side / "log.jsonl").read_text().splitlines()[-1])
        for side in ("one", "two")
    ]
    assert records[0]["skipped"] == records[1]["skipped"] > 0
    assert records[1]["loss"] == pytest.approx(records[0]["loss"], rel=1e-4)


@pytest.mark.timeout(300)
def test_a_request_to_end_that_reaches_a_whole_group_is_heard_after_the_step(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(tmp_path), "1000000", "--worker"],
        env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    while newest(tmp_path) is None and alive_after(process, 0.01):
        pass
    os.killpg(process.pid, signal.SIGTERM)

    assert process.wait() == -signal.SIGTERM
    final(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_where_one_process_refuses_a_run_the_others_say_so(tmp_path):
    run(*TWO, str(tmp_path), "2")
    (tmp_path / "config.json").unlink()

    found = run(*TWO, str(tmp_path), "4", fails=True)

    assert "config.json is missing" in found
    assert "GHNError: another process has refused the run" in found
    assert "Connection closed" not in found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_machines_that_share_no_folder_are_told_before_they_spoil_a_run(tmp_path):
    run(*TWO, str(tmp_path / "out"), "2", "--apart")
    before = {name: value.clone() for name, value in final(tmp_path / "out-0").items()}

    found = run(*TWO, str(tmp_path / "out"), "4", "--apart", fails=True)

    assert "go on from different steps (0, 2)" in found
    assert "one folder that all machines share" in found
    assert all(torch.equal(v, before[k]) for k, v in final(tmp_path / "out-0").items())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path):
    steps, options = "60", ["--sick", "--worker"]
    run(str(SCRIPT), str(tmp_path / "whole"), steps, *options)
    draws = random.Random(0)
    out = tmp_path / "killed"
    kills = 0
    while kills < 20:
        before = newest(out)
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(out), steps, *options],
            env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        # From its first new checkpoint on, at any moment: most of them are within a save.
        while newest(out) == before and alive_after(process, 0.005):
            pass
        if not alive_after(process, draws.random() * 0.2):
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        final(out)  # readable after every kill
    run(str(SCRIPT), str(out), steps, *options)

    assert kills == 20
    whole, killed = final(tmp_path / "whole"), final(out)
    assert whole.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
    rest = [read_state(newest(o))[1] for o in (tmp_path / "whole", out)]
    assert rest[0]["skipped"] == rest[1]["skipped"] > 0
