"""The registry: what is claimed or asked, and the experiment that answers it (ours).

Each item says which variants are compared, with which seeds, at which budget, by which number, and
what decides. The items were written when the reference run had one seed, and before a second was
trained: one seed decides none of them. The two about hidden patches came later, after that
one seed of both variants had been tried on them, which therefore cannot confirm them alone. `make
status RUN=...` says what of it is there, `make experiments RUN=...` runs it, and notebook 12 gives
the verdicts.
"""

import difflib
import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from mcrlib.config import DOUBLE, HALF, multiplied, preset

RSUM = "RSUM"
NDCG = "nDCG@10_without_partner"
GAP = "distance_of_means"
RSUM_HIDDEN = "RSUM_half_hidden"
CHANGE_HIDDEN = "RSUM_change_half_hidden"
SLOPE = "RSUM by doubling"
TIME = "time of a step"
MEMORY = "activations of a step"

EQUAL_COMPUTE = "equal compute"
EQUAL_EPOCHS = "equal epochs"
NO_TRAINING = "none"

SEEDS = (0, 1, 2)
# Beginnings of the names of the runs that have half, the same and twice the compute of a run.
COMPUTES = (HALF, "", DOUBLE)
COMPUTE_VARIANTS = ("mcr", "dual", "clip")
# Beginnings of the names of the runs with fewer pairs, and of the whole run.
SIZES = ("pairs-500-", "pairs-1000-", "pairs-2000-", "")
GROWTH_VARIANTS = ("mcr", "dual")
OTHER_DOMAIN = "digits"  # a run whose pairs are no radiographs
BETTER = "Supported if the difference is above 0 with p < 0.05, not supported if it is below."
SMALLER = "Supported if the difference is below 0 with p < 0.05, not supported if it is above."
HOLM = " Holm's method corrects p among all comparisons but the two of mcr with dual."
BUDGET = (
    " At another budget than the one named, a difference in favour of the variant that had more"
    " decides nothing, and neither do fewer seeds."
)

HIDDEN_SOURCE = "ours: the paper masks in training, and says nothing of masked input afterwards"


@dataclass(frozen=True)
class Item:
    """A claim or a question, and the experiment that answers it."""

    id: str
    kind: str  # "claim" of the paper or "question" of the notes
    sentence: str
    source: str  # where it is said
    variants: tuple[str, ...]  # to train: the first is compared with the others
    seeds: tuple[int, ...]
    budget: str
    endpoint: str
    rule: str
    notebook: str  # makes the numbers
    numbers: str  # their file in results/RUN
    cheaper: str = ""  # variant that takes less compute an epoch, "" if neither clearly does
    beginnings: tuple[str, ...] = ("",)  # of the names of the runs whose models it needs
    other_run: str = ""  # the run whose models it needs, whatever run is asked about

    @property
    def models(self) -> list[str]:
        """The models that the experiment needs, `VARIANT-seedS`."""
        return [f"{variant}-seed{seed}" for seed in self.seeds for variant in self.variants]

    def runs(self, run: str) -> list[str]:
        """The runs whose models answer it for `run`."""
        if self.other_run:
            return [self.other_run]
        return [f"{beginning}{run}" for beginning in self.beginnings]


def _comparison(
    id: str, kind: str, sentence: str, source: str, other: str, endpoint: str, **changes: str
) -> Item:
    """An item that `mcr` against another variant answers on the test split."""
    rule = BETTER + BUDGET
    if other != "dual":
        rule = BETTER + HOLM + BUDGET
    settings = {
        "budget": EQUAL_COMPUTE,
        "notebook": "03_retrieval",
        "numbers": "comparison.json",
        **changes,
    }
    return Item(
        id=id,
        kind=kind,
        sentence=sentence,
        source=source,
        variants=("mcr", other),
        seeds=SEEDS,
        endpoint=endpoint,
        rule=rule,
        **settings,
    )


ITEMS = (
    _comparison(
        "retrieval",
        "claim",
        "Masked input for both tasks retrieves better than the usual framework, which contrasts "
        "unmasked input.",
        "abstract; Figure 1",
        "dual",
        RSUM,
        cheaper="mcr",
    ),
    _comparison(
        "meaning",
        "claim",
        "What is retrieved from masked input has more of the query's medical meaning than what "
        "the usual framework retrieves.",
        "abstract; Figure 5",
        "dual",
        NDCG,
        cheaper="mcr",
    ),
    _comparison(
        "retrieval-tokens",
        "claim",
        "Masked input retrieves better than the usual framework whose encoder keeps mask tokens.",
        "Figure 1a; the encoder's treatment of masked patches is not known to us",
        "dual-token",
        RSUM,
        cheaper="mcr",
    ),
    _comparison(
        "alignment-retrieval",
        "claim",
        "Mapping before aggregation retrieves better than aggregation before mapping.",
        "abstract; ablation of the alignment",
        "abm",
        RSUM,
        budget=EQUAL_EPOCHS,
    ),
    _comparison(
        "alignment-meaning",
        "claim",
        "Mapping before aggregation keeps more fine-grained meaning than aggregation before "
        "mapping.",
        'abstract ("preserve fine-grained semantic information"); Figure 5',
        "abm",
        NDCG,
        budget=EQUAL_EPOCHS,
    ),
    Item(
        id="modality-gap",
        kind="claim",
        sentence="The modality gap is smaller under mapping before aggregation.",
        source="Figure 4",
        variants=("mcr", "abm"),
        seeds=SEEDS,
        budget=EQUAL_EPOCHS,
        endpoint=GAP,
        rule=SMALLER + BUDGET,
        notebook="12_claims",
        numbers="gap_comparison.json",
    ),
    Item(
        id="time",
        kind="claim",
        sentence="Training takes half of the usual framework's time.",
        source='notes ("50 % training time improvement"); the abstract says "substantially"',
        variants=(),
        seeds=(),
        budget=NO_TRAINING,
        endpoint=TIME,
        rule="Supported if a step of mcr takes at most 0.5 of a step of dual, neither recomputing.",
        notebook="08_efficiency",
        numbers="efficiency.json",
    ),
    Item(
        id="memory",
        kind="claim",
        sentence="Training takes a quarter of the usual framework's GPU memory.",
        source='notes ("75 % memory reduction"); the abstract says "substantially"',
        variants=(),
        seeds=(),
        budget=NO_TRAINING,
        endpoint=MEMORY,
        rule="Supported if mcr saves at most 0.25 of dual's activations, neither recomputing.",
        notebook="08_efficiency",
        numbers="efficiency.json",
    ),
    Item(
        id="state-of-the-art",
        kind="claim",
        sentence="Masked contrastive reconstruction retrieves better than other people's methods.",
        source="abstract; comparison table",
        variants=("mcr",),
        seeds=SEEDS,
        budget=NO_TRAINING,
        endpoint=RSUM,
        rule="Supported if mcr is better than each of them on real pairs, by the rule of "
        "`retrieval` with Holm's correction. Drawn pairs cannot tell.",
        notebook="03_retrieval",
        numbers="comparison.json",
    ),
    _comparison(
        "reconstruction",
        "question",
        "Does the reconstruction help the retrieval, or would masked contrast alone do?",
        "notes, limitations: what the improvement comes from is not isolated",
        "flip",
        RSUM,
        cheaper="flip",
    ),
    _comparison(
        "contrast-alone",
        "question",
        "Does masked contrastive reconstruction retrieve better than plain contrast alone?",
        "notes, limitations: what the improvement comes from is not isolated",
        "clip",
        RSUM,
    ),
    Item(
        id="compute",
        kind="question",
        sentence="Does masked contrastive reconstruction retrieve better than the usual framework "
        "and than plain contrast with half and with twice the compute, too?",
        source="notes, limitations: how the comparison depends on the length of training",
        variants=COMPUTE_VARIANTS,
        seeds=SEEDS,
        budget=EQUAL_COMPUTE,
        endpoint=RSUM,
        rule="Supported if mcr is above each of the others at each compute, not supported if it is "
        "below any at any, with p < 0.05 after Holm's correction among all of them. Fewer seeds or "
        "unequal compute decide nothing.",
        notebook="07_ablations",
        numbers="compute.json",
        beginnings=COMPUTES,
    ),
    _comparison(
        "hidden-retrieval",
        "question",
        "Does a model trained on masked input retrieve better than the usual framework when half "
        "of the picture is hidden?",
        HIDDEN_SOURCE,
        "dual",
        RSUM_HIDDEN,
        cheaper="mcr",
        notebook="13_robustness",
        numbers="robustness.json",
    ),
    _comparison(
        "hidden-loss",
        "question",
        "Does a model trained on masked input lose less when half of the picture is hidden than "
        "the usual framework?",
        HIDDEN_SOURCE,
        "dual",
        CHANGE_HIDDEN,
        cheaper="mcr",
        notebook="13_robustness",
        numbers="robustness.json",
    ),
    Item(
        id="scale",
        kind="question",
        sentence="How does retrieval grow with the number of pairs, and does that of masked "
        "contrastive reconstruction grow faster than that of the usual framework?",
        source="notes, limitations: how the comparison depends on the size of the data",
        variants=GROWTH_VARIANTS,
        seeds=SEEDS,
        budget=EQUAL_COMPUTE,
        endpoint=SLOPE,
        rule="Supported if the slope of RSUM over log2 of the training pairs is larger for mcr "
        "with p < 0.05, not supported if it is smaller. All sizes have as many steps and the same "
        "test pairs. Fewer seeds or unequal compute decide nothing.",
        notebook="07_ablations",
        numbers="scale.json",
        beginnings=SIZES,
    ),
    Item(
        id="domain",
        kind="question",
        sentence="Does mapping before aggregation help outside of radiographs?",
        source="notes, limitations: other modalities and domains were not tried",
        variants=("mcr", "abm"),
        seeds=SEEDS,
        budget=EQUAL_EPOCHS,
        endpoint=RSUM,
        rule=f"{BETTER} The pairs are scanned digits and sentences about them (run digits), "
        f"whatever the run.{HOLM}{BUDGET}",
        notebook="12_claims",
        numbers="domain.json",
        other_run=OTHER_DOMAIN,
    ),
)


def chosen(only: str = "") -> list[Item]:
    """The items named in `only`, with spaces between, or all. Raises ValueError for other names."""
    by_id = {item.id: item for item in ITEMS}
    for name in only.split():
        if name not in by_id:
            close = difflib.get_close_matches(name, by_id, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(by_id)}."
            raise ValueError(f"There is no experiment {name!r}; {hint}")
    return [by_id[name] for name in only.split() or by_id]


def overrides_of(run: str, asked: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The settings for the models of `run`, if those for the run `asked` about are `overrides`."""
    if preset(run) != preset(asked):
        return {}  # they were not meant for another run
    return multiplied(overrides, run)


def digest() -> str:
    """Hash of all items: verdicts record by which rules they were reached."""
    text = repr([asdict(item) for item in ITEMS])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
