"""Two maps of the same rows side by side, such as before and after training, with one selection."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import ipywidgets
import pandas as pd

from sbertlab import plots
from sbertlab.plots.style import Figure
from sbertlab.widgets.embedding_map import EmbeddingMap
from sbertlab.widgets.panel import Panel, escaped

HEIGHT = 360
"""Maximum height of each map in pixels: in half of a page's width, a higher one would lose its sides."""


def linked(a: EmbeddingMap, b: EmbeddingMap, names: tuple[str, str] = ("before", "after")) -> LinkedMaps:
    """Show two maps of the same rows side by side, see `LinkedMaps`."""
    return LinkedMaps(a, b, names)


class LinkedMaps(Panel):
    """Two maps of the same rows: what is selected in one is selected in both, the point under the mouse is marked.

    A click selects the text and its neighbours in the clicked map; lines in each map lead to the neighbours there, so
    that one sees what moved.

    Args:
        a: the left map.
        b: the right map.
        names: of the two.

    Raises:
        TypeError: not an EmbeddingMap.
        ValueError: maps of different texts, twice the same map, or equal names.
    """

    def __init__(self, a: EmbeddingMap, b: EmbeddingMap, names: tuple[str, str] = ("before", "after")) -> None:
        for panel in (a, b):
            if not isinstance(panel, EmbeddingMap):
                raise TypeError(f"linked takes two EmbeddingMaps, got {type(panel).__name__}")
        if a is b:
            raise ValueError("linked needs two maps, got the same one twice")
        if len(names) != 2 or names[0] == names[1]:
            raise ValueError(f"names must be two different ones, got {names}")
        if a._texts != b._texts:
            raise ValueError(f"linked maps must show the same texts in the same order, got {a!r} and {b!r}")
        super().__init__(theme=a.theme)
        self.maps = dict(zip(names, (a, b), strict=True))
        if text := a.message or b.message:
            self.replace(text)
            return
        for panel, other in ((a, b), (b, a)):
            panel._followers.append(other._follow)
            self.on_change(panel.scatter.widget, partial(_mark, other), "hovering")
            panel.scatter.height(min(panel.scatter.height(), HEIGHT))
        half = {"width": "50%", "min_width": "360px"}
        sides = [
            ipywidgets.VBox([ipywidgets.HTML(escaped(name, "b")), panel], layout=half)
            for name, panel in self.maps.items()
        ]
        self.children = (*self.children, ipywidgets.HBox(sides, layout={"flex_flow": "row wrap"}))

    @property
    def selected(self) -> pd.DataFrame:
        """The rows selected in both maps."""
        return next(iter(self.maps.values())).selected

    def select(self, rows: Sequence[int]) -> None:
        """Select rows by their positions in both maps."""
        next(iter(self.maps.values())).select(rows)

    def static(self, title: str = "") -> Figure:
        """Both maps as one figure; a group has the same colour in both."""
        a = next(iter(self.maps.values()))
        labels = None if a.color is None else a.columns[a.color].rename(a.color)
        places = {name: panel.xy for name, panel in self.maps.items()}
        qualities = {name: panel.faithfulness for name, panel in self.maps.items()}
        return plots.map_comparison(places, labels, qualities, title=title, theme=self.theme)

    def __repr__(self) -> str:
        maps = " and ".join(f"{name}: {panel!r}" for name, panel in self.maps.items())
        return f"LinkedMaps: {self.message}" if self.message else maps


def _mark(panel: EmbeddingMap, point: int | None) -> None:
    """Mark a point as if the mouse were over it; -1 is none, as in jupyter-scatter's own links."""
    widget, wanted = panel.scatter.widget, -1 if point is None else point
    if wanted != (-1 if widget.hovering is None else widget.hovering):
        widget.hovering = wanted
