"""The graph page of three models, opened in Chromium."""

from __future__ import annotations

import itertools

import pytest
import torch
from browser import poor_contrasts, problems_of, requests_of, show

from ghn import trace
from ghn.graphs import channel_ties
from ghn.graphs.blocks import fold
from ghn.graphs.page import Histogram, Provenance, graph_page
from ghn.zoo.library import resolve_model

pytestmark = pytest.mark.timeout(180)  # a browser and several models start first

MODELS = ("timm:vit_base_patch16_224", "timm:resnet50", "transformers:gpt2")


@pytest.fixture(scope="module")
def models():
    return {name: resolve_model(name, device="meta") for name in MODELS}


@pytest.fixture(scope="module")
def graphs(models):
    return {name: trace(model) for name, model in models.items()}


@pytest.fixture(scope="module")
def ties(models):
    return {name: channel_ties(models[name]) for name in MODELS[:2]}


@pytest.fixture(scope="module")
def pages(graphs, ties, tmp_path_factory):
    """One page a model; two show ties, and the ViT's a prediction that is made up."""
    folder = tmp_path_factory.mktemp("pages")
    paths = {}
    for name, graph in graphs.items():
        extra = {"provenance": made_up(graph)} if "vit" in name else {}
        paths[name] = folder / f"{name.partition(':')[2]}.html"
        paths[name].write_text(
            graph_page(graph, name, ties=ties.get(name), **extra), encoding="utf-8"
        )
    return paths


def made_up(graph):
    default = Histogram(-0.1, 0.1, 0.0, 0.05, (1, 4, 9, 4, 1))
    now = Histogram(-0.2, 0.2, 0.01, 0.1, (2, 3, 2))
    found = {name: Provenance(decoder="lowrank", default=default, now=now) for name in graph.specs}
    found["head.weight"] = Provenance(reason="unsupported (made up)", default=default)
    return found


def rows(browser):
    return [int(r.get_attribute("data-node")) for r in select(browser, "#graph .row")]


def select(browser, selector):
    return browser.find_elements("css selector", selector)


def keys(browser, *pressed):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).send_keys(*pressed).perform()


def hover(browser, target):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).move_to_element(target).perform()


def panel(browser):
    return browser.find_element("id", "panel").text


@pytest.mark.parametrize("name", MODELS)
def test_the_page_draws_the_folded_graph_and_asks_for_nothing(browser, graphs, pages, name):
    show(browser, pages[name])

    assert sorted(rows(browser)) == fold(graphs[name]).kept
    assert problems_of(browser) == []
    assert requests_of(browser) == [pages[name].resolve().as_uri()]


# The boxes of all labels at their own size, and the labels that leave their card.
LABELS = """
page.view.at.scale = 1;
page.view.apply();
const box = (e) => e.getBoundingClientRect();
const texts = [...document.querySelectorAll("#graph text")];
const isOutside = (text) => {
  const card = text.closest(".row, .closed")?.querySelector("rect");
  return card && (box(text).left < box(card).left || box(text).right > box(card).right);
};
const boxes = texts.map((t) => [t.textContent, box(t).x, box(t).y, box(t).right, box(t).bottom]);
return [boxes, texts.filter(isOutside).map((t) => t.textContent)];
"""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("unfolded", [False, True])
def test_labels_do_not_overlap_and_stay_inside_their_cards(browser, pages, name, unfolded):
    show(browser, pages[name])
    if unfolded:
        keys(browser, "u")

    boxes, outside = browser.execute_script(LABELS)

    assert len(boxes) > 30
    assert outside == []
    boxes.sort(key=lambda b: b[2])
    for a, b in itertools.combinations(boxes, 2):
        if b[2] > a[4]:
            continue  # below it
        apart = a[3] <= b[1] or b[3] <= a[1] or a[4] <= b[2] + 3 or b[4] <= a[2] + 3
        assert apart, f"{a[0]!r} and {b[0]!r} overlap"


def test_a_run_unfolds_and_folds_by_pointer_and_by_key(browser, graphs, pages):
    name = MODELS[0]
    show(browser, pages[name])
    whole = list(range(len(graphs[name].nodes)))

    select(browser, "#graph .run")[0].click()
    assert sorted(rows(browser)) == whole
    labels = [t.get_attribute("textContent") for t in select(browser, "#graph .run text")]
    assert sorted(labels) == sorted(f"{copy} of 12" for copy in range(1, 13))

    keys(browser, "u")
    assert sorted(rows(browser)) == fold(graphs[name]).kept

    browser.execute_script("document.querySelector('#graph .run').focus()")
    keys(browser, "\ue007")  # Enter
    assert sorted(rows(browser)) == whole


def test_a_page_may_begin_unfolded_and_folds_from_there(browser, graphs, tmp_path):
    graph = graphs[MODELS[0]]
    path = tmp_path / "unfolded.html"
    path.write_text(graph_page(graph, "unfolded", unfolded=True), encoding="utf-8")

    show(browser, path)

    assert sorted(rows(browser)) == list(range(len(graph.nodes)))
    keys(browser, "u")
    assert sorted(rows(browser)) == fold(graph).kept


def test_a_block_closes_to_one_box_and_opens_again(browser, graphs, pages):
    show(browser, pages[MODELS[1]])
    before = len(rows(browser))

    select(browser, "[aria-label='layer1: close']")[0].click()

    closed = select(browser, "#graph .closed")
    assert len(closed) == 1
    assert closed[0].text.splitlines()[0].endswith("layer1")
    assert len(rows(browser)) < before

    closed[0].click()
    assert len(rows(browser)) == before


def test_hovering_tells_operator_parameters_roles_shapes_and_counts(browser, graphs, pages):
    name = MODELS[1]
    show(browser, pages[name])
    index = graphs[name].specs["conv1.weight"].node

    hover(browser, select(browser, f"[data-node='{index}']")[0])

    told = panel(browser)
    for words in ("conv", "conv1.weight", "weight", "64", "7", "9,408 elements", "kernel 7×7"):  # noqa: RUF001
        assert words in told
    assert len(select(browser, ".edge.reads")) == 1


def test_search_counts_marks_and_reveals_what_is_folded_away(browser, pages):
    show(browser, pages[MODELS[0]])

    keys(browser, "/", "attn.qkv")
    assert browser.find_element("id", "found").text == "12 found"
    assert len(select(browser, ".row.hit")) == 1

    keys(browser, "\ue007", "\ue007")
    assert browser.find_element("id", "found").text == "2 of 12"
    assert "blocks.1.attn.qkv.weight" in panel(browser)
    assert len(select(browser, ".row.hit")) == 12

    keys(browser, "\ue00c")  # Escape
    assert select(browser, ".row.hit") == []


def test_search_for_nothing_there_says_so(browser, pages):
    show(browser, pages[MODELS[0]])

    keys(browser, "/", "zzz", "\ue007")

    assert browser.find_element("id", "found").text == "0 found"
    assert problems_of(browser) == []


def test_keys_walk_along_edges_and_zoom(browser, graphs, pages):
    show(browser, pages[MODELS[2]])
    browser.find_element("id", "canvas").click()
    where = "return {...page.view.at}"

    keys(browser, "\ue015", "\ue015")  # to the input, and down to what reads it
    assert panel(browser).startswith("embedding")
    keys(browser, "\ue013")
    assert panel(browser).startswith("input")

    before = browser.execute_script(where)
    keys(browser, "+")
    closer = browser.execute_script(where)
    keys(browser, "-")
    back = browser.execute_script(where)
    assert closer["scale"] > before["scale"]
    assert back["scale"] == pytest.approx(before["scale"])
    assert back["x"] == pytest.approx(before["x"])


def test_dragging_moves_the_drawing_and_selects_nothing(browser, pages):
    from selenium.webdriver.common.action_chains import ActionChains

    show(browser, pages[MODELS[1]])
    row = select(browser, "#graph .row")[2]
    before = row.location

    ActionChains(browser).click_and_hold(row).move_by_offset(40, 30).release().perform()

    after = row.location
    assert (after["x"] - before["x"], after["y"] - before["y"]) == (40, 30)
    assert select(browser, ".row.selected") == []


def axis(browser, parameter, number):
    return browser.find_element("css selector", f"[data-axis='{parameter} {number}']")


def lit(browser):
    return {int(row.get_attribute("data-node")) for row in select(browser, ".row.tied")}


def test_an_axis_lights_up_all_that_is_tied_to_it(browser, graphs, pages):
    name = MODELS[0]
    show(browser, pages[name])
    specs = graphs[name].specs
    browser.execute_script(f"page.goTo({specs['blocks.0.mlp.fc1.weight'].node})")

    hover(browser, axis(browser, "blocks.0.mlp.fc1.weight", 0))

    assert lit(browser) == {specs[f"blocks.0.mlp.{n}.weight"].node for n in ("fc1", "fc2")}
    assert "3,072 channels along 3 axes" in panel(browser)
    assert "blocks.0.mlp.fc2.weight axis 1" in panel(browser)
    assert len(select(browser, ".axis.tied")) == 2  # the weight's and the bias's
    hover(browser, browser.find_element("id", "summary"))
    assert lit(browser) == set()
    assert "channels along" not in panel(browser)


def test_an_axis_of_the_residual_stream_lights_up_what_is_folded_and_names_what_is_hidden(
    browser, graphs, ties, pages
):
    name = MODELS[1]
    show(browser, pages[name])
    weight = "layer1.0.conv3.weight"
    browser.execute_script(f"page.goTo({graphs[name].specs[weight].node})")
    (stream,) = ties[name].of(weight, 0)
    nodes = {graphs[name].specs[a.name].node for a in stream.axes if a.name in graphs[name].specs}

    hover(browser, axis(browser, weight, 0))

    assert lit(browser) == {browser.execute_script(f"return page.folding.drawnFor({n})")
                            for n in nodes}  # fmt: skip
    assert len(lit(browser)) < len(nodes)
    assert f"256 channels along {len(stream.axes)} axes" in panel(browser)
    assert "layer1.2.bn3.running_var axis 0" in panel(browser)


def test_an_axis_of_a_fused_projection_has_several_sets_and_the_input_none(browser, graphs, pages):
    name = MODELS[0]
    show(browser, pages[name])
    specs = graphs[name].specs

    browser.execute_script(f"page.goTo({specs['blocks.0.attn.qkv.weight'].node})")
    hover(browser, axis(browser, "blocks.0.attn.qkv.weight", 0))
    told = panel(browser)
    browser.execute_script(f"page.goTo({specs['patch_embed.proj.weight'].node})")
    pixels = axis(browser, "patch_embed.proj.weight", 1)

    assert "12 channels along" in told  # heads
    assert "64 channels along" in told  # places in a head
    assert pixels.tag_name == "span"
    assert problems_of(browser) == []


def test_a_prediction_is_told_by_marks_words_and_histograms(browser, graphs, pages):
    name = MODELS[0]
    show(browser, pages[name])
    head = graphs[name].specs["head.weight"].node

    assert f"{len(graphs[name].specs) - 1} of {len(graphs[name].specs)} parameters" in panel(
        browser
    )
    assert len(select(browser, f"[data-node='{head}'] .mark.some")) == 1
    browser.execute_script("page.goTo(2)")
    assert "predicted by the lowrank decoder" in panel(browser)
    assert len(select(browser, ".histogram .values.default")) == 1
    assert len(select(browser, ".histogram .values.now")) == 1
    browser.execute_script(f"page.goTo({head})")
    assert "kept: unsupported (made up)" in panel(browser)


def test_the_list_sorts_by_number_and_leads_back_to_the_graph(browser, graphs, pages):
    name = MODELS[0]
    show(browser, pages[name])

    keys(browser, "p")
    select(browser, "#list th button")[4].click()
    select(browser, "#list th button")[4].click()

    sizes = [int(c.get_attribute("data-value")) for c in select(browser, "#list td[data-value]")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == len(graphs[name].specs)
    select(browser, "#list td button")[0].click()
    assert select(browser, "#list:not([hidden])") == []
    assert len(select(browser, ".row.selected")) == 1


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast_and_fits_the_screen(browser, graphs, pages, width, dark):
    name = MODELS[0]
    show(browser, pages[name], width=width, height=844, dark=dark)

    assert poor_contrasts(browser) == []
    for step in ("page.goTo(5)", "page.search('norm')", "page.search(''); page.toggleList()"):
        browser.execute_script(step)
        if "norm" not in step:  # what a search dims is meant to recede
            assert poor_contrasts(browser) == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert problems_of(browser) == []


@pytest.mark.parametrize("view", ["canvas", "list"])
def test_on_a_phone_the_panel_lies_below_and_the_graph_has_the_whole_width(browser, pages, view):
    show(browser, pages[MODELS[0]], width=390, height=844)
    if view == "list":
        browser.execute_script("page.toggleList()")

    shown, panel = (browser.find_element("id", name).rect for name in (view, "panel"))

    assert (shown["x"], shown["width"]) == (0, 390)
    assert shown["height"] > 844 / 2
    assert panel["y"] == pytest.approx(shown["y"] + shown["height"], abs=1)


def test_the_theme_switches(browser, pages):
    show(browser, pages[MODELS[0]])
    back = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(back)

    keys(browser, "d")

    assert browser.execute_script(back) != light
    keys(browser, "d")
    assert browser.execute_script(back) == light


def drawn_after(browser, page):
    """Milliseconds from opening a page until it is drawn: the least of three tries."""
    times = []
    for _ in range(3):
        show(browser, page)
        times.append(float(browser.execute_script("return document.documentElement.dataset.ready")))
    return min(times)


def test_a_large_graph_begins_with_closed_blocks_and_can_be_opened(browser, pages, tmp_path):
    with torch.device("meta"):
        graph = trace(resolve_model("timm:nasnetalarge", device="meta"))
    path = tmp_path / "large.html"
    path.write_text(graph_page(graph, "large"), encoding="utf-8")
    assert len(graph.nodes) > 1000

    # Ten times the operators of the ViT, which is drawn in a quarter of a second on an idle core.
    assert drawn_after(browser, path) < 4 * drawn_after(browser, pages[MODELS[0]])

    show(browser, path)

    assert len(select(browser, ".closed")) > 10
    assert len(rows(browser)) < 100
    keys(browser, "u")
    assert browser.execute_script("return page.rows.size") == len(graph.nodes)
