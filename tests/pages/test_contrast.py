"""The measure of contrast that the tests of pages rely on."""

from __future__ import annotations

import pytest
from browser import poor_contrasts, show

STYLES = {
    "color: #777; background: #fff": "4.48",
    "color: rgb(0 0 0 / 0.4); background: #fff": "2.85",
    "color: #000; background: linear-gradient(#fff, #fff), #00f": "2.44",
}


@pytest.mark.parametrize(("style", "ratio"), STYLES.items())
def test_low_contrast_is_found_and_measured(browser, tmp_path, style, ratio):
    # Well-known ratios: #777 and #999 on white, black on blue. A gradient is not seen through.
    page = tmp_path / "page.html"
    page.write_text(f'<body style="background: white"><p style="{style}">words</p></body>')

    show(browser, page)

    assert poor_contrasts(browser) == [f"{ratio} words"]


def test_a_label_in_a_drawing_is_measured_against_the_shape_below_it(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<svg width="200" height="60"><rect width="200" height="60" fill="#333"/>'
        '<text x="9" y="30" fill="#111">dark</text>'
        '<text x="99" y="30" fill="#fff">light</text></svg>'
    )

    show(browser, page)

    assert [text.split()[1] for text in poor_contrasts(browser)] == ["dark"]
