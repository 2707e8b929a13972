"""Figures of texts, their embeddings and a training run."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from sbertlab.checks import check_columns, checked_numbers
from sbertlab.plots.style import Texts, Theme, canvas, color_table, drawable, open_grid, style

Pair = tuple[ArrayLike, ArrayLike]
Shapes = Sequence[tuple[str, Sequence[int]]]

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
    similarities: ArrayLike, texts: Texts, columns: Texts | None = None, *, title: str = "", theme: str = "light"
) -> Figure:
    """Cosine similarities as a coloured table: blue is similar, orange opposite, the page's own colour zero.

    `similarities` is `(rows, columns)`, with one of `texts` per row and one of `columns` per column; None means the
    texts of the rows, which are then numbered. The scale is -1 to 1 in every figure, so that figures can be compared.

    Raises:
        ValueError: the matrix does not fit the texts, or is not finite.
    """
    matrix = checked_numbers("similarities", similarities, dimensions=2)
    rows = [drawable(text, 48) for text in texts]
    if columns is not None:
        top = [drawable(text, 30) for text in columns]
    else:
        top = [str(number) for number in range(1, len(texts) + 1)]
        rows = [f"{row}  {number}" for row, number in zip(rows, top, strict=True)]
    return color_table(theme, matrix, pd.DataFrame(matrix, rows, top).map("{:z.2f}".format), title)


def pooling_shares(token_embeddings: np.ndarray) -> pd.DataFrame:
    """How much each token contributes to the pooled vector, by pooling mode; every row sums to 1.

    `token_embeddings` are those of one text without padding, `(tokens, dim)`. Max takes each dimension from the token
    where it is largest, so its shares are those of the dimensions.

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


def pooling_comparison(token_embeddings: np.ndarray, tokens: Texts, *, title: str = "", theme: str = "light") -> Figure:
    """What each pooling mode takes from each of the tokens of a text, in percent (see `pooling_shares`)."""
    shares = pooling_shares(token_embeddings).set_axis([drawable(token, 14) for token in tokens], axis="columns")
    note = "% of the sentence embedding that comes from each token; for max, % of its dimensions"
    numbers = shares.map(lambda share: f"{100 * share:.0f}" if share else "·")
    return color_table(theme, shares.to_numpy() ** 0.5, numbers, title, note)


def token_lengths(lengths: Sequence[int], max_seq_length: int, *, title: str = "", theme: str = "light") -> Figure:
    """A histogram of the tokens per text, special tokens included; texts that the model truncates are orange."""
    counts = checked_numbers("lengths", lengths)
    truncated = counts > max_seq_length
    summary = f"{len(counts):,} texts · median {np.median(counts):.0f} tokens · 95 % have at most"
    summary += f" {np.percentile(counts, 95):.0f} · {truncated.sum():,} truncated ({truncated.mean():.1%})"
    with style(theme) as colors:
        figure, panels = canvas(6.4, 3.2, title)
        axes = panels[0, 0]
        edges = np.arange(-0.5, counts.max() + 60, -(-counts.max() // 60))
        parts, shades = [counts[~truncated], counts[truncated]], [colors.good, colors.bad]
        axes.hist(parts, edges, stacked=True, color=shades, edgecolor=colors.background, linewidth=0.6)
        if counts.max() > 0.5 * max_seq_length:
            label = f"max_seq_length = {max_seq_length}"
            axes.axvline(max_seq_length + 0.5, color=colors.bad, linewidth=1.2, label=label)
            axes.legend(loc="upper right")
        axes.set(xlabel="tokens per text", ylabel="texts", xlim=(0, 1.04 * counts.max() + 1))
        axes.set_title(summary, fontsize=8, fontweight="normal", color=colors.soft)
        open_grid(axes)
    return figure


def similarity_distributions(
    positive: ArrayLike, negative: ArrayLike, *, before: Pair | None = None, title: str = "", theme: str = "light"
) -> Figure:
    """Histograms of the similarities of positive and of negative pairs, with the AUC.

    The AUC is the probability that a random positive pair is more similar than a random negative one. `before` holds
    positive and negative similarities of the untrained model, drawn above on the same scale.
    """
    shown = {"": (positive, negative)} if before is None else {"before ": before, "after ": (positive, negative)}
    bins = np.histogram_bin_edges(np.concatenate([values for pair in shown.values() for values in pair]), 40)
    with style(theme) as colors:
        figure, panels = canvas(6.4, 1.1 + 1.9 * len(shown), title, rows=len(shown), sharex=True, sharey=True)
        for axes, (name, pair) in zip(panels.flat, shown.items(), strict=True):
            good, bad = map(np.asarray, pair)
            auc = roc_auc_score(np.repeat([1, 0], [len(good), len(bad)]), np.concatenate([good, bad]))
            axes.set_title(f"AUC {name}{auc:.3f}")
            for label, values, color in (("negative", bad, colors.bad), ("positive", good, colors.good)):
                look: dict[str, Any] = {"histtype": "stepfilled", "facecolor": (color, 0.28), "edgecolor": color}
                caption = f"{label}, median {np.median(values):.2f}"
                axes.hist(values, bins, weights=np.full(len(values), 100 / len(values)), label=caption, **look)
            axes.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
            axes.set_ylabel("% of pairs")
            open_grid(axes)
        panels[-1, 0].set_xlabel("similarity")
    return figure


def training_history(history: pd.DataFrame, *, title: str = "", theme: str = "light") -> Figure:
    """Loss, metric, learning rate, gradient norm, throughput and padding of a training run, step by step.

    `history` is what `fit` returned; panels without any number are left out. From 20 steps on, the values of single
    steps are faint, with a running mean over a fifteenth of the run. Dotted lines end an epoch.
    """
    check_columns("history", history, ["step", "epoch", "objective", *PANELS])
    shown = [column for column in PANELS if history[column].notna().any()]
    history = history.assign(padding_share=100 * history["padding_share"])
    width = min(3, len(shown))
    height = -(-len(shown) // width)
    with style(theme) as colors:
        figure, grid = canvas(2.9 * width, 1.9 * height, title, rows=height, columns=width)
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        for axes, column in zip(grid.flat, shown, strict=False):
            axes.set_title(PANELS[column])
            open_grid(axes)
            for end in history.groupby("epoch")["step"].max().iloc[:-1]:
                axes.axvline(end + 0.5, color=colors.soft, linewidth=0.7, linestyle=":")
            if column in ("metric", "lr"):  # one value per step, whatever the objectives
                series = history.groupby("step")[column].last().dropna()
                axes.plot(series, color=colors.good, marker="o" * (column == "metric"), markersize=4)
            else:
                for number, (objective, rows) in enumerate(history.groupby("objective", sort=False)):
                    series = rows.set_index("step")[column].dropna()
                    _draw_steps(axes, series, colors.palette[number % len(colors.palette)], str(objective))
            if column == "metric":
                axes.set_title(f"{PANELS[column]}, best {series.max():.4f}")
            elif column != "loss":
                axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:,g}")
            axes.locator_params("x", nbins=5, integer=True)
            axes.set_xlim(0, 1.03 * history["step"].max())
        figure.supxlabel("step", fontsize=8.5, color=colors.soft)
        if len(set(history["objective"])) > 1:
            figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    return figure


def architecture(
    modules: Shapes, tokens: Texts = (), notes: dict[str, str] | None = None, *, title: str = "", theme: str = "light"
) -> Figure:
    """The modules of a model from left to right, and below each the tensor that it returns for one batch.

    A row of cells is a token, a column a dimension; the texts of the batch lie behind one another. `modules` holds the
    name of each module and the shape of its output, such as `("Transformer", (2, 9, 384))`. Two sizes are (batch,
    tokens) in modules before the first with three sizes, and (batch, dim) after it. `tokens` of one text are written on
    their rows; `notes` are lines below the names of modules, by that name.
    """
    first_dim = next((index for index, (_, shape) in enumerate(modules) if len(shape) == 3), 1)
    widest = max((shape[-1] for _, shape in modules[first_dim:]), default=1)
    words = [*tokens[:6], "⋮", tokens[-1]] if len(tokens) > 8 else list(tokens)
    text: dict[str, Any] = {"ha": "center", "va": "center"}
    with style(theme) as colors:
        figure, panels = canvas(1.8 * len(modules), 2.95, title)
        axes = panels[0, 0]
        axes.set(xlim=(0, 1.8 * len(modules)), ylim=(0, 2.9))
        axes.set_axis_off()
        for index, (name, shape) in enumerate(modules):
            color, x = colors.palette[index % len(colors.palette)], 1.8 * (index + 0.5)
            box = FancyBboxPatch((x - 0.7, 2.2), 1.4, 0.65, "round,pad=0,rounding_size=0.1")
            axes.add_patch(box).set(facecolor=colors.faint(color), edgecolor=color)
            note = fill((notes or {}).get(name, ""), 26)
            high = 2.65 if note else 2.525
            axes.text(x, high, drawable(name, 20), weight="bold", color=colors.readable(color), **text)
            axes.text(x, 2.42, note, fontsize=6.5, color=colors.soft, **text)
            if index:
                axes.text(x - 0.9, 2.525, "\N{RIGHTWARDS ARROW}", fontsize=14, color=colors.soft, **text)
            kinds = ["tokens", "dim"] if len(shape) == 3 else ["dim" if index >= first_dim else "tokens"]
            rows = min(shape[1], 8) if "tokens" in kinds else 1
            columns = max(2, round(8 * shape[-1] / widest)) if "dim" in kinds else 1
            _draw_tensor(axes, x, (min(shape[0], 3), rows, columns), words if columns == 1 else [], color, colors)
            axes.text(x, 0.3, " \N{MULTIPLICATION SIGN} ".join(f"{size:,}" for size in shape), weight="bold", **text)
            axes.text(x, 0.1, ", ".join(["batch", *kinds]), fontsize=7.5, color=colors.soft, **text)
    return figure


def _draw_steps(axes: Axes, series: pd.Series, color: str, label: str) -> None:
    """A quantity over the steps; in long runs faint, with a running mean."""
    if len(series) >= 20:
        axes.plot(series, color=color, alpha=0.28, linewidth=0.8)
        series = series.rolling(max(5, len(series) // 15), center=True, min_periods=1).mean()
    axes.plot(series, color=color, label=drawable(label, 34))


def _draw_tensor(
    axes: Axes, middle: float, shape: tuple[int, int, int], words: Sequence[str], color: str, colors: Theme
) -> None:
    """Cells `(texts, rows, columns)`, the texts behind one another, with a word in each row of the first one."""
    texts, rows, columns = shape
    height, width, shift = 0.165, 0.15 if columns > 1 else 0.62, 0.06
    left, top = middle - (columns * width + shift * (texts - 1)) / 2, 0.5 + (8 if rows > 1 else 5) * height
    shades = LinearSegmentedColormap.from_list("cells", [colors.background, color])
    scaled: dict[str, Any] = {"cmap": shades, "vmin": 0, "vmax": 1}
    values = np.random.default_rng(0).uniform(0.2, 0.9, (rows, columns)) if columns > 1 else np.full((rows, 1), 0.3)
    for behind in reversed(range(texts)):
        x = left + shift * behind + width * np.arange(columns + 1)
        y = top + shift * behind - height * np.arange(rows + 1)
        axes.pcolormesh(x, y, values / (1 + behind), edgecolors=colors.background, linewidth=0.7, **scaled)
    for row, word in enumerate(words):
        place = left + width / 2, top - (row + 0.5) * height
        axes.text(*place, drawable(word, 9), fontsize=6.5, ha="center", va="center")
