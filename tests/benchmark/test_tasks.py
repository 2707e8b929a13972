from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sbertlab import SentenceTransformer, helpdesk
from sbertlab.benchmark.local_tasks import DATA_VARIABLE
from sbertlab.benchmark.presets import select_tasks
from sbertlab.benchmark.tasks import Task, examples_of, helpdesk_tasks
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.evaluation import (
    BinaryClassificationEvaluator,
    ClusteringEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    SequentialEvaluator,
)


@pytest.fixture(scope="module")
def corpus():
    return helpdesk.load_helpdesk()


class Oracle:
    """Knows the intent of every text of the corpus, and its topic."""

    def __init__(self, corpus, intent_weight=1.0):
        answers = corpus.drop_duplicates("intent")
        texts = pd.concat([corpus["text"], answers["answer"]])
        known = pd.concat([corpus, answers])
        vectors = np.hstack([intent_weight * pd.get_dummies(known["intent"]), pd.get_dummies(known["topic"])])
        self.vectors = dict(zip(texts, vectors.astype(float), strict=True))
        self.asked = []

    def encode(self, texts):
        self.asked += texts
        return np.stack([self.vectors[text] for text in texts])


def test_an_oracle_of_intents_gets_full_marks_one_of_topics_does_not_and_each_text_is_encoded_once(corpus):
    oracle = Oracle(corpus)
    shared = StoredEmbeddings(oracle)
    scores = {task.family: task.evaluate(shared) for task in helpdesk_tasks()}
    for family in ("duplicates", "reranking", "retrieval", "clustering"):
        assert scores[family].value == pytest.approx(100), family
    assert scores["STS"].value > 90, "near and other intents of a topic look the same to the oracle"
    sizes = {family: len(score.per_example) for family, score in scores.items()}
    assert sizes == {"STS": 1600, "duplicates": 2000, "reranking": 288, "retrieval": 576, "clustering": 576}
    assert len(oracle.asked) == len(set(oracle.asked)) == 576 + 120
    shared = StoredEmbeddings(Oracle(corpus, intent_weight=0))
    assert all(task.evaluate(shared).value < 80 for task in helpdesk_tasks())


def test_a_scikit_learn_pipeline_is_measured_as_it_is(corpus):
    (task,) = select_tasks(["helpdesk-duplicates"])
    pipeline = make_pipeline(TfidfVectorizer(), FunctionTransformer(lambda rows: rows.toarray())).fit(corpus["text"])
    assert 30 < task.evaluate(pipeline).value < 90


@pytest.mark.slow
def test_a_model_of_sentence_transformers_gets_what_ours_gets_from_the_same_folder(tiny, tmp_path):
    reference = pytest.importorskip("sentence_transformers")
    tiny().save(tmp_path / "model")
    (task,) = select_tasks(["helpdesk-reranking"])
    theirs = task.evaluate(reference.SentenceTransformer(str(tmp_path / "model"), device="cpu"))
    ours = task.evaluate(SentenceTransformer(tmp_path / "model", device="cpu"))
    assert ours.value == pytest.approx(theirs.value, abs=1e-3)
    assert 5 < ours.value < 95


class Random:
    """Gives each text a vector, neither centred nor of unit length, so that similarities disagree."""

    def encode(self, texts):
        return np.stack([np.random.default_rng([*text.encode()]).normal(0.3, 1, 4) ** 3 for text in texts])


FIRST, SECOND = [f"a{number}" for number in range(40)], [f"b{number}" for number in range(40)]
GRADES = np.random.default_rng(0).integers(0, 6, 40).tolist()
GRADED = (FIRST, SECOND, GRADES)
LABELS = [int(grade > 2) for grade in GRADES]
THREE = ["cosine", "euclidean", "manhattan"]
CLASSES = [f"class {grade}" for grade in GRADES]


def search(seed):
    drawn = np.random.default_rng(seed).permutation(40)
    relevant = {FIRST[row]: {SECOND[drawn[row]], SECOND[drawn[-1 - row]]} for row in range(15)}
    return InformationRetrievalEvaluator(dict(zip(FIRST, FIRST, strict=True)), {key: key for key in SECOND}, relevant)


def searches():
    return SequentialEvaluator([search(seed) for seed in range(3)], lambda values: sum(values) / len(values))


def clusterings():
    parts = [ClusteringEvaluator(FIRST, CLASSES), ClusteringEvaluator(SECOND[:30], LABELS[:30])]
    return SequentialEvaluator(parts, lambda values: sum(values) / len(values))


@pytest.mark.parametrize(
    ("metric", "load", "key"),
    [
        ("spearman_cosine", partial(EmbeddingSimilarityEvaluator, *GRADED), "spearman_cosine"),
        ("spearman_max", partial(EmbeddingSimilarityEvaluator, *GRADED, similarity_fn_names=THREE), "spearman_max"),
        ("cosine_ap", partial(BinaryClassificationEvaluator, FIRST, SECOND, LABELS), "cosine_ap"),
        ("max_ap", partial(BinaryClassificationEvaluator, FIRST, SECOND, LABELS), "max_ap"),
        ("max_map@100", partial(search, 0), "max_map@100"),
        ("max_map@100", searches, "sequential_score"),
        ("v_measure", partial(ClusteringEvaluator, FIRST, CLASSES), "v_measure"),
        ("v_measure", clusterings, "sequential_score"),
        ("cos_sim_ndcg@10", partial(search, 1), "cos_sim_ndcg@10"),
    ],
)
def test_a_metric_computed_from_the_examples_is_that_of_the_evaluator(metric, load, key):
    score = Task("any", "STS", metric, "", load).evaluate(Random())
    expected = load()(StoredEmbeddings(Random()))[key]
    assert score.value == pytest.approx(100 * expected, abs=1e-6)
    assert score.value == 100 * score.examples.value()
    assert abs(expected) > 0.01


def test_the_best_similarity_counts_within_each_set_and_sets_count_equally():
    table = pd.DataFrame(
        {
            "evaluator": [0, 0, 1, 1, 1, 1],
            "cos_sim_map@100": [1.0, 0.0, 0.1, 0.1, 0.1, 0.1],
            "dot_score_map@100": [0.2, 0.2, 0.4, 0.4, 0.2, 0.2],
        }
    )
    assert examples_of("max_map@100", table).value() == pytest.approx((0.5 + 0.3) / 2)
    assert examples_of("max_map@100", table.drop(columns="evaluator")).value() == pytest.approx(1.6 / 6)


def test_unknown_names_and_missing_folders_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    for name in ("mine", "medline"):
        (tmp_path / "sets" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"got 'biosess'. Did you mean 'BIOSSES'"):
        select_tasks(["biosess"])
    with pytest.raises(ValueError, match=r"'mine'.* got 'Medlines'. Did you mean 'medline'"):
        select_tasks(["Medlines"], tmp_path / "sets")
    for wrong in (["mine", "mine"], []):
        with pytest.raises(ValueError, match="each once, got"):
            select_tasks(wrong, tmp_path / "sets")
    for outside in ("", "..", "mine/..", str(tmp_path)):
        with pytest.raises(ValueError, match="a task must be one of"):
            select_tasks([outside], tmp_path / "sets")
    for name, folder in (("mine", tmp_path / "nowhere"), ("mine", tmp_path / "sets")):
        with pytest.raises(FileNotFoundError, match=str(folder)):
            select_tasks([name], folder)
