"""`EmbeddingMap`: a map of texts to hover over, search, colour, select from with a lasso, and watch in training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from torch import Tensor

from sbertlab import plots
from sbertlab.analysis import maps
from sbertlab.checks import check_choice, checked_number
from sbertlab.data.texts import normalised
from sbertlab.plots.style import THEMES, Figure
from sbertlab.util import Embeddings, Encoder, as_tensor, cos_sim, euclidean_sim, top_matches
from sbertlab.widgets.panel import Panel, control, escaped, new_file, row, table, text_figure
from sbertlab.widgets.scatter import (
    LEGEND_GROUPS,
    MOST_GROUPS,
    MOVE,
    Points,
    checked_frames,
    checked_spaces,
    color_columns,
)

LISTED_TEXTS = 50
"""Number of selected texts that are listed below the map."""

LABELS = ("nothing", "names of the groups", "frequent terms")
"""What can be written on the map: the names in the colour column, or the words of clusters of the original space."""


class EmbeddingMap(Panel):
    """A map of texts: hover shows the text, a lasso selects rows, two searches and a click find their neighbours.

    Drag to move, scroll to zoom, hold the mouse down (or Shift, or the lasso tool) to select; `selected` has the rows.
    A click on a point selects its nearest neighbours in the original space, not on the map, and draws lines to them.
    By keyboard: search, choose one of the listed texts, press "Show its neighbours". Texts and labels are never run as
    HTML. With fewer than 3 texts, or without a package that the map needs, a message is shown instead.

    Args:
        frame: one row per text.
        embeddings: `(n, dim)`, of the same rows; needed to make a map if there is no `xy`, to measure how faithful it
            is, and for neighbours. With frames: those of the last frame, or one per frame under the same name.
        xy: coordinates computed before, `(n, 2)`.
        text: the column with the texts.
        color: the column to colour by at first; the menu offers all others.
        method: "pca" or "umap", for the coordinates when neither `xy` nor `frames` are given.
        seed: of UMAP and of the clusters.
        frames: in place of `xy`: coordinates `(n, 2)` by the name of a checkpoint, or a list of them; a slider and a
            play button move the points from one to the next.
        model: embeds what is typed into "Find meaning": anything with `encode(texts)`, or a function of a list of
            texts. It must be the model that made the (last) embeddings.
        neighbors: number of rows that a click or a search by meaning finds; a slider changes it.
        clusters: number of clusters whose frequent terms can be written on the map, or the column that has them.
        folder: where the buttons save the selection and the picture.
        metric: "cosine" or "euclidean" (similarity is then minus the distance), in the original space.
        height: of the map, in pixels.
        theme: "light" or "dark".

    Raises:
        TypeError: `frame` is not a DataFrame.
        ValueError: neither embeddings nor coordinates, different lengths, NaN, an unknown column, method or theme, a
            colour column with too many names, or frames that do not match the embeddings.

    >>> frame = pd.DataFrame({"text": ["refund", "money back", "parcel"], "topic": ["money", "money", "post"]})
    >>> panel = EmbeddingMap(frame, [[1, 0], [0.9, 0.1], [0, 1]], xy=np.array([[0, 0], [1, 0], [0, 5]]), color="topic")
    >>> panel.select([0, 1])
    >>> panel.selected["text"].tolist(), panel.neighbors(2, k=1)["text"].tolist(), panel.find_words("MONEY")
    (['refund', 'money back'], ['money back'], array([1]))
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        embeddings: Embeddings | Mapping[str, Embeddings] | None = None,
        xy: Embeddings | None = None,
        text: str = "text",
        color: str | None = None,
        method: str = "pca",
        seed: int = 0,
        *,
        frames: Mapping[str, Embeddings] | Sequence[Embeddings] | None = None,
        model: Encoder | Callable[[list[str]], Any] | None = None,
        neighbors: int = 10,
        clusters: int | str = 12,
        folder: str | Path = ".",
        metric: str = "cosine",
        height: int = 480,
        theme: str = "light",
    ) -> None:
        super().__init__(theme=theme)
        self.columns = color_columns(frame, text)
        self._check_color(color)
        check_choice("method", method, ("pca", "umap"))
        check_choice("metric", metric, maps.METRICS)
        checked_number("neighbors", neighbors, 1, whole=True)
        if isinstance(clusters, str):
            check_choice("clusters", clusters, frame.columns)
        self.frame, self.text, self.model, self.metric, self.folder = frame, text, model, metric, Path(folder)
        self.seed, self._clusters = seed, clusters
        self.scatter: Any = None
        self.qualities: dict[str, maps.MapQuality] = {}
        self._callbacks: list[Callable[[pd.DataFrame], object]] = []
        self._followers: list[Callable[[np.ndarray, int | None], object]] = []
        self._rows = np.array([], dtype=int)
        self._lines: tuple[int | None, list[int]] = (None, [])
        self._texts = frame[text].fillna("").astype(str).tolist()
        self.frames = checked_frames(len(frame), xy, frames)
        self.spaces = checked_spaces(len(frame), embeddings, list(self.frames))
        if not self.frames and not self.spaces:
            raise ValueError("an EmbeddingMap needs embeddings (n, dim) or coordinates xy (n, 2), got neither")
        self._make_controls(color, neighbors)
        if len(frame) < maps.FEWEST_POINTS:
            self.frames = {}
            self.replace(f"An EmbeddingMap needs at least {maps.FEWEST_POINTS} texts, got {len(frame)}.")
            return
        try:
            if not self.frames:
                space, umap = self.spaces[""], method == "umap"
                self.frames[""] = maps.cached_umap(space, seed=seed, metric=metric) if umap else maps.pca(space)
            for name, space in self.spaces.items():
                self.qualities[name] = maps.map_quality(space, self.frames[name], metric=metric)
            self._points = Points(self.frames, self._texts, self.columns, color, height, THEMES[theme])
        except ImportError as error:
            self.replace(str(error), *([ipywidgets.Image(value=self.picture())] if self.frames else []))
            return
        self.scatter = self._points.scatter
        self._lay_out()

    @property
    def frame_name(self) -> str:
        """The name of the frame that the map shows; set it to move there."""
        return list(self.frames)[self._film.index] if self.frames else ""

    @frame_name.setter
    def frame_name(self, name: str) -> None:
        check_choice("frame_name", name, self.frames)
        self._film.index = list(self.frames).index(name)

    @property
    def xy(self) -> np.ndarray:
        """Current coordinates of the points, `(n, 2)`."""
        return self.frames[self.frame_name]

    @property
    def quality(self) -> maps.MapQuality | None:
        """How faithful this frame is to its original space; None without embeddings."""
        return self.qualities.get(self.frame_name)

    @property
    def faithfulness(self) -> str:
        """`quality` as a sentence."""
        if self.quality is None:
            return "How faithful this map is cannot be measured: it has no embeddings to compare with."
        return f"This map keeps: {self.quality}"

    @property
    def color(self) -> str | None:
        """The column that the map is coloured by; set it to change it."""
        return self._color.value

    @color.setter
    def color(self, column: str | None) -> None:
        self._check_color(column)
        self._color.value = column

    @property
    def labels(self) -> str:
        """What is written on the map, one of `LABELS`; set it to change it."""
        return self._labels.value

    @labels.setter
    def labels(self, kind: str) -> None:
        check_choice("labels", kind, LABELS)
        self._labels.value = kind

    @property
    def selected(self) -> pd.DataFrame:
        """The selected rows of the frame; after a click or a search by meaning, best first."""
        return self.frame.iloc[self._rows]

    def select(self, rows: Sequence[int]) -> None:
        """Select rows by their positions in the frame, as a lasso would."""
        positions = np.asarray(rows, dtype=int)
        if positions.size and not 0 <= positions.min() <= positions.max() < len(self.frame):
            raise ValueError(f"rows must be positions from 0 to {len(self.frame) - 1}, got {positions.tolist()}")
        self._show(positions)

    def on_select(self, callback: Callable[[pd.DataFrame], object]) -> None:
        """Call `callback(selected rows)` whenever the selection changes; the panel shows its errors."""
        self._callbacks.append(self.guarded(callback))

    def find_words(self, query: str) -> np.ndarray:
        """Positions of the texts that contain all words of the query, in any order, case and Unicode spelling."""
        words = normalised(query).casefold().split()
        hits = np.full(len(self._texts), bool(words))
        for word in words:
            hits &= self._searchable.str.contains(word, regex=False).to_numpy(dtype=bool)
        return np.flatnonzero(hits)

    @cached_property
    def _searchable(self) -> pd.Series:
        return pd.Series([normalised(text).casefold() for text in self._texts], dtype="str")

    def find_meaning(self, query: str, k: int | None = None) -> pd.DataFrame:
        """The k texts nearest to a query in the original space: columns position, similarity, text; best first."""
        if self.model is None or not self.spaces:
            raise ValueError("a search by meaning needs embeddings and the model that made them: EmbeddingMap(model=)")
        encode: Any = getattr(self.model, "encode", self.model)
        return self._nearest(as_tensor(encode([query]), "the embedding of the query"), list(self.spaces)[-1], k)

    def neighbors(self, position: int, k: int | None = None) -> pd.DataFrame:
        """The k texts nearest to a text of the frame, as `find_meaning`, in the original space of the frame shown."""
        if self.frame_name not in self.spaces:
            raise ValueError("neighbours in the original space need its embeddings: EmbeddingMap(frame, embeddings)")
        checked_number("position", position, 0, len(self.frame) - 1, whole=True)
        k = self._k.value if k is None else k
        found = self._nearest(self.spaces[self.frame_name][position], self.frame_name, k + 1)
        return found[found["position"] != position].head(k)

    def show_neighbors(self, position: int) -> None:
        """Select a text and its neighbours, list them with their similarities, and draw lines to them."""
        self._show(np.array([position, *self.neighbors(position)["position"]]), position)

    def save_selection(self, path: str | Path | None = None) -> Path:
        """Write the selected rows as CSV; without a path, to a new file in `folder`."""
        path = new_file(self.folder, "selection", "csv") if path is None else Path(path)
        self.selected.to_csv(path, index_label="row")
        self._saved.value = escaped(f"Saved: {path.resolve()}")
        return path

    def save_picture(self, path: str | Path | None = None, format: str = "png") -> Path:
        """Write the static picture as PNG or SVG (by the path's ending); without a path, to a new file in `folder`."""
        path = new_file(self.folder, "map", format) if path is None else Path(path)
        path.write_bytes(self.picture(path.suffix.lstrip(".").lower() or format, dpi=200))
        self._saved.value = escaped(f"Saved: {path.resolve()}")
        return path

    def static(self, title: str = "") -> Figure:
        """The same map as a matplotlib figure, with the names of the groups on it."""
        if not self.frames:
            return text_figure(self.message, self.theme)
        labels = None if self.color is None else self.columns[self.color].rename(self.color)
        title = title or self.frame_name
        return plots.embedding_map(self.xy, labels, self._texts, self.faithfulness, title=title, theme=self.theme)

    @cached_property
    def regions(self) -> pd.Series:
        """The cluster of each row, `(n,)`: a column of the frame, or k-means in the (last) original space."""
        if isinstance(self._clusters, str):
            return self.frame[self._clusters].reset_index(drop=True)
        space: Any = list(self.spaces.values())[-1] if self.spaces else self.xy
        metric = self.metric if self.spaces else "euclidean"
        return pd.Series(maps.find_clusters(space, self._clusters, self.seed, metric))

    @cached_property
    def _region_names(self) -> dict[Any, str]:
        terms = maps.cluster_terms(self._texts, self.regions.tolist())
        names = {" · ".join(terms[group]): group for group in self.regions.value_counts().index[::-1]}
        return {group: name for name, group in names.items()}  # of clusters with the same terms, the largest is named

    def __repr__(self) -> str:
        about = f"EmbeddingMap of {len(self.frame):,} texts"
        return f"{about}: {self.message}" if self.message else f"{about}, coloured by {self.color}"

    def _check_color(self, column: str | None) -> None:
        if column is not None and column not in self.columns:
            raise ValueError(
                f"color must be one of {list(self.columns)}, got {column!r}; colours need a column of numbers "
                f"or of at most {MOST_GROUPS} distinct names"
            )

    def _make_controls(self, color: str | None, neighbors: int) -> None:
        choices = [("nothing", None), *((str(name), name) for name in self.columns)]
        self._color = control(ipywidgets.Dropdown, "Colour by", options=choices, value=color)
        self._labels = control(ipywidgets.Dropdown, "Write on it", options=LABELS)
        most = max(1, min(50, len(self.frame) - 1))
        self._k = control(ipywidgets.IntSlider, "Neighbours", value=min(neighbors, most), min=1, max=most)
        names = [(name, index) for index, name in enumerate(self.frames or [""])]
        self._film = control(ipywidgets.SelectionSlider, "Checkpoint", options=names, layout={"width": "60%"})
        ready = self.model is not None and bool(self.spaces)
        hint = "a question or sentence, Enter" if ready else "needs embeddings and model="
        late = {"continuous_update": False}
        self._words = control(ipywidgets.Text, "Find words", placeholder="in any order, Enter", **late)
        self._meaning = control(ipywidgets.Text, "Find meaning", placeholder=hint, disabled=not ready, **late)
        self._list = control(ipywidgets.Select, "Selected", rows=6, layout={"width": "98%"})
        self._clear = self.button("Clear selection", lambda: self.select([]))
        tooltip = "Of the text chosen in the list"
        self._walk = self.button("Show its neighbours", lambda: self.show_neighbors(self._list.value), tooltip)
        self._head, self._found, self._note, self._saved = (ipywidgets.HTML() for _ in range(4))

    def _lay_out(self) -> None:
        """Put the controls around the map and listen to them."""
        self.on_change(self._color, self._recolor)
        self.on_change(self._labels, lambda kind: self._write_names())
        self.on_change(self._film, lambda index: self._move(), "index")
        self.on_change(self._words, self._search_words)
        self.on_change(self._meaning, self._search_meaning)
        self.on_change(self.scatter.widget, lambda rows: self._touched(), "selection")
        save = [
            self.button("Save selection (CSV)", self.save_selection),
            self.button("Save picture (PNG)", self.save_picture),
            self.button("Save picture (SVG)", lambda: self.save_picture(format="svg")),
        ]
        play = ipywidgets.Play(max=len(self.frames) - 1, interval=2 * MOVE, show_repeat=True, tooltip="Play the film")
        ipywidgets.jslink((play, "value"), (self._film, "index"))
        self._show(self._rows)
        self.children = (
            *self.children,
            row(self._color, self._labels, self._clear),
            row(self._words, self._meaning, self._k),
            self.scatter.widget,
            *([row(play, self._film)] if len(self.frames) > 1 else []),
            self._note,
            self._head,
            self._list,
            row(self._walk),
            self._found,
            row(*save, self._saved),
        )

    def _nearest(self, query: Tensor, name: str, k: int | None) -> pd.DataFrame:
        """Rows of a space nearest to one embedding `(dim,)` or `(1, dim)`, best first."""
        score = cos_sim if self.metric == "cosine" else euclidean_sim
        k = self._k.value if k is None else k
        scores, positions = top_matches(query, self.spaces[name], top_k=k, score_function=score)
        found = positions[0].tolist()
        columns = {"position": found, "similarity": scores[0].tolist(), "text": [self._texts[i] for i in found]}
        return pd.DataFrame(columns, index=self.frame.index[found])

    def _touched(self) -> None:
        """The browser changed the selection: one point is a click, several are a lasso."""
        rows = np.asarray(self.scatter.widget.selection, dtype=int)
        if np.array_equal(rows, self._rows):
            return
        if len(rows) == 1 and self.frame_name in self.spaces:
            self.show_neighbors(int(rows[0]))
        else:
            self._show(rows)

    def _search_words(self, query: str) -> None:
        rows = self.find_words(query)
        self._show(rows, title=f"{len(rows):,} texts contain “{query.strip()}”" if query.strip() else "")

    def _search_meaning(self, query: str) -> None:
        found = self.find_meaning(query) if query.strip() else None
        rows = np.array([], dtype=int) if found is None else found["position"].to_numpy()
        self._show(rows, None, found, f"Nearest to “{query}”")

    def _follow(self, rows: np.ndarray, start: int | None) -> None:
        """A linked map selected rows; here the lines lead to the neighbours of the clicked text in this map."""
        self._show(rows, start if self.frame_name in self.spaces else None, lead=False)

    def _show(
        self, rows: np.ndarray, start: int | None = None, found: Any = None, title: str = "", lead: bool = True
    ) -> None:
        """Select rows on the map, in the list and in linked maps; list what was found; notify listeners.

        Args:
            rows: their positions.
            start: a text whose neighbours are listed, with lines to them.
            found: texts with their similarities, without a start.
            title: of what was found.
            lead: whether linked maps follow.
        """
        if start is not None:
            found, title = self.neighbors(start), f"Nearest to “{self._texts[start]}”"
        changed = not np.array_equal(rows, self._rows)
        self._rows = rows
        if self.scatter is None:
            return
        self.scatter.selection(rows)
        self._lines = (start, [] if start is None else found["position"].tolist())
        self._annotate()
        self._clear.disabled = not len(rows)
        self._walk.disabled = not len(rows) or self.frame_name not in self.spaces
        listed = rows[:LISTED_TEXTS].tolist()
        self._list.options = [(self._texts[position][:200], position) for position in listed]
        self._list.index = 0 if listed else None
        more = f", the first {LISTED_TEXTS} are listed" if len(rows) > LISTED_TEXTS else ""
        head = f"{len(rows):,} of {len(self.frame):,} texts are selected{more}"
        self._head.value = escaped(f"{title}; {head}" if title and found is None else head, "div")
        self._found.value = "" if found is None else table(found[["similarity", "text"]], title)
        for follow in self._followers if lead else ():
            follow(rows, start)
        for callback in self._callbacks if changed else ():
            callback(self.selected)

    def _annotate(self) -> None:
        """Draw the lines to the neighbours and state how faithful the current frame is."""
        self._points.draw_lines(self.xy, *self._lines)
        self._note.value = f"<small>{escaped(self.faithfulness)}</small>"

    def _move(self) -> None:
        """Move the points to the frame that the slider names."""
        self._points.move(self._film.index)
        self._annotate()
        self._write_names()

    def _recolor(self, column: Any) -> None:
        self._points.recolor(column)
        self._write_names()

    def _write_names(self) -> None:
        """Write on the map what the menu says."""
        groups, names = pd.Series(np.zeros(len(self.frame))), {}
        if self.labels == "frequent terms":
            groups, names = self.regions, self._region_names
        elif self.labels == "names of the groups" and self.color is not None:
            groups = self.columns[self.color]
            largest: Any = groups.value_counts().index[:LEGEND_GROUPS] if groups.dtype != float else ()
            names = {name: name[:40] for name in largest}
        self._points.write_names(self.xy, groups, names)
