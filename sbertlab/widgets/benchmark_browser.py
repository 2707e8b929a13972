"""`BenchmarkBrowser`: the table of a benchmark with filters, and the comparison of any two of its models."""

from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd

from sbertlab.benchmark.comparisons import PAIR, over_tasks
from sbertlab.benchmark.results import PRESETS, read
from sbertlab.checks import check_choice
from sbertlab.plots.benchmark import standings_figure
from sbertlab.plots.style import Figure
from sbertlab.widgets.panel import Panel, alert, control, escaped, picture_box, row


class BenchmarkBrowser(Panel):
    """Choose models and tasks of a benchmark: their ranking with intervals and ties, and pairs compared.

    Means, intervals and verdicts are those over the chosen tasks, computed from the tables of the folder.
    `preset` is "offline", "local" or "published", by default the first one in the tables.
    """

    def __init__(self, folder: str | Path = "figures", preset: str | None = None, *, theme: str = "light") -> None:
        super().__init__(theme=theme)
        cells, pairs, _ = read(folder)
        cells = cells[~cells["tag"].isin(["published", "failed"])]
        measured = [name for name in PRESETS if name in set(cells["preset"])]
        if not measured:
            raise FileNotFoundError(f"{folder} has no measured table; `python -m sbertlab benchmark` makes it")
        preset = measured[0] if preset is None else preset
        check_choice("preset", preset, measured)
        self.cells = cells[cells["preset"] == preset].reset_index(drop=True)
        self.pairs = pairs[pairs["preset"] == preset].reset_index(drop=True)
        tasks, models = (self.cells[name].unique().tolist() for name in ("task", "model"))
        size = {"layout": {"width": "300px", "height": "180px"}}
        self._tasks = control(ipywidgets.SelectMultiple, "Tasks", options=tasks, value=tasks, **size)
        self._models = control(ipywidgets.SelectMultiple, "Models", options=models, value=models, **size)
        names = self.cells[["model", "variant"]].drop_duplicates().itertuples(index=False, name=None)
        options = [(", ".join(name), name) for name in names]
        self._first = control(ipywidgets.Dropdown, "Compare", options=options)
        self._second = control(ipywidgets.Dropdown, "with", options=options, value=options[-1][1])
        self._image, self._verdict = picture_box(), ipywidgets.HTML()
        self.add(row(self._tasks, self._models), self._image)
        self.add(row(self._first, self._second), self._verdict)
        for widget in (self._first, self._second):
            self.on_change(widget, lambda name: self._compare())
        for widget in (self._tasks, self._models):
            self.on_change(widget, lambda chosen: self._show())
        self._show()

    @property
    def shown(self) -> pd.DataFrame:
        """The cells of the chosen tasks and models."""
        return self.cells[self.cells["task"].isin(self._tasks.value) & self.cells["model"].isin(self._models.value)]

    @property
    def comparisons(self) -> pd.DataFrame:
        """All pairs of models compared in the mean over the chosen tasks.

        Also those not chosen, so that looking at fewer models makes nothing significant.
        """
        return over_tasks(self.pairs, self.cells, list(self._tasks.value))

    def select(self, tasks: list[str] | None = None, models: list[str] | None = None) -> None:
        """Show only these tasks and models; None leaves a choice as it is."""
        for widget, names in ((self._tasks, tasks), (self._models, models)):
            if names is not None:
                widget.value = tuple(names)

    def verdict(self, a: tuple[str, str], b: tuple[str, str]) -> pd.Series:
        """Return the comparison of two (model, variant) in the mean over the chosen tasks, as a minus b."""
        means = self.comparisons
        turned = means.rename(columns=dict(zip(PAIR, [*PAIR[2:], *PAIR[:2]], strict=True)))
        turned = turned.assign(difference=-means["difference"], low=-means["high"], high=-means["low"])
        both = pd.concat([means, turned]).set_index(PAIR)
        pair: Any = (*a, *b)
        if pair not in both.index:
            raise ValueError(f"{', '.join(a)} and {', '.join(b)} are not compared: choose two models with these tasks")
        return both.loc[pair]

    def static(self) -> Figure:
        """The ranking over the chosen tasks and models as a matplotlib figure."""
        if self.shown.empty:
            raise ValueError("choose at least one task and one model")
        note = f"Tasks: {', '.join(self._tasks.value)}"
        return standings_figure(self.shown, self.comparisons, note=note, theme=self.theme)

    def _show(self) -> None:
        self._compare()
        self._image.value = self.picture()

    def _compare(self) -> None:
        """Say which of the two models is ahead and whether that is significant, or why it cannot be said."""
        a, b = self._first.value, self._second.value
        try:
            found = self.verdict(a, b)
        except ValueError as error:  # here and not above the panel, where the next picture would remove it
            self._verdict.value = alert(str(error))
            return
        if found["difference"] < 0:
            a, b, found = b, a, self.verdict(b, a)
        tasks = self._tasks.value
        p = "p < 0.001" if found["p"] < 0.001 else f"p = {found['p']:.3f}"
        where = tasks[0] if len(tasks) == 1 else f"the mean of {len(tasks)} tasks"
        verdict = (
            f"In {where}, {', '.join(a)} is {found['difference']:.1f} points ahead of {', '.join(b)} (95 % interval: "
            f"{found['low']:.1f} to {found['high']:.1f}, {p}). "
            f"The difference is {'' if found['different'] else 'not '}significant."
        )
        self._verdict.value = escaped(verdict, "p")
