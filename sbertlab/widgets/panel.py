"""What all panels share: a static picture, errors shown as messages, escaped texts, labelled controls."""

import base64
import html
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anywidget
import ipywidgets
import pandas as pd

from sbertlab.checks import check_choice
from sbertlab.plots.style import THEMES, Figure

KEYBOARD = """
export default { render() {
  document.addEventListener("focusin", ({ target }) => {
    if (target.matches(".sbertlab-panel :not(:read-write)")) target.dataset.lmSuppressShortcuts = "true";
  });
} };
"""
"""Keeps the keyboard for the panel. JupyterLab takes arrows and letters as its own shortcuts wherever the focus is ("A"
adds a cell), unless the focused element itself has this attribute; text boxes are safe anyway."""


class Panel(ipywidgets.VBox):
    """A column of controls and pictures with a static picture; errors of its callbacks are shown as messages.

    `theme`, "light" or "dark", is that of maps and figures; texts and controls have JupyterLab's own colours. `problem`
    is the message on top of the panel.

    >>> panel = Panel()
    >>> panel.button("Divide", lambda: 1 / 0).click()
    >>> panel.problem
    'ZeroDivisionError: division by zero'
    """

    def __init__(self, theme: str = "light") -> None:
        check_choice("theme", theme, THEMES)
        self.theme, self.problem, self._silent = theme, "", False
        self._problem = ipywidgets.HTML(layout={"display": "none"})
        keyboard = anywidget.AnyWidget(_esm=KEYBOARD, layout={"display": "none"})
        super().__init__([ipywidgets.VBox([self._problem, keyboard])])
        self.add_class("sbertlab-panel")

    def add(self, *parts: ipywidgets.Widget) -> None:
        """Put parts below those of the panel."""
        self.children: Any = (*self.children, *parts)

    def static(self) -> Figure:
        """What the panel shows now, as a matplotlib figure."""
        raise NotImplementedError(f"{type(self).__name__} has no static picture")

    def picture(self, figure: Figure | None = None, dpi: int = 96) -> bytes:
        """A figure, by default `static()`, as the content of a PNG file."""
        content = io.BytesIO()
        (figure or self.static()).savefig(content, dpi=dpi)
        return content.getvalue()

    def tell(self, text: str) -> None:
        """Show a problem on top of the panel; an empty text removes it."""
        self.problem = text
        self._problem.value = alert(text)
        self._problem.layout.display = "" if text else "none"

    def guarded(self, action: Callable[..., object]) -> Callable[..., None]:
        """The action as a callback whose error is shown in the panel, and not lost in the log of the browser."""

        def run(*arguments: Any) -> None:
            if self._silent:
                return
            self.tell("")
            try:
                action(*arguments)
            except Exception as error:
                for_users = isinstance(error, (ValueError, ImportError))
                self.tell(str(error) if for_users else f"{type(error).__name__}: {error}")

        return run

    def button(self, name: str, action: Callable[[], object]) -> ipywidgets.Button:
        """A button that runs an action."""
        made = control(ipywidgets.Button, name)
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
        return type(self).__name__

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and its picture for pages that run no widgets: GitHub, nbviewer, an HTML export."""
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "text/plain": repr(self), "image/png": base64.b64encode(self.picture()).decode()}


def escaped(text: str, tag: str = "span") -> str:
    """A user's text as HTML: shown as it is, never run, in its own writing direction.

    >>> escaped("<b>שלום</b> & 😀")
    '<span dir="auto">&lt;b&gt;שלום&lt;/b&gt; &amp; 😀</span>'
    """
    return f'<{tag} dir="auto">{html.escape(text)}</{tag}>'


def alert(text: str) -> str:
    """A message as HTML, escaped, that screen readers announce."""
    return f'<div role="alert" style="border-left:4px solid;padding:4px 10px">{escaped(text)}</div>'


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
    return escaped(caption, "div") + body


def control(kind: Callable[..., Any], label: str, **settings: Any) -> Any:
    """A control of ipywidgets with its whole label beside it, which is also its tooltip unless one is given."""
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
