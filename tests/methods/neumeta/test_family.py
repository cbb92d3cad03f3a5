from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
from neumeta_helpers import GENERATE, batches, inputs, settings, tail
from ties_helpers import relative_change

from ghn.errors import CheckpointError, ConfigError, InputError, PredictionError, UnknownNameError
from ghn.methods.neumeta import ExperimentalWarning, Family, FamilyConfig, SizeWarning
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

    one, three = made.sample(1.0, {"blocks": 1}), made.sample(0.5, {"blocks": 3})

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


def test_a_loss_that_is_not_finite_leaves_the_family_as_it_was():
    made = family()
    before = [p.detach().clone() for p in made.trained()]
    broken = [*batches(2), (inputs() * float("nan"), torch.zeros(8, dtype=torch.long))]

    with pytest.raises(PredictionError, match="diverged at step 2"):
        made.fit(broken)

    assert all(torch.equal(p, q) for p, q in zip(made.trained(), before, strict=True))
    assert not made.ghn.training


@pytest.mark.parametrize("wrong", [[], [inputs()], [(inputs(),)]])
def test_batches_that_are_no_pairs_are_refused(wrong):
    with pytest.raises(InputError, match="batch"):
        family().fit(wrong)


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
