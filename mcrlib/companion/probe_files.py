"""What models say to the probes of a run's test pairs, on disk beside their embeddings (ours).

`results/RUN/VARIANT-seedS/probes-test.npz` holds `evaluation.probes.Scores` in float32: `margins
[K, N]` for the `kinds [K]` of minimal pairs, `prompts [F, N]` for the `findings [F]`, and `pair_id
[N]`. It is written before the embeddings beside it, so that embeddings of these versions always
have their probes.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray as Array

from mcrlib import results
from mcrlib.files import write

if TYPE_CHECKING:
    from mcrlib.evaluation.probes import Scores  # imports torch, which redrawing does not need

FILE = "probes-test.npz"
NAMES = ("pair_id", "kinds", "findings")  # lists of texts
# The names of each matrix's rows; its columns are the pairs.
MATRICES = {"margins": "kinds", "prompts": "findings"}


def save(folder: str | Path, scores: "Scores", made_from: Mapping[str, str]) -> None:
    """Write a model's scores and the hashes of what they were made from, as its embeddings have
    them, to its folder."""
    arrays = {
        "pair_id": _names(scores.pair_id),
        "kinds": _names(scores.margins),
        "margins": _matrix(scores.margins, scores),
        "findings": _names(scores.prompts),
        "prompts": _matrix(scores.prompts, scores),
        results.MADE_FROM: np.array(json.dumps(dict(made_from))),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write(Path(folder) / FILE, buffer.getvalue())


def load(file: Path, pair_id: Sequence[str]) -> "Scores":
    """The scores in the order of `pair_id`.

    Raises ValueError if the file is damaged or holds other pairs.
    """
    from mcrlib.evaluation.probes import Scores

    stored = _read(file)
    order = results.order_of(file, stored["pair_id"].tolist(), pair_id)
    by_name = {}
    for matrix, names in MATRICES.items():
        rows = stored[matrix][:, order]
        by_name[matrix] = dict(zip(stored[names].tolist(), rows, strict=True))
    return Scores(list(pair_id), **by_name)


def files_of(run: str) -> dict[str, Path]:
    """Files of the models of a run that were asked, by model as in `results.embedding_files`.

    Raises ValueError for a file of another model or of other pairs than the embeddings beside it,
    and FileNotFoundError if the run has no embeddings.
    """
    files = {}
    for name, embeddings in results.embedding_files(run).items():
        file = embeddings.with_name(FILE)
        if not file.is_file():
            continue
        recorded = json.loads(str(_read(file)[results.MADE_FROM]))
        if recorded != results.made_from(embeddings):
            raise ValueError(
                f"{file} was made by another model or from other pairs than {embeddings.name} "
                f"beside it: remove both and run `make embed RUN={run}`."
            )
        files[name] = file
    return files


def _names(names: Iterable[str]) -> Array:
    return np.array(list(names), dtype=str)


def _matrix(by_name: Mapping[str, Array], scores: "Scores") -> Array:
    rows = [by_name[name] for name in by_name]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(scores.pair_id))


def _read(file: Path) -> dict[str, Array]:
    """The arrays of a file. Raises ValueError if they are not those that `save` writes."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in (*NAMES, *MATRICES, results.MADE_FROM)}
    except results.UNREADABLE as error:
        raise ValueError(f"{file} is damaged ({error}): embed its pairs anew.") from error
    for matrix, names in MATRICES.items():
        if stored[matrix].shape != (len(stored[names]), len(stored["pair_id"])):
            raise ValueError(f"{file} is damaged ({matrix}): embed its pairs anew.")
    return stored
