"""`BenchmarkBrowser` on the repository's own tables in a real browser; what Python received is asserted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

FIGURES = Path(__file__).parents[2] / "figures"

NAMES = ["model_a", "variant_a", "model_b", "variant_b"]

SHOW = f"""
from sbertlab.widgets.benchmark_browser import BenchmarkBrowser
panel = BenchmarkBrowser({str(FIGURES)!r}, preset="offline")
panel
"""


def compared(task: str, *pair: str) -> pd.Series:
    """The row of comparisons.csv for a pair (model_a, variant_a, model_b, variant_b)."""
    rows = pd.read_csv(FIGURES / "comparisons.csv")
    [found] = rows[
        (rows["preset"] == "offline") & (rows["task"] == task) & (rows[NAMES] == list(pair)).all(axis=1)
    ].index
    return rows.loc[found]


def assert_verdict(book: Any, task: str, *pair: str) -> None:
    """Python received the pair; its verdict and the words on the page are those of the table."""
    a, b = pair[:2], pair[2:]
    book.wait_for_python("(panel._first.value, panel._second.value)", (a, b))
    wanted = compared(task, *pair)
    within = 0.1 if task == "mean" else 0.02  # the panel adds up the errors of the tasks, the table drew all at once
    for name in ("difference", "error", "low", "high"):
        got = float(book.python(f"print(float(panel.verdict({a}, {b})[{name!r}]))"))
        assert got == pytest.approx(wanted[name], abs=within), name
    assert book.python(f"print(panel.verdict({a}, {b})['different'])") == str(wanted["different"])
    ahead, behind = (a, b) if wanted["difference"] > 0 else (b, a)
    panel = book.page.locator(".sbertlab-panel")
    words = panel.locator("p", has_text=f"{', '.join(ahead)} is").filter(has_text=f"ahead of {', '.join(behind)}")
    end = f"The difference is {'' if wanted['different'] else 'not '}significant."
    said = words.filter(has_text=end).inner_text()
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+(?= points| to |, p)", said)]
    low, high = sorted(math.copysign(1.0, wanted["difference"]) * wanted[["low", "high"]])  # of ahead minus behind
    assert numbers == pytest.approx([abs(wanted["difference"]), low, high], abs=0.05 + within)


def test_filters_and_pairs_by_mouse_and_keyboard_give_the_verdicts_of_the_table(notebook: Callable[..., Any]) -> None:
    book = notebook(SHOW)
    page, keys = book.page, book.page.keyboard
    panel = page.locator(".sbertlab-panel")
    tasks, models = (panel.get_by_label(name, exact=True) for name in ("Tasks", "Models"))
    first, second = (panel.get_by_label(name, exact=True) for name in ("Compare", "with"))
    picture = panel.locator("img")
    pictures = [picture.get_attribute("src")]

    def redrawn() -> None:
        """The picture is another one than all before, and whole."""
        page.wait_for_function(
            "seen => !seen.includes(document.querySelector('.sbertlab-panel img').src)", arg=pictures
        )
        pictures.append(picture.get_attribute("src"))
        page.wait_for_function("() => document.querySelector('.sbertlab-panel img').naturalWidth > 300")

    first.select_option(label="MiniLM-3-layers, untuned")
    second.select_option(label="MiniLM-tokens, fine-tuned")
    assert_verdict(book, "mean", "MiniLM-3-layers", "untuned", "MiniLM-tokens", "fine-tuned")
    first.select_option(label="MiniLM-3-layers, fine-tuned")
    second.select_option(label="TF-IDF+SVD, untuned")
    pair = ("MiniLM-3-layers", "fine-tuned", "TF-IDF+SVD", "untuned")
    assert_verdict(book, "mean", *pair)
    book.shot("benchmark_browser")

    tasks.locator("option", has_text="helpdesk-retrieval").click()
    book.wait_for_python("panel.shown['task'].unique().tolist()", ["helpdesk-retrieval"])
    redrawn()
    assert_verdict(book, "helpdesk-retrieval", *pair)
    for name in ("MiniLM-3-layers", "TF-IDF+SVD", "all-MiniLM-L6-v2"):
        add = [] if name == "MiniLM-3-layers" else ["Control"]
        models.locator("option", has_text=name).click(modifiers=add)
    book.wait_for_python(
        "panel.shown['model'].unique().tolist()", ["all-MiniLM-L6-v2", "MiniLM-3-layers", "TF-IDF+SVD"]
    )
    redrawn()
    assert book.python("print(sorted({*panel.comparisons['model_a'], *panel.comparisons['model_b']}))") == str(
        ["MiniLM-3-layers", "TF-IDF+SVD", "all-MiniLM-L6-v2"]
    )
    page.wait_for_timeout(1000)
    book.shot("benchmark_browser_filtered")

    panel.get_by_role("button", name="tasks", exact=True).focus()
    keys.press("Space")
    book.wait_for_python("panel._view.value", "tasks")
    redrawn()
    cells = page.locator(".jp-Cell").count()
    tasks.focus()
    keys.press("Home")
    keys.press("Shift+End")
    book.wait_for_python("panel.shown['task'].nunique()", 5)
    models.focus()
    keys.press("End")
    keys.press("Shift+ArrowUp")
    book.wait_for_python("panel.shown['model'].unique().tolist()", ["MiniLM-random", "TF-IDF+SVD"])
    redrawn()
    second.focus()
    keys.press("ArrowUp")
    assert_verdict(book, "mean", *pair[:2], "MiniLM-random", "fine-tuned")
    assert page.locator(".jp-Cell").count() == cells
    page.wait_for_timeout(1000)
    book.shot("benchmark_browser_tasks")

    second.select_option(label="MiniLM-3-layers, fine-tuned")
    panel.get_by_role("alert").filter(has_text="are not compared: choose two models").wait_for()
