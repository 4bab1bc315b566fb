"""Minimal pairs and zero-shot prompts: does a model notice one thing? (ours)

*Minimal pairs.* A model that compares a true report with one that is wrong in one thing should give
the true one the higher cosine with the picture; equal cosines are lost. Chance is 50 %. Drawn pairs
have edits of every kind, and pictures with one finding less. In other reports only single words can
be swapped safely (`swaps`): left and right, upper and lower, small and large, mild and severe.

*Zero-shot.* A picture's score for a finding is its cosine with the prompt "X." minus that with
"No X.". AUROC says how well it tells pictures with the finding from those without.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from mcrlib.evaluation import findings, retrieval
from mcrlib.evaluation.finding_rules import NO_FINDING, PRESENT, Mention, split_into_sentences
from mcrlib.evaluation.relevance import Resampling, Share, Statistic

# Kinds of minimal pairs, in the order of tables.
NEGATION = "negation"
SWAPS = {
    "side": {"left": "right", "right": "left"},
    "zone": {"upper": "lower", "lower": "upper"},
    "severity": {"small": "large", "large": "small", "mild": "severe", "severe": "mild"},
}
OMISSION = "omission"
INSERTION = "insertion"
PICTURE_LESS = "picture_less"
PICTURE_MORE = "picture_more"
KINDS = (NEGATION, *SWAPS, OMISSION, INSERTION, PICTURE_LESS, PICTURE_MORE)

# What prompts call a finding, if not by its name; of several words the scores are averaged.
PROMPT_WORDS = {
    "Enlarged Cardiomediastinum": ("enlarged cardiomediastinum", "mediastinal widening"),
    "Lung Opacity": ("lung opacity", "hazy opacity"),
    "Lung Lesion": ("lung lesion", "cavitary lesion"),
    "Edema": ("pulmonary edema",),
    "Fracture": ("rib fracture",),
    "Support Devices": ("pacemaker", "endotracheal tube", "central line", "chest tube"),
}
NOT_PROMPTED = (NO_FINDING, "Pleural Other")  # no report names a catch-all
PROMPTED = tuple(name for name in findings.FINDINGS if name not in NOT_PROMPTED)


@dataclass(frozen=True)
class Scores:
    """What a model says to the probes of N pairs; NaN where a pair has no probe of a kind."""

    pair_id: list[str]
    true: dict[str, Array]  # kind -> cosines [N] of the picture with what is true of it
    edited: dict[str, Array]  # kind -> cosines [N] with what is wrong in one thing
    prompts: dict[str, Array]  # finding -> cosine with "X." minus that with "No X.", [N]


# Swapping words


def swaps(report: str, rng: np.random.Generator) -> dict[str, str]:
    """Kind -> the report with one finding on the other side, in the other zone or of the opposite
    severity, a word for a word wherever the report says so.

    Only what can be done safely is there: a sentence about the finding has just one word of the
    kind, and in the edited report `findings.mentions` reads the new value and nothing else anew.
    Among several findings `rng` chooses. Raises TypeError if the report is not text.
    """
    mentions = findings.mentions(report)
    edited = {}
    for kind in SWAPS:
        possible = []
        for finding, value in _values(mentions, kind):
            text = _swapped(report, mentions, finding, kind, value)
            if text is not None:
                possible.append(text)
        if possible:
            edited[kind] = possible[rng.integers(len(possible))]
    return edited


def _values(mentions: Sequence[Mention], kind: str) -> list[tuple[str, str]]:
    """Findings that are present, with each value of the kind that can be swapped."""
    named = []
    for mention in mentions:
        value = getattr(mention, kind)
        is_finding = mention.finding != NO_FINDING and mention.status == PRESENT
        if is_finding and value in SWAPS[kind]:
            named.append((mention.finding, value))
    return list(dict.fromkeys(named))


def _swapped(
    report: str, mentions: Sequence[Mention], finding: str, kind: str, value: str
) -> str | None:
    """The report with the opposite value of a finding; None if that cannot be done safely."""
    expected = []
    pieces = []
    copied = 0
    for sentence in split_into_sentences(report):
        end = sentence.start + len(sentence.text)
        inside = [mention for mention in mentions if sentence.start <= mention.start < end]
        text = sentence.text
        if any(_says(mention, finding, kind, value) for mention in inside):
            text = _with_one_word_swapped(text, kind, value)
            inside = [_with_opposite(mention, kind, value) for mention in inside]
        if text is None:
            return None
        pieces += [report[copied : sentence.start], text]
        copied = end
        expected += [_meaning(mention) for mention in inside]
    edited = "".join([*pieces, report[copied:]])
    found = [_meaning(mention) for mention in findings.mentions(edited)]
    return edited if found == expected else None


def _says(mention: Mention, finding: str, kind: str, value: str) -> bool:
    is_it = mention.finding == finding and mention.status == PRESENT
    return is_it and getattr(mention, kind) == value


def _with_opposite(mention: Mention, kind: str, value: str) -> Mention:
    if getattr(mention, kind) != value:
        return mention
    return mention._replace(**{kind: SWAPS[kind][value]})


def _with_one_word_swapped(sentence: str, kind: str, value: str) -> str | None:
    """The sentence with the opposite of `value`; None if it has not just one word of the kind."""
    any_word = "|".join(SWAPS[kind])
    found = list(re.finditer(rf"\b({any_word})\b", sentence, re.IGNORECASE))
    if len(found) != 1:
        return None
    (match,) = found
    word = match.group()
    if word.lower() != value:
        return None
    opposite = SWAPS[kind][value]
    if word.isupper():
        opposite = opposite.upper()
    elif word[0].isupper():
        opposite = opposite.capitalize()
    before = sentence[: match.start()]
    after = sentence[match.end() :]
    return before + opposite + after


def _meaning(mention: Mention) -> Mention:
    """The mention wherever it stands."""
    return mention._replace(start=0, end=0)


# Prompts


def prompts(finding: str) -> list[tuple[str, str]]:
    """The prompts that assert and deny a finding, such as ("Edema.", "No edema.")."""
    pairs = []
    for words in PROMPT_WORDS.get(finding, (finding.lower(),)):
        assertion = f"{words[0].upper()}{words[1:]}."
        pairs.append((assertion, f"No {words}."))
    return pairs


# Scores to measures


def accuracy(
    scores: Scores, patients: Sequence[Hashable] | None = None, draws: int = 1000, seed: int = 0
) -> dict[str, dict]:
    """Kind -> block of the share of probes whose true half has the higher cosine, ties lost.

    Blocks are those of `relevance`; `left_out` counts pairs without a probe of the kind. Kinds
    without any probe are left out. patients [N] are resampled.
    """
    shares = {}
    for kind in KINDS:
        if kind in scores.true:
            shares[kind] = _won(scores.true[kind], scores.edited[kind])
    return _resampling(scores, patients, draws, seed).blocks(shares) if shares else {}


def _won(true: Array, edited: Array) -> Share:
    margin = torch.as_tensor(true - edited, dtype=torch.double)
    is_asked = ~margin.isnan()
    is_won = margin > retrieval.TOLERANCE  # a comparison with NaN is false
    return Share(is_won.double(), is_asked.double())


def zero_shot(
    scores: Scores,
    has_finding: Mapping[str, Array],
    patients: Sequence[Hashable] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Finding -> block of its AUROC, and `positives`, the number of pairs that have it.

    has_finding: finding -> bool [N]; only findings that some pairs have and others have not, and
    that the model was asked for, are there.
    """
    statistics = {}
    for finding, is_there in has_finding.items():
        if finding in scores.prompts and 0 < sum(is_there) < len(is_there):
            by_picture = torch.as_tensor(scores.prompts[finding])
            by_draw = partial(aurocs, by_picture, torch.as_tensor(is_there))
            statistics[finding] = Statistic(by_draw, left_out=0)
    if not statistics:
        return {}
    blocks = _resampling(scores, patients, draws, seed).blocks(statistics)
    for finding, block in blocks.items():
        block["positives"] = int(sum(has_finding[finding]))
    return blocks


def aurocs(scores: Tensor, is_positive: Tensor, weights: Tensor) -> Tensor:
    """AUROC by draw, double [draws]: how often a positive has the higher score, equal ones half.

    scores [N]; is_positive, bool [N]; weights [draws, N] say how often each counts. NaN for a draw
    without positives or without negatives.
    """
    positives = weights[:, is_positive].double()
    negatives = weights[:, ~is_positive].double()
    ascending, order = scores[~is_positive].sort()
    counted = negatives.index_select(1, order).cumsum(1)
    counted = torch.nn.functional.pad(counted, (1, 0))
    of_positives = scores[is_positive]
    beaten = counted[:, torch.searchsorted(ascending, of_positives)]
    beaten_or_equal = counted[:, torch.searchsorted(ascending, of_positives, right=True)]
    won = (beaten + beaten_or_equal) / 2
    return (positives * won).sum(1) / (positives.sum(1) * negatives.sum(1))


def _resampling(scores: Scores, patients, draws: int, seed: int) -> Resampling:
    retrieval.check_numbers((1,), draws, seed)
    codes = retrieval.patient_codes_of(patients, len(scores.pair_id))
    return Resampling(codes, draws, seed)
