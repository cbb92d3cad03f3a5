from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image as Canvas

from ghn.errors import ShapeError
from ghn.pages import Image, Strip, encode_png


def decoded(png: bytes) -> np.ndarray:
    with Canvas.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_bytes_come_back_as_they_were():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)

    assert np.array_equal(decoded(encode_png(pixels)), pixels)
    assert np.array_equal(decoded(encode_png(pixels[:, :, :1])), pixels[:, :, 0])


def test_floats_are_from_black_to_white_and_clipped():
    pixels = torch.tensor([[0.0, 0.5, 1.0], [-1.0, 2.0, float("nan")]])

    assert decoded(encode_png(pixels)).tolist() == [[0, 128, 255], [0, 255, 0]]


@pytest.mark.parametrize("shape", [(4,), (3, 8, 8), (2, 8, 8, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ShapeError, match="channels come last"):
        encode_png(np.zeros(shape))


def test_a_strip_carries_its_images_and_says_what_they_show():
    small, large = encode_png(np.zeros((8, 8))), encode_png(np.zeros((80, 60)))

    html = Strip(
        [Image(small, "a <digit>"), Image(large, "a photo")], "Samples", "Made up."
    ).to_html()

    assert html.count('src="data:image/png;base64,') == 2
    assert html.count('class="pixels"') == 1  # the small one is enlarged without blur
    assert 'alt="a &lt;digit&gt;"' in html
    assert "<h2>Samples</h2>" in html
    assert "Made up." in html
