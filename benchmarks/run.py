"""Run all benchmarks, or only the named ones: `python benchmarks/run.py [ID...]`.

The rows of all benchmarks go to results/bench.json, or to bench-gpu.json on a machine with a GPU,
and from there into the tables of benchmarks/README.md. Each is saved when it is measured: an
interrupted run goes on where it stopped if the code is still the same. Named benchmarks run in the
order in which they are named, and are only printed.
"""

import gc
import importlib
import json
import sys
import time
from collections.abc import Callable

import tables
import torch
from saved import CPU_FILE, GPU_FILE, ORDER, Saved, code_version
from step import GPU

from mcrlib import config

if GPU:  # the other modules do not depend on it
    MODULES = ["step", "parts", "epoch", "lean_training"]
    FILE = GPU_FILE
else:
    MODULES = [
        "step",
        "parts",
        "epoch",
        "safety",
        "lean_training",
        "findings",
        "preparation",
        "retrieval",
        "sections",
        "text_metrics",
        "full_size",
    ]
    FILE = CPU_FILE

Benchmark = Callable[[], list[dict]]


def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks of this machine: id -> a function that returns its rows."""
    by_id = {}
    for name in MODULES:
        module = importlib.import_module(name)
        by_id.update(module.ROWS)
    return by_id


def main(chosen: list[str]) -> None:
    """Run the `chosen` benchmarks and print their rows; with none chosen, run and save those of
    ORDER."""
    known = benchmarks()
    unknown = [name for name in chosen if name not in known]
    if unknown:
        names = ", ".join(known)
        sys.exit(f"Unknown benchmark: {', '.join(unknown)}. Choose from {names}.")
    if chosen:
        for name in chosen:
            measure(known[name])
        return
    in_order = {name: known[name] for name in ORDER[FILE]}
    file = config.ROOT / "results" / FILE
    measure_all(in_order, Saved(file, code_version()))
    tables.write_tables()


def measure(benchmark: Benchmark) -> list[dict]:
    """Run one benchmark and print its rows."""
    rows = benchmark()
    for measured in rows:
        print(json.dumps(measured), flush=True)
    if GPU:
        gc.collect()
        torch.cuda.empty_cache()  # for row 12, which trains in other processes
    return rows


def measure_all(in_order: dict[str, Benchmark], saved: Saved) -> None:
    """Run and save the benchmarks that are not `saved` yet."""
    for name, benchmark in in_order.items():
        if saved.has(name):
            continue
        started = time.perf_counter()
        rows = measure(benchmark)
        saved.add(name, rows, time.perf_counter() - started)
    saved.finish(list(in_order))


if __name__ == "__main__":
    main(sys.argv[1:])
