"""Pages of their own: HTML files that need nothing from outside, with one look.

`make_page` puts a page together; `Report` is the template of all reports, `line_plot` and its
siblings draw what goes into them, `Strip` shows images. `picture` writes a plot to a file.
"""

from ghn.pages.images import Image, Strip, encode_png
from ghn.pages.page import make_page, read_asset
from ghn.pages.pictures import picture
from ghn.pages.plots import Line, bar_plot, line_key, line_plot, matrix_plot
from ghn.pages.report import (
    Cell,
    Details,
    Figure,
    Figures,
    Points,
    Report,
    Table,
    Text,
    facts_of,
)

__all__ = [
    "Cell",
    "Details",
    "Figure",
    "Figures",
    "Image",
    "Line",
    "Points",
    "Report",
    "Strip",
    "Table",
    "Text",
    "bar_plot",
    "encode_png",
    "facts_of",
    "line_key",
    "line_plot",
    "make_page",
    "matrix_plot",
    "picture",
    "read_asset",
]
