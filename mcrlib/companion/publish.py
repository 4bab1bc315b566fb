"""Make a finished demo run the committed reference: `python -m mcrlib.companion.publish demo`."""

import shutil
import sys
from pathlib import Path

import numpy as np

from mcrlib import config, results
from mcrlib.files import write


def publish(run: str) -> None:
    """Copy the run's embeddings (half precision) and histories to `results/reference`, and the
    figures of its data and training to `figures/reference`.

    All other numbers and figures are then made from these copies. Raises ValueError unless the
    run's pairs are phantoms: nothing derived from patients may be committed. Raises
    FileNotFoundError, before anything is changed, if the run has no embeddings.
    """
    if run == "reference":
        raise ValueError("RUN=reference is published already; publish a demo run.")
    if config.load(run).source != "phantom":
        raise ValueError(f"RUN={run} is not made of phantoms: it is never published.")
    validate_files = results.embedding_files(run, "validate")
    test_files = results.embedding_files(run, "test")
    run_results = config.ROOT / "results" / run
    reference_results = config.ROOT / "results" / "reference"
    for old_model in reference_results.glob("*/"):
        shutil.rmtree(old_model)
    for file in [*validate_files.values(), *test_files.values()]:
        _copy_in_half_precision(file, reference_results / file.relative_to(run_results))
    for file in _records(run_results):
        write(reference_results / file.relative_to(run_results), file.read_bytes())
    figures = config.ROOT / "figures"
    _copy_figures(figures / run, figures / "reference")


def _records(folder: Path) -> list[Path]:
    """Numbers of a run that are not made from its embeddings."""
    return [
        folder / "data.json",
        *folder.glob("efficiency.json"),  # only there after `make efficiency`
        *folder.glob("*/training.json"),
        *folder.glob("*/history.csv"),
    ]


def _copy_in_half_precision(source: Path, target: Path) -> None:
    with np.load(source) as arrays:
        results.save_embeddings(target, **arrays, dtype=np.float16)


def _copy_figures(source: Path, target: Path) -> None:
    """Copy the figures of data and training; the others can be drawn from the reference."""
    for figure in [*source.glob("data_*"), *source.glob("training_*")]:
        write(target / figure.name, figure.read_bytes())


if __name__ == "__main__":
    try:
        publish(sys.argv[1])
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
