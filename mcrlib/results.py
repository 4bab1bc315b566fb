"""Numbers and embeddings on disk: where they stand, what made them, how tables show them."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mcrlib import config
from mcrlib.data.dataset import Dataset, open_dataset
from mcrlib.evaluation.seeds import by_variant
from mcrlib.files import sha256, write
from mcrlib.provenance import environment, peak_memory


def save(path: str | Path, values: Any, **provenance: Any) -> None:
    """Write `values` (JSON-able) with a provenance block: what is given, and the code, packages
    and device that made them."""
    memory = {"peak_memory_gb": round(peak_memory(), 2)}
    record = {"values": values, "provenance": provenance | memory | environment()}
    write(path, json.dumps(record, indent=1, default=_plain, allow_nan=False).encode() + b"\n")


def load(path: str | Path) -> dict[str, Any]:
    """What `save` wrote: `{"values": ..., "provenance": {...}}`. Raises FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No numbers are in {path}: run the notebook that makes them.")
    return json.loads(path.read_text())


def is_current(path: str | Path, inputs: dict[str, str]) -> bool:
    """Whether the numbers in `path` were made from `inputs` (name -> hash): then they stand."""
    return Path(path).is_file() and load(path)["provenance"].get("inputs") == inputs


def embedding_files(run: str, split: str = "test") -> dict[str, Path]:
    """Embedding files of a run by model, also those of other people's methods: every
    `results/RUN/VARIANT-seedS/embeddings-SPLIT.npz`.

    A model is called by its variant, and by `VARIANT-seedS` where there are several seeds. Ours
    come first, in the order of VARIANTS. Raises FileNotFoundError where there is none.
    """
    files = sorted((config.ROOT / "results" / run).glob(f"*/embeddings-{split}.npz"))
    if not files:
        raise FileNotFoundError(
            f"There are no embeddings in results/{run}: run `make embed RUN={run}` first."
        )
    seeds = by_variant({file.parent.name: file for file in files})
    order = [*config.VARIANTS, *seeds]
    return {
        file.parent.name if len(seeds[variant]) > 1 else variant: file
        for variant in sorted(seeds, key=order.index)
        for file in sorted(seeds[variant], key=lambda file: len(file.parent.name))  # 2 before 10
    }


def dataset_of_run(run: str) -> Dataset:
    """The prepared pairs that the embeddings of a run belong to.

    Raises ValueError where their manifest is another than `data.json` says: the same ids with other
    reports or labels would give wrong numbers without a word.
    """
    prepared = open_dataset(config.load(run).data_folder)
    file, made = "manifest.parquet", config.ROOT / "results" / run / "data.json"
    wanted = load(made)["values"]["pairs"] if made.is_file() else prepared.info
    if wanted["sha256"][file] != prepared.info["sha256"][file]:
        raise ValueError(
            f"{prepared.folder} is not the data that results/{run} was made from: prepare it with "
            "the code of that run (`git` in its training.json), or train anew."
        )
    return prepared


def input_hashes(run: str, split: str = "test") -> dict[str, str]:
    """Hash of each embedding file that the numbers of a run are made from."""
    return {name: sha256(file)[:16] for name, file in embedding_files(run, split).items()}


def save_embeddings(
    path: str | Path, image: Any, report: Any, pair_id: Any, dtype: type = np.float32
) -> None:
    """Write `image [N, E]`, `report [N, E]` (unit rows) and `pair_id [N]` to an `.npz`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name("partial.npz")
    rows = {"image": np.asarray(image, dtype), "report": np.asarray(report, dtype)}
    np.savez(partial, **rows, pair_id=np.asarray(pair_id, dtype=str))
    partial.replace(path)


def load_embeddings(path: str | Path, pair_id: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """`image [N, E]` and `report [N, E]`, unit float32 rows in the order of `pair_id [N]`, or as
    stored.

    Raises ValueError where the file holds other pairs, shapes that do not fit, or no numbers, or
    lacks one of the three.
    """
    with np.load(path, allow_pickle=False) as file:
        names = ("image", "report", "pair_id")
        if missing := set(names) - set(file.files):
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: see save_embeddings.")
        stored = {name: file[name] for name in names}
    place = {name: row for row, name in enumerate(stored["pair_id"].tolist())}
    pair_id = list(place) if pair_id is None else pair_id
    if len(place) != len(stored["pair_id"]) or set(place) != set(pair_id):
        raise ValueError(f"{path} holds other pairs than the data set: embed its pairs anew.")
    order = [place[name] for name in pair_id]
    rows = []
    for name in ("image", "report"):
        matrix = stored[name].astype(np.float32)
        if matrix.ndim != 2 or len(matrix) != len(place) or not np.isfinite(matrix).all():
            raise ValueError(f"{path}: {name!r} is not a finite matrix with a row a pair.")
        norms = np.linalg.norm(matrix[order], axis=1, keepdims=True)
        rows.append(matrix[order] / norms.clip(1e-12))
    return rows[0], rows[1]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # of numpy or torch
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a number, text, list or dict.")
