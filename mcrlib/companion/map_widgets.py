"""The explorer's map of a split, with the table beside it (ours)."""

import importlib.util
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from mcrlib.companion import looks
from mcrlib.companion.explorer import Pool
from mcrlib.companion.parts import LABELLED, button, choice, close_all, heading, row, text_html

HAS_LASSO = importlib.util.find_spec("jscatter") is not None  # the extra `explore`
OTHER = "other"  # points without the chosen finding
WITHOUT_LASSO = (
    "The four edges, from 0 to 1, choose a part of the map. A lasso comes with the extra explore: "
    "pip install jupyter-scatter."
)


class SplitMap(widgets.VBox):
    """Images and reports of a split as points, partners joined; a chosen part fills the table."""

    def __init__(self, current_pool: Callable[[], Pool], guard: Callable, ask: Callable):
        """`current_pool()` gives the pool to map, `guard(action)` makes a handler that tells what
        goes wrong, `ask(pair_id)` asks with a pair of the table."""
        self.current_pool = current_pool
        self.guard = guard
        self.table = pd.DataFrame()
        self.method = choice("Projection", looks.METHODS, "mcr-map-method")
        self.finding = choice("Orange", ["–"], "mcr-map-finding")
        self.lines = widgets.Checkbox(
            value=True, description="Lines between partners", indent=False
        )
        self.lines.layout.width = "auto"
        self.lines.add_class("mcr-map-lines")
        self.draw_button = button("Draw the map", "mcr-map-draw", "Draw the map of the split")
        self.edges = {
            "left": self._edge("Left edge", 0.0, "mcr-map-left"),
            "right": self._edge("Right edge", 1.0, "mcr-map-right"),
            "bottom": self._edge("Bottom edge", 0.0, "mcr-map-bottom"),
            "top": self._edge("Top edge", 1.0, "mcr-map-top"),
        }
        self.picture = widgets.Box()
        self.chosen = widgets.HTML()
        self.chosen.add_class("mcr-chosen")
        self.pairs = choice("Pair of the table", [], "mcr-map-pair")
        self.ask_button = button("Ask with this pair", "mcr-map-ask", "Ask with the table's pair")
        columns = widgets.Box([self.picture, self.chosen])
        columns.add_class("mcr-map-columns")
        hint = widgets.HTML()
        if not HAS_LASSO:
            hint.value = text_html(WITHOUT_LASSO)
        self.body = widgets.VBox(
            [row(*self.edges.values()), hint, columns, row(self.pairs, self.ask_button)]
        )
        self.body.layout.display = "none"
        controls = row(self.method, self.finding, self.lines, self.draw_button)
        super().__init__([heading("Map of the split"), controls, self.body])
        self.add_class("mcr-map-panel")
        self.draw_button.on_click(guard(self.draw))
        self.ask_button.on_click(guard(lambda: ask(self.pairs.value)))
        self.finding.observe(guard(self._repaint), "value")
        self.lines.observe(guard(self._repaint), "value")
        for edge in self.edges.values():
            edge.observe(guard(self._choose_by_edges), "value")

    def _edge(self, label: str, value: float, css_class: str) -> widgets.BoundedFloatText:
        limits = {"value": value, "min": 0.0, "max": 1.0, "step": 0.05}
        edge = widgets.BoundedFloatText(description=label, **limits, **LABELLED)
        edge.layout.width = "150px"
        edge.add_class(css_class)
        return edge

    def draw(self) -> None:
        """Project the split and show all of its pairs."""
        self.pool = self.current_pool()
        table = looks.split_map(self.pool, self.method.value)
        self.table = pd.DataFrame()  # nothing to repaint while the controls change
        names = looks.frequent_findings(table)
        self.finding.options = names
        for name, edge in self.edges.items():
            edge.value = float(name in ("right", "top"))
        self.table = table
        self._repaint()
        self._list(table)
        self.body.layout.display = ""

    def _repaint(self) -> None:
        """Draw the points anew, where a map has been asked for."""
        if len(self.table) == 0:
            return
        close_all(self.picture)
        if HAS_LASSO:
            drawn = _scatter(self.pool, self.table, self.finding.value, self.lines.value)
            drawn.observe(self.guard(self._choose_by_lasso), "selection")
        else:
            drawn = widgets.HTML(
                looks.map_html(self.pool, self.table, self.finding.value, self.lines.value)
            )
        self.picture.children = (drawn,)

    def _choose_by_edges(self) -> None:
        """List the points of a rectangle: what a lasso does, for the keyboard."""
        if len(self.table) == 0:
            return
        edge = {name: box.value for name, box in self.edges.items()}
        across = (edge["left"], edge["right"])
        up = (edge["bottom"], edge["top"])
        self._list(looks.chosen_points(self.table, across, up))

    def _choose_by_lasso(self) -> None:
        """List the points within a lasso, or all if there are none."""
        (drawn,) = self.picture.children
        points = np.asarray(drawn.selection, dtype=np.int64)
        chosen = self.table
        if len(points):
            chosen = self.table.iloc[points]
        self._list(chosen)

    def _list(self, points: pd.DataFrame) -> None:
        """Fill the table, and the list of pairs to ask with."""
        self.chosen.value = looks.table_html(points)
        names = points["pair_id"].drop_duplicates().head(looks.LISTED).tolist()
        self.pairs.options = names
        self.pairs.value = names[0] if names else None


def _scatter(pool: Pool, table: pd.DataFrame, finding: str, lines: bool) -> Any:
    """A map of jupyter-scatter; its trait `selection` has the numbers of the points in a lasso."""
    import jscatter  # not installed everywhere

    points = table[["x", "y", "half", "pair", "pair_id"]].reset_index(drop=True)
    points["report"] = table["report"].map(looks.shortened).to_numpy()
    points["finding"] = [finding if finding in names else OTHER for names in table["findings"]]
    points["picture"] = [looks.thumbnail_url(pool, pair) for pair in table["pair"].tolist()]
    scatter = jscatter.Scatter(data=points, x="x", y="y", height=460, width=620)
    scatter.color(by="finding", map={finding: "#e66100", OTHER: "#88aaaa"})
    scatter.size(default=6)
    if lines:
        scatter.connect(by="pair", straight=True)
    told = ["half", "pair_id", "finding", "report"]
    shown = {"preview": "picture", "preview_type": "image", "preview_image_height": 64}
    scatter.tooltip(True, properties=told, **shown)
    return scatter.widget
