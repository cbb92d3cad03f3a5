from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from ghn.benchmarks.init import InitConfig, run_bench
from ghn.benchmarks.workers import workers
from ghn.errors import GHNError

TINY = {
    "models": ("convnets:1:test",),
    "starts": ("default", "orthogonal"),
    "data": "digits",
    "steps": 3,
    "batch": 8,
    "rates": (3e-3,),
    "seeds": (1,),
    "scored": 20,
    "tests": 2,
}

SHARES = """
import ray
from ghn.benchmarks.workers import workers

ray.init(num_cpus=4, num_gpus=1, include_dashboard=False)
work = lambda piece: ray.get_runtime_context().get_assigned_resources()["GPU"]
with workers(jobs=1, ray=True) as run_all:
    print([share for _, share in run_all(work, range(3))])
"""


def python(*words):
    """Run Python in a process of its own, as Ray leaves its marks on the one that starts it."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def square(x):
    return x * x


def dies_at_one(x):
    if x == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


WAITS = """
import threading
from ghn.benchmarks.workers import workers

def work(piece):
    print("begun", flush=True)
    threading.Event().wait()

if __name__ == "__main__":
    with workers(jobs=2) as run_all:
        list(run_all(work, [1]))
"""


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path):
    script = tmp_path / "waits.py"
    script.write_text(WAITS)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "begun\n"

    parent.kill()

    # The pipe has its end when nobody who could write into it is left.
    assert parent.communicate(timeout=100)[0] == ""


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_piece_comes_back_with_its_result(jobs):
    with workers(jobs) as run_all:
        found = dict(run_all(square, [3, 1, 2]))

    assert found == {1: 1, 2: 4, 3: 9}


def test_the_piece_whose_process_dies_is_lost_alone():
    with workers(2) as run_all:
        found = dict(run_all(dies_at_one, [0, 1, 2, 3, 4], lost=lambda reason: reason))
        again = dict(run_all(dies_at_one, [5, 6]))

    assert "process has died" in found.pop(1)
    assert found == {0: 0, 2: 4, 3: 9, 4: 16}
    assert again == {5: 25, 6: 36}
    with workers(2) as run_all:  # one dies while there is nothing to do
        list(run_all(square, [1, 2]))
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        assert dict(run_all(square, [3, 4])) == {3: 9, 4: 16}
    with pytest.raises(GHNError, match="process has died"), workers(2) as run_all:
        list(run_all(dies_at_one, [1]))


@pytest.mark.slow
def test_a_local_ray_makes_the_runs_that_one_process_makes(tmp_path):
    alone = run_bench(InitConfig(out=str(tmp_path / "alone"), jobs=1, **TINY))
    words = [
        f"--{key}={value}"
        for key, values in TINY.items()
        for value in (values if isinstance(values, tuple) else (values,))
    ]

    python("-m", "ghn.cli", "bench", "init", "--ray", f"--out={tmp_path / 'ray'}", *words)

    gathered = run_bench(InitConfig(out=str(tmp_path / "ray"), jobs=1, **TINY))
    assert gathered.to_dict()["networks"] == alone.to_dict()["networks"]
    names = [sorted(p.name for p in (tmp_path / f / "runs").iterdir()) for f in ("alone", "ray")]
    assert names[0] == names[1]


@pytest.mark.slow
def test_on_ray_processes_share_a_gpu():
    assert "[0.25, 0.25, 0.25]" in python("-c", SHARES)
