"""Figures of what losses do to points: which text is which, where each is pushed, and the path it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sbertlab.analysis.loss_plane import Push, on_circle
from sbertlab.plots.style import Theme, canvas, drawable, halo, open_grid, style

REACH = 0.36
"""Length of the longest arrow, as a share of half the width of its panel."""

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

    Arrows are those of the start. The longest one of each panel has the same length, and its gradient is printed below;
    with `same_scale` the arrows of all panels can be compared.

    Args:
        ways: what `loss_plane.descend` returned, by the title of the panel; `[push(...)]` has no path to show.
        same_scale: one scale of arrows for all panels.
        texts: what to write at each point, row by row.
        size: width of a panel in inches.

    Raises:
        ValueError: no panel, an empty path, or points that are not on a plane.
    """
    if not ways:
        raise ValueError("ways must hold at least one panel, got none")
    for name, way in ways.items():
        _check(name, way)
    longest = [float(way[0].lengths.max()) for way in ways.values()]
    scales = [max(longest)] * len(ways) if same_scale else longest
    columns = min(4, len(ways))
    lines = -(-len(ways) // columns)
    with style(theme) as colors:
        figure, panels = canvas(size * columns, (size + 0.3) * lines + 0.45, title, rows=lines, columns=columns)
        for axes in panels.flat[len(ways) :]:
            axes.axis("off")
        for axes, (name, way), scale in zip(panels.flat, ways.items(), scales, strict=False):
            axes.set_title(drawable(name), fontsize=9 if len(name) < 11 * size else 7.5)
            _draw_plane(axes, way, 0, scale, colors)
            if texts is not None:
                _write(axes, way[0], texts, colors)
        _draw_key(figure, list(ways.values()), 0, colors, " (one scale in all panels)" * same_scale)
    return figure


def descent_figure(way: Way, *, title: str = "", theme: str = "light") -> Figure:
    """The last step of `way` with its arrows and the path so far, and beside it the value of the loss at every step.

    Raises:
        ValueError: as `push_figure`.
    """
    _check(title or "way", way)
    with style(theme) as colors:
        figure, panels = canvas(7.2, 4.6, title, columns=2, width_ratios=[1.65, 1])
        plane, curve = panels[0]
        _draw_plane(plane, way, len(way) - 1, float(way[-1].lengths.max()), colors)
        values = [seen.loss for seen in way]
        curve.plot(values, color=colors.good)
        curve.plot(len(values) - 1, values[-1], "o", color=colors.good, markersize=5)
        steps = max(10, len(values))
        curve.set(xlim=(-0.02 * steps, 1.04 * steps), ylim=(0, 1.1 * max(values) or 1), xlabel="step", title="Loss")
        curve.set_box_aspect(1)
        open_grid(curve)
        _draw_key(figure, [way], -1, colors)
    return figure


def _check(name: str, way: Way) -> None:
    if not way or isinstance(way, Push):
        raise ValueError(f"{name!r} must be a list of at least one push, got {type(way).__name__}")
    if (shape := way[0].points.xy.shape)[-1] != 2:
        raise ValueError(f"{name!r} must lie on a plane, (rows, columns, 2), got {shape}; see loss_plane.projected")


def _draw_plane(axes: Axes, way: Way, at: int, scale: float, colors: Theme) -> None:
    """One panel: circle or rings, paths, ties, arrows and points; below it the loss and what the arrows mean."""
    seen, course = way[at], np.stack([moment.points.xy for moment in way])  # (steps + 1, rows, columns, 2)
    if seen.circle:
        center, half = np.zeros(2), max(1.26, 1.15 * float(np.abs(course).max()))
        axes.plot(*ROUND, color=colors.soft, linewidth=0.8, alpha=0.6, zorder=1)
        axes.plot(0, 0, "+", color=colors.soft, markersize=5, markeredgewidth=0.8)
    else:
        low, high = course.min(axis=(0, 1, 2)), course.max(axis=(0, 1, 2))
        center, half = (low + high) / 2, 0.66 * float((high - low).max()) or 1.0
    (left, bottom), (right, top) = center - half, center + half
    axes.set(xticks=[], yticks=[], aspect="equal", xlim=(left, right), ylim=(bottom, top))
    axes.spines[:].set_visible(not seen.circle)
    factor = REACH * half / scale if scale > SMALLEST else 0.0
    for row, tint in enumerate(_tints(seen, colors)):
        if seen.limits is not None:
            ring = seen.points.xy[row, 0, :, None] + seen.limits[row] * ROUND
            axes.plot(*ring, color=tint, linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.75, zorder=1)
        _draw_tie(axes, seen, row, tint, colors)
        for column in range(len(seen.roles)):
            path, place = course[:, row, column], seen.points.xy[row, column]
            axes.plot(*path.T, color=tint, linewidth=2.6, alpha=0.28, solid_capstyle="round", zorder=2)
            look = _look(seen, row, column, tint, colors)
            if len(way) > 1:
                other = path[-1] if at in (0, -len(way)) else path[0]
                axes.plot(*other, look["marker"], color=tint, alpha=0.45, markersize=3.5, zorder=2)
            axes.plot(*place, zorder=3 if column == 0 and len(seen.roles) > 1 else 4, **look)
            move = seen.arrows[row, column] * factor
            length = float(np.linalg.norm(move)) / half
            if length > 0.012:  # a shorter arrow is hidden by its point
                shape = "-|>,head_length=0.5,head_width=0.22"
                head: dict[str, Any] = {"arrowstyle": shape, "mutation_scale": 10 * np.clip(length / 0.2, 0.4, 1)}
                head |= {"color": colors.ink, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", place + move, place, arrowprops=head, zorder=5)
    strength = float(seen.lengths.max())
    arrows = f"longest arrow: gradient {strength:.2g}" if strength > SMALLEST else "no arrows: the gradient is zero"
    axes.set_xlabel(f"loss {seen.loss:.3g}   {arrows}", fontsize=7.5, loc="left")


def _classes(seen: Push) -> np.ndarray | None:
    """The labels where they are classes or 0 and 1; None where they are scores or missing."""
    labels = seen.points.labels
    return labels if labels is not None and np.issubdtype(labels.dtype, np.integer) else None


def _tints(seen: Push, colors: Theme) -> list[str]:
    """A colour for each row: by its label where that is a class or 0 or 1, else one of its own."""
    classes, count = _classes(seen), len(seen.points.xy)
    if len(seen.roles) > 1 and classes is not None:
        return [colors.good if label else colors.bad for label in classes]
    if len(seen.roles) == 1 and seen.points.labels is None:
        return [colors.good] * count
    places = range(count) if classes is None else np.unique(classes, return_inverse=True)[1]
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
    if len(seen.roles) < 2:
        return
    ends, classes, labels = seen.points.xy[row, :2], _classes(seen), seen.points.labels
    apart = classes is not None and not classes[row]
    axes.plot(*ends.T, color=tint, linewidth=1, linestyle=":" if apart else "-", alpha=0.8, zorder=1)
    if labels is not None and classes is None:
        middle = ends.mean(axis=0) * (0.8 if seen.circle else 1)
        look: dict[str, Any] = {"color": colors.readable(tint), "weight": "bold", "ha": "center", "va": "center"}
        axes.text(middle[0], middle[1], f"{labels[row]:g}", path_effects=halo(colors.background), zorder=6, **look)


def _write(axes: Axes, seen: Push, texts: Sequence[Sequence[str]], colors: Theme) -> None:
    """The texts beside their points: on the side with more room, below where another point lies close above."""
    xy, half, middle = seen.points.xy, np.ptp(axes.get_xlim()) / 2, np.mean(axes.get_xlim())
    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7.5, "path_effects": halo(colors.background)}
    for row, column in np.ndindex(xy.shape[:2]):
        place = xy[row, column]
        left = place[0] > middle
        below = ((np.abs(xy - place).max(axis=-1) < 0.14 * half) & (xy[..., 1] > place[1])).any()
        offset, side = (-9 if left else 9, -14 if below else 8), "right" if left else "left"
        axes.annotate(drawable(texts[row][column], 34), tuple(place), offset, ha=side, zorder=6, **look)


def _key(seen: Push, colors: Theme) -> dict[str, dict[str, Any]]:
    """Legend entries of a panel: their names, and the looks of their lines."""
    entries: dict[str, dict[str, Any]] = {}
    classes, single = _classes(seen), len(seen.roles) == 1
    for column, role in enumerate([] if single and classes is not None else seen.roles):
        entries[role] = _look(seen, 0, column, colors.good if single else colors.soft, colors)
    for row, (label, tint) in enumerate(zip([] if classes is None else classes, _tints(seen, colors), strict=False)):
        tie = {"color": tint, "linestyle": "-" if label else ":"}
        entries[f"{'class' if single else 'label'} {label}"] = _look(seen, row, 0, tint, colors) if single else tie
    if seen.limits is not None:
        entries["the negative must be outside"] = {"color": colors.soft, "linestyle": (0, (4, 3))}
    return entries


def _draw_key(figure: Figure, ways: Sequence[Way], at: int, colors: Theme, scale: str = "") -> None:
    """The legend below the panels, on as many lines as the width needs."""
    entries = {name: look for way in ways for name, look in _key(way[at], colors).items()}
    arrow = {"marker": ">", "markevery": (1, 2), "markersize": 5, "linewidth": 1.4}
    entries[f"negative gradient{scale}"] = {"color": colors.ink, **arrow}
    if any(len(way) > 1 for way in ways):
        entries["path of gradient descent"] = {"color": colors.soft, "linewidth": 2.6, "alpha": 0.4}
    lines = int(np.ceil(sum(0.6 + 0.068 * len(name) for name in entries) / figure.get_figwidth()))
    handles = [Line2D([0, 1], [0, 0], **look) for look in entries.values()]
    columns = -(-len(entries) // lines)
    figure.legend(handles, list(entries), loc="outside lower left", ncols=columns, columnspacing=1.2)
