"""What all panels share: messages for errors, escaped tables, the keyboard, a static picture."""

import base64
import importlib
import sys

import numpy as np
import pandas as pd
import pytest

from sbertlab.plots.style import canvas
from sbertlab.widgets.panel import Panel, table


def test_a_table_escapes_texts_and_leaves_missing_values_empty():
    html = table(pd.DataFrame({"<b>": ["<i>x</i>", None], "share": [0.12345, np.nan]}), "<script>")
    assert "<i>" not in html
    assert "<script>" not in html
    assert html.count('em"></td>') == 2
    assert "0.123</td>" in html


def test_a_callback_shows_its_error_until_the_next_one_works():
    panel, said = Panel(), []
    panel.guarded(lambda: [][0])()
    assert panel.problem == "IndexError: list index out of range"
    with panel.silently():
        panel.guarded(said.append)("not called")
    panel.guarded(said.append)("fine")
    assert (panel.problem, said) == ("", ["fine"])
    with pytest.raises(ValueError, match="theme must be one of"):
        Panel(theme="sepia")


def test_the_keyboard_belongs_to_the_panel_and_not_to_the_notebook():
    keyboard = Panel().children[0].children[1]
    assert "lmSuppressShortcuts" in keyboard._esm


def test_a_page_that_runs_no_widgets_gets_the_picture():
    class Empty(Panel):
        def static(self):
            return canvas(2, 1)[0]

    bundle = Empty()._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


def test_without_ipywidgets_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "sbertlab.widgets")
    with pytest.raises(ImportError, match=r'pip install "sbertlab\[lab\]"'):
        importlib.import_module("sbertlab.widgets")
