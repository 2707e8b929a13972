"""`EmbeddingMap` and `linked` in a real browser, by mouse and by keyboard; what Python received is asserted."""

import ast
import io

import pandas as pd

SETUP = """
import numpy as np, pandas as pd
from sbertlab.widgets import EmbeddingMap, linked
rng = np.random.default_rng(0)
topic = np.repeat([0, 1, 2], 40)
xy = np.array([[-4, -4], [4, -4], [0, 5]])[topic] + rng.normal(size=(120, 2))
xy[7], xy[80] = (-7, 1), (6, 6)
names = np.array(["money", "parcel", "privacy"])
frame = pd.DataFrame({"text": [f"{names[t]} question {i}" for i, t in enumerate(topic)], "topic": names[topic]})
embeddings = np.eye(3)[topic] * 3 + 0.1 * rng.normal(size=(120, 3))
class Model:
    def encode(self, texts):
        return np.array([[3.0 * (name in texts[0]) for name in names]])
"""


def box(book, number=0):
    """The place of a map on the page, scrolled into view."""
    canvas = book.page.locator(".sbertlab-panel canvas:visible").nth(2 * number)  # each map has an empty second one
    canvas.scroll_into_view_if_needed()
    book.page.wait_for_timeout(500)
    return canvas.bounding_box()


def spots(book, rows, panel="panel", number=0):
    """Where on the page the points of some rows of the (unzoomed) map lie."""
    area = box(book, number)
    said = book.python(
        f"_w = {panel}.scatter.widget; print([[float(v) for v in p[:2]] for p in _w.points[{list(rows)}]])"
    )
    side = area["height"]  # the map is a square of the height, in the middle of the width
    centre = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    return [(centre[0] + x * side / 2, centre[1] - y * side / 2) for x, y in ast.literal_eval(said)]


def hover(book, spot, text):
    """Move the mouse to a point and wait for its text."""
    book.page.mouse.move(spot[0] + 40, spot[1])
    book.page.mouse.move(*spot, steps=8)
    book.page.get_by_text(text, exact=True).wait_for()


def lasso(book, corners):
    """Press, move through the corners and back to the first one, release."""
    book.page.get_by_title("Activate lasso selection").click()
    book.page.mouse.move(*corners[0])
    book.page.mouse.down()
    for corner in [*corners[1:], corners[0]]:
        book.page.mouse.move(*corner, steps=12)
    book.page.mouse.up()


def test_the_mouse_hovers_clicks_and_draws_a_lasso(notebook):
    book = notebook(SETUP, "panel = EmbeddingMap(frame, embeddings, xy, color='topic', neighbors=5); panel")
    book.page.wait_for_timeout(2000)
    (lone,) = spots(book, [7])
    hover(book, lone, "money question 7")
    book.shot("map_hover")
    book.page.mouse.click(*lone)
    wanted = book.python("print([7, *panel.neighbors(7)['position']])")
    book.wait_for_python("panel.selected.index.tolist()", wanted)
    assert book.page.get_by_text("Nearest to “money question 7”", exact=True).count() == 1
    rows = book.page.locator(".sbertlab-panel tbody tr td:last-child").all_inner_texts()
    assert [row.strip() for row in rows] == ast.literal_eval(book.python("print(panel.neighbors(7)['text'].tolist())"))
    book.page.mouse.move(lone[0] - 60, lone[1] - 60)
    book.page.wait_for_timeout(1000)
    book.shot("map_neighbors")

    area = box(book)
    middle, right, low = area["x"] + area["width"] / 2, area["x"] + area["width"], area["y"] + area["height"]
    lasso(book, [(middle + 8, low - 6), (right - 6, low - 6), (right - 6, low - 200), (middle + 8, low - 200)])
    book.wait_for_python("sorted(panel.selected.index) == list(range(40, 80))", "True")
    assert "40 of 120 texts are selected" in book.page.locator(".sbertlab-panel").first.inner_text()
    book.shot("map_lasso")
    book.page.get_by_role("button", name="Clear selection").click()
    book.wait_for_python("len(panel.selected)", 0)


def test_the_keyboard_alone_searches_by_words_and_meaning_walks_to_neighbours_and_saves(notebook):
    evil = "<img src=x onerror='window.ran=1'><script>window.ran=1</script> שלום 😀"
    book = notebook(
        SETUP,
        f"evil = {evil!r}\nframe.loc[[0, 1], 'text'] = evil\nframe.loc[:3, 'topic'] = evil",
        "frame[evil] = frame['topic']",
        "panel = EmbeddingMap(frame, embeddings, xy, color=evil, model=Model(), neighbors=4, folder='saved')\npanel",
    )
    page, keys = book.page, book.page.keyboard
    box(book)
    page.get_by_label("Find words").focus()
    keys.type("QUESTION parcel 5")
    keys.press("Enter")
    book.wait_for_python("panel.selected.index.tolist()", [45, *range(50, 60), 65, 75])
    keys.press("Tab")
    keys.type("about my privacy")
    keys.press("Enter")
    book.wait_for_python("(panel.selected.topic.unique().tolist(), len(panel.selected))", "(['privacy'], 4)")
    page.get_by_text("Nearest to “about my privacy”", exact=True).wait_for()

    page.get_by_label("Find words").focus()
    keys.press("Control+a")
    keys.type("onerror")
    keys.press("Enter")
    book.wait_for_python("panel.selected.index.tolist()", [0, 1])
    page.get_by_label("Selected").focus()
    cells = page.locator(".jp-Cell").count()
    keys.press("a")  # in JupyterLab's command mode this adds a cell
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    book.wait_for_python("panel._list.value", 1)
    assert page.locator(".jp-Cell").count() == cells
    keys.press("Tab")
    keys.press("Enter")  # "Show its neighbours"
    book.wait_for_python("panel.selected.index.tolist() == [1, *panel.neighbors(1)['position']]", "True")
    page.get_by_text(f"Nearest to “{evil}”", exact=True).wait_for()
    (first,) = spots(book, [2])
    page.mouse.move(first[0] - 30, first[1])
    page.mouse.move(*first, steps=6)
    page.wait_for_timeout(1500)
    book.shot("map_markup")
    assert page.evaluate("window.ran") is None, "markup in a text, a name or a query ran"

    page.get_by_role("button", name="Save selection (CSV)").focus()
    keys.press("Space")
    saved = book.folder / "saved" / "selection-1.csv"
    page.get_by_text(f"Saved: {saved.resolve()}").wait_for()
    read = pd.read_csv(io.StringIO(saved.read_text(encoding="utf-8")), index_col="row")
    assert read.loc[1, "text"] == evil


def test_the_film_plays_and_its_slider_moves_by_keyboard(notebook):
    book = notebook(
        SETUP,
        "first, second = rng.normal(size=(2, 120, 2))",
        "frames = {'step 0': first * 3, 'step 50': xy + second, 'end': xy}",
        "panel = EmbeddingMap(frame, {'end': embeddings}, frames=frames, color='topic')\npanel",
    )
    box(book)
    book.page.wait_for_timeout(1500)
    book.shot("film_start")
    assert "How faithful this map is cannot be measured" in book.page.locator(".sbertlab-panel").first.inner_text()
    book.page.locator(".sbertlab-panel .noUi-handle").last.focus()
    for name in ("step 50", "end"):
        book.page.keyboard.press("ArrowRight")
        book.wait_for_python("panel.frame_name", name)
    book.page.get_by_text("This map keeps: trustworthiness").wait_for()
    book.page.wait_for_timeout(3000)  # until points that came while others moved are sent again
    book.shot("film_end")
    (lone,) = spots(book, [7])
    hover(book, lone, "money question 7")  # the points lie where the last frame has them
    book.python(
        "seen = []; panel._film.observe(lambda change: seen.append(change.new), names='index'); panel._film.index = 0"
    )
    book.page.locator(".sbertlab-panel .widget-play button").first.click()
    book.wait_for_python("seen[-1]", 2)


def test_linked_maps_share_what_is_selected(notebook):
    book = notebook(
        SETUP,
        "a = EmbeddingMap(frame, rng.normal(size=(120, 3)), rng.normal(size=(120, 2)), color='topic', neighbors=5)\n"
        "b = EmbeddingMap(frame, embeddings, xy, color='topic', neighbors=5)\n"
        "both = linked(a, b)\nboth",
    )
    book.page.wait_for_timeout(2000)
    (lone,) = spots(book, [7], "b", 1)
    book.page.mouse.move(*lone, steps=4)
    book.page.mouse.click(*lone)
    wanted = book.python("print([7, *b.neighbors(7)['position']])")
    for name in ("a", "b"):
        book.wait_for_python(f"{name}.selected.index.tolist()", wanted)
    assert book.python("print(len(a.scatter.annotations()['annotations']))") == "5"
    assert book.page.get_by_text("Nearest to “money question 7”", exact=True).count() == 2, "each has its own"
    box(book)
    book.page.wait_for_timeout(1000)
    book.shot("linked")


MANY = """
import numpy as np, pandas as pd
from sbertlab.widgets import EmbeddingMap
rng, topic = np.random.default_rng(0), np.arange(200_000) % 3
xy = np.array([[-4, -4], [4, -4], [0, 5]])[topic] + 0.8 * rng.normal(size=(200_000, 2))
xy[7], xy[100:140] = (-8, 8), (8, 8) + 0.2 * rng.uniform(-1, 1, size=(40, 2))
names = np.array(["money", "parcel", "privacy"])[topic]
frame = pd.DataFrame({"text": [f"{name} question {i}" for i, name in enumerate(names)], "topic": names})
"""


def test_two_hundred_thousand_points_are_hovered_zoomed_and_selected(notebook):
    book = notebook(MANY, "panel = EmbeddingMap(frame, xy=xy, color='topic'); panel")
    page = book.page
    page.wait_for_timeout(2000)
    (lone,) = spots(book, [7])
    hover(book, lone, "parcel question 7")
    page.mouse.wheel(0, -400)
    book.wait_for_python("panel.scatter.widget.zoom_level > 0.5", True)
    page.mouse.move(lone[0] + 60, lone[1] + 60, steps=4)
    book.wait_for_python("panel.scatter.widget.hovering", None)
    page.mouse.move(*lone, steps=8)
    book.wait_for_python("panel.scatter.widget.hovering", 7)  # what was under the mouse stays there
    book.shot("map_zoomed")
    book.python("panel.scatter.widget.reset_view()")
    page.wait_for_timeout(1000)

    ends = spots(book, range(100, 140))
    left, right = (choose(x for x, _ in ends) for choose in (min, max))
    top, low = (choose(y for _, y in ends) for choose in (min, max))
    lasso(book, [(left - 15, top - 15), (right + 15, top - 15), (right + 15, low + 15), (left - 15, low + 15)])
    book.wait_for_python("sorted(panel.selected.index) == list(range(100, 140))", True)
    page.get_by_label("Find words").focus()
    page.keyboard.type("4999 PRIVACY")
    page.keyboard.press("Enter")
    wanted = "[i for i in range(2, len(panel.frame), 3) if '4999' in str(i)]"
    book.wait_for_python(f"len({wanted}) > 3 and panel.selected.index.tolist() == {wanted}", True)
    book.shot("map_selected")
