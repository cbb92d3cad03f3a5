import pytest
import torch
from decoder_helpers import spec

from ghn.decoders.codes import CodeBook, Codes, lookup, sign_patterns


def table(rows=16, size=12, seed=0):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def book():
    torch.manual_seed(0)
    return CodeBook(Codes(16, 12))


def test_codes_beyond_the_table_keep_their_norm_and_are_all_different():
    known = table()

    codes = lookup(known, 50)

    assert torch.equal(codes[:16], known)
    assert torch.equal(codes[16:32].abs(), known.abs())
    assert len(codes.unique(dim=0)) == 50


def test_a_code_does_not_depend_on_how_many_are_asked_for():
    assert torch.equal(lookup(table(), 37), lookup(table(), 1000)[:37])


def test_sign_patterns_are_the_same_on_every_machine():
    # 64-bit integer arithmetic in plain Python, as an independent reference
    mask = (1 << 64) - 1

    def sign(row, column):
        z = ((row << 32) + column) * 0x9E3779B97F4A7C15 & mask
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return 1.0 if row == 0 or not z >> 63 else -1.0

    patterns = sign_patterns(9, 8)

    assert patterns.tolist() == [[sign(r, c) for c in range(8)] for r in range(9)]
    assert abs(sign_patterns(500, 32)[1:].mean()) < 0.05


@pytest.mark.parametrize(
    ("parameter", "count"),
    [
        (spec((40, 4), "oi"), 40),
        (spec((40, 4), "oi", head=True), 40),
        (spec((4,), "i"), 1),
    ],
)
def test_row_codes_have_unit_root_mean_square(parameter, count):
    codes = book().rows(parameter, count)

    torch.testing.assert_close(codes.square().mean(1), torch.ones(count), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("parameter", "count"),
    [
        (spec((4, 40), "oi"), 40),
        (spec((4, 3), "oi", stem=True), 3),
        (spec((40, 4), "vo", "table"), 40),
        (spec((1, 17, 4), "1to", "position"), 17),
        (spec((30, 4), "to", "table"), 30),
        (spec((4,), "o", "bias"), 1),
    ],
)
def test_column_codes_have_unit_root_mean_square_and_differ(parameter, count):
    codes = book().cols(parameter, count)

    torch.testing.assert_close(codes.square().mean(1), torch.ones(count), rtol=0, atol=1e-3)
    assert len(codes.unique(dim=0)) == count


@pytest.mark.parametrize(
    ("count", "role"), [(2, "token"), (3, "token"), (4, "token"), (2, "position")]
)
def test_a_few_tokens_are_not_multiples_of_one_another(count, role):
    codes = book().cols(spec((1, count, 4), "1to", role), count)

    assert torch.linalg.matrix_rank(codes) >= min(count, 3)
