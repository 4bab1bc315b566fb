"""Make a finished demo run the committed reference: `python -m mcrlib.publish demo`."""

from __future__ import annotations

import shutil
import sys

import numpy as np

from mcrlib import config, results


def publish(run: str) -> None:
    """Copy the run's embeddings (half precision) and histories to `results/reference`.

    Numbers and figures are then made from these copies. Raises ValueError unless the run's pairs
    are phantoms: nothing derived from patients may be committed.
    """
    if config.load(run).source != "phantom":
        raise ValueError(f"RUN={run} is not made of phantoms: it is never published.")
    source, target = (config.ROOT / "results" / name for name in (run, "reference"))
    files = [f for split in ("validate", "test") for f in results.trained(run, split).values()]
    shutil.rmtree(target, ignore_errors=True)
    for file in files:
        with np.load(file) as rows:
            results.save_embeddings(target / file.relative_to(source), **rows, dtype=np.float16)
    records = {
        f"{f.parent.name}/{name}" for f in files for name in ("training.json", "history.csv")
    }
    if (source / "efficiency.json").is_file():  # made on its own, by `make efficiency`
        records.add("efficiency.json")
    for record in ("data.json", *sorted(records)):
        results.write(target / record, (source / record).read_bytes())


if __name__ == "__main__":
    try:
        publish(sys.argv[1])
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
