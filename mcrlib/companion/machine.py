"""What this machine needs for the parts of a run, measured on a sample of its pairs (ours).

A training step is the loop's own, with its loader, optimizer and precision. Where the run's batch
is too slow or too large for it, smaller ones are timed, and the line through their times says what
the batch would take.
"""

import gc
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from joblib import Parallel, delayed
from torch.utils.data import DataLoader

from mcrlib.config import Config
from mcrlib.data import images, prepare
from mcrlib.data.batches import Batch
from mcrlib.data.dataset import Dataset
from mcrlib.training import cost
from mcrlib.training.checkpoint import Position
from mcrlib.training.loop import Trainer

WARM_UP = 2  # steps before those that are timed
TIMED_STEPS = 20
FEWEST_STEPS = 3
STEP_SECONDS = 30.0  # for the timed steps of a batch, unless FEWEST_STEPS take longer
SMALLEST_BATCH = 4  # on the CPU: the first that is timed, if the run's own is not smaller
GROWTH = 4  # from each batch that is timed to the next
OTHER_SETTINGS_SECONDS = 150.0  # for all settings that are tried beside the run's own
COMPILE_SECONDS = 90.0  # what compilation is expected to take
EMBEDDING_SECONDS = 15.0
EMBEDDED_AT_ONCE = 16
DECODED = 256  # images that are decoded to be timed
ROOM = 0.9  # share of the memory that a step may fill
PROCESS_GB = 2.0  # what the libraries and the loader take on the CPU


def measure_data(config: Config) -> dict[str, Any]:
    """Seconds to choose the rows of the whole source, and to decode an image in one of the
    processes that a build has, while all of them are busy; and the images to decode, by split."""
    started = time.perf_counter()
    selection = prepare.select(config)
    select_seconds = time.perf_counter() - started
    sources = [record["image"] for record in selection.kept[:DECODED]]
    processes = os.cpu_count() or 1
    parts = [sources[first::processes] for first in range(processes)]
    decode = delayed(_decode_seconds)
    each = Parallel(n_jobs=processes)(decode(part, config.cache_size) for part in parts if part)
    return {
        "select_seconds": select_seconds,
        "seconds_an_image": sum(each) / max(len(sources), 1),
        "processes": processes,
        "images": selection.whole,
        "images_drawn": len(selection.kept),
    }


def _decode_seconds(sources: Sequence[images.Source], size: int) -> float:
    """Seconds that this process takes to decode some images; unreadable ones count as well."""
    started = time.perf_counter()
    for source in sources:
        try:
            images.read(source, size)
        except ValueError:
            continue
    return time.perf_counter() - started


class Bench:
    """A training of some settings that takes single steps to measure them, and keeps no model."""

    def __init__(self, config: Config, dataset: Dataset):
        started = time.perf_counter()
        train_pairs = len(dataset.indices("train"))
        self.config = config
        self.dataset = dataset
        self.largest = min(config.batch_size, train_pairs)  # batch that the sample can fill
        own = config.replace(batch_size=self.largest)
        self.trainer = Trainer(own, dataset)
        self.trainer.network.train()
        self.start_seconds = time.perf_counter() - started

    def step_seconds(self, pairs: int, steps: int = 0, budget: float | None = None) -> list[float]:
        """Seconds of each timed step of so many pairs: `steps` of them (TIMED_STEPS), or fewer if
        they take more than `budget` seconds (STEP_SECONDS) in all."""
        steps = steps or TIMED_STEPS
        budget = budget or STEP_SECONDS
        seconds = []
        finished = 0.0
        for number, parts in enumerate(self._batches(pairs, WARM_UP + steps)):
            self.trainer.take_step(parts)
            now = time.perf_counter()
            if number >= WARM_UP:
                seconds.append(now - finished)
            finished = now
            if len(seconds) >= FEWEST_STEPS and sum(seconds) > budget:
                break
        return seconds

    def time_batches(self) -> dict[int, list[float]]:
        """Seconds of steps by the number of pairs: of the run's own batch, and, where that takes
        too long or does not fit, of smaller ones that say how the time grows."""
        if torch.cuda.is_available():
            sizes = {self._largest_on_gpu()}
            if self.config.batch_size not in sizes:
                sizes |= {max(pairs // 4, 1) for pairs in sizes}
            return {pairs: self.step_seconds(pairs) for pairs in sorted(sizes)}
        pairs = min(SMALLEST_BATCH, self.largest)
        most = min(self.largest, largest_batch(self.bytes_of(pairs)))
        timed = {}
        while True:
            timed[pairs] = self.step_seconds(pairs)
            following = min(GROWTH * pairs, most)
            if following <= pairs or self._is_too_slow(following, timed[pairs], pairs):
                return timed
            pairs = following

    def _is_too_slow(self, following: int, seconds: list[float], pairs: int) -> bool:
        """Whether the steps of the batch after `pairs` would take too long, if their time grew in
        proportion. The first two are always timed: small batches say little of large ones."""
        expected = statistics.median(seconds) * following / pairs
        total = (FEWEST_STEPS + WARM_UP) * expected
        return pairs > SMALLEST_BATCH and total > 2 * STEP_SECONDS

    def _largest_on_gpu(self) -> int:
        pairs = self.largest
        while pairs > 1 and not self.fits(pairs):
            pairs = pairs // 2
        return pairs

    def fits(self, pairs: int) -> bool:
        """Whether a step of so many pairs fits into the memory of the GPU."""
        try:
            for parts in self._batches(pairs, 1):
                self.trainer.take_step(parts)
            return True
        except torch.OutOfMemoryError:
            pass  # while the error is handled, it still holds the step's tensors
        self.trainer.optimizer.zero_grad()
        torch.cuda.empty_cache()
        return False

    def bytes_of(self, pairs: int) -> dict[str, int]:
        """Bytes of weights, gradients and the optimizer's moments (`static`), and of what the
        forward pass of a pair keeps for the backward pass (`a_pair`)."""
        weights = self.trainer.model.parameters()
        static = 4 * sum(weight.nbytes for weight in weights if weight.requires_grad)
        (parts,) = self._batches(pairs, 1)
        batch = send_to_device(parts[0], self.trainer.accelerator.device)
        # Compiled code cannot be counted, and keeps about as much.
        with torch.compiler.set_stance("force_eager"), cost.byte_counter() as counter:
            with self.trainer.accelerator.autocast():
                terms = self.trainer.network(batch)
            kept = counter.live
        del terms
        return {"static": static, "a_pair": kept // len(batch.pixels)}

    def loader_rates(self, pairs: int) -> dict[int, float]:
        """Pairs a second that the loader prepares with 0, 2, 4, ... processes and with those of the
        settings."""
        cores = os.cpu_count() or 1
        counts = {0, self.config.workers}
        counts |= {count for count in (2, 4, 8, 16) if count <= cores}
        rates = {}
        for workers in sorted(counts):
            skipped = 2 * workers + 1  # prepared while the processes start
            batches = self._batches(pairs, 2 * skipped + 4, workers)
            started = 0.0
            for number, _ in enumerate(batches):
                if number == skipped:
                    started = time.perf_counter()
            rates[workers] = (skipped + 3) * pairs / (time.perf_counter() - started)
        return rates

    def embedding_seconds(self) -> float:
        """Seconds to embed the image and the report of a validation pair."""
        rows = self.dataset.indices("validate")
        reports = self.dataset.frame["report"].iloc[rows].tolist()
        seconds = []
        for first in range(0, len(rows), EMBEDDED_AT_ONCE):
            chosen = slice(first, first + EMBEDDED_AT_ONCE)
            started = time.perf_counter()
            self.trainer.model.embed_images(self.dataset.images[rows[chosen]])
            self.trainer.model.embed_reports(reports[chosen])
            own_seconds = time.perf_counter() - started
            seconds.append(own_seconds / len(rows[chosen]))
            if sum(seconds) * EMBEDDED_AT_ONCE > EMBEDDING_SECONDS:
                break
        self.trainer.network.train()
        return statistics.median(seconds)

    def save(self) -> dict[str, float]:
        """Seconds and bytes of a save, and bytes of the model in it; the save is removed."""
        self.step_seconds(pairs=1, steps=1)  # the optimizer's moments, which are saved, exist then
        started = time.perf_counter()
        self.trainer.saves.save(Position())
        seconds = time.perf_counter() - started
        folder = self.config.folder / "checkpoint"
        sizes = {file.name: file.stat().st_size for file in folder.glob("*/*")}
        shutil.rmtree(self.config.folder)
        return {
            "seconds": seconds,
            "bytes": sum(sizes.values()),
            "model_bytes": sizes["model.safetensors"],
        }

    def _batches(self, pairs: int, count: int, workers: int | None = None) -> Iterator[list[Batch]]:
        """`count` batches of so many training pairs, drawn at random, as the loop's loader gives
        them."""
        generator = np.random.default_rng(0)
        available = len(self.trainer.pairs)
        drawn = []
        for _ in range(count):
            rows = generator.choice(available, pairs, replace=pairs > available)
            drawn.append(rows.tolist())
        loader = self.trainer.loader
        return iter(
            DataLoader(
                self.trainer.pairs,
                batch_sampler=drawn,
                collate_fn=loader.collate_fn,
                num_workers=loader.num_workers if workers is None else workers,
                worker_init_fn=loader.worker_init_fn,
                pin_memory=loader.pin_memory,
            )
        )


def measure_variant(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Seconds and bytes of a variant's training steps: of the run's own batch, or, if that takes
    too long or too much memory here, of smaller ones."""
    bench = Bench(config, dataset)
    timed = bench.time_batches()
    pairs = max(timed)
    measured = {"pairs": pairs, "step_seconds": timed, "bytes": bench.bytes_of(pairs)}
    measured["start_seconds"] = bench.start_seconds
    if config.compute:
        measured["epochs"] = bench.trainer.budget.epochs
    _release(bench)
    return measured


def measure_model(config: Config, dataset: Dataset, pairs: int) -> dict[str, Any]:
    """What does not depend on the variant: the loader, embedding a pair, and a save."""
    bench = Bench(config, dataset)
    measured = {
        "loader_pairs_a_second": bench.loader_rates(pairs),
        "seconds_a_pair_embedded": bench.embedding_seconds(),
        "save": bench.save(),
    }
    _release(bench)
    return measured


def measure_settings(config: Config, dataset: Dataset, pairs: int) -> list[dict[str, Any]]:
    """Steps of `pairs` pairs under other settings that change no result: one row a setting, with
    `seconds` of each step and `bytes_a_pair`, or why it was not tried (`skipped`)."""
    deadline = time.perf_counter() + OTHER_SETTINGS_SECONDS
    expected = 0.0  # seconds that a setting takes
    rows = []
    for change in _other_settings(config, pairs):
        is_compiled = bool(change.get("compile"))
        wanted = expected + COMPILE_SECONDS * is_compiled
        row = {"settings": change}
        started = time.perf_counter()
        if is_compiled and not _has_compiler():
            row["skipped"] = "there is no C++ compiler"
        elif started + wanted > deadline:
            row["skipped"] = "it would take longer than a rehearsal waits"
        else:
            row |= _try_settings(config.replace(**change), dataset, pairs)
            expected = time.perf_counter() - started
        rows.append(row)
    return rows


def _other_settings(config: Config, pairs: int) -> Iterator[dict[str, Any]]:
    for level in ("none", "selective", "full"):
        if level != config.recompute:
            yield {"recompute": level}
    if config.micro_batch:
        yield {"micro_batch": 0}
    elif pairs > 1:
        yield {"micro_batch": pairs // 2}
    yield {"compile": not config.compile}


def _try_settings(config: Config, dataset: Dataset, pairs: int) -> dict[str, Any]:
    bench = Bench(config, dataset)
    try:
        seconds = bench.step_seconds(pairs, steps=FEWEST_STEPS, budget=STEP_SECONDS / 2)
        result = {"seconds": seconds}
        if not config.compile:
            at_once = config.micro_batch or pairs
            result["bytes_a_pair"] = bench.bytes_of(min(at_once, pairs))["a_pair"]
    except (RuntimeError, OSError) as error:  # out of memory; a compiler that fails
        result = {"skipped": f"it failed: {str(error).splitlines()[0]}"}
    _release(bench)
    return result


def largest_batch_of(config: Config, dataset: Dataset, step: dict[str, int]) -> int:
    """Most pairs at once that fit into the memory: on a GPU by trying, else from `Bench.bytes_of`
    of a step."""
    if torch.cuda.is_available():
        return try_largest_batch(config, dataset)
    return largest_batch(step)


def largest_batch(step: dict[str, int]) -> int:
    """Most pairs at once whose step fits into the memory, from `Bench.bytes_of`."""
    room = ROOM * memory_bytes() - step["static"]
    if not torch.cuda.is_available():
        room -= PROCESS_GB * 1e9
    return max(int(room / max(step["a_pair"], 1)), 1)


def try_largest_batch(config: Config, dataset: Dataset) -> int:
    """Most pairs at once, of powers of two up to eight times the batch, that fit into the GPU when
    tried."""
    bench = Bench(config.replace(micro_batch=0), dataset)
    pairs = 1
    while pairs < 8 * config.batch_size and bench.fits(2 * pairs):
        pairs = 2 * pairs
    _release(bench)
    return pairs


def memory_bytes() -> int:
    """Memory of the GPU, or without one that of the machine or of the container."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and limit.read_text().strip().isdecimal():
        return min(machine, int(limit.read_text()))
    return machine


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def _release(bench: Bench) -> None:
    """Give the memory of a measured model back."""
    bench.trainer = None
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
