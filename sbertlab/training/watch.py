"""Watches what training does to the space of embeddings, on the same few texts throughout a run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from sbertlab.data import InputExample, collate
from sbertlab.encoder.sentence_transformer import SentenceTransformer, evaluating
from sbertlab.training.batches import Objective
from sbertlab.training.probe import CollapseWarning, Probe, collapse_reason


class Watch:
    """Measures the space before the first step and every `steps` steps, and says when it collapses.

    Args:
        model: the encoder.
        objective: the probe is drawn from its data; there is none for a stream.
        steps: between measurements; 0 for none.
        total: steps of the run; a run shorter than `steps` is not measured.
        on_collapse: "warn", "stop" or "ignore".
        seed: of the probe.

    Raises:
        ValueError: another `on_collapse`.
    """

    def __init__(
        self, model: SentenceTransformer, objective: Objective, steps: int, total: int, on_collapse: str, seed: int
    ) -> None:
        if on_collapse not in ("warn", "stop", "ignore"):
            raise ValueError(f'on_collapse must be "warn", "stop" or "ignore", got {on_collapse!r}')
        self.model, self.steps, self.on_collapse = model, steps, on_collapse
        rows = objective.sample() if 0 < steps <= total else []
        self.probe = _probe(rows, seed)
        self.first: dict[str, float] = {}
        self.collapsed = False

    def begin(self) -> None:
        """Measure the space before training, unless that has been done."""
        if self.probe is not None and not self.first:
            self.first = self._measure(self.probe)

    def after(self, step: int) -> dict[str, float]:
        """Return the measurements after a step, where they are due; warn the first time that the space collapsed."""
        if self.probe is None or step % self.steps:
            return {}
        metrics = self._measure(self.probe)
        reason = None if self.on_collapse == "ignore" else collapse_reason(self.first, metrics, self.probe)
        if reason is not None and not self.collapsed:
            self.collapsed = True
            warnings.warn(f"step {step}: {reason}", CollapseWarning, stacklevel=4)
        return metrics

    @property
    def stops(self) -> bool:
        """Whether the run is to end here."""
        return self.collapsed and self.on_collapse == "stop"

    def state(self) -> dict[str, Any]:
        """Return what was measured first and whether the space had collapsed, for `restore`."""
        return {"first": self.first, "collapsed": self.collapsed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to that state."""
        self.first, self.collapsed = dict(state["first"]), state["collapsed"]

    def _measure(self, probe: Probe) -> dict[str, float]:
        with evaluating(self.model):
            return probe.measure(self.model.embed)


def _probe(rows: list[InputExample], seed: int) -> Probe | None:
    """Return a probe of rows of one kind; None where there are none, or several kinds, which batches may keep apart."""
    try:
        return Probe.of(*collate(rows), seed=seed)
    except ValueError:
        return None
