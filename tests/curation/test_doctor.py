"""The doctor of data: every planted fault is found in its row, and a clean set has none."""

import numpy as np
import pandas as pd
import pytest
from sbertlab.doctor import collision_share, examine, label_faults, linked_rows, nearer_positives, shared_texts, summary
from sbertlab.helpdesk import graded_pairs, load_helpdesk, triplets
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics.pairwise import cosine_similarity

from sbertlab import doctor
from sbertlab.data.texts import normalised
from sbertlab.encoder.stored_embeddings import StoredEmbeddings

QA = ["text", "answer"]


@pytest.fixture(scope="module")
def clean():
    """Questions and answers; those of an intent share its answer, and the intent says so."""
    return load_helpdesk("train")[[*QA, "intent"]].iloc[::3].reset_index(drop=True)


def found(findings, finding):
    return findings.loc[findings["finding"] == finding, "row"].tolist()


class Written:
    """A model whose embeddings are written down, text by text."""

    def __init__(self, **embeddings):
        self.embeddings = embeddings

    def encode(self, texts):
        return np.array([self.embeddings[text] for text in texts])


def test_clean_sets_have_no_findings(clean):
    train = load_helpdesk("train")
    findings = examine(clean, QA, group="intent", evaluation=load_helpdesk("test")["text"])
    assert findings.empty
    assert list(findings) == list(doctor.COLUMNS)
    assert summary(findings).empty
    assert examine(graded_pairs(train, per_grade=50), ["sentence1", "sentence2"], label="score").empty
    rows = triplets(train)
    phrasings = rows[~rows["positive"].isin(train["answer"])].drop_duplicates("intent")
    assert examine(phrasings, ["anchor", "positive", "negative"]).empty


def test_every_planted_fault_is_found_in_its_row_and_nowhere_else(clean):
    faulty, size = clean.copy(), len(clean)
    held = load_helpdesk("test")["text"].tolist()
    extra = [
        ("  " + faulty["text"][3].upper(), faulty["answer"][3]),  # + 0: repeated
        (faulty["text"][8].rstrip("?.") + "!!", faulty["answer"][8]),  # + 1: nearly repeated
        ("\t ", faulty["answer"][0]),  # + 2: empty
        ("Something else that nobody has asked so far?", faulty["answer"][12]),  # + 3: its answer is known to no group
        (held[5].lower(), "An answer of its own."),  # + 4: in the evaluation
        (held[31].rstrip(".?") + "??", "Another answer that is alone."),  # + 5: nearly
    ]
    faulty = pd.concat([faulty, pd.DataFrame(extra, columns=QA)], ignore_index=True)
    assert normalised(held[31]) != normalised(extra[5][0])
    findings = examine(faulty, QA, group="intent", evaluation=held)
    assert findings.fillna({"other": -1})[["finding", "row", "other"]].to_numpy().tolist() == [
        ["empty text", size + 2, -1],
        ["repeated row", size, 3],
        ["nearly repeated row", size + 1, 8],
        ["shared positive", size + 3, 12],
        ["text of the evaluation", size + 4, 5],
        ["near text of the evaluation", size + 5, 31],
    ]
    assert examine(faulty.drop(index=findings["row"]), QA, group="intent", evaluation=held).empty


def test_near_is_the_cosine_of_runs_of_four_letters_in_the_least_alike_column(monkeypatch):
    questions = ["Where is my parcel?", "Where is my parcel!", "Who has my parcel?"]
    answers = ["It is on its way to you.", "It is on its way to you.", "It is on its way to you."]
    monkeypatch.setattr("sbertlab.doctor.NEAR", 0.8)
    findings = doctor.repeated_rows(pd.DataFrame({"q": questions, "a": answers}), ["q", "a"])
    marked = [f"(({text.lower()})" for text in questions]
    counts = CountVectorizer(analyzer="char", ngram_range=(4, 4)).fit_transform(marked)
    expected = cosine_similarity(counts)
    assert expected[2, 0] < 0.8 < expected[1, 0] < 1
    assert findings[["row", "other"]].to_numpy().tolist() == [[1, 0]]
    assert findings["value"].tolist() == pytest.approx([expected[1, 0]])
    ordered = pd.DataFrame({"text": ["switch from solo to family", "switch from family to solo", "a", "b", "?", "a"]})
    assert examine(ordered, ["text"])[["finding", "row"]].to_numpy().tolist() == [["repeated row", 5]]


def test_shared_texts_are_known_where_the_group_is_the_same_and_told_where_it_is_not():
    table = pd.DataFrame({"q": ["a", "b", "c", "A"], "a": ["x", "X", "y", "z"], "g": [1.0, 1.0, np.nan, np.nan]})
    known = shared_texts(table, ["q", "a"], "g")[["finding", "row", "other"]]
    assert known.to_numpy().tolist() == [["shared anchor", 3, 0]], "missing is not a group"
    assert found(shared_texts(table, ["q", "a"]), "shared positive") == [1]


def test_no_split_by_linked_rows_trains_on_a_text_or_a_group_of_the_test():
    rng = np.random.default_rng(0)
    many = pd.DataFrame({"text": rng.integers(0, 300, 200), "answer": rng.integers(200, 500, 200)}).astype(str)
    many["group"] = [number if number < 50 else None for number in rng.integers(0, 200, 200)]
    for group in (None, "group"):
        linked = linked_rows(many, QA, group)
        assert 20 < linked.nunique() < 150
        for part in linked.unique():
            inside, outside = many[linked == part], many[linked != part]
            assert not set(inside[QA].to_numpy().ravel()) & set(outside[QA].to_numpy().ravel())
            assert group is None or not set(inside[group].dropna()) & set(outside[group].dropna())
    assert linked_rows(many, QA, "group").nunique() < linked_rows(many, QA).nunique()


def test_linked_rows_are_named_by_the_first_and_empty_texts_or_groups_link_nothing():
    table = pd.DataFrame(
        {"text": ["a", "b", " A ", "", ""], "answer": ["x", "y", "z", "u", "v"], "group": ["v", None, "w", None, "u"]},
        index=list("fghij"),
    )
    assert linked_rows(table, QA).tolist() == ["f", "g", "f", "i", "j"]
    assert linked_rows(table, QA, "group").tolist() == ["f", "g", "f", "i", "j"], "a group is no text"
    assert linked_rows(table.assign(group="one"), QA, "group").tolist() == ["f"] * 5
    assert linked_rows(table.head(0), QA).empty


def test_hard_negatives_that_are_right_by_row_anchor_or_group_are_found():
    columns = ["anchor", "positive", "negative_1", "negative_2", "group"]
    rows = [
        ("a", "p", "n", "P ", 1),  # its own positive
        ("A", "q", "p", "n", 2),  # the positive of its anchor in row 0
        ("b", "r", "n", "m", 2),
        ("c", "s", "r", "n", 2),  # the positive of its group in row 2
        ("d", "t", "d", "n", 3),  # its anchor
        ("e", "u", "p", "n", 4),  # the positive of another: as it should be
    ]
    table = pd.DataFrame(rows, columns=columns)
    findings = doctor.false_hard_negatives(table, columns[:4], "group")
    assert findings[["row", "column", "other"]].to_numpy().tolist() == [
        [1, "negative_1", 0],
        [3, "negative_1", 2],
        [4, "negative_1", 4],
        [0, "negative_2", 0],
    ]
    assert doctor.false_hard_negatives(table, columns[:2]).empty


def test_nearer_positives_are_found_by_the_model_nearest_first():
    model = Written(why=[1, 0], wherefore=[1, 0.1], how=[0, 1], so=[1, 1], thus=[1, 0.05], then=[0.1, 1])
    table = pd.DataFrame({"q": ["why", "wherefore", "how"], "a": ["so", "thus", "then"]})
    findings = nearer_positives(table, ["q", "a"], model, alike=0.7)
    assert findings[["row", "other", "text", "other_text"]].to_numpy().tolist() == [[0, 1, "why", "thus"]]
    assert findings["value"].item() == pytest.approx(1 / np.sqrt(1 + 0.05**2))
    assert nearer_positives(table, ["q", "a"], model, alike=0.9999).empty
    assert nearer_positives(table.assign(g=[1, 1, 2]), ["q", "a"], model, "g").empty, "they are known"
    assert nearer_positives(table.assign(a=["so", "so", "then"]), ["q", "a"], model).empty, "one answer is no rival"
    table = pd.DataFrame({"q": ["one", "two"], "a": ["far", "one"]})
    model = Written(one=[1, 0], two=[1, 0.2], far=[0.5, 1])
    assert nearer_positives(table, ["q", "a"], model).empty, "the anchor itself, as a positive of another row"


def test_nearer_positives_are_the_same_block_by_block(monkeypatch, tiny, clean):
    model, table = StoredEmbeddings(tiny()), clean.head(30)
    whole = nearer_positives(table, QA, model, alike=0.1)
    monkeypatch.setattr("sbertlab.curation.doctor.BLOCK", 4)
    pd.testing.assert_frame_equal(nearer_positives(table, QA, model, alike=0.1), whole)
    assert len(whole) > 5


def test_the_tokens_that_are_lost_are_counted(tiny):
    model = tiny()
    model.max_seq_length = 8
    table = pd.DataFrame({"q": ["the cat sits", "the " * 6, "cat " * 20], "a": ["dog " * 7, "dog", "dog"]})
    findings = doctor.truncated_texts(table, ["q", "a"], model)
    assert findings[["row", "column", "value"]].to_numpy().tolist() == [[2, "q", 14.0], [0, "a", 1.0]]
    assert found(examine(table, ["q", "a"], model=model), "truncated text") == [2, 0]
    assert found(examine(table, ["q", "a"], model=StoredEmbeddings(model)), "truncated text") == [2, 0]


def test_labels_that_are_missing_off_the_scale_or_all_the_same_are_found():
    table = pd.DataFrame({"a": list("stuv"), "b": list("wxyz"), "score": [0.0, 1.0, 2.5, 5.0]})
    assert found(examine(table, ["a", "b"], label="score"), "label off the scale") == [2, 3]
    assert examine(table, ["a", "b"], label="score", scale=(0, 5)).empty
    findings = label_faults(pd.DataFrame({"score": [0.5, None, "high", np.inf, "0.5"]}), "score")
    assert found(findings, "missing label") == [1, 2, 3]
    assert found(findings, "constant label") == [0, 4]
    assert label_faults(pd.DataFrame({"score": [1.0]}), "score").empty, "one row is not constant"
    labels = summary(label_faults(pd.DataFrame({"score": [0.0, 4.0]}), "score"))
    assert labels.loc["label off the scale", "example"] == "row 1: score = 4"


@pytest.mark.parametrize(
    "table", [pd.DataFrame({"q": [], "a": [], "s": []}), pd.DataFrame({"q": [""], "a": [""], "s": [1]})]
)
def test_a_table_with_nothing_to_compare_is_examined_all_the_same(table, tiny):
    for label in (None, "s"):
        findings = examine(table, ["q", "a"], label=label, evaluation=["held"], model=tiny())
        assert set(findings["finding"]) == ({"empty text"} if len(table) else set())


def test_a_summary_names_rows_by_the_index_shows_one_and_says_what_to_do():
    table = pd.DataFrame({"q": ["Why? " + "so " * 40, "why?  " + "so " * 40, "", None, 7]}, index=list("abcde"))
    findings = examine(table, ["q"])
    assert found(findings, "empty text") == list("cde")
    told = summary(findings)
    assert told["rows"].to_dict() == {"empty text": 3, "repeated row": 1}
    assert told["what to do"].to_dict() == {name: doctor.REMEDIES[name] for name in told.index}
    assert told.loc["repeated row", "example"].startswith("row b: 'why? so so")
    assert len(told.loc["repeated row", "example"]) < 160


def test_the_expected_collisions_are_those_of_shuffled_batches():
    keys = np.repeat(np.arange(30), np.arange(1, 31) % 5 + 1)
    expected = collision_share(keys.tolist(), batch_size=16)
    random = np.random.default_rng(0)
    batches = (random.permutation(keys)[:16] for _ in range(4000))
    met = [(np.bincount(batch)[batch] > 1).mean() for batch in batches]
    error = np.std(met) / np.sqrt(len(met))
    assert error < 0.005
    assert abs(np.mean(met) - expected) < 4 * error
    assert collision_share(["a", "b", "c"], 3) == 0
    assert collision_share(["a", "a", "a"], 2) == 1


def test_an_index_that_names_two_rows_alike_is_refused():
    with pytest.raises(ValueError, match=r"got 7 twice; frame\.reset_index"):
        examine(pd.DataFrame({"q": ["a", "b"]}, index=[7, 7]), ["q"])
