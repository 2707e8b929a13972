"""NeMo's files, read in all spellings and written."""

import gzip
import json

import pytest
from sbertlab.readers import InputExample

from sbertlab.data.nemo import NeMoReader, write_nemo

ROWS = [
    {"query": "Rain?", "pos_doc": "Water.", "neg_doc": ["A drum.", "Äther.", "Snow.", "Hail.", "Fog."]},
    {"query": " A drum? ", "pos_doc": "An instrument.", "neg_doc": ["Water.", "A cat."]},
]
OLD_ROWS = [{"question": row["query"], "pos_doc": [row["pos_doc"]], "neg_doc": row["neg_doc"]} for row in ROWS]
SPELLINGS = {
    "json list": json.dumps(OLD_ROWS, indent=2),
    "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "the manual's list": json.dumps(ROWS, ensure_ascii=False),
    "jsonl of the old keys, with blank lines": "\n".join(["", *map(json.dumps, OLD_ROWS), ""]),
}


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def texts(examples):
    return [list(example.texts) for example in examples]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_same_prefixed_texts(tmp_path, spelling):
    write(tmp_path / "train", gzip.compress(SPELLINGS[spelling].encode()))
    first, second = texts(NeMoReader(tmp_path, hard_negatives_to_train=2).get_examples("train"))
    assert first[:2] == ["query: Rain?", "passage: Water."]
    assert {*first[2:]} < {f"passage: {text}" for text in ROWS[0]["neg_doc"]}
    assert second[:2] == ["query: A drum?", "passage: An instrument."]
    assert {*second[2:]} == {"passage: Water.", "passage: A cat."}


def test_every_row_gets_the_same_number_of_negatives_drawn_from_its_own(tmp_path):
    write(tmp_path / "train.jsonl", SPELLINGS["jsonl"])
    first, second = texts(NeMoReader(tmp_path, query_prefix="", passage_prefix="").get_examples("train.jsonl"))
    assert len(first) == len(second) == 6
    assert len(set(first[2:])) == 4  # drawn without repetition from five
    assert set(first[2:]) <= set(ROWS[0]["neg_doc"])
    assert second[2:4] == ROWS[1]["neg_doc"]  # two, filled up with repetitions
    assert set(second[4:]) <= set(ROWS[1]["neg_doc"])
    row = {"query": "q", "pos_doc": "p", "neg_doc": [f"n{i}" for i in range(50)]}
    write(tmp_path / "train", json.dumps([row] * 2))
    draw = [texts(NeMoReader(tmp_path, seed=seed).get_examples("train")) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
    assert draw[0][0] != draw[0][1]


def test_rows_without_hard_negatives_are_pairs_and_each_positive_gives_an_example(tmp_path):
    write(tmp_path / "pairs.jsonl", '{"query": "q", "pos_doc": "p"}\n')
    pairs = NeMoReader(tmp_path, hard_negatives_to_train=0).get_examples("pairs.jsonl")
    assert texts(pairs) == [["query: q", "passage: p"]]
    write(tmp_path / "train.json", '[{"question": "q", "pos_doc": ["p1", "p2"], "neg_doc": ["n"]}]')
    reader = NeMoReader(tmp_path, hard_negatives_to_train=1, query_prefix="", passage_prefix="")
    assert texts(reader.get_examples("train.json")) == [["q", "p1", "n"], ["q", "p2", "n"]]
    assert len(reader.get_examples("train.json", max_examples=1)) == 1


GOOD = '{"query": "q", "pos_doc": "p", "neg_doc": ["n"]}'
BAD_LINES = [
    ('{"query": "q",', r", from line 3: broken JSON \(.* column 15 "),
    ('"q"', ":3: not an object with query, pos_doc and neg_doc"),
    ('{"pos_doc": "p"}', ":3: .* neg_doc .*'question'"),
    ('{"query": "q", "pos_doc": "p", "neg_doc": []}', ":3: .*neg_doc must be .* at least one text"),
    ('{"query": "q", "pos_doc": "p", "neg_doc": ["n", null]}', r":3: .*neg_doc\[1\] must be a text, got None"),
    ('{"query": "q", "pos_doc": [" "], "neg_doc": ["n"]}', r":3: .*empty text in pos_doc\[0\]"),
    ('{"query": "\u00c4", "pos_doc": "p", "neg_doc": ["n"]}', ":3: .*wrong encoding"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path, line, message):
    write(tmp_path / "train.jsonl", f"{GOOD}\n\n{line}\n{GOOD}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"train\.jsonl{message}"):
        NeMoReader(tmp_path).get_examples("train.jsonl")


def test_a_bad_element_of_a_list_is_named_by_its_number_and_a_broken_list_is_not_read_in_part(tmp_path):
    write(tmp_path / "train.json", f'\n[\n  {GOOD},\n  {{\n    "query": "Ä",\n    "pos_doc": ""\n  }},\n  {GOOD}\n]\n')
    with pytest.raises(ValueError, match=r"train\.json:2: .*empty text in pos_doc"):
        NeMoReader(tmp_path).get_examples("train.json")
    write(tmp_path / "train.json", f"[\n{GOOD},\n// next data instance\n{GOOD}\n]")
    with pytest.raises(ValueError, match=r"train\.json, from line 1: broken JSON .*line 3"):
        NeMoReader(tmp_path).get_examples("train.json")


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_written_files_are_nemos_jsonl_and_read_back(tmp_path, name):
    write(tmp_path / "train.json", SPELLINGS["json list"])
    reader = NeMoReader(tmp_path, hard_negatives_to_train=2)
    examples = reader.get_examples("train.json")
    write_nemo(examples, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    records = [json.loads(line) for line in (gzip.decompress(data) if name.endswith("gz") else data).splitlines()]
    assert [list(record) for record in records] == [["query", "pos_doc", "neg_doc"]] * 2
    negatives = [text.removeprefix("passage: ") for text in examples[1].texts[2:]]
    assert records[1] == {"query": "A drum?", "pos_doc": "An instrument.", "neg_doc": negatives}
    assert [sorted(row) for row in texts(reader.get_examples(name))] == [sorted(row) for row in texts(examples)]


def test_a_number_of_negatives_below_0_and_a_row_without_a_positive_are_refused(tmp_path):
    with pytest.raises(ValueError, match="example 1 must have a query and a positive"):
        write_nemo([InputExample(texts=["q", "p"]), InputExample(texts=["q"])], tmp_path / "out.jsonl")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="hard_negatives_to_train must be"):
        NeMoReader(tmp_path, hard_negatives_to_train=-1).get_examples("out.jsonl")
