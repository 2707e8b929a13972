"""Randomness by place: what is drawn follows from the run's seed and from where in the run it is drawn."""

from __future__ import annotations

import random

import numpy as np
import torch


def set_seed(device: torch.device, seed: int, *where: int | str) -> None:
    """Let what is drawn next, by Python, NumPy and torch, follow from the run's seed and the place in it."""
    value = seed_of(seed, *where)
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 (data sets of others draw from it)
    # Where there is no accelerator, torch.manual_seed spends a millisecond on asking for one.
    (torch.default_generator if device.type == "cpu" else torch).manual_seed(value)


def seed_of(seed: int, *where: int | str) -> int:
    """Return a 32-bit seed that depends on the run's seed and on the place in it.

    >>> seed_of(0, "step", 1) == seed_of(0, "step", 1) != seed_of(0, "step", 2)
    True
    """
    words = [part if isinstance(part, int) else int.from_bytes(part.encode()[:8], "little") for part in where]
    return int(np.random.SeedSequence([seed, *words]).generate_state(1)[0])
