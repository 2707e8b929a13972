"""What training does to the embedding space: five metrics on a fixed set of texts, and when they mean collapse."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sbertlab.checks import Embeddings, as_tensor, check_choice, checked_number
from sbertlab.data import collate
from sbertlab.data.texts import Text, distinct_texts
from sbertlab.encoder.sentence_transformer import SentenceTransformer, evaluating
from sbertlab.training.batches import Objective
from sbertlab.training.callbacks import Callback, Run

METRICS = ("alignment", "uniformity", "effective_rank", "mean_cosine", "margin")

MOST_TEXTS = 512
LEAST_SPREAD = 0.15
"""Share of 1 - mean_cosine before training below which the texts count as one point; ranking keeps at least 0.39."""
LEAST_RANK, LEAST_RANK_SHARE = 2.0, 0.25
"""Effective rank, and share of the one before training, below both of which the texts count as one line."""
SOUND_MARGIN = 0.1
"""A margin above this and above the one before training separates positives: two distant clusters are no collapse."""


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

    Positive pairs: texts of one class (one column of texts, integer labels), or the first two texts of a row, unless
    its label is in the lower half of the scale, which spans 0, 1 and all labels. Negative pairs: texts of different
    classes; the first and each of the third to last texts of a row; rows in the lower half; without these, positives of
    other rows. Labels that are all 0 count as missing; pairs with integer classes above 1 tell nothing.

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
        count = min(len(columns[0]), MOST_TEXTS // len(columns))
        chosen = np.sort(np.random.default_rng(seed).choice(len(columns[0]), size=count, replace=False)).tolist()
        self.texts, index = distinct_texts([column[row] for row in chosen for column in columns], prompt="")
        numbers = None if labels is None else torch.as_tensor(labels)[chosen].reshape(count, -1)
        self.positive, self.negative = _pairs(torch.tensor(index).reshape(count, len(columns)), numbers)
        self.every, self.on_collapse, self.collapsed = every, on_collapse, False
        self.first: dict[str, float] = {}

    def measure(self, model: SentenceTransformer) -> dict[str, float]:
        """Return the metrics of the texts under a model, without dropout."""
        with evaluating(model), torch.no_grad():
            return space_metrics(model.embed(self.texts), self.positive, self.negative)

    def on_begin(self, run: Run) -> None:
        self.first = self.first or self.measure(run.step.model)  # of the space before training

    def on_step(self, run: Run) -> None:
        """Add the metrics to the history where they are due; warn of the first collapse, or stop there."""
        if run.step.number % self.every:
            return
        metrics = self.measure(run.step.model)
        run.step.rows[-1] |= metrics
        reason = collapse_reason(self.first, metrics)
        if reason is not None and not self.collapsed and self.on_collapse != "ignore":
            self.collapsed, self.stops = True, self.on_collapse == "stop"
            warnings.warn(f"step {run.step.number}: {reason}", CollapseWarning, stacklevel=5)

    def state(self) -> dict[str, Any]:
        return {"first": self.first, "collapsed": self.collapsed}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.first, self.collapsed = dict(state.get("first", {})), state.get("collapsed", False)
        self.stops = self.collapsed and self.on_collapse == "stop"


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


def _pairs(rows: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the positive and negative `(texts, texts)` pairs of rows `(n, columns)` of text numbers (see `Probe`)."""
    texts, columns, anchors = int(rows.max()) + 1, rows.shape[1], rows[:, 0]
    positive, negative = torch.zeros(2, texts, texts, dtype=torch.bool)
    if labels is None or not labels.any() or labels.shape[1] > 1:
        labels = torch.ones(len(rows), 1)
    grades, classes = labels[:, 0].double(), not labels.is_floating_point()
    if columns == 1 and classes:
        same = grades[:, None] == grades
        for pairs, where in ((positive, same), (negative, ~same)):
            i, j = where.nonzero().T
            pairs[anchors[i], anchors[j]] = True
    elif columns > 2 or (columns == 2 and not (classes and grades.max() > 1)):
        middle = (grades.min().clamp(max=0) + grades.max().clamp(min=1)) / 2
        high = grades >= middle if columns == 2 else torch.ones_like(anchors, dtype=torch.bool)
        positive[anchors[high], rows[high, 1]] = True
        negative[anchors[~high], rows[~high, 1]] = True
        for column in rows.T[2:]:
            negative[anchors, column] = True
        if not negative.any():
            negative[anchors[high][:, None], rows[high, 1]] = True
    positive.fill_diagonal_(False)  # a text that is its own positive, as in SimCSE, shows nothing of the space
    negative &= ~(positive | positive.T)
    return positive, negative.fill_diagonal_(False)


def collapse_reason(first: Mapping[str, float], newest: Mapping[str, float]) -> str | None:
    """Return why the space counts as collapsed into a point or line since `first`; None if it did not collapse.

    Only the comparison counts: an untrained transformer has a mean cosine above 0.95 and trains well.
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
        f"training), effective rank {rank[1]:.1f} ({rank[0]:.1f} before). Likely causes: labels without contrast, a "
        "loss without negatives, or too high a learning rate"
    )
