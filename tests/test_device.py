"""Choosing where a run computes."""

from __future__ import annotations

import pytest
import torch

from ghn.device import choose_device
from ghn.errors import ConfigError


def test_the_cpu_can_be_asked_for_whatever_there_is() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_is_the_accelerator_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert choose_device("auto") == torch.device("cpu")
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: gpu)
    assert choose_device("auto") == gpu


@pytest.mark.parametrize("name", ["abacus", "cpu:x"])
def test_a_device_that_is_not_there_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error_and_no_stack_trace() -> None:
    with pytest.raises(ConfigError, match="'cuda' cannot be used here"):
        choose_device("cuda")
