import pytest
import torch

from ghn.device import choose_device
from ghn.errors import ConfigError


def test_auto_is_a_gpu_if_there_is_one_and_else_the_cpu(monkeypatch):
    for there, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert choose_device().type == kind


def test_a_device_may_be_named():
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:99", "meta"])
def test_what_is_no_device_of_this_machine_is_refused(name):
    with pytest.raises(ConfigError, match="device must be 'auto' or"):
        choose_device(name)
