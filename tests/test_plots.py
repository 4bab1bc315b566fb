"""Figures: the same bytes each time, text that stays text, nothing that overlaps."""

import io
import os
import subprocess
import sys
import textwrap
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.text import Text

from mcrlib import plots
from mcrlib.config import VARIANTS

pytestmark = pytest.mark.filterwarnings("ignore:Glyph:UserWarning")  # DejaVu Sans has no emoji
RNG = np.random.default_rng(0)
LONG = "a_method_of_somebody_else_with_a_very_long_name"
SIX = ["mcr", "abm", "dual", "clip", "tfidf", LONG]
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
PLAIN = (
    "$x^2$ <script>alert('1')</script> \\input{/etc/passwd} =cmd|'/C calc'!A0 $ & \"quoted\" "
    "NUL [31mred[0m back  café 😀 " + "W" * 300
)


def evaluated(pool: int = 500, shift: float = 0.0) -> dict:
    def cell(value: float) -> dict:
        return {"value": value, "low": value - 0.03, "high": value + 0.04}

    ks = (1, 5, 10)
    pair = {f"R@{k}": cell(0.1 + 0.03 * k - shift) for k in ks} | {"median_rank": cell(18)}
    report = {f"R@{k}": cell(0.2 + 0.03 * k - shift) for k in ks} | {"median_rank": cell(12)}
    both = {"pair": pair, "report": report}
    chance = {f"R@{k}": k / pool for k in ks}
    shown = {"image_to_report": both, "report_to_image": both}
    return {"seeds": 1, "pool": pool, "chance": chance, **shown}


def records(variants: list[str]) -> list[dict]:
    return [
        {"variant": variant, "direction": direction, "metric": metric, "k": k}
        | {"mean": 0.3 + 0.01 * i - 0.01 * k + 0.05 * j, "best": 0.3 + 0.01 * i + 0.02 * k}
        for i, variant in enumerate([*variants, "floor", "ceiling"])
        for j, direction in enumerate(plots.LINES)
        for metric in plots.FIGURE3_METRICS
        for k in range(1, 11)
    ]


def gap(n: int = 40) -> dict:
    names = ("distance_of_means", "alignment", "uniformity_image", "uniformity_report")
    more = ("cosine_of_pairs", "cosine_of_non_pairs", "probe_accuracy")
    numbers = {name: -1.25 + 0.5 * i for i, name in enumerate((*names, *more))}
    return {"tsne": RNG.normal(0, 20, (2 * n, 2)).tolist(), "numbers": numbers}


def retrieved(variants: list[str], report: str = REPORT) -> list[dict]:
    def hits(variant: str) -> list[dict]:
        at = variants.index(variant)
        return [
            {"pair_id": f"p{rank}", "rank": rank, "score": 0.9 - 0.1 * rank, "report": report}
            | {"positive": rank == 1 + at % 3}
            for rank in (1, 2, 3)
        ]

    about = {"pair_id": "p2", "report": report, "hits": {name: hits(name) for name in variants}}
    return [about | {"direction": direction} for direction in plots.LINES]


def no_marks(query: str, hit: str) -> list:
    return []


def marks(query: str, hit: str) -> list:
    at = hit.find("pleural effusion with")
    return [(0, 12, "shared"), (at, at + 16, "other")]


PICTURES = {f"p{i}": RNG.integers(0, 255, (24, 24), np.uint8) for i in (1, 2, 3)}
HISTORY = pd.DataFrame({"epoch": range(1, 13), "loss": 5.0, "vrc": 2.0, "mim": 1.0, "mrm": 2.0})
HISTORY["validate_recall@10"] = [np.nan if epoch % 2 else epoch / 20 for epoch in HISTORY["epoch"]]
FRAME = pd.DataFrame({"report": [REPORT, "Clear."] * 20, "view": ["PA", "PA", "PA", "AP"] * 10})
FRAME["split"] = ["train"] * 30 + ["validate"] * 6 + ["test"] * 4
COLUMN, FULL = 8.5, 17.0  # cm
GAPS = {name: gap() for name in SIX}
FIGURES = {
    "loss": (COLUMN, lambda: plots.loss_curves(HISTORY)),
    "bars": (COLUMN, lambda: plots.recall_bars({n: evaluated() for n in SIX[:3]})),
    "bars of six": (COLUMN, lambda: plots.recall_bars({n: evaluated() for n in SIX}, "report")),
    "curves": (FULL, lambda: plots.curves(records(SIX[:2]))),
    "curves of six": (FULL, lambda: plots.curves(records(SIX))),
    "gap": (COLUMN, lambda: plots.modality_gap({n: GAPS[n] for n in ("abm", "mcr")})),
    "gap of six": (FULL, lambda: plots.modality_gap(GAPS)),
    "top3": (FULL, lambda: plots.top3(retrieved(["abm", "mcr"]), PICTURES, marks, 25)),
    "top3 of six": (FULL, lambda: plots.top3(retrieved(SIX)[1:], PICTURES, marks, 12)),
    "examples": (FULL, lambda: plots.examples(list(PICTURES.values()) * 2, [REPORT] * 6, 6)),
    "lengths": (COLUMN, lambda: plots.lengths(FRAME)),
}


@pytest.mark.parametrize("name", [name for name in FIGURES if "six" not in name])
def test_drawn_again_gives_the_same_bytes_and_undated_files_with_truetype_fonts(name, tmp_path):
    width, draw = FIGURES[name]
    png, pdf = (path.read_bytes() for path in plots.save(draw(), tmp_path / "first"))
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "lines.linewidth": 9}):
        figure = draw()
        figure.savefig(io.BytesIO(), format="png", dpi=83, bbox_inches="tight")  # a notebook's look
        again = [path.read_bytes() for path in plots.save(figure, tmp_path / "again")]
    assert again == [png, pdf]
    assert int.from_bytes(png[16:20], "big") == pytest.approx(width / 2.54 * 300, abs=1)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"/Type1" not in pdf
    for trace in (b"matplotlib", b"Date", b"Software", b"Producer"):
        assert trace not in png and trace not in pdf


def test_another_process_gives_the_same_bytes(tmp_path):
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import test_plots
        test_plots.plots.save(test_plots.FIGURES["top3"][1](), sys.argv[2])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), os.path.dirname(__file__)]
    environment = os.environ | {"PYTHONHASHSEED": "1", "TZ": "UTC+5"}
    subprocess.run([*command, str(tmp_path / "there")], check=True, env=environment)
    for path in plots.save(FIGURES["top3"][1](), tmp_path / "here"):
        assert path.read_bytes() == path.with_stem("there").read_bytes()


def test_save_leaves_equal_files_alone_and_replaces_others(tmp_path):
    stem = tmp_path / "new" / "figure.v1"
    paths = plots.save(plots.recall_bars({"mcr": evaluated()}), stem)
    assert paths == [stem.with_name("figure.v1.png"), stem.with_name("figure.v1.pdf")]
    before = [path.stat().st_mtime_ns for path in paths]
    plots.save(plots.recall_bars({"mcr": evaluated()}), stem)
    assert [path.stat().st_mtime_ns for path in paths] == before
    plots.save(plots.recall_bars({"mcr": evaluated(shift=0.01)}), stem)
    assert all(path.stat().st_mtime_ns > old for path, old in zip(paths, before, strict=True))
    assert sorted(stem.parent.iterdir()) == sorted(paths)


def overlap(a, b) -> float:
    """Points by which two boxes go into each other."""
    return min(min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)) / 4


@pytest.mark.parametrize("name", FIGURES)
@plots.styled
def test_nothing_overlaps_and_nothing_leaves_the_page(name):
    before = dict(matplotlib.rcParams)
    figure = FIGURES[name][1]()
    assert dict(matplotlib.rcParams) == before
    figure.set_dpi(4 * 72)
    figure.draw_without_rendering()
    boxes = [legend.get_window_extent() for legend in figure.legends]
    for axes in figure.axes:
        if axes.axison:
            boxes.append(axes.get_tightbbox())
        else:  # a sheet
            boxes += [text.get_window_extent() for text in axes.texts if text.get_text().strip()]
            boxes += [image.get_window_extent() for image in axes.images]
    page = figure.bbox.padded(4)
    for place, box in enumerate(boxes):
        assert page.x0 < box.x0 and page.y0 < box.y0 and box.x1 < page.x1 and box.y1 < page.y1
        assert all(overlap(box, other) < 0.7 for other in boxes[:place])
    for legend in figure.legends:
        labels = [text.get_window_extent() for text in legend.get_texts()]
        assert all(overlap(a, b) < 0.7 for i, a in enumerate(labels) for b in labels[:i])


names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True)


@given(names)
@settings(deadline=None, max_examples=15)
def test_every_name_has_its_own_look_and_known_ones_always_the_same(others):
    look = plots.looks([*others, *VARIANTS, "floor", "ceiling"])
    assert len({to_hex(one["color"]) for one in look.values()}) == len(look)
    assert look == plots.looks(["ceiling", "floor", *VARIANTS, *reversed(others)])
    assert all(plots.looks([name])[name] == look[name] for name in [*VARIANTS, "floor", "ceiling"])


class Page(HTMLParser):
    """Tags, and text by the style of the span that holds it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.style, self.spans = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.style = dict(attributes).get("style", "") if tag == "span" else ""

    def handle_endtag(self, tag):
        self.style = ""

    def handle_data(self, data):
        self.spans.append((data, self.style))


def shown(text: str, spans: list, words: int) -> list:
    """(text, style) runs of a hit's report in HTML."""
    hit = {"pair_id": "p2", "rank": 1, "score": 0.5, "report": text, "positive": False}
    query = {"direction": "image_to_report", "pair_id": "p1", "report": "", "hits": {"mcr": [hit]}}
    page = plots.top3_html([query], PICTURES, lambda query, hit: spans if hit else [], words)
    found = Page(page).spans
    start = next(i for i, (data, _) in enumerate(found) if data.startswith("mcr"))
    end = next(i for i, (data, _) in enumerate(found) if data == plots.MARKS["own"][2])
    return found[start + 1 : end]


def test_strange_text_stays_text_in_html():
    queries = [query | {"pair_id": "p1"} for query in retrieved([STRANGE], STRANGE)]
    text = plots.top3_html(queries, PICTURES, no_marks, 30)
    page = Page(text)
    assert set(page.tags) <= {"table", "tbody", "tr", "td", "b", "br", "img", "span"}
    assert sum(PLAIN in data for data, _ in page.spans) == 2 * 4 - 3  # excerpts are shorter
    assert not any(character in text for character in "\x00\x1b\u202e\ud800")
    assert text.count("<img") == text.count("data:image/png;base64,") == 1 + 1 + 3


def test_strange_text_stays_text_in_figures(tmp_path):
    figure = plots.top3(retrieved([STRANGE], STRANGE), PICTURES, no_marks)
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert not any(text.get_parse_math() or text.get_usetex() for text in texts)
    assert "".join(PLAIN.split()) in "".join("".join(text.get_text().split()) for text in texts)
    plots.save(figure, tmp_path / "figure")
    folder = STRANGE.replace("\ud800", "")  # which no table can hold
    named = ["$a$", "_private", "a\nb", "\x00", folder]
    for figure in (
        plots.recall_bars({name: evaluated() for name in named}),
        plots.curves(records(named)),
        plots.modality_gap({name: gap() for name in named}),
        plots.lengths(FRAME.assign(view=folder)),
        plots.examples([PICTURES["p1"]], [STRANGE]),
    ):
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert not any(text.get_parse_math() for text in texts)
        plots.save(figure, tmp_path / "figure")
    labels = [text.get_text() for text in plots.curves(records(named)).legends[0].get_texts()]
    assert labels[:4] == ["$a$", "_private", "a b", ""]


def test_a_cut_report_ends_in_an_ellipsis_after_whole_highlights():
    text = "One two three four five six seven eight."
    assert shown(text, [], 3) == [("One two three…", shown(text, [], 3)[0][1])]
    at = text.index("three")
    parts = shown(text, [(at, at + len("three four five"), "shared")], 3)
    assert [part for part, _ in parts] == ["One two ", "three four five", "…"]
    assert shown("Clear. No more.", [], 1)[0][0] == "Clear…"
    assert shown(text, [], 8)[0][0] == text == shown(text + " \n", [], 8)[0][0]


pieces = st.lists(st.tuples(st.text("ab .\n\té", max_size=12), st.sampled_from(list(plots.MARKS))))


@given(pieces)
@settings(deadline=None, max_examples=60)
def test_highlights_stand_where_they_were_given(parts):
    text, spans = "", []
    for part, kind in parts:
        if kind and part:
            spans.append((len(text), len(text) + len(part), kind))
        text += part
    found = shown(text, spans, 10**6)
    assert "".join("".join(data.split()) for data, _ in found) == "".join(text.split())
    for kind, (colour, *_) in plots.MARKS.items():
        expected = "".join(part for part, of in parts if of == kind)
        marked = "".join(data for data, style in found if f"background:{colour};" in style)
        assert "".join(marked.split()) == "".join(expected.split())


def test_recall_bars_stand_at_their_values_over_chance():
    figure = plots.recall_bars({"mcr": evaluated(), "x": evaluated(shift=0.05)}, "report")
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == pytest.approx([23, 35, 50, 18, 30, 45])
        whiskers, chance = axes.collections[0], axes.collections[-1]
        assert whiskers.get_segments()[0][:, 1] == pytest.approx([20, 27])
        assert [line[0][1] for line in chance.get_segments()] == pytest.approx([0.2, 1, 2])
    assert "pool of 500" in axes.get_xlabel() and "deviation" not in axes.get_xlabel()
    several = plots.recall_bars({"mcr": evaluated() | {"seeds": 3}}).axes[-1].get_xlabel()
    assert "± deviation over seeds" in several
    with pytest.raises(ValueError, match=r"\[400, 500\]"):
        plots.recall_bars({"mcr": evaluated(), "abm": evaluated(pool=400)})
    bare = evaluated()
    bare["image_to_report"] = {"pair": bare["image_to_report"]["pair"]}
    with pytest.raises(ValueError, match="policy 'report'"):
        plots.recall_bars({"mcr": bare}, "report")


def test_curves_show_mean_above_best_and_the_paper_s_lines():
    table = pd.DataFrame(records(["mcr"]))
    figure = plots.curves(table.sample(frac=1, random_state=0).to_dict("records"), ["CIDEr"])
    for axes, kind in zip(figure.axes, ("mean", "best"), strict=True):
        assert len(axes.lines) == 3 * 2
        for direction, dashed in (("image_to_report", True), ("report_to_image", False)):
            rows = table[(table["variant"] == "mcr") & (table["direction"] == direction)]
            rows = rows[rows["metric"] == "CIDEr"]
            lines = [line for line in axes.lines if line.is_dashed() == dashed]
            (line,) = (one for one in lines if one.get_color() == plots.PALETTE[0])
            assert line.get_xdata().tolist() == list(range(1, 11))
            assert line.get_ydata().tolist() == rows[kind].tolist()
    with pytest.raises(ValueError, match="METEOR"):
        plots.curves([record for record in records(["mcr"]) if record["metric"] != "METEOR"])


def test_modality_gap_treats_all_panels_alike():
    wide = gap() | {"tsne": [[10.0 * x, y] for x, y in gap()["tsne"]]}
    same = gap() | {"tsne": [[1.0, 1.0]] * 80}
    figure = plots.modality_gap({"abm": wide, "mcr": same})
    assert [axes.get_title() for axes in figure.axes] == ["(a) AbM (abm)", "(b) MbA (mcr)"]
    for axes, points in zip(figure.axes, (wide["tsne"], same["tsne"]), strict=True):
        assert np.ptp(axes.get_xlim()) == pytest.approx(np.ptp(axes.get_ylim()))
        assert axes.bbox.width == pytest.approx(axes.bbox.height)
        assert not len(axes.get_xticks()) and not len(axes.get_yticks())
        image, report = (np.asarray(part.get_offsets()) for part in axes.collections)
        assert np.array_equal(np.concatenate([image, report]), points)
        assert "probe accuracy" in axes.get_xlabel() and "1.750" in axes.get_xlabel()


def test_top3_shows_pictures_and_ticks_where_they_belong():
    figure = plots.top3(retrieved(["abm", "mcr"]), PICTURES, marks)
    pictures = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    # The query image; the partner of the query report; its three hits by each variant.
    order = ["p2", "p2", "p1", "p2", "p3", "p1", "p2", "p3"]
    assert all(np.array_equal(a, PICTURES[b]) for a, b in zip(pictures, order, strict=True))
    titles = [text.get_text() for text in figure.axes[0].texts if "#" in text.get_text()][:-1]
    assert [title for title in titles if "✓" in title] == [
        "abm  #1  0.80  ✓",
        "mcr  #2  0.70  ✓",
    ] * 2
    assert len(titles) == 12


def test_lengths_and_examples_show_every_pair():
    figure = plots.lengths(FRAME)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == len(FRAME)
    ticks = [text.get_text() for axes in figure.axes[1:] for text in axes.get_yticklabels()]
    assert sorted(ticks) == ["AP  10", "PA  30", "test  4", "train  30", "validate  6"]
    assert len(plots.examples([PICTURES["p1"]] * 5, ["Clear."] * 5, 3).axes[0].images) == 3


def test_loss_curves_take_what_a_variant_has():
    figure = plots.loss_curves(HISTORY.drop(columns=["mim", "mrm"]))
    above, below = figure.axes
    assert [line.get_label() for line in above.lines] == ["loss", "vrc"]
    assert below.lines[0].get_xydata().tolist() == [[e, 5 * e] for e in (2, 4, 6, 8, 10, 12)]


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: plots.recall_bars({}), "no variant"),
        (lambda: plots.curves([]), "no variant"),
        (lambda: plots.modality_gap({}), "no variant"),
        (lambda: plots.top3(retrieved(["mcr"]), {}, no_marks), "p2"),
        (lambda: shown("short", [(0, 6, "own")], 9), "5 characters"),
        (lambda: shown("short", [(-1, 2, "own")], 9), "5 characters"),
    ],
)
def test_bad_input_is_named(draw, says):
    with pytest.raises(ValueError, match=says):
        draw()
