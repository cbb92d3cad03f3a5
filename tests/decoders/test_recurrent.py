import pytest
import torch
from decoder_helpers import SPECS, build, embeddings, emit, network_decoders, spec

from ghn.decoders.chunks import cut
from ghn.errors import ConfigError
from ghn.kernels import expand

CONFIGS = network_decoders(SPECS)
# One parameter for each node, in the order of the nodes.
CHAIN = {f"layer{i}": spec((6, 5), "oi", node=i) for i in range(6)}


def influence(name):
    """How the emission of each layer depends on the embedding of each node: [layer, node]."""
    decoder = build(network_decoders(CHAIN)[name])
    x = embeddings(nodes=6).requires_grad_()
    recipes = emit(decoder, x, CHAIN)
    rows = []
    for key in CHAIN:
        (gradient,) = torch.autograd.grad(expand(recipes[key]).sum(), x, retain_graph=True)
        rows.append(gradient[0].abs().sum(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["recurrent", "recurrent_node"])
def test_a_layer_depends_on_the_layers_before_it_and_on_none_after(name):
    found = influence(name)

    assert (found.tril() == found).all()
    assert (found.tril()[torch.ones(6, 6).tril().bool()] > 0).all()


@pytest.mark.parametrize("name", ["chunked", "recurrent_reset"])
def test_without_recurrence_a_layer_depends_on_itself_only(name):
    found = influence(name)

    assert (found.diag().diag() == found).all()
    assert (found.diag() > 0).all()


def test_a_tensor_depends_on_its_own_earlier_steps():
    large = {"large": spec((30, 10), "oi")}  # eight chunks of 40
    decoder = build(CONFIGS["recurrent"])
    plan = cut(large, 40, straddle=False)
    codes = decoder.codes(embeddings(nodes=1), plan).detach().requires_grad_()

    states = decoder._run(codes)

    (gradient,) = torch.autograd.grad(states[0, 5].sum(), codes)
    assert plan.count == 8
    assert (gradient[0, :6].abs().sum(-1) > 0).all()
    assert not gradient[0, 6:].any()


@pytest.mark.parametrize("name", ["recurrent", "recurrent_node"])
def test_another_order_of_operators_gives_other_parameters_where_there_is_recurrence(name):
    swapped = {**CHAIN, "layer0": spec((6, 5), "oi", node=1), "layer1": spec((6, 5), "oi", node=0)}
    x = embeddings(nodes=6)
    crossed = x[:, [1, 0, 2, 3, 4, 5]]
    last = {}
    for key, decoder in (("yes", build(network_decoders(CHAIN)[name])),
                         ("no", build(network_decoders(CHAIN)["chunked"]))):  # fmt: skip
        one = expand(emit(decoder, x, CHAIN)["layer5"])
        other = expand(emit(decoder, crossed, swapped)["layer5"])
        last[key] = (one - other).abs().max()

    assert last["yes"] > 1e-4
    assert last["no"] == 0


def test_an_lstm_of_torch_with_the_same_weights_gives_the_same_states():
    decoder = build(CONFIGS["recurrent"])
    reference = torch.nn.LSTM(decoder.codes.width, 24, batch_first=True)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(decoder.weight_in)
        reference.weight_hh_l0.copy_(decoder.weight_state)
        reference.bias_ih_l0.copy_(decoder.bias_in)
        reference.bias_hh_l0.copy_(decoder.bias_state)
    inputs = torch.randn(3, 7, decoder.codes.width)

    torch.testing.assert_close(decoder._run(inputs), reference(inputs)[0])


@pytest.mark.parametrize("name", ["recurrent", "recurrent_learned", "recurrent_node"])
def test_growth_changes_no_emission_and_new_units_learn_after_one_step(name):
    decoder = build(CONFIGS[name])
    x = embeddings(batch=2)
    before = emit(decoder, x, SPECS)
    count = sum(p.numel() for p in decoder.parameters())

    decoder.grow(8)

    after = emit(decoder, x, SPECS)
    for key in SPECS:
        torch.testing.assert_close(expand(after[key]), expand(before[key]), rtol=0, atol=1e-5)
    fresh = build(CONFIGS[name].replace(state=32))
    assert sum(p.numel() for p in decoder.parameters()) > count
    assert [p.shape for p in decoder.parameters()] == [p.shape for p in fresh.parameters()]
    optimizer = torch.optim.SGD(decoder.parameters(), lr=0.01)
    sum(expand(r).square().sum() for r in after.values()).backward()
    assert not decoder.weight_in.grad.unflatten(0, (4, 32))[:, 24:].any()
    optimizer.step()
    optimizer.zero_grad()
    sum(expand(r).square().sum() for r in emit(decoder, x, SPECS).values()).backward()
    assert decoder.weight_in.grad.unflatten(0, (4, 32))[:, 24:].abs().sum(-1).all()
    assert decoder.config.state == 32


def test_growing_by_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one unit"):
        build(CONFIGS["recurrent"]).grow(0)


def test_the_same_bits_are_emitted_with_and_without_gradients():
    decoder, x = build(CONFIGS["recurrent"]), embeddings(batch=2)
    with torch.no_grad():
        quiet = emit(decoder, x, SPECS)

    loud = emit(decoder, x, SPECS)

    assert all(torch.equal(expand(quiet[k]), expand(loud[k])) for k in SPECS)
    assert not expand(quiet["conv"]).requires_grad
