import contextlib
from collections import Counter

import pytest
import torch

from ghn.config import Config
from ghn.errors import ConfigError, UnknownNameError
from ghn.graphs import trace
from ghn.zoo import GPT, SAMPLERS, ConvNet, ConvNetConfig, GPTConfig, sample, sample_distinct
from ghn.zoo.registry import choose


@pytest.mark.parametrize("family", SAMPLERS)
def test_a_seed_names_one_architecture_and_survives_json(family):
    first, again = sample(family, 7), sample(family, 7)

    assert first == again
    assert first != sample(family, 8)
    assert type(first).from_dict(first.to_dict()) == first
    assert isinstance(first, Config)


@pytest.mark.parametrize("family", SAMPLERS)
def test_splits_share_no_architecture(family):
    splits = {s: {sample(family, i, s) for i in range(12)} for s in ("train", "val", "test")}

    assert not splits["train"] & splits["val"]
    assert not splits["train"] & splits["test"]
    assert not splits["val"] & splits["test"]


@pytest.mark.parametrize("context", [256, 512, 1024])
def test_splits_share_no_network_at_the_context_of_the_data(context):
    settings = {"context": context, "vocabulary": 256}

    def drawn(split, count):
        return {sample("gpts", seed, split, settings) for seed in range(count)}

    trained = drawn("train", 400)
    assert {a.context for a in trained} == {c for c in (256, 512, 1024) if c >= context}
    assert not trained & (drawn("test", 40) | drawn("val", 40))


def test_different_architectures_are_as_many_as_there_are():
    found = sample_distinct("gpts-1k", 20, "test")

    assert 1 < len(found) < 20
    assert len(set(found.values())) == len(found)
    assert found == {seed: sample("gpts-1k", seed, "test") for seed in found}
    assert set(found.values()) == {sample("gpts-1k", seed, "test") for seed in range(200)}
    assert all(a.classes == 7 for a in sample_distinct("vits", 3, settings={"classes": 7}).values())


@pytest.mark.parametrize("side", [28, 4, 1])
@pytest.mark.parametrize("family", ["convnets", "vits"])
def test_images_of_any_size_have_networks_that_can_read_them(family, side):
    settings = {"image": side, "classes": 10}
    if family == "vits" and side == 1:
        with pytest.raises(ConfigError, match="no network of vits fits image 1, classes 10"):
            sample(family, 0, settings=settings)
        return
    found = {sample(family, seed, settings=settings) for seed in range(30)}

    assert len(found) > 20
    for architecture in list(found)[:8]:
        with torch.device("meta"):
            model = SAMPLERS[family].build(architecture)
            assert model(torch.empty(2, 3, side, side)).shape == (2, 10)


def test_a_smallest_image_is_read_and_a_smaller_one_is_not():
    for down in ("stride", "max", "avg"):
        for stride in (1, 2):
            config = ConvNetConfig(
                widths=(16, 16, 16), depths=(1, 1, 1), stem_stride=stride, down=down, norm="none"
            )
            model = ConvNet(config)
            least = config.least_image
            assert model(torch.zeros(1, 3, least, least)).shape == (1, 10)
            if least > 1:
                with pytest.raises(RuntimeError, match="too small"):
                    model(torch.zeros(1, 3, least - 1, least - 1))


def shapes(family, architecture):
    with torch.device("meta"):
        model = SAMPLERS[family].build(architecture)
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def operators(family, architecture):
    graph = SAMPLERS[family].graph(architecture)
    return [(n.op, dict(n.attributes), n.parameters) for n in graph.nodes], graph.edges


def with_one_setting_changed(architecture, others):
    for field in architecture.to_dict():
        values = {getattr(other, field) for other in others} - {getattr(architecture, field)}
        for value in sorted(values, key=repr)[:2]:
            with contextlib.suppress(ConfigError):  # what cannot be made cannot be drawn
                yield field, architecture.replace(**{field: value})


@pytest.mark.parametrize("family", SAMPLERS)
def test_no_network_has_two_architectures_so_none_can_be_in_two_splits(family):
    drawn = [sample(family, seed) for seed in range(24)]
    smallest_last = sorted(drawn, key=lambda architecture: -architecture.layers)
    kinds = {getattr(a, "kind", None): a for a in smallest_last}

    for architecture in kinds.values():
        own = shapes(family, architecture), operators(family, architecture)
        for field, other in with_one_setting_changed(architecture, drawn):
            if own[0] == shapes(family, other):
                assert own[1] != operators(family, other), (architecture, field)


def test_an_unknown_way_to_halve_is_refused():
    with pytest.raises(ConfigError, match="unknown kind, norm, activation or down"):
        ConvNetConfig(down="maxpool")


def test_a_setting_without_use_is_refused():
    with pytest.raises(ConfigError, match="leave it out"):
        ConvNetConfig(kind="residual", expansion=3.0)
    assert len({sample("convnets", seed).expansion for seed in range(40)}) > 1


def test_what_is_drawn_does_not_depend_on_the_default_type():
    def draws():
        generator = torch.Generator().manual_seed(0)
        return [choose(generator, [0, 1], [1e-9, 2e-9]) for _ in range(20)]  # 0 in half precision

    expected = draws()
    torch.set_default_dtype(torch.float16)
    try:
        found = draws()
    finally:
        torch.set_default_dtype(torch.float32)

    assert found == expected


def widths(architecture):
    return getattr(architecture, "widths", None) or (architecture.width,)


@pytest.mark.parametrize("family", SAMPLERS)
def test_wide_and_deep_lie_outside_of_the_trained_ranges(family):
    trained = [sample(family, i) for i in range(50)]

    wide = [sample(family, i, "wide") for i in range(20)]
    deep = [sample(family, i, "deep") for i in range(20)]

    assert min(widths(a)[0] for a in wide) > max(widths(a)[0] for a in trained)
    assert min(max(widths(a)) for a in wide) > max(max(widths(a)) for a in trained)
    assert min(a.layers for a in deep) > max(a.layers for a in trained)


def test_the_published_families_have_the_published_ranges():
    vits = [sample("vits-1k", seed) for seed in range(60)]
    gpts = [sample("gpts-1k", seed) for seed in range(60)]

    ranges = {
        "vits": {3: (384, 512), 4: (256, 384), 6: (128, 256)},
        "gpts": {3: (176, 256), 4: (128, 176), 6: (72, 176)},
    }
    for family, networks, step in (("vits", vits, 32), ("gpts", gpts, 8)):
        assert {n.layers for n in networks} == set(range(3, 10))
        for n in networks:
            low, high = ranges[family][3 if n.layers == 3 else 4 if n.layers <= 5 else 6]
            assert low <= n.width <= high
            assert n.width % step == 0
            assert n.ratio == 4
    assert {n.patch for n in vits} == {2, 4}
    assert {n.pool for n in vits} == {"token"}
    assert all(n.heads in ({3, 6, 12} if n.width % 12 == 0 else {4, 8}) for n in vits)
    assert {(n.heads, n.tied) for n in gpts} == {(8, False)}


def test_the_cap_on_cost_does_not_change_the_shares_of_kinds_and_norms():
    trained = [sample("convnets", i) for i in range(150)]

    kinds = Counter(a.kind for a in trained)
    assert kinds["residual"] == pytest.approx(37, abs=18)
    assert kinds["depthwise"] == pytest.approx(27, abs=16)
    assert Counter(a.norm for a in trained)["batch"] == pytest.approx(83, abs=21)


@pytest.mark.parametrize("family", SAMPLERS)
@pytest.mark.parametrize("split", ["train", "wide", "deep"])
def test_networks_run_and_are_small(family, split):
    for seed in range(2):
        architecture = sample(family, seed, split)
        model = SAMPLERS[family].build(architecture)

        outputs = model(SAMPLERS[family].example(architecture))

        assert outputs.isfinite().all()
        assert outputs.shape[-1] == (256 if SAMPLERS[family].modality == "text" else 10)
        count = sum(p.numel() for p in model.parameters())
        most = 1_500_000 if split == "train" else 5_000_000
        assert 1_000 < count < (8 * most if family.endswith("-1k") else most)


def test_the_cost_formula_counts_the_multiply_adds_of_convolutions():
    from torch.utils.flop_counter import FlopCounterMode

    for seed in range(12):
        architecture = sample("convnets", seed)
        model = SAMPLERS["convnets"].build(architecture).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.randn(1, 3, 32, 32))
        ratio = architecture.cost / (counter.get_total_flops() / 2)
        assert 0.5 < ratio < 2.0, (architecture, ratio)


def test_the_positions_of_a_language_model_are_told_from_its_vocabulary():
    architecture = GPTConfig(width=48, heads=4, layers=2, context=512, tied=True)

    graph = trace(GPT(architecture), SAMPLERS["gpts"].example(architecture))

    axes = {name: spec.axes for name, spec in graph.specs.items() if spec.role == "table"}
    assert axes == {"gpt2.transformer.wte.weight": "vo", "gpt2.transformer.wpe.weight": "to"}
    assert len(graph.specs) == len(list(GPT(architecture).named_parameters()))


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(UnknownNameError, match="'convnets'"):
        sample("convnet", 0)
    with pytest.raises(ConfigError, match="split must be one of"):
        sample("vits", 0, "holdout")
