"""Prepared pairs: a manifest and an image cache, checked when they are opened."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mcrlib.data.schema import SPLITS
from mcrlib.files import sha256

FILES = ("images.npy", "manifest.parquet", "excluded.csv", "dataset.json")  # written last: the last


@dataclass(frozen=True)
class Dataset:
    """Prepared pairs: row i of `frame` belongs to image i."""

    frame: pd.DataFrame  # columns of SCHEMA
    images: np.ndarray  # uint8 [N, S, S], memory-mapped, read only
    info: dict[str, Any]  # dataset.json
    folder: Path

    def same_images(self) -> np.ndarray:
        """A number for each row, int64 `[N]`, equal where the images are, to the last pixel."""
        return pd.factorize(np.array([hashlib.sha256(i).hexdigest() for i in self.images]))[0]

    def indices(self, split: str) -> np.ndarray:
        """Rows of a split, int64 `[n]`, in the manifest's order."""
        if split not in SPLITS:
            raise ValueError(f"There is no split {split!r}; there are {', '.join(SPLITS)}.")
        return np.flatnonzero(self.frame["split"] == split)


def open_dataset(folder: Path | str) -> Dataset:
    """Open prepared data. Raises FileNotFoundError where there is none, and ValueError where a
    file is not the one that was built, down to a single bit."""
    folder = Path(folder)
    publish_build(folder)
    if not (folder / "dataset.json").exists():
        raise FileNotFoundError(f"There is no prepared data in {folder}: run `make data` first.")
    info = json.loads((folder / "dataset.json").read_text())
    for name in FILES[:-1]:
        if not (folder / name).exists() or sha256(folder / name) != info["sha256"][name]:
            raise ValueError(
                f"{folder / name} is missing or not the file that was built (its checksum "
                "differs): run `make data` again."
            )
    frame = pq.read_table(folder / "manifest.parquet").to_pandas()
    for column in ("labels", "uncertain"):
        frame[column] = [None if x is None else list(x) for x in frame[column]]
    return Dataset(frame, np.load(folder / "images.npy", mmap_mode="r"), info, folder)


def publish_build(folder: Path) -> None:
    """Move what a build completed to its place; done again where a kill came in between."""
    partial = folder / "partial"
    if not (partial / "dataset.json").exists():  # written last and moved last
        return
    for name in FILES:
        if (partial / name).exists():
            os.replace(partial / name, folder / name)
    shutil.rmtree(partial)
