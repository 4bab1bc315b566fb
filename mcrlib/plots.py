"""Figures: pure functions from numbers to a matplotlib Figure, one style for all.

Each is COLUMN (8.5 cm) or FULL (17 cm) wide; only `save` touches files. Report text stays text.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle, groupby, product
from pathlib import Path

import numpy as np
import pandas as pd
import tueplots.axes
from matplotlib import colormaps, cycler, style
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from PIL import Image

from mcrlib import tables
from mcrlib.config import VARIANTS
from mcrlib.files import write

COLUMN, FULL = 8.5 / 2.54, 17 / 2.54  # inches
SIZE, GAP = 6.5, 10  # points: small text, space between cells
PALETTE = (  # Okabe and Ito's and others far from them, also under simulated colour blindness
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#624B0E", "#554691", "#39C671"),
    *("#117450", "#673232", "#9E9B4C", "#611386", "#9E4C7E"),  # here the known variants end
    *("#D55E00", "#741158", "#281BBB", "#D020DF", "#CD1D48"),
)
STYLE = {
    **tueplots.axes.lines(base_width=0.6, line_base_ratio=1.7),
    **tueplots.axes.spines(top=False, right=False),
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs on every machine
    "font.size": 7, "axes.titlesize": 7.5, "axes.edgecolor": "0.4", "lines.markersize": 3,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": "0.9", "legend.frameon": False,
    "legend.columnspacing": 1.4, "axes.prop_cycle": cycler(color=PALETTE), "image.cmap": "gray",
    "image.aspect": "auto", "image.composite_image": False, "text.parse_math": False,
    "figure.constrained_layout.h_pad": 0.07, "figure.dpi": 160, "savefig.dpi": 300,
    "text.hinting": "none", "pdf.fonttype": 42, "ps.fonttype": 42,  # journals refuse Type 3
}  # fmt: skip
MARKERS = "osD^vPX*"
BOUNDS = {"floor": "0.72", "ceiling": "0.5"}  # greys
LINES = {"image_to_report": (0, (3, 1.5)), "report_to_image": "-"}  # as in the paper
FIGURE3_METRICS = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
MODALITIES = (("chest radiograph", "#E0503A", "o"), ("report", "#1F3F99", "^"))
MARKS = {  # kind of highlight: background, slant (tells it apart without colour), words
    "own": ("#FFE58A", "normal", "the query's own findings"),
    "shared": ("#B4E2AC", "normal", "shared with the query"),
    "other": ("#F8C3DA", "italic", "not in the query, or against it"),
    None: ("none", "normal", ""),
}
styled = style.context(["default", STYLE])


@styled
def save(figure: Figure, stem: str | Path) -> list[Path]:
    """Write STEM.png (300 dpi) and STEM.pdf, undated, atomically, only if their bytes change."""
    left_out = {"png": ["Software"], "pdf": ["Creator", "Producer", "CreationDate"]}
    for kind, entries in left_out.items():
        figure.savefig(new := io.BytesIO(), format=kind, metadata=dict.fromkeys(entries))
        write(f"{stem}.{kind}", new.getvalue())
    return [Path(f"{stem}.{kind}") for kind in left_out]


def looks(variants: Iterable[str]) -> dict[str, dict]:
    """Colour and marker of each variant, as keywords of `Axes.plot`; ValueError if there is none.
    config.VARIANTS, `floor` and `ceiling` always look the same; other names (users' own methods)
    take the next places by alphabet.
    """
    if not (variants := list(variants)):
        raise ValueError("There is no variant to draw: train and embed one first.")
    order = [*VARIANTS, *sorted(set(variants) - set(VARIANTS) - set(BOUNDS))]
    more = (colormaps["turbo"](i * 0.618034 % 1) for i in range(len(order)))  # never meet
    places = zip(order, [*PALETTE, *more], cycle(MARKERS), strict=False)
    look = {name: {"color": colour, "marker": marker} for name, colour, marker in places}
    look |= {name: {"color": grey, "marker": ""} for name, grey in BOUNDS.items()}
    return {name: look[name] for name in variants}


def _plain(text, longest=10**9):
    """One line without control characters; where it is long, without its middle."""
    text = "".join(c for c in re.sub(r"\s+", " ", text) if c.isprintable())
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 :]}"


def _width(text, size=SIZE):  # in points, as drawn in the style's font
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0]


def _legend(figure, handles):
    """The figure with one legend under all panels, in even rows that fit its width."""
    columns = 72 * figure.get_figwidth() / (31 + max(_width(h.get_label(), 7) for h in handles))
    rows = -(-len(handles) // int(columns))
    columns = -(-len(handles) // rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # drawn again, nothing moves
    return figure


@styled
def loss_curves(history: pd.DataFrame) -> Figure:
    """Losses and validation recall of one training, COLUMN wide (ours).
    history: a row an epoch with `epoch`, those of `loss vrc mim mrm` that the variant has, and
    `validate_recall@10` (a fraction, NaN where not validated).
    """
    figure = Figure((COLUMN, 8.5 / 2.54), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    names = [name for name in ("loss", "vrc", "mim", "mrm") if name in history]
    above.plot(history["epoch"], history[names], label=names)
    above.set(ylabel="training loss", ylim=(0, None))
    recall = history.dropna(subset="validate_recall@10")
    below.plot(recall["epoch"], 100 * recall["validate_recall@10"], "o-", clip_on=False)
    below.set(xlabel="epoch", ylabel="validation Recall@10 (%)", ylim=(0, None))
    below.locator_params(axis="x", integer=True)
    return _legend(figure, above.get_lines())


@styled
def recall_bars(evaluated: Mapping[str, Mapping], policy: str = "pair") -> Figure:
    """Recall@1/5/10 of each variant in both directions, COLUMN wide (the paper's comparison).
    evaluated: variant -> `seeds.over_seeds`; positive is the same `pair` or the same `report`.
    Whiskers are 95 % intervals, or one deviation over several seeds. Raises ValueError where pools
    differ or lack the policy.
    """
    look, pools = looks(evaluated), {result["pool"] for result in evaluated.values()}
    if len(pools) > 1:
        raise ValueError(f"Pools of {sorted(pools)} pairs cannot be compared: use one for all.")
    if missing := [name for name in look if policy not in evaluated[name]["image_to_report"]]:
        raise ValueError(f"{missing} have no recall under policy {policy!r}: evaluate with texts.")
    chance = pd.Series(next(iter(evaluated.values()))["chance"])
    figure = Figure((COLUMN, 9.5 / 2.54), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    places, width = np.arange(len(chance)), 0.8 / len(look)
    for axes, direction in zip(panels, LINES, strict=True):
        for turn, (name, result) in enumerate(evaluated.items()):
            cells = pd.DataFrame([result[direction][policy][metric] for metric in chance.index])
            value, low, high = 100 * cells[["value", "low", "high"]].to_numpy(float).T
            x = places + (turn + 0.5) * width - 0.4
            whiskers = np.maximum([value - low, high - value], 0)
            axes.bar(x, value, 0.88 * width, yerr=whiskers, color=look[name]["color"], alpha=0.8)
        line = axes.hlines(100 * chance, places - 0.45, places + 0.45, "k", ":", label="chance")
        axes.set(title=tables.DIRECTION_LABELS[direction], ylabel="recall (%)")
    axes.set_xticks(places, chance.index)
    several = any(result["seeds"] > 1 for result in evaluated.values())
    whiskers = "95 % intervals" + ", or ± deviation over seeds" * several
    axes.set_xlabel(f"pool of {pools.pop():,}, positive: same {policy}\n{whiskers}")
    keys = [Line2D([], [], color=look[n]["color"], lw=5, label=_plain(n, 20)) for n in look]
    return _legend(figure, [*keys, line])


@styled
def curves(records: Sequence[Mapping], metrics: Sequence[str] = FIGURE3_METRICS) -> Figure:
    """Text metrics over the top K, FULL wide (Figure 3; its best-of-K row is ours).
    records: `variant direction metric k mean best` a point; the variants `floor` and `ceiling`
    are grey. Raises ValueError where a metric has no record.
    """
    table, look = pd.DataFrame(records), looks(record["variant"] for record in records)
    if missing := sorted(set(metrics) - set(table["metric"])):
        raise ValueError(f"No record of {missing}: score them, or name the metrics to draw.")
    figure = Figure((FULL, 10.5 / 2.54), layout="constrained")
    panels = figure.subplots(2, len(metrics), squeeze=False)
    for axes, (kind, metric) in zip(panels.flat, product(("mean", "best"), metrics), strict=True):
        rows = table[table["metric"] == metric].sort_values("k")
        for (name, direction), line in rows.groupby(["variant", "direction"]):
            axes.plot(line["k"], line[kind], ls=LINES[direction], markevery=3, **look[name])
        axes.set(title=f"{metric}, {kind} of top K", xticks=[1, 4, 7, 10])
        axes.set_xlabel("K" * (kind == "best"))
    labels = {name: _plain(name, 20) for name in sorted(look, key=lambda name: name in BOUNDS)}
    labels["ceiling"] = "ceiling (a lower bound)"
    handles = [Line2D([], [], label=labels[n], **look[n]) for n in labels if n in look]
    handles += [
        Line2D([], [], color="k", ls=LINES[d], label=tables.DIRECTION_LABELS[d]) for d in LINES
    ]
    return _legend(figure, handles)


@styled
def modality_gap(gaps: Mapping[str, Mapping]) -> Figure:
    """t-SNE of both modalities, a square panel a variant (Figure 4), its numbers beneath (ours).
    gaps: variant -> `tsne` [2n, 2], images first, and `numbers`. COLUMN wide for one or two
    panels, else FULL. All panels are treated alike: equal axes around the data, no ticks.
    """
    rows = -(-len(looks(gaps)) // 4)
    columns = -(-len(gaps) // rows)
    width = COLUMN if columns < 3 else FULL
    figure = Figure((width, rows * (width / columns + 1.1) + 0.2), layout="constrained")
    alignments = {"abm": "AbM (abm)", "mcr": "MbA (mcr)"}
    for place, (name, gap) in enumerate(gaps.items(), 1):
        axes, points = figure.add_subplot(rows, columns, place), np.asarray(gap["tsne"], float)
        for part, (label, colour, marker) in zip(np.split(points, 2), MODALITIES, strict=True):
            axes.scatter(*part.T, 4, colour, marker, lw=0, alpha=0.75, label=label)
        axes.set(box_aspect=1, aspect="equal", adjustable="datalim", xticks=[], yticks=[])
        axes.set_title(f"({chr(96 + place)}) {alignments.get(name) or _plain(name, 20)}")
        axes.spines[:].set_visible(True)
        lines = [f"{key.replace('_', ' '):<20}{v:>8.3f}" for key, v in gap["numbers"].items()]
        axes.set_xlabel("\n".join(lines), family="DejaVu Sans Mono", size=6, linespacing=1.4)
    handles = [Line2D([], [], color=c, marker=m, ls="", label=name) for name, c, m in MODALITIES]
    return _legend(figure, handles)


def _runs(text, spans, words):
    """The plain text as (run, kind), `…` after so many words but never inside a highlight."""
    kinds = [None] * len(text)
    for start, end, kind in spans:
        if kind not in MARKS or not 0 <= start <= end <= len(text):
            raise ValueError(f"Highlight {start, end, kind} does not fit {len(text)} characters.")
        kinds[start:end] = [kind] * (end - start)
    cut = [0, *(word.end() for word in re.finditer(r"\S+", text))][: words + 1][-1]
    while cut < len(text) and kinds[cut]:
        cut += 1
    more = bool(text[cut:].strip())
    while more and cut and text[cut - 1] in ".,;: " and not kinds[cut - 1]:
        cut -= 1
    text, kinds = f"{text[:cut]}…", [*kinds[:cut], None]
    groups = groupby(range(cut + more), key=kinds.__getitem__)
    return [(_plain("".join(text[i] for i in places)), kind) for kind, places in groups]


def _write(axes, x, y, width, runs):
    """Runs wrapped into a column whose top left is (x, y), in points; returns its bottom."""
    left, base = x, y + SIZE
    for run, kind in runs:
        colour, slant, _ = MARKS[kind]
        box = {"facecolor": colour, "linewidth": 0, "pad": 0.8} if kind else None
        for piece in re.findall(r"\S{1,24} ?| ", run):
            word = _width(piece.rstrip())
            if x > left and x + word > left + width and piece[0] not in " .,;:)…":
                x, base = left, base + 1.3 * SIZE
            size = SIZE * min(1, width / (word or 1))  # a very long word shrinks
            axes.text(x, base, piece, size=size, style=slant, bbox=box)
            x += _width(piece) * size / SIZE
    return base + 0.3 * SIZE


def _sheet(rows, note):
    """Rows of up to four cells (title, runs, picture or None) over a note, FULL wide.
    A row whose first cell is None continues the one above, whose first cell reaches down.
    """
    axes = Figure((FULL, 1)).add_axes((0, 0, 1, 1), xlim=(0, 72 * FULL))
    axes.axis("off")
    side, ends = (72 * FULL - 8 - 3 * GAP) / 4, np.full(4, 2.0)  # points
    for row in rows:
        first = 0 if row[0] else 1
        ends[first:] = ends[first:].max()
        for column, (title, runs, picture) in enumerate(row[first:], first):
            x, y = 4 + column * (side + GAP), ends[column]
            axes.text(x, y + SIZE, title, size=SIZE, weight="bold")
            y += 11
            if picture is not None:
                axes.imshow(picture, vmin=0, vmax=255, extent=(x, x + side, y + side, y))
                y += side + 3
            ends[column] = _write(axes, x, y, side, runs) + GAP
    bottom = _write(axes, 4, ends.max(), 72 * FULL, note) + 2
    axes.set_ylim(bottom, 0)
    axes.figure.set_size_inches(FULL, bottom / 72)
    return axes.figure


def _retrievals(queries, pictures, highlights, words):
    """Figure 5 as rows of cells, one a query and variant, and its legend as runs."""
    rows = []
    for query in queries:
        text, from_image = query["report"], query["direction"] == "image_to_report"
        shown = [query] if from_image else [hit for hits in query["hits"].values() for hit in hits]
        if missing := {pair["pair_id"] for pair in shown} - set(pictures):
            raise ValueError(f"There is no picture of {sorted(missing)}: give all that are shown.")
        own = [(start, end, "own") for start, end, _ in highlights(text, text)]
        title = f"Query {'image' if from_image else 'report'}  {_plain(query['pair_id'], 16)}"
        first = (title, _runs(text, own, words), pictures.get(query["pair_id"]))
        for variant, hits in query["hits"].items():
            rows.append([first])
            for hit in hits:
                title = f"{_plain(variant, 12)}  #{hit['rank']}  {hit['score']:.2f}"
                spans, limit = highlights(text, hit["report"]), words if from_image else words // 3
                picture = None if from_image else pictures[hit["pair_id"]]
                runs = _runs(hit["report"], spans, limit)
                rows[-1].append((title + "  ✓" * hit["positive"], runs, picture))
            first = None
    marks = [run for kind, (*_, label) in MARKS.items() for run in ((label, kind), ("   ", None))]
    note = f"#: rank, cosine; ✓: positive; …: cut after {words} words, under pictures {words // 3}"
    return rows, [*marks, (note, None)]


@styled
def top3(queries: Sequence, pictures: Mapping, highlights: Callable, words: int = 40) -> Figure:
    """Top-3 retrievals of each query, a row a variant, FULL wide (Figure 5).
    queries: `direction pair_id report hits`, hits: variant -> `pair_id rank score report positive`
    each; pictures: pair_id -> uint8 [S, S], a query report's own picture too where it has one.
    highlights(query report, hit report), such as `findings.highlights`, gives spans (start, end,
    kind of MARKS) of the latter. Reports are cut after `words` words. Raises ValueError for a
    missing picture or a span outside its text.
    """
    return _sheet(*_retrievals(queries, pictures, highlights, words))


def top3_html(queries: Sequence, pictures: Mapping, highlights: Callable, words: int = 80) -> str:
    """What `top3` draws as one piece of HTML: pictures inside, all text escaped."""
    rows, note = _retrievals(queries, pictures, highlights, words)
    cell, table = '<td style="text-align:left;vertical-align:top" rowspan=', ""
    for query, *hits in rows:
        table += f"<tbody><tr>{cell}0>{_html(*query)}" if query else "<tr>"
        table += "".join(f"{cell}1>{_html(*hit)}" for hit in hits)
    return f'<table style="background:white;color:black">{table}</table>{_html("", note)}'


def _html(title, runs, picture=None):
    image = ""
    if picture is not None:
        Image.fromarray(picture).save(png := io.BytesIO(), "png")
        image = f'<img src="data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"><br>'
    look = '<span style="background:{};font-style:{}">'
    text = "".join(f"{look.format(*MARKS[kind])}{html.escape(run)}</span>" for run, kind in runs)
    return f"<b>{html.escape(title)}</b><br>{image}{text}"


@styled
def examples(images: Sequence[np.ndarray], reports: Sequence[str], n: int = 8) -> Figure:
    """The first n pairs, four a row, FULL wide: picture (uint8 [S, S]) and its report's start."""
    cells = [(str(i + 1), _runs(reports[i], (), 18), images[i]) for i in range(len(reports[:n]))]
    return _sheet([cells[i : i + 4] for i in range(0, len(cells), 4)], [])


@styled
def lengths(frame: pd.DataFrame) -> Figure:
    """Words in a report, pairs by split and by view of a manifest's frame, COLUMN wide (ours)."""
    figure = Figure((COLUMN, 7.5 / 2.54), layout="constrained")
    panels = figure.subplot_mosaic([["words"] * 2, ["split", "view"]], height_ratios=(3, 2))
    words = frame["report"].str.split().str.len()
    panels["words"].hist(words, bins=30)
    panels["words"].set(xlabel="words in a report", ylabel="pairs")
    for column in ("split", "view"):
        counts, axes = frame[column].value_counts(ascending=True), panels[column]
        axes.barh([f"{_plain(name, 20)}  {count:,}" for name, count in counts.items()], counts)
        axes.set(title=f"pairs by {column}", xticks=[])
        axes.grid(False)
    label = f"median of {words.median():.0f} words"
    return _legend(figure, [panels["words"].axvline(words.median(), color="k", label=label)])


@styled
def time_and_memory(table: pd.DataFrame) -> Figure:
    """Time over saved activations of a training step, a line a variant, COLUMN wide (ours).
    table: `tables.step_table`'s; its rows of 128 tokens are drawn.
    """
    table = table[table["tokens"] == 128]
    look = looks(table["variant"].unique())
    figure = Figure((COLUMN, 8 / 2.54), layout="constrained")
    axes = figure.subplots()
    for name, line in table.groupby("variant", sort=False):
        activations = line["activations ratio"].tolist()
        time = line["time ratio"].tolist()
        axes.plot(activations, time, label=_plain(name, 20), **look[name])
        for level, x, y in zip(line["level"], activations, time, strict=True):
            axes.annotate(level, (x, y), (3, 3), textcoords="offset points", size=6)
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.set(xlabel="activations, dual without recomputation = 1", ylabel="time, the same = 1")
    return _legend(figure, axes.get_lines())
