"""A real browser, for the tests of pages and for the pictures of the docs.

    python tests/browser.py page.html picture.png --width 390 --dark --do "page.goTo(3)"

Chromium and its driver are the system's, driven by selenium: no browser is downloaded, and the
tests need no second language. Nothing that a page asks for leaves the machine; `requests_of`
tells what it asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


def missing() -> str:
    """Say what keeps the tests from opening a browser; empty if nothing does."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "needs selenium: pip install selenium"
    if not any(map(shutil.which, CHROMIUM)) or not shutil.which("chromedriver"):
        return "needs Chromium and its driver: apt-get install chromium chromium-driver"
    return ""


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Start Chromium with a profile of its own; gives selenium's driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(prefix="ghn-browser-") as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = next(filter(None, map(shutil.which, CHROMIUM)))
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.get("about:blank")
            requests_of(driver)  # what the browser's own first page asked for
            yield driver
        finally:
            driver.quit()


def show(driver: Any, page: Path, width: int = 1280, height: int = 800, dark: bool = False) -> None:
    """Open a page in a window of this size, in light or dark; waits until its scripts have run."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
    requests_of(driver), problems_of(driver)  # those of the page before
    driver.get(page.resolve().as_uri())


def requests_of(driver: Any) -> list[str]:
    """Return the addresses that were asked for since the last call, data in the page left out."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in urls if not url.startswith("data:")]


def problems_of(driver: Any) -> list[str]:
    """Return errors and warnings of the page's console since the last call."""
    return [entry["message"] for entry in driver.get_log("browser")]


def poor_contrasts(driver: Any, least: float = 4.5) -> list[str]:
    """Return the texts in sight whose contrast to what is behind them is below WCAG's AA."""
    return driver.execute_script(CONTRAST + f"return poorContrasts({least});")


# Contrast by WCAG 2.2: relative luminance of the text's colour and of the background, which is
# found by looking through what is painted below the text, from the text down, and mixed by alpha.
CONTRAST = """
const paper = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
const ink = paper.getContext("2d", {willReadFrequently: true});
function rgba(color) {
  ink.clearRect(0, 0, 1, 1); ink.fillStyle = color; ink.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = ink.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
function luminance([r, g, b]) {
  const line = [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * line[0] + 0.7152 * line[1] + 0.0722 * line[2];
}
const over = ([r, g, b, a], below) =>
  [r, g, b].map((c, i) => a * c + (1 - a) * below[i]).concat(1);
function behind(x, y, own) {
  const layers = document.elementsFromPoint(x, y).filter((e) => e !== own && !own.contains(e));
  const colours = [];
  for (const layer of layers) {
    const style = getComputedStyle(layer);
    const isShape = layer instanceof SVGGeometryElement && style.fill !== "none";
    const colour = rgba(isShape ? style.fill : style.backgroundColor);
    colour[3] *= style.opacity * (isShape ? style.fillOpacity : 1);
    if (colour[3] > 0) colours.push(colour);
    if (colour[3] === 1) break;
  }
  return colours.reverse().reduce((below, colour) => over(colour, below), [255, 255, 255, 1]);
}
const HIDDEN = "script, style, title, option, dialog:not([open])"
  + ", details:not([open]) > :not(summary)";
function poorContrasts(least) {
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const style = document.createElement("style");
  style.textContent = "*, *::before, *::after { pointer-events: auto !important }";
  document.head.append(style);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const own = walker.currentNode.parentElement;
    if (!text || own.closest(HIDDEN)) continue;
    const range = document.createRange();
    range.selectNodeContents(walker.currentNode);
    const box = range.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    if (!box.width || x < 0 || y < 0 || x > innerWidth || y > innerHeight) continue;
    const top = document.elementFromPoint(x, y);
    if (!top || !(own === top || own.contains(top) || top.contains(own))) continue;
    const computed = getComputedStyle(own);
    const back = behind(x, y, own.namespaceURI.includes("svg") ? own : document.createElement("i"));
    const front = over(rgba(own instanceof SVGElement ? computed.fill : computed.color), back);
    const [high, low] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < least) poor.push(`${ratio.toFixed(2)} ${text.slice(0, 40)}`);
  }
  style.remove();
  return [...new Set(poor)];
}
"""


def save_small(driver: Any, picture: Path) -> None:
    """Write what is in sight as a PNG of at most 256 colours, packed as tightly as it can be."""
    from PIL import Image

    with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(picture, optimize=True)


def main() -> None:
    """Write a picture of a page."""
    parser = argparse.ArgumentParser(description="Write a picture of a page.")
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--whole", action="store_true", help="as tall as the page")
    parser.add_argument("--do", default="", help="JavaScript to run before the picture is taken")
    given = parser.parse_args()
    with open_browser() as driver:
        show(driver, given.page, given.width, given.height, given.dark)
        ready = driver.execute_script("return document.documentElement.dataset.ready")
        if ready:  # the graph page's own clock, from the start of loading
            sys.stdout.write(f"drawn {ready} ms after opening\n")
        if given.do:
            driver.execute_async_script(f"{given.do}; requestAnimationFrame(arguments[0])")
        if given.whole:
            tall = driver.execute_script("return document.documentElement.scrollHeight")
            show(driver, given.page, given.width, tall, given.dark)
        save_small(driver, given.picture)


if __name__ == "__main__":
    main()
