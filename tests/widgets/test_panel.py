"""What all panels share: messages for errors, escaped tables, labelled controls, the keyboard."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pandas as pd
import pytest

ipywidgets = pytest.importorskip("ipywidgets")
from sbertlab.widgets.panel import Panel, control, table  # noqa: E402


def test_a_table_escapes_texts_and_leaves_missing_values_empty() -> None:
    html = table(pd.DataFrame({"<b>": ["<i>x</i>", None], "share": [0.12345, np.nan]}), "<script>")
    assert "<i>" not in html
    assert "<script>" not in html
    assert html.count('em"></td>') == 2
    assert "0.123</td>" in html


@pytest.mark.parametrize("kind", [ipywidgets.Text, ipywidgets.Dropdown, ipywidgets.IntSlider, ipywidgets.Button])
def test_a_control_has_a_whole_label_and_a_tooltip(kind: type) -> None:
    made = control(kind, "A label of some length")
    assert made.description == made.tooltip == "A label of some length"
    assert getattr(made.style, "description_width", "initial") == "initial"
    assert control(kind, "Save", tooltip="As CSV").tooltip == "As CSV"


def test_a_callback_shows_its_error_until_the_next_one_works() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    panel, said = Panel(), []
    panel.guarded(lambda: [][0])()
    assert panel.problem == "IndexError: list index out of range"
    with panel.silently():
        panel.guarded(said.append)("not called")
    panel.guarded(said.append)("fine")
    assert (panel.problem, said) == ("", ["fine"])
    with pytest.raises(KeyboardInterrupt):
        panel.guarded(interrupt)()
    with pytest.raises(NotImplementedError, match="has no static picture"):
        panel.static()
    with pytest.raises(ValueError, match="theme must be one of"):
        Panel(theme="sepia")


def test_the_keyboard_belongs_to_the_panel_and_not_to_the_notebook() -> None:
    keyboard = Panel().children[0].children[1]
    assert "lmSuppressShortcuts" in keyboard._esm


def test_without_ipywidgets_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "sbertlab.widgets")
    with pytest.raises(ImportError, match=r'pip install "sbertlab\[lab\]"'):
        importlib.import_module("sbertlab.widgets")
