"""Rows of unequal length in one array, which all processes share (ours).

A list of Python objects cannot be shared: to read an object changes its reference count, and that
copies the memory around it into the process that reads. Eight processes that prepare batches would
hold the reports of a large data set eight times.
"""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib import format as npy

# In front of each file in a ZIP archive: a header of fixed length, then a name and extra bytes,
# whose lengths are the last two numbers of the header.
HEADER_BYTES = 30
LENGTHS_AT = 26


class PackedRows(Sequence):
    """N rows of numbers. Row i is a view of `values`, from `offsets[i]` to `offsets[i + 1]`.

    If `values` are memory-mapped, a pickled copy maps the same file again.
    """

    def __init__(self, values: np.ndarray, lengths: Iterable[int]):
        """`lengths [N]` of the rows, which lie one after the other in `values`."""
        ends = np.cumsum(np.fromiter(lengths, np.int64))
        self.values = values
        self.offsets = np.concatenate([[0], ends])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int | slice) -> Any:
        place = range(len(self))[index]  # as a list would understand it
        if isinstance(index, slice):
            return [self[i] for i in place]
        return self._row(self.values[self.offsets[place] : self.offsets[place + 1]])

    def length(self, index: int) -> int:
        """How many numbers row `index` has; the first row is 0."""
        return int(self.offsets[index + 1] - self.offsets[index])

    def _row(self, values: np.ndarray) -> Any:
        return values

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if isinstance(self.values, np.memmap):
            state["values"] = _Mapped(self.values)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.values, _Mapped):
            self.values = self.values.open()


class PackedTexts(PackedRows):
    """N texts."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Pack `texts`."""
        encoded = [text.encode() for text in texts]
        values = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(values, map(len, encoded))

    def _row(self, values: np.ndarray) -> str:
        return values.tobytes().decode()


class _Mapped:
    """Where a memory-mapped array lies on disk."""

    def __init__(self, values: np.memmap):
        self.file = values.filename
        self.dtype = values.dtype
        self.offset = values.offset
        self.shape = values.shape

    def open(self) -> np.memmap:
        """Map it again, read only."""
        return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)


def map_array(archive_file: Path, name: str) -> np.memmap:
    """The array `name` of an archive that `np.savez` wrote, memory-mapped, read only.

    Nothing is checked but the array's header. Raises ValueError if the array is compressed, and
    OSError, KeyError or zipfile.BadZipFile if it is not there.
    """
    with zipfile.ZipFile(archive_file) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} in {archive_file} is compressed and cannot be mapped.")
        with archive.open(member) as content:
            npy.read_magic(content)
            shape, _, dtype = npy.read_array_header_1_0(content)
            header_of_array = content.tell()
    with archive_file.open("rb") as file:
        file.seek(member.header_offset + LENGTHS_AT)
        name_and_extra = np.frombuffer(file.read(4), "<u2").sum()
    start = member.header_offset + HEADER_BYTES + int(name_and_extra)
    return np.memmap(archive_file, dtype, "r", start + header_of_array, shape)
