"""The points of a map in the browser, drawn by jupyter-scatter in the colours of the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython import get_ipython

from sbertlab.plots.maps import scale_of
from sbertlab.plots.style import Theme, sequential

MOST_GROUPS = 256
"""A column with more distinct names than this gives no colours: nobody can distinguish that many."""

LEGEND_GROUPS = 24
"""A legend with more entries than this would cover the map."""

HEIGHT = 480
"""Of a map, in pixels."""

MOVE = 900
"""Milliseconds that the points take to move from one frame to the next."""


class Points:
    """Points that can be coloured, moved and connected by lines; `scatter` is jupyter-scatter's object.

    The first of the frames `(n, 2)` is shown; all share one scale, which is that of both axes. The text of the point
    under the mouse is shown with the first six columns. `color` is the column to colour by at first.
    """

    def __init__(
        self,
        frames: Mapping[str, np.ndarray],
        texts: Sequence[str],
        columns: Mapping[Any, pd.Series],
        color: Any,
        colors: Theme,
    ) -> None:
        try:
            import jscatter
        except ImportError as error:
            raise ImportError('a map to hover over needs jupyter-scatter: pip install "sbertlab[lab]"') from error
        shown = {_own_name(name): column for name, column in columns.items()}
        places = {f"{axis}{index}": xy[:, i] for index, xy in enumerate(frames.values()) for i, axis in enumerate("xy")}
        table = pd.DataFrame({**places, "text": np.asarray(texts, dtype=object), **shown})
        every = np.concatenate(list(frames.values()))
        low, high = every.min(axis=0), every.max(axis=0)
        centre, half = (high + low) / 2, 0.55 * max((high - low).max(), 1e-9)
        self.columns, self.colors, self._line = columns, colors, jscatter.Line
        self.scales = {"x_scale": (centre[0] - half, centre[0] + half), "y_scale": (centre[1] - half, centre[1] + half)}
        self.scatter = jscatter.Scatter(
            data=table,
            x="x0",
            y="y0",
            **self.scales,
            size=int(np.select([len(table) < 500, len(table) < 5000, len(table) < 50000], [9, 6, 4], 2)),
            opacity_unselected=0.15,
            color_selected=colors.ink,
            color_hover=colors.bad,
            axes=False,
            height=HEIGHT,
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
        self._paint(color)
        self._changed = False
        self.widget.observe(lambda change: self._draw_again() if self._changed else None, names="dom_element_id")

    def recolor(self, name: Any) -> None:
        """Colour by a column: a scale for floats, the palette for names; one colour without a column (None)."""
        self._paint(name)
        self._draw_again()

    def _paint(self, name: Any) -> None:
        column, colors = self.columns.get(name), self.colors
        if column is None:
            self.scatter.color(by=None).color(default=colors.good).legend(False)
        elif column.dtype == float:
            scale = {"map": sequential(colors), "norm": (column.min(), column.max())}
            self.scatter.color(by=_own_name(name), **scale).legend(True)
        else:
            groups = column.nunique()
            palette = [colors.palette[index % len(colors.palette)] for index in range(groups)]
            self.scatter.color(by=_own_name(name), map=palette).legend(groups <= LEGEND_GROUPS)

    def move(self, index: int) -> None:
        """Move the points to the coordinates of another frame; the scale stays."""
        self.scatter.xy(x=f"x{index}", y=f"y{index}", animate=True, **self.scales)
        self._draw_again()

    def draw_lines(self, xy: np.ndarray, rows: Sequence[int]) -> None:
        """Draw thin lines from the first of some points to the others, in place of those drawn before."""
        ends = [[tuple(xy[row].tolist()) for row in (rows[0], end)] for end in rows[1:]]
        self.scatter.annotations([self._line(line, line_color=self.colors.bad, line_width=1) for line in ends])

    def _draw_again(self) -> None:
        """Send the points again in two seconds: a browser ignores those that arrive while it draws, moves or opens."""
        self._changed = True
        loop = getattr(getattr(get_ipython(), "kernel", None), "io_loop", None)
        if loop is not None:
            loop.add_callback(loop.call_later, 2, self._send)

    def _send(self) -> None:
        points = self.widget.points.copy()
        points[0, 0] += 1e-6  # equal points would not be sent
        self.widget.transition_points = False
        self.widget.points = points


def _own_name(column: Any) -> str:
    """A column's name in the table of the plot, which differs from jupyter-scatter's own names such as "color"."""
    return f"{column} "


def color_columns(frame: pd.DataFrame) -> dict[Any, pd.Series]:
    """Columns that can give colours: numbers as floats, names as strings unless there are too many.

    Missing names are "none". A scale has no colour for a missing number, so such numbers become five ranges.

    >>> frame = pd.DataFrame({"topic": ["x", None], "score": [5, 1]})
    >>> {name: column.tolist() for name, column in color_columns(frame).items()}
    {'topic': ['x', 'none'], 'score': ['5', '1']}
    """
    columns = {}
    for name, column in frame.reset_index(drop=True).items():
        numbers = scale_of(column)
        if numbers is not None and not numbers.hasnans:
            columns[name] = numbers
            continue
        groups = column if numbers is None else pd.cut(numbers, 5)
        names = groups.astype(object).where(groups.notna(), "none").astype(str)
        if names.nunique() <= MOST_GROUPS:
            columns[name] = names
    return columns
