"""What a JPEG says of itself before its pixels, and whether they can be decoded in time (ours)."""

from dataclasses import dataclass

from mcrlib.data.grey_levels import Refusal

MAX_SCANNED_PIXELS = 400_000_000  # of a JPEG that comes in several scans: its pixels times scans
USUAL_SCANS = 10  # of such a JPEG; the decoder keeps six bytes a pixel, however few scans there are
MAX_SEGMENTS = 1000  # before the pixels; real files have ten or twenty

FILL = 0xFF  # may stand before a marker any number of times
START_OF_SCAN = 0xDA
START_OF_SCAN_BYTES = b"\xff\xda"
# Markers of the segment with the size: of all processes, and of JPEG-LS.
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}


@dataclass(frozen=True)
class Header:
    """Size and process of a JPEG or JPEG-LS image."""

    rows: int
    columns: int
    precision: int  # bits of a sample
    one_scan: bool  # whether all pixels come at once


def header(data: bytes) -> Header | None:
    """The header of a JPEG or JPEG-LS image; None if there is none that can be read."""
    frame = None
    position = 2  # after the marker of the image's start
    for _ in range(MAX_SEGMENTS):
        segment = data[position : position + 4]
        if len(segment) < 4 or segment[0] != 0xFF:
            return None
        marker = segment[1]
        if marker == FILL:
            position += 1
            continue
        content = position + 4
        if marker in START_OF_FRAME:
            frame = content
            process = marker
        elif marker == START_OF_SCAN:
            break
        position += 2 + int.from_bytes(segment[2:])
    if frame is None or len(data) < content + 1:
        return None
    n_components = data[frame + 5]
    all_components = data[content] == n_components
    return Header(
        rows=int.from_bytes(data[frame + 1 : frame + 3]),
        columns=int.from_bytes(data[frame + 3 : frame + 5]),
        precision=data[frame],
        one_scan=all_components and process not in PROGRESSIVE,
    )


def check_scans(data: bytes, width: int, height: int) -> None:
    """Raises Refusal if a JPEG with several scans, such as a progressive one, is too large.

    It is decoded as often as it has scans.
    """
    found = header(data)
    if found is not None and found.one_scan:
        return
    n_scans = data.count(START_OF_SCAN_BYTES)
    if width * height * max(n_scans, USUAL_SCANS) > MAX_SCANNED_PIXELS:
        raise Refusal(f"image has too many pixels for a JPEG that comes in {n_scans} scans")
