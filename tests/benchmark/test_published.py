from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbertlab import SentenceTransformer
from sbertlab.analysis.ranks import FAMILIES
from sbertlab.benchmark import published as mteb_tasks
from sbertlab.benchmark.presets import find_tasks, select_tasks
from sbertlab.benchmark.published import PUBLISHED, check_published, load_published, mteb_evaluator
from sbertlab.benchmark.tasks import METRICS, SIMILARITIES, Task

pytestmark = pytest.mark.slow  # importing mteb alone takes half a minute

SLOW = pytest.mark.slow  # mteb takes many seconds to import

# -- The table of the fourteen -----------------------------------------------------------------------------------------


def test_the_fourteen_are_those_of_the_average_with_their_metrics() -> None:
    metrics = {"STS": "spearman_max", "duplicates": "max_ap", "reranking": "map", "retrieval": "max_map@100"}
    metrics["clustering"] = "v_measure"
    families = [task.family for task in PUBLISHED.values()]
    assert [families.count(family) for family in FAMILIES] == [3, 3, 3, 2, 3]
    for task in PUBLISHED.values():
        assert task.metric == metrics[task.family]
        assert task.metric in METRICS
    for family, metric in (("STS", "spearman_max"), ("duplicates", "max_ap")):
        assert METRICS[metric].predictions == SIMILARITIES[family]
    assert [len(task.pins) for task in PUBLISHED.values() if len(task.pins) > 1] == [12]
    assert len({pin for task in PUBLISHED.values() for pin in task.pins}) == 25


@SLOW
def test_every_pin_is_the_revision_that_mteb_has() -> None:
    mteb = pytest.importorskip("mteb")
    for name, published in PUBLISHED.items():
        for pin in published.pins:
            dataset = mteb.get_task(pin.task).metadata.dataset
            assert (dataset["path"], dataset["revision"]) == (pin.path, pin.revision), name
    forums = mteb.get_task("CQADupstackRetrieval").metadata.tasks
    assert [task.metadata.name for task in forums] == [pin.task for pin in PUBLISHED["CQADupstackRetrieval"].pins]


# -- From a local folder -----------------------------------------------------------------------------------------------


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


class Letters:
    """A model whose cosine ranks otherwise than its distances."""

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[text.count("a"), text.count("b"), 1] for text in texts]


def test_a_set_of_the_folder_serves_the_published_task_and_the_note_says_which_edition_it_is(tmp_path: Path) -> None:
    rows = ["test,aa,aa,1", "test,ab,bb,0.7", "test,a,aaaa,0.2", "test,b,aaaaa,0", "train,a,b,1"]
    for name in ("stsb", "sickr", "biosses"):
        write(tmp_path / name / "data.csv.gz", "split,sentence1,sentence2,score", *rows)
    pairs = ["test,aa,aaaa,1", "test,aa,ab,1", "test,ab,bb,0"]
    write(tmp_path / "twitter_url" / "data.csv.gz", "split,sentence1,sentence2,label", *pairs)
    texts = ["test,a,x", "test,aa,x", "test,b,y"]
    write(tmp_path / "twenty_newsgroups_subject" / "data.csv.gz", "split,text,label", *texts)
    names = [name for name, task in PUBLISHED.items() if task.local]
    found = {task.name: task for task in select_tasks(names, tmp_path)}
    assert {name: task.note for name, task in found.items()} == {
        "TwitterURLCorpus": "local set twitter_url, test rows; another edition: fewer pairs",
        "BIOSSES": "local set biosses, all rows; another edition: another file",
        "SICK-R": "local set sickr, all rows",
        "STSBenchmark": "local set stsb, test rows",
        "TwentyNewsgroupsClustering": (
            "local set twenty_newsgroups_subject, test rows; another edition: one set of subject lines"
        ),
    }
    other = [name for name, task in found.items() if task.edition]
    assert other == ["TwitterURLCorpus", "BIOSSES", "TwentyNewsgroupsClustering"]
    sizes = {name: len(task.evaluate(Letters()).per_example) for name, task in found.items()}
    assert list(sizes.values()) == [3, 5, 5, 4, 3]
    assert all(task.files and task.check is None for task in found.values())
    (plain,) = select_tasks(["stsb"], tmp_path)
    cosine, best = plain.evaluate(Letters()), found["STSBenchmark"].evaluate(Letters())
    assert best.examples.predictions.shape == (3, 4)
    np.testing.assert_array_equal(best.examples.predictions[0], cosine.examples.predictions[0])
    assert best.value > cosine.value, "the distances rank these pairs better"


def test_a_local_set_of_another_family_is_refused_for_a_published_task(tmp_path: Path) -> None:
    write(tmp_path / "stsb" / "data.csv.gz", "text,label", "a,x", "b,y")
    with pytest.raises(ValueError, match=r"stsb has the columns of clustering, STSBenchmark is STS; .* use the Hub"):
        select_tasks(["STSBenchmark"], tmp_path)


# -- The Hub -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Sends requests for the Hub to another address; returns the folder of an empty cache."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(mteb_tasks, "find_spec", lambda name: object())

    def use(endpoint: str) -> Path:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        return tmp_path / "cache"

    return use


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """A Hub that has every set except BIOSSES and one forum, and remembers what it was asked."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            there = not any(word in self.path for word in ("biosses", "gaming"))
            body = json.dumps({"id": "mteb/any", "sha": "0"} if there else {"error": "Repository not found"}).encode()
            self.send_response(200 if there else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    asked: list[str] = []
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    hub.asked = asked  # type: ignore[attr-defined]
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    yield hub
    hub.shutdown()
    hub.server_close()


def test_a_missing_mteb_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mteb_tasks, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'STSBenchmark .* pip install "sbertlab\[benchmark\]"; or put the set stsb'):
        check_published("STSBenchmark")
    with pytest.raises(ImportError, match="RedditClustering takes its texts from the Hub through mteb"):
        load_published("RedditClustering")


def test_an_unreachable_hub_is_named_with_set_and_remedy_for_all_fourteen_at_once(
    hub: Callable[[str], Path], closed_port: int
) -> None:
    hub(f"http://127.0.0.1:{closed_port}")
    tasks, problems = find_tasks(PUBLISHED, data="")
    assert tasks == []
    assert list(problems) == list(PUBLISHED)
    for name, error in problems.items():
        assert isinstance(error, ConnectionError)
        assert name in str(error)
        assert PUBLISHED[name].pins[0].path in str(error)
        assert "check the network, HF_ENDPOINT and HF_HUB_OFFLINE" in str(error)
    assert "or put the set stsb into the folder that SBERTLAB_DATA names" in str(problems["STSBenchmark"])
    assert "or put the set" not in str(problems["QuoraRetrieval"])


def test_a_hub_that_is_silent_is_given_up_after_one_wait(
    hub: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mteb_tasks, "TIMEOUT", 1.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        hub(f"http://127.0.0.1:{listener.getsockname()[1]}")
        check = time.monotonic()
        _, problems = find_tasks(PUBLISHED, data="")
        waited = time.monotonic() - check
    assert len(problems) == 14
    assert all("imeout" in str(error) or "timed out" in str(error) for error in problems.values())
    assert waited < 10, "fourteen tasks with twenty-five sets, one after the other, would take twenty-five seconds"


def test_a_hub_that_lacks_a_set_costs_only_the_tasks_of_that_set(
    hub: Callable[[str], Path], server: ThreadingHTTPServer
) -> None:
    hub(f"http://127.0.0.1:{server.server_address[1]}")
    tasks, problems = find_tasks(PUBLISHED, data="")
    assert list(problems) == ["BIOSSES", "CQADupstackRetrieval"]
    assert "mteb/cqadupstack-gaming" in str(problems["CQADupstackRetrieval"])
    assert len(tasks) == 12
    asked = server.asked  # type: ignore[attr-defined]
    assert all("/api/datasets/mteb/" in path and "/revision/" in path for path in asked), "nothing is downloaded"


def test_what_is_in_the_cache_needs_no_hub(hub: Callable[[str], Path], closed_port: int) -> None:
    cache = hub(f"http://127.0.0.1:{closed_port}")
    pin = PUBLISHED["BIOSSES"].pins[0]
    snapshot = cache / f"datasets--{pin.path.replace('/', '--')}" / "snapshots" / pin.revision
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("words")
    with pytest.raises(ConnectionError, match="neither in the Hub's cache nor"):
        check_published("BIOSSES")
    (snapshot / "test.parquet").write_bytes(b"rows")
    check_published("BIOSSES")


# -- Tasks of mteb with texts of our own -------------------------------------------------------------------------------

SUBJECTS = ["the cat", "a dog", "the old woman", "one child", "a bird", "the man", "people", "my fish"]
VERBS = ["sits", "runs", "plays", "sleeps", "eats", "reads", "walks"]
PLACES = ["in the garden", "at the table", "by the sea", "on a chair", "for a week", "with the lamp"]
TEXTS = [f"{subject} {verb} {place}" for subject in SUBJECTS for verb in VERBS for place in PLACES]


def drawn(n: int, seed: int) -> list[str]:
    """So many different texts."""
    return [TEXTS[place] for place in np.random.default_rng(seed).permutation(len(TEXTS))[:n]]


def sts_data(seed: int = 0) -> Any:
    from datasets import Dataset

    scores = np.random.default_rng(seed).uniform(0, 5, 60).tolist()
    return {"test": Dataset.from_dict({"sentence1": drawn(60, 1), "sentence2": drawn(60, 2), "score": scores})}


def pair_data(one_row: bool = False) -> Any:
    from datasets import Dataset

    labels = np.random.default_rng(3).integers(0, 2, 60).tolist()
    columns: dict[str, Any] = {"sentence1": drawn(60, 3), "sentence2": drawn(60, 4), "labels": labels}
    return {"test": Dataset.from_dict({name: [rows] for name, rows in columns.items()} if one_row else columns)}


def search_data(seed: int = 5, reranking: bool = False, own: bool = False) -> Any:
    """Forty documents, some with a title; with `own`, every query lies in the corpus under its own id."""
    from datasets import Dataset

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
        "corpus": Dataset.from_dict(corpus),
        "queries": Dataset.from_dict({"id": queries, "text": texts[40:]}),
        "relevant_docs": relevant,
        "top_ranked": ranked if reranking else None,
    }
    return {"default": {"test": split}}


def cluster_data() -> Any:
    from datasets import Dataset

    sets = [drawn(80, seed) for seed in (6, 7, 8)]
    labels = [[text.split()[-1] for text in texts] for texts in sets]
    return {"test": Dataset.from_dict({"sentences": sets, "labels": labels})}


def loaded(name: str, data: Any) -> Any:
    """The task of mteb, with these data in place of the Hub's."""
    task = pytest.importorskip("mteb").get_task(name)
    task.dataset, task.data_loaded = data, True
    return task


def by_mteb(model: Any, task: Any) -> dict[str, float]:
    """The scores that mteb gives the model."""
    mteb = pytest.importorskip("mteb")
    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return dict(found.task_results[0].scores["test"][0])


def ours(model: Any, name: str, task: Any) -> float:
    """The score, 0 to 1, that our evaluator gives the model on the task's data."""
    published = PUBLISHED[name]
    return Task(name, published.family, published.metric, "", partial(mteb_evaluator, task)).evaluate(model).value / 100


@SLOW
def test_sts_of_mteb_is_scored_as_mteb_does(tiny: Callable[..., SentenceTransformer]) -> None:
    task, model = loaded("BIOSSES", sts_data()), tiny()
    scores = by_mteb(model, task)
    names = ("cosine_spearman", "euclidean_spearman", "manhattan_spearman")
    assert len({round(scores[name], 6) for name in names}) == 3
    assert ours(model, "BIOSSES", task) == pytest.approx(max(scores[name] for name in names), abs=1e-6)


@SLOW
@pytest.mark.parametrize("one_row", [False, True])
def test_pair_classification_of_mteb_is_scored_as_mteb_does(
    one_row: bool, tiny: Callable[..., SentenceTransformer]
) -> None:
    task, model = loaded("TwitterURLCorpus", pair_data(one_row)), tiny()
    scores = by_mteb(model, task)
    assert len({round(scores[f"{name}_ap"], 6) for name in SIMILARITIES["duplicates"]}) > 1
    assert ours(model, "TwitterURLCorpus", task) == pytest.approx(scores["max_ap"], abs=1e-6)


@SLOW
def test_reranking_of_mteb_is_scored_as_mteb_does(tiny: Callable[..., SentenceTransformer]) -> None:
    task, model = loaded("SciDocsRR", search_data(reranking=True)), tiny()
    score = by_mteb(model, task)["map_at_1000"]
    assert 0.1 < score < 0.9
    assert ours(model, "SciDocsRR", task) == pytest.approx(score, abs=6e-6)  # mteb rounds to five decimals


@SLOW
@pytest.mark.parametrize(("name", "own"), [("CQADupstackGisRetrieval", False), ("QuoraRetrieval", True)])
def test_retrieval_of_mteb_is_scored_as_mteb_does_by_the_better_of_cosine_and_dot_product(
    name: str, own: bool, tiny: Callable[..., SentenceTransformer]
) -> None:
    model, found = tiny(), {}
    for similarity in ("cosine", "dot"):
        model.similarity_fn_name = similarity
        found[similarity] = by_mteb(model, loaded(name, search_data(own=own)))["map_at_100"]
    assert found["cosine"] != found["dot"]
    score = ours(model, "QuoraRetrieval", loaded(name, search_data(own=own)))
    assert score == pytest.approx(max(found.values()), abs=6e-6)  # mteb rounds to five decimals


@SLOW
def test_clustering_of_mteb_is_scored_as_mteb_does_on_small_sets(tiny: Callable[..., SentenceTransformer]) -> None:
    task, model = loaded("RedditClustering", cluster_data()), tiny()
    scores = by_mteb(model, task)
    assert len({round(value, 6) for value in scores["v_measures"]}) == 3  # type: ignore[call-overload]
    # mteb's mini-batches have 500 texts, those of the published score 2,000; 80 texts fit into either
    assert ours(model, "RedditClustering", task) == pytest.approx(scores["v_measure"], abs=1e-6)


@SLOW
def test_a_published_task_of_several_sets_is_the_mean_over_them(
    tiny: Callable[..., SentenceTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    mteb = pytest.importorskip("mteb")
    made = mteb.get_task
    pins = PUBLISHED["CQADupstackRetrieval"].pins
    data = {pin.task: partial(search_data, seed=20 + place) for place, pin in enumerate(pins)}

    def get_task(name: str) -> Any:
        task = made(name)
        task.dataset, task.data_loaded = data[name](), True
        return task

    monkeypatch.setattr(mteb, "get_task", get_task)
    monkeypatch.setattr(mteb_tasks, "check_published", lambda name: None)
    model = tiny()
    (task,) = select_tasks(["CQADupstackRetrieval"], data="")
    score = task.evaluate(model)
    alone = [ours(model, "CQADupstackRetrieval", get_task(pin.task)) for pin in pins]
    assert score.value == pytest.approx(100 * np.mean(alone), abs=1e-9)
    assert len(set(alone)) == 12
    assert np.unique(score.examples.sets).tolist() == list(range(12))


@SLOW
def test_data_that_are_not_in_the_form_of_mteb_are_named() -> None:
    from datasets import Dataset

    columns = Dataset.from_dict({"first": ["a"], "score": [1.0]})
    with pytest.raises(ValueError, match="BIOSSES: it has the columns first, score, expected sentence1"):
        mteb_evaluator(loaded("BIOSSES", {"test": columns}))
    with pytest.raises(ValueError, match="BIOSSES has no split 'test', only train"):
        mteb_evaluator(loaded("BIOSSES", {"train": columns}))
    texts = Dataset.from_dict({"sentences": ["a", "b"], "labels": [0, 1]})
    with pytest.raises(ValueError, match="RedditClustering: its rows are texts, expected sets of texts"):
        mteb_evaluator(loaded("RedditClustering", {"test": texts}))
    with pytest.raises(ValueError, match=r"type of Banking77Classification must be one of .*STS"):
        mteb_evaluator(loaded("Banking77Classification", {"test": texts}))


@SLOW
def test_another_revision_in_mteb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    mteb = pytest.importorskip("mteb")
    monkeypatch.setattr(mteb_tasks, "check_published", lambda name: None)
    other = loaded("SICK-R", None)
    monkeypatch.setattr(mteb, "get_task", lambda name: other)
    with pytest.raises(ValueError, match=r"BIOSSES is mteb/biosses-sts at d3fb.*has mteb/sickr-sts at .* pip install"):
        load_published("BIOSSES")


# -- mteb's door -------------------------------------------------------------------------------------------------------


@SLOW
def test_mteb_takes_our_model_as_it_is_and_gives_it_what_it_gives_sentence_transformers(
    tiny: Callable[..., SentenceTransformer], tmp_path: Path
) -> None:
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
def test_mteb_gives_our_model_the_prompt_that_it_has_for_queries(tiny: Callable[..., SentenceTransformer]) -> None:
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
def test_mteb_files_a_model_whose_weights_changed_under_another_revision(
    tiny: Callable[..., SentenceTransformer],
) -> None:
    pytest.importorskip("mteb")
    model = tiny()
    before = model.mteb_model_meta
    assert before.revision == tiny().mteb_model_meta.revision
    next(model.parameters()).data[0, 0] += 1
    assert model.mteb_model_meta.revision != before.revision
    assert before.name == "sbertlab/unnamed"
