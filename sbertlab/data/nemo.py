"""NeMo's training data for SBERT: queries with positive and hard negative passages, in all its spellings.

| spelling        | file          | query             | positive             | negatives         |
| --------------- | ------------- | ----------------- | -------------------- | ----------------- |
| NeMo to 24.05   | one JSON list | `"question": ...` | `"pos_doc": ["..."]` | `"neg_doc": [..]` |
| NeMo from 24.07 | JSONL         | `"query": ...`    | `"pos_doc": "..."`   | `"neg_doc": [..]` |
| its manual      | one JSON list | `"query": ...`    | `"pos_doc": "..."`   | `"neg_doc": [..]` |

Source: NVIDIA NeMo, user guide, Information Retrieval: Sentence-BERT and the embedding models.
"""

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbertlab.checks import checked_number
from sbertlab.data.examples import InputExample
from sbertlab.data.readers import PathLike, lines
from sbertlab.data.texts import checked_text
from sbertlab.storage.files import write_whole

QUERY_PREFIX = "query: "
PASSAGE_PREFIX = "passage: "


@dataclass(eq=False)
class NeMoReader:
    """Reads NeMo's JSON or JSONL and recognises the spelling.

    | texts                                          | label     |
    | ---------------------------------------------- | --------- |
    | (query, positive, negative_1, ..., negative_n) | 0, unused |

    Every example has `n = hard_negatives_to_train` negatives, as in NeMo: from more, n are drawn; fewer are repeated by
    drawing again. NeMo draws in every epoch, this reader once, from `seed` and the number of the row (or line). A row
    with several positives gives one example per positive. The prefixes (E5's convention) are put before the texts.

    Relatives: `losses.MultipleNegativesRankingLoss(hard_negatives="own")` is the loss that NeMo trains with.
    """

    dataset_folder: PathLike = ""
    hard_negatives_to_train: int = 4
    query_prefix: str = QUERY_PREFIX
    passage_prefix: str = PASSAGE_PREFIX
    seed: int = 42

    def get_examples(self, filename: PathLike, max_examples: int = 0) -> list[InputExample]:
        """Return the first `max_examples` examples, or all for 0; an error names file and line (or row of a list)."""
        checked_number("hard_negatives_to_train", self.hard_negatives_to_train, whole=True)
        path = Path(self.dataset_folder) / filename
        examples: list[InputExample] = []
        for number, record in _records(path):
            place = f"{path.name}:{number}"
            try:
                query, positives, negatives = self._parts(record, number)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{place}: not an object with query, pos_doc and neg_doc ({error!r})") from None
            for positive in positives:
                passages = [self.passage_prefix + text.strip() for text in (positive, *negatives)]
                examples.append(InputExample(guid=place, texts=[self.query_prefix + query.strip(), *passages]))
        return examples[: max_examples or None]

    def _parts(self, record: dict[str, Any], number: int) -> tuple[str, list[str], list[str]]:
        """Return the query, the positives and the negatives drawn from those of the row."""
        query = checked_text(record["query" if "query" in record else "question"], "query")
        found, wanted = record["pos_doc"], self.hard_negatives_to_train
        positives = _texts([found] if isinstance(found, str) else found, "pos_doc")
        if not wanted:
            return query, positives, []
        negatives = _texts(record["neg_doc"], "neg_doc")
        draw = random.Random(f"{self.seed} {number}")
        if len(negatives) < wanted:
            return query, positives, negatives + draw.choices(negatives, k=wanted - len(negatives))
        return query, positives, draw.sample(negatives, wanted)


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list of at least one text, got {value!r}")
    return [checked_text(text, f"{name}[{index}]") for index, text in enumerate(value)]


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the objects of a JSON list with their numbers, or those of a JSONL file with their lines, both from 1."""
    text, number = list(lines(path)), 1
    try:
        if "".join(text).lstrip().startswith("["):
            yield from enumerate(json.loads("".join(text)), start=1)
            return
        for number, line in enumerate(text, start=1):
            if line.strip():
                yield number, json.loads(line.rstrip())
    except ValueError as error:
        raise ValueError(f"{path.name}, from line {number}: broken JSON ({error})") from None


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
        texts = [checked_text(text, f"a text of example {index}") for text in example.texts or []]
        if len(texts) < 2:
            raise ValueError(f"example {index} must have a query and a positive, got {len(texts)} texts")
        positive, *negatives = [text.removeprefix(passage_prefix) for text in texts[1:]]
        record = {"query": texts[0].removeprefix(query_prefix), "pos_doc": positive, "neg_doc": negatives}
        records.append(json.dumps(record, ensure_ascii=False) + "\n")
    data = "".join(records).encode()
    with write_whole(Path(path)) as partial:
        partial.write_bytes(gzip.compress(data, mtime=0) if partial.suffix == ".gz" else data)
