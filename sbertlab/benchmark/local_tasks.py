"""A folder of sets of one's own: which rows count, what is made of them, and what is wrong with them.

In the folder every set is a folder, UTF-8 and gzip:

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
from typing import Any, NamedTuple

import pandas as pd

from sbertlab.evaluation import (
    BinaryClassificationEvaluator,
    ClusteringEvaluator,
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    RerankingEvaluator,
    SentenceEvaluator,
)
from sbertlab.util import cos_sim, dot_score

DATA_VARIABLE = "SBERTLAB_DATA"


class Source(NamedTuple):
    """What a task is made of, its name apart; the fields are those of `tasks.Task`."""

    family: str
    metric: str
    note: str
    load: Callable[[], SentenceEvaluator]
    files: tuple[Path, ...] = ()
    check: Callable[[], Any] | None = None
    edition: str = ""


@dataclass(frozen=True)
class LocalSet:
    """How a set of the folder is used.

    Args:
        split: rows that count; "all" for every row, None for "test" where there are such rows, otherwise all.
        judged: order the judged documents of each query (reranking) instead of searching the whole corpus.
        sample: use so many rows, drawn with seed 0.
    """

    split: str | None = None
    judged: bool = False
    sample: int | None = None

    def note(self, table: pd.DataFrame) -> str:
        """Return which rows of the table count, in words.

        >>> table = pd.DataFrame({"split": ["train", "dev", "test", "test"]})
        >>> LocalSet().note(table), LocalSet().note(table.head(2)), LocalSet("all", sample=3).note(table)
        ('test rows', 'all rows', 'all rows, 3 drawn')
        """
        split = self._split(table)
        rows = "all rows" if split is None else f"{split} rows"
        size = len(table) if split is None else (table["split"] == split).sum()
        return rows if self.sample is None or self.sample >= size else f"{rows}, {self.sample:,} drawn"

    def rows(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Return the rows that count; `path` is for the error.

        Raises:
            ValueError: the split is named and has no row.
        """
        split = self._split(table)
        if split is not None:
            there = ", ".join(sorted(set(table["split"])))
            table = table[table["split"] == split]
            if table.empty:
                raise ValueError(f"{path} has no row of split {split!r}, only of {there}")
        return table if self.sample is None or self.sample >= len(table) else table.sample(self.sample, random_state=0)

    def _split(self, table: pd.DataFrame) -> str | None:
        """The split whose rows count; None for all rows."""
        if "split" not in table or self.split == "all":
            return None
        return self.split or ("test" if "test" in set(table["split"]) else None)


LOCAL_SETS: Mapping[str, LocalSet] = {
    "stsb": LocalSet("test"),
    "sickr": LocalSet("all"),
    "biosses": LocalSet("all"),
    "mrpc": LocalSet("test"),
    "twitter_url": LocalSet("test"),
    "wikiqa": LocalSet("test", judged=True),
    "medline": LocalSet("test"),
    "cranfield": LocalSet("test"),
    "quora_dup_retrieval": LocalSet("test"),
    "twenty_newsgroups_subject": LocalSet("test"),
    "stackoverflow_short": LocalSet("all", sample=5000),
    "searchsnippets": LocalSet("all", sample=5000),
}
"""Known public sets: the default tasks, where they are there."""


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


def sets_in(folder: Path | None) -> list[str]:
    """Return the names of the sets that are there."""
    return [] if folder is None else sorted(path.name for path in folder.iterdir() if path.is_dir())


def local_source(name: str, folder: Path) -> Source:
    """Return what the set `folder / name` is good for; the family follows from its files and columns.

    Raises:
        ValueError: the columns are not those of a task, or a file has no rows.
        FileNotFoundError: the set, or a file of it, is missing.
    """
    if name not in sets_in(folder):
        raise FileNotFoundError(f"{folder} has no set {name!r}; add it as a folder with {FILES}")
    place, use = folder / name, LOCAL_SETS.get(name, LocalSet())
    if (place / "qrels.tsv.gz").exists():
        columns, *_ = [_columns(place / file, needed) for file, needed in SEARCH_FILES.items()]
        family, metric, load = "retrieval", "cos_sim_map@100", _local_search
        if use.judged:
            family, metric, load = "reranking", "map", _local_reranking
        files = tuple(place / file for file in SEARCH_FILES)
        return Source(family, metric, use.note(_splits(files[0], columns)), partial(load, place, use), files)
    path = place / "data.csv.gz"
    columns = _columns(path)
    for family, (needed, metric, make) in TABLES.items():
        if needed <= set(columns):
            note = use.note(_splits(path, columns))
            return Source(family, metric, note, partial(table_evaluator, path, use, make), (path,))
    raise ValueError(
        f"{path} has the columns {', '.join(columns)}; a task needs one of "
        + "; ".join(f"{', '.join(sorted(needed))} ({family})" for family, (needed, _, _) in TABLES.items())
    )


# -- From tables to evaluators -----------------------------------------------------------------------------------------


def sts_evaluator(table: pd.DataFrame, similarities: Sequence[Any] = ("cosine",)) -> SentenceEvaluator:
    """Make the evaluator of the columns sentence1, sentence2 and score."""
    sentences1, sentences2 = table["sentence1"].tolist(), table["sentence2"].tolist()
    scores = table["score"].tolist()
    return EmbeddingSimilarityEvaluator(sentences1, sentences2, scores, similarity_fn_names=similarities)


def pair_evaluator(table: pd.DataFrame, similarities: Sequence[Any] = ("cosine",)) -> SentenceEvaluator:
    """Make the evaluator of the columns sentence1, sentence2 and label."""
    sentences1, sentences2 = table["sentence1"].tolist(), table["sentence2"].tolist()
    labels = table["label"].tolist()
    return BinaryClassificationEvaluator(sentences1, sentences2, labels, similarity_fn_names=similarities)


CLUSTER_STARTS = 10
"""Clusterings of a task. The first is its score; of all of them follows how far the luck of k-means moves it."""


def cluster_evaluator(table: pd.DataFrame, label: str = "label") -> SentenceEvaluator:
    """Make the evaluator of the columns text and label."""
    return ClusteringEvaluator(table["text"].tolist(), table[label].tolist(), starts=CLUSTER_STARTS)


def search_evaluator(
    queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant: Mapping[Any, set[Any]], dot: bool = False
) -> SentenceEvaluator:
    """Make the evaluator of a search by the cosine, with `dot` also by the dot product."""
    functions = {"cos_sim": cos_sim, "dot_score": dot_score} if dot else {"cos_sim": cos_sim}
    return InformationRetrievalEvaluator(queries, corpus, relevant, score_functions=functions)


TABLES: Mapping[str, tuple[set[str], str, Callable[[pd.DataFrame], SentenceEvaluator]]] = {
    "STS": ({"sentence1", "sentence2", "score"}, "spearman_cosine", sts_evaluator),
    "duplicates": ({"sentence1", "sentence2", "label"}, "cosine_ap", pair_evaluator),
    "clustering": ({"text", "label"}, "v_measure", cluster_evaluator),
}
"""Columns of data.csv.gz, metric and evaluator by family."""

SEARCH_FILES: Mapping[str, set[str]] = {
    "qrels.tsv.gz": {"query_id", "corpus_id", "relevance"},
    "queries.jsonl.gz": {"id", "text"},
    "corpus.jsonl.gz": {"id", "text"},
}
"""Columns of the files of a retrieval set."""

FILES = f"data.csv.gz, or {', '.join(SEARCH_FILES)}"


def table_evaluator(path: Path, use: LocalSet, make: Callable[[pd.DataFrame], SentenceEvaluator]) -> SentenceEvaluator:
    """Make the evaluator of the rows of a data.csv.gz that count.

    Raises:
        ValueError: the file cannot be read, a cell is empty, or not what the evaluator needs.
    """
    table = use.rows(_read(path), path)
    _refuse_empty(table, next(needed for needed, *_ in TABLES.values() if needed <= set(table)), path)
    try:
        return make(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _local_search(place: Path, use: LocalSet) -> SentenceEvaluator:
    queries, corpus, judged = _local_judgements(place, use)
    relevant = judged[judged["relevance"] > 0].groupby("query_id")["corpus_id"].agg(set).to_dict()
    return search_evaluator(queries, corpus, relevant)


def _local_reranking(place: Path, use: LocalSet) -> SentenceEvaluator:
    queries, corpus, judged = _local_judgements(place, use)
    judged = judged.assign(text=judged["corpus_id"].map(corpus), right=judged["relevance"] > 0)
    samples = []
    for query, rows in judged.groupby("query_id", sort=False):
        positive, negative = rows.loc[rows["right"], "text"].tolist(), rows.loc[~rows["right"], "text"].tolist()
        samples.append({"query": queries[query], "positive": positive, "negative": negative})
    return RerankingEvaluator(samples)


# -- From files to tables ----------------------------------------------------------------------------------------------


def _read(path: Path, rows: int | None = None, columns: list[str] | None = None) -> pd.DataFrame:
    """Read one of the files, every cell as the text it is (also "NA" and "null"); of a table perhaps some columns only.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; the set {path.parent.name} needs {FILES}")
    try:
        if path.name.endswith(".jsonl.gz"):
            table = pd.read_json(path, lines=True, nrows=rows, dtype=False)
            return table.astype(object).where(table.notna(), "").astype(str)
        form: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if path.name.endswith(".tsv.gz") else {}
        return pd.read_csv(path, nrows=rows, usecols=columns, dtype=str, keep_default_na=False, **form)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); it must be gzip, UTF-8 and as sbertlab.benchmark.local_tasks says"
        ) from error


def _columns(path: Path, needed: set[str] | None = None) -> list[str]:
    """Return the columns of a file.

    Raises:
        ValueError: it lacks one that is needed, or has no rows.
    """
    table = _read(path, rows=1)
    columns = table.columns.tolist()
    if table.empty:
        raise ValueError(f"{path} has no rows; fill it, or take the folder {path.parent.name} away")
    if missing := (needed or set()) - set(columns):
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; its columns are {', '.join(columns)}")
    return columns


def _splits(path: Path, columns: list[str]) -> pd.DataFrame:
    """Return the split of every row of a table, or, where it has none, some other column of it."""
    return _read(path, columns=["split"] if "split" in columns else columns[:1])


def _refuse_empty(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Raise a ValueError that names the first empty cell of the columns; the index counts the file's rows."""
    for name in sorted(columns):
        empty = table.index[table[name].str.strip() == ""]
        if len(empty):
            raise ValueError(
                f"{path}: {name} is empty in {len(empty)} rows, the first of them row {empty.min() + 1} (without the "
                "header); fill it in, or take these rows out"
            )


def _texts(path: Path) -> dict[str, str]:
    """Return the texts of a file by their ids.

    Raises:
        ValueError: the file cannot be read, an id or a text is empty, or an id is there twice.
    """
    table = _read(path)
    _refuse_empty(table, ("id", "text"), path)
    if table["id"].duplicated().any():
        name = table.loc[table["id"].duplicated(), "id"].iloc[0]
        first, second, *_ = table.index[table["id"] == name] + 1
        raise ValueError(
            f"{path} has the id {name!r} twice, in rows {first} and {second}; give every text an id of its own, "
            "or take one of them out"
        )
    return dict(zip(table["id"], table["text"], strict=True))


def _local_judgements(place: Path, use: LocalSet) -> tuple[dict[Any, str], dict[Any, str], pd.DataFrame]:
    """Return texts of the queries, texts of the corpus, and the judgements that count, relevance as a number."""
    queries, corpus = _texts(place / "queries.jsonl.gz"), _texts(place / "corpus.jsonl.gz")
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
