from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import average_precision_score, v_measure_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sbertlab import SentenceTransformer, helpdesk
from sbertlab.benchmark.local_tasks import DATA_VARIABLE
from sbertlab.benchmark.presets import find_tasks, select_tasks
from sbertlab.benchmark.published import PUBLISHED
from sbertlab.benchmark.tasks import METRICS, Task, helpdesk_tasks
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.evaluation import (
    BinaryClassificationEvaluator,
    ClusteringEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    SentenceEvaluator,
    SequentialEvaluator,
)


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
    with pytest.raises(ValueError, match=r"split must be one of .*'test', None, got 'validation'"):
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
    with pytest.raises(ValueError, match=r"1 to 4176 pairs of grade 'near intent' .* asked for 5000"):
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
    shared = StoredEmbeddings(Oracle(corpus))
    scores = {task.family: task.evaluate(shared) for task in helpdesk_tasks()}
    for family in ("duplicates", "reranking", "retrieval", "clustering"):
        assert scores[family].value == pytest.approx(100), family
    assert scores["STS"].value > 90, "near and other intents of a topic look the same to the oracle"
    sizes = {family: len(score.per_example) for family, score in scores.items()}
    assert sizes == {"STS": 1600, "duplicates": 2000, "reranking": 288, "retrieval": 576, "clustering": 576}


def test_who_knows_the_topic_only_does_not(corpus: pd.DataFrame) -> None:
    shared = StoredEmbeddings(Oracle(corpus, intent_weight=0))
    for task in helpdesk_tasks():
        assert task.evaluate(shared).value < 80, task.name


def test_tasks_that_share_embeddings_encode_each_text_once(corpus: pd.DataFrame) -> None:
    oracle = Oracle(corpus)
    shared = StoredEmbeddings(oracle)
    for task in helpdesk_tasks():
        task.evaluate(shared)
    assert len(oracle.asked) == len(set(oracle.asked)) == 576 + 120


def test_a_scikit_learn_pipeline_is_measured_as_it_is(corpus: pd.DataFrame) -> None:
    (task,) = select_tasks(["helpdesk-duplicates"])
    pipeline = make_pipeline(TfidfVectorizer(), FunctionTransformer(lambda rows: rows.toarray())).fit(corpus["text"])
    value = task.evaluate(pipeline).value
    assert 30 < value < 90
    assert task.evaluate(StoredEmbeddings(pipeline)).value == value


@pytest.mark.slow
def test_a_model_of_sentence_transformers_gets_what_ours_gets_from_the_same_folder(
    tiny: Callable[..., SentenceTransformer], tmp_path: Path
) -> None:
    reference = pytest.importorskip("sentence_transformers")
    tiny().save(tmp_path / "model")
    (task,) = select_tasks(["helpdesk-reranking"])
    theirs = task.evaluate(reference.SentenceTransformer(str(tmp_path / "model"), device="cpu"))
    ours = task.evaluate(SentenceTransformer(tmp_path / "model", device="cpu"))
    assert ours.value == pytest.approx(theirs.value, abs=1e-3)
    assert 5 < ours.value < 95


def test_a_model_that_cannot_encode_or_returns_the_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeError, match=r"encode\(texts\) or transform\(texts\), got int"):
        StoredEmbeddings(3)

    class Flat:
        def encode(self, texts: list[str]) -> np.ndarray:
            return np.zeros(len(texts))

    with pytest.raises(ValueError, match=r"returned the shape \(2,\) for 2 texts, expected \(2, dim\)"):
        StoredEmbeddings(Flat()).encode(["a", "b"])


@pytest.mark.slow
def test_the_corpus_is_hard_enough_for_a_good_untuned_model(minilm: SentenceTransformer) -> None:
    shared = StoredEmbeddings(minilm)
    values = {task.family: task.evaluate(shared).value for task in helpdesk_tasks()}
    assert 40 < values["retrieval"] <= 85
    assert 40 < values["STS"] <= 85


# -- One number, one way -----------------------------------------------------------------------------------------------


def random_embeddings(texts: list[str]) -> np.ndarray:
    """A vector a text, the same every time, neither centred nor of unit length, so that similarities disagree."""
    return np.stack([np.random.default_rng([*text.encode()]).normal(0.3, 1, 4) ** 3 for text in texts])


class Random:
    def encode(self, texts: list[str]) -> np.ndarray:
        return random_embeddings(texts)


FIRST, SECOND = [f"a{number}" for number in range(40)], [f"b{number}" for number in range(40)]
GRADES = np.random.default_rng(0).integers(0, 6, 40).tolist()
LABELS = [int(grade > 2) for grade in GRADES]
CLASSES = [f"class {grade}" for grade in GRADES]


def search(seed: int) -> SentenceEvaluator:
    drawn = np.random.default_rng(seed).permutation(40)
    relevant = {FIRST[row]: {SECOND[drawn[row]], SECOND[drawn[-1 - row]]} for row in range(15)}
    return InformationRetrievalEvaluator(dict(zip(FIRST, FIRST, strict=True)), {key: key for key in SECOND}, relevant)


def searches() -> SentenceEvaluator:
    return SequentialEvaluator([search(seed) for seed in range(3)], lambda values: sum(values) / len(values))


def clusterings() -> SentenceEvaluator:
    parts = [ClusteringEvaluator(FIRST, CLASSES), ClusteringEvaluator(SECOND[:30], LABELS[:30])]
    return SequentialEvaluator(parts, lambda values: sum(values) / len(values))


def pairs() -> dict[str, np.ndarray]:
    """Similarities of the pairs, computed without torch."""
    first, second = random_embeddings(FIRST), random_embeddings(SECOND)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    dot, difference = (first * second).sum(axis=1), first - second
    return {
        "cosine": dot / norms,
        "dot": dot,
        "euclidean": -np.linalg.norm(difference, axis=1),
        "manhattan": -np.abs(difference).sum(axis=1),
    }


@pytest.mark.parametrize("family", [task.family for task in helpdesk_tasks()])
def test_the_value_of_a_help_desk_task_is_the_metric_of_its_evaluator(family: str) -> None:
    task = next(task for task in helpdesk_tasks() if task.family == family)
    evaluator = task.load()
    expected = evaluator(StoredEmbeddings(Random()))[task.metric]
    examples = METRICS[task.metric].examples(evaluator.per_example)
    assert examples.value() == pytest.approx(expected, abs=1e-6)
    assert len(examples) == len(evaluator.per_example)
    assert 1e-3 < abs(expected) < 0.99


@pytest.mark.parametrize(
    ("metric", "load", "key"),
    [
        ("spearman_cosine", partial(EmbeddingSimilarityEvaluator, FIRST, SECOND, GRADES), "spearman_cosine"),
        ("cosine_ap", partial(BinaryClassificationEvaluator, FIRST, SECOND, LABELS), "cosine_ap"),
        ("max_ap", partial(BinaryClassificationEvaluator, FIRST, SECOND, LABELS), "max_ap"),
        ("max_map@100", partial(search, 0), "max_map@100"),
        ("max_map@100", searches, "sequential_score"),
        ("v_measure", partial(ClusteringEvaluator, FIRST, CLASSES), "v_measure"),
        ("v_measure", clusterings, "sequential_score"),
        ("cos_sim_ndcg@10", partial(search, 1), "cos_sim_ndcg@10"),
    ],
)
def test_a_metric_computed_from_the_examples_is_that_of_the_evaluator(
    metric: str, load: Callable[[], SentenceEvaluator], key: str
) -> None:
    score = Task("any", "STS", metric, "", load).evaluate(Random())
    expected = load()(StoredEmbeddings(Random()))[key]
    assert score.value == pytest.approx(100 * expected, abs=1e-6)
    assert score.value == 100 * score.examples.value()
    assert abs(expected) > 0.01


def test_metrics_are_those_of_scipy_and_scikit_learn() -> None:
    similarities = pairs()
    spearman = {name: spearmanr(values, GRADES).statistic for name, values in similarities.items()}
    precision = {name: average_precision_score(LABELS, values) for name, values in similarities.items()}
    assert len({round(value, 6) for value in precision.values()}) > 2, "the similarities must differ"
    published = ("cosine", "euclidean", "manhattan")
    expected = {
        "spearman_cosine": (EmbeddingSimilarityEvaluator, GRADES, spearman["cosine"]),
        "spearman_max": (EmbeddingSimilarityEvaluator, GRADES, max(spearman[name] for name in published)),
        "cosine_ap": (BinaryClassificationEvaluator, LABELS, precision["cosine"]),
        "max_ap": (BinaryClassificationEvaluator, LABELS, max(precision.values())),
    }
    for metric, (make, target, value) in expected.items():
        score = Task("any", "STS", metric, "", partial(make, FIRST, SECOND, target)).evaluate(Random())
        assert score.value == pytest.approx(100 * value, abs=1e-4), metric  # similarities are float32
    clustered = Task("any", "clustering", "v_measure", "", clusterings).evaluate(Random())
    parts = [part for _, part in clustered.per_example.groupby("evaluator")]
    by_hand = np.mean([v_measure_score(part["label"], part["cluster"]) for part in parts])
    assert clustered.value == pytest.approx(100 * by_hand, abs=1e-6)
    assert len(clustered.examples) == 70


def test_of_rivals_the_best_counts_within_each_set_and_sets_count_alike() -> None:
    table = pd.DataFrame(
        {
            "evaluator": [0, 0, 1, 1, 1, 1],
            "cos_sim_map@100": [1.0, 0.0, 0.1, 0.1, 0.1, 0.1],
            "dot_score_map@100": [0.2, 0.2, 0.4, 0.4, 0.2, 0.2],
        }
    )
    assert METRICS["max_map@100"].examples(table).value() == pytest.approx((0.5 + 0.3) / 2)
    assert METRICS["max_map@100"].examples(table.drop(columns="evaluator")).value() == pytest.approx(1.6 / 6)


def test_a_metric_that_does_not_exist_is_named_with_those_that_do() -> None:
    task = Task("mine", "STS", "spearman", "", partial(EmbeddingSimilarityEvaluator, FIRST, SECOND, GRADES))
    with pytest.raises(ValueError, match=r"task 'mine' has the metric 'spearman', expected one of spearman_cosine, .*"):
        task.evaluate(Random())


def test_tasks_can_be_sent_to_another_process() -> None:
    tasks = [*helpdesk_tasks(), *select_tasks(["STSBenchmark", "CQADupstackRetrieval"], data="")]
    again = pickle.loads(pickle.dumps(tasks))
    assert [task.name for task in again] == [task.name for task in tasks]
    assert len(again[1].load().labels) == len(tasks[1].load().labels)


# -- What cannot be had ------------------------------------------------------------------------------------------------


def test_unknown_names_and_missing_folders_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    for name in ("mine", "medline"):
        (tmp_path / "sets" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"'biosess' is unknown. Did you mean 'BIOSSES'.* if SBERTLAB_DATA names one"):
        select_tasks(["biosess"])
    with pytest.raises(ValueError, match=r"'Medlines' is unknown. Did you mean 'medline'.*sets \(medline, mine\)"):
        select_tasks(["Medlines"], tmp_path / "sets")
    for wrong in (["mine", "mine"], [], ["mine", 3]):
        with pytest.raises(ValueError, match="each once, got"):
            select_tasks(wrong, tmp_path / "sets")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"'no/such/folder' does not exist; .*SBERTLAB_DATA"):
        select_tasks(["mine"], data="no/such/folder")
    for outside in ("", "..", "mine/..", str(tmp_path)):
        with pytest.raises(ValueError, match="is unknown"):
            select_tasks([outside], tmp_path / "sets")


def test_all_problems_are_found_at_once_and_the_other_tasks_are_returned(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "texts").mkdir()
    pd.DataFrame({"first": ["a"], "second": ["b"]}).to_csv(tmp_path / "texts" / "data.csv.gz", index=False)
    broken = Task(
        "broken", "STS", "spearman_cosine", "", partial(EmbeddingSimilarityEvaluator, FIRST, SECOND[1:], GRADES)
    )
    tasks, problems = find_tasks(["helpdesk-sts", "mine", "nothing", "texts", broken, "helpdesk-clustering"], tmp_path)
    assert [task.name for task in tasks] == ["helpdesk-sts", "helpdesk-clustering"]
    assert {name: type(error) for name, error in problems.items()} == {
        "mine": FileNotFoundError,
        "nothing": ValueError,
        "texts": ValueError,
        "broken": ValueError,
    }
    assert "needs data.csv.gz" in str(problems["mine"])
    assert "the columns first, second; a task needs one of" in str(problems["texts"])
    assert "lengths must be equal" in str(problems["broken"])


def test_a_task_with_a_check_is_not_loaded_to_see_whether_it_can_be() -> None:
    def never() -> SentenceEvaluator:
        raise AssertionError("loaded")

    far, near = Task("far", "STS", "map", "", never, check=lambda: None), Task("near", "STS", "map", "", never)
    tasks, problems = find_tasks([far, near], data="")
    assert (tasks, list(problems)) == ([far], ["near"])


def test_published_tasks_are_named_beside_the_others() -> None:
    assert len(PUBLISHED) == 14
    assert not {task.name for task in helpdesk_tasks()} & set(PUBLISHED)
    assert [task.name for task in select_tasks(PUBLISHED, data="")] == list(PUBLISHED)
