"""Known positives: candidates that are not negatives of a row, because a batch repeats texts or groups.

Where two rows share a positive, in-batch negatives would push each anchor away from its own positive.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sbertlab.data.texts import Text, first_rows, normalised


def known_positives(
    columns: Sequence[Sequence[Text]], groups: Sequence[Hashable] | None = None, anchors: bool = False
) -> Tensor | None:
    """Return the mask `(batch, candidates)` of positives other than each row's own target; None if nothing is masked.

    Two rows are related if they share the anchor, the positive or the group. A candidate is known to row i if its text
    is i's anchor, or the positive of a row related to i (i itself is). Texts are compared as `normalised`.

    `columns` are anchors, positives and hard negatives, `batch` texts each; candidates are all columns but the first
    and, with `anchors`, then the anchors. A single column holds anchors that are their own positives. `groups` are one
    id per row, None or NaN for no group.

    >>> known_positives([["a", "b", "c"], ["x", " X", "y"]])  # the first two rows share their positive
    tensor([[False,  True, False],
            [ True, False, False],
            [False, False, False]])
    """
    batch = len(columns[0])
    texts = [[normalised(text) for text in column] for column in columns]
    same_group = first_rows(group_keys(groups, batch))
    if len(set().union(*texts)) == batch * len(texts) and len(set(same_group)) == batch:
        return None
    own_anchors, own_positives = texts[0], texts[1 if len(texts) > 1 else 0]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(own_anchors + own_positives))}
    # the last number stands for all texts that are neither anchor nor positive: they are known to no row
    anchor, positive, *_ = ids = [
        torch.tensor([numbers.get(text, len(numbers)) for text in column])
        for column in (own_anchors, own_positives, *texts[2:])
    ]
    known = torch.zeros(batch, len(numbers) + 1, dtype=torch.bool)  # (batch, texts)
    for first_row in (torch.tensor(first_rows(own_anchors)), torch.tensor(same_group)):
        positives = torch.zeros_like(known)
        positives[first_row, positive] = True  # all positives of related rows, collected in the first of them
        known |= positives[first_row]
    known[torch.arange(batch), anchor] = True  # rows that share the positive add nothing: it is the row's own
    mask = known[:, torch.cat([*ids[1:], ids[0]] if anchors else ids[1:])]  # (batch, candidates)
    mask.fill_diagonal_(False)
    if anchors:
        mask[:, -batch:].fill_diagonal_(False)
    return mask if mask.any() else None


def group_keys(groups: Sequence[Any] | None, batch: int) -> list[Hashable]:
    """Return one key per row, equal for the rows of a group and unique for a row without one (None or NaN)."""
    if groups is None:
        return list(range(batch))
    return [object() if pd.isna(group) is True else group for group in groups]
