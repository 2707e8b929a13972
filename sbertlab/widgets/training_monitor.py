"""`TrainingMonitor`: a callback of `fit` that shows a run while it runs, with buttons that pause and stop it."""

from __future__ import annotations

import base64
import html
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from sbertlab import plots
from sbertlab.analysis.maps import FEWEST_POINTS
from sbertlab.checks import check_same_length, checked_number
from sbertlab.data.texts import checked_texts
from sbertlab.encoder.sentence_transformer import SentenceTransformer, evaluating
from sbertlab.plots.style import Figure
from sbertlab.training.callbacks import Event, Interrupt
from sbertlab.training.fit import HISTORY_COLUMNS
from sbertlab.training.probe import METRICS, MOST_TEXTS, collapse_reason
from sbertlab.widgets.panel import Panel, error_text, picture_box, picture_of, row, text_figure

try:
    import ipywidgets
    from IPython import get_ipython
    from IPython.display import display
except ImportError as error:
    raise ImportError('the widgets need ipywidgets: pip install "sbertlab[lab]"') from error

RUNNING = ("running", "paused", "stopping")
"""States in which a run reacts to the buttons."""

NUMBERS = ("loss", "metric", "lr", "tokens_per_second", *METRICS)
"""Columns of the history whose newest value is shown."""


class TrainingMonitor(Panel):
    """Loss, metric, learning rate, throughput, the health of the space and a live map, with Pause and Stop.

    It appears where `fit` runs, unless it is displayed already, and leaves a picture there when the run has ended.
    Pause holds the run after the current step. Stop works like Ctrl-C: the current step is finished, a checkpoint is
    written if there is a `checkpoint_path`, and the same call with `resume=True` resumes to the same weights.

    JupyterLab 4.4 with ipykernel 7 delivers button presses while a cell runs. Elsewhere they arrive after it; there,
    the kernel's own stop button does the same as Stop.

    Args:
        probe: texts for the map, at most 512 (evenly spaced ones of more); by default there is no map.
        labels: names of groups for their colours, one per text.
        every: seconds between two drawings.
        share: maximum share of the run's time for drawing; what is slow is drawn less often.
        live: whether to draw before the end; by default only in a notebook.
        theme: "light" or "dark", of the pictures.

    Attributes:
        state: "waiting", "running", "paused", "stopping", "ended" or "failed"; `status` says it as a sentence.

    Raises:
        ValueError: the probe is not a list of at least 3 texts, labels of another length, `every` or `share` out of
            range.

    >>> monitor = TrainingMonitor(["a cat", "a dog", "an invoice"])
    >>> monitor.status
    'Waiting for fit(..., callbacks=[monitor]).'
    """

    takes_events = True
    """`fit` calls it at every step also when it is given as the one `callback`."""

    def __init__(
        self,
        probe: Iterable[str] | None = None,
        labels: Iterable[Any] | None = None,
        *,
        every: float = 0.5,
        share: float = 0.05,
        live: bool | None = None,
        theme: str = "light",
    ) -> None:
        self.every, self.share = checked_number("every", every), checked_number("share", share, 0, 1, above=True)
        self.map = None if probe is None else ProbeMap(probe, labels)
        self.live = notebook() is not None if live is None else live
        self.state, self._ending = "waiting", ""
        self._rows: dict[tuple[int, str], dict[str, Any]] = {}
        self._lock = threading.RLock()
        self._placed = False  # whether the user has displayed it
        self._place: Any = None  # where it has displayed itself
        self._reset()
        super().__init__(theme=theme)
        self._pause = self.button("Pause", lambda: self.resume() if self.state == "paused" else self.pause())
        self._stop = self.button("Stop", self.stop, "Finish this step, write a checkpoint, and end the run")
        self._status, self._numbers, self._health = (ipywidgets.HTML() for _ in range(3))
        self._curves, self._picture = picture_box(), picture_box()
        buttons, pictures = row(self._pause, self._stop), row(self._curves, self._picture)
        self.children = (*self.children, self._status, buttons, self._numbers, pictures, self._health)
        self._show_state()

    def pause(self) -> None:
        """Hold the run after the current step, until `resume` or `stop`; without a run nothing happens."""
        self._change_state("paused", "running")

    def resume(self) -> None:
        """Continue a paused run."""
        self._change_state("running", "paused")

    def stop(self) -> None:
        """End the run after the current step, as Ctrl-C does; without a run nothing happens."""
        self._change_state("stopping", "running", "paused")

    def _change_state(self, state: str, *before: str) -> None:
        """Go to a state, whichever thread asks, if the current one is among those before."""
        with self._lock:
            if self.state in before:
                self._set_state(state)

    def _set_state(self, state: str, ending: str = "") -> None:
        with self._lock:
            self.state, self._ending = state, ending
            self._show_state()

    def __call__(self, event: Event, *older: Any) -> bool:
        """Record and show an event; hold the run while it is paused; return whether it should end."""
        if not isinstance(event, Event):
            raise TypeError(f"a TrainingMonitor takes an Event, got {event!r:.40}; call fit(..., callbacks=[monitor])")
        start = time.perf_counter()
        if self.state not in RUNNING or (event.kind == "step" and event.step <= self.step):
            self._begin(event)  # also after a run that raised an error
        for told in event.rows or [event.row]:
            self._rows[told["step"], told["objective"]] = told
        if event.kind == "checkpoint":
            self._saved = event.step
        if event.kind == "step":
            self._times.append(start - self._began - self._held)
            self._examples = event.examples
        interrupt = listening()
        self._interrupted |= interrupt is not None and interrupt.requested
        if event.kind == "end":
            self._end(event)
            return False
        self._draw(event.model)
        return self._obey(interrupt)

    def _begin(self, event: Event) -> None:
        """Start a new history, or continue it if the run is resumed."""
        kept = {place: told for place, told in self._rows.items() if place[0] < event.step}
        self._reset()
        self._rows, self._total = kept, event.steps
        if self.map is not None and not kept:
            self.map.reset()
        self._set_state("running")
        if (shell := notebook()) is not None:
            shell.events.register("post_run_cell", self._cell_ended)
            if not self._placed:
                self._place = display(self, display_id=True)
                self._placed = False

    def _reset(self) -> None:
        self._began, self._held = time.perf_counter(), 0.0
        self._times: deque[float] = deque(maxlen=100)  # of the last steps, without pauses
        self._total = self._saved = self._examples = 0
        self._interrupted = self._holds = False
        self._due: dict[str, float] = {}  # when each part is drawn next

    def _obey(self, interrupt: Interrupt | None) -> bool:
        """Wait while the run is paused; pass a stop on; return True if only that answer ends the run."""
        start = time.perf_counter()
        while self.state == "paused" and not (interrupt is not None and interrupt.requested):
            if not self._holds:
                self._hold(True)
            time.sleep(0.05)
        if self._holds:
            self._held += time.perf_counter() - start
            self._hold(False)
            if interrupt is not None and interrupt.requested:  # Ctrl-C has ended the pause
                self._change_state("stopping", "paused")
        if self.state != "stopping" or interrupt is None:
            return self.state == "stopping"
        if not interrupt.requested:  # a second signal would stop at once
            self._interrupted = True
            signal.raise_signal(signal.SIGINT)
        return False

    def _hold(self, holds: bool) -> None:
        """Show that the run waits, with the numbers of its last step, or that it continues."""
        self._holds, self._due = holds, {}
        self._draw()
        self._show_state()

    def _end(self, event: Event) -> None:
        """Show how the run ended, and leave a picture of it."""
        short = event.step < self._total
        if (self.state == "stopping" or self._interrupted) and (short or not self._total):
            saved = "; the same call with resume=True resumes it." if self._saved == event.step else ", not saved."
            ending = f"Stopped after step {event.step:,}{saved}"
        elif short:
            ending = f"Ended early, after step {event.step:,} of {self._total:,}: patience, a collapse or a callback."
        else:
            ending = f"Finished after {event.step:,} steps."
        seconds = timedelta(seconds=int(time.perf_counter() - self._began - self._held))
        self._finish("ended", f"{ending} It took {seconds}.", event.model)

    def _cell_ended(self, result: Any) -> None:
        """The cell is over. If the run did not report its end, it was cut off."""
        if self.state in RUNNING:
            error = result.error_in_exec
            reason = "fit has raised an error" if error is None else error_text(error)
            self._finish("failed", f"The run was cut off after step {self.step:,}: {reason}")

    def _finish(self, state: str, ending: str, model: SentenceTransformer | None = None) -> None:
        self._set_state(state, ending)
        self._due = {}
        self._draw(model)
        if (shell := notebook()) is None:
            return
        shell.events.unregister("post_run_cell", self._cell_ended)
        place, self._place = self._place, None
        try:  # leave the picture where the monitor has displayed itself, or below the running cell
            bundle = {"image/png": base64.b64encode(self.picture()).decode(), "text/plain": repr(self)}
            (display if place is None else place.update)(bundle, raw=True)
            if self.map is not None and self.map.views:
                display(self.map.figure(self.theme))
        except Exception as error:  # the run is worth more than its picture
            self.last_error = error
            self.tell(error_text(error))

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
        if self.state == "paused" and self._holds:
            return f"Paused after step {self.step:,}. The cell waits: Resume continues, Stop ends the run."
        if self.state in ("paused", "stopping"):
            return f"{'Pausing' if self.state == 'paused' else 'Stopping'}: the current step is finished first."
        words = {"waiting": "Waiting for fit(..., callbacks=[monitor]).", "running": "Training."}
        return words.get(self.state, self._ending)

    @property
    def pace(self) -> str:
        """Progress, speed and remaining time."""
        parts = [f"step {self.step:,}" + (f" of {self._total:,}" if self._total else "")]
        if len(self._times) > 1 and self._times[-1] > self._times[0]:
            rate = (len(self._times) - 1) / (self._times[-1] - self._times[0])
            parts.append(f"{rate:.3g} steps/s")
            if self._examples:
                parts.append(f"{rate * self._examples:,.0f} examples/s")
            if self._total > self.step and self.state in RUNNING:
                parts.append(f"{timedelta(seconds=int((self._total - self.step) / rate))} left")
        return " · ".join(parts)

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
        if not self._rows:
            return text_figure(self.status, self.theme)
        return plots.training_history(self.history, title=self.status.partition(". ")[0], theme=self.theme)

    def _draw(self, model: SentenceTransformer | None = None) -> None:
        """Draw each part that is due, the map only with a model. An error is shown, and the run continues."""
        if not self.live and self.state in RUNNING:
            return
        parts: dict[str, Callable[[], None]] = {"numbers": self._show_numbers}
        if self.live:
            parts["curves"] = self._show_curves
        if self.live and self.map is not None and model is not None:
            parts["map"] = partial(self._show_map, self.map, model)
        for name, draw in parts.items():
            start = time.perf_counter()
            if start < self._due.get(name, 0):
                continue
            try:
                draw()
            except Exception as error:
                self.last_error = error
                self.tell(f"The monitor could not draw, the run continues: {error_text(error)}")
            now = time.perf_counter()
            self._due[name] = now + max(self.every, 3 * (now - start) / self.share)  # a third of the share for each

    def _show_state(self) -> None:
        self._status.value = f'<div role="status"><b>{html.escape(self.status)}</b></div>'
        paused = self.state == "paused"
        self._pause.description = "Resume" if paused else "Pause"
        self._pause.tooltip = "Continue with the next step" if paused else "Hold the run after this step"
        for button in (self._pause, self._stop):
            button.disabled = self.state not in ("running", "paused")
            answer_at_once(button)

    def _show_numbers(self) -> None:
        history = self.history
        newest = {name: known.iloc[-1] for name in NUMBERS if len(known := history[name].dropna())}
        shown = [f"epoch {history['epoch'].iloc[-1]}"]
        shown += [f"{name.replace('_', ' ')} {value:,.4g}" for name, value in newest.items()]
        if "metric" in newest:
            shown.append(f"best metric {history['metric'].max():,.4g}")
        self._numbers.value = f"<div>{self.pace}</div><div>{' · '.join(shown)}</div>"
        self._health.value = f"<small>{html.escape(self.health)}</small>"

    def _show_curves(self) -> None:
        self._curves.value = picture_of(plots.training_history(self.history, theme=self.theme), self.theme, dpi=72)

    def _show_map(self, probe: ProbeMap, model: SentenceTransformer) -> None:
        probe.update(model, self.step)
        self._picture.value = picture_of(probe.figure(self.theme, newest=True), self.theme, dpi=72)

    def __repr__(self) -> str:
        return f"TrainingMonitor: {self.status}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and its picture for pages that run no widgets."""
        self._placed = True
        return super()._repr_mimebundle_(**kwargs)


class ProbeMap:
    """Where some texts lie while a model is trained, always on the plane of their first two principal components.

    The embeddings count with length 1. Of more than 512 texts, evenly spaced ones are taken.

    Attributes:
        views: step, coordinates `(texts, 2)` and share of the variance on the plane, of the first and the newest map.
        reach: half the width of all maps, which only grows.
    """

    def __init__(self, texts: Iterable[str], labels: Iterable[Any] | None = None) -> None:
        (given,) = checked_texts(probe=texts)
        checked_number("the number of texts of a probe", len(given), FEWEST_POINTS)
        names = None if labels is None else list(map(str, labels))
        check_same_length(probe=given, labels=given if names is None else names)
        chosen = np.unique(np.linspace(0, len(given) - 1, min(len(given), MOST_TEXTS)).astype(int))
        self.texts = [given[index] for index in chosen]
        self.labels = None if names is None else [names[index] for index in chosen]
        self.reset()

    def reset(self) -> None:
        """Forget the plane."""
        self.views: list[tuple[int, np.ndarray, float]] = []
        self.reach = 0.0
        self._plane = np.zeros((0, 2))

    def update(self, model: SentenceTransformer, step: int) -> None:
        """Embed the texts and put them on the plane; draws no random numbers and leaves the model in its modes.

        Raises:
            ValueError: the embeddings are not finite, all equal, or of one dimension.
        """
        with torch.no_grad(), evaluating(model):
            rows = F.normalize(model.embed(self.texts).double(), dim=1).cpu().numpy()  # (texts, dim)
        total = rows.var(axis=0).sum()
        if not np.isfinite(total):
            raise ValueError(f"at step {step:,} the embeddings are not finite")
        if not self._plane.size:
            if total < 1e-12 or rows.shape[1] < 2:
                raise ValueError(f"at step {step:,} the embeddings are all equal, or of one dimension")
            self._plane = PCA(n_components=2, svd_solver="covariance_eigh").fit(rows).components_.T  # (dim, 2)
        xy = (rows - rows.mean(axis=0)) @ self._plane  # (texts, 2)
        self.views = [*self.views[:1], (step, xy, float(xy.var(axis=0).sum() / max(total, 1e-12)))]
        self.reach = max(self.reach, 1.08 * float(np.abs(xy).max()))

    def figure(self, theme: str = "light", newest: bool = False) -> Figure:
        """The first map and the newest side by side on one scale, or the newest alone."""
        if not self.views:
            raise ValueError("the probe has not been drawn yet")
        views = self.views[-1:] if newest else self.views
        maps = {f"after step {step:,}": xy for step, xy, _ in views}
        shares = {f"after step {step:,}": f"{share:.0%} of the variance" for step, _, share in views}
        title = "" if newest else "The probe on one plane"
        figure = plots.map_comparison(maps, self.labels, shares, title=title, theme=theme, size=4.2)
        for axes in figure.axes[: len(maps)]:
            axes.set(xlim=(-self.reach, self.reach), ylim=(-self.reach, self.reach))
        return figure


def listening() -> Interrupt | None:
    """The Interrupt through which the running fit receives Ctrl-C; None outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None
    owner = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return owner if isinstance(owner, Interrupt) else None


def notebook() -> Any:
    """The notebook's IPython shell in its main thread; None elsewhere."""
    shell = get_ipython()
    here = threading.current_thread() is threading.main_thread()
    return shell if here and getattr(shell, "kernel", None) is not None else None


def answer_at_once(widget: ipywidgets.Widget) -> None:
    """Let the browser's messages about a widget reach Python while a cell runs.

    JupyterLab addresses them to a sub-shell, a thread of the kernel. ipykernel 7.4 changes the address to the shell
    that last spoke of the widget, which is the one that the cell keeps busy, unless it has forgotten which.
    """
    vars(widget.comm).pop("_reply_subshell_id", None)
