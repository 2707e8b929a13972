"""Figures: one style, one function a figure; each returns a matplotlib Figure for a light or a dark page.

Colours are safe for colour-blind eyes, series are named where they lie rather than in a legend, and a figure says what
its marks mean. Save one with `figure.savefig("name.svg")`; in a notebook, the last expression of a cell shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

try:
    import matplotlib.pyplot as plt
    from matplotlib import font_manager, patheffects
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm, to_hex, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, Rectangle
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError('figures need matplotlib: pip install "sbertlab[lab]"') from error

FAMILIES = ("STS", "duplicates", "reranking", "retrieval", "clustering")
"""Task families in the order in which the benchmark's figure shows them."""

FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji")
"""matplotlib's own font, so that a figure is the same everywhere; the others, where installed, for what it lacks."""

MARKERS = "o^s"
"""Shapes of points: the next one when the colours have all been used."""


@dataclass(frozen=True)
class Theme:
    """Colours of a page: background, text, secondary text, thin lines, and of what is shown on it."""

    background: str
    ink: str
    soft: str
    line: str
    palette: tuple[str, ...]

    @property
    def good(self) -> str:
        """Fine-tuned, positive, kept."""
        return self.palette[0]

    @property
    def bad(self) -> str:
        """Worse, negative, cut off."""
        return self.palette[1]

    def readable(self, color: str) -> str:
        """The colour drawn towards that of the text, for letters."""
        return to_hex(0.6 * np.array(to_rgb(color)) + 0.4 * np.array(to_rgb(self.ink)))

    def faint(self, color: str, share: float = 0.18) -> str:
        """The colour drawn towards the background, for areas."""
        return to_hex(share * np.array(to_rgb(color)) + (1 - share) * np.array(to_rgb(self.background)))


THEMES = {
    "light": Theme(
        background="#ffffff",
        ink="#1b1f24",
        soft="#5f6873",
        line="#e1e5ea",
        palette=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#8c8c3a"),
    ),
    "dark": Theme(
        background="#12161c",
        ink="#eceff2",
        soft="#9ba6b2",
        line="#2c343e",
        palette=("#4ba3e3", "#ef7f3b", "#1fbf92", "#e091bd", "#f0b53a", "#9bd6ff", "#a795e0", "#bdb95a"),
    ),
}
"""The two pages a figure can be drawn for."""


@contextmanager
def style(theme: str = "light") -> Iterator[Theme]:
    """Within the context, matplotlib draws in the project's style, and the colours of the page are given.

    Args:
        theme: "light" or "dark".

    Raises:
        ValueError: another theme.

    >>> with style("dark") as colors:
    ...     colors.background == plt.rcParams["figure.facecolor"]
    True
    """
    if theme not in THEMES:
        raise ValueError(f"theme must be one of {tuple(THEMES)}, got {theme!r}")
    colors = THEMES[theme]
    settings: dict[str, Any] = {
        "figure.facecolor": colors.background,
        "figure.dpi": 144,
        "savefig.facecolor": "auto",
        "axes.facecolor": colors.background,
        "axes.edgecolor": colors.line,
        "axes.labelcolor": colors.soft,
        "axes.labelsize": 8.5,
        "axes.titlecolor": colors.ink,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.prop_cycle": plt.cycler(color=colors.palette),
        "grid.color": colors.line,
        "grid.linewidth": 0.8,
        "xtick.color": colors.line,
        "ytick.color": colors.line,
        "xtick.labelcolor": colors.soft,
        "ytick.labelcolor": colors.soft,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "text.color": colors.ink,
        "text.parse_math": False,
        "font.family": [name for name in FONTS if name in set(font_manager.get_font_names())],
        "font.size": 9,
        "lines.linewidth": 1.6,
        "svg.fonttype": "none",
    }
    with plt.rc_context(settings):
        yield colors


def embedding_map(
    xy: np.ndarray,
    labels: Sequence[Any] | None = None,
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
    labels: Sequence[Any] | None = None,
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
    for name, column in (("labels", labels), ("texts", texts)):
        for xy in places.values():
            if column is not None and len(column) != len(xy):
                raise ValueError(f"{name} must be one a point, got {len(column)} for {len(xy)} points")
    with style(theme) as colors:
        figure, panels = _canvas(size * len(maps), size * 0.86, title, columns=len(maps))
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
                _draw_scale(axes, xy, values.astype(float), drawable(getattr(labels, "name", None) or "", 20), colors)
            else:
                _draw_groups(axes, xy, values, texts, colors)
    return figure


def is_continuous(labels: pd.Series) -> bool:
    """Whether labels are numbers to be shown on a colour scale rather than names of groups.

    >>> is_continuous(pd.Series([0.1, 0.2, None] * 20)), is_continuous(pd.Series(range(25)))
    (False, True)
    """
    known = labels.dropna()
    numbers = all(isinstance(value, (int, float, np.number)) and not isinstance(value, bool) for value in known)
    return numbers and known.nunique() > 24


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
    [[50.0, 60.0]]
    """
    angles = np.pi / 2 + np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).round(9)
    square = circle / np.abs(circle).max(axis=1, keepdims=True)
    rings = np.array([0, 0.5, 1, 2, 3.5, 5.5, 8, 12])[:, None, None]
    steps = np.linspace(0, 1, 12)[:, None]
    low, high = np.array(bounds[:2]), np.array(bounds[2:])
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
            distance = np.linalg.norm(np.clip(np.abs(places - anchor) - half, 0, None), axis=1) / sizes[index, 1]
            crowd = np.minimum(covered, 4) + 60 * covered / max(len(points), 1)
            centres[index] = places[
                np.argmin(gap.prod(axis=2).sum(axis=1) + 3 * (crosses + crossed) + crowd + distance)
            ]
    return centres


def similarity_heatmap(
    similarities: np.ndarray,
    texts: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Similarities of texts as a table of colours: blue for alike, orange for opposed, the page's own colour for zero.

    The scale is -1 to 1 in every figure, so that two of them can be compared. Up to 16 columns carry their numbers.

    Args:
        similarities: `(rows, columns)`, cosines.
        texts: one a row.
        columns: one a column, the same as the rows when None; they are numbered when the texts are those of the rows.
        title: a headline.
        theme: "light" or "dark".

    Raises:
        ValueError: a matrix that does not fit the texts, or NaN in it.
    """
    matrix = _numbers(similarities, "similarities", dimensions=2)
    names = list(texts) if columns is None else list(columns)
    if matrix.shape != (len(texts), len(names)):
        raise ValueError(
            f"similarities must have the shape ({len(texts)}, {len(names)}), one a text, got {matrix.shape}"
        )
    rows, count = matrix.shape
    cell = 0.44 if count <= 16 else max(0.44 * 16 / count, 0.12)
    numbered = columns is None
    left = [drawable(text, 48) + (f"  {number}" if numbered else "") for number, text in enumerate(texts, start=1)]
    with style(theme) as colors:
        width = 0.3 + 0.068 * max(len(line) for line in left) + cell * count + (0 if numbered else 1)
        figure, panels = _canvas(width, cell * rows + (0.6 if numbered else 1.7), title)
        axes = panels[0, 0]
        steps = [colors.palette[1], colors.background, colors.palette[0]]
        scale = LinearSegmentedColormap.from_list("similarity", steps)
        axes.pcolormesh(matrix, cmap=scale, norm=TwoSlopeNorm(0, -1, 1), edgecolors=colors.background, linewidth=1.5)
        axes.set(xlim=(0, count), ylim=(rows, 0))
        if numbered:
            _table_axes(axes, colors, left, [str(number) for number in range(1, count + 1)])
        else:
            _table_axes(axes, colors, left, [drawable(name, 30) for name in names])
            axes.tick_params(axis="x", labelrotation=35)
            for label in axes.get_xticklabels():
                label.set(ha="left", rotation_mode="anchor")
        if count <= 16:
            for (row, column), value in np.ndenumerate(matrix):
                color = colors.background if abs(value) > 0.8 else colors.ink
                axes.text(column + 0.5, row + 0.5, f"{value:z.2f}", ha="center", va="center", fontsize=7.5, color=color)
    return figure


def training_history(history: pd.DataFrame, *, title: str = "", theme: str = "light") -> Figure:
    """What happened in training, step by step: loss, metric, learning rate, gradient norm, throughput, padding.

    What jumps from step to step is drawn faint, with a running mean over a fifteenth of the run; a dotted line ends an
    epoch.

    Args:
        history: what `fit` returns: columns step, epoch, objective, loss, lr, gradient_norm, tokens_per_second,
            padding_share, metric. Panels without any number are left out.
        title: a headline.
        theme: "light" or "dark".

    Raises:
        ValueError: columns are missing, or there is no row with a number.
    """
    panels = {
        "loss": "Loss",
        "metric": "Metric of the evaluator",
        "lr": "Learning rate",
        "gradient_norm": "Gradient norm before clipping",
        "tokens_per_second": "Tokens a second",
        "padding_share": "Padding",
    }
    _check_columns(history, ["step", "epoch", "objective", *panels], "history")
    shown = [column for column in panels if history[column].notna().any()]
    if not shown:
        raise ValueError(f"history has no number in any of the columns {list(panels)}")
    width = min(3, len(shown))
    height = -(-len(shown) // width)
    ends = history.groupby("epoch")["step"].max().tolist()[:-1]
    with style(theme) as colors:
        figure, grid = _canvas(2.9 * width, 1.9 * height, title, rows=height, columns=width)
        for axes, column in zip(grid.flat, shown, strict=False):
            axes.set_title(panels[column])
            _open_grid(axes)
            for end in ends:
                axes.axvline(end + 0.5, color=colors.soft, linewidth=0.7, linestyle=":")
            if column in ("metric", "lr"):
                series = history.groupby("step")[column].last().dropna()
                _draw_steps(axes, series, colors.good, colors, column)
            else:
                parts = list(history.groupby("objective", sort=False))
                for index, (objective, rows) in enumerate(parts):
                    color = colors.palette[index % len(colors.palette)]
                    _draw_steps(axes, rows.set_index("step")[column].dropna(), color, colors, column)
                    if column == "loss" and len(parts) > 1:
                        spot, name = (1, 1 - 0.1 * index), drawable(str(objective), 34)
                        shade = colors.readable(color)
                        axes.text(*spot, name, transform=axes.transAxes, ha="right", va="top", color=shade, fontsize=8)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
            margin = 0.03 * max(history["step"].max() - history["step"].min(), 1)
            axes.set_xlim(history["step"].min() - margin, history["step"].max() + margin)
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for axes in grid.flat[max(len(shown) - width, 0) : len(shown)]:
            axes.set_xlabel("step")
    return figure


def benchmark_figure(
    table: pd.DataFrame,
    *,
    title: str = "Base encoders before and after fine-tuning",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """A ranking of models, from untuned (ring) to fine-tuned (dot), in the mean and by task family.

    A model's mean is the plain mean over all tasks, a family's value that over its tasks; the number beside it is that of
    the dot, or of the ring where there is no dot. Ticks below are the seeds. Models are ranked by the fine-tuned mean, by
    the untuned one where there is no other; a model that misses a task has no mean and comes last.

    Args:
        table: one row a model, variant, seed and task, with the columns model, variant ("untuned" or "fine-tuned"),
            seed, task, family, value (0 to 100).
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: columns are missing, no row, an unknown variant, values that are not finite.
    """
    scores = benchmark_scores(table)
    means = scores.groupby(level=["model", "variant"])["mean"].mean()
    best = {model: group.droplevel("model").get("fine-tuned", group.iloc[0]) for model, group in means.groupby("model")}
    ranking = pd.Series(best).sort_values(ascending=False, na_position="last").index
    low = 10 * np.floor((np.nanmin(scores.to_numpy()) - 4) / 10)
    seeds = table.groupby(["model", "variant"])["seed"].nunique().max()
    footer = f"Mean of {table['task'].nunique()} tasks; scores from 0 to 100."
    footer += f" Dots: mean of {seeds} seeds, ticks below: every seed." if seeds > 1 else ""
    with style(theme) as colors:
        figure, grid = _canvas(
            4.2 + 1.02 * (scores.shape[1] - 1),
            0.85 + 0.44 * len(ranking),
            title,
            footer=f"{footer} {note}".strip(),
            columns=scores.shape[1],
            width_ratios=[2.1] + [1] * (scores.shape[1] - 1),
            share=True,
        )
        for axes, (column, values) in zip(grid.flat, scores.items(), strict=True):
            is_mean = column == "mean"
            axes.set_title("Mean" if is_mean else drawable(str(column), 20), pad=16)
            axes.set_xlim(low, 100 if is_mean else 100 + 0.44 * (100 - low))
            axes.set_xticks(scale := [value for value in range(20, 101, 20 if is_mean else 40) if value >= low])
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.vlines(scale, -0.5, len(ranking) - 0.5, color=colors.line, linewidth=0.8)
            for row, model in enumerate(ranking):
                axes.axhline(row + 0.5, color=colors.line, linewidth=0.8)
                seeds_of = dict(list(values.loc[model].dropna().groupby(level="variant")))
                _draw_change(axes, row, seeds_of, colors, numbers_at=None if is_mean else 100 + 0.44 * (100 - low))
        names = ["\n".join(wrap(drawable(str(model), 60), 24, break_on_hyphens=False)) for model in ranking]
        grid[0, 0].set_ylim(len(ranking) - 0.5, -0.5)
        grid[0, 0].set_yticks(range(len(ranking)), names, color=colors.ink, fontsize=9)
        _name_variants(grid[0, 0], means.loc[ranking[0]], colors)
    return figure


def benchmark_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of each model, variant and seed (rows): the mean over all tasks, then over the tasks of each family.

    A model that misses a task has NaN there. Arguments and errors are those of `benchmark_figure`.

    >>> table = pd.DataFrame({"task": ["a", "b", "c"], "family": ["STS", "STS", "x"], "value": [60.0, 70.0, 5.0]})
    >>> table = table.assign(model="m", variant="untuned", seed=0)
    >>> benchmark_scores(table).iloc[0].to_dict()
    {'mean': 45.0, 'STS': 65.0, 'x': 5.0}
    """
    _check_columns(table, ["model", "variant", "seed", "task", "family", "value"], "table")
    if unknown := set(table["variant"]) - {"untuned", "fine-tuned"}:
        raise ValueError(f'variant must be "untuned" or "fine-tuned", got {sorted(map(str, unknown))}')
    _numbers(table["value"], "the column value")
    rows = table.assign(seed=table["seed"].fillna(0))
    tasks = rows.pivot_table(index=["model", "variant", "seed"], columns=["family", "task"], values="value", sort=False)
    known = [family for family in FAMILIES if family in set(table["family"])]
    families = known + [family for family in table["family"].unique() if family not in known]
    scores = {family: tasks[family].mean(axis=1, skipna=False) for family in families}
    return pd.DataFrame({"mean": tasks.mean(axis=1, skipna=False), **scores})


def token_lengths(lengths: Sequence[int], max_seq_length: int, *, title: str = "", theme: str = "light") -> Figure:
    """How many tokens texts have, and which of them the model cuts.

    Args:
        lengths: tokens of each text before any cut, special tokens included.
        max_seq_length: tokens that the model reads.
        title: a headline.
        theme: "light" or "dark".

    Raises:
        ValueError: no length, one below zero or not finite, or `max_seq_length` below 1.
    """
    counts = _numbers(lengths, "lengths")
    if counts.min() < 0 or max_seq_length < 1:
        raise ValueError(
            f"lengths must not be negative and max_seq_length at least 1, got {counts.min()}, {max_seq_length}"
        )
    step = max(1, int(np.ceil(counts.max() / 60)))
    # an edge lies right behind max_seq_length, so that a bar is either kept or cut
    edges = (
        max_seq_length
        + 0.5
        + step * np.arange(-(max_seq_length // step + 1), (counts.max() - max_seq_length) // step + 2)
    )
    cut = counts > max_seq_length
    with style(theme) as colors:
        figure, panels = _canvas(6.4, 3.2, title)
        axes = panels[0, 0]
        for chosen, color in ((~cut, colors.good), (cut, colors.bad)):
            axes.hist(counts[chosen], bins=edges, color=color, edgecolor=colors.background, linewidth=0.6)
        axes.set(xlabel="tokens a text", ylabel="texts", xlim=(0, max(edges[-1], 1.04 * counts.max())))
        axes.margins(y=0.12)
        _open_grid(axes)
        if counts.max() > 0.5 * max_seq_length:
            axes.axvline(max_seq_length + 0.5, color=colors.bad, linewidth=1.2)
            text = {"ha": "right", "va": "top", "fontsize": 8.5, "color": colors.readable(colors.bad)}
            spot = (max_seq_length + 0.5, 1)
            where = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
            axes.annotate(f"max_seq_length = {max_seq_length}", spot, (-5, -1), **where, **text)
        summary = [
            f"{len(counts):,} texts",
            f"median {np.median(counts):.0f} tokens",
            f"95% have at most {np.percentile(counts, 95):.0f}",
            f"{cut.sum():,} ({cut.mean():.1%}) lose their end",
        ]
        axes.set_title(" · ".join(summary), fontsize=8, fontweight="normal", color=colors.soft)
    return figure


def similarity_distributions(
    positive: Sequence[float],
    negative: Sequence[float],
    *,
    before: tuple[Sequence[float], Sequence[float]] | None = None,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """How well similarities tell pairs that belong together from pairs that do not.

    AUC is the share of (positive, negative) couples in which the positive pair is the more similar one.

    Args:
        positive: similarities of pairs that belong together.
        negative: those of pairs that do not.
        before: positive and negative of the model before training, drawn above on the same scale.
        title: a headline.
        theme: "light" or "dark".

    Raises:
        ValueError: no number, or one that is not finite.
    """
    shown = {"": (positive, negative)} if before is None else {"before": before, "after": (positive, negative)}
    pairs = {
        name: (_numbers(first, f"positive {name}".strip()), _numbers(second, f"negative {name}".strip()))
        for name, (first, second) in shown.items()
    }
    everything = np.concatenate([values for pair in pairs.values() for values in pair])
    bins = np.linspace(everything.min(), everything.max() + 1e-9, 41)
    with style(theme) as colors:
        figure, panels = _canvas(6.4, 1.1 + 1.9 * len(pairs), title, rows=len(pairs), share=True)
        for axes, (name, (good, bad)) in zip(panels.flat, pairs.items(), strict=True):
            auc = roc_auc_score(np.r_[np.ones(len(good)), np.zeros(len(bad))], np.r_[good, bad])
            axes.set_title(f"{name} · AUC {auc:.3f}".removeprefix(" · "))
            for values, other, label, color in (
                (bad, good, "negative", colors.bad),
                (good, bad, "positive", colors.good),
            ):
                shares = np.full(len(values), 100 / len(values))
                heights, *_ = axes.hist(values, bins=bins, weights=shares, color=color, alpha=0.28)
                axes.hist(values, bins=bins, weights=shares, color=color, histtype="step", linewidth=1.4)
                # on the slope that looks away from the other distribution
                right = np.median(values) >= np.median(other)
                slope = np.quantile(values, 0.8 if right else 0.2)
                spot = (slope, heights[np.searchsorted(bins, slope) - 1])
                text = {"ha": "left" if right else "right", "va": "bottom", "color": colors.readable(color)}
                name = f"{label}\nmedian {np.median(values):.2f}"
                axes.annotate(name, spot, (5 if right else -5, 0), textcoords="offset points", fontsize=8.5, **text)
            axes.set_ylabel("% of pairs")
            axes.margins(x=0.08, y=0.1)
            _open_grid(axes)
        panels[-1, 0].set_xlabel("similarity")
    return figure


def architecture(
    modules: Sequence[tuple[str, Sequence[int]]],
    tokens: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
    *,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """The way of one batch through the model: modules from left to right, and below each what comes out of it.

    A row of cells is a token and a column a dimension; texts of the batch lie behind one another. Long ones are shortened.

    Args:
        modules: name and shape of the output of each, such as `("Tokenizer", (2, 9))`, `("Transformer", (2, 9, 384))`,
            `("Pooling", (2, 384))`. Two sizes are (batch, tokens) before the first three sizes, (batch, dim) after.
        tokens: of one text, written beside their rows.
        notes: one or two lines below the name of a module, by that name.
        title: a headline.
        theme: "light" or "dark".

    Raises:
        ValueError: no module, or a shape that has neither two nor three positive sizes.
    """
    if not modules:
        raise ValueError("modules must hold at least one (name, shape), got none")
    for name, shape in modules:
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(
                f"a shape must be (batch, tokens), (batch, tokens, dim) or (batch, dim), got {shape} of {name}"
            )
    step, half, top, bottom = 1.8, 0.7, 2.85, 2.2
    first_dim = next((index for index, (_, shape) in enumerate(modules) if len(shape) == 3), 0)
    widest = max(shape[-1] for _, shape in modules[first_dim:])
    with style(theme) as colors:
        figure, panels = _canvas(step * len(modules), top + 0.1, title)
        axes = panels[0, 0]
        axes.set(xlim=(0, step * len(modules)), ylim=(0, top + 0.05))
        axes.set_axis_off()
        centred: dict[str, Any] = {"ha": "center", "va": "center"}
        for index, (name, shape) in enumerate(modules):
            color = colors.palette[index % len(colors.palette)]
            middle = step * (index + 0.5)
            look = {"boxstyle": "round,pad=0,rounding_size=0.1", "facecolor": colors.faint(color), "edgecolor": color}
            axes.add_patch(FancyBboxPatch((middle - half, bottom), 2 * half, top - bottom, **look))
            note = wrap(drawable((notes or {}).get(name, ""), 52), 26)
            lift = 0.085 * len(note)
            centre = (top + bottom) / 2
            axes.text(middle, centre + lift, drawable(name, 20), weight="bold", color=colors.readable(color), **centred)
            axes.text(middle, centre - 0.1, "\n".join(note), fontsize=6.5, color=colors.soft, **centred)
            arrow = {"arrowstyle": "-|>", "color": colors.soft, "shrinkA": 2, "shrinkB": 2, "linewidth": 1}
            if index:
                axes.annotate("", (middle - half, centre), (middle - step + half, centre), arrowprops=arrow)
            axes.plot([middle, middle], [bottom - 0.04, bottom - 0.2], color=color, linewidth=1)
            kind = (
                ("batch", "tokens", "dim") if len(shape) == 3 else ("batch", "dim" if index >= first_dim else "tokens")
            )
            rows = shape[1] if "tokens" in kind else 1
            columns = max(2, round(8 * shape[-1] / widest)) if "dim" in kind else 1
            _draw_tensor(axes, middle, (shape[0], rows, columns), tokens if kind[-1] == "tokens" else (), color, colors)
            axes.text(
                middle, 0.3, " \N{MULTIPLICATION SIGN} ".join(f"{size:,}" for size in shape), weight="bold", **centred
            )
            axes.text(middle, 0.1, ", ".join(kind), fontsize=7.5, color=colors.soft, **centred)
    return figure


def pooling_shares(token_embeddings: np.ndarray) -> pd.DataFrame:
    """How much each token gives to the pooled vector, by pooling mode; every row sums to 1.

    cls, mean and lasttoken weigh tokens alike for all dimensions, and so does weightedmean, by their position 1, 2, ...;
    max takes each dimension from the token where it is largest, so its shares are of dimensions.

    Args:
        token_embeddings: `(tokens, dim)` of one text, without padding.

    Raises:
        ValueError: not a finite matrix.

    >>> pooling_shares(np.array([[1.0, 5.0], [2.0, 0.0]])).round(2).loc[["max", "weightedmean"]].values.tolist()
    [[0.5, 0.5], [0.33, 0.67]]
    """
    rows = _numbers(token_embeddings, "token_embeddings", dimensions=2)
    count = len(rows)
    shares = {
        "cls": np.eye(count)[0],
        "mean": np.full(count, 1 / count),
        "max": np.bincount(rows.argmax(axis=0), minlength=count) / rows.shape[1],
        "weightedmean": np.arange(1, count + 1) / (count * (count + 1) / 2),
        "lasttoken": np.eye(count)[-1],
    }
    return pd.DataFrame(shares).T


def pooling_comparison(
    token_embeddings: np.ndarray, tokens: Sequence[str], *, title: str = "", theme: str = "light"
) -> Figure:
    """What each pooling takes from each token of a text, in percent (see `pooling_shares`).

    Args:
        token_embeddings: `(tokens, dim)` of one text, without padding.
        tokens: their spelling.
        title: a headline.
        theme: "light" or "dark".

    Raises:
        ValueError: embeddings that are not a finite matrix, or tokens of another number.
    """
    shares = pooling_shares(token_embeddings)
    if len(tokens) != shares.shape[1]:
        raise ValueError(f"tokens must be one a row of token_embeddings, got {len(tokens)} for {shares.shape[1]} rows")
    spelled = [drawable(token, 14) for token in tokens]
    cell = max(0.42, 0.07 * max(len(token) for token in spelled) + 0.1)
    with style(theme) as colors:
        figure, panels = _canvas(max(1.2 + cell * len(tokens), 6), 2.6, title)
        axes = panels[0, 0]
        steps = LinearSegmentedColormap.from_list("share", [colors.background, colors.good])
        axes.pcolormesh(shares.to_numpy() ** 0.5, cmap=steps, vmin=0, vmax=1, edgecolors=colors.background, linewidth=2)
        axes.set_ylim(len(shares), 0)
        _table_axes(axes, colors, list(shares.index), spelled)
        for (row, column), share in np.ndenumerate(shares.to_numpy()):
            color = colors.background if share > 0.64 else colors.ink if share else colors.soft
            text = f"{100 * share:.0f}" if share else "·"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=color)
        note = "% of the sentence vector that comes from each token; for max, % of its dimensions"
        axes.set_xlabel(note, fontsize=7.5, loc="left")
    return figure


def drawable(text: str, width: int = 60) -> str:
    """The text on one line, at most `width` characters, with a box for what no installed font can draw.

    >>> drawable("  two\\n lines <b>&</b>  "), drawable("abcdefgh", 5)
    ('two lines <b>&</b>', 'abcd…')
    """
    line = " ".join(str(text).split())
    line = line if len(line) <= width else line[: width - 1].rstrip() + "…"
    return "".join(letter if ord(letter) in _glyphs() else "□" for letter in line)


@cache
def _glyphs() -> set[int]:
    """Code points that the fonts of the style can draw."""
    names = [name for name in FONTS if name in set(font_manager.get_font_names())]
    return {code for name in names for code in font_manager.get_font(font_manager.findfont(name)).get_charmap()}


def _canvas(
    width: float,
    height: float,
    title: str = "",
    footer: str = "",
    rows: int = 1,
    columns: int = 1,
    width_ratios: Sequence[float] | None = None,
    share: bool = False,
) -> tuple[Figure, np.ndarray]:
    """A figure (inches) with a headline and a footer, and its panels `(rows, columns)`; pyplot forgets it at once."""
    top, bottom = 0.42 * bool(title), 0.28 * bool(footer)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(width, height + top + bottom),
        squeeze=False,
        layout="constrained",
        width_ratios=width_ratios,
        sharex=share and columns == 1,
        sharey=share,
    )
    plt.close(figure)
    height += top + bottom
    layout = figure.get_layout_engine()
    layout.set(rect=(0, bottom / height, 1, 1 - (top + bottom) / height), w_pad=0.08, h_pad=0.08)
    figure.text(0.1 / width, 1 - 0.12 / height, drawable(title, 120), va="top", fontsize=12.5, weight="bold")
    soft = plt.rcParams["axes.labelcolor"]
    figure.text(0.1 / width, 0.1 / height, drawable(footer, 240), va="bottom", fontsize=7.5, color=soft)
    return figure, panels


def _draw_scale(axes: Axes, xy: np.ndarray, values: pd.Series, name: str, colors: Theme) -> None:
    """Points coloured by a number, and the scale of it."""
    known = values.notna().to_numpy()
    look: dict[str, Any] = {"s": _point_size(len(xy)), "linewidths": 0, "rasterized": len(xy) > 3000}
    steps = [colors.faint(colors.good, 0.35), colors.good, colors.ink]
    axes.scatter(*xy[~known].T, color=colors.line, **look)
    points = axes.scatter(*xy[known].T, c=values[known], cmap=LinearSegmentedColormap.from_list("scale", steps), **look)
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
    marks, shades = [], {}
    for index, name in enumerate(shown):
        members = np.flatnonzero(names == name)
        shades[name] = colors.palette[index % len(colors.palette)]
        marker = MARKERS[index // len(colors.palette)]
        axes.scatter(*xy[members].T, color=shades[name], marker=marker, alpha=0.85, **look)
        centre = members[_densest(xy[members])]
        marks.append((xy[centre], name, "" if texts is None else texts[centre], shades[name]))
    if texts is not None and len(xy) <= 30:
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
    if not marks:
        return
    figure = axes.figure
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
    bounds = (area.x0, area.y0, area.x1, area.y1)
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


def _draw_steps(axes: Axes, series: pd.Series, color: str, colors: Theme, column: str) -> None:
    """One quantity over the steps: with points and its best, smooth, or faint with a running mean."""
    if column == "metric":
        axes.plot(series.index, series, color=color, marker="o", markersize=4, clip_on=False)
        best = series.idxmax()
        side = "right" if best > series.index[len(series) // 2] else "left"
        halo = [patheffects.withStroke(linewidth=2.6, foreground=colors.background)]
        text = {"ha": side, "va": "bottom", "fontsize": 8, "color": colors.readable(color), "path_effects": halo}
        axes.annotate(f"best {series[best]:.4f}", (best, series[best]), (0, 5), textcoords="offset points", **text)
        axes.margins(y=0.2)
    elif column == "lr" or len(series) < 20:
        axes.plot(series.index, series, color=color)
    else:
        axes.plot(series.index, series, color=color, alpha=0.28, linewidth=0.8)
        mean = series.rolling(max(5, len(series) // 15), center=True, min_periods=1).mean()
        axes.plot(series.index, mean, color=color)
    if column not in ("loss", "metric"):
        axes.set_ylim(bottom=0)
    formats = {"lr": "{:.2g}", "tokens_per_second": "{:,.0f}", "padding_share": "{:.0%}"}
    if column in formats:
        axes.yaxis.set_major_formatter(lambda value, _: formats[column].format(value).replace("e-0", "e-"))


def _table_axes(axes: Axes, colors: Theme, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names of rows at the left and of columns on top, at the middle of their cells."""
    axes.tick_params(length=0, labelcolor=colors.ink, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)


def _open_grid(axes: Axes) -> None:
    """Level lines in place of an axis on the left."""
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _draw_change(
    axes: Axes, row: int, seeds: dict[str, pd.Series], colors: Theme, numbers_at: float | None = None
) -> None:
    """One model in one panel: ring, line, dot, a tick a seed; the numbers beside them, or the last one at a place."""
    ends = {variant: seeds[variant].mean() for variant in ("untuned", "fine-tuned") if variant in seeds}
    if not ends:
        return
    worse = len(ends) == 2 and ends["fine-tuned"] < ends["untuned"]
    shades = {"untuned": colors.soft, "fine-tuned": colors.bad if worse else colors.good}
    axes.plot(list(ends.values()), [row] * len(ends), color=shades["fine-tuned"], alpha=0.45, linewidth=2.4)
    size = 7 if numbers_at is None else 4.6
    left = min(ends, key=lambda variant: ends[variant]) if len(ends) == 2 else ""
    for variant, place in ends.items():
        face = colors.background if variant == "untuned" else shades[variant]
        ring = {"markerfacecolor": face, "markeredgecolor": shades[variant], "markeredgewidth": 1.4}
        axes.plot(place, row, "o", markersize=size, **ring)
        if len(seeds[variant]) > 1:
            below = np.full(len(seeds[variant]), row + 0.29)
            axes.plot(seeds[variant], below, "|", markersize=4, markeredgewidth=0.9, color=shades[variant])
        strong = variant == "fine-tuned"
        text: dict[str, Any] = {"va": "center", "color": colors.readable(shades[variant]) if strong else colors.soft}
        if numbers_at is None:
            side = (-7, "right") if variant == left else (7, "left")
            text |= {"textcoords": "offset points", "fontsize": 8.5, "weight": "bold" if strong else "normal"}
            axes.annotate(f"{place:.1f}", (place, row), (side[0], 0), ha=side[1], **text)
        elif variant == list(ends)[-1]:
            axes.text(numbers_at, row, f"{place:.1f}", ha="right", fontsize=8, **text)


def _name_variants(axes: Axes, ends: pd.Series, colors: Theme) -> None:
    """The words "untuned" and "fine-tuned" above the first row, each on its side."""
    left = ends.idxmin() if len(ends) == 2 else None
    for variant, place in ends.dropna().items():
        shade = colors.soft if variant == "untuned" else colors.readable(colors.good)
        side = (4, "right") if variant == left else (-4, "left")
        text: dict[str, Any] = {"va": "bottom", "fontsize": 8, "color": shade, "annotation_clip": False}
        axes.annotate(str(variant), (place, -0.5), (side[0], 2), textcoords="offset points", ha=side[1], **text)


def _draw_tensor(
    axes: Axes, middle: float, shape: tuple[int, int, int], tokens: Sequence[str], color: str, colors: Theme
) -> None:
    """Cells `(batch, rows, columns)`, at most 3 sheets of 8 rows; of more rows the first six, dots, and the last."""
    sheets, rows, columns = min(shape[0], 3), min(shape[1], 8), shape[2]
    shortened = shape[1] > rows
    height, shift, lowest = 0.165, 0.06, 0.5
    width = 0.15 if columns > 1 else 0.62
    left = middle - (columns * width + shift * (sheets - 1)) / 2
    top = lowest + (8 * height) if rows > 1 else lowest + 5 * height
    for sheet, row, column in np.ndindex(sheets, rows, columns):
        behind = sheets - 1 - sheet
        strength = 0.18 if behind else 0.3 + 0.6 * ((row * 7 + column * 5) % 9) / 8 if columns > 1 else 0.3
        spot = (left + behind * shift + column * width, top + behind * shift - (row + 1) * height)
        if not (shortened and row == rows - 2):
            look = {"facecolor": colors.faint(color, strength), "edgecolor": colors.background, "linewidth": 0.7}
            axes.add_patch(Rectangle(spot, width, height, zorder=2 + sheet, **look))
    centred: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 9}
    if shortened:
        axes.text(left + columns * width / 2, top - (rows - 1.5) * height, "⋮", color=colors.soft, **centred)
    chosen = [*tokens[: rows - 2], "", tokens[-1]] if len(tokens) > rows else tokens
    for row, token in enumerate(chosen):
        axes.text(
            left + width / 2, top - (row + 0.5) * height, drawable(token, 9), fontsize=6.5, color=colors.ink, **centred
        )


def _places(xy: np.ndarray) -> np.ndarray:
    """Checked coordinates `(n, 2)`."""
    places = _numbers(xy, "xy", dimensions=2)
    if places.shape[1] != 2:
        raise ValueError(f"xy must have the shape (n, 2), got {places.shape}")
    return places


def _numbers(values: Any, name: str, dimensions: int = 1) -> np.ndarray:
    """Checked finite numbers, at least one, with so many dimensions."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error
    if array.ndim != dimensions or not array.size:
        raise ValueError(
            f"{name} must have {dimensions} dimensions and at least one number, got the shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(array))} NaN or infinite values")
    return array


def _check_columns(table: pd.DataFrame, needed: Sequence[str], name: str) -> None:
    if missing := [column for column in needed if column not in table]:
        raise ValueError(f"{name} lacks the columns {missing}; it has {list(table.columns)}")
    if table.empty:
        raise ValueError(f"{name} has no rows")
