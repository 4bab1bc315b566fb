"""All benchmarks, or those named: `python benchmarks/run.py [ID...]`.

All of them go to results/bench.json, or bench-gpu.json where there is a GPU; those named are
printed only.
"""

import gc
import importlib
import json
import sys
import time

import torch
from step import GPU

from mcrlib import config, results

MODULES = ["step", "parts", "lean_training"]
if not GPU:  # which changes nothing in the others
    MODULES[2:2] = ["safety"]
    MODULES += ["findings", "preparation", "retrieval", "text_metrics"]
BENCHMARKS = {
    name: work for module in MODULES for name, work in importlib.import_module(module).ROWS.items()
}


def main(chosen: list[str]) -> None:
    if unknown := set(chosen) - set(BENCHMARKS):
        sys.exit(f"There is no benchmark {sorted(unknown)}; there are {', '.join(BENCHMARKS)}.")
    began, rows = time.perf_counter(), []
    numbers = config.ROOT / "results" / f"bench{'-gpu' if GPU else ''}.json"
    partial = numbers.with_suffix(".partial.json")
    for name in chosen or BENCHMARKS:
        for measurement in BENCHMARKS[name]():
            print(json.dumps(measurement), flush=True)
            rows.append(measurement)
        if not chosen:  # after each: what is measured must not be lost when a later one fails
            results.save(partial, rows, seconds=round(time.perf_counter() - began))
        if GPU:
            gc.collect()
            torch.cuda.empty_cache()  # for other processes, in which row 12 trains
    if not chosen:
        partial.replace(numbers)


if __name__ == "__main__":
    main(sys.argv[1:])
