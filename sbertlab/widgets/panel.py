"""What all panels share: a static picture, errors told in words, escaped texts, labelled controls.

A panel only shows; what it shows is computed by the modules below. Colours of texts and controls are left to
JupyterLab, so that they are readable on its light and its dark page; only maps and figures have a `theme`.
"""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd

from sbertlab.plots.style import THEMES, Figure, canvas, drawable, style

try:
    import ipywidgets
except ImportError as error:
    raise ImportError('the widgets need ipywidgets: pip install "sbertlab[lab]"') from error

OWN_KEYS = """
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
"""JupyterLab takes arrows and letters for its own shortcuts wherever the focus is, so that a list could not be moved
through and "A" would add a cell. With this attribute, which must be on the very element that has the focus, it leaves
them to the panel; a text box it leaves alone anyway."""

SLIDERS = (
    ipywidgets.IntSlider,
    ipywidgets.FloatSlider,
    ipywidgets.FloatLogSlider,
    ipywidgets.IntRangeSlider,
    ipywidgets.FloatRangeSlider,
    ipywidgets.SelectionSlider,
    ipywidgets.SelectionRangeSlider,
)
"""Controls of ipywidgets that are drawn as a slider."""


class Panel(ipywidgets.VBox):
    """A column of controls and pictures that tells its errors in words and has a static picture.

    A subclass lays out its widgets with `super().__init__(children)`, draws the same thing in `static()`, passes every
    callback through `guarded`, and says what it is in `__repr__`. Where there is nothing to lay out, `replace(words)`
    puts a message in place of everything.

    Attributes:
        last_error: the last error of a callback, for `raise panel.last_error` in a cell; None without any.
        message: the words that stand in place of the widget; empty when it works.

    >>> panel = Panel([])
    >>> button = control(ipywidgets.Button, "Divide")
    >>> button.on_click(panel.guarded(lambda button: 1 / 0))
    >>> button.click()
    >>> panel.problem
    'ZeroDivisionError: division by zero'
    """

    def __init__(self, children: Sequence[ipywidgets.Widget] = (), theme: str = "light") -> None:
        if theme not in THEMES:
            raise ValueError(f"theme must be one of {tuple(THEMES)}, got {theme!r}")
        self.theme, self.message, self.problem = theme, "", ""
        self.last_error: Exception | None = None
        self._problem = ipywidgets.HTML(layout={"display": "none"})
        super().__init__([ipywidgets.VBox([self._problem, *_own_keys()]), *children])
        self.add_class("sbertlab-panel")

    def static(self) -> Figure:
        """What the panel shows now, as a matplotlib figure."""
        raise NotImplementedError(f"{type(self).__name__} draws no static picture")

    def picture(self, format: str = "png", dpi: int = 96) -> bytes:
        """`static()` as the content of a PNG or SVG file; the message where there is nothing else."""
        only_words = self.message and len(self.children) == 1
        figure = words_figure(self.message, self.theme) if only_words else self.static()
        return picture_of(figure, self.theme, format, dpi)

    def replace(self, words: str, *others: ipywidgets.Widget) -> None:
        """Put a message in place of the widget, and below it what can still be shown, such as a picture."""
        self.message = words
        self.children = (message(words), *others)

    def tell(self, words: str) -> None:
        """Show a problem on top of the panel; no words take it away."""
        self.problem = words
        self._problem.value = message(words).value if words else ""
        self._problem.layout.display = "" if words else "none"

    def guarded(self, action: Callable[..., object]) -> Callable[..., None]:
        """The action as a callback: an error in it is told in the panel, in words, and kept in `last_error`.

        Without this, an error would be a traceback in the log of the browser and nobody would know why nothing happens.
        """

        @functools.wraps(action)
        def run(*arguments: Any) -> None:
            self.tell("")
            try:
                action(*arguments)
            except Exception as error:
                self.last_error = error
                self.tell(in_words(error))

        return run

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.message}" if self.message else type(self).__name__

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and its picture for whoever cannot run it: GitHub, nbviewer, an HTML export."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "text/plain": repr(self), "image/png": base64.b64encode(self.picture()).decode()}


def picture_of(figure: Figure, theme: str, format: str = "png", dpi: int = 96) -> bytes:
    """A figure as the content of a PNG or SVG file."""
    content = io.BytesIO()
    with style(theme):  # the settings of SVG text are read when a figure is written
        figure.savefig(content, format=format, dpi=dpi)
    return content.getvalue()


def _own_keys() -> list[ipywidgets.Widget]:
    """An invisible widget that keeps the keyboard for the panel it lies in; none where anywidget is not installed."""
    try:
        import anywidget
    except ImportError:
        return []
    return [anywidget.AnyWidget(_esm=OWN_KEYS, layout={"display": "none"})]


def message(words: str) -> ipywidgets.HTML:
    """A clear message, escaped, that screen readers announce.

    >>> "fewer than 3 &lt;texts&gt;</div>" in message("fewer than 3 <texts>").value
    True
    """
    style = "border-left:4px solid currentColor;padding:4px 10px"
    return ipywidgets.HTML(f'<div role="alert" dir="auto" style="{style}">{html.escape(words)}</div>')


def in_words(error: BaseException) -> str:
    """What an error says; the mistakes that sbertlab explains itself come without the name of the error.

    >>> in_words(ValueError("k must be at least 1, got 0")), in_words(KeyError("topic")), in_words(ValueError())
    ('k must be at least 1, got 0', "KeyError: 'topic'", 'ValueError')
    """
    explained = isinstance(error, (ValueError, ImportError)) and str(error)
    return str(error) if explained else ": ".join(filter(None, [type(error).__name__, str(error)]))


def escaped(text: Any, tag: str = "span") -> str:
    """A text of the user as HTML: shown as it is, never run, in its own writing direction; no value is empty.

    >>> escaped("<b>שלום</b> & 😀"), escaped(None, "li"), escaped(0.5, "td")
    ('<span dir="auto">&lt;b&gt;שלום&lt;/b&gt; &amp; 😀</span>', '<li dir="auto"></li>', '<td dir="auto">0.5</td>')
    """
    missing = text is None or (pd.api.types.is_scalar(text) and pd.isna(text))
    return f'<{tag} dir="auto">{"" if missing else html.escape(str(text))}</{tag}>'


def table(frame: pd.DataFrame, caption: str = "") -> str:
    """A small table as HTML: names and texts escaped, floats with three decimals.

    >>> print(table(pd.DataFrame({"similarity": [0.12345], "text": ["<i>"]})))
    <table style="text-align:start">
    <tr><td dir="auto"><b>similarity&emsp;</b></td><td dir="auto"><b>text&emsp;</b></td></tr>
    <tr><td dir="auto">0.123&emsp;</td><td dir="auto">&lt;i&gt;&emsp;</td></tr></table>
    """
    head = "".join(f'<td dir="auto"><b>{html.escape(str(name))}&emsp;</b></td>' for name in frame.columns)
    cells = [
        [f"{value:.3f}" if isinstance(value, float) and value == value else value for value in row]
        for row in frame.itertuples(index=False, name=None)
    ]
    rows = ["".join(escaped(cell, "td").replace("</td>", "&emsp;</td>") for cell in row) for row in cells]
    body = "\n".join(f"<tr>{row}</tr>" for row in [head, *rows])
    above = f"{escaped(caption, 'div')}\n" if caption else ""
    return f'{above}<table style="text-align:start">\n{body}</table>'


def control(kind: Callable[..., Any], label: str, **settings: Any) -> Any:
    """A control of ipywidgets with its whole label beside it, that the Tab key reaches and a screen reader names.

    Args:
        kind: such as `ipywidgets.Text`, `Dropdown`, `IntSlider`, `Checkbox` or `Button`.
        label: what it is for; also its tooltip unless one is given.
        settings: of the control.

    >>> control(ipywidgets.IntSlider, "Neighbours", value=5, max=20).description
    'Neighbours'
    """
    wide = isinstance(kind, type) and issubclass(kind, (ipywidgets.Text, *SLIDERS))  # of themselves they have no width
    settings = {"tooltip": label, "layout": {"width": "330px" if wide else "auto", "max_width": "100%"}, **settings}
    if isinstance(kind, type) and issubclass(kind, ipywidgets.Button):
        return kind(description=label, **settings)
    if kind is ipywidgets.Checkbox:
        settings = {"indent": False, **settings}
    return kind(description=label, **{"style": {"description_width": "initial"}, **settings})


def row(*children: ipywidgets.Widget) -> ipywidgets.Box:
    """Controls side by side, on the next line where the page is narrow."""
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"})


def new_file(folder: Path, stem: str, ending: str) -> Path:
    """A path in a folder, made when it is not there, that no file has yet: map.png, map-2.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{stem}{number}.{ending}" for number in ["", *(f"-{number}" for number in range(2, 10_000))])
    return next(path for path in (folder / name for name in names) if not path.exists())


def words_figure(words: str, theme: str = "light") -> Figure:
    """A figure of words only, for a panel that has nothing else to show."""
    lines = fill(drawable(words, 600), 80)
    with style(theme) as colors:
        figure, panels = canvas(7.2, 0.5 + 0.2 * (lines.count("\n") + 1))
        panels[0, 0].axis("off")
        panels[0, 0].text(0, 0.5, lines, va="center", color=colors.ink, fontsize=10)
    return figure
