"""`BenchmarkBrowser` on the repository's own tables in a real browser; what Python received is asserted."""

import re
from pathlib import Path

import pandas as pd
import pytest

FIGURES = Path(__file__).parents[2] / "figures"

SHOW = f"""
from sbertlab.widgets.benchmark_browser import BenchmarkBrowser
panel = BenchmarkBrowser({str(FIGURES)!r}, preset="offline")
panel
"""


def assert_verdict(book, task, *pair):
    """Python received the pair (model_a, variant_a, model_b, variant_b), and the page says what comparisons.csv has."""
    book.wait_for_python("(panel._first.value, panel._second.value)", (pair[:2], pair[2:]))
    rows = pd.read_csv(FIGURES / "comparisons.csv")
    same = (rows[["model_a", "variant_a", "model_b", "variant_b"]] == list(pair)).all(axis=1)
    [wanted] = rows[same & (rows["preset"] == "offline") & (rows["task"] == task)].to_dict("records")
    sign = 1 if wanted["difference"] > 0 else -1
    ahead, behind = (", ".join(side) for side in (pair[:2], pair[2:])[::sign])
    words = book.page.locator(".sbertlab-panel p", has_text=f"{ahead} is").filter(has_text=f"ahead of {behind}")
    end = f"The difference is {'' if wanted['different'] else 'not '}significant."
    said = words.filter(has_text=end).inner_text()
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+(?= points| to |, p)", said)]
    low, high = sorted([sign * wanted["low"], sign * wanted["high"]])
    # the panel adds up the errors of the tasks, the table drew all at once
    assert numbers == pytest.approx([abs(wanted["difference"]), low, high], abs=0.15 if task == "mean" else 0.07)


def test_filters_and_pairs_by_mouse_and_keyboard_give_the_verdicts_of_the_table(notebook):
    book = notebook(SHOW)
    page, keys = book.page, book.page.keyboard
    panel = page.locator(".sbertlab-panel")
    tasks, models = (panel.get_by_label(name, exact=True) for name in ("Tasks", "Models"))
    first, second = (panel.get_by_label(name, exact=True) for name in ("Compare", "with"))
    pictures = [panel.locator("img").get_attribute("src")]

    def redrawn():
        """The picture is another one than all before, and whole."""
        page.wait_for_function(
            "seen => !seen.includes(document.querySelector('.sbertlab-panel img').src)", arg=pictures
        )
        pictures.append(panel.locator("img").get_attribute("src"))
        page.wait_for_function("() => document.querySelector('.sbertlab-panel img').naturalWidth > 300")

    pair = ("MiniLM-3-layers", "fine-tuned", "TF-IDF+SVD", "untuned")
    first.select_option(label=", ".join(pair[:2]))
    second.select_option(label=", ".join(pair[2:]))
    assert_verdict(book, "mean", *pair)
    book.shot("benchmark_browser")

    tasks.locator("option", has_text="helpdesk-retrieval").click()
    book.wait_for_python("panel.shown['task'].unique().tolist()", ["helpdesk-retrieval"])
    redrawn()
    assert_verdict(book, "helpdesk-retrieval", *pair)
    models.locator("option", has_text="MiniLM-3-layers").click()
    models.locator("option", has_text="TF-IDF+SVD").click(modifiers=["Control"])
    book.wait_for_python("panel.shown['model'].unique().tolist()", ["MiniLM-3-layers", "TF-IDF+SVD"])
    redrawn()
    book.shot("benchmark_browser_filtered")

    cells = page.locator(".jp-Cell").count()
    tasks.focus()
    keys.press("Home")
    keys.press("Shift+End")
    book.wait_for_python("panel.shown['task'].nunique()", 5)
    second.focus()
    keys.press("ArrowUp")
    assert_verdict(book, "mean", *pair[:2], "MiniLM-random", "fine-tuned")
    assert page.locator(".jp-Cell").count() == cells

    second.select_option(label="MiniLM-3-layers, fine-tuned")
    panel.get_by_role("alert").filter(has_text="are not compared: choose two models").wait_for()
