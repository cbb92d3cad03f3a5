from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
from neumeta_helpers import GENERATE, batches, inputs, settings, tail
from ties_helpers import relative_change, with_random_values
from torch import nn

from ghn.decoders import ImplicitDecoderConfig
from ghn.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    PredictionError,
    UnknownNameError,
    UnsupportedModelError,
)
from ghn.io import read_tensors, write_tensors
from ghn.methods.neumeta import ExperimentalWarning, Family, FamilyConfig, SizeWarning
from ghn.methods.neumeta.config import _is_range
from ghn.methods.neumeta.fit import random_sizes, reconstruction
from ghn.methods.neumeta.networks import ResNet


def family(model=None, **changes):
    return Family(model or tail(), settings(**changes), generate=GENERATE, example_inputs=inputs(1))


def weights_of(model):
    return {n: t.clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("base", ["none", "frozen", "trained"])
def test_every_width_gives_a_working_network_of_the_same_class(base):
    made = family(base=base, low=0.05)

    for channels in (1, 7, 12):
        small = made.sample({"blocks": channels})

        assert type(small) is type(made.model)
        assert small.blocks[1].conv1.weight.shape == (channels, 12, 3, 3)
        assert small(inputs()).shape == (8, 4)
        assert small(inputs()).isfinite().all()


def test_without_a_field_the_full_width_is_the_full_network():
    model = tail()

    sampled = family(model, base="frozen", reach=0.0).sample(1.0)

    assert torch.equal(sampled(inputs()), model(inputs()))


def test_what_is_not_generated_stays_and_the_model_is_not_touched():
    model = tail()
    before = weights_of(model)
    made = family(model)

    made.fit(batches())
    small = made.sample(0.5)

    assert torch.equal(small.head.weight, model.head.weight)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.requires_grad for p in small.parameters())


def test_training_lowers_the_loss_of_sizes_it_draws():
    made = family(base="none", reach=1.0, steps=30, rate=2e-2, distillation=0.0)

    losses = made.fit(batches()).losses

    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_warming_up_learns_the_resampled_weights():
    made = family(base="none", reach=1.0, steps=0, warm=40, rate=2e-2, ema=0.0)
    small = made.structures.at(made.sizes(0.5))
    before = reconstruction(made, small, weighted=False).item()

    made.fit(batches())

    assert reconstruction(made, small, weighted=False).item() < 0.8 * before


def test_the_same_seed_gives_the_same_bits_and_no_draw_from_outside():
    first, second = family(noise=1.0), family(noise=1.0)
    state = torch.get_rng_state()

    first.fit(batches())
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second.fit(batches())

    one, other = first.sample(0.6), second.sample(0.6)
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in one.state_dict().items())


def test_field_and_base_receive_gradients_at_a_small_size():
    made = family()
    structure = made.structures.at(made.sizes(0.5))

    made.run(structure, inputs(), made.emit(structure)).square().sum().backward()

    assert all(p.grad is not None and p.grad.any() for p in made.base.values())
    fields = [n for n, p in made.ghn.named_parameters() if p.grad is None or not p.grad.any()]
    assert fields == []


def test_statistics_are_measured_on_inputs_that_are_kept():
    made = family(calibration=16)
    made.fit(batches())

    small = made.sample(0.5)
    conv = small.blocks[0].conv1(made.calibration)

    assert len(made.calibration) == 16
    torch.testing.assert_close(
        small.blocks[0].norm1.running_mean, conv.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
    )


def test_blocks_that_repeat_may_be_fewer_or_more_than_were_trained():
    made = family(base="frozen", reach=0.0)
    model = made.model

    with pytest.warns(SizeWarning, match="blocks: 1 blocks, trained with 2 to 2"):
        one = made.sample(1.0, {"blocks": 1})
    with pytest.warns(SizeWarning, match="blocks: 3 blocks"):
        three = made.sample(0.5, {"blocks": 3})

    assert (len(one.blocks), len(three.blocks)) == (1, 3)
    x = inputs()
    torch.testing.assert_close(one(x), model.head(model.blocks[0](x).mean((2, 3))))
    assert three.blocks[2].conv1.out_channels == 6
    assert torch.equal(three.blocks[2].conv1.weight, three.blocks[1].conv1.weight)
    with pytest.raises(ConfigError, match="depth"):
        made.sample(depth={"blocks": 0})
    with pytest.raises(UnknownNameError, match="blocks"):
        made.sample(depth={"stages": 2})


def test_depths_are_trained_where_settings_say_so():
    made = family(depths={"blocks": [1, 3]})

    drawn = [next(sizes)["blocks of blocks"] for sizes in [random_sizes(made)] * 20]

    assert set(drawn) == {1, 2, 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error", SizeWarning)
        made.sample(depth={"blocks": 3})


def test_a_file_holds_all_that_every_width_is_made_from(tmp_path):
    made = family(calibration=8)
    made.fit(batches())
    made.save(tmp_path / "family.safetensors", notes={"score": 1})

    other = ResNet((12,), (0,), 2, 4).tail
    read, notes = Family.load(tmp_path / "family.safetensors", other, example_inputs=inputs(1))

    assert notes == {"score": 1}
    for width in (0.5, 0.7, 1.0):
        one, two = made.sample(width), read.sample(width)
        assert all(torch.equal(t, two.state_dict()[n]) for n, t in one.state_dict().items())


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "family.safetensors"
    family().save(path)
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:500])
    (tmp_path / "text.safetensors").write_text("nothing")

    for name in ("cut", "text", "absent"):
        with pytest.raises(CheckpointError, match="family"):
            Family.load(tmp_path / f"{name}.safetensors", tail(), example_inputs=inputs(1))
    with pytest.raises(CheckpointError, match="another network"):
        Family.load(path, ResNet((12,), (0,), 1, 4).tail, example_inputs=inputs(1))


def nan_loss(outputs, labels):
    return outputs.sum() * float("nan")


REFUSED = {
    "data that are not finite": ([(inputs() * float("nan"), torch.arange(8) % 4)], {}),
    "later data that are not finite": (
        [*batches(2), (inputs() * float("inf"), torch.arange(8) % 4)],
        {},
    ),
    "a loss that is not finite": (batches(), {"loss": nan_loss}),
    "no batch": ([], {}),
    "inputs of another shape": ([(torch.randn(8, 3, 4, 4), torch.arange(8) % 4)], {}),
    "too short an iterator": (iter(batches(2)), {}),
    "labels that are no classes": ([(inputs(), torch.full((8,), 4))], {}),
    "labels of another kind": ([(inputs(), torch.rand(8))], {}),
    "fewer labels than inputs": ([(inputs(), torch.arange(7) % 4)], {}),
    "a loss of many numbers": (batches(), {"loss": lambda outputs, labels: outputs.sum(1)}),
    "an empty batch": ([(inputs()[:0], torch.arange(0))], {}),
    "later inputs of another shape": (
        [*batches(2), (torch.randn(8, 3, 4, 4), torch.arange(8) % 4)],
        {},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_training_leaves_the_family_and_its_file_as_they_were(case, tmp_path):
    made = family(calibration=16)
    made.fit(batches())
    before = weights_of(made.sample(0.6))
    wrong, further = REFUSED[case]

    with pytest.raises((InputError, PredictionError)):
        made.fit(copy.copy(wrong), **further)
    made.save(tmp_path / "family.safetensors")
    read, _ = Family.load(tmp_path / "family.safetensors", tail(), example_inputs=inputs(1))

    assert not made.ghn.training
    for one in (made, read):
        sampled = one.sample(0.6)
        assert all(torch.equal(t, before[n]) for n, t in sampled.state_dict().items())
        assert sampled(inputs()).isfinite().all()


def test_data_that_are_not_finite_are_named_and_a_loss_that_is_not_is_told_apart():
    labels = torch.arange(8) % 4
    broken = inputs()
    broken[3, 0, 0, 0] = float("nan")

    with pytest.raises(InputError, match="batches hold numbers that are not finite"):
        family().fit([(broken, labels)])
    with pytest.raises(InputError, match="since a batch holds numbers that are not finite"):
        family().fit([*batches(2), (broken, labels)])
    with pytest.raises(PredictionError, match=r"diverged at step 0.*learning rate"):
        family().fit(batches(), loss=nan_loss)


def test_an_iterator_trains_as_the_list_that_it_goes_through():
    one, other = family(calibration=16), family(calibration=16)

    one.fit(batches(4))
    other.fit(iter(batches(4)))

    assert torch.equal(one.calibration, torch.cat([inputs(8, 0), inputs(8, 1)]))
    assert torch.equal(one.calibration, other.calibration)
    assert all(map(torch.equal, one.trained(), other.trained()))
    with pytest.raises(InputError, match="cannot be gone through again"):
        family().fit(iter(batches(2)))


@pytest.mark.parametrize(
    "wrong", [[], [inputs()], [(inputs(),)], [({"x": inputs()}, torch.arange(8))], [(inputs(), 3)]]
)
def test_batches_that_are_no_pairs_of_tensors_are_refused(wrong):
    with pytest.raises(InputError, match="batch"):
        family().fit(wrong)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused_before_anything_is_trained(kind):
    with pytest.raises(UnsupportedModelError, match=r"float32 or float64.*model\.float"):
        Family(tail().to(kind), settings(), example_inputs=inputs(1).to(kind))


@pytest.mark.parametrize("base", ["none", "trained"])
def test_double_precision_stays(base):
    model, pairs = tail().double(), [(x.double(), y) for x, y in batches()]
    made = Family(model, settings(base=base), example_inputs=inputs(1).double())

    made.fit(pairs)

    assert made.sample(0.5)(pairs[0][0]).dtype == torch.float64


@pytest.mark.parametrize("pair", [[2, 1], [1], [1, 2, 3], [0, 2], [True, 2]])
def test_depths_that_are_no_range_are_refused_by_the_settings(pair):
    with pytest.raises(ConfigError, match="fewest"):
        settings(depths={"blocks": pair})


@pytest.mark.parametrize("pair", [["a", 2], [1.0, 2], 3, None, "12"])
def test_depths_of_wrong_types_are_no_range(pair):  # the settings' annotations are checked in tests
    assert not _is_range(pair)


def test_depths_of_no_run_and_of_too_many_blocks_are_refused_by_the_family():
    with pytest.raises(UnknownNameError, match="blocks"):
        family(depths={"stages": [1, 2]})
    with pytest.raises(ConfigError, match="depth"):
        family(depths={"blocks": [1, 99]})


def rewritten(path, *, drop):
    """Write a file again without some keys of its header."""
    found, header = read_tensors(path, "family")
    kept = {key: value for key, value in header.items() if key not in drop}
    write_tensors(path, found, "family", kept)


def test_any_flipped_bit_of_a_file_is_found(tmp_path):
    path = tmp_path / "family.safetensors"
    family(calibration=8).save(path)
    whole = path.read_bytes()
    places = torch.randint(len(whole), (40,), generator=torch.Generator().manual_seed(0)).tolist()

    for number, place in enumerate(places):
        flipped = whole[place] ^ (1 << number % 8)
        path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=r"family\.safetensors"):
            Family.load(path, tail(), example_inputs=inputs(1))


@pytest.mark.parametrize("key", ["format", "config", "generated", "sizes", "notes"])
def test_a_file_without_a_part_of_its_header_is_refused(key, tmp_path):
    path = tmp_path / "family.safetensors"
    family().save(path)
    rewritten(path, drop=[key])

    with pytest.raises(CheckpointError, match="format" if key == "format" else f"lacks {key}"):
        Family.load(path, tail(), example_inputs=inputs(1))


def test_a_file_with_nan_is_refused(tmp_path):
    path, made = tmp_path / "family.safetensors", family(calibration=8)
    made.fit(batches())

    made.calibration = inputs() * float("nan")
    made.save(path)
    with pytest.raises(CheckpointError, match=r"not finite, in \['calibration'\]"):
        Family.load(path, tail(), example_inputs=inputs(1))


def test_widths_outside_of_the_trained_range_are_warned_of_and_others_not():
    made = family(low=0.5)

    with pytest.warns(SizeWarning, match="outside"):
        made.sample(0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.sample(0.5)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        pytest.param("resnet18", marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", marks=pytest.mark.slow),
    ],
)
def test_the_last_block_of_library_models_comes_at_any_width(name):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "depth": 2, "embed_dim": 48} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=5, **sizes).eval()
    image = torch.randn(2, 3, 32, 32)
    made = Family(model, settings(base="frozen", reach=0.0), example_inputs=image)

    assert relative_change(model(image), made.sample(1.0)(image)) < 1e-5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SizeWarning)
        small = made.sample(0.6)
    assert small(image).shape == (2, 5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_settings_survive_json_and_refuse_nonsense():
    config = settings(depths={"blocks": [1, 2]})

    assert FamilyConfig.from_dict(config.to_dict()) == config
    for wrong in ({"low": 0.0}, {"base": "some"}, {"reach": -1.0}, {"base": "none", "reach": 0.0}):
        with pytest.raises(ConfigError):
            copy.copy(config).replace(**wrong)


def test_a_field_of_the_whole_network_is_said_to_be_experimental_and_one_of_blocks_is_not(tmp_path):
    with pytest.warns(ExperimentalWarning, match="last block"):
        whole = Family(tail(), settings(), generate="*", example_inputs=inputs(1))
    whole.save(tmp_path / "family.safetensors")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Family.load(tmp_path / "family.safetensors", tail(), example_inputs=inputs(1))
        Family(tail(), settings(), example_inputs=inputs(1))
        Family(tail(), settings(reach=0.0), generate="*", example_inputs=inputs(1))


class Counts(nn.Module):
    """A network whose code counts its blocks by itself."""

    def __init__(self):
        super().__init__()
        whole = tail()
        self.blocks, self.head, self.number = nn.ModuleList(whole.blocks), whole.head, 2

    def forward(self, x):
        for i in range(self.number):
            x = self.blocks[i](x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("depth", [1, 4])
def test_blocks_that_the_networks_code_would_not_run_are_refused(depth):
    made = family(with_random_values(Counts()), base="frozen", reach=0.0)

    with (
        pytest.warns(SizeWarning, match="trained with 2 to 2"),
        pytest.raises(UnsupportedModelError, match="blocks"),
    ):
        made.sample(1.0, {"blocks": depth})


def test_a_norm_that_was_never_trained_has_a_distance_of_its_own_size():
    model = tail()
    for block in model.blocks:
        nn.init.ones_(block.norm1.weight)
        nn.init.zeros_(block.norm1.bias)
    made = family(model, base="frozen")

    found = made.fit(batches())

    assert found.distance < 1.0
    zero = reconstruction(family(model, base="frozen", reach=0.0), made.structures.at(made.sizes()))
    assert zero == 0.0


def test_weights_that_are_not_finite_are_refused():
    model = tail()
    model.blocks[0].conv1.weight.data[0, 0, 0, 0] = float("nan")

    with pytest.raises(UnsupportedModelError, match=r"blocks\.0\.conv1\.weight"):
        family(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"calibration": -1},
        {"noise": -1.0},
        {"noise": float("nan")},
        {"reach": float("inf")},
        {"clip": float("nan")},
        {"rate": float("inf")},
        {"decoder": ImplicitDecoderConfig(dim=16)},
        {"decoder": ImplicitDecoderConfig(dim=25)},
    ],
)
def test_settings_that_no_family_can_have_are_refused(settings):
    with pytest.raises(ConfigError):
        FamilyConfig(**settings)
