"""Charts: functions from numbers to a matplotlib Figure, all in one style.

A figure is COLUMN (8.5 cm) or FULL (17 cm) wide; the environment variable MCR_STYLE names a venue,
such as `icml2024`, whose widths, font family and font sizes are used instead. Only `save` writes
files. Names and reports are drawn literally: `$`, for example, never starts a formula.
"""

import inspect
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
import tueplots.axes
import tueplots.bundles
from matplotlib import colormaps, cycler, rcParams, style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path

from mcrlib import tables
from mcrlib.config import VARIANTS
from mcrlib.evaluation.chance import chance_recall
from mcrlib.files import write
from mcrlib.results import rehearsal_mark
from mcrlib.training.budget import operations
from mcrlib.training.history import recall_name, recorded_k

CM_PER_INCH = 2.54
POINTS_PER_INCH = 72
LONGEST_NAME = 20  # characters of a variant, split or view; longer ones lose their middle

# One colour a variant: first VARIANTS_IN_PALETTE of config.VARIANTS in its order, then users'
# methods. Six are Okabe and Ito's; the others are far from these and from each other, also under
# simulated colour blindness. All further variants and methods have colours of a rainbow.
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#624B0E", "#554691", "#39C671",
    "#117450", "#673232", "#9E9B4C", "#611386", "#9E4C7E", "#D55E00", "#741158", "#281BBB",
    "#D020DF", "#CD1D48",
)  # fmt: skip
VARIANTS_IN_PALETTE = 14
MARKERS = "osD^vPX*"  # one a variant, in the same order as the colours; then from the start again
# Random and ideal retrieval, in grey.
BOUNDS = {"floor": "0.72", "ceiling": "0.5", "chance": "0.72", "oracle": "0.5"}
LINES = {"image_to_report": (0, (3, 1.5)), "report_to_image": "-"}  # dashed, solid: as in the paper
FIGURE3_METRICS = ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


class Modality(NamedTuple):
    """How Figure 4 shows the embeddings of images or reports."""

    label: str
    colour: str
    marker: str


IMAGES = Modality("image", colour="#E0503A", marker="o")
REPORTS = Modality("report", colour="#1F3F99", marker="^")


class Venue(NamedTuple):
    """What a place of publication asks of figures; lengths in inches."""

    column: float  # the text's width where it has one column
    full: float
    text: dict[str, Any]  # matplotlib's parameters of font family and sizes
    legend_size: float  # points


# Ships with matplotlib: the same glyphs on every machine.
OUR_TEXT = {"font.family": "DejaVu Sans", "font.size": 7, "axes.titlesize": 7.5}
OURS = Venue(8.5 / CM_PER_INCH, 17 / CM_PER_INCH, OUR_TEXT, legend_size=7)
# Times' shapes, also from matplotlib; signs that it lacks, such as a check mark, are DejaVu's.
SERIF = ["STIXGeneral", "DejaVu Sans"]


def venue(name: str) -> Venue:
    """The venue of this name in `tueplots.bundles`; an empty name is our own look.

    Raises ValueError for a name that tueplots does not know.
    """
    if not name:
        return OURS
    known = [bundle for bundle in dir(tueplots.bundles) if re.fullmatch(r"[a-z]+\d{4}", bundle)]
    if name not in known:
        raise ValueError(f"MCR_STYLE={name} is no venue: use one of {', '.join(known)}, or none.")
    bundle = getattr(tueplots.bundles, name)
    options = inspect.signature(bundle).parameters
    without_tex = {"usetex": False} if "usetex" in options else {}
    if "column" in options:
        style_of_column = bundle(column="half", **without_tex)
        style_of_page = bundle(column="full", **without_tex)
    else:
        style_of_column = bundle(**without_tex)
        style_of_page = style_of_column
    text = {key: value for key, value in style_of_column.items() if key.endswith("size")}
    del text["figure.figsize"]
    text["font.family"] = SERIF if style_of_column["font.family"] == "serif" else "DejaVu Sans"
    column, _ = style_of_column["figure.figsize"]
    full, _ = style_of_page["figure.figsize"]
    return Venue(column, full, text, legend_size=text["legend.fontsize"])


VENUE = venue(os.environ.get("MCR_STYLE", "").strip())
COLUMN = VENUE.column
FULL = VENUE.full

_LINE_WIDTHS = tueplots.axes.lines(base_width=0.6, line_base_ratio=1.7)
_SPINES = tueplots.axes.spines(top=False, right=False)
STYLE = {
    **_LINE_WIDTHS,
    **_SPINES,
    "lines.markersize": 3,
    "axes.edgecolor": "0.4",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": "0.9",
    "legend.frameon": False,
    "legend.columnspacing": 1.4,
    "figure.constrained_layout.h_pad": 0.07,
    # Text.
    **VENUE.text,
    "text.parse_math": False,
    "text.hinting": "none",
    # Pictures.
    "image.cmap": "gray",
    "image.aspect": "auto",
    "image.composite_image": False,
    # Files. Journals refuse Type 3 fonts; 42 is TrueType.
    "figure.dpi": 160,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}
styled = style.context(["default", STYLE])  # decorates each function that draws


@styled
def save(figure: Figure, stem: str | Path, caption: str = "") -> list[Path]:
    """Write `stem.png` (300 dpi), `stem.pdf` and, if there is a caption, `stem.txt`; their paths.

    The text is the caption and the width that the figure is made for. The files hold no date and no
    versions, so that equal figures are equal bytes. Each is written atomically, and only if its
    bytes change. Figures of a rehearsal are marked as such, across the picture and in the text.
    """
    mark = rehearsal_mark(stem)
    if mark:
        _write_across(figure, mark)
        caption = f"{mark}. {caption}"
    left_out = {"png": ["Software"], "pdf": ["Creator", "Producer", "CreationDate"]}
    paths = []
    for file_type, entries in left_out.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=file_type, metadata=dict.fromkeys(entries))
        path = Path(f"{stem}.{file_type}")  # a stem may contain dots
        write(path, buffer.getvalue())
        paths.append(path)
    if caption:
        path = Path(f"{stem}.txt")
        write(path, f"{caption} {_made_for(figure)}\n".encode())
        paths.append(path)
    return paths


def _write_across(figure: Figure, mark: str) -> None:
    """Write large letters over everything that is drawn."""
    width = figure.get_figwidth() * POINTS_PER_INCH
    letters = 1.6 * width / len(mark)  # points; a letter is about half as wide as high
    figure.text(
        0.5, 0.5, mark, ha="center", va="center", rotation=20, fontsize=letters,
        color="#B00020", alpha=0.45, zorder=1000,
    )  # fmt: skip


def _made_for(figure: Figure) -> str:
    """A sentence that says how wide the figure is to be printed."""
    width = figure.get_figwidth()
    place = "one column" if width < FULL else "the full width of the text"
    return f"Made for {place}, {CM_PER_INCH * width:.1f} cm: include it without scaling."


def looks(variants: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each variant, as keyword arguments of `Axes.plot`.

    Variants of `config.VARIANTS`, `floor` and `ceiling` look the same in every figure. Other names
    (users' own methods) follow in alphabetical order. Raises ValueError if there are no variants.
    """
    variants = list(variants)
    _check_not_empty(variants)
    others = set(variants) - set(VARIANTS) - set(BOUNDS)
    known = list(VARIANTS)
    places = {}
    for place, name in enumerate([*known[:VARIANTS_IN_PALETTE], *sorted(others)]):
        places[name] = place
    # Backwards, so that the number of other methods does not matter.
    for place, name in enumerate(known[VARIANTS_IN_PALETTE:], start=1):
        places[name] = -place
    look = {}
    for name, place in places.items():
        marker = MARKERS[place % len(MARKERS)]
        look[name] = {"color": _colour(place), "marker": marker}
    for name, grey in BOUNDS.items():
        look[name] = {"color": grey, "marker": ""}
    return {name: look[name] for name in variants}


def _check_not_empty(variants: Sequence[str] | Mapping[str, Any]) -> None:
    if not variants:
        raise ValueError("There is no variant to draw: train and embed one first.")


def _colour(place: int) -> Any:
    """The palette's colour at this place; before its start or beyond its end, a rainbow's."""
    if 0 <= place < len(PALETTE):
        return PALETTE[place]
    # Multiples of the golden ratio never coincide, and neighbours are far apart.
    place_in_rainbow = (place - len(PALETTE)) * 0.618034 % 1
    return colormaps["turbo"](place_in_rainbow)


def one_line(text: str, longest: int | None = None) -> str:
    """The text on one line, without control characters.

    If it has more than `longest` characters, an ellipsis takes the place of its middle.
    """
    spaced = re.sub(r"\s+", " ", text)
    line = "".join(character for character in spaced if character.isprintable())
    if longest is None or len(line) <= longest:
        return line
    start = line[: longest // 2]
    end = line[-longest // 2 :]
    return f"{start}…{end}"


def text_width(text: str, size: float) -> float:
    """Width in points of a text of `size` points, in the font of the current style."""
    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return width


def _handles(look: Mapping[str, Mapping[str, Any]], **line: Any) -> list[Line2D]:
    """An entry of a legend for each variant of `looks`."""
    handles = []
    for name, of_variant in look.items():
        label = one_line(name, LONGEST_NAME)
        handles.append(Line2D([], [], label=label, **line, **of_variant))
    return handles


def _in_percent(blocks: Iterable[Mapping[str, float | None]]) -> tuple[np.ndarray, np.ndarray]:
    """The values [n] of blocks in %, and how far their intervals reach down and up, [2, n]."""
    table = pd.DataFrame(blocks, columns=["value", "low", "high"]).astype(float)
    percent = 100 * table
    down = percent["value"] - percent["low"]
    up = percent["high"] - percent["value"]
    return percent["value"].to_numpy(), np.array([down, up]).clip(min=0)


def _places_of(count: int) -> np.ndarray:
    """Numbers [count], one apart and with 0 in their middle."""
    return np.arange(count) - (count - 1) / 2


def _add_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend under all panels, in rows of about equal length that fit the figure's width."""
    page_width = POINTS_PER_INCH * figure.get_figwidth()
    longest_label = max(text_width(handle.get_label(), VENUE.legend_size) for handle in handles)
    entry_width = 31 + longest_label  # 31 points for the symbol and the space between columns
    most_columns = int(page_width / entry_width)
    rows = math.ceil(len(handles) / most_columns)
    columns = math.ceil(len(handles) / rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    # Freeze the layout, so that drawing again moves nothing.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


@styled
def loss_curves(history: pd.DataFrame, pool: int | None = None) -> Figure:
    """Losses and validation recall of one training, COLUMN wide (ours).

    `history` has one row an epoch: `epoch`, `loss`, `validate_recall@K` (a fraction; NaN in epochs
    without validation), and `vrc`, `mim` and `mrm` if the variant has these losses. `pool` is the
    number of validation pairs: with it, chance is drawn, too (dashed).
    """
    figure = Figure((COLUMN, 8.5 / CM_PER_INCH), layout="constrained")
    loss_axes, recall_axes = figure.subplots(2, 1, sharex=True)

    losses = [name for name in ("loss", "vrc", "mim", "mrm") if name in history]
    marker = "o" if len(history) == 1 else None  # a line of one point would not be seen
    loss_axes.plot(history["epoch"], history[losses], marker=marker, label=losses)
    loss_axes.set(ylabel="training loss", ylim=(0, None))

    k = recorded_k(history.columns)
    validated = history.dropna(subset=recall_name(k))
    percent = 100 * validated[recall_name(k)]
    recall_axes.plot(validated["epoch"], percent, "o-", clip_on=False)
    legend = loss_axes.get_lines()
    if pool is not None:
        (chance,) = chance_recall((k,), pool).values()
        line = recall_axes.axhline(100 * chance, color="0.4", linestyle="--", label="chance")
        legend = [*legend, line]
    recall_axes.set(xlabel="epoch", ylabel=f"validation Recall@{k} (%)", ylim=(0, None))
    if len(history) == 1:
        recall_axes.set_xticks(history["epoch"])
    else:
        recall_axes.locator_params(axis="x", integer=True)

    _add_legend(figure, legend)
    return figure


@styled
def recall_bars(evaluated: Mapping[str, Mapping], policy: str = "pair") -> Figure:
    """Recall@1/5/10 of each variant in both directions, COLUMN wide (the paper's comparison).

    `evaluated` is the result of `seeds.over_seeds`, by variant. Under policy `pair` only the
    query's partner is positive, under `report` every pair with the same report. Whiskers are 95 %
    intervals or, over several seeds, one standard deviation. Raises ValueError if the pools have
    different sizes or a variant was not evaluated under the policy.
    """
    look = looks(evaluated)
    _check_comparable(evaluated, policy)
    first_result = next(iter(evaluated.values()))
    chance = pd.Series(first_result["chance"])

    figure = Figure((COLUMN, 9.5 / CM_PER_INCH), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, direction in zip(panels, LINES, strict=True):
        recall = {name: result[direction][policy] for name, result in evaluated.items()}
        _draw_bars(axes, recall, list(chance.index), look)
        chance_lines = _draw_chance(axes, chance)
        axes.set(title=tables.DIRECTION_LABELS[direction], ylabel="recall (%)")

    lower_axes = panels[-1]
    lower_axes.set_xticks(np.arange(len(chance)), chance.index)
    whiskers = "95 % intervals"
    if any(result["seeds"] > 1 for result in evaluated.values()):
        whiskers += ", or ± deviation over seeds"
    pool = first_result["pool"]
    lower_axes.set_xlabel(f"pool of {pool:,}, positive: same {policy}\n{whiskers}")

    handles = []
    for name in look:
        label = one_line(name, LONGEST_NAME)
        handles.append(Line2D([], [], color=look[name]["color"], lw=5, label=label))
    handles.append(chance_lines)
    _add_legend(figure, handles)
    return figure


def _check_comparable(evaluated: Mapping[str, Mapping], policy: str) -> None:
    pools = {result["pool"] for result in evaluated.values()}
    if len(pools) > 1:
        raise ValueError(f"Pools of {sorted(pools)} pairs cannot be compared: use one for all.")
    missing = []
    for name, result in evaluated.items():
        if policy not in result["image_to_report"]:
            missing.append(name)
    if missing:
        raise ValueError(f"{missing} have no recall under policy {policy!r}: evaluate with texts.")


def _draw_bars(
    axes: Axes, recall: Mapping[str, Mapping], metrics: Sequence[str], look: Mapping[str, Mapping]
) -> None:
    """One group of bars a metric, one bar in each group a variant."""
    groups = np.arange(len(metrics))
    group_width = 0.8
    step = group_width / len(recall)
    for place, name in enumerate(recall):
        shares = pd.DataFrame([recall[name][metric] for metric in metrics])
        percent = 100 * shares[["value", "low", "high"]].astype(float)
        value = percent["value"].to_numpy()
        down = value - percent["low"].to_numpy()
        up = percent["high"].to_numpy() - value
        whiskers = np.maximum([down, up], 0)
        x = groups + (place + 0.5) * step - group_width / 2
        colour = look[name]["color"]
        axes.bar(x, value, 0.88 * step, yerr=whiskers, color=colour, alpha=0.8)


def _draw_chance(axes: Axes, chance: pd.Series) -> LineCollection:
    """A dotted line across each group of bars."""
    groups = np.arange(len(chance))
    left = groups - 0.45
    right = groups + 0.45
    return axes.hlines(100 * chance, left, right, "k", ":", label="chance")


@styled
def curves(records: Sequence[Mapping], metrics: Sequence[str] = FIGURE3_METRICS) -> Figure:
    """Text metrics over the top K, FULL wide (Figure 3; its best-of-K row is ours).

    `records` hold one point each: `variant`, `direction`, `metric`, `k`, `mean` and `best`. The
    variants `floor` and `ceiling` are grey. Raises ValueError if a metric has no record.
    """
    look = looks(record["variant"] for record in records)
    table = pd.DataFrame(records)
    missing = sorted(set(metrics) - set(table["metric"]))
    if missing:
        raise ValueError(f"No record of {missing}: score them, or name the metrics to draw.")

    figure = Figure((FULL, 10.5 / CM_PER_INCH), layout="constrained")
    panels = figure.subplots(2, len(metrics), squeeze=False)
    ticks = [k for k in (1, 4, 7, 10) if k <= table["k"].max()]
    for row, value in enumerate(("mean", "best")):
        for column, metric in enumerate(metrics):
            axes = panels[row, column]
            points = table[table["metric"] == metric].sort_values("k")
            for group, line in points.groupby(["variant", "direction"]):
                name, direction = group
                line_style = LINES[direction]
                axes.plot(line["k"], line[value], ls=line_style, markevery=3, **look[name])
            title = _panel_title(metric, f"{value} of top K", columns=len(metrics))
            axes.set(title=title, xticks=ticks)
    for axes in panels[-1]:
        axes.set_xlabel("K")

    _add_legend(figure, _curve_handles(look))
    return figure


def _panel_title(metric: str, value: str, columns: int) -> str:
    """Both on one line, or on two if that is wider than one of the columns."""
    title = f"{metric}, {value}"
    size = FontProperties(size=rcParams["axes.titlesize"]).get_size_in_points()
    panel_width = POINTS_PER_INCH * FULL / columns
    if text_width(title, size) < 0.82 * panel_width:  # the rest is for the axis
        return title
    return f"{metric}\n{value}"


def _curve_handles(look: Mapping[str, Mapping]) -> list[Line2D]:
    """Legend entries of the variants, then the bounds, then the directions."""
    methods = [name for name in look if name not in BOUNDS]
    bounds = [name for name in look if name in BOUNDS]
    handles = []
    for name in [*methods, *bounds]:
        label = one_line(name, LONGEST_NAME)
        handles.append(Line2D([], [], label=label, **look[name]))
    for direction, line_style in LINES.items():
        label = tables.DIRECTION_LABELS[direction]
        handles.append(Line2D([], [], color="k", ls=line_style, label=label))
    return handles


@styled
def modality_gap(gaps: Mapping[str, Mapping]) -> Figure:
    """t-SNE of both modalities, one square panel a variant (Figure 4), with its numbers (ours).

    `gaps` holds by variant `tsne [2n, 2]`, the n images first, and `numbers` by name. The figure is
    COLUMN wide for one or two panels, else FULL. All panels are treated alike: equal axes around
    the data, no ticks. Raises ValueError if there are no variants.
    """
    _check_not_empty(gaps)
    rows = math.ceil(len(gaps) / 4)
    columns = math.ceil(len(gaps) / rows)
    width = COLUMN if columns < 3 else FULL
    height = rows * (width / columns + 1.1) + 0.2  # inches; 1.1 for title and numbers of a panel
    figure = Figure((width, height), layout="constrained")

    alignments = {"abm": "AbM (abm)", "mcr": "MbA (mcr)"}  # the paper's names
    for place, name in enumerate(gaps):
        axes = figure.add_subplot(rows, columns, place + 1)
        _draw_gap(axes, gaps[name])
        letter = chr(ord("a") + place)
        label = alignments.get(name, one_line(name, LONGEST_NAME))
        axes.set_title(f"({letter}) {label}")

    handles = []
    for modality in (IMAGES, REPORTS):
        symbol = {"color": modality.colour, "marker": modality.marker, "ls": ""}
        handles.append(Line2D([], [], label=modality.label, **symbol))
    _add_legend(figure, handles)
    return figure


def _draw_gap(axes: Axes, gap: Mapping) -> None:
    """Points of both modalities, and the numbers as a table below."""
    points = np.asarray(gap["tsne"], float)
    image_points, report_points = np.split(points, 2)
    for modality, own_points in ((IMAGES, image_points), (REPORTS, report_points)):
        axes.scatter(
            own_points[:, 0],
            own_points[:, 1],
            s=4,
            c=modality.colour,
            marker=modality.marker,
            lw=0,
            alpha=0.75,
            label=modality.label,
        )
    axes.set(box_aspect=1, aspect="equal", adjustable="datalim", xticks=[], yticks=[])
    axes.spines[:].set_visible(True)

    lines = []
    for name, number in gap["numbers"].items():
        label = name.replace("_", " ")
        lines.append(f"{label:<20}{number:>8.3f}")
    axes.set_xlabel("\n".join(lines), family="DejaVu Sans Mono", size=6, linespacing=1.4)


@styled
def lengths(frame: pd.DataFrame) -> Figure:
    """Words in a report, and pairs by split and by view, COLUMN wide (ours).

    `frame` is a manifest's: `report`, `split` and `view` of each pair.
    """
    figure = Figure((COLUMN, 7.5 / CM_PER_INCH), layout="constrained")
    layout = [["words", "words"], ["split", "view"]]
    panels = figure.subplot_mosaic(layout, height_ratios=(3, 2))

    words = frame["report"].str.split().str.len()
    median = words.median()
    sns.histplot(x=words, bins=30, ax=panels["words"], alpha=1, edgecolor="white")
    panels["words"].set(xlabel="words in a report", ylabel="pairs")

    for column in ("split", "view"):
        counts = frame[column].value_counts()
        axes = panels[column]
        sns.countplot(y=frame[column], order=counts.index, color=PALETTE[0], saturation=1, ax=axes)
        labels = []
        for name, count in counts.items():
            shown_name = one_line(name, LONGEST_NAME)
            labels.append(f"{shown_name}  {count:,}")
        axes.set_yticks(range(len(labels)), labels)
        axes.set(title=f"pairs by {column}", xticks=[], xlabel="", ylabel="")
        axes.grid(False)

    label = f"median of {median:.0f} words"
    median_line = panels["words"].axvline(median, color="k", label=label)
    _add_legend(figure, [median_line])
    return figure


@styled
def agreement(table: pd.DataFrame) -> Figure:
    """Which findings the first hit repeats: a heat map of F1, FULL wide (ours).

    `table` is that of `tables.agreement_table`; one panel a direction, one column a model.
    """
    findings = table.set_index("finding")
    height = 1.6 + 0.42 * len(findings)
    figure = Figure((FULL, height / CM_PER_INCH), layout="constrained")
    panels = figure.subplots(1, len(tables.DIRECTION_LABELS), sharey=True)
    for axes, direction in zip(panels, tables.DIRECTION_LABELS.values(), strict=True):
        columns = [name for name in findings.columns if name.endswith(f" {direction}")]
        scores = findings[columns].astype(float)
        models = [name.removesuffix(f" {direction}") for name in columns]
        names = [one_line(model, LONGEST_NAME) for model in models]
        _heat_map(axes, scores, names, vmax=1, cmap="Blues", fmt=".2f")
        axes.set(title=f"F1 of the first hit, {direction}", xlabel="", ylabel="")
        axes.tick_params(left=False, bottom=False, labelrotation=0)
    return figure


@styled
def first_hit_errors(table: pd.DataFrame) -> Figure:
    """What the first hit gets wrong: a heat map in %, FULL wide (ours).

    `table` is that of `tables.finding_errors`; one panel a class of error, one column a model. A
    cell is empty if there was nothing to get wrong. Raises ValueError if there is no finding.
    """
    if table.empty:
        raise ValueError("No pair has a finding, so there are no errors of findings to draw.")
    errors = [error for error in tables.FIRST_HIT.values() if error in table]
    return _panels_by_finding(table, errors, cmap="Reds")


@styled
def pointing_game(table: pd.DataFrame) -> Figure:
    """The pointing game by finding: a heat map in %, FULL wide (ours).

    `table` is that of `tables.pointing_by_finding`; one panel a method, one column a model. Raises
    ValueError if there is no finding.
    """
    if table.empty:
        raise ValueError("No finding's place is known, so there is no pointing game to draw.")
    methods = [method for method in tables.METHODS.values() if method in table]
    return _panels_by_finding(table, methods, cmap="Blues")


def _panels_by_finding(table: pd.DataFrame, titles: Sequence[str], cmap: str) -> Figure:
    """A heat map in %, one row a finding and one panel a title; `table`'s columns are pairs of a
    title and a model."""
    models = {model: one_line(model, LONGEST_NAME) for model in table.columns.unique("model")}
    size = FontProperties(size=rcParams["xtick.labelsize"]).get_size_in_points()
    longest_name = max(text_width(name, size) for name in models.values())
    height = (1.5 + 0.42 * len(table)) / CM_PER_INCH + longest_name / POINTS_PER_INCH
    figure = Figure((FULL, height), layout="constrained")
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        shares = table[title]
        names = [models[model] for model in shares.columns]
        _heat_map(axes, shares, names, vmax=100, cmap=cmap, fmt=".0f")
        axes.set(title=title, xlabel="", ylabel="")
        axes.grid(False)
        axes.tick_params(left=False, bottom=False)
        axes.tick_params("x", labelrotation=90)
    return figure


def _heat_map(axes: Axes, values: pd.DataFrame, names: Sequence[str], **look: Any) -> None:
    """A heat map from 0 up, with its numbers in the cells; `names` are those of the columns."""
    sns.heatmap(
        values,
        ax=axes,
        vmin=0,
        cbar=False,
        annot=True,
        annot_kws={"size": 6},
        linewidths=0.5,
        xticklabels=names,
        yticklabels=True,
        **look,
    )


@styled
def risk_by_coverage(measured: Mapping[str, Mapping]) -> Figure:
    """Risk of a wrong answer over the share of queries answered, COLUMN wide (ours).

    `measured` is the result of `seeds.over_seeds`, by variant; those without a curve are left out.
    One panel a direction. Raises ValueError if no variant has a curve.
    """
    curves = {}
    for name, result in measured.items():
        first_direction = result.get("image_to_report", {})
        if "coverage" in first_direction.get("AURC", {}):
            curves[name] = result
    look = looks(curves)
    figure = Figure((COLUMN, 6.5 / CM_PER_INCH), layout="constrained")
    panels = figure.subplots(1, len(LINES), sharex=True, sharey=True)
    for axes, direction in zip(panels, LINES, strict=True):
        for name, result in curves.items():
            curve = result[direction]["AURC"]
            coverage = 100 * np.array(curve["coverage"])
            risk = 100 * np.array(curve["risk"])
            label = one_line(name, LONGEST_NAME)
            axes.plot(coverage, risk, markevery=0.2, label=label, clip_on=False, **look[name])
        axes.set(title=tables.DIRECTION_LABELS[direction], xlabel="queries answered (%)")
        axes.set(xlim=(0, 100), ylim=(0, None))
    panels[0].set_ylabel("wrong answers (%)")
    _add_legend(figure, panels[0].get_lines())
    return figure


@styled
def probe_accuracy(measured: Mapping[str, Mapping]) -> Figure:
    """Accuracy on minimal pairs by what is changed, one dot a variant, COLUMN wide (ours).

    `measured` is the result of `seeds.over_seeds` of `probes.evaluate`, by variant; one panel a
    direction. Whiskers are 95 % intervals or, over several seeds, one standard deviation; dotted:
    chance. Raises ValueError if no variant was asked about any pair.
    """
    rows = {}
    for direction, labels in tables.PROBES.items():
        present = [result.get(direction, {}) for result in measured.values()]
        changes = [name for name in labels if any(name in blocks for blocks in present)]
        if changes:
            rows[direction] = changes
    if not rows:
        raise ValueError("No pair has anything to change: there is no minimal pair to draw.")
    look = looks(measured)
    heights = [len(changes) for changes in rows.values()]
    row_height = 0.35 + 0.13 * len(look)
    height = 2.2 + 0.6 * len(rows) + row_height * sum(heights)
    figure = Figure((COLUMN, height / CM_PER_INCH), layout="constrained")
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=heights)
    for axes, direction in zip(panels[:, 0], rows, strict=True):
        blocks_of = {name: result.get(direction, {}) for name, result in measured.items()}
        _draw_dots(axes, rows[direction], blocks_of, look)
        labels = [tables.PROBES[direction][change] for change in rows[direction]]
        axes.set_yticks(range(len(labels)), labels)
        axes.set(title=tables.DIRECTION_LABELS[direction], ylim=(len(labels) - 0.5, -0.5))
    panels[-1, 0].set(xlabel="pairs told right (%)", xlim=(0, 100))
    chance = Line2D([], [], color="0.3", ls=":", label="chance")
    _add_legend(figure, [*_handles(look, ls=""), chance])
    return figure


def _draw_dots(
    axes: Axes,
    changes: Sequence[str],
    blocks_of: Mapping[str, Mapping[str, Any]],
    look: Mapping[str, Mapping],
) -> None:
    """One row a change, in it one dot a variant with its whiskers, one below the other."""
    step = 0.7 / len(look)
    for name, shift in zip(look, step * _places_of(len(look)), strict=True):
        for row, change in enumerate(changes):
            block = blocks_of[name].get(change)
            if block is None or block["value"] is None:
                continue
            value, whiskers = _in_percent([block])
            axes.errorbar(value, row + shift, xerr=whiskers, ls="", clip_on=False, **look[name])
    axes.axvline(50, color="0.3", ls=":", zorder=1)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.tick_params("y", length=0)


@styled
def time_and_memory(table: pd.DataFrame) -> Figure:
    """Time over saved activations of a training step, one line a variant, COLUMN wide (ours).

    `table` is that of `tables.step_table`; its rows of 128 tokens are drawn. Each point is a level
    of recomputation. Raises ValueError if there are no such rows.
    """
    steps = table[table["tokens"] == 128]
    look = looks(steps["variant"].unique())
    figure = Figure((COLUMN, 8 / CM_PER_INCH), layout="constrained")
    axes = figure.subplots()
    for name, line in steps.groupby("variant", sort=False):
        activations = line["activations ratio"].tolist()
        time = line["time ratio"].tolist()
        axes.plot(activations, time, label=one_line(name, LONGEST_NAME), **look[name])
        for level, x, y in zip(line["level"], activations, time, strict=True):
            axes.annotate(level, (x, y), (3, 3), textcoords="offset points", size=6)
    axes.set(xlim=(0, None), ylim=(0, None))
    axes.set(xlabel="activations, dual without recomputation = 1", ylabel="time, the same = 1")
    _add_legend(figure, axes.get_lines())
    return figure


APART = 1.03  # factor between variants that had equal compute


@styled
def rsum_by_cost(points: Sequence[Mapping[str, Any]]) -> Figure:
    """RSUM over the compute and the peak memory of training, one line a variant, FULL wide (ours).

    `points` are those of `companion.scaling.measure`; whiskers are their intervals. Markers are
    larger for more compute, whose axis has a mark at each compute of the first variant; variants
    stand a little apart, so that no whisker hides another. Raises ValueError without points.
    """
    table = pd.DataFrame(points)
    if table.empty:
        raise ValueError("There is no model whose compute was counted: train one first.")
    table = table.sort_values("times", kind="stable")
    variants = list(dict.fromkeys(point["variant"] for point in points))
    look = looks(variants)
    figure = Figure((FULL, 7 / CM_PER_INCH), layout="constrained")
    over_compute, over_memory = figure.subplots(1, 2, sharey=True)
    for variant, beside in zip(variants, APART ** _places_of(len(variants)), strict=True):
        line = table[table["variant"] == variant]
        flops = beside * line["flops"]
        rsum, whiskers = _in_percent(line.to_dict("records"))
        colour = look[variant]["color"]
        over_compute.errorbar(flops, rsum, whiskers, color=colour, capsize=2, ls="")
        sizes = 14 * line["times"]  # square points
        _draw_cost(over_compute, flops, rsum, sizes, look[variant])
        _draw_cost(over_memory, line["memory_gb"], rsum, sizes, look[variant])
    over_compute.set_xscale("log")
    marks = table.loc[table["variant"] == variants[0], "flops"].tolist()
    over_compute.set_xticks(marks, [operations(flops) for flops in marks])
    over_compute.set_xticks([], minor=True)
    over_compute.set(xlabel="compute of training", ylabel="RSUM (%)")
    over_memory.set(xlabel="peak memory of training (GB)", xlim=(0, None))
    over_memory.locator_params("x", nbins=5)
    _add_legend(figure, _handles(look))
    return figure


@styled
def growth(
    points: Sequence[Mapping[str, Any]],
    slopes: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
) -> Figure:
    """Endpoints over the number of training pairs, one line a variant, FULL wide (ours).

    `points` and `slopes` are those of `companion.growth.measure`; `names` are the endpoints to
    draw, one panel each, and their labels. Whiskers are intervals, lines least squares ones; a
    variant without a slope has no line. Raises ValueError without points.
    """
    if not points:
        raise ValueError("There is no model to draw: train one first.")
    variants = list(dict.fromkeys(point["variant"] for point in points))
    look = looks(variants)
    sizes = sorted({point["pairs"] for point in points})
    figure = Figure((FULL, 7 / CM_PER_INCH), layout="constrained")
    panels = figure.subplots(1, len(names))
    for axes, endpoint in zip(panels, names, strict=True):
        measured = [point for point in points if point[endpoint] is not None]
        for variant, beside in zip(variants, APART ** _places_of(len(variants)), strict=True):
            own = [point for point in measured if point["variant"] == variant]
            _draw_growth(axes, own, endpoint, beside, look[variant])
        for record in slopes:
            variant = record["variant"]
            if record["endpoint"] == endpoint:
                own = [point for point in points if point["variant"] == variant]
                _draw_slope(axes, own, record, look[variant]["color"])
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="training pairs", ylabel=f"{names[endpoint]} (%)")
    _add_legend(figure, _handles(look))
    return figure


def _draw_growth(
    axes: Axes, points: Sequence[Mapping], endpoint: str, beside: float, look: Mapping[str, Any]
) -> None:
    """One variant's values with their intervals, moved sideways by the factor `beside`."""
    pairs = [beside * point["pairs"] for point in points]
    values, whiskers = _in_percent([point[endpoint] for point in points])
    axes.errorbar(pairs, values, whiskers, color=look["color"], capsize=2, ls="")
    axes.scatter(pairs, values, 14, zorder=3, **look)


def _draw_slope(axes: Axes, points: Sequence[Mapping], record: Mapping, color: Any) -> None:
    """The least squares line through one variant's values."""
    doublings = np.log2([point["pairs"] for point in points])
    values = [100 * point[record["endpoint"]]["value"] for point in points]
    line = np.mean(values) + 100 * record["slope"] * (doublings - doublings.mean())
    pairs = 2.0**doublings
    axes.plot(pairs, line, color=color, lw=1)


def _draw_cost(
    axes: Axes, cost: pd.Series, rsum: np.ndarray, sizes: pd.Series, look: Mapping[str, Any]
) -> None:
    """A line through one variant's values over what they cost; markers grow with the compute."""
    axes.plot(cost, rsum, color=look["color"])
    axes.scatter(cost, rsum, sizes, zorder=3, **look)


# How a difference between two models is drawn, by its verdict.
VERDICTS = {
    "better": {"color": PALETTE[0], "mfc": PALETTE[0], "label": "better than mcr"},
    "worse": {"color": PALETTE[13], "mfc": PALETTE[13], "label": "worse"},
    "open": {"color": "0.25", "mfc": "white", "label": "cannot be told"},
}


@styled
def ablation_differences(
    listed: Sequence[tables.Ablation], compared: Mapping[str, Mapping]
) -> Figure:
    """Differences of RSUM and nDCG@10 to `mcr`, one row an ablation, FULL wide (ours).

    `compared` has the record of each variant, as `companion.ablations.compare` gives it; rows whose
    variant is not in it, and those of `mcr`, are left out. The grey band is what a test would find
    with less than 80 % power. Raises ValueError if no row is left.
    """
    rows = [row for row in listed if row.variant in compared and row.variant != "mcr"]
    if not rows:
        raise ValueError("There is no ablation to draw: train and embed one first.")
    place_of = _places(rows)
    lowest = max(place_of.values())
    figure = Figure((FULL, (2.8 + 0.4 * lowest) / CM_PER_INCH), layout="constrained")
    panels = figure.subplots(1, len(tables.ABLATION_MEASURES), sharey=True)
    for axes, measure in zip(panels, tables.ABLATION_MEASURES, strict=True):
        for row in rows:
            block = compared[row.variant][measure]
            if block is not None:
                _draw_difference(axes, place_of[row], block)
        axes.axvline(0, color="0.4", zorder=1)
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.tick_params("y", length=0)
        name = tables.ABLATION_MEASURES[measure]
        axes.set_xlabel(f"{name}: difference to mcr (points)")
    axes.set_ylim(lowest + 0.6, -0.6)
    _name_places(panels[0], place_of)

    handles = [Line2D([], [], marker="o", **look) for look in VERDICTS.values()]
    handles.append(Patch(color="0.9", label="found with less than 80 % power"))
    _add_legend(figure, handles)
    return figure


def _places(rows: Sequence[tables.Ablation]) -> dict[str | tables.Ablation, int]:
    """Places from the top, of each group's title and, below it, of its rows."""
    place_of = {}
    for row in rows:
        place_of.setdefault(row.group, len(place_of))
        place_of[row] = len(place_of)
    return place_of


def _name_places(axes: Axes, place_of: Mapping[str | tables.Ablation, int]) -> None:
    """Write the settings beside their places, and the groups' titles in bold."""
    names = []
    for entry in place_of:
        names.append(entry if isinstance(entry, str) else entry.setting)
    axes.set_yticks(list(place_of.values()), names)
    for entry, label in zip(place_of, axes.get_yticklabels(), strict=True):
        if isinstance(entry, str):
            label.set_fontweight("bold")


def _draw_difference(axes: Axes, place: int, block: Mapping[str, Any]) -> None:
    """The band of what cannot be told, and over it the difference with its interval."""
    if block["detectable"] is not None:
        band = 100 * block["detectable"]
        axes.barh(place, 2 * band, 1, -band, color="0.9", zorder=0)
    look = VERDICTS.get(block["verdict"], VERDICTS["open"])
    whiskers = _whiskers(block)[:, None]
    axes.errorbar(100 * block["difference"], place, xerr=whiskers, marker="o", **look)


def _whiskers(block: Mapping[str, Any]) -> np.ndarray:
    """How far a difference's interval reaches down and up, in points; nothing for `mcr` itself."""
    if "difference" not in block:
        return np.zeros(2)
    down = block["difference"] - block["low"]
    up = block["high"] - block["difference"]
    return np.array([100 * down, 100 * up]).clip(min=0)


@styled
def ablation_curves(
    variant_of_share: Mapping[str, Mapping[float, str]], compared: Mapping[str, Mapping]
) -> Figure:
    """RSUM and nDCG@10 over the masked share, COLUMN wide (ours): one column of panels a mask.

    `variant_of_share` holds by mask the variant of each share; `compared` is that of
    `ablation_differences`, and shares whose variant is not in it are left out. Whiskers are the
    intervals of the differences to `mcr`, whose value is dashed. The point without a mask is apart,
    since it has no reconstruction either. Raises ValueError without `mcr`.
    """
    if "mcr" not in compared:
        raise ValueError("There is no mcr to compare with: train and embed it first.")
    measures = tables.ABLATION_MEASURES
    figure = Figure((COLUMN, 9 / CM_PER_INCH), layout="constrained")
    shape = (len(measures), len(variant_of_share))
    panels = figure.subplots(*shape, sharex="col", sharey="row", squeeze=False)
    for row, measure in enumerate(measures):
        blocks = {variant: compared[variant][measure] for variant in compared}
        for column, mask in enumerate(variant_of_share):
            _draw_mask_curve(panels[row, column], variant_of_share[mask], blocks)
            panels[-1, column].set_xlabel(f"{mask} (%)")
        panels[row, 0].set_ylabel(f"{measures[measure]} (%)")

    look = {"color": PALETTE[0], "marker": "o"}
    masked = Line2D([], [], label="masked", **look)
    unmasked = Line2D([], [], label="no mask, not reconstructed", ls="", mfc="white", **look)
    baseline = Line2D([], [], label="mcr", color="0.4", ls="--")
    _add_legend(figure, [masked, unmasked, baseline])
    return figure


def _draw_mask_curve(
    axes: Axes, variant_of_share: Mapping[float, str], blocks: Mapping[str, Mapping | None]
) -> None:
    """A line through the masked shares, the point without a mask apart from it, and `mcr`."""
    shares = sorted(variant_of_share)
    points = []
    for share in shares:
        block = blocks.get(variant_of_share[share])
        if block is not None:
            value = 100 * block["value"]
            points.append([share, value, *_whiskers(block)])
    points = np.reshape(points, (-1, 4))
    is_masked = points[:, 0] > 0
    _draw_points(axes, points[is_masked], ls="-", mfc=PALETTE[0])
    _draw_points(axes, points[~is_masked], ls="", mfc="white")
    baseline = blocks["mcr"]
    if baseline is not None:
        axes.axhline(100 * baseline["value"], color="0.4", ls="--", zorder=1)
    names = [f"{100 * share:g}" for share in shares]
    if shares[0] == 0:
        names[0] = "none"
    axes.set_xticks(shares, names)


def _draw_points(axes: Axes, points: np.ndarray, **look: Any) -> None:
    """Points [n, 4], each with its place, its value and its whiskers down and up."""
    x, y, down, up = points.T
    axes.errorbar(x, y, [down, up], color=PALETTE[0], marker="o", capsize=2, **look)


@styled
def robustness(conditions: Sequence[Mapping], measured: Mapping[str, Mapping]) -> Figure:
    """RSUM and the share of it that is kept over the strength of a corruption, FULL wide (ours).

    `conditions` are those of `companion.robustness`, the unchanged one first; `measured` is
    `over_seeds` of its models. One column of two panels a corruption, four in a row, lines by
    variant. Whiskers are 95 % intervals or, over several seeds, one standard deviation. Raises
    ValueError if there are no variants.
    """
    look = looks(measured)
    unchanged, *others = conditions
    corruptions = list(dict.fromkeys(condition["corruption"] for condition in others))
    columns = min(4, len(corruptions))
    blocks = math.ceil(len(corruptions) / columns)
    figure = Figure((FULL, (1.2 + 7.6 * blocks) / CM_PER_INCH), layout="constrained")
    panels = figure.subplots(2 * blocks, columns, squeeze=False)
    unused = set(panels.flat)
    for place, corruption in enumerate(corruptions):
        block, column = divmod(place, columns)
        strengths = [unchanged]
        strengths += [condition for condition in others if condition["corruption"] == corruption]
        own = panels[2 * block : 2 * block + 2, column]
        unused -= set(own)
        for axes, measure in zip(own, ("RSUM", "RSUM_kept"), strict=True):
            _draw_strengths(axes, strengths, measured, measure, look)
        own[0].set_title(corruption)
        own[0].tick_params("x", labelbottom=False)
        if column == 0:
            own[0].set_ylabel("RSUM (%)")
            own[1].set_ylabel("RSUM kept (%)")
    for rows in (panels[::2], panels[1::2]):
        shown = [axes for axes in rows.flat if axes not in unused]
        top = max(axes.get_ylim()[1] for axes in shown)
        for axes in shown:
            axes.set_ylim(0, top)
    for axes in unused:
        axes.remove()
    _add_legend(figure, _handles(look))
    return figure


def _draw_strengths(
    axes: Axes,
    strengths: Sequence[Mapping],
    measured: Mapping[str, Mapping],
    measure: str,
    look: Mapping[str, Mapping],
) -> None:
    """One line a variant over the strengths of a corruption, a little apart so that all show."""
    places = np.arange(len(strengths))
    offsets = 0.36 * _places_of(len(measured)) / max(3, len(measured))
    for name, offset in zip(measured, offsets, strict=True):
        cells = [measured[name][condition["name"]][measure] for condition in strengths]
        values, whiskers = _in_percent(cells)
        axes.errorbar(places + offset, values, whiskers, elinewidth=0.6, **look[name])
    labels = ["none", *(condition["label"] or "other" for condition in strengths[1:])]
    axes.set_xticks(places, labels)
    axes.set_xlim(-0.4, len(strengths) - 0.6)
