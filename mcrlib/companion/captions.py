"""Captions of tables and figures: each says the run, the pool, the models and the protocol."""

from mcrlib.companion.analyses import Numbers, Retrieval, TextMetrics, models_of
from mcrlib.companion.top3 import TopHits


def recall(run: str, retrieval: Retrieval, policy: str) -> str:
    """Of the comparison table."""
    chance = 100 / retrieval.pool
    labels = retrieval.recall.provenance["labels"]
    return (
        "Recall@K in % with 95 % intervals (bootstrap over patients), or mean ± deviation of "
        f"several seeds. Run {run}, test pool of {retrieval.pool:,} pairs, policy {policy}, models "
        f"{models_of(run)}; chance {chance:.2g} % at K = 1. Labels: {labels}. The paper's numbers "
        "are not known."
    )


def verdicts(run: str, retrieval: Retrieval) -> str:
    """Of the table of verdicts between variants."""
    return (
        "Mean Recall@10 of both directions, difference in points with a 95 % interval (10,000 "
        "draws of seeds and patients together), p by Holm but for the primary comparison. "
        f"Run {run}, test pool of {retrieval.pool:,} pairs, policy pair, models {models_of(run)}. "
        "One seed speaks of these trained models only. The paper's differences are not known."
    )


def _text_protocol(run: str, metrics: TextMetrics) -> str:
    pool = metrics.curves.provenance["pool"]
    return (
        f"Run {run}, test pool of {pool:,} pairs, models {models_of(run)}, means over seeds; "
        "floor: random retrieval"
    )


def text_metrics(run: str, metrics: TextMetrics) -> str:
    """Of the table beside Figure 3."""
    return (
        "Text metrics of the first K hits, mean over k up to K. "
        f"{_text_protocol(run, metrics)}; ceiling: a lower bound of it. The paper draws its curves "
        "and prints no numbers."
    )


def agreement(run: str, metrics: TextMetrics) -> str:
    """Of the table of clinical agreement."""
    return (
        "F1 of the findings of the first hit's report. "
        f"{_text_protocol(run, metrics)}. The paper has no such table."
    )


def rules(openi: dict) -> str:
    """Of the table that says how far to trust the findings rules."""
    return (
        f"{openi['reports']:,} Open-i reports: micro F1 {openi['micro']:.3f}, macro F1 "
        f"{openi['macro']:.3f} of the findings annotated at least {openi['least']} times."
    )


def modality_gap(run: str, gaps: Numbers) -> str:
    """Of the table beside Figure 4."""
    first_model = next(iter(gaps.values.values()))
    pairs = len(first_model["tsne"]) // 2
    return (
        f"Modality gap on {pairs:,} pairs of the validation split, run {run}, models "
        f"{models_of(run, 'validate')}. The paper shows the gap in its Figure 4; numbers of it are "
        "not known."
    )


def top3(run: str, hits: TopHits) -> str:
    """Of Figure 5 and of a reader's own queries."""
    return (
        f"Three best hits, run {run}, test pool of {hits.pool:,} pairs, models {hits.models}. "
        f"Queries: {hits.rule}."
    )


def efficiency(steps: Numbers) -> str:
    """Of the table of a training step's cost."""
    pairs = steps.values["steps"][0]["pairs"]
    return (
        f"A training step at the paper's size, {pairs} pairs: GB of memory, ratios to dual "
        f"without recomputation. Time on {steps.provenance['device']}: {steps.values['timed']}."
    )


def efficiency_parts(steps: Numbers) -> str:
    """Of the table that takes the saving apart."""
    first_step = steps.values["steps"][0]
    return (
        f"Saved activations of a step part by part, {first_step['pairs']} pairs of 128 tokens, "
        f"{first_step['kind']}."
    )
