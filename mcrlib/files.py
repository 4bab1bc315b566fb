"""Atomic writes, checksums, and the names of the files of prepared data (ours)."""

import hashlib
import os
from pathlib import Path

# Prepared data is a folder with these files.
IMAGES_FILE = "images.npy"  # uint8 [N, S, S]
MANIFEST_FILE = "manifest.parquet"  # row i describes image i; columns of `schema.SCHEMA`
EXCLUDED_FILE = "excluded.csv"  # every row of the source that was left out, with the reason
DATASET_FILE = "dataset.json"  # counts, rules, versions, and the checksums of the other files
CHECKED_FILES = (IMAGES_FILE, MANIFEST_FILE, EXCLUDED_FILE)
FILES = (*CHECKED_FILES, DATASET_FILE)  # in the order in which a build publishes them


def write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically and fsync; skip if the content is unchanged.

    Missing folders are created. Several processes may write the same file at the same time.
    Raises OSError if the file cannot be written; the previous content is then kept.
    """
    path = Path(path)
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    process = os.getpid()  # in the name, so that two processes do not share a partial file
    partial = path.with_name(f"{path.name}.{process}.partial")
    try:
        partial.write_bytes(data)
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the directory entry list of a folder, to disk, to survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return digest.hexdigest()
