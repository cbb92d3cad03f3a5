import dataclasses

import pytest
import torch
from decoder_helpers import SPECS, embeddings, emit, small_decoders, spec

from ghn.decoders import TiledDecoder, TiledDecoderConfig
from ghn.errors import ConfigError
from ghn.kernels import expand


def decoder(seed=0):
    torch.manual_seed(seed)
    return TiledDecoder(small_decoders()["tiled"])


def emitted(parameter):
    return expand(emit(decoder(), embeddings(), {"p": parameter})["p"])[0]


def test_wide_weights_repeat_the_block():
    values = emitted(spec((20, 19), "oi"))

    torch.testing.assert_close(values[8:16], values[:8])
    torch.testing.assert_close(values[:, 8:16], values[:, :8])


def test_small_kernels_are_the_centre_of_large_ones():
    large = emitted(spec((4, 3, 5, 5), "oikk"))

    torch.testing.assert_close(emitted(spec((4, 3, 3, 3), "oikk")), large[..., 1:4, 1:4])
    torch.testing.assert_close(emitted(spec((4, 3), "oi")), large[..., 2, 2])


def test_kernels_beyond_the_map_are_stretched():
    values = emitted(spec((4, 3, 9, 9), "oikk"))

    whole = emitted(spec((4, 3, 5, 5), "oikk"))
    # The corners and the centre of a stretched map are those of the map.
    torch.testing.assert_close(values[..., ::8, ::8], whole[..., ::4, ::4])
    torch.testing.assert_close(values[..., 4, 4], whole[..., 2, 2])


def test_positions_are_a_stretched_map_with_the_tokens_apart():
    small = emitted(spec((1, 26, 6), "1to", "position"))[0]
    large = emitted(spec((1, 82, 6), "1to", "position"))[0]

    corners = (1, 5, 21, 25), (1, 9, 73, 81)
    torch.testing.assert_close(small[list(corners[0])], large[list(corners[1])])
    assert len(large.unique(dim=0)) == 82


def test_classes_differ_although_blocks_repeat():
    values = emitted(dataclasses.replace(SPECS["head"], shape=(100, 16)))

    assert len(values.unique(dim=0)) == 100
    torch.testing.assert_close(values[:, 8:], values[:, :8])


def test_an_even_map_is_refused():
    with pytest.raises(ConfigError, match="odd"):
        TiledDecoderConfig(map=6)
