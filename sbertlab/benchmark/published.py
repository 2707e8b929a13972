"""The published table of thirteen base models: its fourteen tasks, and the figures of the documents.

The Training Overview of sentence-transformers ranks them by the plain mean of fourteen scores, which it does not name.
Its author pointed to an older benchmark program (issue 1618 of that project; github.com/nreimers/se-benchmark), whose
tasks and metrics are in `published.yaml`:

| family | metric |
| --- | --- |
| STS | highest Spearman correlation of cosine, negated euclidean and negated manhattan distance |
| duplicates | highest average precision of these and the dot product |
| reranking | MAP by cosine |
| retrieval | the higher MAP@100 of cosine and dot product, within each forum; mean over forums |
| clustering | V-measure of mini-batch k-means (batches of 2,000, seed 42), mean over the sets |

The texts come from the Hub through mteb (extra `benchmark`) at pinned revisions, or from a local folder. The original
files are no longer served; in mteb SciDocs is one set instead of the mean of several, and questions of CQADupStack are
title and text, where the original seems to have had titles alone. k-means starts once instead of three times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml

from sbertlab.benchmark.local_tasks import DATA_VARIABLE, LOCAL_SETS, local_task, sets_in, table_evaluator
from sbertlab.benchmark.tasks import (
    CLUSTER_STARTS,
    SIMILARITIES,
    Task,
    pair_evaluator,
    search_evaluator,
    sts_evaluator,
)
from sbertlab.checks import check_choice
from sbertlab.evaluation import (
    ClusteringEvaluator,
    InformationRetrievalEvaluator,
    RerankingEvaluator,
    SentenceEvaluator,
    SequentialEvaluator,
)
from sbertlab.util import Encoder, Matches

DATA: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
"""The content of `published.yaml`: tasks, figures, and how the recipes differ from the published one."""

TIMEOUT = 5.0
"""Seconds to wait for the Hub's answer whether it has a data set."""

MTEB = "2.26.24"
"""The version of mteb whose tasks have the pinned revisions."""

MEAN = "mean of 14"
TWITTER_MEAN = "TwitterSemEval2015 and TwitterURLCorpus"
"""Averages in place of a task; the documents of May 2021 print one column for the two Twitter tasks."""

BATCH_64, BATCH_128 = "training_nli_v2", "training_nli_v2, batch 128"
"""The recipe with the batch size of the Training Overview, and with that of the public script."""


class Pin(NamedTuple):
    """A data set on the Hub: the name of its task in mteb, its repository and its commit."""

    task: str
    path: str
    revision: str


@dataclass(frozen=True)
class PublishedTask:
    """One of the fourteen tasks; the fields are explained in `published.yaml`."""

    family: str
    metric: str
    pins: tuple[Pin, ...]
    local: str = ""
    edition: str = ""


PUBLISHED: Mapping[str, PublishedTask] = {
    name: PublishedTask(**task | {"pins": tuple(Pin(*pin) for pin in task["pins"])})
    for name, task in DATA["tasks"].items()
}
"""The fourteen tasks by their name in mteb."""

BASE_MODELS: tuple[str, ...] = tuple(DATA["figures"][0]["models"])
"""The thirteen base models of the Training Overview by their names on the Hub, in its order."""


def figures() -> pd.DataFrame:
    """Return all published figures (times 100), one per row, with source and conditions.

    Tasks are names of `PUBLISHED`, `MEAN` or `TWITTER_MEAN`; the recipe is empty if the model is untuned.

    >>> figures().query("task == 'mean of 14' and model == 'microsoft/mpnet-base'")[["recipe", "value"]].values.tolist()
    [['training_nli_v2', 60.99], ['training_nli_v2, batch 128', 62.49]]
    """
    kinds = {name: (task.family, task.metric) for name, task in PUBLISHED.items()}
    kinds |= {MEAN: ("", "mean"), TWITTER_MEAN: ("duplicates", "max_ap")}
    rows = []
    for block in DATA["figures"]:
        recipe, metrics = block.get("recipe", ""), block.get("metrics", {})
        for model, values in block["models"].items():
            conditions = block["conditions"].format(model=model.rpartition("/")[2])
            for task, value in zip(block["tasks"], values, strict=False):
                family, metric = kinds[task]
                metric = metrics.get(task, metrics.get(family, metric))
                variant = "fine-tuned" if recipe else "untuned"
                rows.append([model, variant, recipe, task, family, metric, value, block["source"], conditions])
    columns = ["model", "variant", "recipe", "task", "family", "metric", "value", "source", "conditions"]
    return pd.DataFrame(rows, columns=columns)


def published_cells() -> pd.DataFrame:
    """Return `figures` as rows of benchmark.csv with the tag "published"; unknown are intervals, revisions and n."""
    unknown: dict[str, Any] = {"preset": "published", "revision": "", "seed": 0, "low": math.nan, "high": math.nan}
    table = figures().assign(**unknown, n=0, seconds=0.0, tag="published", error="")
    columns = ["preset", "model", "revision", "variant", "recipe", "seed", "task", "family", "metric"]
    return table[[*columns, "value", "low", "high", "n", "seconds", "tag", "error"]]


def published_task(name: str, folder: Path | None = None) -> Task:
    """Return a published task, on the data set of the local folder if it has it, otherwise on that of the Hub.

    Raises:
        ValueError: the local data set has the columns of another family, or no rows.
        FileNotFoundError: a file of the local data set is missing.

    >>> published_task("STSBenchmark").note, published_task("CQADupstackRetrieval").note
    ('mteb/stsbenchmark-sts at b0fddb5', 'mean of 12 sets of mteb')
    """
    task = PUBLISHED[name]
    if folder is not None and task.local in sets_in(folder):
        local = local_task(task.local, folder)
        if local.family != task.family:
            raise ValueError(
                f"{folder / task.local} has the columns of {local.family}, {name} is {task.family}; give it the "
                "columns listed in sbertlab.benchmark.local_tasks, or remove it to use the Hub"
            )
        note = f"local set {task.local}, {local.note}" + (f"; another edition: {task.edition}" if task.edition else "")
        load = local.load
        if task.family in SIMILARITIES:
            maker = sts_evaluator if task.family == "STS" else pair_evaluator
            make = partial(maker, similarities=SIMILARITIES[task.family])
            load = partial(table_evaluator, local.files[0], LOCAL_SETS[task.local], make)
        return Task(name, task.family, task.metric, note, load, local.files, edition=task.edition)
    first, several = task.pins[0], len(task.pins) > 1
    note = f"mean of {len(task.pins)} sets of mteb" if several else f"{first.path} at {first.revision[:7]}"
    load, check = partial(load_published, name), partial(check_published, name)
    return Task(name, task.family, task.metric, note, load, check=check, pins=task.pins)


# -- The Hub -----------------------------------------------------------------------------------------------------------


def check_published(name: str) -> None:
    """Check that the texts of a published task are available, without downloading them.

    Texts in the Hub's cache need no network. For the others the Hub is asked, for `TIMEOUT` seconds at most.

    Raises:
        ImportError: mteb is missing.
        ConnectionError: a data set is not in the cache, and the Hub does not answer or does not have it.
    """
    if find_spec("mteb") is None:
        install = 'pip install "sbertlab[benchmark]"'
        raise ImportError(f"{name} takes its texts from the Hub through mteb: {install}{_local_remedy(name)}")
    from huggingface_hub import HfApi, snapshot_download

    for pin in PUBLISHED[name].pins:
        try:
            folder = snapshot_download(pin.path, repo_type="dataset", revision=pin.revision, local_files_only=True)
            cached = {path.name for path in Path(folder).rglob("*") if path.is_file()}
        except OSError:
            cached = set()
        if not cached - {"README.md", ".gitattributes"}:
            with _explained(name, pin):
                HfApi().dataset_info(pin.path, revision=pin.revision, timeout=TIMEOUT)


def load_published(name: str) -> SentenceEvaluator:
    """Load the texts of a published task through mteb and return its evaluator; several sets give their mean.

    Errors are those of `check_published`, and a ValueError if the installed mteb pins another revision.
    """
    check_published(name)
    import mteb

    evaluators = []
    for pin in PUBLISHED[name].pins:
        task = mteb.get_task(pin.task)
        path, revision = task.metadata.dataset["path"], task.metadata.dataset["revision"]
        if (path, revision) != (pin.path, pin.revision):
            raise ValueError(
                f"{pin.task} is {pin.path} at {pin.revision}, but the installed mteb {mteb.__version__} has {path} at "
                f"{revision}; scores would not be comparable: pip install mteb=={MTEB}"
            )
        with _explained(name, pin):
            task.load_data()
        evaluators.append(mteb_evaluator(task))
        task.unload_data()
    return _mean(evaluators)


@contextmanager
def _explained(name: str, pin: Pin) -> Iterator[None]:
    """Turn the errors of the network, which have no common class, into a ConnectionError with remedies."""
    try:
        yield
    except Exception as error:
        raise ConnectionError(
            f"{name}: {pin.path} (revision {pin.revision[:7]}) is neither in the Hub's cache nor on the Hub "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); check the network, HF_ENDPOINT and "
            f"HF_HUB_OFFLINE, or copy the cache (HF_HOME) from a machine that has the data set{_local_remedy(name)}"
        ) from error


def _local_remedy(name: str) -> str:
    local = PUBLISHED[name].local
    return f"; or put the set {local} into the folder that {DATA_VARIABLE} names" if local else ""


# -- From mteb's tasks to evaluators -----------------------------------------------------------------------------------


def mteb_evaluator(task: Any, split: str = "test") -> SentenceEvaluator:
    """Return the evaluator of an English text task of mteb whose data are loaded.

    Args:
        task: of type STS, PairClassification, Reranking, Retrieval or Clustering (the older form, with several sets).
        split: rows to use.

    Raises:
        ValueError: another type, no such split, or a missing column.
    """
    name, kind = task.metadata.name, task.metadata.type
    check_choice(f"the type of {name}", kind, TYPES)
    if hasattr(task, "convert_v1_dataset_format_to_v2"):
        task.convert_v1_dataset_format_to_v2(num_proc=None)
    data = (task.dataset or {}).get("default", task.dataset or {})
    if split not in data:
        raise ValueError(f"{name} has no split {split!r}, only {', '.join(data) or 'none: call load_data() first'}")
    try:
        return TYPES[kind](task, data[split])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{name}: {error}; its data are not in mteb's form") from error


def _pairs(task: Any, data: Any) -> SentenceEvaluator:
    if task.metadata.type == "STS":
        names, family, third, make = (*task.column_names, "score"), "STS", "score", sts_evaluator
    else:
        names = (task.input1_column_name, task.input2_column_name, task.label_column_name)
        family, third, make = "duplicates", "label", pair_evaluator
    columns = [_column(data, name) for name in names]
    if len(data) == 1 and isinstance(columns[0][0], list):  # mteb's older sets hold all pairs in one row
        columns = [column[0] for column in columns]
    table = pd.DataFrame(dict(zip(("sentence1", "sentence2", third), columns, strict=True)))
    return make(table, SIMILARITIES[family])


def _search(task: Any, data: Any) -> SentenceEvaluator:
    """Return the evaluator of a search in the corpus (title and text), or of reranking the candidates of each query."""
    queries = dict(zip(_column(data["queries"], "id"), _column(data["queries"], "text"), strict=True))
    texts = _column(data["corpus"], "text")
    titles = _column(data["corpus"], "title") if "title" in data["corpus"].column_names else [""] * len(texts)
    joined = [f"{title or ''} {text}".strip() for title, text in zip(titles, texts, strict=True)]
    corpus = dict(zip(_column(data["corpus"], "id"), joined, strict=True))
    relevant = {
        query: {document for document, score in documents.items() if score > 0}
        for query, documents in data["relevant_docs"].items()
    }
    if task.metadata.type == "Retrieval":
        make = ExcludeSelfEvaluator if task.ignore_identical_ids else partial(search_evaluator, dot=True)
        return make(queries, corpus, relevant)
    samples = []
    for query, ranked in (data["top_ranked"] or {}).items():
        right = relevant.get(query, set())
        positive = [corpus[document] for document in ranked if document in right]
        negative = [corpus[document] for document in ranked if document not in right]
        samples.append({"query": queries.get(query, ""), "positive": positive, "negative": negative})
    return RerankingEvaluator(samples)


def _clustering(task: Any, data: Any) -> SentenceEvaluator:
    texts, labels = _column(data, task.input_column_name), _column(data, task.label_column_name)
    if any(isinstance(one, str) for one in texts):
        raise ValueError("its rows are texts, expected sets of texts; use the older form of the task (without .v2)")
    return _mean([ClusteringEvaluator(*one, starts=CLUSTER_STARTS) for one in zip(texts, labels, strict=True)])


TYPES = {
    "STS": _pairs,
    "PairClassification": _pairs,
    "Reranking": _search,
    "Retrieval": _search,
    "Clustering": _clustering,
}
"""Makers of evaluators by mteb's type of task."""


class ExcludeSelfEvaluator(InformationRetrievalEvaluator):
    """A search that ignores the document with the query's own id: the query itself, if the corpus contains it.

    >>> from types import SimpleNamespace
    >>> toy = SimpleNamespace(encode=lambda texts, **_: [[text.count("a"), text.count("b")] for text in texts])
    >>> ExcludeSelfEvaluator({"1": "a"}, {"1": "a", "2": "aab", "3": "b"}, {"1": {"2"}})(toy)["max_map@100"]
    1.0
    """

    def __init__(
        self, queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant_docs: Mapping[Any, set[Any]]
    ) -> None:
        others = {query: set(documents) - {query} for query, documents in relevant_docs.items()}
        # one rank more than MAP@100 reads, because one may be the query itself
        super().__init__(queries, corpus, others, accuracy_at_k=(1, 3, 5, 10, 101))
        places = {document: place for place, document in enumerate(self.corpus_ids)}
        self.own = torch.tensor([places.get(query, -1) for query in self.queries_ids])

    def _best_matches(self, model: Encoder) -> dict[str, Matches]:
        best = {}
        for name, (scores, places) in super()._best_matches(model).items():
            own = places == self.own.to(places.device)[:, None]
            order = own.int().argsort(dim=1, stable=True)  # the query itself goes last, where it is never a hit
            best[name] = scores.gather(1, order), places.gather(1, order)
        return best


def _column(data: Any, name: str) -> list[Any]:
    if name not in data.column_names:
        raise ValueError(f"it has the columns {', '.join(data.column_names)}, expected {name}")
    return list(data[name])


def _mean(evaluators: Sequence[SentenceEvaluator]) -> SentenceEvaluator:
    """Return the only evaluator, or one whose score is the mean of theirs."""
    if len(evaluators) == 1:
        return evaluators[0]
    return SequentialEvaluator(evaluators, main_score_function=lambda scores: float(np.mean(scores)))
