"""Atomic writes, checksums, and the names of the files of prepared data (ours)."""

import errno
import hashlib
import os
from pathlib import Path

# Prepared data is a folder with these files.
IMAGES_FILE = "images.npy"  # uint8 [N, S, S]
MANIFEST_FILE = "manifest.parquet"  # row i describes image i; columns of `schema.SCHEMA`
EXCLUDED_FILE = "excluded.csv"  # every row of the source that was left out, with the reason
HEADINGS_FILE = "headings.csv"  # the reports' headings, how often each was met, where it went
DATASET_FILE = "dataset.json"  # counts, rules, versions, and the checksums of the other files
HASHES_FILE = "sha256.json"  # of a checkpoint: the hash of each of its files
CHECKED_FILES = (IMAGES_FILE, MANIFEST_FILE, EXCLUDED_FILE)
FILES = (
    *CHECKED_FILES,
    HEADINGS_FILE,
    DATASET_FILE,
)  # in the order in which a build publishes them

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE = dict.fromkeys(DISK_FULL, "Make room on that disk, and run this again.") | {
    errno.EISDIR: "A folder has the name of this file: rename or remove the folder.",
    errno.ENOTDIR: "A file has the name of a folder on this path: rename or remove the file.",
    errno.EEXIST: "A file has the name of a folder on this path: rename or remove the file.",
    errno.EACCES: "Give yourself the right to write there, and run this again.",
    errno.EPERM: "Give yourself the right to write there, and run this again.",
    errno.EROFS: "That disk is read-only: work in a copy of the project on another one.",
}


def write(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically and fsync; skip if the content is unchanged.

    Missing folders are created. Several processes may write the same file at the same time.
    Raises OSError, in one sentence with the path, if the file cannot be written; the previous
    content is then kept.
    """
    path = Path(path)
    try:
        _write(path, data)
    except OSError as error:
        raise explained(error, path) from error


def _write(path: Path, data: bytes) -> None:
    if path.is_file() and path.read_bytes() == data:
        return
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
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


def explained(error: OSError, path: Path) -> OSError:
    """An error of the same number and class whose text says which path could not be written, why,
    and what to do."""
    advice = _ADVICE.get(error.errno, "Make sure that it can be written, and run this again.")
    reason = error.strerror or str(error)
    sentence = f"{path} could not be written ({reason}); what was there is unchanged. {advice}"
    result = type(error)(sentence)
    result.errno = error.errno
    return result


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


def keep_private() -> None:
    """Let only this user read what this process and its children write from now on: folders get the
    mode 700, files 600. What others may read already is not changed."""
    os.umask(0o077)
