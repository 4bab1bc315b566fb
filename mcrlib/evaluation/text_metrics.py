"""BLEU, METEOR, ROUGE-L and CIDEr of retrieved reports (Figure 3), equal to pycocoevalcap's.

The work is done in three steps, so that many rankings of one pool are cheap:

1. `_Reports` tokenises each distinct report and counts its n-grams, once.
2. `_pair_statistics` turns each distinct (hypothesis, reference) pair into a few numbers per metric
   that may be added up.
3. `_score` turns these numbers into a score. Those of one pair give the score of this pair, the sum
   over several pairs gives their corpus score.

An empty report scores 0 (BLEU's smoothing leaves less than 1e-7). METEOR sees only the first 1,000
words of a report, and fewer if they repeat themselves too often (`_shortened`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
from nltk.util import ngrams
from numpy import ndarray as Array
from scipy.sparse import csr_array

from mcrlib.arguments import is_whole
from mcrlib.data.reports import text_list
from mcrlib.evaluation import java

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
METEOR_WORDS = 1000  # its Java runs out of memory on two reports of 5,000 words
METEOR_WORK = 3_000_000  # words times pairs of equal words: within a second, see `_shortened`
ROUGE_BETA_SQUARED = 1.44  # pycocoevalcap's beta is 1.2: recall weighs more than precision
BLOCK = 10_000  # pairs scored at once
ORDERS = (1, 2, 3, 4)  # the n of the n-grams
Texts = Sequence[str]


def score(
    hypotheses: Texts, references: Texts, metrics: Texts = METRICS, processes: int = 0
) -> dict[str, float]:
    """Corpus score for each metric: CIDEr between 0 and 10, the others between 0 and 1.

    hypotheses [N] and references [N] are raw texts; each hypothesis has one reference. CIDEr's
    document frequencies come from the references. `processes` is how many METEOR processes run in
    parallel at most; 0 stands for one per core, if the memory suffices. Raises ValueError for empty
    lists, lists of different lengths, a text that is not a string, and an unknown metric;
    FileNotFoundError without Java, which the tokeniser needs even if METEOR is left out;
    RuntimeError if the Java programs fail.
    """
    hypotheses = text_list(hypotheses, "hypotheses")
    references = text_list(references, "references")
    metrics = _checked_metrics(metrics, processes)
    n = len(references)
    if n == 0 or len(hypotheses) != n:
        raise ValueError(f"each hypothesis needs one reference: {len(hypotheses)} and {n} given.")
    _start_early(metrics)
    reports = _Reports([*references, *hypotheses], documents=n)
    reference = reports.text_index[:n]
    hypothesis = reports.text_index[n:]
    pairs = _pair_statistics(reports, hypothesis, reference, metrics, processes)
    scores = {}
    for metric in metrics:
        statistics = pairs.by_metric[metric][pairs.rows]
        scores[metric] = float(_score(metric, statistics.sum(axis=0)))
    return scores


def curves(
    texts: Texts, hits: Mapping, metrics: Texts = METRICS, nearest: int = 50, processes: int = 0
) -> list[dict]:
    """Figure 3: how good the first K retrieved reports are, for all variants of a pool in one call.

    texts [N] are the pool's raw reports. hits[variant][direction] [N, K] are the pairs at ranks 1
    to K for each query, as indices of the pool. In both directions the hit's report is the
    hypothesis and the query's report the reference. CIDEr's document frequencies come from the
    pool. A variant "ceiling" is added, which no other is above: the query's own report first, then
    the best others by each metric, of the `nearest` ones by CIDEr and of all hits given, so that a
    large pool costs no more. Where another order scores higher, as BLEU's and METEOR's scores of a
    corpus can in a tiny pool, it is the highest curve. nearest=0 leaves it out.

    Returns records {"variant", "direction", "metric", "k", "mean", "best"}. `mean` at K is the mean
    over k <= K of the corpus score of all k-th hits. `best` at K is the mean over queries of the
    best score that one of the first K hits has alone (BLEU: with pycocoevalcap's smoothing). Raises
    ValueError for hits that are not indices of the pool, and the same errors as `score`.
    """
    texts = text_list(texts, "texts")
    metrics = _checked_metrics(metrics, processes)
    rankings = _checked_rankings(hits, len(texts))
    _start_early(metrics)
    reports = _Reports(texts, documents=len(texts))
    candidates = {}  # of the ceiling, if there is to be one
    if nearest:
        candidates["ceiling"] = _ceiling_candidates(reports, rankings, nearest)
    columns = {**rankings, **candidates}
    hypothesis = reports.text_index[np.hstack([*columns.values()])]
    reference = reports.text_index[:, None]
    pairs = _pair_statistics(reports, hypothesis, reference, metrics, processes)
    rows = _apart(pairs.rows, columns)

    records = []
    for metric in metrics:
        statistics = pairs.by_metric[metric]
        alone = _score(metric, statistics)  # [P] the score of each pair alone
        of_models = []
        for ranking in rankings:
            variant, direction = ranking
            of_models += _curve(variant, direction, metric, statistics, alone, rows[ranking])
        records += of_models
        for name, pool_rows in candidates.items():
            best = _own_first(pool_rows, rows[name], alone)
            records += _ceiling(metric, statistics, alone, best, of_models)
    return records


def floor(n: int, k: int = 10, seed: int = 0) -> Array:
    """Hits [n, min(k, n)] of a random retrieval, which any real curve should exceed.

    Each row holds distinct indices of a pool of n pairs. Raises ValueError for an empty pool.
    """
    if n < 1 or k < 1:
        raise ValueError(f"a random retrieval needs n and k of at least 1: got {n} and {k}.")
    rng = np.random.default_rng(seed)
    hits = []
    for _ in range(n):
        hits.append(rng.choice(n, min(k, n), replace=False))
    return np.stack(hits)


def _checked_rankings(hits: Mapping, n: int) -> dict[tuple[str, str], Array]:
    """hits[variant][direction] as arrays, by (variant, direction)."""
    rankings = {}
    for variant, ranking_of_direction in hits.items():
        for direction, ranking in ranking_of_direction.items():
            ranking = np.asarray(ranking)
            right_shape = ranking.ndim == 2 and len(ranking) == n
            if not right_shape or not np.isin(ranking, np.arange(n)).all():
                shape = list(ranking.shape)
                raise ValueError(
                    f"hits must be [{n}, K] indices of the pool, from 0 to {n - 1}: "
                    f"check hits[{variant!r}][{direction!r}], which has shape {shape}."
                )
            rankings[variant, direction] = ranking
    return rankings


def _apart(stacked: Array, columns: Mapping) -> dict:
    """The parts of an array whose columns are those of several arrays side by side, by name."""
    parts = {}
    start = 0
    for name, column in columns.items():
        end = start + column.shape[1]
        parts[name] = stacked[:, start:end]
        start = end
    return parts


def _ceiling_candidates(reports: "_Reports", rankings: Mapping, nearest: int) -> Array:
    """What the ceiling may retrieve for each query: indices [N, C] of the pool.

    The query's own report comes first, then each of the others once; the own one fills the rest.
    """
    own = np.arange(len(reports.text_index))[:, None]
    others = [_nearest(reports, nearest), *rankings.values()]
    ascending = np.sort(np.hstack(others), axis=1)
    is_repeated = np.diff(ascending, axis=1, prepend=-1) == 0
    return np.hstack([own, np.where(is_repeated, own, ascending)])


def _own_first(candidates: Array, rows: Array, alone: Array) -> Array:
    """Rows of the statistics [N, K]: the first candidate's, then those of the best of the others.

    candidates [N, C] are `_ceiling_candidates`, rows [N, C] those of their pairs, and alone [P] the
    scores of the pairs. K is the number of candidates of the query that has the fewest.
    """
    is_other = candidates != candidates[:, :1]
    scores = np.where(is_other, alone[rows], -np.inf)
    scores[:, 0] = np.inf
    best_first = np.argsort(-scores, axis=1, kind="stable")
    fewest = 1 + is_other.sum(axis=1).min()
    return np.take_along_axis(rows, best_first[:, :fewest], axis=1)


def _ceiling(
    metric: str, statistics: Array, alone: Array, rows: Array, curves: list[dict]
) -> list[dict]:
    """The records of a ranking with these rows [N, K], as deep as the curves and raised where one
    of the same direction is higher."""
    depth = max(record["k"] for record in curves)
    records = []
    for direction in dict.fromkeys(record["direction"] for record in curves):
        of_direction = [record for record in curves if record["direction"] == direction]
        for record in _curve("ceiling", direction, metric, statistics, alone, rows[:, :depth]):
            at_k = [record, *(other for other in of_direction if other["k"] == record["k"])]
            for value in ("mean", "best"):
                record[value] = max(other[value] for other in at_k)
            records.append(record)
    return records


def _curve(
    variant: str, direction: str, metric: str, statistics: Array, alone: Array, rows: Array
) -> list[dict]:
    """The records for K = 1, 2, ... of hits whose pairs are these rows [N, K] of the statistics
    [P, F] and of the scores alone [P]."""
    of_hits = statistics[rows]
    corpus = _score(metric, of_hits.sum(axis=0))  # [K] the score of all k-th hits together
    ks = np.arange(1, len(corpus) + 1)
    mean = corpus.cumsum() / ks
    best_so_far = np.maximum.accumulate(alone[rows], axis=1)  # [N, K]
    best = best_so_far.mean(axis=0)
    records = []
    for k in ks.tolist():
        record = {
            "variant": variant,
            "direction": direction,
            "metric": metric,
            "k": k,
            "mean": float(mean[k - 1]),
            "best": float(best[k - 1]),
        }
        records.append(record)
    return records


class _Features(NamedTuple):
    """The entries of a sparse matrix [T, V] of T texts by V features, text by text.

    See `_Reports` for what a feature is.
    """

    columns: Array  # [entries] the feature of each entry
    counts: Array  # [entries] how often the feature's n-gram occurs in the entry's text
    row_ends: Array  # [T + 1] text t has the entries row_ends[t] to row_ends[t + 1] - 1
    order_index: Array  # [V] n - 1, if the feature's n-gram has n words
    first: Array  # [V] the feature that is the first occurrence of the same n-gram


def _features(texts: Texts) -> _Features:
    """The features of tokenised texts, numbered in the order in which they first appear."""
    feature_number: dict[tuple, int] = {}
    columns = []
    counts = []
    row_ends = [0]
    for text in texts:
        count_of_ngram = Counter(_ngrams(text))
        for ngram, count in count_of_ngram.items():
            for occurrence in range(count):
                feature = (ngram, occurrence)
                columns.append(feature_number.setdefault(feature, len(feature_number)))
                counts.append(count)
        row_ends.append(len(columns))
    order_index = []
    first = []
    for ngram, _ in feature_number:
        order_index.append(len(ngram) - 1)
        first.append(feature_number[ngram, 0])
    return _Features(
        columns=np.array(columns, int),
        counts=np.array(counts, int),
        row_ends=np.array(row_ends, int),
        order_index=np.array(order_index, int),
        first=np.array(first, int),
    )


def _ngrams(text: str) -> list[tuple[str, ...]]:
    """All n-grams of a tokenised text, n = 1 to 4, one for each occurrence."""
    words = text.split()
    every_order = []
    for n in ORDERS:
        every_order.extend(ngrams(words, n))
    return every_order


class _Reports:
    """The n-gram counts of N reports with T distinct texts, as sparse matrices of V features.

    A feature is an n-gram and a number: its first occurrence in a text, its second, and so on.
    This turns clipped counts, min(count, count), into dot products. An example with unigrams only,
    one row a text and one column a feature:

                     a, 1st   a, 2nd   a, 3rd   b, 1st   c, 1st
        "a a b a"       1        1        1        1        0
        "a a c"         1        1        0        0        1

    The dot product of the two rows is 2: the texts share min(3, 2) = 2 occurrences of a,
    min(1, 0) = 0 of b, and min(0, 1) = 0 of c. This is BLEU's count of matching unigrams.

    CIDEr sums min(h, r) * r * idf² / (|h| * |r|) over n-grams. Here h and r are the counts of the
    n-gram in hypothesis and reference; |h| and |r| are the norms of their tf-idf vectors. Since two
    texts share exactly min(h, r) features of an n-gram, each feature has to contribute the other
    factors once: the matrix for hypotheses holds 1 / |h|, the matrix for references r * idf² / |r|.
    In the example, with "a a c" as the reference, both shared features of a contribute
    1 / |h| * 2 * idf² / |r|: together min(3, 2) * 2 * idf² / (|h| * |r|).

    Attributes:
        texts: list [T], the distinct tokenised texts.
        text_index: [N], the text of each report.
        present: sparse [T, V], 1 for each feature that the text has.
        has_order: [V, 4], 1 in column n - 1 if the feature's n-gram has n words.
        ngrams: [T, 4], the number of n-grams in the text, n = 1 to 4.
        cider_hypothesis: sparse [T, V], 1 / |h| for each feature that the text has.
        cider_reference: sparse [T, V], r * idf² / |r| for each feature that the text has.
    """

    def __init__(self, texts: Texts, documents: int):
        """texts [N] are raw; the first `documents` give CIDEr its document frequencies."""
        index_of_text: dict[str, int] = {}
        text_index = []
        for text in java.tokenize(texts):
            index = index_of_text.setdefault(text, len(index_of_text))
            text_index.append(index)
        self.texts = list(index_of_text)
        self.text_index = np.array(text_index)
        features = _features(self.texts)
        self.has_order = np.eye(len(ORDERS))[features.order_index]
        self.present = self._sparse(features, np.ones(len(features.columns)))
        self.ngrams = self.present @ self.has_order
        weight = self._cider_weight(features, documents)
        inverse_norm = self._inverse_norm(features, weight)
        self.cider_hypothesis = self._sparse(features, inverse_norm)
        self.cider_reference = self._sparse(features, inverse_norm * weight)

    def _sparse(self, features: _Features, values: Array) -> csr_array:
        """The matrix [T, V] with the given values [entries]."""
        shape = (len(self.texts), len(features.order_index))
        return csr_array((values, features.columns, features.row_ends), shape)

    def _cider_weight(self, features: _Features, documents: int) -> Array:
        """count * idf² [entries], the squared tf-idf value of an n-gram shared by its entries."""
        texts_of_documents = self.text_index[:documents]
        documents_of_text = np.bincount(texts_of_documents, minlength=len(self.texts))
        documents_of_feature = self.present.T @ documents_of_text
        # A document has an n-gram if it has the n-gram's first occurrence.
        documents_of_ngram = documents_of_feature[features.first]
        idf = np.log(documents / np.maximum(1, documents_of_ngram))
        return idf[features.columns] ** 2 * features.counts

    def _inverse_norm(self, features: _Features, weight: Array) -> Array:
        """1 / norm [entries], or 0 if the norm is 0. Each text has one tf-idf vector for each n."""
        text_of_entry = np.repeat(np.arange(len(self.texts)), np.diff(features.row_ends))
        order_of_entry = features.order_index[features.columns]
        vector_of_entry = text_of_entry * len(ORDERS) + order_of_entry
        norms = np.sqrt(np.bincount(vector_of_entry, weight))
        norm = norms[vector_of_entry]
        return np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)

    @cached_property
    def meteor_texts(self) -> list[str]:
        """Each text as METEOR gets it: normalised once, and cut (`_shortened`)."""
        return [_shortened(text) for text in java.normalize(self.texts)]

    @cached_property
    def rouge_words(self) -> list[list[str]]:
        """The words of each text, split only at blanks, as pycocoevalcap does for ROUGE-L.

        BLEU and CIDEr split at any white space, also at the no-break space that the tokeniser puts
        into a token such as "2 1/2".
        """
        words_of_text = []
        for text in self.texts:
            words = text.split(" ") if text else []
            words_of_text.append(words)
        return words_of_text

    @cached_property
    def rouge_positions(self) -> list[dict[str, int]]:
        """`_positions` of the words of each text."""
        return [_positions(words) for words in self.rouge_words]


def _checked_metrics(metrics: Texts, processes: int) -> list[str]:
    """The metrics as a list; a single one may be given as it is.

    Raises ValueError for an unknown metric and for a number of processes that is none.
    """
    metrics = [metrics] if isinstance(metrics, str) else list(metrics)
    if not is_whole(processes) or processes < 0:
        raise ValueError(f"processes must be a whole number of at least 0: got {processes!r}.")
    unknown = set(metrics) - set(METRICS)
    if unknown:
        raise ValueError(f"{min(unknown)!r} is not a metric: choose from {', '.join(METRICS)}.")
    return metrics


def _start_early(metrics: list[str]) -> None:
    """Start what takes seconds to start, so that it is ready when it is needed."""
    if "METEOR" in metrics:
        java.start_meteor()


def _nearest(reports: _Reports, count: int) -> Array:
    """The other reports nearest to each by CIDEr, best first: [N, min(count, N - 1)]."""
    n = len(reports.text_index)
    nearest = []
    for queries in np.array_split(np.arange(n), n // 256 + 1):  # bounds the memory to 256 rows
        reference = reports.text_index[queries]
        product = reports.cider_reference[reference] @ reports.cider_hypothesis.T
        penalty = _cider_penalty(reports, slice(None), reference[:, None])
        cider_of_texts = product.toarray() * penalty
        cider = cider_of_texts[:, reports.text_index]
        cider[np.arange(len(queries)), queries] = -1  # the query's own report comes last
        by_cider = np.argsort(-cider, axis=1, kind="stable")
        nearest.append(by_cider[:, : min(count, n - 1)])
    return np.concatenate(nearest)


class _PairStatistics(NamedTuple):
    """The statistics of P distinct pairs of texts."""

    by_metric: dict[str, Array]  # [P, F] each: F numbers that may be added up over pairs
    rows: Array  # which of the P pairs each requested pair is, in the shape of the request


def _pair_statistics(
    reports: _Reports, hypothesis: Array, reference: Array, metrics: Texts, processes: int
) -> _PairStatistics:
    """Statistics of the distinct pairs among those requested.

    hypothesis and reference are indices of texts; their shapes broadcast.
    """
    processes = processes or java.meteor_processes()
    functions = {
        "BLEU": _bleu,
        "METEOR": partial(_meteor, processes=processes),
        "ROUGE": _rouge,
        "CIDEr": _cider,
    }
    text_count = len(reports.texts)
    pair_number = hypothesis * text_count + reference
    distinct_pairs, rows = np.unique(pair_number, return_inverse=True)
    blocks = np.array_split(distinct_pairs, len(distinct_pairs) // BLOCK + 1)
    by_family: dict[str, Array] = {}  # BLEU-1 to BLEU-4 share their statistics
    by_metric = {}
    for metric in metrics:
        family = metric.partition("-")[0]
        if family not in by_family:
            statistics = []
            for block in blocks:
                block_hypothesis, block_reference = np.divmod(block, text_count)
                statistics.append(functions[family](reports, block_hypothesis, block_reference))
            by_family[family] = np.vstack(statistics)
        by_metric[metric] = by_family[family]
    return _PairStatistics(by_metric, rows.reshape(pair_number.shape))


def _score(metric: str, statistics: Array) -> Array:
    """Scores [...] from statistics [..., F], which are of single pairs or summed over pairs."""
    if metric == "METEOR":
        leading_shape = statistics.shape[:-1]
        flat = statistics.reshape(-1, statistics.shape[-1])
        return java.meteor_scores(flat).reshape(leading_shape)
    if metric.startswith("BLEU"):
        return _bleu_score(statistics, int(metric[-1]))
    total = statistics[..., 0]
    pair_count = statistics[..., 1]
    return total / pair_count


def _bleu(reports: _Reports, hypothesis: Array, reference: Array) -> Array:
    """[P, 9]: matching n-grams, n = 1 to 4; n-grams of the hypothesis; words of the reference."""
    shared = reports.present[hypothesis] * reports.present[reference]
    matching = shared @ reports.has_order
    reference_words = reports.ngrams[reference, 0]
    return np.column_stack([matching, reports.ngrams[hypothesis], reference_words])


def _bleu_score(statistics: Array, n: int) -> Array:
    """BLEU-n [...] from `_bleu`'s statistics [..., 9], with pycocoevalcap's smoothing."""
    tiny = 1e-15  # keeps a precision of 0 from making the whole score 0
    small = 1e-9  # keeps an empty report from dividing by 0
    matching = statistics[..., :n]
    given = statistics[..., 4 : 4 + n]
    precision = (matching + tiny) / (given + small)
    hypothesis_words = statistics[..., 4]
    reference_words = statistics[..., 8]
    ratio = (hypothesis_words + tiny) / (reference_words + small)
    brevity_penalty = np.exp(np.minimum(0, 1 - 1 / ratio))
    return precision.prod(axis=-1) ** (1 / n) * brevity_penalty


def _cider(reports: _Reports, hypothesis: Array, reference: Array) -> Array:
    """[P, 2]: CIDEr and 1."""
    product = reports.cider_hypothesis[hypothesis] * reports.cider_reference[reference]
    value = product.sum(axis=1) * _cider_penalty(reports, hypothesis, reference)
    return np.column_stack([value, np.ones_like(value)])


def _cider_penalty(reports: _Reports, hypothesis: Array | slice, reference: Array) -> Array:
    """pycocoevalcap's length penalty, times 10 (CIDEr's scale) and divided by 4 (the mean over n).

    It is a Gaussian of the difference in length, counted in bigrams, with sigma 6: 2 * 6² = 72.
    """
    bigrams = reports.ngrams[:, 1]
    difference = bigrams[hypothesis] - bigrams[reference]
    return 2.5 * np.exp(-(difference**2) / 72)


def _rouge(reports: _Reports, hypothesis: Array, reference: Array) -> Array:
    """[P, 2]: ROUGE-L (the F-measure of the longest common subsequence) and 1."""
    values = []
    for h, r in zip(hypothesis.tolist(), reference.tolist(), strict=True):
        words = reports.rouge_words[h]
        positions = reports.rouge_positions[r]
        length = len(reports.rouge_words[r])
        common = _longest_common_subsequence(words, positions, length)
        # The F-measure (1 + beta²) * P * R / (R + beta² * P) with precision P = common / len(words)
        # and recall R = common / length, multiplied out so that an empty report scores 0.
        weighted_length = len(words) + ROUGE_BETA_SQUARED * length
        values.append((1 + ROUGE_BETA_SQUARED) * common / (weighted_length or 1))
    return np.column_stack([values, np.ones(len(values))])


def _positions(words: Texts) -> dict[str, int]:
    """For each distinct word an integer in which bit i is set if words[i] is that word."""
    positions: dict[str, int] = {}
    for i, word in enumerate(words):
        positions[word] = positions.get(word, 0) | 1 << i
    return positions


def _longest_common_subsequence(words: Texts, positions: Mapping[str, int], length: int) -> int:
    """Length of the longest common subsequence of `words` and a reference of `length` words.

    `positions` are `_positions` of the reference. The textbook fills a table with one row for each
    of `words` and one column for each word of the reference. Along a row, the value grows by 0 or 1
    from one column to the next, so the bits of one integer hold the whole row: bit i is 0 if the
    value grows in column i. One addition, whose carries run along the row, leads from row to row
    (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"). So the inner loop of the textbook
    becomes a few operations on integers, 40 times faster for findings of 30 words.
    """
    all_ones = (1 << length) - 1
    row = all_ones
    for word in words:
        if word in positions:
            match = row & positions[word]
            row = ((row + match) | (row - match)) & all_ones
    return length - row.bit_count()


def _meteor(reports: _Reports, hypothesis: Array, reference: Array, processes: int) -> Array:
    """[P, 23]: METEOR's own statistics."""
    hypotheses = [reports.meteor_texts[h] for h in hypothesis.tolist()]
    references = [reports.meteor_texts[r] for r in reference.tolist()]
    return java.meteor_statistics(hypotheses, references, processes)


def _shortened(text: str) -> str:
    """The words of a normalised text that METEOR sees: the first ones, as many as it can align.

    METEOR tries each word of one text with each equal word of the other, and copies an alignment of
    all words each time. So its time grows with the number of words times the number of pairs of
    equal words: "lung" 1,000 times, against itself, would take 80 seconds. The text is cut where
    `METEOR_WORK` is reached: for one repeated word after 144 words, for real findings in a row
    after about 550, far more than a report has. Two texts of this length take 0.1 seconds if they
    are equal, and about one second at worst, with many repeated words that differ ("lung",
    "lungs").
    """
    words = text.split(" ")[:METEOR_WORDS]
    occurrences: Counter[str] = Counter()
    pairs = 0  # of equal words, if this text is compared with itself
    for count, word in enumerate(words, start=1):
        pairs += 2 * occurrences[word] + 1  # since (n + 1)² - n² = 2 n + 1
        occurrences[word] += 1
        if count * pairs > METEOR_WORK:
            return " ".join(words[: count - 1])
    return " ".join(words)
