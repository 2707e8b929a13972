"""The gradient of a batch: embed, loss, and back; at any batch size, in any number of processes.

A loss is mathematics on embeddings, so its gradient comes in two parts: that of the loss in the embeddings, which needs
the whole batch but no encoder, and that of the embeddings in the weights, which every chunk of texts has by itself.

1. embed: each process forwards its share of the chunks; the embeddings are put together in all of them.
2. loss: computed on the embeddings alone, down to their gradient.
3. back: each chunk carries the gradient of its embeddings on to the weights.

A gradient cache (Gao et al., 2021, arXiv:2101.06983) forwards without a graph in 1 and once more in 3, so that memory
holds one chunk whatever the size of the batch. Dropout is the same both times, and in any number of processes, because
what a chunk draws follows from its place in the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sbertlab.encoder.batching import Chunk, PaddingMeter
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.losses.base import Loss
from sbertlab.models import features_to
from sbertlab.training.batches import Batch
from sbertlab.training.processes import Processes


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient became NaN or infinite; the model keeps the weights of the step before."""

    history: pd.DataFrame
    """Of the run up to there, when `fit` raised it."""


class Gradient:
    """Computes gradients of batches and adds them to the parameters' `grad`.

    Args:
        model: the encoder.
        accelerator: of the run: mixed precision and the scaling of float16 gradients.
        processes: those that share the work.
        token_budget: padded tokens a chunk; chosen by the device when None.
        cached: whether to use the gradient cache.
        memory_budget: bytes that the graphs of a batch may hold in a process; where they would hold more, that batch is
            cached. None: no bound.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        accelerator: Accelerator,
        processes: Processes,
        token_budget: int | None = None,
        cached: bool = False,
        memory_budget: float | None = None,
    ) -> None:
        self.model, self.accelerator, self.processes = model, accelerator, processes
        self.token_budget, self.cached = token_budget, cached
        self.memory_budget = math.inf if memory_budget is None else memory_budget

    def add(
        self,
        loss: nn.Module,
        batch: Batch,
        seed_at: Callable[[int | str], None],
        meter: PaddingMeter,
    ) -> float:
        """Add the gradient of one batch, summed over the processes, and return its loss.

        Args:
            loss: a Loss, or a module of the field with `forward(features, labels)`, which every process computes whole.
            batch: its texts, labels and known positives.
            seed_at: called with the number of a chunk, or "loss", before each draws.
            meter: counts the tokens and the padding of the batch.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
            TypeError: the loss is no number that can be differentiated.
        """
        if not isinstance(loss, Loss):
            seed_at("loss")
            value = self._start_back(loss, self._field_loss(loss, batch, meter))
        else:
            value = self._through_embeddings(loss, batch, seed_at, meter)
        if self.processes.count > 1:
            self.processes.add_gradients(self._parameters(loss))
        return value

    def _parameters(self, loss: nn.Module) -> list[nn.Parameter]:
        """Return what is trained by this loss, each parameter once."""
        parameters = {id(part): part for module in (self.model, loss) for part in module.parameters()}
        return [part for part in parameters.values() if part.requires_grad]

    def _through_embeddings(
        self,
        loss: Loss,
        batch: Batch,
        seed_at: Callable[[int | str], None],
        meter: PaddingMeter,
    ) -> float:
        with torch.no_grad():
            labels = loss.prepare(batch.columns, self._labels(batch))
        embedded = list(batch.columns[loss.embedded]) * loss.views
        texts = [text for column in embedded for text in column]
        chunks = self.model.training_chunks(texts, self.token_budget, meter=meter, fewest=self.processes.count)
        own = list(enumerate(chunks))[self.processes.rank :: self.processes.count]

        embeddings, graphs = self._embed(own, chunks, len(texts), seed_at)
        embeddings = self.processes.sum_(embeddings).requires_grad_()
        seed_at("loss")
        known = () if batch.known is None else (batch.known,)
        with self.accelerator.autocast():
            result = loss.compute(embeddings.split([len(column) for column in embedded]), labels, *known)
        value = self._start_back(loss, result)
        self._back(own, graphs, embeddings, seed_at)
        return value

    def _embed(
        self, own: list[tuple[int, Chunk]], chunks: list[Chunk], count: int, seed_at: Callable[[int | str], None]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the embeddings of this process's chunks, `(texts, dim)`, zero elsewhere; and their graphs, if kept."""
        graphs: list[Tensor | None] = []
        parts: list[Tensor] = []
        cached = self.cached
        with self.accelerator.autocast():
            for number, chunk in own:
                seed_at(number)
                measured = self.memory_budget < math.inf and not cached and number == own[0][0]
                meter = GraphMeter(self.model)
                with meter.counting() if measured else nullcontext(), torch.set_grad_enabled(not cached):
                    vectors = self.model.forward_chunk(chunk)
                parts.append(vectors.detach())
                graphs.append(None if cached else vectors)
                if measured:
                    padded = [len(part.lengths) * max(part.lengths, default=0) for _, part in own]
                    cached = meter.bytes * sum(padded) > self.memory_budget * padded[0]
                    graphs = [None] if cached else graphs
            if not own:  # fewer chunks than processes: only the size of an embedding is of interest
                with torch.no_grad():
                    parts.append(self.model.forward_chunk(chunks[0])[:0])
        dtype = torch.promote_types(parts[0].dtype, torch.float32)
        embeddings = torch.zeros(count, parts[0].shape[1], dtype=dtype, device=parts[0].device)
        for (_, chunk), part in zip(own, parts, strict=False):
            embeddings[chunk.positions] = part.to(dtype)
        return embeddings, graphs

    def _start_back(self, loss: nn.Module, result: Any) -> float:
        """Check what the loss returned, differentiate it as far as its graph goes, and return its value."""
        if not isinstance(result, Tensor) or result.numel() != 1 or not result.requires_grad:
            of = (
                f" of shape {tuple(result.shape)}, requires_grad={result.requires_grad}"
                if isinstance(result, Tensor)
                else ""
            )
            raise TypeError(
                "the loss must be a tensor of one number that depends on what is trained, got "
                f"{type(result).__name__}{of}"
            )
        value = result.item()
        if not math.isfinite(value):
            raise NonFiniteLossError(
                f"the loss is {value}; the model keeps the weights before it. Look at the labels of the batch, lower "
                "the learning rate, or use bf16 instead of fp16"
            )
        self.accelerator.backward(result)
        if self.processes.count > 1:  # every process has the whole of this part of the gradient, and they are summed
            for parameter in self._parameters(loss):
                if parameter.grad is not None:
                    parameter.grad /= self.processes.count
        return value

    def _back(
        self,
        own: list[tuple[int, Chunk]],
        graphs: list[Tensor | None],
        embeddings: Tensor,
        seed_at: Callable[[int | str], None],
    ) -> None:
        """Carry the gradient of the embeddings on to the weights, chunk by chunk; cached ones are forwarded again."""
        gradient = embeddings.grad
        if gradient is None:  # the loss does not depend on them
            return
        for index, (number, chunk) in enumerate(own):
            vectors, graphs[index] = graphs[index], None
            if vectors is None:
                seed_at(number)
                with self.accelerator.autocast():
                    vectors = self.model.forward_chunk(chunk)
            vectors.backward(gradient[chunk.positions].to(vectors.dtype))

    def _labels(self, batch: Batch) -> Tensor | None:
        return None if batch.labels is None else batch.labels.to(self.model.device)

    def _field_loss(self, loss: nn.Module, batch: Batch, meter: PaddingMeter) -> Any:
        """Return the loss of a module of the field, which embeds its columns itself."""
        features = [self.model.tokenize(column) for column in batch.columns]
        for mask in (column["attention_mask"] for column in features if "attention_mask" in column):
            meter.add(mask.sum(dim=1).tolist())
        with self.accelerator.autocast():
            return loss([features_to(column, self.model.device) for column in features], self._labels(batch))


class GraphMeter:
    """Counts the bytes that a forward pass keeps for its gradient, each tensor once, without the weights."""

    def __init__(self, module: nn.Module) -> None:
        self._known = {part.untyped_storage().data_ptr() for part in module.parameters()}
        self.bytes = 0

    def counting(self) -> AbstractContextManager[None]:
        """Count what is kept inside the block."""
        return torch.autograd.graph.saved_tensors_hooks(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor
