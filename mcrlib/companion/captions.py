"""Captions of tables and figures: each says the run, the pool, the models and the protocol.

The first sentence is short: LaTeX tables have it as their caption and the rest as a note.
"""

import contextlib

from mcrlib import tables
from mcrlib.companion import growth, peers, scaling
from mcrlib.companion.analyses import (
    Numbers,
    Relevance,
    Retrieval,
    TextMetrics,
    first_seeds,
    models_of,
)
from mcrlib.companion.experiments import RSUM
from mcrlib.companion.grounding import Grounding
from mcrlib.companion.lengths import alike, length_of, trained_alike
from mcrlib.companion.top3 import TopHits
from mcrlib.config import Config
from mcrlib.data.dataset import Dataset
from mcrlib.evaluation.chance import chance_recall, telling_k
from mcrlib.training.budget import operations
from mcrlib.training.history import recall_of, recorded_k

DEPTH = 10  # the largest K of the text metrics

# Tables


def recall(run: str, retrieval: Retrieval, policy: str) -> str:
    """Of the comparison table."""
    return (
        f"Recall@K in both directions, in %. {_test_pool(run, retrieval.pool)} "
        f"{trained_alike(run)}{_positives(retrieval, policy)} {_bold(retrieval.pool)} {_SPREAD} "
        "The paper's numbers are not known to us."
    )


def recall_intervals(run: str, retrieval: Retrieval, policy: str) -> str:
    """Of the table of intervals that LaTeX has beside the comparison table."""
    return (
        f"Uncertainty of Recall@K, in %. {_SPREAD} {_test_pool(run, retrieval.pool)} "
        f"{_positives(retrieval, policy)}"
    )


def recall_ranks(run: str, retrieval: Retrieval, policy: str) -> str:
    """Of the table that LaTeX has for the comparison table's other columns."""
    labels = retrieval.recall.provenance["labels"]
    return (
        "Median ranks, and relevance by shared findings. MedR: median rank of the first correct "
        "candidate. P@10 (precision at 10) and mAP are in % and count a candidate as relevant if "
        f"it shares a finding with the query; labels: {labels}. {_bold(retrieval.pool)} "
        f"{_test_pool(run, retrieval.pool)} {_positives(retrieval, policy)}"
    )


def verdicts(run: str, retrieval: Retrieval) -> str:
    """Of the table of verdicts between variants."""
    k = retrieval.verdicts.provenance.get("k", 10)
    return (
        f"Differences in mean Recall@{k} of both directions, in points. The 95 % intervals come "
        "from 10,000 joint draws of seeds and patients. The primary comparison (*) was chosen "
        "first; Holm's method corrects the p values of all others. No loss: the lower bound "
        "is above −2 points. Detectable: the true difference that is found with 80 % power. "
        f"{_test_pool(run, retrieval.pool)} {trained_alike(run)}Policy pair."
        f"{_small_pool(retrieval.pool)} "
        "With one seed, a verdict is about these trained models only. The paper's differences "
        "are not known to us."
    )


def comparison(run: str, compared: Numbers) -> str:
    """Of the table of verdicts by the two primary endpoints."""
    pool = compared.provenance["pool"]
    few = any(record.get("of_these_models") for record in compared.values)
    resampled = "of the patients and, of more than three seeds, of the seeds"
    about = ""
    if few:
        about = " With three seeds or fewer, an interval is about these trained models only."
    return (
        "Differences in RSUM and in nDCG@10 without the partner, in points. The 95 % intervals "
        f"come from 10,000 draws {resampled}.{about} The primary comparisons (*) were chosen "
        "before a second seed was trained, one for each endpoint; Holm's method corrects the p "
        "values of all others. No loss: the lower bound is above −12 points of RSUM (two a recall) "
        "or −2 of nDCG. "
        "Detectable: the true difference that is found with 80 % power. "
        f"{_test_pool(run, pool)} Attributes: {compared.provenance['attributes']}. The paper's "
        "differences are not known to us."
    )


def claims(run: str) -> str:
    """Of the table of verdicts on the claims."""
    models = "none"
    with contextlib.suppress(FileNotFoundError):
        models = models_of(run)
    return (
        "The paper's claims and the notes' questions, and what this run says of them. Differences "
        "are those of mcr to the other variant, in points (of the modality gap as they are), with "
        "95 % intervals; detectable is the true difference that is found with 80 % power. "
        f"Run {run}, models {models}, all pairs of the split. The rules "
        "(mcrlib.companion.experiments) were fixed before a second seed was trained; the sentences "
        "are in claims.csv."
    )


def text_metrics(run: str, metrics: TextMetrics) -> str:
    """Of the table beside Figure 3."""
    return (
        "Text metrics of the first K hits. Each value is the mean over the ranks up to K and over "
        f"seeds; best values are bold. {_text_pool(run, metrics)} {_BOUNDS}{_few_texts(metrics)} "
        "The paper draws its curves and prints no numbers."
    )


def agreement(run: str, metrics: TextMetrics) -> str:
    """Of the table of clinical agreement."""
    return (
        "F1 of the findings asserted by the first hit's report. Values are means over seeds; "
        "support is the number of reports that assert the finding. "
        f"{_text_pool(run, metrics)} Floor: random retrieval. The paper has no such table."
        f"{_without_findings(metrics)}"
    )


def _without_findings(metrics: TextMetrics) -> str:
    """A sentence for pairs that are not about medicine; "" if any report asserts a finding."""
    for directions in metrics.agreement.values.values():
        for result in directions.values():
            if any(cells["support"] for cells in result["findings"].values()):
                return ""
    return " It does not apply to these pairs: none of their reports asserts a medical finding."


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
        f"Modality gap on {pairs:,} pairs of the validation split. Probe accuracy: how well a "
        "linear classifier tells radiographs from reports; 0.5 means no gap. "
        f"Run {run}, models {models}.{peers.note(run, 'validate')} The paper shows the gap in its "
        "Figure 4 without numbers."
    )


def relevance(run: str, measured: Relevance) -> str:
    """Of the table of RSUM and nDCG."""
    return (
        "RSUM and nDCG@10 with graded relevance, both directions, in %. RSUM: sum of the six "
        "recalls, at most 600, over all queries and over those with a finding, in the whole pool. "
        "nDCG@10: mean of both directions; the gain of a hit is the Jaccard overlap of its "
        "findings, with side, zone and severity, with the query's; with the query's partner in "
        f"the pool, and without it. {_left_out(measured)}Chance: random retrieval; oracle: ranks "
        f"by the gain alone. {_SPREAD} Best values are bold. {_relevance_pool(run, measured)} "
        f"{trained_alike(run)}"
        "The paper has no such table."
    )


def first_hit(run: str, measured: Relevance) -> str:
    """Of the table of errors of the first hit."""
    return (
        "What the first hit gets wrong, in % of the queries. Omitted: a finding of the query is "
        "not in the hit; added: one of the hit is not in the query; wrong side, zone or severity: "
        f"of a finding that both have. {_SPREAD} The fewest are bold. "
        f"{_relevance_pool(run, measured)} The paper has no such table."
    )


def answering(run: str, measured: Relevance) -> str:
    """Of the table of risks."""
    return (
        "Knowing when not to answer, in %. Risk: queries of whose first ten hits none has a gain "
        "of 0.5; AURC: mean risk when the queries are answered one by one, those with the largest "
        "margin of the first hit's cosine over the eleventh's first. AUROC: how well the margin, "
        "or the first hit's cosine, tells whether the pool has a match at all, 50 is guessing; in "
        "the other pool the partner and all pairs of equal attributes are missing. "
        f"{_SPREAD} Best values are bold. {_relevance_pool(run, measured)} The paper has no such "
        "table."
    )


def probes(run: str, measured: Numbers) -> str:
    """Of the table of minimal pairs."""
    return (
        "Minimal pairs told right, in %. Image to report: a picture with its report and one that "
        "is wrong in one thing, in the same words; report to image: a report with its picture and "
        "the same picture with one finding less, or the report of that one with both. The true "
        "half must have the higher cosine; ties are lost. Chance is 50 %, for omission and "
        "insertion, and for less and more, only of both together: a finding added may raise or "
        f"lower every score. {_SPREAD} {_asked(run, measured)} The paper has no such table."
    )


def zero_shot(run: str, measured: Numbers) -> str:
    """Of the table of prompts."""
    return (
        'Zero-shot AUROC of findings, in %. A picture\'s score is its cosine with the prompt "X." '
        'minus that with "No X."; 50 is guessing. Mean: over the findings below. '
        f"{_SPREAD} {_asked(run, measured)} The paper has no such table."
    )


def grounding(run: str, asked: Grounding) -> str:
    """Of the table of maps and words."""
    return (
        "Do the models look where the finding is? All in %, means over findings. Pointing game: "
        "cases whose patch with the largest share has more than a tenth of its area in the "
        "finding's place; pixel AUROC: how well the map tells the place from the rest, 50 is "
        "guessing; absent finding: the pointing game at the same place with a phrase that names a "
        "finding the picture lacks; words: of what the place contributes, the word with the "
        "largest share names the finding. Exact contributions exist only if a model maps before "
        f"it aggregates; occlusion compares all. Chance: {_chance_of(asked)} {_SPREAD} Best "
        f"values are bold. {_cases(run, asked)} The paper has no such table."
    )


def erasure(run: str, asked: Grounding) -> str:
    """Of the table of falls."""
    return (
        "The fall of the cosine of picture and phrase when a finding is erased, in hundredths, "
        "means over findings. Place: its pixels are set to the picture's mean grey; elsewhere: the "
        "same shape elsewhere, where it covers most of the lungs; difference: the first minus the "
        "second; not drawn: the picture is drawn without the finding. Findings that leave no room "
        f"elsewhere are in the last column only. {_SPREAD} {_cases(run, asked)} The paper has no "
        "such table."
    )


def ablations(run: str, compared: Numbers) -> str:
    """Of the table of ablations."""
    return (
        "The method with one thing changed, against the method (mcr), in %. RSUM: sum of the six "
        "recalls, at most 600; nDCG@10: graded relevance of the first ten hits without the query's "
        f"partner. {_differences(compared)} Told from zero (*): p below 5 % after Holm's "
        f"correction by measure. {_ablated(run, compared)} The paper's ablations are not known to "
        "us."
    )


def robustness(run: str, measured: Numbers) -> str:
    """Of the table of corrupted input."""
    draws = measured.provenance["draws"]
    return (
        "Retrieval with corrupted test input, in %, without training. RSUM: sum of the six "
        "recalls, at most 600; kept: its share of what the same pairs have unchanged; nDCG@10 is "
        "without the query's partner. Differences are those of mcr to the other variant, in "
        f"points, with 95 % intervals from {draws:,} draws of the patients and, of more than "
        "three seeds, of the seeds; change: RSUM minus that of the unchanged pairs, so that a "
        "positive difference means that mcr loses less. Told from zero (*): p below 5 %, corrected "
        "by Holm's method by measure, but for RSUM and its change of mcr and dual with half of the "
        f"patches hidden. {_SPREAD} {_CORRUPTED} {_corrupted_pool(run, measured)} The paper "
        "has no such table."
    )


def robustness_groups(run: str, measured: Numbers) -> str:
    """Of the table of subgroups."""
    values = measured.values
    small = [group["name"] for group in values["groups"] if not group["decides"]]
    left_out = ""
    if small:
        left_out = f" Too few patients to decide anything, and left out: {', '.join(small)}."
    return (
        "The worst and the best subgroup of the queries, by RSUM in %, in the whole pool; n: "
        "pairs. Groups are by view, by number of findings and by finding; the manifest has neither "
        "sex nor age. The worst and the best of many groups are partly so by chance, which their "
        f"own intervals do not say.{left_out} {_SPREAD} {_corrupted_pool(run, measured)} The paper "
        "has no such table."
    )


def efficiency(steps: Numbers) -> str:
    """Of the table of a training step's cost."""
    first_step = steps.values["steps"][0]
    static = first_step["static"] / 1e9
    return (
        f"Cost of a training step at the paper's size with {first_step['pairs']} pairs. Memory "
        f"({first_step['kind']}, bf16): activations saved for the backward pass, and the peak, "
        f"which includes {static:.2f} GB of weights, gradients and optimiser state; largest batch: "
        f"what fits into 80 GB. {_TIMES} {_timing(steps)}"
    )


def efficiency_parts(steps: Numbers) -> str:
    """Of the table that takes the saving apart."""
    first_step = steps.values["steps"][0]
    pairs = first_step["pairs"]
    kind = first_step["kind"]
    return (
        "What each part saves of a training step's activations. Each row adds to those above it; "
        f"{pairs} pairs of 128 tokens at the paper's size, {kind}."
    )


# Figures


def data_lengths(settings: Config, dataset: Dataset) -> str:
    """Of the figure of report lengths and counts."""
    return (
        f"Report lengths in words, and pairs by split and by view. {_all_pairs(settings, dataset)}"
    )


def data_examples(settings: Config, dataset: Dataset) -> str:
    """Of the figure of the first pairs."""
    return (
        "The first image-report pairs, with how each report begins. "
        f"{_all_pairs(settings, dataset)}"
    )


def training(settings: Config, pool: int, k: int = 10) -> str:
    """Of one model's loss curves; `pool` is the number of validation pairs, `k` that of the
    recall."""
    return (
        "Training losses (top) and validation recall (bottom) by epoch. The loss is the "
        "weighted sum of vrc, the contrast between radiographs and reports, and of mim and mrm, "
        f"the reconstruction of masked radiographs and reports. Recall@{k} is the mean of both "
        f"directions in a pool of {_pairs(pool)}; dashed: chance.{_small_pool(pool)} "
        f"Run {settings.run}, model {settings.folder.name}."
    )


def validation_recall(numbers: dict, pool: int) -> str:
    """The validation recall of `analyses.describe_training`, in %, with its K and its chance."""
    k = recorded_k(numbers)
    (chance,) = chance_recall((k,), pool).values()
    return f"Recall@{k} {100 * recall_of(numbers):.1f} % (chance {100 * chance:.1f} %)"


def compute(numbers: dict) -> str:
    """What the training of `analyses.describe_training` took, in operations."""
    if "flops" not in numbers:
        return "not counted: it was trained before operations were"
    return (
        f"{operations(numbers['flops'])}: {numbers['epochs']:.3g} epochs, {numbers['steps']:,} "
        f"steps of {operations(numbers['flops_a_step'])}"
    )


def recall_figure(run: str, retrieval: Retrieval, policy: str) -> str:
    """Of the comparison as bars."""
    return (
        f"Recall@1, @5 and @10 in both directions. {_test_pool(run, retrieval.pool)} "
        f"{_positives(retrieval, policy)} Whiskers: 95 % intervals from resampling patients or, "
        "with several seeds, one standard deviation. Dotted lines: chance."
    )


def figure3(run: str, metrics: TextMetrics) -> str:
    """Of Figure 3."""
    return (
        "Text metrics of the first K retrieved reports. Top: mean over the ranks up to K; bottom: "
        "best of them. Dashed: image to report; solid: report to image; means over seeds. "
        f"{_text_pool(run, metrics)} {_BOUNDS}{_few_texts(metrics)}"
    )


def figure4(run: str, gaps: Numbers) -> str:
    """Of Figure 4."""
    first_model = next(iter(gaps.values.values()))
    pairs = len(first_model["tsne"]) // 2
    models = models_of(run, "validate")
    return (
        "t-SNE of radiograph and report embeddings, one panel a variant. Below each panel: the "
        "modality gap, measured on the embeddings themselves. The first seed of each variant, "
        f"{pairs:,} pairs of the validation split.{_without_map(first_seeds(gaps.values))} "
        f"Run {run}, models {models}.{peers.note(run, 'validate')}"
    )


def top3(run: str, hits: TopHits) -> str:
    """Of Figure 5 and of a reader's own queries."""
    return (
        f"Three best hits. Run {run}, test pool of {_pairs(hits.pool)}, models {hits.models}. "
        f"Queries: {hits.rule}.{peers.note(run)}"
    )


def agreement_figure(run: str, metrics: TextMetrics) -> str:
    """Of the heat map of clinical agreement."""
    return (
        "F1 of the findings asserted by the first hit's report, by finding and model. Rows micro "
        "and macro are averages over findings; values are means over seeds. "
        f"{_text_pool(run, metrics)} Floor: random retrieval.{_without_findings(metrics)}"
    )


def first_hit_figure(run: str, measured: Relevance) -> str:
    """Of the heat map of errors."""
    return (
        "What the first hit gets wrong, in %, by finding and model. In brackets: queries with the "
        "finding. Omitted: of these queries; added: of the hits with the finding; wrong side, zone "
        "or severity: of the queries where both have the finding and state one (the type stands "
        "for the severity of a drawn support device). Means over both directions and over seeds. "
        f"{_relevance_pool(run, measured)}"
    )


def pointing_game(run: str, asked: Grounding) -> str:
    """Of the heat map of the pointing game."""
    return (
        "The pointing game, in %, by finding and model: cases whose patch with the largest share "
        "has more than a tenth of its area in the finding's place. In brackets: cases. Chance: "
        f"{_chance_of(asked)} Means over seeds. {_cases(run, asked)}"
    )


def answering_figure(run: str, measured: Relevance) -> str:
    """Of the curves of risk over coverage."""
    first_bound = measured.measured.values["chance"]["image_to_report"]
    chance = 100 * first_bound["risk"]["value"]
    return (
        "Risk over coverage. The queries are answered in the order of their confidence, the "
        "margin of the first hit's cosine over the eleventh's; an answer is wrong if none of the "
        f"first ten hits has a gain of 0.5 (random hits: {chance:.0f} %). "
        f"{_relevance_pool(run, measured)}"
    )


def probes_figure(run: str, measured: Numbers) -> str:
    """Of the dots by what is changed."""
    return (
        "Minimal pairs told right, by what is changed. Top: a picture chooses between two reports; "
        "bottom: a report between two pictures. Dotted: chance, for omission and insertion, and "
        "for one finding less and more, only of both together. Whiskers: 95 % intervals from "
        "resampling patients or, with several seeds, one standard deviation. "
        f"{_asked(run, measured)}"
    )


def ablation_curves(run: str, compared: Numbers) -> str:
    """Of the curves over the masked share."""
    return (
        "Retrieval over the share of patches (left) or words (right) that is masked in training. "
        "Whiskers: 95 % intervals of the difference to mcr (dashed). Without a mask there is "
        "nothing to reconstruct, so that the loss lacks that term too. "
        f"{_ablated(run, compared)}"
    )


def ablation_differences(run: str, compared: Numbers) -> str:
    """Of the dots with intervals."""
    return (
        "Differences to the method (mcr) when one thing is changed. "
        f"{_differences(compared)} Grey: differences smaller than that. Colour: told from zero at "
        f"5 % after Holm's correction by measure. {_ablated(run, compared)}"
    )


def compute_figure(run: str, measured: Numbers) -> str:
    """Of RSUM over compute and memory."""
    points = measured.values["points"]
    about = measured.provenance
    return (
        "RSUM of the test split over the compute (left) and the peak memory (right) of training. "
        "Compute: floating-point operations of all steps; memory: of the process, or of the GPU's "
        "allocator; larger markers had more compute. Models of equal compute stand a little apart. "
        f"Whiskers (left): 95 % intervals from {about['draws']:,} draws of patients "
        "and, of more than three seeds, of the seeds. "
        f"{_computes(points)} Run {run}, test pool of {_pairs(about['pool'])}, "
        f"{_seeds_of(points)}.{_not_drawn(measured)}"
    )


def robustness_figure(run: str, measured: Numbers) -> str:
    """Of the curves over the strength of each corruption."""
    return (
        "RSUM (upper panels) and the share of it that is kept (lower panels) over the strength of "
        f"each corruption of the test input. {_SPREAD} {_CORRUPTED} "
        f"{_corrupted_pool(run, measured)}"
    )


def growth_table(run: str, measured: Numbers) -> str:
    """Of the table of RSUM and nDCG by number of training pairs."""
    return (
        "RSUM and nDCG@10 without the partner of the test split, in %, by number of training "
        f"pairs. {_grown(run, measured)}"
    )


def growth_figure(run: str, measured: Numbers) -> str:
    """Of RSUM and nDCG over the number of training pairs."""
    return (
        "RSUM (left) and nDCG@10 without the partner (right) of the test split over the number of "
        "training pairs. Lines: least squares over log2 of the pairs; whiskers: intervals. "
        f"{_grown(run, measured)}"
    )


def _grown(run: str, measured: Numbers) -> str:
    """What the models with fewer pairs have in common, and what twice as many pairs give."""
    about = measured.provenance
    points = measured.values["points"]
    slopes = [_growth(record) for record in measured.values["slopes"]]
    by_twice = f" Twice as many pairs give {'; '.join(slopes)}." if slopes else ""
    not_there = _not_there(growth.absent_points(measured))
    return (
        "The pairs are the first of the same training split, with as many steps for each number."
        f"{by_twice} Intervals: 95 %, from {about['draws']:,} draws of patients and, of more than "
        "three seeds, of the seeds. "
        f"Run {run}, the same test pool of {_pairs(about['pool'])} for all, "
        f"{_seeds_of(points)}. Attributes: {about['attributes']}.{not_there}"
    )


def _growth(record: dict) -> str:
    """A slope in words."""
    name = "RSUM" if record["endpoint"] == RSUM else "nDCG@10"
    percent = {key: 100 * record[key] for key in ("slope", "low", "high")}
    interval = f"[{percent['low']:.1f}, {percent['high']:.1f}]"
    return f"{record['variant']} {percent['slope']:+.1f} points of {name} {interval}"


def efficiency_figure(steps: Numbers) -> str:
    """Of time over memory."""
    pairs = steps.values["steps"][0]["pairs"]
    return (
        "Time and saved activations of a training step, by variant and level of recomputation. "
        f"{_TIMES} The paper's size, {pairs} pairs of 128 tokens. {_timing(steps)}"
    )


# Sentences that several captions share

_SPREAD = (
    "Uncertainty is given as 95 % intervals from resampling patients or, with several seeds, as "
    "the standard deviation."
)
_BOUNDS = (
    "Floor: random retrieval; ceiling: the query's own report first, then the best others by the "
    "metric, among the most similar reports and all models' hits."
)
_CORRUPTED = (
    "Hidden patches are not given to the encoder (dual-token gets a mask token for each); grey "
    "ones are the same patches, painted over. Missing sentences: share of a report's, at least one "
    "stays. Noise: standard deviation, of the grey levels; exposure: factors of two of the film's "
    "depth, up or down; blur: standard deviation, of the picture's side. All pairs of the pool "
    "are corrupted, with the same random draws for every model."
)
_TIMES = "Ratios are to dual without recomputation; time is forward and backward."


def _differences(compared: Numbers) -> str:
    draws = compared.provenance["draws"]
    return (
        f"Differences have 95 % intervals from {draws:,} joint draws of seeds and patients; "
        "detectable is the true difference that is found with 80 % power."
    )


def _computes(points: list[dict]) -> str:
    """What was equal at each multiple of the compute."""
    sentences = []
    for times in sorted({point["times"] for point in points}):
        own = [point for point in points if point["times"] == times]
        lengths = [length_of(point) for point in own]
        sentences.append(f"At {times:g} times: {alike(lengths).strip()}")
    return " ".join(sentences)


def _seeds_of(points: list[dict]) -> str:
    """The seeds of all points, such as "seeds 0, 1, 2"."""
    seeds = set()
    for point in points:
        seeds |= set(point["seeds"])
    return _seeds(sorted(seeds, key=int))


def _seeds(seeds: list[str]) -> str:
    noun = "seeds" if len(seeds) > 1 else "seed"
    return f"{noun} {', '.join(seeds)}"


def _not_there(absent: list[str]) -> str:
    """A sentence on the points that a figure lacks; "" if it has all."""
    return f" Not there: {', '.join(absent)}." if absent else ""


def _not_drawn(measured: Numbers) -> str:
    """Sentences on what the figure over compute does not show; "" if it shows all."""
    sentences = _not_there(scaling.absent_points(measured))
    uncounted = measured.values["uncounted"]
    if uncounted:
        sentences += f" Left out, as operations were not counted: {', '.join(uncounted)}."
    return sentences


def _ablated(run: str, compared: Numbers) -> str:
    """Which models the ablations are of, and how far their numbers go."""
    about = compared.provenance
    trained = "Nothing says for how long they were trained. "
    lengths = []
    for record in compared.values.values():
        if record["epochs"] is not None:
            lengths.append(length_of(record))
    if lengths:
        trained = alike(lengths)
    seeds = about["seeds"]
    sentences = (
        f"Run {run}, test pool of {_pairs(about['pool'])}, models of {about['models_of']}, "
        f"{_seeds(seeds)}. {trained}Attributes: {about['attributes']}."
    )
    if len(seeds) == 1:
        sentences += (
            " With one seed, everything is about these trained models only: another seed alone "
            "may change as much."
        )
    return sentences


def _corrupted_pool(run: str, measured: Numbers) -> str:
    """Which trained models the numbers are of, and which condition is left out."""
    about = measured.provenance
    models = ", ".join(measured.values["models"])
    left_out = measured.values["left_out"]
    return (
        f"Run {run}, test pool of {_pairs(about['pool'])}, models {models}. Attributes: "
        f"{about['attributes']}. {left_out}"
    ).strip()


def _relevance_pool(run: str, measured: Relevance) -> str:
    about = measured.measured.provenance
    return (
        f"{_test_pool(run, measured.pool)} {_pairs(about['without_finding'])} without a finding, "
        f"whose gain among each other is 1. Attributes: {about['attributes']}."
    )


def _asked(run: str, measured: Numbers) -> str:
    """The pool of the probes, and a sentence if some models were not asked."""
    about = measured.provenance
    sentences = _test_pool(run, about["pool"])
    if about["not_asked"]:
        names = ", ".join(about["not_asked"])
        sentences += f" Not asked, since only their embeddings are there: {names}."
    return f"{sentences} Findings of the pairs: {about['findings']}."


def _chance_of(asked: Grounding) -> str:
    if asked.measured.provenance["places"] == "drawn":
        return "a random patch of the lungs, or a random word."
    return "a random patch of the picture, or a random word."


def _cases(run: str, asked: Grounding) -> str:
    """What was asked, and of whom."""
    about = asked.measured.provenance
    places = {"drawn": "known from drawing", "boxes": "given as boxes"}[about["places"]]
    models = ", ".join(name for name in asked.measured.values if name != "chance")
    findings = "1 finding" if about["cases"] == 1 else f"{about['cases']:,} findings"
    return f"Run {run}, {findings} in {_pairs(about['pairs'])}, places {places}; models {models}."


def _left_out(measured: Relevance) -> str:
    """A sentence if some queries have no nDCG without their partner, else nothing."""
    bound = measured.measured.values["oracle"]["both"]
    left_out = bound["nDCG@10_without_partner"]["left_out"]
    if not left_out:
        return ""
    queries = "1 query has" if left_out == 1 else f"{left_out:,} queries have"
    return f"{queries} no other pair with a gain above 0 and no nDCG without the partner. "


def _without_map(gaps: dict[str, dict]) -> str:
    """A sentence if all embeddings of a model are equal, so that its panel has a single point."""
    without = [name for name, gap in gaps.items() if not any(map(any, gap["tsne"]))]
    if not without:
        return ""
    return f" All embeddings of {', '.join(without)} are equal: a single point."


def _pairs(count: int) -> str:
    """The number of pairs in words: "1 pair", "1,000 pairs"."""
    return "1 pair" if count == 1 else f"{count:,} pairs"


def _all_pairs(settings: Config, dataset: Dataset) -> str:
    return f"Run {settings.run}, {_pairs(len(dataset.frame))}, source {settings.source}."


def _timing(steps: Numbers) -> str:
    timed = steps.values["timed"]
    device = steps.provenance["device"]
    return f"Timed on {device} with {timed}."


def _positives(retrieval: Retrieval, policy: str) -> str:
    """What counts as correct, what guessing finds, and which K tells little."""
    chance = [f"{100 * share:.3g}" for share in retrieval.chance.values()]
    ks = [column.removeprefix("R@") for column in retrieval.chance]
    correct = {"pair": "the query's own partner", "report": "any pair with the same report"}
    return (
        f"Correct is {correct[policy]} (policy {policy}); chance is {', '.join(chance)} % "
        f"at K = {', '.join(ks)} (policy pair).{_small_pool(retrieval.pool)}{_one_unit(retrieval)}"
    )


def _one_unit(retrieval: Retrieval) -> str:
    """A sentence if the intervals have no width because there is nothing to resample."""
    first_model = next(iter(retrieval.recall.values.values()))
    if first_model.get("units") != 1:
        return ""
    return " All pairs are of one patient: with nothing to resample, the intervals tell nothing."


def _small_pool(pool: int) -> str:
    """A sentence if a K of 10 is half of the pool or more, else nothing."""
    k = telling_k(pool)
    if k == 10:
        return ""
    if pool <= 2:
        return f" In a pool of {pool} even K = 1 is half of the pool or more: no recall tells much."
    return f" A larger K is half of this pool or more and tells little: go by K = {k}."


def _bold(pool: int) -> str:
    """Which values are bold, by `tables.best_recall`."""
    ks = [int(name.partition("@")[2]) for name in tables.best_recall(pool) if "R@" in name]
    if not ks:
        return "Best values are bold, but no recall is."
    if max(ks) == 10:
        return "Best values are bold."
    return f"Best values are bold, of the recalls those at K up to {max(ks)}."


def _test_pool(run: str, pool: int) -> str:
    return f"Run {run}, test pool of {_pairs(pool)}, models {models_of(run)}.{peers.note(run)}"


def _text_pool(run: str, metrics: TextMetrics) -> str:
    return _test_pool(run, metrics.curves.provenance["pool"])


def _few_texts(metrics: TextMetrics) -> str:
    """What a small pool, or one of equal reports, leaves undefined; nothing for others."""
    sentences = ""
    pool = metrics.curves.provenance["pool"]
    if pool == 1:
        sentences += " In a pool of 1 every hit is right."
    elif pool <= DEPTH:
        others = "one other report" if pool == 2 else f"{pool - 1} other reports"
        sentences += f" Besides the own report, this pool has only {others}."
    cider = [point["mean"] for point in metrics.curves.values if point["metric"] == "CIDEr"]
    if not any(cider):
        sentences += " CIDEr is 0 throughout: it counts only words that not every report has."
    return sentences
