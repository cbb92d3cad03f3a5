import math

import numpy as np
import pytest
import torch

from ghn.errors import ShapeError
from ghn.methods.continual import metrics

# Three tasks: 0 rises and falls, 1 falls.
MATRIX = [[0.8, 0.3, 0.2], [0.9, 0.7, 0.4], [0.5, 0.6, 0.9]]


def test_each_number_is_its_definition():
    found = metrics(MATRIX, chance=[0.1, 0.2, 0.3], alone=[0.85, 0.75, 0.95])

    assert found.average_accuracy == pytest.approx((0.5 + 0.6 + 0.9) / 3)
    assert found.learning_accuracy == pytest.approx((0.8 + 0.7 + 0.9) / 3)
    assert found.backward_transfer == pytest.approx(((0.5 - 0.8) + (0.6 - 0.7)) / 2)
    assert found.forgetting_from_first == pytest.approx(0.2)
    assert found.forgetting_from_best == pytest.approx(((0.9 - 0.5) + (0.7 - 0.6)) / 2)
    assert found.forward_transfer == pytest.approx(((0.3 - 0.2) + (0.4 - 0.3)) / 2)
    assert found.transfer_to_new == pytest.approx(((0.7 - 0.75) + (0.9 - 0.95)) / 2)


def test_what_was_not_measured_is_none_and_rows_may_stop_at_the_diagonal():
    lower = [row[: i + 1] for i, row in enumerate(MATRIX)]

    found = metrics(lower, chance=[0.1, 0.2, 0.3])

    assert found.backward_transfer == metrics(MATRIX).backward_transfer
    assert found.forward_transfer is None
    assert found.transfer_to_new is None
    for hole in (math.nan, None):
        missing = [[0.8, hole, hole], [0.9, 0.7, hole], MATRIX[2]]
        assert metrics(missing, chance=[0.1, 0.2, 0.3]) == found


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple], ids=lambda kind: kind.__name__)
def test_a_matrix_may_be_an_array_or_a_tensor(kind):
    dyadic = [[0.5, 0.25], [0.75, 0.125]]

    assert metrics(kind(dyadic), chance=[0.0, 0.1]) == metrics(dyadic, chance=[0.0, 0.1])


def test_the_best_is_among_the_accuracies_since_a_task_was_learned():
    found = metrics([[0.5, 0.99, 0.1], [0.6, 0.7, 0.2], [0.3, 0.6, 0.9]])

    assert found.forgetting_from_best == pytest.approx(((0.6 - 0.3) + (0.7 - 0.6)) / 2)
    assert metrics([[0.5], [0.75, 0.5]]).forgetting_from_best == -0.25


def test_one_task_cannot_be_forgotten():
    found = metrics([[0.7]])

    assert (found.average_accuracy, found.backward_transfer, found.forgetting_from_best) == (
        0.7, 0.0, 0.0)  # fmt: skip


@pytest.mark.parametrize(
    "matrix", [[], [[0.5], [0.5]], [[0.5], [None, 0.5]], [[0.5], [math.nan, 0.5]], [0.5, 0.5],
               torch.tensor(0.5), None, [["a"]]],
    ids=str,
)  # fmt: skip
def test_a_matrix_with_holes_is_refused(matrix):
    with pytest.raises(ShapeError, match="diagonal"):
        metrics(matrix)


def test_lists_of_another_length_are_refused():
    with pytest.raises(ShapeError, match="chance needs 3"):
        metrics(MATRIX, chance=[0.1])
