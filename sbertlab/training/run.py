"""A training run: its steps, its history, and the state by which another process goes on with it."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from sbertlab.encoder.batching import PaddingMeter
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.training.batches import Batch, Objective, checked_batch, doubt_of
from sbertlab.training.checkpoint import CheckpointError
from sbertlab.training.probe import METRICS
from sbertlab.training.seeding import set_seed
from sbertlab.training.step import Gradient, NonFiniteLossError

HISTORY_COLUMNS = [
    "step",
    "epoch",
    "objective",
    "loss",
    "lr",
    "gradient_norm",
    "tokens_per_second",
    "padding_share",
    "known_positives",
    "metric",
    *METRICS,
]


class Run:
    """A run and its state: all that it takes to go on with it.

    Args:
        model: the encoder.
        objectives: what it is trained by.
        gradient: computes the gradient of a batch.
        accelerator: of this run.
        optimizer: one for all objectives, prepared by the accelerator.
        schedule: of the learning rate.
        max_grad_norm: gradients are scaled down to it.
        seed: everything random follows from it.
        mask_known_positives: keep them out of the negatives.

    Attributes:
        step: steps taken.
        rows: the history.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objectives: Sequence[Objective],
        gradient: Gradient,
        accelerator: Accelerator,
        optimizer: Any,
        schedule: Any,
        max_grad_norm: float,
        seed: int,
        mask_known_positives: bool = True,
    ) -> None:
        self.model, self.objectives, self.gradient = model, objectives, gradient
        self.accelerator, self.optimizer, self.schedule = accelerator, optimizer, schedule
        self.max_grad_norm, self.seed, self.mask = max_grad_norm, seed, mask_known_positives
        self.examples = 0
        self.step = 0
        self.rows: list[dict[str, Any]] = []

    def take_step(self, epoch: int) -> None:
        """Learn from one batch of every objective, each by an optimizer step of its own.

        Raises:
            NonFiniteLossError: before the weights learn of it.
            ValueError: a batch that does not fit its loss; all are checked before one is learnt.
        """
        self.train_mode()
        step = self.step + 1
        batches = [checked_batch(one.next_batch(step), one, step, self.mask) for one in self.objectives]
        self.examples = sum(len(batch.columns[0]) for batch in batches)
        for objective, batch in zip(self.objectives, batches, strict=True):
            doubt = doubt_of(objective.loss, batch) if step == 1 else None
            if doubt is not None:
                warnings.warn(f"objective {objective.index}: {doubt}", stacklevel=4)
            try:
                row = self._learn(objective, batch, step)
            except (NonFiniteLossError, TypeError) as error:
                raise type(error)(f"step {step}, objective {objective.name}: {error}") from error
            self.rows.append({"step": step, "epoch": epoch, **row, "metric": math.nan})
        if not self.optimizer.step_was_skipped:
            self.schedule.step()
        self.step = step

    def _learn(self, objective: Objective, batch: Batch, step: int) -> dict[str, Any]:
        """Take one optimizer step on one batch; return its row of the history."""
        start = time.perf_counter()
        meter = PaddingMeter()
        seed_at = partial(set_seed, self.model.device, self.seed, "step", step, objective.index)
        self.optimizer.zero_grad()
        loss = self.gradient.add(objective.loss, batch, seed_at, meter)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = self.accelerator.clip_grad_norm_(trained, self.max_grad_norm)
        norm = math.nan if norm is None else float(norm)
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise NonFiniteLossError(
                f"the gradient is not finite (loss {loss:.4g}); the model keeps the weights before it. Lower the "
                "learning rate or look at the texts of the batch"
            )
        self.optimizer.step()
        seconds = time.perf_counter() - start
        return {
            "objective": objective.name,
            "loss": loss,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "gradient_norm": norm,
            "tokens_per_second": meter.tokens / seconds if meter.padded else math.nan,
            "padding_share": meter.share if meter.padded else math.nan,
            "known_positives": 0 if batch.known is None else int(batch.known.count_nonzero()),
        }

    def train_mode(self) -> None:
        """Turn on the dropout of the model and of the losses' own modules."""
        for module in (self.model, *(objective.loss for objective in self.objectives)):
            module.train()

    def history(self) -> pd.DataFrame:
        """Return the rows as a table."""
        return pd.DataFrame(self.rows, columns=HISTORY_COLUMNS)

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs: tensors and plain values."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "rows": self.rows,
            "tensors": self._tensors(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "objectives": [objective.state() for objective in self.objectives],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state.

        Raises:
            CheckpointError: it is of another model, or the data are others.
        """
        tensors = self._tensors()
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        kept = {name: tuple(tensor.shape) for name, tensor in state["tensors"].items()}
        differing = sorted(name for name in {*shapes, *kept} if shapes.get(name) != kept.get(name))
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"the checkpoint is of another model: {name} has the shape {kept.get(name)} there and "
                f"{shapes.get(name)} here; make the model and the losses as they were when the run began"
            )
        try:
            for objective, place in zip(self.objectives, state["objectives"], strict=True):
                objective.restore(place)
        except ValueError as error:
            raise CheckpointError(f"the run cannot be continued: {error}") from error
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"the checkpoint is of another optimizer, or trained others: {error}") from error
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(state["tensors"][name])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.rows = state["step"], list(state["rows"])

    def _tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers of the model and of what the losses add, each once."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, module in (("model", self.model), *((one.name, one.loss) for one in self.objectives)):
            for part, tensor in (*module.named_parameters(), *module.named_buffers()):
                found.setdefault(id(tensor), (f"{name}.{part}", tensor.detach()))
        return dict(found.values())
