"""Captions of tables and figures: each says the run, the pool, the models and the protocol."""

from mcrlib.companion.analyses import Numbers, Retrieval, TextMetrics, models_of
from mcrlib.companion.top3 import TopHits


def recall(run: str, retrieval: Retrieval, policy: str) -> str:
    """Of the comparison table."""
    labels = retrieval.recall.provenance["labels"]
    chance = 100 / retrieval.pool
    return (
        "Recall@K in %, with 95 % intervals from resampling patients; over several seeds, mean ± "
        f"standard deviation. {_test_pool(run, retrieval.pool)} Policy {policy}; chance is "
        f"{chance:.2g} % at K = 1. Labels: {labels}. The paper's numbers are not known to us."
    )


def verdicts(run: str, retrieval: Retrieval) -> str:
    """Of the table of verdicts between variants."""
    return (
        "Difference in mean Recall@10 of both directions, in points, with a 95 % interval from "
        "10,000 joint draws of seeds and patients. Holm's method corrects all p values except the "
        f"primary one. {_test_pool(run, retrieval.pool)} Policy pair. With one seed, the verdict "
        "is about these trained models only. The paper's differences are not known to us."
    )


def text_metrics(run: str, metrics: TextMetrics) -> str:
    """Of the table beside Figure 3."""
    return (
        "Text metrics of the first K hits: mean over k up to K, mean over seeds. "
        f"{_text_pool(run, metrics)} Floor: random retrieval; ceiling: a lower bound of it. The "
        "paper draws its curves and prints no numbers."
    )


def agreement(run: str, metrics: TextMetrics) -> str:
    """Of the table of clinical agreement."""
    return (
        "F1 of the findings asserted by the first hit's report, mean over seeds. "
        f"{_text_pool(run, metrics)} Floor: random retrieval. The paper has no such table."
    )


def rules(openi: dict) -> str:
    """Of the table that says how far to trust the findings rules."""
    reports = openi["reports"]
    micro = openi["micro"]
    macro = openi["macro"]
    least = openi["least"]
    return (
        f"{reports:,} Open-i reports: micro F1 {micro:.3f}, macro F1 {macro:.3f} over the findings "
        f"annotated at least {least} times."
    )


def modality_gap(run: str, gaps: Numbers) -> str:
    """Of the table beside Figure 4."""
    first_model = next(iter(gaps.values.values()))
    pairs = len(first_model["tsne"]) // 2
    models = models_of(run, "validate")
    return (
        f"Modality gap on {pairs:,} pairs of the validation split. Run {run}, models {models}. The "
        "paper shows the gap in its Figure 4 without numbers."
    )


def top3(run: str, hits: TopHits) -> str:
    """Of Figure 5 and of a reader's own queries."""
    return (
        f"Three best hits. Run {run}, test pool of {hits.pool:,} pairs, models {hits.models}. "
        f"Queries: {hits.rule}."
    )


def efficiency(steps: Numbers) -> str:
    """Of the table of a training step's cost."""
    pairs = steps.values["steps"][0]["pairs"]
    timed = steps.values["timed"]
    device = steps.provenance["device"]
    return (
        f"A training step at the paper's size with {pairs} pairs: memory in GB, and ratios to dual "
        f"without recomputation. Timed on {device} with {timed}."
    )


def efficiency_parts(steps: Numbers) -> str:
    """Of the table that takes the saving apart."""
    first_step = steps.values["steps"][0]
    pairs = first_step["pairs"]
    kind = first_step["kind"]
    return f"Saved activations of a step, part by part: {pairs} pairs of 128 tokens, {kind}."


def _test_pool(run: str, pool: int) -> str:
    return f"Run {run}, test pool of {pool:,} pairs, models {models_of(run)}."


def _text_pool(run: str, metrics: TextMetrics) -> str:
    return _test_pool(run, metrics.curves.provenance["pool"])
