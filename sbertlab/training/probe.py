"""What training does to the embedding space: five metrics on a fixed set of texts, and when they mean collapse."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sbertlab.checks import Embeddings, as_tensor, check_choice, check_same_length, checked_number
from sbertlab.data import collate
from sbertlab.data.texts import Text, distinct_texts
from sbertlab.encoder.sentence_transformer import evaluating
from sbertlab.training.batches import Objective
from sbertlab.training.callbacks import Callback, Run

METRICS = ("alignment", "uniformity", "effective_rank", "mean_cosine", "margin")

MOST_TEXTS = 512
MOST_COLUMNS = 4
"""Columns that a probe reads; with many negatives per row there would be too few rows."""

LEAST_SPREAD = 0.15
"""Share of the spread before training, 1 - mean_cosine, below which the texts count as one point.

Measured on the helpdesk corpus: all-MiniLM-L6-v2 keeps at least 0.39 by ranking at a learning rate of 1e-3, and falls
to 0.14 within 30 steps at 2e-5 on positive pairs only. Two layers of random weights may pass 0.11 and recover.
"""
LEAST_RANK, LEAST_RANK_SHARE = 2.0, 0.25
"""Effective rank, and share of the one before training, below both of which the texts count as one line."""
SOUND_MARGIN = 0.1
"""A margin above this and above the one before training separates positives: two distant clusters are no collapse."""
FEW_LOW = 0.1
"""Share of low labels below which their rarity is named as the likely cause."""

RANKING = "a ranking loss such as MultipleNegativesRankingLoss, which takes the other rows of a batch as negatives"
SLOWER = "Lower the learning rate to a tenth, or let it rise over more warmup_steps"
ADVICE = {
    "one class": "all {n:,} rows are of class {label:g}, so nothing is pushed apart. Add rows of other classes.",
    "one label": f"all {{n:,}} labels are {{label:g}}, so nothing is pushed apart. Add low labels, or use {RANKING}.",
    "one vector": "all {n:,} labels are the same, so nothing is pushed apart. Add rows with other labels.",
    "few low": f"only {{low:.1%}} of {{n:,}} labels are low, so little is pushed apart. Add some, or use {RANKING}.",
    "labels": f"the learning rate is too high, or the labels hold too little contrast. {SLOWER}, and check the labels.",
    "no labels": f"the learning rate is too high, or the loss sees no negatives. {SLOWER}; or use {RANKING}.",
}
"""The likely cause of a collapse by kind of data, and the remedy."""


class CollapseWarning(UserWarning):
    """The embeddings have become so similar that the model no longer distinguishes texts."""


def space_metrics(
    embeddings: Embeddings, positive: Tensor | None = None, negative: Tensor | None = None
) -> dict[str, float]:
    """Describe the space by the directions of embeddings `(n, dim)`; `(n, n)` masks say which pairs belong together.

    | metric         | formula                                                     | over                      | good |
    | -------------- | ----------------------------------------------------------- | ------------------------- | ---- |
    | alignment      | `mean |x - y|^2`                                            | positive pairs            | low  |
    | uniformity     | `log mean exp(-2 |x - y|^2)`                                | all pairs                 | low  |
    | effective_rank | `exp(-sum p log p)`, p: singular values over their sum      | all embeddings            | high |
    | mean_cosine    | `mean cos(x, y)`                                            | all pairs                 | low  |
    | margin         | `mean cos(positive pair) - mean cos(negative pair)`         | positive, negative pairs  | high |

    NaN: nothing to average, or an embedding that is not finite. Sources: Wang and Isola, 2020 (arXiv:2005.10242); Roy
    and Vetterli, 2007, The effective rank (EUSIPCO); Ethayarajh, 2019 (arXiv:1909.00512) for the mean cosine.

    >>> metrics = space_metrics([[1.0, 0.0], [0.0, 2.0]])
    >>> metrics["uniformity"], round(metrics["effective_rank"], 4), metrics["mean_cosine"]
    (-4.0, 2.0, 0.0)
    """
    rows = torch.atleast_2d(as_tensor(embeddings)).detach().cpu().double()
    if not len(rows) or not rows.isfinite().all():
        return dict.fromkeys(METRICS, math.nan)
    directions = F.normalize(rows, dim=1)  # a row of zeros stays zero
    cosines = directions @ directions.T  # (n, n)
    squares = cosines.diagonal()  # 1, or 0 for a row of zeros
    distances = (squares[:, None] + squares - 2 * cosines).clamp(min=0)
    pairs = torch.ones_like(cosines, dtype=torch.bool).triu(diagonal=1)
    none = torch.zeros_like(pairs)
    positive, negative = none if positive is None else positive, none if negative is None else negative
    values = torch.linalg.svdvals(F.normalize(directions, dim=1))
    entropy = torch.special.entr(values / values.sum()).sum()
    return {
        "alignment": distances[positive].mean().item(),
        "uniformity": distances[pairs].mul(-2).exp().mean().log().item(),
        "effective_rank": entropy.exp().item() if values.any() else 0.0,
        "mean_cosine": cosines[pairs].mean().item(),
        "margin": (cosines[positive].mean() - cosines[negative].mean()).item(),
    }


class Probe(Callback):
    """Texts on which the space is measured before the first step and then regularly; reports when it collapses.

    | columns                                  | labels                 | positive pairs    | negative pairs        |
    | ---------------------------------------- | ---------------------- | ----------------- | --------------------- |
    | text                                     | int classes            | of the same class | of different classes  |
    | text                                     | none, others           | none              | none                  |
    | (text, text)                             | none, vectors          | the rows          | other rows' positives |
    | (text, text)                             | 0/1 or grades          | the high rows     | the low rows *        |
    | (text, text)                             | other int classes      | none              | none                  |
    | (anchor, positive, negative_1, ..., n)   | none, any              | first two         | anchor and negatives  |

    A label is high from the middle of the scale up; the scale spans 0, 1 and all labels. Labels that are all 0 count as
    none, as InputExample leaves them so. Where no label is low (*), the positives of other rows are the negatives. A
    pair that is positive in one row is not negative in another.

    Args:
        columns: texts, or `{route: text}`, `n` per column.
        labels: `n` numbers or vectors.
        seed: decides which rows are taken if there are more than `MOST_TEXTS` texts.
        every: steps between measurements.
        on_collapse: "warn", "stop" or "ignore".

    >>> probe = Probe([["a", "b", "a"], ["c", "d", "e"]], labels=[1.0, 0.2, 0.8])
    >>> probe.texts
    ['a', 'c', 'b', 'd', 'e']
    >>> probe.positive.nonzero().tolist(), probe.negative.nonzero().tolist()  # a-c and a-e; b-d
    ([[0, 1], [0, 4]], [[2, 3]])
    """

    def __init__(
        self,
        columns: Sequence[Sequence[Text]],
        labels: Any = None,
        seed: int = 0,
        every: int = 1,
        on_collapse: str = "warn",
    ) -> None:
        if not columns or not columns[0]:
            raise ValueError("a probe needs at least one column of texts, and at least one row")
        n, numbers = len(columns[0]), None
        if labels is not None:
            given = labels if isinstance(labels, Tensor) else torch.as_tensor(np.asarray(labels))
            given = given.long() if given.dtype == torch.bool else given
            check_same_length(labels=given, texts=columns[0])
            numbers = given.detach().cpu().reshape(n, -1) if given.any() else None
        check_same_length(**{f"column {place}": column for place, column in enumerate(columns)})
        relations = _relations(len(columns), numbers, n)
        self.advice = _advice(len(columns), numbers, relations)
        columns = columns[:MOST_COLUMNS]
        count = min(n, MOST_TEXTS // len(columns))
        chosen = np.sort(np.random.default_rng(seed).choice(n, size=count, replace=False)).tolist()
        self.texts, index = distinct_texts([column[row] for row in chosen for column in columns], prompt="")
        rows = torch.tensor(index).reshape(len(chosen), len(columns))
        self.positive, self.negative = _pairs(rows, None if relations is None else relations[chosen])
        self.every, self.on_collapse = every, on_collapse
        self.first: dict[str, float] = {}
        self.collapsed = False

    def measure(self, embed: Callable[[list[Text]], Embeddings]) -> dict[str, float]:
        """Return the metrics of the texts, embedded in one call; dropout must be off."""
        with torch.no_grad():
            return space_metrics(embed(list(self.texts)), self.positive, self.negative)

    def on_begin(self, run: Run) -> None:
        """Measure the space before training, unless the resumed run did."""
        with evaluating(run.step.model):
            self.first = self.first or self.measure(run.step.model.embed)

    def on_step(self, run: Run) -> None:
        """Add the metrics to the history where they are due; warn of the first collapse."""
        if run.step.number % self.every:
            return
        with evaluating(run.step.model):
            metrics = self.measure(run.step.model.embed)
        run.step.rows[-1] |= metrics
        reason = None if self.on_collapse == "ignore" else collapse_reason(self.first, metrics, self)
        if reason is not None and not self.collapsed:
            self.collapsed = True
            warnings.warn(f"step {run.step.number}: {reason}", CollapseWarning, stacklevel=5)

    @property
    def stops(self) -> bool:
        """Whether the space collapsed and the run is to end there."""
        return self.collapsed and self.on_collapse == "stop"

    def state(self) -> dict[str, Any]:
        """Return what was measured first, and whether the space collapsed."""
        return {"first": self.first, "collapsed": self.collapsed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a state."""
        self.first, self.collapsed = dict(state.get("first", {})), state.get("collapsed", False)


def make_probe(objective: Objective, every: int | None, total: int, seed: int, on_collapse: str) -> Probe | None:
    """Return a probe of an objective's data; None for a stream, mixed rows, or a run shorter than `every`."""
    checked_number("probe_steps", every or 0, whole=True)
    check_choice("on_collapse", on_collapse, ("warn", "stop", "ignore"))
    every = min(100, max(25, total // 10)) if every is None else every
    rows = objective.sample(MOST_TEXTS) if 0 < every <= total else []
    try:
        return Probe(*collate(rows), seed=seed, every=every, on_collapse=on_collapse)
    except ValueError:
        return None


def _relations(columns: int, labels: Tensor | None, n: int) -> Tensor | None:
    """Return what is known of each row, `(n,)`: for one column its class; else 1 (high), -1 (low) or 0 (unknown).

    >>> _relations(2, torch.tensor([[0.0], [2.0], [5.0]]), 3).tolist()  # grades from 0 to 5
    [-1, -1, 1]
    >>> _relations(2, torch.tensor([[0], [2], [1]]), 3).tolist()  # classes of pairs, such as those of NLI
    [0, 0, 0]
    """
    numbers = labels[:, 0] if labels is not None and labels.shape[1] == 1 else None
    classes = numbers is not None and not numbers.is_floating_point()
    if columns == 1:
        return numbers if classes else None
    if columns > 2 or numbers is None:
        return torch.ones(n, dtype=torch.int64)
    if classes and not ((numbers == 0) | (numbers == 1)).all():
        return torch.zeros(n, dtype=torch.int64)
    middle = (min(0.0, numbers.min().item()) + max(1.0, numbers.max().item())) / 2
    return (numbers >= middle).long() * 2 - 1


def _pairs(rows: Tensor, relations: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the positive and negative `(texts, texts)` pairs of rows `(n, columns)` of text numbers (see `Probe`)."""
    texts = int(rows.max()) + 1
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
    positive.fill_diagonal_(False)  # a text that is its own positive, as in SimCSE, shows nothing of the space
    negative &= ~(positive | positive.T)
    return positive, negative.fill_diagonal_(False)


def _advice(columns: int, labels: Tensor | None, relations: Tensor | None) -> str:
    """Return the entry of `ADVICE` for such data."""
    if labels is None:
        return ADVICE["no labels"]
    low = 0.0 if relations is None else (relations < 0).double().mean().item()
    kind = "no labels" if relations is None else "labels"
    if (labels == labels[0]).all():
        kind = (
            "one vector" if labels.shape[1] > 1 else "one class" if columns == 1 and kind == "labels" else "one label"
        )
    elif columns == 2 and 0 < low < FEW_LOW:
        kind = "few low"
    return ADVICE[kind].format(n=len(labels), label=labels[0, 0].item(), low=low)


def collapse_reason(first: Mapping[str, float], newest: Mapping[str, float], probe: Probe | None = None) -> str | None:
    """Return why the space collapsed since `first`, with the advice of `probe`, or None if it did not.

    It did if the texts became one point (`LEAST_SPREAD`) or one line (`LEAST_RANK`), unless the margin shows that
    positives stand out more than before (`SOUND_MARGIN`). An untrained transformer has a mean cosine above 0.95 and
    trains well, so only the comparison counts.
    """
    margins = [metrics.get("margin", math.nan) for metrics in (first, newest)]
    if margins[1] > SOUND_MARGIN and not margins[1] <= margins[0]:
        return None
    spread = [1 - metrics["mean_cosine"] for metrics in (first, newest)]
    rank = [metrics["effective_rank"] for metrics in (first, newest)]
    if spread[0] > 1e-6 and spread[1] < LEAST_SPREAD * spread[0]:  # less than 1e-6 is a rounding error
        shape = "point"
    elif rank[1] < min(LEAST_RANK, LEAST_RANK_SHARE * rank[0]):
        shape = "line"
    else:
        return None
    return (
        f"the embeddings have become nearly one {shape}: mean cosine {1 - spread[1]:.3f} ({1 - spread[0]:.3f} before "
        f"training), effective rank {rank[1]:.1f} ({rank[0]:.1f} before). "
        f"Likely cause: {ADVICE['no labels'] if probe is None else probe.advice}"
    )
