"""The two endpoints by which variants are compared (ours).

They were chosen when the reference run had one seed, and before a second was trained.

RSUM is the endpoint of retrieval, nDCG@10 with the partner taken out of the pool that of meaning.
Each has its own primary comparison, `mcr` minus `dual`, which is not corrected; Holm's method
corrects the p values of all other comparisons, of both endpoints together.
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from numpy import ndarray as Array

from mcrlib.evaluation import relevance, retrieval
from mcrlib.evaluation.attributes import AttributePool, Attributes
from mcrlib.evaluation.relevance import KS, NDCG_WITHOUT_PARTNER, RSUM

Embedded = tuple[Array, Array]  # image [N, E] and report [N, E], unit rows
RECALLS = 2 * len(KS)  # in both directions; also the largest RSUM
# Loss that "no loss" excludes: two points a recall, two points of nDCG.
MARGINS = {RSUM: RECALLS * retrieval.NO_LOSS_MARGIN, NDCG_WITHOUT_PARTNER: retrieval.NO_LOSS_MARGIN}
# Of so few seeds no bootstrap shows how much other seeds would differ: the interval is then about
# the trained models alone.
FEW_SEEDS = 3


def by_pair(
    image: retrieval.Matrix, report: retrieval.Matrix, attributes: Sequence[Attributes]
) -> dict[str, Array]:
    """Endpoint -> its value for each pair, [N]; the mean over pairs is the endpoint of the model.

    image and report [N, E], attributes [N]: row i of each is pair i. RSUM is 0 to 6, nDCG 0 to 1,
    the mean of both directions; it is NaN for a pair that no other pair has anything in common
    with. Raises ValueError as `relevance.evaluate` does.
    """
    image, report = retrieval.unit_pairs(image, report)
    pool = relevance.pool_of(attributes, len(image))
    by_direction = [_ndcg(image, report, pool), _ndcg(report, image, pool)]
    ndcg = torch.stack(by_direction).mean(0)
    return {RSUM: rsum_by_pair(image, report), NDCG_WITHOUT_PARTNER: ndcg.numpy()}


def rsum_by_pair(image: retrieval.Matrix, report: retrieval.Matrix) -> Array:
    """RSUM's value for each pair, [N], 0 to 6; rows and errors are those of `by_pair`."""
    image, report = retrieval.unit_pairs(image, report)
    found = relevance.recall_sums(image, report) + relevance.recall_sums(report, image)
    return found.numpy()


def _ndcg(queries: torch.Tensor, candidates: torch.Tensor, pool: AttributePool) -> torch.Tensor:
    return relevance.answer(queries, candidates, pool).ndcg_without_partner


def verdicts(
    values: Mapping[str, Mapping[str, Array]], patients: Sequence[Hashable], draws: int = 10_000
) -> list[dict]:
    """Compare `mcr` (or the first variant, if there is no `mcr`) with each other variant.

    values: model (`VARIANT-seedS`) -> endpoint -> [N], of `by_pair`; patients [N]. Returns a record
    for each endpoint and other variant, with the fields of `retrieval.verdicts` and

    - `endpoint`: a key of MARGINS;
    - `seed_names` and `by_seed`: the seeds that both variants have, and the difference of each;
    - `of_these_models`: whether the interval is about these trained models only, since there are
      at most `FEW_SEEDS` seeds. Otherwise seeds are resampled, too, and it is about any seed.

    Raises ValueError if there are no models.
    """
    records = compare_all(values, patients, draws)
    retrieval.settle(records)
    return records


def compare_all(
    values: Mapping[str, Mapping[str, Array]],
    patients: Sequence[Hashable],
    draws: int = 10_000,
    margins: Mapping[str, float] = MARGINS,
) -> list[dict]:
    """The records of `verdicts` before Holm's correction, and therefore without a `verdict`.

    `margins` names the endpoints to compare, each with the loss that "no loss" excludes. Raises
    ValueError if there are no models.
    """
    if not values:
        raise ValueError("there are no models to compare: embed the pairs with at least one.")
    records = []
    for endpoint, margin in margins.items():
        of_models = {name: of_model[endpoint] for name, of_model in values.items()}
        for pairing in retrieval.pairings(of_models):
            records.append(compare(endpoint, pairing, patients, draws, margin))
    return records


def compare(
    endpoint: str,
    pairing: retrieval.Pairing,
    patients: Sequence[Hashable],
    draws: int = 10_000,
    margin: float | None = None,
) -> dict:
    """The record of one comparison, as `verdicts` describes it, before p is corrected.

    The pairing holds the endpoint's values [seeds, N]; patients [N]. `margin` is the loss that
    "no loss" excludes, by default that of MARGINS.
    """
    if margin is None:
        margin = MARGINS[endpoint]
    seeds = len(pairing.seeds)
    record = {
        "endpoint": endpoint,
        "variants": [pairing.a, pairing.b],
        "primary": pairing.is_primary,
        "seeds": seeds,
        "seed_names": pairing.seeds,
    }
    if not seeds:
        return record
    is_few = seeds <= FEW_SEEDS
    if np.isnan(pairing.of_a).all():  # nothing is defined in any pair
        return record | {"of_these_models": is_few, "undecided": "no pair has a value"}
    compared = retrieval.compare_values(
        pairing.of_a,
        pairing.of_b,
        patients,
        margin,
        draws,
        resample_seeds=not is_few,
    )
    by_seed = np.nanmean(pairing.of_a - pairing.of_b, axis=1)
    return record | {"by_seed": by_seed.tolist(), "of_these_models": is_few} | compared


def compare_gaps(
    pairs_a: Mapping[str, Embedded],
    pairs_b: Mapping[str, Embedded],
    patients: Sequence[Hashable],
    draws: int = 1000,
) -> dict:
    """Compare the modality gaps of two variants: distance between the means of images and reports.

    pairs_a and pairs_b: seed -> embeddings of the same pairs; patients [N]. Returns the fields of
    `verdicts` but `verdict`, `primary` and `endpoint`: the distance of a minus that of b, with the
    interval from resampling patients. It is always about these trained models.
    """
    seeds = [seed for seed in pairs_a if seed in pairs_b]
    record = {"seeds": len(seeds), "seed_names": seeds}
    if not seeds:
        return record
    codes = retrieval.patient_codes_of(patients, len(patients))
    models_a = [pairs_a[seed] for seed in seeds]
    models_b = [pairs_b[seed] for seed in seeds]
    once = torch.ones(1, len(codes))
    distances_a = _distances(models_a, once)
    distances_b = _distances(models_b, once)
    by_seed = (distances_a - distances_b)[:, 0]
    drawn = _gap_differences(models_a, models_b, codes, draws)
    low, high = np.quantile(drawn, retrieval.INTERVAL).tolist()
    record |= {
        "by_seed": by_seed.tolist(),
        "of_these_models": True,
        "a": float(distances_a.mean()),
        "b": float(distances_b.mean()),
        "difference": float(by_seed.mean()),
        "low": low,
        "high": high,
        "p": retrieval.two_sided_p(drawn),
        "detectable": float(retrieval.Z_SCORES * drawn.std()),
    }
    n_patients = 1 + int(codes.max())
    if n_patients < retrieval.FEWEST_PATIENTS:
        record["undecided"] = f"all pairs are of fewer than {retrieval.FEWEST_PATIENTS} patients"
    elif not drawn.any():
        record["undecided"] = "the two gaps are equal"
    return record


def _gap_differences(
    models_a: Sequence[Embedded], models_b: Sequence[Embedded], codes: Array, draws: int
) -> Array:
    """Mean over models of the difference of their gaps, in each draw of patients: [draws]."""
    rng = np.random.default_rng(0)
    samples = []
    for weights in retrieval.resamples(codes, draws, rng):
        difference = _distances(models_a, weights) - _distances(models_b, weights)
        samples.append(difference.mean(axis=0))
    return np.concatenate(samples)


def _distances(models: Sequence[Embedded], weights: torch.Tensor) -> Array:
    """Distance of means of each model for each draw of weights [draws, N]: [models, draws]."""
    size = weights.sum(1, keepdim=True)
    distances = []
    for image, report in models:
        offset = torch.as_tensor(image) - torch.as_tensor(report)
        mean_offset = weights @ offset.float() / size
        distances.append(mean_offset.norm(dim=1).double().numpy())
    return np.stack(distances)
