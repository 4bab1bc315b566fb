"""What the explorer draws: heat over a radiograph, and a map of a split (ours)."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from mcrlib.companion.explorer import Pool, png
from mcrlib.evaluation.finding_rules import NO_FINDING
from mcrlib.evaluation.modality_gap import project

# Of all heat maps, whatever the hit: a share of the cosine this large has the full colour.
FULL_SHARE = 0.1
FOR = np.array([230, 97, 0])  # orange: raises the score; told apart without red and green
AGAINST = np.array([0, 90, 220])  # blue: lowers it
STRONGEST = 0.65  # opacity of the full colour, so that the radiograph stays visible
HEAT_SIDE = 448  # pixels of a heat map
THUMBNAIL = 64  # pixels of a picture on the map of a split
MAPPED = 500  # pairs on the map at most
METHODS = ("PCA", "t-SNE")
SMALLEST_EXTENT = 1e-12  # of a map; equal points stay where they are
TOLD = 160  # characters of a report that are shown beside a point
LISTED = 50  # rows of the table, and pairs to ask with


def opacity(shares: np.ndarray | float) -> np.ndarray:
    """How strong the colour of each share of the cosine is, from 0 to `STRONGEST`."""
    of_full = np.abs(shares) / FULL_SHARE
    return STRONGEST * np.minimum(of_full, 1.0)


def heat(picture: np.ndarray, shares: np.ndarray, pixels: int = HEAT_SIDE) -> np.ndarray:
    """A radiograph, uint8 `[S, S]`, under its patches' shares of the cosine, `[side, side]`.

    uint8 `[pixels, pixels, 3]`: orange patches raise the score, blue ones lower it.
    """
    size = (pixels, pixels)
    resized = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
    grey = np.asarray(resized)[..., None]
    patch_of_pixel = np.arange(pixels) * len(shares) // pixels
    of_pixels = shares[np.ix_(patch_of_pixel, patch_of_pixel)]
    share = of_pixels[..., None]
    strength = opacity(share)
    colour = np.where(share >= 0, FOR, AGAINST)
    mixed = grey * (1 - strength) + colour * strength
    return mixed.round().astype(np.uint8)


def css_colour(share: float) -> str:
    """The background of a word with this share of the cosine, as a style sheet says it."""
    red, green, blue = FOR if share >= 0 else AGAINST
    return f"rgba({red}, {green}, {blue}, {opacity(share):.2f})"


def picture_html(picture: np.ndarray, alternative: str, css_class: str) -> str:
    """An `img` with the picture inside; `alternative` is escaped."""
    address = _url(png(picture), "png")
    return f'<img class="{css_class}" alt="{html.escape(alternative)}" src="{address}">'


def _url(content: bytes, kind: str) -> str:
    """A picture's file as an address that needs no other file."""
    encoded = base64.b64encode(content).decode()
    return f"data:image/{kind};base64,{encoded}"


def thumbnail_url(pool: Pool, pair: int) -> str:
    """The small radiograph of a pair, as an address of about one KB."""
    picture = Image.fromarray(pool.picture(pair))
    small = picture.resize((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "jpeg", quality=70)
    return _url(buffer.getvalue(), "jpeg")


def most_telling(shares: np.ndarray, most: int = 3) -> str:
    """The patches with the largest shares, in words, for those who do not see the colours."""
    strongest_first = np.argsort(-np.abs(shares), axis=None)
    told = []
    for patch in strongest_first[:most].tolist():
        row, column = divmod(patch, len(shares))
        share = shares[row, column]
        told.append(f"row {row + 1}, column {column + 1}: {share:+.3f}")
    return "; ".join(told)


def heat_html(picture: np.ndarray, shares: np.ndarray, about: str, pixels: int = HEAT_SIDE) -> str:
    """The heat map with an alternative text that names the strongest patches."""
    alternative = f"{about}. Strongest patches: {most_telling(shares)}"
    return picture_html(heat(picture, shares, pixels), alternative, "mcr-heat")


# The map of a split


def split_map(pool: Pool, method: str = "PCA", most: int = MAPPED) -> pd.DataFrame:
    """Where images and reports of a split lie in the common space, projected to the plane.

    Two rows a pair: `x` and `y` from 0 to 1, `half` (image or report), `pair` (its number),
    `pair_id`, `view`, `report` and `findings` (a set). The first `most` pairs are mapped. `method`
    is one of METHODS; both give the same map each time. Raises ValueError for another method and
    for fewer than three pairs.
    """
    if method not in METHODS:
        raise ValueError(f"The method is one of {', '.join(METHODS)}: got {method!r}.")
    count = min(most, len(pool))
    if count < 3:
        raise ValueError(f"A map takes at least three pairs, and this split has {count}.")
    pairs = np.arange(count)
    images = pool.embedded["image"].take(pairs)
    reports = pool.embedded["report"].take(pairs)
    rows = np.concatenate([images, reports])
    points = project(rows) if method == "t-SNE" else _main_directions(rows)
    points = points - points.min(axis=0)
    points /= np.maximum(points.max(axis=0), SMALLEST_EXTENT)
    table = pd.DataFrame(points, columns=["x", "y"])
    table["half"] = np.repeat(["image", "report"], count)
    table["pair"] = np.tile(pairs, 2)
    mapped = pool.frame.iloc[pairs]
    for name in ("pair_id", "view", "report"):
        table[name] = np.tile(mapped[name], 2)
    named = [findings_of(pool, pair) for pair in pairs.tolist()]
    table["findings"] = named * 2
    return table


def _main_directions(rows: np.ndarray) -> np.ndarray:
    """The rows `[n, E]` in their two main directions, `[n, 2]` (PCA)."""
    centred = rows - rows.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    directions = vectors.T[:-3:-1]
    # The sign of a direction is free: its largest number is made positive.
    for direction in directions:
        largest = np.abs(direction).argmax()
        if direction[largest] < 0:
            direction *= -1
    return centred @ directions.T


def findings_of(pool: Pool, pair: int) -> frozenset[str]:
    """Names of the findings of a pair; "No Finding" alone if it has none."""
    names = frozenset(one.finding for one in pool.attributes(pair) if not one.kind)
    return names or frozenset([NO_FINDING])


def frequent_findings(table: pd.DataFrame) -> list[str]:
    """All findings of the pairs on a map, the most frequent first."""
    of_images = table.loc[table["half"] == "image", "findings"]
    return of_images.explode().value_counts().index.tolist()


def chosen_points(
    table: pd.DataFrame, across: Sequence[float], up: Sequence[float]
) -> pd.DataFrame:
    """The points of a map with x and y within two ranges (low, high)."""
    is_inside = table["x"].between(*across) & table["y"].between(*up)
    return table[is_inside]


def map_html(pool: Pool, table: pd.DataFrame, finding: str, lines: bool = True) -> str:
    """A map as HTML: circles are images, squares reports, orange those with `finding`.

    A point that is pointed at shows its radiograph and the beginning of its report. `lines` joins
    the partners. The table beside the map is what a keyboard or a screen reader uses.
    """
    points = ""
    for row in table.itertuples():
        points += _point_html(pool, row, finding)
    joined = _lines_html(table) if lines else ""
    count = table["pair"].nunique()
    about = (
        f"Map of {count} pairs of the {pool.split} split; orange: {finding}. The table has the "
        "same pairs."
    )
    label = html.escape(about)
    return f'<div class="mcr-map" role="img" aria-label="{label}">{joined}{points}</div>'


def _point_html(pool: Pool, row: object, finding: str) -> str:
    """One point with what appears when it is pointed at."""
    kind = f"mcr-point-{row.half}"
    if finding in row.findings:
        kind += " mcr-point-has"
    tip = "mcr-tip"
    if row.x > 0.5:
        tip += " mcr-tip-left"  # so that it does not leave the map
    if row.y < 0.5:
        tip += " mcr-tip-up"
    alternative = html.escape(f"Radiograph {row.pair_id}")
    thumbnail = f'<img alt="{alternative}" src="{thumbnail_url(pool, row.pair)}">'
    left = 100 * row.x
    top = 100 * (1 - row.y)
    place = f"left:{left:.2f}%;top:{top:.2f}%"
    name = html.escape(row.pair_id)
    report = html.escape(shortened(row.report))
    told = f"<b>{name}</b> {report}"
    return (
        f'<div class="mcr-point {kind}" style="{place}">'
        f'<div class="{tip}">{thumbnail}{told}</div></div>'
    )


def _lines_html(table: pd.DataFrame) -> str:
    """Lines between the image and the report of each pair."""
    images = table[table["half"] == "image"]
    reports = table[table["half"] == "report"]
    drawn = ""
    for one, other in zip(images.itertuples(), reports.itertuples(), strict=True):
        start = _line_end(1, one.x, one.y)
        end = _line_end(2, other.x, other.y)
        drawn += f"<line {start} {end}/>"
    return (
        '<svg class="mcr-lines" viewBox="0 0 1 1" preserveAspectRatio="none" '
        f'aria-hidden="true">{drawn}</svg>'
    )


def _line_end(number: int, x: float, y: float) -> str:
    """One end of a line as SVG writes it, whose y grows downwards."""
    return f'x{number}="{x:.4f}" y{number}="{1 - y:.4f}"'


def table_html(points: pd.DataFrame, most: int = LISTED) -> str:
    """Pairs of a map as a table, at most `most` rows; all text is escaped.

    The Tab key reaches the table, so that the arrow keys can scroll it.
    """
    pairs = points.drop_duplicates("pair")
    rows = ""
    listed = pairs.head(most)
    for row in listed.itertuples():
        names = ", ".join(sorted(row.findings))
        rows += _row_html([row.pair_id, row.view, names, shortened(row.report)])
    caption = f"<caption>{len(listed):,} of {len(pairs):,} chosen pairs</caption>"
    table = f'<table class="mcr-table">{caption}{TABLE_HEAD}<tbody>{rows}</tbody></table>'
    return f'<div class="mcr-scroll" tabindex="0" role="region" {TABLE_NAME}>{table}</div>'


def _row_html(cells: Sequence[str]) -> str:
    row = ""
    for cell in cells:
        row += f"<td>{html.escape(cell)}</td>"
    return f"<tr>{row}</tr>"


TABLE_NAME = 'aria-label="Chosen pairs"'
TABLE_HEAD = (
    '<thead><tr><th scope="col">Pair</th><th scope="col">View</th>'
    '<th scope="col">Findings</th><th scope="col">Report</th></tr></thead>'
)


def shortened(text: str) -> str:
    """The beginning of a report on one line."""
    line = " ".join(text.split())
    return line if len(line) <= TOLD else line[: TOLD - 1] + "…"
