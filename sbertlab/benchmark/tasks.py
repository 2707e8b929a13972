"""A benchmark task: labelled texts, an evaluator and a metric; and the five tasks of the packaged corpus.

| family | question | metric |
| --- | --- | --- |
| STS | does similarity follow the graded score? | Spearman correlation |
| duplicates | are duplicates more similar than other pairs? | average precision |
| reranking | do the relevant candidates of a query come first? | MAP |
| retrieval | is the relevant document found in a corpus? | MRR@10 (one relevant document) or MAP@100 |
| clustering | do clusters match the classes? | V-measure |
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sbertlab import evaluation
from sbertlab.analysis.resampling import Examples
from sbertlab.data import helpdesk
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.evaluation import SentenceEvaluator
from sbertlab.evaluation.labels import cluster_columns

CLUSTER_STARTS = 10
"""Runs of k-means per clustering task. The first is the score; all of them show how much the start matters."""


METRICS: Mapping[str, tuple[str, Sequence[str], str | None]] = {
    "spearman_cosine": ("spearman", ["cosine"], "score"),
    "spearman_max": ("spearman", ["cosine", "euclidean", "manhattan"], "score"),
    "cosine_ap": ("average_precision", ["cosine"], "label"),
    "max_ap": ("average_precision", ["cosine", "dot", "euclidean", "manhattan"], "label"),
    "max_map@100": ("mean", ["cos_sim_map@100", "dot_score_map@100"], None),
    "v_measure": ("v_measure", cluster_columns(CLUSTER_STARTS), "label"),
}
"""Statistic of `Examples`, columns of which the best counts (for clusterings the starts), and column of the answers.
Any other metric is the mean of the column of that name in an evaluator's table of examples."""


def examples_of(metric: str, table: pd.DataFrame) -> Examples:
    """Return what a metric reads of an evaluator's table of examples; class names become numbers.

    >>> pairs = pd.DataFrame({"score": [1, 2, 3], "cosine": [0.1, 0.2, 0.3]})
    >>> examples_of("spearman_cosine", pairs).value()
    1.0
    """
    statistic, columns, target = METRICS.get(metric, ("mean", [metric], None))
    answers = None if target is None else table[target].to_numpy()
    if statistic == "v_measure":
        answers = pd.factorize(table["label"])[0]
        columns = [name for name in columns if name in table]
    sets = table["evaluator"].to_numpy() if "evaluator" in table else None
    return Examples(statistic, table[list(columns)].to_numpy().T, answers, sets)


class Score(NamedTuple):
    """The result of a task: `value` is `100 * examples.value()`, `per_example` the evaluator's table of examples."""

    value: float
    per_example: pd.DataFrame
    examples: Examples


@dataclass(frozen=True)
class Task:
    """A task of the benchmark.

    Args:
        name: unique among all tasks.
        family: one of `ranks.FAMILIES`.
        metric: one of `METRICS`, or a column of the evaluator's table of examples, whose mean counts.
        note: what the texts are, in a few words.
        load: reads the texts and returns the evaluator.
        files: the local files that it reads.
        edition: how the texts differ from those of the published task with this name; "" if they do not.
        pins: the pinned Hub data sets that it reads.
    """

    name: str
    family: str
    metric: str
    note: str
    load: Callable[[], SentenceEvaluator]
    files: tuple[Path, ...] = ()
    edition: str = ""
    pins: tuple[Any, ...] = ()

    def evaluate(self, model: Any) -> Score:
        """Measure a model: anything with `encode(texts) -> (texts, dim)` or `transform`, or its `StoredEmbeddings`."""
        stored: Any = model if isinstance(model, StoredEmbeddings) else StoredEmbeddings(model)
        evaluator = self.load()
        evaluator(stored)
        examples = examples_of(self.metric, evaluator.per_example)
        return Score(100 * examples.value(), evaluator.per_example, examples)


TABLES: Mapping[str, tuple[list[str], str, Callable[..., SentenceEvaluator]]] = {
    "STS": (["sentence1", "sentence2", "score"], "spearman_cosine", evaluation.EmbeddingSimilarityEvaluator),
    "duplicates": (["sentence1", "sentence2", "label"], "cosine_ap", evaluation.BinaryClassificationEvaluator),
    "clustering": (["text", "label"], "v_measure", partial(evaluation.ClusteringEvaluator, starts=CLUSTER_STARTS)),
}
"""Columns, metric and evaluator of the families whose texts are one table."""


def table_evaluator(family: str, table: pd.DataFrame) -> SentenceEvaluator:
    """Return the evaluator of a table with the columns of its family in `TABLES`."""
    columns, _, make = TABLES[family]
    return make(*(table[name].tolist() for name in columns))


def reranking_evaluator(
    queries: Mapping[str, str], corpus: Mapping[str, str], relevant: Mapping[Any, set], ranked: Mapping[Any, list]
) -> SentenceEvaluator:
    """Return the evaluator of reranking some documents of each query: texts, relevant and ranked documents by id."""
    samples = []
    for query, documents in ranked.items():
        right = relevant.get(query, set())
        positive = [corpus[document] for document in documents if document in right]
        negative = [corpus[document] for document in documents if document not in right]
        samples.append({"query": queries[query], "positive": positive, "negative": negative})
    return evaluation.RerankingEvaluator(samples)


HELPDESK: Mapping[str, tuple[str, str]] = {
    "STS": ("spearman_cosine", "pairs in four grades"),
    "duplicates": ("cosine_ap", "pairs of the same or of near intents"),
    "reranking": ("map", "phrasings of the topic"),
    "retrieval": ("cos_sim_mrr@10", "answers to all intents"),
    "clustering": ("v_measure", "phrasings by intent"),
}
"""Metric and note of each family."""


def helpdesk_tasks() -> list[Task]:
    """Return one task per family on the test phrasings of the help-desk corpus; retrieval searches all answers."""
    tasks = []
    for family, (metric, note) in HELPDESK.items():
        name, load = f"helpdesk-{family.lower()}", partial(helpdesk_evaluator, family)
        tasks.append(Task(name, family, metric, f"{note}; test intents", load, (helpdesk.CORPUS,)))
    return tasks


def helpdesk_evaluator(family: str) -> SentenceEvaluator:
    """Return the evaluator of a family."""
    table = helpdesk.load_helpdesk("test")
    match family:
        case "reranking":
            return evaluation.RerankingEvaluator(helpdesk.reranking(table))
        case "retrieval":
            return evaluation.InformationRetrievalEvaluator(*helpdesk.retrieval(table, helpdesk.load_helpdesk()))
        case "STS":
            table = helpdesk.graded_pairs(table)
        case "duplicates":
            table = helpdesk.duplicate_pairs(table)
        case _:
            table = table.assign(label=table["intent"])
    return table_evaluator(family, table)
