"""Figures of what losses do to points: who is who, where each is pushed, and the way it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sbertlab.analysis.loss_plane import Push, on_circle
from sbertlab.plots.style import Axes, Figure, Theme, canvas, drawable, open_grid, patheffects, style

REACH = 0.36
"""Length of the longest arrow, as a share of half the width of its panel."""

SMALLEST = 1e-9
"""A gradient below this is none."""

SHAPES = ("o", "s", "v", "P", "X", "D", "^", "p")
"""Of the texts of a row in their order, and of classes; the first one is larger, so that others may lie on it."""

ROUND = np.linspace(0, 360, 181)
"""Angles of a circle, in degrees."""

Way = Sequence[Push]


def push_figure(
    ways: Mapping[str, Way],
    at: int = 0,
    *,
    per_line: int = 4,
    same_scale: bool = False,
    texts: Sequence[Sequence[str]] | None = None,
    title: str = "",
    size: float = 2.9,
    theme: str = "light",
) -> Figure:
    """Points, arrows and ways under one or several losses, side by side.

    In each panel the longest arrow is drawn equally long, and its gradient is said below; with `same_scale` the arrows
    of all panels can be compared.

    Args:
        ways: title of each panel, and what `loss_plane.descend` returned; `[push(...)]` has no way to show.
        at: which moment of the ways is drawn with its arrows; 0 is the start, -1 the end.
        per_line: panels side by side.
        same_scale: one scale of arrows for all panels.
        texts: what to write at each point, rows of columns.
        title: a headline.
        size: width of a panel in inches.
        theme: "light" or "dark".

    Raises:
        ValueError: no way, an empty one, points that are not on a plane, or an unknown theme.
    """
    if not ways:
        raise ValueError("ways must hold at least one panel, got none")
    for name, way in ways.items():
        _check(name, way)
    shown = [way[at] for way in ways.values()]
    widest = max(map(len, ways))
    longest = [float(seen.lengths.max()) for seen in shown]
    columns = min(per_line, len(ways))
    lines = -(-len(ways) // columns)
    footer = "All arrows are drawn to one scale." if same_scale else ""
    with style(theme) as colors:
        figure, panels = canvas(size * columns, (size + 0.35) * lines + 0.3, title, footer, rows=lines, columns=columns)
        for axes in panels.flat[len(ways) :]:
            axes.axis("off")
        scales = [max(longest)] * len(ways) if same_scale else longest
        for axes, (name, way), scale in zip(panels.flat, ways.items(), scales, strict=False):
            axes.set_title(drawable(name, 60), fontsize=9 if widest < 11 * size else 7.5)
            _draw_plane(axes, way, at, scale, colors, texts)
        _draw_legend(figure, shown, any(len(way) > 1 for way in ways.values()), 0.42 * bool(title), colors)
    return figure


def descent_figure(way: Way, *, title: str = "", theme: str = "light") -> Figure:
    """Where points have come to, with the arrows there and the way so far, and how the loss has fallen.

    Args:
        way: what `loss_plane.descend` returned; the last moment is drawn with its arrows.
        title: a headline.
        theme: "light" or "dark".

    Raises:
        ValueError: as `push_figure`.
    """
    _check(title or "way", way)
    with style(theme) as colors:
        figure, panels = canvas(7.2, 4.6, title, columns=2, width_ratios=[1.65, 1])
        plane, curve = panels[0]
        _draw_plane(plane, way, len(way) - 1, float(way[-1].lengths.max()), colors)
        fallen = [seen.loss for seen in way]
        curve.plot(fallen, color=colors.good)
        curve.plot(len(fallen) - 1, fallen[-1], "o", color=colors.good, markersize=5)
        curve.set(xlim=(-0.02 * max(10, len(fallen)), 1.04 * max(10, len(fallen))), xlabel="step")
        curve.set_ylim(0, 1.1 * max(fallen) or 1)
        curve.set_title("Value of the loss")
        curve.set_box_aspect(1)
        open_grid(curve)
        _draw_legend(figure, [way[-1]], True, 0.42 * bool(title), colors)
    return figure


def _check(name: str, way: Way) -> None:
    if not way or isinstance(way, Push):
        raise ValueError(f"{name!r} must be a list of at least one push, got {type(way).__name__}")
    if way[0].points.xy.shape[-1] != 2:
        shape = way[0].points.xy.shape
        raise ValueError(
            f"{name!r} must lie on a plane, (rows, columns, 2), got {shape}; loss_plane.projected does that"
        )


def _draw_plane(
    axes: Axes, way: Way, at: int, scale: float, colors: Theme, texts: Sequence[Sequence[str]] | None = None
) -> None:
    """One panel: circle or rings, ways, ties, arrows, points, and below it the loss and what the arrows mean."""
    seen, course = way[at], np.stack([moment.points.xy for moment in way])  # (steps + 1, rows, columns, 2)
    center, half = _view(seen, course)
    axes.set(xticks=[], yticks=[], aspect="equal")
    axes.set(xlim=(center[0] - half, center[0] + half), ylim=(center[1] - half, center[1] + half))
    axes.spines[:].set_visible(not seen.circle)
    if seen.circle:
        axes.plot(*on_circle(ROUND).T, color=colors.soft, linewidth=0.8, alpha=0.6, zorder=1)
        axes.plot(0, 0, "+", color=colors.soft, markersize=5, markeredgewidth=0.8)
    factor = REACH * half / scale if scale > SMALLEST else 0.0
    tints, xy = _tints(seen, colors), seen.points.xy
    for row, (places, moves) in enumerate(zip(xy, seen.arrows, strict=True)):
        if seen.limits is not None:
            ring = places[0] + seen.limits[row] * on_circle(ROUND)
            axes.plot(*ring.T, color=tints[row], linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.75, zorder=1)
        _draw_tie(axes, seen, row, tints[row], colors)
        for column, (place, move) in enumerate(zip(places, moves, strict=True)):
            path = course[:, row, column]
            axes.plot(*path.T, color=tints[row], linewidth=2.6, alpha=0.28, solid_capstyle="round", zorder=2)
            other = path[-1] if at in (0, -len(way)) else path[0]
            if len(way) > 1:
                axes.plot(*other, _shape(seen, row, column), color=tints[row], alpha=0.45, markersize=3.5, zorder=2)
            if np.linalg.norm(move) * factor > 0.012 * half:  # shorter ones are hidden by their point anyway
                end = place + move * factor
                size = 10 * np.clip(np.linalg.norm(move) * factor / (0.2 * half), 0.4, 1)
                head = {
                    "arrowstyle": "-|>,head_length=0.5,head_width=0.22",
                    "color": colors.ink,
                    "mutation_scale": size,
                }
                axes.annotate(
                    "", end, place, arrowprops={**head, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}, zorder=5
                )
            _draw_point(axes, seen, row, column, tints[row], colors)
            if texts is not None:
                higher = (np.abs(xy - place).max(axis=-1) < 0.14 * half) & (xy[..., 1] > place[1])
                _write(axes, drawable(texts[row][column], 34), place, place[0] > center[0], bool(higher.any()), colors)
    strength = float(seen.lengths.max())
    arrows = f"longest arrow: gradient {strength:.2g}" if strength > SMALLEST else "no arrows: nothing is pushed"
    axes.set_xlabel(f"loss {seen.loss:.3g}   {arrows}", fontsize=7.5, loc="left")


def _view(seen: Push, course: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and half the width of what must be seen: the whole circle, or all points of the way."""
    if seen.circle:
        return np.zeros(2), max(1.26, 1.15 * float(np.abs(course).max()))
    low, high = course.min(axis=(0, 1, 2)), course.max(axis=(0, 1, 2))
    return (low + high) / 2, 0.5 * float((high - low).max()) * 1.32 or 1.0


def _tints(seen: Push, colors: Theme) -> list[str]:
    """A colour for each row: by its label where that is 0 or 1 or a class, else one of its own."""
    labels = seen.points.labels
    if len(seen.roles) == 1 and labels is None:
        return [colors.good] * len(seen.points.xy)
    if labels is None or not _is_class(labels):
        return [colors.palette[row % len(colors.palette)] for row in range(len(seen.points.xy))]
    if len(seen.roles) == 1:
        return [colors.palette[place % len(colors.palette)] for place in np.unique(labels, return_inverse=True)[1]]
    return [colors.good if label else colors.bad for label in labels]


def _is_class(labels: np.ndarray | None) -> bool:
    return labels is not None and np.issubdtype(labels.dtype, np.integer)


def _shape(seen: Push, row: int, column: int) -> str:
    """Shape of a point: by its place in the row, or by its class where a row is one text."""
    labels = seen.points.labels
    if len(seen.roles) == 1 and labels is not None:
        column = int(np.unique(labels, return_inverse=True)[1][row])
    return SHAPES[column % len(SHAPES)]


def _draw_point(axes: Axes, seen: Push, row: int, column: int, tint: str, colors: Theme) -> None:
    first = column == 0 and len(seen.roles) > 1
    negative = seen.roles[column].startswith("negative")
    axes.plot(
        *seen.points.xy[row, column],
        _shape(seen, row, column),
        markersize=11.5 if first else 9 if len(seen.roles) == 1 else 7,
        markerfacecolor=colors.faint(tint, 0.35) if first else colors.background if negative else tint,
        markeredgecolor=tint if first or negative else colors.background,
        markeredgewidth=1.5 if first or negative else 0.8,
        zorder=3 if first else 4,
    )


def _draw_tie(axes: Axes, seen: Push, row: int, tint: str, colors: Theme) -> None:
    """A line between the first two texts of a row, which belong together or are compared; on it, their score."""
    if len(seen.roles) < 2:
        return
    ends, labels = seen.points.xy[row, :2], seen.points.labels
    apart = _is_class(labels) and not seen.points.labels[row]  # type: ignore[index]
    axes.plot(*ends.T, color=tint, linewidth=1, linestyle=":" if apart else "-", alpha=0.8, zorder=1)
    if labels is not None and not _is_class(labels):
        middle = ends.mean(axis=0) * (0.8 if seen.circle else 1)
        halo = [patheffects.withStroke(linewidth=2.5, foreground=colors.background)]
        words: dict[str, Any] = {"color": colors.readable(tint), "weight": "bold", "ha": "center", "va": "center"}
        axes.text(middle[0], middle[1], f"{labels[row]:g}", path_effects=halo, zorder=6, **words)


def _write(axes: Axes, words: str, place: np.ndarray, left: bool, below: bool, colors: Theme) -> None:
    """A text beside its point: on the side where there is room, below where another point lies close above."""
    halo = [patheffects.withStroke(linewidth=2.5, foreground=colors.background)]
    axes.annotate(
        words,
        (place[0], place[1]),
        xytext=(-9 if left else 9, -14 if below else 8),
        textcoords="offset points",
        ha="right" if left else "left",
        fontsize=7.5,
        color=colors.ink,
        path_effects=halo,
        zorder=6,
    )


def _draw_legend(figure: Figure, shown: Sequence[Push], ways: bool, top: float, colors: Theme) -> None:
    """Who is who, in the line under the headline; the same thing is listed once."""
    entries: dict[str, Any] = {}
    axes = figure.axes[0]
    for seen in shown:
        labels, rows = seen.points.labels, seen.points.xy[:, 0]
        if len(seen.roles) > 1:
            for column, role in enumerate(seen.roles):
                hollow = column == 0 or role.startswith("negative")
                entries[role] = _mark(axes, SHAPES[column], colors.soft, colors, hollow, 9 if column == 0 else 6.5)
        tints = _tints(seen, colors)
        for row in range(len(rows)):
            if _is_class(labels):
                name = f"{'label' if len(seen.roles) > 1 else 'class'} {labels[row]}"  # type: ignore[index]
                pair = _key(axes, color=tints[row], linestyle="-" if labels[row] else ":")  # type: ignore[index]
                entries[name] = pair if len(seen.roles) > 1 else _mark(axes, _shape(seen, row, 0), tints[row], colors)
            elif len(seen.roles) == 1:
                entries["text"] = _mark(axes, "o", tints[row], colors)
        if seen.limits is not None:
            entries["the negative must be outside"] = _key(axes, color=colors.soft, linestyle=(0, (4, 3)))
    arrow = _key(axes, color=colors.ink, marker=">", markevery=(1, 2), markersize=5, linewidth=1.4)
    entries["where the loss pushes it"] = arrow
    if ways:
        entries["its way, step by step"] = _key(axes, color=colors.soft, linewidth=2.6, alpha=0.4)
    width, height = figure.get_size_inches()
    lines = int(np.ceil(sum(0.55 + 0.068 * len(name) for name in entries) / width))
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="upper left",
        bbox_to_anchor=(0.02 / width, 1 - top / height),
        ncols=-(-len(entries) // lines),
        frameon=False,
        fontsize=8,
        handletextpad=0.5,
        columnspacing=1.2,
        labelcolor=colors.soft,
    )
    engine = figure.get_layout_engine()
    left, bottom, right, share = engine.get()["rect"]  # type: ignore[union-attr]
    engine.set(rect=(left, bottom, right, share - (0.12 + 0.19 * lines) / height))  # type: ignore[union-attr,call-arg]


def _mark(axes: Axes, shape: str, tint: str, colors: Theme, hollow: bool = False, size: float = 6.5) -> Any:
    face = colors.background if hollow else tint
    return _key(axes, linestyle="", marker=shape, color=tint, markerfacecolor=face, markersize=size)


def _key(axes: Axes, **look: Any) -> Any:
    """A line for the legend only."""
    return axes.plot([], [], **look)[0]
