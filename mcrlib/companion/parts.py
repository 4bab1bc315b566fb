"""Small widgets that the explorer's panels share (ours)."""

import html
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import ipywidgets as widgets
from IPython import get_ipython

LABELLED = {"style": {"description_width": "initial"}}  # a label takes the room that it needs

THREAD = "mcr-explorer"
WORKER = ThreadPoolExecutor(max_workers=1, thread_name_prefix=THREAD)


def in_turn(action: Callable[[], None]) -> None:
    """Run a handler of events after those before it. `action` must catch its own errors.

    A kernel handles a browser's messages in several threads. Busy ones would let a click overtake
    the text typed before it, and two searches run at once: so all handlers run in one thread more.
    Outside a kernel, and within a handler, `action` runs at once.
    """
    has_kernel = hasattr(get_ipython(), "kernel")
    is_handling = threading.current_thread().name.startswith(THREAD)
    if has_kernel and not is_handling:
        WORKER.submit(action)
    else:
        action()


def told(error: Exception) -> str:
    """What went wrong, as a sentence for the page, which must not end in a traceback."""
    if isinstance(error, (ValueError, OSError)):
        return str(error)
    return f"This could not be done ({type(error).__name__}: {error}). Please report it."


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
