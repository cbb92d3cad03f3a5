import pytest
import torch
from training_helpers import SMALL, state, step

from ghn.decoders import TiledDecoderConfig
from ghn.engine import GHNConfig
from ghn.errors import ConfigError
from ghn.training import Trainer


def test_a_run_may_begin_with_the_weights_of_a_checkpoint(config, tmp_path):
    first = Trainer(config)
    first.averaged().save_pretrained(tmp_path / "start")

    again = config.replace(start=str(tmp_path / "start"), out=str(tmp_path / "second"), seed=1)
    second = Trainer(again)

    for name, value in first.ghn.named_parameters():
        assert torch.equal(second.ghn.get_parameter(name), value)
    step(second)
    assert second.skipped == 0
    assert any(not torch.equal(value, state(second)[name]) for name, value in state(first).items())


def test_a_run_with_settings_of_its_own_takes_over_what_fits(config, tmp_path):
    first = Trainer(config)
    first.averaged().save_pretrained(tmp_path / "start")
    smaller = SMALL.replace(spread=2.0, decoder=SMALL.decoder.replace(rows=24, rank=16))

    second = Trainer(
        config.replace(start=str(tmp_path / "start"), ghn=smaller, out=str(tmp_path / "second"))
    )

    theirs, ours = state(first), state(second)
    rows = ours["decoder.head.codes.out"]
    assert second.ghn.config.spread == 2.0
    assert rows.shape[0] == 24
    width = theirs["decoder.head.codes.out"].shape[1]
    assert torch.equal(rows[:, :width], theirs["decoder.head.codes.out"][:24])
    assert torch.equal(
        ours["encoder.input.operator.weight"], theirs["encoder.input.operator.weight"]
    )
    step(second)
    assert second.skipped == 0


def test_settings_that_are_given_count_even_if_they_are_the_defaults(config, tmp_path):
    other = SMALL.replace(decoder=TiledDecoderConfig(dim=16))
    Trainer(config.replace(ghn=other)).averaged().save_pretrained(tmp_path / "start")
    start = config.replace(start=str(tmp_path / "start"), out=str(tmp_path / "second"))

    with pytest.raises(ConfigError, match="leave ghn out"):
        Trainer(start.replace(ghn=GHNConfig()))
    assert Trainer(start.replace(ghn=None)).ghn.config.decoder == other.decoder


def test_a_start_of_another_kind_or_for_other_inputs_is_refused(config, tmp_path):
    Trainer(config).averaged().save_pretrained(tmp_path / "start")
    start = str(tmp_path / "start")

    with pytest.raises(ConfigError, match="leave ghn out"):
        Trainer(config.replace(start=start, ghn=SMALL.replace(decoder=TiledDecoderConfig(dim=16))))
    (tmp_path / "a.txt").write_text("abc " * 2000)
    text = {"families": ("gpts",), "shares": (1.0,), "data": str(tmp_path / "a.txt"), "context": 16}
    with pytest.raises(ConfigError, match="for vision"):
        Trainer(config.replace(start=start, ghn=GHNConfig(), **text))
