import pytest
import torch
from torch.nn import functional as F

from ghn.decoders.kernel_basis import KernelBasis


def basis(seed=0):
    torch.manual_seed(seed)
    return KernelBasis(9)


@pytest.mark.parametrize(
    "kernel", [(), (1, 1), (3,), (3, 3), (1, 7), (2, 3, 3), (16, 16), (31, 31)]
)
def test_coefficients_of_any_kernel_have_unit_mean_square_length(kernel):
    mix = basis()(kernel)

    assert mix.shape == (torch.empty(kernel).numel(), 9)
    torch.testing.assert_close(mix.square().sum(1).mean(), torch.tensor(1.0))


@pytest.mark.parametrize("seed", range(3))
def test_elements_of_a_small_kernel_are_told_apart_from_the_start(seed):
    mix = F.normalize(basis(seed)((3, 3)), dim=1)

    cosine = (mix @ mix.T - torch.eye(9)).abs().sum() / (9 * 8)
    assert cosine < 0.45  # 0.27 for independent directions in nine dimensions
    assert torch.linalg.matrix_rank(mix) == 9


def test_a_flat_kernel_is_the_same_however_it_is_stored():
    mix = basis()

    torch.testing.assert_close(mix((7,)), mix((1, 7)))
    torch.testing.assert_close(mix((1,)), mix(()))
