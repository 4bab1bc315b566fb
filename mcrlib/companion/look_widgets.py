"""The explorer's panel that shows what a model looked at (ours)."""

import html
from collections.abc import Callable
from functools import partial

import ipywidgets as widgets
import numpy as np

from mcrlib.companion import looks
from mcrlib.companion.explorer import Answer
from mcrlib.companion.parts import button, close_all, heading, in_turn, text_html, told
from mcrlib.explain import Explanation, word_places

SCALE = (
    f'<p><span class="mcr-scale" aria-hidden="true"></span> from −{looks.FULL_SHARE} (blue, lowers '
    f"the score) to +{looks.FULL_SHARE} (orange, raises it), the same for all hits.</p>"
)
METHOD_TOLD = {
    "exact": (
        "Shares of the cosine; they add up to it. Each patch and word has seen the whole picture "
        "or report, so a share does not prove a cause."
    ),
    "occlusion": "The fall of the score if the patch or word is hidden; falls do not add up.",
}


class Look(widgets.VBox):
    """Heat over a radiograph beside the words of a report; each patch and word can be chosen."""

    def __init__(self):
        self.title = widgets.HTML()
        self.about = widgets.HTML()
        self.heat = widgets.HTML()
        self.patches = widgets.GridBox()
        self.patches.add_class("mcr-patches")
        picture = widgets.Box([self.heat, self.patches])
        picture.add_class("mcr-look-picture")
        self.words = widgets.Box()
        self.words.add_class("mcr-words")
        columns = widgets.Box([picture, self.words])
        columns.add_class("mcr-look-columns")
        self.whole = button("Show the whole match", "mcr-whole", "All words and all patches")
        self.whole.on_click(self.guard(self.show_whole))
        self.body = widgets.VBox([self.title, columns, self.whole, widgets.HTML(SCALE), self.about])
        super().__init__([heading("What the model looked at"), self.body])
        self.add_class("mcr-look")
        self.clear()

    def clear(self) -> None:
        """Show nothing until a hit is chosen."""
        self.body.layout.display = "none"
        self.explanation = None

    def show(self, answer: Answer, hit: dict) -> None:
        """Explain the score of a hit. Raises ValueError if its model cannot."""
        model = answer.pool.model
        if model is None:
            raise ValueError(f"{answer.pool.name} has no trained model here that could be asked.")
        is_image = answer.direction == "image_to_report"
        self.picture = answer.picture if is_image else answer.pool.picture(hit["pair"])
        self.text = hit["report"] if is_image else answer.report
        self.explanation: Explanation = model.explain(self.picture, self.text)
        tokens = model.config.max_tokens
        if self.explanation.matrix is not None:
            tokens = self.explanation.matrix.shape[1]
        self.places = word_places(model.tokenizer, self.text, tokens)
        self.hit_name = f"{answer.pool.variant}, hit {hit['rank']}, {hit['pair_id']}"
        self._make_patches()
        self._make_words()
        self.about.value = text_html(METHOD_TOLD[self.explanation.method])
        self.whole.disabled = self.explanation.matrix is None
        self.body.layout.display = ""
        self.show_whole()

    def show_whole(self) -> None:
        """Colour patches and words by their shares of the whole score."""
        self._say(f"{self.hit_name}: score {self.explanation.score:.2f}")
        self._paint_patches(np.asarray(self.explanation.patches), "Shares of all words")
        self._paint_words([word.share for word in self.explanation.words])

    def show_word(self, number: int) -> None:
        """Colour the patches that answer to a word."""
        matrix = self._matrix()
        columns = self.places[number].tokens
        shares = matrix[1:, columns].sum(axis=1)
        word = self.explanation.words[number].text
        side = len(self.explanation.patches)
        self._say(f"{self.hit_name}: patches that answer to “{word}”, {shares.sum():+.3f}")
        self._paint_patches(shares.reshape(side, side), f"Patches that answer to {word}")

    def show_patch(self, number: int) -> None:
        """Colour the words that answer to a patch."""
        matrix = self._matrix()
        of_tokens = matrix[1 + number]
        shares = [float(of_tokens[place.tokens].sum()) for place in self.places]
        row, column = divmod(number, len(self.explanation.patches))
        self._say(
            f"{self.hit_name}: words that answer to the patch in row {row + 1}, column "
            f"{column + 1}, {of_tokens.sum():+.3f}"
        )
        self._paint_words(shares)

    def _matrix(self) -> np.ndarray:
        """Shares of patches and tokens. Raises ValueError for models that have none."""
        if self.explanation is None:
            raise ValueError("Choose a hit first.")
        if self.explanation.matrix is None:
            raise ValueError(
                "This model aggregates before it maps: it has no shares of single patches and "
                "words in each other, only the whole map."
            )
        return np.asarray(self.explanation.matrix)

    def _say(self, sentence: str) -> None:
        self.title.value = f'<p class="mcr-look-title">{html.escape(sentence)}</p>'

    def _paint_patches(self, shares: np.ndarray, about: str) -> None:
        self.heat.value = looks.heat_html(self.picture, shares, f"{self.hit_name}. {about}")
        side = len(shares)
        flat = shares.ravel().tolist()
        for number, patch in enumerate(self.patches.children):
            row, column = divmod(number, side)
            patch.tooltip = f"patch in row {row + 1}, column {column + 1}: {flat[number]:+.3f}"

    def _paint_words(self, shares: list[float]) -> None:
        for word, share in zip(self.words.children, shares, strict=True):
            word.style.button_color = looks.css_colour(share)
            word.tooltip = f"{word.description}: {share:+.3f}"

    def _make_patches(self) -> None:
        side = len(self.explanation.patches)
        if len(self.patches.children) == side * side:
            return
        close_all(self.patches)
        self.patches.layout.grid_template_columns = f"repeat({side}, 1fr)"
        self.patches.layout.grid_template_rows = f"repeat({side}, 1fr)"
        patches = []
        size = widgets.Layout(width="100%", height="100%")  # one for all: a browser keeps it
        for number in range(side * side):
            patch = button("", "mcr-patch", layout=size)
            patch.on_click(self.guard(partial(self.show_patch, number)))
            patches.append(patch)
        self.patches.children = patches

    def _make_words(self) -> None:
        close_all(self.words)
        words = []
        for number, word in enumerate(self.explanation.words):
            made = button(word.text, "mcr-word")
            made.on_click(self.guard(partial(self.show_word, number)))
            words.append(made)
        self.words.children = words

    def guard(self, action: Callable[[], None]) -> Callable:
        """A handler of clicks that says in the panel what went wrong."""

        def _run() -> None:
            try:
                action()
            except Exception as error:
                self._say(told(error))

        return lambda _: in_turn(_run)
