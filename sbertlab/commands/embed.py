"""Files of texts, read and embedded window by window, so that a corpus may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sbertlab.checks import check_choice
from sbertlab.data import examples_from_frame
from sbertlab.data.readers import lines
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.storage.files import write_whole

WINDOW = 8_192
"""Texts that are read, sorted by length and embedded at a time."""


def read_frames(path: str, size: int | None = None, sep: str | None = None, **csv: Any) -> Iterator[pd.DataFrame]:
    """Yield a table (.csv, .tsv, .jsonl, .json, .parquet) in frames of at most `size` rows; `csv` is for `read_csv`.

    Of any other file, the lines that are not empty make a column `text`.
    """
    name = path.removesuffix(".gz")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    frames: Any
    if name.endswith((".csv", ".tsv")):
        sep = sep or ("\t" if name.endswith(".tsv") else ",")
        frames = pd.read_csv(path, sep=sep, chunksize=size, keep_default_na=False, **csv)
    elif name.endswith((".jsonl", ".json")):
        by_line: dict[str, Any] = {"lines": True, "chunksize": size} if name.endswith(".jsonl") else {}
        frames = pd.read_json(path, dtype=False, **by_line)
    elif name.endswith(".parquet"):
        frames = pd.read_parquet(path)
    else:
        texts = filter(None, map(str.strip, lines(Path(path))))
        frames = (pd.DataFrame({"text": window}) for window in iter(lambda: list(islice(texts, size)), []))
    yield from [frames] if isinstance(frames, pd.DataFrame) else frames


def text_windows(path: str, column: str, size: int = WINDOW) -> Iterator[list[str]]:
    """Yield the texts in a column of a file, `size` at a time."""
    for frame in read_frames(path, size, dtype=str):
        yield [text for example in examples_from_frame(frame, [column]) for text in example.texts or []]


def embed_file(
    model: str, source: str, target: str, column: str = "text", batch_size: int = 32, normalize: bool = False
) -> None:
    """Write the embeddings of a column of a file (see `read_frames`) into a file that appears whole or not at all.

    The target is .npy, `(texts, dim)` float32, or .parquet or .csv together with the texts.
    """
    kind = Path(target).suffix
    check_choice("the ending of the output", kind, [".npy", ".parquet", ".csv"])
    if kind == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise ImportError('Parquet needs pyarrow: pip install "sbertlab[benchmark]", or write .npy') from error
    total = sum(map(len, text_windows(source, column)))
    if not total:
        raise ValueError(f"{source} has no texts")
    encoder = SentenceTransformer(model)
    writer: Any = None
    done = 0
    with write_whole(Path(target)) as path, tqdm(total=total, unit="text") as bar, ExitStack() as stack:
        for texts in text_windows(source, column):
            vectors = encoder.encode(texts, batch_size, normalize_embeddings=normalize)
            if kind == ".npy":
                shape = (total, vectors.shape[1])
                writer = np.lib.format.open_memmap(path, "r+" if done else "w+", np.float32, shape)
                writer[done : done + len(texts)] = vectors
            elif kind == ".csv":
                frame = pd.DataFrame(vectors).add_prefix("dim_")
                frame.insert(0, column, texts)
                frame.to_csv(path, mode="a", index=False, header=not done)
            else:
                rows = pyarrow.table({column: texts, "embedding": list(vectors)})
                writer = writer or stack.enter_context(pyarrow.parquet.ParquetWriter(path, rows.schema))
                writer.write_table(rows)
            done += len(texts)
            bar.update(len(texts))
