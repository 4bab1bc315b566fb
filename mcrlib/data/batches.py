"""Pairs as the model takes them: tokenised reports, augmented pixels, masks, in batches.

All that the host computes for a step is computed here, in the loader's worker processes. The step
itself then reads nothing back from the device (ours).
"""

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertTokenizer

from mcrlib import masking
from mcrlib.config import Config
from mcrlib.data.packed import PackedRows, PackedTexts, map_array
from mcrlib.files import IMAGES_FILE, MANIFEST_FILE, write
from mcrlib.packing import Packing, plan_packing

if TYPE_CHECKING:  # the model imports this module, and needs neither pandas nor pyarrow
    import pandas as pd

    from mcrlib.data.dataset import Dataset

PIXEL_MEAN = 0.5  # of grey values between 0 and 1 (ours)
PIXEL_DEVIATION = 0.25

TEXTS_AT_ONCE = 4096  # tokenised in one call, which takes a hundred times their memory

# What NumPy and zipfile raise if a file of tokens is missing or damaged.
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Layout(NamedTuple):
    """Where the tokens of a batch lie; M of them are masked.

    It follows from `present` and `masked`. But it decides shapes, so a device that computed it
    would have to tell the host, which waits.
    """

    packing: Packing
    masked_report: Tensor  # [M] the batch's row of each masked token
    masked_position: Tensor  # [M] its column there


class Batch(NamedTuple):
    """B pairs; n patches an image, T tokens in the longest report."""

    pixels: Tensor  # [B, 1, H, W] float, mean about 0 and variance about 1
    tokens: Tensor  # [B, T] ids, unmasked
    present: Tensor  # [B, T] false at padding
    keep: Tensor  # [B, k] indices of the patches kept, in ascending order
    dropped: Tensor  # [B, n - k] indices of the other patches, in ascending order
    masked: Tensor  # [B, T] true where the encoder sees [MASK]
    layout: Layout


class SplitPairs(torch.utils.data.Dataset):
    """The pairs of one split, fetched a whole batch at a time.

    Masks and augmentation are a function of (seed, epoch, pair_id): set `epoch` before iterating.

    A batch is sorted by the length of its reports, then split among processes: `share` selects the
    pairs of this process. With P processes it must take every P-th pair, so that all processes get
    reports of similar length. The default takes the whole batch.
    """

    def __init__(self, dataset: "Dataset", split: str, config: Config, tokenizer: BertTokenizer):
        self.config = config
        self.tokenizer = tokenizer
        self.epoch = 0
        self.share = slice(None)
        self.images_file = dataset.folder / IMAGES_FILE
        self._images: np.ndarray | None = None  # the file's content, once this process has used it
        self.rows = dataset.indices(split)
        if split == "train":
            self.rows = dataset.training_rows(config.train_pairs)
        self.pair_ids = PackedTexts.of(dataset.frame["pair_id"].iloc[self.rows])
        # Of the whole split: fewer pairs are its first ones.
        self.tokens = cached_tokens(dataset, split, tokenizer, config.max_tokens)

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        # Pickled, a memory map would become a copy of all images.
        return self.__dict__ | {"_images": None}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """This process's share of the batch that consists of the pairs `indices`."""
        shared = self._sort_and_share(indices)
        # The generator of a pair is used in this order: patches, tokens, augmentation.
        generators = self._generators(shared)
        keep = self._draw_kept_patches(generators)
        tokens, present = pad([self.tokens[i] for i in shared], self.tokenizer.pad_token_id)
        masked = self._draw_masked_tokens(tokens, present, generators)
        pixels = self._load_pixels(shared, generators)
        dropped = masking.dropped_patches(keep, self._patches())
        layout = lay_out(present, masked)
        return Batch(pixels, tokens, present, keep, dropped, masked, layout)

    def _sort_and_share(self, indices: Sequence[int]) -> list[int]:
        """The pairs of this process, shortest report first."""
        by_length = sorted(indices, key=self._report_length)
        return by_length[self.share]

    def _report_length(self, index: int) -> int:
        return self.tokens.length(index)

    def _generators(self, indices: list[int]) -> list[np.random.Generator]:
        seed = self.config.seed
        return [masking.pair_generator(seed, self.epoch, self.pair_ids[i]) for i in indices]

    def _draw_kept_patches(self, generators: list[np.random.Generator]) -> Tensor:
        """Indices of the patches kept, `[B, k]`."""
        patches = self._patches()
        ratio = self.config.image_mask
        keep = [masking.keep_patches(patches, ratio, generator) for generator in generators]
        return torch.from_numpy(np.stack(keep))

    def _patches(self) -> int:
        """Number of patches of an image, n."""
        patches_per_side = self.config.image_size // self.config.patch_size
        return patches_per_side**2

    def _draw_masked_tokens(
        self, tokens: Tensor, present: Tensor, generators: list[np.random.Generator]
    ) -> Tensor:
        """True at the tokens to mask, `[B, T]`; special tokens and padding are never masked."""
        special_ids = torch.tensor(self.tokenizer.all_special_ids)
        is_special = torch.isin(tokens, special_ids)
        maskable = (present & ~is_special).numpy()
        ratio = self.config.report_mask
        masked = []
        for report, generator in zip(maskable, generators, strict=True):
            masked.append(masking.mask_tokens(report, ratio, generator))
        return torch.from_numpy(np.stack(masked))

    def _load_pixels(self, indices: list[int], generators: list[np.random.Generator]) -> Tensor:
        """The images as encoder input `[B, 1, H, W]`, augmented if the config says so."""
        rows = self.rows[indices]
        squares = torch.from_numpy(self._open_images()[rows])
        warp = None
        if self.config.augment:
            warps = [random_warp(generator) for generator in generators]
            warp = torch.tensor(np.stack(warps))
        return to_pixels(squares, self.config.image_size, warp)

    def _open_images(self) -> np.ndarray:
        """All images, uint8 `[N, S, S]`, mapped once in each process."""
        if self._images is None:
            self._images = np.load(self.images_file, mmap_mode="r")
        return self._images


def lay_out(present: Tensor, masked: Tensor) -> Layout:
    """The layout of a batch with these `present` and `masked` tokens, both `[B, T]` on the CPU."""
    masked_report, masked_position = masked.nonzero(as_tuple=True)
    return Layout(plan_packing(present), masked_report, masked_position)


def micro_batches(batch: Batch, size: int) -> list[Batch]:
    """A batch on the CPU in n parts of at most `size` pairs; each part takes every n-th pair.

    The pairs of a batch are sorted by length, so each part has reports of all lengths and none
    takes much more memory than the others.
    """
    count = math.ceil(len(batch.pixels) / size)
    parts = []
    for first in range(count):
        every = slice(first, None, count)
        present = batch.present[every]
        masked = batch.masked[every]
        part = Batch(
            pixels=batch.pixels[every],
            tokens=batch.tokens[every],
            present=present,
            keep=batch.keep[every],
            dropped=batch.dropped[every],
            masked=masked,
            layout=lay_out(present, masked),
        )
        parts.append(part)
    return parts


class EpochOrder(torch.utils.data.Sampler):
    """Batches of indices, in an order that is a function of (seed, epoch).

    An incomplete last batch is dropped, and so is what comes after `steps` batches, unless that is
    0. Before iterating, set `epoch` and `first`, the batch to begin with.
    """

    def __init__(self, n: int, batch_size: int, seed: int, steps: int = 0):
        self.n = n
        self.steps = steps
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.first = 0

    def __len__(self) -> int:
        batches = self.n // self.batch_size
        if self.steps:
            return min(batches, self.steps)
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.n)
        in_full_batches = order[: len(self) * self.batch_size]
        batches = in_full_batches.reshape(-1, self.batch_size)
        yield from batches[self.first :].tolist()


def tokenize(tokenizer: BertTokenizer, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Ids of each text between [CLS] and [SEP], cut at `max_tokens` with both kept."""
    if len(texts) == 0:  # the library rejects an empty list
        return []
    encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens)
    # The library keeps the limit in the tokenizer, and would save it with the tokenizer's files.
    tokenizer.backend_tokenizer.no_truncation()
    return encoded["input_ids"]


def tokenizer_rules(tokenizer: BertTokenizer) -> str:
    """Vocabulary and rules of a tokenizer, as JSON: equal if any text gives the same words.

    The truncation and padding that its last call left behind are not part of it.
    """
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy.to_str()


def cached_tokens(
    dataset: "Dataset", split: str, tokenizer: BertTokenizer, max_tokens: int
) -> PackedRows:
    """`tokenize` of a split's reports, int32 `[T]` each, done once and saved with the data.

    The rows are views of the file, so that processes that prepare batches share them. If the file
    is damaged, as the archive's own checksum shows, it is replaced.
    """
    file = _token_file(dataset, split, tokenizer, max_tokens)
    try:
        return _open_tokens(file)
    except UNREADABLE:
        reports = dataset.frame["report"].iloc[dataset.indices(split)]
        write(file, _tokens_of(reports, tokenizer, max_tokens))
        return _open_tokens(file)


def _open_tokens(file: Path) -> PackedRows:
    """The tokens of a file whose checksums are right; raises one of UNREADABLE otherwise."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"The checksum of {damaged} in {file} differs.")
    with np.load(file) as saved:
        ends = saved["ends"]
    return PackedRows(map_array(file, "ids"), np.diff(ends, prepend=0))


def _tokens_of(reports: "pd.Series", tokenizer: BertTokenizer, max_tokens: int) -> bytes:
    """The file's content: `ids`, int32, of all reports in a row, and where each of them `ends`.

    The images of a study share its report, and many reports are the same few sentences, so each
    distinct text is tokenised once.
    """
    text_of_report, texts = reports.factorize()
    ids = [np.empty(0, np.int32)]
    lengths = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = tokenize(tokenizer, texts[start : start + TEXTS_AT_ONCE], max_tokens)
        ids.append(np.fromiter(chain.from_iterable(some), np.int32))
        lengths.extend(map(len, some))
    of_texts = PackedRows(np.concatenate(ids), lengths)
    of_reports = [of_texts[text] for text in text_of_report.tolist()]
    ends = np.cumsum([len(report) for report in of_reports], dtype=np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.concatenate([ids[0], *of_reports]), ends=ends)
    return buffer.getvalue()


def _token_file(dataset: "Dataset", split: str, tokenizer: BertTokenizer, max_tokens: int) -> Path:
    """The file is named by a hash of all that the tokens depend on."""
    manifest_sha256 = dataset.info["sha256"][MANIFEST_FILE]
    inputs = [manifest_sha256, split, max_tokens, tokenizer_rules(tokenizer)]
    text = json.dumps(inputs)
    digest = hashlib.sha256(text.encode()).hexdigest()
    key = digest[:16]
    return dataset.folder / f"tokens-{key}.npz"


def pad(ids: Sequence[Sequence[int]], pad_token: int) -> tuple[Tensor, Tensor]:
    """`tokens [B, T]` and `present [B, T]` (false at padding), T the longest of `ids`."""
    lengths = torch.tensor([len(row) for row in ids])
    positions = torch.arange(int(lengths.max()))
    present = positions < lengths[:, None]
    tokens = torch.full(present.shape, pad_token)
    all_ids = np.concatenate(ids).astype(np.int64)
    tokens[present] = torch.from_numpy(all_ids)  # one assignment in place of a loop over reports
    return tokens, present


def random_warp(generator: np.random.Generator) -> np.ndarray:
    """Augmentation of one radiograph, float32 `[6]` (ours).

    In order: cos and sin of the turn, scaled by the zoom; shift in x and in y; contrast;
    brightness. A random resized crop (at least 0.8 of the side), a turn of up to five degrees,
    and a change of contrast and brightness. Never a flip: sides carry meaning.
    """
    zoom = generator.uniform(0.8, 1)
    angle = generator.uniform(-5, 5) * np.pi / 180
    cos = zoom * np.cos(angle)
    sin = zoom * np.sin(angle)
    shift_x, shift_y = generator.uniform(zoom - 1, 1 - zoom, size=2)
    contrast, brightness = generator.uniform([0.8, -0.2], [1.2, 0.2])
    return np.array([cos, sin, shift_x, shift_y, contrast, brightness], dtype=np.float32)


def to_pixels(squares: Tensor, size: int, warp: Tensor | None = None) -> Tensor:
    """Encoder input `[B, 1, size, size]` of uint8 `squares [B, S, S]`.

    `warp [B, 6]` holds rows of `random_warp`; without it the picture is only resized.
    """
    if warp is not None:
        return _apply_warps(squares, size, warp)
    pixels = _normalise(squares[:, None])
    if pixels.shape[-1] == size:
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)


def _normalise(squares: Tensor) -> Tensor:
    """uint8 grey values as floats with mean about 0 and variance about 1."""
    pixels = squares.float() / 255
    return pixels.sub_(PIXEL_MEAN).div_(PIXEL_DEVIATION)


def _apply_warps(squares: Tensor, size: int, warp: Tensor) -> Tensor:
    """`[B, 1, size, size]`: each of `squares [B, S, S]` after its row of `warp [B, 6]`.

    One picture at a time: a picture and its grid fit into a core's cache, those of a batch do not.
    This makes it about five times as fast.
    """
    # Centres of the output's pixels, in units in which the picture reaches from -1 to 1.
    centres = (2 * torch.arange(size) + 1) / size - 1
    grid = torch.empty(1, size, size, 2)  # where in the picture each output pixel is taken from
    from_x = grid[0, :, :, 0]
    from_y = grid[0, :, :, 1]
    pixels = torch.empty(len(squares), 1, size, size)
    for square, row, result in zip(squares, warp.tolist(), pixels, strict=True):
        cos, sin, shift_x, shift_y, contrast, brightness = row
        # A turn is a sum of a row and a column: no matrix product of all coordinates is needed.
        torch.add(cos * centres, (shift_x - sin * centres)[:, None], out=from_x)
        torch.add(sin * centres, (shift_y + cos * centres)[:, None], out=from_y)
        picture = _normalise(square[None, None])
        # The border is repeated, so that no black frame shows where the turned picture ends.
        moved = F.grid_sample(picture, grid, padding_mode="border", align_corners=False)
        result.copy_(moved[0].mul_(contrast).add_(brightness))
    return pixels
