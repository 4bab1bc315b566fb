"""One radiograph to one square: what is read, what is refused, and why."""

import io
import os
import random
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import mimic_tree
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mimic_tree import dicom, encoded, picture
from PIL import Image, ImageOps
from pydicom import Dataset, Sequence, dcmread, uid
from pydicom.data import get_testdata_files
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder

from mcrlib.data import grey_levels, images

RAMP = np.tile(np.arange(0, 4096, 64, dtype=np.uint16), (64, 1))  # brighter to the right


@pytest.mark.parametrize("fault", mimic_tree.IMAGE_FAULTS)
def test_faults_are_read_or_refused_with_their_reason(fault, tmp_path):
    content, reason = mimic_tree.IMAGE_FAULTS[fault]
    path = tmp_path / "a 'name' with .. and spaces.jpg"
    if content is not None:
        path.write_bytes(content)
    if reason:
        with pytest.raises(ValueError) as caught:
            images.read(path, 32)
        assert str(caught.value) == reason
    else:
        square = images.read(path, 32)
        assert square.shape == (32, 32) and square.dtype == np.uint8


def test_declared_pixels_are_refused_before_memory_is_taken():
    content = mimic_tree.png_that_declares(30000, 30000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="declares more"):
        images.read(lambda: content, 32)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@settings(deadline=None, max_examples=30)
@given(st.integers(8, 300), st.integers(8, 300), st.integers(8, 64))
def test_aspect_is_kept_and_the_centre_taken(width, height, size):
    side = min(width, height)
    square = np.tile(np.linspace(10, 250, side).astype(np.uint8), (side, 1))
    margins = [((n - side) // 2, n - side - (n - side) // 2) for n in (height, width)]
    pixels = np.pad(square, margins, "edge")
    expected = Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)
    expected = np.asarray(expected, int)
    assert np.abs(images.read(pixels, size).astype(int) - expected).max() <= 12


def test_every_kind_of_source_gives_the_same_square(tmp_path):
    image = picture(random.Random(1))
    path = tmp_path / "image.png"
    path.write_bytes(encoded(image, "PNG"))
    expected = images.read(np.asarray(image), 32)
    for source in (path, path.read_bytes, lambda: np.asarray(image)):
        assert np.array_equal(images.read(source, 32), expected)


def test_fast_jpeg_decode_is_close_to_the_plain_one():
    """The scaled decode is within two grey levels, on average, of decode in full, then resize."""
    noise = np.random.default_rng(0).normal(128, 40, (60, 50)).clip(0, 255).astype(np.uint8)
    large = Image.fromarray(noise).resize((2000, 2400), Image.Resampling.BICUBIC)
    content = encoded(large.convert("RGB"))
    plain = Image.open(io.BytesIO(content)).convert("L").crop((0, 200, 2000, 2200))
    plain = np.asarray(plain.resize((224, 224), Image.Resampling.LANCZOS), int)
    assert np.abs(images.read(lambda: content, 224) - plain).mean() < 2


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK"])
def test_colour_modes_become_grey(mode):
    image = picture(random.Random(2)).convert(mode)
    content = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    square = images.read(lambda: content, 40)
    if mode != "1":
        grey = np.asarray(picture(random.Random(2)), int)[4:44]
        assert np.abs(square - grey).mean() < 4


def test_sixteen_bits_are_windowed_by_percentiles():
    pixels = RAMP.copy()
    pixels[0, 0] = 65535  # one hot pixel must not darken the rest
    square = images.read(lambda: encoded(Image.fromarray(pixels), "PNG"), 64)
    assert square[32].min() < 5 and square[32].max() > 250
    assert (np.diff(square[32].astype(int)) >= 0).all()


def test_dicom_window_inversion_and_fallback():
    plain = images.read(lambda: dicom(RAMP), 64)
    windowed = images.read(lambda: dicom(RAMP, WindowCenter=1024, WindowWidth=1024), 64)
    inverted = images.read(lambda: dicom(RAMP, "MONOCHROME1"), 64)
    assert plain[32, 0] < 5 and plain[32, -1] > 250
    assert (windowed[32, :8] == 0).all() and (windowed[32, 25:] == 255).all()
    assert np.abs(inverted.astype(int) - plain[:, ::-1]).max() <= 8


def test_dicom_that_declares_too_much_or_holds_too_little():
    short = dicom(RAMP)[:-4000]
    with pytest.raises(ValueError, match="DICOM pixels cannot be read"):
        images.read(lambda: short, 64)
    large = dicom(RAMP, Rows=30000, Columns=30000)
    with pytest.raises(ValueError, match="declares more"):
        images.read(lambda: large, 64)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["JPEG", "PNG", "DICOM"]), st.data())
def test_damage_is_refused_never_a_crash(kind, data):
    content = bytearray(
        dicom(RAMP) if kind == "DICOM" else encoded(picture(random.Random(3)), kind)
    )
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        square = images.read(lambda: content, 16)
    except ValueError as error:
        assert str(error)
    else:
        assert square.shape == (16, 16)


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(ValueError, match="cannot be opened: Is a directory"):
        images.read(Path(tmp_path), 32)


# Viewers turn a picture as its EXIF data say.


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_obeyed(kind, orientation):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(random.Random(4)).save(buffer, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(buffer.getvalue())))
    expected = images.read(np.asarray(upright), 40).astype(int)
    assert np.abs(images.read(buffer.getvalue, 40) - expected).max() <= 2


def test_damaged_exif_leaves_the_picture_as_it_is():
    buffer = io.BytesIO()
    picture(random.Random(4)).save(buffer, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    plain = images.read(lambda: encoded(picture(random.Random(4)), "PNG"), 16)
    assert np.array_equal(images.read(buffer.getvalue, 16), plain)


# DICOM elements that are empty or make no sense are as good as absent.

NONSENSE = [
    {"RescaleSlope": None, "RescaleIntercept": None},
    {"RescaleSlope": None, "RescaleIntercept": 0},
    {"RescaleSlope": 0, "RescaleIntercept": 0},
    {"WindowCenter": None, "WindowWidth": None},
    {"WindowCenter": 2000, "WindowWidth": None},
    {"WindowCenter": None, "WindowWidth": 100},
    {"WindowCenter": 2000},
    {"WindowCenter": 2000, "WindowWidth": 0},
    {"WindowCenter": 2000, "WindowWidth": -400},
    {"WindowCenter": 90000, "WindowWidth": 10},
    {"VOILUTSequence": None},
    {"VOILUTSequence": Sequence([Dataset()])},
    {"ModalityLUTSequence": None},
    {"ModalityLUTSequence": Sequence([Dataset()])},
    {"PixelPaddingValue": None},
    {"PhotometricInterpretation": None},
    {"PhotometricInterpretation": "GREY"},
    {"NumberOfFrames": None},
    {"NumberOfFrames": 0},
    {"SamplesPerPixel": None},
    {"PixelRepresentation": None},
    {"PlanarConfiguration": None},
    {"VOILUTFunction": None},
    {"BitsStored": 99},
]


@pytest.mark.parametrize("elements", NONSENSE, ids=str)
def test_elements_without_sense_count_as_absent(elements):
    content = dicom(RAMP, **elements)
    assert np.array_equal(images.read(lambda: content, 64), images.read(lambda: dicom(RAMP), 64))


@pytest.mark.parametrize(
    "elements",
    [
        {"VOILUTFunction": None},
        {"VOILUTFunction": "CUBIC"},
        {"WindowCenter": [1024, 3000], "WindowWidth": [1024, 50]},
        {"WindowCenter": [10, 1024], "WindowWidth": [0, 1024]},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"BitsStored": None},
    ],
    ids=str,
)
def test_the_first_window_that_makes_sense_is_used(elements):
    window = {"WindowCenter": 1024, "WindowWidth": 1024}
    content = dicom(RAMP, **(window | elements))
    expected = images.read(lambda: dicom(RAMP, **window), 64)
    assert np.array_equal(images.read(lambda: content, 64), expected)


def test_a_negative_slope_turns_black_into_white():
    rescale = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    expected = images.read(lambda: dicom(4095 - RAMP, **window), 64)
    square = images.read(lambda: dicom(RAMP, **rescale, **window), 64)
    assert np.abs(square.astype(int) - expected).max() <= 1


def lut(entries, first, depth):
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [len(entries), first, depth])
    table.add_new("LUTData", "US", [int(entry) for entry in entries])
    return Sequence([table])


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lookup_tables_are_applied(keyword):
    table = lut(np.arange(2047, -1, -1) // 8, 1024, 8)  # darker from 1024 to 3071
    content = dicom(RAMP, **{keyword: table})
    row = images.read(lambda: content, 64)[32].astype(int)
    assert (row[:16] == 255).all() and (row[48:] == 0).all()
    assert (np.diff(row) <= 0).all()


# Padding is no part of the picture.


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2000, "WindowWidth": 1500}])
@pytest.mark.parametrize(
    ("padding", "elements"),
    [
        ([4095], {"PixelPaddingValue": 4095}),
        ([0], {"PixelPaddingValue": 0}),
        ([3900, 4000, 4095], {"PixelPaddingValue": 3900, "PixelPaddingRangeLimit": 4095}),
        ([3900, 4000, 4095], {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3900}),
    ],
)
def test_padding_is_black_and_does_not_count(photometric, window, padding, elements):
    pixels = np.tile(np.arange(1000, 3048, 32, dtype=np.uint16), (64, 1))
    alone = images.read(lambda: dicom(pixels, photometric, **window), 64)
    padded = pixels.copy()
    padded[:, :20] = np.resize(padding, 20)
    padded[:20] = np.resize(padding, 64)
    square = images.read(lambda: dicom(padded, photometric, **window, **elements), 64)
    assert (square[:20] == 0).all() and (square[:, :20] == 0).all()
    shown = dicom(pixels[20:, 20:], photometric, **window)
    expected = images.read(lambda: shown, 44)
    assert np.array_equal(square[20:, 20:], expected)
    assert alone[40, 0] != square[40, 0] or alone[40, 0] == 0


def test_padding_with_the_other_sign():
    pixels = RAMP.copy()
    pixels[:32] = 63536
    elements = {"BitsStored": 16, "HighBit": 15}
    padded = Dataset()
    padded.add_new("PixelPaddingValue", "SS", -2000)
    content = dicom(pixels, **elements, PixelPaddingValue=63536)
    header = dcmread(io.BytesIO(content))
    header["PixelPaddingValue"] = padded["PixelPaddingValue"]
    square = images.read(lambda: saved(header), 64)
    assert (square[:32] == 0).all() and square[48, -1] > 250


def test_all_pixels_as_padding_make_no_sense():
    content = dicom(RAMP, PixelPaddingValue=0, PixelPaddingRangeLimit=4095)
    assert np.array_equal(images.read(lambda: content, 64), images.read(lambda: dicom(RAMP), 64))


# Transfer syntaxes.


def saved(dataset, syntax=None):
    buffer = io.BytesIO()
    if syntax is not None:
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(content, syntax, frame):
    dataset = dcmread(io.BytesIO(content))
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return saved(dataset, syntax)


def rle(pixels):
    """DICOM's RLE of 16-bit pixels, without any runs."""
    segments = []
    for byte in (1, 0):
        plane = pixels.astype("<u2").view(np.uint8).ravel()[byte::2].tobytes()
        pieces = [plane[i : i + 128] for i in range(0, len(plane), 128)]
        segments.append(b"".join(bytes([len(piece) - 1]) + piece for piece in pieces))
    starts = [64, 64 + len(segments[0])]
    return struct.pack("<16L", 2, *starts, *[0] * 13) + b"".join(segments)


def test_rle_and_jpeg_2000_are_read_without_a_plugin():
    plain = images.read(lambda: dicom(RAMP), 64)
    content = compressed(dicom(RAMP), uid.RLELossless, rle(RAMP))
    assert np.array_equal(images.read(lambda: content, 64), plain)
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "JPEG2000", no_jp2=True)
    content = compressed(dicom(RAMP), uid.JPEG2000Lossless, buffer.getvalue())
    assert np.array_equal(images.read(lambda: content, 64), plain)


def test_a_large_jpeg_2000_is_decoded_at_less_resolution():
    smooth = Image.fromarray(np.random.default_rng(0).normal(2000, 400, (9, 7)).astype(np.float32))
    pixels = np.asarray(smooth.resize((1235, 1523), Image.Resampling.BICUBIC)).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", no_jp2=True)
    content = compressed(dicom(pixels), uid.JPEG2000Lossless, buffer.getvalue())
    plain = images.read(lambda: dicom(pixels), 64).astype(int)
    assert np.abs(images.read(lambda: content, 64) - plain).max() <= 4


JPEG_FILES = {
    "JPEGLSNearLossless_16.dcm": uid.JPEGLSNearLossless,
    "MR_small_jpeg_ls_lossless.dcm": uid.JPEGLSLossless,
    "SC_rgb_jpeg_gdcm.dcm": uid.JPEGLosslessSV1,
    "JPEG-lossy.dcm": uid.JPEGExtended12Bit,
}


@pytest.mark.parametrize("name", JPEG_FILES)
def test_other_jpegs_are_read_or_their_package_is_named(name):
    [path] = [Path(path) for path in get_testdata_files() if path.endswith(f"/{name}")]
    syntax = JPEG_FILES[name]
    if set(get_decoder(syntax).available_plugins) - {"pillow"}:
        assert images.read(path, 64).shape == (64, 64)
    else:
        with pytest.raises(ValueError, match="pylibjpeg-libjpeg") as caught:
            images.read(path, 64)
        assert syntax.name in str(caught.value)


def test_a_syntax_that_nobody_reads_is_named():
    content = compressed(dicom(RAMP), uid.MPEG2MPML, b"\0" * 100)
    with pytest.raises(ValueError, match="MPEG2"):
        images.read(lambda: content, 64)


def test_compressed_pixels_of_another_size_are_refused():
    buffer = io.BytesIO()
    Image.new("I;16", (3000, 64)).save(buffer, "JPEG2000", no_jp2=True)
    content = compressed(dicom(RAMP), uid.JPEG2000Lossless, buffer.getvalue())
    with pytest.raises(ValueError, match="declares 64 x 64 pixels"):
        images.read(lambda: content, 64)


def test_a_deflated_file_is_read():
    content = saved(dcmread(io.BytesIO(dicom(RAMP))), uid.DeflatedExplicitVRLittleEndian)
    assert np.array_equal(images.read(lambda: content, 64), images.read(lambda: dicom(RAMP), 64))


# More than eight bits a channel.


def png(pixels, colour):
    """A PNG of 16 bits a channel; `colour` is its type in the PNG standard."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    return png_of(width, height, colour, np.pad(rows, ((0, 0), (1, 0))).tobytes())


def png_of(width, height, colour, raw):
    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(raw, 1))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("brightest", [255, 4095, 65535])
@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_sixteen_bits_with_colour_or_alpha_are_windowed(brightest, colour, channels):
    ramp = np.tile(np.linspace(0, brightest, 64).astype(np.uint16), (64, 1))
    pixels = np.repeat(ramp[..., None], channels, axis=2)
    if channels in (2, 4):
        pixels[..., -1] = 65535
    square = images.read(lambda: png(pixels, colour), 64)
    expected = images.read(ramp, 64).astype(int)
    assert np.abs(square - expected).max() <= 1


def dicom_in_colour(colours, **elements):
    """A DICOM file of `[H, W, 3]`, eight or sixteen bits."""
    dataset = dcmread(io.BytesIO(dicom(np.zeros(colours.shape[:2], np.uint16))))
    bits = 8 * colours.dtype.itemsize
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PlanarConfiguration = 0
    dataset.PixelData = colours.tobytes()
    for name, element in elements.items():
        setattr(dataset, name, element)
    return saved(dataset)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_sixteen_bits_of_dicom_colours(photometric):
    colours = np.repeat(RAMP[..., None], 3, axis=2)
    content = dicom_in_colour(colours, PhotometricInterpretation=photometric)
    expected = images.read(RAMP, 64).astype(int)
    assert np.abs(images.read(lambda: content, 64) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_applied(bits):
    indices = np.tile(np.arange(64, dtype=np.uint16), (64, 1))
    brightness = np.linspace(2**bits - 1, 0, 64).astype(f"<u{bits // 8}")  # darker to the right
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [64, 0, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = brightness.tobytes()
    square = images.read(lambda: dicom(indices, **elements), 64)
    expected = np.linspace(255, 0, 64)
    assert np.abs(square - expected).max() <= 1


# Files without the preamble, or even without the group that names the transfer syntax.


def test_files_without_preamble():
    content = dicom(RAMP)
    expected = images.read(lambda: content, 64)
    assert np.array_equal(images.read(lambda: content[132:], 64), expected)


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_bare_data_sets(implicit, little):
    dataset = dcmread(io.BytesIO(dicom(RAMP, StudyDate="20200101")))
    if not little:
        dataset.PixelData = RAMP.astype(">u2").tobytes()
    bare = Dataset()
    bare.update(dataset)
    buffer = io.BytesIO()
    bare.save_as(buffer, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    square = images.read(buffer.getvalue, 64)
    assert np.array_equal(square, images.read(lambda: dicom(RAMP), 64))


# Eight bits are left as they are.

EIGHT_BITS = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
DULL = np.tile(np.arange(80, 144, dtype=np.uint8), (64, 1))  # greys from 80 to 143


def eight_bit_dicom(pixels, photometric="MONOCHROME2", **elements):
    zeros = np.zeros(pixels.shape, np.uint16)
    elements = EIGHT_BITS | {"PixelData": pixels.tobytes()} | elements
    return dicom(zeros, photometric, **elements)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"RescaleSlope": 1, "RescaleIntercept": 0},
        {"RescaleSlope": 2, "RescaleIntercept": -100},
        {"BitsAllocated": 16, "PixelData": DULL.astype("<u2").tobytes()},
    ],
    ids=["plain", "rescale 1", "rescale 2", "in 16 bits"],
)
def test_eight_bits_without_a_window_are_not_stretched(elements):
    square = images.read(lambda: eight_bit_dicom(DULL, **elements), 64)
    assert np.array_equal(square, DULL)
    inverted = images.read(lambda: eight_bit_dicom(DULL, "MONOCHROME1", **elements), 64)
    assert np.array_equal(inverted, 255 - DULL)


def test_signed_eight_bits_and_a_window():
    signed = (DULL.astype(int) - 128).astype(np.int8)
    square = images.read(lambda: eight_bit_dicom(signed, PixelRepresentation=1), 64)
    assert np.array_equal(square, DULL)
    window = {"WindowCenter": 112, "WindowWidth": 32}
    square = images.read(lambda: eight_bit_dicom(DULL, **window), 64)
    assert (square[:, :15] == 0).all() and (square[:, 50:] == 255).all()


def test_one_bit_is_black_and_white():
    bits = np.zeros((64, 64), np.uint8)
    bits[:, 32:] = 1
    packed = np.packbits(bits, bitorder="little").tobytes()
    content = eight_bit_dicom(bits, BitsAllocated=1, BitsStored=1, HighBit=0, PixelData=packed)
    square = images.read(lambda: content, 64)
    assert (square[:, :30] == 0).all() and (square[:, 34:] == 255).all()


# Memory and time.


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "link.png"):
        with pytest.raises(ValueError, match="not a regular file"):
            images.read(tmp_path / name, 32)
    (tmp_path / "picture.png").write_bytes(encoded(picture(random.Random(1)), "PNG"))
    (tmp_path / "good.png").symlink_to("picture.png")
    assert images.read(tmp_path / "good.png", 32).shape == (32, 32)


def test_large_files_are_not_read(tmp_path):
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(5 * 10**9)
    with pytest.raises(ValueError, match="more than 134 MB"):
        images.read(tmp_path / "sparse.png", 32)


def test_a_broken_archive_is_the_image_s_fault():
    def member():
        raise tarfile.ReadError("unexpected end of data")

    with pytest.raises(ValueError, match="archive is truncated"):
        images.read(member, 32)


def deflated_zeros():
    """A deflated DICOM of some kilobytes that expands to 200 MB."""
    header = dcmread(io.BytesIO(dicom(RAMP)))
    header.Rows = header.Columns = 10_000
    header.PixelData = bytes(2 * 10**8)
    return saved(header, uid.DeflatedExplicitVRLittleEndian)


def many_elements():
    content = dicom(RAMP)
    start = content.index(b"\x28\0\x02\0")  # of the first element of the data set
    return content[:start] + struct.pack("<HH2sH", 9, 0x1010, b"LO", 0) * 10**7


def many_fragments():
    content = compressed(dicom(RAMP), uid.JPEG2000Lossless, b"\0" * 10)
    return content[:-26] + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 10**7


def ordinary():
    noise = np.random.default_rng(0).integers(0, 4096, (3520, 4280), dtype=np.uint16)
    return dicom(noise, WindowCenter=2000, WindowWidth=3000)


LARGE = {
    "ordinary": (ordinary, 150, "(32, 32)"),
    "16 bits": (lambda: png_of(7500, 7500, 0, bytes(7500 * 15001)), 300, "one grey"),
    "too deep": (lambda: png_of(14000, 14000, 0, b"0"), 50, "125 MB when it is"),
    "deflated": (deflated_zeros, 450, "134 MB when inflated"),
    "elements": (many_elements, 300, "elements"),
    "fragments": (many_fragments, 300, "fragments"),
}
MEASURE = """
import resource, sys
from pathlib import Path
from mcrlib.data import images
import pydicom.pixels
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    print(images.read(Path(sys.argv[1]), 32).shape)
except ValueError as error:
    print(error)
print((peak() - before) // 1024)
"""


@pytest.mark.parametrize("kind", LARGE)
def test_memory_stays_small(kind, tmp_path):
    make, most, expected = LARGE[kind]
    (tmp_path / "file").write_bytes(make())
    command = [sys.executable, "-c", MEASURE, tmp_path / "file"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    outcome, megabytes = done.stdout.splitlines()
    assert expected in outcome
    assert int(megabytes) < most


def test_a_progressive_jpeg_with_too_many_scans_is_refused():
    buffer = io.BytesIO()
    Image.new("L", (2000, 2000), 99).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()[:-2] + b"\xff\xda" * 1000
    with pytest.raises(ValueError, match="scans"):
        images.read(lambda: content, 32)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["uint8", "int8", "uint16", "int16", ">u2", "<i2"]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([(0, 100), (0.5, 99.5), (3, 70)]),
)
def test_the_table_gives_what_floats_give(dtype, seed, percentiles):
    generator = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    pixels = generator.integers(
        limits.min, limits.max, (9, 11), dtype=np.dtype(dtype).newbyteorder("=")
    )
    pixels = pixels.astype(dtype)
    low, high = np.percentile(pixels, percentiles)
    expected = ((pixels - low) * (255 / (high - low))).clip(0, 255)
    result = grey_levels.eight_bits(pixels, percentiles=percentiles)
    assert np.abs(result - expected).max() < 0.51


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint32, np.bool_])
def test_other_numbers_are_windowed_in_bands(dtype, monkeypatch):
    monkeypatch.setattr(grey_levels, "BAND", 100)
    ramp = RAMP if dtype is not np.bool_ else RAMP > 2000
    expected = images.read(ramp.astype(np.uint16), 64).astype(int)
    assert np.abs(images.read(ramp.astype(dtype), 64) - expected).max() <= 1


def test_arrays_that_hold_no_numbers_are_refused():
    for array in (RAMP.astype(str), RAMP.astype(complex), RAMP.astype(object)):
        with pytest.raises(ValueError, match="numbers are needed"):
            images.read(array, 32)


# Whatever is in the file.


@pytest.mark.parametrize("path", get_testdata_files(), ids=lambda path: Path(path).name)
def test_pydicoms_own_files_are_read_or_refused(path):
    try:
        square = images.read(Path(path), 32)
    except ValueError as error:
        assert str(error)
    else:
        assert square.shape == (32, 32)


def valid_files():
    """One small file of each kind."""
    colours = np.repeat(RAMP[..., None], 3, axis=2)
    frame = io.BytesIO()
    Image.fromarray(RAMP).save(frame, "JPEG2000", no_jp2=True)
    progressive = io.BytesIO()
    picture(random.Random(3)).save(progressive, "JPEG", progressive=True)
    return [
        encoded(picture(random.Random(3)), "PNG"),
        encoded(picture(random.Random(3)), "JPEG"),
        progressive.getvalue(),
        png(RAMP, 0),
        png(colours, 2),
        dicom(RAMP),
        dicom(RAMP, WindowCenter=[1, 2], WindowWidth=[3, 4], PixelPaddingValue=7),
        dicom_in_colour(colours),
        compressed(dicom(RAMP), uid.RLELossless, rle(RAMP)),
        compressed(dicom(RAMP), uid.JPEG2000Lossless, frame.getvalue()),
        compressed(eight_bit_dicom(DULL), uid.JPEGBaseline8Bit, encoded(Image.fromarray(DULL))),
        saved(dcmread(io.BytesIO(dicom(RAMP))), uid.DeflatedExplicitVRLittleEndian),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_mutated_files_are_read_or_refused(seed):
    draw = random.Random(seed)
    original = valid_files()[seed]
    assert images.read(lambda: original, 16).shape == (16, 16)
    for _ in range(60):
        content = mutated(original, draw)
        try:
            square = images.read(lambda content=content: content, 16)
        except ValueError as error:
            assert str(error)
        else:
            assert square.shape == (16, 16)


def mutated(content, draw):
    """Bytes changed, cut out, put twice, or cut off; mostly in the first part, with the header."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        position = draw.randrange(min(len(content), draw.choice([64, 700, len(content)])))
        length = draw.randint(1, 8)
        change = draw.randrange(6)
        if change <= 2:
            content[position] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        elif change == 3:
            del content[position : position + length]
        elif change == 4:
            content[position:position] = content[position : position + length]
        else:
            del content[draw.randint(position, len(content)) :]
        if not content:
            return b"x"
    return bytes(content)


def test_a_path_can_be_a_text_or_a_path(tmp_path):
    path = tmp_path / "film.png"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(path)

    np.testing.assert_array_equal(images.read(str(path), 16), images.read(path, 16))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("no-such-file.png", "image file is missing"),
        ("film\0.png", "image path holds a null character"),
        (None, "must be a path, an array or a function, not of the type NoneType"),
        (3, "not of the type int"),
        (["film.png"], "not of the type list"),
        (lambda: None, "must return bytes or an array, not NoneType"),
        (lambda: "film.png", "must return bytes or an array, not str"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(source, sentence):
    with pytest.raises(ValueError, match=sentence):
        images.read(source, 16)


@pytest.mark.parametrize("size", [0, -1, 2.5, "32", None, True, 100_000])
def test_a_size_that_is_no_number_of_pixels_is_refused(size):
    with pytest.raises(ValueError, match="size must be a whole number from 1 to 4,096"):
        images.read(np.arange(256, dtype=np.uint8).reshape(16, 16), size)
