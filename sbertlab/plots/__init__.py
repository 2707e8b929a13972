"""Figures: one style, one function a figure; each returns a matplotlib Figure for a light or a dark page.

Colours are safe for colour-blind eyes, series are named where they lie rather than in a legend, and a figure says what
its marks mean. Save one with `figure.savefig("name.svg")`; in a notebook, the last expression of a cell shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from sbertlab.analysis.ranks import benchmark_scores
from sbertlab.checks import check_columns, checked_numbers
from sbertlab.plots.benchmark_plots import benchmark_figure, ranking_figure
from sbertlab.plots.maps import as_floats, embedding_map, is_continuous, map_comparison, place_labels
from sbertlab.plots.style import (
    THEMES,
    Axes,
    FancyBboxPatch,
    Figure,
    LinearSegmentedColormap,
    MaxNLocator,
    Rectangle,
    Theme,
    canvas,
    drawable,
    open_grid,
    patheffects,
    sequential,
    style,
    table_axes,
)

__all__ = [
    "THEMES",
    "architecture",
    "as_floats",
    "benchmark_figure",
    "benchmark_scores",
    "embedding_map",
    "is_continuous",
    "map_comparison",
    "place_labels",
    "pooling_comparison",
    "pooling_shares",
    "ranking_figure",
    "sequential",
    "similarity_distributions",
    "similarity_heatmap",
    "style",
    "token_lengths",
    "training_history",
]


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
    matrix = checked_numbers("similarities", similarities, dimensions=2)
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
        figure, panels = canvas(width, cell * rows + (0.6 if numbered else 1.7), title)
        axes = panels[0, 0]
        steps = [colors.palette[1], colors.background, colors.palette[0]]
        scale = LinearSegmentedColormap.from_list("similarity", steps)
        axes.pcolormesh(matrix, cmap=scale, vmin=-1, vmax=1, edgecolors=colors.background, linewidth=1.5)
        axes.set(xlim=(0, count), ylim=(rows, 0))
        if numbered:
            table_axes(axes, colors, left, [str(number) for number in range(1, count + 1)])
        else:
            table_axes(axes, colors, left, [drawable(name, 30) for name in names])
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
    check_columns("history", history, ["step", "epoch", "objective", *panels])
    shown = [column for column in panels if history[column].notna().any()]
    if not shown:
        raise ValueError(f"history has no number in any of the columns {list(panels)}")
    width = min(3, len(shown))
    height = -(-len(shown) // width)
    ends = history.groupby("epoch")["step"].max().tolist()[:-1]
    with style(theme) as colors:
        figure, grid = canvas(2.9 * width, 1.9 * height, title, rows=height, columns=width)
        for axes, column in zip(grid.flat, shown, strict=False):
            axes.set_title(panels[column])
            open_grid(axes)
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
                if column == "loss" and len(parts) > 1:
                    low, high = axes.get_ylim()
                    axes.set_ylim(top=high + 0.12 * len(parts) * (high - low))  # room for the names
            if column not in ("loss", "metric"):
                axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
            margin = 0.03 * max(history["step"].max() - history["step"].min(), 1)
            axes.set_xlim(history["step"].min() - margin, history["step"].max() + margin)
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for axes in grid.flat[max(len(shown) - width, 0) : len(shown)]:
            axes.set_xlabel("step")
    return figure


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
    counts = checked_numbers("lengths", lengths)
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
        figure, panels = canvas(6.4, 3.2, title)
        axes = panels[0, 0]
        for chosen, color in ((~cut, colors.good), (cut, colors.bad)):
            axes.hist(counts[chosen], bins=edges, color=color, edgecolor=colors.background, linewidth=0.6)
        axes.set(xlabel="tokens a text", ylabel="texts", xlim=(0, max(edges[-1], 1.04 * counts.max())))
        axes.margins(y=0.12)
        open_grid(axes)
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
        name: (checked_numbers(f"positive {name}".strip(), first), checked_numbers(f"negative {name}".strip(), second))
        for name, (first, second) in shown.items()
    }
    everything = np.concatenate([values for pair in pairs.values() for values in pair])
    bins = np.linspace(everything.min(), everything.max() + 1e-9, 41)
    with style(theme) as colors:
        figure, panels = canvas(6.4, 1.1 + 1.9 * len(pairs), title, rows=len(pairs), share=True)
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
                # on the slope that looks away from the other distribution, above all that lies beyond
                right = np.median(values) >= np.median(other)
                slope = np.quantile(values, 0.8 if right else 0.2)
                bar = int(np.searchsorted(bins, slope, side="right")) - 1
                spot = (slope, (heights[bar:] if right else heights[: bar + 1]).max())
                text = {"ha": "left" if right else "right", "va": "bottom", "color": colors.readable(color)}
                caption = f"{label}\nmedian {np.median(values):.2f}"
                axes.annotate(caption, spot, (5 if right else -5, 0), textcoords="offset points", fontsize=8.5, **text)
            axes.set_ylabel("% of pairs")
            axes.margins(x=0.08, y=0.1)
            open_grid(axes)
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

    A row of cells is a token and a column a dimension; texts of the batch lie behind one another. Long texts are cut.

    Args:
        modules: name and shape of the output of each, such as `("Tokenizer", (2, 9))`, `("Transformer", (2, 9, 384))`,
            `("Pooling", (2, 384))`. Two sizes are (batch, tokens) before the first three sizes, (batch, dim) after;
            without any three sizes the first module alone gives tokens.
        tokens: of one text, written on their rows.
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
    first_dim = next((index for index, (_, shape) in enumerate(modules) if len(shape) == 3), 1)
    widest = max((shape[-1] for _, shape in modules[first_dim:]), default=1)
    with style(theme) as colors:
        figure, panels = canvas(step * len(modules), top + 0.1, title)
        axes = panels[0, 0]
        axes.set(xlim=(0, step * len(modules)), ylim=(0, top + 0.05))
        axes.set_axis_off()
        centred: dict[str, Any] = {"ha": "center", "va": "center"}
        for index, (name, shape) in enumerate(modules):
            color = colors.palette[index % len(colors.palette)]
            middle = step * (index + 0.5)
            look: dict[str, Any] = {
                "boxstyle": "round,pad=0,rounding_size=0.1",
                "facecolor": colors.faint(color),
                "edgecolor": color,
            }
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

    cls, mean and lasttoken weigh tokens alike for all dimensions, and so does weightedmean, by their position 1, 2, ...
    Of max, which takes each dimension from the token where it is largest, the shares are of dimensions.

    Args:
        token_embeddings: `(tokens, dim)` of one text, without padding.

    Raises:
        ValueError: not a finite matrix.

    >>> pooling_shares(np.array([[1.0, 5.0], [2.0, 0.0]])).round(2).loc[["max", "weightedmean"]].values.tolist()
    [[0.5, 0.5], [0.33, 0.67]]
    """
    rows = checked_numbers("token_embeddings", token_embeddings, dimensions=2)
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
        figure, panels = canvas(max(1.2 + cell * len(tokens), 6), 2.6, title)
        axes = panels[0, 0]
        steps = LinearSegmentedColormap.from_list("share", [colors.background, colors.good])
        axes.pcolormesh(shares.to_numpy() ** 0.5, cmap=steps, vmin=0, vmax=1, edgecolors=colors.background, linewidth=2)
        axes.set_ylim(len(shares), 0)
        table_axes(axes, colors, list(shares.index), spelled)
        for (row, column), share in np.ndenumerate(shares.to_numpy()):
            color = colors.background if share > 0.64 else colors.ink if share else colors.soft
            text = f"{100 * share:.0f}" if share else "·"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8, color=color)
        note = "% of the sentence vector that comes from each token; for max, % of its dimensions"
        axes.set_xlabel(note, fontsize=7.5, loc="left")
    return figure


def _draw_steps(axes: Axes, series: pd.Series, color: str, colors: Theme, column: str) -> None:
    """One quantity over the steps: with points and its best, smooth, or faint with a running mean."""
    if column == "metric":
        axes.plot(series.index, series, color=color, marker="o", markersize=4, clip_on=False)
        position = int(series.argmax())
        best, value = series.index[position], series.iloc[position]
        side = "right" if position > len(series) // 2 else "left"
        halo = [patheffects.withStroke(linewidth=2.6, foreground=colors.background)]
        text: dict[str, Any] = {
            "ha": side,
            "va": "bottom",
            "fontsize": 8,
            "color": colors.readable(color),
            "path_effects": halo,
        }
        axes.annotate(f"best {value:.4f}", (best, value), (0, 5), textcoords="offset points", **text)
        axes.margins(y=0.2)
    elif column == "lr" or len(series) < 20:
        axes.plot(series.index, series, color=color)
    else:
        axes.plot(series.index, series, color=color, alpha=0.28, linewidth=0.8)
        mean = series.rolling(max(5, len(series) // 15), center=True, min_periods=1).mean()
        axes.plot(series.index, mean, color=color)
    formats = {
        "lr": lambda value: f"{value:.2g}".replace("e-0", "e-"),
        "tokens_per_second": "{:,.0f}".format,
        "padding_share": lambda value: f"{100 * value:.3g}%",
    }
    if column in formats:
        axes.yaxis.set_major_formatter(lambda value, _: formats[column](value))


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
            look: dict[str, Any] = {
                "facecolor": colors.faint(color, strength),
                "edgecolor": colors.background,
                "linewidth": 0.7,
            }
            axes.add_patch(Rectangle(spot, width, height, zorder=2 + sheet, **look))
    centred: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 9}
    if shortened:
        axes.text(left + columns * width / 2, top - (rows - 1.5) * height, "⋮", color=colors.soft, **centred)
    chosen = [*tokens[: rows - 2], "", tokens[-1]] if len(tokens) > rows else tokens
    for row, token in enumerate(chosen):
        axes.text(
            left + width / 2, top - (row + 0.5) * height, drawable(token, 9), fontsize=6.5, color=colors.ink, **centred
        )
