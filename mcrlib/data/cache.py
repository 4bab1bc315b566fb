"""Many radiographs -> one array on disk, on all cores, safe against interruption (ours)."""

import io
import json
import os
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from joblib import Parallel, delayed
from numpy.lib import format as npy
from tqdm import tqdm

from mcrlib.config import PLAIN
from mcrlib.data import images
from mcrlib.files import IMAGES_FILE, write

CHUNK = 64  # images decoded between two lines of the journal


@dataclass
class _Progress:
    """How far a build has come."""

    tried: int = 0  # sources read so far, in order
    kept: int = 0  # images decoded and written
    failures: dict[int, str] = field(default_factory=dict)  # index of the source -> reason

    def add(self, step: dict) -> None:
        """Count a chunk that the journal describes with the line `step`."""
        self.tried = step["done"]
        self.kept = step["kept"]
        for index, reason in step["failures"].items():
            self.failures[int(index)] = reason  # JSON has no integer keys


def build(
    sources: Sequence[images.Source], size: int, folder: Path, key: str, workers: int
) -> dict[int, str]:
    """Decode `sources` in order into `folder/images.npy`, uint8 `[kept, size, size]`.

    Returns the failures: index -> reason. If a build is killed, at any moment, the next call with
    the same `key` resumes after the last chunk that the journal records. The bytes are the same
    for any number of `workers` and interruptions, and memory does not grow with the number of
    images. Raises OSError if the disk is full.
    """
    journal_file = folder / "journal.jsonl"
    images_file = folder / IMAGES_FILE
    first_line = {"key": key}
    steps = _intact_steps(journal_file, images_file, first_line, size)
    _write_journal(journal_file, [first_line, *steps])
    progress = _Progress()
    for step in steps:
        progress.add(step)
    decoded = _decode_all(sources, progress.tried, size, workers)
    bar = _bar(len(sources), progress.tried)
    mode = "r+b" if progress.tried else "wb"
    with bar, open(journal_file, "a") as journal, open(images_file, mode) as out:
        _write_header(out, progress.kept, size)
        _drop_after(out, progress.kept * size * size)
        for squares, reasons in decoded:
            out.write(squares.tobytes())
            _to_disk(out)  # before the journal records the chunk
            step = _describe_step(progress, squares, reasons)
            progress.add(step)
            journal.write(json.dumps(step) + "\n")
            _to_disk(journal)
            bar.update(progress.tried - bar.n)
        out.seek(0)
        _write_header(out, progress.kept, size)
        _to_disk(out)
    return progress.failures


def _intact_steps(journal_file: Path, images_file: Path, first_line: dict, size: int) -> list[dict]:
    """The chunks of an interrupted build that are on disk as its journal describes them.

    The journal's first line holds the build's key, and each other line a chunk. Whatever follows a
    line or a chunk that is torn, missing or damaged is built again.
    """
    lines = _read_journal(journal_file)
    if not lines or lines[0] != first_line or not images_file.is_file():
        return []
    steps = []
    progress = _Progress()
    with images_file.open("rb") as images_on_disk:
        images_on_disk.seek(_header_length(size))
        for step in lines[1:]:
            if not _is_next(step, progress):
                break
            expected = (step["kept"] - progress.kept) * size * size  # bytes
            pixels = images_on_disk.read(expected)
            if len(pixels) < expected or _checksum(pixels, step) != step["crc32"]:
                break
            progress.add(step)
            steps.append(step)
    return steps


def _read_journal(journal_file: Path) -> list:
    """The lines up to the first one that is torn or damaged."""
    if not journal_file.exists():
        return []
    lines = []
    for line in journal_file.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):  # a kill can leave the last line torn
            break
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return lines


def _write_journal(journal_file: Path, lines: list[dict]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write(journal_file, text.encode())


def _is_next(step: Any, progress: _Progress) -> bool:
    """Whether a line of the journal can be the chunk that follows this progress."""
    try:
        tried = step["done"] - progress.tried
        kept = step["kept"] - progress.kept
        failures = step["failures"].items()
        failed = [int(index) for index, _ in failures]
        step["crc32"]
    except (TypeError, KeyError, ValueError, AttributeError):
        return False
    counts_agree = 0 < tried <= CHUNK and kept >= 0 and kept + len(failed) == tried
    in_chunk = all(progress.tried <= index < step["done"] for index in failed)
    are_texts = all(isinstance(reason, str) for _, reason in failures)
    return counts_agree and in_chunk and are_texts


def _describe_step(progress: _Progress, squares: np.ndarray, reasons: dict[int, str]) -> dict:
    """The journal's line about the chunk that follows this progress.

    `reasons` has indices within the chunk.
    """
    failures = {progress.tried + i: reason for i, reason in reasons.items()}
    step = {
        "done": progress.tried + len(squares) + len(failures),
        "kept": progress.kept + len(squares),
        "failures": failures,
    }
    step["crc32"] = _checksum(squares.tobytes(), step)
    return step


def _checksum(pixels: bytes, step: dict) -> int:
    """CRC-32 of a chunk's pixels and of its line in the journal."""
    line = json.dumps([step["done"], step["kept"], step["failures"]])
    return zlib.crc32(line.encode(), zlib.crc32(pixels))


def _bar(total: int, initial: int) -> tqdm:
    seconds = 0.5 if sys.stderr.isatty() else 15  # logs keep every line
    unwatched = bool(os.environ.get(PLAIN))
    return tqdm(
        total=total, initial=initial, unit=" images", mininterval=seconds, disable=unwatched
    )


def _write_header(file: IO, rows: int, size: int) -> None:
    """NumPy's header of an array of `rows` images.

    NumPy pads the header, so its length does not depend on the number of rows.
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": (rows, size, size)}
    npy.write_array_header_1_0(file, header)


def _header_length(size: int) -> int:
    header = io.BytesIO()
    _write_header(header, 0, size)
    return header.tell()


def _drop_after(file: IO, length: int) -> None:
    """Move `length` bytes on and cut the file there: the rest was not in the journal."""
    file.seek(length, os.SEEK_CUR)
    file.truncate()


def _to_disk(file: IO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _decode_all(
    sources: Sequence[images.Source], start: int, size: int, workers: int
) -> Iterable[tuple[np.ndarray, dict[int, str]]]:
    """What `_decode` returns for each chunk of the sources from `start` on, in order."""
    starts = range(start, len(sources), CHUNK)
    if len(starts) <= 1:
        workers = 1  # starting processes would take longer than decoding one chunk
    parallel = Parallel(n_jobs=workers, return_as="generator")
    builder = os.getpid()
    return parallel(
        delayed(_decode)(sources[first : first + CHUNK], size, builder) for first in starts
    )


def _decode(
    chunk: Sequence[images.Source], size: int, builder: int
) -> tuple[np.ndarray, dict[int, str]]:
    """The images that can be read, uint8 `[k, size, size]`, and index -> reason of the others."""
    _end_with(builder)
    squares = []
    reasons = {}
    for i, image in enumerate(chunk):
        try:
            squares.append(images.read(image, size))
        except ValueError as error:
            reasons[i] = str(error)
    pixels = np.array(squares, np.uint8)
    return pixels.reshape(-1, size, size), reasons  # [0, size, size] if no image can be read


@lru_cache  # one thread for each worker process, not one for each chunk
def _end_with(builder: int) -> None:
    """End this worker process when the building process is gone, even if that was killed."""

    def watch() -> None:
        """A process whose parent dies gets another parent."""
        while os.getppid() == builder:
            time.sleep(1)
        os._exit(1)

    if os.getpid() != builder:
        threading.Thread(target=watch, daemon=True).start()
