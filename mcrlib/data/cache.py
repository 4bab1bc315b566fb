"""Many radiographs -> one array on disk, on all cores, safe against interruption (ours)."""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from joblib import Parallel, delayed
from numpy.lib import format as npy
from tqdm import tqdm

from mcrlib.data import images

CHUNK = 64  # images between two lines of the journal


def build(
    sources: Sequence[images.Source], size: int, folder: Path, key: str, workers: int
) -> dict[int, str]:
    """Decode `sources` in order into `folder/images.npy`, uint8 `[kept, size, size]`.

    Returns the failures: index -> reason. Killed at any moment, the next call with the same `key`
    goes on behind the last chunk that the journal vouches for; the bytes are the same for any
    number of `workers` and interruptions, and memory does not grow with the number of images.
    """
    journal, cache = folder / "journal.jsonl", folder / "images.npy"
    done, kept, failures = _resume(journal, cache, key)
    chunks = [sources[i : i + CHUNK] for i in range(done, len(sources), CHUNK)]
    decoded = Parallel(n_jobs=workers if len(chunks) > 1 else 1, return_as="generator")(
        delayed(_decode)(chunk, size, os.getpid()) for chunk in chunks
    )
    pause = 0.5 if sys.stderr.isatty() else 15  # seconds: logs and notebooks keep every line
    bar = tqdm(total=len(sources), initial=done, unit=" images", mininterval=pause)
    with bar, open(journal, "a") as log, open(cache, "r+b" if done else "wb") as out:
        _write_header(out, kept, size)
        out.seek(kept * size * size, os.SEEK_CUR)
        out.truncate()
        for squares, reasons in decoded:
            out.write(squares.tobytes())
            _to_disk(out)  # before the journal says so
            reasons = {done + i: reason for i, reason in reasons.items()}
            done, kept = done + len(squares) + len(reasons), kept + len(squares)
            log.write(json.dumps({"done": done, "kept": kept, "failures": reasons}) + "\n")
            _to_disk(log)
            failures |= reasons
            bar.update(done - bar.n)
        out.seek(0)
        _write_header(out, kept, size)
        _to_disk(out)
    return failures


def _resume(journal: Path, cache: Path, key: str) -> tuple[int, int, dict[int, str]]:
    """(images done, images kept, failures) of an interrupted build of the same images."""
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    steps = [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be torn
    if not cache.exists() or not steps or steps[0] != {"key": key}:
        steps = [{"key": key}]
    journal.write_text("".join(json.dumps(step) + "\n" for step in steps))
    failures = {int(i): reason for step in steps[1:] for i, reason in step["failures"].items()}
    return steps[-1].get("done", 0), steps[-1].get("kept", 0), failures


def _write_header(file: IO, rows: int, size: int) -> None:
    """Of an array of that many rows; numpy pads it, so that it is as long for any number."""
    shape = (rows, size, size)
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _to_disk(file: IO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _decode(
    chunk: Sequence[images.Source], size: int, builder: int
) -> tuple[np.ndarray, dict[int, str]]:
    """(images `[k, size, size]` that could be read, index -> reason of those that could not)."""
    _end_with(builder)
    squares, reasons = [], {}
    for i, image in enumerate(chunk):
        try:
            squares.append(images.read(image, size))
        except ValueError as error:
            reasons[i] = str(error)
    return np.array(squares, np.uint8).reshape(-1, size, size), reasons


@lru_cache
def _end_with(builder: int) -> None:
    """End this worker when the builder is gone, even if that was killed and could not say so."""

    def watch() -> None:
        while os.getppid() == builder:
            time.sleep(1)
        os._exit(1)

    if os.getpid() != builder:
        threading.Thread(target=watch, daemon=True).start()
