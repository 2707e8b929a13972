"""`EmbeddingMap` and `linked`: what the browser sends becomes a selection, what Python sets reaches the browser."""

import html
import importlib.resources
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from sklearn.metrics.pairwise import cosine_similarity

from sbertlab.analysis import maps
from sbertlab.plots.style import THEMES
from sbertlab.widgets import EmbeddingMap, linked
from sbertlab.widgets import scatter as scatter_module

EMBEDDINGS = np.random.default_rng(0).normal(size=(30, 8))
PLANE = np.random.default_rng(1).normal(size=(30, 2))


def texts(**columns):
    frame = pd.DataFrame({"text": [f"sentence {i}" for i in range(30)], "topic": ["money", "post", "privacy"] * 10})
    return frame.assign(length=np.arange(30.0), **columns)


def model(rows):
    """A model that gives every text these embeddings."""
    return SimpleNamespace(encode=lambda texts: np.atleast_2d(rows))


def written(figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def lasso(panel, rows):
    """What the browser does when a lasso closes."""
    panel.scatter.widget.selection = np.array(rows, dtype="uint32")


def legend(panel):
    return [entry[0] for entry in panel.scatter.widget.legend_encoding["color"]["values"]]


def ends(panel):
    """The lines on the map."""
    return [line.vertices for line in panel.scatter.annotations()["annotations"]]


def test_a_lasso_selects_rows_of_the_frame(controls):
    frame = texts()
    frame.index = pd.Index([f"row {i % 7}" for i in range(30)])  # names that repeat
    panel = EmbeddingMap(frame, xy=PLANE)
    assert panel.selected.empty
    lasso(panel, [9, 2])
    assert panel.selected.equals(frame.iloc[[9, 2]])
    assert "2 of 30 texts are selected" in panel._head.value
    assert [text for text, _ in panel._list.options] == ["sentence 9", "sentence 2"]
    lasso(panel, [7])
    assert panel.selected["text"].tolist() == ["sentence 7"], "without embeddings there are no neighbours to select"
    assert panel._walk.disabled
    controls(panel)["Clear selection"].click()
    assert panel.selected.empty


@pytest.mark.parametrize("theme", THEMES)
def test_the_colour_menu_changes_the_map_and_its_picture(theme):
    panel = EmbeddingMap(texts(), EMBEDDINGS, color="topic", theme=theme)
    scatter, menu = panel.scatter.widget, panel._color
    assert [to_hex(color) for color in scatter.color] == list(THEMES[theme].palette[:3])
    assert to_hex(scatter.background_color) == THEMES[theme].background
    assert [name for name, _ in menu.options] == ["nothing", "topic", "length"]
    assert legend(panel) == ["money", "post", "privacy"]
    assert {"money", "post", "privacy"} <= written(panel.static())
    menu.value = "length"
    assert panel.color == "length"
    assert legend(panel)[-1] == 29
    assert len(panel.static().axes) == 2, "the picture has a scale"
    panel.color = None
    assert (menu.value, scatter.color_by, scatter.legend) == (None, None, False)
    with pytest.raises(ValueError, match=r"color must be one of .* got 'text'"):
        panel.color = "text"


def test_hover_shows_the_text_and_columns_whatever_their_names(monkeypatch):
    names = ["x", "color", "opacity"]  # which the map library uses itself
    frame = texts(**{name: [name, "other"] * 15 for name in names})
    frame.loc[4, "text"] = "<b>not bold</b> & " + "long " * 50
    panel = EmbeddingMap(frame, EMBEDDINGS, color="x")
    assert panel.scatter.widget.points[:, 0].std() > 0.1, "still the coordinates"
    assert legend(panel) == ["other", "x"]
    scatter, sent = panel.scatter.widget, []
    monkeypatch.setattr(scatter, "send", lambda message, buffers=None: sent.append(message))
    asked = {"index": 4, "preview": "text", "properties": list(scatter.tooltip_properties_non_visual_info)}
    scatter._handle_custom_msg({"type": "tooltip", **asked}, None)
    assert sent[0]["preview"] == frame.loc[4, "text"]
    wanted = {"topic": "post", "length": 4, "x": "x", "color": "color", "opacity": "opacity"}
    assert {name.strip(): value for name, value in sent[0]["properties"].items()} == wanted


@pytest.mark.parametrize("evil", ["</ul><script>alert(1)</script><img src=x>", "&lt;b&gt; שלום 😀"])
def test_markup_in_texts_labels_names_and_queries_is_shown_and_not_run(evil):
    frame = texts(**{evil: [evil, "plain"] * 15})
    frame.loc[0, "text"] = evil
    panel = EmbeddingMap(frame, EMBEDDINGS, color=evil, model=model(EMBEDDINGS[0]))
    panel.show_neighbors(0)
    assert panel._list.options[0] == (evil, 0)
    panel._meaning.value = evil
    page = "".join(part.value for part in (panel._problem, panel._note, panel._head, panel._found, panel._saved))
    assert "<img" not in page
    assert "<script" not in page
    assert html.escape(evil) in page
    assert evil in written(panel.static())


def test_the_map_library_writes_tooltips_and_legends_as_text_and_not_as_html():
    import jscatter

    bundle = (importlib.resources.files(jscatter) / "bundle.js").read_text(encoding="utf-8")
    own = bundle[bundle.index("function createLegend(") :]
    assert "previewUpdater = (text)" in own
    sinks = ("innerHTML", "insertAdjacentHTML", "outerHTML", "document.write", ".html(")
    assert not [word for word in sinks if word in own]


def test_coordinates_are_given_or_by_pca_or_by_umap_once(monkeypatch, tmp_path):
    assert EmbeddingMap(texts(), EMBEDDINGS).xy == pytest.approx(maps.pca(EMBEDDINGS))
    assert EmbeddingMap(texts(), xy=PLANE.tolist()).xy == pytest.approx(PLANE)
    asked = []
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(maps, "umap_map", lambda rows, **arguments: asked.append(arguments) or PLANE)
    for _ in range(2):
        np.testing.assert_array_equal(EmbeddingMap(texts(), EMBEDDINGS, method="umap", seed=5).xy, PLANE)
    assert asked == [{"seed": 5}]


def test_missing_names_are_a_group_and_missing_numbers_make_ranges():
    numbers = np.where(np.arange(30) == 3, np.nan, np.arange(30.0))
    done, classes = [True, False, None] * 10, [0.0, 1.0, np.nan] * 10
    when = pd.date_range("2026-01-01", periods=30)
    frame = texts(team=[None, "blue", np.nan] * 10, score=numbers, classes=classes, done=done, when=when)
    frame.loc[2, "text"] = None
    panel = EmbeddingMap(frame, EMBEDDINGS, color="team")
    assert legend(panel) == ["blue", "none"]
    panel.color = "score"
    assert len(legend(panel)) == 6
    assert "none" in legend(panel)
    panel.color = "classes"
    assert legend(panel) == ["0.0", "1.0", "none"], "a missing number is not class 0"
    for name in ("done", "when"):
        panel.color = name
        panel.static()
    panel.select([2])
    assert panel._list.options == (("", 2),), "a missing text is empty"


def test_many_groups_have_no_legend_and_too_many_no_colours():
    frame = pd.DataFrame({"text": "t", "some": [f"g{i % 100}" for i in range(300)], "id": [*map(str, range(300))]})
    panel = EmbeddingMap(frame, xy=np.random.default_rng(0).normal(size=(300, 2)), color="some")
    assert (list(panel.columns), panel.scatter.widget.legend) == (["some"], False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs embeddings .* or coordinates xy .* got neither"),
        ({"frame": texts().head(2), "xy": PLANE[:2]}, "at least 3, got 2"),
        ({"embeddings": EMBEDDINGS[:29]}, "frame has 30, embeddings has 29"),
        ({"embeddings": np.full((30, 8), np.nan)}, "NaN"),
        ({"xy": EMBEDDINGS}, r"must have the shape \(30, 2\), got \(30, 8\)"),
        ({"xy": np.full((30, 2), np.nan)}, "xy has NaN"),
        ({"frames": {"a": PLANE}, "embeddings": {"z": EMBEDDINGS}}, "one of 'a', got 'z'"),
        ({"xy": PLANE, "text": "body"}, "text must be one of 'text', .* got 'body'"),
        ({"xy": PLANE, "color": "mood"}, "color must be one of None, 'topic', 'length', got 'mood'"),
        ({"xy": PLANE, "method": "tsne"}, "method must be one of 'pca', 'umap', got 'tsne'"),
    ],
)
def test_what_gives_no_map_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        EmbeddingMap(**{"frame": texts(), **arguments})


def test_a_click_shows_the_neighbours_in_the_original_space_with_lines_to_them():
    panel = EmbeddingMap(texts(), EMBEDDINGS, PLANE, neighbors=4)
    lasso(panel, [7])
    true = cosine_similarity(EMBEDDINGS[[7]], EMBEDDINGS)[0]
    order = [int(row) for row in np.argsort(-true) if row != 7][:4]
    assert panel.neighbors(7)["position"].tolist() == order
    assert panel.neighbors(7)["similarity"].tolist() == pytest.approx(true[order], abs=1e-5)
    assert panel.selected.index.tolist() == [7, *order] == panel.scatter.widget.selection.tolist()
    assert ends(panel) == [[tuple(PLANE[7]), tuple(PLANE[row])] for row in order]
    assert "Nearest to “sentence 7”" in panel._found.value
    assert f"{true[order[0]]:.3f}</td>" in panel._found.value
    lasso(panel, [1, 2, 3])
    assert not ends(panel)
    assert "Nearest" not in panel._found.value
    with pytest.raises(ValueError, match="need its embeddings"):
        EmbeddingMap(texts(), xy=PLANE).neighbors(7)


def test_words_are_found_in_any_order_case_and_spelling():
    found = ["Refund the PAYMENT", "Straße gesperrt", "Cafe\u0301 au lait", "שלום עולם 😀", "a.b*c (x)"]
    panel = EmbeddingMap(pd.DataFrame({"text": [*found, None, float("nan")]}), xy=PLANE[:7])
    wanted = {"payment refund": [0], "refund parcel": [], "STRASSE": [1], "CAFÉ": [2], "עולם שלום 😀": [3], "b*c": [4]}
    wanted |= {"nan": [], "  \n ": []}
    assert {query: panel.find_words(query).tolist() for query in wanted} == wanted


def test_a_search_by_meaning_selects_the_nearest_in_the_original_space():
    query = np.random.default_rng(5).normal(size=8)
    panel = EmbeddingMap(texts(), EMBEDDINGS, model=model(query), neighbors=3)
    panel._meaning.value = "where is my money"
    order = np.argsort(-cosine_similarity(query[None], EMBEDDINGS)[0])
    assert panel.selected.index.tolist() == order[:3].tolist()
    assert "Nearest to “where is my money”" in panel._found.value
    panel._meaning.value = ""
    assert panel.selected.empty
    panel.model = model(np.ones(5))
    panel._meaning.value = "money"
    assert "5 dimensions" in panel.problem
    without = EmbeddingMap(texts(), EMBEDDINGS)
    without._meaning.value = "money"
    assert "the model that made them" in without.problem


def test_points_that_a_busy_or_new_page_may_have_missed_are_sent_again(monkeypatch):
    later = []
    loop = SimpleNamespace(add_callback=lambda call, pause, send: call(pause, send))
    loop.call_later = lambda pause, send: later.append(send)
    monkeypatch.setattr(scatter_module, "get_ipython", lambda: SimpleNamespace(kernel=SimpleNamespace(io_loop=loop)))
    panel = EmbeddingMap(texts(), xy=PLANE, color="topic")
    widget = panel.scatter.widget
    widget.set_trait("dom_element_id", "a")
    assert not later, "nothing has changed yet"
    panel.color = "length"
    widget.set_trait("dom_element_id", "b")
    assert len(later) == 2
    colored = widget.points.copy()
    later[0]()
    assert (widget.points != colored).sum() == 1, "equal points would not be sent"
    np.testing.assert_allclose(widget.points, colored, atol=1e-6)


def test_a_film_moves_the_points_and_each_frame_has_its_own_space():
    turned = PLANE[:, ::-1] * 3
    spaces = {"step 9": EMBEDDINGS, "step 5": EMBEDDINGS[::-1].copy()}
    frames = {"step 0": PLANE, "step 5": PLANE, "step 9": turned}
    panel = EmbeddingMap(texts(), spaces, frames=frames, neighbors=2)
    assert panel.frame_name == "step 0"
    assert "cannot be measured" in panel._note.value
    before = panel.scatter.widget.points[:, :2].copy()
    panel._film.index = 2
    assert panel.xy is panel.frames["step 9"]
    assert str(maps.map_quality(EMBEDDINGS, turned)) in panel._note.value
    assert panel.scatter.widget.transition_points
    after = panel.scatter.widget.points[:, :2]
    assert np.ptp(after, axis=0) == pytest.approx(3 * np.ptp(before, axis=0)[::-1], rel=1e-4), "one scale for all"
    assert np.abs(np.concatenate([before, after])).max() < 1, "all frames are inside one scale"
    lasso(panel, [4])
    assert ends(panel)[0][0] == tuple(turned[4])
    near = panel.neighbors(0)["position"].tolist()
    panel._film.value = "step 5"
    assert ends(panel)[0][0] == tuple(PLANE[4])
    assert panel.neighbors(29)["position"].tolist() == [29 - row for row in near]
    assert "step 5" in written(panel.static())


def test_a_button_saves_the_selection_to_a_new_file(controls, tmp_path):
    panel = EmbeddingMap(texts(), EMBEDDINGS, color="topic", folder=tmp_path / "new")
    panel.select([2, 9])
    for _ in range(2):
        controls(panel)["Save selection (CSV)"].click()
    assert str(tmp_path / "new" / "selection-2.csv") in panel._saved.value
    assert pd.read_csv(tmp_path / "new" / "selection-1.csv", index_col="row").index.tolist() == [2, 9]
    panel.folder = tmp_path / "new" / "selection-1.csv"
    controls(panel)["Save selection (CSV)"].click()
    assert "Error" in panel.problem


def test_linked_maps_share_the_selection_and_show_their_own_neighbours():
    other = np.random.default_rng(7).normal(size=(30, 5))
    a, b = EmbeddingMap(texts(), EMBEDDINGS, neighbors=3), EmbeddingMap(texts(), other, neighbors=3)
    both = linked(a, b, names=("before", "after"))
    lasso(a, [4, 5])
    assert b.scatter.widget.selection.tolist() == [4, 5] == b.selected.index.tolist()
    lasso(b, [8])
    wanted = [8, *b.neighbors(8)["position"]]
    assert a.scatter.widget.selection.tolist() == wanted == b.scatter.widget.selection.tolist()
    for panel in (a, b):
        own = [tuple(panel.xy[row].tolist()) for row in panel.neighbors(8)["position"]]
        assert [line[1] for line in ends(panel)] == own
    assert {"before", "after"} <= written(both.static())
    with pytest.raises(ValueError, match="same texts in the same order"):
        linked(a, EmbeddingMap(texts()[::-1], EMBEDDINGS))
