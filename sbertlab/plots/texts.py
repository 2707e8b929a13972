"""Figures of texts, their embeddings and a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_auc_score

from sbertlab.checks import check_columns, checked_number, checked_numbers
from sbertlab.plots.style import ROUND_STEPS, Theme, canvas, cell_size, color_table, drawable, halo, open_grid, style

PANELS = {
    "loss": "Loss",
    "metric": "Metric of the evaluator",
    "lr": "Learning rate",
    "gradient_norm": "Gradient norm before clipping",
    "tokens_per_second": "Tokens per second",
    "padding_share": "Padding, %",
}
"""Columns of a history, and the title of the panel of each."""


def similarity_heatmap(
    similarities: np.ndarray,
    texts: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Cosine similarities as a coloured table: blue is similar, orange opposite, the page's own colour zero.

    The scale is -1 to 1 in every figure, so that figures can be compared. Up to 16 columns carry their numbers.

    Args:
        similarities: cosines, `(rows, columns)`.
        texts: one per row.
        columns: one per column; None means the texts of the rows, which are then numbered.

    Raises:
        ValueError: the matrix does not fit the texts, or is not finite.
    """
    matrix = checked_numbers("similarities", similarities, dimensions=2)
    names = texts if columns is None else columns
    if matrix.shape != (len(texts), len(names)):
        raise ValueError(f"similarities must have the shape ({len(texts)}, {len(names)}), got {matrix.shape}")
    rows = [drawable(text, 48) for text in texts]
    top = [drawable(name, 30) for name in names]
    if columns is None:
        rows, top = [f"{row}  {number}" for number, row in enumerate(rows, 1)], [str(n + 1) for n in range(len(rows))]
    cell = cell_size(len(top))
    width = 0.3 + 0.068 * max(map(len, rows)) + cell * len(top) + (columns is not None)
    with style(theme) as colors:
        figure, panels = canvas(width, cell * len(rows) + (0.6 if columns is None else 1.7), title)
        numbers = [[f"{value:z.2f}" for value in row] for row in matrix] if len(top) <= 16 else []
        color_table(panels[0, 0], colors, matrix, rows, top, numbers)
    return figure


def pooling_shares(token_embeddings: np.ndarray) -> pd.DataFrame:
    """How much each token contributes to the pooled vector, by pooling mode; every row sums to 1.

    For max, which takes each dimension from the token where it is largest, these are shares of the dimensions.
    `token_embeddings` are those of one text without padding, `(tokens, dim)`; other shapes raise a ValueError.

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
    """What each pooling mode takes from each token of a text, in percent (see `pooling_shares`).

    Raises:
        ValueError: `token_embeddings` is not a finite matrix, or `tokens`, their spelling, has another length.
    """
    shares = pooling_shares(token_embeddings)
    if len(tokens) != shares.shape[1]:
        raise ValueError(f"tokens must name each row of token_embeddings, got {len(tokens)} for {shares.shape[1]} rows")
    spelled = [drawable(token, 14) for token in tokens]
    cell = max(0.42, 0.07 * max(map(len, spelled)) + 0.1)
    numbers = [[f"{100 * share:.0f}" if share else "·" for share in row] for row in shares.to_numpy()]
    note = "% of the sentence embedding that comes from each token; for max, % of its dimensions"
    with style(theme) as colors:
        figure, panels = canvas(max(1.2 + cell * len(tokens), 6), 2.6, title, note)
        color_table(panels[0, 0], colors, shares.to_numpy() ** 0.5, list(shares.index), spelled, numbers)
    return figure


def token_lengths(lengths: Sequence[int], max_seq_length: int, *, title: str = "", theme: str = "light") -> Figure:
    """A histogram of the tokens per text, special tokens included; texts that the model truncates are orange.

    Raises:
        ValueError: no length, a negative one, or `max_seq_length` below 1.
    """
    counts = checked_numbers("lengths", lengths)
    checked_number("the shortest of lengths", counts.min())
    checked_number("max_seq_length", max_seq_length, 1)
    step = max(1, int(np.ceil(counts.max() / 60)))
    # one edge lies right behind max_seq_length, so that a bar is either kept or truncated
    first, last = -(max_seq_length // step + 1), (counts.max() - max_seq_length) // step + 2
    edges = max_seq_length + 0.5 + step * np.arange(first, last)
    truncated = counts > max_seq_length
    summary = [
        f"{len(counts):,} texts",
        f"median {np.median(counts):.0f} tokens",
        f"95 % have at most {np.percentile(counts, 95):.0f}",
        f"{truncated.sum():,} truncated ({truncated.mean():.1%})",
    ]
    with style(theme) as colors:
        figure, panels = canvas(6.4, 3.2, title)
        axes = panels[0, 0]
        for chosen, color in ((~truncated, colors.good), (truncated, colors.bad)):
            axes.hist(counts[chosen], bins=edges, color=color, edgecolor=colors.background, linewidth=0.6)
        axes.set(xlabel="tokens per text", ylabel="texts", xlim=(0, max(edges[-1], 1.04 * counts.max())))
        axes.margins(y=0.12)
        open_grid(axes)
        if counts.max() > 0.5 * max_seq_length:
            axes.axvline(max_seq_length + 0.5, color=colors.bad, linewidth=1.2)
            text: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": 8.5, "color": colors.readable(colors.bad)}
            place: dict[str, Any] = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points"}
            axes.annotate(f"max_seq_length = {max_seq_length}", (max_seq_length + 0.5, 1), (-5, -1), **place, **text)
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
    """Histograms of the similarities of positive and of negative pairs, with the AUC.

    The AUC is the probability that a random positive pair is more similar than a random negative one. `before` holds
    positive and negative similarities of the untrained model, drawn above on the same scale.

    Raises:
        ValueError: no number, or one that is not finite.
    """
    shown = {"": (positive, negative)} if before is None else {"before": before, "after": (positive, negative)}
    pairs = {
        name: (checked_numbers(f"positive {name}".strip(), good), checked_numbers(f"negative {name}".strip(), bad))
        for name, (good, bad) in shown.items()
    }
    everything = np.concatenate([values for pair in pairs.values() for values in pair])
    bins = np.linspace(everything.min(), everything.max() + 1e-9, 41)
    with style(theme) as colors:
        figure, panels = canvas(6.4, 1.1 + 1.9 * len(pairs), title, rows=len(pairs), share=True)
        for axes, (name, (good, bad)) in zip(panels.flat, pairs.items(), strict=True):
            auc = roc_auc_score(np.r_[np.ones(len(good)), np.zeros(len(bad))], np.r_[good, bad])
            axes.set_title(f"{name} · AUC {auc:.3f}".removeprefix(" · "), loc="left")
            for label, values, color in (("negative", bad, colors.bad), ("positive", good, colors.good)):
                weights = np.full(len(values), 100 / len(values))
                caption = f"{label}, median {np.median(values):.2f}"
                axes.hist(values, bins, weights=weights, color=color, alpha=0.28, label=caption)
                axes.hist(values, bins, weights=weights, color=color, histtype="step", linewidth=1.4)
            axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
            axes.set_ylabel("% of pairs")
            open_grid(axes)
        panels[-1, 0].set_xlabel("similarity")
    return figure


def training_history(history: pd.DataFrame, *, title: str = "", theme: str = "light") -> Figure:
    """Loss, metric, learning rate, gradient norm, throughput and padding of a training run, step by step.

    From 20 steps on, the values of single steps are faint, with a running mean over a fifteenth of the run. Dotted
    lines end an epoch. Panels without any number are left out.

    Args:
        history: what `fit` returned.

    Raises:
        ValueError: `history` is missing columns or has no numbers.
    """
    check_columns("history", history, ["step", "epoch", "objective", *PANELS])
    shown = [column for column in PANELS if history[column].notna().any()]
    if not shown:
        raise ValueError(f"history has no number in any of the columns {list(PANELS)}")
    width = min(3, len(shown))
    height = -(-len(shown) // width)
    steps, ends = history["step"], history.groupby("epoch")["step"].max().tolist()[:-1]
    with style(theme) as colors:
        figure, grid = canvas(2.9 * width, 1.9 * height, title, rows=height, columns=width)
        for number, axes in enumerate(grid.flat):
            if number >= len(shown):
                axes.set_axis_off()
                continue
            column = shown[number]
            axes.set_title(PANELS[column])
            open_grid(axes)
            for end in ends:
                axes.axvline(end + 0.5, color=colors.soft, linewidth=0.7, linestyle=":")
            if column in ("metric", "lr"):  # one value per step, whatever the objectives
                series = history.groupby("step")[column].last().dropna()
                axes.plot(series.index, series, color=colors.good, marker="o" * (column == "metric"), markersize=4)
            else:
                for index, (objective, rows) in enumerate(history.groupby("objective", sort=False)):
                    series = rows.set_index("step")[column].dropna() * (100 if column == "padding_share" else 1)
                    _draw_steps(axes, series, colors.palette[index % len(colors.palette)], str(objective))
            if column == "metric":
                best: dict[str, Any] = {"path_effects": halo(colors.background), "fontsize": 8, "va": "bottom"}
                best["ha"] = "right" if series.argmax() > len(series) // 2 else "left"
                place: Any = (series.idxmax(), series.max())
                axes.annotate(f"best {series.max():.4f}", place, (0, 5), textcoords="offset points", **best)
                axes.margins(y=0.2)
            elif column != "loss":
                axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:,g}")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=ROUND_STEPS))
            margin = 0.03 * max(steps.max() - steps.min(), 1)
            axes.set_xlim(steps.min() - margin, steps.max() + margin)
            if number + width >= len(shown):
                axes.set_xlabel("step")
        if len(set(history["objective"])) > 1:
            figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def architecture(
    modules: Sequence[tuple[str, Sequence[int]]],
    tokens: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
    *,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """The modules of a model from left to right, and below each the tensor that it returns for one batch.

    A row of cells is a token, a column a dimension; the texts of the batch lie behind one another.

    Args:
        modules: name of each module and shape of its output, such as `("Transformer", (2, 9, 384))`. Two sizes are
            (batch, tokens) in modules before the first with three sizes, and (batch, dim) after it.
        tokens: of one text, written on their rows.
        notes: a line below the name of a module, by that name.

    Raises:
        ValueError: no module, or a shape that does not have two or three positive sizes.
    """
    if not modules:
        raise ValueError("modules must hold at least one (name, shape), got none")
    for name, shape in modules:
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(f"a shape must have two or three positive sizes, got {shape} of {name}")
    first_dim = next((index for index, (_, shape) in enumerate(modules) if len(shape) == 3), 1)
    widest = max((shape[-1] for _, shape in modules[first_dim:]), default=1)
    text: dict[str, Any] = {"ha": "center", "va": "center"}
    with style(theme) as colors:
        figure, panels = canvas(1.8 * len(modules), 2.95, title)
        axes = panels[0, 0]
        axes.set(xlim=(0, 1.8 * len(modules)), ylim=(0, 2.9))
        axes.set_axis_off()
        for index, (name, shape) in enumerate(modules):
            color, x = colors.palette[index % len(colors.palette)], 1.8 * (index + 0.5)
            look: dict[str, Any] = {
                "boxstyle": "round,pad=0,rounding_size=0.1",
                "facecolor": colors.faint(color),
                "edgecolor": color,
            }
            axes.add_patch(FancyBboxPatch((x - 0.7, 2.2), 1.4, 0.65, **look))
            note = fill(drawable((notes or {}).get(name, ""), 52), 26)
            high = 2.65 if note else 2.525
            axes.text(x, high, drawable(name, 20), weight="bold", color=colors.readable(color), **text)
            axes.text(x, 2.42, note, fontsize=6.5, color=colors.soft, **text)
            if index:
                arrow = {"arrowstyle": "-|>", "color": colors.soft, "shrinkA": 2, "shrinkB": 2}
                axes.annotate("", (x - 0.7, 2.525), (x - 1.1, 2.525), arrowprops=arrow)
            axes.plot([x, x], [2.16, 2], color=color, linewidth=1)
            second = ["tokens", "dim"] if len(shape) == 3 else ["dim" if index >= first_dim else "tokens"]
            rows = shape[1] if "tokens" in second else 1
            columns = max(2, round(8 * shape[-1] / widest)) if "dim" in second else 1
            _draw_tensor(axes, x, (shape[0], rows, columns), tokens if columns == 1 else (), color, colors)
            sizes = " \N{MULTIPLICATION SIGN} ".join(f"{size:,}" for size in shape)
            axes.text(x, 0.3, sizes, weight="bold", **text)
            axes.text(x, 0.1, ", ".join(["batch", *second]), fontsize=7.5, color=colors.soft, **text)
    return figure


def _draw_steps(axes: Axes, series: pd.Series, color: str, label: str) -> None:
    """A quantity over the steps; in long runs faint, with a running mean."""
    if len(series) >= 20:
        axes.plot(series.index, series, color=color, alpha=0.28, linewidth=0.8)
        series = series.rolling(max(5, len(series) // 15), center=True, min_periods=1).mean()
    axes.plot(series.index, series, color=color, label=drawable(label, 34).lstrip("_"))


def _draw_tensor(
    axes: Axes, middle: float, shape: tuple[int, int, int], tokens: Sequence[str], color: str, colors: Theme
) -> None:
    """Cells `(batch, rows, columns)`: at most 3 sheets of 8 rows; of more rows the first six, dots, and the last."""
    sheets, rows, columns = min(shape[0], 3), min(shape[1], 8), shape[2]
    height, shift, width = 0.165, 0.06, 0.15 if columns > 1 else 0.62
    left, top = middle - (columns * width + shift * (sheets - 1)) / 2, 0.5 + (8 if rows > 1 else 5) * height
    scale = LinearSegmentedColormap.from_list("cells", [colors.background, color])
    pattern = 0.3 + 0.075 * (np.add.outer(7 * np.arange(rows), 5 * np.arange(columns)) % 9) * (columns > 1)
    written = list(tokens)
    text: dict[str, Any] = {"ha": "center", "va": "center", "zorder": 9}
    if shape[1] > rows:
        pattern[-2] = np.nan
        written[rows - 2 : -1] = [""] * bool(tokens)
        axes.text(left + columns * width / 2, top - (rows - 1.5) * height, "⋮", color=colors.soft, **text)
    for sheet in range(sheets):
        behind = shift * (sheets - 1 - sheet)
        x, y = left + behind + width * np.arange(columns + 1), top + behind - height * np.arange(rows + 1)
        look: dict[str, Any] = {"cmap": scale, "vmin": 0, "vmax": 1, "edgecolors": colors.background, "linewidth": 0.7}
        axes.pcolormesh(x, y, 0.18 + 0 * pattern if behind else pattern, zorder=2 + sheet, **look)
    for row, token in enumerate(written):
        axes.text(left + width / 2, top - (row + 0.5) * height, drawable(token, 9), fontsize=6.5, **text)
