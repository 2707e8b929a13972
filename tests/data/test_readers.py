from __future__ import annotations

import csv
import gzip
import warnings
from pathlib import Path

import pandas as pd
import pytest
from sbertlab.readers import (
    InputExample,
    LabelSentenceReader,
    NLIDataReader,
    PairedFilesReader,
    STSBenchmarkDataReader,
    STSDataReader,
    TripletReader,
)
from sentence_transformers.sentence_transformer import readers as peer

STS_BENCHMARK = (
    "main-captions\tMSRvid\t2012test\t0001\t5.000\tA plane is taking off.\tAn air plane is taking off.\n"
    'main-captions\tMSRvid\t2012test\t0004\t3.800\tA man says "go".\tA man spreads cheese.\textra\tcolumns\n'
    "main-news\theadlines\t2013\t0005\t0.000\tÄpfel kosten 2 €.\tNothing.\n"
)
PAIRS = "first\tsecond\t5\nthird\tfourth\t2.5\n"


def content(examples: list[InputExample]) -> list[tuple[list[str], object]]:
    """Texts and labels; the peer's readers of aligned files leave line ends on the texts."""
    return [([text.rstrip("\n") for text in example.texts], example.label) for example in examples]


def write(path: Path, text: str | bytes) -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["sts-dev.csv", "sts-dev.csv.gz"])
@pytest.mark.parametrize("arguments", [{}, {"normalize_scores": False}, {"min_score": -5}, {"max_score": 10}])
def test_sts_benchmark_reads_as_sentence_transformers_does(tmp_path, name, arguments):
    write(tmp_path / name, STS_BENCHMARK)
    ours = STSBenchmarkDataReader(tmp_path, **arguments).get_examples(name)
    assert len(ours) == 3
    assert content(ours) == content(peer.STSBenchmarkDataReader(str(tmp_path), **arguments).get_examples(name))


def test_three_nli_files_read_as_sentence_transformers_does(tmp_path):
    write(tmp_path / "s1.dev.gz", "A man eats.\nA dog runs.\nSnow falls.\n")
    write(tmp_path / "s2.dev.gz", "Someone eats.\nA dog sleeps.\nIt is cold in town.")
    write(tmp_path / "labels.dev.gz", "entailment\nContradiction\nneutral\n")
    ours = NLIDataReader(tmp_path).get_examples("dev.gz")
    assert [example.label for example in ours] == [1, 0, 2]
    assert content(ours) == content(peer.NLIDataReader(str(tmp_path)).get_examples("dev.gz"))


def test_triplets_read_as_sentence_transformers_does(tmp_path):
    write(tmp_path / "t.tsv", 'anchor\tpos\tneg\nHow?\tSo "and" so.\tNo.\nWhere?\tHere.\tNever.\n')
    ours = TripletReader(tmp_path, has_header=True).get_examples("t.tsv")
    assert content(ours) == content(peer.TripletReader(str(tmp_path), has_header=True).get_examples("t.tsv"))
    assert content(ours) == content(TripletReader(tmp_path, "anchor", "pos", "neg").get_examples("t.tsv"))


def test_labelled_sentences_read_as_sentence_transformers_does(tmp_path):
    write(tmp_path / "train.tsv", "sport\tThe match ended.\nnews\tA law was passed.\nsport\tShe won gold.\n")
    write(tmp_path / "test.tsv", "weather\tIt rains.\nnews\tThe minister left.\n")
    ours, theirs = LabelSentenceReader(tmp_path), peer.LabelSentenceReader(str(tmp_path))
    for name in ("train.tsv", "test.tsv"):
        assert content(ours.get_examples(name)) == content(theirs.get_examples(name))
    assert ours.label_map == {"sport": 0, "news": 1, "weather": 2} == theirs.label_map


def test_paired_files_read_as_sentence_transformers_does(tmp_path):
    paths = [str(write(tmp_path / "en.txt", "one\ntwo\nthree\n")), str(write(tmp_path / "de.gz", "eins\nzwei\ndrei\n"))]
    assert content(PairedFilesReader(paths).get_examples()) == content(peer.PairedFilesReader(paths).get_examples())
    assert len(PairedFilesReader(paths).get_examples(max_examples=2)) == 2


def test_identifiers_lead_back_to_file_and_line_even_behind_a_line_break_in_quotes(tmp_path):
    write(tmp_path / "t.csv", 'a,b,c\n"two\nlines",x,y\n\nnext,x,y\n')
    examples = TripletReader(tmp_path, "a", "b", "c", delimiter=",").get_examples("t.csv")
    assert examples[0].texts == ["two\nlines", "x", "y"]
    assert [example.guid for example in examples] == ["t.csv:2", "t.csv:5"]


def test_byte_order_marks_line_ends_and_compression_are_not_part_of_the_data(tmp_path):
    write(tmp_path / "p.csv", b"\xef\xbb\xbfs1,s2,score\r\nfirst,second,5\r\n")
    reader = STSDataReader(tmp_path, "s1", "s2", "score", delimiter=",")
    assert content(reader.get_examples("p.csv")) == [(["first", "second"], 1.0)]
    (tmp_path / "pairs.tsv").write_bytes(gzip.compress(PAIRS.encode()))
    (tmp_path / "plain.gz").write_bytes(PAIRS.encode())
    reader = STSDataReader(tmp_path)
    assert content(reader.get_examples("pairs.tsv")) == content(reader.get_examples("plain.gz"))


def test_where_keeps_only_the_rows_of_a_split(tmp_path):
    write(tmp_path / "d.csv", "split,a,b,score\ntrain,x,y,1\ntest,u,v,0\ntrain,p,q,0.5\n")
    settings = {"delimiter": ",", "max_score": 1}
    reader = STSDataReader(tmp_path, "a", "b", "score", where={"split": "train"}, **settings)
    assert content(reader.get_examples("d.csv")) == [(["x", "y"], 1.0), (["p", "q"], 0.5)]
    with pytest.raises(ValueError, match=r"nothing to read in .*d\.csv where \{'split': 'trian'\}"):
        STSDataReader(tmp_path, "a", "b", "score", where={"split": "trian"}, **settings).get_examples("d.csv")


BAD_ROWS = {
    "missing column": (b"a\tb\t1\nc\td\n", r"p\.tsv, line 2: missing column 2: 2 cells with delimiter '\\t'"),
    "score too high": (b"a\tb\t1\nc\td\t5.1\n", r"p\.tsv, line 2: score 5\.1 in column 2 .* range 0\.\.5"),
    "score not a number": (b"a\tb\t1\nc\td\thigh\n", r"line 2: score in column 2 must be a number, got 'high'"),
    "header": (b"s1\ts2\tscore\na\tb\t1\n", r"line 1: .* has_header=True"),
    "NaN score": (b"a\tb\tnan\n", r"line 1: score nan"),
    "empty text": (b"a\tb\t1\n \tb\t1\n", r"line 2: empty text in column 0"),
    "Latin-1": (b"a\tb\t1\n" + "Äpfel\tb\t1\n".encode("latin-1"), r"line 2: wrong encoding.*UTF-8"),
    "UTF-16": ("a\tb\t1\n".encode("utf-16"), r"line 1: wrong encoding.*UTF-8"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_bad_row_is_named_by_file_and_line(tmp_path, case, packed):
    data, message = BAD_ROWS[case]
    (tmp_path / "p.tsv").write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ValueError, match=message) as raised:
        STSDataReader(tmp_path).get_examples("p.tsv")
    assert 'on_error="skip"' in str(raised.value)


CSV_ERRORS = {
    "cells": ("a,b,c\n1,2,3\n1,2\n", r"t\.csv, line 3: 2 cells with delimiter ',', the header has 3"),
    "open quote": ('a,b,c\n1,2,3\n"1,2,3\n4,5,6\n', r"t\.csv, line 3: broken table row"),
    "text behind a quote": ('a,b,c\n"1"x,2,3\n', r"t\.csv, line 2: broken table row"),
    "missing name": ("a,b\n1,2\n", r"t\.csv, line 1: missing column 'c'; .* the header has 'a', 'b'"),
}


@pytest.mark.parametrize("case", CSV_ERRORS)
def test_a_broken_csv_row_is_named_by_file_and_line(tmp_path, case):
    text, message = CSV_ERRORS[case]
    write(tmp_path / "t.csv", text)
    with pytest.raises(ValueError, match=message):
        TripletReader(tmp_path, "a", "b", "c", delimiter=",").get_examples("t.csv")


def test_skipping_warns_once_with_number_and_lines_and_keeps_the_rows(tmp_path):
    rows = ["a\tb\t1", "c\td\t9", "\tf\t1", "g\th", "i\tj\t2", "k\tl\tx"]
    write(tmp_path / "p.tsv", "\n".join(rows))
    write(tmp_path / "good.tsv", PAIRS)
    reader = STSDataReader(tmp_path, on_error="skip")
    with pytest.warns(UserWarning, match="skipped") as caught:
        examples = reader.get_examples("p.tsv")
    assert content(examples) == [(["a", "b"], 0.2), (["i", "j"], 0.4)]
    assert len(caught) == 1
    assert "p.tsv: skipped 4 of 6 rows, lines 2, 3, 4, 6; the first: score 9" in str(caught[0].message)
    assert caught[0].filename == __file__
    assert [(row.source, row.line) for row in reader.skipped] == [("p.tsv", line) for line in (2, 3, 4, 6)]
    assert "empty text in column 0" in reader.skipped[1].problem
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader.get_examples("good.tsv")
    assert reader.skipped == []


def test_a_file_without_one_good_row_is_an_error_even_when_skipping(tmp_path):
    write(tmp_path / "p.tsv", "a\tb\t9\n" * 3)
    with pytest.raises(ValueError, match=r"all 3 rows are bad, the first: p\.tsv, line 1: score 9"):
        STSDataReader(tmp_path, on_error="skip").get_examples("p.tsv")
    write(tmp_path / "empty.tsv", "")
    with pytest.raises(ValueError, match=r"nothing to read in .*empty\.tsv: it has no rows"):
        STSDataReader(tmp_path).get_examples("empty.tsv")


def test_rows_behind_max_examples_are_not_looked_at(tmp_path):
    write(tmp_path / "p.tsv", PAIRS + "bad row\n")
    assert len(STSDataReader(tmp_path).get_examples("p.tsv", max_examples=2)) == 2
    with pytest.raises(ValueError, match="line 3"):
        STSDataReader(tmp_path).get_examples("p.tsv", max_examples=3)


def test_missing_and_damaged_files_are_named(tmp_path):
    write(tmp_path / "sts-dev.csv", STS_BENCHMARK)
    with pytest.raises(FileNotFoundError, match=r"no file .*sts_dev\.csv; its folder holds sts-dev\.csv"):
        STSBenchmarkDataReader(tmp_path).get_examples("sts_dev.csv")
    packed = gzip.compress("".join(f"text {i} {i * 7919 % 1000}\tb\t1\n" for i in range(5000)).encode())
    (tmp_path / "p.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"p\.gz: damaged gzip file after line \d+"):
        STSDataReader(tmp_path, on_error="skip").get_examples("p.gz")


def test_files_of_different_length_are_an_error_that_names_the_shorter(tmp_path):
    paths = [write(tmp_path / "en.txt", "one\ntwo\nthree\n"), write(tmp_path / "de.txt", "eins\n")]
    with pytest.raises(ValueError, match=r"en\.txt \+ de\.txt, line 2: de\.txt ended before this line"):
        PairedFilesReader(paths).get_examples()
    reader = PairedFilesReader(paths, on_error="skip")
    with pytest.warns(UserWarning, match="skipped 2 of 3 rows, lines 2, 3"):
        assert content(reader.get_examples()) == [(["one", "eins"], 1)]


def test_wrong_labels_are_named_and_skipped_rows_number_no_class(tmp_path):
    write(tmp_path / "nli.tsv", "sentence1\tsentence2\tlabel\na\tb\tneutral\nc\td\t-\n")
    with pytest.raises(ValueError, match=r"nli\.tsv, line 3: label must be one of contradiction, .*, got '-'"):
        NLIDataReader(tmp_path).get_examples("nli.tsv")
    write(tmp_path / "l.tsv", "ghost\t \nsport\tShe won.\n")
    reader = LabelSentenceReader(tmp_path, on_error="skip")
    with pytest.warns(UserWarning, match="skipped 1"):
        reader.get_examples("l.tsv")
    assert reader.label_map == {"sport": 0}


def test_scores_that_end_at_1_in_a_range_to_5_are_pointed_out(tmp_path):
    write(tmp_path / "p.tsv", "".join(f"a{i}\tb{i}\t{i / 20}\n" for i in range(21)))
    with pytest.warns(UserWarning, match="max_score=1"):
        STSDataReader(tmp_path).get_examples("p.tsv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        examples = STSDataReader(tmp_path, max_score=1).get_examples("p.tsv")
    assert [example.label for example in examples] == [i / 20 for i in range(21)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: STSDataReader("d", on_error="ignore"), "on_error"),
        (lambda: STSDataReader("d", min_score=5, max_score=0), "min_score must be below max_score"),
        (lambda: STSDataReader("d", max_score=float("inf")), "finite"),
        (lambda: TripletReader("d", s3_col_idx=-1), "a position from 0 or a name"),
        (lambda: PairedFilesReader("en.txt"), "two files or more"),
        (lambda: PairedFilesReader(["a", "b"]).get_examples(max_examples=-1), "max_examples must be"),
        (lambda: STSDataReader("d", delimiter="||").get_examples("p"), r"delimiter '\|\|'"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_stsb_is_read_as_pandas_reads_it(data_dir):
    table, settings = pd.read_csv(data_dir / "stsb" / "data.csv.gz", keep_default_na=False), {"delimiter": ","}
    for split, rows in table.groupby("split"):
        settings |= {"max_score": 1, "where": {"split": split}}
        reader = STSDataReader(data_dir / "stsb", "sentence1", "sentence2", "score", **settings)
        examples = reader.get_examples("data.csv.gz")
        assert [example.texts for example in examples] == rows[["sentence1", "sentence2"]].values.tolist()
        assert [example.label for example in examples] == pytest.approx(rows["score"].tolist())
    assert table["split"].value_counts().to_dict() == {"train": 5749, "dev": 1500, "test": 1379}


def test_snli_is_read_as_pandas_reads_it(data_dir):
    folder = data_dir / "snli_devtest"
    table = pd.read_csv(folder / "data.csv.gz", keep_default_na=False)
    examples = NLIDataReader(folder, delimiter=",", quoting=csv.QUOTE_MINIMAL).get_examples("data.csv.gz")
    assert [example.texts for example in examples] == table[["sentence1", "sentence2"]].values.tolist()
    assert [example.label for example in examples] == table["label"].map(NLIDataReader.get_labels()).tolist()
