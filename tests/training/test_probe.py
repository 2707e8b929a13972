"""The metrics of the embedding space against slow formulas, the probe's pairs, and when a collapse is reported."""

import math
import warnings
from itertools import combinations, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sbertlab.helpdesk import graded_pairs, load_helpdesk, triplets
from torch import nn
from torch.utils.data import DataLoader

from sbertlab import InputExample, SentenceTransformer, losses, models
from sbertlab.data import collate
from sbertlab.training.probe import METRICS, MOST_TEXTS, CollapseWarning, Probe, collapse_reason, space_metrics
from tests.training.runs import PAIRS, Stream, assert_equal, ranking, run

BEFORE = {"alignment": 0.8, "uniformity": -3.0, "effective_rank": 100.0, "mean_cosine": 0.2, "margin": 0.3}


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def slow_metrics(anchors, positives, negatives):
    """The definitions, pair by pair, in NumPy."""

    def unit(rows):
        return np.stack([row / np.sqrt(sum(x * x for x in row)) for row in rows])

    a, p = unit(anchors), unit(positives)
    every = np.concatenate([a, p] if negatives is None else [a, p, unit(negatives)])
    n = len(a)
    own = np.mean([a[i] @ p[i] for i in range(n)])
    if negatives is None:
        other = np.mean([a[i] @ p[j] for i, j in product(range(n), range(n)) if i != j])
    else:
        other = np.mean([a[i] @ unit(negatives)[i] for i in range(n)])
    shares = np.sqrt(np.clip(np.linalg.eigvalsh(every.T @ every), 0, None))
    shares = [share / shares.sum() for share in shares if share > 1e-9]
    apart = [np.exp(-2 * ((x - y) ** 2).sum()) for x, y in combinations(every, 2)]
    return {
        "alignment": float(np.mean([((a[i] - p[i]) ** 2).sum() for i in range(n)])),
        "uniformity": math.log(np.mean(apart)),
        "effective_rank": math.exp(-sum(share * math.log(share) for share in shares)),
        "mean_cosine": float(np.mean([x @ y for x, y in combinations(every, 2)])),
        "margin": float(own - other),
    }


def metrics_of(*columns):
    """The metrics of anchors, positives and negatives, by the pairs of a probe on texts that stand for them."""
    probe = Probe([[f"{place} {row}" for row in range(len(column))] for place, column in enumerate(columns)])
    places = [list(map(int, text.split())) for text in probe.texts]
    return space_metrics(torch.stack([columns[place][row] for place, row in places]), probe.positive, probe.negative)


@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_metrics_equal_their_definitions(with_negatives, dtype):
    a, p, n = (draw(7, 5, seed=seed, dtype=dtype) for seed in range(3))
    found = metrics_of(a, p, *([n] if with_negatives else []))
    expected = slow_metrics(a.double().numpy(), p.double().numpy(), n.double().numpy() if with_negatives else None)
    assert tuple(found) == METRICS
    assert found == pytest.approx(expected, abs=1e-9)


def test_orthogonal_embeddings_have_full_rank_and_zeros_have_none():
    ranks = [space_metrics(rows)["effective_rank"] for rows in (torch.eye(8), torch.zeros(4, 3))]
    assert ranks == [pytest.approx(8), 0]
    metrics = metrics_of(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 3.0]]))
    assert [metrics[name] for name in ("alignment", "mean_cosine", "uniformity")] == [1, 0, -2]


def test_what_cannot_be_computed_is_nan_and_no_collapse():
    assert [name for name, value in space_metrics(draw(4, 3)).items() if math.isnan(value)] == ["alignment", "margin"]
    assert all(math.isnan(value) for value in space_metrics(torch.empty(0, 3)).values())
    for bad in (math.nan, math.inf):
        spoilt = draw(4, 3)
        spoilt[2, 1] = bad
        metrics = space_metrics(spoilt)
        assert all(math.isnan(metrics[name]) for name in METRICS)
        assert collapse_reason(BEFORE, metrics) is collapse_reason(metrics, BEFORE) is None


ROWS, CROSSED = {("a", "A"), ("b", "B")}, {("a", "B"), ("b", "A")}
THREE = [["a", "b", "c"], ["A", "B", "C"]]


@pytest.mark.parametrize(
    ("columns", "labels", "positive", "negative"),
    [
        ([["a", "b"], ["A", "B"]], None, ROWS, CROSSED),  # the positives of other rows
        ([["a", "b"], ["A", "B"]], [0, 0], ROWS, CROSSED),
        ([["a", "b"], ["A", "B"]], draw(2, 5), ROWS, CROSSED),
        ([["a", "b"], ["A", "B"]], [1.0, 0.9], ROWS, CROSSED),  # no label is low
        ([["a", "a", "b"], ["A", "A2", "A"]], None, {("a", "A"), ("a", "A2"), ("b", "A")}, {("b", "A2")}),
        (
            [["a", "b"], ["A", "B"], ["x", "y"], ["z", "A"]],
            None,
            ROWS,
            {("a", "x"), ("a", "z"), ("b", "y"), ("b", "A")},
        ),
        (THREE, [5.0, 2.4, 2.5], {("a", "A"), ("c", "C")}, {("b", "B")}),  # the upper half of the scale
        (THREE, [1, 0, 1], {("a", "A"), ("c", "C")}, {("b", "B")}),
        (THREE, [True, False, True], {("a", "A"), ("c", "C")}, {("b", "B")}),
        (THREE, [0.5, -1.0, 0.1], {("a", "A"), ("c", "C")}, {("b", "B")}),
        (THREE, [[0.9], [0.1], [0.5]], {("a", "A"), ("c", "C")}, {("b", "B")}),
        (THREE, [0, 2, 1], set(), set()),  # classes of pairs
        ([["a", "b", "c"]], np.array([3, 7, 3]), {("a", "c"), ("c", "a")}, {*map(tuple, ("ab", "ba", "bc", "cb"))}),
        ([["a", "b"]], None, set(), set()),
        ([["a", "b"]], [0.5, 1.0], set(), set()),
    ],
)
def test_which_pairs_are_positive_and_negative(columns, labels, positive, negative):
    probe = Probe(columns, labels)
    for mask, expected in ((probe.positive, positive), (probe.negative, negative)):
        assert {(probe.texts[i], probe.texts[j]) for i, j in mask.nonzero().tolist()} == expected


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 9])
def test_a_probe_keeps_so_many_texts_chosen_by_the_seed(columns):
    table = [[f"{row} {column}" for row in range(1000)] for column in range(columns)]
    probe = Probe(table)
    assert MOST_TEXTS - 9 < len(probe.texts) <= MOST_TEXTS
    assert probe.texts == Probe(table).texts
    assert probe.texts != Probe(table, seed=1).texts
    assert len(probe.texts) == len(set(probe.texts))


UNTRAINED = BEFORE | {"mean_cosine": 0.98, "effective_rank": 7.0, "margin": 0.0}
CONE = BEFORE | {"mean_cosine": 0.8, "effective_rank": 60.0, "margin": 0.1}
POINT = BEFORE | {"mean_cosine": 1.0, "effective_rank": 1.0, "margin": 0.0}


@pytest.mark.parametrize(
    ("first", "change", "shape"),
    [
        (UNTRAINED, {}, None),
        (CONE, {"mean_cosine": 0.9}, None),
        (CONE, {"mean_cosine": 0.98, "margin": 0.02}, "point"),
        (UNTRAINED, {"mean_cosine": 0.999}, "point"),
        (BEFORE, {"mean_cosine": 0.9, "margin": math.nan}, "point"),
        (BEFORE, {"mean_cosine": 0.0, "effective_rank": 1.5, "margin": 0.05}, "line"),
        (BEFORE, {"mean_cosine": 0.0, "effective_rank": 1.5, "margin": 1.9}, None),  # two distant clusters
        (BEFORE, {"mean_cosine": 0.95, "effective_rank": 1.5, "margin": 1.5}, None),
        (BEFORE | {"effective_rank": 1.9}, {"effective_rank": 1.5}, None),  # two dimensions have never had more
        (POINT, {"mean_cosine": 1.0 + 1e-12}, None),  # one point from the start
    ],
)
def test_collapse_is_a_matter_of_comparison(first, change, shape):
    reason = collapse_reason(first, first | change)
    assert reason is None if shape is None else f"nearly one {shape}" in str(reason)


def reasons(model, loss, columns, labels, lr, steps):
    """Train by a loop of our own, at batch 16, and yield what is said of the space every third step."""
    probe = Probe([column[:40] for column in columns], None if labels is None else labels[:40])
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    first = probe.measure(model)
    for step in range(1, steps + 1):
        batch = torch.randperm(len(columns[0]), generator=torch.Generator().manual_seed(step))[:16].tolist()
        texts = [column[row] for column in columns for row in batch]
        loss.compute(model.embed(texts).chunk(len(columns)), None if labels is None else labels[batch]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 3 == 0:
            yield step, collapse_reason(first, probe.measure(model))


def helpdesk_rows(columns):
    return triplets(load_helpdesk("train"))[["anchor", "positive", "negative"][:columns]].to_numpy().T.tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")
@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("lr", [2e-5, 1e-4, 1e-3])
def test_ranking_training_is_never_called_a_collapse(tiny, columns, lr):
    rows = helpdesk_rows(columns)
    said = dict(reasons(tiny(), losses.MultipleNegativesRankingLoss(), rows, None, lr, steps=39))
    assert set(said.values()) == {None}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")
def test_training_on_grades_or_on_two_classes_is_not_called_a_collapse(tiny):
    table = load_helpdesk("train")
    graded = graded_pairs(table).sample(frac=1, random_state=0)
    rows = graded[["sentence1", "sentence2"]].to_numpy().T.tolist()
    scores = torch.tensor(graded["score"].to_numpy(), dtype=torch.float32)
    assert not any(dict(reasons(tiny(), losses.CosineSimilarityLoss(), rows, scores, 1e-3, steps=39)).values())
    two = table[table["topic"].isin(table["topic"].unique()[:2])].sample(frac=1, random_state=0)
    classes = torch.tensor(two["topic"].factorize()[0] + 1)
    assert not any(
        dict(reasons(tiny(), losses.BatchAllTripletLoss(), [two["text"].tolist()], classes, 1e-3, steps=60)).values()
    )


POSITIVE = [InputExample(texts=row.texts, label=1.0) for row in PAIRS]


def only_positives(model):
    return [(DataLoader(POSITIVE, batch_size=6, shuffle=True), losses.CosineSimilarityLoss(model))]


def run_of(model, number=0):
    """What a probe reads of a run after so many steps."""
    return SimpleNamespace(step=SimpleNamespace(model=model, number=number, rows=[{}]))


@pytest.mark.parametrize("on_collapse", ["warn", "stop", "ignore"])
def test_positives_alone_collapse_the_space_which_is_reported_once(tiny, on_collapse):
    model = tiny()
    how = {"epochs": 12, "steps_per_epoch": 3, "warmup_steps": 0, "probe_steps": 3}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = run(model, only_positives(model), on_collapse=on_collapse, **how)
    told = [one for one in caught if issubclass(one.category, CollapseWarning)]
    last = history["step"].iloc[-1]
    assert len(told) == (on_collapse != "ignore")
    assert history.attrs["collapsed"] == (on_collapse != "ignore")
    assert history.attrs["stopped_early"] == (on_collapse == "stop")
    assert (last < 36) == (on_collapse == "stop")
    assert history["mean_cosine"].iloc[-1] > 0.8
    if on_collapse == "stop":
        assert f"step {last}: the embeddings have become nearly one point" in str(told[0].message)


def test_the_space_is_in_the_history_at_every_so_many_steps_and_only_there(tiny):
    model = tiny()
    history = run(model, ranking(model) + only_positives(model), probe_steps=2)
    assert len(history) == 16, "two objectives, eight steps"
    measured = history[history["alignment"].notna()]
    assert measured["step"].tolist() == [2, 4, 6, 8]
    assert (measured["objective"] == "1:CosineSimilarityLoss").all(), "in the last row of the step"
    assert measured[list(METRICS)].notna().all(axis=None)


def test_the_figures_are_those_of_the_model_without_dropout_and_watching_does_not_change_the_run(tiny):
    watched, alone = tiny(dropout=0.3), tiny(dropout=0.3)
    history = run(watched, probe_steps=1)
    run(alone, probe_steps=0)
    assert_equal(watched, alone)
    probe = Probe(*collate(PAIRS), seed=0)
    embeddings = watched.encode(probe.texts, convert_to_tensor=True)
    expected = space_metrics(embeddings, probe.positive, probe.negative)
    assert history[list(METRICS)].iloc[-1].to_dict() == pytest.approx(expected, abs=1e-5)


def test_a_short_run_no_steps_and_a_stream_leave_the_probe_out(tiny):
    model = tiny()
    stream = ranking(model, Stream(), shuffle=False)
    for objectives, how in (
        (None, {}),
        (None, {"probe_steps": 0}),
        (None, {"probe_steps": 9}),
        (stream, {"probe_steps": 1}),
    ):
        history = run(model, objectives, **how)
        assert len(history) == 8
        assert history[list(METRICS)].isna().all(axis=None)


def test_routes_are_measured_as_they_are_trained(tiny):
    parts = [tiny(seed=seed) for seed in (0, 1)]
    router = models.Router({"query": list(parts[0]), "document": list(parts[1])})
    model = SentenceTransformer(modules=[router], device="cpu")
    rows = [InputExample(texts=[{"query": row.texts[0]}, {"document": row.texts[1]}]) for row in PAIRS]
    assert run(model, ranking(model, rows), probe_steps=4)["margin"].notna().sum() == 2


def test_a_resumed_probe_compares_with_the_space_before_the_first_step(tiny):
    model = tiny()
    before, later, resumed = (Probe(*collate(PAIRS), on_collapse="stop") for _ in range(3))
    before.on_begin(run_of(model))
    with torch.no_grad():  # every text gets the embedding of the others: the last layer norm gives its bias alone
        norm = model[0].auto_model.encoder.layer[-1].output.LayerNorm
        norm.weight.zero_()
        norm.bias.fill_(1.0)
    later.restore(before.state())
    later.on_begin(run_of(model))
    assert later.state() == before.state(), "what was measured first is not measured again"
    with pytest.warns(CollapseWarning, match="step 4:"):
        later.on_step(run_of(model, 4))
    assert later.stops
    resumed.restore(later.state())
    assert resumed.stops
