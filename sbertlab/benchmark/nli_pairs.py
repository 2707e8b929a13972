"""Training triplets from natural language inference (NLI), and where labelled sentence pairs come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.benchmark.local_tasks import DATA_VARIABLE, read_table, rows_of_split
from sbertlab.checks import check_columns
from sbertlab.data import NLIDataReader
from sbertlab.storage.files import sha256_of

TRIPLET = ["anchor", "positive", "negative"]


def nli_triplets(pairs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return training triplets from NLI pairs: two for each sentence with an entailment and a contradiction.

    Each pair counts in both directions, and texts are stripped first. A sentence s with the distinct entailments E and
    contradictions C gives (s, e, c) and (e', s, c'), where e, c, e' and c' are drawn independently.
    Source: `training_nli_v2.py` of sentence-transformers, which draws without a seed.

    Args:
        pairs: columns sentence1, sentence2 and label (entailment, neutral, contradiction, or "-" for no agreement).
        seed: determines the draws and the order.

    Returns:
        Columns anchor, positive, negative.

    Raises:
        ValueError: a missing column or text, an unknown label, or no sentence with both.

    >>> rows = [("A dog runs.", "It moves.", "entailment"), ("A dog runs. ", "It sleeps.", "contradiction")]
    >>> found = nli_triplets(pd.DataFrame(rows, columns=["sentence1", "sentence2", "label"]))
    >>> sorted(found.values.tolist())
    [['A dog runs.', 'It moves.', 'It sleeps.'], ['It moves.', 'A dog runs.', 'It sleeps.']]
    """
    check_columns("pairs", pairs, ["sentence1", "sentence2", "label"])
    if pairs[["sentence1", "sentence2"]].isna().to_numpy().any():
        raise ValueError("pairs have missing texts in sentence1 or sentence2; remove those rows, e.g. with dropna()")
    labels = pairs["label"].astype(str).str.strip().str.lower()
    known = [*NLIDataReader.get_labels(), "-"]
    if not labels.isin(known).all():
        raise ValueError(f"an NLI label must be one of {', '.join(known)}, got {labels[~labels.isin(known)].iloc[0]!r}")
    used = labels.isin(["entailment", "contradiction"])
    columns = [pairs.loc[used, name].str.strip() for name in ("sentence1", "sentence2")]
    codes, texts = pd.factorize(pd.concat(columns, ignore_index=True))
    first, second = np.split(codes.astype(np.int64), 2)
    entails, size = (labels[used] == "entailment").to_numpy(), len(texts)

    def partners(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the distinct partners, where those of each sentence start, and their number."""
        one, other = first[chosen], second[chosen]
        keys = np.unique(np.concatenate([one * size + other, other * size + one]))
        counts = np.bincount(keys // size, minlength=size)
        return keys % size, np.cumsum(counts) - counts, counts

    entailed, contradicted = partners(entails), partners(~entails)
    sentences = np.flatnonzero((entailed[2] > 0) & (contradicted[2] > 0))
    if not len(sentences):
        raise ValueError(
            f"none of the {size} sentences of the {len(pairs)} pairs has both an entailment and a contradiction, "
            "so no triplets can be made; pairs must share sentences, as in SNLI"
        )
    random = np.random.default_rng(seed)
    e, c, e2, c2 = (
        found[starts[sentences] + random.integers(counts[sentences])]
        for found, starts, counts in (entailed, contradicted, entailed, contradicted)
    )
    rows = np.concatenate([np.stack([sentences, e, c], axis=1), np.stack([e2, sentences, c2], axis=1)])
    return pd.DataFrame(np.asarray(texts, dtype=object)[random.permutation(rows)], columns=TRIPLET)


@dataclass(frozen=True)
class PairSet:
    """Labelled pairs, from a file of the data folder or, without it, from a data set on the Hub.

    Args:
        file: CSV or TSV with a header, in the data folder.
        third: the column beside sentence1 and sentence2.
        split: rows of the file to use; None takes all.
        hub: arguments of `datasets.load_dataset`, with the pinned revision.
    """

    file: str
    third: str
    split: str | None = None
    hub: Mapping[str, str] | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that the file needs."""
        return ["sentence1", "sentence2", self.third, *(["split"] if self.split else [])]

    def path(self, folder: Path | None) -> Path | None:
        """Return the file, or None if the Hub is used; a FileNotFoundError says what to do if there is neither."""
        if folder is not None and (folder / self.file).is_file():
            return folder / self.file
        if self.hub is None:
            where = folder or f"a folder and let {DATA_VARIABLE} name that"
            needed = ", ".join(self.columns)
            raise FileNotFoundError(f"{self.file} with the columns {needed} is missing; put it into {where}")
        return None

    def source(self, folder: Path | None) -> str:
        """Return in words where the pairs come from."""
        if self.path(folder) is not None or self.hub is None:
            return self.file + (f", {self.split} rows" if self.split else "")
        return f"{self.hub['path']} of the Hub ({self.hub['split']}, revision {self.hub['revision'][:12]})"

    def digest(self, folder: Path | None) -> str:
        """Return the SHA-256 of the file, or what pins the data set on the Hub."""
        path = self.path(folder)
        return repr(self.hub) if path is None else sha256_of(path)

    def read(self, folder: Path | None) -> pd.DataFrame:
        """Return the columns sentence1, sentence2 and the third; of a file, all as texts."""
        path = self.path(folder)
        if path is None:
            return self._from_hub()
        table = read_table(path, columns=self.columns)
        table = table if self.split is None else rows_of_split(table, self.split, path)
        return table[self.columns[:3]].reset_index(drop=True)

    def _from_hub(self) -> pd.DataFrame:
        source = self.source(None)
        try:
            from datasets import load_dataset
        except ImportError as error:
            raise ImportError(f'{source} needs the package datasets: pip install "sbertlab[benchmark]"') from error
        try:
            found: Any = load_dataset(**(self.hub or {}))
        except Exception as error:  # whatever the Hub's client and its HTTP library raise
            reason = (str(error).strip().splitlines() or [""])[0]
            raise FileNotFoundError(
                f"{source} is not available: {type(error).__name__}: {reason}. Without the Hub, put {self.file} with "
                f"the columns {', '.join(self.columns)} into a folder and let {DATA_VARIABLE} name that"
            ) from error
        table = found.to_pandas().rename(columns={"premise": "sentence1", "hypothesis": "sentence2"})[self.columns[:3]]
        names = getattr(found.features[self.third], "names", None)
        if names is not None:  # classes; -1 stands for no agreement
            table[self.third] = np.array([*names, "-"])[table[self.third]]
        return table


_ALL_NLI = {"path": "sentence-transformers/all-nli", "name": "pair-class", "split": "train"}
ALL_NLI = PairSet(
    "AllNLI.tsv.gz", "label", "train", _ALL_NLI | {"revision": "d482672c8e74ce18da116f430137434ba2e52fab"}
)
"""SNLI and MultiNLI, 942,069 training pairs."""

SNLI_DEVTEST = PairSet("snli_devtest/data.csv.gz", "label")
"""Dev and test sets of SNLI, 19,666 pairs: a small training set, so no results may be reported on them."""

_STSB = {"path": "sentence-transformers/stsb", "split": "validation"}
STSB_DEV = PairSet("stsb/data.csv.gz", "score", "dev", _STSB | {"revision": "ab7a5ac0e35aa22088bdcf23e7fd99b220e53308"})
"""Dev set of the STS benchmark, 1,500 pairs with a score from 0 to 1."""
