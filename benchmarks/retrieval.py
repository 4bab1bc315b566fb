"""Ranks, recalls and intervals of a pool, against an evaluation that sorts the whole matrix.

`python benchmarks/retrieval.py` prints the rows. Both sides take turns in one process.
"""

import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from measured import own_memory, row, seconds_of

from mcrlib.data.reports import same_text
from mcrlib.evaluation import retrieval


class Pool(NamedTuple):
    """Embeddings [N, E] of N pairs, their report texts, and the patient of each."""

    image: np.ndarray
    report: np.ndarray
    texts: list[str]
    patients: np.ndarray


def pool(n: int, width: int = 512) -> Pool:
    """n noisy pairs; a third has the same report text, and a patient has about ten pairs."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((n, width), dtype=np.float32)
    noise = rng.standard_normal((n, width), dtype=np.float32)
    report = image + 10 * noise
    texts = []
    for i in range(n):
        is_normal = rng.random() < 1 / 3
        text = "No acute disease." if is_normal else f"report {i}"
        texts.append(text)
    patients = rng.integers(n // 10, size=n)
    return Pool(image, report, texts, patients)


def by_sorting(
    image: np.ndarray, report: np.ndarray, texts: list[str], patients: np.ndarray, draws: int = 1000
) -> dict[tuple[str, str], np.ndarray]:
    """The rival: intervals from a full argsort and a loop over the bootstrap's draws.

    Returns (direction, policy) -> [2, 5]: the 2.5 % and 97.5 % quantiles of Recall@1, @5, @10, and
    of the median and mean rank.
    """
    ranks = _ranks_by_sorting(image, report, texts)
    pairs_of_patients = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    n_patients = len(pairs_of_patients)
    rng = np.random.default_rng(0)
    samples = {key: [] for key in ranks}
    for _ in range(draws):
        drawn_patients = rng.integers(n_patients, size=n_patients)
        pairs = np.concatenate([pairs_of_patients[patient] for patient in drawn_patients])
        for key, all_ranks in ranks.items():
            drawn_ranks = all_ranks[pairs]
            recalls = [(drawn_ranks <= k).mean() for k in (1, 5, 10)]
            samples[key].append([*recalls, np.median(drawn_ranks), drawn_ranks.mean()])
    intervals = {}
    for key, sample in samples.items():
        intervals[key] = np.quantile(sample, (0.025, 0.975), axis=0)
    return intervals


def _ranks_by_sorting(
    image: np.ndarray, report: np.ndarray, texts: list[str]
) -> dict[tuple[str, str], np.ndarray]:
    """Ranks [N] from 1 of each query's best positive, by (direction, policy)."""
    unit_image = F.normalize(torch.from_numpy(image), dim=1)
    unit_report = F.normalize(torch.from_numpy(report), dim=1)
    normal_texts = [same_text(text) for text in texts]
    _, text_codes = np.unique(normal_texts, return_inverse=True)
    scores = {
        "image_to_report": unit_image @ unit_report.T,
        "report_to_image": unit_report @ unit_image.T,
    }
    codes = {"pair": torch.arange(len(texts)), "report": torch.from_numpy(text_codes)}
    ranks = {}
    for direction, direction_scores in scores.items():
        order = direction_scores.argsort(1, descending=True)
        for policy, code in codes.items():
            is_positive = code[order] == code[:, None]
            first = is_positive.byte().argmax(1)
            ranks[direction, policy] = 1 + first.numpy()
    return ranks


def speed(n: int = 5000, rounds: int = 5) -> dict:
    """Row `ranks`: the whole evaluation of a pool, against sorting."""
    pairs = pool(n)
    ratios = []
    for _ in range(rounds):
        theirs = seconds_of(by_sorting, *pairs)
        ours = seconds_of(retrieval.evaluate, *pairs)
        ratios.append(theirs / ours)
    what = f"both ways, both policies and intervals, {n:,} pairs"
    return row("ranks", what, "argsort of the whole matrix", ratios, 3.5)


def memory() -> dict:
    """Row `ranks memory`: peak memory of 50,000 pairs.

    Measured in a separate process, which runs this file with the argument `memory`.
    """
    command = [sys.executable, __file__, "memory"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, seconds = process.stdout.split()
    gibibytes = float(peak)
    what = f"the same of 50,000 pairs: {gibibytes:.2f} GiB, {float(seconds):.0f} s"
    return row("ranks memory", what, "4 GiB", [4 / gibibytes], 1)


def print_peak(n: int) -> None:
    """Evaluate n pairs, and print this process's peak memory in GiB and the seconds it took."""
    pairs = pool(n)
    started = time.perf_counter()
    retrieval.evaluate(*pairs)
    peak = own_memory("VmHWM") / 1024
    print(peak, time.perf_counter() - started)


def rows() -> list[dict]:
    """All rows of this file, each as `measured.row` returns it."""
    return [speed(), memory()]


ROWS = {"retrieval": rows}

if __name__ == "__main__":
    if sys.argv[1:] == ["memory"]:
        print_peak(50_000)
    else:
        for measurement in rows():
            print(measurement)
