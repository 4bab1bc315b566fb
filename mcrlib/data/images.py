"""JPEG, PNG, DICOM or an array -> one grey uint8 square (ours)."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 200_000_000  # in the file's header; the largest detectors have a tenth of it
MIN_SIDE = 8  # pixels; a smaller image shows nothing
PERCENTILES = (0.5, 99.5)  # window of images with more than eight bits and no window of their own
WHOLE_RANGE = (0, 100)  # percentiles too: from the darkest to the brightest pixel
MIN_SPAN = 1e-12  # grey levels; avoids a division by zero if all pixels are equal

# Pillow raises DecompressionBombError at twice this number, before it allocates memory.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

Source = Path | np.ndarray | Callable[[], "bytes | np.ndarray"]


def read(image: Source, size: int) -> np.ndarray:
    """One radiograph as a grey uint8 square `[size, size]`.

    The aspect ratio is kept: the shorter side is scaled to `size`, and the centre square is taken.

    `image` is the path of a JPEG, PNG or DICOM file, an array `[H, W]`, or a function that
    returns either the file's bytes or such an array. More than eight bits are windowed: by the
    DICOM's VOI LUT if it has one, else by percentiles. Raises ValueError if there is no usable
    radiograph; the message says why in a sentence, without the file's name.
    """
    content = _content(image)
    try:
        with warnings.catch_warnings(action="ignore"):  # faults that matter raise an error
            grey = _grey(content, size)
    except Image.DecompressionBombError:
        raise ValueError(f"image declares more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ValueError("file is not a JPEG, PNG or DICOM image") from None
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # decoders raise all kinds of errors on damaged files
        raise ValueError("image is truncated or damaged") from error
    if min(grey.size) < MIN_SIDE:
        raise ValueError(f"image is less than {MIN_SIDE} pixels wide or high")
    square = _square(grey, size)
    if square.min() == square.max():
        raise ValueError("image is of one grey only")
    return square


def _content(image: Source) -> bytes | np.ndarray:
    """The file's bytes, or the array."""
    if isinstance(image, np.ndarray):
        return image
    try:
        content = image.read_bytes() if isinstance(image, Path) else image()
    except (FileNotFoundError, KeyError):  # KeyError: an archive without this member
        raise ValueError("image file is missing") from None
    except OSError as error:
        raise ValueError(f"image file cannot be opened: {error.strerror}") from None
    if len(content) == 0:
        raise ValueError("image file is empty")
    return content


def _grey(content: bytes | np.ndarray, size: int) -> Image.Image:
    """The whole image in eight bits; a JPEG may come scaled down, but not below `size`."""
    if isinstance(content, np.ndarray):
        return _window(content, PERCENTILES)
    if content[128:132] == b"DICM":
        return _dicom(content)
    return _picture(content, size)


def _picture(content: bytes, size: int) -> Image.Image:
    """A JPEG or PNG file's image."""
    image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    _scale_while_decoding(image, size)
    if image.mode.startswith(("I", "F")):  # more than eight bits
        return _window(np.asarray(image), PERCENTILES)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return image.convert("L")


def _scale_while_decoding(image: Image.Image, size: int) -> None:
    """Let the JPEG decoder scale by 1/2, 1/4 or 1/8, and skip the colours; no effect on a PNG.

    Decoding takes most of the time: this makes reading a radiograph about four times as fast.
    """
    width, height = image.size
    side = min(width, height)
    needed_width = _divide_rounding_up(width * size, side)
    needed_height = _divide_rounding_up(height * size, side)
    image.draft("L", (needed_width, needed_height))


def _divide_rounding_up(numerator: int, denominator: int) -> int:
    """Exact for integers of any size, unlike the ceiling of a float."""
    return (numerator + denominator - 1) // denominator


def _dicom(content: bytes) -> Image.Image:
    """A DICOM file's first image, windowed, with bright bones."""
    from pydicom import dcmread  # imported lazily: slow, and only DICOM files need it
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    header = dcmread(io.BytesIO(content), stop_before_pixels=True)
    n_pixels = header.get("Rows", 0) * header.get("Columns", 0)
    if n_pixels > MAX_PIXELS:
        raise ValueError(f"image declares more than {MAX_PIXELS:,} pixels")
    try:
        dataset = dcmread(io.BytesIO(content))
        pixels = pixel_array(io.BytesIO(content), index=0)
        if pixels.ndim == 3:  # colour
            return Image.fromarray(pixels).convert("L")
        has_window = "VOILUTSequence" in dataset or "WindowWidth" in dataset
        pixels = apply_modality_lut(pixels, dataset)
        pixels = apply_voi_lut(pixels, dataset)
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"DICOM pixels cannot be read: {first_line}") from error
    if dataset.PhotometricInterpretation == "MONOCHROME1":  # the highest values are black
        pixels = -pixels.astype(np.float32)
    if has_window:
        return _window(pixels, WHOLE_RANGE)
    return _window(pixels, PERCENTILES)


def _window(pixels: np.ndarray, percentiles: tuple[float, float]) -> Image.Image:
    """Grey levels between two percentiles spread over eight bits; uint8 pixels are not changed."""
    if pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"array has the shape {pixels.shape}, where [height, width] is needed")
    if pixels.dtype != np.uint8:
        pixels = np.nan_to_num(pixels.astype(np.float32))
        low, high = np.percentile(pixels, percentiles)
        levels_per_unit = 255 / max(high - low, MIN_SPAN)
        scaled = (pixels - low) * levels_per_unit
        pixels = scaled.clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _square(grey: Image.Image, size: int) -> np.ndarray:
    """The centre square, scaled to uint8 `[size, size]`."""
    width, height = grey.size
    side = min(width, height)
    left = (width - side) // 2
    top = (height - side) // 2
    box = (left, top, left + side, top + side)
    # Speed: reducing_gap first shrinks by whole factors, and filters only the small rest.
    square = grey.resize((size, size), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    return np.asarray(square)
