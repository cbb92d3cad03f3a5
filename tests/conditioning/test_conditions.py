"""What every registered condition and every entry must do, and what each does on its own."""

from __future__ import annotations

import inspect

import pytest
import torch

from ghn.conditioning import (
    CONDITIONS,
    ENTRIES,
    EmbeddingTable,
    EmbeddingTableConfig,
    ImageEncoderConfig,
    NoiseConfig,
    SizeConfig,
    Unit,
    UnitConfig,
    ValuesConfig,
    VectorEncoderConfig,
)
from ghn.errors import ConfigError, ShapeError, UnknownNameError

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(3, 3, 16, 12, generator=GENERATOR)
VECTORS = torch.randn(3, 4, generator=GENERATOR)
CASES = {
    "table": (EmbeddingTableConfig(dim=6, names=("a", "b", "c.1")), ["c.1", "a", "b"]),
    "size": (
        SizeConfig(names=("a", "b"), full=(64, 10), dim=6),
        [{"a": 40}, {"a": 1, "b": 7}, {}],
    ),
    "vector": (VectorEncoderConfig(inputs=4, dim=6), VECTORS),
    "vector_linear": (VectorEncoderConfig(inputs=4, dim=6, hidden=()), VECTORS),
    "vector_tokens": (VectorEncoderConfig(inputs=4, dim=6, tokens=5), VECTORS),
    "image": (ImageEncoderConfig(dim=6, width=4), IMAGES),
    "values": (ValuesConfig(inputs=4, low=-5.0, high=5.0), VECTORS),
    "values_raw": (ValuesConfig(inputs=4, encoding="raw"), VECTORS),
    "noise": (NoiseConfig(dim=4), VECTORS),
    "unit": (UnitConfig(of=VectorEncoderConfig(inputs=4, dim=6)), VECTORS),
    "unit_table": (UnitConfig(of=EmbeddingTableConfig(names=("a", "b", "c"))), ["c", "a", "b"]),
    "unit_tokens": (UnitConfig(of=VectorEncoderConfig(inputs=4, dim=6, tokens=5)), VECTORS),
    "image_tokens": (ImageEncoderConfig(dim=6, width=4, gives_tokens=True), IMAGES),
}


def build(name):
    config = CASES[name][0]
    torch.manual_seed(0)
    return next(c for c in CONDITIONS.values() if c.Config is type(config))(config)


def test_every_registered_condition_and_entry_is_under_test():
    assert {c.Config for c in CONDITIONS.values()} == {type(c) for c, _ in CASES.values()}
    assert set(ENTRIES) == {"concatenation", "addition", "film", "cross_attention"}


@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_encoded_as_its_values_one_by_one(name):
    condition, values = build(name), CASES[name][1]

    batch, single = condition.encode(values)

    assert not single
    assert batch.shape[0] == 3
    assert batch.shape[-1] == condition.config.dim
    assert (batch.ndim == 3) == condition.config.gives_tokens
    for value, expected in zip(values, batch, strict=True):
        one, single = condition.encode(value)
        assert single
        torch.testing.assert_close(one[0], expected)
    assert (batch[0] - batch[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_parameter(name):
    condition, values = build(name), CASES[name][1]

    encoded = condition.encode(values)[0]
    weights = torch.arange(encoded.numel(), dtype=torch.float32).reshape(encoded.shape)
    total = (encoded * weights).sum()  # a sum of squares would be constant for units
    if total.requires_grad:
        total.backward()

    assert all(p.grad is not None and p.grad.any() for p in condition.parameters())


@pytest.mark.parametrize("name", CASES)
def test_settings_survive_json_and_refuse_nonsense(name):
    config = CASES[name][0]

    assert type(config).from_dict(config.to_dict()) == config
    inner = config.of if isinstance(config, UnitConfig) else config
    with pytest.raises(ConfigError):
        inner.replace(**{"inputs" if isinstance(inner, ValuesConfig) else "dim": 0})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("table", "d", UnknownNameError),
        ("table", 3, ConfigError),
        ("table", [], ConfigError),
        ("vector", "a", ConfigError),
        ("vector", torch.zeros(5), ShapeError),
        ("vector", torch.zeros(2, 2, 4), ShapeError),
        ("values", torch.full((4,), 6.0), ConfigError),
        ("values", torch.full((4,), float("nan")), ConfigError),
        ("values", torch.zeros(3), ShapeError),
        ("noise", "a", ConfigError),
        ("noise", torch.zeros(2, 5), ShapeError),
        ("image", "a", ConfigError),
        ("image", torch.zeros(1, 8, 8), ShapeError),
    ],
)
def test_a_value_of_another_kind_is_refused(name, value, error):
    with pytest.raises(error):
        build(name).encode(value)


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_an_entry_gives_each_node_an_embedding_under_each_condition(name):
    torch.manual_seed(0)
    entry = ENTRIES[name](8, 6)
    nodes = torch.randn(5, 8, generator=GENERATOR).requires_grad_()
    condition = torch.randn(3, 6, generator=GENERATOR).requires_grad_()

    found = entry(nodes, condition)

    assert found.shape == (3, 5, ENTRIES[name].width(8, 6))
    for index in range(3):
        torch.testing.assert_close(entry(nodes, condition[index : index + 1])[0], found[index])
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert (found[0, 0] - found[0, 1]).abs().max() > 1e-3
    found.square().sum().backward()
    assert nodes.grad.abs().sum(-1).all()
    assert condition.grad.abs().sum(-1).all()


def test_a_circle_goes_from_one_axis_to_the_other_at_one_length():
    circle = CONDITIONS["values"](ValuesConfig(low=1.0, high=3.0))

    points = circle.encode(torch.tensor([[1.0], [2.0], [3.0]]))[0]

    half = 0.5**0.5
    torch.testing.assert_close(points, torch.tensor([[1.0, 0.0], [half, half], [0.0, 1.0]]))


@pytest.mark.parametrize("name", ["unit", "unit_table", "unit_tokens"])
def test_units_keep_directions_and_have_a_root_mean_square_of_one(name):
    unit, values = build(name), CASES[name][1]

    found, inner = unit.encode(values)[0], unit.of.encode(values)[0]

    torch.testing.assert_close(found.square().mean(-1), torch.ones(found.shape[:-1]))
    length = inner.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(found * length, inner)


def test_noise_is_drawn_from_its_generator_alone():
    noise = build("noise")

    one, same, other = (
        noise.sample(500, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )

    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert abs(one.mean()) < 0.1
    assert abs(one.std() - 1) < 0.1


def test_film_and_addition_are_what_they_say():
    film, addition = ENTRIES["film"](4, 2), ENTRIES["addition"](4, 2)
    nodes, condition = torch.randn(3, 4), torch.randn(2, 2)

    scale, shift = (condition @ film.modulation.weight.T + film.modulation.bias).chunk(2, 1)

    torch.testing.assert_close(film(nodes, condition)[1], nodes * (1 + scale[1]) + shift[1])
    moved = condition[1] @ addition.shift.weight.T + addition.shift.bias
    torch.testing.assert_close(addition(nodes, condition)[1], nodes + moved)


def test_a_node_attends_to_the_tokens_most_like_its_query():
    entry = ENTRIES["cross_attention"](4, 4)
    with torch.no_grad():
        entry.query.weight.copy_(50 * torch.eye(4))
        entry.key_value.weight.copy_(torch.cat([torch.eye(4), torch.eye(4)]))
        entry.out.weight.copy_(torch.eye(4))
        entry.out.bias.zero_()
    tokens = torch.eye(4)[None]

    found = entry(torch.eye(4)[:2], tokens)

    torch.testing.assert_close(found[0], 2 * torch.eye(4)[:2])


def test_a_frozen_row_outlives_steps_with_weight_decay():
    table = EmbeddingTable(EmbeddingTableConfig(dim=4, names=("old", "new")))
    optimizer = torch.optim.AdamW(table.parameters(), lr=0.1, weight_decay=0.5)
    table.encode(["old", "new"])[0].sum().backward()
    optimizer.step()  # fills the optimiser's moments of both
    before = [row.detach().clone() for row in table.rows]

    table.freeze("old")
    optimizer.zero_grad()
    table.encode(["old", "new"])[0].sum().backward()
    optimizer.step()

    assert torch.equal(table.rows[0], before[0])
    assert not torch.equal(table.rows[1], before[1])
    assert table.frozen == ["old"]


def test_names_and_frozen_rows_travel_with_the_state():
    table = EmbeddingTable(EmbeddingTableConfig(dim=4))
    for name in ("first", "sub.second", "drei ☃"):
        table.add(name)
    table.freeze("first")

    other = EmbeddingTable(EmbeddingTableConfig(dim=4, names=("something else",)))
    other.load_state_dict(table.state_dict())

    assert other.names == ["first", "sub.second", "drei ☃"]
    assert other.frozen == ["first"]
    assert other.config == table.config
    assert torch.equal(other.encode("sub.second")[0], table.encode("sub.second")[0])
    assert [row.requires_grad for row in other.rows] == [False, True, True]


def test_rows_are_drawn_from_a_given_generator_or_given():
    table = EmbeddingTable(EmbeddingTableConfig(dim=4))
    table.add("a", generator=torch.Generator().manual_seed(3))
    table.add("b", torch.arange(4.0))

    expected = torch.randn(4, generator=torch.Generator().manual_seed(3))
    assert torch.equal(table.encode("a")[0][0], expected)
    assert table.encode("b")[0][0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("a", None, ConfigError), (3, None, ConfigError), (None, None, ConfigError),
     ("b", torch.zeros(5), ShapeError), ("b", torch.zeros(4).long(), ShapeError),
     ("b", [0.0] * 5, ShapeError)],
)  # fmt: skip
def test_a_row_that_cannot_be_added_is_refused(name, value, error):
    table = EmbeddingTable(EmbeddingTableConfig(dim=4, names=("a",)))

    with pytest.raises(error):
        inspect.unwrap(EmbeddingTable.add)(table, name, value)  # the tests' own check off

    assert table.names == ["a"]
    with pytest.raises(UnknownNameError, match="unknown name of a condition 3"):
        inspect.unwrap(EmbeddingTable._place)(table, 3)


def test_rows_of_another_size_are_refused_and_leave_the_table_as_it_was():
    table = EmbeddingTable(EmbeddingTableConfig(dim=8, names=("x",)))
    other = EmbeddingTable(EmbeddingTableConfig(dim=4, names=("p", "q")))

    with pytest.raises(ShapeError, match=r"\[4\].*\[8\]"):
        table.load_state_dict(other.state_dict())

    assert table.names == ["x"]
    assert table.encode(["x"])[0].shape == (1, 8)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e18, 1e30])
def test_unit_vectors_keep_their_length_whatever_the_size_of_the_condition(size):
    unit = Unit(UnitConfig(of=ValuesConfig(encoding="raw", inputs=3)))
    plain = torch.tensor([3.0, -4.0, 12.0])

    found = unit.encode(plain * size)[0][0]

    torch.testing.assert_close(found, plain * 3**0.5 / 13.0)


def test_what_has_no_direction_is_refused():
    unit = Unit(UnitConfig(of=ValuesConfig(encoding="raw", inputs=2)))

    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="finite"):
            unit.encode([wrong, 1.0])
    with pytest.raises(ConfigError, match="only the sign"):
        UnitConfig(of=ValuesConfig(encoding="raw", inputs=1))
    with pytest.raises(ConfigError, match="finite low < high"):
        ValuesConfig(high=float("inf"))
