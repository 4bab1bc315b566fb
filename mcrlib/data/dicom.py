"""A DICOM file's first image -> one grey uint8 array, as a viewer shows it (ours).

Elements that are empty, or that make no sense, count as absent: they get the standard's default
(PS3.3 C.11.1 and C.11.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mcrlib.data import dicom_pixels, grey_levels
from mcrlib.data.dicom_pixels import Layout, numbers, sixteen_bits, text, value
from mcrlib.data.grey_levels import PERCENTILES, WHOLE_RANGE, Refusal

if TYPE_CHECKING:  # pydicom is imported lazily: slow, and only DICOM files need it
    from pydicom import Dataset

VOI_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
COLOURS = ("Red", "Green", "Blue")


@dataclass(frozen=True)
class _LookupTable:
    """DICOM's table of grey levels (PS3.3 C.11.1.1)."""

    first: int  # value of the first entry; smaller ones get the same level
    entries: np.ndarray
    depth: int  # bits of an entry

    def levels(self, values: np.ndarray) -> np.ndarray:
        """The entries for `values`."""
        positions = values.astype(np.int64) - self.first
        return self.entries[positions.clip(0, len(self.entries) - 1)]


@dataclass(frozen=True)
class _Greys:
    """From stored values to grey levels: modality and VOI transforms, padding, polarity."""

    layout: Layout
    slope: float
    intercept: float
    modality: _LookupTable | None
    voi: _LookupTable | None
    window: Dataset | None  # what pydicom needs to apply it
    padding: tuple[float, float] | None  # the smallest and the largest of the values

    @property
    def has_window(self) -> bool:
        """Whether the file says what is black and what is white."""
        return self.voi is not None or self.window is not None

    def levels(self, values: np.ndarray) -> np.ndarray:
        """Grey levels of the values as they lie in the file, bright for bright bones."""
        levels = self._voi(self._modality(self._stored(values)))
        if self.layout.photometric == "MONOCHROME1":  # the highest values are black
            return -levels.astype(np.float32)
        return levels

    def is_padding(self, values: np.ndarray) -> np.ndarray:
        """Which values say that there is no pixel."""
        if self.padding is None:
            return grey_levels.none_of(values)
        low, high = self.padding
        stored = self._stored(values)
        in_file = (values >= low) & (values <= high)  # may use bits that pixels do not use
        return in_file | ((stored >= low) & (stored <= high))

    def limits(self) -> tuple[float, float] | None:
        """Levels of black and white, if known: of up to eight bits, without a window."""
        if self.window is not None:
            return None
        table = self.voi or self.modality
        if table is not None:
            return self._limits_of_table(table)
        if self.layout.stored > 8:
            return None
        n_values = 2**self.layout.stored
        lowest = -n_values // 2 if self.layout.signed else 0
        ends = self.levels(np.array([lowest, lowest + n_values - 1]))
        return float(ends.min()), float(ends.max())

    def _limits_of_table(self, table: _LookupTable) -> tuple[float, float] | None:
        if table.depth > 8:
            return None
        brightest = 2**table.depth - 1
        if self.layout.photometric == "MONOCHROME1":
            return -brightest, 0
        return 0, brightest

    def _stored(self, values: np.ndarray) -> np.ndarray:
        """Without the bits that are not used, whose content is undefined (PS3.5 8.1.1)."""
        unused = self.layout.allocated - self.layout.stored
        if unused <= 0 or values.dtype.itemsize * 8 != self.layout.allocated:
            return values
        return (values << unused) >> unused

    def _modality(self, values: np.ndarray) -> np.ndarray:
        if self.modality is not None:
            return self.modality.levels(values)
        return values.astype(np.float64) * self.slope + self.intercept

    def _voi(self, values: np.ndarray) -> np.ndarray:
        from pydicom.pixels import apply_windowing

        if self.voi is not None:
            return self.voi.levels(values)
        if self.window is not None:
            return apply_windowing(values, self.window)
        return values


def grey(content: bytes, size: int) -> np.ndarray:
    """A DICOM file's first image, windowed, with bright bones: uint8 `[H, W]`.

    JPEG 2000 may come scaled down, but not below `size`. Raises Refusal if there is no image,
    or none that can be read.
    """
    file = dicom_pixels.parse(content)
    layout = dicom_pixels.layout(file)
    grey_levels.check_count(layout.columns, layout.rows)
    try:
        pixels, layout = dicom_pixels.decode(file, layout, size)
        return _shown(pixels, layout, file.header)
    except Refusal:
        raise
    except (AttributeError, KeyError, NotImplementedError, ValueError) as error:
        lines = str(error).splitlines() or ["they are damaged"]
        raise Refusal(f"DICOM pixels cannot be read: {lines[0]}") from error
    except RuntimeError as error:  # whose message varies, as it tells addresses in memory
        reason = "the compressed image is truncated or damaged"
        raise Refusal(f"DICOM pixels cannot be read: {reason}") from error


def _shown(pixels: np.ndarray, layout: Layout, header: Dataset) -> np.ndarray:
    if layout.photometric == "PALETTE COLOR" and pixels.ndim == 2:
        return _by_palette(pixels, header)
    if pixels.ndim == 3:
        return _shown_colours(pixels, layout)
    greys = _greys(layout, header)
    shown = _eight_bits(pixels, greys)
    if greys.has_window and shown.min() == shown.max():  # a window beside all grey levels
        return _eight_bits(pixels, replace(greys, voi=None, window=None))
    return shown


def _eight_bits(pixels: np.ndarray, greys: _Greys) -> np.ndarray:
    percentiles = WHOLE_RANGE if greys.has_window else PERCENTILES
    return grey_levels.eight_bits(
        pixels, greys.levels, greys.is_padding, percentiles, greys.limits()
    )


def _shown_colours(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """Windowed by percentiles if a colour has more than eight bits."""
    if pixels.shape[2] != 3 or pixels.dtype.kind not in "iu" or pixels.dtype.itemsize > 2:
        raise Refusal(f"DICOM pixels cannot be read: they are {layout.photometric}")
    if layout.photometric.startswith("YBR"):
        luma = pixels[..., 0]
    else:
        luma = grey_levels.grey_of_colour(pixels)
    if luma.dtype == np.uint8:
        return np.ascontiguousarray(luma)
    limits = (0.0, 255.0) if layout.stored <= 8 else None
    return grey_levels.eight_bits(luma, limits=limits)


def _by_palette(pixels: np.ndarray, header: Dataset) -> np.ndarray:
    """The grey of the colours in the file's own table (PS3.3 C.7.9)."""
    colours = []
    for colour in COLOURS:
        descriptor = numbers(header, f"{colour}PaletteColorLookupTableDescriptor")
        data = value(header, f"{colour}PaletteColorLookupTableData")
        colours.append(_table(descriptor, data, header))
    if None in colours:
        raise Refusal("DICOM pixels cannot be read: their palette is missing or segmented")
    values = grey_levels.all_values(pixels.dtype)
    channels = [table.levels(values) for table in colours]
    brightest = 255 if max(channel.max() for channel in channels) < 256 else 65535
    palette = np.stack(channels, axis=-1).astype(np.uint16)[None]
    table = grey_levels.grey_of_colour(palette)[0] * (255 / brightest)
    return grey_levels.look_up(pixels, table.round().astype(np.uint8))


def _greys(layout: Layout, header: Dataset) -> _Greys:
    slope, intercept = _rescale(header)
    return _Greys(
        layout=layout,
        slope=slope,
        intercept=intercept,
        modality=_table_in(header, "ModalityLUTSequence"),
        voi=_table_in(header, "VOILUTSequence"),
        window=_window(layout, header, slope, intercept),
        padding=_padding(layout, header),
    )


def _rescale(header: Dataset) -> tuple[float, float]:
    slope = _first_finite(numbers(header, "RescaleSlope"), 1.0)
    intercept = _first_finite(numbers(header, "RescaleIntercept"), 0.0)
    if slope == 0:  # all pixels would be equal
        slope = 1.0
    return slope, intercept


def _first_finite(found: list[float], default: float) -> float:
    return found[0] if found and math.isfinite(found[0]) else default


def _window(layout: Layout, header: Dataset, slope: float, intercept: float) -> Dataset | None:
    """The first of the windows that makes sense, as pydicom wants it."""
    from pydicom import Dataset

    function = text(header, "VOILUTFunction")
    if function not in VOI_FUNCTIONS:
        function = "LINEAR"
    narrowest = 1 if function == "LINEAR" else np.finfo(np.float32).tiny
    centers = numbers(header, "WindowCenter")
    widths = numbers(header, "WindowWidth")
    for center, width in zip(centers, widths, strict=False):
        if math.isfinite(center) and math.isfinite(width) and width >= narrowest:
            break
    else:
        return None
    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.BitsStored = layout.stored
    window.PixelRepresentation = int(layout.signed)
    window.VOILUTFunction = function
    window.add_new("WindowCenter", "FD", center)  # unlike DS, takes any number of digits
    window.add_new("WindowWidth", "FD", width)
    window.add_new("RescaleSlope", "FD", abs(slope))  # the order of black and white is the file's
    window.add_new("RescaleIntercept", "FD", intercept)
    return window


def _padding(layout: Layout, header: Dataset) -> tuple[float, float] | None:
    """The smallest and the largest value without a pixel (PS3.3 C.7.5.1.1.2)."""
    ends = [
        *numbers(header, "PixelPaddingValue")[:1],
        *numbers(header, "PixelPaddingRangeLimit")[:1],
    ]
    if "PixelPaddingValue" not in header or not ends:
        return None
    ends = [_as_stored(end, layout) for end in ends]
    return min(ends), max(ends)


def _as_stored(number: float, layout: Layout) -> float:
    """With the sign that pixels have, whatever the element's own type."""
    n_values = 2**layout.allocated
    if layout.signed and number >= n_values // 2:
        return number - n_values
    if not layout.signed and number < 0:
        return number + n_values
    return number


def _table_in(header: Dataset, keyword: str) -> _LookupTable | None:
    """The lookup table in the first item of a sequence."""
    sequence = value(header, keyword)
    if not sequence:
        return None
    item = sequence[0]
    return _table(numbers(item, "LUTDescriptor"), value(item, "LUTData"), header)


def _table(descriptor: list[float], data: object, header: Dataset) -> _LookupTable | None:
    """None if the table is missing or makes no sense."""
    if len(descriptor) != 3 or not all(map(math.isfinite, descriptor)) or not data:
        return None
    n_entries = int(descriptor[0]) or 2**16
    if isinstance(data, bytes):
        kind = "u1" if len(data) < 2 * n_entries else sixteen_bits(header)
        data = np.frombuffer(data, kind, count=len(data) // np.dtype(kind).itemsize)
    entries = np.asarray(data).ravel()[:n_entries]
    if entries.dtype.kind not in "iu" or len(entries) == 0:
        return None
    first = int(descriptor[1])
    return _LookupTable(first, entries.astype(np.float64), int(descriptor[2]))
