"""`TrainingMonitor`: what a run does, shown while it does it, with buttons that pause and stop it.

The monitor is a callback of `fit`. It keeps what it is told, draws some of it now and then, and passes a wish to stop
on to the run as Ctrl-C would; the training learns nothing else of it.
"""

from __future__ import annotations

import base64
import html
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from sbertlab import plots
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.plots.style import Figure
from sbertlab.training.callbacks import Event, Interrupt
from sbertlab.training.fit import HISTORY_COLUMNS
from sbertlab.training.probe import METRICS, collapse_reason
from sbertlab.widgets.panel import Panel, control, in_words, row, words_figure
from sbertlab.widgets.probe_map import COLORS, ProbeMap

try:
    import ipywidgets
    from IPython import get_ipython
    from IPython.display import display
except ImportError as error:
    raise ImportError('the widgets need ipywidgets: pip install "sbertlab[lab]"') from error

RUNNING = ("running", "paused", "stopping")
"""States in which a run listens to the buttons."""

NUMBERS = ("loss", "metric", "lr", "tokens_per_second", *METRICS)
"""Columns of the history of which the newest number is shown."""

CURVES = ("loss", "metric", "lr")
"""Columns that are drawn over the steps, where they have numbers."""

TITLES = {"lr": "learning rate", "tokens_per_second": "tokens a second", "loss": "loss", "metric": "metric"}

CURVE_POINTS = 200
"""A longer curve is drawn by means over so many stretches."""


class TrainingMonitor(Panel):
    """Loss, metric, learning rate, throughput, the health of the space and a live map, with Pause and Stop.

    It appears where `fit` runs, unless it was shown before, and leaves a picture there when the run has ended. Pause
    holds the run after the running step. Stop is Ctrl-C: the running step is finished, a checkpoint is written where
    there is a `checkpoint_path`, and the same call with `resume=True` goes on to the same weights.

    JupyterLab from version 4.4 with ipykernel 7 hands over a pressed button while a cell runs. Where a notebook does
    not, the button is answered when the cell has ended; there, the kernel's own stop button does the same as Stop.

    The map shows the texts of a probe, their lengths taken as 1, on one plane throughout: the two directions in which
    they varied most after the first step. Both axes have one scale, which only grows.

    Args:
        probe: up to 512 texts for the map, of more every so many; no map without any.
        labels: names of groups, one a text, for their colours.
        every: seconds between two drawings.
        share: of the run's time that drawing may take; what takes long is drawn less often. The first map and the last
            come on top.
        live: whether to draw before the end; None does in a notebook.
        theme: "light" or "dark", of the picture that is left.

    Attributes:
        state: "waiting", "running", "paused", "stopping", "ended" or "failed"; `status` says it in words.

    Raises:
        TypeError: a probe that is no list of strings.
        ValueError: fewer than 3 texts, labels of another length, `every` or `share` out of range.

    >>> monitor = TrainingMonitor(["a cat", "a dog", "an invoice"])
    >>> monitor.status
    'Waiting for fit(..., callbacks=[monitor]).'
    """

    takes_events = True
    """`fit` tells it of every step, also when it is given as the one `callback`."""

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
        if not every >= 0 or not 0 < share <= 1:
            raise ValueError(f"every must be at least 0 seconds and share above 0, at most 1; got {every}, {share}")
        self.map = None if probe is None else ProbeMap(probe, labels)
        self.every, self.share = every, share
        self.live = notebook() is not None if live is None else live
        self.state, self._words = "waiting", ""
        self._rows: dict[tuple[int, str], dict[str, Any]] = {}
        self._lock = threading.RLock()
        self._pause = control(ipywidgets.Button, "Pause")
        self._stop = control(ipywidgets.Button, "Stop", tooltip="Finish this step, write a checkpoint, and end the run")
        self._status, self._numbers, self._curves, self._picture, self._health = (ipywidgets.HTML() for _ in range(5))
        self._placed = False  # whether someone has shown it
        self._place: Any = None  # where it has shown itself
        self._reset()
        drawings = row(self._curves, self._picture)
        drawings.layout.align_items = "flex-start"
        super().__init__(
            [self._status, row(self._pause, self._stop), self._numbers, drawings, self._health], theme=theme
        )
        self._pause.on_click(self.guarded(lambda button: self.resume() if self.state == "paused" else self.pause()))
        self._stop.on_click(self.guarded(lambda button: self.stop()))
        self._show_state()

    # -- What a user does ----------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Hold the run after the running step, until `resume` or `stop`; nothing happens without a run."""
        self._wish("paused", "running")

    def resume(self) -> None:
        """Let a run go on that was paused."""
        self._wish("running", "paused")

    def stop(self) -> None:
        """End the run after the running step, as Ctrl-C does; nothing happens without a run."""
        self._wish("stopping", "running", "paused")

    def _wish(self, state: str, *before: str) -> None:
        """Go from one of the states before to another, in whichever thread."""
        with self._lock:
            if self.state in before:
                self.state = state
                self._show_state()

    # -- What a run tells ----------------------------------------------------------------------------------------------

    def __call__(self, event: Event, *older: Any) -> bool:
        """Note and show what happened; hold the run while it is paused; return whether it is to end.

        Raises:
            TypeError: called as the field's `callback` of (score, epoch, steps).
        """
        if not isinstance(event, Event):
            raise TypeError(
                f"a TrainingMonitor is told of every step by an Event, got {event!r:.40}; pass it as "
                "fit(..., callbacks=[monitor])"
            )
        start = time.perf_counter()
        if self.state not in RUNNING or (event.kind == "step" and event.step <= self.step):
            self._begin(event)  # also where the run before has raised an error
        for told in event.rows or [event.row]:
            self._rows[told["step"], told["objective"]] = told
        if event.kind == "checkpoint":
            self._saved = event.step
        if event.kind == "step":
            self._times.append(start - self._began - self._held)
            self._examples = event.examples
        interrupt = listening()
        self._interrupted |= interrupt is not None and interrupt.requested
        if event.kind != "end":
            self._draw(event.model)
        else:
            self._end(event)
        self._spent += time.perf_counter() - start
        return event.kind != "end" and self._obey(interrupt)

    def _begin(self, event: Event) -> None:
        """Start anew; the rows before a run that goes on are kept."""
        kept = {place: told for place, told in self._rows.items() if place[0] < event.step}
        self._reset()
        self._rows = kept
        self._total = event.steps
        if self.map is not None and not kept:
            self.map.reset()
        with self._lock:
            self.state, self._words = "running", ""
            self._show_state()
        shell = notebook()
        if shell is not None:
            shell.events.register("post_run_cell", self._cell_ended)
            if not self._placed:
                self._place = display(self, display_id=True)
                self._placed = False

    def _reset(self) -> None:
        self._began, self._held, self._spent = time.perf_counter(), 0.0, 0.0
        self._times: deque[float] = deque(maxlen=100)  # of the last steps, pauses left out
        self._total = self._saved = 0
        self._examples = 0
        self._interrupted = self._holds = False
        self._next = self._next_map = 0.0

    def _obey(self, interrupt: Interrupt | None) -> bool:
        """Wait while the run is paused; pass a wish to stop on; return True where only that answer ends the run."""
        start = time.perf_counter()
        while self.state == "paused" and not (interrupt is not None and interrupt.requested):
            if not self._holds:
                self._hold(True)
            time.sleep(0.05)
        if self._holds:
            self._held += time.perf_counter() - start
            self._hold(False)
        if self.state != "stopping":
            return False
        if interrupt is None:
            return True
        if not interrupt.requested:  # a second signal would stop at once
            self._interrupted = True
            signal.raise_signal(signal.SIGINT)
        return False

    def _hold(self, holds: bool) -> None:
        """Say that the run waits, with the numbers of its last step, or that it goes on."""
        self._holds = holds
        self._next = 0.0
        self._draw()
        with self._lock:
            if self.state == "paused" and not holds:  # Ctrl-C has ended the pause
                self.state = "stopping"
            self._show_state()

    def _end(self, event: Event) -> None:
        """Say how the run ended, and leave a picture of it."""
        short = event.step < self._total
        if (self.state == "stopping" or self._interrupted) and (short or not self._total):
            words = f"Stopped after step {event.step:,}, without a checkpoint of it."
            if self._saved == event.step:
                words = f"Stopped after step {event.step:,}; the same call with resume=True goes on from there."
        elif short:
            words = f"Ended early, after step {event.step:,} of {self._total:,}: patience, a collapse or a callback."
        else:
            words = f"Finished after {event.step:,} steps."
        self._finish("ended", f"{words} It took {duration(self.seconds)}.", event.model)

    def _cell_ended(self, result: Any) -> None:
        """The cell is over: if the run did not say that it ended, it was cut off."""
        if self.state in RUNNING:
            error = result.error_in_exec
            reason = "fit has raised an error" if error is None else in_words(error)
            self._finish("failed", f"The run was cut off after step {self.step:,}: {reason}")

    def _finish(self, state: str, words: str, model: SentenceTransformer | None = None) -> None:
        with self._lock:
            self.state, self._words = state, words
            self._show_state()
        self._next = self._next_map = 0.0
        self._draw(model)
        shell = notebook()
        if shell is not None:
            shell.events.unregister("post_run_cell", self._cell_ended)
            try:
                self._leave()
            except Exception as error:  # as with all that is drawn: the run is more than its picture
                self.last_error = error
                self.tell(in_words(error))

    # -- What it knows -------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The newest step."""
        return max((step for step, _ in self._rows), default=0)

    @property
    def history(self) -> pd.DataFrame:
        """What the run told of itself, in the columns of fit's history."""
        return pd.DataFrame(self._rows.values(), columns=HISTORY_COLUMNS)

    @property
    def numbers(self) -> dict[str, float]:
        """The newest number of each column that is shown, those left out that were never measured."""
        found: dict[str, float] = {}
        for told in reversed(self._rows.values()):
            for name in NUMBERS:
                if name not in found and told.get(name) == told.get(name) and told.get(name) is not None:
                    found[name] = told[name]
            if len(found) == len(NUMBERS):
                break
        return {name: found[name] for name in NUMBERS if name in found}

    @property
    def seconds(self) -> float:
        """How long the run takes so far, pauses left out."""
        return time.perf_counter() - self._began - self._held

    @property
    def cost(self) -> float:
        """Share of the run's time that the monitor took."""
        return self._spent / max(self.seconds, 1e-9)

    @property
    def status(self) -> str:
        """What goes on, in words."""
        if self.state == "paused" and self._holds:
            return f"Paused after step {self.step:,}. The cell waits: Resume goes on, Stop ends the run."
        return {
            "waiting": "Waiting for fit(..., callbacks=[monitor]).",
            "running": "Training.",
            "paused": "Pausing: the running step is finished first.",
            "stopping": "Stopping: the running step is finished first.",
        }.get(self.state, self._words)

    @property
    def pace(self) -> str:
        """How far the run is, how fast it goes and the time that is left, in words."""
        words = [f"step {self.step:,}" + (f" of {self._total:,}" if self._total else "")]
        if len(self._times) > 1 and self._times[-1] > self._times[0]:
            rate = (len(self._times) - 1) / (self._times[-1] - self._times[0])
            words.append(f"{rate:.3g} steps a second")
            if self._examples:
                words.append(f"{rate * self._examples:,.0f} examples a second")
            if self._total > self.step and self.state in RUNNING:
                words.append(f"{duration((self._total - self.step) / rate)} left")
        return " · ".join(words)

    @property
    def health(self) -> str:
        """What training does to the space, in words."""
        probed = [told for told in self._rows.values() if told.get("mean_cosine") == told.get("mean_cosine", np.nan)]
        reason = collapse_reason(probed[0], probed[-1]) if len(probed) > 1 else None
        if reason is None and self.map is not None:
            reason = self.map.collapse
        if reason is not None:
            return f"Collapsed: {reason}"
        if len(probed) > 1 or (self.map is not None and self.map.xy is not None):
            return "The texts are still told apart: no collapse since the first measurement."
        return "The space was not measured twice yet."

    # -- What it shows -------------------------------------------------------------------------------------------------

    def static(self) -> Figure:
        """The history as a figure; words before there is one."""
        if not self._rows:
            return words_figure(self.status, self.theme)
        return plots.training_history(self.history, title=self.status.partition(". ")[0], theme=self.theme)

    def static_map(self) -> Figure:
        """The first map and the newest, on one plane and one scale.

        Raises:
            ValueError: there is none.
        """
        if self.map is None:
            raise ValueError("there is no map without a probe: TrainingMonitor(probe=texts) has one")
        return self.map.figure(self.theme)

    def _draw(self, model: SentenceTransformer | None = None) -> None:
        """Draw what is due, the map only with a model; an error in that is told, and the run goes on."""
        if not self.live and self.state in RUNNING:
            return
        now = time.perf_counter()
        try:
            if self.live and self.map is not None and model is not None and now >= self._next_map:
                self.map.update(model, self.step)
                self._picture.value = self.map.drawing()
                self._next_map = self._after(now)
            now = time.perf_counter()
            if now >= self._next:
                self._show_numbers()
                self._next = self._after(now)
        except Exception as error:
            self.last_error = error
            self.tell(f"The monitor could not draw, the run goes on: {in_words(error)}")
            self._next = self._next_map = self._after(now)

    def _after(self, start: float) -> float:
        """When something is drawn again that was begun at `start` and is done: half of the share is for each of two."""
        now = time.perf_counter()
        return now + max(self.every, (now - start) / (self.share / 2))

    def _show_state(self) -> None:
        self._status.value = f'<div role="status"><b>{html.escape(self.status)}</b></div>'
        paused = self.state == "paused"
        self._pause.description = "Resume" if paused else "Pause"
        self._pause.tooltip = "Go on with the next step" if paused else "Hold the run after this step"
        self._pause.disabled = self.state not in ("running", "paused")
        self._stop.disabled = self.state not in ("running", "paused")
        for button in (self._pause, self._stop):
            answer_at_once(button)

    def _show_numbers(self) -> None:
        history = self.history
        cells = [("epoch", str(history["epoch"].iloc[-1]))]
        cells += [(TITLES.get(name, name.replace("_", " ")), f"{value:,.4g}") for name, value in self.numbers.items()]
        if "metric" in self.numbers:
            cells.append(("best metric", f"{history['metric'].max():,.4g}"))
        tiles = "".join(f"<div><small>{name}</small><br><b>{value}</b></div>" for name, value in cells)
        self._numbers.value = (
            f"<div>{html.escape(self.pace)}</div>"
            f'<div style="display:flex;flex-wrap:wrap;gap:4px 18px;line-height:1.35">{tiles}</div>'
        )
        self._curves.value = "".join(curve(history, column, TITLES[column].capitalize()) for column in CURVES)
        self._health.value = f"<small>{html.escape(self.health)}</small>"

    def _leave(self) -> None:
        """Leave the picture where the monitor has shown itself, or below the running cell."""
        bundle = {"image/png": base64.b64encode(self.picture()).decode(), "text/plain": repr(self)}
        if self._place is None:
            display(bundle, raw=True)
        else:
            self._place.update(bundle, raw=True)
        self._place = None
        if self.map is not None and self.map.xy is not None:
            display(self.static_map())

    def __repr__(self) -> str:
        return f"TrainingMonitor: {self.status}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and its picture for whoever cannot run it."""
        self._placed = True
        return super()._repr_mimebundle_(**kwargs)


def curve(history: pd.DataFrame, column: str, title: str, width: int = 360, height: int = 96) -> str:
    """One column of a history as SVG, a line an objective; a long one by its means.

    >>> table = pd.DataFrame({"step": [1, 2], "objective": "0:Loss", "loss": [2.0, 1.0]})
    >>> drawing = curve(table, "loss", "Loss", height=80)
    >>> "M 0.0 0.0 L 360.0 80.0" in drawing, "Loss, from 1 to 2, steps 1 to 2" in drawing
    (True, True)
    """
    known = history[np.isfinite(history[column].astype(float))]
    if known.empty:
        return ""
    first, last = history["step"].iloc[0], history["step"].iloc[-1]
    thin = known.groupby(["objective", (known["step"] - first) * CURVE_POINTS // max(last - first + 1, CURVE_POINTS)])
    points = thin[["step", column]].mean()
    low, high = points[column].min(), points[column].max()
    x = (points["step"] - first) / max(last - first, 1) * width
    y = height - (points[column] - low) / (high - low or 1) * height
    lines, names = [], []
    parts = list(dict.fromkeys(points.index.get_level_values(0)))
    for number, name in enumerate(parts):
        color = COLORS[number % len(COLORS)]
        places = " L ".join(f"{a:.1f} {b:.1f}" for a, b in zip(x[name], y[name], strict=True))
        dot = f'<circle cx="{x[name].iloc[-1]:.1f}" cy="{y[name].iloc[-1]:.1f}" r="3" fill="{color}"/>'
        lines.append(f'<path d="M {places}" fill="none" stroke="{color}" stroke-width="1.6"/>{dot}')
        names.append(f'<span style="color:{color}">━</span> {html.escape(str(name))}')
    words = f"{title}, from {low:.4g} to {high:.4g}, steps {first:,} to {last:,}"
    legend = f"<br>{' '.join(names)}" if len(names) > 1 and column == "loss" else ""
    return (
        f'<div style="line-height:1.3;margin-bottom:10px"><small>{html.escape(words)}{legend}</small><br>'
        f'<svg width="{width}" height="{height}" style="overflow:visible" role="img" aria-label="{html.escape(words)}">'
        f'<path d="M0 {height}H{width}" stroke="currentColor" stroke-opacity=".35"/>{"".join(lines)}</svg></div>'
    )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(3725.9)
    '1:02:05'
    """
    return str(timedelta(seconds=int(seconds)))


def listening() -> Interrupt | None:
    """The Interrupt by which the running fit hears of Ctrl-C; None outside the main thread, where none is set."""
    if threading.current_thread() is not threading.main_thread():
        return None
    owner = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return owner if isinstance(owner, Interrupt) else None


def notebook() -> Any:
    """The notebook's IPython, in its main thread; None elsewhere."""
    shell = get_ipython()
    here = threading.current_thread() is threading.main_thread()
    return shell if here and getattr(shell, "kernel", None) is not None else None


def answer_at_once(widget: ipywidgets.Widget) -> None:
    """Let what the browser says of a widget reach Python while a cell runs.

    JupyterLab addresses it to a sub-shell, a thread of the kernel. ipykernel 7.4 changes the address to the shell that
    last spoke of the widget, which is the one that the cell keeps busy; it does not where it has forgotten which.
    """
    vars(widget.comm).pop("_reply_subshell_id", None)
