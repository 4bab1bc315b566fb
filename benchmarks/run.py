"""Run all benchmarks, or only the named ones: `python benchmarks/run.py [ID...]`.

The results of all benchmarks go to results/bench.json, or to bench-gpu.json on a machine with a
GPU. Named ones are only printed.
"""

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable

import torch
from step import GPU

from mcrlib import config, results

if GPU:  # the other modules do not depend on it
    MODULES = ["step", "parts", "lean_training"]
    FILE = "bench-gpu.json"
else:
    MODULES = [
        "step",
        "parts",
        "safety",
        "lean_training",
        "findings",
        "preparation",
        "retrieval",
        "sections",
        "text_metrics",
    ]
    FILE = "bench.json"


def benchmarks() -> dict[str, Callable[[], list[dict]]]:
    """All benchmarks of this machine: id -> a function that returns its rows."""
    by_id = {}
    for name in MODULES:
        module = importlib.import_module(name)
        by_id.update(module.ROWS)
    return by_id


def main(chosen: list[str]) -> None:
    """Run the `chosen` benchmarks and print their rows; with none chosen, run and save all."""
    known = benchmarks()
    unknown = [name for name in chosen if name not in known]
    if unknown:
        names = ", ".join(known)
        sys.exit(f"Unknown benchmark: {', '.join(unknown)}. Choose from {names}.")

    started = time.perf_counter()
    numbers = config.ROOT / "results" / FILE
    partial = numbers.with_suffix(".partial.json")
    rows = []
    for name in chosen or known:
        for measurement in known[name]():
            print(json.dumps(measurement), flush=True)
            rows.append(measurement)
        if not chosen:  # saved after each, so that a later failure loses nothing
            seconds = time.perf_counter() - started
            results.save(partial, rows, seconds=round(seconds))
        if GPU:
            gc.collect()
            torch.cuda.empty_cache()  # for row 12, which trains in other processes
    if not chosen:
        partial.replace(numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
