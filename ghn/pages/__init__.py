"""Pages of their own: HTML files that need nothing from outside, with one look.

`make_page` puts a page together; `Report` is the template of all reports, `line_plot` and its
siblings draw what goes into them.
"""

from ghn.pages.page import make_page, read_asset
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
    "Line",
    "Points",
    "Report",
    "Table",
    "Text",
    "bar_plot",
    "facts_of",
    "line_key",
    "line_plot",
    "make_page",
    "matrix_plot",
    "read_asset",
]
