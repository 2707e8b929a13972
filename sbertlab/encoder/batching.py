"""From texts to vectors in token-budget chunks, the same for encoding and for training.

A chunk of `n` texts is padded to its longest text, so it costs `n * longest` tokens. Sorted by token count and split
where it is cheapest, 192 sentences of STSb get 10 % of padding; filled chunk after chunk, 27 %.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sbertlab.data.texts import Text, as_texts, by_route, warn_of_truncation
from sbertlab.models import Features, Router, TokenizerModule, output_dimension, text_vectors
from sbertlab.util import batch_to_device

CPU_TOKEN_BUDGET = 1024  # padded tokens per chunk: the activations of a small encoder fit into the cache
ACCELERATOR_TOKEN_BUDGET = 32768  # large matrices keep an accelerator busy
CHUNK_COST = 16  # a chunk more costs `budget / 16` padded tokens: in training it adds to each gradient once more


class Chunk(NamedTuple):
    """Texts that share a forward pass."""

    positions: list[int]  # among all texts
    features: Features  # padded, on the CPU
    lengths: list[int]  # tokens of each text that are read
    truncated: list[int]  # tokens of each text that are not


def default_token_budget(device: torch.device) -> int:
    """Return the padded tokens per chunk that suit a device."""
    return CPU_TOKEN_BUDGET if device.type == "cpu" else ACCELERATOR_TOKEN_BUDGET


def token_budget_chunks(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group texts, by index, into chunks of at most `budget` padded tokens, longest first, at the least total cost.

    A chunk costs its padded tokens plus `budget / 16`. A text longer than the budget gets a chunk of its own.

    >>> token_budget_chunks([3, 9, 3, 1, 9], budget=20)  # the fourth alone costs 1 + 1, with the others 3
    [[1, 4], [0, 2], [3]]
    """
    if not len(lengths):
        return []
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-sizes, kind="stable")
    sizes = sizes[order]
    edges = [0, *(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(sizes)]
    runs = [np.arange(first, last, max(1, budget // sizes[first])) for first, last in pairwise(edges)]  # equal lengths
    splits = np.append(np.concatenate(runs), len(sizes))
    heads = sizes[splits[:-1]]  # the longest text of a chunk that begins at a split
    overhead = max(1, budget // CHUNK_COST)
    cost = np.zeros(len(splits), dtype=np.int64)  # least cost of all texts before a split
    begins = np.zeros(len(splits), dtype=np.int64)  # the split at which the last of their chunks begins
    low = 0
    for stop in range(1, len(splits)):
        while low < stop - 1 and (splits[stop] - splits[low]) * heads[low] > budget:
            low += 1
        costs = cost[low:stop] + (splits[stop] - splits[low:stop]) * heads[low:stop]
        begins[stop] = low + costs.argmin()
        cost[stop] = costs.min() + overhead
    chunks: list[list[int]] = []
    stop = len(splits) - 1
    while stop:
        begin = begins[stop]
        chunks.append(order[splits[begin] : splits[stop]].tolist())
        stop = begin
    return chunks[::-1]


@dataclass
class PaddingMeter:
    """Counts the real tokens of forward passes, and these with their padding."""

    tokens: int = 0
    padded: int = 0

    def add(self, lengths: Sequence[int]) -> None:
        """Count one chunk of texts with these token counts."""
        self.tokens += sum(lengths)
        self.padded += len(lengths) * max(lengths, default=0)

    @property
    def share(self) -> float:
        """Share of padding: `1 - tokens / padded`."""
        return 1 - self.tokens / self.padded


class ChunkedEncoder(nn.Sequential):
    """Building blocks in a row that tokenise all texts of a call together and run them in token-budget chunks."""

    def forward(self, features: Features) -> Features:
        """Run the blocks: from `input_ids` `(batch, tokens)` and their mask to `sentence_embedding` `(batch, dim)`."""
        for block in self:
            features = block(features)
        return features

    def chunks(
        self, texts: Sequence[Text], token_budget: int | None, task: str | None, prompt: str, fewest: int = 1
    ) -> Iterator[Chunk]:
        """Tokenise the texts together and yield them in token-budget chunks, longest first.

        `task` is the route of texts that name none; `prompt` is what the texts begin with, for a Pooling that excludes
        it; `fewest` makes chunks smaller until there are about that many.
        """
        budget = default_token_budget(self.device) if token_budget is None else token_budget
        for route, positions, plain in by_route(texts, task):
            block = self._text_block(route)
            tokens = block.token_ids(plain)
            lengths = [len(ids) for ids in tokens.ids]
            constant: Features = {} if route is None else {"route": route}
            if prompt and not all(getattr(part, "include_prompt", True) for part in self.modules()):
                ids = block.token_ids([prompt]).ids[0]
                closing = ids[-1:] != [] and ids[-1] in block.tokenizer.all_special_ids
                constant["prompt_length"] = len(ids) - closing
            if fewest > 1:
                budget = min(budget, max(1, sum(lengths) // fewest))
            for chunk in token_budget_chunks(lengths, budget):
                yield Chunk(
                    [positions[index] for index in chunk],
                    {**block.pad([tokens.ids[index] for index in chunk]), **constant},
                    [lengths[index] for index in chunk],
                    [tokens.cut[index] for index in chunk],
                )

    def training_chunks(
        self, texts: Sequence[Text], token_budget: int | None = None, meter: PaddingMeter | None = None, fewest: int = 1
    ) -> list[Chunk]:
        """Return the chunks of a training batch, as `chunks` does; `meter` counts tokens and padding."""
        chunks = list(self.chunks(as_texts(texts)[0], token_budget, None, "", fewest))
        if meter is not None:
            for chunk in chunks:
                meter.add(chunk.lengths)
        warn_of_truncation(np.array([count for chunk in chunks for count in chunk.truncated]), self.max_seq_length)
        return chunks

    def forward_chunk(self, chunk: Chunk) -> Tensor:
        """Return the embeddings of a chunk, `(texts, dim)`, in its order."""
        return text_vectors(self(batch_to_device(dict(chunk.features), self.device)))

    def embed(self, texts: Sequence[Text], token_budget: int | None = None) -> Tensor:
        """Return the embeddings of the texts with their graph, `(texts, dim)`, in order; see `training_chunks`."""
        chunks = self.training_chunks(texts, token_budget)
        if not chunks:
            return torch.empty(0, output_dimension(list(self)) or 0, device=self.device)
        order = np.argsort([position for chunk in chunks for position in chunk.positions])
        return torch.cat([self.forward_chunk(chunk) for chunk in chunks])[order]

    def outputs(
        self, texts: Sequence[Text], budget: int, task: str | None, prompt: str, output_value: str | None, bar: tqdm
    ) -> tuple[Tensor | list[Any], np.ndarray]:
        """Return the outputs of the texts in their order, and their truncated and read tokens, `(2, texts)`."""
        parts: list[Any] = []
        positions: list[int] = []
        tokens: list[tuple[int, int]] = []
        for chunk in self.chunks(texts, budget, task, prompt):
            parts.append(_split_output(self(batch_to_device(dict(chunk.features), self.device)), output_value))
            positions += chunk.positions
            tokens += zip(chunk.truncated, chunk.lengths, strict=True)
            bar.update(len(chunk.positions))
        order = np.argsort(positions)
        if output_value == "sentence_embedding":
            return torch.cat(parts)[order], np.array(tokens)[order].T
        rows = list(chain.from_iterable(parts))
        return [rows[row] for row in order], np.array(tokens)[order].T

    def tokenize(self, texts: Sequence[Text]) -> Features:
        """Return the padded features `(batch, tokens)` of texts of one route, ready for `forward`."""
        groups = list(by_route(as_texts(texts)[0], None)) or [(None, [], [])]
        if len(groups) > 1:
            raise ValueError(f"texts of the routes {[route for route, *_ in groups]} cannot share a batch; split them")
        route, _, plain = groups[0]
        features = self._text_block(route).tokenize(plain)
        return features if route is None else {**features, "route": route}

    def _text_block(self, route: str | None) -> TokenizerModule:
        """Return the block that tokenises the texts of a route."""
        block = self[0]
        return cast(TokenizerModule, next(iter(block.route(route)), block) if isinstance(block, Router) else block)

    @property
    def max_seq_length(self) -> int | None:
        """Maximum number of tokens read per text, special tokens included; None: no limit."""
        return getattr(self[0], "max_seq_length", None)

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        cast(TokenizerModule, self[0]).max_seq_length = value

    @property
    def device(self) -> torch.device:
        """The device of the parameters; the CPU for a model without any."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))


def _split_output(output: Features, output_value: str | None) -> Tensor | list[Any]:
    """Return the texts' embeddings `(batch, dim)`, their token vectors without padding, or all their features."""
    if output_value == "sentence_embedding":
        return text_vectors(output)
    masks = output["attention_mask"].bool()
    if output_value == "token_embeddings":
        return [vectors[mask] for vectors, mask in zip(output["token_embeddings"], masks, strict=True)]
    tensors = {name: value for name, value in output.items() if isinstance(value, Tensor)}
    return [{name: value[row] for name, value in tensors.items()} for row in range(len(masks))]
