"""`BenchmarkBrowser`: a benchmark's table with filters, and the verdict on any two of its models."""

from __future__ import annotations

import os
from typing import Any

import ipywidgets
import pandas as pd

from sbertlab.benchmark.comparisons import MEAN, PAIR, over_tasks
from sbertlab.benchmark.results import PRESETS, read
from sbertlab.plots.benchmark import score_heatmap, standings_figure
from sbertlab.plots.style import Figure
from sbertlab.widgets.panel import Panel, control, escaped, message, picture_of, row, table

VIEWS = ("ranking", "tasks")


class BenchmarkBrowser(Panel):
    """Models and tasks of a benchmark to choose from, their ranking with intervals and ties, and pairs compared.

    Everything follows from the tables of the folder: with fewer tasks, means, intervals and verdicts are those of
    the tasks that are left.

    Args:
        folder: of benchmark.csv, comparisons.csv and environment.json.
        preset: "offline", "local" or "published"; None: the first that was measured.
        theme: "light" or "dark".

    Raises:
        FileNotFoundError: nothing was measured in the folder.
        ValueError: the preset was not measured; the tables were changed by hand.
    """

    def __init__(
        self, folder: str | os.PathLike[str] = "figures", preset: str | None = None, *, theme: str = "light"
    ) -> None:
        every, pairs, _ = read(folder)
        every = every[~every["tag"].isin(["published", "failed"])]
        measured = [name for name in PRESETS if name in set(every["preset"])]
        if not measured:
            raise FileNotFoundError(
                f"{os.fspath(folder)} holds no measured table; `python -m sbertlab benchmark` makes it"
            )
        if preset is not None and preset not in measured:
            raise ValueError(f"preset must be one of {', '.join(measured)}, which were measured, got {preset!r}")
        chosen = preset or measured[0]
        self.cells = every[every["preset"] == chosen].reset_index(drop=True)
        self.pairs = pairs[pairs["preset"] == chosen].reset_index(drop=True)
        tasks, models = (self.cells[name].drop_duplicates().tolist() for name in ("task", "model"))
        size = {"layout": {"width": "300px", "height": f"{18 * min(9, max(len(tasks), len(models))) + 14}px"}}
        self._tasks = control(ipywidgets.SelectMultiple, "Tasks", options=tasks, value=tasks, **size)
        self._models = control(ipywidgets.SelectMultiple, "Models", options=models, value=models, **size)
        self._view = control(ipywidgets.ToggleButtons, "Show", options=VIEWS)
        names = self.cells[["model", "variant"]].drop_duplicates().itertuples(index=False, name=None)
        options = [(f"{model}, {variant}", (model, variant)) for model, variant in names]
        self._first = control(ipywidgets.Dropdown, "Compare", options=options, value=options[0][1])
        self._second = control(ipywidgets.Dropdown, "with", options=options, value=options[-1][1])
        own_size = {"max_width": "100%", "align_self": "flex-start"}  # a column would stretch the picture to its width
        self._image = ipywidgets.Image(format="png", layout=own_size)
        self._verdict = ipywidgets.HTML()
        controls = [row(self._tasks, self._models), self._view]
        super().__init__([*controls, self._image, row(self._first, self._second), self._verdict], theme)
        for widget in (self._first, self._second):
            widget.observe(self.guarded(lambda change: self._compare()), names="value")
        for widget in (self._tasks, self._models, self._view):
            widget.observe(self.guarded(lambda change: self._follow()), names="value")
        self._follow()

    @property
    def shown(self) -> pd.DataFrame:
        """The cells of the chosen tasks and models."""
        keep = self.cells["task"].isin(self._tasks.value) & self.cells["model"].isin(self._models.value)
        return self.cells[keep]

    @property
    def comparisons(self) -> pd.DataFrame:
        """Comparisons among the chosen models, on each of the chosen tasks and in their mean."""
        tasks = list(self._tasks.value)
        if not tasks:
            return self.pairs.head(0)
        # models are left out after the correction for many pairs: whoever looks at fewer proves no more
        found = pd.concat([over_tasks(self.pairs, self.cells, tasks), self.pairs[self.pairs["task"].isin(tasks)]])
        among = found["model_a"].isin(self._models.value) & found["model_b"].isin(self._models.value)
        return found[among].reset_index(drop=True)

    def select(self, tasks: list[str] | None = None, models: list[str] | None = None) -> None:
        """Show only these tasks and models; None leaves a choice as it is."""
        for widget, names in ((self._tasks, tasks), (self._models, models)):
            if names is not None:
                widget.value = tuple(names)

    def verdict(self, a: tuple[str, str], b: tuple[str, str]) -> pd.Series:
        """Return the comparison of two (model, variant) in the mean over the chosen tasks, as a minus b.

        Raises:
            ValueError: the two are the same, one of them lacks a task, or no task is chosen.
        """
        if a == b:
            raise ValueError(f"{', '.join(a)} is compared with itself; choose two that differ")
        tasks = list(self._tasks.value)
        if not tasks:
            raise ValueError("choose at least one task")
        means = over_tasks(self.pairs, self.cells, tasks).set_index(PAIR)
        pair: Any
        for pair, sign in (((*a, *b), 1.0), ((*b, *a), -1.0)):
            if pair in means.index:
                found: dict[str, Any] = means.loc[pair].to_dict()
                ends = sorted([sign * found["low"], sign * found["high"]])
                turned = {"difference": sign * found["difference"], "low": ends[0], "high": ends[1]}
                return pd.Series({**found, **turned})
        raise ValueError(f"{', '.join(a)} and {', '.join(b)} have not both finished the tasks {', '.join(tasks)}")

    def static(self) -> Figure:
        """The chosen view as a matplotlib figure."""
        if self.shown.empty:
            raise ValueError("choose at least one task and one model")
        pairs = self.comparisons
        if self._view.value == "tasks":
            return score_heatmap(self.shown, pairs, "all", theme=self.theme)
        chosen = ", ".join(self._tasks.value)
        note = "" if len(self._tasks.value) == len(self._tasks.options) else f"Only {chosen[:70]}."
        return standings_figure(self.shown, pairs, note=note, theme=self.theme)

    def __repr__(self) -> str:
        return f"BenchmarkBrowser of {self.cells['model'].nunique()} models and {self.cells['task'].nunique()} tasks"

    def _follow(self) -> None:
        """Show the verdict and the picture of what is chosen."""
        self._compare()
        self._image.value = picture_of(self.static(), self.theme)

    def _compare(self) -> None:
        """Say in words which of the two is ahead, and whether that is real, or why that cannot be said."""
        a, b = self._first.value, self._second.value
        try:
            found = self.verdict(a, b)
            if found["difference"] < 0:
                a, b, found = b, a, self.verdict(b, a)
        except ValueError as error:  # here and not above the panel, where the next picture would take it away
            self._verdict.value = message(str(error)).value
            return
        words = f"{', '.join(a)} is {found['difference']:.1f} points ahead of {', '.join(b)}"
        words += f" (95 % interval: {found['low']:.1f} to {found['high']:.1f}). "
        words += "The difference is real." if found["different"] else "The two cannot be told apart."
        numbers = pd.DataFrame([found[["difference", "error", "seed_error", "low", "high", "p"]]])
        numbers["p"] = "< 0.001" if found["p"] < 0.001 else f"{found['p']:.3f}"
        tasks = self._tasks.value
        caption = tasks[0] if len(tasks) == 1 else f"{MEAN} of {len(tasks)} tasks"
        self._verdict.value = f"<p>{escaped(words)}</p>" + table(numbers, caption)
