"""Benchmark tasks as data: what is measured, by which metric, on which texts. How a model is trained is not known here.

| family | question | metric |
| --- | --- | --- |
| STS | does similarity follow the graded score? | Spearman correlation |
| duplicates | does similarity tell duplicates from other pairs? | average precision |
| reranking | do the right candidates of a query come first? | MAP |
| retrieval | does the right document come first in a corpus? | MRR@10 (one right document) or MAP@100 |
| clustering | do clusters match the classes? | V-measure |

Three sources: the packaged help-desk corpus (`helpdesk`), always there; a folder of sets of one's own, which the
environment variable SBERTLAB_DATA names (`local_tasks`); and the fourteen published tasks (`mteb_tasks`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from sbertlab.analysis.resampling import Examples
from sbertlab.benchmark.local_tasks import (
    CLUSTER_STARTS,
    DATA_VARIABLE,
    LOCAL_SETS,
    cluster_evaluator,
    data_folder,
    local_source,
    pair_evaluator,
    search_evaluator,
    sets_in,
    sts_evaluator,
)
from sbertlab.benchmark.published import PUBLISHED, published_source
from sbertlab.data import helpdesk
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.evaluation import RerankingEvaluator, SentenceEvaluator
from sbertlab.evaluation.labels import cluster_columns


@dataclass(frozen=True)
class Metric:
    """How a metric follows from an evaluator's table of examples.

    Args:
        statistic: one of those of `Examples`.
        predictions: columns of the rivals, the best of which counts; of clusterings, from as many starts as there are.
        target: column of what is right; None for a mean.
        sets: column of the sub-set of each example, where the table has it.

    >>> pairs = pd.DataFrame({"score": [1, 2, 3], "cosine": [0.1, 0.2, 0.3], "dot": [3, 1, 2]})
    >>> Metric("spearman", ("dot", "cosine"), "score").examples(pairs).value()
    1.0
    """

    statistic: str
    predictions: tuple[str, ...]
    target: str | None = None
    sets: str = "evaluator"

    def examples(self, table: pd.DataFrame) -> Examples:
        """Return the columns that the statistic reads; classes become numbers."""
        target = None if self.target is None else table[self.target].to_numpy()
        if target is not None and self.statistic == "v_measure":
            target = pd.factorize(target)[0]
        sets = table[self.sets].to_numpy() if self.sets in table else None
        first, *others = self.predictions
        columns = [first, *(name for name in others if self.statistic != "v_measure" or name in table)]
        return Examples(self.statistic, table[columns].to_numpy().T, target, sets)


METRICS: Mapping[str, Metric] = {
    "spearman_cosine": Metric("spearman", ("cosine",), "score"),
    "spearman_max": Metric("spearman", ("cosine", "euclidean", "manhattan"), "score"),
    "cosine_ap": Metric("average_precision", ("cosine",), "label"),
    "max_ap": Metric("average_precision", ("cosine", "dot", "euclidean", "manhattan"), "label"),
    "map": Metric("mean", ("map",)),
    "cos_sim_mrr@10": Metric("mean", ("cos_sim_mrr@10",)),
    "cos_sim_map@100": Metric("mean", ("cos_sim_map@100",)),
    "max_map@100": Metric("mean", ("cos_sim_map@100", "dot_score_map@100")),
    "v_measure": Metric("v_measure", cluster_columns(CLUSTER_STARTS), "label"),
}
"""Named as in the evaluators. Any other metric is the mean of the column of that name in the table of examples."""


@dataclass(frozen=True)
class Score:
    """The result of a task.

    Args:
        value: `100 * examples.value()`.
        per_example: the evaluator's table of examples (pairs, queries or texts).
        examples: the columns from which the value, and intervals around it, are computed.
    """

    value: float
    per_example: pd.DataFrame
    examples: Examples


@dataclass(frozen=True)
class Task:
    """What is measured, on which texts.

    Args:
        name: unique among all tasks.
        family: one of `standings.FAMILIES`.
        metric: one of `METRICS`, or a column of the evaluator's table of examples, whose mean counts.
        note: what the texts are, in a few words.
        load: reads the texts and makes the evaluator.
        files: what it reads.
        check: raises what `load` would raise, without a download; None where loading is quick enough to be the check.
        edition: how the texts differ from those of the published task that it has the name of; "" where they do not.
    """

    name: str
    family: str
    metric: str
    note: str
    load: Callable[[], SentenceEvaluator]
    files: tuple[Path, ...] = ()
    check: Callable[[], Any] | None = None
    edition: str = ""

    def evaluate(self, model: Any, evaluator: SentenceEvaluator | None = None) -> Score:
        """Measure a model, that is anything with `encode(list of texts) -> (texts, dim)`, or `transform` in its place.

        Give `StoredEmbeddings(model)` to several tasks, and no text is encoded twice.

        Args:
            model: what to measure.
            evaluator: what `load` returned, where it was called before; None calls it.

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


# -- Which tasks there are ---------------------------------------------------------------------------------------------


def select_tasks(names: Iterable[str | Task] | None = None, data: str | os.PathLike[str] | None = None) -> list[Task]:
    """Return the tasks with these names, checked as far as their files' headers.

    Args:
        names: of help-desk tasks, of published tasks (`PUBLISHED`) or of sets in the folder; a task stands for itself.
            None: all help-desk tasks, and the sets among `LOCAL_SETS` that are there.
        data: folder of sets; what SBERTLAB_DATA names when None. Published tasks take their texts from it where it has
            them.

    Raises:
        ValueError: a name is unknown or twice there; a set whose columns are not those of a task.
        FileNotFoundError: the folder is missing, holds none of the known sets, or a set lacks a file.

    >>> [task.name for task in select_tasks(["helpdesk-sts", "helpdesk-clustering"])]
    ['helpdesk-sts', 'helpdesk-clustering']
    """
    folder = data_folder(data)
    return [_task(name, folder) for name in _names(names, folder)]


def find_tasks(
    names: Iterable[str | Task] | None = None, data: str | os.PathLike[str] | None = None
) -> tuple[list[Task], dict[str, Exception]]:
    """Return the tasks whose data can be had, and by name what is wrong with the others; see `select_tasks`.

    Raises:
        ValueError: names that are no names, or twice there.
        FileNotFoundError: the folder is missing, or holds none of the known sets where no names are given.

    >>> found, problems = find_tasks(["helpdesk-sts", "helpdesk-cluster"], data="")
    >>> [task.name for task in found], list(problems)
    (['helpdesk-sts'], ['helpdesk-cluster'])
    """
    folder = data_folder(data)
    tasks: list[Task] = []
    problems: dict[str, Exception] = {}
    for name in _names(names, folder):
        try:
            tasks.append(_task(name, folder))
        except (ValueError, OSError) as error:
            problems[str(name)] = error
    problems |= unavailable(tasks)
    return [task for task in tasks if task.name not in problems], problems


def unavailable(tasks: Iterable[Task]) -> dict[str, Exception]:
    """Return by name why the data of a task cannot be had; nothing is downloaded, and an answer takes seconds."""

    def problem(task: Task) -> Exception | None:
        try:
            (task.check or task.load)()
        except Exception as error:
            return error
        return None

    tasks = list(tasks)
    with ThreadPoolExecutor(max_workers=16) as threads:  # a hub that is silent is waited for once, not task by task
        found = zip(tasks, threads.map(problem, tasks), strict=True)
        return {task.name: error for task, error in found if error is not None}


def _names(names: Iterable[str | Task] | None, folder: Path | None) -> list[str | Task]:
    """Return what was asked for, or the default tasks."""
    if names is None:
        own = [task.name for task in helpdesk_tasks()]
        return [*own, *([] if folder is None else known_sets(folder))]
    given: list[str | Task] = [names] if isinstance(names, (str, Task)) else list(names)
    called = [task.name if isinstance(task, Task) else task for task in given]
    if not called or len(set(called)) < len(called) or not all(isinstance(name, str) for name in called):
        raise ValueError(f"tasks must be names of tasks, each once, got {called}")
    return given


def known_sets(folder: Path) -> list[str]:
    """Return the names of those of `LOCAL_SETS` that are in the folder; their files are not looked at.

    Raises:
        FileNotFoundError: there are none.
    """
    found = [name for name in LOCAL_SETS if name in sets_in(folder)]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds none of the sets {', '.join(LOCAL_SETS)}; put them there as folders, name your own "
            f"sets by --tasks, or unset {DATA_VARIABLE}"
        )
    return found


def _task(name: str | Task, folder: Path | None) -> Task:
    """Return the task of that name, from the first of the three sources that knows it."""
    if isinstance(name, Task):
        return name
    own = {task.name: task for task in helpdesk_tasks()}
    if name in own:
        return own[name]
    if name in PUBLISHED:
        return Task(name, *published_source(name, folder))
    if folder is not None and name in sets_in(folder):
        return Task(name, *local_source(name, folder))
    known = {known.lower(): known for known in (*own, *PUBLISHED, *sets_in(folder))}
    near = [known[match] for match in get_close_matches(name.lower(), known, n=3)]
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    if folder is None:
        raise ValueError(
            f"task {name!r} is unknown; {meant}there are {', '.join(own)}, the published {', '.join(PUBLISHED)}, "
            f"and the sets of a folder, once {DATA_VARIABLE} names one"
        )
    raise FileNotFoundError(
        f"task {name!r} is neither one of {', '.join(own)}, nor one of the published {', '.join(PUBLISHED)}, nor a set "
        f"in {folder}, which has {', '.join(sets_in(folder)) or 'none'}; {meant}correct the name or add the set"
    )


# -- The packaged corpus -----------------------------------------------------------------------------------------------


def helpdesk_tasks(split: str = "test") -> list[Task]:
    """Return one task a family on the phrasings of one split of the help-desk corpus.

    Retrieval asks for the answers to the intents of all splits. "dev" holds one intent a topic, so only "retrieval" and
    "clustering" can be made of it.
    """
    return [
        Task(
            f"helpdesk-{family.lower()}",
            family,
            metric,
            f"{note}; {split} intents",
            partial(_helpdesk_evaluator, family, split),
            (helpdesk.CORPUS,),
        )
        for family, (metric, note, _) in HELPDESK.items()
    ]


HELPDESK: Mapping[str, tuple[str, str, Callable[[pd.DataFrame], SentenceEvaluator]]] = {
    "STS": ("spearman_cosine", "pairs in four grades", lambda table: sts_evaluator(helpdesk.graded_pairs(table))),
    "duplicates": (
        "cosine_ap",
        "same intent or only near",
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
"""Metric, note and evaluator by family."""


def _helpdesk_evaluator(family: str, split: str) -> SentenceEvaluator:
    """Make the evaluator of a family: by name, so that a task can be sent to another process."""
    return HELPDESK[family][2](helpdesk.load_helpdesk(split))
