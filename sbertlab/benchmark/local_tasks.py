"""Tasks from a folder of labelled data sets, which the environment variable SBERTLAB_DATA names.

Each data set is a folder with these files, in UTF-8 and gzip:

| files | columns | family |
| --- | --- | --- |
| data.csv.gz | (split,) sentence1, sentence2, score | STS |
| data.csv.gz | (split,) sentence1, sentence2, label (0 or 1) | duplicates |
| data.csv.gz | (split,) text, label | clustering |
| queries.jsonl.gz, corpus.jsonl.gz; qrels.tsv.gz | id, text; query_id, corpus_id, relevance (, split) | retrieval |

A task uses the rows of split "test" if there are any, otherwise all. `LOCAL_SETS` lists known sets and exceptions.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from sbertlab.benchmark.tasks import Task, cluster_evaluator, pair_evaluator, search_evaluator, sts_evaluator
from sbertlab.evaluation import RerankingEvaluator, SentenceEvaluator

DATA_VARIABLE = "SBERTLAB_DATA"


@dataclass(frozen=True)
class LocalSet:
    """Which rows of a data set a task uses.

    Args:
        split: rows to use; "all" for every row, None for "test" if there are such rows, otherwise all.
        judged: rank the judged documents of each query (reranking) instead of searching the whole corpus.
        sample: use a random sample of this many rows, drawn with seed 0.
    """

    split: str | None = None
    judged: bool = False
    sample: int | None = None

    def split_of(self, table: pd.DataFrame) -> str | None:
        """Return the split to use; None for all rows."""
        if "split" not in table or self.split == "all":
            return None
        return self.split or ("test" if "test" in set(table["split"]) else None)

    def note(self, table: pd.DataFrame) -> str:
        """Return in words which rows of the table are used."""
        split = self.split_of(table)
        size = len(table) if split is None else (table["split"] == split).sum()
        sampled = self.sample is not None and self.sample < size
        return f"{split or 'all'} rows" + (f", {self.sample:,} drawn" if sampled else "")

    def rows(self, table: pd.DataFrame, path: Path) -> pd.DataFrame:
        """Return the rows to use; `path` is for the error that the split has none."""
        split = self.split_of(table)
        if split is not None:
            table = rows_of_split(table, split, path)
        return table if self.sample is None or self.sample >= len(table) else table.sample(self.sample, random_state=0)


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
"""Known public sets: the tasks of the preset "local"."""

TABLES: Mapping[str, tuple[set[str], str, Callable[[pd.DataFrame], SentenceEvaluator]]] = {
    "STS": ({"sentence1", "sentence2", "score"}, "spearman_cosine", sts_evaluator),
    "duplicates": ({"sentence1", "sentence2", "label"}, "cosine_ap", pair_evaluator),
    "clustering": ({"text", "label"}, "v_measure", cluster_evaluator),
}
"""Columns of data.csv.gz, metric and evaluator of each family."""

SEARCH_FILES: Mapping[str, set[str]] = {
    "qrels.tsv.gz": {"query_id", "corpus_id", "relevance"},
    "queries.jsonl.gz": {"id", "text"},
    "corpus.jsonl.gz": {"id", "text"},
}
"""Columns of the files of a retrieval set."""


def data_folder(data: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the folder of data sets: `data`, or the one that SBERTLAB_DATA names; None if there is neither."""
    named = os.fspath(data) if data is not None else os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    if not Path(named).is_dir():
        raise FileNotFoundError(f"the data folder {named!r} does not exist; correct or unset {DATA_VARIABLE}")
    return Path(named)


def sets_in(folder: Path | None) -> list[str]:
    """Return the names of the data sets in the folder."""
    return [] if folder is None else sorted(path.name for path in folder.iterdir() if path.is_dir())


def local_task(name: str, folder: Path) -> Task:
    """Return the task of the data set `folder / name`; its family follows from its files and columns.

    Only headers and splits are read; `Task.load` reads the rows. A ValueError says that the columns fit no task or a
    file has no rows, a FileNotFoundError that one is missing.
    """
    place, use = folder / name, LOCAL_SETS.get(name, LocalSet())
    search = (place / "qrels.tsv.gz").exists()
    path = place / ("qrels.tsv.gz" if search else "data.csv.gz")
    columns = _columns(path, SEARCH_FILES["qrels.tsv.gz"] if search else ())
    note = use.note(read_table(path, columns=["split"] if "split" in columns else columns[:1]))
    if search:
        for file, needed in SEARCH_FILES.items():
            _columns(place / file, needed)
        family, metric = ("reranking", "map") if use.judged else ("retrieval", "cos_sim_map@100")
        return Task(
            name, family, metric, note, partial(_search, place, use), tuple(place / file for file in SEARCH_FILES)
        )
    for family, (needed, metric, make) in TABLES.items():
        if needed <= set(columns):
            return Task(name, family, metric, note, partial(table_evaluator, path, use, make), (path,))
    known = "; ".join(f"{', '.join(sorted(needed))} ({family})" for family, (needed, _, _) in TABLES.items())
    raise ValueError(f"{path} has the columns {', '.join(columns)}; a task needs one of {known}")


def read_table(path: Path, rows: int | None = None, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a data file, every cell as text (so "NA" and "null" stay texts); of CSV and TSV only `columns`."""
    if not path.exists():
        files = ", ".join(SEARCH_FILES)
        raise FileNotFoundError(f"{path} is missing; the set {path.parent.name} needs data.csv.gz, or {files}")
    try:
        if path.name.endswith(".jsonl.gz"):
            table = pd.read_json(path, lines=True, nrows=rows, dtype=False)
            return table.astype(object).where(table.notna(), "").astype(str)
        form: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if path.name.endswith(".tsv.gz") else {}
        return pd.read_csv(path, nrows=rows, usecols=columns, dtype=str, keep_default_na=False, **form)
    except (OSError, EOFError, ValueError) as error:
        needed = f", with the columns {', '.join(columns)}" if columns else ""
        raise ValueError(f"{path} cannot be read: {error}; it must be gzip and UTF-8{needed}") from error


def rows_of_split(table: pd.DataFrame, split: str, path: Path) -> pd.DataFrame:
    """Return the rows of a split; a ValueError names the file if there are none."""
    found = table[table["split"] == split]
    if found.empty:
        raise ValueError(f"{path} has no row of split {split!r}, only of {', '.join(sorted(set(table['split'])))}")
    return found


def table_evaluator(path: Path, use: LocalSet, make: Callable[[pd.DataFrame], SentenceEvaluator]) -> SentenceEvaluator:
    """Return the evaluator of the used rows of a data.csv.gz; a ValueError names the file and what is wrong."""
    table = use.rows(read_table(path), path)
    _refuse_empty(table, next(needed for needed, *_ in TABLES.values() if needed <= set(table)), path)
    try:
        return make(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _search(place: Path, use: LocalSet) -> SentenceEvaluator:
    """Return the evaluator of a retrieval set, or of reranking its judged documents."""
    queries, corpus = _texts(place / "queries.jsonl.gz"), _texts(place / "corpus.jsonl.gz")
    path = place / "qrels.tsv.gz"
    judged = use.rows(read_table(path), path)
    for column, ids in (("query_id", queries), ("corpus_id", corpus)):
        unknown = judged.loc[~judged[column].isin(ids), column]
        if len(unknown):
            raise ValueError(
                f"{path} has {len(unknown)} rows whose {column} is not among the texts, such as {unknown.iloc[0]!r}; "
                "use the same ids in all files"
            )
    relevance = pd.to_numeric(judged["relevance"], errors="coerce")
    if relevance.isna().any():
        wrong = judged.loc[relevance.isna(), "relevance"].iloc[0]
        raise ValueError(f"{path} has the relevance {wrong!r}, expected a number, 0 for not relevant")
    if not use.judged:
        relevant = judged[relevance > 0].groupby("query_id")["corpus_id"].agg(set).to_dict()
        return search_evaluator(queries, corpus, relevant)
    judged = judged.assign(text=judged["corpus_id"].map(corpus), right=relevance > 0)
    samples = []
    for query, rows in judged.groupby("query_id", sort=False):
        positive, negative = rows.loc[rows["right"], "text"].tolist(), rows.loc[~rows["right"], "text"].tolist()
        samples.append({"query": queries[str(query)], "positive": positive, "negative": negative})
    return RerankingEvaluator(samples)


def _columns(path: Path, needed: Iterable[str] = ()) -> list[str]:
    """Return the columns of a file with at least one row; a ValueError names a needed column that is missing."""
    table = read_table(path, rows=1)
    columns = table.columns.tolist()
    if table.empty:
        raise ValueError(f"{path} has no rows; fill it, or remove the folder {path.parent.name}")
    if missing := set(needed) - set(columns):
        raise ValueError(f"{path} is missing {', '.join(sorted(missing))}; its columns are {', '.join(columns)}")
    return columns


def _refuse_empty(table: pd.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Raise a ValueError that names the first empty cell of the columns; the index counts the file's rows."""
    for name in sorted(columns):
        empty = table.index[table[name].str.strip() == ""]
        if len(empty):
            raise ValueError(
                f"{path}: {name} is empty in {len(empty)} rows, the first is row {empty.min() + 1} (not counting the "
                "header); fill it in, or remove these rows"
            )


def _texts(path: Path) -> dict[str, str]:
    """Return the texts of a file by id; a ValueError names an empty cell or an id that occurs twice."""
    table = read_table(path)
    _refuse_empty(table, ("id", "text"), path)
    if table["id"].duplicated().any():
        name = table.loc[table["id"].duplicated(), "id"].iloc[0]
        first, second, *_ = table.index[table["id"] == name] + 1
        raise ValueError(f"{path} has the id {name!r} twice, in rows {first} and {second}; give each text its own id")
    return dict(zip(table["id"], table["text"], strict=True))
