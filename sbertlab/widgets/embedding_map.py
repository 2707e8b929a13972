"""`EmbeddingMap`: a map of texts to hover over, search, colour and select from with a lasso; `linked` shows two."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd

from sbertlab import plots
from sbertlab.analysis import maps
from sbertlab.checks import check_choice, check_same_length, checked_number
from sbertlab.data.texts import normalised
from sbertlab.plots.style import THEMES, Figure
from sbertlab.util import Embeddings, Encoder, as_tensor, cos_sim, top_matches
from sbertlab.widgets.panel import Panel, control, escaped, row, table
from sbertlab.widgets.scatter import MOVE, Points, color_columns

LISTED_TEXTS = 50
"""Number of selected texts that are listed below the map."""

LINKED_HEIGHT = 360
"""Of linked maps, in pixels: in half of a page's width, higher ones would lose their sides."""


class EmbeddingMap(Panel):
    """A map of texts: hover shows the text, a lasso selects rows, two searches and a click find their neighbours.

    Drag to move, scroll to zoom, hold the mouse down (or Shift, or the lasso tool) to select; `selected` has the rows.
    A click on a point selects its nearest neighbours by cosine in the original space, not on the map, and draws lines
    to them. By keyboard: search, choose one of the listed texts, press "Show its neighbours".

    Args:
        frame: one row per text, at least 3.
        embeddings: `(n, dim)`, to make a map if there is no `xy`, to measure how faithful it is, and for neighbours;
            with `frames`, a dictionary with embeddings of some or all of them.
        xy: coordinates computed before, `(n, 2)`.
        text: the column with the texts.
        color: the column to colour by at first; the menu offers all others with numbers or at most 256 names.
        method: "pca" or "umap", for the coordinates when neither `xy` nor `frames` are given.
        seed: of UMAP.
        frames: in place of `xy`: coordinates by the name of a checkpoint; a slider moves the points between them.
        model: embeds what is typed into "Find meaning"; the model that made the (last) embeddings.
        neighbors: number of rows that a click or a search by meaning finds; a slider changes it.
        folder: where the selection is saved.

    Raises:
        ImportError: jupyter-scatter, or umap-learn for "umap", is not installed.
        ValueError: fewer than 3 texts, no coordinates or embeddings, or some that do not fit the texts.

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
        frames: Mapping[str, Embeddings] | None = None,
        model: Encoder | None = None,
        neighbors: int = 10,
        folder: str | Path = ".",
        theme: str = "light",
    ) -> None:
        super().__init__(theme=theme)
        check_choice("text", text, frame.columns)
        check_choice("method", method, ("pca", "umap"))
        checked_number("the number of texts", len(frame), maps.FEWEST_POINTS)
        self.frame, self.model, self.folder = frame, model, Path(folder)
        self.columns = color_columns(frame.drop(columns=text))
        check_choice("color", color, [None, *self.columns])
        self.texts: list[str] = frame[text].fillna("").astype(str).tolist()
        self._searchable = [normalised(each).casefold() for each in self.texts]
        named: Mapping[str, Any] = embeddings if isinstance(embeddings, Mapping) else {"": embeddings}
        self.spaces = {name: as_tensor(rows) for name, rows in named.items() if rows is not None}
        for space in self.spaces.values():
            check_same_length(frame=frame, embeddings=space)
        if frames is None:
            frames = {"": self._lay_out(method, seed) if xy is None else xy}
        self.frames = {name: self._coordinates(places) for name, places in frames.items()}
        for name in self.spaces:
            check_choice("the name of embeddings", name, self.frames)
        self.qualities = {name: maps.map_quality(space, self.frames[name]) for name, space in self.spaces.items()}
        self._points = Points(self.frames, self.texts, self.columns, color, THEMES[theme])
        self.scatter = self._points.scatter
        self._linked: list[EmbeddingMap] = []
        self._rows, self._lines = np.array([], dtype=int), list[int]()
        self._make_controls(color, neighbors)
        self._show(self._rows)

    @property
    def frame_name(self) -> str:
        """The name of the frame that the map shows."""
        return self._film.value

    @property
    def xy(self) -> np.ndarray:
        """Current coordinates of the points, `(n, 2)`."""
        return self.frames[self.frame_name]

    @property
    def faithfulness(self) -> str:
        """How faithful this frame is to its original space, see `qualities`, as a sentence."""
        if self.frame_name not in self.spaces:
            return "How faithful this map is cannot be measured: it has no embeddings to compare with."
        return f"This map keeps: {self.qualities[self.frame_name]}"

    @property
    def color(self) -> str | None:
        """The column that the map is coloured by; set it to change it."""
        return self._color.value

    @color.setter
    def color(self, column: str | None) -> None:
        check_choice("color", column, [None, *self.columns])
        self._color.value = column

    @property
    def labels(self) -> pd.Series | None:
        """The column that the map is coloured by as numbers or names, `(n,)`."""
        return None if self.color is None else self.columns[self.color].rename(self.color)

    @property
    def selected(self) -> pd.DataFrame:
        """The selected rows of the frame; after a click or a search by meaning, best first."""
        return self.frame.iloc[self._rows]

    def select(self, rows: Sequence[int]) -> None:
        """Select rows by their positions in the frame, as a lasso would."""
        self._show(np.asarray(rows, dtype=int))

    def find_words(self, query: str) -> np.ndarray:
        """Positions of the texts that contain all words of the query, in any order, case and Unicode spelling."""
        words = normalised(query).casefold().split()
        found = [i for i, text in enumerate(self._searchable) if words and all(word in text for word in words)]
        return np.array(found, dtype=int)

    def find_meaning(self, query: str, k: int | None = None) -> pd.DataFrame:
        """The k texts nearest to a query in the original space: columns position, similarity, text; best first."""
        if self.model is None or not self.spaces:
            raise ValueError("a search by meaning needs embeddings and the model that made them: EmbeddingMap(model=)")
        return self._nearest(self.model.encode([query]), list(self.spaces)[-1], self._k.value if k is None else k)

    def neighbors(self, position: int, k: int | None = None) -> pd.DataFrame:
        """The k texts nearest to a text of the frame, as `find_meaning`, in the original space of the frame shown."""
        if self.frame_name not in self.spaces:
            raise ValueError("neighbours in the original space need its embeddings: EmbeddingMap(frame, embeddings)")
        k = self._k.value if k is None else k
        found = self._nearest(self.spaces[self.frame_name][position], self.frame_name, k + 1)
        return found[found["position"] != position].head(k)

    def show_neighbors(self, position: int) -> None:
        """Select a text and its neighbours, list them with their similarities, and draw lines to them."""
        found = self.neighbors(position)
        self._show(np.array([position, *found["position"]]), position, found)

    def save_selection(self) -> Path:
        """Write the selected rows to the first of selection-1.csv, selection-2.csv, ... that is not in `folder`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = (self.folder / f"selection-{number}.csv" for number in itertools.count(1))
        path = next(path for path in paths if not path.exists())
        self.selected.to_csv(path, index_label="row")
        self._saved.value = escaped(f"Saved: {path.resolve()}")
        return path

    def static(self) -> Figure:
        """The same map as a matplotlib figure, with the names of the groups on it."""
        look = {"title": self.frame_name, "theme": self.theme}
        return plots.embedding_map(self.xy, self.labels, self.texts, self.faithfulness, **look)

    def _lay_out(self, method: str, seed: int) -> np.ndarray:
        if not self.spaces:
            raise ValueError("an EmbeddingMap needs embeddings (n, dim) or coordinates xy (n, 2), got neither")
        space = self.spaces[""]
        return maps.cached_umap(space, seed=seed) if method == "umap" else maps.pca(space)

    def _coordinates(self, xy: Embeddings) -> np.ndarray:
        places = as_tensor(xy, "xy", finite=True).detach().cpu().numpy()
        if places.shape != (len(self.frame), 2):
            raise ValueError(f"coordinates must have the shape ({len(self.frame)}, 2), got {places.shape}")
        return places

    def _make_controls(self, color: str | None, neighbors: int) -> None:
        """Put the controls around the map and listen to them."""
        choices = [("nothing", None), *((str(name), name) for name in self.columns)]
        self._color = control(ipywidgets.Dropdown, "Colour by", options=choices, value=color)
        most = min(50, len(self.frame) - 1)
        self._k = control(ipywidgets.IntSlider, "Neighbours", value=neighbors, min=1, max=most)
        late = {"continuous_update": False}
        names = list(self.frames)
        self._film = control(ipywidgets.SelectionSlider, "Checkpoint", options=names, layout={"width": "60%"}, **late)
        self._words = control(ipywidgets.Text, "Find words", placeholder="in any order, Enter", **late)
        self._meaning = control(ipywidgets.Text, "Find meaning", placeholder="a question or sentence, Enter", **late)
        self._list = control(ipywidgets.Select, "Selected", rows=6, layout={"width": "98%"})
        clear = self.button("Clear selection", lambda: self.select([]))
        self._walk = self.button("Show its neighbours", lambda: self.show_neighbors(self._list.value))
        self._head, self._found, self._note, self._saved = (ipywidgets.HTML() for _ in range(4))
        save = self.button("Save selection (CSV)", self.save_selection)
        play = ipywidgets.Play(max=len(names) - 1, interval=2 * MOVE, show_repeat=True, tooltip="Play the film")
        ipywidgets.jslink((play, "value"), (self._film, "index"))
        self.on_change(self._color, self._points.recolor)
        self.on_change(self._film, lambda name: self._move())
        self.on_change(self._words, self._search_words)
        self.on_change(self._meaning, self._search_meaning)
        self.on_change(self.scatter.widget, self._touched, "selection")
        film = [row(play, self._film)] if len(names) > 1 else []
        self.add(row(self._color, clear), row(self._words, self._meaning, self._k))
        self.add(self.scatter.widget, *film, self._note)
        self.add(self._head, self._list, row(self._walk), self._found, row(save, self._saved))

    def _nearest(self, query: Embeddings, name: str, k: int) -> pd.DataFrame:
        """Rows of a space nearest to one embedding `(dim,)` or `(1, dim)`, best first."""
        scores, positions = top_matches(query, self.spaces[name], top_k=k, score_function=cos_sim)
        found = positions[0].tolist()
        columns = {"position": found, "similarity": scores[0].tolist(), "text": [self.texts[i] for i in found]}
        return pd.DataFrame(columns, index=self.frame.index[found])

    def _touched(self, rows: Any) -> None:
        """The browser changed the selection: one point is a click, several are a lasso."""
        if np.array_equal(rows, self._rows):
            return
        if len(rows) == 1 and self.frame_name in self.spaces:
            self.show_neighbors(int(rows[0]))
        else:
            self._show(np.asarray(rows, dtype=int))

    def _search_words(self, query: str) -> None:
        rows = self.find_words(query)
        self._show(rows, title=f"{len(rows):,} texts contain “{query.strip()}”" if query.strip() else "")

    def _search_meaning(self, query: str) -> None:
        if query.strip():
            found = self.find_meaning(query)
            self._show(found["position"].to_numpy(), found=found, title=f"Nearest to “{query}”")
        else:
            self.select([])

    def _show(self, rows: np.ndarray, start: int | None = None, found: Any = None, title: str = "") -> None:
        """Select rows on the map, in the list and in linked maps, and list what was found under a title.

        With `start`, the neighbours of that text in this space are what was found, and lines lead to them.
        """
        self._rows, self._lines = rows, []
        if start is not None and self.frame_name in self.spaces:
            found = self.neighbors(start) if found is None else found
            title = f"Nearest to “{self.texts[start]}”"
            self._lines = [start, *found["position"]]
        self.scatter.selection(rows)
        self._annotate()
        self._walk.disabled = not len(rows) or self.frame_name not in self.spaces
        listed = rows[:LISTED_TEXTS].tolist()
        self._list.options = [(self.texts[position][:200], position) for position in listed]
        self._list.index = 0 if listed else None
        more = f", the first {LISTED_TEXTS} are listed" if len(rows) > LISTED_TEXTS else ""
        self._head.value = escaped(f"{len(rows):,} of {len(self.frame):,} texts are selected{more}", "div")
        self._found.value = escaped(title, "div") if found is None else table(found[["similarity", "text"]], title)
        for other in self._linked:
            if not np.array_equal(other._rows, rows):
                other._show(rows, start)

    def _move(self) -> None:
        """Move the points to the frame that the slider names."""
        self._points.move(self._film.index)
        self._annotate()

    def _annotate(self) -> None:
        """Draw the lines to the neighbours and state how faithful the current frame is."""
        self._points.draw_lines(self.xy, self._lines)
        self._note.value = f"<small>{escaped(self.faithfulness)}</small>"


class LinkedMaps(Panel):
    """Two maps of the same rows: what is selected in one is selected in both.

    A click selects the text and its neighbours in the clicked map; lines in each map lead to the neighbours there, so
    that one sees what moved. Maps of different texts raise a ValueError.
    """

    def __init__(self, a: EmbeddingMap, b: EmbeddingMap, names: tuple[str, str] = ("before", "after")) -> None:
        if a.texts != b.texts:
            raise ValueError("linked maps must show the same texts in the same order")
        self.maps = dict(zip(names, (a, b), strict=True))
        super().__init__(a.theme)
        half = {"width": "50%", "min_width": "360px"}
        heads = [ipywidgets.HTML(escaped(name, "b")) for name in names]
        sides = [ipywidgets.VBox(pair, layout=half) for pair in zip(heads, (a, b), strict=True)]
        self.add(ipywidgets.HBox(sides, layout={"flex_flow": "row wrap"}))
        for panel, other in ((a, b), (b, a)):
            panel._linked.append(other)
            panel.scatter.height(LINKED_HEIGHT)

    def static(self) -> Figure:
        """Both maps as one figure; a group has the same colour in both."""
        places = {name: panel.xy for name, panel in self.maps.items()}
        qualities = {name: panel.faithfulness for name, panel in self.maps.items()}
        labels = next(iter(self.maps.values())).labels
        return plots.map_comparison(places, labels, qualities, theme=self.theme)


def linked(a: EmbeddingMap, b: EmbeddingMap, names: tuple[str, str] = ("before", "after")) -> LinkedMaps:
    """Show two maps of the same rows side by side, see `LinkedMaps`."""
    return LinkedMaps(a, b, names)
