"""Tables: numbers to data frames, and data frames to CSV, LaTeX and notebooks."""

import html
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from mcrlib.files import write

DIRECTION_LABELS = {"image_to_report": "image to report", "report_to_image": "report to image"}
BOUNDS = ("floor", "ceiling")  # random and ideal retrieval, which do not compete for the best value

UNDEFINED = "–"  # in place of a number
# Columns of text, which are read from the left.
NAMES = ("model", "variant", "level", "direction", "comparison", "verdict", "finding", "part")

HIGHEST = 1
LOWEST = -1
BEST_RECALL = {
    "R@1": HIGHEST,
    "R@5": HIGHEST,
    "R@10": HIGHEST,
    "median rank": LOWEST,
    "precision@10": HIGHEST,
    "mAP": HIGHEST,
}

# Characters that LaTeX would take for commands.
_LATEX_NAMES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX_ESCAPES = {character: f"\\{character}" for character in "%&_#${}"}
_LATEX = str.maketrans(_LATEX_ESCAPES | _LATEX_NAMES)


def save_table(
    stem: str | Path, frame: pd.DataFrame, caption: str, best: Mapping[str, int] | None = None
) -> Styler:
    """Write a table as `stem.csv` and `stem.tex` (booktabs); returns it styled for a notebook.

    `best` says of a column whether its HIGHEST or LOWEST value is bold, among the rows of the same
    `direction` and `K`; `floor` and `ceiling` do not compete. Text stays text in all three forms.
    """
    stem = Path(stem)
    is_best = _best_cells(frame, best or {})
    frame = frame.map(lambda cell: _harmless(cell) if isinstance(cell, str) else cell)
    frame.columns = frame.columns.map(_harmless)
    is_best.columns = frame.columns

    write(stem.with_suffix(".csv"), frame.to_csv(index=False).encode())

    latex = frame.style.hide(axis="index").format(escape="latex", precision=3, na_rep=UNDEFINED)
    latex = latex.format_index(escape="latex", axis=1)
    latex = latex.apply(lambda _: _look(is_best, "textbf:--rwrap;"), axis=None)
    latex_caption = _harmless(caption).translate(_LATEX)
    source = latex.to_latex(hrules=True, caption=latex_caption)
    write(stem.with_suffix(".tex"), source.encode())

    return _for_notebook(frame, is_best, caption, stem.name)


def _for_notebook(frame: pd.DataFrame, is_best: pd.DataFrame, caption: str, name: str) -> Styler:
    shown = Styler(frame, uuid=name, precision=3, na_rep=UNDEFINED, escape="html")
    shown = shown.hide(axis="index")
    shown = shown.format_index(escape="html", axis=1)
    shown = shown.apply(lambda _: _look(is_best, "font-weight: bold"), axis=None)
    left = [("text-align", "left")]
    styles = {"caption": [*left, ("caption-side", "top"), ("padding-bottom", "0.8em")]}
    for place, name in enumerate(frame.columns):
        if name in NAMES:
            styles[f".col{place}"] = left
    selectors = [{"selector": selector, "props": props} for selector, props in styles.items()]
    shown = shown.set_table_styles(selectors)
    return shown.set_caption(html.escape(caption))


def recall_table(evaluated: Mapping[str, Mapping], policy: str = "pair") -> pd.DataFrame:
    """One row a variant and direction, from `over_seeds`; all but the median rank are in %.

    Recall@K comes with its 95 % interval, or as mean ± deviation if there are several seeds;
    precision@10 and mAP are there if the pairs have labels.
    """
    rows = []
    for name, result in evaluated.items():
        for direction, direction_label in DIRECTION_LABELS.items():
            numbers = result[direction][policy]
            row = {"model": name, "direction": direction_label}
            for metric, number in numbers.items():
                if metric.startswith("R@"):
                    row[metric] = _with_spread(number, result["seeds"])
            median = numbers["median_rank"]["value"]
            row["median rank"] = f"{median:.3g}"
            if "labels" in result:
                by_label = result["labels"][direction]
                for metric in ("precision@10", "mAP"):
                    if metric in by_label:
                        row[metric] = f"{100 * by_label[metric]:.1f}"
            rows.append(row)
    return pd.DataFrame(rows)


def _with_spread(number: Mapping[str, float], seeds: int) -> str:
    """A share in %, with its interval or, over several seeds, one deviation."""
    value = 100 * number["value"]
    low = 100 * number["low"]
    high = 100 * number["high"]
    if seeds > 1:
        return f"{value:.1f} ± {high - value:.1f}"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def verdict_table(verdicts: list[dict]) -> pd.DataFrame:
    """One row a comparison of `retrieval.verdicts`; differences are in points of Recall@K."""
    rows = []
    for verdict in verdicts:
        comparison = " − ".join(verdict["variants"])
        if verdict["primary"]:
            comparison += " (primary)"
        row = {
            "comparison": comparison,
            "seeds": verdict["seeds"],
            "verdict": verdict.get("verdict", "no seed in common"),
        }
        if verdict["seeds"]:
            difference = _points(verdict["difference"])
            row["difference"] = (
                f"{difference} [{_points(verdict['low'])}, {_points(verdict['high'])}]"
            )
            row["p"] = f"{verdict['p']:.4f}"
            if "undecided" not in verdict:
                row["no loss"] = "yes" if verdict["no_loss"] else "not shown"
                row["detectable"] = f"{100 * verdict['detectable']:.1f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _points(share: float) -> str:
    """Points with a minus sign: a spreadsheet would take a leading hyphen for a formula."""
    return f"{100 * share:.1f}".replace("-", "−")


def text_table(records: list[dict], ks: tuple[int, ...] = (1, 5, 10)) -> pd.DataFrame:
    """One row a model, direction and K, one column a metric (mean over k up to K).

    `records` are those of `text_metrics.curves`.
    """
    frame = pd.DataFrame(records).rename(columns={"variant": "model", "k": "K"})
    frame = frame[frame["K"].isin(ks)].replace({"direction": DIRECTION_LABELS})
    row = ["model", "direction", "K"]
    table = frame.pivot(index=row, columns="metric", values="mean")
    order_of_records = frame.set_index(row).index.unique()
    return table.loc[order_of_records].round(3).reset_index()


def agreement_table(agreement: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a finding, one column a model and direction: F1 of the first hit's findings.

    `agreement` holds `findings.agreement`'s results by model and direction. The first rows are the
    micro and macro averages; `support` is the number of reports that assert the finding.
    """
    columns = {}
    support = {}
    for model, directions in agreement.items():
        variant = model.partition("-seed")[0]
        for direction, result in directions.items():
            scores = {"micro": result["micro"], "macro": result["macro"]}
            for finding, cells in result["findings"].items():
                if cells["support"]:
                    scores[finding] = cells["f1-score"]
                    support[finding] = f"{cells['support']:g}"
            name = f"{variant} {DIRECTION_LABELS[direction]}"
            columns.setdefault(name, []).append(pd.Series(scores))
    means = {name: pd.concat(seeds, axis=1).mean(axis=1) for name, seeds in columns.items()}
    table = pd.DataFrame(means)
    table.insert(0, "support", pd.Series(support).reindex(table.index, fill_value=""))
    return table.round(3).rename_axis("finding").reset_index()


def rules_table(openi: Mapping) -> pd.DataFrame:
    """One row a finding: how our rules read Open-i's reports against their annotators' terms.

    `openi` holds the values that `benchmarks/findings.py` saves. The columns after `annotated`
    count reports by annotation and by what the rules say.
    """
    score_names = ["precision", "recall", "F1", "annotated"]
    scores = pd.DataFrame(openi["findings"], index=score_names).T
    confusion = pd.DataFrame(openi["confusion"]).T.fillna(0).astype(int)
    return scores.round(3).join(confusion[sorted(confusion)])


def gap_table(gaps: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a model, one column a measure of the modality gap."""
    numbers = {name: gap["numbers"] for name, gap in gaps.items()}
    table = pd.DataFrame(numbers).T
    return table.round(3).rename_axis("model").reset_index()


def step_table(steps: list[dict]) -> pd.DataFrame:
    """One row a variant, level of recomputation and report length: memory in GB, and ratios.

    The ratios are to `dual` without recomputation at the same report length.
    """
    table = pd.DataFrame(steps)
    for name in ("activations", "peak", "peak, micro", "static"):
        table[name] = (table[name] / 1e9).round(2)
    is_baseline = (table["variant"] == "dual") & (table["level"] == "none")
    baseline = table[is_baseline].set_index("tokens")
    for name, ratio in (("activations", "activations ratio"), ("seconds", "time ratio")):
        own_baseline = table["tokens"].map(baseline[name])
        table[ratio] = (table[name] / own_baseline).round(3)
    return table.drop(columns="seconds").rename(columns={"largest_batch": "largest batch"})


def parts_table(parts: Mapping[str, float]) -> pd.DataFrame:
    """One row a saving, each on top of those above it: activations in GB, and shares."""
    saved = pd.Series(parts) / 1e9
    table = pd.DataFrame({
        "activations, GB": saved,
        "of the one above": saved / saved.shift(),
        "of the first": saved / saved.iloc[0],
    })  # fmt: skip
    return table.round(2).rename_axis("part").reset_index()


def gains_table(table: pd.DataFrame) -> pd.DataFrame:
    """What the method saves and what engineering saves, from `step_table`, at 128 tokens."""
    short = table[table["tokens"] == 128].set_index(["variant", "level"])
    ratios = short[["activations ratio", "time ratio"]]
    mcr_plain = ratios.loc["mcr", "none"]
    mcr_lean = ratios.loc["mcr", "selective"]
    dual_plain = ratios.loc["dual", "none"]
    dual_lean = ratios.loc["dual", "selective"]
    gains = {
        "method: mcr over dual, both none": mcr_plain / dual_plain,
        "method: both selective": mcr_lean / dual_lean,
        "engineering: dual selective over none": dual_lean,
        "both: mcr selective over dual none": mcr_lean,
    }
    return pd.DataFrame(gains).T.round(2)


def _best_cells(frame: pd.DataFrame, best: Mapping[str, int]) -> pd.DataFrame:
    """True where a cell holds the best value of its column among the rows it competes with."""
    is_best = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    if not best:
        return is_best
    groups = [frame[column] for column in ("direction", "K") if column in frame]
    competes = ~frame["model"].isin(BOUNDS)
    for column, sign in best.items():
        if column not in frame:
            continue
        values = frame[column].map(_leading_number) * sign
        values = values.where(competes, np.nan)
        highest = values.groupby(groups).transform("max") if groups else values.max()
        is_best[column] = values == highest
    return is_best


def _leading_number(cell: object) -> float:
    """The number that a cell such as "36.6 [32.0, 41.0]" begins with."""
    first_word = str(cell).split()[0]
    return float(first_word)


def _look(is_best: pd.DataFrame, bold: str) -> pd.DataFrame:
    """Styler's property of each cell."""
    return is_best.replace({True: bold, False: ""})


def _harmless(cell: str) -> str:
    """Text without control characters that no spreadsheet takes for a formula."""
    text = "".join(character for character in cell if character.isprintable())
    if text.startswith(("=", "+", "-", "@")):
        return f"'{text}"
    return text
