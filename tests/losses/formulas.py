"""Slow formulas of the losses with in-batch negatives, row by row, and comparisons of values and gradients."""

import torch

DIM = 6


def cos(a, b):
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def mean(values):
    return torch.stack(values).mean()


def hinge(value):
    return value if value > 0 else value * 0


def negative_log_softmax(scores, target):
    return torch.stack(scores).exp().sum().log() - scores[target]


def never(*_):
    return False


def ranking(scale=20.0, own=False, symmetric=False, similarity=cos):
    """With `knows(i, column, j)`, which says that text j of a column is a known positive of row i."""

    def formula(columns, labels, knows=never):
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


def mega(columns, labels, knows=never):
    rows = []
    for i, (a, p) in enumerate(zip(*columns, strict=True)):
        others = [cos(a, q) for j, q in enumerate(columns[1]) if j != i and not knows(i, 1, j)]
        rows.append(hinge(0.8 - cos(a, p)) + (hinge(max(others) - 0.3) if others else 0))
    return mean(rows)


def gist(margin=0.0, relative=False, own_kinds=True, temperature=0.01):
    def formula(columns, guide, knows=never):
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


def value_and_gradients(run, columns):
    leaves = [column.clone().requires_grad_() for column in columns]
    loss = run(leaves)
    loss.backward()
    return loss.detach(), [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


def assert_same(ours, other):
    torch.testing.assert_close(ours[0].double(), other[0].double(), rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(ours[1], other[1], strict=True):
        assert theirs.abs().max() > 1e-4, "a comparison of zero gradients shows nothing"
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-5, atol=1e-5)


def assert_finite(result):
    assert result[0].isfinite()
    assert all(gradient.isfinite().all() for gradient in result[1])
