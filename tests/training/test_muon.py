from __future__ import annotations

import pytest
import torch
from torch import nn

from ghn.training.muon import Muon, make_optimizers, orthogonalize


def steps(optimizer, parameters, count=3):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
@pytest.mark.parametrize("shape", [(20, 48), (48, 20), (30, 30)])
def test_a_matrix_takes_the_steps_of_the_muon_of_pytorch(shape):
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(shape))
    theirs = nn.Parameter(ours.detach().clone())
    settings = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
    begin = ours.detach().clone()

    steps(Muon([ours], **settings), [ours])
    steps(torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings), [theirs])

    # PyTorch's multiplies in bfloat16.
    assert (ours - theirs).norm() < 0.02 * (ours - begin).norm()


def test_each_matrix_of_a_stack_takes_the_steps_that_it_would_take_alone():
    torch.manual_seed(0)
    stack = nn.Parameter(torch.randn(2, 3, 17, 40))
    alone = [nn.Parameter(m.clone()) for m in stack.detach().flatten(0, 1)]
    gradient = torch.randn(2, 3, 17, 40)
    stack.grad = gradient
    for parameter, part in zip(alone, gradient.flatten(0, 1), strict=True):
        parameter.grad = part

    Muon([stack]).step()
    Muon(alone).step()

    assert torch.allclose(stack.flatten(0, 1), torch.stack(alone), atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 100), (100, 16), (40, 40)])
def test_singular_values_come_near_to_one_and_singular_vectors_stay(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)

    inner = left.T @ orthogonalize(matrix) @ right.T

    diagonal = inner.diagonal()
    assert (inner - diagonal.diag()).abs().max() < 1e-3
    kept = values > 0.02 * values.norm()
    assert ((diagonal > 0.5) & (diagonal < 1.3))[kept].all()


def test_matrices_are_muons_and_tables_vectors_and_thin_matrices_are_adamws():
    model = nn.ModuleDict(
        {
            "wide": nn.Linear(32, 16),
            "thin": nn.Linear(32, 3),
            "table": nn.Embedding(20, 32),
            "stack": nn.ParameterList([torch.zeros(9, 16, 20), torch.zeros(50, 32)]),
        }
    )

    muon, adamw = make_optimizers(model, "muon", 1e-3, 0.01)
    (alone,) = make_optimizers(model, "adamw", 1e-3, 0.01)

    assert {id(p) for p in muon.param_groups[0]["params"]} == {
        id(model["wide"].weight),
        id(model["stack"][0]),
    }
    both = [*muon.param_groups[0]["params"], *adamw.param_groups[0]["params"]]
    assert {id(p) for p in both} == {id(p) for p in model.parameters()}
    assert len(both) == len(alone.param_groups[0]["params"]) == 7


def test_parameters_without_a_gradient_stay():
    parameter = nn.Parameter(torch.ones(16, 16))

    Muon([parameter], weight_decay=0.5).step()

    assert torch.equal(parameter, torch.ones(16, 16))
