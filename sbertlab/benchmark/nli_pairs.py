"""Triplets from natural language inference, and the sets of labelled pairs that they are made of.

A set lies in the folder that SBERTLAB_DATA names, or on the Hub at a pinned commit.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from sbertlab.benchmark.local_tasks import DATA_VARIABLE
from sbertlab.data import NLIDataReader
from sbertlab.storage.files import sha256_of

TRIPLET = ["anchor", "positive", "negative"]


def nli_triplets(pairs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the training triplets of NLI pairs: for every sentence that has an entailment and a contradiction, two.

    Each pair counts in both directions. A sentence s with the entailments E and the contradictions C, as sets of texts,
    gives (s, e, c) and (e', s, c'), where e, c, e' and c' are drawn independently. Texts are stripped first. So there
    are twice as many triplets as sentences with both.

    Args:
        pairs: columns sentence1, sentence2 and label (entailment, neutral, contradiction, or "-" for no agreement).
        seed: of the draws and of the order.

    Returns:
        Columns anchor, positive, negative.

    Raises:
        ValueError: a missing column or text, another label, no sentence with both.

    Source: `training_nli_v2.py` of sentence-transformers, which draws without a seed.

    >>> rows = [("A dog runs.", "It moves.", "entailment"), ("A dog runs. ", "It sleeps.", "contradiction")]
    >>> found = nli_triplets(pd.DataFrame(rows, columns=["sentence1", "sentence2", "label"]))
    >>> sorted(found.values.tolist())
    [['A dog runs.', 'It moves.', 'It sleeps.'], ['It moves.', 'A dog runs.', 'It sleeps.']]
    """
    if missing := {"sentence1", "sentence2", "label"} - set(pairs.columns):
        raise ValueError(f"pairs lack {', '.join(sorted(missing))}; they have {', '.join(map(str, pairs.columns))}")
    if pairs[["sentence1", "sentence2"]].isna().to_numpy().any():
        raise ValueError("pairs have missing texts in sentence1 or sentence2; leave those rows out, as by dropna()")
    labels = pairs["label"].astype(str).str.strip().str.lower()
    known = [*NLIDataReader.get_labels(), "-"]
    if not labels.isin(known).all():
        strange = labels[~labels.isin(known)].iloc[0]
        raise ValueError(f"a label of NLI must be one of {', '.join(known)}, got {strange!r}")
    used = labels.isin(["entailment", "contradiction"])
    columns = [pairs.loc[used, name].str.strip() for name in ("sentence1", "sentence2")]
    codes, texts = pd.factorize(pd.concat(columns, ignore_index=True))
    first, second = np.split(codes.astype(np.int64), 2)
    entails = (labels[used] == "entailment").to_numpy()
    entailed = _partners(first[entails], second[entails], len(texts))
    contradicted = _partners(first[~entails], second[~entails], len(texts))
    sentences = np.flatnonzero((entailed.counts > 0) & (contradicted.counts > 0))
    if not len(sentences):
        raise ValueError(
            f"none of the {len(texts)} sentences of the {len(pairs)} pairs has both an entailment and a contradiction, "
            "of which triplets are made; give pairs that share their sentences, as SNLI does"
        )
    random = np.random.default_rng(seed)
    e, c, e2, c2 = (side.draw(sentences, random) for side in (entailed, contradicted, entailed, contradicted))
    rows = np.concatenate([np.stack([sentences, e, c], axis=1), np.stack([e2, sentences, c2], axis=1)])
    return pd.DataFrame(np.asarray(texts, dtype=object)[random.permutation(rows)], columns=TRIPLET)


@dataclass(frozen=True)
class _Partners:
    """The distinct partners of each sentence: `partners[starts[s] : starts[s] + counts[s]]`."""

    partners: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def draw(self, sentences: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return one partner of each sentence, `(sentences,)`."""
        return self.partners[self.starts[sentences] + random.integers(self.counts[sentences])]


def _partners(first: np.ndarray, second: np.ndarray, size: int) -> _Partners:
    """Collect the partners of each of `size` sentences from pairs of their numbers, in both directions."""
    keys = np.unique(np.concatenate([first * size + second, second * size + first]))
    counts = np.bincount(keys // size, minlength=size)
    return _Partners(keys % size, np.cumsum(counts) - counts, counts)


# -- Sets of pairs: a file of the local folder, or a set of the Hub ----------------------------------------------------


@dataclass(frozen=True)
class HubSet:
    """A set of the Hub at a pinned commit.

    Args:
        name: of the repository.
        configuration: of the set.
        split: its rows that count.
        revision: commit.
        columns: names of sentence1, sentence2 and the third column there.
    """

    name: str
    configuration: str | None
    split: str
    revision: str
    columns: tuple[str, str, str]

    def load(self) -> Any:
        """Return the rows as a `datasets.Dataset`, which lies on this machine from then on.

        Raises:
            ImportError: the package datasets is missing.
            FileNotFoundError: the Hub does not deliver.
        """
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ImportError(f'{self} is read by the package datasets: pip install "sbertlab[benchmark]"') from error
        try:
            return load_dataset(self.name, self.configuration, split=self.split, revision=self.revision)
        except Exception as error:  # whatever the client of the Hub and its HTTP library raise
            lines = str(error).strip().splitlines() or [""]
            raise FileNotFoundError(f"{self} cannot be had: {type(error).__name__}: {lines[0]}") from error

    def read(self) -> pd.DataFrame:
        """Return the columns sentence1, sentence2 and the third, with the names of classes in place of their numbers.

        Raises: as `load`.
        """
        found, third = self.load(), self.columns[2]
        table = found.to_pandas()[list(self.columns)].set_axis(["sentence1", "sentence2", third], axis="columns")
        names = getattr(found.features[third], "names", None)
        if names is not None:
            table[third] = np.array([*names, "-"])[table[third]]  # -1: people did not agree
        return table

    def __str__(self) -> str:
        configuration = f", {self.configuration}" if self.configuration else ""
        return f"{self.name} of the Hub ({self.split}{configuration}, revision {self.revision[:12]})"


@dataclass(frozen=True)
class PairSet:
    """Labelled pairs: a file in the folder of local sets, and where that lacks it, a set of the Hub.

    Args:
        file: CSV or TSV with a header, in the folder that SBERTLAB_DATA names; a tab stands between columns, and quotes
            are text, where the name ends in .tsv.gz.
        third: the column beside sentence1 and sentence2.
        split: rows of the file that count; None takes all.
        hub: or None.
    """

    file: str
    third: str
    split: str | None = None
    hub: HubSet | None = None

    def path(self, folder: Path | None) -> Path | None:
        """Return the file, or None where the Hub is asked.

        Raises:
            FileNotFoundError: there is neither.
        """
        path = None if folder is None else folder / self.file
        if path is not None and path.is_file():
            return path
        if self.hub is None:
            where = f"put it into {folder}" if folder else f"put it into a folder and let {DATA_VARIABLE} name that"
            raise FileNotFoundError(
                f"the recipe needs {self.file} with the columns {', '.join(self.columns)}, which is missing; {where}"
            )
        return None

    @property
    def columns(self) -> list[str]:
        """Columns that the file needs."""
        return ["sentence1", "sentence2", self.third, *(["split"] if self.split else [])]

    def read(self, folder: Path | None) -> pd.DataFrame:
        """Return the columns sentence1, sentence2 and the third; of a file as texts.

        Raises:
            FileNotFoundError: the set cannot be had; the message says what would help.
            ValueError: the file cannot be read, lacks a column or has no such row.
        """
        path = self.path(folder)
        if path is None:
            return self._of_hub(HubSet.read)
        form: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if path.name.endswith(".tsv.gz") else {}
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=self.columns, **form)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be read: {error}; it must be gzip, UTF-8, with the columns {', '.join(self.columns)}"
            ) from error
        if self.split is not None:
            table = table[table["split"] == self.split]
        if table.empty:
            raise ValueError(f"{path} has no row{f' of split {self.split!r}' if self.split else ''}")
        return table[self.columns[:3]].reset_index(drop=True)

    def check(self, folder: Path | None, make: Callable[[pd.DataFrame], Any]) -> None:
        """Raise what `read`, and `make` of the pairs, would raise; have a set of the Hub, which is pinned, here.

        Raises: as `read`, and a ValueError of `make` with the name of the file.
        """
        path = self.path(folder)
        if path is None:
            self._of_hub(HubSet.load)
            return
        pairs = self.read(folder)
        try:
            make(pairs)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _of_hub(self, ask: Callable[[HubSet], Any]) -> Any:
        try:
            return ask(cast(HubSet, self.hub))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}. Without the Hub, put {self.file} with the columns {', '.join(self.columns)} into a folder "
                f"and let {DATA_VARIABLE} name that"
            ) from error

    def digest(self, folder: Path | None) -> str:
        """Return the SHA-256 of the file, or what pins the set on the Hub."""
        path = self.path(folder)
        return repr(self.hub) if path is None else sha256_of(path)

    def source(self, folder: Path | None) -> str:
        """Return where the pairs come from, in words."""
        rows = f", {self.split} rows" if self.split else ""
        return str(self.hub) if self.path(folder) is None else f"{self.file}{rows}"


ALL_NLI = PairSet(
    "AllNLI.tsv.gz",
    "label",
    "train",
    HubSet(
        "sentence-transformers/all-nli",
        "pair-class",
        "train",
        "d482672c8e74ce18da116f430137434ba2e52fab",
        ("premise", "hypothesis", "label"),
    ),
)
"""SNLI and MultiNLI, 942,069 training pairs."""

SNLI_DEVTEST = PairSet("snli_devtest/data.csv.gz", "label")
"""Dev and test of SNLI, 19,666 pairs: a small training set, on which nothing may be reported then."""

STSB_DEV = PairSet(
    "stsb/data.csv.gz",
    "score",
    "dev",
    HubSet(
        "sentence-transformers/stsb",
        None,
        "validation",
        "ab7a5ac0e35aa22088bdcf23e7fd99b220e53308",
        ("sentence1", "sentence2", "score"),
    ),
)
"""Dev of the STS benchmark, 1,500 pairs with a score from 0 to 1."""
