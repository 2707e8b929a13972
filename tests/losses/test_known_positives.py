"""Known positives against slow loops over rows and texts, in the mask and in every loss that takes it."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from sbertlab import losses
from sbertlab.losses.known_positives import known_positives
from tests.losses import formulas as slow
from tests.losses.formulas import assert_finite, value_and_gradients

BATCH, DIM = 8, 5
POOL = ["Straße am Fluß", "ﬁne weather", "Kelvin", "a cat", "A dog sits", "rain", "snow  and\tice", "the sea"]


def random_texts(columns, seed):
    """Columns of texts from a small pool, written in different ways."""
    draw = np.random.default_rng(seed)
    ways = [str.upper, str.lower, lambda text: f"  {text}\n", lambda text: text.replace(" ", " \u2003 "), str]
    pool = POOL + [f"text {number}" for number in range(8)]
    return [
        [ways[draw.integers(4 if text.isascii() else 1, 5)](text) for text in draw.choice(pool, BATCH)]
        for _ in range(columns)
    ]


@dataclass
class Batch:
    """Texts and groups of a batch, and what is known about them, one question at a time."""

    columns: list[list[str]]
    groups: list[Any] | None = None

    def plain(self, column, row):
        text = self.columns[min(column, len(self.columns) - 1)][row]
        return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().lower()

    def related(self, i, j):
        grouped = self.groups is not None and self.groups[i] is not None and self.groups[i] == self.groups[j]
        return grouped or any(self.plain(column, i) == self.plain(column, j) for column in (0, 1))

    def knows(self, i, column, j):
        """Whether text j of a column is the anchor of row i or a positive of a row related to it."""
        text = self.plain(column, j)
        positives = [self.plain(1, k) for k in range(len(self.columns[0])) if self.related(i, k)]
        return text == self.plain(0, i) or text in positives

    def mask(self):
        rows, candidates = range(len(self.columns[0])), range(1, max(2, len(self.columns)))
        return [[self.knows(i, c, j) and not (c == 1 and i == j) for c in candidates for j in rows] for i in rows]


def distinct(columns):
    return [[f"{column} {row}" for row in range(BATCH)] for column in range(columns)]


def batches(columns):
    texts = [random_texts(columns, seed) for seed in range(4)]
    groups = [7, None, "g", "g", None, 7, (1, 2), None]
    return [*map(Batch, texts), *(Batch(columns, groups) for columns in (texts[0], texts[3], distinct(columns)))]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_the_mask_equals_a_slow_loop_over_rows_and_texts(columns):
    masked = 0
    for batch in batches(columns):
        known = known_positives(batch.columns, batch.groups)
        assert known.dtype == torch.bool
        assert known.tolist() == batch.mask()
        masked += int(known.count_nonzero())
        if columns > 1:
            known = known_positives(batch.columns, batch.groups, anchors=True)
            assert known[:, :-BATCH].tolist() == batch.mask()
            wanted = [[batch.knows(i, 0, j) and i != j for j in range(BATCH)] for i in range(BATCH)]
            assert known[:, -BATCH:].tolist() == wanted
    assert masked > 30


@pytest.mark.parametrize(
    ("columns", "masked"),
    [
        ([["a", "a"], ["x", "y"]], [[0, 1], [1, 0]]),  # one question with two answers
        ([["a", "b"], ["x", "x"]], [[0, 1], [1, 0]]),  # two questions with one answer
        ([["a", "b"], ["x", "a"]], [[0, 1]]),  # b's answer is the question a
        ([["a", "b"], ["x", "y"], ["n", "x"]], [[0, 3]]),  # the hard negative of b is the positive of a
        ([["a", "b"], ["x", "y"], ["x", "n"]], [[0, 2]]),  # the hard negative of a is its own positive
        ([["a", "b"], ["x", "y"], ["n", "n"]], []),  # a negative may be repeated
        ([["a", "b"], ["a", "b"]], []),  # a text may be its own positive
        ([["a", "b", "A "]], [[0, 2], [2, 0]]),
        ([[{"query": "A  cat"}, {"query": "b"}], [{"document": "x"}, {"document": "a cat"}]], [[0, 1]]),
    ],
)
def test_each_way_of_being_known_masks_its_pair_and_nothing_else(columns, masked):
    known = known_positives(columns)
    assert ([] if known is None else known.nonzero().tolist()) == masked


def test_a_row_without_a_group_is_in_no_group():
    texts = [["a", "b", "c", "d"], ["w", "x", "y", "z"]]
    for missing in (None, float("nan"), np.nan, pd.NA, pd.NaT):
        assert known_positives(texts, [missing] * 4) is None
    assert known_positives(texts, [None, 0, None, 0]).nonzero().tolist() == [[1, 3], [3, 1]]
    assert known_positives(texts, pd.Series([1, 2, 3, 4])) is None


def random_embeddings(columns, seed=0):
    draw = torch.Generator().manual_seed(seed)
    embeddings = [torch.randn(BATCH, DIM, generator=draw) for _ in range(columns)]
    return [embeddings[0], *(column + 0.7 * embeddings[0] for column in embeddings[1:])]


def gist(**settings):
    return losses.GISTEmbedLoss(None, nn.Identity(), temperature=0.1, **settings)


@dataclass
class Case:
    name: str
    make: Callable[[], losses.Loss]
    slow: Callable[..., Tensor]
    columns: int
    embedded: int = 0

    def labels(self):
        return torch.stack(random_embeddings(self.columns, seed=3)) if self.name.startswith("gist") else None

    def embeddings(self):
        return random_embeddings(self.embedded or self.columns)

    def run(self, known, embeddings=None):
        columns = embeddings or self.embeddings()
        return value_and_gradients(lambda leaves: self.make().compute(leaves, self.labels(), known), columns)


Ranking, Symmetric = losses.MultipleNegativesRankingLoss, losses.MultipleNegativesSymmetricRankingLoss
TENSION, PLAIN = losses.ContrastiveTensionLossInBatchNegatives, {"contrast_anchors": False, "contrast_positives": False}
OWN_SYMMETRIC = slow.ranking(own=True, symmetric=True)
CASES = [
    Case("ranking", Ranking, slow.ranking(), 2),
    Case("ranking with negatives", Ranking, slow.ranking(), 4),
    Case("own negatives", lambda: Ranking(hard_negatives="own"), slow.ranking(own=True), 4),
    Case("symmetric", Symmetric, slow.ranking(symmetric=True), 2),
    Case("symmetric, own", lambda: Symmetric(hard_negatives="own"), OWN_SYMMETRIC, 3),
    Case("mega batch", losses.MegaBatchMarginLoss, slow.mega, 2),
    Case("contrastive tension", TENSION, slow.ranking(symmetric=True), 1, 2),
    Case("gist", gist, slow.gist(temperature=0.1), 2),
    Case("gist with negatives", gist, slow.gist(temperature=0.1), 4),
    Case("gist, plain", lambda: gist(**PLAIN), slow.gist(own_kinds=False, temperature=0.1), 3),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
def test_a_loss_and_its_gradients_equal_the_slow_formula_without_known_positives(case):
    changed, exact = 0, [column.double() for column in case.embeddings()]
    guide = None if case.labels() is None else case.labels().double()
    for batch in [*batches(case.columns), Batch(distinct(case.columns))]:
        known = case.make().known_positives(batch.columns, batch.groups)
        value, gradients = case.run(known)
        wanted, expected = value_and_gradients(lambda leaves, b=batch: case.slow(leaves, guide, b.knows), exact)
        torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-5)
        for mine, theirs in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-5)
        assert max(gradient.abs().max() for gradient in gradients) > 1e-4
        changed += bool((value - case.run(None)[0]).abs() > 1e-3)
    assert changed > 3, "most of these batches have something to mask"


@every_case
def test_with_everything_masked_or_a_collapsed_model_losses_and_gradients_are_finite(case):
    assert case.make().known_positives(distinct(case.columns)) is None
    known = case.make().known_positives([["same"] * BATCH] * case.columns)
    result = case.run(known)
    assert_finite(result)
    if case.name != "mega batch":  # which still pulls the pairs together
        assert result[0].abs() < 1e-6
    assert_finite(case.run(known, [torch.zeros_like(column) for column in case.embeddings()]))


@every_case
def test_matryoshka_hands_the_mask_to_the_inner_loss(case):
    batch, inner = batches(case.columns)[4], case.make()
    loss = losses.MatryoshkaLoss(None, inner, [DIM, 2], [1.0, 0.5])
    known = loss.known_positives(batch.columns, batch.groups)
    assert torch.equal(known, inner.known_positives(batch.columns, batch.groups))
    short, whole = ([nn.functional.normalize(c[:, :dim], dim=-1) for c in case.embeddings()] for dim in (2, DIM))
    wanted = inner.compute(whole, case.labels(), known) + 0.5 * inner.compute(short, case.labels(), known)
    torch.testing.assert_close(loss.compute(case.embeddings(), case.labels(), known), wanted)


def test_own_hard_negatives_count_only_those_of_their_row():
    columns = [["a", "b", "c"], ["x", "y", "z"], ["y", "n", "z"]]  # the negative of a is b's positive, that of c is c's
    assert Ranking().known_positives(columns).nonzero().tolist() == [[1, 3], [2, 5]]
    own = Ranking(hard_negatives="own")
    assert own.known_positives(columns).nonzero().tolist() == [[2, 3]]
    assert own.known_positives([column[:2] for column in columns]) is None


def test_losses_without_in_batch_negatives_mask_nothing():
    in_batch = {name for name in losses.__all__ if getattr(getattr(losses, name), "in_batch", False)}
    assert in_batch == {
        "MultipleNegativesRankingLoss",
        "MultipleNegativesSymmetricRankingLoss",
        "MegaBatchMarginLoss",
        "ContrastiveTensionLossInBatchNegatives",
        "GISTEmbedLoss",
    }
    for loss in (losses.TripletLoss(), losses.MatryoshkaLoss(None, losses.TripletLoss(), [DIM])):
        assert loss.known_positives([["same"] * BATCH] * 3, groups=["g"] * BATCH) is None
