"""Token-budget chunks: which texts share a forward pass, and how much of it is padding.

A chunk of `n` texts is padded to its longest, so it costs `n * longest` tokens. Sorting by token count and filling
chunks up to a budget keeps padding small and every chunk of about the same cost. Pure functions of the texts' lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import torch

CPU_TOKEN_BUDGET = 1024
"""Padded tokens a chunk on a CPU: the activations of a small encoder stay in its cache."""

ACCELERATOR_TOKEN_BUDGET = 32768
"""Padded tokens a chunk on an accelerator, which needs large matrices to be busy."""


def default_token_budget(device: torch.device) -> int:
    """Return the token budget that suits the device: small on a CPU (cache), large elsewhere."""
    return CPU_TOKEN_BUDGET if device.type == "cpu" else ACCELERATOR_TOKEN_BUDGET


def token_budget_chunks(lengths: Sequence[int], budget: int, largest: int | None = None) -> list[list[int]]:
    """Group texts into chunks whose padded size stays within `budget` tokens, longest texts first.

    A text longer than the budget gets a chunk of its own. Texts of equal length keep their order, so the chunks are a
    function of the lengths alone.

    Args:
        lengths: tokens of each text.
        budget: most tokens a chunk may hold, padding included.
        largest: most texts a chunk may hold; no bound when None.

    Returns:
        Indices into `lengths`, chunk by chunk; every index occurs once.

    Raises:
        ValueError: `budget` or `largest` is not positive.

    >>> token_budget_chunks([3, 9, 4, 2], budget=10)
    [[1], [2, 0], [3]]
    >>> token_budget_chunks([2, 2, 2], budget=10, largest=2)
    [[0, 1], [2]]
    """
    if budget < 1:
        raise ValueError(f"budget must be at least 1 token, got {budget}")
    if largest is not None and largest < 1:
        raise ValueError(f"largest must be at least 1 text, got {largest}")
    chunks: list[list[int]] = []
    room = 0
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        if room < 1:
            chunks.append([])
            room = max(1, budget // max(1, lengths[index]))
            room = room if largest is None else min(room, largest)
        chunks[-1].append(index)
        room -= 1
    return chunks


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
