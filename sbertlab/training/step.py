"""One training step: embed the texts, compute the loss, carry its gradient back, update the weights.

1. `embed`: each process embeds its share of the chunks, then all processes get all embeddings.
2. `loss`: computed on the embeddings of the whole batch, and differentiated down to them.
3. `backward`: each chunk carries the gradient of its embeddings to the weights.
4. `update`: the gradient is clipped and the optimizer changes the weights.

With the gradient cache (Gao et al., 2021, arXiv:2101.06983), `embed` keeps no graph and `backward` embeds each chunk
once more, so memory holds one chunk whatever the batch size. Dropout is the same both times, and in any number of
processes, because the random state of a chunk follows from its place in the run.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sbertlab.checks import checked_number
from sbertlab.encoder.batching import Chunk, PaddingMeter
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.losses.base import Loss
from sbertlab.training.batches import Batch, Objective, set_seed
from sbertlab.training.processes import add_gradients, sum_over_processes
from sbertlab.util import batch_to_device

OBJECTIVE_COLUMNS = ("loss", "lr", "gradient_norm", "tokens_per_second", "padding_share", "known_positives")
"""Columns of the history that `Step.learn` fills, once per objective."""

SeedAt = Callable[[int | str], None]  # sets the random state of a place in the step: a chunk's number, or "loss"
Share = list[tuple[int, Chunk, Tensor]]  # a process's chunks: number, texts, embeddings (with a graph if not cached)


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite; the model keeps the weights from before."""


class Step:
    """Takes the steps of a run; the arguments are those of `fit`, the optimizer is prepared by the accelerator.

    `number` counts the steps taken, `rows` is the history.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        objectives: Sequence[Objective],
        optimizer: Any,
        schedule: Any,
        accelerator: Accelerator,
        token_budget: int | None = None,
        cached: bool = False,
        max_grad_norm: float = 1.0,
    ) -> None:
        if max_grad_norm != math.inf:
            checked_number("max_grad_norm, unless math.inf,", max_grad_norm, above=True)
        if cached and not all(isinstance(objective.loss, Loss) for objective in objectives):
            raise ValueError("cached=True needs losses of sbertlab.losses, as others embed their texts themselves")
        self.model, self.objectives, self.accelerator = model, objectives, accelerator
        self.optimizer, self.schedule = optimizer, schedule
        self.token_budget, self.cached = token_budget, cached
        self.max_grad_norm = float(max_grad_norm)
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.number = 0
        self.rows: list[dict[str, Any]] = []

    def take(self, epoch: int) -> None:
        """Learn from one batch of every objective in turn; all batches are checked before the first is learnt."""
        for module in (self.model, *(objective.loss for objective in self.objectives)):
            module.train()
        number = self.number + 1
        batches = [objective.next_batch(number) for objective in self.objectives]
        for objective, batch in zip(self.objectives, batches, strict=True):
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
        seed_at = partial(set_seed, self.model.device, objective.seed, "step", number, objective.index)
        self.optimizer.zero_grad()
        labels = None if batch.labels is None else batch.labels.to(self.model.device)
        if isinstance(loss, Loss):
            with torch.no_grad():
                labels = loss.prepare(batch.columns, labels)
            embeddings, share = self.embed(loss, batch, seed_at, meter)
            value = self.loss(loss, batch, labels, embeddings, seed_at)
            self.backward(embeddings, share, seed_at)
        else:
            value = self.foreign_loss(loss, batch, labels, seed_at)
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
        with self.accelerator.autocast(), torch.set_grad_enabled(not self.cached):
            for number, chunk in list(enumerate(chunks))[rank::processes]:
                seed_at(number)
                share.append((number, chunk, self.model.forward_chunk(chunk)))
            # With fewer chunks than processes, the size of an embedding is still needed.
            example = share[0][2] if share else self.model.forward_chunk(chunks[0])
        dtype = torch.promote_types(example.dtype, torch.float32)
        embeddings = torch.zeros(len(texts), example.shape[1], dtype=dtype, device=example.device)
        for _, chunk, vectors in share:
            embeddings[chunk.positions] = vectors.detach().to(dtype)
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
            if self.cached:
                seed_at(number)
                with self.accelerator.autocast():
                    vectors = self.model.forward_chunk(chunk)
            vectors.backward(gradient[chunk.positions].to(vectors.dtype))

    def update(self) -> float:
        """Clip the gradient, summed over the processes, and update the weights; return its norm before clipping."""
        if self.accelerator.num_processes > 1:
            add_gradients(self.accelerator, self.parameters)
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm))
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise NonFiniteLossError(f"the gradient's norm is {norm}; lower the learning rate, or look at the batch")
        self.optimizer.step()
        return norm

    def foreign_loss(self, loss: nn.Module, batch: Batch, labels: Tensor | None, seed_at: SeedAt) -> float:
        """Return the loss of a module with `forward(features, labels)`, which embeds its columns itself; go back."""
        seed_at("loss")
        features = [batch_to_device(self.model.tokenize(column), self.model.device) for column in batch.columns]
        with self.accelerator.autocast():
            result = loss(features, labels)
        return self._differentiate(result)

    def _differentiate(self, result: Any) -> float:
        """Check what a loss returned, differentiate it as far as its graph goes, and return its value."""
        if not isinstance(result, Tensor) or result.numel() != 1 or not result.requires_grad:
            raise TypeError(f"the loss must be a tensor of one number that depends on what is trained, got {result!r}")
        value = result.item()
        if not math.isfinite(value):
            raise NonFiniteLossError(f"the loss is {value}; lower the learning rate, or look at the batch")
        self.accelerator.backward(result)
        processes = self.accelerator.num_processes
        if processes > 1:  # each has this whole part of the gradient, and `update` adds them up
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad /= processes
        return value

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs, as tensors and plain values."""
        states = {name: part.state_dict() for name, part in self._parts().items()}
        return {"number": self.number, "rows": self.rows, "places": [one.place for one in self.objectives], **states}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a state; a KeyError, RuntimeError or ValueError if it has another model or other data."""
        for objective, place in zip(self.objectives, state["places"], strict=True):
            objective.restore(place)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.number, self.rows = state["number"], list(state["rows"])

    def _parts(self) -> dict[str, Any]:
        """Return what has a state of its own; a loss that holds the model names its weights once more."""
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        return parts | {objective.name: objective.loss for objective in self.objectives}
