import json
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from ghn.decoders import LowRankDecoderConfig
from ghn.encoders import GraphormerConfig
from ghn.engine import GHN, GHNConfig
from ghn.engine.support import Support
from ghn.errors import CheckpointError, ConfigError
from ghn.training import TrainConfig, evaluate, export, train
from ghn.training.evaluate import held_out_split


@pytest.fixture
def run(tmp_path):
    small = GHNConfig(
        encoder=GraphormerConfig(dim=16, layers=1, heads=2),
        decoder=LowRankDecoderConfig(dim=16, hidden=16, rank=8, kernel_basis=3, rows=64),
    )
    return TrainConfig(
        out=str(tmp_path / "run"), data="digits", families=("vits",), shares=(1.0,), pool=3,
        steps=2, meta_batch=1, batch=4, eval_every=0, checkpoint_seconds=1e9, ghn=small,
    )  # fmt: skip


def test_an_exported_run_loads_with_its_averaged_weights_its_support_and_a_card(run, tmp_path):
    trainer = train(run)

    found = export(run.out, tmp_path / "mine", command="ghn train --steps 2", networks=1, inputs=20)

    loaded = GHN.from_pretrained(tmp_path / "mine")
    for name, value in loaded.named_parameters():
        assert torch.equal(value, trainer.average[name].half().float()), name
    assert loaded.config.support.classes == (10,)
    assert loaded.config.support.image_sides == (32,)
    assert set(found) == {"test", "wide", "deep"}
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "1 process on" in card
    settings = json.loads((tmp_path / "mine" / "training.json").read_text())
    assert TrainConfig.from_dict(settings) == trainer.config
    assert "`ghn train --steps 2`" in card
    assert "2 steps of 1 networks" in card
    assert "20 inputs of `digits/val`" in card
    assert f"{100 * found['test'].by_family()['all']:.1f} %" in card


def test_a_card_gives_shares_of_all_networks_and_needs_no_tracker(run, tmp_path, monkeypatch):
    train(run.replace(families=("vits", "convnets"), shares=(3.0, 1.0), tracker="tensorboard"))
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)

    export(run.out, tmp_path / "mine", command="", networks=0)

    assert "vits (75%), convnets (25%)" in (tmp_path / "mine" / "README.md").read_text()


def test_a_card_counts_no_image_and_no_network_twice(run, tmp_path):
    train(run)

    found = export(run.out, tmp_path / "mine", command="", networks=2)

    assert found["test"].inputs == 287
    assert "on 287 inputs of `digits/val`" in (tmp_path / "mine" / "README.md").read_text()
    few = evaluate(
        GHN(run.ghn), run.replace(families=("vits-1k",), eval_networks=3), "test", inputs=2
    )
    assert len({s.parameters for s in few.scores}) == 3


def test_a_vocabulary_that_was_learned_goes_with_the_checkpoint(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine.txt").write_text("to be or not to be, that is the question. " * 200)
    config = run.replace(data=str(tmp_path / "mine.txt"), families=("gpts",), vocabulary=300)
    config = config.replace(pool=1, steps=1, context=16)
    train(config)

    export(config.out, tmp_path / "mine", command="", networks=0)

    kept = Tokenizer.from_file(str(tmp_path / "mine" / "tokenizer.json"))
    assert kept.get_vocab_size() <= 300
    assert len(kept.encode("the question").ids) < len("the question")
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "language models of 300 tokens in texts of 16" in card


def test_without_networks_to_evaluate_a_run_ends_with_a_checkpoint_and_a_card_without_scores(run):
    config = run.replace(eval_networks=0, eval_every=1)
    records = []
    train(config, records.append)

    found = export(config.out, f"{config.out}/mine", command="ghn train", networks=0)

    assert [record.held_out for record in records] == [None]
    assert found == {}
    assert GHN.from_pretrained(f"{config.out}/mine").config.support.classes == (10,)
    assert "It was not evaluated." in Path(config.out, "mine", "README.md").read_text()


def test_the_support_is_what_the_steps_took_and_what_the_start_knew(run, tmp_path):
    first = run.replace(families=("vits", "convnets"), shares=(1.0, 9.0), pool=40, steps=1)
    trainer = train(first.replace(eval_networks=0))

    export(first.out, tmp_path / "first", command="", networks=0)
    second = run.replace(start=str(tmp_path / "first"), ghn=None, out=str(tmp_path / "2"))
    train(second.replace(eval_networks=0))
    export(second.out, tmp_path / "second", command="", networks=0)

    [drawn] = trainer.drawn()
    support = GHN.from_pretrained(tmp_path / "first").config.support
    known = Support.from_graphs([trainer.pool[drawn].graph])
    assert support == known.replace(image_sides=(32,))
    later = GHN.from_pretrained(tmp_path / "second").config.support
    assert set(support.uses) < set(later.uses)
    card = (tmp_path / "first" / "README.md").read_text()
    assert "1 different ones" in card
    settings = TrainConfig.from_dict(json.loads((tmp_path / "second/training.json").read_text()))
    assert settings.ghn == run.ghn  # the start's, not the default that was asked for


def test_an_export_that_is_interrupted_leaves_what_was_there(run, tmp_path, monkeypatch):
    train(run)
    export(run.out, tmp_path / "mine", command="the first", networks=0)
    before = {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()}
    train(run.replace(steps=3))

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["ghn.training.export"], "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        export(run.out, tmp_path / "mine", command="the second", networks=1)

    assert {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()} == before


def test_numbers_that_make_no_card_are_refused(run, tmp_path):
    for wrong in ({"networks": -1}, {"inputs": 0}):
        with pytest.raises(ConfigError, match="at least"):
            export(run.out, tmp_path / "out", command="", **wrong)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="holds no run"):
        export(tmp_path, tmp_path / "out", command="")


@pytest.mark.parametrize("text", ["[1]", '{"library": "ghn"}', "{"])
def test_a_folder_of_something_else_is_told_in_words(tmp_path, text):
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(CheckpointError, match="damaged, or no settings of a run"):
        export(tmp_path, tmp_path / "out", command="")


@pytest.mark.parametrize(("split", "held_out"), [("fit", "val"), ("train", "test")])
def test_images_that_were_trained_on_are_never_evaluated_on(run, split, held_out):
    config = run.replace(split=split, eval_networks=1)

    found = evaluate(GHN(run.ghn), config, inputs=10)

    assert found.data == f"digits/{held_out}"
    assert held_out_split(config) == held_out


def test_the_card_of_a_language_model_says_what_frequencies_alone_would_cost(run, tmp_path):
    for part in ("train", "valid"):
        (tmp_path / f"{part}.txt").write_bytes(b"ab" * 600)
    config = run.replace(data=str(tmp_path), families=("gpts",), pool=1, steps=1, context=16)
    train(config)

    export(config.out, tmp_path / "mine", command="ghn train", networks=0)

    card = (tmp_path / "mine" / "README.md").read_text()
    # Each of two bytes occurs 600 times, every other one counts once: log2(1456 / 601).
    assert "costs 1.28 bits per byte by the frequencies of tokens" in card
