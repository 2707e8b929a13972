"""`ThresholdLab` in a real browser, by mouse and by keyboard; what Python received and wrote is asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sbertlab.analysis.thresholds import Threshold

SETUP = """
import dataclasses, json
import numpy as np, pandas as pd
from sbertlab.widgets.threshold_lab import ThresholdLab
from sbertlab.analysis.thresholds import choose_threshold
random = np.random.default_rng(0)
labels = (random.random(300) < 0.4).astype(int)
scores = (0.4 + 0.25 * labels + random.normal(0, 0.15, 300)).round(2)
evil = "<img src=x onerror='window.ran=1'> שלום 😀"
pairs = pd.DataFrame({"first": [f"{evil} {n}" for n in range(300)], "second": [f"question {n}" for n in range(300)]})
"""


def written(book: Any, path: Path) -> Threshold:
    """The threshold in the file, once it is the one that the panel has."""
    book.wait_for_python(f"json.load(open({str(path)!r})) == dataclasses.asdict(lab.chosen)", True)
    found = Threshold.load(path)
    assert asdict(found) == json.loads(book.python("print(json.dumps(dataclasses.asdict(lab.chosen)))"))
    return found


def test_a_threshold_is_moved_chosen_and_exported_by_keyboard_and_mouse(notebook: Callable[..., Any]) -> None:
    book = notebook(
        SETUP,
        "lab = ThresholdLab(labels, scores, pairs, 'saved', resamples=100); lab",
        "beaten = ThresholdLab([0, 1, 0], [0.9, 0.5, 0.1], resamples=20); beaten",
    )
    page, keys = book.page, book.page.keyboard
    panel = page.locator(".sbertlab-panel").first
    handle, picture = panel.locator(".noUi-handle"), panel.locator("img")
    greatest = float(book.python("print(lab.chosen.threshold)"))
    before = picture.get_attribute("src")

    handle.focus()
    for _ in range(3):
        keys.press("ArrowRight")
    step = float(book.python("print(lab._slider.step)"))
    book.wait_for_python(f"abs(lab.chosen.threshold - {greatest + 3 * step!r}) < {step}", True)
    assert book.python("print(lab.chosen.goal)") == "set by hand"
    panel.get_by_text("set by hand, on 300 pairs, 95 % intervals").wait_for()
    page.wait_for_function("old => document.querySelector('.sbertlab-panel img').src !== old", arg=before)
    keys.press("Home")
    book.wait_for_python("(lab.chosen.threshold, lab.chosen.recall) == (scores.min(), 1)", True)
    place = handle.bounding_box()
    across, down = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(across, down)
    page.mouse.down()
    page.mouse.move(across + 120, down, steps=8)
    page.mouse.up()
    book.wait_for_python("0.2 < (lab.chosen.threshold - scores.min()) / np.ptp(scores) < 0.6", True)

    goal = panel.get_by_label("Precision of at least")
    goal.click()
    keys.press("Control+a")
    keys.type("0.85")
    panel.get_by_role("button", name="Go there").click()
    book.wait_for_python("lab.chosen == choose_threshold(labels, scores, 'precision', 0.85, resamples=100)", True)
    panel.get_by_text("precision of at least 0.85, on 300 pairs").wait_for()
    assert panel.locator(".widget-readout").inner_text() == book.python("print(f'{lab.chosen.threshold:.3f}')")
    path = book.folder / "saved" / "threshold.json"
    assert not path.exists()
    panel.get_by_role("button", name="Export").click()
    panel.get_by_text(f"Saved: {path.resolve()}").wait_for()
    assert written(book, path).goal == "precision of at least 0.85"
    page.wait_for_timeout(1000)
    panel.scroll_into_view_if_needed()
    book.shot("threshold_lab")

    panel.get_by_role("button", name="Greatest F1").focus()
    keys.press("Enter")
    book.wait_for_python("(lab.chosen.threshold, lab.chosen.goal)", (greatest, "greatest F1"))
    keys.press("Tab")
    assert page.evaluate("document.activeElement.type") == "number"
    keys.press("Control+a")
    keys.type("0.9")
    keys.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Go there"
    keys.press("Space")
    book.wait_for_python("lab.chosen == choose_threshold(labels, scores, 'precision', 0.9, resamples=100)", True)
    keys.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Export"
    keys.press("Enter")
    assert written(book, path).goal == "precision of at least 0.9"
    assert page.evaluate("window.ran") is None, "markup in a text ran"
    rows = panel.get_by_text("At the border").locator("xpath=following-sibling::table").locator("tbody tr").count()
    assert rows == 6
    page.wait_for_timeout(1000)
    panel.get_by_text("At the border").scroll_into_view_if_needed()
    book.shot("threshold_lab_border")

    other = page.locator(".sbertlab-panel").last
    other.get_by_role("button", name="Go there").click()
    other.get_by_role("alert").filter(has_text="no threshold has a precision of at least 0.9; ask for less").wait_for()
    page.wait_for_timeout(500)
    book.shot("threshold_lab_beaten")
