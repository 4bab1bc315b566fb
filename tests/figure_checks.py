"""Checks that every chart and sheet must pass, with awkward names and texts to draw."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mcrlib import plots

COLUMN = 8.5  # cm
FULL = 17.0  # cm
SIX = ["mcr", "abm", "dual", "clip", "tfidf", "a_method_of_somebody_else_with_a_very_long_name"]
REPORT = (
    "The heart is mildly enlarged. There is a small left pleural effusion with adjacent "
    "atelectasis. No pneumothorax is seen. Degenerative changes of the thoracic spine. A right "
    "internal jugular catheter ends in the superior vena cava. The cardiomediastinal silhouette "
    "is otherwise unremarkable and the pulmonary vasculature is within normal limits."
)
STRANGE = (
    "$x^2$ <script>alert('1')</script> \\input{/etc/passwd} =cmd|'/C calc'!A0 $ & \"quoted\" "
    "\x00NUL \x1b[31mred\x1b[0m \u202eback \ud800 café 😀 " + "W" * 300
)
PLAIN = (  # what a figure shows of STRANGE
    "$x^2$ <script>alert('1')</script> \\input{/etc/passwd} =cmd|'/C calc'!A0 $ & \"quoted\" "
    "NUL [31mred[0m back  café 😀 " + "W" * 300
)


class Drawing(NamedTuple):
    """A figure to check: the width it must have, in cm, and a function that draws it."""

    width: float
    draw: Callable[[], Figure]


def assert_reproducible(drawing: Drawing, folder: Path) -> None:
    """Drawing twice gives the same bytes; files carry no date and embed TrueType fonts."""
    png, pdf = saved_bytes(drawing.draw(), folder / "first")
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "lines.linewidth": 9}):
        figure = drawing.draw()
        figure.savefig(io.BytesIO(), format="png", dpi=83, bbox_inches="tight")  # as in a notebook
        again = saved_bytes(figure, folder / "again")
    assert again == [png, pdf]
    width_in_pixels = int.from_bytes(png[16:20], "big")
    assert width_in_pixels == pytest.approx(drawing.width / 2.54 * 300, abs=1)
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"/Type1" not in pdf
    for trace in (b"matplotlib", b"Date", b"Software", b"Producer"):
        assert trace not in png
        assert trace not in pdf


def saved_bytes(figure: Figure, stem: Path) -> list[bytes]:
    """The PNG and the PDF that `plots.save` writes."""
    return [path.read_bytes() for path in plots.save(figure, stem)]


@plots.styled
def assert_nothing_overlaps(drawing: Drawing) -> None:
    """No two boxes overlap, none leaves the page, and drawing does not change the global style."""
    style_before = dict(matplotlib.rcParams)
    figure = drawing.draw()
    assert dict(matplotlib.rcParams) == style_before
    figure.set_dpi(4 * 72)
    figure.draw_without_rendering()
    boxes = _boxes(figure)
    page = figure.bbox.padded(4)
    for box in boxes:
        assert page.x0 < box.x0
        assert page.y0 < box.y0
        assert box.x1 < page.x1
        assert box.y1 < page.y1
    _assert_apart(boxes)
    for legend in figure.legends:
        _assert_apart([text.get_window_extent() for text in legend.get_texts()])


def _boxes(figure: Figure) -> list:
    """The boxes of a chart's legends and panels, or of a sheet's texts and pictures."""
    boxes = [legend.get_window_extent() for legend in figure.legends]
    for axes in figure.axes:
        if axes.axison:
            boxes.append(axes.get_tightbbox())
        else:  # a sheet
            boxes += [text.get_window_extent() for text in axes.texts if text.get_text().strip()]
            boxes += [image.get_window_extent() for image in axes.images]
    return boxes


def _assert_apart(boxes: list) -> None:
    for place, box in enumerate(boxes):
        for other in boxes[:place]:
            assert _overlap(box, other) < 0.7


def _overlap(a, b) -> float:
    """How far two boxes overlap, in points; boxes are given at 4 * 72 dots an inch."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return min(width, height) / 4


def assert_text_is_literal(figure: Figure) -> None:
    """Dollar signs in texts are drawn, not read as formulas."""
    for text in shown_texts(figure):
        assert not text.get_parse_math()
        assert not text.get_usetex()


def shown_texts(figure: Figure) -> list[Text]:
    return [text for text in figure.findobj(Text) if text.get_text()]
