from __future__ import annotations

from matplotlib.figure import Figure

from ghn.pages.plots import COLOURS, Line, draw_lines


def test_lines_that_share_a_colour_are_drawn_in_other_styles():
    lines = [Line(str(i), [1, 2], [[i, i]]) for i in range(len(COLOURS) + 2)]
    axes = Figure().subplots()

    draw_lines(axes, lines)

    drawn = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.lines]
    assert len(set(drawn)) == len(lines)
    assert {style for _, style, _ in drawn[: len(COLOURS)]} == {"-"}
