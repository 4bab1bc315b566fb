"""One radiograph to one square: what is read, what is refused, and why."""

import io
import random
import tracemalloc
from pathlib import Path

import mimic_tree
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mimic_tree import dicom, encoded, picture
from PIL import Image

from mcrlib.data import images

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
