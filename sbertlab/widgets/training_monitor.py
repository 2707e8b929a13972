"""`TrainingMonitor`: a callback of `fit` that shows a run while it runs, with buttons that pause and stop it."""

import html
import signal
import threading
import time
from collections.abc import Iterable
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython import get_ipython
from IPython.display import Image, display
from sklearn.decomposition import PCA

from sbertlab import plots
from sbertlab.analysis.maps import FEWEST_POINTS
from sbertlab.checks import check_same_length, checked_number
from sbertlab.data.texts import checked_texts
from sbertlab.encoder.sentence_transformer import SentenceTransformer, evaluating
from sbertlab.plots.style import Figure, canvas, style
from sbertlab.training.callbacks import Event, Interrupt
from sbertlab.training.fit import HISTORY_COLUMNS
from sbertlab.training.probe import MOST_TEXTS, collapse_reason
from sbertlab.widgets.panel import Panel, picture_box, row

RUNNING = ("running", "pausing", "paused", "stopping")
"""States in which a run reacts to the buttons."""

SHARE = 0.05
"""Largest share of the run's time for pictures."""


class TrainingMonitor(Panel):
    """Curves of the history, the health of the space and a live map, with Pause and Stop.

    In a notebook it appears where `fit` runs, and leaves pictures there when the run has ended. Pause holds the run
    after the current step. Stop works like Ctrl-C: the step is finished, a checkpoint is written if there is a
    `checkpoint_path`, and the same call with `resume=True` resumes to the same weights. JupyterLab 4.4 with ipykernel 7
    delivers button presses while a cell runs; elsewhere, the kernel's own stop button does the same as Stop.

    `probe` are texts for the map and `labels` names of their groups, see `ProbeMap`. `state` is "waiting", one of
    `RUNNING`, "ended" or "failed". `live` says whether to draw, by default only in a notebook.

    >>> monitor = TrainingMonitor(["a cat", "a dog", "an invoice"])
    >>> monitor.status
    'Waiting for fit(..., callbacks=[monitor]).'
    """

    def __init__(
        self, probe: Iterable[str] | None = None, labels: Iterable[Any] | None = None, *, theme: str = "light"
    ) -> None:
        super().__init__(theme=theme)
        self.map = None if probe is None else ProbeMap(probe, labels)
        self.live = notebook() is not None
        self.state, self._ending, self._total = "waiting", "", 0
        self._rows: dict[tuple[int, str], dict[str, Any]] = {}
        self._lock = threading.RLock()
        self._pause = self.button("Pause", lambda: self.pause() if self.state == "running" else self.resume())
        self._stop = self.button("Stop", self.stop)
        self._status, self._health = ipywidgets.HTML(), ipywidgets.HTML()
        self._curves, self._picture = picture_box(), picture_box()
        self.add(self._status, row(self._pause, self._stop), row(self._curves, self._picture), self._health)
        self._show_state()

    def pause(self) -> None:
        """Hold the run after the current step, until `resume` or `stop`; without a run nothing happens."""
        self._change_state("pausing", "running")

    def resume(self) -> None:
        """Continue a paused run."""
        self._change_state("running", "pausing", "paused")

    def stop(self) -> None:
        """End the run after the current step, as Ctrl-C does; without a run nothing happens."""
        self._change_state("stopping", "running", "pausing", "paused")

    def _change_state(self, state: str, *before: str) -> None:
        """Go to a state, whichever thread asks, if the current one is among those before, or from any."""
        with self._lock:
            if not before or self.state in before:
                self.state = state
                self._show_state()

    def __call__(self, event: Event, *older: Any) -> bool:
        """Record and show an event; hold the run while it is paused; return whether it should end."""
        if not isinstance(event, Event):
            raise TypeError(f"a TrainingMonitor takes an Event, got {event!r:.40}; call fit(..., callbacks=[monitor])")
        if self.state not in RUNNING or (event.kind == "step" and event.step <= self.step):
            self._begin(event)  # also after a run that raised an error
        for reported in event.rows or [event.row]:
            self._rows[reported["step"], reported["objective"]] = reported
        if event.kind == "end":
            self._end(event)
            return False
        self._draw(event.model)
        return self._obey(event.model)

    def _begin(self, event: Event) -> None:
        """Start a new history, or continue it if the run is resumed."""
        self._rows = {place: kept for place, kept in self._rows.items() if place[0] < event.step}
        self._total, self._due = event.steps, 0.0
        if self.map is not None and not self._rows:
            self.map.views = []
        self._change_state("running")
        if (shell := notebook()) is not None:
            shell.events.register("post_run_cell", self._cell_ended)
            self._place = display(self, display_id=True)

    def _obey(self, model: SentenceTransformer) -> bool:
        """Hold the run while it is paused; pass Stop on as Ctrl-C, which also ends a pause; return whether to stop."""
        owner = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        interrupt = owner if isinstance(owner, Interrupt) else Interrupt()  # none is installed outside the main thread
        self._change_state("paused", "pausing")
        if self.state == "paused":
            self._due = 0.0
            self._draw(model)
        while self.state == "paused" and not interrupt.requested:
            time.sleep(0.05)
        interrupt.requested |= self.state == "stopping"
        if interrupt.requested:
            self._change_state("stopping")
        return interrupt.requested

    def _end(self, event: Event) -> None:
        """Show how the run ended, and leave a picture of it."""
        ending = f"Finished after {event.step:,} of {self._total:,} steps."
        if event.step < self._total and self.state == "stopping":
            ending = (
                f"Stopped after step {event.step:,}. The same call with resume=True resumes a run with checkpoints."
            )
        self._finish("ended", ending, event.model)

    def _cell_ended(self, result: Any) -> None:
        """The cell is over. If the run did not report its end, it was cut off."""
        if self.state in RUNNING:
            self._finish("failed", f"The run was cut off by an error after step {self.step:,}.")

    def _finish(self, state: str, ending: str, model: SentenceTransformer | None = None) -> None:
        self._ending, self._due = ending, 0.0
        self._change_state(state)
        self._draw(model)
        if (shell := notebook()) is not None:
            shell.events.unregister("post_run_cell", self._cell_ended)
            self.guarded(self._leave_pictures)()  # the run is worth more than its pictures

    def _leave_pictures(self) -> None:
        self._place.update(Image(self.picture()))
        if self.map is not None and self.map.views:
            display(self.map.figure(self.theme))

    @property
    def step(self) -> int:
        """The newest step."""
        return max((step for step, _ in self._rows), default=0)

    @property
    def history(self) -> pd.DataFrame:
        """What the run has reported, in the columns of fit's history."""
        return pd.DataFrame(self._rows.values(), columns=HISTORY_COLUMNS)

    @property
    def status(self) -> str:
        """What is going on, as a sentence."""
        words = {
            "waiting": "Waiting for fit(..., callbacks=[monitor]).",
            "running": f"Training: step {self.step:,} of {self._total:,}.",
            "pausing": "Pausing: the current step is finished first.",
            "paused": f"Paused after step {self.step:,}. The cell waits: Resume continues, Stop ends the run.",
            "stopping": "Stopping: the current step is finished first.",
        }
        return words.get(self.state, self._ending)

    @property
    def health(self) -> str:
        """What training does to the embedding space, by the run's own probe, as a sentence."""
        probed: Any = self.history.dropna(subset="mean_cosine").to_dict("records")
        if len(probed) < 2:
            return "The embedding space has not been measured twice yet."
        reason = collapse_reason(probed[0], probed[-1])
        return "No collapse detected." if reason is None else f"Collapsed: {reason}"

    def static(self) -> Figure:
        """The history as a figure, or the status before there is one."""
        title = self.status.partition(". ")[0].rstrip(".")
        if self._rows:
            return plots.training_history(self.history, title=title, theme=self.theme)
        with style(self.theme):
            figure, panels = canvas(7.2, 0.2, title)
            panels[0, 0].axis("off")
        return figure

    def _draw(self, model: SentenceTransformer | None) -> None:
        """Show the step, and the pictures if they are due. An error is shown, and the run continues."""
        start = time.perf_counter()
        if not self.live:
            return
        self._show_state()
        if start >= self._due:
            self.guarded(self._show_pictures)(model)
            now = time.perf_counter()
            self._due = now + (now - start) / SHARE

    def _show_state(self) -> None:
        self._status.value = f'<div role="status"><b>{html.escape(self.status)}</b></div>'
        held = self.state in ("pausing", "paused")
        self._pause.description = "Resume" if held else "Pause"
        for button in (self._pause, self._stop):
            button.disabled = not held and self.state != "running"
            # JupyterLab addresses messages about a button to a thread of the kernel, so that they arrive while a cell
            # runs; ipykernel 7.4 redirects them to the busy shell that last spoke of the button, unless it forgets it
            vars(button.comm).pop("_reply_subshell_id", None)

    def _show_pictures(self, model: SentenceTransformer | None) -> None:
        self._health.value = f"<small>{html.escape(self.health)}</small>"
        self._curves.value = self.picture(plots.training_history(self.history, theme=self.theme), dpi=72)
        if self.map is not None and model is not None:
            self.map.update(model, self.step)
            self._picture.value = self.picture(self.map.figure(self.theme), dpi=72)


class ProbeMap:
    """Where some texts lie while a model is trained, always on the plane of their first two principal components.

    The embeddings count with length 1. Of more than 512 texts, evenly spaced ones are taken. `views` has step,
    coordinates `(texts, 2)` and share of the variance on the plane, of the first and the newest map.
    """

    def __init__(self, texts: Iterable[str], labels: Iterable[Any] | None = None) -> None:
        (given,) = checked_texts(probe=texts)
        checked_number("the number of texts of a probe", len(given), FEWEST_POINTS)
        names = given if labels is None else list(map(str, labels))
        check_same_length(probe=given, labels=names)
        stride = 1 + (len(given) - 1) // MOST_TEXTS
        self.texts = given[::stride]
        self.labels = None if labels is None else names[::stride]
        self.views: list[tuple[int, np.ndarray, float]] = []

    def update(self, model: SentenceTransformer, step: int) -> None:
        """Embed the texts and put them on the plane; draws no random numbers and leaves the model in its modes."""
        with torch.no_grad(), evaluating(model):
            rows = F.normalize(model.embed(self.texts).double(), dim=1).cpu().numpy()  # (texts, dim)
        if not self.views:
            self._plane = PCA(n_components=2, svd_solver="covariance_eigh").fit(rows).components_.T  # (dim, 2)
        xy = (rows - rows.mean(axis=0)) @ self._plane  # (texts, 2)
        share = xy.var(axis=0).sum() / max(rows.var(axis=0).sum(), 1e-12)
        self.views = [*self.views[:1], (step, xy, share)]

    def figure(self, theme: str = "light") -> Figure:
        """The first map and the newest side by side, on one scale."""
        maps = {f"after step {step:,}": xy for step, xy, _ in self.views}
        shares = {f"after step {step:,}": f"{share:.0%} of the variance" for step, _, share in self.views}
        title = "The probe on one plane"
        figure = plots.map_comparison(maps, self.labels, shares, title=title, theme=theme, size=4.2)
        reach = 1.08 * max(np.abs(xy).max() for xy in maps.values())
        for axes in figure.axes[: len(maps)]:
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), adjustable="box")
        return figure


def notebook() -> Any:
    """The notebook's IPython shell in its main thread; None elsewhere."""
    shell = get_ipython()
    here = threading.current_thread() is threading.main_thread()
    return shell if here and getattr(shell, "kernel", None) is not None else None
