"""Embeddings of files of texts, window by window."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from sbertlab.data import examples_from_frame
from sbertlab.data.rows import lines
from sbertlab.data.texts import is_utf8
from sbertlab.encoder.sentence_transformer import SentenceTransformer

WINDOW = 8_192
"""Texts that are read, sorted by length and embedded at a time."""


def text_windows(path: str, column: str, size: int = WINDOW) -> Iterator[list[str]]:
    """Yield the texts of a file, `size` at a time.

    Of .csv, .tsv and .jsonl that is a column; of all others the lines, but for empty ones.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such column, a row without text, or bytes that are not UTF-8.
    """
    name = path.removesuffix(".gz")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if not name.endswith((".csv", ".tsv", ".jsonl")):
        texts = (line.strip() for line in lines(Path(path)))
        window = []
        for text in filter(None, texts):
            if not is_utf8(text):
                raise ValueError(f"{path} is not UTF-8; save it as UTF-8")
            window.append(text)
            if len(window) == size:
                yield window
                window = []
        yield from [window] if window else []
        return
    frames: Iterable[pd.DataFrame]
    if name.endswith(".jsonl"):
        frames = pd.read_json(path, lines=True, chunksize=size, dtype=False)
    else:
        frames = pd.read_csv(
            path, sep="," if name.endswith(".csv") else "\t", chunksize=size, keep_default_na=False, dtype=str
        )
    for frame in frames:
        yield [text for example in examples_from_frame(frame, [column]) for text in example.texts or []]


def embed_file(
    model: str, source: str, target: str, column: str = "text", batch_size: int = 32, normalize: bool = False
) -> None:
    """Write the embeddings of the texts of a file, window by window, so that the corpus may be larger than memory.

    Args:
        model: name or folder.
        source: .txt with one text a line, or .csv, .tsv or .jsonl with a column of texts; also gzipped.
        target: .npy `(texts, dim)` float32, or .parquet or .csv with the texts too; appears whole or not at all.
        column: of the texts.
        batch_size: as in `encode`.
        normalize: scale each to length 1.

    Raises:
        ValueError: another kind of file, or no text.
    """
    kind = Path(target).suffix
    if kind not in (".npy", ".parquet", ".csv"):
        raise ValueError(f"the output must end in .npy, .parquet or .csv, got {target}")
    total = sum(map(len, text_windows(source, column)))
    if not total:
        raise ValueError(f"{source} holds no text")
    encoder = SentenceTransformer(model)
    partial = Path(target).with_name(f".{Path(target).name}.{os.getpid()}.part")
    matrix: Any = None
    writer: Any = None
    done = 0
    try:
        with tqdm(total=total, desc="Embedding", unit="text") as bar:
            for texts in text_windows(source, column):
                vectors = encoder.encode(texts, batch_size, normalize_embeddings=normalize)
                if kind == ".npy":
                    if matrix is None:
                        shape = (total, vectors.shape[1])
                        matrix = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
                    matrix[done : done + len(texts)] = vectors
                elif kind == ".csv":
                    frame = pd.DataFrame(vectors).add_prefix("dim_")
                    frame.insert(0, column, texts)
                    frame.to_csv(partial, mode="a", index=False, header=not done)
                else:
                    writer = _append_parquet(writer, partial, {column: texts, "embedding": list(vectors)})
                done += len(texts)
                bar.update(len(texts))
        if matrix is not None:
            matrix.flush()
        if writer is not None:
            writer.close()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _append_parquet(writer: Any, path: Path, columns: dict[str, Any]) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'Parquet needs pyarrow: pip install "sbertlab[benchmark]"; .npy and .csv do without'
        ) from error
    rows = pyarrow.table(columns)
    writer = writer or pyarrow.parquet.ParquetWriter(path, rows.schema)
    writer.write_table(rows)
    return writer
