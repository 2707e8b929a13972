"""Slow formulas of the losses, written row by row, and comparisons of values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Columns = list[Tensor]
DIM = 6


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    total = (a - b).square().sum()
    return total.sqrt() if total > 0 else total  # so that the gradient at 0 is 0


def manhattan(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum()


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    return 1 - cos(a, b)


def angle(a: Tensor, b: Tensor) -> Tensor:
    half = len(a) // 2
    z = (torch.complex(a[:half], a[half:]) * torch.complex(b[:half], b[half:]).conj()).sum()
    return ((z.real + z.imag) / (a.norm() * b.norm())).abs()


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def total(values: list[Tensor]) -> Tensor:
    return torch.stack(values).sum() if values else torch.tensor(0.0)


def hinge(value: Tensor) -> Tensor:
    return value if value > 0 else value * 0


def negative_log_softmax(scores: list[Tensor], target: int) -> Tensor:
    return torch.stack(scores).exp().sum().log() - scores[target]


def never(*_: int) -> bool:
    return False


def cosine(columns: Columns, labels: Tensor) -> Tensor:
    return mean([(cos(a, b) - y) ** 2 for a, b, y in zip(*columns, labels, strict=True)])


def cosent(similarity: Callable, scale: float) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        scores, rows = [similarity(a, b) for a, b in zip(*columns, strict=True)], range(len(labels))
        terms = [(scale * (scores[i] - scores[j])).exp() for i in rows for j in rows if labels[i] < labels[j]]
        return (1 + total(terms)).log()

    return formula


def contrastive(distance: Callable, margin: float) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        distances = [distance(a, b) for a, b in zip(*columns, strict=True)]
        rows = [d**2 if y == 1 else hinge(margin - d) ** 2 for d, y in zip(distances, labels, strict=True)]
        return 0.5 * mean(rows)

    return formula


def online(columns: Columns, labels: Tensor) -> Tensor:
    distances = [cosine_distance(a, b) for a, b in zip(*columns, strict=True)]
    together = [d for d, y in zip(distances, labels, strict=True) if y == 1]
    apart = [d for d, y in zip(distances, labels, strict=True) if y == 0]
    near = min(apart) if apart else mean(together)
    far = max(together) if together else mean(apart)
    return total([d**2 for d in together if d > near]) + total([hinge(0.5 - d) ** 2 for d in apart if d < far])


def triplet(distance: Callable, margin: float) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        return mean([hinge(distance(a, p) - distance(a, n) + margin) for a, p, n in zip(*columns, strict=True)])

    return formula


def ranking(scale: float = 20.0, own: bool = False, symmetric: bool = False, similarity: Callable = cos) -> Callable:
    """With `knows(i, column, j)`, which says that text j of a column is a known positive of row i."""

    def formula(columns: Columns, labels: Any, knows: Callable = never) -> Tensor:
        rows, forward, backward = range(len(columns[0])), [], []
        for i in rows:
            others = [(c, j) for c in range(1, len(columns)) for j in ([i] if c > 1 and own else rows)]
            kept = [(1, i), *((c, j) for c, j in others if (c, j) != (1, i) and not knows(i, c, j))]
            scores = [scale * similarity(columns[0][i], columns[c][j]) for c, j in kept]
            forward.append(negative_log_softmax(scores, 0))
            anchors = [i, *(j for j in rows if j != i and not knows(j, 1, i))]
            scores = [scale * similarity(columns[0][j], columns[1][i]) for j in anchors]
            backward.append(negative_log_softmax(scores, 0))
        return (mean(forward) + mean(backward)) / 2 if symmetric else mean(forward)

    return formula


def mega(columns: Columns, labels: Any, knows: Callable = never) -> Tensor:
    rows = []
    for i, (a, p) in enumerate(zip(*columns, strict=True)):
        others = [cos(a, q) for j, q in enumerate(columns[1]) if j != i and not knows(i, 1, j)]
        rows.append(hinge(0.8 - cos(a, p)) + (hinge(max(others) - 0.3) if others else 0))
    return mean(rows)


def gist(margin: float = 0.0, relative: bool = False, own_kinds: bool = True, temperature: float = 0.01) -> Callable:
    def formula(columns: Columns, guide: Tensor, knows: Callable = never) -> Tensor:
        rows = []
        for i in range(len(columns[0])):
            sure = cos(guide[0][i], guide[1][i])
            limit = sure - (margin * sure.abs() if relative else margin)
            scores = [cos(columns[0][i], columns[1][i]) / temperature]
            for first, second in [(0, 1), *[(0, 0), (1, 1)] * own_kinds, *((0, c) for c in range(2, len(columns)))]:
                for j in range(len(columns[0])):
                    known = knows(i, second, j) or (first == second and (knows(i, 0, j) or knows(i, 1, j)))
                    doubtful = cos(guide[first][i], guide[second][j]) > limit
                    if not known and not doubtful and not (j == i and second < 2):
                        scores.append(cos(columns[first][i], columns[second][j]) / temperature)
            rows.append(negative_log_softmax(scores, 0))
        return mean(rows)

    return formula


def mse(columns: Columns, labels: Tensor) -> Tensor:
    rows = []
    for index, column in enumerate(columns):
        for i, student in enumerate(column):
            teacher = labels[i] if labels.ndim == 2 else labels[i][index]
            rows += [(student[k] - teacher[k]) ** 2 for k in range(DIM)]
    return mean(rows)


def margin_mse(columns: Columns, labels: Tensor) -> Tensor:
    query, positive, *negatives = columns
    rows = []
    for i in range(len(query)):
        for k, negative in enumerate(negatives):
            margin = query[i] @ positive[i] - query[i] @ negative[i]
            if labels.ndim == 1:
                wanted = labels[i]
            else:
                wanted = labels[i][k] if labels.shape[1] == len(negatives) else labels[i][0] - labels[i][k + 1]
            rows.append((margin - wanted) ** 2)
    return mean(rows)


def distill(student: float, teacher: float) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        query, *candidates = columns
        rows = []
        for i in range(len(query)):
            scores = [query[i] @ column[i] / student for column in candidates]
            wanted = (labels[i] / teacher).exp() / (labels[i] / teacher).exp().sum()
            rows.append(total([w * (w.log() + negative_log_softmax(scores, k)) for k, w in enumerate(wanted)]))
        return student**2 * mean(rows)

    return formula


def batch(kind: str, distance: Callable = euclidean, margin: float = 5.0) -> Callable:
    def formula(columns: Columns, labels: Tensor) -> Tensor:
        texts, n = columns[0], len(labels)
        d = [[distance(texts[i], texts[j]) for j in range(n)] for i in range(n)]
        others = [[j for j in range(n) if labels[j] != labels[i]] for i in range(n)]
        mates = [[j for j in range(n) if labels[j] == labels[i] and j != i] for i in range(n)]
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


def value_and_gradients(run: Callable[[Columns], Tensor], columns: Columns) -> tuple[Tensor, Columns]:
    leaves = [column.clone().requires_grad_() for column in columns]
    loss = run(leaves)
    loss.backward()
    return loss.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def assert_same(ours: tuple[Tensor, Columns], other: tuple[Tensor, Columns]) -> None:
    torch.testing.assert_close(ours[0].double(), other[0].double(), rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(ours[1], other[1], strict=True):
        assert theirs.abs().max() > 1e-4, "a comparison of zero gradients shows nothing"
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-5, atol=1e-5)


def assert_finite(result: tuple[Tensor, Columns]) -> None:
    assert result[0].isfinite()
    assert all(gradient.isfinite().all() for gradient in result[1])
