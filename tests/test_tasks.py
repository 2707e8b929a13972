from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from sbertlab import SentenceTransformer, helpdesk, tasks
from sbertlab.tasks import SharedEmbeddings, Task, helpdesk_tasks, select_tasks


@pytest.fixture(scope="module")
def corpus() -> pd.DataFrame:
    return helpdesk.load_helpdesk()


class Oracle:
    """Knows the intent of every text of the corpus, and its topic."""

    def __init__(self, corpus: pd.DataFrame, intent_weight: float = 1.0) -> None:
        answers = corpus.drop_duplicates("intent")
        texts = pd.concat([corpus["text"], answers["answer"]])
        known = pd.concat([corpus, answers])
        vectors = np.hstack([intent_weight * pd.get_dummies(known["intent"]), pd.get_dummies(known["topic"])])
        self.vectors = dict(zip(texts, vectors.astype(float), strict=True))
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked += texts
        return np.stack([self.vectors[text] for text in texts])


# -- The corpus --------------------------------------------------------------------------------------------------------


def test_the_corpus_is_as_large_as_its_readme_says_and_repeats_no_text(corpus: pd.DataFrame) -> None:
    answers = corpus["answer"].drop_duplicates()
    assert (len(corpus), len(answers), corpus["intent"].nunique(), corpus["topic"].nunique()) == (1440, 120, 120, 12)
    assert pd.concat([corpus["text"], answers]).nunique() == 1560
    assert (corpus.groupby(["intent", "style"]).size() == 2).all()
    assert corpus["style"].nunique() == 6
    assert answers.str.count(r"[.!?](?:\s|$)").between(2, 4).all(), "answers have two to four sentences"
    readme = helpdesk.CORPUS.with_name("README.md").read_text(encoding="utf-8")
    for words in ("CC0", "1,440", "120, 10 a topic", *corpus["topic"].unique(), *corpus["style"].unique()):
        assert words in readme


def test_near_intents_are_mutual_and_of_the_same_topic(corpus: pd.DataFrame) -> None:
    intents = corpus.drop_duplicates("intent").set_index("intent")
    assert (intents["near"].map(len) >= 2).all()
    for intent, row in intents.iterrows():
        for other in row["near"]:
            assert other != intent
            assert intent in intents.loc[other, "near"]
            assert row["topic"] == intents.loc[other, "topic"]


def test_every_topic_gives_five_intents_to_training_one_to_development_and_four_to_the_test(
    corpus: pd.DataFrame,
) -> None:
    counts = corpus.drop_duplicates("intent").groupby(["topic", "split"]).size().unstack()  # noqa: PD010
    assert (counts[["train", "dev", "test"]] == [5, 1, 4]).all(axis=None)
    assert len(corpus.drop_duplicates(["intent", "split"])) == 120


@pytest.mark.parametrize("seed", range(3))
def test_no_phrasing_and_no_answer_of_a_test_or_development_intent_is_ever_trained_on(
    corpus: pd.DataFrame, seed: int
) -> None:
    rows = helpdesk.triplets(helpdesk.load_helpdesk("train"), seed)
    trained = {*rows["anchor"], *rows["positive"], *rows["negative"]}
    held_out = corpus[corpus["split"] != "train"]
    assert len(held_out) == 12 * 60
    assert not trained & {*held_out["text"], *held_out["answer"]}
    assert trained <= {*corpus["text"], *corpus["answer"]}


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of train, dev, test or None, got 'validation'"):
        helpdesk.load_helpdesk("validation")


# -- What is derived from it -------------------------------------------------------------------------------------------


def test_grades_of_pairs_equal_those_found_pair_by_pair(corpus: pd.DataFrame) -> None:
    table = corpus[corpus["topic"].isin(["billing", "returns"])].iloc[::5].reset_index(drop=True)
    expected = []
    for (_, one), (_, other) in combinations(table.iterrows(), 2):
        if one["intent"] == other["intent"]:
            expected.append(3)
        elif other["intent"] in one["near"]:
            expected.append(2)
        else:
            expected.append(int(one["topic"] == other["topic"]))
    found = helpdesk.pairs(table)
    assert found["grade"].tolist() == expected
    assert set(expected) == {0, 1, 2, 3}
    assert list(zip(found["first"], found["second"], strict=True)) == list(combinations(range(len(table)), 2))


def test_graded_pairs_hold_as_many_of_each_grade_and_no_pair_twice() -> None:
    pairs = helpdesk.graded_pairs(helpdesk.load_helpdesk("test"), per_grade=50, seed=1)
    assert pairs["score"].value_counts().to_dict() == {0: 50, 1 / 3: 50, 2 / 3: 50, 1: 50}
    assert not pairs.duplicated(["sentence1", "sentence2"]).any()
    again = helpdesk.graded_pairs(helpdesk.load_helpdesk("test"), per_grade=50, seed=1)
    pd.testing.assert_frame_equal(pairs, again)
    assert not pairs.equals(helpdesk.graded_pairs(helpdesk.load_helpdesk("test"), per_grade=50, seed=2))


def test_pairs_that_the_table_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="5000 pairs of grade 'near intent' are wanted, the table has 4176"):
        helpdesk.duplicate_pairs(helpdesk.load_helpdesk("test"), others=5000)


def test_triplets_take_the_positive_from_the_intent_and_the_negative_from_a_near_one() -> None:
    train = helpdesk.load_helpdesk("train")
    intent_of = dict(zip(train["text"], train["intent"], strict=True)) | dict(
        zip(train["answer"], train["intent"], strict=True)
    )
    near_of = dict(zip(train["intent"], train["near"], strict=True))
    rows = helpdesk.triplets(train, seed=3)
    assert sorted(rows["anchor"]) == sorted(train["text"])
    assert (rows["anchor"].map(intent_of) == rows["intent"]).all()
    assert (rows["positive"].map(intent_of) == rows["intent"]).all()
    assert (rows["negative"].map(intent_of) == rows["negative_intent"]).all()
    assert (rows["anchor"] != rows["positive"]).all()
    assert (rows["intent"] != rows["negative_intent"]).all()
    has_near = {intent for intent, near in near_of.items() if set(near) & set(near_of)}
    near = [
        negative in near_of[intent] for intent, negative in zip(rows["intent"], rows["negative_intent"], strict=True)
    ]
    assert near == rows["intent"].isin(has_near).tolist()
    answers = set(train["answer"])
    assert rows["positive"].isin(answers).sum() == len(rows) / 2
    assert (rows["positive"].isin(answers) == rows["negative"].isin(answers)).all()


def test_batches_of_triplets_hold_no_intent_twice() -> None:
    rows = helpdesk.triplets(helpdesk.load_helpdesk("train"))
    for size in (20, 30, 60):
        for start in range(0, len(rows), size):
            assert rows["intent"].iloc[start : start + size].is_unique


def test_triplets_of_a_table_with_one_intent_a_topic_are_refused() -> None:
    with pytest.raises(ValueError, match="topic 'account' has one intent in this table; a negative needs a second one"):
        helpdesk.triplets(helpdesk.load_helpdesk("dev"))


# -- Tasks -------------------------------------------------------------------------------------------------------------


def test_who_knows_the_intent_of_every_text_gets_full_marks(corpus: pd.DataFrame) -> None:
    shared = SharedEmbeddings(Oracle(corpus))
    scores = {task.family: task.evaluate(shared) for task in helpdesk_tasks()}
    for family in ("duplicates", "reranking", "retrieval", "clustering"):
        assert scores[family].value == pytest.approx(100), family
    assert scores["STS"].value > 90, "near and other intents of a topic look the same to the oracle"
    sizes = {family: len(score.per_example) for family, score in scores.items()}
    assert sizes == {"STS": 1600, "duplicates": 2000, "reranking": 288, "retrieval": 576, "clustering": 576}


def test_who_knows_the_topic_only_does_not(corpus: pd.DataFrame) -> None:
    shared = SharedEmbeddings(Oracle(corpus, intent_weight=0))
    for task in helpdesk_tasks():
        assert task.evaluate(shared).value < 80, task.name


def test_tasks_that_share_embeddings_encode_each_text_once(corpus: pd.DataFrame) -> None:
    oracle = Oracle(corpus)
    shared = SharedEmbeddings(oracle)
    for task in helpdesk_tasks():
        task.evaluate(shared)
    assert len(oracle.asked) == len(set(oracle.asked)) == 576 + 120


def test_a_scikit_learn_pipeline_is_measured_as_it_is(corpus: pd.DataFrame) -> None:
    (task,) = select_tasks(["helpdesk-duplicates"])
    vectorizer = TfidfVectorizer().fit(corpus["text"])

    class Dense:
        def transform(self, texts: list[str]) -> Any:
            return vectorizer.transform(texts).toarray()

    assert task.evaluate(Dense()).value == pytest.approx(task.evaluate(SharedEmbeddings(Dense())).value)
    assert 30 < task.evaluate(Dense()).value < 90


def test_a_model_that_cannot_encode_or_returns_the_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeError, match=r"encode\(texts\) or transform\(texts\), got int"):
        SharedEmbeddings(3)

    class Flat:
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.zeros(len(texts))

    with pytest.raises(ValueError, match=r"returned the shape \(2,\) for 2 texts, expected \(2, dim\)"):
        SharedEmbeddings(Flat()).encode(["a", "b"])


@pytest.mark.slow
def test_the_corpus_is_hard_enough_for_a_good_untuned_model(minilm: SentenceTransformer) -> None:
    shared = SharedEmbeddings(minilm)
    values = {task.family: task.evaluate(shared).value for task in helpdesk_tasks()}
    assert 40 < values["retrieval"] <= 85
    assert 40 < values["STS"] <= 85


# -- A folder of sets --------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def lines(**texts: str) -> str:
    return "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in texts.items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small sets of every kind."""
    sts = 'split,sentence1,sentence2,score\ntrain,x,y,0\ntest,aa,ab,1\ntest,"a, ""b""",NA,0.2\ntest,ba,null,0.4\n'
    write(tmp_path / "stsb" / "data.csv.gz", sts)
    write(tmp_path / "sickr" / "data.csv.gz", sts)
    write(tmp_path / "mine" / "data.csv.gz", "sentence1,sentence2,label\naa,ab,1\nab,bb,0\n")
    write(tmp_path / "twitter_url" / "data.csv.gz", "split,sentence1,sentence2,label\ntest,aa,ab,1\ntest,ab,bb,0\n")
    write(tmp_path / "stackoverflow_short" / "data.csv.gz", "split,text,label\nall,a,x\nall,aa,x\nall,b,y\nall,bb,y\n")
    for name in ("wikiqa", "medline"):
        write(tmp_path / name / "queries.jsonl.gz", lines(q1="a", q2="b", q3="ab"))
        write(tmp_path / name / "corpus.jsonl.gz", lines(**{"1": "aaa", "2": "b", "3": "ba", "4": "a"}))
        rows = ["q1\t1\t1\ttest", "q1\t2\t0\ttest", "q2\t3\t2\ttest", "q2\t1\t0\ttest", "q3\t4\t1\ttrain"]
        write(tmp_path / name / "qrels.tsv.gz", "query_id\tcorpus_id\trelevance\tsplit\n" + "\n".join(rows) + "\n")
    return tmp_path


class Letters:
    """Counts a, b and everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> list[list[int]]:
        self.asked += texts
        return [[text.count("a"), text.count("b"), 1] for text in texts]


def local(name: str, folder: Path) -> Task:
    (task,) = select_tasks([name], folder)
    return task


def test_the_family_of_a_local_set_follows_from_its_files(folder: Path) -> None:
    names = ["stsb", "mine", "stackoverflow_short", "wikiqa", "medline"]
    found = {task.name: (task.family, task.metric, task.note) for task in select_tasks(names, folder)}
    assert found == {
        "stsb": ("STS", "spearman_cosine", "test rows"),
        "mine": ("duplicates", "cosine_ap", "all rows"),
        "stackoverflow_short": ("clustering", "v_measure", "all rows, 5,000 drawn"),
        "wikiqa": ("reranking", "map", "test rows"),
        "medline": ("retrieval", "cos_sim_map@100", "test rows"),
    }
    for task in select_tasks(names, folder):
        assert -100 <= task.evaluate(Letters()).value <= 100
        assert all(file.exists() for file in task.files)


def test_only_test_rows_count_and_texts_such_as_na_and_null_are_texts(folder: Path) -> None:
    model = Letters()
    local("stsb", folder).evaluate(model)
    assert set(model.asked) == {"aa", "ab", 'a, "b"', "NA", "ba", "null"}
    assert len(local("sickr", folder).evaluate(Letters()).per_example) == 4, "every split of SICK-R counts"
    write(folder / "other" / "data.csv.gz", "split,sentence1,sentence2,score\nx,aa,b,0\ny,ab,b,1\n")
    assert len(local("other", folder).evaluate(Letters()).per_example) == 2, "a set without test rows counts whole"
    write(folder / "stsb" / "data.csv.gz", "split,sentence1,sentence2,score\nx,aa,b,0\ny,ab,b,1\n")
    with pytest.raises(ValueError, match=r"data.csv.gz has no row of split 'test', only of x, y"):
        local("stsb", folder).evaluate(Letters())


def test_judged_documents_are_reranked_and_a_corpus_is_searched(folder: Path) -> None:
    model = Letters()
    reranked = local("wikiqa", folder).evaluate(model).per_example
    assert reranked[["positives", "negatives"]].to_numpy().tolist() == [[1, 1], [1, 1]]
    assert "a" in model.asked
    searched = local("medline", folder).evaluate(Letters()).per_example
    assert searched["query_id"].tolist() == ["q1", "q2"]
    assert searched["relevant"].tolist() == [1, 1]


def test_the_default_tasks_are_those_of_the_corpus_and_the_sets_that_are_there_and_not_large(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [task.name for task in helpdesk_tasks()]
    monkeypatch.delenv(tasks.DATA_VARIABLE, raising=False)
    assert [task.name for task in select_tasks()] == own
    monkeypatch.setenv(tasks.DATA_VARIABLE, str(folder))
    assert [task.name for task in select_tasks()] == [*own, "stsb", "sickr", "wikiqa", "medline"]


def test_a_sample_is_stated_and_is_the_same_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.LOCAL_SETS, "stackoverflow_short", tasks.LocalSet("all", sample=3))
    task = local("stackoverflow_short", folder)
    assert task.note == "all rows, 3 drawn"
    first, second = task.evaluate(Letters()).per_example, task.evaluate(Letters()).per_example
    assert first["text"].tolist() == second["text"].tolist()
    assert len(first) == 3


def break_columns(folder: Path) -> None:
    write(folder / "stsb" / "data.csv.gz", "first,second,score\na,b,1\n")


def break_score(folder: Path) -> None:
    write(folder / "stsb" / "data.csv.gz", "sentence1,sentence2,score\na,b,1\na,b,high\n")


def break_gzip(folder: Path) -> None:
    (folder / "stsb" / "data.csv.gz").write_bytes(b"sentence1,sentence2,score\n")


def break_file(folder: Path) -> None:
    (folder / "stsb" / "data.csv.gz").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (break_columns, r"data.csv.gz has the columns first, second, score; a task needs one of .*sentence1.*\(STS\)"),
        (break_score, "data.csv.gz: scores must be numbers.*'high'"),
        (break_gzip, "data.csv.gz cannot be read.*it must be gzip, UTF-8"),
        (break_file, "data.csv.gz is missing; the set stsb needs data.csv.gz, or qrels.tsv.gz, queries"),
    ],
)
def test_a_broken_table_is_named_with_what_is_expected(
    folder: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        local("stsb", folder).evaluate(Letters())


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "qrels.tsv.gz",
            "query_id\tdoc\trelevance\nq1\t1\t1\n",
            "lacks corpus_id; its columns are query_id, doc, relev",
        ),
        ("qrels.tsv.gz", "query_id\tcorpus_id\trelevance\nq1\t9\t1\n", "1 rows whose corpus_id is not .* such as '9'"),
        ("qrels.tsv.gz", "query_id\tcorpus_id\trelevance\nq1\t1\tyes\n", "the relevance 'yes', expected a number"),
        ("corpus.jsonl.gz", '{"id": "1", "text"\n', "corpus.jsonl.gz cannot be read"),
    ],
)
def test_a_broken_retrieval_set_is_named_with_what_is_expected(
    folder: Path, file: str, text: str, message: str
) -> None:
    write(folder / "medline" / file, text)
    with pytest.raises(ValueError, match=message):
        local("medline", folder).evaluate(Letters())


def test_unknown_names_and_missing_folders_are_named_with_the_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(tasks.DATA_VARIABLE, raising=False)
    with pytest.raises(
        ValueError, match=r"task 'stsb' is unknown; there are helpdesk-sts, .* once SBERTLAB_DATA names one"
    ):
        select_tasks(["stsb"])
    with pytest.raises(
        FileNotFoundError, match=r"neither one of helpdesk-sts.* which has medline, mine, sickr.*add the set"
    ):
        select_tasks(["stsbenchmark"], folder)
    with pytest.raises(ValueError, match="each once, got"):
        select_tasks(["mine", "mine"], folder)
    with pytest.raises(FileNotFoundError, match="'no/such/folder', is not there; correct or unset SBERTLAB_DATA"):
        select_tasks(data="no/such/folder")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds none of the sets stsb, sickr, .* or unset SBERTLAB_DATA"):
        select_tasks(data=folder / "empty")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [("stsb", 82.03), ("sickr", 77.58), ("biosses", 81.21), ("twitter_url", 77.09)]
)
def test_minilm_gets_the_known_value_on_a_real_set(
    name: str, value: float, data_dir: Path, minilm: SentenceTransformer
) -> None:
    assert local(name, data_dir).evaluate(minilm).value == pytest.approx(value, abs=0.05)


@pytest.mark.slow
def test_mpnet_gets_the_known_value_on_stsb(data_dir: Path) -> None:
    mpnet = SentenceTransformer("all-mpnet-base-v2", device="cpu")
    assert local("stsb", data_dir).evaluate(mpnet).value == pytest.approx(83.42, abs=0.05)
