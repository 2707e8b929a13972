"""`EmbeddingMap` and `linked`: what the browser sends becomes a selection, what Python sets reaches the browser."""

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
from matplotlib.colors import to_hex
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors

from sbertlab.analysis import maps
from sbertlab.plots.style import THEMES

widgets = pytest.importorskip("sbertlab.widgets", reason="the lab extra is not installed", exc_type=ImportError)
ipywidgets = pytest.importorskip("ipywidgets")
from sbertlab.widgets import scatter as scatter_module  # noqa: E402

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


def legend(panel: Any) -> list[Any]:
    return [entry[0] for entry in panel.scatter.widget.legend_encoding["color"]["values"]]


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


def test_a_lasso_selects_rows_of_the_frame_and_calls_listeners() -> None:
    frame = texts()
    frame.index = pd.Index([f"row {i % 7}" for i in range(30)])  # names that repeat
    panel = EmbeddingMap(frame, EMBEDDINGS)
    heard: list[pd.DataFrame] = []
    panel.on_select(heard.append)
    assert panel.selected.empty
    assert panel._clear.disabled
    lasso(panel, [9, 2])
    assert panel.selected.equals(frame.iloc[[9, 2]])
    assert heard[0].equals(panel.selected)
    assert "2 of 30 texts are selected" in panel._head.value
    assert [text for text, _ in panel._list.options] == ["sentence 9", "sentence 2"]
    panel.select(range(20))
    assert (len(heard), len(heard[1])) == (2, 20)
    panel._clear.click()
    assert panel.selected.empty
    for rows in ([30], [-1, 2]):
        with pytest.raises(ValueError, match="positions from 0 to 29"):
            panel.select(rows)


def test_the_colour_menu_changes_the_map_and_its_picture() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, color="topic")
    scatter, menu = panel.scatter.widget, panel._color
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


@pytest.mark.parametrize("theme", THEMES)
def test_the_map_has_the_colours_of_the_figures(theme: str) -> None:
    scatter = EmbeddingMap(texts(), EMBEDDINGS, color="topic", theme=theme).scatter.widget
    assert [to_hex(color) for color in scatter.color] == list(THEMES[theme].palette[:3])
    assert to_hex(scatter.background_color) == THEMES[theme].background


def test_hover_shows_the_whole_text_and_the_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = texts()
    frame.loc[4, "text"] = "<b>not bold</b> & " + "long " * 50
    answer = tooltip(EmbeddingMap(frame, EMBEDDINGS), 4, monkeypatch)
    assert answer["preview"] == frame.loc[4, "text"]
    assert {name.strip(): value for name, value in answer["properties"].items()} == {"topic": "post", "length": 4}


@pytest.mark.parametrize(
    "evil", ["<img src=x onerror=alert(1)>", "</ul><script>alert(1)</script>", "&lt;b&gt; שלום 😀"]
)
def test_markup_in_texts_labels_names_and_queries_is_shown_and_not_run(evil: str) -> None:
    frame = texts(**{evil: [evil, "plain"] * 15})
    frame.loc[0, "text"] = evil
    panel = EmbeddingMap(frame, EMBEDDINGS, color=evil, model=lambda texts: EMBEDDINGS[:1])
    panel.show_neighbors(0)
    assert panel._list.options[0] == (evil, 0)
    panel._meaning.value = evil
    html = "".join(widget.value for widget in every(panel, ipywidgets.HTML))
    assert "<img" not in html
    assert "<script" not in html
    assert "&amp;lt;b" in html or "&lt;" in html
    assert evil in written(panel.static())


def test_the_map_library_writes_tooltips_and_legends_as_text_and_not_as_html() -> None:
    import jscatter

    bundle = (importlib.resources.files(jscatter) / "bundle.js").read_text(encoding="utf-8")
    own = bundle[bundle.index("function createLegend(") :]
    assert "previewUpdater = (text)" in own
    sinks = ("innerHTML", "insertAdjacentHTML", "outerHTML", "document.write", ".html(")
    assert not [word for word in sinks if word in own]


def test_a_map_states_how_faithful_it_is() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, PLANE)
    assert panel.quality == maps.map_quality(EMBEDDINGS, PLANE)
    assert str(panel.quality) in panel._note.value
    assert any(str(panel.quality) in text for text in written(panel.static()))
    assert "cannot be measured" in EmbeddingMap(texts(), xy=PLANE)._note.value


def test_coordinates_are_given_or_by_pca_or_by_umap_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert EmbeddingMap(texts(), EMBEDDINGS).xy == pytest.approx(maps.pca(EMBEDDINGS))
    assert EmbeddingMap(texts(), xy=PLANE.tolist()).xy == pytest.approx(PLANE)
    asked: list[dict[str, Any]] = []
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(maps, "umap_map", lambda rows, **arguments: asked.append(arguments) or PLANE)
    for _ in range(2):
        panel = EmbeddingMap(texts(), EMBEDDINGS, method="umap", seed=5, metric="euclidean")
        np.testing.assert_array_equal(panel.xy, PLANE)
    assert asked == [{"seed": 5, "metric": "euclidean"}]


def test_columns_may_have_the_names_that_the_map_library_uses_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["x", "y", "color", "size", "opacity"]
    panel = EmbeddingMap(texts(**{name: [name, "other"] * 15 for name in names}), EMBEDDINGS, color="x")
    assert panel.scatter.widget.points[:, 0].std() > 0.1, "still the coordinates"
    panel.color = "size"
    assert legend(panel) == ["other", "size"]
    assert tooltip(panel, 0, monkeypatch)["properties"]["x "] == "x"


def test_missing_names_are_a_group_and_missing_numbers_make_ranges() -> None:
    frame = texts(
        team=[None, "blue", np.nan] * 10,
        score=np.where(np.arange(30) == 3, np.nan, np.arange(30.0)),
        endless=np.where(np.arange(30) == 3, np.inf, np.arange(30.0)),
        done=[True, False, None] * 10,
        when=pd.date_range("2026-01-01", periods=30),
    )
    frame.loc[2, "text"] = None
    panel = EmbeddingMap(frame, EMBEDDINGS, color="team")
    assert legend(panel) == ["blue", "none"]
    panel.color = "score"
    assert len(legend(panel)) == 6
    assert "none" in legend(panel)
    for name in ("done", "when", "endless"):
        panel.color = name
        panel.static()
    panel.select([2])
    assert panel._list.options == (("", 2),)


def test_many_groups_have_no_legend_and_too_many_no_colours() -> None:
    frame = pd.DataFrame({"text": ["t"] * 300, "some": [f"g{i % 100}" for i in range(300)]})
    frame["id"] = [f"id {i}" for i in range(300)]
    panel = EmbeddingMap(frame, xy=np.random.default_rng(0).normal(size=(300, 2)), color="some")
    assert len(panel.scatter.widget.color) == 100
    assert not panel.scatter.widget.legend
    with pytest.raises(ValueError, match=r"color must be one of \['some'\], got 'id'.*at most 256"):
        EmbeddingMap(frame, xy=np.zeros((300, 2)), color="id")


def test_a_page_that_runs_no_widgets_gets_the_picture() -> None:
    bundle = EmbeddingMap(texts(), EMBEDDINGS, color="topic")._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert bundle["text/plain"] == "EmbeddingMap of 30 texts, coloured by topic"


def test_two_hundred_thousand_points_are_shown_searched_and_selected_in_seconds() -> None:
    count = 200_000
    frame = pd.DataFrame({"text": [f"Sentence {i}" for i in range(count)], "topic": np.tile(["a", "b"], count // 2)})
    start = time.process_time()
    panel = EmbeddingMap(frame, xy=np.random.default_rng(0).normal(size=(count, 2)), color="topic")
    lasso(panel, list(range(0, count, 2)))
    assert len(panel.selected) == count / 2
    panel._words.value = "12345 sentence"
    assert panel.selected.index.tolist() == [12345, 112345, *range(123450, 123460)]
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"frame": ["a", "b", "c"], "xy": PLANE}, TypeError, "frame must be a DataFrame.* got list"),
        ({}, ValueError, "needs embeddings .* or coordinates xy .* got neither"),
        ({"embeddings": EMBEDDINGS[:29]}, ValueError, "embeddings must have one row per.* 29 for 30"),
        ({"xy": EMBEDDINGS}, ValueError, r"xy must have the shape \(30, 2\), got \(30, 8\)"),
        ({"xy": np.full((30, 2), np.nan)}, ValueError, "xy has NaN"),
        ({"embeddings": np.full((30, 8), np.nan)}, ValueError, "embeddings has NaN .* row 0"),
        ({"xy": PLANE, "frames": [PLANE]}, ValueError, "xy and frames are both given"),
        ({"frames": []}, ValueError, "at least one map, got none"),
        ({"frames": {"a": PLANE, "b": PLANE[:9]}}, ValueError, r"frames\['b'\] must have the shape .* got \(9, 2\)"),
        (
            {"frames": {"a": PLANE}, "embeddings": {"z": EMBEDDINGS}},
            ValueError,
            r"names of frames, \['a'\], got \['z'\]",
        ),
        ({"xy": PLANE, "metric": "manhattan"}, ValueError, "metric must be one of"),
        ({"xy": PLANE, "neighbors": 0}, ValueError, "neighbors must be a whole number of at least 1, got 0"),
        ({"xy": PLANE, "clusters": "mood"}, ValueError, "clusters must be .* got 'mood'"),
        ({"xy": PLANE, "text": "body"}, ValueError, "text must be one of 'text', .* got 'body'"),
        ({"xy": PLANE, "color": "mood"}, ValueError, r"color must be one of \['topic', 'length'\]"),
        ({"xy": PLANE, "method": "tsne"}, ValueError, "method must be one of 'pca', 'umap', got 'tsne'"),
        ({"frame": texts().rename(columns={"length": "topic"}), "xy": PLANE}, ValueError, "distinct column names"),
    ],
)
def test_what_gives_no_map_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        EmbeddingMap(**{"frame": texts(), **arguments})


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_texts_give_a_message_instead_of_the_map(count: int) -> None:
    panel = EmbeddingMap(texts().head(count), EMBEDDINGS[:count], color="topic")
    assert panel.message == f"An EmbeddingMap needs at least 3 texts, got {count}."
    assert [panel.message in child.value for child in panel.children] == [True]
    assert panel.selected.empty
    assert any(panel.message in text for text in written(panel.static()))
    assert base64.b64decode(panel._repr_mimebundle_()["image/png"]).startswith(b"\x89PNG")


def test_without_a_package_a_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path))  # where no map is stored
    monkeypatch.setitem(sys.modules, "umap", None)
    panel = EmbeddingMap(texts(), EMBEDDINGS, method="umap")
    assert "umap-learn" in panel.message
    assert panel.picture().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "jscatter", None)
    panel = EmbeddingMap(texts(), EMBEDDINGS, color="topic")
    assert 'pip install "sbertlab[lab]"' in panel.message
    note, picture = panel.children
    assert "jupyter-scatter" in note.value
    assert bytes(picture.value).startswith(b"\x89PNG")
    assert {"money", "post", "privacy"} <= written(panel.static())
    panel.select([1, 2])
    assert panel.selected["text"].tolist() == ["sentence 1", "sentence 2"]


def test_a_click_shows_the_neighbours_in_the_original_space_with_lines_to_them() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, PLANE, neighbors=4)
    lasso(panel, [7])
    true = cosine_similarity(EMBEDDINGS[[7]], EMBEDDINGS)[0]
    order = [int(row) for row in np.argsort(-true) if row != 7][:4]
    assert panel.neighbors(7)["position"].tolist() == order
    assert panel.neighbors(7)["similarity"].tolist() == pytest.approx(true[order], abs=1e-5)
    assert panel.selected.index.tolist() == [7, *order] == panel.scatter.widget.selection.tolist()
    lines = panel.scatter.annotations()["annotations"]
    assert [line.vertices for line in lines] == [[tuple(PLANE[7]), tuple(PLANE[row])] for row in order]
    assert "Nearest to “sentence 7”" in panel._found.value
    assert f"{true[order[0]]:.3f}</td>" in panel._found.value
    lasso(panel, [1, 2, 3])
    assert not panel.scatter.annotations()["annotations"]
    assert panel._found.value == ""


def test_without_embeddings_a_click_selects_the_point() -> None:
    panel = EmbeddingMap(texts(), xy=PLANE)
    lasso(panel, [7])
    assert panel.selected.index.tolist() == [7]
    assert panel._walk.disabled
    assert panel.problem == ""
    with pytest.raises(ValueError, match="need its embeddings"):
        panel.neighbors(7)


def test_neighbours_by_euclidean_distance_are_those_of_scikit_learn() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, metric="euclidean")
    distances, rows = NearestNeighbors(n_neighbors=6).fit(EMBEDDINGS).kneighbors(EMBEDDINGS[[3]])
    found = panel.neighbors(3, k=5)
    assert found["position"].tolist() == rows[0, 1:].tolist()
    assert found["similarity"].tolist() == pytest.approx(-distances[0, 1:], abs=1e-4)


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
        ("nan", []),
        ("  \n ", []),
    ],
)
def test_words_are_found_in_any_order_case_and_spelling(query: str, rows: list[int]) -> None:
    found = ["Refund the PAYMENT", "Straße gesperrt", "ИМЯ файла", "Cafe\u0301 au lait", "שלום עולם 😀", "a.b*c (x)"]
    frame = pd.DataFrame({"text": [*found, None, float("nan")]})
    assert EmbeddingMap(frame, xy=PLANE[:8]).find_words(query).tolist() == rows


def test_a_search_by_meaning_selects_the_nearest_in_the_original_space() -> None:
    query = np.random.default_rng(5).normal(size=8)
    for model in (SimpleNamespace(encode=lambda texts: query[None]), lambda texts: query[None]):
        panel = EmbeddingMap(texts(), EMBEDDINGS, model=model, neighbors=3)
        panel._meaning.value = "where is my money"
        order = np.argsort(-cosine_similarity(query[None], EMBEDDINGS)[0])
        assert panel.selected.index.tolist() == order[:3].tolist()
        assert "Nearest to “where is my money”" in panel._found.value
        panel._meaning.value = ""
        assert panel.selected.empty
    assert EmbeddingMap(texts(), EMBEDDINGS)._meaning.disabled
    with pytest.raises(ValueError, match="the model that made them"):
        EmbeddingMap(texts(), EMBEDDINGS).find_meaning("money")


def test_an_error_of_a_search_or_a_listener_is_shown() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, model=lambda texts: np.ones((1, 5)))
    panel._meaning.value = "money"
    assert "5 dimensions" in panel.problem
    panel.on_select(lambda rows: {}["<missing>"])
    lasso(panel, [1, 2])
    assert "&lt;missing&gt;" in panel._problem.value


def test_names_are_written_on_the_map_and_removed() -> None:
    frame = texts()
    frame["text"] = [f"{topic} {word}" for topic, word in zip(frame["topic"], ["refund", "parcel", "data"] * 10)]  # noqa: B905
    panel = EmbeddingMap(frame, EMBEDDINGS, PLANE, color="topic", clusters="topic")
    assert panel.scatter.widget.labels is None
    panel.labels = "frequent terms"
    assert set(panel.scatter.widget.labels["label"]) == {"money · refund", "parcel · post", "data · privacy"}
    panel.labels = "names of the groups"
    labels = panel.scatter.widget.labels
    assert set(labels["label"]) == {"money", "post", "privacy"}
    low, high = panel.scatter.widget.x_scale_domain
    assert labels["x"].between(low, high).all()
    panel.color = "length"
    assert set(panel.scatter.widget.labels["label"]) == {""}
    sent = panel.scatter.widget.labels
    panel.scatter.widget._label_tiles_changed({"new": ["0,0,1"]})
    assert not panel.scatter.widget.labels.equals(sent), "the browser asks when it can draw, and ignores equal ones"
    with pytest.raises(ValueError, match="labels must be one of"):
        panel.labels = "everything"


def test_clusters_are_found_in_the_original_space_and_equal_names_are_written_once() -> None:
    far = np.repeat(np.eye(8)[:3], 10, axis=0) * 9 + EMBEDDINGS
    panel = EmbeddingMap(texts(), far, xy=PLANE, clusters=3)
    assert panel.regions.groupby(np.repeat([0, 1, 2], 10)).nunique().tolist() == [1, 1, 1]
    assert panel.regions.nunique() == 3
    alike = EmbeddingMap(texts().assign(text="money back", cluster=[1] * 20 + [2] * 10), EMBEDDINGS, clusters="cluster")
    alike.labels = "frequent terms"
    assert alike.scatter.widget.labels["label"].tolist() == ["money"]


def test_drawings_wait_for_moving_points_and_only_the_last_of_a_kind_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
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
        now[0], action = later.pop(later.index(min(later, key=lambda one: one[0])))
        action()
    assert drawn == [("first", 10.0), ("third", 12.0), ("color", 14.0)]
    monkeypatch.setattr(scatter_module, "kernel_loop", lambda: None)
    for name in ("without a kernel", "nothing waits"):
        points._ask("move", lambda name=name: drawn.append((name, now[0])))
    assert [name for name, _ in drawn[3:]] == ["without a kernel", "nothing waits"]


def test_what_changed_before_a_page_shows_the_map_is_sent_again() -> None:
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
    panel.labels = "frequent terms"
    names = widget.labels
    for page in "de":
        widget.set_trait("dom_element_id", page)
        assert widget.labels["label"].tolist() == names["label"].tolist()
        assert not widget.labels.equals(names), "names are drawn only when they change, on each page"
        names = widget.labels


def test_a_film_moves_the_points_and_states_how_faithful_each_frame_is() -> None:
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
    with pytest.raises(ValueError, match="frame_name must be one of 'step 0', 'step 9'"):
        panel.frame_name = "step 5"


def test_each_frame_may_have_its_own_space() -> None:
    spaces = {"last": EMBEDDINGS[::-1].copy(), "first": EMBEDDINGS}
    panel = EmbeddingMap(texts(), spaces, frames={"first": PLANE, "last": PLANE}, neighbors=3)
    assert list(panel.qualities) == ["first", "last"]
    near = panel.neighbors(0)["position"].tolist()
    panel.frame_name = "last"
    assert panel.neighbors(29)["position"].tolist() == [29 - row for row in near]
    assert EmbeddingMap(texts(), frames=[PLANE, PLANE]).frames.keys() == {"1", "2"}


def test_buttons_save_the_selection_and_the_picture_to_new_files(tmp_path: Path) -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, color="topic", folder=tmp_path / "new")
    panel.select([2, 9])
    buttons = {button.description: button for button in every(panel, ipywidgets.Button)}
    for name in ("Save selection (CSV)", "Save picture (SVG)", "Save selection (CSV)"):
        buttons[name].click()
    assert str(tmp_path / "new" / "selection-2.csv") in panel._saved.value
    assert pd.read_csv(tmp_path / "new" / "selection.csv", index_col="row").index.tolist() == [2, 9]
    assert "<svg" in (tmp_path / "new" / "map.svg").read_text()
    assert panel.save_picture(tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").write_text("")
    panel.folder = tmp_path / "file"
    buttons["Save selection (CSV)"].click()
    assert "Error" in panel.problem


def test_linked_maps_share_the_selection_and_show_their_own_neighbours() -> None:
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
    a, b = EmbeddingMap(texts(), EMBEDDINGS), EmbeddingMap(texts(), EMBEDDINGS)
    with pytest.raises(ValueError, match="same texts in the same order"):
        linked(a, EmbeddingMap(texts()[::-1], EMBEDDINGS))
    with pytest.raises(ValueError, match="the same one twice"):
        linked(a, a)
    with pytest.raises(TypeError, match="got DataFrame"):
        linked(a, texts())
    with pytest.raises(ValueError, match="names must be two different ones"):
        linked(a, b, names=("x", "x"))
    few = [EmbeddingMap(texts().head(2), EMBEDDINGS[:2]) for _ in range(2)]
    assert "at least 3 texts" in linked(*few).message
