"""JPEG, PNG, DICOM or an array -> one grey uint8 square (ours)."""

import io
import os
import stat
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from mcrlib.arguments import is_whole
from mcrlib.data import dicom, dicom_pixels, grey_levels, jpeg
from mcrlib.data.grey_levels import MAX_FILE_BYTES, MAX_PIXELS, Refusal

MIN_SIDE = 8  # pixels; a smaller image shows nothing

MAX_SIDE = 4096  # pixels of the square asked for; encoders take a tenth of it

# Pillow raises DecompressionBombError at twice this number, before it allocates memory.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# Bytes of a pixel in Pillow's memory; 4 for the modes that are not listed.
BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2}
# Of a pixel with 16 bits a channel, which is decoded twice.
DEEP_COLOUR_BYTES = {"RGB;16B": 10, "RGBA;16B": 14}

# EXIF's orientation -> what turns the stored picture upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

BROKEN_ARCHIVE = (EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error)

Source = str | os.PathLike | np.ndarray | Callable[[], "bytes | np.ndarray"]


def read(source: Source, size: int) -> np.ndarray:
    """One radiograph as a grey uint8 square `[size, size]`.

    The aspect ratio is kept: the shorter side is scaled to `size`, and the centre square is taken.

    `source` is the path of a JPEG, PNG or DICOM file, an array `[H, W]`, or a function that
    returns either the file's bytes or such an array. More than eight bits are windowed: by the
    DICOM's VOI LUT if it has one, else by percentiles; eight bits are not changed. The picture is
    turned as its EXIF orientation says. Raises ValueError if there is no usable radiograph, or
    one beyond the limits in `mcrlib.data.grey_levels`; the message says why in a sentence, without
    the file's name. `size` is in pixels, from 1 to 4,096.
    """
    _check_size(size)
    content = content_of(source)
    try:
        with warnings.catch_warnings(action="ignore"):  # faults that matter raise an error
            grey = _grey(content, size)
    except Image.DecompressionBombError:
        raise ValueError(f"image declares more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ValueError("file is not a JPEG, PNG or DICOM image") from None
    except Refusal:
        raise
    except MemoryError as error:
        raise ValueError("image needs more memory than there is") from error
    except Exception as error:  # decoders raise all kinds of errors on damaged files
        raise ValueError("image is truncated or damaged") from error
    if min(grey.size) < MIN_SIDE:
        raise ValueError(f"image is less than {MIN_SIDE} pixels wide or high")
    square = _square(grey, size)
    if square.min() == square.max():
        raise ValueError("image is of one grey only")
    return square


def _check_size(size: int) -> None:
    if not is_whole(size) or not 1 <= size <= MAX_SIDE:
        raise ValueError(f"size must be a whole number from 1 to {MAX_SIDE:,}, not {size!r}")


def content_of(source: Source) -> bytes | np.ndarray:
    """The file's bytes, or the array. Raises ValueError with a sentence, as `read` does."""
    if isinstance(source, np.ndarray):
        return source
    try:
        content = _bytes_or_array(source)
    except (FileNotFoundError, KeyError):  # KeyError: an archive without this member
        raise ValueError("image file is missing") from None
    except OSError as error:
        raise ValueError(f"image file cannot be opened: {error.strerror or error}") from None
    except BROKEN_ARCHIVE as error:
        raise ValueError("image's archive is truncated or damaged") from error
    if len(content) == 0:
        raise ValueError("image file is empty")
    if not isinstance(content, np.ndarray):
        _check_length(len(content))
    return content


def _bytes_or_array(source: Source) -> bytes | np.ndarray:
    """What a path or a function leads to."""
    if isinstance(source, (str, os.PathLike)):
        if "\0" in os.fspath(source):
            raise ValueError("image path holds a null character")
        return _read_file(source)
    if not callable(source):
        kind = type(source).__name__
        raise ValueError(f"image must be a path, an array or a function, not of the type {kind}")
    content = source()
    if not isinstance(content, (bytes, np.ndarray)):
        kind = type(content).__name__
        raise ValueError(f"the image's function must return bytes or an array, not {kind}")
    return content


def _read_file(path: str | os.PathLike) -> bytes:
    """A regular file's bytes; a link is followed."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("image file is not a regular file but a device, a pipe or a socket")
        _check_length(status.st_size)
        return file.read(MAX_FILE_BYTES + 1)  # a file can grow, and those in /proc have no size


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a pipe at once, not when somebody writes into it. Windows has no such flag."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_length(n_bytes: int) -> None:
    if n_bytes > MAX_FILE_BYTES:
        raise ValueError(f"image file has more than {MAX_FILE_BYTES / 1e6:.0f} MB")


def _grey(content: bytes | np.ndarray, size: int) -> Image.Image:
    """The whole image in eight bits; a JPEG may come scaled down, but not below `size`."""
    if isinstance(content, np.ndarray):
        return Image.fromarray(_grey_array(content))
    if dicom_pixels.is_dicom(content):
        return Image.fromarray(dicom.grey(content, size))
    return _picture(content, size)


def _grey_array(array: np.ndarray) -> np.ndarray:
    """uint8 arrays are not changed."""
    if array.ndim != 2 or array.size == 0:
        raise Refusal(f"array has the shape {array.shape}, where [height, width] is needed")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    return grey_levels.eight_bits(array)


def _picture(content: bytes, size: int) -> Image.Image:
    """A JPEG or PNG file's image."""
    image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    if image.format == "PNG":
        grey = _png(image, content)
    else:
        jpeg.check_scans(content, *image.size)
        _scale_while_decoding(image, size)
        width, height = image.size
        grey_levels.check_decoded(width * height * BYTES_PER_PIXEL.get(image.mode, 4))
        grey = _eight_bit_grey(image)
    orientation = _orientation(image)
    if orientation in UPRIGHT:
        return grey.transpose(UPRIGHT[orientation])
    return grey


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    if image.mode == "L":
        image.load()
        return image
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return image.convert("L")


def _scale_while_decoding(image: Image.Image, size: int) -> None:
    """Let the JPEG decoder scale by 1/2, 1/4 or 1/8, and skip the colours.

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


def _png(image: Image.Image, content: bytes) -> Image.Image:
    """Sixteen bits a channel are windowed, with colours or alpha too; alpha has no effect."""
    width, height = image.size
    raw_mode = image.tile[0].args if image.tile else ""
    is_deep = isinstance(raw_mode, str) and raw_mode.endswith(";16B")
    if is_deep and raw_mode in DEEP_COLOUR_BYTES:
        grey_levels.check_decoded(width * height * DEEP_COLOUR_BYTES[raw_mode])
        return Image.fromarray(grey_levels.eight_bits(_deep_colour(image, content, raw_mode)))
    grey_levels.check_decoded(width * height * BYTES_PER_PIXEL.get(image.mode, 4))
    if is_deep and raw_mode == "LA;16B":
        return Image.fromarray(grey_levels.eight_bits(_deep_alpha(image)))
    if image.mode.startswith("I"):
        image.load()
        return Image.fromarray(grey_levels.eight_bits(image))
    return _eight_bit_grey(image)


def _deep_colour(image: Image.Image, content: bytes, raw_mode: str) -> np.ndarray:
    """Greys, uint16 `[H, W]`, of a PNG with 16 bits a channel.

    Pillow keeps only the first byte of each such number. If told that the order of the bytes is
    the other one, it keeps the second.
    """
    second = Image.open(io.BytesIO(content), formats=("PNG",))
    _decode_as(second, raw_mode.replace(";16B", ";16L"))
    image.load()
    colours = np.empty((image.height, image.width, 3), np.uint16)
    for channel in range(3):
        colours[..., channel] = np.asarray(image.getchannel(channel))
        colours[..., channel] *= 256
        colours[..., channel] += np.asarray(second.getchannel(channel))
    return grey_levels.grey_of_colour(colours)


def _deep_alpha(image: Image.Image) -> np.ndarray:
    """Greys, uint16 `[H, W]`, of a PNG with 16 bits of grey and 16 of alpha.

    Decoded as if it had four channels of eight bits, the first two are the bytes of the grey.
    """
    _decode_as(image, "RGBA")
    first = np.asarray(image.getchannel(0)).astype(np.uint16)
    return first * 256 + np.asarray(image.getchannel(1))


def _decode_as(image: Image.Image, raw_mode: str) -> None:
    image.tile = [tile._replace(args=raw_mode) for tile in image.tile]
    image.load()


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) if there is none. The image must be loaded."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises all kinds of errors, and the picture is fine
        return 1


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
