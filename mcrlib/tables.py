"""Tables: numbers to data frames, and data frames to CSV, LaTeX and notebooks."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from mcrlib import latex
from mcrlib.evaluation.chance import tells
from mcrlib.evaluation.seeds import variant_and_seed
from mcrlib.files import write
from mcrlib.results import rehearsal_mark
from mcrlib.training.budget import operations

DIRECTION_LABELS = {"image_to_report": "image to report", "report_to_image": "report to image"}
# Random and ideal retrieval, which do not compete for the best value.
BOUNDS = ("floor", "ceiling", "chance", "oracle")

UNDEFINED = "–"  # in place of a number
TOLD = ("better", "worse")  # verdicts on two models that differ
# Columns of text, which are read from the left.
NAMES = (
    "item", "endpoint", "model", "variant", "level", "direction", "comparison", "verdict",
    "finding", "part", "group", "setting", "change", "corruption", "condition", "groups", "worst",
    "best",
)  # fmt: skip

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

# Columns of the tables of `evaluation.relevance`, by the name of the measure.
RELEVANCE = {
    "RSUM": "RSUM",
    "RSUM_with_finding": "RSUM with finding",
    "nDCG@10": "nDCG@10",
    "nDCG@10_without_partner": "nDCG@10 without partner",
}
FIRST_HIT = {
    "omitted": "finding omitted",
    "added": "finding added",
    "wrong_side": "wrong side",
    "wrong_zone": "wrong zone",
    "wrong_severity": "wrong severity",
}
ANSWERING = {
    "risk": "risk",
    "AURC": "AURC",
    "match_AUROC_by_margin": "AUROC by margin",
    "match_AUROC_by_score": "AUROC by score",
}
# What is changed in a minimal pair, by the direction and the name of the measure.
PROBES = {
    "image_to_report": {
        "negation": "negation",
        "side": "side",
        "zone": "zone",
        "severity": "severity",
        "omission": "omission",
        "insertion": "insertion",
        "omission_and_insertion": "omission and insertion",
    },
    "report_to_image": {
        "picture_less": "one finding less",
        "picture_more": "one finding more",
        "picture_less_and_more": "one less and one more",
    },
}
ZERO_SHOT = "zero_shot_AUROC"  # of the direction report_to_image
# Methods and measures of `evaluation.grounding`.
METHODS = {"exact": "exact contributions", "occlusion": "occlusion"}
GROUNDING = {
    "pointing": "pointing game",
    "auroc": "pixel AUROC",
    "control": "absent finding",
    "words": "words",
}
ERASURE = {
    "erased": "place",
    "elsewhere": "elsewhere",
    "difference": "difference",
    "not_drawn": "not drawn",
}
# Measure of an ablation -> the name that its columns begin with.
ABLATION_MEASURES = {"RSUM": "RSUM", "nDCG@10_without_partner": "nDCG@10"}
ENDPOINT_LABELS = {measure: RELEVANCE[measure] for measure in ("RSUM", "nDCG@10_without_partner")}
# Endpoint of a claim -> factor and decimals of what the table prints.
CLAIM_SCALES = {
    "RSUM": (100, 1), "nDCG@10_without_partner": (100, 1), "distance_of_means": (1, 3),
    "RSUM by doubling": (100, 1),
    "RSUM_half_hidden": (100, 1), "RSUM_change_half_hidden": (100, 1),
}  # fmt: skip
# Measure under corrupted input -> its column; LaTeX prints the first two.
ROBUSTNESS = {"RSUM": "RSUM", "RSUM_kept": "kept", "nDCG@10_without_partner": "nDCG@10"}
# Endpoint of a comparison under corrupted input -> the column of its difference to mcr.
ROBUSTNESS_DIFFERENCES = {
    "RSUM": "RSUM, mcr minus it",
    "RSUM_change": "RSUM change, mcr minus it",
    "nDCG@10_without_partner": "nDCG@10, mcr minus it",
}
BEST_RELEVANCE = dict.fromkeys(RELEVANCE.values(), HIGHEST)
BEST_FIRST_HIT = dict.fromkeys(FIRST_HIT.values(), LOWEST)
BEST_GROUNDING = {"pointing game": HIGHEST, "pixel AUROC": HIGHEST, "words": HIGHEST}
BEST_ERASURE = {"difference": HIGHEST}
BEST_ANSWERING = {
    "risk": LOWEST, "AURC": LOWEST, "AUROC by margin": HIGHEST, "AUROC by score": HIGHEST,
}  # fmt: skip

# Headers of a group of columns and of the column, by the name that the numbers have.
GAP_HEADERS = {
    "distance_of_means": ("", "distance of means"),
    "uniformity_image": ("uniformity", "images"),
    "uniformity_report": ("uniformity", "reports"),
    "cosine_of_pairs": ("mean cosine", "pairs"),
    "cosine_of_non_pairs": ("mean cosine", "non-pairs"),
}
RELEVANCE_HEADERS = {
    "RSUM": ("RSUM", "all pairs"),
    "RSUM with finding": ("RSUM", "with a finding"),
    "nDCG@10": ("nDCG@10", "with partner"),
    "nDCG@10 without partner": ("nDCG@10", "without it"),
}
# What is said of a difference between two models, by the name of its column.
DIFFERENCE_HEADERS = {"difference": "difference to mcr", "detectable": "detectable"}
STEP_HEADERS = {
    "activations": ("memory, GB", "activations"),
    "peak": ("memory, GB", "peak"),
    "peak, micro": ("memory, GB", "peak of micro-batches"),
    "activations ratio": ("ratio to dual", "activations"),
    "time ratio": ("ratio to dual", "time"),
    "largest batch": ("", "largest batch"),
}


class Ablation(NamedTuple):
    """One row of the table of ablations."""

    group: str  # the part of the method that is changed
    setting: str  # what it is changed to
    variant: str  # of config.VARIANTS; `mcr` if this is the method's own setting


# From a data frame, and whether each of its cells is the best, to the table that LaTeX prints.
Layout = Callable[[pd.DataFrame, pd.DataFrame], latex.Table]


def save_table(
    stem: str | Path,
    frame: pd.DataFrame,
    caption: str,
    best: Mapping[str, int] | None = None,
    layout: Layout | None = None,
) -> Styler:
    """Write a table as `stem.csv` and `stem.tex` (booktabs); returns it styled for a notebook.

    `best` says of a column whether its HIGHEST or LOWEST value is bold, among the rows of the same
    `direction`, `K` and `method`; the BOUNDS do not compete. Text stays text in all three forms.
    `layout` arranges the LaTeX table, by default as the frame is.
    """
    stem = Path(stem)
    is_best = _best_cells(frame, best or {})
    harmless = frame.map(lambda cell: _harmless(cell) if isinstance(cell, str) else cell)
    harmless.columns = frame.columns.map(_harmless)
    is_best.columns = harmless.columns
    mark = rehearsal_mark(stem)
    in_file = harmless.assign(rehearsal=mark) if mark else harmless
    write(stem.with_suffix(".csv"), in_file.to_csv(index=False).encode())
    save_latex(stem, frame, caption, best, layout)
    return _for_notebook(harmless, is_best, _marked(caption, mark), stem.name)


def save_latex(
    stem: str | Path,
    frame: pd.DataFrame,
    caption: str,
    best: Mapping[str, int] | None = None,
    layout: Layout | None = None,
) -> None:
    """Write only `stem.tex`, which fits a column or a page; arguments as in `save_table`.

    The first sentence of the caption is LaTeX's, the others are a note under the table. The label
    is `tab:` and the stem's name.
    """
    stem = Path(stem)
    is_best = _best_cells(frame, best or {})
    layout = layout or plain_layout
    note = _marked(caption, rehearsal_mark(stem))
    source = latex.render(layout(frame, is_best), note, stem.name)
    write(stem.with_suffix(".tex"), source.encode())


def _marked(caption: str, mark: str) -> str:
    """A caption that ends with what marks a rehearsal, if anything does."""
    return f"{caption} {mark}." if mark else caption


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


def best_recall(pool: int) -> dict[str, int]:
    """The columns of `recall_table` whose best value is bold, HIGHEST or LOWEST, in a pool of this
    size: without those of a K at which guessing finds half of the partners or more."""
    best = {}
    for name, sign in BEST_RECALL.items():
        _, at, k = name.partition("@")
        if not at or tells(int(k), pool):
            best[name] = sign
    return best


def _with_spread(number: Mapping[str, float | None], seeds: int) -> str:
    """A share in %, with its interval or, over several seeds, one deviation; or a dash."""
    if number["value"] is None:
        return UNDEFINED
    value = 100 * number["value"]
    low = 100 * number["low"]
    high = 100 * number["high"]
    if seeds > 1:
        return f"{value:.1f} ± {high - value:.1f}"
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def relevance_table(measured: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a variant, from `over_seeds` of `relevance.evaluate`'s results: RSUM and nDCG of both
    directions, all in % (RSUM is at most 600), with intervals or deviations."""
    rows = []
    for name, result in measured.items():
        rows.append({"model": name, **_spreads(result, "both", RELEVANCE)})
    return pd.DataFrame(rows)


def one_way_table(measured: Mapping[str, Mapping], columns: Mapping[str, str]) -> pd.DataFrame:
    """One row a variant and direction, in %: the measures of FIRST_HIT or of ANSWERING, without the
    variants that have none of them."""
    rows = []
    for name, result in measured.items():
        for direction, direction_label in DIRECTION_LABELS.items():
            spreads = _spreads(result, direction, columns)
            if spreads:
                rows.append({"model": name, "direction": direction_label, **spreads})
    return pd.DataFrame(rows).fillna(UNDEFINED)


def _spreads(result: Mapping, direction: str, columns: Mapping[str, str]) -> dict[str, str]:
    """The measures that a result has, by the name of their column."""
    blocks = result.get(direction, {})
    seeds = result.get("seeds", 1)
    spreads = {}
    for measure, column in columns.items():
        if measure in blocks:
            spreads[column] = _with_spread(blocks[measure], seeds)
    return spreads


def probe_table(measured: Mapping[str, Mapping], pool: int) -> pd.DataFrame:
    """One row a direction and change of a minimal pair, one column a model: accuracy in %, from
    `over_seeds` of `probes.evaluate`'s results. `pairs` of the `pool` have such a minimal pair.

    Empty if no pair has any.
    """
    rows = []
    for direction, labels in PROBES.items():
        for measure, label in labels.items():
            blocks = _blocks_of(measured, direction, measure)
            if blocks:
                first_block = next(iter(blocks.values()))
                row = {"direction": DIRECTION_LABELS[direction], "change": label}
                row["pairs"] = str(pool - first_block["left_out"])
                rows.append(row | _cells_by_model(blocks, measured))
    return pd.DataFrame(rows).fillna(UNDEFINED)


def zero_shot_table(measured: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a finding, the most frequent first, after the mean over all; one column a model: the
    AUROC of its prompts in %. `positives` are the pairs that have the finding.

    Empty if no finding is in some pairs and not in others.
    """
    blocks = _blocks_of(measured, "report_to_image", ZERO_SHOT)
    if not blocks:
        return pd.DataFrame()
    rows = [{"finding": "mean", "positives": "", **_cells_by_model(blocks, measured)}]
    first_block = next(iter(blocks.values()))
    positives = {name: block["positives"] for name, block in first_block["by_finding"].items()}
    for finding in sorted(positives, key=lambda name: (-positives[name], name)):
        of_finding = {}
        for name, block in blocks.items():
            of_finding[name] = block["by_finding"][finding]
        row = {"finding": finding, "positives": f"{positives[finding]:g}"}
        rows.append(row | _cells_by_model(of_finding, measured))
    return pd.DataFrame(rows)


def _blocks_of(
    measured: Mapping[str, Mapping], direction: str, measure: str
) -> dict[str, Mapping[str, Any]]:
    """The block of a measure by variant, of those that have it."""
    blocks = {}
    for name, result in measured.items():
        if measure in result.get(direction, {}):
            blocks[name] = result[direction][measure]
    return blocks


def _cells_by_model(
    blocks: Mapping[str, Mapping], measured: Mapping[str, Mapping]
) -> dict[str, str]:
    return {name: _with_spread(block, measured[name]["seeds"]) for name, block in blocks.items()}


def finding_errors(measured: Mapping[str, Mapping], pool: int) -> pd.DataFrame:
    """What the first hit gets wrong, in %: one row a finding, one column an error and variant.

    `pool` is the number of pairs. The most frequent finding comes first, and its row's name says
    how many queries have it. Values are means over the two directions; NaN if there was nothing to
    get wrong. Variants without such errors, such as chance, are left out.
    """
    columns = {}
    queries = {}
    for name, result in measured.items():
        one_way = [result.get(direction, {}) for direction in DIRECTION_LABELS]
        for error, label in FIRST_HIT.items():
            if all(error in measures for measures in one_way):
                by_finding = [measures[error]["by_finding"] for measures in one_way]
                columns[label, name] = _mean_percent(by_finding)
        if "omitted" in one_way[0]:
            for finding, block in one_way[0]["omitted"]["by_finding"].items():
                queries[finding] = pool - block["left_out"]
    table = pd.DataFrame(columns)
    table.columns = pd.MultiIndex.from_tuples(columns, names=["error", "model"])
    rarest_last = sorted(queries, key=lambda finding: (-queries[finding], finding))
    table = table.reindex(rarest_last)
    return table.rename(index={finding: f"{finding} ({queries[finding]})" for finding in queries})


def _mean_percent(by_finding: list[Mapping[str, Mapping]]) -> pd.Series:
    """Mean over directions of the values of one error, in %, by finding."""
    shares = []
    for blocks in by_finding:
        values = {finding: block["value"] for finding, block in blocks.items()}
        shares.append(pd.Series(values, dtype=float))
    return 100 * pd.concat(shares, axis=1).mean(axis=1)


def grounding_table(measured: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a method and variant, in %, from `over_seeds` of `grounding.measure`'s results."""
    rows = []
    for method, label in METHODS.items():
        for name, result in measured.items():
            spreads = _spreads(result, method, GROUNDING)
            if spreads:
                rows.append({"method": label, "model": name, **spreads})
    return pd.DataFrame(rows).fillna(UNDEFINED)


def erasure_table(measured: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a variant: by how many hundredths the cosine falls, from the same results."""
    rows = []
    for name, result in measured.items():
        spreads = _spreads(result, "erasure", ERASURE)
        if spreads:
            rows.append({"model": name, **spreads})
    return pd.DataFrame(rows).fillna(UNDEFINED)


def pointing_by_finding(measured: Mapping[str, Mapping]) -> pd.DataFrame:
    """The pointing game in %: one row a finding, one column a method and variant.

    The most frequent finding comes first, and its row's name says how many cases it has.
    """
    columns = {}
    cases = {}
    for method, label in METHODS.items():
        for name, result in measured.items():
            block = result.get(method, {}).get("pointing")
            if block is not None:
                own = block["by_finding"]
                shares = {finding: 100 * part["value"] for finding, part in own.items()}
                columns[label, name] = pd.Series(shares, dtype=float)
                cases |= {finding: part["cases"] for finding, part in own.items()}
    table = pd.DataFrame(columns)
    table.columns = pd.MultiIndex.from_tuples(columns, names=["method", "model"])
    rarest_last = sorted(cases, key=lambda finding: (-cases[finding], finding))
    table = table.reindex(rarest_last)
    return table.rename(index={finding: f"{finding} ({cases[finding]})" for finding in cases})


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
        if "difference" in verdict:
            row["difference"] = _difference(verdict)
            row["p"] = f"{verdict['p']:.4f}"
            if "undecided" not in verdict:
                row["no loss"] = "yes" if verdict["no_loss"] else "not shown"
                row["detectable"] = f"{100 * verdict['detectable']:.1f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def ablation_table(listed: Sequence[Ablation], compared: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row an ablation whose model is there: RSUM and nDCG@10 without partner, their differences
    to `mcr` with intervals, the detectable differences, all in %, and verdicts.

    `compared` has the record of each variant, as `companion.ablations.compare` gives it.
    """
    rows = []
    for ablation in listed:
        if ablation.variant not in compared:
            continue
        record = compared[ablation.variant]
        epochs = record["epochs"]
        row = {"group": ablation.group, "setting": ablation.setting, "model": ablation.variant}
        row["seeds"] = record["seeds"]
        row["epochs"] = UNDEFINED if epochs is None else f"{epochs:.3g}"
        for measure, name in ABLATION_MEASURES.items():
            row |= _difference_cells(name, record[measure])
        rows.append(row)
    return pd.DataFrame(rows)


def compute_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a variant and compute of `companion.scaling.measure`: its training, and RSUM in %
    with its interval."""
    rows = []
    for point in points:
        rows.append({
            "times the compute": f"{point['times']:g}",
            "model": point["variant"],
            "seeds": str(len(point["seeds"])),
            "operations": operations(point["flops"]),
            "epochs": f"{point['epochs']:.3g}",
            "minutes": f"{point['seconds'] / 60:.1f}",
            "memory (GB)": f"{point['memory_gb']:.2f}",
            "RSUM": _with_spread(point, seeds=1),
        })  # fmt: skip
    return pd.DataFrame(rows)


def growth_table(points: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a variant and number of pairs of `companion.growth.measure`: how long it was trained,
    RSUM and nDCG@10 without partner in %, with their intervals."""
    rows = []
    for point in points:
        epochs = point.get("epochs")
        row = {
            "pairs": f"{point['pairs']:,}",
            "model": point["variant"],
            "seeds": str(len(point["seeds"])),
            "epochs": UNDEFINED if epochs is None else f"{epochs:.3g}",
        }
        for measure, name in ABLATION_MEASURES.items():
            block = point[measure]
            row[name] = UNDEFINED if block is None else _with_spread(block, seeds=1)
        rows.append(row)
    return pd.DataFrame(rows)


def _difference_cells(name: str, block: Mapping[str, Any] | None) -> dict[str, str]:
    """A measure's value and, of a comparison, the difference and what could be told; else dashes.

    `mcr` itself, to which all others are compared, has a value only.
    """
    columns = (name, f"{name} difference", f"{name} detectable", f"{name} verdict")
    cells = dict.fromkeys(columns, UNDEFINED)
    if block is not None:
        cells[name] = _points(block["value"])
    if block is not None and "difference" in block:
        cells[f"{name} difference"] = _difference(block)
        cells[f"{name} verdict"] = block["verdict"]
        if block["detectable"] is not None:
            cells[f"{name} detectable"] = _points(block["detectable"])
    return cells


def _difference(block: Mapping[str, float]) -> str:
    """A difference with its interval, in points."""
    low = _points(block["low"])
    high = _points(block["high"])
    return f"{_points(block['difference'])} [{low}, {high}]"


def comparison_table(records: list[dict]) -> pd.DataFrame:
    """One row an endpoint and comparison of `endpoints.verdicts`; all differences are in points, of
    RSUM at most 600, of nDCG at most 100."""
    rows = []
    for record in records:
        (row,) = verdict_table([record]).to_dict("records")
        rows.append({"endpoint": ENDPOINT_LABELS[record["endpoint"]], **row})
    return pd.DataFrame(rows).fillna("")


def claims_table(records: list[dict]) -> pd.DataFrame:
    """One row a claim or question of `companion.claims`: its verdict, the difference or ratio that
    decided with its interval, what could have been detected, and the sentence."""
    rows = []
    for record in records:
        numbers = record["numbers"]
        row = {"item": record["id"], "verdict": record["verdict"], "result": "", "detectable": ""}
        factor, decimals = CLAIM_SCALES.get(record["endpoint"], (1, 2))
        if "ratio" in numbers:
            row["result"] = f"{numbers['ratio']:.2f} ({numbers['claimed']:g} claimed)"
        elif "difference" in numbers:
            keys = ("difference", "low", "high")
            texts = [_scaled(numbers[key], factor, decimals) for key in keys]
            row["result"] = f"{texts[0]} [{texts[1]}, {texts[2]}]"
            if numbers.get("detectable") is not None:
                row["detectable"] = _scaled(numbers["detectable"], factor, decimals)
        rows.append({**row, "seeds": str(numbers.get("seeds", "")), "sentence": record["sentence"]})
    return pd.DataFrame(rows)


def robustness_table(
    conditions: Sequence[Mapping],
    measured: Mapping[str, Mapping],
    differences: Mapping[tuple[str, str, str], Mapping],
) -> pd.DataFrame:
    """One row a condition and variant, in % and points: RSUM (at most 600), the share of it that is
    kept, nDCG@10 without the partner, and how much more `mcr` has; a star marks what is told from
    zero.

    `conditions` are those of `companion.robustness`, `measured` is `over_seeds` of its models, and
    `differences` has its records by condition, endpoint and variant.
    """
    rows = []
    for condition in conditions:
        for model, result in measured.items():
            row = {"corruption": condition["corruption"], "strength": condition["label"]}
            row["model"] = model
            blocks = result[condition["name"]]
            for measure, column in ROBUSTNESS.items():
                row[column] = _with_spread(blocks[measure], result["seeds"])
            for endpoint, column in ROBUSTNESS_DIFFERENCES.items():
                record = differences.get((condition["name"], endpoint, model), {})
                row[column] = _told_difference(record)
            rows.append(row)
    return pd.DataFrame(rows)


def _told_difference(record: Mapping[str, Any]) -> str:
    """A difference with its interval, and a star if it is told from zero; a dash without one."""
    if "difference" not in record:
        return UNDEFINED
    star = "*" if record["verdict"] in TOLD else ""
    return f"{_difference(record)}{star}"


def group_table(groups: Sequence[Mapping], measured: Mapping[str, Mapping]) -> pd.DataFrame:
    """The worst and the best subgroup by RSUM, one row a kind of group, condition and variant.

    `groups` are those of `companion.robustness`; `measured` is `over_seeds` of RSUM by condition
    and group. Groups that decide nothing are left out; so are kinds with fewer than two others.
    """
    first_result = next(iter(measured.values()))
    conditions = [name for name in first_result if name != "seeds"]
    rows = []
    for dimension in dict.fromkeys(group["dimension"] for group in groups):
        listed = [group for group in groups if group["dimension"] == dimension and group["decides"]]
        if len(listed) < 2:
            continue
        for condition in conditions:
            for model, result in measured.items():
                row = {"groups": dimension, "condition": condition, "model": model}
                row |= _worst_and_best(listed, result[condition], result["seeds"])
                rows.append(row)
    columns = ["groups", "condition", "model", "worst", "worst RSUM", "best", "best RSUM"]
    return pd.DataFrame(rows, columns=columns)


def _worst_and_best(
    groups: Sequence[Mapping], blocks: Mapping[str, Mapping], seeds: int
) -> dict[str, str]:
    ranked = sorted(groups, key=lambda group: blocks[group["name"]]["value"])
    cells = {}
    for word, group in (("worst", ranked[0]), ("best", ranked[-1])):
        cells[word] = f"{group['name']} (n = {group['pairs']})"
        cells[f"{word} RSUM"] = _with_spread(blocks[group["name"]], seeds)
    return cells


def _scaled(value: float, factor: float, decimals: int) -> str:
    """A number with a minus sign: a spreadsheet would take a leading hyphen for a formula."""
    return f"{factor * value:.{decimals}f}".replace("-", "−")


def _points(share: float) -> str:
    """A share in points."""
    return _scaled(share, 100, 1)


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
        variant, _ = variant_and_seed(model)
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


# How LaTeX prints the tables


def plain_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """The frame as it is."""
    columns = []
    for place, name in enumerate(frame.columns):
        is_name = place == 0
        cells = _texts(frame[name])
        is_text = name in NAMES or any(cell[:1].isalpha() for cell in cells)
        column = latex.Column(
            header=str(name).replace("_", " "),
            cells=cells,
            bold=is_best[name].tolist(),
            unit="" if is_name else str(name),
            align="l" if is_text else "r",
        )
        columns.append(column)
    return latex.Table(columns, sections={})


def recall_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a model, one group of columns a direction: Recall@K of `recall_table`."""
    values = frame.copy()
    metrics = _recall_metrics(frame)
    for metric in metrics:
        values[metric] = frame[metric].map(lambda cell: cell.partition(" ")[0])
    return _by_direction(values, is_best, metrics)


def interval_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a model and direction: the intervals or deviations of `recall_table`."""
    metrics = _recall_metrics(frame)
    columns = [_names(frame["model"], "model")]
    for metric in metrics:
        spreads = frame[metric].map(lambda cell: cell.partition(" ")[2])
        columns.append(latex.Column(metric, spreads.tolist(), unit=metric))
    return _in_sections(columns, frame["direction"])


def rank_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a model, one group of columns a direction: what `recall_table` has beside recall."""
    short = {"median rank": "MedR", "precision@10": "P@10"}
    frame = frame.rename(columns=short)
    is_best = is_best.rename(columns=short)
    others = {"model", "direction", *_recall_metrics(frame)}
    metrics = [name for name in frame.columns if name not in others]
    return _by_direction(frame, is_best, metrics)


def relevance_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a model, one group of columns a measure, of `relevance_table`."""
    columns = [_names(frame["model"], "model")]
    for name in frame.columns.drop("model"):
        group, header = RELEVANCE_HEADERS[name]
        cells = _texts(frame[name])
        bold = is_best[name].tolist()
        columns.append(latex.Column(header, cells, bold, group=group, unit=name))
    return latex.Table(columns, sections={})


def _model_and_measures(frame: pd.DataFrame, is_best: pd.DataFrame) -> list[latex.Column]:
    """The models' names, then a column for each measure, the best values bold."""
    columns = [_names(frame["model"], "model")]
    for name in frame.columns.drop("model"):
        cells = _texts(frame[name])
        columns.append(latex.Column(name, cells, is_best[name].tolist(), unit=name))
    return columns


def one_way_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a model, in sections by direction, of `one_way_table`."""
    columns = _model_and_measures(frame.drop(columns="direction"), is_best)
    return _in_sections(columns, frame["direction"])


def probe_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a change, in sections by direction, one column a model, of `probe_table`."""
    columns = [_names(frame["change"], "change"), latex.Column("pairs", _texts(frame["pairs"]))]
    for model in frame.columns.drop(["direction", "change", "pairs"]):
        columns.append(latex.Column(model, _texts(frame[model]), unit=model))
    return _in_sections(columns, frame["direction"])


def zero_shot_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a finding, one column a model, of `zero_shot_table`."""
    positives = latex.Column("positives", _texts(frame["positives"]))
    columns = [_names(frame["finding"], "finding"), positives]
    for model in frame.columns.drop(["finding", "positives"]):
        columns.append(latex.Column(model, _texts(frame[model]), unit=model))
    return latex.Table(columns, sections={})


def grounding_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a model, in sections by method, of `grounding_table`."""
    columns = _model_and_measures(frame.drop(columns="method"), is_best)
    return _in_sections(columns, frame["method"])


def erasure_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a model of `erasure_table`."""
    columns = [_names(frame["model"], "model")]
    for name in frame.columns.drop("model"):
        cells = [cell.replace("-", "−") for cell in _texts(frame[name])]
        columns.append(latex.Column(name, cells, is_best[name].tolist(), unit=name))
    return latex.Table(columns, sections={})


def ablation_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row an ablation of `ablation_table`, in sections by what is changed; an asterisk marks
    the differences that are told from zero."""
    columns = [_names(frame["setting"], "setting")]
    for name in ABLATION_MEASURES.values():
        columns.append(latex.Column("value", _texts(frame[name]), group=name, unit=name))
        for column, header in DIFFERENCE_HEADERS.items():
            cells = frame[f"{name} {column}"]
            if column == "difference":
                is_told = frame[f"{name} verdict"].isin(TOLD)
                cells = cells.mask(is_told, cells + "*")
            columns.append(latex.Column(header, _texts(cells), group=name, unit=name))
    return _in_sections(columns, frame["group"])


def robustness_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a condition of `robustness_table`, in sections by corruption; of each model RSUM and
    the share that is kept. A star beside RSUM marks a difference to mcr that is told."""
    row = ["corruption", "strength"]
    conditions = frame[row].drop_duplicates(ignore_index=True)
    columns = [_names(conditions["strength"], "strength")]
    for model, of_model in frame.groupby("model", sort=False):
        is_told = of_model[ROBUSTNESS_DIFFERENCES["RSUM"]].str.endswith("*")
        rsum = of_model["RSUM"].str.partition(" ")[0]
        rsum = rsum.mask(is_told, rsum + "*")
        kept = of_model["kept"].str.partition(" ")[0]
        columns.append(latex.Column("RSUM", rsum.tolist(), group=model, unit=model))
        columns.append(latex.Column("kept", kept.tolist(), group=model, unit=model))
    return _in_sections(columns, conditions["corruption"])


def group_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """The rows of `group_table`, in sections by the kind of group and the condition."""
    sections = frame["groups"] + ", " + frame["condition"]
    columns = [_names(frame["model"], "model")]
    for word in ("worst", "best"):
        names = _texts(frame[word])
        columns.append(latex.Column("group", names, group=word, unit=word, align="l"))
        columns.append(latex.Column("RSUM", _texts(frame[f"{word} RSUM"]), group=word, unit=word))
    return _in_sections(columns, sections)


def verdict_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """The rows of `verdict_table`; an asterisk marks the primary comparison."""
    frame = frame.copy()
    frame["comparison"] = frame["comparison"].str.replace(" (primary)", "*")
    return plain_layout(frame, is_best)


def comparison_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """The rows of `comparison_table`, in sections by endpoint."""
    table = verdict_layout(frame.drop(columns="endpoint"), is_best.drop(columns="endpoint"))
    return _in_sections(table.columns, frame["endpoint"])


def claims_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """The rows of `claims_table` without the sentences, which are text for a page."""
    return plain_layout(frame.drop(columns="sentence"), is_best.drop(columns="sentence"))


def text_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a model and direction, one group of columns a metric, one column a K."""
    row = ["model", "direction"]
    rows = frame[row].drop_duplicates(ignore_index=True)
    models = pd.MultiIndex.from_frame(rows)
    columns = [_names(rows["model"], "model")]
    for metric in frame.columns.drop([*row, "K"]):
        for k in sorted(frame["K"].unique()):
            of_k = frame["K"] == k
            values = frame[of_k].set_index(row)[metric]
            is_bold = is_best.loc[of_k, metric].set_axis(values.index)
            # In a small pool the ceiling has fewer candidates than the others.
            cells = _texts(values.reindex(models))
            bold = is_bold.reindex(models, fill_value=False).tolist()
            columns.append(latex.Column(f"K={k}", cells, bold, group=metric, unit=metric))
    return _in_sections(columns, rows["direction"])


def agreement_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a finding, one group of columns a direction, one column a model."""
    columns = [_names(frame["finding"], "finding")]
    columns.append(latex.Column("support", _texts(frame["support"])))
    for direction in DIRECTION_LABELS.values():
        for name in frame.columns:
            if name.endswith(f" {direction}"):
                model = name.removesuffix(f" {direction}")
                cells = _texts(frame[name], decimals=2)
                columns.append(latex.Column(model, cells, group=direction, unit=model))
    return latex.Table(columns, sections={})


def gap_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a model, one column a measure of the modality gap."""
    columns = [_names(frame["model"], "model")]
    for measure in frame.columns.drop("model"):
        group, header = GAP_HEADERS.get(measure, ("", measure.replace("_", " ")))
        cells = _texts(frame[measure])
        columns.append(latex.Column(header, cells, group=group, unit=measure))
    return latex.Table(columns, sections={})


def step_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """One row a variant and level of recomputation, in sections by the tokens of a report."""
    columns = [_names(frame["variant"], "variant"), _names(frame["level"], "recomputation")]
    for name, (group, header) in STEP_HEADERS.items():
        is_count = name == "largest batch"
        cells = _texts(frame[name], decimals=0 if is_count else 2)
        columns.append(latex.Column(header, cells, group=group, unit=name))
    return _in_sections(columns, frame["tokens"].map("{} tokens a report".format))


def parts_layout(frame: pd.DataFrame, is_best: pd.DataFrame) -> latex.Table:
    """The rows of `parts_table`."""
    columns = [_names(frame["part"], "part")]
    for name in frame.columns.drop("part"):
        columns.append(latex.Column(name, _texts(frame[name], decimals=2), unit=name))
    return latex.Table(columns, sections={})


def _by_direction(frame: pd.DataFrame, is_best: pd.DataFrame, metrics: list[str]) -> latex.Table:
    """One row a model; the metrics once for each direction."""
    is_first = frame["direction"] == frame["direction"].iloc[0]
    columns = [_names(frame.loc[is_first, "model"], "model")]
    for direction in frame["direction"].unique():
        rows = frame["direction"] == direction
        for metric in metrics:
            cells = _texts(frame.loc[rows, metric])
            bold = is_best.loc[rows, metric].tolist()
            columns.append(latex.Column(metric, cells, bold, group=direction, unit=direction))
    return latex.Table(columns, sections={})


def _in_sections(columns: list[latex.Column], titles: pd.Series) -> latex.Table:
    """The rows sorted by their titles, each title once, above the first of its rows."""
    titles = titles.tolist()
    sections = {}
    order = []
    for title in dict.fromkeys(titles):
        sections[len(order)] = title
        order += [row for row, own_title in enumerate(titles) if own_title == title]
    sorted_columns = []
    for column in columns:
        cells = [column.cells[row] for row in order]
        bold = [column.bold[row] for row in order] if column.bold else None
        sorted_columns.append(column._replace(cells=cells, bold=bold))
    return latex.Table(sorted_columns, sections)


def _names(names: pd.Series, header: str) -> latex.Column:
    """A column of names, which is there in every part of a table."""
    return latex.Column(header, names.tolist(), align="l")


def _texts(values: pd.Series, decimals: int = 3) -> list[str]:
    """The values as they are printed, with a minus sign and a dash where one is undefined."""
    texts = []
    for value in values:
        if pd.isna(value):
            texts.append(UNDEFINED)
        elif isinstance(value, float):
            texts.append(f"{value:.{decimals}f}".replace("-", "−"))
        else:
            texts.append(str(value))
    return texts


def _recall_metrics(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if name.startswith("R@")]


def _best_cells(frame: pd.DataFrame, best: Mapping[str, int]) -> pd.DataFrame:
    """True where a cell holds the best value of its column among the rows it competes with."""
    is_best = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    if not best:
        return is_best
    groups = [frame[column] for column in ("direction", "K", "method") if column in frame]
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
    """The number that a cell such as "36.6 [32.0, 41.0]" begins with; NaN if it is undefined."""
    first_word = str(cell).split()[0]
    return math.nan if first_word == UNDEFINED else float(first_word)


def _look(is_best: pd.DataFrame, bold: str) -> pd.DataFrame:
    """Styler's property of each cell."""
    return is_best.replace({True: bold, False: ""})


def _harmless(cell: str) -> str:
    """Text without control characters that no spreadsheet takes for a formula."""
    text = "".join(character for character in cell if character.isprintable())
    if text.startswith(("=", "+", "-", "@")):
        return f"'{text}"
    return text
