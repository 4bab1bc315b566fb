"""What corrupted input costs a trained model at test time (ours).

A condition corrupts all pictures or all reports of the split, as queries and as candidates; the
other side, the pool and what counts as relevant stay as they are. Nothing is trained. The measures
are RSUM and nDCG@10 without the partner, as in `endpoints`, and the share of RSUM that is kept.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from mcrlib.data import batches
from mcrlib.evaluation import corruptions, endpoints, relevance, retrieval
from mcrlib.evaluation.attributes import Attributes
from mcrlib.evaluation.corruptions import (
    GREY_PATCHES,
    HALF_HIDDEN,
    HIDDEN_PATCHES,
    MISSING_SENTENCES,
    OTHER_VIEW,
    UNCHANGED,
    Condition,
)
from mcrlib.evaluation.relevance import NDCG_WITHOUT_PARTNER, RSUM, Share
from mcrlib.model import MCR

KEPT = "RSUM_kept"  # RSUM as a share of what the same pairs have unchanged
CHANGE = "RSUM_change"  # RSUM minus what the same pairs have unchanged
# Losses that "no loss" excludes, by endpoint
MARGINS = {**endpoints.MARGINS, CHANGE: endpoints.MARGINS[RSUM]}
BATCH = 64  # pictures embedded at once

# Measure -> its value for each pair [N]; NaN for pairs that a condition or measure leaves out
Values = dict[str, Array]


@dataclass(frozen=True)
class Pairs:
    """The N pairs of a split; row i of each belongs to pair i."""

    pair_ids: list[str]
    pictures: Array  # uint8 [N, S, S]
    reports: list[str]
    attributes: Sequence[Attributes]
    other_views: Mapping[int, Array]  # row -> the other view's picture, for rows that have one

    def conditions(self) -> list[Condition]:
        """All conditions that these pairs can be put in."""
        listed = corruptions.conditions()
        if self.other_views:
            return listed
        return [condition for condition in listed if condition.corruption != OTHER_VIEW]


def measure(model: MCR, pairs: Pairs) -> dict[str, Values]:
    """RSUM and nDCG of each pair, by the name of the condition."""
    by_condition = {}
    for condition, image, report in embed(model, pairs):
        values = endpoints.by_pair(image, report, pairs.attributes)
        if condition.corruption == OTHER_VIEW:
            is_left_out = ~np.isin(np.arange(len(image)), list(pairs.other_views))
            values = {name: np.where(is_left_out, np.nan, own) for name, own in values.items()}
        by_condition[condition.name] = values
    return by_condition


def embed(model: MCR, pairs: Pairs) -> Iterator[tuple[Condition, Tensor, Tensor]]:
    """Embeddings of images and reports, both `[N, E]` on the CPU, in each condition.

    The side that a condition does not change is embedded once.
    """
    whole_image = embed_pictures(model, pairs.pictures)
    whole_report = model.embed_reports(pairs.reports)
    for condition in pairs.conditions():
        if condition == UNCHANGED:
            yield condition, whole_image, whole_report
        elif condition.corruption == MISSING_SENTENCES:
            share = condition.strength
            shorter = corruptions.shorten_reports(pairs.reports, pairs.pair_ids, share)
            yield condition, whole_image, model.embed_reports(shorter)
        else:
            yield condition, _embed_corrupted(model, pairs, condition), whole_report


def _embed_corrupted(model: MCR, pairs: Pairs, condition: Condition) -> Tensor:
    """Embeddings `[N, E]` of the pictures in a condition."""
    if condition.corruption in (HIDDEN_PATCHES, GREY_PATCHES):
        side = model.config.image_size // model.config.patch_size
        kept = corruptions.kept_patches(pairs.pair_ids, side**2, condition.strength)
        if condition.corruption == HIDDEN_PATCHES:
            return embed_pictures(model, pairs.pictures, kept)
        painted = []
        for picture, of_picture in zip(pairs.pictures, kept, strict=True):
            painted.append(corruptions.paint_patches(picture, of_picture, side))
        return embed_pictures(model, np.stack(painted))
    if condition.corruption == OTHER_VIEW:
        pictures = np.array(pairs.pictures)
        for row, picture in pairs.other_views.items():
            pictures[row] = picture
        return embed_pictures(model, pictures)
    corrupted = corruptions.corrupt_pictures(condition, pairs.pictures, pairs.pair_ids)
    return embed_pictures(model, corrupted)


@torch.no_grad()
def embed_pictures(model: MCR, pictures: Array, kept: Array | None = None) -> Tensor:
    """Unit rows `[N, E]`, on the CPU, of pictures uint8 `[N, S, S]`; the encoder gets all patches,
    or those that `kept [N, k]` names.

    Every variant can leave patches out without being trained anew. The encoder of `dual-token` gets
    a mask token in the place of each hidden patch, as it does for its reconstruction in training.
    """
    model.eval()
    device = model.log_scale.device
    rows = []
    for start in range(0, len(pictures), BATCH):
        end = start + BATCH
        squares = torch.from_numpy(np.array(pictures[start:end]))
        pixels = batches.to_pixels(squares, model.config.image_size).to(device)
        own = None
        if kept is not None:
            own = torch.from_numpy(kept[start:end]).to(device)
        rows.append(model.project_images(pixels, own).float().cpu())
    return torch.cat(rows)


def summarise(
    values: Mapping[str, Values], patients: Sequence[Hashable], draws: int
) -> dict[str, dict[str, dict]]:
    """Condition -> measure -> {"value", "low", "high"}, of what `measure` gives for one model.

    `low` and `high` bound the 95 % interval from resampling patients [N], the pool staying whole.
    """
    measures = {}
    clean = torch.from_numpy(values[UNCHANGED.name][RSUM])
    for name, own in values.items():
        rsum = torch.from_numpy(own[RSUM])
        measures[name, RSUM] = relevance.mean_of(rsum)
        measures[name, KEPT] = _kept(rsum, clean)
        ndcg = torch.from_numpy(own[NDCG_WITHOUT_PARTNER])
        measures[name, NDCG_WITHOUT_PARTNER] = relevance.mean_of(ndcg)
    summary = {name: {} for name in values}
    for (name, measured), block in _blocks(measures, patients, draws).items():
        summary[name][measured] = block
    return summary


def _kept(rsum: Tensor, clean: Tensor) -> Share:
    """The share of the unchanged pairs' RSUM, both [N], over the pairs that a condition changes."""
    is_left_out = rsum.isnan()
    return Share(rsum.nan_to_num(0.0), clean.masked_fill(is_left_out, 0.0))


def summarise_groups(
    rsum: Array, groups: Mapping[str, Array], patients: Sequence[Hashable], draws: int
) -> dict[str, dict]:
    """Group -> {"value", "low", "high"}: RSUM over the queries of each group, in the whole pool.

    rsum [N] is that of each pair; groups hold bool [N].
    """
    measures = {}
    for name, is_member in groups.items():
        measures[name] = relevance.mean_of(torch.from_numpy(rsum), torch.from_numpy(is_member))
    return _blocks(measures, patients, draws)


def _blocks(measures: Mapping, patients: Sequence[Hashable], draws: int) -> dict:
    """The block of each measure, all from the same resampled patients."""
    codes = retrieval.patient_codes_of(patients, len(patients))
    blocks = relevance.Resampling(codes, draws, seed=0).blocks(measures)
    for block in blocks.values():
        del block["left_out"]
    return blocks


def compare(
    measured: Mapping[str, Mapping[str, Values]], patients: Sequence[Hashable], draws: int
) -> list[dict]:
    """Paired differences of `mcr` to each other variant, in every condition.

    measured: model (`VARIANT-seedS`) -> what `measure` gives; patients [N]. The records are those
    of `endpoints.verdicts`, each with its `condition`; endpoints are RSUM, nDCG and CHANGE, which
    asks which of the two loses less. Primary are RSUM and CHANGE of `mcr` and `dual` with half of
    the patches hidden; Holm's method corrects the p values of all others by endpoint. (Of more
    comparisons at once, none could be told: with 10,000 draws, p is never below 0.0002.)
    """
    records = []
    first_model = next(iter(measured.values()))
    for condition in first_model:
        margins = dict(MARGINS)
        if condition == UNCHANGED.name:
            del margins[CHANGE]
        values = {model: _with_change(of_model, condition) for model, of_model in measured.items()}
        for record in endpoints.compare_all(values, patients, draws, margins):
            record["primary"] = record["primary"] and _is_primary(condition, record["endpoint"])
            records.append({"condition": condition, **record})
    for endpoint in MARGINS:
        retrieval.settle([record for record in records if record["endpoint"] == endpoint])
    return records


def _is_primary(condition: str, endpoint: str) -> bool:
    return condition == HALF_HIDDEN.name and endpoint in (RSUM, CHANGE)


def _with_change(of_model: Mapping[str, Values], condition: str) -> Values:
    own = of_model[condition]
    return {**own, CHANGE: own[RSUM] - of_model[UNCHANGED.name][RSUM]}
