"""Each rule against the operator itself: sizes of the sets by hand, and the function unchanged."""

import pytest
import torch
import torch.nn.functional as F
from ties_helpers import output_of, relative_change, with_random_values
from torch import nn

from ghn.graphs import channel_ties, resize_channels, shuffle_channels
from ghn.graphs.ties import named_tensors, permute_channels


class Net(nn.Module):
    """Named layers, and a function of them and the input."""

    def __init__(self, function, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def conv(*args, **kwargs):
    return nn.Conv2d(*args, **kwargs)


def heads(x, count):
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def attend(m, x):
    q, k, v = (heads(part, 3) for part in m.qkv(x).chunk(3, -1))
    weights = (q @ k.transpose(-2, -1) + m.bias).softmax(-1)
    return m.out((weights @ v).transpose(1, 2).flatten(2))


def attend_fewer_keys(m, x):
    q, k, v = heads(m.q(x), 4), heads(m.k(x), 2), heads(m.v(x), 2)
    k, v = (t.repeat_interleave(2, 1) for t in (k, v))
    return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def grouped_attention(m, x):
    q, k, v = heads(m.q(x), 4), heads(m.k(x), 2), heads(m.v(x), 2)
    y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    return m.out(y.transpose(1, 2).flatten(2))


def shuffle(m, x):
    y = m.a(x)
    y = y.view(-1, 2, 4, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
    return m.b(y)


def squeeze_excite(m, x):
    y = m.a(x)
    return m.b(y * m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))).sigmoid())


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2))
A, B = (lambda: conv(3, 8, 3)), (lambda: conv(8, 2, 1))
CASES = {
    "grouped convolution": (
        lambda m, x: m.b(m.g(m.a(x))), IMAGE,
        {"a": A(), "g": conv(8, 12, 3, groups=2), "b": conv(12, 2, 1)}, [2, 4, 6],
    ),
    "depthwise convolution": (
        lambda m, x: m.b(m.g(m.a(x))), IMAGE,
        {"a": A(), "g": conv(8, 8, 3, groups=8), "b": B()}, [8],
    ),
    "depthwise with a multiplier": (
        lambda m, x: m.b(m.g(m.a(x))), IMAGE,
        {"a": A(), "g": conv(8, 16, 3, groups=8), "b": conv(16, 2, 1)}, [2, 8],
    ),
    "transposed convolution": (
        lambda m, x: m.b(m.g(m.a(x))), IMAGE,
        {"a": A(), "g": nn.ConvTranspose2d(8, 12, 3, groups=2), "b": conv(12, 2, 1)}, [2, 4, 6],
    ),
    "group norm": (
        lambda m, x: m.b(m.n(m.a(x))), IMAGE, {"a": A(), "n": nn.GroupNorm(2, 8), "b": B()}, [2, 4],
    ),
    "concatenation": (
        lambda m, x: m.b(torch.cat([m.a(x), m.c(x), m.a(x)], 1).relu()), IMAGE,
        {"a": A(), "c": conv(3, 5, 3), "b": conv(21, 2, 1)}, [5, 8],
    ),
    "an empty rest": (  # as rotary embeddings of whole heads leave
        lambda m, x: m.b(torch.cat([m.a(x)[..., :6].relu(), m.a(x)[..., 6:]], -1)), IMAGE,
        {"a": A(), "b": B()}, [8],
    ),
    "an empty rest of channels": (
        lambda m, x: m.b(torch.cat([m.a(x)[:, :8].relu(), m.a(x)[:, 8:]], 1)), IMAGE,
        {"a": A(), "b": B()}, [8],
    ),
    "halves used in two ways": (
        lambda m, x: m.b(torch.cat([m.a(x)[:, :3].relu(), m.a(x)[:, 3:].sigmoid()], 1)), IMAGE,
        {"a": A(), "b": B()}, [3, 5],
    ),
    "channel shuffle": (shuffle, IMAGE, {"a": A(), "b": B()}, [8]),
    "channel shuffle between groups": (
        shuffle, IMAGE, {"a": conv(3, 8, 3), "b": conv(8, 4, 1, groups=2)}, [4],
    ),
    "pixel shuffle": (
        lambda m, x: m.b(F.pixel_shuffle(m.a(x), 2)), IMAGE, {"a": A(), "b": conv(2, 2, 1)}, [2],
    ),
    "squeeze and excite": (
        squeeze_excite, IMAGE,
        {"a": A(), "down": conv(8, 4, 1), "up": conv(4, 8, 1), "b": B()}, [4, 8],
    ),
    "flattened image": (
        lambda m, x: m.b(m.a(x).flatten(1)), IMAGE, {"a": A(), "b": nn.Linear(8 * 36, 2)}, [8],
    ),
    "gated unit": (
        lambda m, x: m.b(F.glu(m.a(x), 1)), IMAGE, {"a": A(), "b": conv(4, 2, 1)}, [4],
    ),
    "learned slopes and scale": (
        lambda m, x: m.b(m.s(m.a(x)) * m.scale), IMAGE,
        {"a": A(), "s": nn.PReLU(8), "b": B(), "scale": nn.Parameter(torch.rand(8, 1, 1))}, [8],
    ),
    "attention in one projection": (
        attend, TOKENS,
        {
            "qkv": nn.Linear(6, 36), "bias": nn.Parameter(torch.rand(3, 1, 1)),
            "out": nn.Linear(12, 2),
        }, [3, 4, 4],
    ),
    "fewer keys, repeated": (
        attend_fewer_keys, TOKENS,
        {
            "q": nn.Linear(6, 16), "k": nn.Linear(6, 8), "v": nn.Linear(6, 8),
            "out": nn.Linear(16, 2),
        },
        [2, 2, 4, 4],
    ),
    "fewer keys, fused": (
        grouped_attention, TOKENS,
        {
            "q": nn.Linear(6, 16), "k": nn.Linear(6, 8), "v": nn.Linear(6, 8),
            "out": nn.Linear(16, 2),
        },
        [2, 2, 4, 4],
    ),
    "padded shortcut": (
        lambda m, x: m.b(m.c(x) + F.pad(m.a(x), (0, 0, 0, 0, 0, 4))), IMAGE,
        {"a": A(), "c": conv(3, 12, 3), "b": conv(12, 2, 1)}, [4, 8],
    ),
    "written at an index": (
        lambda m, x: m.b(m.a(x).index_fill_(2, torch.tensor([0]), 0.0)), IMAGE,
        {"a": A(), "b": B()}, [],
    ),
    "standardised weight": (
        lambda m, x: F.conv2d(m.a(x), m.b.weight - m.b.weight.mean((1, 2, 3), True)), IMAGE,
        {"a": A(), "b": B()}, [8],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_sets_are_those_found_by_hand_and_permuting_them_changes_nothing(case):
    function, inputs, layers, sizes = CASES[case]
    model = with_random_values(Net(function, **layers)).double()
    inputs = inputs.double()
    before = output_of(model, inputs)

    found = channel_ties(model, inputs).sets

    assert sorted(s.size for s in found) == sizes
    if sizes:
        shuffle_channels(model, inputs, seed=0)
    assert relative_change(before, output_of(model, inputs)) < 1e-12


UNKNOWN = {
    "running sum": (lambda m, x: m.b(m.a(x).cumsum(1)), "ordered by cumsum"),
    "top channels": (lambda m, x: m.b(m.a(x).sort(1).values), "ordered by sort"),
    "flipped": (lambda m, x: m.b(m.a(x).flip(1)), "places that flip moves"),
    "slid over": (
        lambda m, x: m.b(m.a(x) * m.k(m.a(x).mean((2, 3))[:, None]).sigmoid()[:, 0, :, None, None]),
        "places of an image",
    ),
    "looked up": (lambda m, x: m.b(m.a(x)[:, [3, 1, 0, 2, 7, 6, 5, 4]]), "looked up by index"),
    "weighted by position": (
        lambda m, x: m.b(m.a(x) * torch.arange(8.0).view(8, 1, 1)), "computed by arange",
    ),
    "lowest quarter": (
        lambda m, x: m.b(m.a(x)) * m.a(x).mean((2, 3)).quantile(0.25), "ordered by sort",
    ),
    "decomposed": (
        lambda m, x: m.b(m.a(x) + torch.linalg.inv(m.square)[:, :1, None]),
        "computed by linalg_inv_ex",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN)
def test_channels_whose_order_matters_are_frozen_with_the_reason(case):
    function, why = UNKNOWN[case]
    model = Net(function, a=A(), b=B(), k=nn.Conv1d(1, 1, 3, padding=1))
    model.square = nn.Parameter(torch.eye(8))

    ties = channel_ties(model, IMAGE)

    assert not ties.sets
    assert why in {f.why for f in ties.frozen if (f.name, f.axis) == ("a.weight", 0)}


def test_a_recurrent_layer_is_not_understood_and_keeps_its_order():
    model = nn.Sequential(nn.Linear(6, 4), nn.LSTM(4, 5))

    ties = channel_ties(Net(lambda m, x: m.net(x)[0], net=model), TOKENS)

    assert not ties.sets
    assert any("lstm, which is not understood" in f.why for f in ties.frozen)


def test_places_of_a_table_that_no_input_has_read_yet_stay():
    def places(m, x):
        return m.out((m.up(x) + m.table[:, : x.shape[1]]).relu())

    model = Net(places, up=nn.Linear(6, 8), out=nn.Linear(8, 2))
    model.table = nn.Parameter(torch.empty(1, 16, 8))
    model = with_random_values(model).double()
    longer = torch.randn(2, 12, 6).double()
    before = output_of(model, longer)

    sets = shuffle_channels(model, longer[:, :5], seed=0)

    assert [s.size for s in sets] == [8]
    assert relative_change(before, output_of(model, longer)) < 1e-12
    (why,) = (f for f in channel_ties(model, longer[:, :5]).frozen if f.name == "table")
    assert (why.axis, why.positions) == (1, 16)


def test_layers_may_be_called_with_names():
    model = Net(lambda m, x: F.linear(weight=m.w, input=m.a(x)), a=nn.Linear(6, 8))
    model.w = nn.Parameter(torch.empty(2, 8))
    model = with_random_values(model)
    before = output_of(model, TOKENS)

    (channels,) = shuffle_channels(model, TOKENS, seed=0)

    assert channels.size == 8
    assert relative_change(before, output_of(model, TOKENS)) < 1e-5
    assert resize_channels(model, {channels.name: 5}, TOKENS).w.shape == (2, 5)


def test_products_of_vectors_hold_nothing_back():
    def function(m, x):
        return m.out(m.up(x)) * torch.dot(m.one, m.one) + m.one @ m.square

    model = Net(function, up=nn.Linear(6, 8), out=nn.Linear(8, 2))
    model.one, model.square = nn.Parameter(torch.empty(4)), nn.Parameter(torch.empty(4, 2))
    model = with_random_values(model)

    small = resize_channels(model, {"up.weight[0]": 5}, TOKENS)

    assert small(TOKENS).shape == model(TOKENS).shape


def pooled(m, x):
    return m.a(x).mean((2, 3))


APART = {
    "two by index": lambda m, x: pooled(m, x)[:, 0] - 2 * pooled(m, x)[:, 1],
    "a slice of one": lambda m, x: (
        pooled(m, x)[:, 0:1] * m.b(m.a(x)).flatten(1) + pooled(m, x)[:, 1:2]
    ),
    "unbound": lambda m, x: sum(k * h for k, h in enumerate(pooled(m, x).unbind(1))),
    "split into ones": lambda m, x: torch.cat(
        [k * h for k, h in enumerate(pooled(m, x).split(1, 1))], 1
    ),
    "halves of one": lambda m, x: F.glu(m.two(pooled(m, x)), 1),
    "shift and scale": lambda m, x: pooled(m, x) * m.table.chunk(2, 0)[0] + m.table.chunk(2, 0)[1],
    "weights of branches": lambda m, x: m.mix[0] * m.a(x).relu() + m.mix[1] * m.a(x),
}


@pytest.mark.parametrize("case", APART)
def test_positions_that_are_taken_one_by_one_are_not_interchangeable(case):
    model = Net(APART[case], a=A(), b=B(), two=nn.Linear(8, 2))
    model.table, model.mix = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(2))
    model = with_random_values(model).double()
    inputs = IMAGE.double()
    before = output_of(model, inputs)

    for channels in channel_ties(model, inputs).sets:
        order = torch.arange(channels.size).flip(0)
        permute_channels(named_tensors(model), channels, order)

    assert relative_change(before, output_of(model, inputs)) < 1e-12
