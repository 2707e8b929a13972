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

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from sbertlab.benchmark.tasks import TABLES, Task, reranking_evaluator, table_evaluator
from sbertlab.data.readers import read_table
from sbertlab.evaluation import InformationRetrievalEvaluator, SentenceEvaluator

DATA_VARIABLE = "SBERTLAB_DATA"


@dataclass(frozen=True)
class LocalSet:
    """Which rows of a data set a task uses.

    Args:
        split: rows to use; "all" for every row, "" for "test" if there are such rows, otherwise all.
        judged: rank the judged documents of each query (reranking) instead of searching the whole corpus.
        sample: use a random sample of this many rows, drawn with seed 0.
    """

    split: str = ""
    judged: bool = False
    sample: int | None = None

    @property
    def note(self) -> str:
        """Which rows are used, in words."""
        rows = f"{self.split} rows" if self.split else "test rows, if there are any"
        return rows + (f", {self.sample:,} drawn" if self.sample else "")

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows to use."""
        split = self.split or ("test" if "test" in set(table.get("split", ())) else "all")
        if "split" in table and split != "all":
            table = table[table["split"] == split]
        return table if not self.sample or self.sample >= len(table) else table.sample(self.sample, random_state=0)


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


def data_folder(data: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the folder of data sets: `data`, or the one that SBERTLAB_DATA names; None if there is neither."""
    named = os.environ.get(DATA_VARIABLE) if data is None else data
    return Path(named) if named else None


def sets_in(folder: Path | None) -> list[str]:
    """Return the names of the data sets in the folder."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder else []


def local_task(name: str, folder: Path) -> Task:
    """Return the task of the data set `folder / name`; its family follows from its files and columns.

    Only the header of data.csv.gz is read. A ValueError says that its columns fit no task.
    """
    place, use = folder / name, LOCAL_SETS.get(name, LocalSet())
    if (place / "qrels.tsv.gz").exists():
        files = tuple(place / file for file in ("qrels.tsv.gz", "queries.jsonl.gz", "corpus.jsonl.gz"))
        family, metric = ("reranking", "map") if use.judged else ("retrieval", "cos_sim_map@100")
        return Task(name, family, metric, use.note, partial(_search, place, use), files)
    path = place / "data.csv.gz"
    columns = read_table(path, rows=0).columns
    for family, (needed, metric, _) in TABLES.items():
        if set(needed) <= set(columns):
            return Task(name, family, metric, use.note, partial(_labelled, path, use, family), (path,))
    known = "; ".join(f"{', '.join(needed)} ({family})" for family, (needed, *_) in TABLES.items())
    raise ValueError(f"{path} has the columns {', '.join(columns)}; a task needs one of {known}")


def _labelled(path: Path, use: LocalSet, family: str) -> SentenceEvaluator:
    """Return the evaluator of a data.csv.gz."""
    return table_evaluator(family, _filled(path, use, TABLES[family][0]))


def _search(place: Path, use: LocalSet) -> SentenceEvaluator:
    """Return the evaluator of a retrieval set, or of reranking its judged documents."""
    queries, corpus = _texts(place / "queries.jsonl.gz"), _texts(place / "corpus.jsonl.gz")
    judged = use.rows(read_table(place / "qrels.tsv.gz", ["query_id", "corpus_id", "relevance"]))
    right = judged[pd.to_numeric(judged["relevance"]) > 0]
    relevant, ranked = (rows.groupby("query_id", sort=False)["corpus_id"] for rows in (right, judged))
    if use.judged:
        return reranking_evaluator(queries, corpus, relevant.agg(set).to_dict(), ranked.agg(list).to_dict())
    return InformationRetrievalEvaluator(queries, corpus, relevant.agg(set).to_dict())


def _texts(path: Path) -> dict[str, str]:
    """Return the texts of a file by id."""
    table = _filled(path, LocalSet("all"), ["id", "text"])
    return dict(zip(table["id"], table["text"], strict=True))


def _filled(path: Path, use: LocalSet, columns: list[str]) -> pd.DataFrame:
    """Return the rows of a file to use, as texts; a ValueError names the first empty cell by its row in the file."""
    table = use.rows(read_table(path, columns)).astype(dict.fromkeys(columns, str))
    for name in columns:
        empty = table.index[table[name].fillna("").str.strip() == ""]
        if len(empty):
            raise ValueError(f"{path}: {name} is empty in {len(empty)} rows, the first is row {empty.min() + 1}")
    return table
