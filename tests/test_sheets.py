"""Sheets: images and highlights are placed right, text stays literal, nothing overlaps."""

import os
import subprocess
import sys
import textwrap
from html.parser import HTMLParser

import numpy as np
import pytest
from figure_checks import (
    FULL,
    PLAIN,
    REPORT,
    SIX,
    STRANGE,
    Drawing,
    assert_nothing_overlaps,
    assert_reproducible,
    assert_text_is_literal,
    shown_texts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib import plots, sheets
from mcrlib.evaluation import comparison, findings

pytestmark = pytest.mark.filterwarnings("ignore:Glyph:UserWarning")  # DejaVu Sans has no emoji
RNG = np.random.default_rng(0)
PICTURES = {f"p{i}": RNG.integers(0, 255, (24, 24), np.uint8) for i in (1, 2, 3)}


def retrieved(variants: list[str], report: str = REPORT) -> list[dict]:
    """A query in each direction with three hits of each variant, one of them positive."""
    by_variant = {}
    for place, variant in enumerate(variants):
        hits = []
        for rank in (1, 2, 3):
            hit = {"pair_id": f"p{rank}", "rank": rank, "score": 0.9 - 0.1 * rank}
            hit["report"] = report
            hit["positive"] = rank == 1 + place % 3
            hits.append(hit)
        by_variant[variant] = hits
    query = {"pair_id": "p2", "report": report, "hits": by_variant}
    return [query | {"direction": direction} for direction in plots.LINES]


def no_marks(query: str, hit: str) -> list:
    return []


def marks(query: str, hit: str) -> list:
    start = hit.find("pleural effusion with")
    return [(0, 12, "shared"), (start, start + 16, "other")]


SIX_PICTURES = list(PICTURES.values()) * 2
FIGURES = {
    "top3": Drawing(FULL, lambda: sheets.top3(retrieved(["abm", "mcr"]), PICTURES, marks, 25)),
    "top3 of six": Drawing(FULL, lambda: sheets.top3(retrieved(SIX)[1:], PICTURES, marks, 12)),
    "examples": Drawing(FULL, lambda: sheets.examples(SIX_PICTURES, [REPORT] * 6, 6)),
}


@pytest.mark.parametrize("name", [name for name in FIGURES if "six" not in name])
def test_drawing_is_reproducible(name, tmp_path):
    assert_reproducible(FIGURES[name], tmp_path)


def test_another_process_gives_the_same_bytes(tmp_path):
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import test_sheets
        test_sheets.plots.save(test_sheets.FIGURES["top3"].draw(), sys.argv[2])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), os.path.dirname(__file__)]
    environment = os.environ | {"PYTHONHASHSEED": "1", "TZ": "UTC+5"}
    subprocess.run([*command, str(tmp_path / "there")], check=True, env=environment)
    for path in plots.save(FIGURES["top3"].draw(), tmp_path / "here"):
        assert path.read_bytes() == path.with_stem("there").read_bytes()


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_overlaps_and_nothing_leaves_the_page(name):
    assert_nothing_overlaps(FIGURES[name])


class Page(HTMLParser):
    """Parsed HTML: its tags, and its text by the style of the enclosing span."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags = []
        self.style = ""
        self.spans = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.style = dict(attributes).get("style", "") if tag == "span" else ""

    def handle_endtag(self, tag):
        self.style = ""

    def handle_data(self, data):
        self.spans.append((data, self.style))


def shown(text: str, highlights: list, words: int) -> list[tuple[str, str]]:
    """(text, style) of each segment of a hit's report in HTML."""
    hit = {"pair_id": "p2", "rank": 1, "score": 0.5, "report": text, "positive": False}
    query = {"direction": "image_to_report", "pair_id": "p1", "report": "", "hits": {"mcr": [hit]}}

    def highlights_of_hit(query_report: str, hit_report: str) -> list:
        return highlights if hit_report else []

    page = sheets.top3_html([query], PICTURES, highlights_of_hit, words)
    spans = Page(page).spans
    texts = [data for data, _ in spans]
    (title,) = [data for data in texts if data.startswith("mcr")]
    legend = sheets.MARKS["own"].meaning
    return spans[texts.index(title) + 1 : texts.index(legend)]


def test_strange_text_is_escaped_in_html():
    queries = [query | {"pair_id": "p1"} for query in retrieved([STRANGE], STRANGE)]
    text = sheets.top3_html(queries, PICTURES, no_marks, 30)
    page = Page(text)
    assert set(page.tags) <= {"style", "table", "tbody", "tr", "td", "b", "br", "img", "span"}
    assert sum(PLAIN in data for data, _ in page.spans) == 2 * 4 - 3  # excerpts are shorter
    for character in "\x00\x1b\u202e\ud800":
        assert character not in text
    assert text.count("<img") == text.count("data:image/png;base64,") == 1 + 1 + 3


def test_strange_text_is_literal_in_figures(tmp_path):
    figure = sheets.top3(retrieved([STRANGE], STRANGE), PICTURES, no_marks)
    assert_text_is_literal(figure)
    drawn = "".join(without_spaces(text.get_text()) for text in shown_texts(figure))
    assert without_spaces(PLAIN) in drawn
    plots.save(figure, tmp_path / "figure")
    figure = sheets.examples([PICTURES["p1"]], [STRANGE])
    assert_text_is_literal(figure)
    plots.save(figure, tmp_path / "figure")


def without_spaces(text: str) -> str:
    return "".join(text.split())


def test_a_cut_report_ends_in_an_ellipsis_after_whole_highlights():
    text = "One two three four five six seven eight."
    (only,) = shown(text, [], 3)
    assert only[0] == "One two three…"
    start = text.index("three")
    highlight = (start, start + len("three four five"), "shared")
    parts = shown(text, [highlight], 3)
    assert [part for part, _ in parts] == ["One two ", "three four five", "…"]
    assert shown("Clear. No more.", [], 1)[0][0] == "Clear…"
    assert shown(text, [], 8)[0][0] == text
    assert shown(text + " \n", [], 8)[0][0] == text


kinds = st.sampled_from(list(sheets.MARKS))
pieces = st.lists(st.tuples(st.text("ab .\n\té", max_size=12), kinds))


@given(pieces)
@settings(deadline=None, max_examples=60)
def test_highlights_mark_the_given_characters(parts):
    text = ""
    highlights = []
    for part, kind in parts:
        if kind and part:
            highlights.append((len(text), len(text) + len(part), kind))
        text += part
    segments = shown(text, highlights, 10**6)
    assert without_spaces("".join(data for data, _ in segments)) == without_spaces(text)
    for kind, mark in sheets.MARKS.items():
        expected = "".join(part for part, kind_of_part in parts if kind_of_part == kind)
        background = f"background:{mark.background};"
        marked = "".join(data for data, style in segments if background in style)
        assert without_spaces(marked) == without_spaces(expected)


def test_top3_places_images_and_ticks_correctly():
    figure = sheets.top3(retrieved(["abm", "mcr"]), PICTURES, marks)
    pictures = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    # The query image; the partner of the query report; its three hits by each variant.
    order = ["p2", "p2", "p1", "p2", "p3", "p1", "p2", "p3"]
    for picture, pair_id in zip(pictures, order, strict=True):
        assert np.array_equal(picture, PICTURES[pair_id])
    texts = [text.get_text() for text in figure.axes[0].texts]
    titles = [text for text in texts if "#" in text][:-1]  # the last one is the legend's
    assert len(titles) == 12
    positive = [title for title in titles if "✓" in title]
    assert positive == ["abm  #1  0.80  ✓", "mcr  #2  0.70  ✓"] * 2


def test_kinds_differ_without_colour_and_denied_ones_are_framed():
    looks = set()
    for kind, mark in sheets.MARKS.items():
        if kind not in (None, "own"):  # the query's own stand in its own cell
            looks.add((mark.slant, mark.frame != "none", mark.line != "none"))
            assert (mark.frame != "none") == (kind in ("denied", "against"))
    assert len(looks) == len(sheets.MARKS) - 2


def test_the_legend_has_a_whole_sentence_for_every_mark_that_highlights_can_give():
    assert set(comparison.RELATIONS) | {"own", None} == set(sheets.MARKS)
    page = sheets.top3_html(retrieved(["mcr"]), PICTURES, no_marks)
    for kind, mark in sheets.MARKS.items():
        if kind:
            assert mark.meaning.startswith("The ") and mark.meaning.endswith(".")
            assert mark.meaning in page


def test_what_the_query_denies_is_not_shown_as_its_own():
    report = "A large right pleural effusion. No pneumothorax."
    hit = {"pair_id": "p1", "rank": 1, "score": 0.5, "report": report, "positive": False}
    query = {"direction": "image_to_report", "pair_id": "p1", "report": report}
    page = sheets.top3_html([query | {"hits": {"mcr": [hit]}}], PICTURES, findings.highlights)
    looks = {}
    for text, style in Page(page).spans:
        looks.setdefault(text, []).append(style)
    own, shared, denied = (sheets.MARKS[kind].background for kind in ("own", "shared", "denied"))
    assert [own in looks["pleural effusion"][0], shared in looks["pleural effusion"][1]] == [1, 1]
    assert all(denied in style and "outline" in style for style in looks["pneumothorax"])


def test_examples_show_the_first_n_pairs():
    figure = sheets.examples([PICTURES["p1"]] * 5, ["Clear."] * 5, 3)
    assert len(figure.axes[0].images) == 3


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: sheets.top3(retrieved(["mcr"]), {}, no_marks), "p2"),
        (lambda: shown("short", [(0, 6, "own")], 9), "5 characters"),
        (lambda: shown("short", [(-1, 2, "own")], 9), "5 characters"),
    ],
)
def test_bad_input_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
