"""Numbers and embeddings on disk: where they stand, what made them, how tables show them."""

import functools
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcrlib import config
from mcrlib.data import manifest
from mcrlib.files import sha256, write

PACKAGES = ("torch", "timm", "transformers", "accelerate", "numpy", "scikit-learn", "pycocoevalcap")
DIRECTIONS = {"image_to_report": "image to report", "report_to_image": "report to image"}
NAMED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX = str.maketrans({c: f"\\{c}" for c in "%&_#${}"} | NAMED)


def save(path: str | Path, values: Any, **provenance: Any) -> None:
    """Write `values` (JSON-able) with a provenance block: what is given, and the code, packages
    and device that made them."""
    memory = {"peak_memory_gb": round(peak_memory(), 2)}
    record = {"values": values, "provenance": provenance | memory | _environment()}
    write(path, json.dumps(record, indent=1, default=_plain, allow_nan=False).encode() + b"\n")


def load(path: str | Path) -> dict[str, Any]:
    """What `save` wrote: `{"values": ..., "provenance": {...}}`. Raises FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No numbers are in {path}: run the notebook that makes them.")
    return json.loads(path.read_text())


def current(path: str | Path, inputs: dict[str, str]) -> bool:
    """Whether the numbers in `path` were made from `inputs` (name -> hash): then they stand."""
    return Path(path).is_file() and load(path)["provenance"].get("inputs") == inputs


def peak_memory() -> float:
    """Most gigabytes so far: of the GPU's allocator where there is one, else of this process."""
    import torch  # here, since drawing does without these seconds

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes, or KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def trained(run: str, split: str = "test") -> dict[str, Path]:
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


def pairs(run: str) -> manifest.Dataset:
    """The prepared pairs that the embeddings of a run belong to.

    Raises ValueError where their manifest is another than `data.json` says: the same ids with other
    reports or labels would give wrong numbers without a word.
    """
    prepared = manifest.open(config.load(run).data_folder)
    file, made = "manifest.parquet", config.ROOT / "results" / run / "data.json"
    wanted = load(made)["values"]["pairs"] if made.is_file() else prepared.info
    if wanted["sha256"][file] != prepared.info["sha256"][file]:
        raise ValueError(
            f"{prepared.folder} is not the data that results/{run} was made from: prepare it with "
            "the code of that run (`git` in its training.json), or train anew."
        )
    return prepared


def by_variant(models: Mapping[str, Any]) -> dict[str, list]:
    """What belongs to the models of a run (`trained`), a list over seeds by variant."""
    result: dict[str, list] = {}
    for name, value in models.items():
        result.setdefault(name.partition("-seed")[0], []).append(value)
    return result


def over_seeds(evaluated: Mapping[str, dict]) -> dict[str, dict]:
    """`retrieval.evaluate`'s results by variant, with the number of `seeds`. Of several: their
    means, and in place of the interval `low` and `high` one deviation (n - 1) away."""
    return {
        variant: {"seeds": len(seeds)} | (_mean(seeds) if len(seeds) > 1 else seeds[0])
        for variant, seeds in by_variant(evaluated).items()
    }


def inputs(run: str, split: str = "test") -> dict[str, str]:
    """Hash of each embedding file that the numbers of a run are made from."""
    return {name: sha256(file)[:16] for name, file in trained(run, split).items()}


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


def save_table(
    stem: str | Path, frame: pd.DataFrame, caption: str, best: Mapping[str, int] | None = None
) -> None:
    """Write a table as `stem.csv` and `stem.tex` (booktabs); its text stays text in both.

    best: column -> 1 or -1, where the highest or lowest value is bold in LaTeX, among the rows of
    the same `direction` and `K`; `floor` and `ceiling` do not compete.
    """
    bold = _best(frame, best or {})
    frame = frame.map(lambda cell: _harmless(cell) if isinstance(cell, str) else cell)
    frame.columns, bold.columns = (frame.columns.map(_harmless),) * 2
    stem = Path(stem)
    write(stem.with_suffix(".csv"), frame.to_csv(index=False).encode())
    latex = frame.style.hide(axis="index").format(escape="latex", precision=3)
    latex = latex.format_index(escape="latex", axis=1).apply(lambda _: bold, axis=None)
    caption = _harmless(caption).translate(LATEX)
    write(stem.with_suffix(".tex"), latex.to_latex(hrules=True, caption=caption).encode())


def recall_table(evaluated: dict[str, dict], policy: str = "pair") -> pd.DataFrame:
    """One row a variant and direction: Recall@K in per cent with its interval, or mean and
    deviation over seeds, the median rank, and precision@10 and mAP in per cent where there are
    labels; from `over_seeds`."""
    rows = []
    for name, result in evaluated.items():
        for direction, shown in DIRECTIONS.items():
            numbers = result[direction][policy]
            row = {"model": name, "direction": shown}
            for metric, n in numbers.items():
                if metric.startswith("R@"):
                    value, low, high = (100 * n[part] for part in ("value", "low", "high"))
                    spread = f"± {high - value:.1f}" if result["seeds"] > 1 else ""
                    row[metric] = f"{value:.1f} {spread or f'[{low:.1f}, {high:.1f}]'}"
            row["median rank"] = f"{numbers['median_rank']['value']:.3g}"
            labels = result.get("labels", {direction: {}})[direction]
            row |= {m: f"{100 * labels[m]:.1f}" for m in ("precision@10", "mAP") if m in labels}
            rows.append(row)
    return pd.DataFrame(rows)


def verdict_table(verdicts: list[dict]) -> pd.DataFrame:
    """One row a comparison of `retrieval.verdicts`, in points of Recall@K."""
    rows = []
    for v in verdicts:
        row = {"comparison": " − ".join(v["variants"]) + " (primary)" * v["primary"]}
        row |= {"seeds": v["seeds"], "verdict": v.get("verdict", "no seed in common")}
        if v["seeds"]:
            # A minus sign, not a hyphen, which a spreadsheet would take for a formula.
            points = [f"{100 * v[x]:.1f}".replace("-", "−") for x in ("difference", "low", "high")]
            row["difference"] = "{} [{}, {}]".format(*points)
            row |= {"p": f"{v['p']:.4f}", "no loss": "yes" if v["no_loss"] else "not shown"}
            row |= {"detectable": f"{100 * v['detectable']:.1f}"}
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def text_table(records: list[dict], ks: tuple[int, ...] = (1, 5, 10)) -> pd.DataFrame:
    """One row a model, direction and K, a column a metric (mean over k up to K), from
    `text_metrics.curves`' records."""
    frame = pd.DataFrame(records).rename(columns={"variant": "model", "k": "K"})
    frame = frame[frame["K"].isin(ks)].replace({"direction": DIRECTIONS})
    rows = ["model", "direction", "K"]
    table = frame.pivot(index=rows, columns="metric", values="mean")
    return table.loc[frame.set_index(rows).index.unique()].round(3).reset_index()


def top_hits(
    hits: dict[str, dict[str, tuple]], frame: pd.DataFrame, queries: Iterable[int]
) -> list[dict]:
    """What Figure 5 shows of `queries` (rows of `frame`), from `retrieval.hits`' results by model:
    a record a direction and query, with `pair_id`, `report` and the `hits` of each model."""
    about = frame[["pair_id", "report"]].to_dict("records")

    def found(query: int, rows: np.ndarray, scores: np.ndarray) -> list[dict]:
        best = enumerate(zip(rows[query].tolist(), scores[query].tolist(), strict=True), 1)
        return [{"rank": k, "score": s, "positive": i == query} | about[i] for k, (i, s) in best]

    return [
        {"direction": way, "hits": {name: found(query, *by[way]) for name, by in hits.items()}}
        | about[query]
        for way, query in product(DIRECTIONS, map(int, queries))
    ]


def compare(run: str, reference: str = "reference") -> pd.DataFrame:
    """Recall@10 of a run, mean over seeds, beside the committed reference run's, in per cent; with
    each one's pool, since a smaller pool is an easier one."""
    columns = {}
    for name in (run, reference):
        evaluated = load(config.ROOT / "results" / name / "retrieval.json")["values"]
        (pool,) = {result["pool"] for result in evaluated.values()}
        columns[f"{name}, pool of {pool:,}"] = {
            (model, shown): 100 * result[direction]["pair"]["R@10"]["value"]
            for model, result in over_seeds(evaluated).items()
            for direction, shown in DIRECTIONS.items()
        }
    table = pd.DataFrame(columns).rename_axis(["model", "direction"]).round(1)
    return table.dropna(subset=[*columns][:1]).reset_index()


def _mean(seeds: list) -> Any:
    """One number, text or nest of them in place of the same of each seed."""
    first = seeds[0]
    if not isinstance(first, dict):
        return first if {*seeds} == {first} else float(np.mean(seeds))
    if "low" not in first:
        return {name: _mean([seed[name] for seed in seeds]) for name in first}
    values = [seed["value"] for seed in seeds]
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return {"value": mean, "low": mean - deviation, "high": mean + deviation}


def _best(frame: pd.DataFrame, best: Mapping[str, int]) -> pd.DataFrame:
    """Styler's properties of each cell of `frame`: bold where it is the best of its group."""
    numbers = frame[[*best]].map(lambda cell: float(str(cell).split()[0])) * pd.Series(best)
    if best:
        numbers[frame["model"].isin(("floor", "ceiling"))] = np.nan
        groups = [frame[column] for column in ("direction", "K") if column in frame]
        numbers = numbers.eq(numbers.groupby(groups).transform("max"))
    look = numbers.replace({True: "textbf:--rwrap;", False: ""})
    return look.reindex(columns=frame.columns, fill_value="")


def _harmless(cell: str) -> str:
    """Text without control characters, that no spreadsheet takes for a formula."""
    cell = "".join(c for c in cell if c.isprintable())
    return "'" + cell if cell.startswith(("=", "+", "-", "@")) else cell


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # of numpy or torch
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a number, text, list or dict.")


@functools.cache  # as it was before the first save: a tracked number makes the tree dirty
def _environment() -> dict[str, Any]:
    import torch

    def git(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=config.ROOT, capture_output=True, text=True)
        return answer.stdout.strip() if answer.returncode == 0 else "unknown"

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "git": git("rev-parse", "HEAD"),
        "dirty": git("status", "--porcelain", "--untracked-files=no") != "",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "device": gpu or f"CPU, {platform.machine()}, {torch.get_num_threads()} threads",
    }


if __name__ == "__main__":
    try:
        print(compare(sys.argv[1]).to_string(index=False))
    except FileNotFoundError as error:
        sys.exit(str(error))
