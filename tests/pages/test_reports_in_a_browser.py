"""Reports of every kind, opened in Chromium."""

from __future__ import annotations

import pytest
from browser import poor_contrasts, problems_of, requests_of, show
from report_examples import EXAMPLES

pytestmark = pytest.mark.timeout(180)  # a browser and several models start first


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    for name, example in EXAMPLES.items():
        (folder / f"{name}.html").write_text(example().to_html(), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_report_renders_with_contrast_and_asks_for_nothing(browser, reports, name, dark, width):
    page = reports / f"{name}.html"
    show(browser, page, width=width, height=2400, dark=dark)

    assert poor_contrasts(browser) == []
    assert problems_of(browser) == []
    assert requests_of(browser) == [page.as_uri()]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


# Pairs of texts in one plot that cover each other by more than a pixel.
COVERED = """
const covered = [];
for (const plot of document.querySelectorAll("figure svg")) {
  const boxes = [...plot.querySelectorAll("text")].map((t) => [t, t.getBoundingClientRect()]);
  boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const tall = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (wide > 1 && tall > 1) covered.push(`${a.textContent} and ${b.textContent}`);
  }));
}
return covered;
"""


@pytest.mark.parametrize("name", EXAMPLES)
def test_words_and_numbers_of_a_plot_do_not_cover_each_other(browser, reports, name):
    show(browser, reports / f"{name}.html")

    assert browser.execute_script(COVERED) == []


def test_a_column_of_numbers_sorts_by_number_both_ways(browser, reports):
    show(browser, reports / "long.html")
    head = browser.find_elements("css selector", "th button")[1]

    def column():
        cells = browser.find_elements("css selector", "td.number")
        return [int(cell.text.removesuffix(" %")) for cell in cells]

    head.click()
    assert column() == sorted(column())
    head.click()
    assert column() == sorted(column(), reverse=True)
    assert head.find_element("xpath", "..").get_attribute("aria-sort") == "descending"


def test_names_sort_as_people_count(browser, reports):
    show(browser, reports / "long.html")

    browser.find_elements("css selector", "th button")[0].click()

    names = [c.text for c in browser.find_elements("css selector", "td:first-child")]
    assert names == [f"model_{i}" for i in range(30)]


def test_a_report_prints_light_and_without_buttons(browser, reports):
    show(browser, reports / "continual.html", dark=True)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})

    back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    shown = browser.execute_script(
        "return getComputedStyle(document.querySelector('header button')).display"
    )

    assert back == "rgb(255, 255, 255)"
    assert shown == "none"


def test_on_a_phone_a_wide_table_scrolls_under_the_names_of_its_rows(browser, reports):
    show(browser, reports / "initialization.html", width=390)

    before, after, cut = browser.execute_script("""
        const table = document.querySelector(".scroll");
        const left = (e) => e.getBoundingClientRect().left;
        const [name, next] = table.querySelectorAll("tbody td");
        const before = [left(name), left(next)];
        table.scrollLeft = 80;
        return [before, [left(name), left(next)], table.scrollWidth - table.clientWidth];
    """)

    assert cut > 80
    assert after == [before[0], before[1] - 80]


def test_a_strip_of_images_scrolls_by_itself_and_shows_every_image(browser, reports):
    show(browser, reports / "control.html", width=390)

    inner, outer = browser.execute_script(
        "const s = document.querySelector('.strip'); return [s.scrollWidth, s.clientWidth]"
    )
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.strip img')].map((i) => i.naturalWidth)"
    )

    assert inner > outer
    assert sizes == [48] * 12
