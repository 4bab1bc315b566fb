"""Numbers and embeddings on disk, with what made them (ours)."""

import contextlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from mcrlib import config
from mcrlib.arguments import is_list
from mcrlib.data.dataset import Dataset, open_dataset
from mcrlib.data.packed import map_array
from mcrlib.evaluation.seeds import by_variant, variant_and_seed
from mcrlib.files import DATASET_FILE, HASHES_FILE, MANIFEST_FILE, sha256, write
from mcrlib.provenance import environment, peak_memory

if TYPE_CHECKING:
    from mcrlib.evaluation.nearest import Rows

EMBEDDING_ARRAYS = ("image", "report", "pair_id")  # in each embeddings file
MADE_FROM = "made_from"  # and in ours a fourth: JSON, hashes of what they were made from
PEER = "peer"  # in MADE_FROM: the name that `make peer` gave to other people's model
BASELINE_FOLDER = "tfidf-seed0"  # of the linear baseline, in results/RUN
WEIGHTS = config.TRAINED_MODEL / "model.safetensors"  # in a model's folder
SHIPPED_MODEL = "model"  # the trained model in half precision, in folders of the reference
SHORTEST_ROW = 1e-12  # a row of this length or less has no direction
LARGEST_EMBEDDINGS = 4 * 1024**3  # bytes of the arrays of one file, uncompressed

# What NumPy and zipfile raise if an archive of arrays is damaged or none.
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def save(path: str | Path, values: Any, **provenance: Any) -> None:
    """Write `values` as JSON with a provenance block: the `provenance` given here, and the code,
    packages, device and peak memory that made them.

    NumPy and PyTorch numbers and arrays become numbers and lists. Raises ValueError for numbers
    that are not finite, and TypeError for what JSON cannot hold; no file is then written.
    """
    about = dict(provenance)
    about["peak_memory_gb"] = round(peak_memory(), 2)
    about.update(environment())
    record = {"values": values, "provenance": about}
    try:
        text = json.dumps(record, indent=1, default=_to_json, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be written: {error}.") from None
    write(config.project_path(path), text.encode() + b"\n")


def load(path: str | Path) -> dict[str, Any]:
    """What `save` wrote: `{"values": ..., "provenance": {...}}`.

    Raises FileNotFoundError if there is no such file, and ValueError if it holds anything else.
    """
    path = config.project_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: run the notebook that makes it.")
    try:
        record = json.loads(path.read_bytes())
    except ValueError:  # of JSON and of UTF-8
        record = None
    if not isinstance(record, dict) or not {"values", "provenance"} <= set(record):
        raise ValueError(
            f"{path} is damaged or not a file of numbers: remove it and run the notebook that "
            "makes it."
        )
    return record


def is_current(path: str | Path, inputs: dict[str, str]) -> bool:
    """Whether `path` holds numbers that were made from these `inputs` (name -> hash or setting), so
    that they need not be computed again. A damaged file is not current."""
    try:
        provenance = load(path)["provenance"]
    except (FileNotFoundError, ValueError):
        return False
    return provenance.get("inputs") == inputs


def rehearsal_mark(stem: str | Path) -> str:
    """What marks a table or figure that is saved as `results/RUN/NAME` or `figures/RUN/NAME` if the
    run is a rehearsal, else ""."""
    run = Path(stem).parent.name
    if not config.is_rehearsal(run):
        return ""
    prepared = config.data_folder(run) / DATASET_FILE
    pairs = "a few"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        pairs = json.loads(prepared.read_bytes())["kept"]
    return f"Rehearsal on {pairs} pairs: no result"


def model_folder(folder: Path) -> Path | None:
    """Where the trained model of a model's folder lies, for `MCR.from_pretrained`: its own, or the
    one that the reference ships; None if it has neither."""
    for name in (config.TRAINED_MODEL, SHIPPED_MODEL):
        if (folder / name).is_dir():
            return folder / name
    return None


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


def trained_folders(run: str) -> dict[str, Path]:
    """Folders of the models of our variants that are trained in a run, by name, `VARIANT-seedS`, in
    the order of VARIANTS and seeds.

    Other people's methods and the linear baseline, which have embeddings only, are not among them.
    """
    order = list(config.VARIANTS)
    found = []
    for file in (config.ROOT / "results" / run).glob(f"*-seed*/{WEIGHTS}"):
        folder = file.parents[2]
        variant, seed = variant_and_seed(folder.name)
        if variant in order and seed.isdecimal():
            found.append((order.index(variant), int(seed), folder))
    return {folder.name: folder for _, _, folder in sorted(found)}


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


def input_hashes(
    run: str, split: str = "test", model_hash: Callable[[Path], str] = sha256
) -> dict[str, str]:
    """What the numbers of a run are made from: the hash of each embedding file, by model, and that
    of the prepared pairs, if it is known.

    Raises ValueError, as `refuse_stale` does, if an embedding file is out of date.
    """
    files = embedding_files(run, split)
    for file in files.values():
        refuse_stale(file, run, model_hash)
    hashes = {name: sha256(file)[:16] for name, file in files.items()}
    dataset = dataset_hash(run)
    if dataset is not None:
        hashes["dataset"] = dataset
    return hashes


def dataset_hash(run: str) -> str | None:
    """Hash of the images and reports of a run's pairs: of the prepared ones, or else of those that
    `data.json` lists.

    None if neither is there, and for the reference, whose pairs are a demo run's.
    """
    if run == config.REFERENCE:
        return None
    known = dataset_info(run).get("dataset_sha256")
    return str(known)[:16] if known else None


def dataset_info(run: str) -> dict[str, Any]:
    """What is known of a run's pairs without opening them: `dataset.json` of the prepared ones, or
    else what `data.json` lists. Empty if neither can be read."""
    prepared = config.data_folder(run) / DATASET_FILE
    listed = config.ROOT / "results" / run / "data.json"
    with contextlib.suppress(*UNREADABLE, TypeError):
        if prepared.is_file():
            return dict(json.loads(prepared.read_bytes()))
        if listed.is_file():
            return dict(load(listed)["values"]["dataset"])
    return {}


def refuse_stale(file: Path, run: str, model_hash: Callable[[Path], str] = sha256) -> None:
    """Raise ValueError if embeddings were made from other pairs than the run has now, or by another
    model than the one beside them.

    `model_hash` gives the hash of a model's file; `listed_hash` reads none of its weights. Files
    that do not say what they were made from, such as those of other people's methods, pass.
    """
    recorded = made_from(file)
    folder = file.parent
    dataset = dataset_hash(run)
    is_other_data = recorded.get("dataset", dataset) != dataset
    if dataset is not None and is_other_data:
        advice = (
            f"remove {folder} and run `make embed RUN={run}`, which trains anew if the folder held "
            "a trained model."
        )
        if folder.name == BASELINE_FOLDER:
            advice = f"run `make baseline RUN={run}`."
        elif PEER in recorded:
            advice = f"run `make peer RUN={run} NAME={recorded[PEER]} WEIGHTS=...` again."
        raise ValueError(
            f"{file} was made from other images or reports than the run {run} has now: {advice}"
        )
    model = folder / WEIGHTS
    can_compare = "model" in recorded and model.is_file()
    if can_compare and model_hash(model) != recorded["model"]:
        raise ValueError(
            f"{file} was made by another model than {model} is now: remove {file} and run "
            f"`make embed RUN={run}`."
        )


def listed_hash(model: Path) -> str:
    """The hash of a finished model's file as its training listed it; computed if it is not listed.

    Hashing the weights of a full-size model takes seconds.
    """
    hashes = {}
    with contextlib.suppress(OSError, ValueError):
        hashes = json.loads((model.parent / HASHES_FILE).read_bytes())
    listed = hashes.get(model.name) if isinstance(hashes, dict) else None
    return listed or sha256(model)


def made_from(file: str | Path) -> dict[str, str]:
    """Hashes of what an embeddings file was made from: `dataset` and `model`. Empty if the file
    does not say. Raises ValueError if the file cannot be read."""
    stored = _read_arrays(config.project_path(file), (), optional=(MADE_FROM,))
    if MADE_FROM not in stored:
        return {}
    try:
        return dict(json.loads(str(stored[MADE_FROM])))
    except (ValueError, TypeError):
        raise ValueError(f"{file}: {MADE_FROM!r} is damaged; embed its pairs anew.") from None


def save_embeddings(
    path: str | Path,
    image: Any,
    report: Any,
    pair_id: Any,
    dtype: type = np.float32,
    made_from: Mapping[str, str] | np.ndarray | None = None,
) -> None:
    """Write `image [N, E]`, `report [N, E]` (unit rows) and `pair_id [N]` to an `.npz`.

    `made_from` holds hashes by which later readers see that the file is out of date, or is that
    array of another file. A relative `path` into `results/` is taken from the project, where all
    tables look. Raises ValueError for matrices that are none and for ids that are no list.
    """
    arrays = {
        "image": _to_matrix(image, "image", dtype),
        "report": _to_matrix(report, "report", dtype),
        "pair_id": _to_ids(pair_id),
    }
    if isinstance(made_from, np.ndarray):
        arrays[MADE_FROM] = made_from
    elif made_from is not None:
        arrays[MADE_FROM] = np.array(json.dumps(dict(made_from)))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write(config.project_path(path), buffer.getvalue())


def _to_matrix(rows: Any, name: str, dtype: type) -> np.ndarray:
    try:
        matrix = np.asarray(rows)
        if matrix.ndim == 2 and matrix.dtype.kind in "biufO":
            return matrix.astype(dtype)
    except (TypeError, ValueError):  # rows of unequal length, or no numbers
        pass
    kind = type(rows).__name__
    raise ValueError(f"{name} must be a matrix [N, E] of numbers: got a {kind} that is none.")


def _to_ids(pair_id: Any) -> np.ndarray:
    """The ids as text. Raises ValueError for a text in place of a list, and for a missing or
    repeated id."""
    kind = type(pair_id).__name__
    if not is_list(pair_id):
        raise ValueError(f"pair_id must be a list with one id per pair: got a {kind}.")
    ids = pair_id.tolist() if hasattr(pair_id, "tolist") else list(pair_id)
    for row, name in enumerate(ids):
        is_nan = isinstance(name, float) and math.isnan(name)
        if name is None or is_nan:
            raise ValueError(
                f"pair_id must have an id for each pair: that of row {row} is missing."
            )
    texts = [str(name) for name in ids]
    if len(set(texts)) < len(texts):
        raise ValueError("pair_id must name each pair once, but has repeated ids.")
    return np.array(texts, dtype=str)


def load_embeddings(
    path: str | Path, pair_id: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`image [N, E]` and `report [N, E]`, unit float32 rows in the order of `pair_id [N]`, by
    default in the order of the file.

    Raises ValueError if the file is no such archive, is larger than `LARGEST_EMBEDDINGS`, lacks one
    of its three arrays or holds other pairs, if a shape does not match, if a number is not finite,
    and if a row has no direction: length zero, or one that is too large for float32.
    """
    stored = _read_arrays(config.project_path(path), EMBEDDING_ARRAYS)
    order = order_of(path, stored["pair_id"].tolist(), pair_id)
    image = _unit_rows(path, "image", stored)[order]
    report = _unit_rows(path, "report", stored)[order]
    return image, report


def order_of(path: str | Path, stored_ids: list[str], pair_id: Sequence[str] | None) -> np.ndarray:
    """The stored row of each of `pair_id`. Raises ValueError if the pairs are not the same."""
    row_of = {name: row for row, name in enumerate(stored_ids)}
    if pair_id is None:
        pair_id = stored_ids
    has_duplicates = len(row_of) < len(stored_ids)
    if has_duplicates or set(row_of) != set(pair_id):
        raise ValueError(f"{path} holds other pairs than the data set: embed its pairs anew.")
    return np.array([row_of[name] for name in pair_id], dtype=np.int64)


def map_embeddings(path: str | Path, pair_id: Sequence[str]) -> dict[str, "Rows"]:
    """`image` and `report` of an embeddings file as rows that stay on disk, in the order of
    `pair_id [N]`; for large pools, of which one query at a time is asked.

    Raises ValueError and FileNotFoundError as `load_embeddings` does. The rows of a compressed
    archive cannot stay on disk and are read into memory.
    """
    from mcrlib.evaluation import nearest  # imported lazily: slow, and not needed for redrawing

    file = config.project_path(path)
    stored = _read_arrays(file, ("pair_id",))
    order = order_of(path, stored["pair_id"].tolist(), pair_id)
    mapped = {}
    for name in ("image", "report"):
        try:
            matrix = map_array(file, name)
        except ValueError:
            matrix = _read_arrays(file, (name,))[name]
        try:
            mapped[name] = nearest.rows_of(matrix, order, SHORTEST_ROW)
        except ValueError as error:
            raise ValueError(f"{path}: {name!r}: {error}; embed its pairs anew.") from None
    return mapped


def _unit_rows(path: str | Path, name: str, stored: dict[str, np.ndarray]) -> np.ndarray:
    with np.errstate(over="ignore"):  # too large a number becomes infinite, and is refused
        matrix = stored[name].astype(np.float32)
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not np.isfinite(matrix).all():
        raise ValueError(f"{path}: {name!r} is not a finite matrix with one row per pair.")
    has_direction = np.isfinite(norms) & (norms > SHORTEST_ROW)
    bad_rows = np.flatnonzero(~has_direction)
    if len(bad_rows):
        first = bad_rows[0]
        pair = stored["pair_id"][first]
        length = norms[first, 0]
        raise ValueError(
            f"{path}: {name!r} has {len(bad_rows)} rows without a direction, the first that of the "
            f"pair {str(pair)!r}, of length {length:g}: embed its pairs anew."
        )
    return matrix / norms


def _read_arrays(
    path: Path, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Arrays of an embeddings file: those of `names`, and of `optional` those that it has.

    Types and shapes are checked before any array is read, so that a small file cannot fill the
    memory. Nothing is unpickled. Raises ValueError with a sentence.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: embed its pairs first.")
    try:
        declared = _declared(path)
    except UNREADABLE as error:
        raise ValueError(
            f"{path} is damaged or not an archive of arrays ({error}): see save_embeddings."
        ) from error
    missing = set(EMBEDDING_ARRAYS) - set(declared)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: see save_embeddings.")
    _check_declared(path, declared)
    wanted = [name for name in (*names, *optional) if name in declared]
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in wanted}
    except UNREADABLE as error:
        raise ValueError(f"{path} is damaged ({error}): embed its pairs anew.") from error


class _Declared(NamedTuple):
    """What the header of an array says."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes that the array takes in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def _declared(path: Path) -> dict[str, _Declared]:
    """Shape and type of each array of an archive, without reading the arrays."""
    declared = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                name = member.removesuffix(".npy")
                declared[name] = _read_header(file)
    return declared


def _read_header(file: IO[bytes]) -> _Declared:
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0
    if version != (1, 0):
        read_header = npy.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if min(shape, default=0) < 0:
        raise ValueError(f"a side of {min(shape)}")
    return _Declared(shape, dtype)


def _check_declared(path: Path, declared: dict[str, _Declared]) -> None:
    """Raise ValueError unless the arrays are a file of embeddings of a size that can be read."""
    total = 0
    for name in (*EMBEDDING_ARRAYS, MADE_FROM):
        if name in declared:
            total += declared[name].size
    if total > LARGEST_EMBEDDINGS:
        size = total / 1024**3
        limit = LARGEST_EMBEDDINGS / 1024**3
        raise ValueError(
            f"{path} declares arrays of {size:.1f} GB, and at most {limit:.0f} GB are read: save "
            "one split's embeddings only."
        )
    pairs = declared["pair_id"]
    if len(pairs.shape) != 1 or pairs.dtype.kind != "U":
        raise ValueError(f"{path}: 'pair_id' is not a list of texts, one per pair.")
    widths = []
    for name in ("image", "report"):
        shape, dtype = declared[name]
        is_matrix = len(shape) == 2 and shape[:1] == pairs.shape
        if not is_matrix or dtype.kind not in "fiu":
            raise ValueError(f"{path}: {name!r} is not a finite matrix with one row per pair.")
        widths.append(shape[1])
    image_width, report_width = widths
    if image_width != report_width:
        raise ValueError(
            f"{path}: 'image' has {image_width} columns but 'report' has {report_width}: both must "
            "lie in one space."
        )


def _name_length(file: Path) -> int:
    """Sorting by it, after sorting by name, puts seed 2 before seed 10."""
    return len(file.parent.name)


def _to_json(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy and PyTorch
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a number, text, list or dict.")
