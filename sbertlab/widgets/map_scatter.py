"""The points of a map in the browser: jupyter-scatter with the colours of the figures, names of places, and lines.

jupyter-scatter is imported when a map is made, so that panels without one do without it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.plots.maps import place_labels
from sbertlab.plots.style import Theme, sequential

LEGEND_GROUPS = 24
"""A legend with more entries than this would cover the map."""

MOVE = 900
"""Milliseconds in which the points move from one frame to the next."""

TURN = {"move": 2 * MOVE / 1000, "color": 0.4, "names": 0.0, "show": 2.0}
"""Seconds that a drawing is given before the next one: a busy browser takes longer than the points should."""

FONT = 13
"""Size of the names on the map, in pixels."""


class Turns:
    """Draws points one time after another: the browser ignores those that come while others are being drawn or move.

    It does not say when it has done, so every drawing is given its seconds. Without a kernel nobody looks, and nothing
    waits.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Callable[[], object]] = {}
        self._free = 0.0
        self._changed = False

    def watch(self, scatter: Any) -> None:
        """When the map appears on a page, send again what changes from now on: that page may not have heard.

        Names are always sent again, which a page does not draw by itself.
        """
        self._changed = False
        scatter.widget.observe(lambda change: self._shown(scatter), names="dom_element_id")

    def ask(self, what: str, draw: Callable[[], object]) -> None:
        """Draw now, or as soon as it is free; of several drawings of one kind that wait only the last is done.

        Args:
            what: the kind, a key of `TURN`.
            draw: sends the points.
        """
        self._waiting[what] = draw
        self._changed = True
        self._next()

    def _next(self) -> None:
        loop, pause = kernel_loop(), self._free - time.monotonic()
        if self._waiting and loop and pause > 0:
            loop.call_later(pause, self._next)
        elif self._waiting:
            what = next(iter(self._waiting))
            self._free = time.monotonic() + TURN[what]
            self._waiting.pop(what)()
            self._next()

    def _shown(self, scatter: Any) -> None:
        self._free = time.monotonic() + TURN["show"]
        if self._changed or scatter.widget.label_placement is not None:
            self.ask("show", lambda: send_again(scatter))
            self._changed = False


def kernel_loop() -> Any:
    """The event loop of the Jupyter kernel that this runs in, which has `call_later`; None where there is no kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(getattr(shell, "kernel", None), "io_loop", None)


def send_again(scatter: Any) -> None:
    """Send points and names as they are; they differ by nothing that shows, or the browser would not look at them."""
    points = scatter.widget.points.copy()
    points[0, 0] += 1e-6
    scatter.widget.transition_points = False
    scatter.widget.points = points
    if scatter.widget.label_placement is not None:
        scatter.widget.label_placement.show(scatter)


def make_scatter(
    frames: Mapping[str, np.ndarray],
    texts: Sequence[str],
    columns: Mapping[Any, pd.Series],
    height: int,
    colors: Theme,
) -> Any:
    """A `jscatter.Scatter` of the first frame: one scale for both axes and all frames, texts as tooltips.

    Args:
        frames: coordinates `(n, 2)` by name.
        texts: `(n,)`, shown while the mouse is over a point.
        columns: what points can be coloured by; the first six are shown with the text.
        height: in pixels.
        colors: of the page.

    Raises:
        ImportError: jupyter-scatter is not installed.
    """
    try:
        import jscatter
    except ImportError as error:
        raise ImportError('a map to hover over needs jupyter-scatter: pip install "sbertlab[lab]"') from error
    shown = {own_name(name): column for name, column in columns.items()}
    places = {f"{axis}{index}": xy[:, i] for index, xy in enumerate(frames.values()) for i, axis in enumerate("xy")}
    table = pd.DataFrame({**places, "text": np.asarray(texts, dtype=object), **shown})
    centre, half = extent(frames)
    return jscatter.Scatter(
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


def own_name(column: Any) -> str:
    """A column's name in the table of the scatter plot, which no name of its own (x0, text) equals.

    >>> own_name("text")
    'text '
    """
    return f"{column} "


def extent(frames: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Centre `(2,)` and half the width of the square that holds all points of all frames.

    >>> extent({"": np.array([[0, 0], [10, 4]])})
    (array([5., 2.]), 5.5)
    """
    low = np.min([xy.min(axis=0) for xy in frames.values()], axis=0)
    high = np.max([xy.max(axis=0) for xy in frames.values()], axis=0)
    return (high + low) / 2, float(0.55 * max((high - low).max(), 1e-9))


def recolor(scatter: Any, name: Any, column: pd.Series | None, colors: Theme) -> None:
    """Colour the points by a column, a scale for floats and the palette for names; one colour without a column."""
    if column is None:
        scatter.color(by=None).color(default=colors.good).legend(False)
    elif column.dtype == float:
        scatter.color(by=own_name(name), map=sequential(colors), norm=(column.min(), column.max())).legend(True)
    else:
        groups = column.nunique()
        palette = [colors.palette[index % len(colors.palette)] for index in range(groups)]
        scatter.color(by=own_name(name), map=palette).legend(groups <= LEGEND_GROUPS)


def move(scatter: Any, index: int) -> None:
    """Let the points move to the coordinates of another frame, by its number; the scale stays what it is."""
    scale = {"x_scale": tuple(scatter.widget.x_scale_domain), "y_scale": tuple(scatter.widget.y_scale_domain)}
    scatter.xy(x=f"x{index}", y=f"y{index}", animate=True, **scale)


def draw_lines(scatter: Any, xy: np.ndarray, start: int | None, ends: Sequence[int], color: str) -> None:
    """Thin lines from one point to others; none without a start."""
    import jscatter

    lines = [] if start is None else [[tuple(xy[start].tolist()), tuple(xy[end].tolist())] for end in ends]
    scatter.annotations([jscatter.Line(line, line_color=color, line_width=1) for line in lines])


class MapLabels:
    """Names of places in the form in which jupyter-scatter asks for them: those of the tiles in view, here always all.

    Its own placement measures texts in Arial only and fails on other scripts, so places come from `place_labels`.
    """

    def __init__(self, labels: pd.DataFrame) -> None:
        self.labels = labels
        self.turn = 0

    def get_labels_from_tiles(self, tiles: Sequence[str]) -> pd.DataFrame:
        """The labels of these tiles of the map."""
        # the browser may have drawn them before its canvas was ready; what it has already is not sent again, so each
        # answer differs by nothing that shows
        self.turn += 1
        return self.labels.assign(zoom_fade_extent=1e-6 * (self.turn % 2))

    def show(self, scatter: Any) -> None:
        """Put the names on the map, in place of those before."""
        from jscatter.label_placement import to_js

        scatter.widget.label_placement = self
        scatter.widget.labels = to_js(self.get_labels_from_tiles(()))
        height = scatter.widget.height
        for pixels in (height + 1, height):  # the canvas of names, too narrow if the page was hidden, is measured anew
            scatter.widget.height = pixels


def draw_labels(scatter: Any, xy: np.ndarray, groups: pd.Series, names: Mapping[Any, str], colors: Theme) -> None:
    """Write the name of each group near the middle of it, where it covers few points and no other name.

    Args:
        scatter: from `make_scatter`.
        xy: `(n, 2)`, where the points are now.
        groups: `(n,)`, the group of each point.
        names: of the groups; a group without a name gets none, and no names at all take all away.
        colors: of the page.
    """
    marks = []
    for group, name in names.items():
        members = np.flatnonzero(groups == group)
        if name and members.size:
            middle = np.median(xy[members], axis=0)
            marks.append((xy[members[np.linalg.norm(xy[members] - middle, axis=1).argmin()]], name))
    horizontal, vertical, side = scatter.widget.x_scale_domain, scatter.widget.y_scale_domain, scatter.widget.height
    low, width = np.array([horizontal[0], vertical[0]]), horizontal[1] - horizontal[0]
    if marks:
        anchors = (np.array([place for place, _ in marks]) - low) / width * side  # pixels of the unzoomed map
        sizes = np.array([[0.58 * FONT * len(name), 1.2 * FONT] for _, name in marks])
        sample = np.random.default_rng(0).permutation(len(xy))[:2000]
        centres = place_labels(anchors, sizes, (xy[sample] - low) / width * side, (0, 0, side, side))
        places = centres / side * width + low
    else:
        # without any label the browser would leave the old ones on the map: an empty one makes it draw again
        marks, places = [(low, "")], low[None]
    look = {"font_color": colors.ink, "font_face": "sans-serif", "font_style": "normal", "font_weight": "bold"}
    zoom = {"zoom_in": -np.inf, "zoom_out": np.inf, "zoom_fade_extent": 0.0, "font_size": FONT}
    labels = pd.DataFrame({"label": [name for _, name in marks], "x": places[:, 0], "y": places[:, 1]})
    MapLabels(labels.assign(**look, **zoom)).show(scatter)
