import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb

from sbertlab.plots.benchmark import pareto_front, quality_figure, score_heatmap, standings_figure
from sbertlab.plots.style import THEMES

LIGHT = THEMES["light"]
FAMILIES = ["duplicates", "STS", "reranking", "retrieval", "clustering"]
FAILED = "\N{MULTIPLICATION SIGN}"


def simulated(models=5, tasks=5, seeds=3):
    """A benchmark's table in its long form: models of falling quality on tasks of five families."""
    random = np.random.default_rng(0)
    cells = []
    for model, variant in itertools.product(range(models), ("untuned", "fine-tuned")):
        for seed, task in itertools.product(range(seeds if variant == "fine-tuned" else 1), range(tasks)):
            value = 80 - 1.1 * model - 6.3 * (variant == "untuned") - 3 * (task % 5) + random.normal(0, 0.6)
            cell = {"model": f"model-{model}", "variant": variant, "seed": seed, "task": f"task-{task}"}
            cells.append(cell | {"family": FAMILIES[task * 5 // tasks], "value": value})
    table = pd.DataFrame(cells)
    return table.assign(low=table["value"] - 1.9, high=table["value"] + 1.9)


def compared(table, resolution=2.0):
    """Every pair in every task and in the mean, different from `resolution` points on."""
    values = table.groupby(["model", "variant", "task"], sort=False)["value"].mean().unstack("task")  # noqa: PD010
    values["mean"] = values.mean(axis=1)
    rows = []
    for task, scores in values.to_dict().items():
        for one, other in itertools.combinations(scores, 2):
            rows.append((task, *one, *other, bool(abs(scores[one] - scores[other]) >= resolution)))
    columns = ["task", "model_a", "variant_a", "model_b", "variant_b", "different"]
    return pd.DataFrame(rows, columns=columns)


def by_hand():
    """Two tasks; means a 70 -> 80 (seeds 79, 81), b 78, c 60 and d failed on y. Intervals reach 3 or 4 far."""
    columns = ["model", "variant", "seed", "x", "y"]
    rows = [("a", "untuned", 0, 72, 68), ("a", "fine-tuned", 0, 83, 75), ("a", "fine-tuned", 1, 85, 77)]
    rows += [("b", "untuned", 0, 76, 80), ("c", "untuned", 0, 62, 58), ("d", "untuned", 0, 90, None)]
    table = pd.DataFrame(rows, columns=columns).melt(columns[:3], var_name="task")
    reach, family = ({"x": 3.0, "y": 4.0}, {"x": "clustering", "y": "STS"})
    table = table.assign(family=table["task"].map(family), tag=np.where(table["value"].isna(), "failed", "measured"))
    return table.assign(low=table["value"] - table["task"].map(reach), high=table["value"] + table["task"].map(reach))


MODELS = {f"model-{i}": {"parameters": 1e7 * 2**i, "sentences_per_second": 90} for i in range(5)}
COSTS = {"a": {"sentences_per_second": 100, "parameters": 2e7}, "b": {"sentences_per_second": 1000, "parameters": 1e8}}

FIGURES = {
    "standings": lambda **look: standings_figure(simulated(), compared(simulated()), 1.4, **look),
    "standings without intervals": lambda **look: standings_figure(simulated().drop(columns=["low", "high"]), **look),
    "standings of one model": lambda **look: standings_figure(simulated(1), compared(simulated(1)), 2.0, **look),
    "heatmap": lambda **look: score_heatmap(simulated(13, 14), compared(simulated(13, 14)), "all", **look),
    "one cell": lambda **look: score_heatmap(simulated(1, 1, 1), compared(simulated(1, 1, 1)), **look),
    "quality": lambda **look: quality_figure(simulated(), MODELS, **look),
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_on_its_page(name, theme, on_its_page):
    on_its_page(FIGURES[name], theme)


def marks(axes, face):
    """Places of the single round markers with this face colour."""
    lines = [line for line in axes.lines if line.get_marker() == "o" and to_hex(line.get_markerfacecolor()) == face]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines if len(line.get_xdata()) == 1]


def bars(axes, width, along="x"):
    """Ends of the lines that are so wide."""
    lines = [line for line in axes.lines if line.get_linewidth() == width]
    return [tuple(np.round(getattr(line, f"get_{along}data")(), 6).tolist()) for line in lines]


def ties(axes):
    """Rows that a line at the right joins."""
    return [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) > 1]


def cells_of(axes):
    """The letters in a heat map by row and column."""
    inside = [text for text in axes.texts if text.get_va() == "center"]
    return {(int(text.get_position()[1]), int(text.get_position()[0])): text for text in inside}


def overlapping(boxes):
    return any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_models_stand_in_the_order_of_their_means_with_ring_or_dot_interval_and_seeds(written):
    figure = standings_figure(by_hand(), note="And more of it. " * 6)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "a", "c"]
    assert marks(axes, LIGHT.good) == [(80, 0)]
    assert marks(axes, LIGHT.background) == [(78, 1), (70, 2), (60, 3)]
    assert bars(axes, 5) == [(77.5, 82.5), (75.5, 80.5), (67.5, 72.5), (57.5, 62.5)]
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"] == [[79, 81]]
    texts = written(figure)
    assert {"untuned", "fine-tuned", "95 % interval", "single seed", "80.0", "60.0", "Mean score"} <= set(texts)
    assert "rank" not in texts, "no ranks without comparisons"
    (footer,) = [text for text in figure.texts if "No mean, because cells failed: d (untuned)." in text.get_text()]
    assert footer.get_window_extent().x1 <= figure.bbox.x1, "long lines are wrapped"


def test_lines_join_ties_and_ranks_are_ranges(written):
    figure = standings_figure(by_hand(), compared(by_hand(), resolution=9), resolution=9.0)
    (axes,) = figure.axes
    assert ties(axes) == [[0, 1], [1, 2]], "80 and 78, 78 and 70; 60 differs from all"
    assert len({line.get_xdata()[0] for line in axes.lines if line.get_clip_on() is False}) == 2, "side by side"
    ranks = [text for text in axes.texts if text.get_position()[0] == 1.05][1:]
    assert [text.get_text() for text in ranks] == ["1\N{EN DASH}2", "1\N{EN DASH}3", "2\N{EN DASH}3", "4"]
    assert [text.get_weight() for text in ranks] == ["normal", "normal", "normal", "bold"]
    assert [patch.get_y() for patch in axes.patches if patch.get_height() == 1] == [-0.5, 0.5], "tinted"
    assert "9 points: smallest difference detected with 80 % power (median pair)" in written(figure)
    assert (9,) in [tuple(np.diff(line.get_xdata())) for line in axes.lines if line.get_marker() == "|"]
    unknown = standings_figure(by_hand(), compared(by_hand()), float("nan"))
    assert not any("smallest difference" in text for text in written(unknown))
    pairs = compared(by_hand(), resolution=1)
    both = (pairs["task"] == "mean") & (pairs["model_a"] == "a") & (pairs["model_b"] == "a")
    axes = standings_figure(by_hand(), pairs.assign(different=pairs["different"] & ~both)).axes[0]
    assert ties(axes) == [[0, 2]], "the knots are at the members alone"


def test_a_heat_map_prints_every_score_by_family_and_marks_the_best_and_its_ties(written):
    figure = score_heatmap(by_hand(), compared(by_hand(), 7.5), "all")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["mean", "y", "x"], "STS before clustering"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a ●", "b ○", "a ○", "c ○", "d ○"]
    cells = cells_of(axes)
    expected = [["80.0", "76.0", "84.0"], ["78.0", "80.0", "76.0"], ["70.0", "68.0", "72.0"], ["60.0", "58.0", "62.0"]]
    expected.append([FAILED, FAILED, "90.0"])
    assert [[cells[row, column].get_text() for column in range(3)] for row in range(5)] == expected
    assert {place for place, text in cells.items() if text.get_weight() == "bold"} == {(0, 0), (1, 1), (4, 2)}
    framed = {(int(patch.get_y()), int(patch.get_x())) for patch in axes.patches if not patch.get_fill()}
    assert framed == {(0, 0), (1, 0), (1, 1), (0, 1), (4, 2), (0, 2)}
    assert {"STS", "clustering"} <= set(written(figure))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_best_cells_are_strongest_and_all_numbers_can_be_read(theme):
    axes = score_heatmap(simulated(13, 14), theme=theme).axes[0]
    axes.figure.draw_without_rendering()
    mesh = axes.collections[0]
    shades, faces = mesh.get_array(), mesh.get_facecolors().reshape(13, 15, 4)
    assert (np.diff(shades[:, 0]) <= 0).all()
    assert shades.max() == pytest.approx(0.6)
    assert not [patch for patch in axes.patches if not patch.get_fill()], "no frames without comparisons"

    def light(color):
        rgb = np.array(to_rgb(color))
        return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    letters = cells_of(axes)
    assert len(letters) == 13 * 15
    for place, text in letters.items():
        dark, bright = sorted([light(text.get_color()), light(faces[place][:3])])
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_the_front_is_what_no_other_beats_in_both():
    random = np.random.default_rng(0)
    costs, scores = pd.Series(random.integers(1, 9, 40)), pd.Series(random.integers(1, 9, 40))
    for more in (True, False):
        front = pareto_front(costs, scores, more)
        for one in costs.index:
            cheaper = costs > costs[one] if more else costs < costs[one]
            beaten = (cheaper & (scores >= scores[one])) | ((costs == costs[one]) & (scores > scores[one]))
            assert front[one] == (not beaten.any())


def test_quality_is_drawn_against_cost_with_the_front_in_colour(written):
    figure = quality_figure(by_hand(), COSTS | {"c": {"sentences_per_second": 50}})
    speed, size = figure.axes
    assert marks(speed, LIGHT.good) == [(100, 80)]
    assert marks(speed, LIGHT.background) == [(1000, 78), (50, 60)]
    edges = {float(line.get_xdata()[0]): to_hex(line.get_color()) for line in speed.lines if line.get_marker() == "o"}
    assert edges == {100: LIGHT.good, 1000: LIGHT.good, 50: LIGHT.soft}
    assert bars(speed, 2.2, "y") == [(77.5, 82.5), (75.5, 80.5), (57.5, 62.5)]
    (steps,) = [line for line in speed.lines if line.get_drawstyle() == "steps-pre"]
    assert list(zip(*steps.get_data(), strict=True)) == [(100, 80), (1000, 78)]
    assert marks(size, LIGHT.good) == [(2e7, 80)], "b is larger and worse"
    assert {"a", "b"} <= set(written(figure))
    assert any("Unknown cost: c." in text for text in written(figure))
    assert speed.get_xscale() == size.get_xscale() == "log"
    assert len(quality_figure(by_hand(), {"a": {"parameters": 1e7}}).axes) == 1, "no panel without a value"


def test_names_of_points_do_not_collide():
    random = np.random.default_rng(1)
    models = {f"model-{i}": {"sentences_per_second": 10 ** random.uniform(2, 3.2)} for i in range(13)}
    figure = quality_figure(simulated(13, 14), models)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    spots = axes.transData.transform([mark for face in (LIGHT.good, LIGHT.soft) for mark in marks(axes, face)])
    assert len(boxes) == len(spots) == 13
    assert not overlapping(boxes)
    assert not any(box.contains(*spot) for box in boxes for spot in spots)


def test_what_cannot_be_drawn_is_refused():
    incomplete = by_hand().query("model == 'd' or (model == 'c' and task == 'y')")
    with pytest.raises(ValueError, match="no model with all its tasks"):
        standings_figure(incomplete)
    assert cells_of(score_heatmap(incomplete).axes[0])[0, 0].get_text() == FAILED
