"""Known positives against slow loops over rows and texts, in the mask and in every loss that takes it."""

from __future__ import annotations

import re
import time
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
from sbertlab.data import InputExample, collate, groups_of
from sbertlab.data.texts import normalised
from sbertlab.losses.known_positives import known_positives

BATCH, DIM = 8, 5
POOL = ["Straße am Fluß", "ﬁne weather", "Kelvin", "a cat", "A dog sits", "rain", "snow  and\tice", "the sea"]


def random_texts(columns: int, seed: int) -> list[list[str]]:
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
    """Texts and groups of a batch, and what is known of them, one question at a time."""

    columns: list[list[Any]]
    groups: list[Any] | None = None

    def plain(self, column: int, row: int) -> str:
        text = self.columns[min(column, len(self.columns) - 1)][row]
        text = next(iter(text.values())) if isinstance(text, dict) else text
        return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().lower()

    def related(self, i: int, j: int) -> bool:
        grouped = self.groups is not None and self.groups[i] is not None and self.groups[i] == self.groups[j]
        return grouped or any(self.plain(column, i) == self.plain(column, j) for column in (0, 1))

    def knows(self, i: int, column: int, j: int) -> bool:
        """Whether text j of a column is the anchor of row i or a positive of a row related to it."""
        text = self.plain(column, j)
        positives = [self.plain(1, k) for k in range(len(self.columns[0])) if self.related(i, k)]
        return text == self.plain(0, i) or text in positives

    def same_meaning(self, i: int, j: int) -> bool:
        return self.knows(i, 1, j) or self.knows(i, 0, j)

    def mask(self) -> list[list[bool]]:
        rows, candidates = range(len(self.columns[0])), range(1, max(2, len(self.columns)))
        return [[self.knows(i, c, j) and not (c == 1 and i == j) for c in candidates for j in rows] for i in rows]


def batches(columns: int) -> list[Batch]:
    texts = [random_texts(columns, seed) for seed in range(4)]
    groups = [7, None, "g", "g", None, 7, (1, 2), None]
    repeated_only_by_groups = [[f"{column} {row}" for row in range(BATCH)] for column in range(columns)]
    return [
        *map(Batch, texts),
        Batch(texts[0], groups),
        Batch(texts[3], groups),
        Batch(repeated_only_by_groups, groups),
    ]


# The mask


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_the_mask_equals_a_slow_loop_over_rows_and_texts(columns: int) -> None:
    masked = 0
    for batch in batches(columns):
        known = known_positives(batch.columns, batch.groups)
        assert known is not None
        assert known.dtype == torch.bool
        assert known.tolist() == batch.mask()
        masked += int(known.count_nonzero())
    assert masked > 30


@pytest.mark.parametrize("columns", [2, 3])
def test_anchors_as_candidates_stand_behind_the_others_and_never_meet_themselves(columns: int) -> None:
    masked = 0
    for batch in batches(columns):
        known = known_positives(batch.columns, batch.groups, anchors=True)
        wanted = [[batch.knows(i, 0, j) and i != j for j in range(BATCH)] for i in range(BATCH)]
        assert known is not None
        assert known[:, :-BATCH].tolist() == batch.mask()
        assert known[:, -BATCH:].tolist() == wanted
        masked += sum(map(sum, wanted))
    assert masked > 10
    assert known_positives([["a", "b"], ["x", "y"], ["n", "n"]], anchors=True) is None


def test_each_way_of_being_known_masks_its_pair_and_nothing_else() -> None:
    def pairs(*columns: list[str], groups: list[Any] | None = None) -> list[list[int]]:
        known = known_positives(columns, groups)
        return [] if known is None else known.nonzero().tolist()

    assert pairs(["a", "a"], ["x", "y"]) == [[0, 1], [1, 0]]  # one question with two answers
    assert pairs(["a", "b"], ["x", "x"]) == [[0, 1], [1, 0]]  # two questions with one answer
    assert pairs(["a", "b"], ["x", "a"]) == [[0, 1]]  # b's answer is the question a
    assert pairs(["a", "b"], ["x", "y"], groups=[3, 3]) == [[0, 1], [1, 0]]
    assert pairs(["a", "b"], ["x", "y"], ["n", "x"]) == [[0, 3]]  # the hard negative of b is the positive of a
    assert pairs(["a", "b"], ["x", "y"], ["x", "n"]) == [[0, 2]]  # the hard negative of a is its own positive
    assert pairs(["a", "b"], ["x", "y"], ["n", "a"]) == [[0, 3]]  # the hard negative of b is the question a
    assert pairs(["a", "b", "a"], ["x", "y", "z"], ["n", "z", "m"]) == [[0, 2], [0, 4], [2, 0], [2, 4]]
    assert pairs(["a", "b"], ["x", "y"], ["n", "n"]) == []  # a negative may be repeated
    assert pairs(["a", "b"], ["a", "b"]) == []  # a text may be its own positive
    assert pairs(["a", "b"]) == []
    assert pairs(["a", "b", "A "]) == [[0, 2], [2, 0]]


def test_a_row_without_a_group_is_in_no_group() -> None:
    texts = [["a", "b", "c", "d"], ["w", "x", "y", "z"]]
    for missing in (None, float("nan"), np.nan, pd.NA, pd.NaT):
        assert known_positives(texts, [missing] * 4) is None
    known = known_positives(texts, [None, 0, None, 0])
    assert known is not None
    assert known.nonzero().tolist() == [[1, 3], [3, 1]]
    assert known_positives(texts, pd.Series([1, 2, 3, 4])) is None
    assert known_positives(texts, list(range(4))) is None


def test_texts_on_different_routes_are_compared_as_texts() -> None:
    known = known_positives([[{"query": "A  cat"}, {"query": "b"}], [{"document": "x"}, {"document": "a cat"}]])
    assert known is not None
    assert known.nonzero().tolist() == [[0, 1]]


def test_normalised_texts_are_equal_whatever_their_case_spaces_and_unicode_form() -> None:
    assert normalised("\u2003Caf\u00e9 ﬁne\n") == normalised("cafe\u0301\u00a0 FINE") == "caf\u00e9 fine"
    assert normalised("\uff21\uff22\uff23") == "abc"
    assert normalised("a.") != normalised("a")


def test_a_large_batch_is_masked_in_little_time_and_a_distinct_one_in_less() -> None:
    size = 4096
    anchors, positives, negatives = ([f"{kind} {row}" for row in range(size)] for kind in "apn")
    start = time.process_time()
    assert known_positives([anchors, positives, negatives]) is None
    distinct = time.process_time()
    known = known_positives([[f"a {row // 2}" for row in range(size)], positives, positives[1:] + positives[:1]])
    masked = time.process_time()
    assert known is not None
    assert known.shape == (size, 2 * size)
    assert int(known.count_nonzero()) == size + 2 * size - 2 + 2  # the sibling's positive, and both where negatives
    assert distinct - start < 0.5
    assert masked - distinct < 2
    everything = known_positives([["a"] * size, ["b"] * size], groups=["g"] * size)
    assert everything is not None
    assert int(everything.count_nonzero()) == size * (size - 1)


@pytest.mark.parametrize(
    ("columns", "groups", "error", "message"),
    [
        ([], None, ValueError, r"of one positive length, got \[\]"),
        ([["a"], ["b", "c"]], None, ValueError, r"of one positive length, got \[1, 2\]"),
        ([["a", "b"]], [1], ValueError, "groups must hold one id per row, 2, got 1"),
        ([["a", "b"]], [1, [2]], ValueError, r"group must be hashable, .* got \[2\]"),
        ([["a", 3]], None, TypeError, "expected a text, .* got 3"),
    ],
)
def test_what_cannot_be_compared_is_refused(columns: Any, groups: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        known_positives(columns, groups)


# The losses: slow formulas that ask the batch about every pair


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def negative_log_softmax(own: Tensor, others: list[Tensor]) -> Tensor:
    return torch.stack([own, *others]).exp().sum().log() - own


def smoothed(own: Tensor, others: list[Tensor], smoothing: float) -> Tensor:
    everyone = [own, *others]
    spread = mean([negative_log_softmax(one, everyone[:k] + everyone[k + 1 :]) for k, one in enumerate(everyone)])
    return (1 - smoothing) * negative_log_softmax(own, others) + smoothing * spread


def slow_ranking(own: bool = False, symmetric: bool = False, smoothing: float = 0.0, scale: float = 20.0) -> Callable:
    def formula(embeddings: list[Tensor], batch: Batch) -> Tensor:
        rows, forward, backward = range(len(embeddings[0])), [], []
        for i in rows:
            target = scale * cos(embeddings[0][i], embeddings[1][i])
            others = [
                scale * cos(embeddings[0][i], embeddings[c][j])
                for c in range(1, len(embeddings))
                for j in rows
                if not (c == 1 and i == j) and not (c > 1 and own and i != j) and not batch.knows(i, c, j)
            ]
            forward.append(smoothed(target, others, smoothing))
            others = [
                scale * cos(embeddings[0][j], embeddings[1][i]) for j in rows if j != i and not batch.knows(j, 1, i)
            ]
            backward.append(smoothed(target, others, smoothing))
        return (mean(forward) + mean(backward)) / 2 if symmetric else mean(forward)

    return formula


def slow_mega(embeddings: list[Tensor], batch: Batch) -> Tensor:
    anchors, positives = embeddings
    rows = []
    for i in range(len(anchors)):
        others = [cos(anchors[i], p) for j, p in enumerate(positives) if j != i and not batch.knows(i, 1, j)]
        apart = [(max(others) - 0.3).clamp(min=0)] if others else []
        rows.append((0.8 - cos(anchors[i], positives[i])).clamp(min=0) + sum(apart))
    return mean(rows)


def slow_gist(own_kinds: bool = True) -> Callable:
    def formula(embeddings: list[Tensor], batch: Batch) -> Tensor:
        guide, rows = guide_of(len(embeddings)).double(), []
        for i in range(len(embeddings[0])):
            limit, others = cos(guide[0][i], guide[1][i]), []
            for first, second in [(0, 1), *[(0, 0), (1, 1)] * own_kinds, *((0, c) for c in range(2, len(embeddings)))]:
                for j in range(len(embeddings[0])):
                    same_kind = first == second
                    known = batch.same_meaning(i, j) if same_kind else batch.knows(i, second, j)
                    doubtful = cos(guide[first][i], guide[second][j]) > limit
                    if not known and not doubtful and not (j == i and second < 2):
                        others.append(cos(embeddings[first][i], embeddings[second][j]) / 0.1)
            rows.append(negative_log_softmax(cos(embeddings[0][i], embeddings[1][i]) / 0.1, others))
        return mean(rows)

    return formula


def random_embeddings(columns: int, seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    embeddings = [torch.randn(BATCH, DIM, generator=draw) for _ in range(columns)]
    return [embeddings[0], *(column + 0.7 * embeddings[0] for column in embeddings[1:])]


def guide_of(columns: int) -> Tensor:
    return torch.stack(random_embeddings(columns, seed=3))


def fake_guide() -> nn.Module:
    guide = nn.Identity()
    guide.encode = None  # type: ignore[assignment]
    return guide


def gist(**settings: Any) -> losses.GISTEmbedLoss:
    return losses.GISTEmbedLoss(None, fake_guide(), temperature=0.1, **settings)


@dataclass
class Case:
    name: str
    make: Callable[[], losses.Loss]
    slow: Callable[[list[Tensor], Batch], Tensor]
    columns: int
    embedded: int = 0

    def labels(self) -> Tensor | None:
        return guide_of(self.columns) if self.name.startswith("gist") else None

    def embeddings(self) -> list[Tensor]:
        return random_embeddings(self.embedded or self.columns)


Ranking, Symmetric = losses.MultipleNegativesRankingLoss, losses.MultipleNegativesSymmetricRankingLoss
CASES = [
    Case("ranking", Ranking, slow_ranking(), 2),
    Case("ranking with negatives", Ranking, slow_ranking(), 4),
    Case("own negatives", lambda: Ranking(hard_negatives="own"), slow_ranking(own=True), 4),
    Case("smoothed", lambda: Ranking(label_smoothing=0.1), slow_ranking(smoothing=0.1), 3),
    Case("symmetric", Symmetric, slow_ranking(symmetric=True), 2),
    Case("symmetric with negatives", Symmetric, slow_ranking(symmetric=True), 3),
    Case(
        "symmetric, own negatives, smoothed",
        lambda: Symmetric(hard_negatives="own", label_smoothing=0.2),
        slow_ranking(own=True, symmetric=True, smoothing=0.2),
        3,
    ),
    Case("mega batch", losses.MegaBatchMarginLoss, slow_mega, 2),
    Case("contrastive tension", losses.ContrastiveTensionLossInBatchNegatives, slow_ranking(symmetric=True), 1, 2),
    Case("gist", gist, slow_gist(), 2),
    Case("gist with negatives", gist, slow_gist(), 4),
    Case("gist, plain", lambda: gist(contrast_anchors=False, contrast_positives=False), slow_gist(own_kinds=False), 3),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def value_and_gradients(run: Callable[[list[Tensor]], Tensor], embeddings: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    leaves = [column.clone().requires_grad_() for column in embeddings]
    value = run(leaves)
    value.backward()
    return value.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


@every_case
def test_a_loss_and_its_gradients_equal_the_slow_formula_without_known_positives(case: Case) -> None:
    loss, changed = case.make(), 0
    for batch in batches(case.columns):
        loss.check_batch(batch.columns, None)
        known = loss.known_positives(batch.columns, batch.groups)
        value, gradients = value_and_gradients(
            lambda leaves, known=known: loss.compute(leaves, case.labels(), known), case.embeddings()
        )
        exact = [column.double() for column in case.embeddings()]
        wanted, expected = value_and_gradients(lambda leaves, batch=batch: case.slow(leaves, batch), exact)
        torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-5)
        for mine, slow in zip(gradients, expected, strict=True):
            torch.testing.assert_close(mine.double(), slow, rtol=1e-4, atol=1e-5)
        assert max(gradient.abs().max() for gradient in gradients) > 1e-4
        changed += bool((value - loss.compute(case.embeddings(), case.labels())).abs() > 1e-3)
    assert changed > 3, "most of these batches have something to mask"


@every_case
def test_with_nothing_to_mask_the_value_is_the_plain_loss_bit_for_bit(case: Case) -> None:
    texts, loss = [[f"{column} {row}" for row in range(BATCH)] for column in range(case.columns)], case.make()
    known = loss.known_positives(texts)
    assert known is None
    assert loss.known_positives(texts, groups=list(range(BATCH))) is None
    assert loss.known_positives([["same"] * BATCH] * case.columns) is not None
    plain = value_and_gradients(lambda leaves: loss.compute(leaves, case.labels()), case.embeddings())
    masked = value_and_gradients(lambda leaves: loss.compute(leaves, case.labels(), known), case.embeddings())
    assert torch.equal(plain[0], masked[0])
    assert all(torch.equal(mine, other) for mine, other in zip(plain[1], masked[1], strict=True))


@every_case
def test_where_all_but_the_target_is_masked_loss_and_gradients_are_finite(case: Case) -> None:
    loss = case.make()
    known = loss.known_positives([["same"] * BATCH] * case.columns)
    assert known is not None
    value, gradients = value_and_gradients(lambda leaves: loss.compute(leaves, case.labels(), known), case.embeddings())
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    if case.name != "mega batch":  # which still pulls at the pairs
        assert value.abs() < 1e-6
    collapsed = [torch.zeros_like(column) for column in case.embeddings()]
    value, gradients = value_and_gradients(lambda leaves: loss.compute(leaves, case.labels(), known), collapsed)
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_case
def test_a_mask_that_does_not_fit_the_scores_is_refused(case: Case) -> None:
    loss = case.make()
    known = loss.known_positives([["same"] * BATCH] * case.columns)
    assert known is not None
    for wrong in (known[:, :-1], known[:-1], known[0], known.float(), known.tolist()):
        with pytest.raises(ValueError, match=r"known must be a boolean mask \(batch, candidates\) = \(8, \d+\), got"):
            loss.compute(case.embeddings(), case.labels(), wrong)


@every_case
def test_matryoshka_hands_the_mask_to_the_loss_inside(case: Case) -> None:
    batch, inner = batches(case.columns)[4], case.make()
    loss = losses.MatryoshkaLoss(None, inner, [DIM, 2], [1.0, 0.5])
    known = loss.known_positives(batch.columns, batch.groups)
    assert loss.in_batch
    assert torch.equal(known, inner.known_positives(batch.columns, batch.groups))
    short = [nn.functional.normalize(column[:, :2], dim=-1) for column in case.embeddings()]
    whole = [nn.functional.normalize(column, dim=-1) for column in case.embeddings()]
    wanted = inner.compute(whole, case.labels(), known) + 0.5 * inner.compute(short, case.labels(), known)
    torch.testing.assert_close(loss.compute(case.embeddings(), case.labels(), known), wanted)
    assert (wanted - loss.compute(case.embeddings(), case.labels())).abs() > 1e-4


def test_own_hard_negatives_count_only_those_of_their_row() -> None:
    columns = [["a", "b", "c"], ["x", "y", "z"], ["y", "n", "z"]]  # the negative of a is b's positive, that of c is c's
    shared = Ranking().known_positives(columns)
    own = Ranking(hard_negatives="own").known_positives(columns)
    assert shared.nonzero().tolist() == [[1, 3], [2, 5]]
    assert own.shape == (3, 4)
    assert own.nonzero().tolist() == [[2, 3]]
    assert Ranking(hard_negatives="own").known_positives([column[:2] for column in columns]) is None


def test_losses_that_take_no_negatives_from_other_rows_mask_nothing() -> None:
    in_batch = {name for name in losses.__all__ if getattr(getattr(losses, name), "in_batch", False)}
    assert in_batch == {
        "MultipleNegativesRankingLoss",
        "MultipleNegativesSymmetricRankingLoss",
        "MegaBatchMarginLoss",
        "ContrastiveTensionLossInBatchNegatives",
        "GISTEmbedLoss",
    }
    triplet, same = losses.TripletLoss(), [["same"] * BATCH] * 3
    assert triplet.known_positives(same, groups=["g"] * BATCH) is None
    embeddings = random_embeddings(3)
    mask = torch.ones(BATCH, BATCH, dtype=torch.bool)
    assert torch.equal(triplet.compute(embeddings, None, mask), triplet.compute(embeddings))
    around = losses.MatryoshkaLoss(None, triplet, [DIM])
    assert not around.in_batch
    assert around.known_positives(same) is None
    assert torch.equal(around.compute(embeddings, None, mask), around.compute(embeddings))


def test_repeated_answers_no_longer_push_a_trained_model_away_from_them() -> None:
    columns = [["q1", "q2", "q3"], ["same", "Same", "other"]]
    embeddings = [torch.eye(3)[[0, 0, 2]]] * 2  # both questions lie where their answer is: nothing is left to learn
    loss = Ranking()
    plain = loss.compute(embeddings)
    masked = loss.compute(embeddings, None, loss.known_positives(columns))
    assert plain > 0.4
    assert masked < 1e-6


# Group ids of examples


def test_examples_carry_a_group_and_are_otherwise_as_before() -> None:
    example = InputExample("guid", ["a", "b"], 0.5)
    assert (example.guid, example.texts, example.label, example.group) == ("guid", ["a", "b"], 0.5, None)
    assert InputExample("guid", ["a"], 1, "g").group == "g"
    assert example != InputExample("guid", ["a", "b"], 0.5)
    assert repr(example) == "InputExample(guid='guid', texts=['a', 'b'], label=0.5)"
    with pytest.raises(ValueError, match=r"group must be hashable, such as a number or a text, got \['g'\]"):
        InputExample(texts=["a"], group=["g"])


def test_groups_of_a_batch_stand_beside_its_columns() -> None:
    rows = [InputExample(texts=[f"a {row}", f"b {row}"], group=group) for row, group in enumerate([1, None, 1])]
    columns, labels = collate(rows)
    assert groups_of(rows) == [1, None, 1]
    assert groups_of(rows[1:2]) is None
    known = Ranking().known_positives(columns, groups_of(rows))
    assert known.nonzero().tolist() == [[0, 2], [2, 0]]
    assert labels.tolist() == [0, 0, 0]
