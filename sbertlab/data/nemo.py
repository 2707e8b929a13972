"""NeMo's training data for SBERT: queries with positive and hard negative passages, in all its spellings.

| spelling        | file          | query             | positive             | negatives         |
| --------------- | ------------- | ----------------- | -------------------- | ----------------- |
| NeMo to 24.05   | one JSON list | `"question": ...` | `"pos_doc": ["..."]` | `"neg_doc": [..]` |
| NeMo from 24.07 | JSONL         | `"query": ...`    | `"pos_doc": "..."`   | `"neg_doc": [..]` |
| its manual      | one JSON list | `"query": ...`    | `"pos_doc": "..."`   | `"neg_doc": [..]` |

Source: NVIDIA NeMo, user guide, Information Retrieval: Sentence-BERT and the embedding models.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from sbertlab.checks import check_choice, checked_number
from sbertlab.data.examples import InputExample
from sbertlab.data.readers import PathLike, Reader
from sbertlab.data.rows import Row, lines
from sbertlab.data.texts import checked_text
from sbertlab.storage.files import write_whole

QUERY_PREFIX = "query: "
PASSAGE_PREFIX = "passage: "


@dataclass(eq=False)
class NeMoReader(Reader):
    """Reads NeMo's JSON or JSONL and recognises the spelling.

    | texts                                          | label     |
    | ---------------------------------------------- | --------- |
    | (query, positive, negative_1, ..., negative_n) | 0, unused |

    Every example has `n = hard_negatives_to_train` negatives, as in NeMo: from more, n are drawn; fewer are repeated by
    drawing again. NeMo draws in every epoch, this reader once, from `(seed, line)`. A row with several positives gives
    one example per positive. In a JSON list, "line" is the number of the row.

    Relatives: `losses.MultipleNegativesRankingLoss(hard_negatives="own")` is the loss that NeMo trains with.

    Args:
        query_prefix, passage_prefix: put before the texts (E5's convention); "" for none.
        negative_sample_strategy: "random", or "first" for the first n.
        seed: of the draw and of the split; NeMo's is 42.
        on_error: "raise" or "skip"; a broken JSON list is always an error.
    """

    dataset_folder: PathLike = ""
    hard_negatives_to_train: int = 4
    query_prefix: str = QUERY_PREFIX
    passage_prefix: str = PASSAGE_PREFIX
    negative_sample_strategy: str = "random"
    seed: int = 42
    _: KW_ONLY
    on_error: str = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_number("hard_negatives_to_train", self.hard_negatives_to_train, whole=True)
        check_choice("negative_sample_strategy", self.negative_sample_strategy, ("random", "first"))

    def get_examples(self, filename: PathLike, max_examples: int = 0) -> list[InputExample]:
        """Return the first `max_examples` examples of a file in the folder, or all of them for 0."""
        path = Path(self.dataset_folder) / filename
        rows = self._gather(_json_rows(path), self._examples, str(path), max_examples)
        return list(chain.from_iterable(rows))[: max_examples or None]

    def get_split(
        self, filename: PathLike, evaluation_sample_size: int = 100
    ) -> tuple[list[InputExample], list[InputExample]]:
        """Return training and validation examples, split as NeMo does.

        The rows are shuffled with `seed`; the last `evaluation_sample_size` rows are for validation.
        """
        checked_number("evaluation_sample_size", evaluation_sample_size, 1, whole=True)
        path = Path(self.dataset_folder) / filename
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
    """Yield the objects of a JSON list with their row numbers, or of a JSONL file with their lines, both from 1."""
    numbered = ((number, line) for number, line in enumerate(lines(path), start=1) if line.strip())
    first = next(numbered, (0, ""))
    if first[1].lstrip().startswith("["):
        try:
            records = json.loads("".join(lines(path)))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path.name}, line {getattr(error, 'lineno', 1)}: broken JSON list ({error}). Repair it, or write one "
                "object on each line (JSONL), where a broken row can be skipped"
            ) from None
        for number, record in enumerate(records, start=1):
            yield Row(path.name, number, [record], unit="row")
    elif first[0]:
        for number, line in chain([first], numbered):
            try:
                yield Row(path.name, number, [json.loads(line.rstrip("\r\n"))])
            except (ValueError, RecursionError) as error:
                problem = f"broken JSON ({error}); JSONL has one object on each line"
                yield Row(path.name, number, problem=problem)


def write_nemo(
    examples: Iterable[InputExample],
    path: PathLike,
    query_prefix: str = QUERY_PREFIX,
    passage_prefix: str = PASSAGE_PREFIX,
) -> None:
    """Write (query, positive, negative, ...) examples as the JSONL that NeMo reads, without their labels.

    NeMo puts its prefixes before the texts itself, so texts that begin with them lose them here. A file name ending in
    `.gz` is compressed. The file is written completely or not at all.
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
    data = "".join(records).encode()
    with write_whole(Path(path)) as partial:
        partial.write_bytes(gzip.compress(data, mtime=0) if partial.suffix == ".gz" else data)
