"""The published table: its figures and tasks, texts from a local folder or the Hub, and scores as mteb has them."""

from functools import partial

import numpy as np
import pytest

from sbertlab.analysis.ranks import FAMILIES
from sbertlab.benchmark.encoders import Candidate
from sbertlab.benchmark.presets import select_tasks
from sbertlab.benchmark.published import (
    BASE_MODELS,
    BATCH_64,
    BATCH_128,
    MEAN,
    PUBLISHED,
    figures,
    load_published,
    mteb_evaluator,
    published_cells,
)
from sbertlab.benchmark.results import COLUMNS
from sbertlab.benchmark.runner import Job
from sbertlab.benchmark.tasks import METRICS, Task
from tests.benchmark.sets import Letters, write

SLOW = pytest.mark.slow  # mteb takes many seconds to import


def dataset(**columns):
    return pytest.importorskip("datasets").Dataset.from_dict(columns)


def test_the_fourteen_tasks_are_those_of_the_average_with_their_metrics():
    metrics = {"STS": "spearman_max", "duplicates": "max_ap", "reranking": "map", "retrieval": "max_map@100"}
    metrics["clustering"] = "v_measure"
    families = [task.family for task in PUBLISHED.values()]
    assert [families.count(family) for family in FAMILIES] == [3, 3, 3, 2, 3]
    assert all(task.metric == metrics[task.family] for task in PUBLISHED.values())
    assert [len(task.pins) for task in PUBLISHED.values() if len(task.pins) > 1] == [12]
    assert len({pin for task in PUBLISHED.values() for pin in task.pins}) == 25
    assert PUBLISHED["SICK-R"].pins == (("SICK-R", "mteb/sickr-sts", "20a6d6f312dd54037fe07a32d58e5e168867909d"),)
    _, path, revision = PUBLISHED["CQADupstackRetrieval"].pins[2]
    assert (path, revision[:7]) == ("mteb/cqadupstack-gaming", "4885aa1")


def test_figures_equal_the_documents():
    table = figures()
    averages = table[(table["recipe"] == BATCH_64) & (table["task"] == MEAN)]
    assert averages["model"].tolist() == list(BASE_MODELS)
    assert averages["value"].tolist() == [
        *(60.99, 60.73, 60.21, 59.63, 59.21, 59.17, 59.03, 58.27, 57.63, 57.31, 57.14, 56.79, 54.46)
    ]
    by_place = table.set_index(["model", "recipe", "task"])["value"]
    assert by_place.index.is_unique
    for place, value in {
        ("microsoft/mpnet-base", BATCH_128, "STSBenchmark"): 86.53,
        ("microsoft/mpnet-base", BATCH_128, MEAN): 62.49,
        ("roberta-base", BATCH_128, "StackExchangeClustering"): 49.51,
        ("distilroberta-base", BATCH_128, "TwitterSemEval2015 and TwitterURLCorpus"): 73.86,
        ("average_word_embeddings_glove.6B.300d", "", "SciDocsRR"): 63.69,
        ("all-MiniLM-L6-v2", "", "STSBenchmark"): 82.03,
        ("all-MiniLM-L6-v2", "", MEAN): 68.06,
        ("all-mpnet-base-v2", "", "SICK-R"): 80.59,
    }.items():
        assert by_place[place] == value
    assert ("roberta-base", BATCH_128, MEAN) not in by_place.index
    minilm = table[table["model"] == "all-MiniLM-L6-v2"].set_index("task")
    others = minilm.loc[[task for task in PUBLISHED if task != "CQADupstackRetrieval"], "value"].sum()
    assert 14 * 68.06 - others == pytest.approx(27.9, abs=0.05), "the average implies the fourteenth value"
    assert minilm["metric"][["CQADupstackRetrieval", "BIOSSES"]].tolist() == ["ndcg@10", "spearman_cosine"]
    cells = published_cells()
    assert set(cells.columns) >= set(COLUMNS)
    assert cells[["low", "high"]].isna().all(axis=None), "unknown"
    assert ((cells["recipe"] == "") == (cells["variant"] == "untuned")).all()


@SLOW
def test_every_pin_is_the_revision_that_mteb_has():
    mteb = pytest.importorskip("mteb")
    for name, task in PUBLISHED.items():
        for pin in task.pins:
            dataset = mteb.get_task(pin[0]).metadata.dataset
            assert (dataset["path"], dataset["revision"]) == pin[1:], name
    forums = mteb.get_task("CQADupstackRetrieval").metadata.tasks
    assert [task.metadata.name for task in forums] == [pin[0] for pin in PUBLISHED["CQADupstackRetrieval"].pins]


def test_a_local_set_replaces_the_hub_and_the_note_names_its_edition(tmp_path):
    rows = ["test,aa,aa,1", "test,ab,bb,0.7", "test,a,aaaa,0.2", "test,b,aaaaa,0", "train,a,b,1"]
    for name in ("stsb", "sickr", "biosses"):
        write(tmp_path / name / "data.csv.gz", "split,sentence1,sentence2,score", *rows)
    write(
        tmp_path / "twitter_url" / "data.csv.gz",
        "split,sentence1,sentence2,label",
        "test,aa,aaaa,1",
        "test,aa,ab,1",
        "test,ab,bb,0",
    )
    write(
        tmp_path / "twenty_newsgroups_subject" / "data.csv.gz", "split,text,label", "test,a,x", "test,aa,x", "test,b,y"
    )
    found = {task.name: task for task in select_tasks(PUBLISHED, tmp_path) if task.files}
    assert {name: task.note for name, task in found.items()} == {
        "TwitterURLCorpus": "local set twitter_url, test rows; another edition: fewer pairs",
        "BIOSSES": "local set biosses, all rows; another edition: another file",
        "SICK-R": "local set sickr, all rows",
        "STSBenchmark": "local set stsb, test rows",
        "TwentyNewsgroupsClustering": (
            "local set twenty_newsgroups_subject, test rows; another edition: one set of subject lines"
        ),
    }
    tags = [Job(Candidate("any", len), 0).row(task)["tag"] for task in found.values()]
    assert tags == ["edition", "edition", "measured", "measured", "edition"]
    assert [len(task.evaluate(Letters()).per_example) for task in found.values()] == [3, 5, 5, 4, 3]
    (plain,) = select_tasks(["stsb"], tmp_path)
    cosine, best = plain.evaluate(Letters()), found["STSBenchmark"].evaluate(Letters())
    assert best.examples.predictions.shape == (3, 4)
    np.testing.assert_array_equal(best.examples.predictions[0], cosine.examples.predictions[0])
    assert best.value > cosine.value, "the distances rank these pairs better"


TEXTS = [
    f"{subject} {verb} {place}"
    for subject in ("the cat", "a dog", "the old woman", "one child", "a bird", "the man", "people", "my fish")
    for verb in ("sits", "runs", "plays", "sleeps", "eats", "reads", "walks")
    for place in ("in the garden", "at the table", "by the sea", "on a chair", "for a week", "with the lamp")
]


def drawn(n, seed):
    """So many different texts."""
    return np.random.default_rng(seed).permutation(TEXTS)[:n].tolist()


def sts_data(seed=0):
    scores = np.random.default_rng(seed).uniform(0, 5, 60).tolist()
    return {"test": dataset(sentence1=drawn(60, 1), sentence2=drawn(60, 2), score=scores)}


def pair_data(one_row=False):
    labels = np.random.default_rng(3).integers(0, 2, 60).tolist()
    columns = {"sentence1": drawn(60, 3), "sentence2": drawn(60, 4), "labels": labels}
    return {"test": dataset(**{name: [rows] if one_row else rows for name, rows in columns.items()})}


def search_data(seed=5, reranking=False, own=False):
    """Forty documents, some with a title; with `own`, every query lies in the corpus under its own id."""
    random = np.random.default_rng(seed)
    texts = drawn(52, seed)
    documents = [f"d{number}" for number in range(40)]
    queries = [f"q{number}" for number in range(12)]
    corpus = {"id": documents, "text": texts[:40], "title": ["a new letter" if n % 3 else "" for n in range(40)]}
    if own:
        corpus = {"id": documents + queries, "text": texts, "title": [""] * 52}
    relevant = {
        query: {str(document): int(place < 2) for place, document in enumerate(random.permutation(documents)[:3])}
        for query in queries
    }
    ranked = {
        query: list(dict.fromkeys([*judged, *random.permutation(documents)[:6].tolist()]))
        for query, judged in relevant.items()
    }
    split = {
        "corpus": dataset(**corpus),
        "queries": dataset(id=queries, text=texts[40:]),
        "relevant_docs": relevant,
        "top_ranked": ranked if reranking else None,
    }
    return {"default": {"test": split}}


def cluster_data():
    sets = [drawn(80, seed) for seed in (6, 7, 8)]
    labels = [[text.split()[-1] for text in texts] for texts in sets]
    return {"test": dataset(sentences=sets, labels=labels)}


def loaded(name, data):
    """The task of mteb, with these data in place of the Hub's."""
    task = pytest.importorskip("mteb").get_task(name)
    task.dataset, task.data_loaded = data, True
    return task


def by_mteb(model, task):
    """The scores that mteb gives the model."""
    mteb = pytest.importorskip("mteb")
    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return dict(found.task_results[0].scores["test"][0])


def ours(model, name, task):
    """The score, 0 to 1, that our evaluator gives the model on the task's data."""
    published = PUBLISHED[name]
    return Task(name, published.family, published.metric, "", partial(mteb_evaluator, task)).evaluate(model).value / 100


@SLOW
@pytest.mark.parametrize(
    ("name", "make", "keys", "tolerance"),
    [
        ("BIOSSES", lambda: sts_data(), [f"{name}_spearman" for name in METRICS["spearman_max"][1]], 1e-6),
        ("TwitterURLCorpus", lambda: pair_data(), [f"{name}_ap" for name in METRICS["max_ap"][1]], 1e-6),
        ("TwitterURLCorpus", lambda: pair_data(one_row=True), ["max_ap"], 1e-6),
        ("SciDocsRR", lambda: search_data(reranking=True), ["map_at_1000"], 6e-6),  # mteb rounds to five decimals
        # mteb's mini-batches have 500 texts, those of the published score 2,000; the sets of 80 texts fit into either
        ("RedditClustering", lambda: cluster_data(), ["v_measure"], 1e-6),
    ],
)
def test_tasks_of_mteb_are_scored_as_mteb_does(name, make, keys, tolerance, tiny):
    task, model = loaded(name, make()), tiny()
    scores = by_mteb(model, task)
    assert len(keys) == 1 or len({round(scores[key], 6) for key in keys}) > 1
    assert ours(model, name, task) == pytest.approx(max(scores[key] for key in keys), abs=tolerance)


@SLOW
@pytest.mark.parametrize(("name", "own"), [("CQADupstackGisRetrieval", False), ("QuoraRetrieval", True)])
def test_retrieval_is_scored_as_mteb_does_by_the_better_of_cosine_and_dot_product(name, own, tiny):
    model, found = tiny(), {}
    for similarity in ("cosine", "dot"):
        model.similarity_fn_name = similarity
        found[similarity] = by_mteb(model, loaded(name, search_data(own=own)))["map_at_100"]
    assert found["cosine"] != found["dot"]
    score = ours(model, "QuoraRetrieval", loaded(name, search_data(own=own)))
    assert score == pytest.approx(max(found.values()), abs=6e-6)  # mteb rounds to five decimals


@SLOW
def test_a_published_task_of_several_sets_is_the_mean_over_them(tiny, monkeypatch):
    mteb = pytest.importorskip("mteb")
    made = mteb.get_task
    pins = PUBLISHED["CQADupstackRetrieval"].pins
    data = {pin[0]: partial(search_data, seed=20 + place) for place, pin in enumerate(pins)}

    def get_task(name):
        task = made(name)
        task.dataset, task.data_loaded = data[name](), True
        return task

    monkeypatch.setattr(mteb, "get_task", get_task)
    model = tiny()
    (task,) = select_tasks(["CQADupstackRetrieval"], data="")
    score = task.evaluate(model)
    alone = [ours(model, "CQADupstackRetrieval", get_task(pin[0])) for pin in pins]
    assert score.value == pytest.approx(100 * np.mean(alone), abs=1e-9)
    assert len(set(alone)) == 12
    assert np.unique(score.examples.sets).tolist() == list(range(12))


@SLOW
def test_another_revision_in_mteb_is_refused(monkeypatch):
    mteb = pytest.importorskip("mteb")
    other = loaded("SICK-R", None)
    monkeypatch.setattr(mteb, "get_task", lambda name: other)
    with pytest.raises(ValueError, match=r"BIOSSES is mteb/biosses-sts at d3fb.*has .*mteb/sickr-sts"):
        load_published(PUBLISHED["BIOSSES"].pins)


@SLOW
def test_mteb_takes_our_model_and_gives_it_the_scores_of_sentence_transformers(tiny, tmp_path):
    reference = pytest.importorskip("sentence_transformers")
    model = tiny()
    model.save(tmp_path / "model")
    theirs = reference.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    tasks = [("STSBenchmark", sts_data), ("CQADupstackGisRetrieval", search_data), ("RedditClustering", cluster_data)]
    for name, data in tasks:
        one, other = (by_mteb(any_model, loaded(name, data())) for any_model in (model, theirs))
        assert one["main_score"] == pytest.approx(other["main_score"], abs=1e-4), name
        assert abs(one["main_score"]) > 0.01


@SLOW
def test_mteb_uses_our_models_prompts(tiny):
    types = pytest.importorskip("mteb.types")
    model = tiny()
    model.prompts = {"query": "the question: ", "passage": "an answer: "}
    task = loaded("QuoraRetrieval", None)
    batches = [{"text": TEXTS[:2]}, {"text": TEXTS[2:3]}]
    for prompt_type, prompt in (("query", "the question: "), ("document", "an answer: "), (None, "")):
        kind = None if prompt_type is None else types.PromptType(prompt_type)
        found = model.encode(
            batches, task_metadata=task.metadata, hf_split="test", hf_subset="default", prompt_type=kind
        )
        np.testing.assert_allclose(found, model.encode(TEXTS[:3], prompt=prompt), atol=1e-6)


@SLOW
def test_mteb_sees_another_revision_when_the_weights_change(tiny):
    pytest.importorskip("mteb")
    model = tiny()
    before = model.mteb_model_meta
    assert before.revision == tiny().mteb_model_meta.revision
    next(model.parameters()).data[0, 0] += 1
    assert model.mteb_model_meta.revision != before.revision
    assert before.name == "sbertlab/unnamed"
