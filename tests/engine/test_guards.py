from __future__ import annotations

import pytest
import torch
from torch import nn

from ghn.engine.guards import check_model, check_writable, is_predictable
from ghn.errors import UnsupportedModelError


class Named:
    """Makes an nn.Module or Parameter subclass with a given class name, as other libraries have."""

    @staticmethod
    def module(name, module="somewhere"):
        cls = type(name, (nn.Linear,), {"__module__": module})
        return cls(2, 2)

    @staticmethod
    def parameter(name):
        cls = type(name, (nn.Parameter,), {})
        return cls(torch.zeros(2, 2))


@pytest.mark.parametrize(
    "name", ["FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine", "Linear4bit"]
)
def test_a_sharded_wrapped_or_quantised_module_is_refused_with_advice(name):
    model = nn.Sequential(nn.Linear(2, 2), Named.module(name))

    with pytest.raises(UnsupportedModelError, match=r"module '1'.*predict the plain model first"):
        check_model(model)


@pytest.mark.parametrize("name", ["DTensor", "Params4bit", "Int8Params"])
def test_a_parameter_of_a_sharding_or_quantising_class_is_refused_by_name(name):
    model = nn.Linear(2, 2)
    model.weight = Named.parameter(name)

    with pytest.raises(UnsupportedModelError, match=r"'weight'.*predict the plain model first"):
        check_model(model)


def test_a_parameter_partitioned_by_deepspeed_is_refused():
    model = nn.Linear(2, 2)
    model.weight.ds_id = 0

    with pytest.raises(UnsupportedModelError, match="DeepSpeed ZeRO"):
        check_model(model)


def test_a_real_dtensor_is_refused(tmp_path):
    import torch.distributed as dist
    from torch.distributed.tensor import distribute_tensor, init_device_mesh

    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.Linear(4, 4)
        mesh = init_device_mesh("cpu", (1,))
        model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh))

        with pytest.raises(UnsupportedModelError, match="DTensor"):
            check_model(model)
    finally:
        dist.destroy_process_group()


def test_a_dynamically_quantised_layer_is_refused():
    from torch.ao.nn.quantized.dynamic import Linear

    model = nn.Sequential(nn.Linear(4, 4), Linear(4, 4))

    with pytest.raises(UnsupportedModelError, match=r"module '1' is quantised"):
        check_model(model)


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="TorchScript"):
        check_model(torch.jit.script(nn.Linear(2, 2)))


@pytest.mark.parametrize("make", [lambda: nn.LazyLinear(3), lambda: nn.LazyBatchNorm1d()])
def test_a_lazy_module_is_refused_until_a_batch_has_passed_through_it(make):
    model = nn.Sequential(make())

    with pytest.raises(UnsupportedModelError, match="run one batch"):
        check_model(model)

    model(torch.randn(4, 5))
    assert check_model(model) is model


@pytest.mark.parametrize("model", [nn.Identity(), nn.Sequential(nn.ReLU()), nn.ModuleList()])
def test_a_module_without_parameters_is_refused(model):
    with pytest.raises(UnsupportedModelError, match="no parameters"):
        check_model(model)


def test_wrappers_that_only_forward_are_looked_through():
    inner = nn.Linear(2, 2)

    assert check_model(nn.DataParallel(inner)) is inner
    assert check_model(torch.compile(inner)) is inner
    assert check_model(nn.DataParallel(torch.compile(inner))) is inner


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.zeros(2), True),
        (torch.zeros(2, dtype=torch.bfloat16), True),
        (torch.zeros(2, dtype=torch.complex64), False),
        (torch.zeros(2, dtype=torch.int64), False),
        (torch.zeros(0, 3), False),
        (torch.zeros(2, 2).to_sparse(), False),
    ],
)
def test_only_plain_floating_point_tensors_with_elements_are_predictable(tensor, expected):
    assert is_predictable(tensor) is expected


def test_storage_that_torch_would_not_write_to_is_refused_before_anything_is_written():
    with torch.inference_mode():
        inference = torch.zeros(2)

    with pytest.raises(UnsupportedModelError, match="inference_mode"):
        check_writable("weight", inference)
    with pytest.raises(UnsupportedModelError, match="share memory"):
        check_writable("weight", torch.zeros(1).expand(3))
    check_writable("weight", torch.zeros(4, 6)[::2, ::3])
