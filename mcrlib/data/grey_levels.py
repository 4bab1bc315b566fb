"""Pixels of any depth -> eight bits, in little memory, and the limits of a picture (ours).

Integers of up to 16 bits are never turned into floats one by one: every possible value is
converted once, in a table, and the picture is looked up in it.
"""

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

# Together, the limits keep any picture below two seconds and 500 MB.
MAX_FILE_BYTES = 2**27  # of a file; a radiograph of 20 million pixels has a third of it
MAX_PIXELS = 200_000_000  # in the file's header; the largest detectors have a tenth of it
MAX_DECODED_BYTES = 125_000_000  # of the decoder's picture; a PNG has 100 MB a second

PERCENTILES = (0.5, 99.5)  # window of images with more than eight bits and no window of their own
WHOLE_RANGE = (0.0, 100.0)  # percentiles too: from the darkest to the brightest pixel
MIN_SPAN = 1e-12  # grey levels; avoids a division by zero if all pixels are equal
BAND = 500_000  # pixels converted at once
SAMPLE = 1_000_000  # pixels from which the window is taken if there are too many values for a table
TABLE_BITS = 16  # of a pixel; more would take too large a table
RED_GREEN_BLUE = (19595, 38470, 7471)  # shares of a grey, in 65536ths (ITU-R 601, as in Pillow)

Levels = Callable[[np.ndarray], np.ndarray]


class Refusal(ValueError):
    """Why an image is not read, as a sentence for the user."""


def check_count(width: int, height: int) -> None:
    """Raises Refusal if a picture declares more than `MAX_PIXELS` pixels."""
    if width * height > MAX_PIXELS:
        raise Refusal(f"image declares more than {MAX_PIXELS:,} pixels")


def check_decoded(n_bytes: int) -> None:
    """Raises Refusal if the decoder's picture would take more than `MAX_DECODED_BYTES`."""
    if n_bytes > MAX_DECODED_BYTES:
        limit = MAX_DECODED_BYTES // 10**6
        raise Refusal(f"image takes more than {limit} MB when it is decoded")


def unchanged(values: np.ndarray) -> np.ndarray:
    """Grey levels of pixels without any conversion of their own."""
    return values


def none_of(values: np.ndarray) -> np.ndarray:
    """Which pixels are padding, for images without padding: none."""
    return np.zeros(values.shape, bool)


def eight_bits(
    pixels: np.ndarray | Image.Image,
    levels: Levels = unchanged,
    is_padding: Levels = none_of,
    percentiles: tuple[float, float] = PERCENTILES,
    limits: tuple[float, float] | None = None,
) -> np.ndarray:
    """Grey levels between two limits, or else two percentiles, spread over 0 to 255.

    Returns uint8 `[H, W]`. Raises Refusal if the pixels are no numbers.

    `pixels` is an array `[H, W]` or a Pillow image of mode `I;16`. `levels` turns pixel values
    into grey levels, element by element, and `is_padding` says which are no part of the picture:
    they do not count for the percentiles, and become black.
    """
    dtype = np.dtype("<u2")  # of Pillow's mode I;16
    if isinstance(pixels, np.ndarray):
        dtype = pixels.dtype
    if dtype.kind not in "biuf":
        raise Refusal(f"pixels are of the type {dtype}, where numbers are needed")
    if dtype.kind in "iu" and 8 * dtype.itemsize <= TABLE_BITS:
        return _by_table(pixels, dtype, levels, is_padding, percentiles, limits)
    return _by_bands(pixels, levels, is_padding, percentiles, limits)


def grey_of_colour(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 `[H, W, 3]` (red, green, blue) -> the greys, of the same type, `[H, W]`."""
    greys = np.empty(pixels.shape[:2], pixels.dtype.newbyteorder("="))
    for rows in _bands(*greys.shape):
        band = pixels[rows].astype(np.uint32)
        total = np.full(band.shape[:2], 2**15, np.uint32)  # rounds
        for channel, share in enumerate(RED_GREEN_BLUE):
            total += band[..., channel] * np.uint32(share)
        greys[rows] = total >> 16
    return greys


def all_values(dtype: np.dtype) -> np.ndarray:
    """Every value of an integer type of up to 16 bits, in the order of the unsigned ones."""
    n_bytes = dtype.itemsize
    indices = np.arange(256**n_bytes, dtype=f"u{n_bytes}")
    return indices.view(f"{dtype.kind}{n_bytes}")


def _by_table(
    pixels: np.ndarray | Image.Image,
    dtype: np.dtype,
    levels: Levels,
    is_padding: Levels,
    percentiles: tuple[float, float],
    limits: tuple[float, float] | None,
) -> np.ndarray:
    values = all_values(dtype)
    padding = is_padding(values)
    counts = _count(pixels, len(values))
    greys = _finite(levels(values))
    shown = np.where(padding, 0, counts)
    if not shown.any():  # all of it is padding, which makes no sense
        shown = counts
        padding = none_of(values)
    if limits is None:
        limits = _weighted_percentiles(greys, shown, percentiles)
    table = _spread(greys, limits)
    table[padding] = 0
    return look_up(pixels, table)


def _by_bands(
    pixels: np.ndarray,
    levels: Levels,
    is_padding: Levels,
    percentiles: tuple[float, float],
    limits: tuple[float, float] | None,
) -> np.ndarray:
    """For pixels with too many possible values; the window is that of a sample."""
    step = int(np.ceil(np.sqrt(pixels.size / SAMPLE)))
    sample = pixels[::step, ::step]
    shown = ~is_padding(sample)
    if not shown.any():
        is_padding = none_of
        shown = np.ones(sample.shape, bool)
    if limits is None:
        limits = np.percentile(_finite(levels(sample))[shown], percentiles)
    result = np.empty(pixels.shape, np.uint8)
    for rows in _bands(*pixels.shape):
        band = pixels[rows]
        greys = _spread(_finite(levels(band)), limits)
        greys[is_padding(band)] = 0
        result[rows] = greys
    return result


def look_up(pixels: np.ndarray | Image.Image, table: np.ndarray) -> np.ndarray:
    """The table's entries for pixels of up to 16 bits, `[H, W]`; a negative one counts from 2^n."""
    height, width = _shape(pixels)
    result = np.empty((height, width), table.dtype)
    for rows in _bands(height, width):
        result[rows] = table[_indices(pixels, rows)]
    return result


def _count(pixels: np.ndarray | Image.Image, n_values: int) -> np.ndarray:
    """How often each value occurs."""
    counts = np.zeros(n_values, np.int64)
    for rows in _bands(*_shape(pixels)):
        indices = _indices(pixels, rows)
        counts += np.bincount(indices.ravel(), minlength=n_values)
    return counts


def _indices(pixels: np.ndarray | Image.Image, rows: slice) -> np.ndarray:
    """Some rows, as unsigned integers of the machine's byte order."""
    if isinstance(pixels, Image.Image):
        return np.asarray(pixels.crop((0, rows.start, pixels.width, rows.stop)))
    band = pixels[rows]
    band = band.astype(band.dtype.newbyteorder("="), copy=False)
    return band.view(f"u{band.dtype.itemsize}")


def _shape(pixels: np.ndarray | Image.Image) -> tuple[int, int]:
    if isinstance(pixels, Image.Image):
        return pixels.height, pixels.width
    return pixels.shape


def _bands(height: int, width: int) -> Iterator[slice]:
    """Slices of rows that hold about `BAND` pixels."""
    n_rows = max(1, BAND // width)
    for top in range(0, height, n_rows):
        yield slice(top, min(top + n_rows, height))


def _finite(levels: np.ndarray) -> np.ndarray:
    return np.nan_to_num(levels.astype(np.float32))


def _weighted_percentiles(
    levels: np.ndarray, counts: np.ndarray, percentiles: tuple[float, float]
) -> list[float]:
    """`numpy.percentile` of an array in which `levels[i]` occurs `counts[i]` times."""
    present = counts > 0
    levels = levels[present].astype(np.float64)
    counts = counts[present]
    order = np.argsort(levels, kind="stable")
    levels = levels[order]
    ends = np.cumsum(counts[order])  # rank after the last pixel of each level
    result = []
    for percentile in percentiles:
        rank = (ends[-1] - 1) * (percentile / 100)
        below = levels[np.searchsorted(ends, np.floor(rank), side="right")]
        above = levels[np.searchsorted(ends, np.ceil(rank), side="right")]
        result.append(below + (above - below) * (rank - np.floor(rank)))
    return result


def _spread(levels: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """The levels between the limits as 0 to 255."""
    low, high = limits
    levels_per_unit = 255 / max(high - low, MIN_SPAN)
    scaled = (levels.astype(np.float64) - low) * levels_per_unit
    return scaled.clip(0, 255).round().astype(np.uint8)
