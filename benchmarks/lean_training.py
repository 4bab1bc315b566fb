"""Row 12: what a lean step costs in retrieval, on the demo's phantoms, over three seeds.

Lean is bf16, selective recomputation and two passes of 32 pairs; plain is none of them. In exact
arithmetic both are the same training, so what is seen is what rounding does. It is no timing: the
trainings share the machine.
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
from mcrlib.data.dataset import open_dataset
from mcrlib.evaluation import retrieval
from mcrlib.training import cost, loop
from mcrlib.training.checkpoint import load_trained

LEAN = {"precision": "bf16", "recompute": "selective", "micro_batch": 32}
SEEDS = (0, 1, 2)


def ranks(settings: config.Config, root: Path, threads: int) -> np.ndarray:
    """Train below `root`, where the pairs are, and rank the test split."""
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first precision stays
    config.ROOT, os.environ[config.PLAIN] = root, "1"
    torch.set_num_threads(threads)
    dataset = open_dataset(settings.data_folder)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        config.ROOT = Path(folder)
        loop.train(settings, dataset)
        return loop.rank_split(load_trained(settings, dataset), dataset, "test")


def retrieval_kept(run: str = "demo") -> list[dict]:
    jobs = [config.load(run, seed=s, **changes) for changes in (LEAN, {}) for s in SEEDS]
    cores = os.cpu_count()
    # A GPU has room for all of these small models; one process alone would be this one.
    processes = len(jobs) if cost.DEVICE == "cuda" else min(max(cores, 2), len(jobs))
    with tempfile.TemporaryDirectory() as folder:
        root, config.ROOT = config.ROOT, Path(folder)
        try:
            dataset = prepare.build(config.load(run))
        finally:
            config.ROOT = root
        threads = max(1, cores // processes)
        both = Parallel(processes)(delayed(ranks)(job, Path(folder), threads) for job in jobs)
    lean, plain = np.stack(both[: len(SEEDS)]), np.stack(both[len(SEEDS) :])
    patients = dataset.frame["patient_id"].iloc[dataset.indices("test")]
    found = retrieval.compare_ranks(lean, plain, patients.tolist())
    loss = max(-found["low"], 1e-4)
    interval = f"{100 * found['difference']:+.1f} points [{100 * found['low']:+.1f}, "
    what = f"mean Recall@10 of lean training, {len(SEEDS)} seeds: {interval}"
    what += f"{100 * found['high']:+.1f}]"
    return [row("12", what, "plain training, same seeds; at worst -2 points", [0.02 / loss], 1)]


ROWS = {"12": retrieval_kept}
