import pytest
import torch
from neumeta_helpers import GENERATE, batches, inputs, settings, tail
from ties_helpers import relative_change

from ghn.errors import CheckpointError
from ghn.graphs import resize_channels
from ghn.methods.neumeta import Family, Slimmable, fresh, strongest_first, tune

SETS = ("blocks.0.conv1.weight[0]", "blocks.1.conv1.weight[0]")


def slimmable(model, **changes):
    return Slimmable(model, settings(**changes), generate=GENERATE, example_inputs=inputs(1))


def test_an_untrained_slimmable_network_is_the_first_channels_of_the_full_one():
    model = tail()

    small = slimmable(model).sample(0.5)

    expected = resize_channels(model, dict.fromkeys(SETS, 6), inputs(1))
    assert torch.equal(small(inputs()), expected(inputs()))


def test_widths_of_a_slimmable_network_share_their_weights():
    made = slimmable(tail())
    made.fit(batches())

    large, small = made.sample(1.0), made.sample(0.5)

    assert torch.equal(large.blocks[0].conv1.weight[:6], small.blocks[0].conv1.weight)
    assert not torch.equal(large.blocks[0].conv1.weight, tail().blocks[0].conv1.weight)


def test_channels_are_put_in_order_of_strength_and_the_function_stays():
    model = tail()

    ordered = strongest_first(model, inputs(1))

    block = ordered.blocks[0]
    parts = [block.conv1.weight.flatten(1), block.norm1.weight[:, None], block.norm1.bias[:, None]]
    parts.append(block.conv2.weight.transpose(0, 1).flatten(1))
    norms = torch.cat(parts, 1).norm(dim=1)
    assert norms.diff().max() <= 0
    assert relative_change(model(inputs()), ordered(inputs())) < 1e-5


def test_tuning_trains_what_is_generated_and_nothing_else():
    model, teacher = tail(), tail()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    names = [n for n, _ in model.named_parameters() if n.startswith("blocks.")]

    tune(model, names, batches(), settings(), teacher=teacher)

    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert set(names) <= changed
    assert not any(n.startswith("head") for n in changed)


def test_a_fresh_network_begins_anew_where_weights_are_generated():
    model = tail()
    names = [n for n, _ in model.named_parameters() if n.startswith("blocks.")]

    one, same, other = (fresh(model, names, seed) for seed in (0, 0, 1))

    assert torch.equal(one.blocks[0].conv1.weight, same.blocks[0].conv1.weight)
    assert not torch.equal(one.blocks[0].conv1.weight, other.blocks[0].conv1.weight)
    assert torch.equal(one.blocks[0].norm1.weight, torch.ones(12))
    assert torch.equal(one.head.weight, model.head.weight)


def test_a_slimmable_network_and_a_family_do_not_read_each_others_files(tmp_path):
    made = slimmable(tail())
    family = Family(tail(), settings(), generate=GENERATE, example_inputs=inputs(1))
    made.save(tmp_path / "made.safetensors")
    family.save(tmp_path / "family.safetensors")

    again, _ = Slimmable.load(tmp_path / "made.safetensors", tail(), example_inputs=inputs(1))

    assert torch.equal(again.sample(0.5)(inputs()), made.sample(0.5)(inputs()))
    with pytest.raises(CheckpointError, match="cannot read a family"):
        Family.load(tmp_path / "made.safetensors", tail(), example_inputs=inputs(1))
    with pytest.raises(CheckpointError, match="cannot read a slimmable network"):
        Slimmable.load(tmp_path / "family.safetensors", tail(), example_inputs=inputs(1))
