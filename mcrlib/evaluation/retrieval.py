"""Ranks, Recall@K and their confidence intervals. The whole evaluation protocol is ours.

Similarity is cosine; a row of zeros has similarity 0 with everything. The rank of a query is the
rank of its best positive: 1 + the number of non-positive candidates whose similarity is at least
that of the best positive minus `TOLERANCE`. Ties therefore count against the query: a model that
gives every pair the same embedding scores nothing. Two policies define the positives of a query.
`pair`: only its own partner. `report`: every candidate with the same report text (`same_text`).
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from math import isnan
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from mcrlib.data.reports import same_text
from mcrlib.evaluation.chance import Ks, chance_recall, check_count, check_ks
from mcrlib.evaluation.chance import telling_k as telling_k  # part of what this module offers
from mcrlib.evaluation.seeds import variant_and_seed

TOLERANCE = 1e-6  # padding alone moves a cosine by 3e-8
DIRECTIONS = ("image_to_report", "report_to_image")
CHUNK = 1000  # pairs; many papers report Recall@K in pools of this size
BLOCK = 2**20  # numbers computed at once: 4 MB of similarities fit in the processor's cache
BELOW_ANY_COSINE = -2.0
REAL_NUMBERS = "biuf"  # NumPy's letters for truth values, whole numbers and floats
INTERVAL = (0.025, 0.975)  # quantiles of the bootstrap draws: the 95 % interval
# With n patients who all agree, a sign test has p = 2 ** (1 - n): below 0.05 from six on.
FEWEST_PATIENTS = 6
# What none of n patients shows is, at 95 %, true of 3 / n of all patients at most.
RULE_OF_THREE = 3
NO_LOSS_MARGIN = 0.02  # two points of Recall@K
SIGNIFICANCE = 0.05
Z_SCORES = 1.960 + 0.842  # two-sided 5 % and 80 % power

Matrix = Array | Tensor


class Hits(NamedTuple):
    """The k best candidates of each query, best first."""

    rows: Array  # [N, k] rows of the candidates
    cosines: Array  # [N, k]


class Pairing(NamedTuple):
    """Two variants to compare, and what their models with the same seeds have."""

    a: str
    b: str
    seeds: list[str]  # that both have
    of_a: Array  # [seeds, ...]
    of_b: Array  # [seeds, ...]

    @property
    def is_primary(self) -> bool:
        """Whether this is the comparison that the paper's claim is about."""
        return (self.a, self.b) == ("mcr", "dual")


def ranks(
    queries: Matrix, candidates: Matrix, query_group: Iterable, candidate_group: Iterable
) -> Array:
    """Rank (from 1) of each query's best positive, int64 [Q], without ever holding [Q, C].

    queries [Q, E] and candidates [C, E] are arrays or tensors; their rows need not have unit
    length. Tensors are ranked on the device of the queries. query_group [Q] and candidate_group [C]
    hold hashable values (numbers, ids, texts); a candidate is positive if its group equals the
    query's. Raises ValueError for NaN or infinity, for shapes that do not match, and for a query
    without a positive.
    """
    queries = _unit_rows(queries, "queries")
    candidates = _unit_rows(candidates, "candidates")
    if queries.shape[1] != candidates.shape[1]:
        shapes = f"{list(queries.shape)} and {list(candidates.shape)}"
        raise ValueError(
            f"queries and candidates must have the same number of columns: got {shapes}."
        )
    query_groups = _entries(query_group, len(queries), "query_group")
    candidate_groups = _entries(candidate_group, len(candidates), "candidate_group")
    codes = _codes(query_groups + candidate_groups)
    query_codes = codes[: len(queries)]
    candidate_codes = codes[len(queries) :]
    has_positive = np.isin(query_codes, candidate_codes)
    without_positive = np.flatnonzero(~has_positive)
    if len(without_positive):
        raise ValueError(
            f"query {without_positive[0]} has no positive among the candidates: leave it out."
        )
    candidates = candidates.to(queries.device)
    ranks_by_policy = _ranks(queries, candidates, query_codes[None], candidate_codes[None])
    return ranks_by_policy[0]


def recall_at(ranks: Iterable[int], ks: Ks = (1, 5, 10)) -> dict[int, float]:
    """Recall@K by k: the share of queries, in [0, 1], whose rank is at most k.

    Raises ValueError if there are no ranks or no `ks`, and for ranks that are not numbers from 1.
    """
    check_ks(ks)
    ranks = np.array(_to_list(ranks, "ranks"))
    if not ranks.size:
        raise ValueError("there are no ranks, so Recall@K is undefined: give at least one query.")
    are_ranks = ranks.dtype.kind in "iuf" and (ranks >= 1).all()
    if not are_ranks:
        raise ValueError("ranks must be numbers from 1, the rank of the best candidate.")
    recalls = {}
    for k in ks:
        is_hit = ranks <= k
        recalls[k] = float(is_hit.mean())
    return recalls


def hits(image: Matrix, report: Matrix, k: int = 10) -> dict[str, Hits]:
    """The k best candidates of each query, by direction.

    image and report [N, E]: row i of both is pair i. If the pool has fewer than k pairs, all of
    them are returned. Raises ValueError for NaN or infinity, for shapes that do not match, and for
    a k that is not a whole number from 1.
    """
    check_count(k, "k")
    image, report = unit_pairs(image, report)
    depth = min(k, len(image))
    return {
        "image_to_report": _best_candidates(image, report, depth),
        "report_to_image": _best_candidates(report, image, depth),
    }


def evaluate(
    image: Matrix,
    report: Matrix,
    texts: Sequence[str] | None = None,
    patients: Sequence[Hashable] | None = None,
    labels: Sequence[Iterable[str]] | None = None,
    ks: Ks = (1, 5, 10),
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """Evaluate retrieval in both directions in the pool of all N pairs, as a JSON-ready dict.

    image and report [N, E]: row i of both is pair i. texts [N] add the policy `report`. patients
    [N] are the units that the bootstrap resamples for the 95 % interval (`low`, `high`), while the
    ranks and the pool stay fixed; without them each pair counts as its own patient. `units` is
    their number: of one patient, no interval can be computed, and it has no width. labels [N], a
    set of labels for each pair, add precision@K and mAP (`_by_labels`). Recall, precision and mAP
    are in [0, 1]. Above 1,000 pairs, `chunks_1000` has the mean recalls in pools of 1,000:
    consecutive chunks of a seeded permutation, without the incomplete last one. Raises ValueError,
    before anything is computed, for NaN or infinity, for lengths that do not match, for missing
    entries, for a text where a list is needed, and for `ks`, `draws` or a `seed` out of range.
    """
    check_numbers(ks, draws, seed)
    image, report = unit_pairs(image, report)
    pool = len(image)
    policies = _policies(texts, pool)
    patient_codes = patient_codes_of(patients, pool)
    label_sets = None if labels is None else _label_sets(labels, pool)

    resampled = "pairs" if patients is None else "patients"
    result = {"pool": pool, "chance": chance_recall(ks, pool), "resampled": resampled}
    result["units"] = int(patient_codes.max()) + 1
    codes = np.stack(list(policies.values()))  # [P, N]
    pool_ranks = _ranks_both_ways(image, report, codes)
    cells = _cells_with_intervals(pool_ranks, patient_codes, ks, draws, seed)
    result.update(_by_direction(policies, cells))
    if pool > CHUNK:
        chunk_ranks = _ranks_in_chunks(image, report, codes, seed)
        chunk_cells = [_recall_cell(row, ks) for row in chunk_ranks]
        result["chunks_1000"] = {"chance": chance_recall(ks, CHUNK)}
        result["chunks_1000"].update(_by_direction(policies, chunk_cells))
    if label_sets is not None:
        result["labels"] = _by_labels(image, report, label_sets, ks)
    return result


def compare_ranks(
    ranks_a: Array, ranks_b: Array, patients: Sequence[Hashable], k: int = 10, draws: int = 10_000
) -> dict:
    """Paired comparison of two variants: Recall@k of a minus b, averaged over both directions.

    ranks_a and ranks_b are [seeds, 2, N], of the same seeds and pairs; patients [N]. Returns what
    `compare_values` does; `no_loss` is whether `low` is above minus two points. Nothing is decided
    either if all ranks of both variants are within k (as in any pool of at most k pairs), or none
    is. Raises ValueError if the shapes differ.
    """
    check_count(k, "k")
    ranks_a, ranks_b = _same_ranks(ranks_a, ranks_b)
    is_hit_a = (ranks_a <= k).astype(float)
    is_hit_b = (ranks_b <= k).astype(float)
    comparison = compare_values(
        is_hit_a.mean(axis=1), is_hit_b.mean(axis=1), patients, NO_LOSS_MARGIN, draws
    )
    undecided = _why_nothing_can_differ(is_hit_a, is_hit_b, k)
    if undecided:
        comparison.update(no_loss=None, detectable=None, undecided=undecided)
    return comparison


def compare_rsum(
    ranks_a: Array,
    ranks_b: Array,
    patients: Sequence[Hashable],
    ks: Ks = (1, 5, 10),
    draws: int = 10_000,
) -> dict:
    """Paired comparison of two variants: RSUM of a minus b, the sum of the recalls at all `ks` in
    both directions, 0 to 6.

    Arguments, errors and result are those of `compare_ranks`, except that `no_loss` is whether
    `low` is above minus two points a recall: -0.12 in all.
    """
    check_ks(ks)
    ranks_a, ranks_b = _same_ranks(ranks_a, ranks_b)
    hits_a = np.array([ranks_a <= k for k in ks]).astype(float)  # [ks, seeds, 2, N]
    hits_b = np.array([ranks_b <= k for k in ks]).astype(float)
    recalls = 2 * len(ks)
    margin = recalls * NO_LOSS_MARGIN
    return compare_values(hits_a.sum((0, 2)), hits_b.sum((0, 2)), patients, margin, draws)


def compare_values(
    values_a: Array,
    values_b: Array,
    patients: Sequence[Hashable],
    margin: float = NO_LOSS_MARGIN,
    draws: int = 10_000,
    resample_seeds: bool = True,
) -> dict:
    """Paired comparison of two variants by any measure that has a value for each pair, such as
    nDCG@10: the mean of a minus that of b.

    values_a and values_b are [seeds, N], of the same seeds and pairs; patients [N]. Each bootstrap
    draw resamples seeds and patients together, or with `resample_seeds=False` patients only. The
    result is then about these trained models, as it always is with a single seed. Pairs whose value
    is NaN are left out; they must be the same in both. Raises ValueError if the shapes differ, or
    if no pair has a value. Returns

    - `a`, `b`, `difference`: the two means, and a minus b;
    - `low`, `high`: bounds of the 95 % interval of the difference;
    - `p`: two-sided, twice the smaller share of draws on one side of zero;
    - `no_loss`: whether `low` is above minus the margin;
    - `detectable`: the true difference that a two-sided test at 5 % finds with 80 % power.

    Where nothing can be decided, `no_loss` and `detectable` are None and `undecided` says why: the
    pairs are of fewer than six patients, all values are the same, or both have the same value for
    each pair and the patients are too few to exclude a loss of two points. `margin` is two points
    of the measure's range.
    """
    check_count(draws, "draws")
    values_a, values_b, patient_codes = _measured_pairs(values_a, values_b, patients)
    gain = values_a - values_b
    samples = _resampled_means(gain, patient_codes, draws, resample_seeds)
    low, high = np.quantile(samples, INTERVAL).tolist()
    comparison = {
        "a": float(values_a.mean()),
        "b": float(values_b.mean()),
        "difference": float(gain.mean()),
        "low": low,
        "high": high,
        "p": two_sided_p(samples),
        "no_loss": low > -margin,
        "detectable": float(Z_SCORES * samples.std()),
    }
    n_patients = 1 + int(patient_codes.max())
    if not gain.any():
        measure_range = margin / NO_LOSS_MARGIN
        comparison["detectable"] = measure_range * RULE_OF_THREE / n_patients
    undecided = _why_nothing_is_decided(values_a, values_b, n_patients)
    if undecided:
        comparison.update(no_loss=None, detectable=None, undecided=undecided)
    return comparison


def _why_nothing_is_decided(values_a: Array, values_b: Array, n_patients: int) -> str:
    """Why these values [seeds, N] cannot tell two variants apart; "" if they can."""
    if n_patients < FEWEST_PATIENTS:
        of_patients = "one patient" if n_patients == 1 else f"{n_patients} patients"
        return f"all pairs are of {of_patients}, and fewer than {FEWEST_PATIENTS} decide nothing"
    if np.ptp([values_a, values_b]) == 0:
        return "all values of both are equal"
    if (values_a == values_b).all() and RULE_OF_THREE / n_patients > NO_LOSS_MARGIN:
        return f"no pair differs, and {n_patients} patients exclude no loss"
    return ""


def _same_ranks(ranks_a: Array, ranks_b: Array) -> tuple[Array, Array]:
    ranks_a = np.asarray(ranks_a)
    ranks_b = np.asarray(ranks_b)
    if ranks_a.shape != ranks_b.shape or ranks_a.ndim != 3 or not ranks_a.size:
        shapes = f"{list(ranks_a.shape)} and {list(ranks_b.shape)}"
        raise ValueError(f"ranks must be [seeds, 2, N] of the same seeds and pairs: got {shapes}.")
    return ranks_a, ranks_b


def _measured_pairs(
    values_a: Array, values_b: Array, patients: Sequence[Hashable]
) -> tuple[Array, Array, Array]:
    """The values [seeds, N] of the pairs that have one, and their patients, numbered from 0."""
    values_a = np.asarray(values_a, float)
    values_b = np.asarray(values_b, float)
    if values_a.shape != values_b.shape or values_a.ndim != 2 or not values_a.size:
        shapes = f"{list(values_a.shape)} and {list(values_b.shape)}"
        raise ValueError(f"values must be [seeds, N] of the same seeds and pairs: got {shapes}.")
    has_value_a = ~np.isnan(values_a).any(axis=0)
    has_value_b = ~np.isnan(values_b).any(axis=0)
    if not has_value_a.any() or (has_value_a != has_value_b).any():
        raise ValueError("values must be missing (NaN) for the same pairs in both, not for all.")
    own_patients = _entries(patients, len(has_value_a), "patients")
    measured = [patient for patient, has in zip(own_patients, has_value_a, strict=True) if has]
    return values_a[:, has_value_a], values_b[:, has_value_a], _codes(measured)


def two_sided_p(samples: Array) -> float:
    """Twice the smaller share of bootstrap draws [draws] on one side of zero; never 0."""
    not_above_zero = (samples <= 0).sum()
    not_below_zero = (samples >= 0).sum()
    smaller_side = min(not_above_zero, not_below_zero)
    p = 2 * (1 + smaller_side) / (1 + len(samples))  # add one, so that p is never 0
    return float(min(1.0, p))


def _why_nothing_can_differ(is_hit_a: Array, is_hit_b: Array, k: int) -> str:
    """Why these hits [seeds, 2, N] cannot tell two variants apart; "" if they can."""
    pool = is_hit_a.shape[2]
    if pool <= k:
        return f"a pool of {pool} pairs has every rank within {k}"
    if is_hit_a.all() and is_hit_b.all():
        return f"all ranks of both are within {k}"
    if not is_hit_a.any() and not is_hit_b.any():
        return f"no rank of either is within {k}"
    return ""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p values, in the order given.

    Raises ValueError for what is no list of numbers from 0 to 1.
    """
    try:
        p = np.array(_to_list(p_values, "p_values"), dtype=float)
        are_shares = p.ndim == 1 and ((p >= 0) & (p <= 1)).all()
    except (TypeError, ValueError):
        are_shares = False
    if not are_shares:
        raise ValueError(f"p_values must be a list of numbers from 0 to 1: got {p_values!r}.")
    ascending = p.argsort()
    hypotheses_left = np.arange(len(p), 0, -1)
    multiplied = p[ascending] * hypotheses_left
    adjusted = np.maximum.accumulate(multiplied).clip(max=1.0)
    back_to_given_order = ascending.argsort()
    return adjusted[back_to_given_order].tolist()


def verdicts(
    ranks: Mapping[str, Array], patients: Sequence[Hashable], k: int = 10, draws: int = 10_000
) -> list[dict]:
    """Compare `mcr` (or the first variant, if there is no `mcr`) with each other variant.

    ranks: model (`VARIANT-seedS`) -> [2, N], both directions; patients [N]. Returns a record for
    each other variant, with the fields of `compare_ranks` and

    - `variants`: the two names;
    - `primary`: whether this is the primary comparison, `mcr` minus `dual`. The `p` of all other
      comparisons is corrected among them by Holm's method;
    - `seeds`: how many seeds both variants have; the comparison uses only these. If it is 0, the
      record has no further fields;
    - `verdict`: `better` or `worse` if `p` is below 0.05, otherwise `open`. If nothing can be
      decided, it is `none: ` with the reason, and the comparison does not count in Holm's
      correction.

    Raises ValueError if there are no ranks.
    """
    if not isinstance(ranks, Mapping) or not ranks:
        raise ValueError(
            "there are no ranks to compare: give those of at least one model, as {name: ranks}."
        )
    records = []
    for pairing in pairings(ranks):
        record = {
            "variants": [pairing.a, pairing.b],
            "primary": pairing.is_primary,
            "seeds": len(pairing.seeds),
        }
        if pairing.seeds:
            record.update(compare_ranks(pairing.of_a, pairing.of_b, patients, k, draws))
        records.append(record)
    settle(records)
    return records


def pairings(by_model: Mapping[str, Array]) -> list[Pairing]:
    """`mcr` (or the first variant, if there is no `mcr`) with each other variant.

    by_model: model (`VARIANT-seedS`) -> an array, of the same shape for all.
    """
    by_variant = _by_variant_and_seed(by_model)
    baseline = "mcr" if "mcr" in by_variant else next(iter(by_variant))
    of_baseline = by_variant[baseline]
    result = []
    for variant, of_variant in by_variant.items():
        if variant == baseline:
            continue
        seeds = [seed for seed in of_baseline if seed in of_variant]
        of_a = np.array([of_baseline[seed] for seed in seeds])
        of_b = np.array([of_variant[seed] for seed in seeds])
        result.append(Pairing(baseline, variant, seeds, of_a, of_b))
    return result


def settle(records: Sequence[dict]) -> None:
    """Add a `verdict` to each comparison that has seeds, in place, after correcting `p` by Holm's
    method among all but the primary ones. Those that can decide nothing do not count."""
    judge([record for record in records if record["seeds"]])


def judge(compared: Sequence[dict]) -> None:
    """Add a `verdict` to each comparison, in place, as `settle` does. Those that do not say that
    they are `primary` are corrected."""
    _correct_secondary([record for record in compared if "undecided" not in record])
    for record in compared:
        record["verdict"] = _verdict(record)


def label_ceiling(labels: Iterable[Iterable], ks: Ks = (1, 5, 10)) -> dict[int, float]:
    """Expected Recall@K (policy `pair`), by k, of an oracle that sees only the label sets.

    The oracle ranks the m pairs that have the query's own label set first, in random order, so
    that its expected recall is the mean of min(k, m) / m. Raises ValueError if there are no pairs
    or no `ks`, and for a text in place of a list.
    """
    check_ks(ks)
    labels = _to_list(labels, "labels")
    if not labels:
        raise ValueError("there are no labels, so the oracle's recall is undefined.")
    label_sets = _label_sets(labels, len(labels))
    pairs_with = Counter(label_sets)
    ceiling = {}
    for k in ks:
        expected = []
        for label_set in label_sets:
            pairs = pairs_with[label_set]
            expected.append(min(k, pairs) / pairs)
        ceiling[k] = float(np.mean(expected))
    return ceiling


# Checks and codes


def _unit_rows(rows: Matrix, name: str) -> Tensor:
    """Check a matrix and scale its rows to unit length: float32 [N, E].

    Done in blocks, because double precision takes twice the memory of an array of float32.
    """
    matrix = _to_matrix(rows, name)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be a matrix, one row each: got shape {list(matrix.shape)}.")
    if matrix.shape[1] == 0:
        raise ValueError(f"{name} must have columns: got shape {list(matrix.shape)}.")
    if torch.is_tensor(matrix) and matrix.is_complex():
        raise ValueError(f"{name} must be a matrix of real numbers: got {matrix.dtype}.")
    device = matrix.device if torch.is_tensor(matrix) else None
    unit = torch.empty(tuple(matrix.shape), dtype=torch.float32, device=device)
    for block in _row_blocks(*matrix.shape):
        doubles = _in_double(matrix[block])
        is_finite = torch.isfinite(doubles).all(1)
        bad_rows = (~is_finite).nonzero()
        if len(bad_rows):
            row = block.start + int(bad_rows[0])
            raise ValueError(f"{name} hold NaN or infinity in row {row}: leave that pair out.")
        # In double precision with a tiny eps, so that only rows of zeros stay shorter than 1.
        unit[block] = torch.nn.functional.normalize(doubles, dim=1, eps=1e-150).float()
    return unit


def _to_matrix(rows: Matrix, name: str) -> Matrix:
    """Rows as numbers; tensors and arrays of numbers are not copied."""
    if torch.is_tensor(rows):
        return rows.detach()
    if isinstance(rows, np.ndarray) and rows.dtype.kind in REAL_NUMBERS:
        return rows
    kind = type(rows).__name__
    try:
        array = np.array(rows)
        if array.dtype.kind not in f"{REAL_NUMBERS}O":  # texts, dates or complex numbers
            kind = f"{kind} of {array.dtype.name}"
            raise TypeError
        return array.astype(float)
    except (TypeError, ValueError):  # these, or rows of unequal length
        raise ValueError(
            f"{name} must be a matrix of numbers, with rows of equal length: got a {kind} that is "
            "none."
        ) from None


def _in_double(rows: Matrix) -> Tensor:
    if torch.is_tensor(rows):
        return rows.double()
    return torch.from_numpy(np.array(rows, float))


def _row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of a matrix [rows, width], each of at most `BLOCK` numbers (or one row)."""
    rows_at_once = max(1, BLOCK // max(1, width))
    for start in range(0, rows, rows_at_once):
        yield slice(start, start + rows_at_once)


def unit_pairs(image: Matrix, report: Matrix) -> tuple[Tensor, Tensor]:
    """Check and normalise both sides of N pairs, and put them on the device of the images."""
    image = _unit_rows(image, "image")
    report = _unit_rows(report, "report")
    if image.shape != report.shape or not len(image):
        shapes = f"{list(image.shape)} and {list(report.shape)}"
        raise ValueError(f"image and report must be [N, E] of the same N > 0 pairs: got {shapes}.")
    return image, report.to(image.device)


def _entries(values: Iterable, length: int, name: str) -> list:
    """Values as a list. Raises ValueError unless it has `length` entries, none of them missing."""
    entries = _to_list(values, name)
    if len(entries) != length or any(entry is None for entry in entries):
        raise ValueError(
            f"{name} must have an entry, not None, for each of the {length} rows: got "
            f"{len(entries)} entries."
        )
    return entries


def _to_list(values: Iterable, name: str) -> list:
    """Values as a list; ValueError for what would be taken apart, such as a text."""
    if isinstance(values, (str, bytes, Mapping, Set)):  # a set has no order
        kind = type(values).__name__
        raise ValueError(f"{name} must be a list with an entry for each row: got a {kind}.")
    try:
        entries = values.tolist() if hasattr(values, "tolist") else list(values)
    except TypeError:
        entries = values
    if not isinstance(entries, list):
        raise ValueError(f"{name} must be a list with an entry for each row: got {values!r}.")
    return entries


def _label_sets(labels: Iterable[Iterable[str]], length: int) -> list[frozenset]:
    """The set of labels of each pair; ValueError for a text or a number in place of a list, and for
    a matrix of zeros and ones, whose rows would be read as lists of the labels 0 and 1."""
    if getattr(labels, "ndim", 1) != 1:
        raise ValueError(
            "labels must hold a list of labels for each row, not a matrix: of a table of 0 and 1, "
            "give the names of the columns that are 1."
        )
    sets = []
    for row, pair_labels in enumerate(_entries(labels, length, "labels")):
        try:
            if isinstance(pair_labels, (str, bytes, Mapping)):
                raise TypeError
            names = frozenset(pair_labels)
            _check_labels(names, row)
            sets.append(names)
        except TypeError:
            raise ValueError(
                f"labels must hold a list of labels for each row: row {row} has {pair_labels!r}, "
                "write ['Edema'] for a single one."
            ) from None
    return sets


def _check_labels(labels: Collection[Hashable], row: int) -> None:
    """Raise ValueError for a label that is none: a truth value, or one that is missing."""
    for label in labels:
        is_missing = label is None or label != label  # only NaN differs from itself
        if isinstance(label, bool) or is_missing:
            raise ValueError(f"labels must be names, such as 'Edema': row {row} has {label!r}.")


def check_numbers(ks: Ks, draws: int, seed: int) -> None:
    """Raise ValueError for `ks`, a number of draws or a seed that are out of range."""
    check_ks(ks)
    check_count(draws, "draws")
    check_count(seed, "seed", least=0)


def _codes(values: Iterable[Hashable]) -> Array:
    """Number the distinct values from 0 in order of appearance: int32, equal codes if equal."""
    code_of: dict[Hashable, int] = {}
    codes = []
    for value in values:
        next_code = len(code_of)
        try:
            if isinstance(value, float) and isnan(value):  # as pandas writes a missing one
                raise TypeError
            codes.append(code_of.setdefault(value, next_code))
        except TypeError:
            raise ValueError(
                f"patients and groups must be numbers or texts: got {value!r}."
            ) from None
    return np.array(codes, dtype=np.int32)


def _policies(texts: Sequence[str] | None, pool: int) -> dict[str, Array]:
    """{policy: codes [N]}; pairs with equal codes are positives of each other."""
    policies = {"pair": np.arange(pool, dtype=np.int32)}
    if texts is not None:
        reports = _entries(texts, pool, "texts")
        policies["report"] = _codes(same_text(report) for report in reports)
    return policies


def patient_codes_of(patients: Sequence[Hashable] | None, pool: int) -> Array:
    """Patients [N], numbered from 0; without them each pair is its own patient."""
    if patients is None:
        return np.arange(pool, dtype=np.int32)
    return _codes(_entries(patients, pool, "patients"))


# Ranks, block by block


def _cosines(queries: Tensor, candidates: Tensor) -> Tensor:
    """Cosines [Q, C] of unit rows, in full float32.

    Autocast or TF32 would blur a cosine by 1e-3, a thousand times `TOLERANCE`.
    """
    backend = torch.backends.cuda if queries.is_cuda else torch.backends.mkldnn
    precision_before = backend.matmul.fp32_precision
    backend.matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(queries.device.type, enabled=False):
            return queries @ candidates.T
    finally:
        backend.matmul.fp32_precision = precision_before


def similarity_blocks(queries: Tensor, candidates: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows of the queries and their cosines with all candidates, [rows, C].

    A block has at most `BLOCK` cosines (or one row), so that a large pool needs little memory and
    the work on a block stays in the processor's cache.
    """
    for rows in _row_blocks(len(queries), len(candidates)):
        yield rows, _cosines(queries[rows], candidates)


def _ranks(
    queries: Tensor, candidates: Tensor, query_codes: Array, candidate_codes: Array
) -> Array:
    """Ranks [P, Q] under P policies, which share each block of cosines.

    query_codes [P, Q] and candidate_codes [P, C]: equal codes are positives.
    """
    device = queries.device
    query_codes = torch.as_tensor(query_codes, device=device)
    candidate_codes = torch.as_tensor(candidate_codes, device=device)
    result = torch.empty(query_codes.shape, dtype=torch.int64, device=device)
    for rows, cosines in similarity_blocks(queries, candidates):
        for policy in range(len(query_codes)):
            codes = query_codes[policy, rows]
            is_positive = codes[:, None] == candidate_codes[policy]
            result[policy, rows] = _ranks_in_block(cosines, is_positive)
    return result.cpu().numpy()


def _ranks_in_block(cosines: Tensor, is_positive: Tensor) -> Tensor:
    """Ranks [rows] from the cosines and the positives of a block, both [rows, C].

    Counting the candidates ahead takes one pass over the block; sorting would take many.
    """
    positive_cosines = torch.where(is_positive, cosines, BELOW_ANY_COSINE)
    best_positive = positive_cosines.amax(1, keepdim=True)
    threshold = best_positive - TOLERANCE
    candidates_reaching = _count_reaching(cosines, threshold)
    positives_reaching = _count_reaching(positive_cosines, threshold)
    return (1 + candidates_reaching - positives_reaching).long()


def _count_reaching(cosines: Tensor, threshold: Tensor) -> Tensor:
    """How many of the cosines [rows, C] are at least the threshold [rows, 1]: float [rows]."""
    # Ones as floats: to create and sum booleans takes four times as long.
    reaches = torch.ge(cosines, threshold, out=torch.empty_like(cosines))
    return reaches.sum(1)


def _best_candidates(queries: Tensor, candidates: Tensor, k: int) -> Hits:
    rows = []
    cosines = []
    for _, block in similarity_blocks(queries, candidates):
        best = block.topk(k)
        rows.append(best.indices)
        cosines.append(best.values)
    all_rows = torch.cat(rows).cpu()
    all_cosines = torch.cat(cosines).cpu()
    return Hits(all_rows.numpy(), all_cosines.numpy())


# Both directions and all policies


def _ranks_both_ways(image: Tensor, report: Tensor, codes: Array) -> Array:
    """Ranks [2 * P, N]: first all policies of image to report, then those of report to image.

    codes [P, N]: equal codes are positives.
    """
    image_to_report = _ranks(image, report, codes, codes)
    report_to_image = _ranks(report, image, codes, codes)
    return np.vstack([image_to_report, report_to_image])


def _by_direction(policies: Collection[str], cells: list[dict]) -> dict:
    """Arrange one cell for each row of `_ranks_both_ways` as {direction: {policy: cell}}."""
    image_to_report = cells[: len(policies)]
    report_to_image = cells[len(policies) :]
    return {
        "image_to_report": dict(zip(policies, image_to_report, strict=True)),
        "report_to_image": dict(zip(policies, report_to_image, strict=True)),
    }


def _ranks_in_chunks(image: Tensor, report: Tensor, codes: Array, seed: int) -> Array:
    """Ranks in disjoint random pools of `CHUNK` pairs, as `_ranks_both_ways` stacks them.

    Pairs that do not fill a last chunk are dropped.
    """
    order = np.random.default_rng(seed).permutation(len(image))
    chunks = len(image) // CHUNK
    pairs_in_chunks = order[: chunks * CHUNK].reshape(chunks, CHUNK)
    result = []
    for pairs in pairs_in_chunks:
        chunk_ranks = _ranks_both_ways(image[pairs], report[pairs], codes[:, pairs])
        result.append(chunk_ranks)
    return np.hstack(result)


def _recall_cell(ranks: Array, ks: Ks) -> dict[str, float]:
    """{"R@1": ..., ...} of ranks [N]."""
    recalls = recall_at(ranks, ks)
    return {f"R@{k}": recall for k, recall in recalls.items()}


# Intervals and comparisons by bootstrap


def resamples(patient_codes: Array, draws: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield weights [some draws, N]: how often each query counts when whole patients are drawn.

    patient_codes [N] number the patient of each query from 0.
    """
    patients = int(patient_codes.max()) + 1
    patient_of_query = torch.as_tensor(patient_codes)
    draws_at_once = max(1, BLOCK // len(patient_codes))
    for start in range(0, draws, draws_at_once):
        size = min(draws_at_once, draws - start)
        drawn = rng.integers(patients, size=(size, patients))
        # Give each draw its own range of codes: one bincount then counts the patients of all draws.
        drawn += patients * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * patients)
        patient_weights = torch.from_numpy(counts.reshape(size, patients)).float()
        yield patient_weights.index_select(1, patient_of_query)


def _statistics(ranks: Tensor, weights: Tensor, ks: Ks) -> Tensor:
    """Statistics of weighted ranks, [R, draws, K + 2]: Recall@K for each k, median and mean.

    ranks [R, N]; weights [draws, N] say how often each of them counts.
    """
    size = weights.sum(1, keepdim=True)
    double_weights = weights.double()
    result = []
    for row in ranks:
        is_hit = [row <= k for k in ks]
        columns = torch.stack([*is_hit, row], 1).double()
        means = double_weights @ columns / size
        recalls = means[:, : len(ks)]
        mean_rank = means[:, len(ks) :]
        median_rank = _weighted_medians(row, weights, size)
        result.append(torch.cat([recalls, median_rank, mean_rank], 1))
    return torch.stack(result)


def _weighted_medians(ranks: Tensor, weights: Tensor, size: Tensor) -> Tensor:
    """Median [draws, 1] of ranks [N] in each draw of weights [draws, N], which sum to size."""
    lower_middle = (size - 1) // 2
    upper_middle = size // 2  # equals the lower one if the size is odd
    middle = torch.cat([lower_middle, upper_middle], 1)
    ascending, order = ranks.sort()
    counted_so_far = weights.index_select(1, order).cumsum(1)
    positions = torch.searchsorted(counted_so_far, middle, right=True)
    return ascending[positions].double().mean(1, keepdim=True)


def _cells_with_intervals(
    ranks: Array, patient_codes: Array, ks: Ks, draws: int, seed: int
) -> list[dict]:
    """A cell for each row of ranks [R, N], with 95 % intervals from the same resampled patients.

    A cell is {"R@1": {"value", "low", "high"}, ..., "median_rank": ..., "mean_rank": ...}.
    """
    rows = torch.as_tensor(ranks)
    each_query_once = torch.ones(1, ranks.shape[1])
    rng = np.random.default_rng(seed)
    statistics = [_statistics(rows, each_query_once, ks)]
    for weights in resamples(patient_codes, draws, rng):
        statistics.append(_statistics(rows, weights, ks))
    observed_then_draws = torch.cat(statistics, 1).numpy()
    values = observed_then_draws[:, 0]
    lows, highs = np.quantile(observed_then_draws[:, 1:], INTERVAL, axis=1)
    names = [f"R@{k}" for k in ks] + ["median_rank", "mean_rank"]
    cells = []
    for row in range(len(ranks)):
        cell = _cell(names, values[row], lows[row], highs[row])
        cells.append(cell)
    return cells


def _cell(names: list[str], values: Array, lows: Array, highs: Array) -> dict[str, dict]:
    """{name: {"value", "low", "high"}}, one entry for each statistic."""
    cell = {}
    for i, name in enumerate(names):
        cell[name] = {"value": float(values[i]), "low": float(lows[i]), "high": float(highs[i])}
    return cell


def _resampled_means(gain: Array, patient_codes: Array, draws: int, resample_seeds: bool) -> Array:
    """Mean of gain [seeds, N] in each bootstrap draw of patients, and maybe of seeds: [draws]."""
    rng = np.random.default_rng(0)
    gain_by_query = torch.from_numpy(gain).T
    means = []
    for weights in resamples(patient_codes, draws, rng):
        size = weights.sum(1, keepdim=True)
        means.append(weights.double() @ gain_by_query / size)
    mean_by_seed = torch.cat(means).numpy()  # [draws, seeds]
    if not resample_seeds:
        return mean_by_seed.mean(1)
    seeds = len(gain)
    drawn_seeds = rng.integers(seeds, size=(draws, seeds))
    return np.take_along_axis(mean_by_seed, drawn_seeds, axis=1).mean(1)


def _by_variant_and_seed(by_model: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """{variant: {seed: array}} of {`VARIANT-seedS`: array}."""
    result: dict[str, dict[str, Array]] = {}
    for model, of_model in by_model.items():
        variant, seed = variant_and_seed(model)
        result.setdefault(variant, {})[seed] = of_model
    return result


def _correct_secondary(records: list[dict]) -> None:
    """Correct `p` of all but the primary comparisons, in place."""
    secondary = [record for record in records if not record.get("primary")]
    corrected = holm([record["p"] for record in secondary])
    for record, p in zip(secondary, corrected, strict=True):
        record["p"] = p


def _verdict(record: dict) -> str:
    """`better`, `worse` or `open` by the corrected `p` of a comparison, or why it has none."""
    if "undecided" in record:
        return f"none: {record['undecided']}"
    if record["p"] < SIGNIFICANCE:
        return "better" if record["difference"] > 0 else "worse"
    return "open"


# Precision and mAP by labels


def _by_labels(image: Tensor, report: Tensor, labels: list, ks: Ks) -> dict:
    """Precision by shared labels, {direction: {"precision@1": ..., "mAP": ..., "chance": ...}}.

    A candidate is relevant if it shares a label with the query. Pairs without labels are relevant
    to each other only. Ties count against the query, as in `ranks`. precision@K divides by
    min(K, N). mAP covers the whole ranking, including the query's partner. `chance` is the
    precision of random retrieval.
    """
    has_label = _label_matrix(labels).to(image.device)
    return {
        "image_to_report": _label_scores(image, report, has_label, ks),
        "report_to_image": _label_scores(report, image, has_label, ks),
    }


def _label_matrix(labels: Sequence[Collection]) -> Tensor:
    """1.0 where a pair has a label, else 0.0: float32 [N, L]."""
    column_of: dict[Hashable, int] = {}
    rows = []
    columns = []
    for row, pair_labels in enumerate(labels):
        # Pairs without labels share the label None, so that they are relevant to each other.
        for label in pair_labels or {None}:
            rows.append(row)
            columns.append(column_of.setdefault(label, len(column_of)))
    has_label = torch.zeros(len(labels), len(column_of))
    has_label[rows, columns] = 1.0
    return has_label


def _label_scores(
    queries: Tensor, candidates: Tensor, has_label: Tensor, ks: Ks
) -> dict[str, float]:
    """Means over the queries of one direction; row i of queries and candidates is pair i."""
    blocks = []
    for rows, cosines in similarity_blocks(queries, candidates):
        shared_labels = has_label[rows] @ has_label.T
        is_hit = _relevance_by_rank(cosines, shared_labels > 0)
        columns = [is_hit[:, :k].mean(1) for k in ks]
        columns.append(_average_precisions(is_hit))
        columns.append(is_hit.mean(1))
        blocks.append(torch.stack(columns, 1))
    means = torch.cat(blocks).mean(0).tolist()
    names = [f"precision@{k}" for k in ks] + ["mAP", "chance"]
    return dict(zip(names, means, strict=True))


def _relevance_by_rank(cosines: Tensor, relevant: Tensor) -> Tensor:
    """1.0 for each relevant candidate, best candidate first, both inputs [rows, C].

    Among ties, candidates that are not relevant come first.
    """
    pessimistic = torch.where(relevant, cosines - TOLERANCE, cosines)
    order = pessimistic.argsort(1, descending=True)
    return relevant.gather(1, order).double()


def _average_precisions(is_hit: Tensor) -> Tensor:
    """Average precision [rows] of rankings [rows, C]: mean of the precisions at their hits."""
    position = torch.arange(1, is_hit.shape[1] + 1, device=is_hit.device)
    hits_so_far = is_hit.cumsum(1)
    precision_at_hits = is_hit * hits_so_far / position
    return precision_at_hits.sum(1) / is_hit.sum(1)
