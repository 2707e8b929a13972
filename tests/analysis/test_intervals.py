"""Intervals, comparisons and groups: against scipy, by hand, and by simulated models whose true scores are known."""

from itertools import chain, combinations
from string import ascii_letters

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_ind, ttest_rel

from sbertlab.analysis.intervals import (
    compare,
    group_letters,
    holm,
    interval,
    mean_difference,
    smallest_difference,
    tied_groups,
)
from sbertlab.analysis.resampling import Examples, replicates_of


def test_the_interval_is_the_normal_one_on_the_scale_of_fisher():
    drawn = np.tanh(norm.ppf(np.arange(1, 1000) / 1000, loc=1.0, scale=0.1))  # z* is normal around artanh(value)
    low, high = interval(np.tanh(1.0), drawn)
    assert np.arctanh([low, high]) == pytest.approx([1 - 0.196, 1 + 0.196], abs=0.002)


def test_an_interval_of_scores_stays_among_scores():
    drawn = np.minimum(0.99 + 0.006 * np.random.default_rng(0).normal(size=1000), 1.0)
    assert np.mean(drawn == 1) > 0.02
    low, high = interval(0.99, drawn)
    assert 0.93 < low < 0.98 < 0.993 < high < 1
    assert interval(-0.99, -drawn) == pytest.approx((-high, -low))
    assert interval(1.0, [1.0, 1.0]) == (1.0, 1.0)
    assert interval(60.0, np.tile([59.0, 61.0], 5000)) == pytest.approx((60 - 1.96, 60 + 1.96), abs=0.001), "no score"


def test_one_example_says_nothing_no_spread_is_certain_and_rounding_is_no_difference():
    found = compare(1.0, 0.0, [1.0, 1.0], [0.0, 0.0], examples=1)
    assert (found.error, found.p, found.low, found.high) == (np.inf, 1.0, -np.inf, np.inf)
    assert compare(0.4, 0.3, [0.4, 0.4], [0.3, 0.3]).p < 1e-12
    drawn = np.random.default_rng(0).random(100)
    assert compare(0.3, 0.1 + 0.2, drawn, drawn + 1e-16)[:2] == (0.0, 0.0)


def test_few_examples_have_the_interval_of_student():
    values = np.array([0.31, 0.44, 0.52, 0.58, 0.71, 0.86, 0.40, 0.66])
    others = values[::-1] - 0.05
    drawn = np.random.default_rng(0).integers(8, size=(200_000, 8))
    test = ttest_rel(values, others)
    means = [column[drawn].mean(axis=1) for column in (values, others)]
    found = compare(values.mean(), others.mean(), *means, examples=8)
    assert found.freedom == 7
    assert found.p == pytest.approx(test.pvalue, abs=0.002)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()), abs=0.002)
    low, high = interval(0.0, means[0] - values.mean(), examples=8)
    assert np.arctanh(high) == pytest.approx(t.ppf(0.975, 7) * values.std(ddof=1) / 8**0.5, rel=0.01)
    assert low == pytest.approx(-high)


def test_what_moves_from_start_to_start_counts_once_however_many_resamples_there_are():
    random = np.random.default_rng(0)
    starts, noise = random.normal(0, 0.04, size=(2, 10)), 0.01 * random.normal(size=(2, 4000))
    a, b = 0.5 + np.tile(starts, 400) + noise
    found = compare(0.5, 0.5, a, b, starts=10)
    by_start = (starts[0] - starts[1]).var(ddof=1)
    assert found.error == pytest.approx(np.sqrt(by_start + 2 * 0.01**2), rel=0.02)
    assert 9 <= found.freedom < 12
    still = compare(0.5, 0.5, 0.5 + noise[0], 0.5 + noise[1], starts=10)
    assert still.error == pytest.approx(2**0.5 * 0.01, rel=0.05)
    assert still.freedom > 1000, "where the start does not matter it is not counted"
    _, high = interval(0.0, a - 0.5, starts=10)
    assert np.arctanh(high) == pytest.approx(t.ppf(0.975, 9) * np.hypot(starts[0].std(ddof=1), 0.01), rel=0.05)


def test_the_p_value_and_the_interval_agree():
    drawn = 0.05 * np.random.default_rng(0).normal(size=400)
    for seeds in (None, [0.4, 0.5, 0.6]):
        found = [compare(value, 0.0, value + drawn, np.zeros(400), seeds) for value in np.linspace(0, 1, 500)]
        assert [one.low > 0 for one in found] == [one.p < 0.05 for one in found]
        assert 50 < sum(one.low > 0 for one in found) < 470


def test_seeds_alone_are_compared_as_by_welch():
    a, b = [0.61, 0.64, 0.66], [0.58, 0.59, 0.57, 0.62]
    still = np.zeros(10)
    found = compare(np.mean(a), np.mean(b), np.mean(a) + still, np.mean(b) + still, a, b)
    welch = ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(welch.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(welch.confidence_interval()))
    assert found.seed_error == pytest.approx(np.sqrt(np.var(a, ddof=1) / 3 + np.var(b, ddof=1) / 4))
    assert found.error == 0


def test_errors_over_examples_and_seeds_add_in_quadrature():
    drawn = 0.03 * np.random.default_rng(0).normal(size=4000)
    drawn -= drawn.mean()
    without = compare(0.5, 0.5, 0.5 + drawn, np.full(4000, 0.5))
    seeds = compare(0.5, 0.5, 0.5 + drawn, np.full(4000, 0.5), np.array([0.46, 0.54] * 50))  # so many: t is normal
    assert seeds.error == without.error
    half = 1.96 * np.hypot(seeds.error, seeds.seed_error)
    assert (seeds.high - seeds.low) / 2 == pytest.approx(half, rel=0.01)
    assert half > 1.005 * (without.high - without.low) / 2
    assert compare(0.5, 0.5, 0.5 + drawn, np.full(4000, 0.5), [0.5], None) == without


def test_the_mean_over_tasks_is_the_same_from_differences_and_from_replicates():
    random = np.random.default_rng(0)
    values = random.random((3, 2))
    drawn = values[..., None] + 0.02 * random.normal(size=(3, 2, 20_000))
    each = [compare(*value, *replicates) for value, replicates in zip(values, drawn, strict=True)]
    joined, direct = mean_difference(each), compare(*values.mean(axis=0), *drawn.mean(axis=0))
    assert joined.value == pytest.approx(direct.value)
    assert joined.error == pytest.approx(direct.error, rel=0.03)
    assert (joined.low, joined.high) == pytest.approx((direct.low, direct.high), abs=0.001)


def test_holm_rejects_step_by_step():
    random = np.random.default_rng(0)
    for size in (1, 2, 5, 12):
        for _ in range(50):
            p = np.round(random.random(size) ** 3, 2)  # small ones and ties
            rejected = set()  # the procedure as it is told: the smallest against alpha / m, the next against ...
            for step, index in enumerate(np.argsort(p, kind="stable")):
                if p[index] > 0.05 / (size - step):
                    break
                rejected.add(int(index))
            assert set(np.flatnonzero(holm(p) <= 0.05 + 1e-12).tolist()) == rejected
    assert holm([]).tolist() == []


def largest_sets_without_difference(different):
    """Every subset looked at."""
    ranks = range(len(different))
    subsets = [frozenset(one) for one in chain.from_iterable(combinations(ranks, size + 1) for size in ranks)]
    alike = [one for one in subsets if not any(different[pair] for pair in combinations(sorted(one), 2))]
    return {one for one in alike if not any(one < other for other in alike)}


def test_groups_are_the_largest_sets_without_a_difference():
    random = np.random.default_rng(0)
    for size in (1, 2, 4, 6, 7):
        for share in (0.0, 0.2, 0.5, 0.8, 1.0):
            different = np.triu(random.random((size, size)) < share, 1)
            different |= different.T
            groups = tied_groups(different)
            assert set(map(frozenset, groups)) == largest_sets_without_difference(different)
            letters = group_letters(different)
            for letter, group in zip(ascii_letters, groups, strict=False):
                assert [rank for rank in range(size) if letter in letters[rank]] == group


def test_the_smallest_difference_is_seen_four_times_in_five():
    draws = np.random.default_rng(0).normal(smallest_difference(0.7), 0.7, size=200_000)
    assert np.mean(np.abs(draws) > 1.96 * 0.7) == pytest.approx(0.8, abs=0.005)
    assert smallest_difference(1.0, power=0.9, alpha=0.01) == pytest.approx(norm.ppf(0.995) + norm.ppf(0.9))
    alone = smallest_difference(5**-0.5, freedom=4)
    few = np.random.default_rng(1).normal(alone, 1.0, size=(200_000, 5))
    seen = np.abs(few.mean(axis=1) / few.std(axis=1, ddof=1) * 5**0.5) > t.ppf(0.975, 4)
    assert seen.mean() == pytest.approx(0.8, abs=0.03)


SIMULATIONS, RESAMPLES, MODELS = 2000, 200, 4


def queries(random, n, models=MODELS):
    """Average precision of queries: some at 0, more at 1, as in retrieval; true mean 0.55 for every model."""
    level = random.normal(size=n) + 0.7 * random.normal(size=(models, n))  # hard queries are hard for all
    share = norm.cdf(level / np.sqrt(1.49))
    return [Examples("mean", np.where(row < 0.3, 0.0, np.where(row > 0.6, 1.0, 0.5))) for row in share]


def graded_pairs(random, n, models=MODELS):
    """Similarity of pairs with grades in steps, true rank correlation about 0.78 for every model."""
    gold, shared = random.normal(size=(2, n))
    scores = 0.8 * gold + 0.6 * (0.7 * shared + 0.51**0.5 * random.normal(size=(models, n)))
    return [Examples("spearman", row, np.round(2 * gold)) for row in scores]


def labelled_pairs(random, n, models=MODELS):
    """Similarity of pairs, of which three in ten are duplicates."""
    labels, shared = (random.random(n) < 0.3).astype(int), random.normal(size=n)
    scores = 1.5 * labels + 0.7 * shared + 0.51**0.5 * random.normal(size=(models, n))
    return [Examples("average_precision", row, labels) for row in scores]


def clusterings(random, n, models=MODELS):
    """Six classes and six clusters: two texts of three sit in the cluster of their class, the others anywhere."""
    classes = random.integers(6, size=n)
    clusters = np.where(random.random((models, n)) < 0.65, classes, random.integers(6, size=(models, n)))
    return [Examples("v_measure", row, classes) for row in clusters]


def many_clusters(random, n, models=MODELS):
    """Twelve texts of each class, as in the packaged corpus: a V-measure there is far above that of many texts."""
    classes = np.arange(n) // 12
    anywhere = random.integers(n // 12, size=(models, n))
    clusters = np.where(random.random((models, n)) < 0.65, classes, anywhere)
    return [Examples("v_measure", row, classes) for row in clusters]


def true_score(draw, n):
    """The expected score of samples of this size: exactly where there is a formula, else from many samples."""
    if draw is queries:
        return 0.4 + 0.5 * 0.3
    random = np.random.default_rng(99)
    return float(np.mean([one.value() for _ in range(1000) for one in draw(random, n)]))


@pytest.fixture(scope="module")
def simulated():
    """By kind of task, and for their mean: values `(simulations, models)`, replicates, truth, examples of each."""
    found = {}
    sizes = {queries: 30, graded_pairs: 100, labelled_pairs: 300, clusterings: 400, many_clusters: 576}
    for draw, n in sizes.items():
        random, tables = np.random.default_rng(n), []
        for _ in range(SIMULATIONS):
            models, seed = draw(random, n), int(random.integers(2**31))
            tables.append(([one.value() for one in models], replicates_of(models, RESAMPLES, seed), models[0].averaged))
        values, replicates, examples = (np.array(column) for column in zip(*tables, strict=True))
        found[draw.__name__] = values, replicates, true_score(draw, n), examples
    values, replicates, truth, _ = (np.mean(field, axis=0) for field in zip(*found.values(), strict=True))
    found["mean over tasks"] = values, replicates, truth, np.full(SIMULATIONS, np.inf)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["queries", "graded_pairs", "labelled_pairs", "clusterings", "many_clusters", "mean over tasks"]
)
def test_intervals_cover_the_truth_in_95_of_100_samples_and_equal_models_seldom_differ(kind, simulated):
    values, replicates, truth, examples = simulated[kind]
    covered, found = [], []
    for row, drawn, n in zip(values, replicates, examples.tolist(), strict=True):
        ends = [interval(*one, examples=n) for one in zip(row, drawn, strict=True)]
        covered += [low <= truth <= high for low, high in ends]
        pairs = combinations(range(MODELS), 2)
        found.append([compare(row[a], row[b], drawn[a], drawn[b], examples=n).p for a, b in pairs])
    p = np.array(found)  # (simulations, pairs)
    alone, uncorrected = (p < 0.05).mean(), (p < 0.05).any(axis=1).mean()
    tables = np.mean([(holm(row) < 0.05).any() for row in p])
    print(
        f"\n{kind}: {np.mean(covered):.3f} covered, pairs {alone:.3f}, tables {tables:.3f}, no Holm {uncorrected:.3f}"
    )
    assert 0.93 <= np.mean(covered) <= 0.97
    assert 0.025 < alone < 0.05 + 2 * np.sqrt(0.05 * 0.95 / SIMULATIONS), "neither blind nor wrong"
    assert tables <= 0.05
    assert uncorrected > 0.1, "without the correction this would be wrong, so this test can fail"


@pytest.mark.slow
@pytest.mark.parametrize(("share", "least", "most"), [(0.3, 0.02, 0.05), (3.0, 0.05, 0.14)])
def test_equal_models_of_three_seeds_are_seldom_called_different_unless_seeds_blur_more_than_examples(
    share, least, most
):
    """`share` is the variance of a mean over three seeds, by that of a difference over the examples."""
    random, wrong = np.random.default_rng(0), []
    tuned = np.arange(8) >= 4
    for _ in range(1000):
        drawn = 0.01 * 0.5**0.5 * random.normal(size=(8, 300))
        luck = 0.01 * (3 * share) ** 0.5 * random.normal(size=(8, 3)) * tuned[:, None]
        seeds = 0.5 + 0.01 * 0.5**0.5 * random.normal(size=(8, 1)) + luck
        values = seeds.mean(axis=1)
        given = [row if several else None for row, several in zip(seeds, tuned, strict=True)]
        p = [
            compare(values[a], values[b], values[a] + drawn[a], values[b] + drawn[b], given[a], given[b]).p
            for a, b in combinations(range(8), 2)
        ]
        wrong.append((holm(p) < 0.05).any())
    print(f"\nseeds {share}: different in {100 * np.mean(wrong):.1f} % of tables")
    assert least <= np.mean(wrong) <= most
