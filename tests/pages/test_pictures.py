from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import pytest
from browser import show
from PIL import Image

from ghn.pages import picture
from ghn.pages.pictures import INK


def draw(path):
    with picture(path, (2.0, 1.5)) as figure:
        axes = figure.add_subplot()
        axes.plot([1, 2], [3, 4], color="#d9622b")
        axes.set_title("a title")
        axes.set_xlabel("x")


def test_an_svg_has_ink_and_background_for_light_and_for_dark(tmp_path):
    draw(tmp_path / "a.svg")

    text = (tmp_path / "a.svg").read_text()
    root = ET.fromstring(text)
    styled = [e for e in root.iter() if e.get("class") == "back"]
    assert len(styled) == 1  # the background, and only that
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text
    assert INK not in text
    assert "#000000" not in text
    assert "#ffffff" not in re.sub("<style>.*?</style>", "", text, flags=re.DOTALL)
    assert "#d9622b" in text


def test_the_same_picture_gives_the_same_file(tmp_path):
    draw(tmp_path / "a.svg")
    draw(tmp_path / "b.svg")

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_png_is_dark_on_light(tmp_path):
    draw(tmp_path / "a.png")

    with Image.open(tmp_path / "a.png") as image:
        grey = image.convert("L")
    assert grey.size == (220, 165)
    assert grey.getpixel((0, 0)) > 250
    assert grey.getextrema()[0] < 60


def test_what_fails_while_it_is_drawn_leaves_no_file(tmp_path):
    with pytest.raises(KeyError), picture(tmp_path / "a.svg", (2.0, 1.5)):
        raise KeyError

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("scheme", ["normal", "the page's"])
def test_in_a_browser_an_svg_is_light_or_dark_as_its_page_or_else_as_its_reader(
    browser, tmp_path, scheme, dark
):
    draw(tmp_path / "a.svg")
    page = tmp_path / "page.html"
    own = scheme if scheme == "normal" else "dark" if dark else "light"
    page.write_text(f'<body style="color-scheme: {own}; margin: 0"><img src="a.svg"></body>')

    show(browser, page, width=300, height=200, dark=dark == (scheme == "normal"))

    with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as image:
        inside = image.convert("L").crop((1, 1, 140, 110))
    low, high = inside.getextrema()
    back = inside.getpixel((2, 2))
    assert back < 40 if dark else back > 250
    assert high - low > 150
