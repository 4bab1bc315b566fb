"""Search both ways in a run's embedded pairs, as notebook 09 shows it (ours).

`search` asks one question, `compare` ranks all pairs of a split under several models, and `show`
draws answers. Opening a pool reads and measures what it needs once; asking a question encodes the
question and nothing else.
"""

import functools
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from mcrlib import MCR, config, results, sheets
from mcrlib.companion import analyses, familiarity
from mcrlib.companion.familiarity import Familiar
from mcrlib.data import images, prepare
from mcrlib.data.dataset import Dataset
from mcrlib.evaluation import findings, nearest, retrieval
from mcrlib.evaluation.attributes import Attribute, Attributes
from mcrlib.evaluation.finding_rules import NO_FINDING
from mcrlib.evaluation.nearest import Rows
from mcrlib.evaluation.seeds import variant_and_seed

IMAGE_TO_REPORT = "image_to_report"
REPORT_TO_IMAGE = "report_to_image"
DIRECTIONS = (IMAGE_TO_REPORT, REPORT_TO_IMAGE)
SEARCHED = {IMAGE_TO_REPORT: "report", REPORT_TO_IMAGE: "image"}
ASKED = {IMAGE_TO_REPORT: "image", REPORT_TO_IMAGE: "report"}

LONGEST_TEXT = 100_000  # characters of a question
LARGEST_UPLOAD = 20_000_000  # bytes of an uploaded file; a larger one is given by its path
MOST_TOP = 50  # hits of an answer
FILTERED = 2000  # best hits among which those are looked for that fit a filter
SUPPORTED = 99  # percent of validation queries whose best hit scores at least `Pool.support`
MEASURED = 2000  # validation queries that this is measured on, at most
COMPARED = 2000  # queries that are ranked by `compare`, at most

Radiograph = Path | bytes | np.ndarray | Image.Image


class Pair(NamedTuple):
    """A question that is one half of a pair of the split: its radiograph or its report."""

    pair_id: str
    half: str = "image"  # or "report"


@dataclass(frozen=True)
class Filters:
    """Which pairs may be hits. What is empty allows all."""

    finding: str = ""  # a name of `evaluation.findings.FINDINGS`, or of the data set's labels
    side: str = ""  # left or right
    view: str = ""  # as the manifest has it

    @property
    def allow_all(self) -> bool:
        """Whether nothing is filtered."""
        return self == Filters()

    def match(self, own: Attributes, view: str) -> bool:
        """Whether a pair with these attributes and this view may be a hit."""
        if self.view and view != self.view:
            return False
        if self.finding == NO_FINDING:
            return not own
        if self.finding and self.side:
            return Attribute(self.finding, "side", self.side) in own
        if self.finding:
            return Attribute(self.finding) in own
        if self.side:
            return any(one[1:] == ("side", self.side) for one in own)
        return True


@dataclass(frozen=True)
class Pool:
    """The pairs of one split under one model, opened once and asked many times."""

    run: str
    name: str  # the model's folder, VARIANT-seedS
    split: str
    dataset: Dataset
    rows: np.ndarray  # int64 [N], of the data set
    frame: pd.DataFrame  # [N] pairs
    embedded: dict[str, Rows]  # "image" and "report"
    support: dict[str, float]  # by direction, the lowest score that counts as a match
    model: MCR | None  # None for methods that are no model of ours, such as `tfidf`
    familiar: Familiar
    _attributes: dict[int, Attributes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def variant(self) -> str:
        """The model's name without its seed."""
        return variant_and_seed(self.name)[0]

    def picture(self, pair: int) -> np.ndarray:
        """The radiograph of a pair, uint8 `[S, S]`."""
        return self.dataset.images[self.rows[pair]]

    def attributes(self, pair: int) -> Attributes:
        """Findings of a pair with their sides: its labels if it is drawn, else its report's."""
        if pair not in self._attributes:
            own = self.frame.iloc[[pair]]
            (self._attributes[pair],), _ = analyses.pair_attributes(self.dataset, own)
        return self._attributes[pair]

    def number_of(self, pair_id: str) -> int:
        """The number of a pair in the split. Raises ValueError if it is not there."""
        places = np.flatnonzero(self.frame["pair_id"] == pair_id)
        if len(places) == 0:
            raise ValueError(f"No pair of the {self.split} split is called {pair_id}.")
        return int(places[0])


@dataclass(frozen=True)
class Answer:
    """The hits of one question under one model, and what to know before believing them."""

    pool: Pool
    direction: str  # of DIRECTIONS
    report: str  # the question's text; "" if it is a radiograph without a report
    picture: np.ndarray | None  # the question's radiograph, uint8 [S, S]
    pair_id: str  # of the question's pair; "" if it is of no pair of the split
    hits: list[dict]  # rank, score, positive, pair_id, report, pair (its number); best first
    partner_rank: int | None  # of the true partner in the whole pool
    is_match: bool  # whether the best score is one that the validation split supports
    notes: list[str]  # sentences


def models(run: str, split: str = "test") -> list[str]:
    """Names of the folders with embeddings of a split, `VARIANT-seedS`, our variants first.

    Empty if the run has none.
    """
    try:
        files = results.embedding_files(run, split)
    except FileNotFoundError:
        return []
    return [file.parent.name for file in files.values()]


def runs() -> list[str]:
    """Runs with embeddings and prepared pairs, in the order of `config.RUNS`."""
    found = []
    for run in config.RUNS:
        has_pairs = (config.data_folder(run) / "dataset.json").is_file()
        if has_pairs and models(run):
            found.append(run)
    return found


def trained_or_reference(run: str) -> str:
    """The run itself; for `demo` in a checkout where nothing is trained yet, the `reference`, whose
    models come with the checkout. Draws the reference's pairs if they are not there (10 seconds).
    """
    if run == "demo" and not models(run):
        run = config.REFERENCE
    if run == config.REFERENCE:
        prepare.build(config.load(run))
    return run


def open_pool(run: str, variant: str = "mcr", seed: int = 0, split: str = "test") -> Pool:
    """The pairs of a split as a model sees them; kept open until a file of them changes.

    Raises FileNotFoundError or ValueError with a sentence if something is missing or out of date.
    """
    name = f"{variant}-seed{seed}"
    folder = config.ROOT / "results" / run / name
    file = folder / f"embeddings-{split}.npz"
    if not file.is_file():
        raise FileNotFoundError(
            f"{name} is not embedded in the run {run} yet: `make embed RUN={run} "
            f"VARIANTS={variant} SEEDS={seed}` does it."
        )
    dataset = config.data_folder(run) / "dataset.json"
    stamps = [_stamp(file), _stamp(dataset)]
    trained = results.model_folder(folder)
    if trained is not None:
        stamps.append(_stamp(trained / "model.safetensors"))
    return _open_pool(run, name, split, tuple(stamps))


def _stamp(file: Path) -> tuple[str, int]:
    """What changes when a file does."""
    return str(file), file.stat().st_mtime_ns if file.is_file() else 0


@functools.lru_cache(maxsize=4)
def _open_pool(run: str, name: str, split: str, stamps: tuple) -> Pool:
    folder = config.ROOT / "results" / run / name
    file = folder / f"embeddings-{split}.npz"
    dataset = results.dataset_of_run(run)
    results.refuse_stale(file, run)
    rows = dataset.indices(split)
    if len(rows) == 0:
        raise ValueError(f"The {split} split has no pairs: there is nothing to search.")
    frame = dataset.frame.iloc[rows].reset_index(drop=True)
    embedded = results.map_embeddings(file, frame["pair_id"])
    trained = results.model_folder(folder)
    model = None
    if trained is not None:
        model = MCR.from_pretrained(trained)
        model.embed_reports(["chest"])  # so that the first question need not set up PyTorch
    return Pool(
        run=run,
        name=name,
        split=split,
        dataset=dataset,
        rows=rows,
        frame=frame,
        embedded=embedded,
        support=_support(run, folder, dataset),
        model=model,
        familiar=familiarity.familiar(dataset),
    )


def _support(run: str, folder: Path, dataset: Dataset) -> dict[str, float]:
    """By direction, what the best hits of `SUPPORTED` percent of validation queries score at least.

    Without embeddings of the validation split every score is accepted.
    """
    file = folder / "embeddings-validate.npz"
    if not file.is_file():
        return dict.fromkeys(DIRECTIONS, -1.0)
    results.refuse_stale(file, run)
    ids = dataset.frame["pair_id"].iloc[dataset.indices("validate")]
    embedded = results.map_embeddings(file, ids)
    measured = np.arange(min(MEASURED, len(ids)))
    image = embedded["image"].take(measured)
    report = embedded["report"].take(measured)
    support = {}
    for direction, hits in retrieval.hits(image, report, 1).items():
        support[direction] = float(np.percentile(hits.cosines, 100 - SUPPORTED))
    return support


# Asking


@dataclass(frozen=True)
class _Question:
    """A question, read and checked."""

    direction: str
    report: str = ""
    picture: np.ndarray | None = None
    pair_id: str = ""
    pair: int | None = None  # its number in the split
    notes: tuple[str, ...] = ()


def search(
    question: str | Radiograph | Pair,
    top: int = 5,
    run: str = "demo",
    variant: str = "mcr",
    seed: int = 0,
    split: str = "test",
    filters: Filters | None = None,
) -> Answer:
    """The `top` radiographs nearest to a text, or the `top` reports nearest to a radiograph.

    `question` is a sentence or a report (a str); a radiograph as a Path, the bytes of a JPEG, PNG
    or DICOM file, a PIL image or an array `[H, W]`; or a `Pair` of the split, whose true partner is
    then marked. Ranks are those in the whole split, whatever the filters. Raises ValueError with a
    sentence for a question that cannot be asked, and FileNotFoundError if the model is missing.
    """
    return ask(open_pool(run, variant, seed, split), question, top, filters)


def ask(
    pool: Pool, question: str | Radiograph | Pair, top: int = 5, filters: Filters | None = None
) -> Answer:
    """`search` in an open pool."""
    filters = filters or Filters()
    if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= MOST_TOP:
        raise ValueError(f"top must be a whole number from 1 to {MOST_TOP}: got {top!r}.")
    asked = _read_question(pool, question)
    row = _embed(pool, asked)
    cosines = pool.embedded[SEARCHED[asked.direction]].cosines(row)
    order = nearest.by_score(cosines)
    notes = list(asked.notes)
    chosen = _filtered(pool, order, top, filters)
    if len(chosen) < min(top, len(pool)):
        notes.append(_about_filter(pool, len(chosen), filters))
    best = float(cosines[order[0]])
    support = pool.support[asked.direction]
    is_match = best >= support
    if not is_match:
        notes.insert(0, _about_no_match(pool, asked.direction, best))
    partner_rank = None
    if asked.pair is not None:
        partner_rank = nearest.rank_of(cosines, asked.pair)
    return Answer(
        pool=pool,
        direction=asked.direction,
        report=asked.report,
        picture=asked.picture,
        pair_id=asked.pair_id,
        hits=_records(pool, chosen, cosines, asked.pair),
        partner_rank=partner_rank,
        is_match=is_match,
        notes=notes,
    )


def _about_no_match(pool: Pool, direction: str, best: float) -> str:
    return (
        f"No good match: the best hit scores {best:.2f}, and {SUPPORTED} of 100 questions of the "
        f"validation split reach at least {pool.support[direction]:.2f}."
    )


def _about_filter(pool: Pool, found: int, filters: Filters) -> str:
    looked = min(FILTERED, len(pool))
    words = [word for word in (filters.side, filters.finding, filters.view) if word]
    return f"Of the best {looked:,} hits, {found} fit the filter ({', '.join(words)})."


def _read_question(pool: Pool, question: Any) -> _Question:
    if isinstance(question, Pair):
        return _of_pair(pool, question)
    if isinstance(question, str):
        return _of_text(pool, question)
    if isinstance(question, (Path, bytes, memoryview, np.ndarray, Image.Image)):
        return _of_radiograph(pool, question)
    kind = type(question).__name__
    raise ValueError(
        f"A question is a text, a radiograph (Path, bytes, picture or array) or a Pair: got {kind}."
    )


def _of_pair(pool: Pool, question: Pair) -> _Question:
    pair = pool.number_of(question.pair_id)
    if question.half not in ("image", "report"):
        raise ValueError(f"The half of a pair is image or report: got {question.half!r}.")
    direction = REPORT_TO_IMAGE
    if question.half == "image":
        direction = IMAGE_TO_REPORT
    return _Question(
        direction=direction,
        report=pool.frame["report"].iloc[pair],
        picture=pool.picture(pair),
        pair_id=question.pair_id,
        pair=pair,
    )


def _of_text(pool: Pool, text: str) -> _Question:
    if not text.strip():
        raise ValueError("The question is empty: type a sentence or paste a report.")
    if len(text) > LONGEST_TEXT:
        raise ValueError(
            f"The text has {len(text):,} characters; a question may have {LONGEST_TEXT:,}."
        )
    model = _model_of(pool)
    text = text.encode(errors="replace").decode()  # half a surrogate pair is no text
    notes = familiarity.about_text(text, model.tokenizer, model.config.max_tokens, pool.familiar)
    return _Question(REPORT_TO_IMAGE, report=text, notes=tuple(notes))


def _of_radiograph(pool: Pool, source: Radiograph) -> _Question:
    model = _model_of(pool)
    notes = []
    if isinstance(source, memoryview):
        source = bytes(source)
    if isinstance(source, (Path, bytes)):
        content = _content(source)
        notes += familiarity.about_colour(content)
        source = _constant(content)
    if isinstance(source, Image.Image):
        source = _grey(source)
    try:
        picture = images.read(source, model.config.cache_size)
    except ValueError as error:
        raise ValueError(f"This radiograph cannot be read: {error}.") from None
    notes += familiarity.about_picture(picture, pool.familiar)
    return _Question(IMAGE_TO_REPORT, picture=picture, notes=tuple(notes))


def _content(source: Path | bytes) -> bytes:
    """The bytes of a file. Raises ValueError with a sentence."""
    if isinstance(source, bytes):
        return source
    try:
        return images.content_of(source)
    except ValueError as error:
        raise ValueError(f"{source} cannot be read: {error}.") from None


def _constant(content: bytes) -> Any:
    """A function that returns the bytes, as `images.read` takes them."""
    return lambda: content


def _grey(picture: Image.Image) -> np.ndarray:
    """`[H, W]`; PIL's modes `I` and `I;16` are grey already and have more than eight bits."""
    if not picture.mode.startswith("I"):
        picture = picture.convert("L")
    return np.asarray(picture)


def _model_of(pool: Pool) -> MCR:
    """The pool's model. Raises ValueError if it has none."""
    if pool.model is None:
        raise ValueError(
            f"{pool.name} has embeddings but no trained model in results/{pool.run}: only pairs of "
            "the split can be asked, no sentence and no file."
        )
    return pool.model


def _embed(pool: Pool, asked: _Question) -> np.ndarray:
    """The question's unit row `[E]`; that of a pair is already there."""
    if asked.pair is not None:
        (row,) = pool.embedded[ASKED[asked.direction]].take(np.array([asked.pair]))
        return row
    model = _model_of(pool)
    if asked.direction == REPORT_TO_IMAGE:
        (row,) = model.embed_reports([asked.report]).numpy()
    else:
        (row,) = model.embed_images([asked.picture]).numpy()
    return row


def _filtered(pool: Pool, order: np.ndarray, top: int, filters: Filters) -> list[int]:
    """The first `top` pairs, best first, that the filters allow, among the first `FILTERED`.

    A pair's findings are read when it is looked at: to read those of a large pool takes minutes.
    """
    if filters.allow_all:
        return order[:top].tolist()
    chosen = []
    for pair in order[:FILTERED].tolist():
        if filters.match(pool.attributes(pair), pool.frame["view"].iloc[pair]):
            chosen.append(pair)
        if len(chosen) == top:
            break
    return chosen


def _records(pool: Pool, chosen: Sequence[int], cosines: np.ndarray, own: int | None) -> list[dict]:
    records = []
    for pair in chosen:
        record = {
            "rank": nearest.rank_of(cosines, pair),
            "score": float(cosines[pair]),
            "positive": pair == own,
            "pair_id": pool.frame["pair_id"].iloc[pair],
            "report": pool.frame["report"].iloc[pair],
            "pair": pair,
        }
        records.append(record)
    return records


# All pairs under several models


def compare(
    variants: Sequence[str],
    run: str = "demo",
    seed: int = 0,
    split: str = "test",
    direction: str = IMAGE_TO_REPORT,
    order: str = "manifest",
    k: int = 1,
) -> pd.DataFrame:
    """Ranks of the true partners under each of the variants, one row a pair.

    Columns: `pair_id`, `report`, `view`, and for each variant its ranks. `order` is `manifest`,
    `worst` (the worst rank of the first variant first) or `disagreement`: first the pairs whose
    partner the first variant has among its first `k` hits and the second has not, the worst of the
    second first. The first `COMPARED` pairs of a larger split are ranked, among all of it. Raises
    ValueError or FileNotFoundError with a sentence.
    """
    if isinstance(variants, str) or not variants:
        raise ValueError('variants is a list of names, such as ["mcr", "dual"].')
    pools = [open_pool(run, variant, seed, split) for variant in variants]
    table = rank_table(pools, direction, order, k)
    return table.rename(columns={pool.name: pool.variant for pool in pools})


ORDERS = ("manifest", "worst", "disagreement")


def rank_table(
    pools: Sequence[Pool],
    direction: str = IMAGE_TO_REPORT,
    order: str = "manifest",
    k: int = 1,
) -> pd.DataFrame:
    """`compare` of open pools of one split; the columns of ranks have their models' names."""
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is one of {', '.join(DIRECTIONS)}: got {direction!r}.")
    if order not in ORDERS:
        raise ValueError(f"order is one of {', '.join(ORDERS)}: got {order!r}.")
    if order == "disagreement" and len(pools) < 2:
        raise ValueError("A disagreement takes two models: choose a second one.")
    table = pools[0].frame[["pair_id", "report", "view"]].head(COMPARED).copy()
    names = [pool.name for pool in pools]
    for pool in pools:
        table[pool.name] = _ranks(pool, direction, len(table))
    return _sorted(table, names, order, k)


def _ranks(pool: Pool, direction: str, queries: int) -> np.ndarray:
    """Ranks of the partners of the first `queries` pairs, int64 `[queries]`."""
    asked = np.arange(queries)
    everything = np.arange(len(pool))
    rows = pool.embedded[ASKED[direction]].take(asked)
    candidates = pool.embedded[SEARCHED[direction]].take(everything)
    return retrieval.ranks(rows, candidates, asked, everything)


def _sorted(table: pd.DataFrame, names: Sequence[str], order: str, k: int) -> pd.DataFrame:
    if order == "worst":
        return table.sort_values(names[0], ascending=False, kind="stable")
    if order == "disagreement":
        first, second = names[:2]
        is_told_apart = (table[first] <= k) & (table[second] > k)
        keys = table.assign(told_apart=is_told_apart)
        keys = keys.sort_values(["told_apart", second], ascending=False, kind="stable")
        return keys.drop(columns="told_apart")
    return table


def finding_names(pool: Pool) -> list[str]:
    """Findings to filter by: those of drawn pairs' labels, or all that reports are read for."""
    if pool.dataset.info["source"] not in config.DRAWN_SOURCES:
        return list(findings.FINDINGS)
    names = {NO_FINDING}
    for pair in range(min(COMPARED, len(pool))):
        names.update(one.finding for one in pool.attributes(pair))
    return sorted(names)


# Showing


def spans(answer: Answer, hit: dict) -> list[tuple[int, int, str]]:
    """What to mark in a hit's report, coloured as in Figure 5.

    A radiograph without a report asserts nothing to compare with: the hit's own findings are
    marked.
    """
    if answer.report:
        return findings.highlights(answer.report, hit["report"])
    marked = []
    for start, end, kind in findings.highlights(hit["report"], hit["report"]):
        if kind != "denied":
            kind = "own"
        marked.append((start, end, kind))
    return marked


def show(answers: Answer | Sequence[Answer], words: int = 80) -> str:
    """Answers to one question as one piece of HTML, a row a model, as Figure 5 shows hits.

    All text is escaped, pictures are embedded. Raises ValueError for answers to several questions.
    """
    answers = [answers] if isinstance(answers, Answer) else list(answers)
    _check_one_question(answers)
    first = answers[0]
    marks = {}
    hits = {}
    pictures = {}
    for answer in answers:
        hits[_label(answer, answers)] = answer.hits
        for hit in answer.hits:
            pictures[hit["pair_id"]] = answer.pool.picture(hit["pair"])
            marks[hit["report"]] = spans(answer, hit)
    if first.picture is not None:
        pictures[first.pair_id] = first.picture
    record = {
        "direction": first.direction,
        "pair_id": first.pair_id,
        "report": first.report,
        "hits": hits,
    }

    def _marked(query: str, report: str) -> list[tuple[int, int, str]]:
        if report in marks:
            return marks[report]
        return findings.highlights(query, report)

    return notes_html(answers) + sheets.top3_html([record], pictures, _marked, words)


def _check_one_question(answers: Sequence[Answer]) -> None:
    if not answers:
        raise ValueError("There is no answer to show: search first.")
    asked = {(answer.direction, answer.report, answer.pair_id) for answer in answers}
    if len(asked) > 1:
        raise ValueError("These answers belong to several questions: show those of one.")


def _label(answer: Answer, answers: Sequence[Answer]) -> str:
    """The variant, or the model's folder if several seeds of it are shown."""
    same = [other for other in answers if other.pool.variant == answer.pool.variant]
    return answer.pool.name if len(same) > 1 else answer.pool.variant


def notes_html(answers: Sequence[Answer]) -> str:
    """What to know before believing the answers, as a list; "" if there is nothing to say."""
    items = ""
    said = set()
    for answer in answers:
        sentences = list(answer.notes)
        if answer.partner_rank is not None:
            size = len(answer.pool)
            sentences.append(f"The true partner has rank {answer.partner_rank:,} of {size:,}.")
        for sentence in sentences:
            text = f"{answer.pool.name}: {sentence}" if len(answers) > 1 else sentence
            if text not in said:
                items += f"<li>{html.escape(text)}</li>"
            said.add(text)
    return f'<ul class="mcr-notes">{items}</ul>' if items else ""


def png(picture: np.ndarray) -> bytes:
    """A picture, uint8 `[S, S]` or `[S, S, 3]`, as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()
