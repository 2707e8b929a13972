"""Keeping a model current: replay of old data, what was gained and lost, and models between two."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sbertlab.continual import gained_and_lost, interpolate, interpolation_curve, replay
from torch import nn
from torch.utils.data import DataLoader

from sbertlab import InputExample, losses, models
from sbertlab.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    RerankingEvaluator,
    TripletEvaluator,
)
from tests.training.runs import assert_equal, weights

NEW = [
    ("the parcel is late", "when is my delivery", "a refund of the money"),
    ("reset my password", "how do i change the password", "close my account"),
    ("the order is broken", "my order is not good", "where is my order"),
    ("stop the e mail", "i do not want your letter", "the invoice is late"),
]
OLD = [
    ("the cat sits in the garden", "a cat is in the garden", "the dog sits in the garden"),
    ("a man plays the guitar", "the man is playing music", "a man reads a book"),
    ("snow in the night", "it is cold at night", "the sun is hot"),
    ("red apple and green apple", "two apples", "bread and cheese"),
]
QUIET = {"show_progress_bar": False, "warmup_steps": 0}


def rows_of(triples):
    return [InputExample(texts=list(texts), label=None) for texts in triples]


def numbered(kind, count):
    return [InputExample(texts=[f"{kind} {place}"]) for place in range(count)]


def first_texts(rows):
    return [row.texts[0] for row in rows]


def old_of_epoch(rows, epoch):
    rows.set_epoch(epoch)
    return [text for text in first_texts(rows) if text.startswith("old")]


def train(model, rows, loss=losses.MultipleNegativesRankingLoss, **arguments):
    loader = DataLoader(rows, batch_size=4, shuffle=True)
    model.fit([(loader, loss(model))], **{"epochs": 10, "optimizer_params": {"lr": 2e-3}, **QUIET, **arguments})
    return model


def evaluator_of(triples, **arguments):
    return TripletEvaluator(*map(list, zip(*triples, strict=True)), **arguments)


def letters(*counted):
    """A model whose embedding of a text counts these letters."""
    return SimpleNamespace(
        encode=lambda texts, **_: [[text.count(letter) + 0.0 for letter in counted] for text in texts]
    )


@pytest.mark.parametrize(("share", "count"), [(0.2, 20), (0.5, 80), (0.01, 1), (0.001, 1), (0, 0), (0.8, 100)])
def test_an_epoch_holds_all_new_rows_in_their_order_and_the_share_of_old_ones(share, count):
    rows = replay(numbered("new", 80), numbered("old", 100), share)
    texts = first_texts(rows)
    assert len(rows) == len(texts) == 80 + count
    assert [text for text in texts if text.startswith("new")] == [f"new {place}" for place in range(80)]
    assert len({text for text in texts if text.startswith("old")}) == count


def test_old_rows_lie_evenly_so_that_batches_in_order_hold_their_share_too():
    texts = first_texts(replay(numbered("new", 60), numbered("old", 40), share=0.25))
    for start in range(0, 80, 8):
        assert sum(text.startswith("old") for text in texts[start : start + 8]) == 2


def test_an_epoch_follows_from_the_seed_and_its_number_and_no_old_row_returns_before_the_others():
    new, old = numbered("new", 8), numbered("old", 10)
    walked, jumped, other = replay(new, old), replay(new, old), replay(new, old, seed=1)
    epochs = [old_of_epoch(walked, epoch) for epoch in range(10)]
    assert len(set().union(*epochs[:5])) == len(set().union(*epochs[5:])) == 10
    assert epochs[:5] != epochs[5:], "the second walk has an order of its own"
    assert [old_of_epoch(jumped, epoch) for epoch in (5, 0, 3)] == [epochs[5], epochs[0], epochs[3]]
    assert [old_of_epoch(other, epoch) for epoch in range(5)] != epochs[:5]


def test_a_wrong_share_and_rows_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="share must be a number"):
        replay(rows_of(NEW), rows_of(OLD), 1)
    with pytest.raises(ValueError, match=r"example 4 has 2 texts and .*, example 0 has 3"):
        replay(rows_of(NEW), [InputExample(texts=["a", "b"], label=None)] * 3)
    with pytest.raises(ValueError, match=r"example 4 has 3 texts and the label 1.0, example 0 has 3 and None"):
        replay(rows_of(NEW), [InputExample(texts=["a", "b", "c"], label=1.0)])


def test_fit_sets_the_epoch_so_that_its_passes_see_different_old_rows(tiny):
    seen = []
    dataset = replay(rows_of(NEW), rows_of(OLD), share=1 / 3)

    def pass_seen(score, epoch, steps):
        seen.append({text for text in first_texts(dataset) if text in {triple[0] for triple in OLD}})

    train(tiny(), dataset, epochs=2, evaluator=lambda *_, **__: 0.0, callback=pass_seen)
    assert [len(part) for part in seen] == [2, 2]
    assert not seen[0] & seen[1]


def test_replay_keeps_what_training_on_new_data_alone_forgets(tiny):
    old = [InputExample(texts=[a, text], label=y) for a, near, far in OLD for text, y in ((near, 1.0), (far, 0.0))]
    new = [InputExample(texts=[anchor, positive], label=1.0) for anchor, positive, _ in NEW]  # nothing is unlike
    settings = {"loss": losses.CosineSimilarityLoss, "epochs": 20}
    before = train(tiny(), old, **settings)
    after = [train(copy.deepcopy(before), replay(new, old, share), **settings) for share in (0, 0.5)]
    on_old = evaluator_of(OLD, margin=0.3, main_similarity_function="cosine")
    alone, replayed = (gained_and_lost(before, model, evaluator_of(NEW), on_old, False).loc[1] for model in after)
    assert alone["before"] == replayed["before"] == 1.0, "what was not learnt cannot be forgotten"
    assert alone["difference"] < -0.5
    assert replayed["difference"] == 0.0
    assert alone["worse"] == -alone["difference"]


def test_the_table_has_a_row_for_every_evaluator_and_counts_examples_that_rose_and_fell():
    won, lost, kept = ("c", "c", "d"), ("a", "a", "b"), ("ac", "ac", "bd")
    new = evaluator_of([won, won, kept, lost], name="dev")
    graded = EmbeddingSimilarityEvaluator(["a", "a", "a"], ["a", "ab", "b"], [1, 0.5, 0], main_similarity="cosine")
    table = gained_and_lost(
        letters("a", "b"), letters("c", "d"), new, [graded, evaluator_of([lost]), lambda model: 0.5], False
    )
    expected = pd.DataFrame(
        [
            ("new", "dev", "dev_max_accuracy", 0.5, 0.75, 0.25, 0.5, 0.25),
            ("old", "EmbeddingSimilarityEvaluator", "spearman_cosine", 1.0, 0.0, -1.0, np.nan, np.nan),
            ("old", "TripletEvaluator", "max_accuracy", 1.0, 0.0, -1.0, 0.0, 1.0),
            ("old", "function", None, 0.5, 0.5, 0.0, np.nan, np.nan),
        ],
        columns=["side", "evaluator", "metric", "before", "after", "difference", "better", "worse"],
    )
    pd.testing.assert_frame_equal(table, expected)


def test_examples_of_rankings_are_counted_by_their_own_value():
    queries, corpus = {"q1": "c", "q2": "a"}, {"d1": "d", "d2": "c", "d3": "a", "d4": "b"}
    search = InformationRetrievalEvaluator(queries, corpus, {"q1": {"d2"}, "q2": {"d3"}}, name="search")
    ranked = RerankingEvaluator([{"query": "c", "positive": ["c"], "negative": ["d"]}])
    table = gained_and_lost(letters("a", "b"), letters("a", "c"), search, ranked, False)
    assert table["better"].tolist() == [0.5, 1.0]
    assert table["worse"].tolist() == [0.0, 0.0]
    assert (table["difference"] > 0).all()


def test_the_same_model_twice_is_refused():
    model, evaluator = letters("a"), evaluator_of(NEW)
    with pytest.raises(ValueError, match=r"one object.*copy\.deepcopy"):
        gained_and_lost(model, model, evaluator, evaluator)


def test_a_model_between_two_has_the_mean_weights_and_leaves_both_as_they_are(tiny):
    base, tuned = tiny(seed=0), tiny(seed=1)
    for model, steps in ((base, 3), (tuned, 8)):
        model[1].register_buffer("steps", torch.tensor(steps))
    tuned.prompts, tuned.max_seq_length = {"query": "query: "}, 16
    before, after = weights(base), weights(tuned)
    mixed = interpolate(base, tuned, 0.25)
    for name, weight in weights(mixed).items():
        if weight.is_floating_point():
            assert torch.allclose(weight, 0.75 * before[name] + 0.25 * after[name], atol=1e-7), name
    assert (mixed[1].steps.item(), mixed.prompts, mixed.max_seq_length) == (8, {"query": "query: "}, 16)
    train(mixed, rows_of(NEW), epochs=1)
    assert_equal(weights(base), before)
    assert_equal(weights(tuned), after)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_ends_are_the_two_models_to_the_bit(tiny, dtype):
    base, tuned = tiny(seed=0).to(dtype), tiny(seed=1).to(dtype)
    assert_equal(interpolate(base, tuned, 0), base)
    assert_equal(interpolate(base, tuned, 1), tuned)


def test_half_precision_weights_are_mixed_in_float32_and_rounded_once(tiny):
    base, tuned = tiny(seed=0).bfloat16(), tiny(seed=1).bfloat16()
    mixed, rounded_often = interpolate(base, tuned, 0.3), 0
    for name, weight in mixed.state_dict().items():
        old, new = base.state_dict()[name], tuned.state_dict()[name]
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, ((1 - 0.3) * old.float() + 0.3 * new.float()).bfloat16()), name
        rounded_often += int((weight != (1 - 0.3) * old + 0.3 * new).sum())
    assert rounded_often, "in bfloat16 throughout the numbers would be others"


def test_weights_that_are_equal_in_both_models_stay_so_to_the_bit(tiny):
    base, tuned = tiny(seed=0), tiny(seed=1)
    frozen = "0.auto_model.embeddings.word_embeddings.weight"
    shared = base.state_dict()[frozen]
    shared[0, 0] = -torch.inf
    tuned.state_dict()[frozen].copy_(shared)
    assert not torch.equal((1 - 0.3) * shared + 0.3 * shared, shared), "the formula alone would round"
    for alpha in (0.3, 0):
        assert torch.equal(interpolate(base, tuned, alpha).state_dict()[frozen], shared)


def test_models_that_do_not_belong_together_are_refused_by_their_first_difference(tiny):
    wide = tiny()
    wide[0].auto_model.pooler = nn.Linear(32, 8)
    for tuned, difference in [
        (tiny(pooling="cls"), "block 1 differs"),
        (tiny(modules=[models.Dense(32, 8)]), r"weight 2\.linear\.weight differs"),
        (tiny().bfloat16(), r"weight 0\..* differs"),
        (wide, r"weight 0\.auto_model\.pooler\.dense\.weight differs"),
    ]:
        with pytest.raises(ValueError, match=difference):
            interpolate(tiny(), tuned, 0.5)
    with pytest.raises(ValueError, match="alpha must be a number of at least 0 and at most 1"):
        interpolate(tiny(), tiny(), 1.5)


def test_the_curve_joins_the_scores_of_the_two_models(tiny):
    base = train(tiny(), rows_of(OLD))
    tuned = train(copy.deepcopy(base), rows_of(NEW))
    on_new, on_old = evaluator_of(NEW), [evaluator_of(OLD), evaluator_of(NEW)]
    curve = interpolation_curve(base, tuned, on_new, on_old, show_progress_bar=False)
    assert curve.columns.tolist() == ["alpha", "new", "old"]
    assert curve["alpha"].tolist() == [0, 0.25, 0.5, 0.75, 1]
    ends = gained_and_lost(base, tuned, on_new, on_old, False)
    for place, column in ((0, "before"), (-1, "after")):
        assert curve["new"].iloc[place] == ends.loc[0, column]
        assert curve["old"].iloc[place] == pytest.approx(ends.loc[1:, column].mean()), "the mean of the evaluators"
    assert curve["new"][2] == on_new(interpolate(base, tuned, 0.5))[on_new.primary_metric]
