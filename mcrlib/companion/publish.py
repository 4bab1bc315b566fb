"""Make a finished demo run the committed reference: `python -m mcrlib.companion.publish demo`."""

import shutil
import sys

import numpy as np

from mcrlib import config, results
from mcrlib.files import write


def publish(run: str) -> None:
    """Copy the run's embeddings (half precision) and histories to `results/reference`, and the
    figures of its data and training to `figures/reference`.

    All other numbers and figures are then made from these copies. Raises ValueError unless the
    run's pairs are phantoms: nothing derived from patients may be committed.
    """
    if run == "reference":
        raise ValueError("RUN=reference is published already; publish a demo run.")
    if config.load(run).source != "phantom":
        raise ValueError(f"RUN={run} is not made of phantoms: it is never published.")
    source, target = (config.ROOT / "results" / name for name in (run, "reference"))
    files = [
        f for split in ("validate", "test") for f in results.embedding_files(run, split).values()
    ]
    for old in target.glob("*/"):
        shutil.rmtree(old)
    for file in files:
        with np.load(file) as rows:
            results.save_embeddings(target / file.relative_to(source), **rows, dtype=np.float16)
    # `efficiency.json` is made on its own, by `make efficiency`
    records = [source / "data.json", *source.glob("efficiency.json")]
    records += [*source.glob("*/training.json"), *source.glob("*/history.csv")]
    for record in records:
        write(target / record.relative_to(source), record.read_bytes())
    drawn, shown = (config.ROOT / "figures" / name for name in (run, "reference"))
    for figure in (*drawn.glob("data_*"), *drawn.glob("training_*")):  # the others are drawn anew
        write(shown / figure.name, figure.read_bytes())


if __name__ == "__main__":
    try:
        publish(sys.argv[1])
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
