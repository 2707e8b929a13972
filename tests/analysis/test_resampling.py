"""The weighted statistics against scipy and scikit-learn on resamples written out; what replicates share."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, v_measure_score

from sbertlab.analysis import resampling
from sbertlab.analysis.resampling import Examples, draw_counts, replicates_of

REFERENCES = {
    "mean": lambda values, target: float(np.mean(values)),
    "spearman": lambda scores, gold: float(spearmanr(scores, gold).statistic),
    "average_precision": lambda scores, labels: float(average_precision_score(labels, scores)),
    "v_measure": lambda clusters, classes: float(v_measure_score(classes, clusters)),
}


def some_examples(statistic, n, rivals=1, ties=True, seed=0, **more):
    random = np.random.default_rng(seed)
    if statistic == "v_measure":
        classes = random.integers(4, size=n)
        clusters = np.where(random.random(n) < 0.5, classes, random.integers(5, size=n))
        return Examples(statistic, clusters, classes, **more)
    target = random.integers(2, size=n) if statistic == "average_precision" else random.integers(6, size=n) / 5
    scores = target + random.normal(size=(rivals, n))
    scores = np.round(3 * scores) / 3 if ties else scores
    return Examples(statistic, scores, None if statistic == "mean" else target, **more)


def by_reference(examples, drawn=slice(None)):
    """The definition: the examples `drawn`, written out; the best rival within each set; the mean over the sets."""
    numbers = np.zeros(len(examples)) if examples.sets is None else examples.sets
    numbers, columns = numbers[drawn], examples.predictions[:, drawn]
    target = None if examples.target is None else examples.target[drawn]
    measure = REFERENCES[examples.statistic]
    best = [
        max(measure(row[numbers == one], None if target is None else target[numbers == one]) for row in columns)
        for one in np.unique(numbers)
    ]
    return float(np.mean(best))


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("statistic", REFERENCES)
def test_the_value_is_that_of_scipy_and_scikit_learn(statistic, ties):
    for seed in range(5):
        examples = some_examples(statistic, n=211, rivals=1 if statistic == "v_measure" else 3, ties=ties, seed=seed)
        assert abs(examples.value() - by_reference(examples)) < 1e-9


WRITTEN_OUT = [statistic for statistic in REFERENCES if statistic != "v_measure"]


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("statistic", WRITTEN_OUT)
def test_a_replicate_is_the_statistic_of_the_resample_written_out(statistic, ties):
    examples = some_examples(statistic, n=37, rivals=3, ties=ties)
    counts = np.concatenate(list(draw_counts(37, resamples=50, seed=4)))
    expected = [by_reference(examples, np.repeat(np.arange(37), row)) for row in counts]
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(examples.replicates(50, seed=4), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("statistic", WRITTEN_OUT)
def test_sub_sets_are_resampled_and_averaged_one_by_one(statistic):
    sets = np.random.default_rng(1).permutation(np.repeat([7, 2, 5], [40, 25, 12]))  # neither sorted nor from 0
    examples = some_examples(statistic, n=77, rivals=2, sets=sets)
    assert abs(examples.value() - by_reference(examples)) < 1e-9
    parts = [np.flatnonzero(sets == number) for number in (2, 5, 7)]
    draws = [np.concatenate(list(draw_counts(len(rows), 20, seed=3, subset=part))) for part, rows in enumerate(parts)]
    expected = []
    for resample in range(20):
        drawn = [np.repeat(rows, counts[resample]) for rows, counts in zip(parts, draws, strict=True)]
        expected.append(by_reference(examples, np.concatenate(drawn)))
    np.testing.assert_allclose(examples.replicates(20, seed=3), expected, rtol=0, atol=1e-9)


def test_replicates_of_a_clustering_are_linear_in_what_each_text_adds():
    examples = some_examples("v_measure", n=37)
    rows = np.arange(37)
    without = np.array([by_reference(examples, rows != row) for row in rows])
    counts = np.concatenate(list(draw_counts(37, resamples=50, seed=4)))
    expected = examples.value() + counts @ (without.mean() - without) * 36 / 37
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(examples.replicates(50, seed=4), expected, rtol=0, atol=1e-9)


def test_replicates_take_the_starts_of_a_clustering_in_turn_and_its_value_is_of_the_first():
    one, other = (some_examples("v_measure", n=60, seed=seed) for seed in (0, 1))
    clusters = np.concatenate([one.predictions, other.predictions])
    sets = np.arange(60) % 2
    both = Examples("v_measure", clusters, one.target, sets)
    assert (one.starts, both.starts) == (1, 2)
    alone = [Examples("v_measure", row, one.target, sets) for row in clusters]
    assert both.value() == alone[0].value() != alone[1].value()
    drawn, turns = both.replicates(40, seed=2), [each.replicates(40, seed=2) for each in alone]
    np.testing.assert_array_equal(drawn[::2], turns[0][::2])
    np.testing.assert_array_equal(drawn[1::2], turns[1][1::2])


@pytest.mark.parametrize("statistic", REFERENCES)
def test_examples_drawn_once_for_several_models_give_what_each_gives_alone(statistic):
    sets = np.random.default_rng(1).permutation(np.repeat([7, 2, 5], [40, 25, 12]))
    several = [some_examples(statistic, n=77, rivals=2, sets=sets, seed=seed) for seed in range(3)]
    positives = None if several[0].target is None else several[0].target.sum()
    assert several[0].averaged == (positives if statistic == "average_precision" else 77)
    together = replicates_of(several, 30, seed=4)
    assert np.ptp(together, axis=0).max() > 0.01, "three models"
    np.testing.assert_array_equal(together, [examples.replicates(30, seed=4) for examples in several])


def test_resamples_draw_every_example_equally_often_and_independently():
    counts = np.concatenate(list(draw_counts(50, resamples=20_000)))
    assert (counts.sum(axis=1) == 50).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.04)  # 5 standard errors
    np.testing.assert_allclose(counts.var(axis=0), 0.98, atol=0.06)  # multinomial: 1 - 1/n
    assert np.corrcoef(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / 49, abs=0.035)


@pytest.mark.parametrize("statistic", REFERENCES)
def test_neither_the_block_nor_the_number_of_resamples_changes_a_replicate(statistic, monkeypatch):
    examples = some_examples(statistic, n=60)
    if statistic == "v_measure":
        examples = Examples(statistic, [examples.predictions[0], examples.predictions[0] % 3], examples.target)
    whole = examples.replicates(100)
    np.testing.assert_array_equal(whole[:30], examples.replicates(30))
    monkeypatch.setattr(resampling, "BLOCK", 60 * 7 + 1)
    np.testing.assert_array_equal(whole, examples.replicates(100))


@pytest.mark.parametrize(
    ("statistic", "predictions", "target", "value"),
    [
        ("spearman", [0.5, 0.5, 0.5], [1, 2, 3], 0.0),
        ("spearman", [1, 2, 3], [4, 4, 4], 0.0),
        ("spearman", [1], [4], 0.0),
        ("average_precision", [0.1, 0.2], [0, 0], 0.0),
        ("average_precision", [0.1, 0.2], [1, 1], 1.0),
        ("average_precision", [0.3, 0.3, 0.3, 0.3], [1, 0, 0, 0], 0.25),
        ("v_measure", [0, 0, 0], [1, 1, 1], 1.0),
        ("v_measure", [0, 1, 2], [1, 1, 1], 0.0),
        ("v_measure", [0, 0, 0], [0, 1, 2], 0.0),
        ("v_measure", [5, 9, 5], [-1, 4, -1], 1.0),
        ("mean", [0.7], None, 0.7),
    ],
)
def test_what_has_one_class_or_no_spread_is_defined(statistic, predictions, target, value):
    examples = Examples(statistic, predictions, target)
    with np.errstate(all="raise"):
        assert examples.value() == pytest.approx(value, abs=1e-12)
        assert np.isfinite(examples.replicates(200)).all()  # with a handful of examples, many resamples are degenerate


@pytest.mark.parametrize("sets", [None, [0, 0, 1, 1]])
def test_examples_come_back_from_their_file(sets, tmp_path):
    examples = Examples("spearman", [[0.1, 0.2, 0.3, 0.2], [1.0, 0.0, 0.0, 1.0]], [1, 2, 2, 3], sets)
    path = tmp_path / "cell.examples"
    examples.save(path)
    back = Examples.load(path)
    assert (back.statistic, len(back), back.sets is None) == ("spearman", 4, sets is None)
    np.testing.assert_array_equal(back.replicates(10), examples.replicates(10))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("median", [1.0]), "statistic must be one of .*'spearman'.*, got 'median'"),
        (("mean", []), "predictions must have the shape .* at least one number"),
        (("mean", [0.5, np.nan]), r"predictions must be finite.*\[0, 1\] is nan"),
        (("mean", [0.5], [1]), "mean takes no target"),
        (("spearman", [0.5, 0.1]), "spearman needs a target"),
        (("spearman", [0.5, 0.1], [1]), r"target must have the shape \(2,\)"),
        (("mean", [0.5, 0.1], None, [0, 1, 2]), r"sets must have the shape \(2,\)"),
        (("average_precision", [0.5, 0.1], [1, 2]), r"labels must be 0 or 1, got \[1.0, 2.0\]"),
        (("v_measure", [0, 1], ["news", "sport"]), "target must be numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        Examples(*arguments)
