"""One HTML file from styles, scripts, a body and data, without a reference to anything outside.

The page's own policy forbids the browser to fetch anything, so that what a page shows never
leaves the machine it is opened on. Styles and scripts are files of this package, put in as they
are.
"""

from __future__ import annotations

import html
import importlib.resources
import json
import math
from collections.abc import Iterable
from typing import Any

__all__ = ["escape", "finite_json", "make_page", "read_asset"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
SHARED = "ghn.pages"


def read_asset(package: str, name: str) -> str:
    """Return a text file that lies in a package's folder.

    Args:
        package: Dotted name of the package.
        name: Path inside it, such as `"assets/theme.css"`.
    """
    return importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")


def escape(text: str) -> str:
    """Return text as HTML shows it, fit for an element's content and for a quoted attribute."""
    return html.escape(text, quote=True)


def make_page(
    title: str,
    body: str,
    *,
    styles: Iterable[str] = (),
    scripts: Iterable[str] = (),
    data: Any = None,
) -> str:
    """Return a complete HTML page.

    Args:
        title: Title of the window; plain text.
        body: HTML of the page.
        styles: Style sheets, after the shared theme.
        scripts: Scripts, after the shared one; they run in this order, after the body is there.
        data: A value that scripts read with `pageData()`: JSON types only; numbers that are not
            finite become null.
    """
    sheets = [read_asset(SHARED, "assets/theme.css"), *styles]
    code = [read_asset(SHARED, "assets/theme.js"), *scripts]
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        # An icon of its own, so that no browser asks a server for one.
        '<link rel="icon" href="data:,">',
        *(f"<style>\n{sheet}</style>" for sheet in sheets),
        "</head>",
        "<body>",
        body,
        f'<script type="application/json" id="data">{_json_in_html(data)}</script>',
        *(f"<script>\n{script}</script>" for script in code),
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _json_in_html(value: Any) -> str:
    """Return JSON in which no text can end the script element that holds it."""
    text = json.dumps(finite_json(value), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def finite_json(value: Any) -> Any:
    """Return JSON types in which numbers that JSON has no word for are null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(item) for item in value]
    return value
