"""Benchmark tasks as data: what is measured, by which metric, on which texts. How a model is trained is not known here.

| family | question | metric |
| --- | --- | --- |
| STS | does similarity follow the graded score? | Spearman correlation of the cosine |
| duplicates | does similarity tell duplicates from other pairs? | average precision of the cosine |
| reranking | do the right candidates of a query come first? | MAP |
| retrieval | does the right document come first in a corpus? | MRR@10 (one right document) or MAP@100 |
| clustering | do clusters match the classes? | V-measure |

Two sources: the packaged help-desk corpus (`helpdesk`), always there, and a folder of sets of one's own, which the
environment variable SBERTLAB_DATA names. In that folder every set is a folder, UTF-8 and gzip:

| files | columns | family |
| --- | --- | --- |
| data.csv.gz | (split,) sentence1, sentence2, score | STS |
| data.csv.gz | (split,) sentence1, sentence2, label (0 or 1) | duplicates |
| data.csv.gz | (split,) text, label | clustering |
| queries.jsonl.gz, corpus.jsonl.gz; qrels.tsv.gz | id, text; query_id, corpus_id, relevance (, split) | retrieval |

The rows of split "test" count where there are any, otherwise all. `LOCAL_SETS` lists known sets, some used otherwise.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from sbertlab import helpdesk
from sbertlab.evaluation import (
    BinaryClassificationEvaluator,
    ClusteringEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    RerankingEvaluator,
    SentenceEvaluator,
)
from sbertlab.util import cos_sim

FAMILIES = ("STS", "duplicates", "reranking", "retrieval", "clustering")

DATA_VARIABLE = "SBERTLAB_DATA"


@dataclass(frozen=True)
class Task:
    """What is measured, on which texts.

    Args:
        name: unique among all tasks.
        family: one of `FAMILIES`.
        metric: key in the evaluator's metrics; a value from 0 to 1, or from -1 for a correlation.
        note: what the texts are, in a few words.
        load: reads the texts and makes the evaluator.
        files: what it reads.
    """

    name: str
    family: str
    metric: str
    note: str
    load: Callable[[], SentenceEvaluator]
    files: tuple[Path, ...] = ()

    def evaluate(self, model: Any) -> Score:
        """Measure a model, that is anything with `encode(list of texts) -> (texts, dim)`, or `transform` in its place.

        Give `SharedEmbeddings(model)` to several tasks, and no text is encoded twice.
        """
        shared: Any = model if isinstance(model, SharedEmbeddings) else SharedEmbeddings(model)
        evaluator = self.load()
        return Score(100 * evaluator(shared)[self.metric], evaluator.per_example)


@dataclass(frozen=True)
class Score:
    """The result of a task: its metric times 100, and the evaluator's table of examples (pairs, queries or texts)."""

    value: float
    per_example: pd.DataFrame


class SharedEmbeddings:
    """A model that remembers: what tasks ask for is encoded once a distinct text.

    Args:
        model: anything with `encode(list of texts) -> (texts, dim)`, or a scikit-learn pipeline with `transform`.
        name: for the progress bar.
        block: texts given to the model at a time.

    Raises:
        TypeError: the model has neither method.
        ValueError: it returned something else than one vector a text.

    >>> class Length:
    ...     def encode(self, texts):
    ...         print("encodes", texts)
    ...         return [[float(len(text))] for text in texts]
    >>> shared = SharedEmbeddings(Length())
    >>> shared.encode(["a", "bb", "a"]).tolist()
    encodes ['a', 'bb']
    [[1.0], [2.0], [1.0]]
    >>> shared.encode(["bb"]).tolist()
    [[2.0]]
    """

    def __init__(self, model: Any, name: str = "Encoding", block: int = 512) -> None:
        encode = getattr(model, "encode", None) or getattr(model, "transform", None)
        if not callable(encode):
            raise TypeError(f"a task needs a model with encode(texts) or transform(texts), got {type(model).__name__}")
        self._encode: Callable[[list[str]], Any] = encode
        self.name, self.block = name, block
        self._rows: dict[str, np.ndarray] = {}

    def encode(
        self,
        sentences: Sequence[str],
        batch_size: int = 32,
        show_progress_bar: bool = False,
        convert_to_tensor: bool = False,
    ) -> Any:
        """Return the embeddings `(texts, dim)` in float32, an array or a tensor; how to batch is the model's matter."""
        new = [text for text in dict.fromkeys(sentences) if text not in self._rows]
        with tqdm(total=len(new), desc=self.name, unit="text", leave=False, disable=not new) as bar:
            for start in range(0, len(new), self.block):
                texts = new[start : start + self.block]
                embeddings = np.asarray(self._encode(texts), dtype=np.float32)
                if embeddings.ndim != 2 or len(embeddings) != len(texts):
                    raise ValueError(
                        f"the model returned the shape {embeddings.shape} for {len(texts)} texts, "
                        f"expected ({len(texts)}, dim)"
                    )
                self._rows |= dict(zip(texts, embeddings, strict=True))
                bar.update(len(texts))
        stacked = np.stack([self._rows[text] for text in sentences])
        return torch.from_numpy(stacked) if convert_to_tensor else stacked


# -- Which tasks there are ---------------------------------------------------------------------------------------------


def select_tasks(names: Iterable[str | Task] | None = None, data: str | os.PathLike[str] | None = None) -> list[Task]:
    """Return the tasks with these names, checked as far as their files' headers.

    Args:
        names: of help-desk tasks or of sets in the folder; a task stands for itself. None: all help-desk tasks, and of
            the folder the sets among `LOCAL_SETS` that are there and not large.
        data: folder of sets; what SBERTLAB_DATA names when None.

    Raises:
        ValueError: a name is unknown or twice there; a set whose columns are not those of a task.
        FileNotFoundError: the folder is missing, holds none of the known sets, or a set lacks a file.

    >>> [task.name for task in select_tasks(["helpdesk-sts", "helpdesk-clustering"])]
    ['helpdesk-sts', 'helpdesk-clustering']
    """
    folder = data_folder(data)
    own = {task.name: task for task in helpdesk_tasks()}
    if names is None:
        found = [] if folder is None else [name for name in LOCAL_SETS if (folder / name).is_dir()]
        if folder is not None and not found:
            raise FileNotFoundError(
                f"{folder} holds none of the sets {', '.join(LOCAL_SETS)}; put them there as folders, name your own "
                f"sets by --tasks, or unset {DATA_VARIABLE}"
            )
        names = [*own, *(name for name in found if not LOCAL_SETS[name].large)]
    given = [names] if isinstance(names, str) else list(names)
    called = [task.name if isinstance(task, Task) else task for task in given]
    if not called or len(set(called)) < len(called):
        raise ValueError(f"tasks must be names of tasks, each once, got {called}")
    return [task if isinstance(task, Task) else own.get(task) or local_task(task, folder) for task in given]


def data_folder(data: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the folder of local sets: `data`, or what SBERTLAB_DATA names; None where neither is given.

    Raises:
        FileNotFoundError: it is no folder.
    """
    named = os.fspath(data) if data is not None else os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    folder = Path(named)
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder of data sets, {named!r}, is not there; correct or unset {DATA_VARIABLE}")
    return folder


# -- The packaged corpus -----------------------------------------------------------------------------------------------


def helpdesk_tasks(split: str = "test") -> list[Task]:
    """Return one task a family on the phrasings of one split of the help-desk corpus.

    Retrieval asks for the answers to the intents of all splits. "dev" holds one intent a topic, so only "retrieval" and
    "clustering" can be made of it.
    """
    table = partial(helpdesk.load_helpdesk, split)
    makers: dict[str, tuple[str, str, Callable[[], SentenceEvaluator]]] = {
        "STS": ("spearman_cosine", "pairs in four grades", lambda: _sts(helpdesk.graded_pairs(table()))),
        "duplicates": ("cosine_ap", "same intent or only near", lambda: _pairs(helpdesk.duplicate_pairs(table()))),
        "reranking": ("map", "phrasings of the topic", lambda: RerankingEvaluator(helpdesk.reranking(table()))),
        "retrieval": (
            "cos_sim_mrr@10",
            "answers to all intents",
            lambda: _search(*helpdesk.retrieval(table(), helpdesk.load_helpdesk())),
        ),
        "clustering": ("v_measure", "phrasings by intent", lambda: _classes(table(), label="intent")),
    }
    return [
        Task(f"helpdesk-{family.lower()}", family, metric, f"{note}; {split} intents", load, (helpdesk.CORPUS,))
        for family, (metric, note, load) in makers.items()
    ]


# -- A folder of sets --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalSet:
    """How a known set is used, where that differs from the rule.

    Args:
        split: rows that count; "all" takes every row; None takes those of "test", or all where there are none.
        judged: rank the judged documents of a query (reranking) rather than the whole corpus (retrieval).
        sample: so many rows, drawn by a seed.
        large: takes minutes a model; measured only when it is named.
    """

    split: str | None = None
    judged: bool = False
    sample: int | None = None
    large: bool = False

    def note(self, columns: Sequence[str]) -> str:
        """Return which rows count, in words.

        >>> LocalSet(sample=5000).note(["text", "label"])
        'all rows, 5,000 drawn'
        """
        rows = f"{self.split or 'test'} rows" if "split" in columns else "all rows"
        return rows if self.sample is None else f"{rows}, {self.sample:,} drawn"

    def rows(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Return the rows that count; `path` is for the error.

        Raises:
            ValueError: the split is named and has no row.
        """
        if "split" in table and self.split != "all":
            chosen = table[table["split"] == (self.split or "test")]
            if self.split is not None and chosen.empty:
                there = ", ".join(sorted(set(table["split"])))
                raise ValueError(f"{path} has no row of split {self.split!r}, only of {there}")
            table = table if chosen.empty else chosen
        return table if self.sample is None or self.sample >= len(table) else table.sample(self.sample, random_state=0)


LOCAL_SETS: Mapping[str, LocalSet] = {
    "stsb": LocalSet("test"),
    "sickr": LocalSet("all"),
    "biosses": LocalSet("all"),
    "mrpc": LocalSet("test"),
    "twitter_url": LocalSet("test", large=True),
    "wikiqa": LocalSet("test", judged=True),
    "medline": LocalSet("test"),
    "cranfield": LocalSet("test", large=True),
    "quora_dup_retrieval": LocalSet("test", large=True),
    "twenty_newsgroups_subject": LocalSet("test"),
    "stackoverflow_short": LocalSet("all", sample=5000, large=True),
    "searchsnippets": LocalSet("all", sample=5000, large=True),
}
"""Known public sets; those that are not large belong to the default tasks where they are there."""


def local_task(name: str, folder: Path | None) -> Task:
    """Return the task on the set `folder / name`; the family follows from its files and columns.

    Raises:
        ValueError: there is no folder of sets and no such task; the columns are not those of a task.
        FileNotFoundError: the set, or a file of it, is missing.
    """
    known = ", ".join(task.name for task in helpdesk_tasks())
    if folder is None:
        raise ValueError(
            f"task {name!r} is unknown; there are {known}, and the sets of a folder, once {DATA_VARIABLE} names one"
        )
    place = folder / name
    if not place.is_dir():
        there = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "none"
        raise FileNotFoundError(
            f"task {name!r} is neither one of {known} nor a set in {folder}, which has {there}; "
            "correct the name or add the set"
        )
    use = LOCAL_SETS.get(name, LocalSet())
    if (place / "qrels.tsv.gz").exists():
        columns, *_ = [_columns(place / file, needed) for file, needed in SEARCH_FILES.items()]
        family, metric, load = "retrieval", "cos_sim_map@100", _local_search
        if use.judged:
            family, metric, load = "reranking", "map", _local_reranking
        files = tuple(place / file for file in SEARCH_FILES)
        return Task(name, family, metric, use.note(columns), partial(load, place, use), files)
    table = place / "data.csv.gz"
    columns = _columns(table)
    for family, (needed, metric, make) in TABLES.items():
        if needed <= set(columns):
            return Task(name, family, metric, use.note(columns), partial(_local_table, table, use, make), (table,))
    raise ValueError(
        f"{table} has the columns {', '.join(columns)}; a task needs one of "
        + "; ".join(f"{', '.join(sorted(needed))} ({family})" for family, (needed, _, _) in TABLES.items())
    )


def _sts(table: pd.DataFrame) -> SentenceEvaluator:
    sentences1, sentences2 = table["sentence1"].tolist(), table["sentence2"].tolist()
    return EmbeddingSimilarityEvaluator(sentences1, sentences2, table["score"].tolist(), similarity_fn_names=["cosine"])


def _pairs(table: pd.DataFrame) -> SentenceEvaluator:
    sentences1, sentences2 = table["sentence1"].tolist(), table["sentence2"].tolist()
    labels = table["label"].tolist()
    return BinaryClassificationEvaluator(sentences1, sentences2, labels, similarity_fn_names=["cosine"])


def _classes(table: pd.DataFrame, label: str = "label") -> SentenceEvaluator:
    return ClusteringEvaluator(table["text"].tolist(), table[label].tolist())


def _search(
    queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant: Mapping[Any, set[Any]]
) -> SentenceEvaluator:
    return InformationRetrievalEvaluator(queries, corpus, relevant, score_functions={"cos_sim": cos_sim})


TABLES: Mapping[str, tuple[set[str], str, Callable[[pd.DataFrame], SentenceEvaluator]]] = {
    "STS": ({"sentence1", "sentence2", "score"}, "spearman_cosine", _sts),
    "duplicates": ({"sentence1", "sentence2", "label"}, "cosine_ap", _pairs),
    "clustering": ({"text", "label"}, "v_measure", _classes),
}
"""Columns of data.csv.gz, metric and evaluator by family."""

SEARCH_FILES: Mapping[str, set[str]] = {
    "qrels.tsv.gz": {"query_id", "corpus_id", "relevance"},
    "queries.jsonl.gz": {"id", "text"},
    "corpus.jsonl.gz": {"id", "text"},
}
"""Columns of the files of a retrieval set."""


def _read(path: Path, rows: int | None = None) -> pd.DataFrame:
    """Read one of the files, every cell as the text it is (also "NA" and "null").

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing; the set {path.parent.name} needs data.csv.gz, or {', '.join(SEARCH_FILES)}"
        )
    try:
        if path.name.endswith(".jsonl.gz"):
            return pd.read_json(path, lines=True, nrows=rows, dtype=False).astype(str)
        form: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if path.name.endswith(".tsv.gz") else {}
        return pd.read_csv(path, nrows=rows, dtype=str, keep_default_na=False, **form)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); it must be gzip, UTF-8 and as sbertlab.tasks says"
        ) from error


def _columns(path: Path, needed: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """Return the columns of a file.

    Raises:
        ValueError: it lacks one that is needed.
    """
    columns = _read(path, rows=1).columns.tolist()
    if missing := needed - set(columns):
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; its columns are {', '.join(columns)}")
    return columns


def _local_table(path: Path, use: LocalSet, make: Callable[[pd.DataFrame], SentenceEvaluator]) -> SentenceEvaluator:
    """Make the evaluator of the rows that count."""
    table = use.rows(_read(path), path)
    try:
        return make(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _local_judgements(place: Path, use: LocalSet) -> tuple[dict[Any, str], dict[Any, str], pd.DataFrame]:
    """Return texts of the queries, texts of the corpus, and the judgements that count, relevance as a number."""
    tables = [_read(place / f"{part}.jsonl.gz") for part in ("queries", "corpus")]
    queries, corpus = (dict(zip(table["id"], table["text"], strict=True)) for table in tables)
    path = place / "qrels.tsv.gz"
    judged = use.rows(_read(path), path)
    for column, ids in (("query_id", queries), ("corpus_id", corpus)):
        unknown = judged.loc[~judged[column].isin(ids), column]
        if len(unknown):
            raise ValueError(
                f"{path} has {len(unknown)} rows whose {column} is not among the texts, "
                f"such as {unknown.iloc[0]!r}; check that the ids are the same in all files"
            )
    relevance = pd.to_numeric(judged["relevance"], errors="coerce")
    if relevance.isna().any():
        wrong = judged.loc[relevance.isna(), "relevance"].iloc[0]
        raise ValueError(f"{path} has the relevance {wrong!r}, expected a number, 0 for not relevant")
    return queries, corpus, judged.assign(relevance=relevance)


def _local_search(place: Path, use: LocalSet) -> SentenceEvaluator:
    queries, corpus, judged = _local_judgements(place, use)
    relevant = judged[judged["relevance"] > 0].groupby("query_id")["corpus_id"].agg(set).to_dict()
    return _search(queries, corpus, relevant)


def _local_reranking(place: Path, use: LocalSet) -> SentenceEvaluator:
    queries, corpus, judged = _local_judgements(place, use)
    judged = judged.assign(text=judged["corpus_id"].map(corpus), right=judged["relevance"] > 0)
    samples = []
    for query, rows in judged.groupby("query_id", sort=False):
        positive, negative = rows.loc[rows["right"], "text"].tolist(), rows.loc[~rows["right"], "text"].tolist()
        samples.append({"query": queries[query], "positive": positive, "negative": negative})
    return RerankingEvaluator(samples)
