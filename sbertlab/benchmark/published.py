"""The published table of thirteen base models: its fourteen tasks, and the figures of the documents.

The Training Overview of sentence-transformers ranks them by the plain mean of fourteen scores, which it does not name.
Its author pointed to an older benchmark program (issue 1618 of that project; github.com/nreimers/se-benchmark), whose
tasks and metrics are in `published.yaml`. Of several sets or forums the mean counts, of several similarities the best.

The texts come from the Hub through mteb (extra `benchmark`) at pinned revisions, or from a local folder. The original
files are no longer served; in mteb SciDocs is one set instead of the mean of several, and questions of CQADupStack are
title and text, where the original seems to have had titles alone. k-means starts once instead of three times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from sbertlab.benchmark.local_tasks import local_task, sets_in
from sbertlab.benchmark.tasks import TABLES, Task, reranking_evaluator, table_evaluator
from sbertlab.evaluation import InformationRetrievalEvaluator, SentenceEvaluator, SequentialEvaluator
from sbertlab.util import Encoder, Matches

DATA: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
"""The content of `published.yaml`: tasks, local sets, training data, differences of recipes from the published one."""

MEAN = "mean of 14"
"""In place of a task's name."""

BATCH_64, BATCH_128 = "training_nli_v2", "training_nli_v2, batch 128"
"""The recipe with the batch size of the Training Overview, and with that of the public script."""


Pin = tuple[str, str, str]
"""A data set on the Hub: the name of its task in mteb, its repository and its commit."""


def figures() -> pd.DataFrame:
    """Return all published figures (times 100), one per row of `published.csv`, with source and conditions.

    Tasks are names of `PUBLISHED`, `MEAN`, or both of Twitter in one; the recipe is empty if the model is untuned. The
    Training Overview prints "microsof/deberta-base", and "nghuyong/ernie-2.0-en", which was renamed since.
    """
    return pd.read_csv(Path(__file__).with_suffix(".csv"), keep_default_na=False)


BASE_MODELS: tuple[str, ...] = tuple(figures().query("recipe == @BATCH_64")["model"])
"""The thirteen base models of the Training Overview by their names on the Hub, in its order."""


def published_cells() -> pd.DataFrame:
    """Return `figures` as rows of benchmark.csv with the tag "published"; unknown are intervals, revisions and n."""
    unknown: dict[str, Any] = {"revision": "", "seed": 0, "low": np.nan, "high": np.nan, "n": 0, "seconds": 0.0}
    return figures().assign(preset="published", tag="published", error="", **unknown)


def load_published(pins: Sequence[Pin]) -> SentenceEvaluator:
    """Load texts through mteb (of the pinned revisions) and return their evaluator; several sets give their mean."""
    import mteb

    evaluators = []
    for name, path, revision in pins:
        task = mteb.get_task(name)
        dataset = task.metadata.dataset
        if (dataset["path"], dataset["revision"]) != (path, revision):
            raise ValueError(f"{name} is {path} at {revision}, but mteb {mteb.__version__} has {dataset}")
        task.load_data()
        evaluators.append(mteb_evaluator(task))
        task.unload_data()
    return _mean(evaluators)


def _published_task(name: str, family: str, metric: str, pins: Sequence[Pin]) -> Task:
    _, path, revision = pins[0]
    note = f"{path} at {revision[:7]}" if len(pins) == 1 else f"mean of {len(pins)} sets of mteb"
    return Task(name, family, metric, note, partial(load_published, pins), pins=tuple(map(tuple, pins)))


PUBLISHED: Mapping[str, Task] = {name: _published_task(name, **task) for name, task in DATA["tasks"].items()}
"""The fourteen tasks by their name in mteb, on the data sets of the Hub."""


def published_task(name: str, folder: Path | None = None) -> Task:
    """Return a published task, on the data set of the local folder if it has it, otherwise on that of the Hub.

    >>> published_task("STSBenchmark").note, published_task("CQADupstackRetrieval").note
    ('mteb/stsbenchmark-sts at b0fddb5', 'mean of 12 sets of mteb')
    """
    task, (local, edition) = PUBLISHED[name], DATA["local"].get(name, ("", ""))
    if folder is None or local not in sets_in(folder):
        return task
    own = local_task(local, folder)
    note = f"local set {local}, {own.note}" + (f"; another edition: {edition}" if edition else "")
    return replace(own, name=name, metric=task.metric, note=note, edition=edition)


def mteb_evaluator(task: Any) -> SentenceEvaluator:
    """Return the evaluator of the test split of a loaded task of mteb, of one of the types of the published ones."""
    kind, data = task.metadata.type, task.dataset.get("default", task.dataset)["test"]
    if kind in ("Retrieval", "Reranking"):
        return _search(task, data)
    if kind == "Clustering":
        sets = zip(data[task.input_column_name], data[task.label_column_name], strict=True)
        tables = [pd.DataFrame({"text": texts, "label": labels}) for texts, labels in sets]
        return _mean([table_evaluator("clustering", table) for table in tables])
    if kind == "STS":
        family, names = "STS", [*task.column_names, "score"]
    else:
        family, names = "duplicates", [task.input1_column_name, task.input2_column_name, task.label_column_name]
    columns = TABLES[family][0]
    table = data.to_pandas()[names].set_axis(columns, axis=1)
    if len(table) == 1:  # mteb's older sets hold all pairs in one row
        table = table.explode(columns, ignore_index=True)
    return table_evaluator(family, table)


def _search(task: Any, data: Any) -> SentenceEvaluator:
    """Return the evaluator of a search in the corpus (title and text), or of reranking the candidates of each query."""
    queries = {row["id"]: row["text"] for row in data["queries"]}
    corpus = {row["id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in data["corpus"]}
    relevant = {
        query: {document for document, score in documents.items() if score > 0}
        for query, documents in data["relevant_docs"].items()
    }
    if task.metadata.type == "Retrieval":
        make = ExcludeSelfEvaluator if task.ignore_identical_ids else InformationRetrievalEvaluator
        return make(queries, corpus, relevant)
    return reranking_evaluator(queries, corpus, relevant, data["top_ranked"])


class ExcludeSelfEvaluator(InformationRetrievalEvaluator):
    """A search that ignores the document with the query's own id: the query itself, if the corpus contains it.

    >>> from types import SimpleNamespace
    >>> toy = SimpleNamespace(encode=lambda texts, **_: [[text.count("a"), text.count("b")] for text in texts])
    >>> ExcludeSelfEvaluator({"1": "a"}, {"1": "a", "2": "aab", "3": "b"}, {"1": {"2"}})(toy)["max_map@100"]
    1.0
    """

    def __init__(self, queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant_docs: Mapping[Any, set]) -> None:
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


def _mean(evaluators: Sequence[SentenceEvaluator]) -> SentenceEvaluator:
    """Return the only evaluator, or one whose score is the mean of theirs."""
    if len(evaluators) == 1:
        return evaluators[0]
    return SequentialEvaluator(evaluators, main_score_function=lambda scores: float(np.mean(scores)))
