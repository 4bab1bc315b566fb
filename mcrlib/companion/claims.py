"""The verdict on each claim, and the sentence that says what the numbers say (ours).

A sentence is made of the numbers it is given and of nothing else: which is higher, by how much,
with which interval, of which models, trained for how long, on which pairs. Verdicts are

- `supported` and `not supported`: the numbers decide, by the item's rule;
- `open`: they do not, or are not there, or the models had another budget or fewer seeds than
  the item asks for;
- `cannot be told here`: these pairs could never decide.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mcrlib import config, results
from mcrlib.companion import (
    analyses,
    domain,
    experiments,
    growth,
    lengths,
    robustness,
    scaling,
)
from mcrlib.companion.analyses import Numbers
from mcrlib.companion.experiments import (
    CHANGE_HIDDEN,
    EQUAL_COMPUTE,
    GAP,
    MEMORY,
    NDCG,
    RSUM,
    RSUM_HIDDEN,
    SLOPE,
    TIME,
    Item,
)
from mcrlib.companion.lengths import Length
from mcrlib.files import sha256
from mcrlib.training.budget import operations

FILE = "claims.json"
EFFICIENCY = "efficiency.json"

SUPPORTED = "supported"
NOT_SUPPORTED = "not supported"
OPEN = "open"
CANNOT_BE_TOLD = "cannot be told here"
VERDICTS = (SUPPORTED, NOT_SUPPORTED, OPEN, CANNOT_BE_TOLD)

SIGNIFICANCE = 0.05
BASELINES = ("tfidf",)  # ours, so no method of other people
LARGEST_RATIO = {TIME: 0.5, MEMORY: 0.25}  # of mcr to dual, as claimed
# A ratio so near to the largest one is left open: timings differ by as much from day to day.
NEAR = 0.05
# Condition of notebook 13 that items are about, and its endpoints -> those of the items
HALF_HIDDEN = "hidden patches 50 %"
ENDPOINTS_OF_HIDDEN = {"RSUM": RSUM_HIDDEN, "RSUM_change": CHANGE_HIDDEN}
FIELDS = (
    "a", "b", "difference", "low", "high", "p", "detectable", "no_loss", "seeds", "by_seed",
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """How an endpoint is written."""

    name: str
    unit: str  # of a difference, with a space before it, or ""
    factor: float  # from the number to what is written
    decimals: int
    is_better_if_higher: bool = True
    no_loss: str = ""  # what "no loss" excludes

    def text(self, value: float) -> str:
        """A number as it is written, with a minus sign."""
        written = f"{self.factor * value:.{self.decimals}f}"
        if float(written) == 0:
            written = written.removeprefix("-")
        return written.replace("-", "−")

    def size(self, difference: float) -> str:
        """How large a difference is, without its sign; never 0 if there is one."""
        written = self.text(abs(difference))
        if difference and float(written) == 0:
            written = f"under {10**-self.decimals:.{self.decimals}f}"
        return f"{written}{self.unit}"


MEASURES = {
    RSUM: Measure("RSUM", " points", 100, 1, no_loss="12 points"),
    NDCG: Measure("nDCG@10 without the partner", " points", 100, 1, no_loss="2 points"),
    RSUM_HIDDEN: Measure(
        "RSUM with half of the patches hidden", " points", 100, 1, no_loss="12 points"
    ),
    CHANGE_HIDDEN: Measure(
        "Change of RSUM when half of the patches are hidden", " points", 100, 1, no_loss="12 points"
    ),
    SLOPE: Measure("RSUM by twice as many pairs", " points", 100, 1),
    GAP: Measure("Distance between the modalities' means", "", 1, 3, is_better_if_higher=False),
}


@dataclass(frozen=True)
class Evidence:
    """The numbers that claims are judged by."""

    pairs: str  # as a sentence names them, such as "500 drawn test pairs"
    validation_pairs: str
    is_drawn: bool
    # Of `analyses.compare_endpoints`, and of hidden patches, by the endpoint of their item
    comparisons: Sequence[Mapping[str, Any]] = ()
    gap: Mapping[str, Any] = field(default_factory=dict)  # of `analyses.compare_gaps`
    steps: Sequence[Mapping[str, Any]] = ()  # of notebook 08
    timed: str = ""  # what notebook 08 timed, and on what
    computes: Sequence[Mapping[str, Any]] = ()  # comparisons of `scaling.measure`
    growth: Mapping[str, Any] = field(default_factory=dict)  # of `growth.measure`
    elsewhere: "Evidence | None" = None  # of `domain.measure`, another run's
    lengths: Mapping[str, Length] = field(default_factory=dict)  # of each training, by its folder


def judge(item: Item, evidence: Evidence) -> dict[str, Any]:
    """The `verdict` on an item, the `sentence` and the `numbers` that it was made of."""
    if item.endpoint in LARGEST_RATIO:
        verdict, sentence, numbers = _judge_cost(item, evidence)
    elif item.endpoint == GAP:
        pairs = evidence.validation_pairs
        verdict, sentence, numbers = _judge_record(item, evidence.gap, evidence, pairs)
    elif item.endpoint == SLOPE:
        verdict, sentence, numbers = _judge_growth(item, evidence)
    elif item.other_run:
        verdict, sentence, numbers = _judge_elsewhere(item, evidence)
    elif len(item.beginnings) > 1:
        verdict, sentence, numbers = _judge_computes(item, evidence)
    elif len(item.variants) == 1:
        verdict, sentence, numbers = _judge_others(item, evidence)
    else:
        record = _record_of(item, evidence)
        verdict, sentence, numbers = _judge_record(item, record, evidence, evidence.pairs)
    return {
        "id": item.id,
        "kind": item.kind,
        "claim": item.sentence,
        "source": item.source,
        "endpoint": item.endpoint,
        "budget": item.budget,
        "verdict": verdict,
        "sentence": sentence,
        "numbers": numbers,
        "rule": item.rule,
        "notebook": item.notebook,
    }


Judgement = tuple[str, str, dict[str, Any]]


def _record_of(item: Item, evidence: Evidence) -> Mapping[str, Any]:
    """The comparison that an item asks for; empty if it was not made."""
    for record in evidence.comparisons:
        is_same = record["variants"] == list(item.variants)
        if is_same and record["endpoint"] == item.endpoint:
            return record
    return {}


# A comparison of two variants


def _judge_record(
    item: Item, record: Mapping[str, Any], evidence: Evidence, pairs: str
) -> Judgement:
    a, b = item.variants
    if not record and item.numbers == robustness.FILE:
        return OPEN, "Not measured: run notebook 13 (`make robustness`).", {}
    if not record.get("seeds"):
        return OPEN, f"Not measured: no seed of both {a} and {b} is there.", {}
    numbers = {name: record[name] for name in FIELDS if name in record}
    if "undecided" in record:
        sentence = f"On {pairs} nothing can be decided: {record['undecided']}."
        return CANNOT_BE_TOLD, sentence, numbers
    direction = _direction(record)
    is_better = (direction > 0) == MEASURES[item.endpoint].is_better_if_higher
    conclusion = _conclusion(item, is_better, record)
    if direction == 0:
        conclusion = _what_could_be_told(item, record)
    parts = [
        _what_is_higher(item, record, pairs),
        conclusion,
        _training(item, record, evidence),
    ]
    verdict = SUPPORTED if is_better else NOT_SUPPORTED
    missing = _other_budget(item, record, evidence) or _few_seeds(item, record)
    if direction == 0:
        verdict = OPEN
    elif missing:
        verdict = OPEN
        parts.append(missing)
    return verdict, " ".join(parts), numbers


def _judge_elsewhere(item: Item, evidence: Evidence) -> Judgement:
    """The verdict by another run's models, and what their other endpoint says."""
    other = evidence.elsewhere
    if other is None:
        command = f"make experiments ONLY={item.id}"
        return OPEN, f"Not measured: no model of the run {item.other_run} is there ({command}).", {}
    verdict, sentence, numbers = _judge_record(item, _record_of(item, other), other, other.pairs)
    meaning = replace(item, endpoint=NDCG)
    record = _record_of(meaning, other)
    if record.get("seeds") and "undecided" not in record:
        numbers |= {NDCG: {name: record[name] for name in FIELDS if name in record}}
        sentence += f" {_what_is_higher(meaning, record, 'the same pairs')}"
    return verdict, sentence, numbers


def _conclusion(item: Item, is_better: bool, record: Mapping[str, Any]) -> str:
    """What a difference that is shown means, and of which models."""
    a, b = item.variants
    what = f"{a} is {'better' if is_better else 'worse'} than {b}"
    if item.endpoint == GAP:
        what = f"the gap of {a} is {'smaller' if is_better else 'larger'} than that of {b}"
    elif item.endpoint == CHANGE_HIDDEN:
        what = f"{a} loses {'less' if is_better else 'more'} than {b}"
    return f"{_of_which_models(record)} {what}{_agreement(record)}."


def _direction(record: Mapping[str, Any]) -> int:
    """1 if the first variant has significantly more, -1 if less, 0 if neither is shown."""
    if record["p"] >= SIGNIFICANCE or record["difference"] == 0:
        return 0
    return 1 if record["difference"] > 0 else -1


def _what_is_higher(item: Item, record: Mapping[str, Any], pairs: str) -> str:
    """Both values, the difference, its interval and p."""
    a, b = item.variants
    measure = MEASURES[item.endpoint]
    difference = record["difference"]
    relation = "more" if difference > 0 else "less"
    by_how_much = f"{measure.size(difference)} {relation}"
    if difference == 0:
        by_how_much = "no difference"
    interval = f"{measure.text(record['low'])} to {measure.text(record['high'])}"
    p = "p < 0.001" if record["p"] < 0.001 else f"p = {record['p']:.4f}"
    if "primary" in record and not record["primary"]:
        p += " after Holm's correction"
    values = f"{a} has {measure.text(record['a'])} and {b} {measure.text(record['b'])}"
    return (
        f"{measure.name} on {pairs}: {values}, {by_how_much} for {a} "
        f"(95 % interval of the difference {interval}, {p})."
    )


def _what_could_be_told(item: Item, record: Mapping[str, Any]) -> str:
    """What an open comparison shows nevertheless."""
    measure = MEASURES[item.endpoint]
    detectable = measure.size(record["detectable"])
    sentence = (
        f"{_of_which_models(record)} no difference is shown{_agreement(record)}. A true one of "
        f"{detectable} would be found with 80 % power."
    )
    if record.get("no_loss") and measure.no_loss:
        sentence += f" A loss of {measure.no_loss} or more is excluded."
    return sentence


def _of_which_models(record: Mapping[str, Any]) -> str:
    """Which models a comparison is about: the beginning of a sentence."""
    seeds = record["seeds"]
    names = [name for name in record.get("seed_names", ()) if name]
    named = f" ({_listed(names, 'seed')})" if names else ""
    if seeds == 1:
        return f"Of these two trained models only{named}:"
    if record["of_these_models"]:
        return f"Of these {seeds} trained models of each only{named}:"
    return f"Over seeds, of which {seeds} of each are resampled{named}:"


def _agreement(record: Mapping[str, Any]) -> str:
    """With how many seeds the difference has its sign; "" of a single seed."""
    seeds = record["seeds"]
    if seeds == 1 or not record["difference"]:
        return ""
    agreeing = sum(value * record["difference"] > 0 for value in record["by_seed"])
    return f"; {agreeing} of the {seeds} seeds have a difference of this sign"


def _listed(names: Sequence[str], noun: str) -> str:
    """ "seed 0", "seeds 0 and 1", "seeds 0, 1 and 2"."""
    if len(names) == 1:
        return f"{noun} {names[0]}"
    return f"{noun}s {', '.join(names[:-1])} and {names[-1]}"


# How much training each had


def _lengths_of(variant: str, record: Mapping[str, Any], evidence: Evidence) -> list[Length]:
    """The lengths of a variant's trainings; empty unless they are known of all of them."""
    folders = [f"{variant}-seed{seed}" for seed in record.get("seed_names", ())]
    if not all(folder in evidence.lengths for folder in folders):
        return []
    return [evidence.lengths[folder] for folder in folders]


def _training(item: Item, record: Mapping[str, Any], evidence: Evidence) -> str:
    """For how many epochs each was trained, and with how many operations if they were counted."""
    a, b = item.variants
    of_a = _lengths_of(a, record, evidence)
    of_b = _lengths_of(b, record, evidence)
    if not of_a or not of_b:
        return "Nothing says for how long they were trained."
    a_took, b_took = lengths.mean(of_a), lengths.mean(of_b)
    operations_of_each = ""
    if a_took.flops and b_took.flops:
        both = f"{operations(a_took.flops)} and {operations(b_took.flops)}"
        operations_of_each = f" They took {both}."
    if [length.epochs for length in of_a] == [length.epochs for length in of_b]:
        return f"All were trained for {_epochs(of_a)}.{operations_of_each}"
    both = f"{a} was trained for {_epochs(of_a)}, {b} for {_epochs(of_b)}"
    return f"{both}.{operations_of_each}"


def _epochs(trained: Sequence[Length]) -> str:
    counts = [length.epochs for length in trained]
    if min(counts) != max(counts):
        return f"{min(counts):.3g} to {max(counts):.3g} epochs"
    return "1 epoch" if counts[0] == 1 else f"{counts[0]:.3g} epochs"


def _other_budget(item: Item, record: Mapping[str, Any], evidence: Evidence) -> str:
    """Why the budget does not allow the verdict that the numbers suggest; "" if it does.

    A variant that wins with less of what the experiment asks to be equal wins at equal, too.
    """
    a, b = item.variants
    of_a = _lengths_of(a, record, evidence)
    of_b = _lengths_of(b, record, evidence)
    asked = f"the experiment asks for {item.budget}, so the question stays open."
    if not of_a or not of_b:
        return asked.capitalize()
    measure = MEASURES[item.endpoint]
    is_a_ahead = (record["difference"] > 0) == measure.is_better_if_higher
    ahead, behind = (of_a, of_b) if is_a_ahead else (of_b, of_a)
    name = a if is_a_ahead else b
    if item.budget != EQUAL_COMPUTE:
        if lengths.mean(ahead).epochs <= lengths.mean(behind).epochs:
            return ""
        return f"{name} had more epochs; {asked}"
    return _more_compute(item, name, lengths.mean(ahead), lengths.mean(behind), asked)


def _more_compute(item: Item, name: str, ahead: Length, behind: Length, asked: str) -> str:
    """Why the winner `name` may have won by its compute; "" if it had no more than the other."""
    if ahead.flops and behind.flops:
        if ahead.flops < behind.flops or lengths.at_equal_compute([ahead, behind]):
            return ""
        return f"{name} had {ahead.flops / behind.flops:.2f} times the compute; {asked}"
    if ahead.epochs != behind.epochs:
        return f"Compute was not counted; {asked}"
    if name == item.cheaper:
        return ""
    if not item.cheaper:
        return f"These are equal epochs; {asked}"
    return f"An epoch of {name} takes more compute; {asked}"


def _few_seeds(item: Item, record: Mapping[str, Any]) -> str:
    """Why fewer models than the experiment asks for decide nothing; "" if there are enough."""
    asked = len(item.seeds)
    if record["seeds"] >= asked:
        return ""
    return f"The experiment asks for {asked} seeds of each, so the question stays open."


# What a step costs


def _judge_cost(item: Item, evidence: Evidence) -> Judgement:
    quantity = "seconds" if item.endpoint == TIME else "activations"
    rows = {}
    kinds = set()
    for row in evidence.steps:
        if row.get(quantity) and row["tokens"] == 128:
            rows[row["variant"], row["level"]] = row[quantity]
            kinds.add(row["kind"])
    needed = [("mcr", "none"), ("dual", "none")]
    if not all(key in rows for key in needed):
        return OPEN, "Not measured: run notebook 08 (`make efficiency`).", {}
    plain_dual = rows["dual", "none"]
    ratio = rows["mcr", "none"] / plain_dual
    largest = LARGEST_RATIO[item.endpoint]
    if abs(ratio - largest) <= NEAR * largest:
        verdict = OPEN
    else:
        verdict = SUPPORTED if ratio < largest else NOT_SUPPORTED
    numbers = {"ratio": ratio, "claimed": largest}
    if item.endpoint == TIME:
        what = f"takes {ratio:.2f} of the time of dual's, forward and backward"
        how = f" Timed: {evidence.timed}."
    else:
        what = f"keeps {ratio:.2f} of dual's activations for the backward pass"
        how = f"{_with_recomputation(rows, numbers)} Memory: {', '.join(sorted(kinds))}."
    if verdict == OPEN:
        claimed = f"{largest:g} is claimed, too near to tell"
    else:
        claimed = f"{largest:g} is claimed"
    sentence = (
        f"A training step of mcr at the paper's size, without recomputation, {what}; {claimed}."
    )
    return verdict, sentence + how, numbers


def _with_recomputation(rows: Mapping[tuple[str, str], float], numbers: dict[str, Any]) -> str:
    """What recomputation adds to the method's saving, which the numbers then hold, too."""
    lean_mcr = rows.get(("mcr", "selective"))
    lean_dual = rows.get(("dual", "selective"))
    if not lean_mcr or not lean_dual:
        return ""
    of_plain = lean_mcr / rows["dual", "none"]
    of_lean = lean_mcr / lean_dual
    numbers |= {"selective_over_plain": of_plain, "both_selective": of_lean}
    return (
        f" With selective recomputation, which any method can use, mcr keeps {of_plain:.2f} of "
        f"what dual keeps without it, and {of_lean:.2f} of what dual keeps with it."
    )


# With less and with more compute


def _judge_computes(item: Item, evidence: Evidence) -> Judgement:
    records = [record for record in evidence.computes if record["seeds"]]
    needed = len(item.beginnings) * (len(item.variants) - 1)
    if len(records) < needed:
        sentence = f"{len(records)} of {needed} comparisons are there; run `make experiments`."
        return OPEN, f"Not measured: {sentence}", {}
    undecided = [record["undecided"] for record in records if "undecided" in record]
    if undecided:
        sentence = f"On {evidence.pairs} nothing can be decided: {undecided[0]}."
        return CANNOT_BE_TOLD, sentence, {}
    measure = MEASURES[item.endpoint]
    numbers = {}
    parts = []
    for record in records:
        name = f"{record['variants'][1]} at {record['times']:g}"
        numbers[name] = {field: record[field] for field in FIELDS if field in record}
        parts.append(f"{name} {_beside(record, measure)}")
    first = item.variants[0]
    sentence = (
        f"{measure.name} on {evidence.pairs}, {first} beside each of the others at a multiple of "
        f"the run's compute, with the 95 % interval of the difference: {'; '.join(parts)}. This is "
        "about these trained models only."
    )
    missing = _unequal_compute(records) or _too_few(item, records)
    if missing:
        return OPEN, f"{sentence} {missing}", numbers
    return _verdict_on_all(records), sentence, numbers


def _beside(record: Mapping[str, Any], measure: Measure) -> str:
    """What the first variant has, beside what the other has."""
    interval = f"{measure.text(record['low'])} to {measure.text(record['high'])}"
    outcome = {1: "more", -1: "less", 0: "no difference shown"}[_direction(record)]
    return f"{measure.text(record['a'])} to {measure.text(record['b'])} ({outcome}; {interval})"


def _verdict_on_all(records: Sequence[Mapping[str, Any]]) -> str:
    """Supported if the first variant has more in all comparisons, not if it has less in any."""
    directions = [_direction(record) for record in records]
    if all(direction > 0 for direction in directions):
        return SUPPORTED
    if any(direction < 0 for direction in directions):
        return NOT_SUPPORTED
    return OPEN


def _unequal_compute(records: Sequence[Mapping[str, Any]]) -> str:
    if all(record["at_equal_compute"] for record in records):
        return ""
    return "Not all had equal compute, which the experiment asks for, so the question stays open."


def _too_few(item: Item, records: Sequence[Mapping[str, Any]]) -> str:
    """As `_few_seeds`, of the comparison that has the fewest."""
    fewest = min(records, key=lambda record: record["seeds"])
    return _few_seeds(item, fewest)


# With fewer pairs


def _judge_growth(item: Item, evidence: Evidence) -> Judgement:
    points = evidence.growth.get("points", ())
    slopes = evidence.growth.get("slopes", ())
    compared = [
        record
        for record in evidence.growth.get("comparisons", ())
        if record["variants"] == list(item.variants)
    ]
    needed = len(item.beginnings) * len(item.variants)
    if not compared:
        sentence = f"{len(points)} of {needed} points are there, or no seed has all sizes"
        return OPEN, f"Not measured: {sentence}; run `make experiments`.", {}
    records = {record["endpoint"]: record for record in compared}
    of_recall = records[RSUM]
    if "undecided" in of_recall:
        sentence = f"On {evidence.pairs} nothing can be decided: {of_recall['undecided']}."
        return CANNOT_BE_TOLD, sentence, {}
    numbers = {name: of_recall[name] for name in FIELDS if name in of_recall}
    numbers["slopes"] = {f"{record['variant']} {record['endpoint']}": record for record in slopes}
    sizes = sorted({point["pairs"] for point in points})
    parts = [_slope(record) for record in slopes]
    sentence = (
        f"From {sizes[0]:,} to {sizes[-1]:,} training pairs, tested on {evidence.pairs}, twice as "
        f"many pairs give, with 95 % intervals: {'; '.join(parts)}. {_slopes_apart(of_recall)}"
    )
    verdict = {1: SUPPORTED, -1: NOT_SUPPORTED, 0: OPEN}[_direction(of_recall)]
    missing = _unequal_at_a_size(points) or _few_seeds(item, of_recall)
    if verdict != OPEN and missing:
        return OPEN, f"{sentence} {missing}", numbers
    return verdict, sentence, numbers


def _slope(record: Mapping[str, Any]) -> str:
    """What twice as many pairs give a variant."""
    measure = MEASURES[record["endpoint"]]
    value = measure.text(record["slope"])
    interval = f"{measure.text(record['low'])} to {measure.text(record['high'])}"
    return f"{record['variant']} {value} points of {measure.name} ({interval})"


def _slopes_apart(record: Mapping[str, Any]) -> str:
    """Whether one variant's RSUM grows faster."""
    a, b = record["variants"]
    measure = MEASURES[RSUM]
    interval = f"{measure.text(record['low'])} to {measure.text(record['high'])}"
    outcome = {1: "faster than", -1: "more slowly than", 0: "no faster or slower, as far as shown,"}
    grows = outcome[_direction(record)]
    if _direction(record) == 0:
        grows += " than"
    return (
        f"{_of_which_models(record)} RSUM of {a} grows {grows} that of {b} (difference "
        f"{measure.text(record['difference'])} points a doubling, {interval})."
    )


def _unequal_at_a_size(points: Sequence[Mapping[str, Any]]) -> str:
    """Why the variants' compute decides nothing; "" if it was equal at each number of pairs."""
    for pairs in {point["pairs"] for point in points}:
        own = [point for point in points if point["pairs"] == pairs]
        counted = [lengths.length_of(point) for point in own if point.get("flops")]
        if len(counted) < len(own) or not lengths.at_equal_compute(counted):
            return (
                "Not all had equal compute, which the experiment asks for, so the question stays "
                "open."
            )
    return ""


# Other people's methods


def _judge_others(item: Item, evidence: Evidence) -> Judgement:
    if evidence.is_drawn:
        sentence = (
            "Drawn pairs are no radiographs: no method was published with results on them, and "
            "none can be called the state of the art by them."
        )
        return CANNOT_BE_TOLD, sentence, {}
    (own,) = item.variants
    records = []
    for record in evidence.comparisons:
        other = record["variants"][1]
        is_other = other not in config.VARIANTS and other not in BASELINES
        if record["variants"][0] == own and is_other and record["endpoint"] == item.endpoint:
            records.append(record)
    with_seeds = [record for record in records if record["seeds"]]
    measured = [record for record in with_seeds if "undecided" not in record]
    if with_seeds and not measured:
        reason = with_seeds[0]["undecided"]
        return CANNOT_BE_TOLD, f"On {evidence.pairs} nothing can be decided: {reason}.", {}
    if not measured:
        return OPEN, f"Not measured: no other method's embeddings are there beside {own}'s.", {}
    return _against_all(item, measured, evidence)


def _against_all(item: Item, records: Sequence[Mapping[str, Any]], evidence: Evidence) -> Judgement:
    """The verdict against several other methods at once."""
    (own,) = item.variants
    measure = MEASURES[item.endpoint]
    numbers = {}
    parts = []
    for record in records:
        other = record["variants"][1]
        numbers[other] = {name: record[name] for name in FIELDS if name in record}
        outcome = {1: "more", -1: "less", 0: "no difference shown"}[_direction(record)]
        interval = f"{measure.text(record['low'])} to {measure.text(record['high'])}"
        parts.append(f"{other} {measure.text(record['b'])} ({outcome}; {interval})")
    verdict = _verdict_on_all(records)
    own_value = measure.text(records[0]["a"])
    sentence = (
        f"{measure.name} on {evidence.pairs}: {own} has {own_value}; the others, with what {own} "
        f"has beside each and the 95 % interval of the difference: {', '.join(parts)}. "
        f"This is about these trained models only, and says nothing of methods that are not here."
    )
    return verdict, sentence, numbers


# Of a run


def decide(run: str) -> Numbers:
    """Judge every item of the registry by a run's numbers; the values are `judge`'s records.

    The comparisons are made first if they are missing or out of date; without embeddings there are
    none, and what needs them was not measured.
    """
    folder = config.ROOT / "results" / run
    if any(folder.glob("*/embeddings-test.npz")):
        analyses.compare_endpoints(run)
    if any(folder.glob("*/embeddings-validate.npz")):
        analyses.compare_gaps(run)
    domain.measure(run)
    inputs = claim_inputs(run)
    file = folder / FILE
    if not results.is_current(file, inputs):
        evidence = gather(run)
        records = [judge(item, evidence) for item in experiments.ITEMS]
        results.save(file, records, inputs=inputs, run=run)
    return Numbers.load(file)


def claim_inputs(run: str) -> dict[str, str]:
    """What the verdicts are made from: numbers, records of training, and the rules."""
    folder = config.ROOT / "results" / run
    inputs = {"registry": experiments.digest(), "rules": sha256(Path(__file__))[:16]}
    names = (
        analyses.COMPARISON,
        analyses.GAP_COMPARISON,
        EFFICIENCY,
        scaling.FILE,
        robustness.FILE,
        domain.FILE,
        growth.FILE,
    )
    files = [folder / name for name in names]
    for record in ("history.csv", "training.json"):
        files += sorted(folder.glob(f"*/{record}"))
    for file in files:
        if file.is_file():
            inputs[str(file.relative_to(folder))] = sha256(file)[:16]
    return inputs


def gather(run: str) -> Evidence:
    """The saved numbers of a run; what is missing stays empty."""
    folder = config.ROOT / "results" / run
    is_drawn = analyses.is_drawn(run)
    comparison = _loaded(folder / analyses.COMPARISON)
    gap = _loaded(folder / analyses.GAP_COMPARISON)
    efficiency = _loaded(folder / EFFICIENCY)
    scaled = _loaded(folder / scaling.FILE)
    corrupted = _loaded(folder / robustness.FILE)
    grown = _loaded(folder / growth.FILE)
    trained = {}
    for model in sorted(folder.glob("*-seed*/")):
        length = lengths.of_model(model)
        if length is not None:
            trained[model.name] = length
    return Evidence(
        pairs=_pairs(comparison or scaled or grown, "test", is_drawn),
        validation_pairs=_pairs(gap, "validation", is_drawn),
        is_drawn=is_drawn,
        comparisons=[*comparison.get("values", ()), *_of_hidden_patches(corrupted)],
        gap=gap["values"] if gap else {},
        steps=efficiency["values"]["steps"] if efficiency else (),
        timed=_timed(efficiency),
        computes=scaled["values"]["comparisons"] if scaled else (),
        growth=grown["values"] if grown else {},
        elsewhere=_elsewhere(_loaded(folder / domain.FILE)),
        lengths=trained,
    )


def _of_hidden_patches(corrupted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The comparisons of notebook 13 that items ask for, with the items' endpoints."""
    if not corrupted:
        return
    for record in corrupted["values"]["differences"]:
        endpoint = ENDPOINTS_OF_HIDDEN.get(record["endpoint"])
        if endpoint and record["condition"] == HALF_HIDDEN:
            yield {**record, "endpoint": endpoint}


def _elsewhere(found: Mapping[str, Any]) -> Evidence | None:
    """What the models of another domain say; None if there are none."""
    if not found:
        return None
    pool = found["provenance"]["pool"]
    pairs = f"{pool:,} test pictures of scanned digits with sentences about them"
    values = found["values"]
    trained = {name: lengths.length_of(record) for name, record in values["lengths"].items()}
    return Evidence(pairs, "", True, comparisons=values["comparisons"], lengths=trained)


def _timed(efficiency: Mapping[str, Any]) -> str:
    """What was timed, and on which device."""
    if not efficiency:
        return ""
    device = efficiency["provenance"].get("device", "an unknown device")
    return f"{efficiency['values']['timed']}, on {device}"


def _loaded(file: Path) -> dict[str, Any]:
    """A file of numbers with its provenance; empty if it is not there."""
    return results.load(file) if file.is_file() else {}


def _pairs(record: Mapping[str, Any], split: str, is_drawn: bool) -> str:
    """Such as "500 drawn test pairs"."""
    pool = record.get("provenance", {}).get("pool", 0)
    drawn = "drawn " if is_drawn else ""
    noun = "pair" if pool == 1 else "pairs"
    return f"{pool:,} {drawn}{split} {noun}"


# As a page


HEADINGS = {"claim": "What the paper claims", "question": "What the notes ask"}


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """All verdicts in Markdown: the claim, the verdict, and what the numbers say."""
    return "\n\n".join(_paragraphs(records))


def _paragraphs(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for kind, heading in HEADINGS.items():
        yield f"### {heading}"
        for record in records:
            if record["kind"] == kind:
                claim = html.escape(record["claim"], quote=False)
                sentence = html.escape(record["sentence"], quote=False)
                yield f"**{claim}** *{record['verdict'].capitalize()}.* {sentence}"
