from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from sbertlab.analysis.ranks import distinguishable, standings, task_scores
from sbertlab.plots.benchmark import pareto_front, quality_figure, score_heatmap, short_name, standings_figure
from sbertlab.plots.style import THEMES

LIGHT = THEMES["light"]
FAMILIES = ["duplicates", "STS", "reranking", "retrieval", "clustering"]


def simulated(models: int = 5, tasks: int = 5, seeds: int = 3, examples: int = 1000) -> pd.DataFrame:
    """A benchmark's table in its long form: models of falling quality on tasks of five families."""
    random = np.random.default_rng(0)
    cells = []
    for model, variant in itertools.product(range(models), ("untuned", "fine-tuned")):
        for seed in range(seeds if variant == "fine-tuned" else 1):
            for task in range(tasks):
                value = 80 - 1.1 * model - 6.3 * (variant == "untuned") - 3 * (task % 5) + random.normal(0, 0.6)
                reach = 60 / examples**0.5
                cell = {"model": f"model-{model}", "variant": variant, "seed": seed, "task": f"task-{task}"}
                cell |= {"family": FAMILIES[task * 5 // tasks], "value": value, "low": value - reach}
                cell |= {"high": value + reach, "preset": "local", "recipe": "r", "tag": "measured", "metric": "m"}
                cells.append(cell)
    return pd.DataFrame(cells)


def compared(table: pd.DataFrame, resolution: float = 2.0) -> pd.DataFrame:
    """Every pair in every task and in the mean, different from `resolution` points on."""
    values = table.groupby(["model", "variant", "task"], sort=False)["value"].mean().unstack("task")  # noqa: PD010
    values["mean"] = values.mean(axis=1)
    rows = []
    for task, scores in values.to_dict().items():
        for one, other in itertools.combinations(scores, 2):
            gap = scores[one] - scores[other]
            pair = {"task": task, "model_a": one[0], "variant_a": one[1], "model_b": other[0], "variant_b": other[1]}
            rows.append(pair | {"difference": gap, "different": bool(abs(gap) >= resolution)})
    return pd.DataFrame(
        rows, columns=["task", "model_a", "variant_a", "model_b", "variant_b", "difference", "different"]
    )


def by_hand() -> pd.DataFrame:
    """Two tasks; means a 70 -> 80 (seeds 79, 81), b 78, c 60 and d failed on y. Intervals reach 3 or 4 far."""
    cells = [
        *[("a", "untuned", 0, "x", 72.0), ("a", "untuned", 0, "y", 68.0)],
        *[("a", "fine-tuned", 0, "x", 83.0), ("a", "fine-tuned", 0, "y", 75.0)],
        *[("a", "fine-tuned", 1, "x", 85.0), ("a", "fine-tuned", 1, "y", 77.0)],
        *[("b", "untuned", 0, "x", 76.0), ("b", "untuned", 0, "y", 80.0)],
        *[("c", "untuned", 0, "x", 62.0), ("c", "untuned", 0, "y", 58.0)],
        *[("d", "untuned", 0, "x", 90.0), ("d", "untuned", 0, "y", np.nan)],
    ]
    table = pd.DataFrame(cells, columns=["model", "variant", "seed", "task", "value"])
    reach = table["task"].map({"x": 3.0, "y": 4.0})
    table = table.assign(low=table["value"] - reach, high=table["value"] + reach, metric="m", preset="local")
    family = table["task"].map({"x": "clustering", "y": "STS"})
    return table.assign(family=family, tag=np.where(table["value"].isna(), "failed", "measured"))


MODELS = {f"model-{i}": {"parameters": 1e7 * 2**i, "sentences_per_second": 90} for i in range(5)}


FIGURES: dict[str, Callable[..., Figure]] = {
    "standings": lambda **look: standings_figure(simulated(), compared(simulated()), 1.4, **look),
    "plain standings": lambda **look: standings_figure(simulated().drop(columns=["low", "high"]), **look),
    "failed standings": lambda **look: standings_figure(by_hand(), compared(by_hand()), 1.4, **look),
    "heatmap": lambda **look: score_heatmap(simulated(13, 14), compared(simulated(13, 14)), "all", **look),
    "failed heatmap": lambda **look: score_heatmap(by_hand(), **look),
    "one cell": lambda **look: score_heatmap(simulated(1, 1, 1), compared(simulated(1, 1, 1)), **look),
    "one model": lambda **look: standings_figure(simulated(1, 1, 1), compared(simulated(1, 1, 1)), 2.0, **look),
    "quality": lambda **look: quality_figure(simulated(), MODELS, **look),
    "quality of one": lambda **look: quality_figure(simulated(1, 1, 1), MODELS, **look),
}


def written(figure: Figure) -> list[str]:
    """All that can be read in a figure, tick labels and axis labels too."""
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def marks(axes: Axes, face: str) -> list[tuple[float, float]]:
    """Places of the single round markers with this face colour."""
    lines = [line for line in axes.lines if line.get_marker() == "o" and to_hex(line.get_markerfacecolor()) == face]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines if len(line.get_xdata()) == 1]


def bars(axes: Axes, width: float, along: str = "x") -> list[tuple[float, ...]]:
    """Ends of the lines that are so wide."""
    lines = [line for line in axes.lines if line.get_linewidth() == width]
    return [tuple(np.round(getattr(line, f"get_{along}data")(), 6).tolist()) for line in lines]


def cells_of(axes: Axes) -> dict[tuple[int, int], Any]:
    """The letters in a heat map by row and column."""
    inside = [text for text in axes.texts if text.get_va() == "center"]
    return {(int(text.get_position()[1]), int(text.get_position()[0])): text for text in inside}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_on_its_page_without_a_warning(name: str, theme: str) -> None:
    before = dict(pyplot.rcParams)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = FIGURES[name](theme=theme, title="A title")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG")
    assert to_hex(figure.get_facecolor()) == THEMES[theme].background
    assert "A title" in written(figure)
    assert dict(pyplot.rcParams) == before, "the style ends with the figure"
    assert not pyplot.get_fignums(), "pyplot would show the figure a second time"


def test_the_interval_of_a_mean_adds_those_of_the_tasks_as_squares() -> None:
    means = standings(by_hand())
    assert means.loc[("b", "untuned"), "low"] == 75.5, "78 - sqrt(9 + 16) / 2"
    assert means.loc[("a", "fine-tuned"), "high"] == 82.5, "seeds share their examples, so they make it no shorter"
    assert np.isnan(means.loc[("d", "untuned"), "low"])
    assert standings(by_hand().drop(columns=["low", "high"]))[["low", "high"]].isna().to_numpy().all()


def test_the_interval_of_a_mean_has_the_length_that_simulation_gives() -> None:
    errors = np.array([0.5, 1.0, 2.0])
    draws = np.random.default_rng(0).normal(60, errors, (20_000, 3)).mean(axis=1)
    table = pd.DataFrame({"task": list("xyz"), "family": "STS", "value": 60.0})
    table = table.assign(model="m", variant="untuned", seed=0, low=60 - 1.96 * errors, high=60 + 1.96 * errors)
    ends = standings(table)[["low", "high"]].iloc[0].tolist()
    assert ends == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)


def test_models_stand_in_the_order_of_their_means_with_ring_or_dot_interval_and_seeds() -> None:
    figure = standings_figure(by_hand())
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "a", "c"]
    assert marks(axes, LIGHT.good) == [(80, 0)]
    assert marks(axes, LIGHT.background) == [(78, 1), (70, 2), (60, 3)]
    assert bars(axes, 5) == [(77.5, 82.5), (75.5, 80.5), (67.5, 72.5), (57.5, 62.5)]
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "|"] == [[79, 81]]
    texts = written(figure)
    assert {"untuned", "fine-tuned", "95 % interval", "single seed", "80.0", "60.0", "Mean score"} <= set(texts)
    assert any("No mean, because cells failed: d (untuned)." in text for text in texts)
    assert len(figure.axes) == 1, "no ranks without comparisons"


def test_lines_join_ties_and_ranks_are_ranges() -> None:
    figure = standings_figure(by_hand(), compared(by_hand(), resolution=9), resolution=9.0)
    axes, side = figure.axes
    lines = [list(line.get_ydata()) for line in side.lines]
    assert lines == [[0, 1], [1, 2]], "80 and 78, 78 and 70; 60 differs from all"
    columns = {float(line.get_xdata()[0]) for line in side.lines}
    assert len(columns) == 2, "lines that share a row stand beside each other"
    ranks = {text.get_position()[1]: text for text in side.texts if text.get_text() != "rank"}
    assert [ranks[row].get_text() for row in range(4)] == ["1\N{EN DASH}2", "1\N{EN DASH}3", "2\N{EN DASH}3", "4"]
    assert [ranks[row].get_weight() for row in range(4)] == ["normal", "normal", "normal", "bold"]
    tints = [patch for patch in axes.patches if patch.get_height() == 1]
    assert [patch.get_y() for patch in tints] == [-0.5, 0.5]
    assert "9 points: smallest difference detected with 80 % power (median pair)" in written(figure)
    scale = next(line for line in axes.lines if line.get_color() == LIGHT.ink)
    assert np.ptp(scale.get_xdata()) == pytest.approx(9)


def test_a_tie_may_leave_out_a_model_between_its_members() -> None:
    pairs = compared(by_hand(), resolution=1)
    skip = (pairs["task"] == "mean") & (pairs["model_a"] == "a") & (pairs["variant_a"] == "untuned")
    pairs.loc[skip & (pairs["model_b"] == "a") & (pairs["variant_b"] == "fine-tuned"), "different"] = False
    side = standings_figure(by_hand(), pairs).axes[1]
    assert [list(line.get_ydata()) for line in side.lines] == [[0, 2]], "the knots are at the members"


def test_a_difference_that_is_not_known_is_not_drawn_and_one_beyond_the_scores_fits() -> None:
    without = written(standings_figure(by_hand(), compared(by_hand()), float("nan")))
    assert not [text for text in without if "smallest difference" in text]
    axes = standings_figure(simulated(1, 1, 1), resolution=40.0).axes[0]
    scale = next(line for line in axes.lines if line.get_color() == LIGHT.ink)
    assert axes.get_xlim()[0] < scale.get_xdata()[0] < scale.get_xdata()[1] < axes.get_xlim()[1]


def test_pairs_count_in_either_direction() -> None:
    ranked = standings(by_hand()).dropna(subset="mean").index
    pairs = compared(by_hand(), 9)
    turned = {"model_a": "model_b", "variant_a": "variant_b", "model_b": "model_a", "variant_b": "variant_a"}
    apart = distinguishable(pairs, ranked)
    assert (apart == distinguishable(pairs.rename(columns=turned), ranked)).all()
    assert apart.astype(int).tolist() == [[0, 0, 1, 1], [0, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0]]


def test_a_heat_map_prints_every_score_by_family_and_marks_the_best_and_its_ties() -> None:
    figure = score_heatmap(by_hand(), compared(by_hand(), 7.5), "all")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["mean", "y", "x"], "STS before clustering"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "a", "c", "d"]
    cells = cells_of(axes)
    failed = "\N{MULTIPLICATION SIGN}"
    expected = [["80.0", "76.0", "84.0"], ["78.0", "80.0", "76.0"], ["70.0", "68.0", "72.0"], ["60.0", "58.0", "62.0"]]
    assert [[cells[row, column].get_text() for column in range(3)] for row in range(5)] == [
        *expected,
        [failed, failed, "90.0"],
    ]
    assert {place for place, text in cells.items() if text.get_weight() == "bold"} == {(0, 0), (1, 1), (4, 2)}
    frames = [patch for patch in axes.patches if not patch.get_fill()]
    framed = {(int(patch.get_y()), int(patch.get_x())) for patch in frames}
    assert framed == {(0, 0), (1, 0), (1, 1), (0, 1), (4, 2), (0, 2)}
    assert {"STS", "clustering"} <= set(written(figure))
    assert len(marks(axes, LIGHT.good)) == 1
    assert len(marks(axes, LIGHT.background)) == 4


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_best_cells_are_strongest_and_all_numbers_can_be_read(theme: str) -> None:
    axes = score_heatmap(simulated(13, 14), theme=theme).axes[0]
    axes.figure.draw_without_rendering()
    mesh = axes.collections[0]
    shades, faces = mesh.get_array(), mesh.get_facecolors().reshape(13, 15, 4)
    assert (np.diff(shades[:, 0]) <= 0).all()
    assert shades.max() == pytest.approx(0.6)
    assert not [patch for patch in axes.patches if not patch.get_fill()], "no frames without comparisons"

    def light(color: Any) -> float:
        rgb = np.array(to_rgb(color))
        return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    letters = cells_of(axes)
    assert len(letters) == 13 * 15
    for place, text in letters.items():
        dark, bright = sorted([light(text.get_color()), light(faces[place][:3])])
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


@pytest.mark.parametrize(
    ("variant", "rows"), [("last", "abcd"), ("untuned", "bacd"), ("fine-tuned", "a"), ("all", "abacd")]
)
def test_a_heat_map_shows_the_variant_that_is_asked_for(variant: str, rows: str) -> None:
    scores, families = task_scores(by_hand(), variant)
    assert "".join(scores.index.get_level_values("model")) == rows
    assert families == ["STS", "clustering"]
    known = by_hand().head(2).assign(tag="published", value=99.0, model="paper", preset="published")
    assert task_scores(pd.concat([by_hand(), known]), variant)[0].equals(scores), "published figures are no part of it"


@pytest.mark.slow
def test_thirteen_models_on_fourteen_tasks_fit_a_page_without_letters_on_letters() -> None:
    table = simulated(13, 14).replace({"model-9": "nreimers/MiniLMv2-L6-H768-distilled-from-BERT-Large"})
    figure = score_heatmap(table)
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] < 10.5
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in cells_of(axes).values()]
    boxes += [label.get_window_extent() for label in axes.get_yticklabels()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_the_front_is_what_no_other_beats_in_both() -> None:
    random = np.random.default_rng(0)
    costs, scores = pd.Series(random.integers(1, 9, 40)), pd.Series(random.integers(1, 9, 40))
    for more in (True, False):
        front = pareto_front(costs, scores, more)
        for one in costs.index:
            cheaper = costs > costs[one] if more else costs < costs[one]
            beaten = (cheaper & (scores >= scores[one])) | ((costs == costs[one]) & (scores > scores[one]))
            assert front[one] == (not beaten.any())


def test_quality_is_drawn_against_cost_with_the_front_in_colour() -> None:
    models = pd.DataFrame({"sentences_per_second": {"a": 100, "b": 1000, "c": 50}, "parameters": {"a": 2e7, "b": 1e8}})
    figure = quality_figure(by_hand(), models)
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


def test_names_of_points_do_not_collide() -> None:
    table = simulated(13, 14)
    random = np.random.default_rng(1)
    models = {name: {"sentences_per_second": 10 ** random.uniform(2, 3.2)} for name in table["model"].unique()}
    figure = quality_figure(table, models)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    assert len(boxes) == 13
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    spots = axes.transData.transform([mark for face in (LIGHT.good, LIGHT.soft) for mark in marks(axes, face)])
    assert len(spots) == 13
    assert not any(box.contains(*spot) for box in boxes for spot in spots)


@pytest.mark.parametrize("name", ["x" * 200, "<b>$x^2$</b>", "日本語/モデル", "", "a/b-c_d " * 9])
def test_names_are_drawn_as_they_are_written_on_at_most_two_lines(name: str) -> None:
    table = simulated(2, 2, 2).replace({"model-0": name})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (standings_figure(table), score_heatmap(table)):
            figure.savefig(io.BytesIO(), format="svg")
        quality_figure(table, {name: {"parameters": 1e7}}).savefig(io.BytesIO(), format="svg")
    lines = short_name(name).split("\n")
    assert len(lines) <= 2
    assert max(map(len, lines)) <= 28


TABLE, PAIRS = simulated(2, 2, 1), compared(by_hand())
INCOMPLETE = by_hand().query("model == 'd' or (model == 'c' and task == 'y')")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: standings_figure(TABLE.drop(columns=["seed", "family"])), r"missing the columns \['seed', 'family'\]"),
        (lambda: standings_figure(TABLE.head(0)), "table has no rows"),
        (lambda: standings_figure(TABLE.assign(tag="failed")), r"no measured row; its tags are \['failed'\]"),
        (
            lambda: standings_figure(TABLE.assign(preset=["offline", *TABLE["preset"][1:]])),
            r"presets \['offline', 'local'",
        ),
        (lambda: standings_figure(pd.concat([TABLE, TABLE.head(1)])), "table holds a cell twice: .*'task-0'"),
        (lambda: standings_figure(INCOMPLETE), "no model with all its tasks"),
        (lambda: standings_figure(by_hand(), PAIRS[PAIRS["model_b"] != "c"]), r"pair \('a', 'fine-tuned'\) and \('c'"),
        (lambda: standings_figure(by_hand(), PAIRS, -1), "resolution must be a number above 0, got -1"),
        (lambda: score_heatmap(by_hand(), PAIRS[PAIRS["task"] != "x"]), "in the task 'x'"),
        (lambda: score_heatmap(by_hand(), variant="tuned"), r"variant must be one of .*'tuned'"),
        (lambda: score_heatmap(by_hand().query("model == 'c'"), variant="fine-tuned"), "table has no fine-tuned model"),
        (
            lambda: quality_figure(by_hand(), {"a": {"parameters": None}}),
            r"models has none of \['sentences_per_second'",
        ),
    ],
)
def test_what_does_not_fit_is_refused(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw()


def test_what_is_missing_is_left_out() -> None:
    assert cells_of(score_heatmap(INCOMPLETE).axes[0])[0, 0].get_text() == "\N{MULTIPLICATION SIGN}"
    assert len(quality_figure(by_hand(), {"a": {"parameters": 1e7, "sentences_per_second": None}}).axes) == 1


def test_the_line_below_a_figure_stays_on_its_page() -> None:
    figure = standings_figure(by_hand(), note="And more of it. " * 6)
    (footer,) = [text for text in figure.texts if "Mean of 2 tasks" in text.get_text()]
    assert footer.get_window_extent().x1 <= figure.bbox.x1
