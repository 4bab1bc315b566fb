"""Does a model look where the finding is? (ours)

Each case is a finding in a picture, its place, and a phrase that names it. Two maps say what each
patch does for the cosine of picture and phrase (`mcrlib.explain`): exact contributions, if the
model has them, and occlusion, which every model has. Measures of a map, by method:

- `pointing`: whether the patch with the largest share has more than a tenth of its area in the
  finding's place. Chance is the share of the lungs' patches for which that holds.
- `auroc`: how well the map tells the pixels of the place from all others; 0.5 is guessing.
- `control`: `pointing` at the same place, asked for a finding that is absent. A map that shows
  what is conspicuous, whatever it is asked for, has as many hits here.
- `words`: whether, of the report's words, the one with the largest share in what the place
  contributes is among those that name the finding. Chance is their share of the words.

Erasing tests causes, whatever the map says. By how much does the cosine of picture and phrase fall

- `erased`: when the place is set to the picture's mean grey?
- `elsewhere`: when the same shape is set to it elsewhere, as far as possible in the lungs?
- `difference`: the first minus the second.
- `not_drawn`: when the picture is drawn without the finding? Of drawn pictures only.

Each measure is a block {"value", "low", "high", "left_out", "by_finding"}. The value is the mean
over findings of the mean over the cases of each, so that rare findings count as much as common
ones; `low` and `high` bound the 95 % interval from resampling patients. Cases without an answer,
such as a place that is too small for any patch, are left out.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.signal import fftconvolve
from torch import Tensor

from mcrlib import explain
from mcrlib.data import batches
from mcrlib.evaluation import retrieval
from mcrlib.explain import EXACT, METHODS, OCCLUSION, WordPlace
from mcrlib.model import MCR

HIT_AREA = 0.1  # a patch is in a place if more than this share of its area is
POINTING = "pointing"
AUROC = "auroc"
CONTROL = "control"
WORDS = "words"
MAP_MEASURES = (POINTING, AUROC, CONTROL, WORDS)
ERASURE = "erasure"  # a third key of the results, after EXACT and OCCLUSION
ERASED = "erased"
ELSEWHERE = "elsewhere"
DIFFERENCE = "difference"
NOT_DRAWN = "not_drawn"
ERASURE_MEASURES = (ERASED, ELSEWHERE, DIFFERENCE, NOT_DRAWN)
CHANCE = "chance"
NONE = math.nan  # the answer of a case that is left out


@dataclass(frozen=True)
class Case:
    """A finding in a picture. Pictures and masks are [S, S]."""

    pair: int  # row of its pair among the pairs that are measured
    finding: str
    phrase: str  # names the finding
    control: str  # names a finding that the picture does not have; "" if none is known
    place: Array  # bool, where the finding is
    lungs: Array | None  # bool; None if it is not known where they are
    own_words: list[tuple[int, int]]  # spans of the report's characters that name the finding
    picture_without: Array | None  # uint8, the same picture without the finding, if it is drawn

    @cached_property  # the same for all models
    def moved_place(self) -> Array | None:
        """The place's shape elsewhere in the picture; None if there is no room."""
        return elsewhere(self.place, self.lungs)


class _Seen(NamedTuple):
    """What a model makes of one pair, whatever it is asked. Rows of E numbers."""

    pixels: Tensor  # [1, H, W]
    image: Tensor  # [E]
    without_patch: Tensor  # [n, E]
    image_parts: Tensor | None  # [1+n, E]; None if the model has no exact contributions
    words: list[WordPlace]
    report: Tensor  # [E]
    without_word: Tensor  # [words, E]
    report_parts: Tensor | None  # [T, E]


def measure(
    model: MCR,
    cases: Sequence[Case],
    pictures: Array,
    reports: Sequence[str],
    patients: Sequence[Hashable],
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """EXACT (if the model has it), OCCLUSION and ERASURE -> measure -> block, JSON-ready.

    pictures uint8 [N, S, S], reports [N] and patients [N] are those of the pairs that the cases
    name. `draws` resamples of the patients give each interval. Raises ValueError without cases.
    """
    answers = _ask(model, cases, pictures, reports)
    return summarise(answers, cases, patients, draws, seed)


def chance(
    cases: Sequence[Case],
    side: int,
    reports: Sequence[str],
    model: MCR,
    patients: Sequence[Hashable],
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """What guessing gives: `pointing`, `control` and `words`, in the place of a model's result.

    `side` is the number of patches in a row of the picture; words are counted as `model` does.
    """
    pointing = [_chance_of_pointing(case, side) for case in cases]
    words = [_chance_of_words(case, reports[case.pair], model) for case in cases]
    guessed = {POINTING: pointing, CONTROL: pointing, WORDS: words}
    answers = {EXACT: guessed, OCCLUSION: guessed}
    return summarise(answers, cases, patients, draws, seed)


# The answers of a model


@torch.no_grad()
def _ask(
    model: MCR, cases: Sequence[Case], pictures: Array, reports: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Method -> measure -> the answer of each case."""
    model.eval()
    phrases = sorted({case.phrase for case in cases} | {case.control for case in cases})
    rows = model.embed_reports(phrases).to(model.log_scale.device)
    embedded = dict(zip(phrases, rows, strict=True))
    methods = METHODS if explain.is_exact(model) else (OCCLUSION,)
    answers = {name: _unanswered(MAP_MEASURES, len(cases)) for name in methods}
    answers[ERASURE] = _unanswered(ERASURE_MEASURES, len(cases))
    for pair, numbers in _by_pair(cases):
        seen = _look(model, pictures[pair], reports[pair])
        for number in numbers:
            case = cases[number]
            phrase = embedded[case.phrase]
            control = embedded[case.control] if case.control else None
            changed = _without(model, case, pictures[pair])
            _set(answers[ERASURE], number, _falls(seen.image @ phrase, changed, phrase))
            for name in methods:
                given = _map_answers(name, seen, case, phrase, control, changed[ERASED])
                _set(answers[name], number, given)
    return answers


def _set(answers: dict[str, list[float]], number: int, given: dict[str, float]) -> None:
    for name, value in given.items():
        answers[name][number] = value


def _unanswered(measures: Sequence[str], cases: int) -> dict[str, list[float]]:
    return {name: [NONE] * cases for name in measures}


def _by_pair(cases: Sequence[Case]) -> Iterator[tuple[int, list[int]]]:
    """Each pair, and the numbers of its cases."""
    numbers: dict[int, list[int]] = {}
    for number, case in enumerate(cases):
        numbers.setdefault(case.pair, []).append(number)
    yield from numbers.items()


def _look(model: MCR, picture: Array, report: str) -> _Seen:
    pixels = _pixels(model, picture)
    (ids,) = batches.tokenize(model.tokenizer, [report], model.config.max_tokens)
    tokens = torch.tensor([ids], device=pixels.device)
    present = torch.ones_like(tokens, dtype=torch.bool)
    words = explain.word_places(model.tokenizer, report, len(ids))
    image_parts = report_parts = None
    if explain.is_exact(model):
        (image_parts,) = explain.image_parts(model, pixels[None])
        (report_parts,) = explain.report_parts(model, tokens, present)
    return _Seen(
        pixels=pixels,
        image=model.project_images(pixels[None])[0],
        without_patch=explain.embed_without_patches(model, pixels),
        image_parts=image_parts,
        words=words,
        report=model.project_reports(tokens, present)[0],
        without_word=explain.embed_without_words(model, tokens, words),
        report_parts=report_parts,
    )


def _pixels(model: MCR, picture: Array) -> Tensor:
    """`[1, H, W]` of a picture uint8 [S, S], on the model's device."""
    squares = torch.from_numpy(np.array(picture))[None]
    (pixels,) = batches.to_pixels(squares, model.config.image_size)
    return pixels.to(model.log_scale.device)


def _without(model: MCR, case: Case, picture: Array) -> dict[str, Tensor]:
    """Embeddings [E] of the picture with its place erased, and otherwise changed, by measure."""
    changed = {ERASED: _greyed(picture, case.place)}
    if case.moved_place is not None:
        changed[ELSEWHERE] = _greyed(picture, case.moved_place)
    if case.picture_without is not None:
        changed[NOT_DRAWN] = case.picture_without
    pixels = torch.stack([_pixels(model, square) for square in changed.values()])
    return dict(zip(changed, model.project_images(pixels), strict=True))


def _greyed(picture: Array, mask: Array) -> Array:
    grey = round(float(picture.mean()))
    return np.where(mask, np.uint8(grey), picture)


def _falls(score: Tensor, changed: dict[str, Tensor], phrase: Tensor) -> dict[str, float]:
    falls = {name: (score - image @ phrase).item() for name, image in changed.items()}
    answers = {NOT_DRAWN: falls.get(NOT_DRAWN, NONE)}
    if ELSEWHERE in falls:  # the three are of the same cases, so that they can be compared
        answers[ERASED] = falls[ERASED]
        answers[ELSEWHERE] = falls[ELSEWHERE]
        answers[DIFFERENCE] = falls[ERASED] - falls[ELSEWHERE]
    return answers


def _map_answers(
    method: str,
    seen: _Seen,
    case: Case,
    phrase: Tensor,
    control: Tensor | None,
    erased: Tensor,
) -> dict[str, float]:
    """The measures of one method's map; `erased` [E] is the picture without the place."""
    shares = _map(method, seen, phrase)
    areas = patch_areas(case.place, round(len(shares) ** 0.5))
    answers = {
        POINTING: points_at(shares, areas),
        AUROC: pixel_auroc(shares, areas),
        CONTROL: NONE,
        WORDS: _largest_word_is_own(method, seen, case, areas, erased),
    }
    if control is not None:
        answers[CONTROL] = points_at(_map(method, seen, control), areas)
    return answers


def _map(method: str, seen: _Seen, phrase: Tensor) -> Array:
    """What each patch does for the cosine with a phrase [E]: [n], row by row."""
    if method == EXACT:
        shares = seen.image_parts[1:] @ phrase
    else:
        shares = seen.image @ phrase - seen.without_patch @ phrase
    return shares.double().cpu().numpy()


def _largest_word_is_own(
    method: str, seen: _Seen, case: Case, areas: Array, erased: Tensor
) -> float:
    """1 or 0: whether the word with the largest share in what the place gives names the finding.

    Exactly, the place gives the contributions of its patches. By occlusion, it gives the fall of
    the cosine when it is erased, and a word's share is the part of this fall that goes away if the
    word is hidden too.
    """
    own = _own_words(case, seen.words)
    in_place = areas > HIT_AREA
    if not any(own) or not in_place.any():
        return NONE
    if method == EXACT:
        of_place = seen.image_parts[1:][torch.from_numpy(in_place)].sum(dim=0)
        by_token = seen.report_parts @ of_place
        by_word = torch.stack([by_token[word.tokens].sum() for word in seen.words])
    else:
        by_word = (seen.report - seen.without_word) @ (seen.image - erased)
    return float(own[int(by_word.argmax())])


def _own_words(case: Case, words: Sequence[WordPlace]) -> list[bool]:
    """Whether each word of the report names the finding."""
    own = []
    for word in words:
        start, end = word.span
        own.append(any(first <= start and end <= last for first, last in case.own_words))
    return own


# Maps and places


def patch_areas(place: Array, side: int) -> Array:
    """The share of each patch's area that is in the place, bool [S, S]: [side * side]."""
    mask = torch.from_numpy(place).double()[None]
    return torch.nn.functional.adaptive_avg_pool2d(mask, side).flatten().numpy()


def points_at(shares: Array, areas: Array) -> float:
    """1 or 0: whether the patch with the largest share is in the place; the first of equal ones.
    NaN if no patch is."""
    if not (areas > HIT_AREA).any():
        return NONE
    return float(areas[shares.argmax()] > HIT_AREA)


def pixel_auroc(shares: Array, areas: Array) -> float:
    """How well the shares [n] of the patches tell the pixels of the place from all others.

    A pixel has the share of its patch; `areas` [n] are those of `patch_areas`. NaN if the place
    is empty or the whole picture.
    """
    inside = areas.sum()
    outside = (1.0 - areas).sum()
    if inside == 0.0 or outside == 0.0:
        return NONE
    is_above = shares[:, None] > shares
    is_tie = shares[:, None] == shares
    won = is_above + 0.5 * is_tie  # by each patch against each other one
    return float(areas @ won @ (1.0 - areas) / (inside * outside))


def elsewhere(place: Array, lungs: Array | None) -> Array | None:
    """The place's shape moved to where it does not touch the place: bool [S, S].

    It stays within the picture. Where it covers most of the lungs is best, and the nearest of the
    best is taken; without lungs, the nearest of all. None if there is no room.
    """
    size = len(place)
    rows, columns = np.nonzero(place)
    if not len(rows):
        return None
    moves = np.arange(1 - size, size)
    overlap = _overlaps(place, place)
    may_go_down = _stays_inside(rows, moves, size)
    may_go_right = _stays_inside(columns, moves, size)
    fits = may_go_down[:, None] & may_go_right & (overlap == 0)
    if not fits.any():
        return None
    distance = np.hypot(moves[:, None], moves) / (2 * size)  # always less than one pixel of lung
    preference = -distance
    if lungs is not None:
        preference = preference + _overlaps(lungs, place)
    best = np.where(fits, preference, -np.inf).argmax()
    down, right = np.unravel_index(best, overlap.shape)
    moved = np.zeros_like(place)
    moved[rows + moves[down], columns + moves[right]] = True
    return moved


def _stays_inside(positions: Array, moves: Array, size: int) -> Array:
    """For each move, whether all moved positions are from 0 to `size` - 1."""
    return (positions.min() + moves >= 0) & (positions.max() + moves < size)


def _overlaps(fixed: Array, moved: Array) -> Array:
    """Pixels that two masks [S, S] share, for each move of the second by 1 - S to S - 1 pixels down
    and to the right: [2 S - 1, 2 S - 1]."""
    shared = fftconvolve(fixed.astype(float), moved[::-1, ::-1].astype(float), mode="full")
    return shared.round()


def _chance_of_pointing(case: Case, side: int) -> float:
    """The share of the lungs' patches that are in the place; of all patches without lungs."""
    in_place = patch_areas(case.place, side) > HIT_AREA
    if not in_place.any():
        return NONE
    if case.lungs is None:
        return float(in_place.mean())
    return float(in_place[patch_areas(case.lungs, side) > HIT_AREA].mean())


def _chance_of_words(case: Case, report: str, model: MCR) -> float:
    (ids,) = batches.tokenize(model.tokenizer, [report], model.config.max_tokens)
    own = _own_words(case, explain.word_places(model.tokenizer, report, len(ids)))
    return float(np.mean(own)) if any(own) else NONE


# From cases to measures


def summarise(
    answers: dict[str, dict[str, list[float]]],
    cases: Sequence[Case],
    patients: Sequence[Hashable],
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Method -> measure -> block, from the answers of each case. Raises ValueError without cases.

    A measure that no case answers is left out.
    """
    retrieval.check_numbers((1,), draws, seed)
    if not cases:
        raise ValueError("There is no finding whose place is known, so there is nothing to ask.")
    codes = retrieval.patient_codes_of([patients[case.pair] for case in cases], len(cases))
    rng = np.random.default_rng(seed)
    weights = [torch.ones(1, len(cases)), *retrieval.resamples(codes, draws, rng)]
    observed_then_draws = torch.cat(weights).double()
    findings = [case.finding for case in cases]
    blocks: dict[str, dict] = {}
    for method, by_measure in answers.items():
        blocks[method] = {}
        for name, values in by_measure.items():
            of_cases = torch.tensor(values, dtype=torch.double)
            if not of_cases.isnan().all():
                blocks[method][name] = _macro(of_cases, findings, observed_then_draws)
    return blocks


def _macro(values: Tensor, findings: Sequence[str], weights: Tensor) -> dict:
    """The block of one measure: values [cases], NaN if left out, weights [1 + draws, cases]."""
    names = sorted(set(findings))
    is_of_finding = torch.from_numpy(np.array(findings)[:, None] == np.array(names))
    has_answer = ~values.isnan()
    counts = (is_of_finding & has_answer[:, None]).double()  # [cases, findings]
    answers = values.nan_to_num(0.0)
    sums = weights @ (counts * answers[:, None])
    by_finding = sums / (weights @ counts)  # [1 + draws, findings], NaN without a case
    block = _interval(by_finding.nanmean(dim=1))
    block["left_out"] = int(values.isnan().sum())
    block["by_finding"] = {}
    for column, name in enumerate(names):
        cases = int(counts[:, column].sum())
        if cases:
            own = _interval(by_finding[:, column])
            block["by_finding"][name] = own | {"cases": cases}
    return block


def _interval(observed_then_draws: Tensor) -> dict[str, float]:
    value, *draws = observed_then_draws.tolist()
    low = high = value
    if not np.isnan(draws).all():  # else no draw has a case
        low, high = np.nanquantile(draws, retrieval.INTERVAL).tolist()
    return {"value": value, "low": low, "high": high}
