"""From texts to vectors in token-budget chunks, the same for encoding and for training.

A chunk of `n` texts is padded to its longest text, so it costs `n * longest` tokens. Sorting by token count and
splitting where it is cheapest leaves little padding.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sbertlab.data.texts import Text, TruncationWarning, as_texts, by_route
from sbertlab.models import Features, Router, TokenizerModule, features_to, output_dimension, text_vectors

CPU_TOKEN_BUDGET = 1024  # padded tokens per chunk: the activations of a small encoder fit into the cache
ACCELERATOR_TOKEN_BUDGET = 32768  # large matrices keep an accelerator busy
CHUNK_COST = 16  # a chunk more costs `budget / 16` padded tokens: in training it adds to each gradient once more
WINDOW = 65_536  # texts tokenised and sorted at a time when encoding, so that memory stays bounded


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
    """Group texts into chunks of at most `budget` padded tokens, longest texts first, at the least total cost.

    A chunk costs its padded tokens plus `budget / 16`. Texts of equal length keep their order; a text longer than the
    budget gets a chunk of its own. Returns indices into `lengths`, chunk by chunk.

    >>> token_budget_chunks([3, 9, 3, 1, 9], budget=20)  # the fourth alone costs 1 + 1, with the others 3
    [[1, 4], [0, 2], [3]]
    """
    if budget < 1:
        raise ValueError(f"budget must be at least 1 token, got {budget}")
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-sizes, kind="stable")
    if not len(order):
        return []
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


def original_order(chunks: Iterable[Sequence[int]]) -> Tensor:
    """Return the permutation that puts the rows of the concatenated chunks back into the texts' order, `(texts,)`.

    >>> original_order([[1], [2, 0], [3]]).tolist()
    [2, 0, 1, 3]
    """
    return torch.as_tensor(list(chain.from_iterable(chunks)), dtype=torch.long).argsort()


class PaddingMeter:
    """Counts the real tokens of forward passes, and these with their padding."""

    def __init__(self) -> None:
        self.tokens = self.padded = 0

    def add(self, lengths: Sequence[int]) -> None:
        """Count one chunk of texts with these token counts."""
        self.tokens += sum(lengths)
        self.padded += len(lengths) * max(lengths, default=0)

    @property
    def share(self) -> float:
        """Share of padding: `1 - tokens / padded`; 0 before the first chunk."""
        return 1 - self.tokens / self.padded if self.padded else 0.0


class ChunkedEncoder(nn.Sequential):
    """Building blocks in a row that tokenise all texts of a call together and run them in token-budget chunks."""

    def forward(self, features: Features) -> Features:
        """Run the blocks: from `input_ids` `(batch, tokens)` and their mask to `sentence_embedding` `(batch, dim)`."""
        for block in self:
            features = block(features)
        return features

    def chunks(
        self,
        texts: Sequence[Text],
        token_budget: int | None = None,
        task: str | None = None,
        prompt: str = "",
        fewest: int = 1,
    ) -> Iterator[Chunk]:
        """Tokenise the texts together and yield them in token-budget chunks, longest first.

        Args:
            texts: strings, or `{route: text}` for a model with routes.
            token_budget: padded tokens per chunk; None chooses it by the device.
            task: the route of texts that name none.
            prompt: what the texts begin with, for a Pooling that excludes it.
            fewest: makes chunks smaller until there are at least about this many.
        """
        budget = default_token_budget(self.device) if token_budget is None else token_budget
        for route, positions, plain in by_route(texts, task):
            block = self._text_block(route)
            tokens = block.token_ids(plain)
            lengths = tokens.lengths
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
        self,
        texts: Sequence[Text],
        token_budget: int | None = None,
        task: str | None = None,
        meter: PaddingMeter | None = None,
        fewest: int = 1,
    ) -> list[Chunk]:
        """Return the chunks of a training batch, as `chunks` does; `meter` counts tokens and padding."""
        chunks = list(self.chunks(as_texts(texts)[0], token_budget, task, fewest=fewest))
        if meter is not None:
            for chunk in chunks:
                meter.add(chunk.lengths)
        if any(any(chunk.truncated) for chunk in chunks):  # without counts: Python shows equal warnings only once
            warnings.warn(
                f"some texts are longer than max_seq_length={self.max_seq_length} and are truncated",
                TruncationWarning,
                stacklevel=3,
            )
        return chunks

    def forward_chunk(self, chunk: Chunk) -> Tensor:
        """Return the embeddings of a chunk, `(texts, dim)`, in its order."""
        return text_vectors(self(features_to(chunk.features, self.device)))

    def embed(
        self,
        texts: Sequence[Text],
        token_budget: int | None = None,
        task: str | None = None,
        meter: PaddingMeter | None = None,
    ) -> Tensor:
        """Return the embeddings of the texts with their graph, `(texts, dim)`, in order; see `training_chunks`."""
        chunks = self.training_chunks(texts, token_budget, task, meter)
        if not chunks:
            return torch.empty(0, output_dimension(list(self)) or 0, device=self.device)
        order = original_order(chunk.positions for chunk in chunks)
        return torch.cat([self.forward_chunk(chunk) for chunk in chunks])[order.to(self.device)]

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
        if isinstance(block, Router):
            block = next(iter(block.route(route)), block)
        if not isinstance(block, TokenizerModule):
            raise TypeError(
                f"the first module is {type(block).__name__}, which does not read texts; "
                "begin with Transformer or StaticEmbedding"
            )
        return block

    def _forward_all(
        self,
        texts: list[Text],
        budget: int,
        task: str | None,
        prompt: str,
        output_value: str | None,
        bar: tqdm,
        to_cpu: bool,
    ) -> tuple[Tensor | list[Any], np.ndarray, np.ndarray, np.ndarray]:
        """Run all texts, window by window.

        Returns the results in the order of the chunks, the place of each text among them, and for each text the tokens
        that were truncated and that were read.
        """
        truncated, read = np.zeros((2, len(texts)), dtype=np.int64)
        positions: list[list[int]] = []
        parts: list[Any] = []
        for start in range(0, len(texts), WINDOW):
            first = len(parts)
            for chunk in self.chunks(texts[start : start + WINDOW], budget, task, prompt):
                parts.append(_split_output(self(features_to(chunk.features, self.device)), output_value))
                positions.append([start + position for position in chunk.positions])
                truncated[positions[-1]], read[positions[-1]] = chunk.truncated, chunk.lengths
                bar.update(len(chunk.positions))
            if to_cpu and output_value == "sentence_embedding":  # an accelerator's memory holds one window
                parts[first:] = [torch.cat(parts[first:]).cpu()]
        order = original_order(positions).numpy()
        if output_value != "sentence_embedding":
            return list(chain.from_iterable(parts)), order, truncated, read
        empty = torch.empty(0, output_dimension(list(self)) or 0)
        return (torch.cat(parts) if parts else empty), order, truncated, read

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
