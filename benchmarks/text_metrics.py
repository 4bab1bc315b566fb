"""Figure 3's text metrics beside pycocoevalcap, on real findings of the Open-i reports.

Run as a script: prints one row a measurement. Both sides alternate in one run.
"""

import importlib.util
import tarfile
import time
from pathlib import Path
from xml.etree import ElementTree

from measured import row
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from mcrlib.evaluation import java, retrieval, text_metrics

METRICS = [metric for metric in text_metrics.METRICS if metric != "METEOR"]


def pool(n: int) -> tuple[list[str], dict]:
    """The findings of n Open-i reports and ten random hits a query in both directions."""
    wheel = Path(importlib.util.find_spec("torchxrayvision").origin).parent
    with tarfile.open(wheel / "data" / "NLMCXR_reports.tgz") as archive:
        files = [archive.extractfile(name) for name in archive.getnames() if name.endswith(".xml")]
        trees = [ElementTree.parse(file) for file in files]
    texts = [tree.findtext(".//AbstractText[@Label='FINDINGS']") for tree in trees]
    hits = {way: text_metrics.floor(n, seed=i) for i, way in enumerate(retrieval.DIRECTIONS)}
    return [text for text in texts if text][:n], {"random": hits}


def one_warm_process(texts: list[str], hits: dict) -> float:
    """Seconds of pycocoevalcap for the distinct pairs, tokenising each text once as we do."""
    began = time.perf_counter()
    words = java.tokenize(texts)
    pairs = {
        (words[hit], words[query])
        for rows in hits["random"].values()
        for query, row in enumerate(rows)
        for hit in row
    }
    given = {i: [hypothesis] for i, (hypothesis, _) in enumerate(pairs)}
    wanted = {i: [reference] for i, (_, reference) in enumerate(pairs)}
    Bleu(4).compute_score(wanted, given, verbose=0)
    Rouge().compute_score(wanted, given)
    Cider().compute_score(wanted, given)
    return time.perf_counter() - began


def figure3(n: int = 1000, rounds: int = 3) -> dict:
    texts, hits = pool(n)
    ratios = []
    for _ in range(rounds):
        theirs, began = one_warm_process(texts, hits), time.perf_counter()
        text_metrics.curves(texts, hits, METRICS, nearest=0)
        ratios.append(theirs / (time.perf_counter() - began))
    what = f"Figure 3 of {n:,} queries: BLEU, ROUGE-L, CIDEr"
    return row("figure 3", what, "pycocoevalcap on the distinct pairs", ratios, 15)


def meteor(n: int = 200, rounds: int = 3) -> dict:
    """METEOR of 20 hits a query, in one and in two processes that are already running."""
    texts, hits = pool(n)
    ratios = []
    for _ in range(1 + rounds):  # the first one starts them
        seconds = []
        for processes in (1, 2):
            began = time.perf_counter()
            text_metrics.curves(texts, hits, ["METEOR"], nearest=0, processes=processes)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
    return row("meteor", f"{20 * n:,} pairs, two processes", "one process", ratios[1:], 1.6)


def rows() -> list[dict]:
    """One dict a measurement: id, what, rival, ratio, spread, goal (least ratio), met."""
    return [figure3(), meteor()]


ROWS = {"text_metrics": rows}

if __name__ == "__main__":
    for measurement in rows():
        print(measurement)
