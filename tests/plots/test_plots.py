"""Figures of texts, maps and runs: what they show, on both pages, whatever their labels hold."""

import importlib
import io
import itertools
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from sbertlab import models, plots
from sbertlab.plots.style import drawable

RANDOM = np.random.default_rng(0)
CENTRES = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
BLOBS = CENTRES[np.repeat(range(4), 30)] + RANDOM.normal(size=(120, 2))
TOPICS = np.repeat(["billing", "delivery", "privacy", "setup"], 30)
TEXTS = [f"text {i}" for i in range(120)]
MODULES = [("Tokenizer", (2, 11)), ("Transformer", (2, 11, 384)), ("Pooling", (2, 384)), ("Dense", (2, 96))]


def history(steps=40, objectives=1, epochs=2):
    rows = [(step, index) for step in range(1, steps + 1) for index in range(objectives)]
    frame = pd.DataFrame(rows, columns=["step", "objective"]).astype({"objective": str})
    frame["epoch"] = (frame["step"] - 1) * epochs // steps
    constant = {"lr": 2e-5, "gradient_norm": 1.0, "tokens_per_second": 5000.0, "padding_share": 0.1}
    metric = np.where(frame["step"] % 10 == 0, 0.5 + frame["step"] / 100, np.nan)
    return frame.assign(loss=2 / frame["step"], metric=metric, **constant)


FIGURES = {
    "embedding_map": lambda **look: plots.embedding_map(BLOBS, TOPICS, TEXTS, "kept", **look),
    "numbers": lambda **look: plots.embedding_map(BLOBS, np.arange(120) / 7, **look),
    "map_comparison": lambda **look: plots.map_comparison({"before": BLOBS, "after": 2 * BLOBS}, TOPICS, **look),
    "similarity_heatmap": lambda **look: plots.similarity_heatmap(np.eye(3), ["a", "b", "c"], **look),
    "training_history": lambda **look: plots.training_history(history(), **look),
    "token_lengths": lambda **look: plots.token_lengths([3, 5, 9], 8, **look),
    "similarity_distributions": lambda **look: plots.similarity_distributions([0.9, 0.8], [0.1, 0.2], **look),
    "architecture": lambda **look: plots.architecture(MODULES, **look),
    "pooling_comparison": lambda **look: plots.pooling_comparison(np.eye(3), ["[CLS]", "cat", "[SEP]"], **look),
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_on_its_page(name, theme, on_its_page):
    on_its_page(FIGURES[name], theme)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_letters_have_contrast_on_every_page(theme):
    colors = plots.THEMES[theme]

    def light(color):
        values = np.array(to_rgb(color))
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for color in [colors.ink, colors.soft, *map(colors.readable, colors.palette)]:
        dark, bright = sorted(map(light, (color, colors.background)))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, color


def test_a_map_names_its_groups_near_their_points_and_prints_its_quality(written):
    figure = plots.embedding_map(BLOBS, TOPICS, quality="trustworthiness 0.93")
    axes = figure.axes[0]
    assert "trustworthiness 0.93" in written(figure)
    names = {text.get_text(): text for text in axes.texts}
    assert set(names) == set(TOPICS)
    boxes = [text.get_window_extent() for text in names.values()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    area = axes.get_window_extent()
    assert all(area.x0 <= box.x0 and box.x1 <= area.x1 and area.y0 <= box.y0 and box.y1 <= area.y1 for box in boxes)
    for (name, text), centre in zip(sorted(names.items()), CENTRES, strict=True):
        assert np.linalg.norm(np.subtract(text.get_position(), centre)) < 5, name


def test_a_group_has_one_colour_in_all_maps(written):
    figure = plots.map_comparison({"before": BLOBS, "after": -BLOBS}, TOPICS, {"before": "poor", "after": "better"})
    colors = [[to_hex(cloud.get_facecolor()[0][:3]) for cloud in axes.collections[1:]] for axes in figure.axes]
    assert colors[0] == colors[1] == list(plots.THEMES["light"].palette[:4])
    assert {"before", "after", "poor", "better"} <= set(written(figure))


def test_of_many_groups_the_largest_are_coloured_and_points_without_a_label_are_grey(written):
    labels = [*(f"large {i % 23}" for i in range(92)), *(f"small {i}" for i in range(25)), None, None, None]
    figure = plots.embedding_map(BLOBS, labels, quality="kept")
    assert "kept\n24 of 48 groups are coloured and named" in written(figure)
    assert {f"large {i}" for i in range(23)} < {text.get_text() for text in figure.axes[0].texts}
    grey, *groups = figure.axes[0].collections
    assert len(grey.get_offsets()) == 24 + 3
    looks = {(to_hex(cloud.get_facecolor()[0][:3]), len(cloud.get_paths()[0].vertices)) for cloud in groups}
    assert len(looks) == 24, "colour and shape together distinguish 24 groups"
    assert len(plots.embedding_map(BLOBS).axes[0].collections[0].get_offsets()) == 120


def test_numbers_are_drawn_on_a_scale_that_carries_their_name(written):
    figure = plots.embedding_map(BLOBS, pd.Series([np.inf, pd.NA, None, *range(117)], name="length"))
    missing, points = figure.axes[0].collections
    assert (len(missing.get_offsets()), len(points.get_offsets())) == (3, 117)
    assert points.get_clim() == (0, 116)
    assert "length" in written(figure)


def test_few_points_carry_their_texts_and_a_key_to_their_groups(written):
    few = plots.embedding_map(BLOBS[::10], TOPICS[::10], pd.Series(TEXTS[:12], range(5, 17)))
    assert {*TEXTS[:12], *TOPICS} <= set(written(few))
    many = plots.embedding_map(BLOBS, TOPICS, TEXTS)
    assert not set(TEXTS) & set(written(many))


@pytest.mark.parametrize(
    "label", ["<script>alert(1)</script>", "$x^2$ and $", "\\frac{", "a\nb\tc", "", "_hidden", "x" * 500]
)
def test_labels_are_drawn_as_they_are_written_whatever_they_hold(label, written):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.embedding_map(BLOBS, [label] * 120, [label] * 120, label, title=label)
        figure.savefig(io.BytesIO(), format="svg")
        plots.embedding_map(BLOBS[:9], [label] * 9, [label] * 9).savefig(io.BytesIO(), format="svg")
    shown = drawable(label)
    assert len(shown) <= 60
    assert not shown or any(text.startswith(shown[:20]) for text in written(figure))


def test_similarities_are_written_into_their_cells_and_zero_has_no_sign(written):
    figure = plots.similarity_heatmap([[1, -0.001], [0.456, -0.5]], ["first text", "second text"])
    axes = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0.5, 0.5): "1.00", (1.5, 0.5): "0.00", (0.5, 1.5): "0.46", (1.5, 1.5): "-0.50"}
    assert axes.collections[0].get_clim() == (-1, 1), "one scale for all figures"
    assert {"first text  1", "second text  2", "1", "2"} <= set(written(figure))
    named = plots.similarity_heatmap(np.zeros((1, 2)), ["query"], pd.Series(["answer one", "answer two"]))
    assert {"query", "answer one", "answer two"} <= set(written(named))
    assert not plots.similarity_heatmap(np.zeros((17, 17)), ["text"] * 17).axes[0].texts, "too many to read"


def test_a_history_shows_each_quantity_and_the_best_metric():
    figure = plots.training_history(history())
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:3] == ["Loss", "Metric of the evaluator, best 0.9000", "Learning rate"]
    assert len(titles) == 6
    loss, metric = figure.axes[0], figure.axes[1]
    assert loss.lines[1].get_ydata()[0] == 2, "the loss of every step is there"
    assert list(metric.lines[1].get_xdata()) == [10, 20, 30, 40]
    assert [line.get_xdata()[0] for line in loss.lines if line.get_linestyle() == ":"] == [20.5], "one epoch ended"


def test_a_history_leaves_empty_panels_out_and_shows_all_objectives(written):
    rows = history(steps=10, objectives=2).assign(metric=np.nan)
    rows["padding_share"] *= 1 + (rows["objective"] == "1")
    figure = plots.training_history(rows)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert "Metric of the evaluator" not in panels
    assert panels["Padding, %"].get_ylim()[0] == 0
    assert panels["Padding, %"].get_ylim()[1] >= 20
    assert {"0", "1"} == {text.get_text() for text in figure.legends[0].texts}
    assert len(written(plots.training_history(history(steps=1, epochs=1)))) > 6, "one step is a history too"


def test_lengths_beyond_the_limit_are_marked_and_counted(written):
    lengths = [*([5] * 6), *([16] * 3), 17]
    figure = plots.token_lengths(lengths, 16)
    colors = plots.THEMES["light"]
    heights = dict.fromkeys((colors.good, colors.bad), 0.0)
    for bar in figure.axes[0].patches:
        heights[to_hex(bar.get_facecolor())] += bar.get_height()
    assert heights == {colors.good: 9, colors.bad: 1}, "a text of exactly the limit is kept whole"
    texts = written(figure)
    assert "10 texts · median 5 tokens · 95 % have at most 17 · 1 truncated (10.0%)" in texts
    assert "max_seq_length = 16" in texts
    assert "max_seq_length = 512" not in written(plots.token_lengths(lengths, 512)), "far beyond the figure"


def test_auc_is_the_share_of_couples_in_the_right_order(written):
    figure = plots.similarity_distributions([0.9, 0.8], [0.1, 0.86], before=([0.2, 0.2], [0.1, 0.3]))
    texts = written(figure)
    assert "AUC before 0.500" in texts
    assert "AUC after 0.750" in texts, "of four couples (0.8, 0.86) is the only wrong one"
    assert {"positive, median 0.85", "negative, median 0.48"} <= set(texts)
    assert len(figure.axes) == 2


def test_the_architecture_shows_shapes_by_name_and_the_tokens(written):
    tokens = ["[CLS]", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "[SEP]"]
    texts = written(plots.architecture(MODULES, tokens, {"Pooling": "mean"}))
    assert [text for text in texts if "×" in text] == ["2 × 11", "2 × 11 × 384", "2 × 384", "2 × 96"]  # noqa: RUF001
    sizes = [text for text in texts if text.startswith("batch")]
    assert sizes == ["batch, tokens", "batch, tokens, dim", "batch, dim", "batch, dim"]
    assert {"Tokenizer", "Dense", "mean", "[CLS]", "five", "[SEP]"} <= set(texts)
    assert "six" not in texts, "long texts are shortened"
    static = written(plots.architecture([("Tokenizer", (1, 4)), ("StaticEmbedding", (1, 384))]))
    assert [text for text in static if text.startswith("batch")] == ["batch, tokens", "batch, dim"]


@pytest.mark.parametrize("mode", ["cls", "mean", "weightedmean", "lasttoken"])
def test_pooling_shares_times_tokens_are_what_pooling_gives(mode):
    tokens = torch.from_numpy(RANDOM.normal(size=(7, 16)))
    pooled = models.Pooling(16, mode)({"token_embeddings": tokens[None], "attention_mask": torch.ones(1, 7)})
    shares, expected = plots.pooling_shares(tokens.numpy()), pooled["sentence_embedding"][0].numpy()
    assert shares.loc[mode].to_numpy() @ tokens.numpy() == pytest.approx(expected, abs=1e-6)
    assert shares.sum(axis=1).to_numpy() == pytest.approx(np.ones(5))


def test_pooling_is_written_in_percent_token_by_token():
    figure = plots.pooling_comparison(np.array([[1.0, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 3]]), ["[CLS]", "cat", "[SEP]"])
    rows = [[text.get_text() for text in figure.axes[0].texts][start : start + 3] for start in range(0, 15, 3)]
    assert rows[:2] == [["100", "·", "·"], ["33", "33", "33"]]
    assert rows[2:] == [["25", "50", "25"], ["17", "33", "50"], ["·", "·", "100"]]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.token_lengths([3], 8, theme="sepia"), r"theme must be one of .*'sepia'"),
        (lambda: plots.embedding_map(BLOBS[:, :1]), r"xy must have the shape \(n, 2\), got \(120, 1\)"),
        (lambda: plots.embedding_map(np.full((9, 2), np.nan)), "xy must be finite"),
        (lambda: plots.embedding_map(BLOBS, TOPICS[:7]), "xy has 120, labels has 7"),
        (lambda: plots.embedding_map(BLOBS, TOPICS, ["text"]), "texts has 1"),
        (lambda: plots.similarity_heatmap(np.eye(3), ["one", "two"]), r"3.*2"),
        (lambda: plots.pooling_comparison(np.eye(3), ["a", "b"]), r"3.*2"),
        (lambda: plots.training_history(history().drop(columns=["lr"])), r"missing the columns \['lr'\]"),
    ],
)
def test_what_does_not_fit_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_missing_matplotlib_says_what_to_install(monkeypatch):
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("sbertlab.plots")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r'pip install "sbertlab\[lab\]"'):
        importlib.import_module("sbertlab.plots")
