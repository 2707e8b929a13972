from __future__ import annotations

import base64
import importlib.resources
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sbertlab.analysis import maps
from sbertlab.plots import THEMES
from sbertlab.widgets import scatter as scatter_module

widgets = pytest.importorskip("sbertlab.widgets", reason="the lab extra is not installed", exc_type=ImportError)
ipywidgets = pytest.importorskip("ipywidgets")
EmbeddingMap, linked = widgets.EmbeddingMap, widgets.linked

EMBEDDINGS = np.random.default_rng(0).normal(size=(30, 8))
PLANE = np.random.default_rng(1).normal(size=(30, 2))


def texts(**columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"text": [f"sentence {i}" for i in range(30)], "topic": ["money", "post", "privacy"] * 10})
    return frame.assign(length=np.arange(30.0), **columns)


def written(figure: Any) -> set[str]:
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def lasso(panel: Any, rows: list[int]) -> None:
    """What the browser does when a lasso closes."""
    panel.scatter.widget.selection = np.array(rows, dtype="uint32")


def every(widget: Any, kind: type) -> list[Any]:
    """All widgets of a kind inside one."""
    inside = [found for child in getattr(widget, "children", ()) for found in every(child, kind)]
    return ([widget] if isinstance(widget, kind) else []) + inside


def tooltip(panel: Any, row: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Python answers when the browser hovers over a point."""
    sent: list[dict[str, Any]] = []
    scatter = panel.scatter.widget
    monkeypatch.setattr(scatter, "send", lambda message, buffers=None: sent.append(message))
    wanted = list(scatter.tooltip_properties_non_visual_info)
    scatter._handle_custom_msg({"type": "tooltip", "index": row, "preview": "text", "properties": wanted}, None)
    return sent[0]


def test_a_lasso_gives_the_rows_of_the_frame_and_tells_who_asked() -> None:
    frame = texts()
    frame.index = pd.Index([f"row {i % 7}" for i in range(30)])  # names that repeat
    panel = EmbeddingMap(frame, EMBEDDINGS)
    heard: list[pd.DataFrame] = []
    panel.on_select(heard.append)
    assert panel.selected.empty
    assert list(panel.selected.columns) == list(frame.columns)
    lasso(panel, [9, 2])
    assert panel.selected.equals(frame.iloc[[9, 2]])
    assert len(heard) == 1
    assert heard[0].equals(panel.selected)
    assert "2 of 30 texts are selected" in panel._head.value
    assert [text for text, _ in panel._list.options] == ["sentence 9", "sentence 2"]
    panel.select(range(20))
    assert len(heard[1]) == 20
    assert len(panel._list.options) == 20


def test_the_button_clears_the_selection_and_is_off_without_one() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS)
    clear = panel._clear
    assert clear.disabled
    lasso(panel, [1, 2])
    assert not clear.disabled
    clear.click()
    assert panel.selected.empty
    assert clear.disabled


def test_the_menu_changes_the_colours_of_the_map_and_of_its_picture() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, color="topic")
    scatter, menu = panel.scatter.widget, panel._color
    assert [name for name, _ in menu.options] == ["nothing", "topic", "length"]
    assert [entry[0] for entry in scatter.legend_encoding["color"]["values"]] == ["money", "post", "privacy"]
    assert {"money", "post", "privacy"} <= written(panel.static())
    menu.value = "length"
    assert panel.color == "length"
    assert scatter.legend_encoding["color"]["values"][-1][0] == 29
    assert len(panel.static().axes) == 2, "the picture has a scale"
    panel.color = None
    assert menu.value is None
    assert scatter.color_by is None
    assert not scatter.legend
    panel.color = "topic"
    assert scatter.legend
    with pytest.raises(ValueError, match=r"color must be one of .* got 'text'"):
        panel.color = "text"


def test_colours_on_the_map_are_those_of_the_figures() -> None:
    from matplotlib.colors import to_hex

    for theme, colors in THEMES.items():
        scatter = EmbeddingMap(texts(), EMBEDDINGS, color="topic", theme=theme).scatter.widget
        assert [to_hex(color) for color in scatter.color] == list(colors.palette[:3])
        assert to_hex(scatter.background_color) == colors.background


def test_hover_shows_the_whole_text_and_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = texts()
    frame.loc[4, "text"] = "<b>not bold</b> & " + "long " * 50
    answer = tooltip(EmbeddingMap(frame, EMBEDDINGS), 4, monkeypatch)
    assert answer["preview"] == frame.loc[4, "text"]
    assert {name.strip(): value for name, value in answer["properties"].items()} == {"topic": "post", "length": 4}


@pytest.mark.parametrize("evil", ["<img src=x onerror=alert(1)>", "</ul><script>alert(1)</script>", "&lt;b&gt;"])
def test_markup_in_texts_labels_and_column_names_is_shown_not_run(evil: str) -> None:
    frame = texts(**{evil: [evil, "plain"] * 15})
    frame.loc[0, "text"] = evil
    panel = EmbeddingMap(frame, EMBEDDINGS, color=evil, model=lambda texts: EMBEDDINGS[:1])
    panel.show_neighbors(0)
    panel._meaning.value = evil
    html = "".join(widget.value for widget in every(panel, ipywidgets.HTML))
    assert "<img" not in html
    assert "<script" not in html
    assert "&amp;lt;b" in html or "&lt;" in html
    assert evil in written(panel.static())


def test_the_map_library_writes_tooltips_and_legends_as_text_not_as_html() -> None:
    import jscatter

    bundle = (importlib.resources.files(jscatter) / "bundle.js").read_text(encoding="utf-8")
    own = bundle[bundle.index("function createLegend(") :]
    assert "previewUpdater = (text)" in own
    assert not [
        word for word in ("innerHTML", "insertAdjacentHTML", "outerHTML", "document.write", ".html(") if word in own
    ]


def test_emoji_and_right_to_left_texts_pass_through() -> None:
    frame = texts()
    frame["text"] = "שלום 😀 عالم"
    panel = EmbeddingMap(frame, EMBEDDINGS, color="topic", clusters="topic")
    panel.show_neighbors(0)
    assert '<div dir="auto">Nearest to “שלום 😀 عالم”</div>' in panel._found.value
    assert panel._list.options[0] == ("שלום 😀 عالم", 0)
    panel.labels = "frequent terms"
    assert panel.scatter.widget.labels["label"].str.contains("שלום").any()


def test_a_map_says_how_faithful_it_is() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, PLANE)
    assert panel.quality == maps.map_quality(EMBEDDINGS, PLANE)
    assert str(panel.quality) in panel._note.value
    assert any(str(panel.quality) in text for text in written(panel.static()))
    alone = EmbeddingMap(texts(), xy=PLANE)
    assert alone.quality is None
    assert "How faithful this map is cannot be measured" in alone._note.value


def test_coordinates_come_from_pca_or_are_given_and_umap_lays_them_out_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert EmbeddingMap(texts(), EMBEDDINGS).xy == pytest.approx(maps.pca(EMBEDDINGS))
    assert EmbeddingMap(texts(), xy=PLANE.tolist()).xy == pytest.approx(PLANE)
    asked: list[dict[str, Any]] = []
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(maps, "umap_map", lambda rows, **arguments: asked.append(arguments) or PLANE)
    for _ in range(2):
        panel = EmbeddingMap(texts(), EMBEDDINGS, method="umap", seed=5, metric="euclidean")
        np.testing.assert_array_equal(panel.xy, PLANE)
    assert asked == [{"seed": 5, "metric": "euclidean"}]


def test_both_axes_have_one_scale_and_all_points_are_inside() -> None:
    xy = np.array([[0, 0], [100, 0], [0, 10], [100, 10.0]])
    panel = EmbeddingMap(texts().head(4), xy=xy)
    points = panel.scatter.widget.points[:, :2]
    assert np.abs(points).max() < 1
    assert np.ptp(points[:, 0]) == pytest.approx(10 * np.ptp(points[:, 1]), rel=1e-5)


def test_columns_that_the_map_library_uses_itself_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["x", "y", "color", "size", "opacity"]
    panel = EmbeddingMap(texts(**{name: [name, "other"] * 15 for name in names}), EMBEDDINGS, color="x")
    assert panel.scatter.widget.points[:, 0].std() > 0.1, "still the coordinates"
    panel.color = "size"
    assert [entry[0] for entry in panel.scatter.widget.legend_encoding["color"]["values"]] == ["other", "size"]
    assert tooltip(panel, 0, monkeypatch)["properties"]["x "] == "x"


def test_missing_values_are_a_group_of_their_own_and_missing_numbers_make_ranges() -> None:
    frame = texts(
        team=[None, "blue", np.nan] * 10,
        score=np.where(np.arange(30) == 3, np.nan, np.arange(30.0)),
        endless=np.where(np.arange(30) == 3, np.inf, np.arange(30.0)),
        done=[True, False, None] * 10,
        code=list(range(30)),
        when=pd.date_range("2026-01-01", periods=30),
    )
    frame.loc[2, "text"] = None
    panel = EmbeddingMap(frame, EMBEDDINGS, color="team")
    groups = [entry[0] for entry in panel.scatter.widget.legend_encoding["color"]["values"]]
    assert groups == ["blue", "none"]
    panel.color = "score"
    ranges = [entry[0] for entry in panel.scatter.widget.legend_encoding["color"]["values"]]
    assert len(ranges) == 6
    assert "none" in ranges
    for name in ("done", "code", "when", "endless"):
        panel.color = name
        panel.static()
    panel.select([2])
    assert panel._list.options == (("", 2),)


def test_many_groups_are_coloured_without_a_legend_and_too_many_give_no_colours() -> None:
    frame = pd.DataFrame({"text": ["t"] * 300, "some": [f"g{i % 100}" for i in range(300)]})
    frame["id"] = [f"id {i}" for i in range(300)]
    panel = EmbeddingMap(frame, xy=np.random.default_rng(0).normal(size=(300, 2)), color="some")
    assert len(panel.scatter.widget.color) == 100
    assert not panel.scatter.widget.legend
    with pytest.raises(ValueError, match=r"color must be one of \['some'\], got 'id'.*at most 256"):
        EmbeddingMap(frame, xy=np.zeros((300, 2)), color="id")


def test_a_page_that_runs_no_widgets_gets_the_picture() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, color="topic")
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == "EmbeddingMap of 30 texts, coloured by topic"


def test_two_hundred_thousand_points_are_shown_in_seconds() -> None:
    count = 200_000
    frame = pd.DataFrame({"text": ["a sentence"] * count, "topic": np.tile(["a", "b"], count // 2)})
    start = time.process_time()
    panel = EmbeddingMap(frame, xy=np.random.default_rng(0).normal(size=(count, 2)), color="topic")
    lasso(panel, list(range(0, count, 2)))
    assert len(panel.selected) == count / 2
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frame": ["a", "b", "c"], "xy": PLANE}, TypeError, "frame must be a DataFrame.* got list"),
        ({"frame": texts()}, ValueError, "needs embeddings .* or coordinates xy .* got neither"),
        (
            {"frame": texts(), "embeddings": EMBEDDINGS[:29]},
            ValueError,
            "embeddings must have one row per.* 29 for 30",
        ),
        ({"frame": texts(), "xy": PLANE[:3]}, ValueError, r"xy must have the shape \(30, 2\), got \(3, 2\)"),
        ({"frame": texts(), "xy": EMBEDDINGS}, ValueError, r"xy must have the shape \(30, 2\), got \(30, 8\)"),
        ({"frame": texts(), "xy": np.full((30, 2), np.nan)}, ValueError, "xy has NaN"),
        ({"frame": texts(), "embeddings": np.full((30, 8), np.nan)}, ValueError, "embeddings has NaN .* row 0"),
        ({"frame": texts(), "xy": PLANE, "frames": [PLANE]}, ValueError, "xy and frames are both given"),
        ({"frame": texts(), "frames": []}, ValueError, "at least one map, got none"),
        (
            {"frame": texts(), "frames": {"a": PLANE, "b": PLANE[:9]}},
            ValueError,
            r"frames\['b'\] must have the shape \(30, 2\), got \(9, 2\)",
        ),
        (
            {"frame": texts(), "frames": {"a": PLANE}, "embeddings": {"z": EMBEDDINGS}},
            ValueError,
            r"must have the names of frames, \['a'\], got \['z'\]",
        ),
        ({"frame": texts(), "xy": PLANE, "metric": "manhattan"}, ValueError, "metric must be one of"),
        (
            {"frame": texts(), "xy": PLANE, "neighbors": 0},
            ValueError,
            "neighbors must be a whole number of at least 1, got 0",
        ),
        ({"frame": texts(), "xy": PLANE, "clusters": "mood"}, ValueError, "clusters must be .* got 'mood'"),
        ({"frame": texts(), "xy": PLANE, "text": "body"}, ValueError, "text must be one of 'text', .* got 'body'"),
        ({"frame": texts(), "xy": PLANE, "color": "mood"}, ValueError, r"color must be one of \['topic', 'length'\]"),
        (
            {"frame": texts(), "xy": PLANE, "method": "tsne"},
            ValueError,
            "method must be one of 'pca', 'umap', got 'tsne'",
        ),
        ({"frame": texts(), "xy": PLANE, "theme": "sepia"}, ValueError, "theme must be one of"),
        (
            {"frame": pd.concat([texts(), texts()[["topic"]]], axis=1), "xy": PLANE},
            ValueError,
            "frame must have distinct column names",
        ),
    ],
)
def test_what_gives_no_map_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EmbeddingMap(**arguments)


def test_selecting_rows_that_are_not_there_is_refused() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS)
    for rows in ([30], [-1, 2]):
        with pytest.raises(ValueError, match="positions from 0 to 29"):
            panel.select(rows)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_texts_get_a_message_in_place_of_the_map(count: int) -> None:
    panel = EmbeddingMap(texts().head(count), EMBEDDINGS[:count], color="topic")
    words = f"An EmbeddingMap needs at least 3 texts, got {count}."
    assert panel.message == words
    assert [words in child.value for child in panel.children] == [True]
    assert panel.selected.empty
    assert any(words in text for text in written(panel.static()))
    bundle = panel._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == f"EmbeddingMap of {count} texts: {words}"


def test_without_ipywidgets_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, "sbertlab.widgets.panel")
    with pytest.raises(ImportError, match=r'pip install "sbertlab\[lab\]"'):
        importlib.import_module("sbertlab.widgets.panel")


def test_without_the_map_library_a_message_and_the_picture_stand_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jscatter", None)
    panel = EmbeddingMap(texts(), EMBEDDINGS, color="topic")
    assert 'pip install "sbertlab[lab]"' in panel.message
    note, picture = panel.children
    assert "jupyter-scatter" in note.value
    assert bytes(picture.value).startswith(b"\x89PNG")
    assert {"money", "post", "privacy"} <= written(panel.static())
    panel.select([1, 2])
    assert panel.selected["text"].tolist() == ["sentence 1", "sentence 2"]


def test_without_umap_a_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path))  # where no map lies
    monkeypatch.setitem(sys.modules, "umap", None)
    panel = EmbeddingMap(texts(), EMBEDDINGS, method="umap")
    assert "umap-learn" in panel.message
    assert len(panel.children) == 1
    assert any("umap-learn" in text for text in written(panel.static()))


def similarities(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from sklearn.metrics.pairwise import cosine_similarity

    return cosine_similarity(query.reshape(1, -1), rows)[0]


def test_a_click_shows_the_neighbours_in_the_original_space_and_draws_lines_to_them() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, PLANE, neighbors=4)
    lasso(panel, [7])
    true = similarities(EMBEDDINGS[7], EMBEDDINGS)
    order = [int(row) for row in np.argsort(-true) if row != 7][:4]
    assert panel.neighbors(7)["position"].tolist() == order
    assert panel.neighbors(7)["similarity"].tolist() == pytest.approx(true[order], abs=1e-5)
    assert panel.selected.index.tolist() == [7, *order]
    assert panel.scatter.widget.selection.tolist() == [7, *order]
    lines = panel.scatter.annotations()["annotations"]
    assert [line.vertices for line in lines] == [[tuple(PLANE[7]), tuple(PLANE[row])] for row in order]
    assert "Nearest to “sentence 7”" in panel._found.value
    assert f"{true[order[0]]:.3f}</td>" in panel._found.value
    lasso(panel, [1, 2, 3])
    assert not panel.scatter.annotations()["annotations"]
    assert panel._found.value == ""


def test_on_a_map_without_embeddings_a_click_selects_the_point() -> None:
    panel = EmbeddingMap(texts(), xy=PLANE)
    lasso(panel, [7])
    assert panel.selected.index.tolist() == [7]
    assert panel._walk.disabled
    assert panel.problem == ""
    with pytest.raises(ValueError, match="need its embeddings"):
        panel.neighbors(7)


def test_the_keyboard_goes_from_the_list_to_neighbours() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, neighbors=2)
    assert panel._walk.disabled
    panel._words.value = "SENTENCE 2"
    assert panel.selected.index.tolist() == [2, 12, *range(20, 30)]
    assert "12 texts contain “SENTENCE 2”" in panel._head.value
    assert panel._list.value == 2
    panel._list.value = 23
    panel._walk.click()
    assert panel.selected.index.tolist() == [23, *panel.neighbors(23)["position"]]
    assert len(panel.selected) == 3


def test_neighbours_by_euclidean_distance_are_those_of_scikit_learn() -> None:
    from sklearn.neighbors import NearestNeighbors

    panel = EmbeddingMap(texts(), EMBEDDINGS, metric="euclidean")
    distances, rows = NearestNeighbors(n_neighbors=6).fit(EMBEDDINGS).kneighbors(EMBEDDINGS[[3]])
    found = panel.neighbors(3, k=5)
    assert found["position"].tolist() == rows[0, 1:].tolist()
    assert found["similarity"].tolist() == pytest.approx(-distances[0, 1:], abs=1e-4)


def test_a_search_by_meaning_selects_the_nearest_of_the_original_space() -> None:
    query = np.random.default_rng(5).normal(size=8)
    asked: list[list[str]] = []

    class Model:
        def encode(self, sentences: list[str]) -> np.ndarray:
            asked.append(sentences)
            return query[None]

    for model in (Model(), Model().encode):
        panel = EmbeddingMap(texts(), EMBEDDINGS, model=model, neighbors=3)
        panel._meaning.value = "where is my money"
        true = similarities(query, EMBEDDINGS)
        assert panel.selected.index.tolist() == np.argsort(-true)[:3].tolist()
        assert "Nearest to “where is my money”" in panel._found.value
        panel._meaning.value = ""
        assert panel.selected.empty
    assert asked == [["where is my money"]] * 2
    assert EmbeddingMap(texts(), EMBEDDINGS)._meaning.disabled
    with pytest.raises(ValueError, match="the model that made them"):
        EmbeddingMap(texts(), EMBEDDINGS).find_meaning("money")


def test_an_error_of_a_callback_is_told_in_words() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, model=lambda texts: np.ones((1, 5)))
    panel._meaning.value = "money"
    assert "query_embeddings have 5 dimensions" in panel.problem
    assert 'role="alert"' in panel._problem.value
    assert panel._problem.layout.display == ""
    assert isinstance(panel.last_error, ValueError)
    panel._words.value = "sentence 3"
    assert panel.problem == ""
    panel.on_select(lambda rows: {}["<missing>"])
    lasso(panel, [1, 2])
    assert panel.problem == "KeyError: '<missing>'"
    assert "&lt;missing&gt;" in panel._problem.value


def test_words_are_written_on_the_map_and_taken_away() -> None:
    frame = texts()
    frame["text"] = [
        f"{topic} {word}" for topic, word in zip(frame["topic"], ["refund", "parcel", "data"] * 10, strict=True)
    ]
    panel = EmbeddingMap(frame, EMBEDDINGS, PLANE, color="topic", clusters="topic")
    assert panel.scatter.widget.labels is None
    panel.labels = "frequent terms"
    assert set(panel.scatter.widget.labels["label"]) == {"money · refund", "parcel · post", "data · privacy"}
    assert panel.regions.tolist() == frame["topic"].tolist()
    panel.labels = "names of the groups"
    labels = panel.scatter.widget.labels
    assert set(labels["label"]) == {"money", "post", "privacy"}
    low, high = panel.scatter.widget.x_scale_domain
    assert labels["x"].between(low, high).all()
    panel.color = "length"
    assert set(panel.scatter.widget.labels["label"]) == {""}
    panel.color, panel.labels = "topic", "nothing"
    assert set(panel.scatter.widget.labels["label"]) == {""}
    sent = panel.scatter.widget.labels
    panel.scatter.widget._label_tiles_changed({"new": ["0,0,1"]})
    assert not panel.scatter.widget.labels.equals(sent), (
        "the browser asks when it can draw, and equal ones are not sent"
    )
    with pytest.raises(ValueError, match="labels must be one of"):
        panel.labels = "everything"


def test_clusters_are_found_in_the_original_space() -> None:
    far = np.repeat(np.eye(8)[:3], 10, axis=0) * 9 + EMBEDDINGS
    panel = EmbeddingMap(texts(), far, xy=PLANE, clusters=3)
    assert panel.regions.groupby(np.repeat([0, 1, 2], 10)).nunique().tolist() == [1, 1, 1]
    assert panel.regions.nunique() == 3
    alike = EmbeddingMap(texts().assign(text="money back", cluster=[1] * 20 + [2] * 10), EMBEDDINGS, clusters="cluster")
    alike.labels = "frequent terms"
    assert alike.scatter.widget.labels["label"].tolist() == ["money"], "once, though two clusters have it"


def test_points_that_still_move_are_sent_no_others_and_only_the_last_that_waits_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, later, drawn = [10.0], [], []
    loop = SimpleNamespace(call_later=lambda pause, action: later.append((now[0] + pause, action)))
    points = EmbeddingMap(texts(), xy=PLANE)._points
    monkeypatch.setattr(scatter_module, "kernel_loop", lambda: loop)
    monkeypatch.setattr(scatter_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(scatter_module, "DRAW_TIME", {"move": 2.0, "color": 1.0})
    for frame in ("first", "second", "third"):
        points._ask("move", lambda frame=frame: drawn.append((frame, now[0])))
    points._ask("color", lambda: drawn.append(("color", now[0])))
    while later:
        later.sort(key=lambda one: one[0])
        now[0], action = later.pop(0)
        action()
    assert drawn == [("first", 10.0), ("third", 12.0), ("color", 14.0)]
    monkeypatch.setattr(scatter_module, "kernel_loop", lambda: None)
    points._ask("move", lambda: drawn.append(("without a kernel", now[0])))
    points._ask("move", lambda: drawn.append(("at once", now[0])))
    assert [name for name, _ in drawn[3:]] == ["without a kernel", "at once"]


def test_what_changes_before_the_page_shows_the_map_is_sent_again() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, xy=PLANE, color="topic")
    widget = panel.scatter.widget
    first = widget.points.copy()
    widget.set_trait("dom_element_id", "a")
    np.testing.assert_array_equal(widget.points, first)
    panel.color = "length"
    colored = widget.points.copy()
    widget.set_trait("dom_element_id", "b")
    assert (widget.points != colored).sum() == 1
    np.testing.assert_allclose(widget.points, colored, atol=1e-6)
    again = widget.points.copy()
    widget.set_trait("dom_element_id", "c")
    np.testing.assert_array_equal(widget.points, again)
    panel.labels = "frequent terms"
    names = widget.labels
    for page in "de":
        widget.set_trait("dom_element_id", page)
        assert widget.labels["label"].tolist() == names["label"].tolist()
        assert not widget.labels.equals(names), "names are drawn only when they change, on each page"
        names = widget.labels


def test_a_film_moves_the_points_and_says_how_faithful_each_frame_is() -> None:
    turned = PLANE[:, ::-1] * 3
    panel = EmbeddingMap(texts(), EMBEDDINGS, frames={"step 0": PLANE, "step 9": turned}, neighbors=2)
    assert panel.frame_name == "step 0"
    assert "cannot be measured" in panel.faithfulness, "the embeddings are those of the last frame"
    before = panel.scatter.widget.points[:, :2].copy()
    panel._film.index = 1
    assert panel.xy is panel.frames["step 9"]
    assert panel.quality == maps.map_quality(EMBEDDINGS, turned)
    assert str(panel.quality) in panel._note.value
    assert panel.scatter.widget.transition_points
    after = panel.scatter.widget.points[:, :2]
    assert np.ptp(after, axis=0) == pytest.approx(3 * np.ptp(before, axis=0)[::-1], rel=1e-4), "one scale for all"
    assert np.abs(np.concatenate([before, after])).max() < 1, "all frames are inside one scale"
    lasso(panel, [4])
    assert panel.scatter.annotations()["annotations"][0].vertices[0] == tuple(turned[4])
    panel.frame_name = "step 0"
    assert panel.scatter.annotations()["annotations"][0].vertices[0] == tuple(PLANE[4])
    assert "step 0" in written(panel.static())
    with pytest.raises(ValueError, match=r"frame_name must be one of 'step 0', 'step 9'"):
        panel.frame_name = "step 5"


def test_each_frame_can_have_its_own_space() -> None:
    spaces = {"first": EMBEDDINGS, "last": EMBEDDINGS[::-1].copy()}
    panel = EmbeddingMap(texts(), spaces, frames={"first": PLANE, "last": PLANE}, neighbors=3)
    assert list(panel.qualities) == ["first", "last"]
    near = panel.neighbors(0)["position"].tolist()
    panel.frame_name = "last"
    assert panel.neighbors(29)["position"].tolist() == [29 - row for row in near]
    assert EmbeddingMap(texts(), frames=[PLANE, PLANE]).frames.keys() == {"1", "2"}


def test_the_buttons_save_the_selection_and_the_picture_and_say_where(tmp_path: Path) -> None:
    frame = texts()
    frame.loc[2, "text"] = 'a "quoted", <b>text</b>\n😀'
    panel = EmbeddingMap(frame, EMBEDDINGS, color="topic", folder=tmp_path / "new")
    panel.select([2, 9])
    buttons = {button.description: button for button in every(panel, ipywidgets.Button)}
    for name in ("Save selection (CSV)", "Save picture (PNG)", "Save picture (SVG)", "Save selection (CSV)"):
        buttons[name].click()
    assert str(tmp_path / "new" / "selection-2.csv") in panel._saved.value
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "map.png",
        "map.svg",
        "selection-2.csv",
        "selection.csv",
    ]
    read = pd.read_csv(tmp_path / "new" / "selection.csv", index_col="row")
    assert read["text"].tolist() == panel.selected["text"].tolist()
    assert read.index.tolist() == [2, 9]
    assert (tmp_path / "new" / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "new" / "map.svg").read_text()
    assert panel.save_picture(tmp_path / "mine.svg").read_text().startswith("<?xml")
    (tmp_path / "file").write_text("")
    panel.folder = tmp_path / "file"
    buttons["Save selection (CSV)"].click()
    assert "Error" in panel.problem


def test_linked_maps_share_the_selection_and_show_each_its_own_neighbours() -> None:
    other = np.random.default_rng(7).normal(size=(30, 5))
    a, b = EmbeddingMap(texts(), EMBEDDINGS, neighbors=3), EmbeddingMap(texts(), other, neighbors=3)
    both = linked(a, b, names=("before", "after"))
    heard: list[list[int]] = []
    b.on_select(lambda rows: heard.append(rows.index.tolist()))
    lasso(a, [4, 5])
    assert b.scatter.widget.selection.tolist() == [4, 5] == both.selected.index.tolist()
    lasso(b, [8])
    wanted = [8, *b.neighbors(8)["position"]]
    assert a.scatter.widget.selection.tolist() == wanted == b.scatter.widget.selection.tolist()
    ends = [line.vertices[1] for line in a.scatter.annotations()["annotations"]]
    assert ends == [tuple(a.xy[row].tolist()) for row in a.neighbors(8)["position"]]
    both.select([1])
    assert heard == [[4, 5], wanted, [1]]
    a.scatter.widget.hovering = 6
    assert b.scatter.widget.hovering == 6
    a.scatter.widget.hovering = None
    assert b.scatter.widget.hovering == -1
    assert {"before", "after"} <= written(both.static())


def test_only_maps_of_the_same_texts_are_linked() -> None:
    a = EmbeddingMap(texts(), EMBEDDINGS)
    with pytest.raises(ValueError, match="same texts in the same order"):
        linked(a, EmbeddingMap(texts()[::-1], EMBEDDINGS))
    with pytest.raises(ValueError, match="the same one twice"):
        linked(a, a)
    with pytest.raises(TypeError, match="got DataFrame"):
        linked(a, texts())
    with pytest.raises(ValueError, match="names must be two different ones"):
        linked(a, EmbeddingMap(texts(), EMBEDDINGS), names=("x", "x"))
    few = [EmbeddingMap(texts().head(2), EMBEDDINGS[:2]) for _ in range(2)]
    assert "at least 3 texts" in linked(*few).message


def test_fifty_thousand_points_are_searched_and_selected() -> None:
    count = 50_000
    rows = np.random.default_rng(0).normal(size=(count, 64)).astype(np.float32)
    frame = pd.DataFrame({"text": [f"Sentence {i} of many" for i in range(count)], "topic": np.arange(count) % 9})
    panel = EmbeddingMap(frame, rows, color="topic")
    assert panel.quality.measured == 2000
    panel._words.value = "sentence 12345"
    assert panel.selected.index.tolist() == [12345]
    lasso(panel, [77])
    lasso(panel, list(range(0, count, 2)))
    assert len(panel.selected) == count / 2


def test_a_panel_escapes_what_it_lists_and_leaves_missing_values_empty() -> None:
    from sbertlab.widgets.panel import table

    frame = pd.DataFrame({"<b>": ["<i>x</i>", None], "share": [0.12345, np.nan]})
    html = table(frame, "<script>")
    assert "<i>" not in html
    assert "<script>" not in html
    assert html.count('em"></td>') == 2
    assert "0.123</td>" in html


def test_every_control_has_a_whole_label_and_a_tooltip() -> None:
    from sbertlab.widgets.panel import control

    for kind in (ipywidgets.Text, ipywidgets.Dropdown, ipywidgets.IntSlider, ipywidgets.Button):
        made = control(kind, "A label of some length")
        assert made.description == "A label of some length"
        assert made.tooltip == "A label of some length"
        assert getattr(made.style, "description_width", "initial") == "initial"
    assert control(ipywidgets.Button, "Save", tooltip="As CSV").tooltip == "As CSV"


def test_a_guarded_callback_tells_its_error_until_the_next_one_works() -> None:
    from sbertlab.widgets.panel import Panel

    panel, said = Panel([]), []
    panel.guarded(lambda: [][0])()
    assert panel.problem == "IndexError: list index out of range"
    panel.guarded(said.append)("fine")
    assert (panel.problem, said) == ("", ["fine"])
    with pytest.raises(KeyboardInterrupt):
        panel.guarded(interrupt)()
    with pytest.raises(NotImplementedError, match="has no static picture"):
        panel.static()
    with pytest.raises(ValueError, match="theme must be one of"):
        Panel([], theme="sepia")


def interrupt() -> None:
    raise KeyboardInterrupt


def test_the_keyboard_belongs_to_the_panel_and_not_to_the_notebook() -> None:
    import anywidget

    keys = every(EmbeddingMap(texts(), EMBEDDINGS), anywidget.AnyWidget)
    assert any("lmSuppressShortcuts" in widget._esm for widget in keys if isinstance(widget._esm, str))


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("payment refund", [0]),
        ("refund parcel", []),
        ("STRASSE", [1]),
        ("имя", [2]),
        ("CAFÉ", [3]),
        ("עולם שלום 😀", [4]),
        ("b*c", [5]),
        (".", [5]),
        ("nan", []),
        ("  \n ", []),
    ],
)
def test_words_are_found_in_any_order_case_and_spelling(query: str, rows: list[int]) -> None:
    found = ["Refund the PAYMENT", "Straße gesperrt", "ИМЯ файла", "Cafe\u0301 au lait", "שלום עולם 😀", "a.b*c (x)"]
    frame = pd.DataFrame({"text": [*found, None, float("nan")]})
    assert EmbeddingMap(frame, xy=PLANE[:8]).find_words(query).tolist() == rows
