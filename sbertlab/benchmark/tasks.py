"""A benchmark task: labelled texts, an evaluator and a metric; and the five tasks of the packaged corpus.

| family | question | metric |
| --- | --- | --- |
| STS | does similarity follow the graded score? | Spearman correlation |
| duplicates | are duplicates more similar than other pairs? | average precision |
| reranking | do the relevant candidates of a query come first? | MAP |
| retrieval | is the relevant document found in a corpus? | MRR@10 (one relevant document) or MAP@100 |
| clustering | do clusters match the classes? | V-measure |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sbertlab.analysis.resampling import Examples
from sbertlab.data import helpdesk
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.evaluation import (
    BinaryClassificationEvaluator,
    ClusteringEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    RerankingEvaluator,
    SentenceEvaluator,
)
from sbertlab.evaluation.labels import cluster_columns
from sbertlab.util import cos_sim, dot_score

CLUSTER_STARTS = 10
"""Runs of k-means per clustering task. The first is the score; all of them show how much the start matters."""

SIMILARITIES = {"STS": ("cosine", "euclidean", "manhattan"), "duplicates": ("cosine", "dot", "euclidean", "manhattan")}
"""Similarities of the published tasks; the best one counts."""


@dataclass(frozen=True)
class Metric:
    """How a metric is computed from an evaluator's table of examples.

    Args:
        statistic: one of those of `Examples`.
        predictions: alternative columns, of which the best counts; for clusterings, the starts that the table has.
        target: column of the correct answers; None for a mean.

    >>> pairs = pd.DataFrame({"score": [1, 2, 3], "cosine": [0.1, 0.2, 0.3], "dot": [3, 1, 2]})
    >>> Metric("spearman", ("dot", "cosine"), "score").examples(pairs).value()
    1.0
    """

    statistic: str
    predictions: tuple[str, ...]
    target: str | None = None

    def examples(self, table: pd.DataFrame) -> Examples:
        """Return the columns that the statistic needs; class names become numbers."""
        target = None if self.target is None else table[self.target].to_numpy()
        columns = list(self.predictions)
        if target is not None and self.statistic == "v_measure":
            target = pd.factorize(target)[0]
            columns = [name for name in columns if name in table]
        subsets = table["evaluator"].to_numpy() if "evaluator" in table else None
        return Examples(self.statistic, table[columns].to_numpy().T, target, subsets)


METRICS: Mapping[str, Metric] = {
    "spearman_cosine": Metric("spearman", ("cosine",), "score"),
    "spearman_max": Metric("spearman", SIMILARITIES["STS"], "score"),
    "cosine_ap": Metric("average_precision", ("cosine",), "label"),
    "max_ap": Metric("average_precision", SIMILARITIES["duplicates"], "label"),
    "map": Metric("mean", ("map",)),
    "cos_sim_mrr@10": Metric("mean", ("cos_sim_mrr@10",)),
    "cos_sim_map@100": Metric("mean", ("cos_sim_map@100",)),
    "max_map@100": Metric("mean", ("cos_sim_map@100", "dot_score_map@100")),
    "v_measure": Metric("v_measure", cluster_columns(CLUSTER_STARTS), "label"),
}
"""Named as in the evaluators. Any other metric is the mean of the column of that name in the table of examples."""


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
        check: raises what `load` would raise, without a download; None if loading is quick enough to be the check.
        edition: how the texts differ from those of the published task with this name; "" if they do not.
        pins: the pinned Hub data sets that it reads.
    """

    name: str
    family: str
    metric: str
    note: str
    load: Callable[[], SentenceEvaluator]
    files: tuple[Path, ...] = ()
    check: Callable[[], Any] | None = None
    edition: str = ""
    pins: tuple[Any, ...] = ()

    def evaluate(self, model: Any, evaluator: SentenceEvaluator | None = None) -> Score:
        """Measure a model: anything with `encode(list of texts) -> (texts, dim)`, or with `transform` instead.

        Pass the same `StoredEmbeddings(model)` to several tasks, and no text is encoded twice. `evaluator` is the
        result of `load`, if it was called before.

        Raises:
            ValueError: the metric is neither known nor a column of the evaluator's table.
        """
        stored: Any = model if isinstance(model, StoredEmbeddings) else StoredEmbeddings(model)
        evaluator = self.load() if evaluator is None else evaluator
        evaluator(stored)
        table = evaluator.per_example
        if self.metric not in METRICS and self.metric not in table:
            raise ValueError(
                f"task {self.name!r} has the metric {self.metric!r}, expected one of {', '.join(METRICS)}, "
                f"or a column of its examples: {', '.join(map(str, table.columns))}"
            )
        examples = METRICS.get(self.metric, Metric("mean", (self.metric,))).examples(table)
        return Score(100 * examples.value(), table, examples)


def sts_evaluator(table: pd.DataFrame, similarities: Sequence[Any] = ("cosine",)) -> SentenceEvaluator:
    """Return the evaluator of the columns sentence1, sentence2 and score."""
    first, second, scores = (table[name].tolist() for name in ("sentence1", "sentence2", "score"))
    return EmbeddingSimilarityEvaluator(first, second, scores, similarity_fn_names=similarities)


def pair_evaluator(table: pd.DataFrame, similarities: Sequence[Any] = ("cosine",)) -> SentenceEvaluator:
    """Return the evaluator of the columns sentence1, sentence2 and label."""
    first, second, labels = (table[name].tolist() for name in ("sentence1", "sentence2", "label"))
    return BinaryClassificationEvaluator(first, second, labels, similarity_fn_names=similarities)


def cluster_evaluator(table: pd.DataFrame, label: str = "label") -> SentenceEvaluator:
    """Return the evaluator of the columns text and label."""
    return ClusteringEvaluator(table["text"].tolist(), table[label].tolist(), starts=CLUSTER_STARTS)


def search_evaluator(
    queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant: Mapping[Any, set[Any]], dot: bool = False
) -> SentenceEvaluator:
    """Return the evaluator of a search by cosine similarity, with `dot` also by dot product."""
    functions = {"cos_sim": cos_sim, "dot_score": dot_score} if dot else {"cos_sim": cos_sim}
    return InformationRetrievalEvaluator(queries, corpus, relevant, score_functions=functions)


HELPDESK: Mapping[str, tuple[str, str, Callable[[pd.DataFrame], SentenceEvaluator]]] = {
    "STS": ("spearman_cosine", "pairs in four grades", lambda table: sts_evaluator(helpdesk.graded_pairs(table))),
    "duplicates": (
        "cosine_ap",
        "pairs of the same or of near intents",
        lambda table: pair_evaluator(helpdesk.duplicate_pairs(table)),
    ),
    "reranking": ("map", "phrasings of the topic", lambda table: RerankingEvaluator(helpdesk.reranking(table))),
    "retrieval": (
        "cos_sim_mrr@10",
        "answers to all intents",
        lambda table: search_evaluator(*helpdesk.retrieval(table, helpdesk.load_helpdesk())),
    ),
    "clustering": ("v_measure", "phrasings by intent", lambda table: cluster_evaluator(table, label="intent")),
}
"""Metric, note and evaluator of each family."""


def helpdesk_tasks() -> list[Task]:
    """Return one task per family on the test phrasings of the help-desk corpus; retrieval searches all answers."""
    return [
        Task(
            f"helpdesk-{family.lower()}",
            family,
            metric,
            f"{note}; test intents",
            partial(_helpdesk_evaluator, family),
            (helpdesk.CORPUS,),
        )
        for family, (metric, note, _) in HELPDESK.items()
    ]


def _helpdesk_evaluator(family: str) -> SentenceEvaluator:
    """Return the evaluator of a family, by its name, so that a task can be sent to another process."""
    return HELPDESK[family][2](helpdesk.load_helpdesk("test"))
