import beartype
import pytest
from jaxtyping import jaxtyped

from ghn.graphs.code import Texts


def double(number: int) -> int:
    return 2 * number


def triple(number: int) -> int:
    return 3 * number


def texts_of(function):
    """Of a class whose forward pass it is."""
    texts = Texts()
    texts.add_class(type("Model", (), {"forward": function}))
    return set(texts.code())


@pytest.mark.parametrize("check", [beartype.beartype, jaxtyped(typechecker=beartype.beartype)])
def test_a_function_whose_types_are_checked_counts_as_itself(check):
    checked, twice = check(double), check(check(double))

    assert texts_of(checked) == texts_of(twice) == texts_of(double)
    assert texts_of(check(triple)) != texts_of(checked)
