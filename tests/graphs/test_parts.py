"""Weights that are made of several parameters before a layer uses them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghn.graphs import trace

WIDTH = 6


class Uses(nn.Module):
    """Parameters, and a function of them and the input."""

    def __init__(self, forward, **shapes):
        super().__init__()
        self.function = forward
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def forward(self, x):
        return self.function(x, self)


def facts(forward, x=(2, WIDTH), **shapes):
    """Return role, axes and fan-in of each parameter; all of them hang on one node."""
    graph = trace(Uses(forward, **shapes), torch.zeros(x))

    assert len({use.node for uses in graph.parameters.values() for use in uses}) == 1
    return {name: (s.role, s.axes, s.fan_in) for name, s in graph.specs.items()}


SQUARE = (WIDTH, WIDTH)


def test_pieces_of_a_concatenated_weight_are_what_slices_of_a_whole_one_are():
    whole = facts(lambda x, p: F.linear(x, p.w), w=(3 * WIDTH, WIDTH))["w"]
    turned = facts(lambda x, p: x @ p.w, w=(WIDTH, 3 * WIDTH))["w"]

    rows = facts(lambda x, p: F.linear(x, torch.cat([p.q, p.k, p.v])), q=SQUARE, k=SQUARE, v=SQUARE)
    columns = facts(lambda x, p: x @ torch.cat([p.q, p.k, p.v], 1), q=SQUARE, k=SQUARE, v=SQUARE)
    stacked = facts(
        lambda x, p: F.linear(x, torch.stack([p.q, p.k, p.v]).flatten(0, 1)),
        q=SQUARE,
        k=SQUARE,
        v=SQUARE,
    )

    assert set(rows.values()) == {whole}
    assert set(columns.values()) == {turned}
    assert set(stacked.values()) == {whole}


def test_pieces_side_by_side_along_the_inputs_have_the_fan_in_of_the_whole():
    found = facts(
        lambda x, p: F.linear(x, torch.cat([p.a, p.b], 1)),
        x=(2, 2 * WIDTH),
        a=SQUARE,
        b=SQUARE,
    )

    assert found == dict.fromkeys("ab", ("weight", "oi", 2 * WIDTH))


def test_concatenated_tables_are_tables():
    model = Uses(lambda x, p: F.embedding(x, torch.cat([p.old, p.new])), old=(9, 4), new=(4, 4))

    graph = trace(model, torch.zeros(1, 3, dtype=torch.long))

    assert {(s.role, s.axes) for s in graph.specs.values()} == {("table", "vo")}


def test_a_summand_of_a_weight_is_a_weight_and_a_factor_on_it_a_scale():
    found = facts(
        lambda x, p: F.linear(x, p.w + p.size * p.delta - p.shift.view(-1, 1)),
        w=SQUARE,
        delta=SQUARE,
        size=(1,),
        shift=(WIDTH,),
    )

    assert found["w"] == found["delta"] == ("weight", "oi", WIDTH)
    assert found["size"][0] == found["shift"][0] == "scale"


@pytest.mark.parametrize(
    "forward",
    [
        lambda x, p: F.linear(x, p.w + p.b @ p.a),
        lambda x, p: F.linear(x, 0.5 * (p.b @ p.a) + p.w),
        lambda x, p: F.linear(x, (p.w.t() + (p.b @ p.a).t()).t()),
        lambda x, p: x @ (p.w + p.b @ p.a).t(),
        lambda x, p: F.conv1d(
            x[..., None], (p.w + F.linear(p.b, p.a.t())).contiguous()[..., None]
        ).flatten(1),
    ],
)
def test_low_rank_factors_added_to_a_weight_are_those_of_an_adapter(forward):
    found = facts(forward, w=SQUARE, b=(WIDTH, 2), a=(2, WIDTH))

    assert found == {
        "w": ("weight", "oi", WIDTH),
        "a": ("lora_a", "oi", WIDTH),
        "b": ("lora_b", "oi", 2),
    }


def test_an_adapter_of_a_weight_stored_as_in_out_and_of_a_kernel_are_found_too():
    turned = facts(lambda x, p: x @ (p.w + p.a @ p.b), w=SQUARE, a=(WIDTH, 2), b=(2, WIDTH))
    kernel = facts(
        lambda x, p: F.conv2d(x, p.w + (p.b @ p.a).view(p.w.shape)),
        x=(1, 4, 5, 5),
        w=(8, 4, 3, 3),
        b=(8, 2),
        a=(2, 36),
    )

    assert turned["a"] == ("lora_a", "io", WIDTH)
    assert turned["b"] == ("lora_b", "io", 2)
    assert kernel["w"] == ("weight", "oikk", 36)
    assert kernel["a"] == ("lora_a", "oi", 36)
    assert kernel["b"] == ("lora_b", "oi", 2)


def test_an_adapter_of_two_products_multiplied_element_by_element_has_four_factors():
    found = facts(
        lambda x, p: F.linear(x, p.w + (p.b1 @ p.a1) * (p.b2 @ p.a2)),
        w=SQUARE,
        b1=(WIDTH, 2),
        a1=(2, WIDTH),
        b2=(WIDTH, 3),
        a2=(3, WIDTH),
    )

    assert found["a1"] == found["a2"] == ("lora_a", "oi", WIDTH)
    assert (found["b1"], found["b2"]) == (("lora_b", "oi", 2), ("lora_b", "oi", 3))


def test_factors_of_a_weight_that_is_nothing_else_are_two_weights_in_a_row():
    found = facts(lambda x, p: F.linear(x, p.up @ p.down), up=(WIDTH, 2), down=(2, WIDTH))
    in_a_row = trace(
        nn.Sequential(nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False)),
        torch.zeros(2, WIDTH),
    ).specs

    for name, other in (("down", "0.weight"), ("up", "1.weight")):
        spec = in_a_row[other]
        assert found[name] == (spec.role, spec.axes, spec.fan_in)


@pytest.mark.parametrize(
    "equation",
    [
        *("bi,oi->bo", "bi,io->bo", "bhnd,hdc->bnc", "bhne,heo->bno", "bhnd,hcd->bnc"),
        *("bnc,chd->bhnd", "bnd,hde->bhne", "bnd,ehd->bhne", "bhnd,hde->bhne", "bnhd,dhc->bnc"),
    ],
)
def test_letters_of_an_einsum_follow_its_equation_where_all_sizes_are_equal(equation):
    # The independent reference is the equation: what is summed over is an input axis, what the
    # data does not have is an output axis, what both and the result have is an axis of copies.
    data, weight, result = equation.replace("->", ",").split(",")
    letters = {(True, False): "i", (False, True): "o", (True, True): "e"}
    axes = "".join(letters[a in data, a in result] for a in weight)

    found = facts(
        lambda x, p: torch.einsum(equation, x, p.w), x=[4] * len(data), w=[4] * len(weight)
    )

    assert found == {"w": ("weight", axes, 4 ** axes.count("i"))}


def test_weights_that_are_averaged_share_the_role():
    class Soup(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([torch.randn(3, 4) for _ in range(3)])

        def forward(self, x):
            return F.linear(x, torch.stack(list(self.weights)).mean(0))

    graph = trace(Soup(), torch.zeros(1, 4))

    found = {(s.role, s.axes, s.fan_in, s.node) for s in graph.specs.values()}
    assert found == {("weight", "oi", 4, 1)}
    assert len(graph.specs) == 3
