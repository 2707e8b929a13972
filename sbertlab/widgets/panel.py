"""What all panels share: a static picture, errors shown as messages, escaped texts, labelled controls."""

from __future__ import annotations

import base64
import functools
import html
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd

from sbertlab.checks import check_choice
from sbertlab.plots.style import THEMES, Figure, canvas, drawable, style

try:
    import ipywidgets
except ImportError as error:
    raise ImportError('the widgets need ipywidgets: pip install "sbertlab[lab]"') from error

KEYBOARD = """
export default { render({ el }) {
  const mark = event => {
    if (!event.target.matches(":read-write")) event.target.dataset.lmSuppressShortcuts = "true";
  };
  const listen = tries => {
    const panel = el.closest(".sbertlab-panel");
    if (panel) panel.addEventListener("focusin", mark);
    else if (tries) requestAnimationFrame(() => listen(tries - 1));
  };
  listen(1000);
} };
"""
"""Keeps the keyboard for the panel. JupyterLab takes arrows and letters as its own shortcuts wherever the focus is ("A"
adds a cell), unless the focused element itself has this attribute; text boxes are safe anyway."""


class Panel(ipywidgets.VBox):
    """A column of controls and pictures with a static picture; errors of its callbacks are shown as messages.

    A subclass lays out its widgets as `children`, draws the same content in `static()` and connects its controls with
    `button` and `on_change`. `theme` is that of maps and figures; texts and controls have JupyterLab's own colours.

    Attributes:
        problem: the message on top of the panel, empty if there is none.
        last_error: the last error of a callback, for `raise panel.last_error` in a cell.
        message: the message shown in place of the widget, empty if it works.

    >>> panel = Panel()
    >>> panel.button("Divide", lambda: 1 / 0).click()
    >>> panel.problem
    'ZeroDivisionError: division by zero'
    """

    def __init__(self, children: Sequence[ipywidgets.Widget] = (), theme: str = "light") -> None:
        check_choice("theme", theme, THEMES)
        self.theme, self.message, self.problem = theme, "", ""
        self.last_error: Exception | None = None
        self._silent = False
        self._problem = ipywidgets.HTML(layout={"display": "none"})
        super().__init__([ipywidgets.VBox([self._problem, *_keyboard()]), *children])
        self.add_class("sbertlab-panel")

    def static(self) -> Figure:
        """What the panel shows now, as a matplotlib figure."""
        raise NotImplementedError(f"{type(self).__name__} has no static picture")

    def picture(self, format: str = "png", dpi: int = 96) -> bytes:
        """`static()`, or the message if the panel shows nothing else, as the content of a PNG or SVG file."""
        only_message = self.message and len(self.children) == 1
        figure = text_figure(self.message, self.theme) if only_message else self.static()
        return picture_of(figure, self.theme, format, dpi)

    def replace(self, text: str, *others: ipywidgets.Widget) -> None:
        """Show a message in place of the widget, with what can still be shown below it."""
        self.message = text
        self.children = (message(text), *others)

    def tell(self, text: str) -> None:
        """Show a problem on top of the panel; an empty text removes it."""
        self.problem = text
        self._problem.value = message(text).value if text else ""
        self._problem.layout.display = "" if text else "none"

    def guarded(self, action: Callable[..., object]) -> Callable[..., None]:
        """The action as a callback whose error is shown in the panel, and not lost in the log of the browser."""

        @functools.wraps(action)
        def run(*arguments: Any) -> None:
            if self._silent:
                return
            self.tell("")
            try:
                action(*arguments)
            except Exception as error:
                self.last_error = error
                self.tell(error_text(error))

        return run

    def button(self, name: str, action: Callable[[], object], tooltip: str = "") -> ipywidgets.Button:
        """A button that runs an action."""
        made = control(ipywidgets.Button, name, tooltip=tooltip or name)
        made.on_click(self.guarded(lambda button: action()))
        return made

    def on_change(self, widget: ipywidgets.Widget, action: Callable[[Any], object], trait: str = "value") -> None:
        """Call `action(new value)` when a control changes."""
        widget.observe(self.guarded(lambda change: action(change.new)), names=trait)

    @contextmanager
    def silently(self) -> Iterator[None]:
        """Within the context, controls may be set without triggering their callbacks."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.message}" if self.message else type(self).__name__

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and its picture for pages that run no widgets: GitHub, nbviewer, an HTML export."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "text/plain": repr(self), "image/png": base64.b64encode(self.picture()).decode()}


def picture_of(figure: Figure, theme: str, format: str = "png", dpi: int = 96) -> bytes:
    """A figure as the content of a PNG or SVG file."""
    content = io.BytesIO()
    with style(theme):  # the settings of SVG text are read when a figure is written
        figure.savefig(content, format=format, dpi=dpi)
    return content.getvalue()


def _keyboard() -> list[ipywidgets.Widget]:
    """An invisible widget that runs `KEYBOARD`; none if anywidget is not installed."""
    try:
        import anywidget
    except ImportError:
        return []
    return [anywidget.AnyWidget(_esm=KEYBOARD, layout={"display": "none"})]


def message(text: str) -> ipywidgets.HTML:
    """A message, escaped, that screen readers announce.

    >>> "fewer than 3 &lt;texts&gt;</div>" in message("fewer than 3 <texts>").value
    True
    """
    style = "border-left:4px solid currentColor;padding:4px 10px"
    return ipywidgets.HTML(f'<div role="alert" dir="auto" style="{style}">{html.escape(text)}</div>')


def error_text(error: BaseException) -> str:
    """What to show of an error: its message, with its type unless the message is written for users.

    >>> error_text(ValueError("k must be at least 1, got 0")), error_text(KeyError("topic")), error_text(ValueError())
    ('k must be at least 1, got 0', "KeyError: 'topic'", 'ValueError')
    """
    for_users = isinstance(error, (ValueError, ImportError)) and str(error)
    return str(error) if for_users else ": ".join(filter(None, [type(error).__name__, str(error)]))


def escaped(text: str, tag: str = "span") -> str:
    """A user's text as HTML: shown as it is, never run, in its own writing direction.

    >>> escaped("<b>שלום</b> & 😀")
    '<span dir="auto">&lt;b&gt;שלום&lt;/b&gt; &amp; 😀</span>'
    """
    return f'<{tag} dir="auto">{html.escape(text)}</{tag}>'


def table(frame: pd.DataFrame, caption: str = "") -> str:
    """A small table as HTML: texts escaped, floats with three decimals, missing values empty.

    >>> shown = table(pd.DataFrame({"similarity": [0.12345], "text": ["<i>"]}))
    >>> "0.123</td>" in shown, "&lt;i&gt;</td>" in shown
    (True, True)
    """
    cells = frame.astype(object).where(frame.notna(), "")
    body = cells.to_html(index=False, border=0, justify="start", float_format="{:.3f}".format)
    for tag in ("td", "th"):
        body = body.replace(f"<{tag}>", f'<{tag} dir="auto" style="text-align:start;padding-inline-end:1.2em">')
    return (escaped(caption, "div") if caption else "") + body


def control(kind: Callable[..., Any], label: str, **settings: Any) -> Any:
    """A control of ipywidgets with its whole label beside it, which is also its tooltip unless one is given.

    >>> control(ipywidgets.IntSlider, "Neighbours", value=5, max=20).description
    'Neighbours'
    """
    wide = kind is ipywidgets.Text or kind.__name__.endswith("Slider")  # these have no width of their own
    settings = {"tooltip": label, "layout": {"width": "330px" if wide else "auto", "max_width": "100%"}, **settings}
    if kind is not ipywidgets.Button:
        settings = {"style": {"description_width": "initial"}, **settings}
    return kind(description=label, **settings)


def picture_box(width: str = "auto") -> ipywidgets.Image:
    """A place for a picture, which a column would otherwise stretch to its own width."""
    return ipywidgets.Image(format="png", layout={"width": width, "max_width": "100%", "align_self": "flex-start"})


def row(*children: ipywidgets.Widget) -> ipywidgets.Box:
    """Controls side by side, wrapped if the page is narrow."""
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})


def new_file(folder: Path, stem: str, ending: str) -> Path:
    """The first of map.png, map-2.png, ... that does not exist yet in a folder, which is created if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(path for path in (folder / f"{name}.{ending}" for name in names) if not path.exists())


def text_figure(text: str, theme: str = "light") -> Figure:
    """A figure of a text alone, for a panel that has nothing else to show."""
    lines = fill(drawable(text, 600), 80)
    with style(theme):
        figure, panels = canvas(7.2, 0.7 + 0.2 * lines.count("\n"))
        panels[0, 0].axis("off")
        panels[0, 0].text(0, 0.5, lines, va="center", fontsize=10)
    return figure
