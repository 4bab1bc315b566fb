"""Numbers and embeddings on disk, with what made them (ours)."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcrlib import config
from mcrlib.data.dataset import Dataset, open_dataset
from mcrlib.evaluation.seeds import by_variant
from mcrlib.files import MANIFEST_FILE, sha256, write
from mcrlib.provenance import environment, peak_memory

EMBEDDING_ARRAYS = ("image", "report", "pair_id")  # in each embeddings file


def save(path: str | Path, values: Any, **provenance: Any) -> None:
    """Write `values` as JSON with a provenance block: the `provenance` given here, and the code,
    packages, device and peak memory that made them.

    NumPy and PyTorch numbers and arrays become numbers and lists. Raises ValueError for numbers
    that are not finite, and TypeError for what JSON cannot hold.
    """
    about = dict(provenance)
    about["peak_memory_gb"] = round(peak_memory(), 2)
    about.update(environment())
    record = {"values": values, "provenance": about}
    text = json.dumps(record, indent=1, default=_to_json, allow_nan=False)
    write(config.project_path(path), text.encode() + b"\n")


def load(path: str | Path) -> dict[str, Any]:
    """What `save` wrote: `{"values": ..., "provenance": {...}}`. Raises FileNotFoundError."""
    path = config.project_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: run the notebook that makes it.")
    return json.loads(path.read_text())


def is_current(path: str | Path, inputs: dict[str, str]) -> bool:
    """Whether `path` holds numbers that were made from these `inputs` (name -> hash or setting), so
    that they need not be computed again."""
    if not config.project_path(path).is_file():
        return False
    provenance = load(path)["provenance"]
    return provenance.get("inputs") == inputs


def embedding_files(run: str, split: str = "test") -> dict[str, Path]:
    """Embedding files of a run by model, including those of other people's methods: every
    `results/RUN/VARIANT-seedS/embeddings-SPLIT.npz`.

    A model's name is its variant, or `VARIANT-seedS` if the variant has several seeds. Our variants
    come first, in the order of VARIANTS. Raises FileNotFoundError if there are no embeddings.
    """
    folder = config.ROOT / "results" / run
    files = sorted(folder.glob(f"*/embeddings-{split}.npz"))
    if not files:
        raise FileNotFoundError(
            f"There are no embeddings in results/{run}: run `make embed RUN={run}` first."
        )
    seeds_of = by_variant({file.parent.name: file for file in files})
    order = [*config.VARIANTS, *seeds_of]
    result = {}
    for variant in sorted(seeds_of, key=order.index):
        seeds = sorted(seeds_of[variant], key=_name_length)
        for file in seeds:
            name = file.parent.name if len(seeds) > 1 else variant
            result[name] = file
    return result


def dataset_of_run(run: str) -> Dataset:
    """The prepared pairs that the embeddings of a run belong to.

    Raises ValueError if their manifest differs from the one that `data.json` lists: the same ids
    with other reports or labels would silently give wrong numbers.
    """
    prepared = open_dataset(config.load(run).data_folder)
    data_file = config.ROOT / "results" / run / "data.json"
    if data_file.is_file():
        recorded = load(data_file)["values"]["dataset"]
        recorded_hash = recorded["sha256"][MANIFEST_FILE]
        if recorded_hash != prepared.info["sha256"][MANIFEST_FILE]:
            raise ValueError(
                f"{prepared.folder} is not the data that results/{run} was made from: prepare it "
                "with the code of that run (`git` in its training.json), or train anew."
            )
    return prepared


def input_hashes(run: str, split: str = "test") -> dict[str, str]:
    """Hash of each embedding file that the numbers of a run are made from, by model."""
    return {name: sha256(file)[:16] for name, file in embedding_files(run, split).items()}


def save_embeddings(
    path: str | Path, image: Any, report: Any, pair_id: Any, dtype: type = np.float32
) -> None:
    """Write `image [N, E]`, `report [N, E]` (unit rows) and `pair_id [N]` to an `.npz`.

    A relative `path` into `results/` is taken from the project, where all tables look.
    """
    buffer = io.BytesIO()
    np.savez(
        buffer,
        image=np.asarray(image, dtype),
        report=np.asarray(report, dtype),
        pair_id=np.asarray(pair_id, dtype=str),
    )
    write(config.project_path(path), buffer.getvalue())


def load_embeddings(
    path: str | Path, pair_id: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`image [N, E]` and `report [N, E]`, unit float32 rows in the order of `pair_id [N]`, by
    default in the order of the file.

    Raises ValueError if the file lacks one of its three arrays or holds other pairs, if a shape
    does not match, or if a number is not finite.
    """
    stored = _read_embeddings(path)
    stored_ids = stored["pair_id"].tolist()
    row_of = {name: row for row, name in enumerate(stored_ids)}
    if pair_id is None:
        pair_id = stored_ids
    has_duplicates = len(row_of) < len(stored_ids)
    if has_duplicates or set(row_of) != set(pair_id):
        raise ValueError(f"{path} holds other pairs than the data set: embed its pairs anew.")
    order = [row_of[name] for name in pair_id]
    matrices = []
    for name in ("image", "report"):
        matrix = stored[name].astype(np.float32)
        is_matrix = matrix.ndim == 2 and len(matrix) == len(row_of)
        if not is_matrix or not np.isfinite(matrix).all():
            raise ValueError(f"{path}: {name!r} is not a finite matrix with one row per pair.")
        rows = matrix[order]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        matrices.append(rows / norms.clip(1e-12))
    image, report = matrices
    return image, report


def _read_embeddings(path: str | Path) -> dict[str, np.ndarray]:
    """The three arrays of an embeddings file. Nothing is unpickled."""
    with np.load(config.project_path(path), allow_pickle=False) as file:
        missing = set(EMBEDDING_ARRAYS) - set(file.files)
        if missing:
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: see save_embeddings.")
        return {name: file[name] for name in EMBEDDING_ARRAYS}


def _name_length(file: Path) -> int:
    """Sorting by it, after sorting by name, puts seed 2 before seed 10."""
    return len(file.parent.name)


def _to_json(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy and PyTorch
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a number, text, list or dict.")
