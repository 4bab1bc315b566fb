"""Row 12: what a lean step costs in retrieval, on the demo's phantoms.

Lean is bf16, selective recomputation and two passes of 16 pairs; plain is none of them. In exact
arithmetic both are the same training, so what is seen is what rounding does.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from accelerate.state import AcceleratorState
from measured import row

from mcrlib import config, retrieval, train
from mcrlib.data import manifest

LEAN = {"precision": "bf16", "recompute": "selective", "micro_batch": 16}


def ranks(settings: config.Config, dataset: manifest.Dataset) -> np.ndarray:
    """Train, and rank the test split."""
    AcceleratorState._reset_state(reset_partial_state=True)  # else the first precision stays
    with home(), contextlib.redirect_stdout(None):
        train.train(settings, dataset)
        return train.ranks(train.trained(settings, dataset), dataset, "test")


@contextlib.contextmanager
def home() -> Iterator[None]:
    """A root of its own for what a run writes."""
    root = config.ROOT
    with tempfile.TemporaryDirectory() as folder:
        config.ROOT = Path(folder)
        try:
            yield
        finally:
            config.ROOT = root


def retrieval_kept(run: str = "demo", seed: int = 0) -> list[dict]:
    os.environ[config.PLAIN] = "1"
    with home():
        dataset = manifest.build(config.load(run))
        lean, plain = (
            ranks(config.load(run, seed=seed, **changes), dataset) for changes in (LEAN, {})
        )
    patients = dataset.frame["patient_id"].iloc[dataset.indices("test")]
    found = retrieval.compare(lean[None], plain[None], patients.tolist())
    loss = max(-found["low"], 1e-4)
    interval = f"{100 * found['difference']:+.1f} points [{100 * found['low']:+.1f}, "
    what = f"mean Recall@10 of lean training, one seed: {interval}{100 * found['high']:+.1f}]"
    return [row("12", what, "plain training, same seed; at worst -2 points", [0.02 / loss], 1)]


ROWS = {"12": retrieval_kept}
