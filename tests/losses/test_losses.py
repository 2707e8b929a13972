"""Losses against slow formulas written as loops, against sentence-transformers, and against bad input."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer as PeerTransformer
from sentence_transformers.sentence_transformer import losses as peer
from sentence_transformers.sentence_transformer import modules as peer_modules
from torch import Tensor, nn
from transformers import BertTokenizerFast

from sbertlab import losses
from sbertlab.losses import BatchHardTripletLossDistanceFunction as BatchDistance
from sbertlab.losses import SiameseDistanceMetric, TripletDistanceMetric
from sbertlab.util import dot_score, pairwise_cos_sim

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
BATCH, DIM = 9, 6
Columns = list[Tensor]


class Leaves(nn.Module):
    """A model for the peer's losses, whose forward pass hands out given tensors."""

    device, max_seq_length = torch.device("cpu"), 8

    def __init__(self, key: str = "leaf") -> None:
        super().__init__()
        self.key = key
        self.tokenizer = BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4})

    def __getitem__(self, index: int) -> nn.Module:
        return self

    def get_embedding_dimension(self) -> int:
        return DIM

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features[self.key]}


# Slow formulas: one row, pair or triplet at a time


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    total = (a - b).square().sum()
    return total.sqrt() if total > 0 else total  # so that the gradient at 0 is 0


def manhattan(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    return 1 - cos(a, b)


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum() if values else torch.tensor(0.0)


def hinge(value: Tensor) -> Tensor:
    return value if value > 0 else value * 0


def negative_log_softmax(scores: list[Tensor], target: int) -> Tensor:
    return torch.stack(scores).exp().sum().log() - scores[target]


def slow_cosine(columns: Columns, labels: Tensor) -> Tensor:
    return mean([(cos(a, b) - y) ** 2 for a, b, y in zip(*columns, labels, strict=True)])


def slow_cosent(similarity: Callable, scale: float) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        scores = [similarity(a, b) for a, b in zip(*columns, strict=True)]
        terms = [
            (scale * (scores[i] - scores[j])).exp()
            for i in range(len(labels))
            for j in range(len(labels))
            if labels[i] < labels[j]
        ]
        return (1 + total(terms)).log()

    return formula


def angle(a: Tensor, b: Tensor) -> Tensor:
    half = len(a) // 2
    z = (torch.complex(a[:half], a[half:]) * torch.complex(b[:half], b[half:]).conj()).sum()
    return ((z.real + z.imag) / (a.norm() * b.norm())).abs()


def slow_contrastive(distance: Callable, margin: float) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        rows = []
        for a, b, y in zip(*columns, labels, strict=True):
            d = distance(a, b)
            rows.append(0.5 * d**2 if y == 1 else 0.5 * hinge(margin - d) ** 2)
        return mean(rows)

    return formula


def slow_online(columns: Columns, labels: Tensor) -> Tensor:
    distances = [cosine_distance(a, b) for a, b in zip(*columns, strict=True)]
    together = [d for d, y in zip(distances, labels, strict=True) if y == 1]
    apart = [d for d, y in zip(distances, labels, strict=True) if y == 0]
    near = min(apart) if apart else mean(together)
    far = max(together) if together else mean(apart)
    return total([d**2 for d in together if d > near]) + total([hinge(0.5 - d) ** 2 for d in apart if d < far])


def slow_triplet(distance: Callable, margin: float) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        return mean([hinge(distance(a, p) - distance(a, n) + margin) for a, p, n in zip(*columns, strict=True)])

    return formula


def slow_ranking(
    scale: float = 20.0, own: bool = False, smoothing: float = 0.0, symmetric: bool = False, similarity: Callable = cos
) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        anchors, positives, *negatives = columns
        forward, backward = [], []
        for i, anchor in enumerate(anchors):
            candidates = list(positives)
            for column in negatives:
                candidates += [column[i]] if own else list(column)
            scores = [scale * similarity(anchor, candidate) for candidate in candidates]
            hit = negative_log_softmax(scores, i)
            spread = mean([negative_log_softmax(scores, j) for j in range(len(scores))])
            forward.append((1 - smoothing) * hit + smoothing * spread)
            backward.append(negative_log_softmax([scale * similarity(a, positives[i]) for a in anchors], i))
        return (mean(forward) + mean(backward)) / 2 if symmetric else mean(forward)

    return formula


def slow_mega(columns: Columns, labels: Tensor) -> Tensor:
    rows = []
    for i, (a, p) in enumerate(zip(*columns, strict=True)):
        others = [cos(a, q) for j, q in enumerate(columns[1]) if j != i]
        rows.append(hinge(0.8 - cos(a, p)) + hinge(max(others) - 0.3))
    return mean(rows)


def slow_mse(columns: Columns, labels: Tensor) -> Tensor:
    rows = []
    for index, column in enumerate(columns):
        for i, student in enumerate(column):
            teacher = labels[i] if labels.ndim == 2 else labels[i][index]
            rows += [(student[k] - teacher[k]) ** 2 for k in range(DIM)]
    return mean(rows)


def slow_margin_mse(columns: Columns, labels: Tensor) -> Tensor:
    query, positive, *negatives = columns
    rows = []
    for i in range(len(query)):
        for k, negative in enumerate(negatives):
            margin = query[i] @ positive[i] - query[i] @ negative[i]
            if labels.ndim == 1:
                wanted = labels[i]
            elif labels.shape[1] == len(negatives):
                wanted = labels[i][k]
            else:
                wanted = labels[i][0] - labels[i][k + 1]
            rows.append((margin - wanted) ** 2)
    return mean(rows)


def slow_distill(student: float, teacher: float) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        query, *candidates = columns
        rows = []
        for i in range(len(query)):
            scores = [query[i] @ column[i] / student for column in candidates]
            wanted = (labels[i] / teacher).exp() / (labels[i] / teacher).exp().sum()
            rows.append(total([w * (w.log() + negative_log_softmax(scores, k)) for k, w in enumerate(wanted)]))
        return student**2 * mean(rows)

    return formula


def slow_batch(kind: str, distance: Callable = euclidean, margin: float = 5.0) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        texts, n = columns[0], len(labels)
        d = [[distance(texts[i], texts[j]) for j in range(n)] for i in range(n)]
        others = [[j for j in range(n) if labels[j] != labels[i]] for i in range(n)]
        mates = [[j for j in range(n) if labels[j] == labels[i] and j != i] for i in range(n)]
        if not any(mates) or not any(others):
            return texts.sum() * 0
        rows = []
        for a in range(n):
            if kind in ("hard", "soft"):
                excess = max([d[a][p] for p in mates[a]] or [d[a][a] * 0]) - min(d[a][o] for o in others[a])
                rows.append(hinge(excess + margin) if kind == "hard" else (1 + excess.exp()).log())
            for p in mates[a]:
                if kind == "all":
                    rows += [d[a][p] - d[a][o] + margin for o in others[a] if d[a][p] - d[a][o] + margin > 0]
                if kind == "semi":
                    farther = [d[a][o] for o in others[a] if d[a][o] > d[a][p]]
                    negative = min(farther) if farther else max(d[a][o] for o in others[a])
                    rows.append(hinge(d[a][p] - negative + margin))
        return mean(rows) if rows else texts.sum() * 0

    return formula


def slow_gist(
    margin: float = 0.0, relative: bool = False, own_kinds: bool = True, temperature: float = 0.01
) -> Callable:
    def formula(columns: Columns, guide: Tensor) -> Tensor:
        rows = []
        for i in range(len(columns[0])):
            sure = cos(guide[0][i], guide[1][i])
            limit = sure - (margin * sure.abs() if relative else margin)
            scores = [cos(columns[0][i], columns[1][i]) / temperature]
            kinds = [(0, 1), *([(0, 0), (1, 1)] if own_kinds else []), *((0, k) for k in range(2, len(columns)))]
            for first, second in kinds:
                for j in range(len(columns[0])):
                    own = j == i and second < 2
                    if not own and cos(guide[first][i], guide[second][j]) <= limit:
                        scores.append(cos(columns[first][i], columns[second][j]) / temperature)
            rows.append(negative_log_softmax(scores, 0))
        return mean(rows)

    return formula


# Cases


@dataclass
class Case:
    """A loss by its name here and in sentence-transformers, its settings, its slow formula, and rows it takes."""

    loss: str
    slow: Callable[[Columns, Any], Tensor]
    columns: int
    labels: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)
    only_here: dict[str, Any] = field(default_factory=dict)
    only_there: dict[str, Any] = field(default_factory=dict)

    def ours(self) -> losses.Loss:
        return getattr(losses, self.loss)(**named(losses, self.settings), **self.only_here)

    def theirs(self, model: nn.Module) -> nn.Module:
        return getattr(peer, self.loss)(model, **named(peer, self.settings), **self.only_there)

    def __str__(self) -> str:
        settings = {key: getattr(value, "__name__", value) for key, value in (self.settings or self.only_here).items()}
        return f"{self.loss}-{self.columns}-{self.labels}-{settings or 'default'}"


def named(module: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose values such as "Metric.COSINE" are looked up in a module."""
    look = lambda value: attrgetter(value)(module) if isinstance(value, str) else value  # noqa: E731
    return {key: look(value) for key, value in settings.items()}


BATCH_COSINE = "BatchHardTripletLossDistanceFunction.cosine_distance"
CASES = [
    Case("CosineSimilarityLoss", slow_cosine, 2, "float"),
    Case("CoSENTLoss", slow_cosent(cos, 20.0), 2, "float"),
    Case("CoSENTLoss", slow_cosent(cos, 3.0), 2, "binary", {"scale": 3.0}),
    Case("AnglELoss", slow_cosent(angle, 20.0), 2, "float"),
    Case("ContrastiveLoss", slow_contrastive(cosine_distance, 0.5), 2, "binary"),
    *(
        Case("ContrastiveLoss", slow_contrastive(distance, 6.0), 2, "binary", {"distance_metric": name, "margin": 6.0})
        for name, distance in [
            ("SiameseDistanceMetric.EUCLIDEAN", euclidean),
            ("SiameseDistanceMetric.MANHATTAN", manhattan),
        ]
    ),
    Case("OnlineContrastiveLoss", slow_online, 2, "binary"),
    Case("TripletLoss", slow_triplet(euclidean, 5.0), 3),
    *(
        Case("TripletLoss", slow_triplet(distance, 0.3), 3, "none", {"distance_metric": name, "triplet_margin": 0.3})
        for name, distance in [
            ("TripletDistanceMetric.COSINE", cosine_distance),
            ("TripletDistanceMetric.MANHATTAN", manhattan),
        ]
    ),
    Case("MultipleNegativesRankingLoss", slow_ranking(), 2),
    Case("MultipleNegativesRankingLoss", slow_ranking(), 4),
    Case(
        "MultipleNegativesRankingLoss",
        slow_ranking(0.5, similarity=torch.dot),
        3,
        "none",
        {"scale": 0.5, "similarity_fct": dot_score},
    ),
    Case("MultipleNegativesRankingLoss", slow_ranking(own=True), 4, only_here={"hard_negatives": "own"}),
    Case("MultipleNegativesRankingLoss", slow_ranking(smoothing=0.1), 3, only_here={"label_smoothing": 0.1}),
    Case("MultipleNegativesSymmetricRankingLoss", slow_ranking(symmetric=True), 2),
    Case("MultipleNegativesSymmetricRankingLoss", slow_ranking(symmetric=True), 4),
    Case("MegaBatchMarginLoss", slow_mega, 2, only_there={"use_mini_batched_version": False}),
    Case("MSELoss", slow_mse, 1, "vector"),
    Case("MSELoss", slow_mse, 3, "vector"),
    Case("MSELoss", slow_mse, 2, "vectors"),
    Case("MarginMSELoss", slow_margin_mse, 3, "float"),
    Case("MarginMSELoss", slow_margin_mse, 5, "3 scores"),
    Case("MarginMSELoss", slow_margin_mse, 5, "4 scores"),
    Case("DistillKLDivLoss", slow_distill(1.0, 1.0), 4, "3 scores"),
    Case(
        "DistillKLDivLoss",
        slow_distill(2.0, 0.5),
        3,
        "2 scores",
        {"student_temperature": 2.0, "teacher_temperature": 0.5},
    ),
    Case("BatchHardTripletLoss", slow_batch("hard"), 1, "int"),
    Case(
        "BatchHardTripletLoss",
        slow_batch("hard", cosine_distance, 0.2),
        1,
        "int",
        {"distance_metric": BATCH_COSINE, "margin": 0.2},
    ),
    Case("BatchHardSoftMarginTripletLoss", slow_batch("soft"), 1, "int"),
    Case("BatchSemiHardTripletLoss", slow_batch("semi"), 1, "int"),
    Case("BatchAllTripletLoss", slow_batch("all"), 1, "int"),
    Case("BatchAllTripletLoss", slow_batch("all", margin=0.1), 1, "int", {"margin": 0.1}),
]
PEERED = [case for case in CASES if not case.only_here]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def make_labels(kind: str, columns: int, generator: torch.Generator) -> Tensor | None:
    if kind == "none":
        return None
    if kind == "float":
        return torch.rand(BATCH, generator=generator)
    if kind == "binary":
        return torch.tensor([1, 0, 1, 0, 0, 1, 1, 0, 1])
    if kind == "int":
        return torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 7])  # class 7 has one text only
    shape = {"vector": (BATCH, DIM), "vectors": (BATCH, columns, DIM)}.get(kind) or (BATCH, int(kind[0]))
    return torch.randn(shape, generator=generator)


def random_batch(columns: int, labels: str, seed: int = 0) -> tuple[Columns, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randn(BATCH, DIM, generator=generator) for _ in range(columns)]
    for column in texts[1:]:  # related to the first column, so that similarities differ widely
        column.add_(texts[0], alpha=0.7)
    return texts, make_labels(labels, columns, generator)


def duplicate_batch(columns: int, labels: str) -> tuple[Columns, Tensor | None]:
    texts, values = random_batch(columns, labels)
    for column in texts:
        column[3], column[5] = column[0], column[4]  # equal rows: of one class and of two
    if columns > 1:
        texts[1][2] = texts[0][2]  # equal columns
    return texts, values


def value_and_gradients(run: Callable[[Columns], Tensor], columns: Columns) -> tuple[Tensor, Columns]:
    leaves = [column.clone().requires_grad_() for column in columns]
    loss = run(leaves)
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves]


def assert_same(ours: tuple[Tensor, Columns], other: tuple[Tensor, Columns]) -> None:
    for gradient in other[1]:
        assert gradient.abs().max() > 1e-4, "a comparison of zero gradients shows nothing"
    torch.testing.assert_close(ours[0].double(), other[0].double(), rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(ours[1], other[1], strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-5, atol=1e-5)


def run_peer(loss: nn.Module, labels: Tensor | None) -> Callable[[Columns], Tensor]:
    return lambda leaves: loss([{"leaf": leaf} for leaf in leaves], labels)


def double(columns: Columns) -> Columns:
    return [column.double() for column in columns]


@every_case
def test_a_loss_and_its_gradients_equal_the_slow_formula(case: Case) -> None:
    for seed in range(2):
        columns, labels = random_batch(case.columns, case.labels, seed)
        ours = value_and_gradients(lambda leaves, y=labels: case.ours().compute(leaves, y), columns)
        assert_same(ours, value_and_gradients(lambda leaves, y=labels: case.slow(leaves, y), double(columns)))


@pytest.mark.parametrize("case", PEERED, ids=str)
def test_a_loss_and_its_gradients_equal_those_of_sentence_transformers(case: Case) -> None:
    columns, labels = random_batch(case.columns, case.labels, seed=7)
    theirs = value_and_gradients(run_peer(case.theirs(Leaves()), labels), columns)
    assert_same(value_and_gradients(lambda leaves: case.ours().compute(leaves, labels), columns), theirs)


@every_case
def test_repeated_texts_keep_the_value_right_and_the_gradients_finite(case: Case) -> None:
    columns, labels = duplicate_batch(case.columns, case.labels)
    value, gradients = value_and_gradients(lambda leaves: case.ours().compute(leaves, labels), columns)
    torch.testing.assert_close(value.double(), case.slow(double(columns), labels), rtol=1e-5, atol=1e-5)
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_case
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_a_collapsed_model_gives_finite_losses_and_gradients(case: Case, fill: float) -> None:
    columns, labels = random_batch(case.columns, case.labels)
    value, gradients = value_and_gradients(
        lambda leaves: case.ours().compute(leaves, labels), [torch.full_like(column, fill) for column in columns]
    )
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_case
def test_a_batch_of_one_row_gives_a_finite_loss_with_a_graph(case: Case) -> None:
    columns, labels = random_batch(case.columns, case.labels)
    value, gradients = value_and_gradients(
        lambda leaves: case.ours().compute(leaves, None if labels is None else labels[:1]),
        [column[:1] for column in columns],
    )
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@every_case
def test_half_precision_and_autocast_do_not_reach_the_mathematics(case: Case) -> None:
    columns, labels = random_batch(case.columns, case.labels)
    halves, loss = [column.bfloat16() for column in columns], case.ours()
    wanted = loss.compute([column.float() for column in halves], labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss.compute(halves, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, wanted)


@pytest.mark.parametrize("classes", [[4] * BATCH, list(range(BATCH))], ids=["one class", "no class twice"])
@pytest.mark.parametrize("kind", ["Hard", "HardSoftMargin", "SemiHard", "All"])
def test_a_batch_without_a_triplet_costs_nothing(kind: str, classes: list[int]) -> None:
    columns, _ = random_batch(1, "none")
    loss = getattr(losses, f"Batch{kind}TripletLoss")()
    value, gradients = value_and_gradients(lambda leaves: loss.compute(leaves, torch.tensor(classes)), columns)
    assert value == 0
    assert gradients[0].abs().max() == 0


@pytest.mark.parametrize("label", [0, 1])
def test_online_contrastive_loss_of_one_label_equals_the_peers(label: int) -> None:
    columns, labels = random_batch(2, "none")[0], torch.full((BATCH,), label)
    columns[1] = columns[0] + 0.4 * columns[1]  # near enough for the margin
    theirs = value_and_gradients(run_peer(peer.OnlineContrastiveLoss(Leaves()), labels), columns)
    ours = value_and_gradients(lambda leaves: losses.OnlineContrastiveLoss().compute(leaves, labels), columns)
    assert_same(ours, theirs)


def test_cosent_with_equal_labels_is_zero_and_has_a_graph() -> None:
    columns, _ = random_batch(2, "none")
    value, gradients = value_and_gradients(
        lambda leaves: losses.CoSENTLoss().compute(leaves, torch.ones(BATCH)), columns
    )
    assert value == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients)


def test_euclidean_batch_distances_keep_the_digits_of_near_rows() -> None:
    texts = 100 + torch.tensor([[0.0], [1e-3]], dtype=torch.float32)
    assert BatchDistance.euclidean_distance(texts)[0, 1] == texts[1, 0] - texts[0, 0]
    assert BatchDistance.eucledian_distance(texts, squared=True)[0, 1] == (texts[1, 0] - texts[0, 0]) ** 2


def test_own_hard_negatives_are_not_shared_between_anchors() -> None:
    columns, _ = random_batch(3, "none")
    swapped = [*columns[:2], columns[2].flip(0)]  # every anchor meets another row's hard negative
    shared = losses.MultipleNegativesRankingLoss()
    own = losses.MultipleNegativesRankingLoss(hard_negatives="own")
    torch.testing.assert_close(shared.compute(columns), shared.compute(swapped))
    assert (own.compute(columns) - own.compute(swapped)).abs() > 1e-3
    assert own.compute(columns) < shared.compute(columns)


# Losses with weights of their own


def softmax_pair(**flags: bool) -> tuple[losses.SoftmaxLoss, nn.Module]:
    torch.manual_seed(1)
    ours = losses.SoftmaxLoss(None, sentence_embedding_dimension=DIM, num_labels=3, **flags)
    theirs = peer.SoftmaxLoss(Leaves(), DIM, 3, **flags)
    theirs.classifier.load_state_dict(ours.classifier.state_dict())
    return ours, theirs


FLAGS = [
    {},
    {"concatenation_sent_multiplication": True},
    {"concatenation_sent_rep": False},
    {"concatenation_sent_difference": False},
]


@pytest.mark.parametrize("flags", FLAGS)
def test_softmax_loss_and_its_classifier_learn_as_in_the_slow_formula_and_the_peer(flags: dict[str, bool]) -> None:
    ours, theirs = softmax_pair(**flags)
    columns, labels = random_batch(2, "none")[0], torch.tensor([0, 1, 2, 2, 1, 0, 0, 0, 1])

    def slow(leaves: Columns) -> Tensor:
        weight, bias, rows = ours.classifier.weight.double(), ours.classifier.bias.double(), []
        for u, v, y in zip(*leaves, labels, strict=True):
            parts = [u, v] if flags.get("concatenation_sent_rep", True) else []
            parts += [(u - v).abs()] if flags.get("concatenation_sent_difference", True) else []
            parts += [u * v] if flags.get("concatenation_sent_multiplication", False) else []
            rows.append(
                negative_log_softmax([w @ torch.cat(parts) + b for w, b in zip(weight, bias, strict=True)], int(y))
            )
        return mean(rows)

    result = value_and_gradients(lambda leaves: ours.compute(leaves, labels), columns)
    gradient = ours.classifier.weight.grad.clone()
    assert_same(result, value_and_gradients(slow, double(columns)))
    assert_same(result, value_and_gradients(run_peer(theirs, labels), columns))
    assert gradient.abs().max() > 1e-4
    torch.testing.assert_close(gradient, theirs.classifier.weight.grad, rtol=1e-5, atol=1e-5)


def test_softmax_loss_without_labels_returns_embeddings_and_logits() -> None:
    torch.manual_seed(1)
    ours = losses.SoftmaxLoss(Leaves(), DIM, 3)
    columns, _ = random_batch(2, "none")
    embeddings, logits = ours([{"leaf": column} for column in columns], None)
    assert all(torch.equal(mine, column) for mine, column in zip(embeddings, columns, strict=True))
    assert torch.equal(logits, ours.logits(columns))
    assert logits.shape == (BATCH, 3)


def test_contrastive_tension_and_its_scale_learn_as_in_the_slow_formula_and_the_peer() -> None:
    columns, _ = random_batch(2, "none")
    ours = losses.ContrastiveTensionLossInBatchNegatives()
    theirs = peer.ContrastiveTensionLossInBatchNegatives(Leaves())
    theirs.model1, theirs.model2 = Leaves("first"), Leaves("second")
    scale = torch.tensor(math.log(20.0), dtype=torch.float64, requires_grad=True)
    result = value_and_gradients(ours.compute, columns)
    slow = slow_ranking(scale=1.0, symmetric=True, similarity=lambda a, b: scale.exp() * cos(a, b))
    assert_same(result, value_and_gradients(lambda leaves: slow(leaves, None), double(columns)))
    assert_same(
        result,
        value_and_gradients(lambda leaves: theirs([{"first": leaves[0], "second": leaves[1]}], None), columns),
    )
    assert ours.logit_scale.grad.abs() > 1e-4
    torch.testing.assert_close(ours.logit_scale.grad, theirs.logit_scale.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.logit_scale.grad.double(), scale.grad, rtol=1e-5, atol=1e-5)


# GIST


def fake_guide() -> nn.Module:
    guide = Leaves("guide")
    guide.encode = None  # type: ignore[assignment]
    return guide


GUIDED = [
    ({}, slow_gist()),
    ({"margin": 0.3, "temperature": 0.1}, slow_gist(margin=0.3, temperature=0.1)),
    (
        {"margin": 0.2, "margin_strategy": "relative", "temperature": 0.1},
        slow_gist(0.2, relative=True, temperature=0.1),
    ),
    (
        {"contrast_anchors": False, "contrast_positives": False, "temperature": 0.1},
        slow_gist(own_kinds=False, temperature=0.1),
    ),
]


@pytest.mark.parametrize(("settings", "slow"), GUIDED, ids=["default", "absolute", "relative", "plain"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_gist_and_its_gradients_equal_the_slow_formula_and_the_peer(
    settings: dict[str, Any], slow: Callable, count: int
) -> None:
    columns, _ = random_batch(count, "none")
    guide = torch.stack(random_batch(count, "none", seed=3)[0])
    loss = losses.GISTEmbedLoss(None, fake_guide(), **settings)
    result = value_and_gradients(lambda leaves: loss.compute(leaves, guide), columns)
    exact = value_and_gradients(lambda leaves: slow(leaves, guide.double()), double(columns))
    assert_same(result, exact)
    if count < 4:  # the peer takes one negative at most
        theirs = peer.GISTEmbedLoss(Leaves(), fake_guide(), **settings)
        features = [{"guide": column} for column in guide]
        run = lambda leaves: theirs([{"leaf": leaf, **f} for leaf, f in zip(leaves, features, strict=True)], None)  # noqa: E731
        assert_same(result, value_and_gradients(run, columns))


def test_gist_leaves_out_what_the_guide_takes_for_a_positive() -> None:
    pairs = torch.eye(2)
    loss = losses.GISTEmbedLoss(None, fake_guide(), temperature=1.0, contrast_anchors=False, contrast_positives=False)
    strict = losses.GISTEmbedLoss(
        None, fake_guide(), temperature=1.0, contrast_anchors=False, contrast_positives=False, margin=0.5
    )
    half_sure = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.8, 0.6]]])  # p_1 is 0.8 similar to a_0
    torch.testing.assert_close(loss.compute([pairs, pairs], half_sure).item(), math.log(1 + math.exp(-1)))
    torch.testing.assert_close(strict.compute([pairs, pairs], half_sure).item(), math.log(1 + math.exp(-1)) / 2)


def test_gist_never_lets_a_text_compete_with_itself() -> None:
    columns, _ = random_batch(2, "none")
    same = torch.eye(BATCH)  # anchor and positive are one to the guide, so that no candidate is above the threshold
    loss = losses.GISTEmbedLoss(None, fake_guide(), temperature=0.1)
    wanted = slow_gist(temperature=0.1)(double(columns), torch.stack([same, same]).double())
    torch.testing.assert_close(loss.compute(columns, torch.stack([same, same])).double(), wanted, rtol=1e-5, atol=1e-5)


def test_gist_embeds_the_texts_with_the_guide_and_neither_trains_nor_keeps_it(tiny: Callable) -> None:
    model, guide = tiny(), tiny(seed=5, dropout=0.5)
    loss = losses.GISTEmbedLoss(model, guide).train()
    columns = [["the cat sits", "a red apple"], ["a small cat", "the apple is good"]]
    made = loss.prepare(columns, None)
    assert made.shape == (2, 2, 32)
    assert not made.requires_grad
    torch.testing.assert_close(made[1, 0], guide.encode("a small cat", convert_to_tensor=True), rtol=1e-5, atol=1e-6)
    ours = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in loss.parameters()} == ours
    features = [model.tokenize(column) for column in columns]
    embeddings = [model(dict(column))["sentence_embedding"] for column in features]
    torch.testing.assert_close(loss(features), loss.compute(embeddings, made), rtol=1e-5, atol=1e-5)


# Matryoshka


def cut(columns: Columns, dim: int) -> Columns:
    return [column[:, :dim] / column[:, :dim].norm(dim=1, keepdim=True) for column in columns]


@pytest.mark.parametrize("case", PEERED, ids=str)
def test_matryoshka_of_any_loss_equals_the_slow_formula_and_the_peer(case: Case) -> None:
    columns, labels = random_batch(case.columns, case.labels, seed=2)
    dims, weights = [2, DIM, 4], [0.5, 1.0, 2.0]
    ours = losses.MatryoshkaLoss(None, case.ours(), dims, weights)
    result = value_and_gradients(lambda leaves: ours.compute(leaves, labels), columns)
    model = Leaves()
    theirs = peer.MatryoshkaLoss(model, case.theirs(model), dims, weights)
    assert_same(result, value_and_gradients(run_peer(theirs, labels), columns))
    if case.labels not in ("vector", "vectors"):
        slow = lambda leaves: total([w * case.slow(cut(leaves, d), labels) for d, w in zip(dims, weights, strict=True)])  # noqa: E731
        assert_same(result, value_and_gradients(slow, double(columns)))


def test_matryoshka_shares_the_classifier_of_softmax_loss_between_dimensions() -> None:
    columns, labels = random_batch(2, "none")[0], torch.tensor([0, 1, 2] * 3)
    inner = losses.SoftmaxLoss(None, DIM, 3)
    value = losses.MatryoshkaLoss(None, inner, [2, DIM]).compute(columns, labels)
    short = [nn.functional.pad(column, (0, DIM - 2)) for column in cut(columns, 2)]
    torch.testing.assert_close(value, inner.compute(cut(columns, DIM), labels) + inner.compute(short, labels))


def test_matryoshka_draws_some_dimensions_a_step_by_torchs_seed() -> None:
    columns, labels = random_batch(2, "float")
    parts = {dim: losses.CosineSimilarityLoss().compute(cut(columns, dim), labels).item() for dim in (1, 3, DIM)}
    loss = losses.MatryoshkaLoss(None, losses.CosineSimilarityLoss(), [1, 3, DIM], n_dims_per_step=1)

    def draw(seed: int) -> float:
        torch.manual_seed(seed)
        return loss.compute(columns, labels).item()

    values = [draw(seed) for seed in range(12)]
    assert values == [draw(seed) for seed in range(12)]
    assert {round(value, 5) for value in values} == {round(value, 5) for value in parts.values()}


def test_matryoshka_passes_on_what_the_loss_inside_needs(tiny: Callable) -> None:
    model, guide = tiny(), tiny(seed=5)
    inner = losses.GISTEmbedLoss(model, guide)
    loss = losses.MatryoshkaLoss(model, inner, [32, 8])
    features = [model.tokenize(column) for column in (["the cat", "a dog"], ["a cat", "the dog"])]
    made = inner.prepare([["the cat", "a dog"], ["a cat", "the dog"]], None)
    embeddings = [model(dict(column))["sentence_embedding"] for column in features]
    wanted = inner.compute(cut(embeddings, 32), made) + inner.compute(cut(embeddings, 8), made)
    torch.testing.assert_close(loss(features), wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="GISTEmbedLoss takes 2 or more texts per row, got 1"):
        loss.check_batch([["a"]], None)


# TSDAE

DAMAGED = ["the cat", "red and", "a book on the table in the garden"]
WHOLE = ["the cat sits in the garden", "red and green apple", "a book and a lamp on the table in the garden"]


def test_tsdae_and_the_gradients_of_shared_weights_equal_the_peers(tiny: Callable, tmp_path: Any) -> None:
    model = tiny(pooling="cls")
    model[0].auto_model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    word = peer_modules.Transformer(str(tmp_path))
    other = PeerTransformer(modules=[word, peer_modules.Pooling(32, "cls")], device="cpu")
    ours, theirs = losses.DenoisingAutoEncoderLoss(model), peer.DenoisingAutoEncoderLoss(other)
    theirs.decoder.load_state_dict(ours.decoder.state_dict())
    features = [model.tokenize(column) for column in (DAMAGED, WHOLE)]
    mine = ours.eval()(features)
    mine.backward()
    value = theirs.eval()([{k: v.clone() for k, v in column.items()} for column in features], None)
    value.backward()
    torch.testing.assert_close(mine, value, rtol=1e-5, atol=1e-5)
    expected = dict(theirs.decoder.named_parameters())
    compared = 0
    for name, parameter in ours.decoder.named_parameters():
        if expected[name].grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name)
            compared += bool(parameter.grad.abs().max() > 1e-6)
    assert compared > 40


def test_tsdae_equals_a_loop_over_tokens(tiny: Callable) -> None:
    model = tiny(pooling="cls")
    loss = losses.DenoisingAutoEncoderLoss(model).eval()
    ids = loss.prepare([DAMAGED, WHOLE], None)
    embeddings = model(model.tokenize(DAMAGED))["sentence_embedding"]
    rows = []
    for embedding, row in zip(embeddings, ids, strict=True):
        row = row[row != model.tokenizer.pad_token_id]
        for t in range(1, len(row)):
            output = loss.decoder(input_ids=row[None, :t], encoder_hidden_states=embedding[None, None], use_cache=False)
            rows.append(negative_log_softmax(list(output.logits[0, -1].double()), int(row[t])))
    value = loss.compute([embeddings], ids)
    torch.testing.assert_close(value.double(), mean(rows), rtol=1e-5, atol=1e-5)


def test_the_tsdae_decoder_shares_the_encoders_parameters_and_copies_none(tiny: Callable) -> None:
    model = tiny()
    loss = losses.DenoisingAutoEncoderLoss(model, decoder_name_or_path="ignored-as-in-the-field")
    encoder, decoder = model[0].auto_model, loss.decoder
    assert decoder.base_model.embeddings.word_embeddings.weight is encoder.embeddings.word_embeddings.weight
    assert decoder.get_output_embeddings().weight is encoder.embeddings.word_embeddings.weight
    inner, outer = dict(encoder.named_parameters()), dict(decoder.base_model.named_parameters())
    assert all(outer[name] is parameter for name, parameter in inner.items() if "pooler" not in name)
    assert not encoder.config.is_decoder


def test_tsdae_with_an_untied_decoder_uses_that_decoders_weights_and_tokenizer(tiny: Callable, tmp_path: Any) -> None:
    source = tiny(seed=9)
    source[0].auto_model.save_pretrained(tmp_path)
    source.tokenizer.save_pretrained(tmp_path)
    model = tiny()
    loss = losses.DenoisingAutoEncoderLoss(model, str(tmp_path), tie_encoder_decoder=False)
    encoder = {id(parameter) for parameter in model.parameters()}
    assert not any(id(parameter) in encoder for parameter in loss.decoder.parameters())
    weight = loss.decoder.base_model.embeddings.word_embeddings.weight
    assert torch.equal(weight, source[0].auto_model.embeddings.word_embeddings.weight)
    assert torch.equal(loss.prepare([DAMAGED, WHOLE], None), model.tokenize(WHOLE)["input_ids"])
    features = [model.tokenize(column) for column in (DAMAGED, WHOLE)]
    direct = loss.eval().compute(loss.embed(features), loss.prepare([DAMAGED, WHOLE], None))
    torch.testing.assert_close(loss(features), direct)


def test_tsdae_learns_to_write_the_texts(tiny: Callable) -> None:
    model = tiny(pooling="cls")
    loss = losses.DenoisingAutoEncoderLoss(model).train()
    features = [model.tokenize(column) for column in (DAMAGED, WHOLE)]
    optimizer = torch.optim.AdamW(loss.parameters(), lr=5e-3)
    values = []
    for _ in range(12):
        value = loss(features)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.6 * values[0]


def test_matryoshka_fits_around_tsdae(tiny: Callable) -> None:
    model = tiny(pooling="cls")
    inner = losses.DenoisingAutoEncoderLoss(model)
    loss = losses.MatryoshkaLoss(model, inner, [32, 8]).eval()
    ids = loss.prepare([DAMAGED, WHOLE], None)
    embeddings = [model(model.tokenize(DAMAGED))["sentence_embedding"]]
    wanted = inner.compute(cut(embeddings, 32), ids) + inner.compute(cut(embeddings, 8), ids)
    torch.testing.assert_close(loss.compute(embeddings, ids), wanted)


# The encoder's part


def test_a_loss_embeds_tokenised_columns_with_its_model_and_trains_it(tiny: Callable) -> None:
    model = tiny()
    loss = losses.MultipleNegativesRankingLoss(model)
    columns = [["the cat sits", "a red apple"], ["a small cat", "the apple is good"]]
    value = loss([model.tokenize(column) for column in columns], torch.zeros(2))
    value.backward()
    torch.testing.assert_close(value, loss.compute([model.embed(column) for column in columns]), rtol=1e-5, atol=1e-5)
    gradients = [parameter.grad for parameter in loss.parameters() if parameter.grad is not None]
    assert max(gradient.abs().max() for gradient in gradients) > 1e-5
    assert {id(p) for p in loss.parameters()} == {id(p) for p in model.parameters()}


def test_contrastive_tension_embeds_a_text_twice_so_that_dropout_makes_two_views(tiny: Callable) -> None:
    model = tiny(dropout=0.3).train()
    loss = losses.ContrastiveTensionLossInBatchNegatives(model)
    first, second = loss.embed([model.tokenize(["the cat sits", "a red apple"])])
    assert not torch.equal(first, second)
    first, second = loss.eval().embed([model.tokenize(["the cat sits", "a red apple"])])
    assert torch.equal(first, second)


def test_a_loss_without_a_model_says_so_when_it_should_embed() -> None:
    with pytest.raises(ValueError, match="TripletLoss was made without a model"):
        losses.TripletLoss()([{}, {}, {}])


# Batches


@every_case
def test_rows_that_a_loss_can_take_pass_the_check(case: Case) -> None:
    _, labels = random_batch(case.columns, case.labels)
    case.ours().check_batch([[f"text {row}" for row in range(BATCH)]] * case.columns, labels)


@every_case
def test_compute_names_the_shapes_that_do_not_fit(case: Case) -> None:
    columns, labels = random_batch(case.columns, case.labels)
    loss = case.ours()
    for wrong in ([], [column[0] for column in columns], [column[:0] for column in columns]):
        with pytest.raises(ValueError, match=r"takes embeddings of one shape \(batch, dim\)"):
            loss.compute(wrong, labels)
    if case.columns > 1:
        with pytest.raises(ValueError, match="takes embeddings of one shape"):
            loss.compute([columns[0][:-1], *columns[1:]], labels)
    if labels is not None:
        with pytest.raises(ValueError, match="got labels of shape"):
            loss.compute(columns, labels[:-1])
        with pytest.raises(ValueError, match="takes labels as a tensor, got list"):
            loss.compute(columns, labels.tolist())
    most = loss.columns[1]
    if most is not None:
        with pytest.raises(ValueError, match=f"takes the embeddings of {most} columns, got {most + 1}"):
            loss.compute([columns[0]] * (most + 1), labels)


# The field's names


def shared_arguments() -> Iterator[tuple[str, str]]:
    for name in losses.__all__:
        mine, theirs = getattr(losses, name), getattr(peer, name, None)
        if theirs is not None and isinstance(mine, type) and issubclass(mine, losses.Loss):
            for argument in inspect.signature(mine).parameters:
                if argument in inspect.signature(theirs).parameters:
                    yield name, argument


@pytest.mark.parametrize(("name", "argument"), list(shared_arguments()))
def test_arguments_have_the_fields_order_and_defaults(name: str, argument: str) -> None:
    mine, theirs = (inspect.signature(getattr(module, name)).parameters for module in (losses, peer))
    here, there = mine[argument], theirs[argument]
    if argument == "model":
        assert next(iter(mine)) == next(iter(theirs)) == "model"
    elif isinstance(there.default, (int, float, str, type(None))) or there.default is inspect.Parameter.empty:
        assert here.default == there.default
    else:
        assert callable(here.default) or here.default is None


def test_every_loss_of_the_field_that_is_due_is_here() -> None:
    due = """CosineSimilarityLoss CoSENTLoss AnglELoss SoftmaxLoss MSELoss MarginMSELoss DistillKLDivLoss TripletLoss
        ContrastiveLoss OnlineContrastiveLoss BatchHardTripletLoss BatchHardSoftMarginTripletLoss
        BatchSemiHardTripletLoss BatchAllTripletLoss MultipleNegativesRankingLoss MultipleNegativesSymmetricRankingLoss
        MegaBatchMarginLoss ContrastiveTensionLossInBatchNegatives GISTEmbedLoss MatryoshkaLoss
        DenoisingAutoEncoderLoss"""
    assert set(due.split()) <= set(losses.__all__)
    for name in due.split():
        text = getattr(losses, name).__doc__
        assert all(part in text for part in ("| texts", "| ---", "Relatives:", "Source:", ">>>")), name


def test_metrics_of_the_field_are_functions_of_two_batches() -> None:
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]])
    assert TripletDistanceMetric.EUCLIDEAN(a, b).item() == SiameseDistanceMetric.EUCLIDEAN(a, b).item() == 5.0
    assert TripletDistanceMetric.MANHATTAN(a, b).item() == SiameseDistanceMetric.MANHATTAN(a, b).item() == 7.0
    assert TripletDistanceMetric.COSINE(a, 2 * a).item() == pytest.approx(0.0, abs=1e-6)
    assert SiameseDistanceMetric.COSINE_DISTANCE(a, a).item() == pytest.approx(
        1 - pairwise_cos_sim(a, a).item(), abs=1e-6
    )
