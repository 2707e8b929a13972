"""One training step: embed the texts, compute the loss, carry its gradient back, update the weights.

1. `embed`: each process embeds its share of the chunks, then all processes get all embeddings.
2. `loss`: computed on the embeddings of the whole batch, and differentiated down to them.
3. `backward`: each chunk carries the gradient of its embeddings to the weights.
4. `update`: the gradient is clipped and the optimizer changes the weights.

With the gradient cache (Gao et al., 2021, arXiv:2101.06983), `embed` keeps no graph and `backward` embeds each chunk
once more, so memory holds one chunk whatever the batch size. Dropout is the same both times, and in any number of
processes, because the random state of a chunk follows from its place in the run.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sbertlab.checks import checked_number
from sbertlab.encoder.batching import Chunk, PaddingMeter
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.losses.base import Loss
from sbertlab.models import Module
from sbertlab.training.batches import Batch, Objective, likely_mistake, set_seed
from sbertlab.training.processes import add_gradients, sum_over_processes
from sbertlab.util import batch_to_device

OBJECTIVE_COLUMNS = ("loss", "lr", "gradient_norm", "tokens_per_second", "padding_share", "known_positives")
"""Columns of the history that `Step.learn` fills, once per objective."""

SeedAt = Callable[[int | str], None]
"""Sets the random state of a place in the step: the number of a chunk, or "loss"."""

Share = list[tuple[int, Chunk, Tensor | None]]
"""The chunks of one process: number, texts, and the embeddings with their graph (None when it is not kept)."""


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite; the model keeps the weights from before.

    `fit` adds the `history` up to there.
    """

    history: pd.DataFrame


class Step:
    """Takes the steps of a run; the arguments are those of `fit`, the optimizer is prepared by the accelerator.

    Attributes:
        number: steps taken.
        rows: the history, one dictionary per step and objective.
        examples: rows of data in the newest step.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objectives: Sequence[Objective],
        optimizer: Any,
        schedule: Any,
        accelerator: Accelerator,
        seed: int = 0,
        token_budget: int | None = None,
        cached: bool = False,
        max_grad_norm: float = 1.0,
    ) -> None:
        checked_number("token_budget", 1 if token_budget is None else token_budget, 1, whole=True)
        if max_grad_norm != math.inf:
            checked_number("max_grad_norm, unless math.inf,", max_grad_norm, above=True)
        foreign = [type(one.loss).__name__ for one in objectives if not isinstance(one.loss, Loss)]
        if cached and foreign:
            raise ValueError(
                f"cached=True needs losses of sbertlab.losses, which see embeddings only; {', '.join(foreign)} embeds "
                "its texts itself"
            )
        self.model, self.objectives, self.accelerator = model, objectives, accelerator
        self.optimizer, self.schedule = optimizer, schedule
        self.seed, self.token_budget, self.cached = int(seed), token_budget, cached
        self.max_grad_norm = float(max_grad_norm)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.number = self.examples = 0
        self.rows: list[dict[str, Any]] = []

    def take(self, epoch: int) -> None:
        """Learn from one batch of every objective in turn; all batches are checked before the first is learnt."""
        for module in (self.model, *(objective.loss for objective in self.objectives)):
            module.train()
        number = self.number + 1
        batches = [objective.next_batch(number) for objective in self.objectives]
        self.examples = sum(len(batch.columns[0]) for batch in batches)
        for objective, batch in zip(self.objectives, batches, strict=True):
            mistake = likely_mistake(objective.loss, batch) if number == 1 else None
            if mistake is not None:
                warnings.warn(f"objective {objective.name}: {mistake}", stacklevel=4)
            try:
                row = self.learn(objective, batch, number)
            except (NonFiniteLossError, TypeError) as error:
                raise type(error)(f"step {number}, objective {objective.name}: {error}") from error
            self.rows.append({"step": number, "epoch": epoch, **row, "metric": math.nan})
        if not self.optimizer.step_was_skipped:
            self.schedule.step()
        self.number = number

    def learn(self, objective: Objective, batch: Batch, number: int) -> dict[str, Any]:
        """Learn from one batch in step `number`; return its row of the history."""
        start, meter, loss = time.perf_counter(), PaddingMeter(), objective.loss
        seed_at = partial(set_seed, self.model.device, self.seed, "step", number, objective.index)
        self.optimizer.zero_grad()
        labels = None if batch.labels is None else batch.labels.to(self.model.device)
        if isinstance(loss, Loss):
            with torch.no_grad():
                labels = loss.prepare(batch.columns, labels)
            embeddings, share = self.embed(loss, batch, seed_at, meter)
            value = self.loss(loss, batch, labels, embeddings, seed_at)
            self.backward(embeddings, share, seed_at)
        else:
            value = self.foreign_loss(loss, batch, labels, seed_at, meter)
        norm = self.update()
        seconds = time.perf_counter() - start
        return {
            "objective": objective.name,
            "loss": value,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "gradient_norm": norm,
            "tokens_per_second": meter.tokens / seconds if meter.padded else math.nan,
            "padding_share": meter.share if meter.padded else math.nan,
            "known_positives": 0 if batch.known is None else int(batch.known.count_nonzero()),
        }

    def embed(self, loss: Loss, batch: Batch, seed_at: SeedAt, meter: PaddingMeter) -> tuple[Tensor, Share]:
        """Return the embeddings of all texts, `(columns * rows, dim)`, column by column, and this process's chunks."""
        columns = list(batch.columns[loss.embedded]) * loss.views
        texts = [text for column in columns for text in column]
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        chunks = self.model.training_chunks(texts, self.token_budget, meter=meter, fewest=processes)
        share: Share = []
        parts: list[tuple[list[int], Tensor]] = []
        with self.accelerator.autocast():
            for number, chunk in list(enumerate(chunks))[rank::processes]:
                seed_at(number)
                with torch.set_grad_enabled(not self.cached):
                    vectors = self.model.forward_chunk(chunk)
                parts.append((chunk.positions, vectors.detach()))
                share.append((number, chunk, None if self.cached else vectors))
            if not share:  # fewer chunks than processes: only the size of an embedding matters
                with torch.no_grad():
                    parts.append(([], self.model.forward_chunk(chunks[0])[:0]))
        example = parts[0][1]
        dtype = torch.promote_types(example.dtype, torch.float32)
        embeddings = torch.zeros(len(texts), example.shape[1], dtype=dtype, device=example.device)
        for positions, part in parts:
            embeddings[positions] = part.to(dtype)
        return sum_over_processes(self.accelerator, embeddings).requires_grad_(), share

    def loss(self, loss: Loss, batch: Batch, labels: Tensor | None, embeddings: Tensor, seed_at: SeedAt) -> float:
        """Return the loss, and leave its gradient in `embeddings.grad` and in the loss's own parameters."""
        seed_at("loss")
        known = () if batch.known is None else (batch.known,)
        with self.accelerator.autocast():
            result = loss.compute(embeddings.split(len(batch.columns[0])), labels, *known)
        return self._differentiate(result)

    def backward(self, embeddings: Tensor, share: Share, seed_at: SeedAt) -> None:
        """Carry the gradient of the embeddings to the weights, chunk by chunk; cached chunks are embedded again."""
        gradient = embeddings.grad
        while share and gradient is not None:  # None: the loss does not depend on the embeddings
            number, chunk, vectors = share.pop(0)  # so that its graph is freed before the next chunk
            if vectors is None:
                seed_at(number)
                with self.accelerator.autocast():
                    vectors = self.model.forward_chunk(chunk)
            vectors.backward(gradient[chunk.positions].to(vectors.dtype))

    def update(self) -> float:
        """Clip the gradient, summed over the processes, and update the weights; return its norm before clipping."""
        if self.accelerator.num_processes > 1:
            add_gradients(self.accelerator, self.parameters)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
        norm = math.nan if norm is None else float(norm)
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise NonFiniteLossError(
                "the gradient is not finite; the model keeps the weights before it. Lower the learning rate or look at "
                "the texts of the batch"
            )
        self.optimizer.step()
        return norm

    def foreign_loss(
        self, loss: nn.Module, batch: Batch, labels: Tensor | None, seed_at: SeedAt, meter: PaddingMeter
    ) -> float:
        """Return the loss of a module with `forward(features, labels)`, which embeds its columns itself; go back."""
        seed_at("loss")
        features = [self.model.tokenize(column) for column in batch.columns]
        for mask in (column["attention_mask"] for column in features if "attention_mask" in column):
            meter.add(mask.sum(dim=1).tolist())
        with self.accelerator.autocast():
            result = loss([batch_to_device(column, self.model.device) for column in features], labels)
        return self._differentiate(result)

    def _differentiate(self, result: Any) -> float:
        """Check what a loss returned, differentiate it as far as its graph goes, and return its value."""
        if not isinstance(result, Tensor) or result.numel() != 1 or not result.requires_grad:
            found = type(result).__name__
            if isinstance(result, Tensor):
                found += f" of shape {tuple(result.shape)}, requires_grad={result.requires_grad}"
            raise TypeError(f"the loss must be a tensor of one number that depends on what is trained, got {found}")
        value = result.item()
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"the loss is {value}; the model keeps the weights before it. Look at the labels of the batch, lower "
                "the learning rate, or use bf16 instead of fp16"
            )
        self.accelerator.backward(result)
        processes = self.accelerator.num_processes
        if processes > 1:  # each has this whole part of the gradient, and `update` adds them up
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad /= processes
        return value

    def configuration(self) -> dict[str, Any]:
        """Return what must not change when a run is resumed: the model, the data and how a step is taken."""
        blocks = [(type(block).__name__, block.config()) for block in self.model.modules() if isinstance(block, Module)]
        dropouts = [part.p for part in self.model.modules() if isinstance(part, nn.Dropout)]
        trained = [name for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        digest = sha256(repr((blocks, dropouts, trained)).encode()).hexdigest()[:16]
        found = {
            "seed": self.seed,
            "model": f"{', '.join(name for name, _ in blocks)}, {digest}",
            "max_grad_norm": self.max_grad_norm,
            "mixed_precision": self.accelerator.mixed_precision,
            "chunks": f"token_budget={self.token_budget}, cached={self.cached}",
        }
        for objective in self.objectives:
            found |= objective.configuration()
        return found

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs, as tensors and plain values."""
        scaler = self.accelerator.scaler
        return {
            "number": self.number,
            "rows": self.rows,
            "tensors": self._tensors(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "objectives": [objective.state() for objective in self.objectives],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a state; a ValueError if it belongs to another model, optimizer or other data."""
        tensors, saved = self._tensors(), state["tensors"]
        shapes = [{name: tuple(tensor.shape) for name, tensor in found.items()} for found in (saved, tensors)]
        if shapes[0] != shapes[1]:
            name = min(shapes[0].items() ^ shapes[1].items())[0]
            found = " and is ".join(str(of.get(name, "missing")) for of in shapes)
            raise ValueError(f"the model or a loss is another one: the shape of {name} was {found} now")
        for objective, place in zip(self.objectives, state["objectives"], strict=True):
            objective.restore(place)
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(saved[name])
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.number, self.rows = state["number"], list(state["rows"])

    def _tensors(self) -> dict[str, Tensor]:
        """Return the parameters and buffers of the model, and what the losses add, each once."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, module in (("model", self.model), *((one.name, one.loss) for one in self.objectives)):
            for part, tensor in (*module.named_parameters(), *module.named_buffers()):
                found.setdefault(id(tensor), (f"{name}.{part}", tensor.detach()))
        return dict(found.values())
