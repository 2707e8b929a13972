"""NeMo's training data for SBERT: queries with positive and hard negative passages, in all its spellings.

| spelling        | file              | query                | positive             | negatives         |
| --------------- | ----------------- | -------------------- | -------------------- | ----------------- |
| NeMo to 24.05   | one JSON list     | `"question": "..."`  | `"pos_doc": ["..."]` | `"neg_doc": [..]` |
| NeMo from 24.07 | JSONL             | `"query": "..."`     | `"pos_doc": "..."`   | `"neg_doc": [..]` |
| its manual      | one JSON list     | `"query": "..."`     | `"pos_doc": "..."`   | `"neg_doc": [..]` |

Source: NVIDIA NeMo, user guide, Information Retrieval: Sentence-BERT and the embedding models.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from sbertlab.data.readers import InputExample, PathLike, Reader
from sbertlab.data.rows import NOT_UTF8, Row, check_whole, checked_text, is_utf8, lines

__all__ = ["NeMoReader", "write_nemo"]

QUERY_PREFIX = "query: "
PASSAGE_PREFIX = "passage: "


class NeMoReader(Reader):
    """Reads NeMo's JSON or JSONL; the file itself tells which spelling it is.

    | texts                                              | label     |
    | -------------------------------------------------- | --------- |
    | (query, positive, negative_1, ..., negative_n)     | 0, unused |

    Every example has `n = hard_negatives_to_train` negatives, as NeMo trains: of more, n are drawn; fewer are filled
    up by drawing again. NeMo draws anew in every epoch, this reader once, from `(seed, line)`. A row with several
    positives gives an example for each of them.

    Relatives: `losses.MultipleNegativesRankingLoss(hard_negatives="own")` is the loss that NeMo trains with.

    Args:
        dataset_folder: folder of the files.
        hard_negatives_to_train: negatives of each example; 0 makes pairs.
        query_prefix, passage_prefix: written before the texts (E5's convention); "" for none.
        negative_sample_strategy: "random", or "first" for the first n.
        seed: of the draw and of the split; NeMo's is 42.
        on_error: "raise" or "skip"; a JSON list broken between its rows cannot be read on and is never skipped.
    """

    def __init__(
        self,
        dataset_folder: PathLike = "",
        hard_negatives_to_train: int = 4,
        query_prefix: str = QUERY_PREFIX,
        passage_prefix: str = PASSAGE_PREFIX,
        negative_sample_strategy: str = "random",
        seed: int = 42,
        *,
        on_error: str = "raise",
    ) -> None:
        super().__init__(on_error)
        check_whole("hard_negatives_to_train", hard_negatives_to_train, least=0)
        if negative_sample_strategy not in ("random", "first"):
            raise ValueError(f'negative_sample_strategy must be "random" or "first", got {negative_sample_strategy!r}')
        self.dataset_folder = Path(dataset_folder)
        self.hard_negatives_to_train = hard_negatives_to_train
        self.query_prefix = query_prefix
        self.passage_prefix = passage_prefix
        self.negative_sample_strategy = negative_sample_strategy
        self.seed = seed

    def get_examples(self, filename: PathLike, max_examples: int = 0) -> list[InputExample]:
        """Read `filename` in the folder: the first `max_examples` examples, all of them for 0.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a bad row, named by file and line; broken JSON; no usable row.
        """
        path = self.dataset_folder / filename
        rows = self._gather(_json_rows(path), self._examples, str(path), max_examples)
        return list(chain.from_iterable(rows))[: max_examples or None]

    def get_split(
        self, filename: PathLike, evaluation_sample_size: int = 100
    ) -> tuple[list[InputExample], list[InputExample]]:
        """Read `filename` and split it into training and validation examples, as NeMo does for a JSON list.

        The rows are shuffled with `seed`; the last `evaluation_sample_size` rows are the validation set.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a bad row; a validation set that leaves no row for training.
        """
        check_whole("evaluation_sample_size", evaluation_sample_size, least=1)
        path = self.dataset_folder / filename
        rows = self._gather(_json_rows(path), self._examples, str(path), max_rows=0)
        if evaluation_sample_size >= len(rows):
            raise ValueError(
                f"evaluation_sample_size={evaluation_sample_size} leaves nothing to train on: {filename} has "
                f"{len(rows)} rows"
            )
        random.Random(self.seed).shuffle(rows)
        training, validation = rows[:-evaluation_sample_size], rows[-evaluation_sample_size:]
        return list(chain.from_iterable(training)), list(chain.from_iterable(validation))

    def _examples(self, row: Row) -> list[InputExample]:
        record = row.cells[0]
        if not isinstance(record, dict):
            raise ValueError(f"a row must be an object with query, pos_doc and neg_doc, got {record!r}")
        query = checked_text(_value(record, "query", "question"), "query")
        positives = _texts(_value(record, "pos_doc"), "pos_doc")
        negatives = self._negatives(record, row.line) if self.hard_negatives_to_train else []
        passages = [self.passage_prefix + text.strip() for text in negatives]
        return [
            InputExample(
                guid=row.guid,
                texts=[self.query_prefix + query.strip(), self.passage_prefix + positive.strip(), *passages],
            )
            for positive in positives
        ]

    def _negatives(self, record: dict[str, Any], line: int) -> list[str]:
        found = _value(record, "neg_doc")
        if isinstance(found, str):
            raise ValueError(f"neg_doc must be a list of texts, got the text {found!r}")
        negatives = _texts(found, "neg_doc")
        wanted = self.hard_negatives_to_train
        draw = random.Random(f"{self.seed} {line}")
        if len(negatives) < wanted:
            return negatives + draw.choices(negatives, k=wanted - len(negatives))
        return negatives[:wanted] if self.negative_sample_strategy == "first" else draw.sample(negatives, wanted)


def _value(record: dict[str, Any], *keys: str) -> Any:
    for key in keys:
        if key in record:
            return record[key]
    found = ", ".join(map(repr, record)) or "no key"
    raise ValueError(f"missing key {' or '.join(map(repr, keys))}; the row has {found}")


def _texts(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        return [checked_text(value, name)]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a text or a list of at least one text, got {value!r}")
    return [checked_text(text, f"{name}[{index}]") for index, text in enumerate(value)]


def _json_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON list or of a JSONL file, each with the line on which it begins."""
    numbered = ((number, line) for number, line in enumerate(lines(path), start=1) if line.strip())
    first = next(numbered, None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):
        yield from _list_rows(path, "".join(lines(path)))
    else:
        for number, line in chain([first], numbered):
            yield _json_row(path, number, line)


def _json_row(path: Path, number: int, line: str) -> Row:
    if not is_utf8(line):
        return Row(path.name, number, problem=NOT_UTF8)
    try:
        return Row(path.name, number, [json.loads(line.rstrip("\r\n"))])
    except (ValueError, RecursionError) as error:
        return Row(path.name, number, problem=f"broken JSON ({_reason(error)}); JSONL has one object on each line")


def _reason(error: ValueError | RecursionError) -> str:
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _list_rows(path: Path, text: str) -> Iterator[Row]:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path.name}, line {getattr(error, 'lineno', 1)}: broken JSON list ({_reason(error)}). Mend it, or write "
            "one object on each line (JSONL), where a broken row can be skipped"
        ) from None
    # The list is sound, so a second walk over it only has to find where each element begins.
    decoder = json.JSONDecoder()
    position = counted = text.index("[") + 1
    number = 1 + text.count("\n", 0, position)
    while True:
        while text[position] in " \t\r\n,":
            position += 1
        if text[position] == "]":
            return
        number, counted = number + text.count("\n", counted, position), position
        record, position = decoder.raw_decode(text, position)
        yield Row(path.name, number, [record], problem="" if is_utf8(text[counted:position]) else NOT_UTF8)


def write_nemo(
    examples: Iterable[InputExample],
    path: PathLike,
    query_prefix: str = QUERY_PREFIX,
    passage_prefix: str = PASSAGE_PREFIX,
) -> None:
    """Write (query, positive, negative, ...) examples as the JSONL that NeMo reads: keys query, pos_doc, neg_doc.

    NeMo puts its prefixes before the texts itself, so they are taken off where a text begins with them. Labels are not
    written. The file appears whole or not at all.

    Args:
        examples: texts are a query, its positive and any number of negatives.
        path: the file; a name ending in `.gz` is compressed.
        query_prefix, passage_prefix: what to take off; "" leaves texts as they are.

    Raises:
        ValueError: no example; an example without a positive; a text that is empty or no text.
    """
    records = []
    for index, example in enumerate(examples):
        texts = example.texts or []
        if len(texts) < 2:
            raise ValueError(f"example {index} must have a query and a positive, got {len(texts)} texts")
        query, positive, *negatives = (
            checked_text(text, f"text {column} of example {index}") for column, text in enumerate(texts)
        )
        record = {
            "query": query.removeprefix(query_prefix),
            "pos_doc": positive.removeprefix(passage_prefix),
            "neg_doc": [text.removeprefix(passage_prefix) for text in negatives],
        }
        records.append(json.dumps(record, ensure_ascii=False) + "\n")
    if not records:
        raise ValueError("nothing to write: there is no example")
    target = Path(path)
    data = "".join(records).encode()
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(gzip.compress(data, mtime=0) if target.suffix == ".gz" else data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
