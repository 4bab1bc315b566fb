"""JPEG, PNG, DICOM or an array -> one grey uint8 square (ours)."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 200_000_000  # declared; the largest detectors have a tenth of it
MIN_SIDE = 8  # pixels; below, there is no picture
PERCENTILES = (0.5, 99.5)  # of more than eight bits without a window of their own

Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses at twice this, before memory is taken

Source = Path | np.ndarray | Callable[[], "bytes | np.ndarray"]


def read(image: Source, size: int) -> np.ndarray:
    """One radiograph as uint8 `[size, size]`: grey, aspect kept, the shorter side scaled to
    `size`, the centre square taken.

    `image` is the path of a JPEG, PNG or DICOM file, an array `[H, W]`, or a function that
    returns either the file's bytes or such an array. More than eight bits are windowed: by the
    DICOM's VOI LUT where it has one, else by percentiles. Raises ValueError, with a sentence that
    names no file, where there is no radiograph to be had.
    """
    content = _content(image)
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters is raised
            grey = _grey(content, size)
    except Image.DecompressionBombError:
        raise ValueError(f"image declares more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ValueError("file is not a JPEG, PNG or DICOM image") from None
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise ValueError("image is truncated or damaged") from error
    if min(grey.size) < MIN_SIDE:
        raise ValueError(f"image is less than {MIN_SIDE} pixels wide or high")
    square = _square(grey, size)
    if square.min() == square.max():
        raise ValueError("image is of one grey only")
    return square


def _grey(content: bytes | np.ndarray, size: int) -> Image.Image:
    if isinstance(content, np.ndarray):
        return _window(content, PERCENTILES)
    return _dicom(content) if content[128:132] == b"DICM" else _picture(content, size)


def _content(image: Source) -> bytes | np.ndarray:
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


def _picture(content: bytes, size: int) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    side = min(image.size)
    # JPEG: the decoder itself scales by 1/2, 1/4 or 1/8 and skips the colours.
    image.draft("L", tuple(-(-length * size // side) for length in image.size))
    if image.mode.startswith(("I", "F")):
        return _window(np.asarray(image), PERCENTILES)
    return (image.convert("RGB") if image.mode == "CMYK" else image).convert("L")


def _dicom(content: bytes) -> Image.Image:
    from pydicom import dcmread
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    header = dcmread(io.BytesIO(content), stop_before_pixels=True)
    if header.get("Rows", 0) * header.get("Columns", 0) > MAX_PIXELS:
        raise ValueError(f"image declares more than {MAX_PIXELS:,} pixels")
    try:
        dataset = dcmread(io.BytesIO(content))
        pixels = pixel_array(io.BytesIO(content), index=0)
        if pixels.ndim == 3:  # colour
            return Image.fromarray(pixels).convert("L")
        voi = "VOILUTSequence" in dataset or "WindowWidth" in dataset
        pixels = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"DICOM pixels cannot be read: {str(error).splitlines()[0]}") from error
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = -pixels.astype(np.float32)
    return _window(pixels, (0, 100) if voi else PERCENTILES)


def _window(pixels: np.ndarray, percentiles: tuple[float, float]) -> Image.Image:
    """Grey levels between two percentiles spread over eight bits; eight bits stay as they are."""
    if pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"array has the shape {pixels.shape}, where [height, width] is needed")
    if pixels.dtype != np.uint8:
        pixels = np.nan_to_num(pixels.astype(np.float32))
        low, high = np.percentile(pixels, percentiles)
        scaled = (pixels - low) * (255 / max(high - low, 1e-12))
        pixels = scaled.clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels))


def _square(grey: Image.Image, size: int) -> np.ndarray:
    side = min(grey.size)
    left, top = ((length - side) // 2 for length in grey.size)
    box = (left, top, left + side, top + side)
    return np.asarray(grey.resize((size, size), Image.Resampling.LANCZOS, box, reducing_gap=3.0))
