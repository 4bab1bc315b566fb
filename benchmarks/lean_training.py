"""Row 12: what a lean step costs in retrieval, on the demo's phantoms, over three seeds.

A lean step uses bf16, selective recomputation and two passes of 32 pairs; a plain step uses none of
them. In exact arithmetic both trainings are the same, so any difference comes from rounding. Times
are not measured here, because the trainings share the machine.
"""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState
from joblib import Parallel, delayed
from measured import row

from mcrlib import config
from mcrlib.data import prepare
from mcrlib.data.dataset import Dataset, open_dataset
from mcrlib.evaluation import retrieval
from mcrlib.training import cost, loop
from mcrlib.training.checkpoint import load_trained

LEAN = {"precision": "bf16", "recompute": "selective", "micro_batch": 32}
SEEDS = (0, 1, 2)


def ranks(settings: config.Config, root: Path, threads: int) -> np.ndarray:
    """Ranks of the test split after a training with these settings, on the pairs below `root`."""
    # accelerate keeps the first precision of a process until it is reset.
    AcceleratorState._reset_state(reset_partial_state=True)
    config.ROOT = root
    os.environ[config.PLAIN] = "1"
    torch.set_num_threads(threads)
    dataset = open_dataset(settings.data_folder)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        config.ROOT = Path(folder)
        loop.train(settings, dataset)
        model = load_trained(settings, dataset)
        return loop.rank_split(model, dataset, "test")


def retrieval_kept(run: str = "demo") -> list[dict]:
    """Row 12: mean Recall@10 of lean minus plain training, with its interval over patients."""
    lean_jobs = [config.load(run, seed=seed, **LEAN) for seed in SEEDS]
    plain_jobs = [config.load(run, seed=seed) for seed in SEEDS]
    jobs = lean_jobs + plain_jobs
    processes = _processes(len(jobs))
    threads = max(1, os.cpu_count() // processes)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset = _prepare_below(root, run)
        tasks = [delayed(ranks)(job, root, threads) for job in jobs]
        all_ranks = Parallel(processes)(tasks)
    lean = np.stack(all_ranks[: len(lean_jobs)])
    plain = np.stack(all_ranks[len(lean_jobs) :])
    test_patients = dataset.frame["patient_id"].iloc[dataset.indices("test")]
    comparison = retrieval.compare_ranks(lean, plain, test_patients.tolist())

    points = 100 * comparison["difference"]
    low = 100 * comparison["low"]
    high = 100 * comparison["high"]
    interval = f"{points:+.1f} points [{low:+.1f}, {high:+.1f}]"
    what = f"mean Recall@10 of lean training, {len(SEEDS)} seeds: {interval}"
    rival = "plain training, same seeds; at worst -2 points"
    greatest_loss = max(-comparison["low"], 1e-4)
    return [row("12", what, rival, [0.02 / greatest_loss], 1)]


def _processes(jobs: int) -> int:
    """Number of processes that train at the same time."""
    if cost.DEVICE == "cuda":
        return jobs  # a GPU has room for all of these small models
    # With a single process, joblib would train in this one and change its settings.
    at_least_two = max(os.cpu_count(), 2)
    return min(at_least_two, jobs)


def _prepare_below(root: Path, run: str) -> Dataset:
    """Prepare the run's pairs below `root` in place of the checkout."""
    checkout = config.ROOT
    config.ROOT = root
    try:
        return prepare.build(config.load(run))
    finally:
        config.ROOT = checkout


ROWS = {"12": retrieval_kept}
