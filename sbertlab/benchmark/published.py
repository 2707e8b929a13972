"""The fourteen tasks behind the published table of thirteen base models, and mteb as the source of their texts.

The table's average is the plain mean of fourteen scores of an older benchmark (github.com/nreimers/se-benchmark). Each
is stated here with the metric that entered the average:

| family | metric |
| --- | --- |
| STS | greatest Spearman correlation of cosine, negated euclidean and negated manhattan distance |
| duplicates | greatest average precision of these and the dot product |
| reranking | MAP by the cosine |
| retrieval | the greater of the MAP@100 of cosine and of dot product, within each forum; mean over forums |
| clustering | V-measure of mini-batch k-means (batches of 2,000, seed 42), mean over the sets |

The texts come from the Hub through mteb (extra `benchmark`), at the revisions that are pinned here, or from a folder of
local sets (`local_tasks`) where it holds the same set.

What differs from the original: its files are no longer served, so the texts are mteb's. There SciDocs is one set
instead of the mean of several, and questions of CQADupStack are title and text, where the original seems to have had
titles alone. k-means starts once, the default of scikit-learn today, instead of three times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from sbertlab.benchmark.local_tasks import (
    CLUSTER_STARTS,
    DATA_VARIABLE,
    LOCAL_SETS,
    Source,
    local_source,
    pair_evaluator,
    search_evaluator,
    sets_in,
    sts_evaluator,
    table_evaluator,
)
from sbertlab.evaluation import (
    ClusteringEvaluator,
    InformationRetrievalEvaluator,
    RerankingEvaluator,
    SentenceEvaluator,
    SequentialEvaluator,
)
from sbertlab.util import Encoder, Matches

TIMEOUT = 5.0
"""Seconds to wait for the Hub to say whether it has a set."""

MTEB = "2.26.24"
"""The version whose tasks are at the revisions pinned here."""

SIMILARITIES = {"STS": ("cosine", "euclidean", "manhattan"), "duplicates": ("cosine", "dot", "euclidean", "manhattan")}
"""The rivals, the best of which counts."""


class Pin(NamedTuple):
    """A set on the Hub: name of its task in mteb, repository, commit."""

    task: str
    path: str
    revision: str


@dataclass(frozen=True)
class PublishedTask:
    """One of the fourteen.

    Args:
        seb: its name in the original benchmark.
        family: one of `standings.FAMILIES`.
        metric: one of `tasks.METRICS`.
        pins: where its texts are; the score is the mean over several.
        local: the set of a local folder that serves as well.
        edition: how that set differs; "" where it is the same.
    """

    seb: str
    family: str
    metric: str
    pins: tuple[Pin, ...]
    local: str = ""
    edition: str = ""


def _forums(**revisions: str) -> tuple[Pin, ...]:
    """Return the pins of CQADupStack; the first of its repositories is named otherwise than the rest."""
    return tuple(
        Pin(
            f"CQADupstack{forum.title()}Retrieval",
            "mteb/CQADupstackAndroidRetrieval" if forum == "android" else f"mteb/cqadupstack-{forum}",
            revision,
        )
        for forum, revision in revisions.items()
    )


def _one(task: str, path: str, revision: str) -> tuple[Pin, ...]:
    return (Pin(task, f"mteb/{path}", revision),)


PUBLISHED: Mapping[str, PublishedTask] = {
    "SprintDuplicateQuestions": PublishedTask(
        "SprintDuplicateQuestions",
        "duplicates",
        "max_ap",
        _one(
            "SprintDuplicateQuestions",
            "sprintduplicatequestions-pairclassification",
            "d66bd1f72af766a5cc4b0ca5e00c162f89e8cc46",
        ),
    ),
    "TwitterSemEval2015": PublishedTask(
        "TwitterSemEval2015",
        "duplicates",
        "max_ap",
        _one("TwitterSemEval2015", "twittersemeval2015-pairclassification", "70970daeab8776df92f5ea462b6173c0b46fd2d1"),
    ),
    "TwitterURLCorpus": PublishedTask(
        "TwitterURLCorpus",
        "duplicates",
        "max_ap",
        _one("TwitterURLCorpus", "twitterurlcorpus-pairclassification", "8b6510b0b1fa4e4c4f879467980e9be563ec1cdf"),
        "twitter_url",
        "fewer pairs",
    ),
    "BIOSSES": PublishedTask(
        "BIOSSES",
        "STS",
        "spearman_max",
        _one("BIOSSES", "biosses-sts", "d3fb88f8f02e40887cd149695127462bbcf29b4a"),
        "biosses",
        "another file",
    ),
    "SICK-R": PublishedTask(
        "SICK-R",
        "STS",
        "spearman_max",
        _one("SICK-R", "sickr-sts", "20a6d6f312dd54037fe07a32d58e5e168867909d"),
        "sickr",
    ),
    "STSBenchmark": PublishedTask(
        "STSbenchmark",
        "STS",
        "spearman_max",
        _one("STSBenchmark", "stsbenchmark-sts", "b0fddb56ed78048fa8b90373c8a3cfc37b684831"),
        "stsb",
    ),
    "AskUbuntuDupQuestions": PublishedTask(
        "AskUbuntuDupQuestions",
        "reranking",
        "map",
        _one("AskUbuntuDupQuestions", "AskUbuntuDupQuestions", "c5691e3c48741d5f83b5cc8e630653d7a8cfc048"),
    ),
    "SciDocsRR": PublishedTask(
        "SciDocs",
        "reranking",
        "map",
        _one("SciDocsRR", "SciDocsRR", "39b8377811871075eed9de3b8a7e21aaa6acb3d8"),
    ),
    "StackOverflowDupQuestions": PublishedTask(
        "StackOverflowDupQuestions",
        "reranking",
        "map",
        _one("StackOverflowDupQuestions", "StackOverflowDupQuestions", "5debda000fe8e27ebb5c123d38081f92e1847a59"),
    ),
    "CQADupstackRetrieval": PublishedTask(
        "CQADupStack",
        "retrieval",
        "max_map@100",
        _forums(
            android="9be4c0e46342e8e3aff577a89b9a1ec9bc6b4af3",
            english="ad9991cb51e31e31e430383c75ffb2885547b5f0",
            gaming="4885aa143210c98657558c04aaf3dc47cfb54340",
            gis="5003b3064772da1887988e05400cf3806fe491f2",
            mathematica="90fceea13679c63fe563ded68f3b6f06e50061de",
            physics="79531abbd1fb92d06c6d6315a0cbbbf5bb247ea4",
            programmers="6184bc1440d2dbc7612be22b50686b8826d22b32",
            stats="65ac3a16b8e91f9cee4c9828cc7c335575432a2a",
            tex="46989137a86843e03a6195de44b09deda022eec7",
            unix="6c6430d3a6d36f8d2a829195bc5dc94d7e063e53",
            webmasters="160c094312a0e1facb97e55eeddb698c0abe3571",
            wordpress="4ffe81d471b1924886b33c7567bfb200e9eec5c4",
        ),
    ),
    "QuoraRetrieval": PublishedTask(
        "QuoraRetrieval",
        "retrieval",
        "max_map@100",
        _one("QuoraRetrieval", "quora", "e4e08e0b7dbe3c8700f0daef558ff32256715259"),
    ),
    "RedditClustering": PublishedTask(
        "RedditClustering",
        "clustering",
        "v_measure",
        _one("RedditClustering", "reddit-clustering", "24640382cdbf8abc73003fb0fa6d111a705499eb"),
    ),
    "StackExchangeClustering": PublishedTask(
        "StackExchangeClustering",
        "clustering",
        "v_measure",
        _one("StackExchangeClustering", "stackexchange-clustering", "6cbc1f7b2bc0622f2e39d2c77fa502909748c259"),
    ),
    "TwentyNewsgroupsClustering": PublishedTask(
        "20NewsgroupsClustering",
        "clustering",
        "v_measure",
        _one("TwentyNewsgroupsClustering", "twentynewsgroups-clustering", "6125ec4e24fa026cec8a478383ee943acfbd5449"),
        "twenty_newsgroups_subject",
        "one set of subject lines",
    ),
}
"""The fourteen tasks by their name in mteb."""


def published_source(name: str, folder: Path | None = None) -> Source:
    """Return what the published task is made of: the set of the folder where it has it, otherwise the Hub.

    Raises:
        ValueError: the local set has the columns of another family, or no rows.
        FileNotFoundError: a file of the local set is missing.

    >>> published_source("STSBenchmark").note
    'mteb/stsbenchmark-sts at b0fddb5'
    >>> published_source("CQADupstackRetrieval").note
    'mean of 12 sets of mteb'
    """
    task = PUBLISHED[name]
    if folder is not None and task.local in sets_in(folder):
        local = local_source(task.local, folder)
        if local.family != task.family:
            raise ValueError(
                f"{folder / task.local} has the columns of {local.family}, {name} is {task.family}; "
                f"give it the columns that sbertlab.benchmark.local_tasks names, or take it away to use the Hub"
            )
        note = f"local set {task.local}, {local.note}" + (f"; another edition: {task.edition}" if task.edition else "")
        load = local.load
        if task.family in SIMILARITIES:
            make = partial(EVALUATORS[task.family], similarities=SIMILARITIES[task.family])
            load = partial(table_evaluator, local.files[0], LOCAL_SETS[task.local], make)
        return Source(task.family, task.metric, note, load, local.files, edition=task.edition)
    first = task.pins[0]
    many = len(task.pins) > 1
    note = f"mean of {len(task.pins)} sets of mteb" if many else f"{first.path} at {first.revision[:7]}"
    return Source(task.family, task.metric, note, partial(load_published, name), check=partial(check_published, name))


# -- The Hub -----------------------------------------------------------------------------------------------------------


def check_published(name: str) -> None:
    """Say whether the texts of a published task can be had, without downloading them.

    What is in the Hub's cache needs no network. The Hub is asked for the rest, for `TIMEOUT` seconds at most.

    Raises:
        ImportError: mteb is missing.
        ConnectionError: a set is not in the cache, and the Hub does not answer or does not have it.
    """
    if find_spec("mteb") is None:
        raise ImportError(
            f"{name} takes its texts from the Hub through mteb, which is not installed: "
            f'pip install "sbertlab[benchmark]"{_instead(name)}'
        )
    from huggingface_hub import HfApi

    for pin in PUBLISHED[name].pins:
        if _cached(pin):
            continue
        try:
            HfApi().dataset_info(pin.path, revision=pin.revision, timeout=TIMEOUT)
        except Exception as error:  # the network's own errors have no common class
            raise ConnectionError(_unreachable(name, pin, error)) from error


def load_published(name: str) -> SentenceEvaluator:
    """Load the texts of a published task through mteb, and make the evaluator; several sets give the mean over them.

    Raises:
        ImportError: mteb is missing.
        ConnectionError: the texts are not in the cache, and the Hub does not give them.
        ValueError: the installed mteb pins another revision.
    """
    check_published(name)
    import mteb

    evaluators = []
    for pin in PUBLISHED[name].pins:
        task = mteb.get_task(pin.task)
        found = task.metadata.dataset["path"], task.metadata.dataset["revision"]
        if found != (pin.path, pin.revision):
            raise ValueError(
                f"{pin.task} is {pin.path} at {pin.revision}, but the installed mteb {mteb.__version__} has "
                f"{found[0]} at {found[1]}; scores would not compare: pip install mteb=={MTEB}"
            )
        try:
            task.load_data()
        except Exception as error:  # likewise
            raise ConnectionError(_unreachable(name, pin, error)) from error
        evaluators.append(mteb_evaluator(task))
        task.unload_data()
    return _mean(evaluators)


def _cached(pin: Pin) -> bool:
    """Whether the Hub's cache has files of the set besides its description."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(pin.path, repo_type="dataset", revision=pin.revision, local_files_only=True)
    except OSError:
        return False
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return any(path.name not in ("README.md", ".gitattributes") for path in files)


def _unreachable(name: str, pin: Pin, error: Exception) -> str:
    return (
        f"{name}: the set {pin.path} (revision {pin.revision[:7]}) is not in the Hub's cache, and the Hub does not "
        f"give it ({type(error).__name__}: {' '.join(str(error).split())[:200]}); check the network, HF_ENDPOINT and "
        f"HF_HUB_OFFLINE, or bring the cache (HF_HOME) from a machine that has the set{_instead(name)}"
    )


def _instead(name: str) -> str:
    local = PUBLISHED[name].local
    return f"; or put the set {local} into the folder that {DATA_VARIABLE} names" if local else ""


# -- From mteb's tasks to evaluators -----------------------------------------------------------------------------------


def mteb_evaluator(task: Any, split: str = "test") -> SentenceEvaluator:
    """Make the evaluator of an English text task of mteb whose data are loaded, with the published metric of its type.

    Args:
        task: of the type STS, PairClassification, Reranking, Retrieval or Clustering (the older form, many sets).
        split: rows that count.

    Raises:
        ValueError: another type, no such split, or rows that lack a column.
    """
    name, kind = task.metadata.name, task.metadata.type
    if kind not in TYPES:
        raise ValueError(f"{name} is of the type {kind}, expected one of {', '.join(TYPES)}")
    if hasattr(task, "convert_v1_dataset_format_to_v2"):
        task.convert_v1_dataset_format_to_v2(num_proc=None)
    data = (task.dataset or {}).get("default", task.dataset or {})
    if split not in data:
        raise ValueError(f"{name} has no split {split!r}, only {', '.join(data) or 'none: call load_data() first'}")
    try:
        return TYPES[kind](task, data[split])
    except KeyError as error:
        raise ValueError(f"{name} lacks {error} in its split {split!r}; its data are not in mteb's form") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _sts(task: Any, data: Any) -> SentenceEvaluator:
    first, second = task.column_names
    table = pd.DataFrame({"sentence1": _column(data, first), "sentence2": _column(data, second)})
    return sts_evaluator(table.assign(score=_column(data, "score")), SIMILARITIES["STS"])


def _pairs(task: Any, data: Any) -> SentenceEvaluator:
    names = (task.input1_column_name, task.input2_column_name, task.label_column_name)
    columns = [_column(data, name) for name in names]
    if len(data) == 1 and isinstance(columns[0][0], list):  # mteb's older sets hold all pairs in one row
        columns = [column[0] for column in columns]
    table = pd.DataFrame(dict(zip(("sentence1", "sentence2", "label"), columns, strict=True)))
    return pair_evaluator(table, SIMILARITIES["duplicates"])


def _reranking(task: Any, data: Any) -> SentenceEvaluator:
    queries, corpus, relevant = _search_texts(task, data)
    samples = []
    for query, ranked in (data["top_ranked"] or {}).items():
        right = relevant.get(query, set())
        positive = [corpus[document] for document in ranked if document in right]
        negative = [corpus[document] for document in ranked if document not in right]
        samples.append({"query": queries.get(query, ""), "positive": positive, "negative": negative})
    return RerankingEvaluator(samples)


def _retrieval(task: Any, data: Any) -> SentenceEvaluator:
    make = NotItself if task.ignore_identical_ids else partial(search_evaluator, dot=True)
    return make(*_search_texts(task, data))


def _clustering(task: Any, data: Any) -> SentenceEvaluator:
    texts, labels = _column(data, task.input_column_name), _column(data, task.label_column_name)
    if any(isinstance(one, str) for one in texts):
        raise ValueError("its rows are texts, expected sets of texts; take the older form of the task (without .v2)")
    return _mean([ClusteringEvaluator(*one, starts=CLUSTER_STARTS) for one in zip(texts, labels, strict=True)])


EVALUATORS = {"STS": sts_evaluator, "duplicates": pair_evaluator}
TYPES = {
    "STS": _sts,
    "PairClassification": _pairs,
    "Reranking": _reranking,
    "Retrieval": _retrieval,
    "Clustering": _clustering,
}
"""Makers of evaluators by mteb's type of task."""


class NotItself(InformationRetrievalEvaluator):
    """A search in which no query finds the document that has its own id: the query itself, where it is in the corpus.

    >>> from types import SimpleNamespace
    >>> toy = SimpleNamespace(encode=lambda texts, **_: [[text.count("a"), text.count("b")] for text in texts])
    >>> NotItself({"1": "a"}, {"1": "a", "2": "aab", "3": "b"}, {"1": {"2"}})(toy)["max_map@100"]
    1.0
    """

    def __init__(
        self, queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant_docs: Mapping[Any, set[Any]]
    ) -> None:
        others = {query: set(documents) - {query} for query, documents in relevant_docs.items()}
        # one place more than MAP@100 reads, since one may be the query's own
        super().__init__(queries, corpus, others, accuracy_at_k=(1, 3, 5, 10, 101))
        places = {document: place for place, document in enumerate(self.corpus_ids)}
        self.own = torch.tensor([places.get(query, -1) for query in self.queries_ids])

    def _best_matches(self, model: Encoder) -> dict[str, Matches]:
        best = {}
        for name, (scores, places) in super()._best_matches(model).items():
            own = places == self.own.to(places.device)[:, None]
            order = own.int().argsort(dim=1, stable=True)  # itself goes last, where it is never a hit
            best[name] = scores.gather(1, order), places.gather(1, order)
        return best


def _search_texts(task: Any, data: Any) -> tuple[dict[str, str], dict[str, str], dict[str, set[str]]]:
    """Return the texts of the queries, those of the corpus (title and text), and the relevant documents."""
    queries = dict(zip(_column(data["queries"], "id"), _column(data["queries"], "text"), strict=True))
    texts = _column(data["corpus"], "text")
    titles = _column(data["corpus"], "title") if "title" in data["corpus"].column_names else [""] * len(texts)
    joined = [f"{title or ''} {text}".strip() for title, text in zip(titles, texts, strict=True)]
    corpus = dict(zip(_column(data["corpus"], "id"), joined, strict=True))
    relevant = {
        query: {document for document, score in documents.items() if score > 0}
        for query, documents in data["relevant_docs"].items()
    }
    return queries, corpus, relevant


def _column(data: Any, name: str) -> list[Any]:
    if name not in data.column_names:
        raise ValueError(f"it has the columns {', '.join(data.column_names)}, expected {name}")
    return list(data[name])


def _mean(evaluators: Sequence[SentenceEvaluator]) -> SentenceEvaluator:
    """Return the only one of them, or one whose score is the mean of theirs."""
    if len(evaluators) == 1:
        return evaluators[0]
    return SequentialEvaluator(evaluators, main_score_function=lambda scores: float(np.mean(scores)))
