"""Tables: numbers to data frames, data frames to CSV and LaTeX."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mcrlib.files import write

DIRECTION_LABELS = {"image_to_report": "image to report", "report_to_image": "report to image"}
NAMED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX = str.maketrans({c: f"\\{c}" for c in "%&_#${}"} | NAMED)


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
        for direction, shown in DIRECTION_LABELS.items():
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
    frame = frame[frame["K"].isin(ks)].replace({"direction": DIRECTION_LABELS})
    rows = ["model", "direction", "K"]
    table = frame.pivot(index=rows, columns="metric", values="mean")
    return table.loc[frame.set_index(rows).index.unique()].round(3).reset_index()


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
