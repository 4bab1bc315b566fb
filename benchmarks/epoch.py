"""Row `epoch`: full-size pairs from the prepared data to the step, with the loader and without.

The cache is generated: pictures of 256 x 256 pixels, reports as long as real ones. On a GPU an
epoch of 20,000 pairs is trained at the paper's size; on a CPU a few hundred pairs with a small
model.
`python benchmarks/epoch.py` prints the rows.
"""

import contextlib
import functools
import itertools
import os
import resource
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device
from measured import interleaved, ratios, row
from step import GPU, PAIRS, settings
from torch import Tensor
from transformers import BertTokenizer

from mcrlib import config, pretrained
from mcrlib.config import Config
from mcrlib.data import batches
from mcrlib.data.batches import Batch
from mcrlib.data.dataset import FEWEST_VALIDATION_PAIRS, Dataset
from mcrlib.files import IMAGES_FILE, MANIFEST_FILE
from mcrlib.training import cost, loop

CACHED_PAIRS = 20_000
SIDE = 256  # pixels of a cached picture
DISTINCT_PICTURES = 200
LOADED_BATCHES = 12  # whose loading is timed, of 256 pairs each
# For a CPU: its step at the paper's size takes so long that no loader could be seen beside it.
SMALL = {
    "vision_width": 192,
    "vision_depth": 4,
    "vision_heads": 4,
    "text_width": 192,
    "text_depth": 4,
    "text_heads": 4,
    "decoder_width": 128,
    "decoder_depth": 2,
    "decoder_heads": 4,
}
if GPU:
    BATCH = PAIRS
    STEPS = CACHED_PAIRS // BATCH
    WORKERS = min(8, os.cpu_count() or 1)
    SIZES = {}
    DISTINCT_WORDS = 20_000  # about as many as Bio_ClinicalBERT has
else:
    BATCH = 64
    STEPS = 6
    WORKERS = 0  # batches are prepared between the steps, as in the runs that are meant for a CPU
    SIZES = SMALL
    DISTINCT_WORDS = 500


def rows(loader_rounds: int = 3, epoch_rounds: int = 2) -> list[dict]:
    """All rows of this file, each as `measured.row` returns it."""
    with tempfile.TemporaryDirectory() as name, _at_home(Path(name)) as home:
        dataset = generated(home / "pairs", CACHED_PAIRS)
        loading = loader(dataset, loader_rounds)
        few = generated(home / "few", STEPS * BATCH)
        training = epoch(few, epoch_rounds)
    return [loading, training]


@contextlib.contextmanager
def _at_home(home: Path) -> Iterator[Path]:
    """A folder that takes the checkout's place for what a training writes."""
    with mock.patch.object(config, "ROOT", home), mock.patch.dict(os.environ, {config.PLAIN: "1"}):
        yield home


# Pairs


def generated(folder: Path, n: int) -> Dataset:
    """n pairs for training, and the few for validation without which no training begins.

    The file has the same pictures again and again, so that it is written in seconds.
    """
    folder.mkdir()
    draw = np.random.default_rng(0)
    coarse = torch.from_numpy(draw.uniform(0, 255, (DISTINCT_PICTURES, 1, 16, 16)))
    smooth = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    pictures = smooth[:, 0].clamp(0, 255).byte().numpy()
    splits = ["train"] * n + ["validate"] * FEWEST_VALIDATION_PAIRS
    shape = (len(splits), SIDE, SIDE)
    images = np.lib.format.open_memmap(folder / IMAGES_FILE, "w+", np.uint8, shape)
    for start in range(0, len(images), DISTINCT_PICTURES):
        rest = images[start : start + DISTINCT_PICTURES]
        rest[:] = pictures[: len(rest)]
    images.flush()
    info = {"dataset_sha256": "generated pairs", "sha256": {MANIFEST_FILE: "generated"}}
    return Dataset(_manifest(splits, draw), images, info, folder)


def _manifest(splits: list[str], draw: np.random.Generator) -> pd.DataFrame:
    """Reports of words that are one token each, as long as real ones."""
    words = np.array([f"word{i}" for i in range(DISTINCT_WORDS)])
    reports = []
    for _, tokens in zip(splits, itertools.cycle(cost.REPORT_LENGTHS), strict=False):
        words_of_report = draw.choice(words, tokens - 2)  # [CLS] and [SEP] come with it
        reports.append(" ".join(words_of_report))
    ids = [f"pair{i}" for i in range(len(splits))]
    return pd.DataFrame({"pair_id": ids, "patient_id": ids, "split": splits, "report": reports})


def _settings(**changes: object) -> Config:
    """The paper's training with a vocabulary that is learned from the generated reports."""
    paper = settings("mcr").replace(source="table", vocabulary=cost.VOCABULARY)
    return paper.replace(**changes)


# The loader


def loader(dataset: Dataset, rounds: int) -> dict:
    """Processor time of one worker, with the pictures of a batch warped one by one and at once."""
    tokenizer = pretrained.load_tokenizer(_settings(), dataset.frame["report"].tolist())
    to_pixels = {"ours": batches.to_pixels, "plain": warp_at_once}
    sides = {}
    for name, function in to_pixels.items():
        sides[name] = functools.partial(_worker_seconds, dataset, tokenizer, function)
    seconds = interleaved(sides, rounds)
    pairs = LOADED_BATCHES * _settings().batch_size
    ours = pairs / statistics.median(seconds["ours"])
    plain = pairs / statistics.median(seconds["plain"])
    what = f"loader, 224 pixels, augmented: {ours:,.0f} pairs a second and core"
    rival = f"a batch's pictures warped at once: {plain:,.0f}"
    return row("epoch", what, rival, ratios(seconds["ours"], seconds["plain"]), 1.5)


def _worker_seconds(
    dataset: Dataset, tokenizer: BertTokenizer, to_pixels: Callable[..., Tensor]
) -> float:
    """Processor time of the process that prepares an epoch's last `LOADED_BATCHES` batches."""
    with_one_worker = _settings(workers=1)
    # Workers are forked, so they see the function that is replaced here.
    with mock.patch.object(batches, "to_pixels", to_pixels):
        source = loop._batches(with_one_worker, dataset, tokenizer, _accelerator(with_one_worker))
        source.order.first = len(source.order) - LOADED_BATCHES
        before = _seconds_of_children()
        for _ in source.loader:
            pass
        return _seconds_of_children() - before


def warp_at_once(squares: Tensor, size: int, warp: Tensor) -> Tensor:
    """The rival and oracle of `batches.to_pixels`: one grid and one sampling for all pictures."""
    pixels = (squares[:, None].float() / 255 - batches.PIXEL_MEAN) / batches.PIXEL_DEVIATION
    cos, sin, shift_x, shift_y, contrast, brightness = warp.T
    turn = torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1)
    grid = F.affine_grid(turn.view(-1, 2, 3), [len(warp), 1, size, size], align_corners=False)
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return moved * contrast.view(-1, 1, 1, 1) + brightness.view(-1, 1, 1, 1)


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# The epoch


class Alternating(loop.Trainer):
    """A training whose epochs take turns: one from the loader, one of batches on the device.

    Validation and saves are left out: they follow an epoch, and the loader does not change them.
    """

    def run(self) -> pd.DataFrame:
        """The history, one row per epoch; its `seconds` are those of the steps."""
        self.resident = []
        for parts in self.loader:
            self.resident.append(send_to_device(parts, self.accelerator.device))
        return super().run()

    def _remaining_batches(self) -> Iterator[list[Batch]]:
        is_loaded = self.position.epochs_done % 2 == 0
        if is_loaded:
            return super()._remaining_batches()
        return iter(self.resident)

    def _save_if_due(self) -> None:
        pass

    def _end_epoch(self) -> None:
        self.position.end_epoch()

    def _finish(self) -> None:
        pass


def epoch(dataset: Dataset, rounds: int) -> dict:
    """Pairs a second of the training loop with its loader, against the same steps without one."""
    training = _settings(batch_size=BATCH, workers=WORKERS, epochs=2 * (1 + rounds), **SIZES)
    history = Alternating(training, dataset, _accelerator(training)).run()
    seconds = history["seconds"].tolist()[2:]  # the first epoch of each kind is the warm-up
    loaded = seconds[0::2]
    resident = seconds[1::2]
    pairs = STEPS * BATCH
    rate = pairs / statistics.median(loaded)
    own_rate = pairs / statistics.median(resident)
    what = f"steps of an epoch of {pairs:,} pairs, {WORKERS} workers: {rate:,.0f} pairs a second"
    rival = f"the same from batches that are on the device: {own_rate:,.0f}"
    return row("epoch", what, rival, ratios(loaded, resident), 0.95)


def _accelerator(settings: Config) -> Accelerator:
    # accelerate keeps the first precision of a process until it is reset.
    AcceleratorState._reset_state(reset_partial_state=True)
    return loop._accelerator(settings)


ROWS = {"epoch": rows}

if __name__ == "__main__":
    for measurement in rows():
        print(measurement)
