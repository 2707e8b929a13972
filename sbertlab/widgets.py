"""Panels for notebooks. `EmbeddingMap`: a map to hover over, colour and cut out of with a lasso.

A panel only shows; what it shows is computed in `maps` and drawn, where no widget can run, by `plots`.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sbertlab import maps, plots
from sbertlab.similarity import Embeddings, as_tensor

try:
    import ipywidgets
    import jscatter
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('the widgets need ipywidgets and jupyter-scatter: pip install "sbertlab[lab]"') from error

MOST_GROUPS = 256
"""A column with more different names than this gives no colours: nobody can tell them apart."""

LEGEND_GROUPS = 24
"""A legend with more entries than this would cover the map."""

LISTED_TEXTS = 8
"""So many of the selected texts are listed below the map."""


class EmbeddingMap(ipywidgets.VBox):
    """A map of texts: hover shows the text, a menu changes the colours, a lasso selects rows.

    Drag to move, scroll to zoom, hold the mouse down (or take the lasso tool) to select; `selected` has the rows. What
    the map keeps of the original space is printed on it. Texts and labels are shown as they are, never run as HTML.
    Where no widget can run (GitHub, nbviewer, an HTML export) the static picture is shown instead.

    Args:
        frame: one row a text.
        embeddings: `(n, dim)`, of the same rows; needed for a map when `xy` is None, and to say how faithful one is.
        xy: `(n, 2)`, coordinates computed before.
        text: the column with the texts.
        color: the column to colour by at first; any other can be chosen in the menu.
        method: "pca" or "umap", for the coordinates when `xy` is None.
        seed: of UMAP.
        metric: "cosine" or "euclidean", in the original space.
        height: of the map, in pixels.
        theme: "light" or "dark".

    Raises:
        TypeError: `frame` is not a DataFrame.
        ValueError: neither embeddings nor coordinates, lengths that differ, fewer than 3 rows, NaN, an unknown column,
            method or theme, or a colour column with too many names.
        ImportError: "umap" without umap-learn.

    >>> frame = pd.DataFrame({"text": ["refund", "money back", "parcel"], "topic": ["money", "money", "post"]})
    >>> panel = EmbeddingMap(frame, xy=np.array([[0, 0], [1, 0], [0, 5]]), color="topic")
    >>> panel.select([0, 1])
    >>> panel.selected["text"].tolist()
    ['refund', 'money back']
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        embeddings: Embeddings | None = None,
        xy: Embeddings | None = None,
        text: str = "text",
        color: str | None = None,
        method: str = "pca",
        seed: int = 0,
        *,
        metric: str = "cosine",
        height: int = 480,
        theme: str = "light",
    ) -> None:
        _check_frame(frame, text)
        if theme not in plots.THEMES:
            raise ValueError(f"theme must be one of {tuple(plots.THEMES)}, got {theme!r}")
        embeddings = None if embeddings is None else as_tensor(embeddings, "embeddings")
        xy = None if xy is None else as_tensor(xy, "xy", finite=True)
        self.frame, self.text, self.theme = frame, text, theme
        self.xy = _coordinates(frame, embeddings, xy, method, seed, metric)
        self.quality = None if embeddings is None else maps.map_quality(embeddings, self.xy, metric=metric)
        self._columns = _color_columns(frame, text)
        self._callbacks: list[Callable[[pd.DataFrame], object]] = []
        if color is not None and color not in self._columns:
            raise ValueError(
                f"color must be one of {list(self._columns)}, got {color!r}; a column of the frame with numbers, or "
                f"with at most {MOST_GROUPS} different names, gives colours"
            )
        self.scatter = self._make_scatter(height)
        choices = [("nothing", None), *((str(name), name) for name in self._columns)]
        self._menu = ipywidgets.Dropdown(options=choices, value=color, description="Colour by")
        self._clear = ipywidgets.Button(description="Clear selection", tooltip="Select no text")
        self._list = ipywidgets.HTML()
        self._menu.observe(lambda change: self._recolor(), names="value")
        self._clear.on_click(lambda button: self.select([]))
        self.scatter.widget.observe(lambda change: self._tell(), names="selection")
        self._recolor()
        self._show_selection()
        note = ipywidgets.HTML(f"<small>{html.escape(self.faithfulness)}</small>")
        super().__init__([ipywidgets.HBox([self._menu, self._clear]), self.scatter.widget, note, self._list])

    @property
    def faithfulness(self) -> str:
        """What the map keeps of the original space, in words."""
        if self.quality is None:
            return "Nobody knows how faithful this map is: it was made without embeddings to compare it with."
        return f"This map keeps: {self.quality}"

    @property
    def color(self) -> str | None:
        """The column that the map is coloured by; set it to change it."""
        return self._menu.value

    @color.setter
    def color(self, column: str | None) -> None:
        if column is not None and column not in self._columns:
            raise ValueError(f"color must be one of {list(self._columns)} or None, got {column!r}")
        self._menu.value = column

    @property
    def selected(self) -> pd.DataFrame:
        """The selected rows of the frame."""
        return self.frame.iloc[np.asarray(self.scatter.widget.selection, dtype=int)]

    def select(self, rows: Sequence[int]) -> None:
        """Select rows by their positions in the frame, as a lasso would.

        Raises:
            ValueError: a position outside the frame.
        """
        positions = np.asarray(rows, dtype=int)
        if positions.size and not 0 <= positions.min() <= positions.max() < len(self.frame):
            raise ValueError(f"rows must be positions from 0 to {len(self.frame) - 1}, got {positions.tolist()}")
        self.scatter.selection(positions)

    def on_select(self, callback: Callable[[pd.DataFrame], object]) -> None:
        """Call `callback(selected rows)` whenever the selection changes."""
        self._callbacks.append(callback)

    def static(self, title: str = "") -> Figure:
        """The same map as a matplotlib figure, with the names of the groups on it."""
        labels = None if self.color is None else self._columns[self.color].rename(self.color)
        texts = self.frame[self.text].fillna("").astype(str).tolist()
        return plots.embedding_map(self.xy, labels, texts, self.faithfulness, title=title, theme=self.theme)

    def __repr__(self) -> str:
        return f"EmbeddingMap of {len(self.frame):,} texts, coloured by {self.color}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and its picture for whoever cannot run it."""
        picture = io.BytesIO()
        self.static().savefig(picture, format="png", dpi=96)
        bundle = super()._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "image/png": base64.b64encode(picture.getvalue()).decode()}

    def _make_scatter(self, height: int) -> jscatter.Scatter:
        """The scatter plot: one scale for both axes, texts as tooltips, column names that clash with none of its."""
        shown = {f"{name} ": column for name, column in self._columns.items()}
        texts = self.frame[self.text].fillna("").astype(str).to_numpy()
        table = pd.DataFrame({"x": self.xy[:, 0], "y": self.xy[:, 1], "text": texts, **shown})
        centre = (self.xy.max(axis=0) + self.xy.min(axis=0)) / 2
        half = 0.55 * max(np.ptp(self.xy, axis=0).max(), 1e-9)
        return jscatter.Scatter(
            data=table,
            x="x",
            y="y",
            x_scale=(centre[0] - half, centre[0] + half),
            y_scale=(centre[1] - half, centre[1] + half),
            size=int(np.select([len(table) < 500, len(table) < 5000, len(table) < 50000], [9, 6, 4], 2)),
            axes=False,
            height=height,
            background_color=plots.THEMES[self.theme].background,
            tooltip=True,
            tooltip_properties=list(shown)[:6],
            tooltip_histograms=False,
            tooltip_preview="text",
            tooltip_preview_type="text",
            tooltip_preview_text_lines=6,
            tooltip_size="medium",
        )

    def _recolor(self) -> None:
        """Colour the points by the chosen column, with the colours of the figures."""
        colors = plots.THEMES[self.theme]
        if self.color is None:
            self.scatter.color(by=None).color(default=colors.good).legend(False)
            return
        column = self._columns[self.color]
        name = f"{self.color} "
        if column.dtype == float:
            self.scatter.color(by=name, map=plots.sequential(colors), norm=(column.min(), column.max()))
            self.scatter.legend(True)
            return
        groups = column.nunique()
        self.scatter.color(by=name, map=[colors.palette[index % len(colors.palette)] for index in range(groups)])
        self.scatter.legend(groups <= LEGEND_GROUPS)

    def _tell(self) -> None:
        """Show the new selection and tell who asked for it."""
        self._show_selection()
        for callback in self._callbacks:
            callback(self.selected)

    def _show_selection(self) -> None:
        """List the first selected texts, escaped, each in its own writing direction."""
        selected = self.selected
        self._clear.disabled = selected.empty
        head = f"{len(selected):,} of {len(self.frame):,} texts are selected"
        texts = selected[self.text].head(LISTED_TEXTS).fillna("").astype(str)
        items = "".join(f'<li dir="auto">{html.escape(text)}</li>' for text in texts)
        more = f"<li>and {len(selected) - len(texts):,} more</li>" if len(selected) > len(texts) else ""
        self._list.value = f"<small>{head}<ul>{items}{more}</ul></small>"


def _check_frame(frame: pd.DataFrame, text: str) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f'frame must be a DataFrame, as pd.DataFrame({{"text": texts}}) is, got {type(frame).__name__}')
    if not frame.columns.is_unique:
        raise ValueError(f"the columns of frame must differ, got {list(frame.columns)}")
    if text not in frame:
        raise ValueError(f"text must be a column of frame, got {text!r}; its columns are {list(frame.columns)}")


def _coordinates(
    frame: pd.DataFrame,
    embeddings: Tensor | None,
    xy: Tensor | None,
    method: str,
    seed: int,
    metric: str,
) -> np.ndarray:
    """Checked coordinates `(n, 2)`: given ones, or those of the method."""
    if method not in ("pca", "umap"):
        raise ValueError(f'method must be "pca" or "umap", got {method!r}')
    for name, rows in (("embeddings", embeddings), ("xy", xy)):
        if rows is not None and len(rows) != len(frame):
            raise ValueError(f"{name} must have a row for each row of frame, got {len(rows)} for {len(frame)}")
    if len(frame) < maps.FEWEST_POINTS:
        raise ValueError(f"an EmbeddingMap needs at least {maps.FEWEST_POINTS} texts, got {len(frame)}")
    if xy is not None:
        if xy.shape != (len(frame), 2):
            raise ValueError(f"xy must have the shape ({len(frame)}, 2), got {tuple(xy.shape)}")
        return xy.detach().cpu().numpy()
    if embeddings is None:
        raise ValueError("an EmbeddingMap needs embeddings (n, dim) or coordinates xy (n, 2), got neither")
    return maps.pca(embeddings) if method == "pca" else maps.umap_map(embeddings, seed=seed, metric=metric)


def _color_columns(frame: pd.DataFrame, text: str) -> dict[Any, pd.Series]:
    """Columns that can give colours: numbers as floats, and few enough names as strings; no value is the name "none".

    >>> frame = pd.DataFrame({"text": ["a", "b"], "topic": ["x", None], "score": [5, 1]})
    >>> {name: column.tolist() for name, column in _color_columns(frame, "text").items()}
    {'topic': ['x', 'none'], 'score': ['5', '1']}
    """
    columns = {}
    for name in frame.columns.drop(text):
        column = frame[name].reset_index(drop=True)
        if plots.is_continuous(column):
            # a colour scale has no colour for a missing number, five ranges have
            floats = plots.as_floats(column)
            column = pd.cut(floats, 5).astype(str) if floats.hasnans else floats
        if column.dtype != float:
            column = column.astype(object).where(column.notna(), "none").astype(str).replace("nan", "none")
        if column.dtype == float or column.nunique() <= MOST_GROUPS:
            columns[name] = column
    return columns
