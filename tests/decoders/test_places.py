import pytest
import torch

from ghn.decoders.places import grid_of, offsets, position_features


@pytest.mark.parametrize(
    ("sizes", "role", "expected"),
    [
        ((196,), "position", (0, (14, 14))),
        ((197,), "position", (1, (14, 14))),
        ((198,), "position", (2, (14, 14))),
        ((732,), "position", (3, (27, 27))),
        ((77,), "position", (0, (77,))),
        ((1,), "position", (0, (1,))),
        ((1024,), "table", (0, (1024,))),
        ((5,), "token", (0, (5,))),
        ((7, 9), "position", (0, (7, 9))),
        ((4, 7, 7), "position", (0, (4, 7, 7))),
    ],
)
def test_layout_of_positions(sizes, role, expected):
    assert grid_of(sizes, role) == expected


def test_offsets_are_centred_and_in_storage_order():
    places = offsets((2, 3))

    y, x = torch.meshgrid(torch.tensor([-0.5, 0.5]), torch.tensor([-1.0, 0, 1]), indexing="ij")
    assert torch.equal(places, torch.stack([torch.zeros(6), y.flatten(), x.flatten()], 1))


@pytest.mark.parametrize("sizes", [(), (4,), (2, 3), (2, 3, 4), (2, 2, 3, 2), (0, 3)])
def test_there_is_one_offset_for_each_place(sizes):
    count = torch.empty(sizes).numel()

    assert offsets(sizes).shape == (count, 3)


def test_the_corners_of_every_resolution_have_the_same_features():
    _, coarse = position_features((7, 7), "position")
    _, fine = position_features((14, 14), "position")

    for place in (0, -1):
        torch.testing.assert_close(coarse[place], fine[place])
    assert len(fine.unique(dim=0)) == 196


def test_no_two_places_of_a_long_line_look_the_same():
    _, features = position_features((1024,), "table")

    assert torch.pdist(features).min() > 1e-3
