from __future__ import annotations

import base64
import importlib.resources
import sys
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sbertlab import maps

widgets = pytest.importorskip("sbertlab.widgets", reason="the lab extra is not installed", exc_type=ImportError)
EmbeddingMap = widgets.EmbeddingMap

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
    assert "2 of 30 texts are selected" in panel.children[-1].value
    panel.select(range(20))
    assert len(heard[1]) == 20
    assert "sentence 7" in panel.children[-1].value
    assert "sentence 8" not in panel.children[-1].value
    assert "and 12 more" in panel.children[-1].value


def test_the_button_clears_the_selection_and_is_off_without_one() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS)
    clear = panel.children[0].children[1]
    assert clear.disabled
    lasso(panel, [1, 2])
    assert not clear.disabled
    clear.click()
    assert panel.selected.empty
    assert clear.disabled


def test_the_menu_changes_the_colours_of_the_map_and_of_its_picture() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, color="topic")
    scatter, menu = panel.scatter.widget, panel.children[0].children[0]
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

    for theme, colors in widgets.plots.THEMES.items():
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
    panel = EmbeddingMap(frame, EMBEDDINGS, color=evil)
    panel.select([0])
    html = "".join(child.value for child in [panel.children[2], panel.children[3]])
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
    frame.loc[0, "text"] = "שלום 😀 عالم"
    panel = EmbeddingMap(frame, EMBEDDINGS, color="topic")
    panel.select([0])
    assert '<li dir="auto">שלום 😀 عالم</li>' in panel.children[-1].value


def test_a_map_says_how_faithful_it_is() -> None:
    panel = EmbeddingMap(texts(), EMBEDDINGS, PLANE)
    assert panel.quality == maps.map_quality(EMBEDDINGS, PLANE)
    assert str(panel.quality) in panel.children[2].value
    assert any(str(panel.quality) in text for text in written(panel.static()))
    alone = EmbeddingMap(texts(), xy=PLANE)
    assert alone.quality is None
    assert "Nobody knows how faithful" in alone.children[2].value


def test_coordinates_come_from_pca_or_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EmbeddingMap(texts(), EMBEDDINGS).xy == pytest.approx(maps.pca(EMBEDDINGS))
    assert EmbeddingMap(texts(), xy=PLANE.tolist()).xy == pytest.approx(PLANE)
    asked: dict[str, Any] = {}
    monkeypatch.setattr(maps, "umap_map", lambda rows, **arguments: asked.update(arguments) or PLANE)
    panel = EmbeddingMap(texts(), EMBEDDINGS, method="umap", seed=5, metric="euclidean")
    assert panel.xy is PLANE
    assert asked == {"seed": 5, "metric": "euclidean"}


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
    assert '<li dir="auto"></li>' in panel.children[-1].value


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
            "embeddings must have a row for each.* 29 for 30",
        ),
        ({"frame": texts(), "xy": PLANE[:3]}, ValueError, "xy must have a row for each row of frame, got 3 for 30"),
        ({"frame": texts(), "xy": EMBEDDINGS}, ValueError, r"xy must have the shape \(30, 2\), got \(30, 8\)"),
        ({"frame": texts(), "xy": np.full((30, 2), np.nan)}, ValueError, "xy holds NaN"),
        ({"frame": texts(), "embeddings": np.full((30, 8), np.nan)}, ValueError, "embeddings holds NaN .* row 0"),
        ({"frame": texts().head(0), "embeddings": EMBEDDINGS[:0]}, ValueError, "at least 3 texts, got 0"),
        ({"frame": texts().head(1), "embeddings": EMBEDDINGS[:1]}, ValueError, "at least 3 texts, got 1"),
        ({"frame": texts().head(2), "xy": PLANE[:2]}, ValueError, "at least 3 texts, got 2"),
        ({"frame": texts(), "xy": PLANE, "text": "body"}, ValueError, "text must be a column of frame, got 'body'"),
        ({"frame": texts(), "xy": PLANE, "color": "mood"}, ValueError, r"color must be one of \['topic', 'length'\]"),
        ({"frame": texts(), "xy": PLANE, "method": "tsne"}, ValueError, 'method must be "pca" or "umap", got \'tsne\''),
        ({"frame": texts(), "xy": PLANE, "theme": "sepia"}, ValueError, "theme must be one of"),
        (
            {"frame": pd.concat([texts(), texts()[["topic"]]], axis=1), "xy": PLANE},
            ValueError,
            "the columns of frame must differ",
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


@pytest.mark.parametrize("package", ["jscatter", "ipywidgets"])
def test_a_missing_package_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "sbertlab.widgets")
    with pytest.raises(ImportError, match=r'pip install "sbertlab\[lab\]"'):
        importlib.import_module("sbertlab.widgets")
