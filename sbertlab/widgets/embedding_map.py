"""`EmbeddingMap`: a map of texts to hover over, search, colour, cut out of with a lasso, and watch through training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from torch import Tensor

from sbertlab import plots
from sbertlab.analysis import maps
from sbertlab.plots.style import THEMES, Figure
from sbertlab.util import Embeddings, Encoder, as_tensor, cos_sim, euclidean_sim, top_matches
from sbertlab.widgets import map_scatter
from sbertlab.widgets.map_frames import check_frame, color_columns, coordinates, frames_and_spaces
from sbertlab.widgets.panel import Panel, control, escaped, new_file, row, table, words_figure
from sbertlab.widgets.word_search import find_words, fold_texts

LISTED_TEXTS = 50
"""So many of the selected texts are listed below the map."""

LABELS = ("nothing", "names of the groups", "frequent terms")
"""What can be written on the map: the names in the colour column, or the words of clusters of the original space."""


class EmbeddingMap(Panel):
    """A map of texts: hover shows the text, a lasso selects rows, two searches and a click find their neighbours.

    Drag to move, scroll to zoom, hold the mouse down (or Shift, or the lasso tool) to select; `selected` has the rows.
    A click on a point shows its nearest neighbours in the original space, not on the map: lines lead to them, and the
    map selects them. By keyboard: search, choose one of the listed texts, press "Show its neighbours". What the map
    keeps of the original space is printed on it. Texts and labels are shown as they are, never run as HTML. Where no
    widget can run (GitHub, nbviewer, an HTML export) the static picture is shown instead.

    With fewer than 3 texts, or without the package that draws or makes the map, a message stands in its place.

    Args:
        frame: one row a text.
        embeddings: `(n, dim)`, of the same rows; needed for a map when `xy` is None, to say how faithful one is, and
            for neighbours. With frames, those of the last one, or one for each by the same names.
        xy: `(n, 2)`, coordinates computed before.
        text: the column with the texts.
        color: the column to colour by at first; any other can be chosen in the menu.
        method: "pca" or "umap", for the coordinates when neither `xy` nor `frames` are given.
        seed: of UMAP and of the clusters.
        frames: in place of `xy`: coordinates `(n, 2)` by the name of a checkpoint, or a list of them; a slider and a
            play button move the points from one to the next.
        model: embeds what is typed into "Find meaning": anything with `encode(texts)`, or a function of a list of
            texts. It must be the one that made the embeddings (with frames: those of the last).
        neighbors: rows that a click or a search by meaning finds; a slider changes it.
        clusters: how many clusters get their frequent terms written on the map, or the column that has them.
        folder: where the buttons save the selection and the picture.
        metric: "cosine" or "euclidean" (similarity is then minus the distance), in the original space.
        height: of the map, in pixels.
        theme: "light" or "dark".

    Raises:
        TypeError: `frame` is not a DataFrame.
        ValueError: neither embeddings nor coordinates, lengths that differ, NaN, an unknown column, method or theme,
            a colour column with too many names, or frames that do not fit the embeddings.

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
        check_frame(frame, text, color)
        if metric not in maps.METRICS:
            raise ValueError(f"metric must be one of {maps.METRICS}, got {metric!r}")
        if neighbors < 1:
            raise ValueError(f"neighbors must be at least 1, got {neighbors}")
        if isinstance(clusters, str) and clusters not in frame:
            raise ValueError(f"clusters must be a number or a column of frame, got {clusters!r}")
        self.frame, self.text, self.model, self.metric, self.folder = frame, text, model, metric, Path(folder)
        self.seed, self._clusters = seed, clusters
        self.scatter: Any = None
        self.frames: dict[str, np.ndarray] = {}
        self.qualities: dict[str, maps.MapQuality] = {}
        self.columns = color_columns(frame, text)
        self._callbacks: list[Callable[[pd.DataFrame], object]] = []
        self._followers: list[Callable[[np.ndarray, int | None], object]] = []
        self._rows = np.array([], dtype=int)
        self._lines: tuple[int | None, list[int]] = (None, [])
        self._folded: pd.Series | None = None
        self._regions: pd.Series | None = None
        self._region_names: dict[Any, str] = {}
        self._texts = frame[text].fillna("").astype(str).tolist()
        self._make_controls(color, neighbors)
        given, self.spaces = frames_and_spaces(len(frame), embeddings, xy, frames, method)
        if len(frame) < maps.FEWEST_POINTS:
            self.replace(f"An EmbeddingMap needs at least {maps.FEWEST_POINTS} texts, got {len(frame)}.")
            return
        try:
            self.frames = given or {"": coordinates(self.spaces[""], method, seed, metric)}
            for name, space in self.spaces.items():
                self.qualities[name] = maps.map_quality(space, self.frames[name], metric=metric)
            colors = THEMES[theme]
            self.scatter = map_scatter.make_scatter(self.frames, self._texts, self.columns, height, colors)
        except ImportError as error:
            self.replace(str(error), *([ipywidgets.Image(value=self.picture())] if self.frames else []))
            return
        self._lay_out()

    @property
    def frame_name(self) -> str:
        """The name of the frame that the map shows; set it to move there."""
        return list(self.frames)[self._film.index] if self.frames else ""

    @frame_name.setter
    def frame_name(self, name: str) -> None:
        if name not in self.frames:
            raise ValueError(f"frame_name must be one of {list(self.frames)}, got {name!r}")
        self._film.index = list(self.frames).index(name)

    @property
    def xy(self) -> np.ndarray:
        """Where the points are now, `(n, 2)`."""
        return self.frames[self.frame_name]

    @property
    def quality(self) -> maps.MapQuality | None:
        """What this frame keeps of its original space."""
        return self.qualities.get(self.frame_name)

    @property
    def faithfulness(self) -> str:
        """What the map keeps of the original space, in words."""
        if self.quality is None:
            return "Nobody knows how faithful this map is: it was made without embeddings to compare it with."
        return f"This map keeps: {self.quality}"

    @property
    def color(self) -> str | None:
        """The column that the map is coloured by; set it to change it."""
        return self._color.value

    @color.setter
    def color(self, column: str | None) -> None:
        if column is not None and column not in self.columns:
            raise ValueError(f"color must be one of {list(self.columns)} or None, got {column!r}")
        self._color.value = column

    @property
    def labels(self) -> str:
        """What is written on the map: "nothing", "names of the groups" or "frequent terms"; set it to change it."""
        return self._labels.value

    @labels.setter
    def labels(self, kind: str) -> None:
        if kind not in LABELS:
            raise ValueError(f"labels must be one of {LABELS}, got {kind!r}")
        self._labels.value = kind

    @property
    def selected(self) -> pd.DataFrame:
        """The selected rows of the frame; after a click or a search by meaning, best first."""
        return self.frame.iloc[self._rows]

    def select(self, rows: Sequence[int]) -> None:
        """Select rows by their positions in the frame, as a lasso would.

        Raises:
            ValueError: a position outside the frame.
        """
        positions = np.asarray(rows, dtype=int)
        if positions.size and not 0 <= positions.min() <= positions.max() < len(self.frame):
            raise ValueError(f"rows must be positions from 0 to {len(self.frame) - 1}, got {positions.tolist()}")
        self._show(positions)

    def on_select(self, callback: Callable[[pd.DataFrame], object]) -> None:
        """Call `callback(selected rows)` whenever the selection changes; its errors are told in the panel."""
        self._callbacks.append(self.guarded(callback))

    def find_words(self, query: str) -> np.ndarray:
        """Positions of the texts that contain all words of the query, whatever their case."""
        if self._folded is None:
            self._folded = fold_texts(self._texts)
        return find_words(self._folded, query)

    def find_meaning(self, query: str, k: int | None = None) -> pd.DataFrame:
        """The k texts nearest to a query in the original space.

        Returns:
            Columns position, similarity, text; best first.

        Raises:
            ValueError: no model or no embeddings to search in, or a model of another dimension.
        """
        if self.model is None or not self.spaces:
            raise ValueError(
                "a search by meaning needs embeddings and the model that made them: EmbeddingMap(..., model=)"
            )
        encode: Any = getattr(self.model, "encode", self.model)
        return self._nearest(as_tensor(encode([query]), "the embedding of the query"), list(self.spaces)[-1], k)

    def neighbors(self, position: int, k: int | None = None) -> pd.DataFrame:
        """The k texts nearest to the text at a position of the frame, in the original space of the frame shown.

        Returns:
            Columns position, similarity, text; best first, the text itself left out.

        Raises:
            ValueError: no embeddings, or a position outside the frame.
        """
        if self.frame_name not in self.spaces:
            raise ValueError("neighbours in the original space need its embeddings: EmbeddingMap(frame, embeddings)")
        if not 0 <= position < len(self.frame):
            raise ValueError(f"position must be from 0 to {len(self.frame) - 1}, got {position}")
        k = self._k.value if k is None else k
        found = self._nearest(self.spaces[self.frame_name][position], self.frame_name, k + 1)
        return found[found["position"] != position].head(k)

    def show_neighbors(self, position: int) -> None:
        """Select a text and its neighbours, list them with their similarities, and draw lines to them."""
        found = self.neighbors(position)
        self._show(np.array([position, *found["position"]]), position, found, self._nearest_to(position))

    def save_selection(self, path: str | Path | None = None) -> Path:
        """Write the selected rows as CSV; without a path, to a new file in `folder`."""
        path = new_file(self.folder, "selection", "csv") if path is None else Path(path)
        self.selected.to_csv(path, index_label="row")
        return path

    def save_picture(self, path: str | Path | None = None, format: str = "png") -> Path:
        """Write the static picture as PNG or SVG (by the path's ending); without a path, to a new file in `folder`."""
        path = new_file(self.folder, "map", format) if path is None else Path(path)
        path.write_bytes(self.picture(path.suffix.lstrip(".").lower() or format, dpi=200))
        return path

    def static(self, title: str = "") -> Figure:
        """The same map as a matplotlib figure, with the names of the groups on it."""
        if not self.frames:
            return words_figure(self.message, self.theme)
        labels = None if self.color is None else self.columns[self.color].rename(self.color)
        title = title or self.frame_name
        return plots.embedding_map(self.xy, labels, self._texts, self.faithfulness, title=title, theme=self.theme)

    def __repr__(self) -> str:
        about = f"EmbeddingMap of {len(self.frame):,} texts"
        return f"{about}: {self.message}" if self.message else f"{about}, coloured by {self.color}"

    def _make_controls(self, color: str | None, neighbors: int) -> None:
        """What is set before the points exist, because it can be asked for: colour, labels, frame, neighbours."""
        choices = [("nothing", None), *((str(name), name) for name in self.columns)]
        self._color = control(ipywidgets.Dropdown, "Colour by", options=choices, value=color)
        self._labels = control(ipywidgets.Dropdown, "Write on it", options=LABELS)
        most = max(1, min(50, len(self.frame) - 1))
        self._k = control(ipywidgets.IntSlider, "Neighbours", value=min(neighbors, most), min=1, max=most)
        self._film = ipywidgets.SelectionSlider(options=[("", 0)])

    def _lay_out(self) -> None:
        """Put the controls around the map and listen to them."""
        names = [(name, index) for index, name in enumerate(self.frames)]
        self._film = control(ipywidgets.SelectionSlider, "Checkpoint", options=names, layout={"width": "60%"})
        play = ipywidgets.Play(
            max=len(names) - 1, interval=2 * map_scatter.MOVE, show_repeat=True, tooltip="Play the film"
        )
        ipywidgets.jslink((play, "value"), (self._film, "index"))
        ready = self.model is not None and bool(self.spaces)
        late = {"continuous_update": False}
        self._words = control(ipywidgets.Text, "Find words", placeholder="in any order, Enter", **late)
        hint = "a question or sentence, Enter" if ready else "needs embeddings and model="
        self._meaning = control(ipywidgets.Text, "Find meaning", placeholder=hint, disabled=not ready, **late)
        self._clear = control(ipywidgets.Button, "Clear selection")
        self._head = ipywidgets.HTML()
        self._list = control(ipywidgets.Select, "Selected", rows=6, layout={"width": "98%"})
        self._walk = control(ipywidgets.Button, "Show its neighbours", tooltip="Of the text chosen in the list")
        self._found = ipywidgets.HTML()
        self._note, self._saved = ipywidgets.HTML(), ipywidgets.HTML()
        csv = control(ipywidgets.Button, "Save selection (CSV)")
        pictures = [control(ipywidgets.Button, f"Save picture ({kind})") for kind in ("PNG", "SVG")]
        self._color.observe(self.guarded(lambda change: self._recolor()), names="value")
        self._labels.observe(self.guarded(lambda change: self._relabel()), names="value")
        self._film.observe(self.guarded(lambda change: self._move()), names="index")
        self._words.observe(self.guarded(lambda change: self._search_words(change.new)), names="value")
        self._meaning.observe(self.guarded(lambda change: self._search_meaning(change.new)), names="value")
        self._clear.on_click(self.guarded(lambda button: self.select([])))
        self._walk.on_click(self.guarded(lambda button: self.show_neighbors(self._list.value)))
        csv.on_click(self.guarded(lambda button: self._tell_saved(self.save_selection())))
        for kind, button in zip(("png", "svg"), pictures, strict=True):
            button.on_click(self.guarded(lambda button, kind=kind: self._tell_saved(self.save_picture(format=kind))))
        self._turns = map_scatter.Turns()
        self.scatter.widget.observe(self.guarded(lambda change: self._touched()), names="selection")
        self._recolor()
        self._turns.watch(self.scatter)
        self._say_faithfulness()
        self._show(self._rows)
        film = [row(play, self._film)] if len(names) > 1 else []
        search, look = row(self._words, self._meaning, self._k), row(self._color, self._labels, self._clear)
        save = row(csv, *pictures, self._saved)
        parts = [
            look,
            search,
            self.scatter.widget,
            *film,
            self._note,
            self._head,
            self._list,
            row(self._walk),
            self._found,
        ]
        self.children = (*self.children, *parts, save)

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
        self._show(rows, told=f"{len(rows):,} texts contain “{query.strip()}”" if query.strip() else "")

    def _search_meaning(self, query: str) -> None:
        if not query.strip():
            self._show(np.array([], dtype=int))
            return
        found = self.find_meaning(query)
        self._show(found["position"].to_numpy(), None, found, f"Nearest to “{query}”")

    def _show(
        self,
        rows: np.ndarray,
        start: int | None = None,
        found: pd.DataFrame | None = None,
        told: str = "",
        lead: bool = True,
    ) -> None:
        """Select rows on the map, in the list and in linked maps; list what was found, and tell who asked.

        Args:
            rows: their positions.
            start: the one that was clicked, from which lines lead to what was found.
            found: neighbours with their similarities.
            told: what they are.
            lead: whether linked maps follow.
        """
        changed = not np.array_equal(rows, self._rows)
        self._rows = rows
        if self.scatter is None:
            return
        self.scatter.selection(rows)
        self._lines = (start, [] if start is None or found is None else found["position"].tolist())
        self._draw_lines()
        self._clear.disabled = not len(rows)
        self._walk.disabled = not len(rows) or self.frame_name not in self.spaces
        listed = rows[:LISTED_TEXTS].tolist()
        self._list.options = [(self._texts[position][:200], position) for position in listed]
        self._list.index = 0 if listed else None
        more = f", the first {LISTED_TEXTS} are listed" if len(rows) > LISTED_TEXTS else ""
        head = f"{len(rows):,} of {len(self.frame):,} texts are selected{more}"
        self._head.value = escaped(f"{told}; {head}" if told and found is None else head, "div")
        self._found.value = "" if found is None else table(found[["similarity", "text"]], told)
        for follow in self._followers if lead else ():
            follow(rows, start)
        for callback in self._callbacks if changed else ():
            callback(self.selected)

    def _follow(self, rows: np.ndarray, start: int | None) -> None:
        """A linked map selected rows; here the lines lead to the neighbours that the clicked text has in this map."""
        if start is None or self.frame_name not in self.spaces:
            self._show(rows, lead=False)
        else:
            self._show(rows, start, self.neighbors(start), self._nearest_to(start), lead=False)

    def _nearest_to(self, position: int) -> str:
        return f"Nearest to “{self._texts[position]}”"

    def _draw_lines(self) -> None:
        map_scatter.draw_lines(self.scatter, self.xy, *self._lines, THEMES[self.theme].bad)

    def _move(self) -> None:
        """Move the points to the frame that the slider names."""
        self._turns.ask("move", lambda: map_scatter.move(self.scatter, self._film.index))
        self._say_faithfulness()
        self._draw_lines()
        self._relabel()

    def _say_faithfulness(self) -> None:
        self._note.value = f"<small>{escaped(self.faithfulness)}</small>"

    def _recolor(self) -> None:
        """Colour the points by the chosen column, with the colours of the figures."""
        column = None if self.color is None else self.columns[self.color]
        self._turns.ask("color", lambda: map_scatter.recolor(self.scatter, self.color, column, THEMES[self.theme]))
        if self.labels == "names of the groups":
            self._relabel()

    def _relabel(self) -> None:
        """Write on the map what the menu says."""
        groups, names = pd.Series(np.zeros(len(self.frame))), {}
        if self.labels == "frequent terms":
            groups, names = self.regions, self._region_names
        elif self.labels == "names of the groups" and self.color is not None:
            groups = self.columns[self.color]
            largest: Any = groups.value_counts().index[: map_scatter.LEGEND_GROUPS] if groups.dtype != float else ()
            names = {name: name[:40] for name in largest}
        if names or self.scatter.widget.labels is not None:
            draw, xy, colors = map_scatter.draw_labels, self.xy, THEMES[self.theme]
            self._turns.ask("names", lambda: draw(self.scatter, xy, groups, names, colors))

    @property
    def regions(self) -> pd.Series:
        """The cluster of each row, `(n,)`: a column of the frame, or k-means in the (last) original space."""
        if self._regions is None:
            if isinstance(self._clusters, str):
                self._regions = self.frame[self._clusters].reset_index(drop=True)
            else:
                space: Any = list(self.spaces.values())[-1] if self.spaces else self.xy
                metric = self.metric if self.spaces else "euclidean"
                self._regions = pd.Series(maps.find_clusters(space, self._clusters, self.seed, metric))
            terms = maps.cluster_terms(self._texts, self._regions.tolist())
            for group in self._regions.value_counts().index:  # of clusters with the same terms the largest is named
                if (name := " · ".join(terms[group])) not in self._region_names.values():
                    self._region_names[group] = name
        return self._regions

    def _tell_saved(self, path: Path) -> None:
        self._saved.value = escaped(f"Saved: {path.resolve()}")
