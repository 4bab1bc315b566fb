"""A DICOM file's header and the stored values of its first image (ours).

pydicom parses the header and decodes most kinds of pixels; Pillow decodes JPEG 2000 and RLE, which
it does faster than pydicom's own decoders. Elements that are empty, or that make no sense, count
as absent: they get the standard's default (PS3.3 C.7.6.3).
"""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from mcrlib.data import grey_levels, jpeg
from mcrlib.data.grey_levels import MAX_FILE_BYTES, Refusal

if TYPE_CHECKING:  # pydicom is imported lazily: slow, and only DICOM files need it
    from pydicom import Dataset
    from pydicom.pixels import Decoder
    from pydicom.uid import UID

PREAMBLE = 128  # bytes before the letters DICM
# A data set without preamble starts with the group 0002 or 0008: its bytes, in both orders.
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")
MAX_READS = 100_000  # while the header is parsed, and while the pieces of the pixels are gathered
MAX_ELEMENT = 2**21  # bytes of an element of the header; the largest lookup table has 2^17
ENCAPSULATED_COPIES = 2  # decoders of compressed pixels copy what they have decoded
MAX_JPEG2000_PIXELS = 4_000_000  # decoded; a larger one is decoded at a half of its size, or less
JPEG2000_MARGIN = 2  # times the size that is needed; the rest is scaled by a better filter
JPEG2000_CODING = b"\xff\x52"  # marker of the segment that tells the number of halvings
MAX_PILLOW_JPEG_BITS = 8
PILLOW = ("pillow",)

PIXEL_KEYWORDS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
FLOAT_BITS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


class _CountedReads(io.BytesIO):
    """Bytes that refuse to be read in too many pieces: each takes a microsecond or more."""

    n_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes. Raises Refusal after `MAX_READS` calls."""
        self.n_reads += 1
        if self.n_reads > MAX_READS:
            raise Refusal(f"DICOM file has more than {MAX_READS // 2:,} elements or fragments")
        return super().read(size)


@dataclass(frozen=True)
class File:
    """A parsed file."""

    header: Dataset  # the elements before the pixels
    syntax: UID  # how the pixels are encoded
    content: bytes  # with the pixels from `start` on
    start: int
    keyword: str  # of the pixels


@dataclass(frozen=True)
class Layout:
    """How the pixels lie in the file: DICOM's image pixel module (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples: int  # of a pixel
    photometric: str
    allocated: int  # bits
    stored: int  # bits
    signed: bool
    planar: int  # 1 if each colour has a plane of its own
    frames: int


def is_dicom(content: bytes) -> bool:
    """Whether a file's bytes look like DICOM, with or without the preamble."""
    return _has_preamble(content) or content.startswith(FIRST_GROUPS)


def _has_preamble(content: bytes) -> bool:
    return content[PREAMBLE : PREAMBLE + 4] == b"DICM"


def parse(content: bytes) -> File:
    """The header, and where the pixels are. Raises Refusal if there are none."""
    from pydicom.filereader import read_partial
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

    syntax, start = _syntax(content)
    if syntax == DeflatedExplicitVRLittleEndian:
        content = _inflate(memoryview(content)[start:])
        syntax = ExplicitVRLittleEndian
    stream = _CountedReads(content)
    found = {}

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        """Where to stop."""
        keyword = PIXEL_KEYWORDS.get(tag)
        if keyword:
            found[keyword] = stream.tell()
        return keyword is not None

    header = read_partial(stream, at_pixels, force=True)
    if not found:
        raise Refusal("DICOM file has no pixels")
    keyword, start = found.popitem()
    return File(header, syntax or _syntax_of(header), content, start, keyword)


def _syntax(content: bytes) -> tuple[UID | None, int]:
    """The transfer syntax that the file names, if any, and where the data set begins."""
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    stream = _CountedReads(content)
    if _has_preamble(content):
        stream.seek(PREAMBLE + 4)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = UID(text(meta, "TransferSyntaxUID"))
    if not syntax:
        return None, stream.tell()
    return syntax, stream.tell()


def _syntax_of(header: Dataset) -> UID:
    """Of a file that does not name it: what pydicom found."""
    from pydicom import uid

    implicit, little = header.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _inflate(deflated: bytes | memoryview) -> bytes:
    """A deflated data set, without zlib's header (PS3.5 A.5)."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(deflated, MAX_FILE_BYTES)
    if inflater.unconsumed_tail and not inflater.eof:
        raise Refusal(f"DICOM file has more than {MAX_FILE_BYTES / 1e6:.0f} MB when inflated")
    return data


def value(header: Dataset, keyword: str) -> object:
    """An element's value; None if it is absent, empty, damaged or larger than `MAX_ELEMENT`."""
    try:
        raw = header.get_item(keyword)
        if isinstance(raw.value, bytes) and len(raw.value) > MAX_ELEMENT:
            return None
        return header[keyword].value
    except Exception:  # pydicom raises all kinds of errors on values that break the standard
        return None


def numbers(header: Dataset, keyword: str) -> list[float]:
    """An element's numbers; NaN for one that is none."""
    found = value(header, keyword)
    if found is None or isinstance(found, str):
        return []
    if isinstance(found, bytes):  # 16 bits each: pydicom cannot tell whether they are signed
        return np.frombuffer(found, sixteen_bits(header)).astype(float).tolist()
    if not isinstance(found, (list, tuple)) and not hasattr(found, "__iter__"):
        found = [found]
    return [_number(item) for item in found]


def sixteen_bits(header: Dataset) -> str:
    """The type of 16-bit numbers in the file's order of bytes."""
    is_big_endian = header.original_encoding[1] is False
    return ">u2" if is_big_endian else "<u2"


def _number(item: object) -> float:
    try:
        return float(item)
    except (TypeError, ValueError):
        return math.nan


def integer(header: Dataset, keyword: str, default: int) -> int:
    """An element's first number; the default if it has none."""
    found = numbers(header, keyword)
    if not found or not math.isfinite(found[0]):
        return default
    return int(found[0])


def text(header: Dataset, keyword: str) -> str:
    """An element's text in capitals, without spaces around it; "" if it has none."""
    found = value(header, keyword)
    return found.strip(" \0").upper() if isinstance(found, str) else ""


def layout(file: File) -> Layout:
    """How the file says that its pixels lie. Raises Refusal if it gives no size."""
    header = file.header
    rows = integer(header, "Rows", 0)
    columns = integer(header, "Columns", 0)
    if rows < 1 or columns < 1:
        raise Refusal("DICOM file does not say how many rows and columns its image has")
    samples = integer(header, "SamplesPerPixel", 1)
    allocated = integer(header, "BitsAllocated", FLOAT_BITS.get(file.keyword, 0))
    stored = integer(header, "BitsStored", allocated)
    if not 1 <= stored <= allocated:
        stored = allocated
    return Layout(
        rows=rows,
        columns=columns,
        samples=samples,
        photometric=_photometric(header, samples),
        allocated=allocated,
        stored=stored,
        signed=integer(header, "PixelRepresentation", 0) == 1,
        planar=int(integer(header, "PlanarConfiguration", 0) == 1),
        frames=max(integer(header, "NumberOfFrames", 1), 1),
    )


def _photometric(header: Dataset, samples: int) -> str:
    found = text(header, "PhotometricInterpretation")
    if samples == 1:
        return found if found in ("MONOCHROME1", "PALETTE COLOR") else "MONOCHROME2"
    return found if found.startswith("YBR_") else "RGB"


def decode(file: File, layout: Layout, size: int) -> tuple[np.ndarray, Layout]:
    """The first image's stored values, `[H, W]` or `[H, W, samples]`, and how these lie in memory.

    JPEG 2000 may come scaled down, but not below `size`. Raises all kinds of errors if the pixels
    are damaged or missing, or if there is no decoder for them.
    """
    from pydicom.encaps import get_frame
    from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

    if not file.syntax.is_private and not file.syntax.is_encapsulated:
        # Only the first image is needed, and the others may be missing.
        first = replace(layout, frames=1)
        return _by_pydicom(file, first, memoryview(file.content)[file.start :])
    n_bytes = layout.rows * layout.columns * layout.samples * math.ceil(layout.allocated / 8)
    grey_levels.check_decoded(n_bytes * ENCAPSULATED_COPIES)
    stream = _CountedReads(file.content)
    stream.seek(file.start)
    frame = get_frame(stream, 0, number_of_frames=layout.frames)
    if file.syntax == RLELossless:
        return _by_packbits(frame, layout), replace(layout, planar=0)
    if file.syntax in JPEG2000TransferSyntaxes:
        return _by_openjpeg(frame, layout, size)
    _decoder(file.syntax)  # raises if there is none, whatever the frame is
    layout = _layout_of_jpeg(frame, layout)
    if layout.stored > MAX_PILLOW_JPEG_BITS and _decoder(file.syntax).available_plugins == PILLOW:
        raise _needs_package(file.syntax)
    return _by_pydicom(file, layout, stream)


def _by_pydicom(
    file: File, layout: Layout, pixels: memoryview | io.BytesIO
) -> tuple[np.ndarray, Layout]:
    """Uncompressed pixels without a copy, or JPEG."""
    decoder = _decoder(file.syntax)
    array, properties = decoder.as_array(
        pixels,
        index=0,
        raw=True,
        rows=layout.rows,
        columns=layout.columns,
        samples_per_pixel=layout.samples,
        photometric_interpretation=layout.photometric,
        bits_allocated=layout.allocated,
        bits_stored=layout.stored,
        pixel_representation=int(layout.signed),
        planar_configuration=layout.planar,
        number_of_frames=layout.frames,
        pixel_keyword=file.keyword,
        pixel_vr=_pixel_vr(file),
        view_only=True,
        correct_unused_bits=False,
    )
    return array, replace(layout, photometric=str(properties["photometric_interpretation"]))


def _pixel_vr(file: File) -> str:
    """Matters for big-endian pixels of eight bits: OW has their bytes swapped."""
    return file.content[file.start - 8 : file.start - 6].decode("latin-1")


def _decoder(syntax: UID) -> Decoder:
    """Raises Refusal that names the syntax, and the package that reads it, if there is none."""
    from pydicom.pixels import get_decoder

    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise Refusal(
            f"DICOM pixels are encoded as {syntax.name}, which no package reads: "
            "convert the file to an uncompressed transfer syntax"
        ) from None
    if not decoder.is_available:
        raise _needs_package(syntax)
    return decoder


def _needs_package(syntax: UID) -> Refusal:
    return Refusal(
        f"DICOM pixels are compressed as {syntax.name}, which needs the package "
        "pylibjpeg-libjpeg: pip install -e '.[dicom]'"
    )


def _layout_of_jpeg(frame: bytes, layout: Layout) -> Layout:
    """With the bits of a JPEG or JPEG-LS image itself. Raises Refusal if its size is another."""
    header = jpeg.header(frame)
    if header is None:
        raise Refusal("DICOM pixels cannot be read: the compressed image has no size")
    if (header.rows, header.columns) != (layout.rows, layout.columns):
        raise Refusal(
            f"DICOM header declares {layout.columns} x {layout.rows} pixels, "
            f"and the compressed image {header.columns} x {header.rows}"
        )
    jpeg.check_scans(frame, header.columns, header.rows)
    allocated = 8 if header.precision <= 8 else layout.allocated
    return replace(layout, allocated=allocated, stored=header.precision)


def _by_packbits(frame: bytes, layout: Layout) -> np.ndarray:
    """DICOM's RLE (PS3.5 Annex G): a run of PackBits for each byte of each sample."""
    n_pixels = layout.rows * layout.columns
    n_bytes = layout.allocated // 8
    header = np.frombuffer(frame, "<u4", count=16)
    n_segments = layout.samples * n_bytes
    if layout.allocated % 8 != 0 or header[0] != n_segments or n_segments > 15:
        raise Refusal(f"DICOM pixels cannot be read: {header[0]} RLE segments are too few or many")
    ends = [*header[2 : n_segments + 1].tolist(), len(frame)]
    pixels = np.empty((n_pixels, layout.samples, n_bytes), np.uint8)
    for segment in range(n_segments):
        packed = frame[header[segment + 1] : ends[segment]]
        # As one line, since runs may cross the image's lines.
        line = Image.frombytes("L", (n_pixels, 1), packed, "packbits", "L")
        sample, byte = divmod(segment, n_bytes)
        pixels[:, sample, n_bytes - 1 - byte] = np.asarray(line)[0]  # the highest byte comes first
    kind = "i" if layout.signed else "u"
    values = pixels.view(f"<{kind}{n_bytes}")[..., 0]
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    return values.reshape(layout.rows, layout.columns, layout.samples)


def _by_openjpeg(frame: bytes, layout: Layout, size: int) -> tuple[np.ndarray, Layout]:
    """JPEG 2000 at no more resolution than needed: eight or 16 bits, or colours of eight."""
    from pydicom.pixels.utils import get_j2k_parameters

    try:
        image = Image.open(io.BytesIO(frame), formats=("JPEG2000",))
    except UnidentifiedImageError:
        raise Refusal("DICOM pixels cannot be read: they are no JPEG 2000 image") from None
    if image.size != (layout.columns, layout.rows):
        raise Refusal(
            f"DICOM header declares {layout.columns} x {layout.rows} pixels, "
            f"and the compressed image {image.width} x {image.height}"
        )
    signed = get_j2k_parameters(frame).get("is_signed", layout.signed)
    # With the wrong sign, neighbours can lie at opposite ends: their mean makes no sense.
    halvings = _halvings(image, frame, size) if signed == layout.signed else 0
    n_pixels = image.width * image.height // 4**halvings
    if n_pixels > MAX_JPEG2000_PIXELS * 2:
        raise Refusal("image has too many pixels for a JPEG 2000 that cannot be scaled down")
    image.reduce = halvings
    image.load()
    layout = replace(layout, rows=image.height, columns=image.width)
    if image.mode not in ("L", "I;16"):
        colours = np.asarray(image.convert("RGB"))
        return colours, replace(layout, samples=3, photometric="RGB", allocated=8, stored=8)
    return _unscaled(image, frame, layout)


def _unscaled(image: Image.Image, frame: bytes, layout: Layout) -> tuple[np.ndarray, Layout]:
    """Stored values of a grey JPEG 2000, which Pillow has scaled to 8 or 16 bits, all positive."""
    from pydicom.pixels.utils import get_j2k_parameters

    values = np.array(image)
    allocated = 8 * values.dtype.itemsize
    precision = get_j2k_parameters(frame).get("precision", layout.stored)
    values >>= max(allocated - precision, 0)
    stored = min(precision, allocated)
    if get_j2k_parameters(frame).get("is_signed", layout.signed):
        values -= np.array(2 ** (stored - 1), values.dtype)  # wraps round, as signed values do
    layout = replace(layout, allocated=allocated, stored=stored)
    kind = "i" if layout.signed else "u"
    return values.view(f"{kind}{values.dtype.itemsize}"), layout


def _halvings(image: Image.Image, frame: bytes, size: int) -> int:
    """How often the decoder can halve the image, which then is large enough, or small enough."""
    width, height = image.size
    coding = frame.find(JPEG2000_CODING)
    most = frame[coding + 9] if 0 <= coding < len(frame) - 9 else 0
    best = 0
    for halvings in range(1, most + 1):
        scale = 2**halvings
        is_sharp = min(width, height) // scale >= size * JPEG2000_MARGIN
        is_heavy = width * height // (scale // 2) ** 2 > MAX_JPEG2000_PIXELS
        if not is_sharp and not is_heavy:
            break
        if _rounds_alike(width, scale) and _rounds_alike(height, scale):
            best = halvings
    return best


def _rounds_alike(length: int, scale: int) -> bool:
    """Whether Pillow and OpenJPEG agree on the length of the scaled image."""
    by_pillow = (length + scale // 2) // scale
    by_openjpeg = (length + scale - 1) // scale
    return by_pillow == by_openjpeg
