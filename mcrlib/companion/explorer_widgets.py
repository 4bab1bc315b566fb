"""The explorer of notebook 09: search both ways, and see what the model looked at (ours).

`explore` shows it. Each control has a CSS class `mcr-...`, by which style sheets and tests find it.
What is uploaded stays in memory: it is written to no file.
"""

import html
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
from IPython.display import HTML, Markdown

from mcrlib import config, sheets
from mcrlib.companion import explorer, looks
from mcrlib.companion.explorer import Answer, Filters, Pair, Pool
from mcrlib.companion.explorer_style import STYLE
from mcrlib.companion.look_widgets import Look
from mcrlib.companion.map_widgets import SplitMap
from mcrlib.companion.parts import (
    LABELLED,
    button,
    choice,
    close_all,
    heading,
    in_turn,
    row,
    text_html,
    told,
)
from mcrlib.data.schema import SPLITS
from mcrlib.evaluation.seeds import variant_and_seed

ALL = "all"
NO_SECOND = "none"
LISTED = 500  # pairs in the list to choose from
SIDES = ("left", "right")
STATIC_SIDE = 192  # pixels of the heat map in an executed notebook
ORDERS = (
    ("as in the data", "manifest"),
    ("worst ranks first", "worst"),
    ("first model right, second wrong", "disagreement"),
)
HALVES = (("its radiograph, for reports", "image"), ("its report, for radiographs", "report"))


def explore(
    run: str = "demo",
    variant: str = "mcr",
    seed: int = 0,
    question: str = "Large right pleural effusion.",
    split: str = "test",
) -> Any:
    """The explorer on a run. Without a browser, as in `make reproduce`, a picture of one answer.

    If the model is not there, a sentence says how to get it.
    """
    try:
        pool = explorer.open_pool(run, variant, seed, split)
    except (FileNotFoundError, ValueError) as reason:
        return Markdown(html.escape(str(reason), quote=False))
    if os.environ.get(config.PLAIN):
        return HTML(_static(pool, question))
    return Explorer(run, pool.name, split, question)


def _static(pool: Pool, question: str) -> str:
    """Three hits of the question, and what the model looked at in the first."""
    if pool.model is None:
        question = Pair(pool.frame["pair_id"].iloc[0], "report")
    answer = explorer.ask(pool, question, 3)
    page = explorer.show(answer)
    if pool.model is not None:
        picture = pool.picture(answer.hits[0]["pair"])
        shares = pool.model.explain(picture, answer.report).patches.numpy()
        about = f"What {pool.name} looked at in {answer.hits[0]['pair_id']}"
        page += text_html(f"{about} (orange raises the score):")
        page += looks.heat_html(picture, shares, about, STATIC_SIDE)
    return page


class HitList(widgets.VBox):
    """The hits of one model, each with a button that shows what the model looked at."""

    def __init__(self, answer: Answer, choose: Callable[[Answer, dict], Callable]):
        """`choose(answer, hit)` makes the handler of a hit's button."""
        title = f"{answer.pool.name}, {answer.pool.split} split, {len(answer.pool):,} candidates"
        about = widgets.HTML(f"<b>{html.escape(title)}</b>{explorer.notes_html([answer])}")
        cards = []
        for hit in answer.hits:
            look = button(
                "What did the model look at?",
                "mcr-hit-look",
                f"Show what {answer.pool.name} looked at in hit {hit['rank']}",
            )
            look.on_click(choose(answer, hit))
            card = widgets.VBox([widgets.HTML(self._card(answer, hit)), look])
            card.add_class("mcr-hit")
            if hit["positive"]:
                card.add_class("mcr-hit-true")
            cards.append(card)
        self.cards = widgets.Box(cards)
        self.cards.add_class("mcr-cards")
        super().__init__([about, self.cards])
        self.add_class("mcr-hits")

    def _card(self, answer: Answer, hit: dict) -> str:
        title = f"#{hit['rank']}   {hit['score']:.2f}   {hit['pair_id']}"
        if hit["positive"]:
            title += "   ✓ true partner"
        picture = None
        if answer.direction == explorer.REPORT_TO_IMAGE:
            picture = answer.pool.picture(hit["pair"])
        return sheets.card(
            title,
            hit["report"],
            explorer.spans(answer, hit),
            picture,
            alternative=described(answer.pool, hit["pair"]),
        )


def described(pool: Pool, pair: int) -> str:
    """A radiograph in words: its pair and the findings of its report or labels."""
    names = ", ".join(sorted(looks.findings_of(pool, pair)))
    return f"Radiograph {pool.frame['pair_id'].iloc[pair]}: {names}"


class Explorer(widgets.VBox):
    """Controls, answers, what the model looked at, and the map, in the order of the Tab key."""

    def __init__(self, run: str, name: str, split: str, question: str):
        self.status = widgets.HTML()
        self.asked = widgets.HTML()
        self.asked.add_class("mcr-asked")
        self.answers = widgets.Box()
        self.answers.add_class("mcr-answers")
        self.look = Look()
        self.last: Any = None  # the last question, asked again if a control changes
        self._make_model_controls(run, name, split)
        self._make_filters()
        self._make_questions(question)
        self.map = SplitMap(self.first_pool, self.guarded, self.ask_with_pair)
        super().__init__(self._parts())
        self.add_class("mcr-explorer")
        self._fill_models(name)
        self._fill_filters()
        self._fill_pairs()
        self._connect()

    def _parts(self) -> list[widgets.Widget]:
        return [
            widgets.HTML(STYLE + sheets.ENLARGE),
            heading("Models and pool"),
            row(self.run, self.split, self.model, self.second, self.top),
            row(self.finding, self.side, self.view),
            heading("A sentence or a report, for radiographs"),
            self.text,
            self.search,
            heading("A radiograph, for reports"),
            row(self.upload, self.path, self.open_path),
            heading("A pair of the split"),
            row(self.order, self.half),
            row(self.pairs, self.ask_pair),
            self.status,
            heading("Hits"),
            self.asked,
            self.answers,
            widgets.HTML(sheets.legend_html()),
            self.look,
            self.map,
        ]

    def __repr__(self) -> str:
        """Short, since notebooks keep it as a text: it shows nothing of the pairs."""
        return "Explorer()"

    # Making the controls

    def _make_model_controls(self, run: str, name: str, split: str) -> None:
        runs = list(dict.fromkeys([run, *explorer.runs()]))
        self.run = choice("Run", runs, "mcr-run")
        self.split = choice("Split", [one for one in SPLITS if one != "train"], "mcr-split")
        self.split.value = split
        self.model = choice("Model", [name], "mcr-model")
        self.second = choice("Beside it", [NO_SECOND], "mcr-second-model")
        self.top = widgets.BoundedIntText(
            value=5, min=1, max=explorer.MOST_TOP, description="Hits", **LABELLED
        )
        self.top.layout.width = "110px"
        self.top.add_class("mcr-top")

    def _make_filters(self) -> None:
        self.finding = choice("Finding", [ALL], "mcr-finding")
        self.side = choice("Side", [ALL, *SIDES], "mcr-side")
        self.view = choice("View", [ALL], "mcr-view")

    def _make_questions(self, question: str) -> None:
        self.text = widgets.Textarea(value=question, description="Text", rows=3, **LABELLED)
        self.text.layout.width = "min(100%, 720px)"
        self.text.add_class("mcr-text")
        self.search = button("Search radiographs", "mcr-search")
        self.upload = widgets.FileUpload(description="Upload JPEG, PNG or DICOM")
        self.upload.layout.width = "auto"
        self.upload.tooltip = "Upload a radiograph: JPEG, PNG or DICOM, at most 20 MB"
        self.upload.add_class("mcr-upload")
        self.path = widgets.Text(description="or its path on this machine", **LABELLED)
        self.path.layout.width = "min(100%, 520px)"
        self.path.add_class("mcr-path")
        self.open_path = button("Search reports", "mcr-open-path")
        self.order = choice("Order", ORDERS, "mcr-order")
        self.half = choice("Ask with", HALVES, "mcr-half")
        self.pairs = widgets.Select(options=[], description="Pair", rows=6, **LABELLED)
        self.pairs.layout.width = "min(100%, 520px)"
        self.pairs.add_class("mcr-pair")
        self.ask_pair = button("Search with this pair", "mcr-ask-pair")

    def _connect(self) -> None:
        self.run.observe(self.guarded(self._change_run), "value")
        self.split.observe(self.guarded(self._change_run), "value")
        for control in (self.model, self.second, self.top):
            control.observe(self.guarded(self._ask_again), "value")
        for control in (self.finding, self.side, self.view):
            control.observe(self.guarded(self._change_filter), "value")
        for control in (self.order, self.half):
            control.observe(self.guarded(self._fill_pairs), "value")
        self.search.on_click(self.guarded(self._ask_with_text))
        self.upload.observe(self.guarded(self._ask_with_upload), "value")
        self.upload.observe(self.guarded(self._tell_upload_error), "error")
        self.open_path.on_click(self.guarded(self._ask_with_path))
        self.ask_pair.on_click(self.guarded(lambda: self.ask_with_pair(self.pairs.value)))

    # Doing what a control says

    def guarded(self, action: Callable) -> Callable:
        """A handler of events that runs `action` and says in the page what went wrong."""

        def _run() -> None:
            try:
                action()
            except Exception as error:
                self.say(told(error))

        return lambda _=None: in_turn(_run)

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers read out."""
        text = html.escape(sentence)
        self.status.value = f'<div class="mcr-status" role="status" aria-live="polite">{text}</div>'

    def first_pool(self) -> Pool:
        """The pool of the first model."""
        return self._pool(self.model.value)

    def _pool(self, name: str) -> Pool:
        variant, seed = variant_and_seed(name)
        return explorer.open_pool(self.run.value, variant, seed, self.split.value)

    def pools(self) -> list[Pool]:
        """The pools of the models that are shown."""
        names = [self.model.value]
        if self.second.value not in (NO_SECOND, self.model.value):
            names.append(self.second.value)
        return [self._pool(name) for name in names]

    def filters(self) -> Filters:
        """What the filter controls say."""
        chosen = [control.value for control in (self.finding, self.side, self.view)]
        return Filters(*("" if value == ALL else value for value in chosen))

    def ask(self, question: Any) -> None:
        """Ask all models and show their hits."""
        self.say("Searching …")
        pools = self.pools()
        started = time.perf_counter()
        answers = []
        for pool in pools:
            answers.append(explorer.ask(pool, question, self.top.value, self.filters()))
        seconds = time.perf_counter() - started
        self.last = question
        self._show(answers)
        self._tell(answers, seconds)

    def _show(self, answers: list[Answer]) -> None:
        self.look.clear()
        close_all(self.answers)
        first = answers[0]
        picture = first.picture if first.direction == explorer.IMAGE_TO_REPORT else None
        title = f"Question {first.pair_id}".strip()
        self.asked.value = sheets.card(
            title, first.report, picture=picture, alternative="The radiograph that was asked with"
        )
        lists = [HitList(answer, self._chooser) for answer in answers]
        self.answers.children = lists

    def _chooser(self, answer: Answer, hit: dict) -> Callable:
        return self.guarded(lambda: self.look.show(answer, hit))

    def _tell(self, answers: list[Answer], seconds: float) -> None:
        found = len(answers[0].hits)
        kind = explorer.SEARCHED[answers[0].direction]
        sentence = f"{found} {kind}s of {len(answers[0].pool):,} in {seconds:.2f} s."
        if not all(answer.is_match for answer in answers):
            sentence += " No good match."
        self.say(sentence)

    def _ask_again(self) -> None:
        if self.order.value != "manifest":
            self._fill_pairs()
        if self.last is not None:
            self.ask(self.last)

    def _ask_with_text(self) -> None:
        self.ask(self.text.value)

    def _ask_with_upload(self) -> None:
        if not self.upload.value:
            return
        file = self.upload.value[0]
        content = bytes(file["content"])
        self.upload.value = ()  # the content is kept by no widget, so that no notebook saves it
        if len(content) > explorer.LARGEST_UPLOAD:
            limit = explorer.LARGEST_UPLOAD // 10**6
            raise ValueError(
                f"The file has {len(content) / 1e6:.0f} MB; {limit} MB can be uploaded. Give its "
                "path in place of it."
            )
        self.ask(content)

    def _tell_upload_error(self) -> None:
        if self.upload.error:
            raise ValueError(f"The upload failed: {self.upload.error}. Give the file's path.")

    def _ask_with_path(self) -> None:
        if not self.path.value.strip():
            raise ValueError("The path is empty: type where the radiograph is.")
        self.ask(Path(self.path.value.strip()).expanduser())

    def ask_with_pair(self, pair_id: str | None) -> None:
        """Ask with the chosen half of a pair of the split."""
        if pair_id is None:
            raise ValueError("Choose a pair first.")
        self.ask(Pair(pair_id, self.half.value))

    # What the controls offer

    def _change_run(self) -> None:
        self.last = None
        self.look.clear()
        close_all(self.answers)
        self.asked.value = ""
        self._fill_models(self.model.value)
        self._fill_filters()
        self._fill_pairs()
        self.say("")

    def _fill_models(self, name: str) -> None:
        names = explorer.models(self.run.value, self.split.value)
        if not names:
            raise ValueError(
                f"The run {self.run.value} has no embeddings of the {self.split.value} split: "
                f"`make embed RUN={self.run.value}` makes them."
            )
        self.model.options = names
        self.model.value = name if name in names else names[0]
        self.second.options = [NO_SECOND, *names]

    def _fill_filters(self) -> None:
        pool = self.first_pool()
        views = sorted(set(pool.frame["view"]))
        self.view.options = [ALL, *views]
        self.finding.options = [ALL, *explorer.finding_names(pool)]

    def _change_filter(self) -> None:
        self._fill_pairs()
        if self.last is not None:
            self.ask(self.last)

    def _fill_pairs(self) -> None:
        """List the pairs that fit the filters, in the order asked for."""
        pools = self.pools()
        direction = explorer.DIRECTIONS[0]
        if self.half.value == "report":
            direction = explorer.DIRECTIONS[1]
        table = explorer.rank_table(pools, direction, self.order.value)
        filters = self.filters()
        options = []
        for pair in table.index.tolist():
            if filters.allow_all or filters.match(pools[0].attributes(pair), table["view"][pair]):
                options.append((self._pair_label(table, pair, pools), table["pair_id"][pair]))
            if len(options) == LISTED:
                break
        self.pairs.options = options

    def _pair_label(self, table: pd.DataFrame, pair: int, pools: list[Pool]) -> str:
        ranks = [f"{pool.name} rank {table[pool.name][pair]}" for pool in pools]
        return f"{table['pair_id'][pair]}   {', '.join(ranks)}"
