"""Figures of maps: points on a plane, coloured by their labels and named where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.checks import checked_numbers
from sbertlab.plots.style import Axes, Figure, Theme, canvas, drawable, patheffects, sequential, style

MARKERS = "o^s"
"""Shapes of points: the next one when the colours have all been used."""


def embedding_map(
    xy: np.ndarray,
    labels: Sequence[Any] | pd.Series | None = None,
    texts: Sequence[str] | None = None,
    quality: object = None,
    *,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Points on a plane, coloured and named by their labels, with what the map keeps printed below.

    Names are put where they cover few points, near the densest place of their group. Numbers as labels (more than 24
    different ones) give a colour scale. The 24 largest groups are coloured and named, the others are grey.

    Args:
        xy: `(n, 2)`, coordinates.
        labels: one a point: names or numbers; None leaves a point grey.
        texts: one a point. Up to 30 points carry their texts; of more, each group shows its most central one.
        quality: what to print about the map's faithfulness, such as a `maps.MapQuality`.
        title: a headline.
        theme: "light" or "dark".

    Raises:
        ValueError: `xy` is not `(n, 2)` or not finite, or labels or texts of another length.
    """
    return map_comparison(
        {"": xy}, labels, None if quality is None else {"": quality}, texts=texts, title=title, theme=theme, size=7.2
    )


def map_comparison(
    maps: Mapping[str, np.ndarray],
    labels: Sequence[Any] | pd.Series | None = None,
    qualities: Mapping[str, object] | None = None,
    *,
    texts: Sequence[str] | None = None,
    title: str = "",
    theme: str = "light",
    size: float = 5.2,
) -> Figure:
    """Maps of the same points side by side, such as before and after training; a label has one colour in all of them.

    Args:
        maps: name of each map and its `(n, 2)` coordinates.
        labels: one a point, as in `embedding_map`.
        qualities: what to print about the faithfulness of each map, by name.
        texts: one a point, as in `embedding_map`.
        title: a headline.
        theme: "light" or "dark".
        size: width of a map in inches.

    Raises:
        ValueError: as `embedding_map`; no map, or a quality of a map that is not there.
    """
    if not maps:
        raise ValueError("maps must hold at least one map, got none")
    qualities = qualities or {}
    if unknown := set(qualities) - set(maps):
        raise ValueError(f"qualities name {sorted(unknown)}, which are not among the maps {list(maps)}")
    places = {name: _places(xy) for name, xy in maps.items()}
    texts = None if texts is None else pd.Series(list(texts), dtype=object).fillna("").astype(str).tolist()
    for name, column in (("labels", labels), ("texts", texts)):
        for xy in places.values():
            if column is not None and len(column) != len(xy):
                raise ValueError(f"{name} must be one a point, got {len(column)} for {len(xy)} points")
    with style(theme) as colors:
        figure, panels = canvas(size * len(maps), size * 0.86, title, columns=len(maps))
        for axes, (name, xy) in zip(panels.flat, places.items(), strict=True):
            axes.set_title(drawable(name))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_aspect("equal", adjustable="datalim")
            axes.margins(0.14, 0.1)
            if name in qualities:
                axes.set_xlabel(drawable(str(qualities[name]), 120), fontsize=7.5, loc="left")
            values = pd.Series(list(labels) if labels is not None else [None] * len(xy), dtype=object)
            if is_continuous(values):
                _draw_scale(axes, xy, as_floats(values), drawable(getattr(labels, "name", None) or "", 20), colors)
            else:
                _draw_groups(axes, xy, values, texts, colors)
    return figure


def is_continuous(labels: pd.Series) -> bool:
    """Whether labels are numbers to be shown on a colour scale rather than names of groups.

    Whole numbers are from 25 different ones on, fractions from 7.

    >>> is_continuous(pd.Series([0.1, 0.2, None] * 20)), is_continuous(pd.Series(range(25)))
    (False, True)
    >>> is_continuous(pd.Series(range(24))), is_continuous(pd.Series(range(24)) / 60)
    (False, True)
    """
    known = labels.dropna()
    if not all(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in known):
        return False
    fractions = any(np.isfinite(value) and value != int(value) for value in known)
    return known.nunique() > (6 if fractions else 24)


def as_floats(labels: pd.Series) -> pd.Series:
    """Numbers as floats; what is missing or infinite is NaN.

    >>> as_floats(pd.Series([1, None, np.inf, pd.NA], dtype=object)).tolist()
    [1.0, nan, nan, nan]
    """
    floats = labels.astype(object).where(labels.notna(), np.nan).astype(float)
    return floats.where(np.isfinite(floats))


def place_labels(
    anchors: np.ndarray,
    sizes: np.ndarray,
    points: np.ndarray,
    bounds: tuple[float, float, float, float],
    clearance: float = 4,
) -> np.ndarray:
    """Centres of label boxes that do not overlap, cover few points and stay near their anchors.

    Each label in turn takes the cheapest of some two hundred places around its anchor, given where the others are;
    three rounds. Overlap costs most, then lines that cross labels, covered points, and distance. Lengths in pixels.

    Args:
        anchors: `(labels, 2)`, what each label names.
        sizes: `(labels, 2)`, width and height of each box.
        points: `(n, 2)`, what boxes should not cover.
        bounds: left, bottom, right, top of the area.
        clearance: between a box and a point.

    Returns:
        `(labels, 2)`.

    A label on a point moves off it, by half its height and the clearance:

    >>> place_labels(np.array([[50, 50]]), np.array([[20, 10]]), np.array([[50, 50]]), (0, 0, 100, 100)).tolist()
    [[50.0, 59.0]]
    """
    angles = np.pi / 2 + np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).round(9)
    square = circle / np.abs(circle).max(axis=1, keepdims=True)
    rings = np.array([0, 0.5, 1, 2, 3.5, 5.5, 8, 12])[:, None, None]
    steps = np.linspace(0, 1, 12)[:, None]
    low, high = np.array(bounds[:2]), np.array(bounds[2:])
    unit = 0.025 * (high - low).min()  # a label goes so far to uncover one point
    centres = np.full(anchors.shape, np.inf)
    for _ in range(3):
        for index in np.argsort(-sizes.prod(axis=1), kind="stable"):
            half, anchor = sizes[index] / 2, anchors[index]
            around = anchor + square * (half + clearance) + rings * circle * sizes[index, 1]  # (rings, angles, 2)
            places = np.concatenate([[anchor], around.reshape(-1, 2)])
            places = np.clip(places, low + half, np.maximum(high - half, low + half))
            placed = np.isfinite(centres[:, 0]) & (np.arange(len(anchors)) != index)
            others, reach = centres[placed], sizes[placed] / 2
            gap = np.clip(reach + half + 2 - np.abs(others - places[:, None]), 0, None)
            lines = places[:, None] + steps * (anchor - places[:, None])  # (places, steps, 2)
            crosses = (np.abs(lines[:, :, None] - others) < reach).all(axis=3).any(axis=1).sum(axis=1)
            their_lines = others[:, None] + steps * (anchors[placed][:, None] - others[:, None])
            crossed = (np.abs(their_lines - places[:, None, None]) < half).all(axis=3).any(axis=2).sum(axis=1)
            covered = (np.abs(points - places[:, None]) < half + clearance - 1).all(axis=2).sum(axis=1)
            distance = np.linalg.norm(np.clip(np.abs(places - anchor) - half, 0, None), axis=1) / unit
            crowd = np.minimum(covered, 8) + 60 * covered / max(len(points), 1)
            centres[index] = places[
                np.argmin(gap.prod(axis=2).sum(axis=1) + 3 * (crosses + crossed) + crowd + distance)
            ]
    return centres


def _draw_scale(axes: Axes, xy: np.ndarray, values: pd.Series, name: str, colors: Theme) -> None:
    """Points coloured by a number, and the scale of it."""
    known = values.notna().to_numpy()
    look: dict[str, Any] = {"s": _point_size(len(xy)), "linewidths": 0, "rasterized": len(xy) > 3000}
    axes.scatter(xy[~known, 0], xy[~known, 1], color=colors.line, **look)
    points = axes.scatter(xy[known, 0], xy[known, 1], c=values[known], cmap=sequential(colors), **look)
    bar = axes.figure.colorbar(points, ax=axes, shrink=0.4, aspect=24, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.ax.set_title(name, fontsize=8, weight="normal", color=colors.soft)


def _draw_groups(axes: Axes, xy: np.ndarray, labels: pd.Series, texts: Sequence[str] | None, colors: Theme) -> None:
    """Points coloured by group, and the names of the groups, or the texts of few points."""
    names = labels.map(str, na_action="ignore")
    counts = names.sample(frac=1, random_state=0).value_counts()  # groups of one size: any of them, not the first ones
    shown = sorted(counts.index[: len(MARKERS) * len(colors.palette)])
    look: dict[str, Any] = {"s": _point_size(len(xy)), "linewidths": 0, "rasterized": len(xy) > 3000}
    rest = ~names.isin(shown).to_numpy()
    axes.scatter(*xy[rest].T, color=colors.faint(colors.soft, 1 if rest.all() else 0.35), **look)
    marks, shades, clouds = [], {}, []
    for index, name in enumerate(shown):
        members = np.flatnonzero(names == name)
        shades[name] = colors.palette[index % len(colors.palette)]
        marker = MARKERS[index // len(colors.palette)]
        clouds.append(axes.scatter(*xy[members].T, color=shades[name], marker=marker, alpha=0.85, **look))
        centre = members[_densest(xy[members])]
        marks.append((xy[centre], name, "" if texts is None else texts[centre], shades[name]))
    if texts is not None and len(xy) <= 30:
        tints = [colors.readable(shade) for shade in shades.values()]
        key = [drawable(name, 24).lstrip("_") for name in shown]  # matplotlib hides names that begin with "_"
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 5, "columnspacing": 1}
        if key:
            axes.legend(clouds, key, labelcolor=tints, frameon=False, handletextpad=0.1, borderaxespad=0, **place)
        marks = [(xy[row], text, "", shades.get(names[row], colors.ink)) for row, text in enumerate(texts)]
        _draw_names(axes, xy, marks, colors, "normal")
    else:
        _draw_names(axes, xy, marks, colors, "bold")
        if len(counts) > len(shown):
            note = f"{len(shown)} of {len(counts):,} groups are coloured and named"
            axes.set_xlabel("\n".join(filter(None, [axes.get_xlabel(), note])), fontsize=7.5, loc="left")


def _draw_names(
    axes: Axes, xy: np.ndarray, marks: list[tuple[np.ndarray, str, str, str]], colors: Theme, weight: str
) -> None:
    """Names, each with an example below, where `place_labels` puts them; a thin line leads to what they name."""
    figure, marks = axes.figure, [mark for mark in marks if mark[1].strip() or mark[2].strip()]
    if not marks or not isinstance(figure, Figure):
        return
    halo = [patheffects.withStroke(linewidth=2.6, foreground=colors.background)]
    common: dict[str, Any] = {"ha": "center", "path_effects": halo, "transform": None, "in_layout": False}
    written = []
    for _, name, example, color in marks:
        shade = colors.readable(color)
        head = axes.text(0, 0, drawable(name, 44), va="bottom", color=shade, weight=weight, fontsize=8.5, **common)
        tail = axes.text(0, 0, drawable(example, 36), va="top", color=colors.soft, fontsize=6.5, **common)
        written.append((head, tail))
    figure.draw_without_rendering()  # fixes the layout, from which pixels follow
    boxes = [[text.get_window_extent() for text in pair] for pair in written]
    sizes = np.array([[max(head.width, tail.width), head.height + tail.height] for head, tail in boxes])
    area = axes.get_window_extent()
    to_pixels = axes.transData.transform
    anchors = to_pixels(np.array([place for place, *_ in marks]))
    sample = np.random.default_rng(0).permutation(len(xy))[:3000]
    radius = 0.5 * _point_size(len(xy)) ** 0.5 * figure.dpi / 72
    edge = 0.07 * figure.dpi  # letters are a little wider at other resolutions
    bounds = (area.x0 + edge, area.y0, area.x1 - edge, area.y1)
    centres = place_labels(anchors, sizes, to_pixels(xy[sample]), bounds, clearance=radius + 5)
    to_data = axes.transData.inverted().transform
    for (head, tail), (_, tail_box), centre, size, anchor, mark in zip(
        written, boxes, centres, sizes, anchors, marks, strict=True
    ):
        seam = to_data(centre - (0, size[1] / 2 - tail_box.height))
        for text in (head, tail):
            text.set(position=tuple(seam), transform=axes.transData)
        near = np.clip(anchor, centre - size / 2 - 1, centre + size / 2 + 1)
        if np.linalg.norm(near - anchor) > radius + 9:
            axes.plot(
                *np.array([to_data(near), to_data(anchor)]).T, color=mark[3], linewidth=0.8, scalex=False, scaley=False
            )


def _densest(xy: np.ndarray) -> int:
    """Row of the point (of at most 400 tried) whose nearest half of the group is closest."""
    tried = np.linspace(0, len(xy) - 1, min(len(xy), 400)).astype(int)
    distances = np.linalg.norm(xy[tried, None] - xy[None, tried], axis=2)
    nearest = np.sort(distances, axis=1)[:, : len(tried) // 2 + 1]
    return int(tried[nearest.mean(axis=1).argmin()])


def _point_size(count: int) -> float:
    """Area of a point, such that few are easy to see and many do not clot."""
    return float(np.clip(14000 / max(count, 1), 3, 42))


def _places(xy: np.ndarray) -> np.ndarray:
    """Checked coordinates `(n, 2)`."""
    places = checked_numbers("xy", xy, dimensions=2)
    if places.shape[1] != 2:
        raise ValueError(f"xy must have the shape (n, 2), got {places.shape}")
    return places
