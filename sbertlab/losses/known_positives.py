"""Known positives: texts of a batch that it shows to be positives of a row, and that are no negatives of it then.

Repeated texts make false negatives: where two rows share a positive, each of them takes the other's for a negative,
and the model is taught to push a text away from what it belongs to. Group ids say the same of rows whose texts differ.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sbertlab.data.texts import Text, first_rows, normalised


def known_positives(
    columns: Sequence[Sequence[Text]], groups: Sequence[Hashable] | None = None, anchors: bool = False
) -> Tensor | None:
    """Return which candidates are known to be positives of a row without being its own target.

    Two rows are related if they share the anchor, the positive or the group. A candidate is known to row i if its text
    is i's anchor, or the positive of a row related to i (i itself is). Texts are compared as `normalised`.

    Args:
        columns: anchors, positives, and hard negatives column by column, `batch` texts each. A single column holds
            anchors that are their own positives.
        groups: for each row an id that it shares with the rows that mean the same; None, or NaN, for none.
        anchors: the anchors are candidates, too, each for the other rows; they come after the others.

    Returns:
        A mask `(batch, candidates)`, the positives first, then the hard negatives column by column; None if nothing is
        masked. `int(mask.count_nonzero())` is the number of pairs masked.

    Raises:
        TypeError: something that is no text.
        ValueError: columns of different lengths, or none; groups that are not one a row, or not hashable.

    >>> known_positives([["a", "b", "c"], ["x", " X", "y"]])  # the first two rows share their positive
    tensor([[False,  True, False],
            [ True, False, False],
            [False, False, False]])
    >>> known_positives([["a", "b"], ["x", "y"]], groups=["g", "g"])
    tensor([[False,  True],
            [ True, False]])
    >>> known_positives([["a", "b"], ["x", "y"]]) is None
    True
    """
    batch = len(columns[0]) if len(columns) else 0
    if any(len(column) != batch for column in columns) or not batch:
        raise ValueError(f"columns must be of one positive length, got {[len(column) for column in columns]}")
    texts = [[normalised(text) for text in column] for column in columns]
    same_group = first_rows(_group_keys(groups, batch))
    if len(set().union(*texts)) == batch * len(texts) and len(set(same_group)) == batch:
        return None
    own_anchors, own_positives = texts[0], texts[1 if len(texts) > 1 else 0]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(own_anchors + own_positives))}
    rows = torch.arange(batch)
    # the last number stands for every text that is neither an anchor nor a positive: it is known to no row
    anchor, positive, *_ = ids = [
        torch.tensor([numbers.get(text, len(numbers)) for text in column])
        for column in (own_anchors, own_positives, *texts[2:])
    ]
    known = torch.zeros(batch, len(numbers) + 1, dtype=torch.bool)  # (batch, texts)
    for row_of_class in (torch.tensor(first_rows(own_anchors)), torch.tensor(same_group)):
        positives = torch.zeros_like(known)
        positives[row_of_class, positive] = True  # of all rows of a class, at its first row
        known |= positives[row_of_class]
    known[rows, anchor] = True  # a row that shares the positive adds none: the positive is the row's own
    mask = known[:, torch.cat([*ids[1:], ids[0]] if anchors else ids[1:])]  # (batch, candidates)
    mask.fill_diagonal_(False)
    if anchors:
        mask[:, -batch:].fill_diagonal_(False)
    return mask if mask.any() else None


def _group_keys(groups: Sequence[Any] | None, batch: int) -> list[Hashable]:
    """Return one key a row, equal for rows of a group; a row without one gets a key that no other has."""
    if groups is None:
        return list(range(batch))
    if len(groups) != batch:
        raise ValueError(f"groups must be one a row, {batch}, got {len(groups)}")
    keys: list[Hashable] = []
    for row, group in enumerate(groups):
        try:
            hash(group)
        except TypeError:
            raise ValueError(
                f"the group of row {row} must be hashable, such as a number or a text, got {group!r:.60}; "
                "a list can be a tuple"
            ) from None
        keys.append(object() if pd.isna(group) is True else group)
    return keys
