"""What happens to the embedding space during training: five figures on a fixed probe, and when they mean collapse.

A `Probe` is a few hundred texts and what the data say of them; `measure` embeds them and returns the figures of
`space_metrics`; `collapse_reason` compares the newest figures with those from before training. No encoder is needed,
only a function from texts to embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sbertlab.data.texts import Text, distinct_texts
from sbertlab.util import Embeddings, as_tensor

METRICS = ("alignment", "uniformity", "effective_rank", "mean_cosine", "margin")

MOST_TEXTS = 512
MOST_COLUMNS = 4
"""Columns a probe reads; with many negatives a row there would be too few rows."""

LEAST_SPREAD = 0.15
"""Share of the spread before training, 1 - mean_cosine, below which the texts count as one point.

Measured on the helpdesk corpus at batch 16, within 40 steps: all-MiniLM-L6-v2 keeps at least 0.84 by ranking at a
learning rate of 1e-4 and 0.39 at 1e-3, and goes down to 0.40 on its way to learning labelled pairs at 1e-4, before it
spreads again. With nothing but positive pairs it is at 0.14 after 30 steps at 2e-5, and at 0.03 after 10 at 1e-4. Known
exception: two layers of random weights under CoSENTLoss at 1e-3 pass through 0.11 and recover.
"""
LEAST_RANK, LEAST_RANK_SHARE = 2.0, 0.25
"""Effective rank, and share of the one before training, below both of which the texts count as one line."""
SOUND_MARGIN = 0.1
"""A margin above this and above the one before training tells positives apart: two far clusters are no collapse."""
FEW_LOW = 0.1
"""Share of low labels below which they are named as the likely cause."""


class CollapseWarning(UserWarning):
    """The embeddings have become nearly alike, so that they tell texts no longer apart."""


def space_metrics(
    anchors: Embeddings, positives: Embeddings | None = None, negatives: Embeddings | None = None
) -> dict[str, float]:
    """Describe the space by the directions of embeddings; all lengths count as 1, but a row of zeros stays zero.

    | metric         | formula                                                     | over                   | good |
    | -------------- | ----------------------------------------------------------- | ---------------------- | ---- |
    | alignment      | `mean |x - y|^2`                                            | positive pairs         | low  |
    | uniformity     | `log mean exp(-2 |x - y|^2)`                                | all pairs of rows      | low  |
    | effective_rank | see `effective_rank`                                        | all rows               | high |
    | mean_cosine    | `mean cos(x, y)`                                            | all pairs of rows      | low  |
    | margin         | `mean cos(anchor, positive) - mean cos(anchor, negative)`   | positive, other pairs  | high |

    Without negatives, those of an anchor are the positives of the other rows. "All rows" are those of all three.
    Everything is computed in float64; memory grows with the square of the number of rows.

    Sources: alignment and uniformity, Wang and Isola, 2020, Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere (arXiv:2005.10242), equations 1 and 2 with alpha = t = 2; mean cosine
    as anisotropy, Ethayarajh, 2019, How Contextual are Contextualized Word Representations? (arXiv:1909.00512).

    Args:
        anchors: `(n, dim)`.
        positives: `(n, dim)`, row i belongs to anchor i.
        negatives: `(n, dim)`, row i does not belong to anchor i.

    Returns:
        Every metric of `METRICS`; NaN where there is nothing to compute it from, and everywhere if an embedding is
        not finite.

    Raises:
        ValueError: not embeddings, or of different shapes.

    >>> metrics = space_metrics([[1.0, 0.0], [0.0, 1.0]], positives=[[0.6, 0.8], [0.0, 1.0]])
    >>> round(metrics["alignment"], 4), round(metrics["margin"], 4)  # (0.8 + 0) / 2 and (0.6 + 1) / 2 - (0 + 0.8) / 2
    (0.4, 0.4)
    >>> round(metrics["mean_cosine"], 4)  # (0 + 0.6 + 0 + 0.8 + 1 + 0.8) / 6
    0.5333
    >>> space_metrics([[1.0, 0.0], [0.0, 1.0]])["uniformity"]  # the one pair is at the squared distance 2
    -4.0
    """
    named = {"anchors": anchors, "positives": positives, "negatives": negatives}
    given = {name: torch.atleast_2d(as_tensor(rows, name)) for name, rows in named.items() if rows is not None}
    shapes = {name: tuple(rows.shape) for name, rows in given.items()}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"row i of each belongs to anchor i, so all must have one shape (n, dim), got {shapes}")
    n = len(given["anchors"])
    rows = torch.arange(n * len(given)).reshape(len(given), n)  # (columns, n)
    roles = dict(zip(given, rows, strict=True))
    positive, negative = torch.zeros(2, rows.numel(), rows.numel(), dtype=torch.bool)
    if "positives" in roles:
        positive[roles["anchors"], roles["positives"]] = True
        negative[roles["anchors"][:, None], roles["positives"]] = "negatives" not in roles
    if "negatives" in roles:
        negative[roles["anchors"], roles["negatives"]] = True
    return _measure(torch.cat([rows.cpu().double() for rows in given.values()]), positive, negative & ~positive)


def effective_rank(embeddings: Embeddings) -> float:
    """How many directions the embeddings use: `exp(-sum p log p)`, p the singular values divided by their sum.

    The lengths count as 1, and the mean is not taken away: embeddings that are all alike have rank 1, while without
    their mean they are rounding errors, whose rank is high.

    Source: Roy and Vetterli, 2007, The effective rank: a measure of effective dimensionality (EUSIPCO), section 2.

    Args:
        embeddings: `(n, dim)`.

    Returns:
        From 1 to the smaller of n and dim; 0 where all are zero, NaN where there are none or one is not finite.

    >>> round(effective_rank([[1.0, 0.0], [0.0, 3.0]]), 4), round(effective_rank([[1.0, 2.0], [1.0, 2.0]]), 4)
    (2.0, 1.0)
    """
    rows = torch.atleast_2d(as_tensor(embeddings)).detach().cpu().double()
    if not len(rows) or not rows.isfinite().all():
        return math.nan
    values = torch.linalg.svdvals(F.normalize(rows, dim=1))
    if not values.any():
        return 0.0
    return torch.special.entr(values / values.sum()).sum().exp().item()


def _measure(embeddings: Tensor, positive: Tensor, negative: Tensor) -> dict[str, float]:
    """Return every metric, given `(n, dim)` embeddings and which `(n, n)` pairs of them are positive and negative."""
    if not len(embeddings) or not embeddings.isfinite().all():
        return dict.fromkeys(METRICS, math.nan)
    directions = F.normalize(embeddings.detach(), dim=1)
    cosines = directions @ directions.T  # (n, n)
    squares = cosines.diagonal()  # 1, or 0 for a row of zeros
    distances = (squares[:, None] + squares - 2 * cosines).clamp(min=0)
    pairs = torch.ones_like(cosines, dtype=torch.bool).triu(diagonal=1)
    return {
        "alignment": distances[positive].mean().item(),
        "uniformity": distances[pairs].mul(-2).exp().mean().log().item(),
        "effective_rank": effective_rank(directions),
        "mean_cosine": cosines[pairs].mean().item(),
        "margin": (cosines[positive].mean() - cosines[negative].mean()).item(),
    }


@dataclass(frozen=True)
class Probe:
    """Texts to measure the space by again and again, and which of their pairs belong together.

    Attributes:
        texts: the distinct texts, at most `MOST_TEXTS` where they come from `of`.
        positive: `(texts, texts)` bool, the pairs that belong together.
        negative: `(texts, texts)` bool, the pairs that do not.
        advice: what most likely is wrong with such data if training on them collapses, and what to do.
    """

    texts: list[Text]
    positive: Tensor
    negative: Tensor
    advice: str

    @classmethod
    def of(cls, columns: Sequence[Sequence[Text]], labels: Any = None, seed: int = 0) -> Probe:
        """Draw rows of training data, and read from columns and labels which texts belong together.

        | columns                                  | labels                 | positive pairs   | negative pairs        |
        | ---------------------------------------- | ---------------------- | ---------------- | --------------------- |
        | text                                     | int classes            | of the same class | of different classes |
        | text                                     | none, others           | none             | none                  |
        | (text, text)                             | none, vectors          | the rows         | other rows' positives |
        | (text, text)                             | 0/1 or grades          | the high rows    | the low rows *        |
        | (text, text)                             | other int classes      | none             | none                  |
        | (anchor, positive, negative_1, ..., n)   | none, any              | first two        | anchor and negatives  |

        A label is high from the middle of the scale on. The scale begins at 0, or at the lowest label below it, and
        ends at 1, or at the highest label above it. Labels that are all 0 count as none, since InputExample leaves them
        so; and where no label is low (*), the positives of other rows are the negatives. What is a positive pair in one
        row is not a negative pair through another.

        Args:
            columns: lists of texts, each of n rows; of more than `MOST_COLUMNS` the first are read. A text may be
                `{route: text}`.
            labels: n numbers, or n vectors.
            seed: of the choice of rows.

        Raises:
            ValueError: no columns, no rows, or columns and labels of different lengths.

        >>> probe = Probe.of([["a", "b", "a"], ["c", "d", "e"]], labels=[1.0, 0.2, 0.8])
        >>> probe.texts
        ['a', 'c', 'b', 'd', 'e']
        >>> probe.positive.nonzero().tolist(), probe.negative.nonzero().tolist()  # a-c and a-e; b-d
        ([[0, 1], [0, 4]], [[2, 3]])
        """
        labels = _as_labels(labels)
        lengths = [len(column) for column in columns] + ([] if labels is None else [len(labels)])
        if not columns or len(set(lengths)) != 1 or not lengths[0]:
            raise ValueError(
                f"a probe needs columns of texts, and labels if any, of one positive length; "
                f"got {len(columns)} columns and the lengths {lengths}"
            )
        n = lengths[0]
        relations = _relations(len(columns), labels, n)
        advice = _advice(len(columns), labels, relations)
        columns = columns[:MOST_COLUMNS]
        most = MOST_TEXTS // len(columns)
        chosen = np.sort(np.random.default_rng(seed).choice(n, size=min(n, most), replace=False)).tolist()
        texts, index = distinct_texts([column[row] for row in chosen for column in columns], prompt="")
        rows = torch.tensor(index).reshape(len(chosen), len(columns))
        positive, negative = _pairs(rows, len(texts), None if relations is None else relations[chosen])
        return cls(texts, positive, negative, advice)

    def measure(self, embed: Callable[[list[Text]], Embeddings]) -> dict[str, float]:
        """Return `space_metrics` of the distinct texts, all embedded in one call, without gradient.

        Args:
            embed: from n texts to `(n, dim)` embeddings, such as `model.embed`. The figures are comparable only if it
                gives the same text the same embedding, so dropout must be off.

        Raises:
            ValueError: `embed` returns something else.

        >>> probe = Probe.of([["north", "south"], ["N", "S"]])
        >>> probe.texts
        ['north', 'N', 'south', 'S']
        >>> metrics = probe.measure(lambda texts: torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, -1.0], [0.0, -1.0]]))
        >>> metrics["alignment"], metrics["margin"], round(metrics["effective_rank"], 4)
        (0.0, 2.0, 1.0)
        """
        with torch.no_grad():
            embeddings = as_tensor(embed(list(self.texts)))
        if embeddings.ndim != 2 or len(embeddings) != len(self.texts):
            raise ValueError(
                f"embed must return ({len(self.texts)}, dim) for {len(self.texts)} texts, got {tuple(embeddings.shape)}"
            )
        return _measure(embeddings.cpu().double(), self.positive, self.negative)


def _as_labels(labels: Any) -> Tensor | None:
    """Return the labels as a tensor `(n,)` or `(n, width)` of numbers; None where there are none, or all are 0."""
    if labels is None:
        return None
    try:
        numbers = (labels if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels))).detach().cpu()
    except (TypeError, ValueError) as error:
        raise ValueError(f"labels must be numbers, or vectors of one length, one a row: {error}") from error
    if not numbers.any():
        return None
    numbers = numbers.long() if numbers.dtype == torch.bool else numbers
    return numbers[:, 0] if numbers.ndim == 2 and numbers.shape[1] == 1 else numbers


def _relations(columns: int, labels: Tensor | None, n: int) -> Tensor | None:
    """Return what is known of each of n rows, `(n,)`: its class where it is one text; else 1 where its first two texts
    belong together, -1 where they do not, and 0 where labels do not say it.

    >>> _relations(2, torch.tensor([0.0, 2.0, 5.0]), 3).tolist()  # grades from 0 to 5
    [-1, -1, 1]
    >>> _relations(2, torch.tensor([0, 2, 1]), 3).tolist()  # classes of pairs, such as those of NLI
    [0, 0, 0]
    """
    numbers = labels if labels is not None and labels.ndim == 1 else None
    classes = numbers is not None and not numbers.is_floating_point()
    if columns == 1:
        return numbers if classes else None
    if columns > 2 or numbers is None:
        return torch.ones(n, dtype=torch.int64)
    if classes and not ((numbers == 0) | (numbers == 1)).all():
        return torch.zeros(n, dtype=torch.int64)
    middle = (min(0.0, numbers.min().item()) + max(1.0, numbers.max().item())) / 2
    return (numbers >= middle).long() * 2 - 1


def _pairs(rows: Tensor, texts: int, relations: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which `(texts, texts)` pairs are positive and which negative, as the table of `Probe.of` says.

    Args:
        rows: `(n, columns)`, which text stands there.
        texts: how many there are.
        relations: `(n,)`, as `_relations` returns them.
    """
    positive, negative = torch.zeros(2, texts, texts, dtype=torch.bool)
    anchors = rows[:, 0]
    if relations is not None and rows.shape[1] == 1:
        same = relations[:, None] == relations
        for pairs, where in ((positive, same), (negative, ~same)):
            i, j = where.nonzero().T
            pairs[anchors[i], anchors[j]] = True
    elif relations is not None:
        high, low = relations > 0, relations < 0
        positive[anchors[high], rows[high, 1]] = True
        negative[anchors[low], rows[low, 1]] = True
        for column in rows.T[2:]:
            negative[anchors, column] = True
        if not negative.any():
            negative[anchors[high][:, None], rows[high, 1]] = True
    positive.fill_diagonal_(False)  # a text that is its own positive, as in SimCSE, says nothing of the space
    negative &= ~(positive | positive.T)
    return positive, negative.fill_diagonal_(False)


def _advice(columns: int, labels: Tensor | None, relations: Tensor | None) -> str:
    """Name the likely cause of a collapse on such data, and the remedy."""
    ranking = "a ranking loss such as MultipleNegativesRankingLoss, to which the other rows of a batch are negatives"
    slower = "Lower the learning rate to a tenth, or let it rise over more warmup_steps"
    if labels is not None and (labels == labels[0]).all():
        if columns == 1 and relations is not None:
            return (
                f"all {len(labels):,} rows are of class {labels[0].item()}, so nothing is pushed apart. "
                "Add rows of other classes."
            )
        alike = f"are {labels[0].item():g}" if labels.ndim == 1 else "are the same"
        return (
            f"all {len(labels):,} labels {alike}, so nothing is pushed apart. "
            f"Add texts that do not belong together, with low labels, or use {ranking}."
        )
    if labels is None or relations is None:
        return (
            "the learning rate is too high, or the loss sees no negatives. "
            f"{slower}; make batches of more than one row; or use {ranking}."
        )
    low = (relations < 0).double().mean().item()
    if columns == 2 and 0 < low < FEW_LOW:
        return (
            f"only {low:.1%} of the {len(labels):,} labels are low, so little is pushed apart. "
            f"Add texts that do not belong together, or use {ranking}."
        )
    return f"the learning rate is too high, or the labels hold too little contrast. {slower}; and look at the labels."


def collapse_reason(first: Mapping[str, float], newest: Mapping[str, float], probe: Probe | None = None) -> str | None:
    """Say that the space has collapsed, why most likely, and what to do; None while it has not.

    It has where the texts became one point (of the spread `1 - mean_cosine` less than `LEAST_SPREAD` is left) or one
    line (an effective rank below `LEAST_RANK` and below `LEAST_RANK_SHARE` of what it was), unless the margin shows
    that positives are told apart better than before. Only the comparison counts: an untrained transformer has a mean
    cosine of 0.95 or more, and trains well.

    Args:
        first: metrics before the first step.
        newest: metrics of the same probe now.
        probe: what they were measured on; its `advice` becomes a part of the answer.

    >>> before = {"mean_cosine": 0.2, "effective_rank": 100.0, "margin": 0.3}
    >>> collapse_reason(before, {"mean_cosine": 0.3, "effective_rank": 90.0, "margin": 0.4}) is None
    True
    >>> print(collapse_reason(before, {"mean_cosine": 0.9, "effective_rank": 50.0, "margin": 0.1})[:75])
    the embeddings have become nearly one point: mean cosine 0.900 (0.200 befor
    """
    margins = [metrics.get("margin", math.nan) for metrics in (first, newest)]
    if margins[1] > SOUND_MARGIN and not margins[1] <= margins[0]:
        return None
    spread = [1 - metrics["mean_cosine"] for metrics in (first, newest)]
    rank = [metrics["effective_rank"] for metrics in (first, newest)]
    if spread[0] > 1e-6 and spread[1] < LEAST_SPREAD * spread[0]:  # what is less than 1e-6 is rounding
        shape = "point"
    elif rank[1] < min(LEAST_RANK, LEAST_RANK_SHARE * rank[0]):
        shape = "line"
    else:
        return None
    advice = _advice(2, None, None) if probe is None else probe.advice
    return (
        f"the embeddings have become nearly one {shape}: mean cosine {1 - spread[1]:.3f} ({1 - spread[0]:.3f} before "
        f"training), effective rank {rank[1]:.1f} ({rank[0]:.1f} before). Likely cause: {advice}"
    )
