"""Maps: points on a plane, coloured by their labels and named where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sbertlab.checks import checked_numbers
from sbertlab.plots.style import Theme, canvas, drawable, halo, sequential, style

MARKERS = "o^s"
"""Shapes of points: the next one is used when all colours are taken."""


def embedding_map(
    xy: np.ndarray,
    labels: Sequence[Any] | pd.Series | None = None,
    texts: Sequence[str] | None = None,
    quality: object = None,
    *,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Points on a plane, coloured and named by their labels, with the quality of the map printed below.

    Each name is written near the densest place of its group. The 24 largest groups are coloured and named; over 24
    different numbers give a colour scale. Arguments and errors are those of `map_comparison`, for one map.
    """
    qualities = None if quality is None else {"": quality}
    return map_comparison({"": xy}, labels, qualities, texts=texts, title=title, theme=theme, size=7.2)


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
        maps: coordinates `(n, 2)` of each map, by its name.
        labels: names or numbers, one per point; None leaves a point grey.
        qualities: what to print about the faithfulness of each map, by its name, such as a `MapQuality`.
        texts: one per point. Up to 30 points carry their texts; above that each group shows its most central one.
        size: width of a map in inches.

    Raises:
        ValueError: no map, `xy` is not `(n, 2)` or not finite, or labels, texts or qualities do not fit the maps.
    """
    if not maps:
        raise ValueError("maps must hold at least one map, got none")
    qualities = qualities or {}
    if unknown := sorted(set(qualities) - set(maps)):
        raise ValueError(f"qualities has {unknown}, which are not among the maps {list(maps)}")
    texts = None if texts is None else pd.Series(list(texts), dtype=object).fillna("").astype(str).tolist()
    for name, xy in maps.items():
        shape = checked_numbers("xy", xy, dimensions=2).shape
        if shape[1] != 2:
            raise ValueError(f"xy must have the shape (n, 2), got {shape} in the map {name!r}")
        for what, column in (("labels", labels), ("texts", texts)):
            if column is not None and len(column) != len(xy):
                raise ValueError(f"{what} must have one entry per point, got {len(column)} for {len(xy)} points")
    with style(theme) as colors:
        figure, panels = canvas(size * len(maps), size * 0.86, title, columns=len(maps))
        for axes, (name, points) in zip(panels.flat, maps.items(), strict=True):
            xy = np.asarray(points, dtype=float)
            axes.set_title(drawable(name))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_aspect("equal", adjustable="datalim")
            axes.margins(0.14, 0.1)
            if name in qualities:
                axes.set_xlabel(drawable(str(qualities[name]), 120), fontsize=7.5, loc="left")
            values = pd.Series([None] * len(xy) if labels is None else list(labels), dtype=object)
            if is_continuous(values):
                _draw_scale(axes, xy, as_floats(values), drawable(getattr(labels, "name", None) or "", 20), colors)
            else:
                _draw_groups(axes, xy, values, texts, colors)
    return figure


def is_continuous(labels: pd.Series) -> bool:
    """Whether labels are numbers for a colour scale rather than names: over 24 different ones, over 6 if fractions.

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
    """Numbers as floats; missing and infinite ones become NaN.

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
    """Centres of label boxes near their anchors that do not overlap each other and cover few points, in pixels.

    Anchors are `(labels, 2)`, sizes the width and height of each box, `points` what boxes should not cover, and bounds
    left, bottom, right and top of the area. The widest label is placed first; each takes the cheapest of 145 places
    around its anchor. Overlap with a placed label costs most, then covered points, then distance.

    >>> place_labels(np.array([[50, 50]]), np.array([[20, 10]]), np.array([[50, 50]]), (0, 0, 100, 100)).tolist()
    [[50.0, 59.0]]
    """
    angles = np.pi / 2 + np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).round(9)
    square = circle / np.abs(circle).max(axis=1, keepdims=True)
    rings = np.array([0, 0.7, 1.5, 3, 5, 8])[:, None, None]
    low, high = np.array(bounds[:2]), np.array(bounds[2:])
    unit = 0.025 * (high - low).min()  # how far a label moves to uncover one point
    centres = np.zeros(anchors.shape)
    placed: list[int] = []
    for index in np.argsort(-sizes[:, 0], kind="stable"):
        half, anchor = sizes[index] / 2, anchors[index]
        around = anchor + square * (half + clearance) + rings * circle * sizes[index, 1]  # (rings, angles, 2)
        places = np.concatenate([[anchor], around.reshape(-1, 2)])
        places = np.clip(places, low + half, np.maximum(high - half, low + half))
        gaps = np.abs(centres[placed] - places[:, None])  # (places, placed, 2)
        overlap = np.clip(sizes[placed] / 2 + half + 2 - gaps, 0, None).prod(axis=2).sum(axis=1)
        covered = (np.abs(points - places[:, None]) < half + clearance - 1).all(axis=2).sum(axis=1)
        distance = np.linalg.norm(np.clip(np.abs(places - anchor) - half, 0, None), axis=1) / unit
        crowd = np.minimum(covered, 8) + 60 * covered / max(len(points), 1)
        centres[index] = places[np.argmin(10 * overlap + crowd + distance)]
        placed.append(int(index))
    return centres


def write_labels(
    axes: Axes,
    anchors: np.ndarray,
    names: Sequence[str],
    shades: Sequence[str],
    covered: np.ndarray,
    *,
    radius: float = 5,
    examples: Sequence[str] = (),
    **look: Any,
) -> None:
    """Write names where `place_labels` puts them; a thin line leads from a distant name to its anchor.

    The axes must be finished otherwise, because this fixes the layout of their figure. `anchors` and `covered` (what
    the names should not cover) are in data coordinates. `radius` is that of the named marks, in points; `examples` are
    smaller second lines, and `look` holds other properties of the names.
    """
    if not names:
        return
    figure: Any = axes.figure
    page, soft = figure.get_facecolor(), axes.xaxis.label.get_color()
    common: dict[str, Any] = {"ha": "center", "path_effects": halo(page), "transform": None, "in_layout": False}
    heads = [
        axes.text(0, 0, name, va="bottom", color=shade, **common, **look)
        for name, shade in zip(names, shades, strict=True)
    ]
    tails = [
        axes.text(0, 0, text, va="top", color=soft, fontsize=6.5, **common) for text in examples or [""] * len(names)
    ]
    figure.draw_without_rendering()  # fixes the layout, from which pixels follow
    boxes = [[text.get_window_extent() for text in pair] for pair in zip(heads, tails, strict=True)]
    sizes = np.array([[max(head.width, tail.width), head.height + tail.height] for head, tail in boxes]).reshape(-1, 2)
    edge, reach = 0.07 * figure.dpi, radius * figure.dpi / 72  # letters are a little wider at other resolutions
    area, to_pixels, to_data = axes.get_window_extent(), axes.transData.transform, axes.transData.inverted().transform
    spots = to_pixels(anchors)
    bounds = (area.x0 + edge, area.y0, area.x1 - edge, area.y1)
    centres = place_labels(spots, sizes, to_pixels(covered), bounds, clearance=reach)
    for row, (centre, size, spot) in enumerate(zip(centres, sizes, spots, strict=True)):
        seam = to_data(centre - (0, size[1] / 2 - boxes[row][1].height))
        for text in (heads[row], tails[row]):
            text.set(position=tuple(seam), transform=axes.transData)
        near = np.clip(spot, centre - size / 2 - 1, centre + size / 2 + 1)
        if np.linalg.norm(near - spot) > reach + 4:
            line = to_data([near, spot]).T
            axes.plot(*line, color=shades[row], linewidth=0.7, scalex=False, scaley=False, zorder=1)


def _draw_scale(axes: Axes, xy: np.ndarray, values: pd.Series, name: str, colors: Theme) -> None:
    """Points coloured by a number, and the scale of it."""
    known = values.notna().to_numpy()
    look: dict[str, Any] = {"s": _point_size(len(xy)), "linewidths": 0, "rasterized": len(xy) > 3000}
    axes.scatter(*xy[~known].T, color=colors.line, **look)
    points = axes.scatter(xy[known, 0], xy[known, 1], c=values[known], cmap=sequential(colors), **look)
    bar = axes.figure.colorbar(points, ax=axes, shrink=0.4, aspect=24, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    bar.set_label(name)


def _draw_groups(axes: Axes, xy: np.ndarray, labels: pd.Series, texts: Sequence[str] | None, colors: Theme) -> None:
    """Points coloured by group, with the names of the groups, or with the texts of few points and a legend."""
    names = labels.map(str, na_action="ignore")
    counts = names.sample(frac=1, random_state=0).value_counts()  # shuffled: among groups of one size not the first
    shown = sorted(counts.index[: len(MARKERS) * len(colors.palette)])
    look: dict[str, Any] = {"s": _point_size(len(xy)), "linewidths": 0, "rasterized": len(xy) > 3000}
    rest = ~names.isin(shown).to_numpy()
    axes.scatter(*xy[rest].T, color=colors.faint(colors.soft, 1 if rest.all() else 0.35), **look)
    shades = {name: colors.palette[index % len(colors.palette)] for index, name in enumerate(shown)}
    clouds, centres = [], []
    for index, name in enumerate(shown):
        members = np.flatnonzero(names == name)
        marker = MARKERS[index // len(colors.palette)]
        clouds.append(axes.scatter(*xy[members].T, color=shades[name], marker=marker, alpha=0.85, **look))
        centres.append(members[_densest(xy[members])])
    every_text = texts is not None and len(xy) <= 30
    if every_text and shown:
        key = [drawable(name, 24).lstrip("_") for name in shown]  # matplotlib hides names that begin with "_"
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 5, "columnspacing": 1}
        tints = [colors.readable(shade) for shade in shades.values()]
        axes.legend(clouds, key, labelcolor=tints, handletextpad=0.1, borderaxespad=0, **place)
    heads = texts if texts is not None and every_text else names
    rows = [row for row in (range(len(xy)) if every_text else centres) if heads[row].strip()]
    write_labels(
        axes,
        xy[rows],
        [drawable(heads[row], 44) for row in rows],
        [colors.readable(shades.get(names[row], colors.ink)) for row in rows],
        xy[np.random.default_rng(0).permutation(len(xy))[:3000]],
        radius=0.5 * look["s"] ** 0.5 + 2.5,
        examples=[drawable(texts[row], 36) for row in rows] if texts is not None and not every_text else [],
        weight="normal" if every_text else "bold",
        fontsize=8.5,
    )
    if len(counts) > len(shown):
        note = f"{len(shown)} of {len(counts):,} groups are coloured and named"
        axes.set_xlabel("\n".join(filter(None, [axes.get_xlabel(), note])), fontsize=7.5, loc="left")


def _densest(xy: np.ndarray) -> int:
    """Row of the point (at most 400 are tried) whose nearest half of the group is closest."""
    tried = np.linspace(0, len(xy) - 1, min(len(xy), 400)).astype(int)
    distances = np.linalg.norm(xy[tried, None] - xy[None, tried], axis=2)
    nearest = np.sort(distances, axis=1)[:, : len(tried) // 2 + 1]
    return int(tried[nearest.mean(axis=1).argmin()])


def _point_size(count: int) -> float:
    """Area of a point: few are easy to see, many do not merge."""
    return float(np.clip(14000 / max(count, 1), 3, 42))
