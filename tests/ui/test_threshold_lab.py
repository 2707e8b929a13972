"""`ThresholdLab` in a real browser, by mouse and by keyboard; what Python received and wrote is asserted."""

SETUP = """
import numpy as np, pandas as pd
from sbertlab.widgets.threshold_lab import ThresholdLab
from sbertlab.analysis.thresholds import Threshold, choose_threshold
random = np.random.default_rng(0)
labels = (random.random(300) < 0.4).astype(int)
scores = (0.4 + 0.25 * labels + random.normal(0, 0.15, 300)).round(2)
evil = "<img src=x onerror='window.ran=1'> שלום 😀"
pairs = pd.DataFrame({"first": [f"{evil} {n}" for n in range(300)], "second": [f"question {n}" for n in range(300)]})
"""


def test_a_threshold_is_moved_chosen_and_exported_by_keyboard_and_mouse(notebook):
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
    panel.get_by_role("button", name="Greatest F1").focus()
    keys.press("Enter")
    book.wait_for_python("(lab.chosen.threshold, lab.chosen.goal)", (greatest, "greatest F1"))
    for _ in range(3):
        keys.press("Tab")
    keys.press("Enter")  # "Export"
    path = book.folder / "saved" / "threshold.json"
    panel.get_by_text(f"Saved: {path.resolve()}").wait_for()
    assert book.python("print(Threshold.load('saved/threshold.json') == lab.chosen)") == "True"
    assert page.evaluate("window.ran") is None, "markup in a text ran"
    border = panel.get_by_text("At the border")
    assert border.locator("xpath=following-sibling::table").locator("tbody tr").count() == 6
    page.wait_for_timeout(1000)
    border.scroll_into_view_if_needed()
    book.shot("threshold_lab")

    other = page.locator(".sbertlab-panel").last
    other.get_by_role("button", name="Go there").click()
    other.get_by_role("alert").filter(has_text="no threshold has a precision of at least 0.9; ask for less").wait_for()
