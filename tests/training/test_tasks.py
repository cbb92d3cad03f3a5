import math

import torch
from torch.nn import functional as F

from ghn.data import ImageData, TextData, normalize
from ghn.training import TrainConfig
from ghn.training.tasks import (
    Batches,
    ImageTask,
    TextTask,
    cross_entropy,
    format_score,
    make_task,
)


def text(tokens, size=None, vocabulary=256):
    return TextData("mine/train", torch.tensor(tokens, dtype=torch.int32), vocabulary,
                    size or len(tokens), "0")  # fmt: skip


def test_cross_entropy_is_the_mean_over_all_next_tokens():
    logits, labels = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5))

    expected = torch.stack(
        [
            F.cross_entropy(logits[b, t][None], labels[b, t][None])
            for b in range(3)
            for t in range(5)
        ]
    ).mean()

    torch.testing.assert_close(cross_entropy(logits, labels), expected)


def test_logits_that_are_not_finite_are_wrong_answers():
    images = ImageData("x", torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4).long(),
                       ("a", "b"), "0")  # fmt: skip
    logits = torch.tensor([[2.0, 1.0], [math.nan, 1.0], [math.inf, 1.0], [2.0, math.nan]])

    assert ImageTask(images).score(lambda inputs: logits, 4) == 0.25


def test_bits_per_byte_of_a_uniform_guess_are_the_bits_of_a_byte():
    task = TextTask(text(list(range(256)) * 4), context=16)

    bits = task.score(lambda tokens: torch.zeros(*tokens.shape, 256), 10)

    assert math.isclose(bits, 8.0, rel_tol=1e-6)


def test_bits_of_tokens_that_stand_for_two_bytes_count_half():
    tokens = list(range(256)) * 4
    task = TextTask(text(tokens, size=2 * len(tokens)), context=16)

    bits = task.score(lambda tokens: torch.zeros(*tokens.shape, 256), 10)

    assert math.isclose(bits, 4.0, rel_tol=1e-6)


def test_accuracy_counts_right_answers():
    images = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(-1, 3, 32, 32)
    labels = torch.arange(20) % 2
    task = ImageTask(ImageData("mine/val", images.contiguous(), labels, ("a", "b"), "0"))

    assert task.score(lambda x: F.one_hot(torch.zeros(len(x)).long(), 2).float(), 20) == 0.5
    assert task.score(lambda x: F.one_hot(torch.zeros(len(x)).long(), 2).float(), 1) == 1.0
    assert task.settings == {"classes": 2, "image": 32}


def test_images_are_moved_as_the_settings_say():
    config = TrainConfig(data="digits", flip=0.0, shift=0)
    task = make_task(config, "fit")
    known = {image.numpy().tobytes() for image in normalize(task.data.images)}

    still, _ = task.batch(8, torch.Generator().manual_seed(0))
    moved, _ = make_task(config.replace(shift=2), "fit").batch(8, torch.Generator().manual_seed(0))

    assert all(image.contiguous().numpy().tobytes() in known for image in still)
    assert not all(image.contiguous().numpy().tobytes() in known for image in moved)


def test_a_step_always_draws_the_same_batch_and_another_than_the_next():
    config = TrainConfig(families=("gpts",), shares=(1.0,), batch=3, context=8)
    batches = Batches(TextTask(text(list(range(250)) * 4), 8), config)

    (first, labels), (again, _), (second, _) = batches[4], batches[4], batches[5]

    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(first[:, 1:], labels[:, :-1])


def test_a_score_is_shown_in_the_unit_of_its_metric():
    assert format_score(0.3125, "accuracy") == "31.2 %"
    assert format_score(2.0, "bits per byte") == "2.000"
