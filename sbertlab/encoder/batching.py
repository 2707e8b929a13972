"""Token-budget chunks: which texts share a forward pass, and how much of it is padding.

A chunk of `n` texts is padded to its longest, so it costs `n * longest` tokens. Sorting by token count and cutting
where it is cheapest, within a budget, leaves little padding. Pure functions of the texts' lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise

import numpy as np
import torch

CPU_TOKEN_BUDGET = 1024
"""Padded tokens a chunk on a CPU: the activations of a small encoder stay in its cache."""

ACCELERATOR_TOKEN_BUDGET = 32768
"""Padded tokens a chunk on an accelerator, which needs large matrices to be busy."""

CHUNK_COST = 16
"""What one more chunk costs, in padded tokens, is the budget divided by this. Measured in training on a CPU, where each
chunk adds to every gradient once more; encoding hardly minds."""


def default_token_budget(device: torch.device) -> int:
    """Return the token budget that suits the device: small on a CPU (cache), large elsewhere."""
    return CPU_TOKEN_BUDGET if device.type == "cpu" else ACCELERATOR_TOKEN_BUDGET


def token_budget_chunks(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group texts into chunks whose padded size stays within `budget` tokens, longest texts first, at the least cost.

    A chunk costs its padded tokens and, for being one more, as much as `budget / 16` tokens: a batch whose lengths are
    spread is cut finer than one of equal lengths. Cuts lie between texts of different lengths, or where a chunk of
    equal ones is full. A text longer than the budget gets a chunk of its own. Texts of equal length keep their order,
    so the chunks are a function of the lengths alone.

    Args:
        lengths: tokens of each text.
        budget: most tokens a chunk may hold, padding included.

    Returns:
        Indices into `lengths`, chunk by chunk; every index occurs once.

    Raises:
        ValueError: `budget` is not positive.

    >>> token_budget_chunks([3, 9, 3, 1, 9], budget=20)  # the fourth alone costs 1 + 1, beside the others 3
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
    cuts = np.append(np.concatenate(runs), len(sizes))
    heads = sizes[cuts[:-1]]  # the longest text of a chunk that begins at a cut
    overhead = max(1, budget // CHUNK_COST)
    cost = np.zeros(len(cuts), dtype=np.int64)  # least cost of all texts before a cut
    begins = np.zeros(len(cuts), dtype=np.int64)  # the cut at which the last of their chunks begins
    low = 0
    for stop in range(1, len(cuts)):
        while low < stop - 1 and (cuts[stop] - cuts[low]) * heads[low] > budget:
            low += 1
        costs = cost[low:stop] + (cuts[stop] - cuts[low:stop]) * heads[low:stop]
        begins[stop] = low + costs.argmin()
        cost[stop] = costs.min() + overhead
    chunks: list[list[int]] = []
    stop = len(cuts) - 1
    while stop:
        begin = begins[stop]
        chunks.append(order[cuts[begin] : cuts[stop]].tolist())
        stop = begin
    return chunks[::-1]


def original_order(chunks: Iterable[Sequence[int]]) -> torch.Tensor:
    """Return the permutation that puts the rows of the concatenated chunks back into the texts' order, `(texts,)`.

    >>> original_order([[1], [2, 0], [3]]).tolist()
    [2, 0, 1, 3]
    """
    return torch.as_tensor(list(chain.from_iterable(chunks)), dtype=torch.long).argsort()


class PaddingMeter:
    """Counts what a forward pass reads: real tokens, and the padding around them.

    >>> meter = PaddingMeter()
    >>> meter.add([3, 2])
    >>> meter.tokens, meter.padded, round(meter.share, 4)
    (5, 6, 0.1667)
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.padded = 0

    def add(self, lengths: Sequence[int]) -> None:
        """Count one chunk of texts with these token counts."""
        self.tokens += sum(lengths)
        self.padded += len(lengths) * max(lengths, default=0)

    @property
    def share(self) -> float:
        """Share of the forward pass spent on padding: `1 - real tokens / padded tokens`; 0 before the first chunk."""
        return 1 - self.tokens / self.padded if self.padded else 0.0
