"""Ranks, recalls and intervals of a pool, beside an evaluation that sorts the whole matrix.

Run as a script: prints one row a measurement. Both sides alternate in one run.
"""

import resource
import subprocess
import sys
import time

import numpy as np
import torch
from measured import row

from mcrlib.data.reports import same_text
from mcrlib.evaluation import retrieval


def pool(n: int, width: int = 512) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Noisy pairs, a third with the same report text, about ten pairs a patient."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((n, width), dtype=np.float32)
    report = image + 10 * rng.standard_normal((n, width), dtype=np.float32)
    texts = ["No acute disease." if rng.random() < 1 / 3 else f"report {i}" for i in range(n)]
    return image, report, texts, rng.integers(n // 10, size=n)


def by_sorting(
    image: np.ndarray, report: np.ndarray, texts: list[str], patients: np.ndarray, draws: int = 1000
) -> dict[tuple[str, str], list]:
    """The same recalls, ranks and intervals from a full argsort and a loop over the draws."""
    image, report = (
        torch.nn.functional.normalize(torch.from_numpy(rows), dim=1) for rows in (image, report)
    )
    text = np.unique([same_text(text) for text in texts], return_inverse=True)[1]
    ranks = {}
    for way, scores in {
        "image_to_report": image @ report.T,
        "report_to_image": report @ image.T,
    }.items():
        order = scores.argsort(1, descending=True)
        for policy, codes in {
            "pair": torch.arange(len(texts)),
            "report": torch.from_numpy(text),
        }.items():
            ranks[way, policy] = 1 + (codes[order] == codes[:, None]).byte().argmax(1).numpy()
    members = [rows for p in np.unique(patients) if (rows := np.flatnonzero(patients == p)).size]
    rng, samples = np.random.default_rng(0), {key: [] for key in ranks}
    for _ in range(draws):
        drawn = np.concatenate([members[p] for p in rng.integers(len(members), size=len(members))])
        for key, values in ranks.items():
            one = values[drawn]
            recalls = [(one <= k).mean() for k in (1, 5, 10)]
            samples[key].append([*recalls, np.median(one), one.mean()])
    return {key: np.quantile(drawn, (0.025, 0.975), axis=0) for key, drawn in samples.items()}


def speed(n: int = 5000, rounds: int = 5) -> dict:
    given = pool(n)
    ratios = []
    for _ in range(rounds):
        seconds = []
        for work in (by_sorting, retrieval.evaluate):
            began = time.perf_counter()
            work(*given)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
    what = f"both ways, both policies and intervals, {n:,} pairs"
    return row("ranks", what, "argsort of the whole matrix", ratios, 3.5)


def memory() -> dict:
    """Peak of a process of its own, which this script is when called with `memory`."""
    command = [sys.executable, __file__, "memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, seconds = map(float, done.stdout.split())
    what = f"the same of 50,000 pairs: {peak:.2f} GiB, {seconds:.0f} s"
    return row("ranks memory", what, "4 GiB", [4 / peak], 1)


def rows() -> list[dict]:
    """One dict a measurement: id, what, rival, ratio, spread, goal (least ratio), met."""
    return [speed(), memory()]


ROWS = {"retrieval": rows}

if __name__ == "__main__":
    if sys.argv[1:] == ["memory"]:
        given, began = pool(50_000), time.perf_counter()
        retrieval.evaluate(*given)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(peak, time.perf_counter() - began)
    else:
        for measurement in rows():
            print(measurement)
