from __future__ import annotations

import json
import os
import platform
import re

import timm
import torch

from ghn.benchmarks.records import machine, make_record, versions


def test_versions_are_those_of_the_running_libraries():
    found = versions()

    assert found["python"] == platform.python_version()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["timm"] == timm.__version__


def test_the_machine_is_this_one():
    found = machine()

    assert found["cores"] == os.cpu_count()
    assert found["threads"] == torch.get_num_threads()
    assert len(found["accelerators"]) == torch.cuda.device_count()


def test_a_record_survives_json():
    record = make_record("ghn demo --steps 3", seeds=(0, 7), data={"name": "digits"})

    read = json.loads(json.dumps(record.to_dict()))

    assert read["command"] == "ghn demo --steps 3"
    assert read["seeds"] == [0, 7]
    assert read["data"] == {"name": "digits"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", read["date"])
