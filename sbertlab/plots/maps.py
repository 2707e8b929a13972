"""Maps: points on a plane, coloured by their labels and named where they lie."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from sbertlab.checks import check_same_length, checked_numbers
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

    The 24 largest groups are coloured and named; over 24 different numbers give a colour scale. Arguments and errors
    are those of `map_comparison`, for one map.
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
        texts: one per point; on maps of at most 30 points they are written in place of the names.
        size: width of a map in inches.

    Raises:
        ValueError: a map is not `(n, 2)` or not finite, or labels or texts do not fit it.
    """
    places = {name: checked_numbers("xy", xy, dimensions=2) for name, xy in maps.items()}
    columns = {name: column for name, column in (("labels", labels), ("texts", texts)) if column is not None}
    for name, xy in places.items():
        if xy.shape[1] != 2:
            raise ValueError(f"xy must have the shape (n, 2), got {xy.shape} in the map {name!r}")
        check_same_length(xy=xy, **columns)
    with style(theme) as colors:
        figure, panels = canvas(size * len(maps), size * 0.86, title, columns=len(maps))
        for axes, (name, xy) in zip(panels.flat, places.items(), strict=True):
            axes.set_title(drawable(name))
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_aspect("equal", adjustable="datalim")
            axes.margins(0.14, 0.1)
            axes.set_xlabel(drawable(str((qualities or {}).get(name, "")), 120), fontsize=7.5, loc="left")
            values = pd.Series([None] * len(xy) if labels is None else list(labels), dtype=object)
            if (scale := scale_of(values)) is not None:
                _draw_scale(axes, xy, scale, str(getattr(labels, "name", None) or ""), colors)
            else:
                _draw_groups(axes, xy, values, texts, colors)
    return figure


def scale_of(labels: pd.Series) -> pd.Series | None:
    """Labels as floats for a colour scale, missing and infinite ones as NaN; None if they are names.

    Numbers are names, too, if there are at most 24 different ones, or 6 with fractions.

    >>> scale_of(pd.Series([0.1, 0.2, None] * 20)), len(scale_of(pd.Series(range(25))))
    (None, 25)
    """
    if pd.api.types.infer_dtype(labels) not in ("integer", "floating", "mixed-integer-float"):
        return None
    floats = pd.to_numeric(labels, errors="coerce").astype(float)
    floats = floats.where(np.isfinite(floats))
    return floats if floats.nunique() > (6 if (floats.dropna() % 1).any() else 24) else None


def write_labels(
    axes: Axes, anchors: np.ndarray, names: Sequence[str], shades: Sequence[str], covered: np.ndarray, **look: Any
) -> None:
    """Write names near their anchors; a thin line leads to a distant one.

    Each name takes the best of 153 places: least overlap with earlier names, then fewest `covered` points and nearest.
    The axes must be finished otherwise, because this fixes the layout of their figure.
    """
    figure: Any = axes.figure
    look |= {"ha": "center", "va": "center", "path_effects": halo(figure.get_facecolor()), "in_layout": False}
    labels = [axes.text(spot[0], spot[1], name, **look) for spot, name in zip(anchors, names, strict=True)]
    figure.draw_without_rendering()  # fixes the layout, from which pixels follow
    low, high = axes.get_window_extent().get_points()
    to_data, spots, points = axes.transData.inverted().transform, *map(axes.transData.transform, (anchors, covered))
    halves = np.array([label.get_window_extent().size for label in labels]).reshape(-1, 2) / 2 + 0.06 * figure.dpi
    steps = np.stack(np.meshgrid(np.linspace(-2, 2, 9), range(8, -9, -1)), axis=-1).reshape(-1, 2)  # in half boxes
    centres = np.zeros(spots.shape)
    for index, (label, shade, spot, half) in enumerate(zip(labels, shades, spots, halves, strict=True)):
        places = np.clip(spot + steps * half, low + half, high - half)
        gaps = np.abs(centres[:index] - places[:, None])  # (places, earlier names, 2)
        overlap = np.clip(halves[:index] + half - gaps, 0, None).prod(axis=2).sum(axis=1)
        count = (np.abs(points - places[:, None]) < half - 1).all(axis=2).sum(axis=1)
        distance = np.linalg.norm(np.clip(np.abs(places - spot) - half, 0, None), axis=1) / (high - low).min()
        cost = 10 * overlap + np.minimum(count, 8) + 60 * count / len(points) + 40 * distance
        centres[index] = centre = places[cost.argmin()]
        label.set(position=to_data(centre), color=shade)
        near = np.clip(spot, centre - half, centre + half)
        if np.linalg.norm(near - spot) > 4:
            axes.plot(*to_data([near, spot]).T, color=shade, linewidth=0.7, scalex=False, scaley=False)


def _draw_scale(axes: Axes, xy: np.ndarray, values: pd.Series, name: str, colors: Theme) -> None:
    """Points coloured by a number, and the scale of it."""
    known = values.notna().to_numpy()
    axes.scatter(*xy[~known].T, color=colors.line, **_look(xy))
    points = axes.scatter(xy[known, 0], xy[known, 1], c=values[known], cmap=sequential(colors), **_look(xy))
    bar = axes.figure.colorbar(points, ax=axes, shrink=0.4, aspect=24, pad=0.01, label=drawable(name, 20))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)


def _draw_groups(axes: Axes, xy: np.ndarray, labels: pd.Series, texts: Sequence[str] | None, colors: Theme) -> None:
    """Points coloured by group, with the names of the groups, or with the texts of few points and a legend."""
    names = labels.map(str, na_action="ignore")
    counts = names.sample(frac=1, random_state=0).value_counts()  # shuffled: among groups of one size not the first
    shown = sorted(counts.index[: len(MARKERS) * len(colors.palette)])
    rest = ~names.isin(shown).to_numpy()
    axes.scatter(*xy[rest].T, color=colors.faint(colors.soft, 1 if rest.all() else 0.35), **_look(xy))
    shades = {name: colors.palette[index % len(colors.palette)] for index, name in enumerate(shown)}
    clouds, centres = [], []
    for index, (name, shade) in enumerate(shades.items()):
        members = np.flatnonzero(names == name)
        marker = MARKERS[index // len(colors.palette)]
        clouds.append(axes.scatter(*xy[members].T, color=shade, marker=marker, alpha=0.85, **_look(xy)))
        centres.append(members[_densest(xy[members])])
    rows, heads, weight = centres, names, "bold"
    if texts is not None and len(xy) <= 30:
        rows, heads, weight = list(range(len(xy))), pd.Series(list(texts)), "normal"
        key = [drawable(name, 24).lstrip("_") for name in shown]  # matplotlib hides names that begin with "_"
        axes.legend(clouds, key, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, borderaxespad=0)
    if len(counts) > len(shown):
        note = f"{len(shown)} of {len(counts):,} groups are coloured and named"
        axes.set_xlabel("\n".join(filter(None, [axes.get_xlabel(), note])), fontsize=7.5, loc="left")
    covered = xy[np.random.default_rng(0).permutation(len(xy))[:3000]]
    tints = [colors.readable(shades.get(names[row], colors.ink)) for row in rows]
    words = [drawable(heads[row], 44) for row in rows]
    write_labels(axes, xy[rows], words, tints, covered, weight=weight, fontsize=8.5)


def _densest(xy: np.ndarray) -> int:
    """Row of the point (at most 400 are tried) with the smallest median distance to the others of its group."""
    tried = np.linspace(0, len(xy) - 1, min(len(xy), 400)).astype(int)
    return int(tried[np.median(cdist(xy[tried], xy[tried]), axis=1).argmin()])


def _look(xy: np.ndarray) -> dict[str, Any]:
    """How points are drawn: few are easy to see, many do not merge."""
    return {"s": np.clip(14000 / len(xy), 3, 42), "linewidths": 0, "rasterized": len(xy) > 3000}
