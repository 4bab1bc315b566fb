"""Ranks, Recall@K and their intervals: the evaluation protocol, all of it ours.

Similarity is cosine; a row of zeros has similarity 0 with everything. The rank of a query is that
of its best positive: 1 + the candidates that are not positive and whose similarity is at least that
of the best positive minus `TOLERANCE`. So ties count against the query: a model that gives every
pair the same embedding scores nothing. Two policies say what a positive is. `pair`: only the
query's own partner. `report`: any candidate whose report is the same text (`same_text`).
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

TOLERANCE = 1e-6  # padding alone moves a cosine by 3e-8
DIRECTIONS = ("image_to_report", "report_to_image")
CHUNK = 1000  # pairs; many papers print Recall@K in pools of this size
BLOCK = 2**20  # numbers held at once: 4 MB of similarities stay in the processor's cache

Matrix = Array | Tensor
Ks = Sequence[int]


def ranks(
    queries: Matrix, candidates: Matrix, query_group: Iterable, candidate_group: Iterable
) -> Array:
    """Rank (from 1) of each query's best positive, int64 [Q], without ever holding [Q, C].

    queries [Q, E] and candidates [C, E] are arrays or tensors of any length a row; a tensor is
    ranked on its own device. query_group [Q] and candidate_group [C] hold hashable values (numbers,
    ids, texts): equal groups are positives. Raises ValueError for NaN or infinity, shapes that do
    not fit, and a query without any positive.
    """
    queries, candidates = _unit(queries, "queries"), _unit(candidates, "candidates")
    if queries.shape[1] != candidates.shape[1]:
        got = f"{list(queries.shape)} and {list(candidates.shape)}"
        raise ValueError(f"queries and candidates must have the same number of columns: got {got}.")
    groups = _values(query_group, len(queries), "query_group")
    groups += _values(candidate_group, len(candidates), "candidate_group")
    of_query, of_candidate = np.split(_codes(groups), [len(queries)])
    lost = np.flatnonzero(~np.isin(of_query, of_candidate))
    if len(lost):
        raise ValueError(f"query {lost[0]} has no positive among the candidates: leave it out.")
    return _ranks(queries, candidates.to(queries.device), of_query[None], of_candidate[None])[0]


def recall_at(ranks: Iterable[int], ks: Ks = (1, 5, 10)) -> dict[int, float]:
    """Share of queries, in [0, 1], whose rank is at most k. Raises ValueError without ranks."""
    ranks = np.asarray(ranks)
    if not ranks.size:
        raise ValueError("there are no ranks, so Recall@K is undefined: give at least one query.")
    return {k: float((ranks <= k).mean()) for k in ks}


def hits(image: Matrix, report: Matrix, k: int = 10) -> dict[str, tuple[Array, Array]]:
    """Each query's k best candidates by direction: their rows [N, k], best first, and cosines.

    image [N, E] and report [N, E] belong together row by row; k is cut to the size of the pool.
    """
    image, report = _pairs(image, report)
    found = {}
    for way, sides in zip(DIRECTIONS, ((image, report), (report, image)), strict=True):
        best = [scores.topk(min(k, len(image))) for _, scores in _blocks(*sides)]
        cosines, rows = (torch.cat(part).cpu().numpy() for part in zip(*best, strict=True))
        found[way] = rows, cosines
    return found


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
    """Retrieval in both directions in the pool of all N pairs, as a dict that JSON can hold.

    image and report [N, E]: row i of both is pair i. texts [N] add the policy `report`. patients
    [N] are what the bootstrap resamples for the 95 % interval (`low`, `high`), ranks and pool
    staying as they are; without them each pair is its own patient. labels [N], a set of labels
    each, add precision@K and mAP (`_by_labels`). Recall, precision and mAP are in [0, 1]. Above
    1,000 pairs `chunks_1000` has the mean recalls in pools of 1,000: consecutive chunks of a seeded
    permutation, an incomplete last one dropped. Raises ValueError as `ranks` does.
    """
    image, report = _pairs(image, report)
    n = len(image)
    groups = {"pair": np.arange(n, dtype=np.int32)}
    if texts is not None:
        groups["report"] = _codes(same_text(text) for text in _values(texts, n, "texts"))
    patient = groups["pair"] if patients is None else _codes(_values(patients, n, "patients"))
    codes = np.stack([*groups.values()])
    result = {
        "pool": n,
        "chance": {f"R@{k}": min(k / n, 1.0) for k in ks},
        "resampled": "pairs" if patients is None else "patients",
        **_nested(groups, _intervals(_both_ways(image, report, codes), patient, ks, draws, seed)),
    }
    if n > CHUNK:
        order = np.random.default_rng(seed).permutation(n)[: n // CHUNK * CHUNK]
        chunks = [_both_ways(image[c], report[c], codes[:, c]) for c in order.reshape(-1, CHUNK)]
        cells = [{f"R@{k}": v for k, v in recall_at(row, ks).items()} for row in np.hstack(chunks)]
        result["chunks_1000"] = _nested(groups, cells)
    if labels is not None:
        result["labels"] = _by_labels(image, report, _values(labels, n, "labels"), ks)
    return result


def compare_ranks(
    ranks_a: Array, ranks_b: Array, patients: Sequence[Hashable], k: int = 10, draws: int = 10_000
) -> dict:
    """Paired comparison of two variants: mean Recall@k of both directions, a minus b.

    ranks_a and ranks_b are [seeds, 2, N], over the same seeds and pairs; patients [N]. Each draw
    resamples seeds and patients together. `low` and `high` bound the 95 % interval; `p` is twice
    the smaller share of draws on one side of zero; `no_loss` says that `low` is above minus two
    points; `detectable` is the true difference that a two-sided test at 5 % finds with 80 % power.
    One seed speaks of these trained models only. Raises ValueError where the shapes differ.
    """
    ranks_a, ranks_b = np.asarray(ranks_a), np.asarray(ranks_b)
    if ranks_a.shape != ranks_b.shape or ranks_a.ndim != 3 or not ranks_a.size:
        got = f"{list(ranks_a.shape)} and {list(ranks_b.shape)}"
        raise ValueError(f"ranks must be [seeds, 2, N] of the same seeds and pairs: got {got}.")
    seeds, _, n = ranks_a.shape
    patient = _codes(_values(patients, n, "patients"))
    gain = torch.from_numpy(((ranks_a <= k) * 1.0 - (ranks_b <= k)).mean(1))  # [seeds, N]
    rng = np.random.default_rng(0)
    weights = _resamples(patient, draws, rng)
    by_seed = torch.cat([w.double() @ gain.T / w.sum(1, keepdim=True) for w in weights]).numpy()
    drawn = rng.integers(seeds, size=(draws, seeds))
    samples = np.take_along_axis(by_seed, drawn, axis=1).mean(1)
    low, high = np.quantile(samples, (0.025, 0.975)).tolist()
    side = min((samples <= 0).sum(), (samples >= 0).sum())
    return {
        "a": float((ranks_a <= k).mean()),
        "b": float((ranks_b <= k).mean()),
        "difference": float(gain.mean()),
        "low": low,
        "high": high,
        "p": float(min(1.0, 2 * (1 + side) / (1 + draws))),
        "no_loss": low > -0.02,
        "detectable": float((1.960 + 0.842) * samples.std()),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p values in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = p.argsort()
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1.0)
    return adjusted[order.argsort()].tolist()


def verdicts(
    ranks: Mapping[str, Array], patients: Sequence[Hashable], k: int = 10, draws: int = 10_000
) -> list[dict]:
    """`mcr` (else the first variant) against each other variant: records of `compare_ranks`.

    ranks: model (VARIANT-seedS) -> [2, N], both directions. `seeds`: how many both variants have,
    over which they are compared; where 0, the record ends there. `primary`: `mcr` minus `dual`;
    `p` of all others is corrected by Holm among them. `verdict`: better or worse where `p` is below
    0.05, else open.
    """
    of: dict[str, dict] = {}
    for model, rows in ranks.items():
        variant, _, seed = model.partition("-seed")
        of.setdefault(variant, {})[seed] = rows
    a, records = "mcr" if "mcr" in of else next(iter(of)), []
    for b in (variant for variant in of if variant != a):
        both = [seed for seed in of[a] if seed in of[b]]
        record = {"variants": [a, b], "primary": (a, b) == ("mcr", "dual"), "seeds": len(both)}
        if both:
            sides = (np.array([of[variant][seed] for seed in both]) for variant in (a, b))
            record |= compare_ranks(*sides, patients, k, draws)
        records.append(record)
    rest = [record for record in records if "p" in record and not record["primary"]]
    for record, p in zip(rest, holm([record["p"] for record in rest]), strict=True):
        record["p"] = p
    for record in records:
        if "p" in record:
            side = "better" if record["difference"] > 0 else "worse"
            record["verdict"] = side if record["p"] < 0.05 else "open"
    return records


def label_ceiling(labels: Iterable[Iterable], ks: Ks = (1, 5, 10)) -> dict[int, float]:
    """Expected Recall@K (policy `pair`) of an oracle that sees nothing but label sets.

    It puts the m pairs with the query's own set first, in random order: mean of min(k, m) / m.
    """
    sets = [frozenset(given) for given in labels]
    size = Counter(sets)
    return {k: float(np.mean([min(k, size[s]) / size[s] for s in sets])) for k in ks}


def same_text(text: str) -> str:
    """The form in which two reports count as the same: lower case, white space collapsed."""
    if not isinstance(text, str):
        raise ValueError(f"a report must be text, got {text!r}: use an empty text where none is.")
    return " ".join(text.lower().split())


def _unit(rows: Matrix, name: str) -> Tensor:
    """Float32 rows of length 1, checked."""
    rows = rows.detach() if torch.is_tensor(rows) else torch.from_numpy(np.array(rows, float))
    if rows.ndim != 2:
        raise ValueError(f"{name} must be a matrix, one row each: got shape {list(rows.shape)}.")
    bad = (~torch.isfinite(rows).all(1)).nonzero()
    if len(bad):
        raise ValueError(f"{name} hold NaN or infinity in row {int(bad[0])}: leave that pair out.")
    return torch.nn.functional.normalize(rows.double(), dim=1, eps=1e-150).float()


def _pairs(image: Matrix, report: Matrix) -> tuple[Tensor, Tensor]:
    image, report = _unit(image, "image"), _unit(report, "report")
    if image.shape != report.shape or not len(image):
        got = f"{list(image.shape)} and {list(report.shape)}"
        raise ValueError(f"image and report must be [N, E] of the same N > 0 pairs: got {got}.")
    return image, report.to(image.device)


def _values(values: Iterable, length: int, name: str) -> list:
    values = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(values) != length or any(value is None for value in values):
        raise ValueError(f"{name} must have an entry, not None, for each of the {length} rows.")
    return values


def _codes(values: Iterable[Hashable]) -> Array:
    """Equal values get equal numbers from 0."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(value, len(seen)) for value in values], dtype=np.int32)


def _blocks(queries: Tensor, candidates: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield some rows and their cosines with all candidates, [rows, C].

    In full fp32: autocast or TF32 would blur a cosine by 1e-3, a thousand times `TOLERANCE`.
    """
    matmul = (torch.backends.cuda if queries.is_cuda else torch.backends.mkldnn).matmul
    step = max(1, BLOCK // max(1, len(candidates)))
    for rows in (slice(start, start + step) for start in range(0, len(queries), step)):
        before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
        try:
            with torch.autocast(queries.device.type, enabled=False):
                scores = queries[rows] @ candidates.T
        finally:
            matmul.fp32_precision = before
        yield rows, scores


def _ranks(queries: Tensor, candidates: Tensor, of_query: Array, of_candidate: Array) -> Array:
    """Ranks [P, Q] under P policies at once: group codes of_query [P, Q], of_candidate [P, C]."""
    of_query = torch.as_tensor(of_query, device=queries.device)
    of_candidate = torch.as_tensor(of_candidate, device=queries.device)
    result = torch.empty(of_query.shape, dtype=torch.int64, device=queries.device)
    for rows, scores in _blocks(queries, candidates):
        for query_codes, codes, out in zip(of_query, of_candidate, result, strict=True):
            own = torch.where(query_codes[rows, None] == codes, scores, -2.0)  # below any cosine
            bar = own.amax(1, keepdim=True) - TOLERANCE
            # Ones as floats, since they are made and added up four times as fast as booleans.
            every, positive = (torch.ge(x, bar, out=torch.empty_like(x)) for x in (scores, own))
            out[rows] = (1 + every.sum(1) - positive.sum(1)).long()
    return result.cpu().numpy()


def _both_ways(image: Tensor, report: Tensor, codes: Array) -> Array:
    """Ranks [2 * P, N]: policies [P, N] of the first direction, then of the second."""
    return np.vstack([_ranks(image, report, codes, codes), _ranks(report, image, codes, codes)])


def _nested(policies: Iterable[str], cells: Iterable) -> dict:
    """{direction: {policy: cell}} of cells in the order of `_both_ways`."""
    cell = iter(cells)
    return {way: {policy: next(cell) for policy in policies} for way in DIRECTIONS}


def _resamples(patient: Array, draws: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield [some draws, N]: how often each query counts when whole patients are resampled."""
    patients, index = int(patient.max()) + 1, torch.as_tensor(patient)
    step = max(1, BLOCK // len(patient))
    for size in [min(step, draws - start) for start in range(0, draws, step)]:
        drawn = rng.integers(patients, size=(size, patients))
        drawn += patients * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * patients).reshape(size, patients)
        yield torch.from_numpy(counts).float().index_select(1, index)


def _statistics(ranks: Tensor, weights: Tensor, ks: Ks) -> Tensor:
    """[R, draws, K + 2]: Recall@K, median and mean of ranks [R, N] repeated weights [draws, N]."""
    exact, size = weights.double(), weights.sum(1, keepdim=True)
    middle = torch.cat([(size - 1) // 2, size // 2], 1)  # the same one twice if the size is odd
    result = []
    for row in ranks:
        linear = torch.stack([*(row <= k for k in ks), row], 1).double()
        means = exact @ linear / size
        row, order = row.sort()
        upto = weights.index_select(1, order).cumsum(1)
        median = row[torch.searchsorted(upto, middle, right=True)].double().mean(1, keepdim=True)
        result.append(torch.cat([means[:, :-1], median, means[:, -1:]], 1))
    return torch.stack(result)


def _intervals(ranks: Array, patient: Array, ks: Ks, draws: int, seed: int) -> list[dict]:
    """For each row of ranks [R, N]: {"R@1": {"value", "low", "high"}, ..., "mean_rank": ...}."""
    rows, once = torch.as_tensor(ranks), torch.ones(1, ranks.shape[1])
    weights = chain([once], _resamples(patient, draws, np.random.default_rng(seed)))
    found = torch.cat([_statistics(rows, w, ks) for w in weights], 1).numpy()
    bounds = np.quantile(found[:, 1:], (0.025, 0.975), axis=1)
    names, parts = [*(f"R@{k}" for k in ks), "median_rank", "mean_rank"], ("value", "low", "high")
    return [
        {name: dict(zip(parts, cell, strict=True)) for name, cell in zip(names, row, strict=True)}
        for row in np.stack([found[:, 0], *bounds], 2).tolist()
    ]


def _by_labels(image: Tensor, report: Tensor, labels: list, ks: Ks) -> dict:
    """{direction: {"precision@1", ..., "mAP", "chance"}}; relevant: what shares a label with the
    query.

    Empty label sets are relevant to each other only. Ties count as in `ranks`. precision@K divides
    by min(K, N). mAP is over the whole ranking, the query's partner included. `chance`: the
    precision of random retrieval.
    """
    sets = [set(given) or {None} for given in labels]
    every = set().union(*sets)
    has = torch.tensor([[name in given for name in every] for given in sets]).to(image)
    place = torch.arange(1, len(sets) + 1, device=image.device)
    result = {}
    for way, sides in zip(DIRECTIONS, ((image, report), (report, image)), strict=True):
        found = []
        for rows, scores in _blocks(*sides):
            relevant = (has[rows] @ has.T) > 0
            order = (scores - TOLERANCE * relevant).argsort(1, descending=True)
            hit = relevant.gather(1, order).double()
            average = (hit * hit.cumsum(1) / place).sum(1) / hit.sum(1)
            columns = [*(hit[:, :k].mean(1) for k in ks), average, hit.mean(1)]
            found.append(torch.stack(columns, 1))
        means, names = torch.cat(found).mean(0).tolist(), [f"precision@{k}" for k in ks]
        result[way] = dict(zip([*names, "mAP", "chance"], means, strict=True))
    return result
