import copy

import pytest
import torch
from torch import nn

from ghn.conditioning import EmbeddingTableConfig, VectorEncoderConfig
from ghn.decoders import ChunkedDecoderConfig, RecurrentDecoderConfig
from ghn.encoders import FixedCodesConfig
from ghn.engine import GHN, GHNConfig
from ghn.errors import ConfigError, UnknownNameError
from ghn.graphs import trace
from ghn.training.anchor import AnchorConfig, OutputAnchor, coming_step, normalised_fisher

MODEL = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
GRAPH = trace(MODEL, torch.empty(2, 6))
DECODERS = {
    "recurrent": RecurrentDecoderConfig(dim=14, state=12, chunk=20),
    "node": RecurrentDecoderConfig(dim=14, state=12, chunk=20, readout="node"),
    "chunked": ChunkedDecoderConfig(dim=14, hidden=(12,), chunk=20),
}


def build(decoder="recurrent", seed=0, **condition):
    torch.manual_seed(seed)
    table = EmbeddingTableConfig(dim=6, names=("a", "b", "c"))
    return GHN(
        GHNConfig(
            encoder=FixedCodesConfig(dim=8),
            condition=condition.get("condition", table),
            decoder=DECODERS[decoder],
            magnitude="plain",
        )
    )


def emitted(ghn, name):
    return torch.cat([t.flatten() for t in ghn(GRAPH, condition=name).values()])


def move(ghn, steps=1, seed=0):
    """Change the hypernetwork, as learning would."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in ghn.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("memory", ["targets", "snapshot"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_right_after_keeping_the_penalty_is_zero_and_targets_are_emissions_to_the_bit(
    decoder, memory
):
    ghn = build(decoder)
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0, memory=memory))

    for name in "abc":
        anchor.keep(name)
        move(ghn)
        anchor.refresh()

        assert anchor.penalty().item() == 0.0
    with torch.no_grad():
        batch = ghn.eval()(GRAPH, condition=list("abc"))
    joined = torch.cat([batch[name].flatten(1) for name in GRAPH.specs], 1)
    assert torch.equal(anchor._targets(list("abc")), joined)


@pytest.mark.parametrize("memory", ["targets", "snapshot"])
def test_the_paper_penalty_is_the_mean_over_conditions_of_summed_squares(memory):
    ghn = build()
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=0.3, memory=memory, reduction="paper"))
    anchor.keep("a")
    anchor.keep("b")
    before = {name: emitted(ghn, name) for name in "ab"}

    move(ghn)

    sums = [(emitted(ghn, name) - before[name]).square().sum() for name in "ab"]
    torch.testing.assert_close(anchor.penalty(), 0.3 * (sums[0] + sums[1]) / 2)
    torch.testing.assert_close(anchor.penalty(["b"]), 0.3 * sums[1])


def test_the_relative_penalty_does_not_depend_on_scale_or_size():
    ghn = build("chunked")
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0, reduction="relative"))
    anchor.keep("a")
    before = ghn(GRAPH, condition="a")

    with torch.no_grad():  # every raw value and so every parameter changes by a tenth
        ghn.decoder.readout.weight *= 1.1
        ghn.decoder.readout.bias *= 1.1

    large = [n for n, t in before.items() if t.square().mean() > 1e-3]
    share = sum(before[n].numel() for n in large) / GRAPH.num_parameters
    assert share > 0.8
    assert 0.01 * share < anchor.penalty().item() <= 0.0101


def test_importance_weighs_and_masks_leave_out():
    ghn = build()
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0, reduction="paper"))
    importance = {name: torch.full(spec.shape, 2.0) for name, spec in GRAPH.specs.items()}
    rows = torch.tensor([True, True, False, False])
    anchor.keep("a", importance=importance)
    anchor.keep("b", mask={"2.weight": rows[:, None].expand(4, 8), "2.bias": rows})
    before = {name: ghn(GRAPH, condition=name) for name in "ab"}
    move(ghn)

    after = {name: ghn(GRAPH, condition=name) for name in "ab"}
    squares = {c: {n: (after[c][n] - before[c][n]).square() for n in GRAPH.specs} for c in "ab"}
    first = 2 * sum(s.sum() for s in squares["a"].values())
    second = sum(s[:2].sum() if n.startswith("2.") else s.sum() for n, s in squares["b"].items())
    torch.testing.assert_close(anchor.penalty(), (first + second) / 2)


def test_the_penalty_has_no_gradient_on_rows_that_a_mask_leaves_out():
    ghn = build()
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0, reduction="paper"))
    rows = torch.tensor([True, False, True, True])
    anchor.keep("a", mask={"2.weight": rows[:, None].expand(4, 8), "2.bias": rows})
    move(ghn)
    leaves = {n: t.detach().requires_grad_() for n, t in ghn(GRAPH, condition=["a"]).items()}

    anchor.penalty(["a"], emitted=leaves).backward()

    assert not leaves["2.weight"].grad[0, 1].any()
    assert leaves["2.weight"].grad[0, [0, 2, 3]].abs().sum(-1).all()


def test_a_random_subset_is_drawn_from_a_generator_and_divided_by_its_size():
    ghn = build()
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0, subset=1, reduction="paper"))
    for name in "abc":
        anchor.keep(name)
    generator = torch.Generator().manual_seed(0)

    drawn = [anchor.choose(generator) for _ in range(30)]

    assert {tuple(keys) for keys in drawn} == {("a",), ("b",), ("c",)}
    move(ghn)
    means = torch.stack([anchor.penalty([name]) for name in "abc"]).mean()
    torch.testing.assert_close(anchor.penalty(), means)


@pytest.mark.parametrize("decoder", ["recurrent", "chunked"])
def test_what_is_kept_drifts_less_the_larger_beta(decoder):
    drifts = []
    for beta in (0.0, 0.01, 0.1, 1.0):
        ghn = build(decoder)
        anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=beta, reduction="paper"))
        anchor.keep("a")
        wanted = torch.randn(GRAPH.num_parameters, generator=torch.Generator().manual_seed(1))
        optimizer = torch.optim.Adam(ghn.parameters(), lr=3e-3)
        for _ in range(40):
            loss = (emitted(ghn, "b") - 0.3 * wanted).square().sum() * 0.05 + anchor.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        drifts.append(anchor.drift()["a"])

    assert drifts == sorted(drifts, reverse=True)
    assert drifts[-1] < 0.3 * drifts[0]


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_looking_ahead_sees_the_real_step_and_changes_nothing(name):
    ghn = build()
    ghn.condition.freeze("c")
    optimizer = OPTIMIZERS[name]([p for p in ghn.parameters() if p.requires_grad])
    for _ in range(3):
        optimizer.zero_grad()
        emitted(ghn, "b").square().sum().backward()
        state = copy.deepcopy(optimizer.state_dict())
        values = [p.detach().clone() for p in ghn.parameters()]
        gradients = [None if p.grad is None else p.grad.clone() for p in ghn.parameters()]

        ahead = coming_step(ghn, optimizer)

        assert all(torch.equal(p, v) for p, v in zip(ghn.parameters(), values, strict=True))
        for p, g in zip(ghn.parameters(), gradients, strict=True):
            assert g is None if p.grad is None else torch.equal(p.grad, g)
        after = optimizer.state_dict()
        assert str(after) == str(state)
        optimizer.step()
        for key, parameter in ghn.named_parameters():
            torch.testing.assert_close(ahead[key], parameter, rtol=0, atol=1e-6)


def test_a_penalty_ahead_is_that_after_the_step_and_has_gradients_before_it():
    ghn = build()
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0, reduction="paper"))
    anchor.keep("a")
    optimizer = torch.optim.Adam(ghn.parameters(), lr=0.01)
    emitted(ghn, "b").square().sum().backward()

    penalty = anchor.penalty(ahead=coming_step(ghn, optimizer))
    optimizer.zero_grad()
    penalty.backward()

    assert anchor.penalty().item() == 0.0
    gradients = ghn.decoder.weight_in.grad.clone()
    assert gradients.any()
    optimizer.zero_grad()
    emitted(ghn, "b").square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(anchor.penalty(), penalty)


def test_conditions_that_are_vectors_are_kept_by_any_key():
    torch.manual_seed(0)
    ghn = build(condition=VectorEncoderConfig(inputs=3, dim=6))
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0, reduction="paper"))
    first, second = torch.randn(3), torch.randn(3)
    anchor.keep(0, first)
    anchor.keep((1, "x"), second)
    before = emitted(ghn, second)
    move(ghn)

    expected = (emitted(ghn, second) - before).square().sum()
    torch.testing.assert_close(anchor.penalty([(1, "x")]), expected)


def test_memory_of_a_snapshot_does_not_grow_with_conditions():
    ghn = build()
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0, memory="snapshot"))
    for name in "abc":
        anchor.keep(name)

    assert anchor.targets is None
    assert sum(p.numel() for p in anchor._snapshot.parameters()) == sum(
        p.numel() for p in ghn.parameters()
    )


def test_fisher_is_normalised_to_mean_one_and_clipped():
    found = normalised_fisher({"w": torch.tensor([1.0, 3.0, 2.0, 2.0]), "b": torch.tensor([0.0])})

    torch.testing.assert_close(found["w"], torch.tensor([1.0, 3.0, 2.0, 2.0]) / 1.6)
    assert found["b"].item() == pytest.approx(0.05)
    many = normalised_fisher({"w": torch.cat([torch.full((99,), 1e-9), torch.tensor([1.0])])})
    assert many["w"].max() == 20.0


@pytest.mark.parametrize(
    "settings", [{"beta": -1.0}, {"memory": "disk"}, {"reduction": "mean"}, {"subset": -1}]
)
def test_nonsense_is_refused(settings):
    with pytest.raises(ConfigError):
        AnchorConfig(**settings)


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
def test_the_relative_penalty_divides_by_the_mean_square_or_by_a_thousandth_if_that_is_more(scale):
    ghn = build("chunked")
    with torch.no_grad():
        ghn.decoder.readout.weight *= scale
        ghn.decoder.readout.bias *= scale
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0, reduction="relative"))
    anchor.keep("a")
    before = ghn(GRAPH, condition="a")

    with torch.no_grad():
        ghn.decoder.readout.weight *= 1.1
        ghn.decoder.readout.bias *= 1.1

    shares = {n: t.numel() / GRAPH.num_parameters for n, t in before.items()}
    squares = {n: t.square().mean().item() for n, t in before.items()}
    expected = sum(0.01 * squares[n] / max(squares[n], 1e-3) * shares[n] for n in squares)
    assert anchor.penalty().item() == pytest.approx(expected, rel=1e-3)


def test_names_shapes_and_keys_that_the_anchor_does_not_know_are_refused():
    anchor = OutputAnchor(build(), GRAPH, AnchorConfig())

    with pytest.raises(ConfigError, match="mask names 'typo', which is not emitted"):
        anchor.keep("a", mask={"typo": torch.ones(4, dtype=torch.bool)})
    with pytest.raises(ConfigError, match=r"mask of 0.weight must have its shape \[8, 6\]"):
        anchor.keep("a", mask={"0.weight": torch.ones(6, 8, dtype=torch.bool)})
    with pytest.raises(ConfigError, match="importance names 'typo'"):
        anchor.keep("a", importance={"typo": torch.ones(4)})
    assert not anchor.kept
    anchor.keep("a")
    with pytest.raises(ConfigError, match=r"does not keep \['zz'\]; it keeps \['a'\]"):
        anchor.penalty(["zz"])


def test_a_condition_that_there_is_not_leaves_the_anchor_as_it_was():
    ghn = build()
    anchor = OutputAnchor(ghn, GRAPH, AnchorConfig(beta=1.0))
    anchor.keep("a")
    before = anchor.state_dict()

    with pytest.raises(UnknownNameError):
        anchor.keep("zz")
    with pytest.raises(UnknownNameError):
        anchor.keep("a", "zz", importance={})

    assert list(anchor.kept.items()) == [("a", "a")]
    assert anchor.penalty() == 0
    after = anchor.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
