"""Small widgets that the explorer's panels share (ours)."""

import html
from collections.abc import Iterable

import ipywidgets as widgets

LABELLED = {"style": {"description_width": "initial"}}  # a label takes the room that it needs


def button(
    text: str, css_class: str, tooltip: str = "", layout: widgets.Layout | None = None
) -> widgets.Button:
    """A button with a class for style sheets and tests; `tooltip` names it where it has no text."""
    layout = layout or widgets.Layout(width="auto")
    made = widgets.Button(description=text, tooltip=tooltip or text, layout=layout)
    made.add_class(css_class)
    return made


def heading(text: str) -> widgets.HTML:
    """A heading of one of the explorer's parts."""
    return widgets.HTML(f"<h3>{html.escape(text)}</h3>")


def text_html(text: str) -> str:
    """A paragraph; the text is escaped."""
    return f"<p>{html.escape(text)}</p>" if text else ""


def choice(label: str, options: Iterable, css_class: str) -> widgets.Dropdown:
    """A drop-down list with a visible label."""
    made = widgets.Dropdown(options=list(options), description=label, **LABELLED)
    made.layout.width = "auto"
    made.add_class(css_class)
    return made


def row(*children: widgets.Widget) -> widgets.Box:
    """Widgets beside each other, in several lines if the page is narrow."""
    made = widgets.Box(list(children))
    made.add_class("mcr-row")
    return made


def close_all(box: widgets.Box) -> None:
    """Empty a box; what was in it is freed in the kernel and in the browser."""
    children = box.children
    box.children = ()
    for child in children:
        if isinstance(child, widgets.Box):
            close_all(child)
        for part in ("layout", "style"):  # widgets of their own
            if child.has_trait(part):
                getattr(child, part).close()
        child.close()
