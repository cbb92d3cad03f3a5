from __future__ import annotations

import itertools

import pytest
import torch
from kernel_helpers import divisors

from ghn.kernels import Layout
from ghn.kernels.geometry import DIGITS, Geometry, Side, geometry_of


def offsets(side: Side) -> torch.Tensor:
    """Return the offset of every row or column, digit by digit."""
    ranges = [range(size) for size, _ in side.digits]
    strides = [own[0] for _, own in side.digits]
    sums = [
        sum(i * s for i, s in zip(index, strides, strict=True))
        for index in itertools.product(*ranges)
    ]
    return torch.tensor(sums)


def places(geometry: Geometry) -> torch.Tensor:
    """Return the offset of every element of the recipe's matrix."""
    table = offsets(geometry.rows)[:, None] + offsets(geometry.cols)
    return table.T if geometry.swapped else table


TARGETS = [
    ("oikk", torch.empty(5, 3, 2, 2)),
    ("oikk", torch.empty(5, 3, 2, 2).to(memory_format=torch.channels_last)),
    ("iokk", torch.empty(5, 3, 2, 3)),
    ("oikk", torch.empty(7, 5, 4, 9)[1:6, ::2, 1:3, ::3]),
    ("eoit", torch.empty(2, 3, 4, 5)),
    ("teio", torch.empty(2, 3, 4, 5)),
    ("oikkk", torch.empty(2, 3, 2, 2, 3)),
    ("1o1i", torch.empty(1, 4, 1, 6)),
    ("o", torch.empty(7)),
    ("", torch.empty(())),
    ("oi", torch.empty(()).expand(3, 4)),
]


@pytest.mark.parametrize(("axes", "target"), TARGETS)
def test_digits_lead_to_every_element_of_the_matrix_form(axes, target):
    layout = Layout(tuple(target.shape), axes)
    size = 1 + sum((n - 1) * s for n, s in zip(target.shape, target.stride(), strict=True))
    numbers = torch.arange(size).as_strided(target.shape, target.stride())
    matrix = layout.from_storage(numbers)

    for p in divisors(layout.kernel):
        geometry = geometry_of(layout, p, (target.stride(),))
        assert geometry is not None
        split = matrix.reshape(layout.rows, layout.cols, p, layout.kernel // p).transpose(1, 2)
        assert torch.equal(places(geometry).flatten(), split.flatten())
        assert geometry.cols.inner <= geometry.rows.inner
        assert geometry.digits <= DIGITS


def test_kernels_that_do_not_split_and_too_many_digits_are_left_to_the_reference():
    apart = torch.empty(3, 2, 4, 9)[..., ::2, ::3]

    assert geometry_of(Layout((3, 2, 2, 3), "oikk"), 3, (apart.stride(),)) is None
    gaps = torch.empty(*[4] * 8)[(slice(0, 3),) * 8]
    assert geometry_of(Layout((3,) * 8, "eoeoitit"), 1, (gaps.stride(),)) is None


def test_rows_are_stored_together_only_where_every_row_begins_at_a_multiple():
    def vector(shape, axes, strides):
        geometry = geometry_of(Layout(shape, axes), 1, (strides,))
        assert geometry is not None
        return geometry.vector

    assert vector((6, 16), "oi", (16, 1)) == 16
    assert vector((6, 16), "io", (16, 1)) == 16
    assert vector((6, 16), "oi", (24, 1)) == 8
    assert vector((6, 15), "oi", (16, 1)) == 1
    assert vector((6, 16), "oi", (32, 2)) == 1
    assert vector((12,), "o", (1,)) == 12
