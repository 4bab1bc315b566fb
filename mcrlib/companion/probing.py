"""Ask trained models the probes of a run's test pairs: `evaluation.probes` says what these are
(ours).

Drawn pairs are asked about their minimal pairs, all others about reports with a word swapped; every
picture is compared with the prompts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy import ndarray as Array

from mcrlib.config import Config
from mcrlib.data import reports, sources
from mcrlib.data.dataset import Dataset
from mcrlib.evaluation import probes
from mcrlib.evaluation.probes import Scores


class Choice(NamedTuple):
    """One minimal pair: two reports, of which the first fits the picture better than the second,
    or two pictures and one report."""

    fits: tuple[str, str]  # picture (of `Probes.pictures`) and report
    other: tuple[str, str]


class Probes(NamedTuple):
    """What models are asked about N pairs."""

    pictures: dict[str, Callable[[], Array]]  # name -> what draws it: uint8 [S, S]
    choices: list[dict[str, Choice]]  # of each pair, by kind


def ask(model: Any, settings: Config, dataset: Dataset, image: Any) -> Scores:
    """The model's scores for the probes of the test split.

    `model` has `embed_images` and `embed_reports`, which give unit rows; image [N, E] are those of
    the split's own pictures. The settings are those that the data set was prepared with. Of pairs
    that were drawn with others, only the prompts are asked.
    """
    rows = dataset.indices("test")
    pair_id = dataset.frame["pair_id"].iloc[rows].tolist()
    own = dataset.frame["report"].iloc[rows].tolist()
    pictures, choices = _of_pairs(settings, dataset.info["source"], pair_id, own)
    image_of = dict(zip(pair_id, np.asarray(image), strict=True))
    image_of |= _embedded_pictures(model, pictures)
    report_of = _embedded_reports(model, _texts(choices))
    margins = {}
    for kind in probes.KINDS:
        values = [_margin(of_pair.get(kind), image_of, report_of) for of_pair in choices]
        if not np.isnan(values).all():
            margins[kind] = np.array(values, dtype=np.float32)
    return Scores(pair_id, margins, _prompt_scores(np.asarray(image), report_of))


def _of_pairs(
    settings: Config, source: str, pair_id: Sequence[str], own_reports: Sequence[str]
) -> Probes:
    """The probes of some pairs of the test split."""
    edits = sources.find_edits(source)
    if edits is None:
        choices = []
        for name, report in zip(pair_id, own_reports, strict=True):
            choices.append(_of_report(name, report))
        return Probes({}, choices)
    pictures = {}
    choice_of = {}
    own_of = dict(zip(pair_id, own_reports, strict=True))
    for drawn in edits.of_split(settings, "test"):
        own = reports.text_of(drawn.report, settings.policy)
        if own_of.get(drawn.pair_id) != own:
            continue  # not drawn into the sample, or drawn with other settings
        choice_of[drawn.pair_id] = _of_drawn(drawn, settings.policy)
        if drawn.poorer is not None:
            pictures[_poorer_name(drawn.pair_id)] = drawn.poorer.picture
    return Probes(pictures, [choice_of.get(name, {}) for name in pair_id])


def _of_report(name: str, report: str) -> dict[str, Choice]:
    """By kind, a report against itself with a word swapped."""
    rng = np.random.default_rng(crc32(name.encode()))
    choices = {}
    for kind, edited in probes.swaps(report, rng).items():
        choices[kind] = Choice((name, report), (name, edited))
    return choices


def _of_drawn(drawn: Any, policy: str) -> dict[str, Choice]:
    """By kind, the choices of a drawn pair, of `phantom.edits.MinimalPairs`; its reports are read
    as those of the data set were."""
    name = drawn.pair_id
    choices = {}
    for kind, edit in drawn.edits.items():
        true = reports.text_of(edit.true, policy)
        edited = reports.text_of(edit.edited, policy)
        if true != edited:  # a policy may leave out the only section that differs
            choices[kind] = Choice((name, true), (name, edited))
    if drawn.poorer is None:
        return choices
    own = reports.text_of(drawn.report, policy)
    poorer = reports.text_of(drawn.poorer.report, policy)
    poorer_name = _poorer_name(name)
    if poorer != own:
        choices[probes.OMISSION] = Choice((name, own), (name, poorer))
        choices[probes.INSERTION] = Choice((poorer_name, poorer), (poorer_name, own))
        choices[probes.PICTURE_LESS] = Choice((name, own), (poorer_name, own))
        choices[probes.PICTURE_MORE] = Choice((poorer_name, poorer), (name, poorer))
    return choices


def _poorer_name(name: str) -> str:
    """How the picture with one finding less is called."""
    return f"{name}, poorer"


def _texts(choices: Iterable[Mapping[str, Choice]]) -> list[str]:
    """Every report of the choices and every prompt, each once."""
    texts = {}
    for of_pair in choices:
        for choice in of_pair.values():
            texts |= dict.fromkeys((choice.fits[1], choice.other[1]))
    for finding in probes.PROMPTED:
        for prompt in probes.prompts(finding):
            texts |= dict.fromkeys(prompt)
    return list(texts)


def _embedded_pictures(model: Any, pictures: Mapping[str, Callable[[], Array]]) -> dict[str, Array]:
    if not pictures:
        return {}
    drawn = np.stack([draw() for draw in pictures.values()])
    return dict(zip(pictures, np.asarray(model.embed_images(drawn)), strict=True))


def _embedded_reports(model: Any, texts: list[str]) -> dict[str, Array]:
    return dict(zip(texts, np.asarray(model.embed_reports(texts)), strict=True))


def _margin(
    choice: Choice | None, image_of: Mapping[str, Array], report_of: Mapping[str, Array]
) -> float:
    """The cosine of what fits minus that of what does not; NaN without a choice."""
    if choice is None:
        return np.nan
    cosines = []
    for picture, report in choice:
        cosines.append(image_of[picture] @ report_of[report])
    fits, other = cosines
    return fits - other


def _prompt_scores(image: Array, report_of: Mapping[str, Array]) -> dict[str, Array]:
    """Finding -> cosine with "X." minus that with "No X.", [N], the mean over its prompts."""
    scores = {}
    for finding in probes.PROMPTED:
        differences = []
        for assertion, denial in probes.prompts(finding):
            differences.append(image @ report_of[assertion] - image @ report_of[denial])
        scores[finding] = np.mean(differences, axis=0)
    return scores
