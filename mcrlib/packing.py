"""Packing: short reports share a row of the report encoder, so that little of it is padding (ours).

    a batch, padded     packed          position ids
    a a a a a a         a a a a a a     0 1 2 3 4 5
    b b b . . .         b b b c c d     0 1 2 0 1 0
    c c . . . .
    d . . . . .

Every letter is a token of report a, b, c or d. A token attends to its own report only, and its
position id counts from the start of that report, so it is encoded as if the report were alone.
Real reports average about half the length of the longest one, so packing saves about half of the
encoder's work.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Places(NamedTuple):
    """Where each report of a batch lies in the packed rows."""

    row: Tensor  # [B]
    start: Tensor  # [B] column of its first token


class Packing(NamedTuple):
    """How a padded batch `[B, T]` maps to packed rows `[R, T]`. N is the number of tokens.

    Planned on the host, before the batch is copied to the device: sizes are numbers, so nobody who
    packs or unpacks has to wait for the device to tell them.
    """

    report: Tensor  # [N] the padded batch's row of each token
    position: Tensor  # [N] its column there: the token's position in its report
    row: Tensor  # [N] the packed row of each token
    column: Tensor  # [N] its column there
    reports: int  # B
    rows: int  # R
    width: int  # T
    is_full: bool  # every report fills its row: no padding, and nothing is shared

    def pack(self, padded: Tensor) -> Tensor:
        """Packed `[R, T]` from padded `[B, T]`, 0 in columns that no report fills."""
        return self._scatter_to_rows(padded[self.report, self.position])

    def unpack(self, packed: Tensor) -> Tensor:
        """Padded `[B, T, D]` from packed `[R, T, D]`, 0 at padding."""
        return self.pad(packed[self.row, self.column])

    def pad(self, values: Tensor) -> Tensor:
        """Padded `[B, T, ...]` from one value a token, `[N, ...]`; 0 at padding."""
        places = (self.report, self.position)
        return _scatter_to((self.reports, self.width), places, values)

    def position_ids(self) -> Tensor:
        """`[R, T]`: each token's position in its own report."""
        return self._scatter_to_rows(self.position)

    def attention_mask(self) -> Tensor | None:
        """`[R, 1, T, T]`, true where both tokens belong to one report.

        None if all reports are full: attention without a mask is faster.
        """
        if self.is_full:
            return None
        # -1 marks unused columns. They see each other, so no row of the softmax is empty (NaN).
        owner = self._scatter_to_rows(self.report, fill=-1)
        return owner[:, None, :, None] == owner[:, None, None, :]

    def _scatter_to_rows(self, values: Tensor, fill: int = 0) -> Tensor:
        return _scatter_to((self.rows, self.width), (self.row, self.column), values, fill)


def plan_packing(present: Tensor) -> Packing:
    """The packing of a padded batch; `present [B, T]` is false at padding.

    Reads values, so `present` should be on the CPU: elsewhere it waits for the device.
    """
    width = present.shape[1]
    lengths = present.sum(dim=1).tolist()
    places = pack_rows(lengths, width)
    report, position = present.nonzero(as_tuple=True)
    first_column = places.start.to(report.device)[report]
    return Packing(
        report=report,
        position=position,
        row=places.row.to(report.device)[report],
        column=first_column + position,
        reports=len(lengths),
        rows=int(places.row.max()) + 1,
        width=width,
        is_full=min(lengths) == width,
    )


def pack_rows(lengths: Sequence[int], width: int) -> Places:
    """Place reports of `lengths` tokens, at most `width`, into as few rows of `width` as possible.

    First-fit decreasing: the longest report first, each into the first row with room for it (Krell
    et al., 2021). Not always the fewest rows, but close, and fast.
    """
    rows = [0] * len(lengths)
    starts = [0] * len(lengths)
    free_columns: list[int] = []  # of each row so far
    longest_first = sorted(range(len(lengths)), key=lambda report: -lengths[report])
    for report in longest_first:
        length = lengths[report]
        row = _first_with_room(free_columns, length)
        if row is None:
            row = len(free_columns)
            free_columns.append(width)
        rows[report] = row
        starts[report] = width - free_columns[row]
        free_columns[row] -= length
    return Places(torch.tensor(rows), torch.tensor(starts))


def _first_with_room(free_columns: list[int], length: int) -> int | None:
    for row, free in enumerate(free_columns):
        if free >= length:
            return row
    return None


def _scatter_to(
    shape: tuple[int, int], places: tuple[Tensor, Tensor], values: Tensor, fill: int = 0
) -> Tensor:
    """`[*shape, ...]` with `values [N, ...]` at `places` (two indices `[N]`) and `fill` elsewhere.

    Differentiable in `values`.
    """
    feature_shape = values.shape[1:]
    empty = values.new_full((*shape, *feature_shape), fill)
    return empty.index_put(places, values)
