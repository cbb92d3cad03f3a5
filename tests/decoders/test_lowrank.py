import dataclasses

import pytest
import torch
from decoder_helpers import SPECS, embeddings, emit, small_decoders, spec

from ghn.decoders import LowRankDecoder, LowRankDecoderConfig
from ghn.decoders.codes import CodeBook
from ghn.decoders.nodes import sections_of
from ghn.errors import ConfigError
from ghn.kernels import Layout, LowRank, expand


def factor_decoder(seed=0):
    torch.manual_seed(seed)
    return LowRankDecoder(small_decoders()["factor"])


def reference(decoder, x, parameter):
    """W[:, :, k] = L (sum_s c_s(k) M_s) R^T, one section after the other, without any shortcut."""
    head = decoder.head
    layout = Layout(parameter.shape, parameter.axes)
    count = sections_of(parameter)
    vectors = decoder.sections(x, {"p": parameter})[0]
    book = CodeBook(head.codes)
    rows = book.rows(parameter, layout.rows // count)
    cols = book.cols(parameter, layout.cols)
    mix = head.kernel(layout.kernel_shape)
    blocks = []
    for vector in vectors:
        if layout.cols == 1:
            column = (head.column @ vector + head.column_shift) / head.rank
            blocks.append(torch.einsum("ra,sa,ks->rk", rows, column, mix)[:, None])
            continue
        cores = (head.core @ vector + head.core_shift).unflatten(1, (head.rank, -1)) / head.rank
        blocks.append(torch.einsum("ra,sab,cb,ks->rck", rows, cores, cols, mix))
    return layout.to_storage(torch.cat(blocks))


@pytest.mark.parametrize("name", [n for n, s in SPECS.items() if s.numel])
def test_the_factor_head_equals_its_formula(name):
    decoder = factor_decoder()
    x = embeddings()

    values = expand(emit(decoder, x, {"p": SPECS[name]})["p"])[0]

    torch.testing.assert_close(values, reference(decoder, x, SPECS[name]), rtol=1e-4, atol=1e-5)


def test_only_the_factors_of_a_large_weight_are_made_and_codes_are_shared():
    decoder = factor_decoder()
    large = {i: spec((3000, 2000), "oi", node=i) for i in range(2)}

    recipes = emit(decoder, embeddings(), large)

    assert all(isinstance(r, LowRank) for r in recipes.values())
    assert recipes[0].left.data_ptr() == recipes[1].left.data_ptr()
    assert recipes[0].right.shape == (1, 6, 2000)


def test_rows_beyond_the_table_are_all_different():
    wide = spec((200, 150), "oi")

    values = expand(emit(factor_decoder(), embeddings(), {"w": wide})["w"])[0]

    assert len(values.unique(dim=0)) == 200
    assert len(values.unique(dim=1).T) == 150


def test_sections_of_a_fused_projection_share_channel_codes():
    # Rows j of query and key are L_j M_q R and L_j M_k R: equal cores give equal blocks.
    decoder = factor_decoder()
    torch.nn.init.zeros_(decoder.sections.section.weight)

    values = expand(emit(decoder, embeddings(), {"qkv": SPECS["qkv"]})["qkv"])[0]

    torch.testing.assert_close(values[:8], values[8:16])
    torch.testing.assert_close(values[:8], values[16:])


def test_stacked_copies_have_weights_of_their_own():
    values = expand(emit(factor_decoder(), embeddings(), {"e": SPECS["experts"]})["e"])[0]

    blocks = values.reshape(6, 10, 8)
    assert torch.pdist(blocks.flatten(1)).min() > 0.1


@pytest.mark.parametrize("kernel", [(), (3,), (5, 3), (2, 3, 3)])
def test_the_reshaped_head_crops_and_folds_as_published(kernel):
    torch.manual_seed(0)
    decoder = LowRankDecoder(
        LowRankDecoderConfig(dim=16, hidden=24, rank=4, rows=64, head="reshaped")
    )
    parameter = spec((7, 5, *kernel), "oi" + "k" * len(kernel))
    first = kernel[0] if kernel else 1
    rest = torch.empty(kernel[1:]).numel()

    values = expand(emit(decoder, embeddings(), {"w": parameter})["w"])[0]

    head = decoder.head
    vector = decoder.sections(embeddings(), {"w": parameter})[0, 0]
    flat = head.widen(head.core(vector).reshape(8, 4)).reshape(2 * 64, 4)
    left, right = flat[: 7 * first], flat[64 : 64 + 5 * rest]
    product = (left @ right.T).reshape(7, first, 5, rest).transpose(1, 2)
    torch.testing.assert_close(values, product.reshape(parameter.shape))


def test_an_unknown_head_is_refused():
    with pytest.raises(ConfigError, match="'factor' or 'reshaped'"):
        LowRankDecoderConfig(head="outer")


def test_rows_that_do_not_divide_are_one_section():
    odd = dataclasses.replace(SPECS["qkv"], shape=(25, 8))

    assert sections_of(odd) == 1
    assert sections_of(SPECS["experts"]) == 6
    assert sections_of(SPECS["gates"]) == 4
