"""The points of a map in the browser, drawn by jupyter-scatter in the colours of the figures.

jupyter-scatter is imported when a map is made, so that the other panels work without it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sbertlab.checks import check_choice
from sbertlab.plots.maps import as_floats, is_continuous, place_labels
from sbertlab.plots.style import Theme, sequential
from sbertlab.util import Embeddings, as_tensor

MOST_GROUPS = 256
"""A column with more distinct names than this gives no colours: nobody can distinguish that many."""

LEGEND_GROUPS = 24
"""A legend with more entries than this would cover the map."""

MOVE = 900
"""Milliseconds that the points take to move from one frame to the next."""

DRAW_TIME = {"move": 2 * MOVE / 1000, "color": 0.4, "names": 0.0, "show": 2.0}
"""Seconds that each kind of drawing gets before the next one; a busy browser takes longer than the points should."""

FONT = 13
"""Size of the names on the map, in pixels."""


class Points:
    """Points that can be coloured, moved, connected by lines and named.

    The browser ignores points that arrive while others are drawn or move, and does not report when it is done. So
    drawings wait for each other, and of several waiting ones of a kind only the last is done.

    Args:
        frames: coordinates `(n, 2)` by name; the first is shown. All share one scale, which is that of both axes.
        texts: shown while the mouse is over a point, `(n,)`.
        columns: what points can be coloured by; the first six are shown with the text.
        color: the column to colour by at first.
        height: in pixels.
        colors: of the page.

    Raises:
        ImportError: jupyter-scatter is not installed.
    """

    def __init__(
        self,
        frames: Mapping[str, np.ndarray],
        texts: Sequence[str],
        columns: Mapping[Any, pd.Series],
        color: Any,
        height: int,
        colors: Theme,
    ) -> None:
        try:
            import jscatter
        except ImportError as error:
            raise ImportError('a map to hover over needs jupyter-scatter: pip install "sbertlab[lab]"') from error
        shown = {own_name(name): column for name, column in columns.items()}
        places = {f"{axis}{index}": xy[:, i] for index, xy in enumerate(frames.values()) for i, axis in enumerate("xy")}
        table = pd.DataFrame({**places, "text": np.asarray(texts, dtype=object), **shown})
        low = np.min([xy.min(axis=0) for xy in frames.values()], axis=0)
        high = np.max([xy.max(axis=0) for xy in frames.values()], axis=0)
        centre, half = (high + low) / 2, 0.55 * max((high - low).max(), 1e-9)
        self.columns, self.colors = columns, colors
        self._line = jscatter.Line
        self.scatter = jscatter.Scatter(
            data=table,
            x="x0",
            y="y0",
            x_scale=(centre[0] - half, centre[0] + half),
            y_scale=(centre[1] - half, centre[1] + half),
            size=int(np.select([len(table) < 500, len(table) < 5000, len(table) < 50000], [9, 6, 4], 2)),
            opacity_unselected=0.15,
            color_selected=colors.ink,
            color_hover=colors.bad,
            axes=False,
            height=height,
            background_color=colors.background,
            tooltip=True,
            tooltip_properties=list(shown)[:6],
            tooltip_histograms=False,
            tooltip_preview="text",
            tooltip_preview_type="text",
            tooltip_preview_text_lines=6,
            tooltip_size="medium",
            transition_points_duration=MOVE,
        )
        self.widget = self.scatter.widget
        self._waiting: dict[str, Callable[[], object]] = {}
        self._free = 0.0
        self._changed = False
        self._recolor(color)
        self.widget.observe(lambda change: self._appeared(), names="dom_element_id")

    def recolor(self, name: Any) -> None:
        """Colour by a column: a scale for floats, the palette for names; one colour without a column (None)."""
        self._ask("color", lambda: self._recolor(name))

    def move(self, index: int) -> None:
        """Move the points to the coordinates of another frame; the scale stays."""
        scale = {"x_scale": tuple(self.widget.x_scale_domain), "y_scale": tuple(self.widget.y_scale_domain)}
        self._ask("move", lambda: self.scatter.xy(x=f"x{index}", y=f"y{index}", animate=True, **scale))

    def draw_lines(self, xy: np.ndarray, start: int | None, ends: Sequence[int]) -> None:
        """Thin lines from one point to others; none without a start."""
        lines = [] if start is None else [[tuple(xy[start].tolist()), tuple(xy[end].tolist())] for end in ends]
        self.scatter.annotations([self._line(line, line_color=self.colors.bad, line_width=1) for line in lines])

    def write_names(self, xy: np.ndarray, groups: pd.Series, names: Mapping[Any, str]) -> None:
        """Write names of groups near their middle, where they cover few points and no other name; {} removes all."""
        if names or self.widget.labels is not None:
            self._ask("names", lambda: self._names(xy, groups, names).show(self.scatter))

    def _recolor(self, name: Any) -> None:
        column, colors = None if name is None else self.columns[name], self.colors
        if column is None:
            self.scatter.color(by=None).color(default=colors.good).legend(False)
        elif column.dtype == float:
            scale = {"map": sequential(colors), "norm": (column.min(), column.max())}
            self.scatter.color(by=own_name(name), **scale).legend(True)
        else:
            groups = column.nunique()
            palette = [colors.palette[index % len(colors.palette)] for index in range(groups)]
            self.scatter.color(by=own_name(name), map=palette).legend(groups <= LEGEND_GROUPS)

    def _names(self, xy: np.ndarray, groups: pd.Series, names: Mapping[Any, str]) -> MapNames:
        marks = []
        for group, name in names.items():
            members = np.flatnonzero(groups == group)
            if name and members.size:
                middle = np.median(xy[members], axis=0)
                marks.append((xy[members[np.linalg.norm(xy[members] - middle, axis=1).argmin()]], name))
        (left, right), (bottom, _), side = self.widget.x_scale_domain, self.widget.y_scale_domain, self.widget.height
        low, unit = np.array([left, bottom]), (right - left) / side  # a pixel of the unzoomed map
        if marks:
            anchors = (np.array([place for place, _ in marks]) - low) / unit
            sizes = np.array([[0.58 * FONT * len(name), 1.2 * FONT] for _, name in marks])
            sample = np.random.default_rng(0).permutation(len(xy))[:2000]
            places = place_labels(anchors, sizes, (xy[sample] - low) / unit, (0, 0, side, side)) * unit + low
        else:
            # without any label the browser would leave the old ones on the map: an empty one makes it draw again
            marks, places = [(low, "")], low[None]
        look = {"font_color": self.colors.ink, "font_face": "sans-serif", "font_style": "normal", "font_weight": "bold"}
        zoom = {"zoom_in": -np.inf, "zoom_out": np.inf, "zoom_fade_extent": 0.0, "font_size": FONT}
        labels = pd.DataFrame({"label": [name for _, name in marks], "x": places[:, 0], "y": places[:, 1]})
        return MapNames(labels.assign(**look, **zoom))

    def _ask(self, kind: str, draw: Callable[[], object]) -> None:
        """Draw now, or as soon as the browser is free."""
        self._waiting[kind] = draw
        self._changed = True
        self._draw_next()

    def _draw_next(self) -> None:
        loop, pause = kernel_loop(), self._free - time.monotonic()
        if self._waiting and loop and pause > 0:
            loop.call_later(pause, self._draw_next)
        elif self._waiting:
            kind = next(iter(self._waiting))
            self._free = time.monotonic() + DRAW_TIME[kind]
            self._waiting.pop(kind)()
            self._draw_next()

    def _appeared(self) -> None:
        """A page shows the map: send again what has changed, which it may have missed, and names, which it has."""
        self._free = time.monotonic() + DRAW_TIME["show"]
        if self._changed or self.widget.label_placement is not None:
            self._ask("show", self._send_again)
            self._changed = False

    def _send_again(self) -> None:
        points = self.widget.points.copy()
        points[0, 0] += 1e-6  # the browser ignores equal points
        self.widget.transition_points = False
        self.widget.points = points
        if self.widget.label_placement is not None:
            self.widget.label_placement.show(self.scatter)


class MapNames:
    """Names in the form in which jupyter-scatter asks for them: those of the tiles in view, here always all.

    Its own placement measures texts in Arial only and fails on other scripts, so places come from `place_labels`.
    """

    def __init__(self, labels: pd.DataFrame) -> None:
        self.labels = labels
        self.answers = 0

    def get_labels_from_tiles(self, tiles: Sequence[str]) -> pd.DataFrame:
        """The labels of these tiles; each answer differs invisibly, as equal ones would not be sent and drawn again."""
        self.answers += 1
        return self.labels.assign(zoom_fade_extent=1e-6 * (self.answers % 2))

    def show(self, scatter: Any) -> None:
        """Put the names on the map, in place of the previous ones."""
        from jscatter.label_placement import to_js

        scatter.widget.label_placement = self
        scatter.widget.labels = to_js(self.get_labels_from_tiles(()))
        height = scatter.widget.height
        for pixels in (height + 1, height):  # the canvas of names, too narrow if the page was hidden, is measured again
            scatter.widget.height = pixels


def kernel_loop() -> Any:
    """The event loop of the Jupyter kernel that this runs in, which has `call_later`; None if there is no kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(getattr(shell, "kernel", None), "io_loop", None)


def own_name(column: Any) -> str:
    """A column's name in the table of the scatter plot, which differs from its own names (x0, text).

    >>> own_name("text")
    'text '
    """
    return f"{column} "


def color_columns(frame: pd.DataFrame, text: str) -> dict[Any, pd.Series]:
    """Columns that can give colours: numbers as floats, names as strings if there are few; missing ones are "none".

    Raises:
        TypeError, ValueError: not a DataFrame, repeated column names, or no column of texts.

    >>> frame = pd.DataFrame({"text": ["a", "b"], "topic": ["x", None], "score": [5, 1]})
    >>> {name: column.tolist() for name, column in color_columns(frame, "text").items()}
    {'topic': ['x', 'none'], 'score': ['5', '1']}
    """
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f'frame must be a DataFrame such as pd.DataFrame({{"text": texts}}), got {type(frame).__name__}'
        )
    if not frame.columns.is_unique:
        raise ValueError(f"frame must have distinct column names, got {list(frame.columns)}")
    check_choice("text", text, frame.columns)
    columns = {}
    for name in frame.columns.drop(text):
        column = frame[name].reset_index(drop=True)
        if is_continuous(column):
            floats = as_floats(column)  # a colour scale has no colour for a missing number, five ranges have
            column = pd.cut(floats, 5).astype(str) if floats.hasnans else floats
        if column.dtype != float:
            column = column.astype(object).where(column.notna(), "none").astype(str).replace("nan", "none")
        if column.dtype == float or column.nunique() <= MOST_GROUPS:
            columns[name] = column
    return columns


def checked_frames(
    count: int, xy: Embeddings | None, frames: Mapping[str, Embeddings] | Sequence[Embeddings] | None
) -> dict[str, np.ndarray]:
    """Coordinates `(count, 2)` by name; a single map has the name "", and none if they are still to be computed."""
    if frames is not None and xy is not None:
        raise ValueError("xy and frames are both given; a single map has xy, a film has frames")
    if frames is not None and not len(frames):
        raise ValueError("frames must have at least one map, got none")
    if frames is None:
        frames = {} if xy is None else {"": xy}
    elif not isinstance(frames, Mapping):
        frames = {str(number): places for number, places in enumerate(frames, start=1)}
    places = {}
    for name, given in frames.items():
        called = f"frames[{name!r}]" if name else "xy"
        tensor = as_tensor(given, called, finite=True)
        if tensor.shape != (count, 2):
            raise ValueError(f"{called} must have the shape ({count}, 2), got {tuple(tensor.shape)}")
        places[str(name)] = tensor.detach().cpu().numpy()
    return places


def checked_spaces(
    count: int, embeddings: Embeddings | Mapping[str, Embeddings] | None, names: Sequence[str]
) -> dict[str, Tensor]:
    """Embeddings `(count, dim)` by the name of their frame; those without a name belong to the last frame."""
    if isinstance(embeddings, Mapping):
        if unknown := [name for name in embeddings if str(name) not in names]:
            raise ValueError(f"embeddings must have the names of frames, {list(names)}, got {unknown}")
        given = {f"embeddings[{name!r}]": (str(name), rows) for name, rows in embeddings.items()}
    else:
        given = {} if embeddings is None else {"embeddings": ((names or [""])[-1], embeddings)}
    spaces = {name: as_tensor(rows, called) for called, (name, rows) in given.items()}
    for called, (name, _) in given.items():
        if len(spaces[name]) != count:
            raise ValueError(f"{called} must have one row per row of frame, got {len(spaces[name])} for {count}")
    return {name: spaces[name] for name in names or [""] if name in spaces}
