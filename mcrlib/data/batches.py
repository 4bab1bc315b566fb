"""Pairs as the model takes them: tokenised reports, augmented pixels, masks, in batches."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertTokenizer

from mcrlib import masking
from mcrlib.config import Config
from mcrlib.data.dataset import Dataset
from mcrlib.files import write

PIXEL_MEAN, PIXEL_DEVIATION = 0.5, 0.25  # of grey values between 0 and 1 (ours)


class Batch(NamedTuple):
    """B pairs; n patches an image, T tokens in the longest report."""

    pixels: Tensor  # [B, 1, H, W] float, mean about 0 and variance about 1
    tokens: Tensor  # [B, T] ids, unmasked
    present: Tensor  # [B, T] false at padding
    keep: Tensor  # [B, k] indices of the patches kept
    masked: Tensor  # [B, T] true where the encoder sees [MASK]


class SplitPairs(torch.utils.data.Dataset):
    """The pairs of one split, fetched a whole batch at a time.

    Masks and augmentation are a function of (seed, epoch, pair_id): set `epoch` before iterating.
    A batch comes in the order of its reports' lengths; `share` is the part of it that this process
    takes: every P-th pair, so that all have equally long ones.
    """

    def __init__(self, dataset: Dataset, split: str, config: Config, tokenizer: BertTokenizer):
        self.config, self.tokenizer, self.epoch, self.share = config, tokenizer, 0, slice(None)
        # By its name: where workers get copies, a memory map would be copied whole.
        self.images, self.rows = dataset.folder / "images.npy", dataset.indices(split)
        frame = dataset.frame.iloc[self.rows]
        self.pair_ids = frame["pair_id"].tolist()
        self.tokens = cached_tokens(dataset, split, tokenizer, config.max_tokens)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        c, indices = self.config, sorted(indices, key=lambda i: len(self.tokens[i]))[self.share]
        generators = [masking.pair_generator(c.seed, self.epoch, self.pair_ids[i]) for i in indices]
        patches = (c.image_size // c.patch_size) ** 2
        keep = [masking.keep_patches(patches, c.image_mask, g) for g in generators]
        tokens, present = pad([self.tokens[i] for i in indices], self.tokenizer.pad_token_id)
        special = torch.tensor(self.tokenizer.all_special_ids)
        maskable = (present & ~torch.isin(tokens, special)).numpy()
        masked = [
            masking.mask_tokens(row, c.report_mask, g)
            for row, g in zip(maskable, generators, strict=True)
        ]
        squares = torch.from_numpy(np.load(self.images, mmap_mode="r")[self.rows[indices]])
        warp = torch.tensor(np.stack([random_warp(g) for g in generators])) if c.augment else None
        return Batch(
            pixels=to_pixels(squares, c.image_size, warp),
            tokens=tokens,
            present=present,
            keep=torch.from_numpy(np.stack(keep)),
            masked=torch.from_numpy(np.stack(masked)),
        )


class EpochOrder(torch.utils.data.Sampler):
    """Batches of indices in an order that is a function of (seed, epoch); a last short one is left.

    Set `epoch`, and `first`, the batch to begin with, before iterating.
    """

    def __init__(self, n: int, batch_size: int, seed: int):
        self.n, self.batch_size, self.seed, self.epoch, self.first = n, batch_size, seed, 0, 0

    def __len__(self) -> int:
        return self.n // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n)
        whole = order[: len(self) * self.batch_size].reshape(-1, self.batch_size)
        yield from whole[self.first :].tolist()


def tokenize(tokenizer: BertTokenizer, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Ids of each text between [CLS] and [SEP], cut at `max_tokens` with both kept."""
    if not len(texts):  # which the library does not take
        return []
    return tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]


def cached_tokens(
    dataset: Dataset, split: str, tokenizer: BertTokenizer, max_tokens: int
) -> list[np.ndarray]:
    """`tokenize` of a split's reports, done once and kept beside the manifest.

    Rows are views of one array: processes that prepare batches share it. A damaged file, which
    the archive's own checksum finds, is made anew.
    """
    made_of = [dataset.info["sha256"]["manifest.parquet"], split, max_tokens]
    made_of.append(tokenizer.backend_tokenizer.to_str())
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    file = dataset.folder / f"tokens-{key}.npz"
    try:
        with np.load(file) as saved:
            ids, ends = saved["ids"], saved["ends"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        texts = dataset.frame["report"].iloc[dataset.indices(split)]
        rows = tokenize(tokenizer, texts.tolist(), max_tokens)
        ids = np.fromiter((token for row in rows for token in row), np.int32)
        ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
        buffer = io.BytesIO()
        np.savez(buffer, ids=ids, ends=ends)
        write(file, buffer.getvalue())
    return np.split(ids, ends)[:-1]


def pad(ids: Sequence[Sequence[int]], pad_token: int) -> tuple[Tensor, Tensor]:
    """`tokens [B, T]` and `present [B, T]` (false at padding), T the longest of `ids`."""
    lengths = torch.tensor([len(row) for row in ids])
    present = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.full(present.shape, pad_token)
    tokens[present] = torch.from_numpy(np.concatenate(ids).astype(np.int64))
    return tokens, present


def random_warp(generator: np.random.Generator) -> np.ndarray:
    """Augmentation of one radiograph as [cos, sin, shift x, shift y, contrast, brightness] (ours).

    A random resized crop (at least 0.8 of the side), a turn of up to five degrees, and a change
    of contrast and brightness. Never a flip: sides carry meaning.
    """
    zoom, angle = generator.uniform(0.8, 1), generator.uniform(-5, 5) * np.pi / 180
    shift = generator.uniform(zoom - 1, 1 - zoom, size=2)
    tone = generator.uniform([0.8, -0.2], [1.2, 0.2])
    return np.array([zoom * np.cos(angle), zoom * np.sin(angle), *shift, *tone], dtype=np.float32)


def to_pixels(squares: Tensor, size: int, warp: Tensor | None = None) -> Tensor:
    """Encoder input `[B, 1, size, size]` of uint8 `squares [B, S, S]`.

    `warp [B, 6]` holds rows of `random_warp`; without it the picture is only resized.
    """
    pixels = (squares[:, None].float() / 255 - PIXEL_MEAN) / PIXEL_DEVIATION
    if warp is None:
        if pixels.shape[-1] == size:
            return pixels
        return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    cos, sin, x, y, contrast, brightness = warp.T
    turn = torch.stack([cos, -sin, x, sin, cos, y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turn, [len(warp), 1, size, size], align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return pixels * contrast.view(-1, 1, 1, 1) + brightness.view(-1, 1, 1, 1)
