"""The commands embed and convert, and the tables that commands read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from sbertlab.checks import check_choice
from sbertlab.data import examples_from_frame
from sbertlab.data.readers import lines
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.storage.files import write_whole


def read_frame(path: str) -> pd.DataFrame:
    """Return a table (.csv, .tsv, .jsonl, .parquet); of any other file, the non-empty lines in a column `text`.

    The cells of .csv and .tsv are texts, empty ones too. All but Parquet may be compressed by gzip.
    """
    kind = Path(path.removesuffix(".gz")).suffix
    if kind in (".csv", ".tsv"):
        return pd.read_csv(path, sep="\t" if kind == ".tsv" else ",", dtype=str, keep_default_na=False)
    if kind == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False, encoding="utf-8-sig")
    if kind == ".parquet":
        return pd.read_parquet(path)
    return pd.DataFrame({"text": [line.strip() for line in lines(path) if line.strip()]})


def embed_file(
    model: str, source: str, target: str, column: str = "text", batch_size: int = 32, normalize: bool = False
) -> None:
    """Write the embeddings of a column of a table (see `read_frame`) into a file that appears whole or not at all.

    The target is .npy, `(texts, dim)` float32, or .parquet or .csv together with the texts.
    """
    kind = Path(target).suffix
    check_choice("the ending of the output", kind, [".npy", ".parquet", ".csv"])
    frame = read_frame(source)
    texts = [text for example in examples_from_frame(frame, [column]) for text in example.texts or []]
    vectors = SentenceTransformer(model).encode(texts, batch_size, True, normalize_embeddings=normalize)
    with write_whole(Path(target)) as path:
        if kind == ".npy":
            np.save(path, vectors)
        elif kind == ".parquet":
            pd.DataFrame({column: texts, "embedding": list(vectors)}).to_parquet(path)
        else:
            pd.DataFrame({column: texts}).join(pd.DataFrame(vectors).add_prefix("dim_")).to_csv(path, index=False)


def convert_model(source: str, target: str) -> str:
    """Write a model folder of any kind as a portable one."""
    SentenceTransformer(source, device="cpu").save(target)
    return target
