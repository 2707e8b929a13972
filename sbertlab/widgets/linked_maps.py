"""Two maps of the same rows side by side, such as before and after training, with one selection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import pandas as pd

from sbertlab import plots
from sbertlab.plots.style import Figure
from sbertlab.widgets.embedding_map import EmbeddingMap
from sbertlab.widgets.panel import Panel, escaped

HEIGHT = 360
"""Of each map, in pixels, at most."""


def linked(a: EmbeddingMap, b: EmbeddingMap, names: tuple[str, str] = ("before", "after")) -> LinkedMaps:
    """Show two maps of the same rows side by side: what is selected in one is selected in both.

    A click in one map selects the text and the neighbours it has there; in the other map the lines lead to the
    neighbours it has there, so that what moved can be seen. The point under the mouse is marked in both.

    Args:
        a: the left map.
        b: the right map.
        names: of the two.

    Raises:
        TypeError: something else than an EmbeddingMap.
        ValueError: maps of other texts, twice the same map, or a map that is only a message.
    """
    return LinkedMaps(a, b, names)


class LinkedMaps(Panel):
    """What `linked` returns; `selected` are the rows selected in both maps."""

    def __init__(self, a: EmbeddingMap, b: EmbeddingMap, names: tuple[str, str] = ("before", "after")) -> None:
        for panel in (a, b):
            if not isinstance(panel, EmbeddingMap):
                raise TypeError(f"linked takes two EmbeddingMaps, got {type(panel).__name__}")
        if a is b:
            raise ValueError("linked needs two maps, got the same one twice")
        if len(names) != 2 or names[0] == names[1]:
            raise ValueError(f"names must be two different ones, got {names}")
        texts = [panel.frame[panel.text].reset_index(drop=True) for panel in (a, b)]
        if not texts[0].equals(texts[1]):
            raise ValueError(
                f"linked maps must show the same texts in the same order, got {len(texts[0]):,} and {len(texts[1]):,} "
                "texts that differ"
            )
        super().__init__(theme=a.theme)
        self.maps = dict(zip(names, (a, b), strict=True))
        if words := a.message or b.message:
            self.replace(words)
            return
        a._followers.append(b._follow)
        b._followers.append(a._follow)
        for panel, other in ((a, b), (b, a)):
            panel.scatter.widget.observe(self.guarded(_hover(other)), names="hovering")
        for panel in (a, b):  # in half of a page's width, a higher map would lose its sides
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
        """Both maps as one figure, a group in the same colour in both."""
        a = next(iter(self.maps.values()))
        labels = None if a.color is None else a.columns[a.color].rename(a.color)
        places = {name: panel.xy for name, panel in self.maps.items()}
        kept = {name: panel.faithfulness for name, panel in self.maps.items()}
        return plots.map_comparison(places, labels, kept, title=title, theme=self.theme)

    def __repr__(self) -> str:
        if self.message:
            return f"LinkedMaps: {self.message}"
        return " and ".join(f"{name}: {panel!r}" for name, panel in self.maps.items())


def _hover(other: EmbeddingMap) -> Callable[[Any], None]:
    """Mark in the other map the point that the mouse is over; -1 is none, as jupyter-scatter's own links say it."""

    def mark(change: Any) -> None:
        point = -1 if change.new is None else change.new
        if (-1 if other.scatter.widget.hovering is None else other.scatter.widget.hovering) != point:
            other.scatter.widget.hovering = point

    return mark
