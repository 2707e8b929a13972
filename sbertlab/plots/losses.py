"""Figures of what losses do to points: which text is which, where each is pushed, and the path it takes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sbertlab.analysis.loss_plane import Push, on_circle
from sbertlab.plots.maps import write_labels
from sbertlab.plots.style import Theme, canvas, drawable, halo, legend_entries, open_grid, style

SMALLEST = 1e-9
"""A smaller gradient counts as zero."""

SHAPES = ("o", "s", "v", "P", "X", "D", "^", "p")
"""Of the texts of a row in their order, and of classes; the first one is drawn larger, so that others may lie on it."""

ROUND = on_circle(np.linspace(0, 360, 181)).T

Way = Sequence[Push]
"""What `loss_plane.descend` returned: the points step by step."""


def push_figure(
    ways: Mapping[str, Way],
    *,
    same_scale: bool = False,
    texts: Sequence[Sequence[str]] | None = None,
    title: str = "",
    size: float = 2.9,
    theme: str = "light",
) -> Figure:
    """Points, arrows and paths under one or several losses, side by side.

    `ways` holds what `loss_plane.descend` returned, by the title of the panel; `[push(...)]` has no path to show.
    Arrows are those of the start. The longest one of each panel has the same length, and its gradient is printed below;
    with `same_scale` the arrows of all panels can be compared. `texts` are written at the points, row by row; `size` is
    the width of a panel in inches. Points that are not on a plane raise a ValueError.
    """
    longest = [float(way[0].lengths.max()) for way in ways.values()]
    columns = min(4, len(ways))
    lines = -(-len(ways) // columns)
    with style(theme) as colors:
        figure, panels = canvas(size * columns, (size + 0.3) * lines + 0.45, title, rows=lines, columns=columns)
        for axes in panels.flat[len(ways) :]:
            axes.axis("off")
        for axes, (name, way), scale in zip(panels.flat, ways.items(), longest, strict=False):
            axes.set_title(drawable(name), fontsize=9 if len(name) < 11 * size else 7.5)
            _draw_plane(axes, way, 0, max(longest) if same_scale else scale, colors)
        _draw_key(figure, colors, " (one scale in all panels)" * same_scale)
        for axes, way in zip(panels.flat, ways.values() if texts is not None else (), strict=False):
            xy, words = way[0].points.xy.reshape(-1, 2), [drawable(text, 34) for row in texts or () for text in row]
            write_labels(axes, xy, words, [colors.ink] * len(words), xy, fontsize=7.5)
    return figure


def descent_figure(way: Way, *, title: str = "", theme: str = "light") -> Figure:
    """The last step of `way` with its arrows and the path so far, and beside it the value of the loss at every step."""
    with style(theme) as colors:
        figure, panels = canvas(7.2, 4.6, title, columns=2, width_ratios=[1.65, 1])
        plane, curve = panels[0]
        _draw_plane(plane, way, len(way) - 1, float(way[-1].lengths.max()), colors)
        values = [seen.loss for seen in way]
        curve.plot(values, "o-", color=colors.good, markersize=5, markevery=[-1])
        curve.set(xlim=(-0.2, max(10, len(values))), ylim=(0, 1.1 * max(values) or 1), xlabel="step", title="Loss")
        curve.set_box_aspect(1)
        open_grid(curve)
        _draw_key(figure, colors)
    return figure


def _draw_plane(axes: Axes, way: Way, at: int, scale: float, colors: Theme) -> None:
    """One panel: circle or rings, paths, ties, arrows and points; below it the loss and what the arrows mean."""
    seen = way[at]
    xy, course = seen.points.xy, np.stack([moment.points.xy for moment in way])  # (steps + 1, rows, columns, 2)
    if xy.shape[-1] != 2:
        raise ValueError(f"points must lie on a plane, (rows, columns, 2), got {xy.shape}; see loss_plane.projected")
    low, high = course.min(axis=(0, 1, 2)), course.max(axis=(0, 1, 2))
    center, half = (low + high) / 2, 0.66 * float((high - low).max()) or 1.0
    if seen.circle:
        center, half = np.zeros(2), max(1.26, 1.15 * float(np.abs(course).max()))
        axes.plot(*ROUND, color=colors.soft, linewidth=0.8, alpha=0.6, zorder=1)
        axes.plot(0, 0, "+", color=colors.soft, markersize=5)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set(xlim=center[0] + half * np.array([-1, 1]), ylim=center[1] + half * np.array([-1, 1]))
    axes.spines[:].set_visible(not seen.circle)
    classes = _classes(seen) if len(seen.roles) == 1 else None
    for column, role in enumerate(seen.roles if classes is None else ()):
        axes.plot([], [], label=role, **_look(seen, 0, column, colors.soft, colors))
    for row, tint in enumerate(_tints(seen, colors)):
        if seen.limits is not None:
            ring = xy[row, 0, :, None] + seen.limits[row] * ROUND
            dashes = axes.plot(*ring, color=tint, linewidth=0.9, alpha=0.75, zorder=1)[0]
            dashes.set(linestyle=(0, (4, 3)), label="the negative must be outside")
        if len(seen.roles) > 1:
            _draw_tie(axes, seen, row, tint, colors)
        for column in range(len(seen.roles)):
            look, path = _look(seen, row, column, tint, colors), course[:, row, column]
            if len(way) > 1:
                axes.plot(*path.T, color=tint, linewidth=2.6, alpha=0.35, label="path of gradient descent")
                axes.plot(*path[0 if at else -1], look["marker"], color=tint, alpha=0.45, markersize=3.5, zorder=2)
            label = None if classes is None else f"class {classes[row]}"
            axes.plot(*xy[row, column], label=label, zorder=4 - (column == 0), **look)
    strength = float(seen.lengths.max())
    moves = seen.arrows * (0.36 * half / scale if scale > SMALLEST else 0.0)
    long = np.linalg.norm(moves, axis=-1) > 0.012 * half  # a shorter arrow is hidden by its point
    scaled: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "units": "inches", "width": 0.022}
    axes.quiver(*xy[long].T, *moves[long].T, color=colors.ink, zorder=5, **scaled)
    arrows = f"longest arrow: gradient {strength:.2g}" if strength > SMALLEST else "no arrows: the gradient is zero"
    axes.set_xlabel(f"loss {seen.loss:.3g}   {arrows}", fontsize=7.5, loc="left")


def _classes(seen: Push) -> np.ndarray | None:
    """The labels where they are classes or 0 and 1; None where they are scores or missing."""
    labels = seen.points.labels
    return labels if labels is not None and np.issubdtype(labels.dtype, np.integer) else None


def _tints(seen: Push, colors: Theme) -> list[str]:
    """A colour for each row: by its label where that is a class or 0 or 1, else one of its own."""
    classes = _classes(seen)
    if classes is not None and len(seen.roles) > 1:
        return [colors.good if label else colors.bad for label in classes]
    places = range(len(seen.points.xy)) if classes is None else np.unique(classes, return_inverse=True)[1]
    return [colors.palette[place % len(colors.palette)] for place in places]


def _look(seen: Push, row: int, column: int, tint: str, colors: Theme) -> dict[str, Any]:
    """How a point is drawn: its shape says which text of the row it is, or the class where a row is one text."""
    classes, single = _classes(seen), len(seen.roles) == 1
    shape = column if classes is None or not single else int(np.unique(classes, return_inverse=True)[1][row])
    first, negative = column == 0 and not single, seen.roles[column].startswith("negative")
    face = colors.faint(tint, 0.35) if first else colors.background if negative else tint
    edge = {"markeredgecolor": tint if first or negative else colors.background, "markeredgewidth": 1.2}
    size = 11.5 if first else 9 if single else 7
    return {"marker": SHAPES[shape % len(SHAPES)], "linestyle": "", "markersize": size, "markerfacecolor": face, **edge}


def _draw_tie(axes: Axes, seen: Push, row: int, tint: str, colors: Theme) -> None:
    """A line between the first two texts of a row, dotted for label 0; on it, their score."""
    ends, classes, labels = seen.points.xy[row, :2], _classes(seen), seen.points.labels
    label, dots = (None, "-") if classes is None else (f"label {classes[row]}", "-" if classes[row] else ":")
    axes.plot(*ends.T, color=tint, linewidth=1.2, linestyle=dots, zorder=1, label=label)
    if labels is not None and classes is None:
        middle = ends.mean(axis=0) * (0.8 if seen.circle else 1)
        look: dict[str, Any] = {"color": colors.readable(tint), "weight": "bold", "ha": "center", "va": "center"}
        axes.text(middle[0], middle[1], f"{labels[row]:g}", path_effects=halo(colors.background), zorder=6, **look)


def _draw_key(figure: Figure, colors: Theme, scale: str = "") -> None:
    """The legend below the panels."""
    entries = legend_entries(figure)
    arrow = Line2D([0, 1], [0, 0], color=colors.ink, linewidth=1.4, marker=">", markevery=(1, 2), markersize=5)
    entries[f"negative gradient{scale}"] = arrow
    figure.legend(entries.values(), entries, loc="outside lower left", ncols=int(figure.get_figwidth() // 1.9))
