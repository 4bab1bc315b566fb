"""Prepared pairs: a manifest and an image cache, checked when they are opened."""

import contextlib
import hashlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mcrlib.config import DRAWN_SOURCES, Config
from mcrlib.data.schema import SPLITS
from mcrlib.files import (
    CHECKED_FILES,
    DATASET_FILE,
    FILES,
    IMAGES_FILE,
    MANIFEST_FILE,
    explained,
    keep_private,
    sha256,
    write,
)
from mcrlib.locks import lock

PUBLISH_LOCK = "publish.lock"  # held while files are moved into place, shared while they are read
PUBLISH_SECONDS = 600.0  # more than reading all checksums takes
VERIFIED_FILE = "verified.json"  # name of each file -> its state when its checksum was right
# Two changes within a tick of a disk's clock leave the same times. Most disks count in less than
# 10 ms; those that store whole seconds count in one or two.
TICK = 0.1
COARSE_TICK = 2.0

LABEL_COLUMNS = ["labels", "uncertain"]
FEWEST_VALIDATION_PAIRS = 10  # notebook 05 maps and classifies them, in five parts


@dataclass(frozen=True)
class Dataset:
    """Prepared pairs: row i of `frame` belongs to image i."""

    frame: pd.DataFrame  # columns of SCHEMA
    images: np.ndarray  # uint8 [N, S, S], memory-mapped, read only
    info: dict[str, Any]  # dataset.json
    folder: Path

    def same_images(self) -> np.ndarray:
        """A number for each row, int64 `[N]`: equal if the images are equal in every pixel."""
        hashes = [hashlib.sha256(image).hexdigest() for image in self.images]
        numbers, _ = pd.factorize(np.array(hashes))
        return numbers

    def indices(self, split: str) -> np.ndarray:
        """Rows of a split, int64 `[n]`, in the manifest's order.

        Raises ValueError if there is no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"There is no split {split!r}; there are {', '.join(SPLITS)}.")
        return np.flatnonzero(self.frame["split"] == split)

    def training_rows(self, pairs: int = 0) -> np.ndarray:
        """Rows of the first `pairs` training pairs, int64 `[pairs]`; of all of them if that is 0.

        Raises ValueError if there are not as many.
        """
        rows = self.indices("train")
        if pairs > len(rows):
            raise ValueError(
                f"There are {len(rows):,} training pairs in {self.folder}, fewer than the "
                f"{pairs:,} asked for: name a smaller number."
            )
        return rows[:pairs] if pairs else rows


def open_dataset(folder: Path | str) -> Dataset:
    """Open the prepared data in `folder`.

    If it is of patients, this process writes files that only their owner can read from then on.
    Raises FileNotFoundError if the folder holds no prepared data, and ValueError if a file
    differs, by even a single bit, from the one that was built.

    The checksums are read once: `verified.json` then keeps each file's size, times of change, inode
    and device, and a file is read again only if one of them has changed. This finds every file that
    was written to, replaced, moved or copied, even if its old modification time was restored. It
    cannot find damage below the file system, such as a disk's flipped bit: remove `verified.json`
    to have everything read again. A folder that cannot be written to is read each time.
    """
    folder = Path(folder)
    publish_build(folder)
    if not (folder / DATASET_FILE).exists():
        raise FileNotFoundError(f"There is no prepared data in {folder}: run `make data` first.")
    with lock(folder / PUBLISH_LOCK, shared=True, wait=PUBLISH_SECONDS):
        return _open(folder)


def _open(folder: Path) -> Dataset:
    info = _read_info(folder / DATASET_FILE)
    if info.get("source") not in DRAWN_SOURCES:
        keep_private()
    _verify(folder, info["sha256"])
    frame = _read_manifest(folder / MANIFEST_FILE)
    images = np.load(folder / IMAGES_FILE, mmap_mode="r")
    return Dataset(frame, images, info, folder)


def problems(dataset: Dataset, config: Config) -> list[str]:
    """What would make a training of `config`, or the evaluation after it, fail: sentences.

    Small data sets are otherwise no problem.
    """
    sentences = []
    counts = {split: len(dataset.indices(split)) for split in SPLITS}
    for split, count in counts.items():
        if count == 0:
            sentences.append(_about_empty(split, dataset))
    validation = counts["validate"]
    if 0 < validation < FEWEST_VALIDATION_PAIRS:
        sentences.append(
            f"The validate split of {dataset.folder} has {_pairs(validation)}, but choosing the "
            f"best epoch and notebook 05 need {FEWEST_VALIDATION_PAIRS}: add pairs, or name a "
            "split for each row so that more patients are in this one."
        )
    if 0 < counts["train"] < config.batch_size:
        sentences.append(
            f"The training split has {_pairs(counts['train'])}, fewer than a batch of "
            f"{config.batch_size}; set a smaller batch_size."
        )
    return sentences


def _about_empty(split: str, dataset: Dataset) -> str:
    patients = dataset.frame["patient_id"].nunique()
    if patients < len(SPLITS):
        return (
            f"The {split} split of {dataset.folder} has no pairs, since no patient may be in two "
            f"splits and there are too few: {patients}. Add patients, or correct the patient_id."
        )
    return (
        f"The {split} split of {dataset.folder} has no pairs: add some, or leave the split of all "
        "patients empty so that it is drawn; excluded.csv says what was left out."
    )


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count:,} pairs"


def refuse_problems(dataset: Dataset, config: Config) -> None:
    """Raise ValueError with all `problems`, before anybody waits for hours."""
    sentences = problems(dataset, config)
    if sentences:
        raise ValueError(" ".join(sentences))


def _read_info(dataset_file: Path) -> dict[str, Any]:
    """The content of dataset.json. Raises ValueError if it lacks a checksum."""
    try:
        info = json.loads(dataset_file.read_bytes())
        missing = set(CHECKED_FILES) - set(info["sha256"])
    except (ValueError, TypeError, KeyError):
        missing = CHECKED_FILES
    if missing:
        raise ValueError(f"{dataset_file} is empty or damaged: run `make data` again.")
    return info


def _verify(folder: Path, hashes: dict[str, str]) -> None:
    """Check each file that has changed since its checksum was last found right."""
    verified = _read_verified(folder)
    states = {}
    for name in CHECKED_FILES:
        file = folder / name
        states[name] = _state(file, hashes[name])
        if states[name] is None or states[name] != verified.get(name):
            _outwait_clock(states[name])
            # The state of before reading: a change in between then shows the next time.
            states[name] = _state(file, hashes[name])
            _check(file, hashes[name])
    if states != verified:
        text = json.dumps(states, indent=1)
        with contextlib.suppress(OSError):  # a full or read-only disk must not prevent reading
            write(folder / VERIFIED_FILE, text.encode())


def _read_verified(folder: Path) -> dict[str, Any]:
    """The content of `verified.json`; empty if there is none or it is damaged."""
    try:
        verified = json.loads((folder / VERIFIED_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return verified if isinstance(verified, dict) else {}


def _state(file: Path, expected_sha256: str) -> dict[str, Any] | None:
    """What identifies a file and any change of it, together with the checksum it should have.

    None if there is no such file.
    """
    if not file.is_file():
        return None
    status = file.stat()
    return {
        "sha256": expected_sha256,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def _outwait_clock(state: dict[str, Any] | None) -> None:
    """Wait until another change of a file would get another time than its last one."""
    if state is None:
        return
    changed = state["ctime_ns"]
    tick = TICK if changed % 10**9 else COARSE_TICK
    age = time.time() - changed / 1e9
    time.sleep(min(max(tick - age, 0), tick))


def _check(file: Path, expected_sha256: str) -> None:
    if not file.is_file() or sha256(file) != expected_sha256:
        raise ValueError(
            f"{file} is missing or not the file that was built (its checksum differs): "
            "run `make data` again."
        )


def _read_manifest(file: Path) -> pd.DataFrame:
    """The manifest, with labels as lists, as the sources give them."""
    with pq.ParquetFile(file) as manifest:
        table = manifest.read()
    frame = table.drop_columns(LABEL_COLUMNS).to_pandas()
    for name in LABEL_COLUMNS:
        frame[name] = pd.Series(_to_lists(table[name]), frame.index, dtype=object)
    return frame[table.column_names]


def _to_lists(column: pa.ChunkedArray) -> list[list[str] | None]:
    """A column of lists of texts, a Python list for each row, None where the row has no list.

    Converted row by row, the labels would take most of the time of opening. So each distinct text
    is converted once, and a row's list is cut out of the list of all texts.
    """
    lists = []
    for chunk in column.chunks:
        codes = chunk.flatten().dictionary_encode(null_encoding="encode")
        distinct = codes.dictionary.to_pylist()
        texts = [distinct[code] for code in codes.indices.to_pylist()]
        lengths = chunk.value_lengths().fill_null(0).to_numpy()
        is_missing = chunk.is_null().to_pylist()
        start = 0
        for end, missing in zip(np.cumsum(lengths).tolist(), is_missing, strict=True):
            lists.append(None if missing else texts[start:end])
            start = end
    return lists


def publish_build(folder: Path) -> None:
    """Move the files of a completed build from `folder/partial` into `folder`.

    Does nothing if no build has completed. If the process is killed in between, the next call
    completes the move.
    """
    if not _is_complete(folder):
        return
    with lock(folder / PUBLISH_LOCK, wait=PUBLISH_SECONDS):
        if _is_complete(folder):  # and not published by another process meanwhile
            _publish(folder)


def _is_complete(folder: Path) -> bool:
    # Written last and moved last: while it is in `partial`, a completed build is unpublished.
    return (folder / "partial" / DATASET_FILE).exists()


def _publish(folder: Path) -> None:
    partial = folder / "partial"
    for name in FILES:
        if (partial / name).exists():
            try:
                os.replace(partial / name, folder / name)
            except OSError as error:
                raise explained(error, folder / name) from error
    shutil.rmtree(partial)
