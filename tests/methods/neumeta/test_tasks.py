from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import nn

from ghn.methods.neumeta import arms
from ghn.methods.neumeta import run as module
from ghn.methods.neumeta.benchmarks import BENCHMARKS, _mirror
from ghn.methods.neumeta.config import FamilyConfig
from ghn.methods.neumeta.features import Examples, Features
from ghn.methods.neumeta.networks import VAE, UNet
from ghn.methods.neumeta.run import RunConfig, run
from ghn.methods.neumeta.source import source_of
from ghn.methods.neumeta.tasks import (
    CLASSES,
    IMAGES,
    PIXELS,
    image_error,
    mean_iou,
    variational_loss,
)

TINY = {"decoder": {"hidden": 8, "layers": 1, "rank": 4, "bands": 3}, "widths": 2, "calibration": 4}
RECORD = {"command": "ghn run neumeta", "machine": {}, "versions": {}}
CPU = torch.device("cpu")
NETWORKS = {
    "camvid": lambda: UNet((8, 12, 16), 2, 11),
    "mnist-vae": lambda: VAE(16, 8, 4),
}


@pytest.fixture(autouse=True)
def _quick_search(monkeypatch):
    """Two blocks of few channels need no second for each order."""
    monkeypatch.setattr(arms, "EFFORT", 0.1)


def random(*shape, high=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if high is None:
        return torch.randn(*shape, generator=generator)
    return torch.randint(high, shape, generator=generator, dtype=torch.uint8)


def examples(name):
    """Twelve random images, in which every pixel has one of eleven classes or none."""
    if name == "camvid":
        return Examples(random(12, 3, 16, 24, high=256), random(12, 16, 24, high=12), "random")
    images = random(12, 1, 16, 16, high=256)
    return Examples(images, images, "random")


def benchmark(name, **changes):
    """A benchmark with small random data and a small network."""
    small = {
        "read": lambda split: examples(name),
        "network": NETWORKS[name],
        "settings": TINY,
        "steps": 2,
        "batch": 4,
    }
    return dataclasses.replace(BENCHMARKS[name], **{**small, **changes})


def features(outputs, labels):
    """Features that are the outputs of a tail that does nothing."""
    return Features(outputs.half(), labels, 2, 0)


def test_the_mean_of_intersections_over_unions_leaves_pixels_without_a_class_out():
    outputs, labels = random(7, 4, 5, 6), random(7, 5, 6, high=5)  # class 4 is none

    found = mean_iou(nn.Identity(), features(outputs, labels))

    counted = labels < 4
    answers = outputs.half().argmax(1)[counted]
    assert found == pytest.approx(100 * jaccard_score(labels[counted], answers, average="macro"))


def test_classes_that_are_nowhere_do_not_count():
    outputs = torch.zeros(2, 4, 3, 3)
    outputs[:, 1] = 1.0

    assert mean_iou(nn.Identity(), features(outputs, torch.ones(2, 3, 3).byte())) == 100.0


def test_the_loss_of_pixels_and_their_divergence_are_means_over_pixels():
    outputs, target = random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    labels = random(2, 3, 3, high=5)
    flat, flat_target = (x.movedim(1, -1).reshape(-1, 4) for x in (outputs, target))
    counted = labels.flatten() < 4

    loss = PIXELS.loss(outputs, labels)
    apart = PIXELS.divergence(outputs, target, 2.0)

    expected = CLASSES.loss(flat[counted], labels.flatten()[counted].long())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(apart, CLASSES.divergence(flat, flat_target, 2.0))


def test_the_error_of_images_is_summed_over_pixels_and_its_mean_is_over_all_images():
    images = random(7, 1, 4, 4, high=256)
    made = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    found = image_error(nn.Identity(), features(made, images))

    expected = (made.half().float() - images / 255).square().sum((1, 2, 3)).mean()
    assert found == pytest.approx(expected.item(), rel=1e-5)
    assert IMAGES.divergence(made, made, 2.0) == 0


def test_codes_of_a_normal_distribution_cost_nothing_and_others_their_divergence():
    class Fixed(nn.Module):
        def __init__(self, mean, deviation):
            super().__init__()
            self.body = lambda images: (mean, deviation)
            self.tail = nn.Module()
            self.tail.forward = lambda codes: torch.zeros(3, 1, 4, 4)

        def get_submodule(self, target):
            return getattr(self, target)

    def cost(mean, deviation):
        black = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
        network = Fixed(torch.full((3, 5), mean), torch.full((3, 5), deviation))
        return variational_loss(network, black.float(), black, torch.Generator()).item()

    prior = torch.distributions.Normal(0.0, 1.0)
    code = torch.distributions.Normal(0.7, 0.4)
    expected = 5 * torch.distributions.kl_divergence(code, prior).item()
    assert cost(0.0, 1.0) == 0
    assert cost(0.7, 0.4) == pytest.approx(0.2 * expected, rel=1e-5)


def test_scenes_are_mirrored_with_their_classes():
    images = random(8, 3, 4, 6, high=256)

    seen, labels = _mirror(images, images[:, 0], torch.Generator().manual_seed(0))

    assert torch.equal(labels, seen[:, 0])
    flipped = [not torch.equal(a, b) for a, b in zip(seen, images, strict=True)]
    assert 0 < sum(flipped) < 8
    for a, b, turned in zip(seen, images, flipped, strict=True):
        assert torch.equal(a, b.flip(-1) if turned else b)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_body_and_the_tail_are_the_network(name, tmp_path):
    source = source_of(
        benchmark(name), "test", 0, tmp_path / "s", CPU, lambda *_: None, FamilyConfig()
    )

    batch = source.network(((examples(name).images.float()) - 120) / 63)

    again = torch.cat([source.tail(values) for values, _ in source.test.in_order()])
    assert batch.shape[-2:] == examples(name).images.shape[-2:]
    assert (batch - again).abs().max() < 1e-2 * batch.abs().max()  # features are half precision


def test_codes_are_trained_on_with_their_noise_and_scored_without(tmp_path):
    source = source_of(
        benchmark("mnist-vae"), "test", 0, tmp_path / "s", CPU, lambda *_: None, FamilyConfig()
    )
    one, other = (torch.cat([next(iter(source.train))[0]]) for _ in range(2))
    stream = iter(source.train)
    passes = [torch.cat([next(stream)[0] for _ in range(3)]) for _ in range(2)]

    assert torch.equal(one, other)
    assert not torch.equal(passes[0].sort(0).values, passes[1].sort(0).values)
    scored = torch.cat([values for values, _ in source.train.in_order()])
    assert torch.equal(scored, source.train.values.float())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_run_scores_and_shows_what_is_no_classifier(name, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_benchmark", lambda config: benchmark(name))
    arms = ("field-on-base", "slimmable", "zeroed")
    config = RunConfig(benchmark=name, arms=arms, widths=(0.5, 1.0), steps=2, out=str(tmp_path))

    result = run(config)
    result.write(tmp_path / "written", RECORD)

    scores = [row.score for row in result.rows]
    assert scores[0] != scores[1]
    assert scores[4] == scores[5]  # zeroed at both widths
    text = (tmp_path / "written" / f"neumeta-{name}.md").read_text()
    assert BENCHMARKS[name].task.score.split(" (")[0][1:] in text
    assert len(result.pictures()) == 6
    assert (tmp_path / "written" / f"neumeta-{name}-pictures.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "written" / f"neumeta-{name}.html").read_text().count("<img") == 6
