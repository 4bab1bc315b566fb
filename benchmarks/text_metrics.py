"""Figure 3's text metrics against pycocoevalcap, on real findings of the Open-i reports.

`python benchmarks/text_metrics.py` prints the rows. Both sides take turns in one process.
"""

import importlib.util
import tarfile
from pathlib import Path
from xml.etree import ElementTree

from measured import row, seconds_of
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from mcrlib.evaluation import java, retrieval, text_metrics

METRICS = [metric for metric in text_metrics.METRICS if metric != "METEOR"]


def pool(n: int) -> tuple[list[str], dict]:
    """The findings of n Open-i reports, and ten random hits of each query in both directions.

    The hits are nested as `text_metrics.curves` takes them: variant -> direction -> [n, 10].
    """
    package = Path(importlib.util.find_spec("torchxrayvision").origin).parent
    texts = []
    with tarfile.open(package / "data" / "NLMCXR_reports.tgz") as archive:
        for name in archive.getnames():
            if not name.endswith(".xml"):
                continue
            tree = ElementTree.parse(archive.extractfile(name))
            text = tree.findtext(".//AbstractText[@Label='FINDINGS']")
            if text:
                texts.append(text)
    hits = {}
    for seed, direction in enumerate(retrieval.DIRECTIONS):
        hits[direction] = text_metrics.floor(n, seed=seed)
    return texts[:n], {"random": hits}


def score_with_pycocoevalcap(texts: list[str], hits: dict) -> None:
    """The rival: the distinct pairs scored by pycocoevalcap.

    Each text is tokenised once, as ours does, and in one Java process.
    """
    words = java.tokenize(texts)
    pairs = set()
    for ranking in hits["random"].values():
        for query, query_hits in enumerate(ranking):
            for hit in query_hits:
                pairs.add((words[hit], words[query]))
    hypotheses = {}
    references = {}
    for i, pair in enumerate(pairs):
        hypothesis, reference = pair
        hypotheses[i] = [hypothesis]
        references[i] = [reference]
    Bleu(4).compute_score(references, hypotheses, verbose=0)
    Rouge().compute_score(references, hypotheses)
    Cider().compute_score(references, hypotheses)


def figure3(n: int = 1000, rounds: int = 3) -> dict:
    """Row `figure 3`: all metrics of Figure 3 that need no METEOR."""
    texts, hits = pool(n)
    ratios = []
    for _ in range(rounds):
        theirs = seconds_of(score_with_pycocoevalcap, texts, hits)
        ours = seconds_of(_curves, texts, hits, METRICS)
        ratios.append(theirs / ours)
    what = f"Figure 3 of {n:,} queries: BLEU, ROUGE-L, CIDEr"
    return row("figure 3", what, "pycocoevalcap on the distinct pairs", ratios, 15)


def meteor(n: int = 200, rounds: int = 3) -> dict:
    """Row `meteor`: METEOR of 20 hits of each query in two processes, against one process."""
    texts, hits = pool(n)
    ratios = []
    for _ in range(1 + rounds):
        one_process = seconds_of(_curves, texts, hits, ["METEOR"], 1)
        two_processes = seconds_of(_curves, texts, hits, ["METEOR"], 2)
        ratios.append(one_process / two_processes)
    warm_ratios = ratios[1:]  # the first round also starts the processes
    return row("meteor", f"{20 * n:,} pairs, two processes", "one process", warm_ratios, 1.6)


def meteor_speed(n: int = 1000) -> dict:
    """Row `meteor speed`: milliseconds of one core for a pair of Open-i's findings."""
    texts, hits = pool(n)
    _curves(texts, hits, ["METEOR"], 1)  # starts it, and warms it up
    seconds = seconds_of(_curves, texts, hits, ["METEOR"], 1)
    milliseconds = 1000 * seconds / (20 * n)
    what = f"METEOR of {20 * n:,} pairs in one process: {milliseconds:.2f} ms a pair"
    return row("meteor speed", what, "0.8 ms", [0.8 / milliseconds], 1)


def _curves(texts: list[str], hits: dict, metrics: list[str], processes: int = 2) -> None:
    text_metrics.curves(texts, hits, metrics, nearest=0, processes=processes)


def rows() -> list[dict]:
    """All rows of this file, each as `measured.row` returns it."""
    return [figure3(), meteor(), meteor_speed()]


ROWS = {"text_metrics": rows}

if __name__ == "__main__":
    for measurement in rows():
        print(measurement)
