"""Sheets: cells of a title, a picture and highlighted report text, as a figure or as HTML.

Figure 5 (`top3`, `top3_html`) and the first pairs of a data set (`examples`).
"""

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from mcrlib.plots import FULL, POINTS_PER_INCH, one_line, styled, text_width

# All lengths are in points.
PAGE_WIDTH = POINTS_PER_INCH * FULL
MARGIN = 4  # left and right of the page
GAP = 10  # between cells
COLUMNS = 4  # cells a row: a query and its three hits
CELL_WIDTH = (PAGE_WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
TEXT_SIZE = 6.5
LINE_HEIGHT = 1.3 * TEXT_SIZE
TITLE_HEIGHT = 11


# In HTML, a picture that is clicked, or reached by the Tab key, grows until another one is.
ENLARGE = """<style>
.mcr-picture { cursor: zoom-in; max-width: none; }
.mcr-picture:focus { width: 480px; cursor: zoom-out; }
</style>"""


class Mark(NamedTuple):
    """How one kind of highlight looks and what it means to the reader.

    Filled is asserted, framed is denied; slant and line tell the kinds apart without colour.
    """

    background: str  # a colour
    meaning: str = ""  # a sentence
    frame: str = "none"  # a colour
    slant: str = "normal"
    line: str = "none"  # a colour, of a line under the text


# By kind of highlight. The kind None is plain text.
MARKS = {
    "own": Mark("#FFE58A", "The query asserts this finding."),
    "shared": Mark("#B4E2AC", "The hit asserts what the query asserts."),
    "differs": Mark(
        "#C5DDF5",
        "The hit asserts the same finding of another side, zone, size or degree.",
        line="#1F4E8C",
    ),
    "other": Mark(
        "#F8C3DA",
        "The hit asserts a finding that the query denies or does not mention.",
        slant="italic",
    ),
    "denied": Mark("#FFFFFF", "The query denies this finding, and so does the hit.", "#8C8C8C"),
    "against": Mark(
        "#FDEFF5",
        "The hit denies a finding that the query asserts.",
        frame="#B0125B",
        slant="italic",
    ),
    None: Mark("none"),
}


# From a query's report and a hit's report to what to mark in the hit's: tuples (start, end, kind of
# MARKS). `findings.highlights` is one.
Highlighter = Callable[[str, str], Iterable[tuple[int, int, str]]]


class Highlight(NamedTuple):
    """Characters `start` to `end` (exclusive) of a report, and their kind of MARKS."""

    start: int
    end: int
    kind: str | None


class Segment(NamedTuple):
    """A stretch of text of one kind of MARKS."""

    text: str
    kind: str | None


class Cell(NamedTuple):
    """A title over a picture, if there is one, over text."""

    title: str
    segments: list[Segment]
    picture: np.ndarray | None = None  # uint8 [S, S]
    alternative: str = "chest radiograph"  # the picture in words


class Row(NamedTuple):
    """Cells beside each other: one in the first column, the others to its right."""

    first: Cell | None  # None: the first cell of the row above reaches down
    others: list[Cell]


@styled
def top3(
    queries: Sequence[Mapping],
    pictures: Mapping[str, np.ndarray],
    highlights: Highlighter,
    words: int = 40,
) -> Figure:
    """Top-3 retrievals of each query, one row a variant, FULL wide (Figure 5).

    Each of `queries` has `direction`, `pair_id`, `report` and `hits`: by variant, a list of
    `pair_id`, `rank`, `score` (cosine), `report` and `positive`. `pictures` holds uint8 [S, S] by
    pair id: the query's or its hits', and also a query report's own if it has one.
    `highlights(query_report, hit_report)`, such as `findings.highlights`, returns what to mark in
    the hit's report: tuples (start, end, kind of MARKS). Reports are cut after `words` words, under
    a hit's picture after a third of them. Raises ValueError if a picture is missing or a highlight
    does not fit its report.
    """
    rows = _retrieval_rows(queries, pictures, highlights, words)
    return _draw_sheet(rows, _legend(words))


def top3_html(
    queries: Sequence[Mapping],
    pictures: Mapping[str, np.ndarray],
    highlights: Highlighter,
    words: int = 80,
) -> str:
    """What `top3` draws, as one piece of HTML: pictures are embedded, all text is escaped.

    A picture grows when it is clicked.
    """
    # Zero rows means: down to the end of the table body, which holds all variants of a query.
    query_tag = '<td style="text-align:left;vertical-align:top" rowspan=0>'
    hit_tag = '<td style="text-align:left;vertical-align:top" rowspan=1>'
    table = ""
    for row in _retrieval_rows(queries, pictures, highlights, words):
        if row.first is None:
            table += "<tr>"
        else:
            table += f"<tbody><tr>{query_tag}{_cell_html(row.first)}"
        for cell in row.others:
            table += f"{hit_tag}{_cell_html(cell)}"
    legend = _cell_html(Cell(title="", segments=_legend(words)))
    return f'{ENLARGE}<table style="background:white;color:black">{table}</table>{legend}'


def card(
    title: str,
    report: str,
    spans: Iterable[tuple[int, int, str]] = (),
    picture: np.ndarray | None = None,
    alternative: str = "chest radiograph",
    words: int = 80,
) -> str:
    """One cell of `top3_html` alone: a title, a picture with `alternative` text, and the report.

    `spans` are what to mark in the report: tuples (start, end, kind of MARKS). All text is escaped.
    Raises ValueError for a span that does not fit the report.
    """
    segments = _segments(report, _named(spans), words)
    return _cell_html(Cell(title, segments, picture, alternative))


def legend_html() -> str:
    """What the colours of marked text mean."""
    return _cell_html(Cell(title="", segments=_meanings()))


@styled
def examples(images: Sequence[np.ndarray], reports: Sequence[str], n: int = 8) -> Figure:
    """The first n pairs, four a row, FULL wide: pictures (uint8 [S, S]) and how reports begin."""
    cells = []
    for place, report in enumerate(reports[:n]):
        segments = _segments(report, highlights=[], words=18)
        cells.append(Cell(title=str(place + 1), segments=segments, picture=images[place]))
    rows = []
    for start in range(0, len(cells), COLUMNS):
        first = cells[start]
        others = cells[start + 1 : start + COLUMNS]
        rows.append(Row(first, others))
    return _draw_sheet(rows, note=[])


# What a sheet of retrievals says


def _retrieval_rows(
    queries: Sequence[Mapping],
    pictures: Mapping[str, np.ndarray],
    highlights: Highlighter,
    words: int,
) -> list[Row]:
    """One row a query and variant: the query's cell, for its first variant only, and the hits'."""
    rows = []
    for query in queries:
        _check_pictures(query, pictures)
        shows_pictures = query["direction"] != "image_to_report"
        hit_words = _words_under_picture(words) if shows_pictures else words
        first = _query_cell(query, pictures, highlights, words)
        for variant, hits in query["hits"].items():
            others = []
            for hit in hits:
                title = _hit_title(variant, hit)
                marked = _named(highlights(query["report"], hit["report"]))
                segments = _segments(hit["report"], marked, hit_words)
                picture = pictures[hit["pair_id"]] if shows_pictures else None
                others.append(Cell(title, segments, picture))
            rows.append(Row(first, others))
            first = None
    return rows


def _check_pictures(query: Mapping, pictures: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if a picture is missing: the query's, or those of its hits."""
    needed = set()
    if query["direction"] == "image_to_report":
        needed.add(query["pair_id"])
    else:
        for hits in query["hits"].values():
            needed.update(hit["pair_id"] for hit in hits)
    missing = needed - set(pictures)
    if missing:
        raise ValueError(f"There is no picture of {sorted(missing)}: give all that are shown.")


def _query_cell(
    query: Mapping,
    pictures: Mapping[str, np.ndarray],
    highlights: Highlighter,
    words: int,
) -> Cell:
    """The query's picture and report, also if only one of the two was the query."""
    report = query["report"]
    modality = "image" if query["direction"] == "image_to_report" else "report"
    pair_id = one_line(query["pair_id"], 16)
    title = f"Query {modality}  {pair_id}".rstrip()
    # Compared with itself, a report shares or denies all of its findings.
    own = []
    for highlight in _named(highlights(report, report)):
        kind = "denied" if highlight.kind == "denied" else "own"
        own.append(highlight._replace(kind=kind))
    segments = _segments(report, own, words)
    return Cell(title, segments, pictures.get(query["pair_id"]))


def _hit_title(variant: str, hit: Mapping) -> str:
    name = one_line(variant, 12)
    title = f"{name}  #{hit['rank']}  {hit['score']:.2f}"
    if hit["positive"]:
        title += "  ✓"
    return title


def _words_under_picture(words: int) -> int:
    """A third, since a hit's picture is what was retrieved and its report only explains it."""
    return words // 3


def _meanings() -> list[Segment]:
    """What each mark means, in its own colour."""
    segments = []
    for kind, mark in MARKS.items():
        if mark.meaning:
            segments.append(Segment(mark.meaning, kind))
            segments.append(Segment("   ", None))
    return segments


def _legend(words: int) -> list[Segment]:
    """What the marks and symbols mean."""
    segments = _meanings()
    fewer = _words_under_picture(words)
    symbols = (
        "The numbers are a hit's rank (#) and cosine; ✓ is the true partner. Reports are cut (…) "
        f"after {words} words, under a hit's picture after {fewer}."
    )
    segments.append(Segment(symbols, None))
    return segments


# From a report and its highlights to segments


def _named(spans: Iterable[tuple]) -> list[Highlight]:
    """Highlights of plain tuples (start, end, kind)."""
    return [Highlight(start, end, kind) for start, end, kind in spans]


def _segments(text: str, highlights: Sequence[Highlight], words: int) -> list[Segment]:
    """The text on one line, split by kind of highlight and cut after `words` words.

    An ellipsis ends a cut text. A highlight is never cut in two: the text then ends after it.
    Raises ValueError for a highlight outside the text or of an unknown kind.
    """
    kinds = _kinds(text, highlights)
    end = _end_of_words(text, words)
    while end < len(text) and kinds[end]:
        end += 1
    is_cut = bool(text[end:].strip())
    if is_cut:
        # No punctuation before the ellipsis.
        while end and text[end - 1] in ".,;: " and not kinds[end - 1]:
            end -= 1
    shown_text = text[:end]
    shown_kinds = kinds[:end]
    if is_cut:
        shown_text += "…"
        shown_kinds.append(None)

    segments = []
    start = 0
    for kind, equal_kinds in groupby(shown_kinds):
        stop = start + len(list(equal_kinds))
        segments.append(Segment(one_line(shown_text[start:stop]), kind))
        start = stop
    return segments


def _kinds(text: str, highlights: Sequence[Highlight]) -> list[str | None]:
    """The kind of each character. If highlights overlap, the last one counts."""
    kinds = [None] * len(text)
    for highlight in highlights:
        is_inside = 0 <= highlight.start <= highlight.end <= len(text)
        if highlight.kind not in MARKS or not is_inside:
            known = ", ".join(kind for kind in MARKS if kind)
            raise ValueError(
                f"The highlight {tuple(highlight)} does not fit a report of {len(text)} "
                f"characters: give a start and an end within it, and one of the kinds {known}."
            )
        for position in range(highlight.start, highlight.end):
            kinds[position] = highlight.kind
    return kinds


def _end_of_words(text: str, words: int) -> int:
    """Number of characters up to the end of the first `words` words."""
    end = 0
    for word in islice(re.finditer(r"\S+", text), words):
        end = word.end()
    return end


# Drawing


def _draw_sheet(rows: Sequence[Row], note: Sequence[Segment]) -> Figure:
    """Rows of up to four cells over a note, FULL wide and as high as they need."""
    figure = Figure((FULL, 1))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE_WIDTH))
    axes.axis("off")
    next_tops = [2.0] * COLUMNS  # y of the first free point in each column; y grows downwards
    for row in rows:
        if row.first is None:
            first_column = 1
            cells = row.others
        else:
            first_column = 0
            cells = [row.first, *row.others]
        # All cells of a row begin below the lowest of those above.
        top = max(next_tops[first_column:])
        for column in range(first_column, COLUMNS):
            next_tops[column] = top
        for column, cell in enumerate(cells, first_column):
            left = MARGIN + column * (CELL_WIDTH + GAP)
            bottom = _draw_cell(axes, left, top, cell)
            next_tops[column] = bottom + GAP

    note_width = PAGE_WIDTH - 2 * MARGIN
    page_bottom = 2 + _draw_text(axes, MARGIN, max(next_tops), note_width, note)
    axes.set_ylim(page_bottom, 0)
    figure.set_size_inches(FULL, page_bottom / POINTS_PER_INCH)
    return figure


def _draw_cell(axes: Axes, left: float, top: float, cell: Cell) -> float:
    """Draw a cell whose top left corner is (left, top); returns its bottom."""
    axes.text(left, top + TEXT_SIZE, cell.title, size=TEXT_SIZE, weight="bold")
    y = top + TITLE_HEIGHT
    if cell.picture is not None:
        side = CELL_WIDTH
        axes.imshow(cell.picture, vmin=0, vmax=255, extent=(left, left + side, y + side, y))
        y += side + 3
    return _draw_text(axes, left, y, CELL_WIDTH, cell.segments)


def _draw_text(
    axes: Axes, left: float, top: float, width: float, segments: Sequence[Segment]
) -> float:
    """Wrap segments into a column whose top left corner is (left, top); returns its bottom."""
    words = _wrap(left, top, width, segments)
    for _, line in groupby(words, key=lambda word: (word.segment, word.baseline)):
        _draw_mark(axes, list(line))
    for word in words:
        mark = MARKS[word.kind]
        axes.text(word.x, word.baseline, word.text, size=word.size, style=mark.slant)
    last_baseline = words[-1].baseline if words else top + TEXT_SIZE
    return last_baseline + 0.3 * TEXT_SIZE


class Word(NamedTuple):
    """A piece of text at its place on the page."""

    text: str
    kind: str | None  # of MARKS
    segment: int  # its number in the text
    x: float
    baseline: float
    size: float

    @property
    def end(self) -> float:
        """Where its last letter ends."""
        text = self.text.rstrip()
        return self.x + text_width(text, TEXT_SIZE) * self.size / TEXT_SIZE


def _wrap(left: float, top: float, width: float, segments: Sequence[Segment]) -> list[Word]:
    """The words of segments, each at its place in a column."""
    words = []
    x = left
    baseline = top + TEXT_SIZE
    for number, segment in enumerate(segments):
        for piece in _pieces(segment.text):
            word_width = text_width(piece.rstrip(), TEXT_SIZE)
            overflows = x + word_width > left + width
            is_new_word = piece[0] not in " .,;:)…"
            if overflows and is_new_word and x > left:
                x = left
                baseline += LINE_HEIGHT
            size = TEXT_SIZE
            if word_width > width:  # a very long word shrinks
                size = TEXT_SIZE * (width / word_width)
            words.append(Word(piece, segment.kind, number, x, baseline, size))
            x += text_width(piece, TEXT_SIZE) * size / TEXT_SIZE
    return words


def _draw_mark(axes: Axes, words: Sequence[Word]) -> None:
    """The box behind words of one segment that share a line, and the line under them."""
    mark = MARKS[words[0].kind]
    if words[0].kind is None:
        return
    first = words[0].x
    last = words[-1].end
    baseline = words[0].baseline
    corner = (first - 0.8, baseline - 0.85 * TEXT_SIZE)
    box = Rectangle(
        corner,
        last - first + 1.6,
        1.15 * TEXT_SIZE,
        facecolor=mark.background,
        edgecolor=mark.frame,
        linewidth=0.6,
    )
    axes.add_patch(box)
    if mark.line != "none":
        under = baseline + 0.2 * TEXT_SIZE
        axes.plot([first, last], [under, under], color=mark.line, linewidth=0.8)


def _pieces(text: str) -> list[str]:
    """Words with the space that follows; very long words in parts of 24 characters."""
    return re.findall(r"\S{1,24} ?| ", text)


# HTML


def _cell_html(cell: Cell) -> str:
    title = html.escape(cell.title)
    picture = ""
    if cell.picture is not None:
        picture = _picture_html(cell.picture, cell.alternative)
    text = ""
    for segment in cell.segments:
        mark = MARKS[segment.kind]
        text += f'<span style="{_style(mark)}">{html.escape(segment.text)}</span>'
    return f"<b>{title}</b><br>{picture}{text}"


def _style(mark: Mark) -> str:
    """A mark as a style sheet says it."""
    style = f"background:{mark.background};font-style:{mark.slant}"
    if mark.background != "none":
        style += ";color:black"  # on a light ground, whatever the theme
    if mark.frame != "none":
        style += f";outline:1px solid {mark.frame}"
    if mark.line != "none":
        style += f";text-decoration:underline 2px {mark.line}"
    return style


def _picture_html(picture: np.ndarray, alternative: str) -> str:
    """The picture as PNG inside the page, so that the HTML needs no other file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img class="mcr-picture" width="170" tabindex="0" alt="{html.escape(alternative)}" '
        f'src="data:image/png;base64,{encoded}"><br>'
    )
