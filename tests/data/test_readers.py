"""Readers: the examples of sentence-transformers' readers, and errors that name file and line."""

import gzip
from functools import partial

import pytest
from sentence_transformers.sentence_transformer import readers as peer

from sbertlab import readers

PAIRS = "first\tsecond\t5\nthird\tfourth\t2.5\n"


def content(examples):
    """Texts and labels; the peer's readers of aligned files leave line ends on the texts."""
    return [([text.rstrip("\n") for text in example.texts], example.label) for example in examples]


def write(path, text):
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


FILES = {
    "sts.csv": "main-captions\tMSRvid\t2012test\t0001\t5.000\tA plane is taking off.\tAn air plane is taking off.\n"
    'main-captions\tMSRvid\t2012test\t0004\t3.800\tA man says "go".\tA man spreads cheese.\textra\tcolumns\n'
    "main-news\theadlines\t2013\t0005\t0.000\tÄpfel kosten 2 €.\tNothing.\n",
    "s1.dev.gz": "A man eats.\nA dog runs.\nSnow falls.\n",
    "s2.dev.gz": "Someone eats.\nA dog sleeps.\nIt is cold in town.",
    "labels.dev.gz": "entailment\nContradiction\nneutral\n",
    "triplets.tsv": 'anchor\tpos\tneg\nHow?\tSo "and" so.\tNo.\nWhere?\tHere.\tNever.\nWhen?\tNow.\tNot now.\n',
}
FILES["sts.gz"] = FILES["sts.csv"]
PEERS = [
    ("STSBenchmarkDataReader", "sts.csv", {}),
    ("STSBenchmarkDataReader", "sts.gz", {"normalize_scores": False}),
    ("STSBenchmarkDataReader", "sts.csv", {"min_score": -5}),
    ("STSBenchmarkDataReader", "sts.csv", {"max_score": 10}),
    ("NLIDataReader", "dev.gz", {}),
    ("TripletReader", "triplets.tsv", {"has_header": True}),
]


@pytest.mark.parametrize(("reader", "name", "arguments"), PEERS)
def test_files_are_read_as_sentence_transformers_does(tmp_path, reader, name, arguments):
    for file, text in FILES.items():
        write(tmp_path / file, text)
    ours, theirs = (getattr(kind, reader)(str(tmp_path), **arguments).get_examples(name) for kind in (readers, peer))
    assert len(ours) == 3
    assert content(ours) == content(theirs)


def test_labelled_sentences_read_as_sentence_transformers_does(tmp_path):
    write(tmp_path / "train.tsv", "sport\tThe match ended.\nnews\tA law was passed.\nsport\tShe won gold.\n")
    write(tmp_path / "test.tsv", "weather\tIt rains.\nnews\tThe minister left.\n")
    ours, theirs = readers.LabelSentenceReader(tmp_path), peer.LabelSentenceReader(str(tmp_path))
    for name in ("train.tsv", "test.tsv"):
        assert content(ours.get_examples(name)) == content(theirs.get_examples(name))
    assert ours.label_map == {"sport": 0, "news": 1, "weather": 2} == theirs.label_map


def test_paired_files_read_as_sentence_transformers_does(tmp_path):
    paths = [str(write(tmp_path / "en.txt", "one\ntwo\nthree\n")), str(write(tmp_path / "de.gz", "eins\nzwei\ndrei\n"))]
    ours, theirs = (kind.PairedFilesReader(paths) for kind in (readers, peer))
    assert content(ours.get_examples()) == content(theirs.get_examples())
    assert len(ours.get_examples(max_examples=2)) == 2


def test_identifiers_lead_back_to_file_and_line_even_behind_a_line_break_in_quotes(tmp_path):
    write(tmp_path / "t.csv", 'a,b,c\n"two\nlines",x,y\n\nnext,x,y\n')
    examples = readers.TripletReader(tmp_path, "a", "b", "c", delimiter=",").get_examples("t.csv")
    assert examples[0].texts == ["two\nlines", "x", "y"]
    assert [example.guid for example in examples] == ["t.csv:2", "t.csv:5"]


def test_byte_order_marks_line_ends_and_compression_are_not_part_of_the_data(tmp_path):
    write(tmp_path / "p.csv", b"\xef\xbb\xbfs1,s2,score\r\nfirst,second,5\r\n")
    reader = readers.STSDataReader(tmp_path, "s1", "s2", "score", delimiter=",")
    assert content(reader.get_examples("p.csv")) == [(["first", "second"], 1.0)]
    (tmp_path / "pairs.tsv").write_bytes(gzip.compress(PAIRS.encode()))
    (tmp_path / "plain.gz").write_bytes(PAIRS.encode())
    reader = readers.STSDataReader(tmp_path)
    assert content(reader.get_examples("pairs.tsv")) == content(reader.get_examples("plain.gz"))


triplets = partial(readers.TripletReader, s1_col_idx="a", s2_col_idx="b", s3_col_idx="c", delimiter=",")
BAD_FILES = [
    (readers.STSDataReader, "a\tb\t1\nc\td\n", r"f:2: broken row, read with delimiter '\\t' for the columns \[0, 1, 2"),
    (readers.STSDataReader, "a\tb\t1\nc\td\t5.1\n", r"f:2: score 5\.1 is out of the range 0\.\.5"),
    (readers.STSDataReader, "a\tb\t1\nc\td\thigh\n", "f:2: .* 'high'"),
    (readers.STSDataReader, "a\tb\tnan\n", "f:1: score nan"),
    (readers.STSDataReader, "a\tb\t1\n \tb\t1\n", "f:2: empty text in column 0"),
    (readers.STSDataReader, "a\tb\t1\nÄpfel\tb\t1\n".encode("latin-1"), "f:2: wrong encoding.*UTF-8"),
    (triplets, "a,b,c\n1,2,3\n1,2\n", "f:3: broken row"),
    (triplets, 'a,b,c\n1,2,3\n"1,2,3\n4,5,6\n', "f:3: broken row"),
    (triplets, 'a,b,c\n"1"x,2,3\n', "f:2: broken row"),
    (triplets, "a,b\n1,2\n", r"f: missing columns \['c'\]; .* it has \['a', 'b'\]"),
    (readers.NLIDataReader, "sentence1\tsentence2\tlabel\nc\td\t-\n", "f:2: label must be one of .*, got '-'"),
]


@pytest.mark.parametrize(("make", "text", "message"), BAD_FILES)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, make, text, message):
    write(tmp_path / "f", text)
    with pytest.raises(ValueError, match=message):
        make(tmp_path).get_examples("f")


def test_rows_behind_max_examples_are_not_looked_at(tmp_path):
    write(tmp_path / "p.tsv", PAIRS + "bad row\n")
    reader = readers.STSDataReader(tmp_path)
    assert len(reader.get_examples("p.tsv", max_examples=2)) == 2
    for most, said in ((3, r"p\.tsv:3"), (-1, "max_examples must be")):
        with pytest.raises(ValueError, match=said):
            reader.get_examples("p.tsv", max_examples=most)


def test_files_of_different_length_are_an_error_that_names_the_shorter(tmp_path):
    paths = [write(tmp_path / "en.txt", "one\ntwo\nthree\n"), write(tmp_path / "de.txt", "eins\n")]
    with pytest.raises(ValueError, match=r"en\.txt \+ de\.txt:2: de\.txt ended before this line"):
        readers.PairedFilesReader(paths).get_examples()
