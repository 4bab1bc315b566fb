"""All benchmarks, or those named: `python benchmarks/run.py [ID...]`.

All of them go to results/bench.json; those named are printed only, so that the file is of one
machine, one commit and one evening.
"""

import json
import sys
import time

import findings
import lean_training
import parts
import preparation
import retrieval
import safety
import step
import text_metrics

from mcrlib import config, results

BENCHMARKS = {
    **step.ROWS,
    **parts.ROWS,
    **safety.ROWS,
    **lean_training.ROWS,
    **{module.__name__: module.rows for module in (findings, preparation, retrieval, text_metrics)},
}


def main(chosen: list[str]) -> None:
    if unknown := set(chosen) - set(BENCHMARKS):
        sys.exit(f"There is no benchmark {sorted(unknown)}; there are {', '.join(BENCHMARKS)}.")
    began, rows = time.perf_counter(), []
    partial = config.ROOT / "results" / "bench.partial.json"
    for name in chosen or BENCHMARKS:
        for measurement in BENCHMARKS[name]():
            print(json.dumps(measurement), flush=True)
            rows.append(measurement)
        if not chosen:  # after each: what is measured must not be lost when a later one fails
            results.save(partial, rows, seconds=round(time.perf_counter() - began))
    if not chosen:
        partial.replace(config.ROOT / "results" / "bench.json")


if __name__ == "__main__":
    main(sys.argv[1:])
