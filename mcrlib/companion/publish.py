"""Make a finished demo run the committed reference: `python -m mcrlib.companion.publish demo`."""

import shutil
import sys
from pathlib import Path

import numpy as np

from mcrlib import config, results
from mcrlib.companion import hub, probe_files
from mcrlib.files import write
from mcrlib.model import MCR

# Their models come with the reference, small ones, so that a fresh clone can search and explain.
SHIPPED_MODELS = ("mcr-seed0", "abm-seed0")
LARGEST_NOTEBOOK = 1_000_000  # bytes; larger ones are slow to show on GitHub


def publish(run: str) -> None:
    """Copy the run's embeddings and two models (half precision), histories and executed notebooks
    to `results/reference`, and the figures of its data and training to `figures/reference`.

    All other numbers, figures and executed notebooks are then made from these copies. Raises
    ValueError unless the run's pairs are phantoms, by its settings and by its data: nothing derived
    from patients may be committed. Raises FileNotFoundError if the run is not finished. Nothing is
    changed before all checks have passed.
    """
    _check_is_drawn(run)
    validate_files = results.embedding_files(run, "validate")
    test_files = results.embedding_files(run, "test")
    for file in [*validate_files.values(), *test_files.values()]:
        results.refuse_stale(file, run)
    probe_files.files_of(run)  # raises for one of another model
    run_results = config.ROOT / "results" / run
    notebooks = _executed_once(run_results / "executed")
    for notebook in notebooks:
        _check_notebook(notebook)

    reference_results = config.ROOT / "results" / config.REFERENCE
    for old_folder in reference_results.glob("*/"):
        shutil.rmtree(old_folder)
    for file in [*validate_files.values(), *test_files.values()]:
        _copy_in_half_precision(file, reference_results / file.relative_to(run_results))
    for file in [*_records(run_results), *notebooks]:
        write(reference_results / file.relative_to(run_results), file.read_bytes())
    for name in SHIPPED_MODELS:
        _ship_model(run, name, reference_results / name / results.SHIPPED_MODEL)
    figures = config.ROOT / "figures"
    _copy_figures(figures / run, figures / config.REFERENCE)


def _check_is_drawn(run: str) -> None:
    if run == config.REFERENCE:
        raise ValueError("RUN=reference is published already; publish a demo run.")
    if config.is_rehearsal(run):
        raise ValueError(f"RUN={run} is a rehearsal, whose numbers are no results: publish a run.")
    beginning = config.beginning_of(run).rstrip("-")
    if beginning:
        raise ValueError(f"RUN={run} is a {beginning} run: publish RUN={config.preset(run)}.")
    _check_source(run, config.load(run).source)
    data_file = config.ROOT / "results" / run / "data.json"
    dataset = results.load(data_file)["values"]["dataset"]
    _check_source(run, dataset["source"])  # SET='source: table' changes it


def _check_source(run: str, source: str) -> None:
    # Other drawn pairs are of no patient either, but the reference is the demo's domain.
    if source != "phantom":
        raise ValueError(
            f"RUN={run} is not made of phantoms, but of the source {source!r}: it is never "
            "published."
        )


def _executed_once(folder: Path) -> list[Path]:
    """Executed notebooks that the reference cannot execute itself: it has no data or model."""
    names = ("00_data*", "01_train*", "02_embed*", "09_explore*")
    notebooks = []
    for name in names:
        notebooks += sorted(folder.glob(f"{name}.ipynb"))
    return notebooks


def _check_notebook(file: Path) -> None:
    if file.stat().st_size > LARGEST_NOTEBOOK:
        raise ValueError(f"{file} is larger than {LARGEST_NOTEBOOK:,} bytes: show less in it.")
    if str(config.ROOT) in file.read_text():
        raise ValueError(f"{file} shows a path of this machine ({config.ROOT}): print less in it.")


def _records(folder: Path) -> list[Path]:
    """Numbers of a run that are not made from its embeddings."""
    return [
        folder / "data.json",
        *folder.glob("efficiency.json"),  # only there after `make efficiency`
        *folder.glob("ablations.json"),  # and after `make ablations`
        *folder.glob("compute.json"),  # drawn beside them
        *folder.glob("grounding.json"),  # made from the models themselves
        *folder.glob("robustness.json"),  # and after `make robustness`
        *folder.glob("domain.json"),  # of the run digits
        *folder.glob("scale.json"),  # of runs with fewer pairs
        *folder.glob("*/training.json"),
        *folder.glob("*/history.csv"),
        *folder.glob(f"*/{probe_files.FILE}"),
    ]


def _copy_in_half_precision(source: Path, target: Path) -> None:
    with np.load(source) as arrays:
        results.save_embeddings(target, **arrays, dtype=np.float16)


def _ship_model(run: str, name: str, target: Path) -> None:
    """Copy a trained model in half precision, with its card; nothing if it is not trained."""
    final = config.ROOT / "results" / run / name / config.TRAINED_MODEL
    if final.is_dir():
        hub.save(MCR.from_pretrained(final), target, run, name, half=True)


def _copy_figures(source: Path, target: Path) -> None:
    """Copy the figures of data and training; the others can be drawn from the reference."""
    for figure in [*source.glob("data_*"), *source.glob("training_*")]:
        write(target / figure.name, figure.read_bytes())


if __name__ == "__main__":
    try:
        publish(sys.argv[1])
    except (ValueError, FileNotFoundError) as error:
        sys.exit(str(error))
