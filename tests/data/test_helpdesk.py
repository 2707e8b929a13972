"""The packaged corpus, and the pairs and triplets derived from it."""

from itertools import combinations

import pandas as pd
import pytest

from sbertlab import helpdesk


@pytest.fixture(scope="module")
def corpus():
    return helpdesk.load_helpdesk()


def test_the_corpus_has_the_size_its_readme_states_and_repeats_no_text(corpus):
    answers = corpus["answer"].drop_duplicates()
    assert (len(corpus), len(answers), corpus["intent"].nunique(), corpus["topic"].nunique()) == (1440, 120, 120, 12)
    assert pd.concat([corpus["text"], answers]).nunique() == 1560
    assert (corpus.groupby(["intent", "style"]).size() == 2).all()
    assert answers.str.count(r"[.!?](?:\s|$)").between(2, 4).all(), "answers have two to four sentences"
    readme = helpdesk.CORPUS.with_name("README.md").read_text(encoding="utf-8")
    for words in ("CC0", "1,440", "120, 10 per topic", *corpus["topic"].unique(), *corpus["style"].unique()):
        assert words in readme


def test_near_intents_are_mutual_and_topics_are_split_alike(corpus):
    intents = corpus.drop_duplicates("intent").set_index("intent")
    assert (intents["near"].map(len) >= 2).all()
    for intent, near, topic in intents[["near", "topic"]].itertuples():
        assert intent not in near
        assert all(intent in intents.loc[other, "near"] for other in near)
        assert {*intents.loc[[*near], "topic"]} == {topic}
    counts = intents.groupby(["topic", "split"]).size().unstack()  # noqa: PD010
    assert (counts[["train", "dev", "test"]] == [5, 1, 4]).all(axis=None)
    assert len(corpus.drop_duplicates(["intent", "split"])) == 120


def test_grades_of_pairs_equal_those_found_pair_by_pair(corpus):
    table = corpus[corpus["topic"].isin(["billing", "returns"])].iloc[::5].reset_index(drop=True)
    expected = [
        3 if one.intent == other.intent else 2 if other.intent in one.near else int(one.topic == other.topic)
        for one, other in combinations(table.itertuples(), 2)
    ]
    found = helpdesk.pairs(table)
    assert found["grade"].tolist() == expected
    assert set(expected) == {0, 1, 2, 3}
    assert list(zip(found["first"], found["second"], strict=True)) == list(combinations(range(len(table)), 2))


def test_graded_pairs_hold_as_many_of_each_grade_and_no_pair_twice():
    test = helpdesk.load_helpdesk("test")
    pairs = helpdesk.graded_pairs(test, per_grade=50, seed=1)
    assert pairs["score"].value_counts().to_dict() == {0: 50, 1 / 3: 50, 2 / 3: 50, 1: 50}
    assert not pairs.duplicated(["sentence1", "sentence2"]).any()
    pd.testing.assert_frame_equal(pairs, helpdesk.graded_pairs(test, per_grade=50, seed=1))
    assert not pairs.equals(helpdesk.graded_pairs(test, per_grade=50, seed=2))


def test_triplets_take_the_positive_from_the_intent_and_the_negative_from_a_near_one():
    train = helpdesk.load_helpdesk("train")
    intent_of = dict(zip([*train["text"], *train["answer"]], [*train["intent"]] * 2, strict=True))
    near_of = dict(zip(train["intent"], train["near"], strict=True))
    rows = helpdesk.triplets(train, seed=3)
    assert sorted(rows["anchor"]) == sorted(train["text"])
    held_out = pd.concat([helpdesk.load_helpdesk("dev"), helpdesk.load_helpdesk("test")])
    assert not {*rows["positive"], *rows["negative"]} & {*held_out["text"], *held_out["answer"]}
    for column, intent in (("anchor", "intent"), ("positive", "intent"), ("negative", "negative_intent")):
        assert (rows[column].map(intent_of) == rows[intent]).all()
    assert not ((rows["anchor"] == rows["positive"]) | (rows["intent"] == rows["negative_intent"])).any()
    for intent, other in zip(rows["intent"], rows["negative_intent"], strict=True):
        assert (other in near_of[intent]) == bool(set(near_of[intent]) & set(near_of))
    answers = set(train["answer"])
    assert rows["positive"].isin(answers).sum() == len(rows) / 2
    assert (rows["positive"].isin(answers) == rows["negative"].isin(answers)).all()
    batches = [rows["intent"].iloc[start : start + size] for size in (20, 30, 60) for start in range(0, 720, size)]
    assert all(batch.is_unique for batch in batches)


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match=r"split must be one of .*'validation'"):
        helpdesk.load_helpdesk("validation")
    with pytest.raises(ValueError, match=r"4176 pairs of grade 'near intent'.*5000"):
        helpdesk.duplicate_pairs(helpdesk.load_helpdesk("test"), others=5000)
