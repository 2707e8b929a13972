from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from sbertlab import SentenceTransformer
from sbertlab.benchmark import local_tasks
from sbertlab.benchmark.presets import default_tasks, select_tasks
from sbertlab.benchmark.tasks import Task


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def lines(**texts: str) -> str:
    return "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in texts.items())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Small sets of every kind."""
    sts = 'split,sentence1,sentence2,score\ntrain,x,y,0\ntest,aa,ab,1\ntest,"a, ""b""",NA,0.2\ntest,ba,null,0.4\n'
    write(tmp_path / "stsb" / "data.csv.gz", sts)
    write(tmp_path / "sickr" / "data.csv.gz", sts)
    write(tmp_path / "mine" / "data.csv.gz", "sentence1,sentence2,label\naa,ab,1\nab,bb,0\n")
    write(tmp_path / "twitter_url" / "data.csv.gz", "split,sentence1,sentence2,label\ntest,aa,ab,1\ntest,ab,bb,0\n")
    write(tmp_path / "stackoverflow_short" / "data.csv.gz", "split,text,label\nall,a,x\nall,aa,x\nall,b,y\nall,bb,y\n")
    for name in ("wikiqa", "medline"):
        write(tmp_path / name / "queries.jsonl.gz", lines(q1="a", q2="b", q3="ab"))
        write(tmp_path / name / "corpus.jsonl.gz", lines(**{"1": "aaa", "2": "b", "3": "ba", "4": "a"}))
        rows = ["q1\t1\t1\ttest", "q1\t2\t0\ttest", "q2\t3\t2\ttest", "q2\t1\t0\ttest", "q3\t4\t1\ttrain"]
        write(tmp_path / name / "qrels.tsv.gz", "query_id\tcorpus_id\trelevance\tsplit\n" + "\n".join(rows) + "\n")
    return tmp_path


class Letters:
    """Counts a, b and everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> list[list[int]]:
        self.asked += texts
        return [[text.count("a"), text.count("b"), 1] for text in texts]


def local(name: str, folder: Path) -> Task:
    (task,) = select_tasks([name], folder)
    return task


def test_the_family_of_a_local_set_follows_from_its_files(folder: Path) -> None:
    names = ["stsb", "mine", "stackoverflow_short", "wikiqa", "medline"]
    found = {task.name: (task.family, task.metric, task.note) for task in select_tasks(names, folder)}
    assert found == {
        "stsb": ("STS", "spearman_cosine", "test rows"),
        "mine": ("duplicates", "cosine_ap", "all rows"),
        "stackoverflow_short": ("clustering", "v_measure", "all rows"),
        "wikiqa": ("reranking", "map", "test rows"),
        "medline": ("retrieval", "cos_sim_map@100", "test rows"),
    }
    for task in select_tasks(names, folder):
        assert -100 <= task.evaluate(Letters()).value <= 100
        assert all(file.exists() for file in task.files)


def test_only_test_rows_are_used_and_na_and_null_are_texts(folder: Path) -> None:
    model = Letters()
    local("stsb", folder).evaluate(model)
    assert set(model.asked) == {"aa", "ab", 'a, "b"', "NA", "ba", "null"}
    assert len(local("sickr", folder).evaluate(Letters()).per_example) == 4, "every split of SICK-R counts"
    write(folder / "other" / "data.csv.gz", "split,sentence1,sentence2,score\nx,aa,b,0\ny,ab,b,1\n")
    assert len(local("other", folder).evaluate(Letters()).per_example) == 2, "a set without test rows counts whole"
    write(folder / "stsb" / "data.csv.gz", "split,sentence1,sentence2,score\nx,aa,b,0\ny,ab,b,1\n")
    with pytest.raises(ValueError, match=r"data.csv.gz has no row of split 'test', only of x, y"):
        local("stsb", folder).evaluate(Letters())


def test_the_note_says_which_rows_are_used(folder: Path) -> None:
    table = "split,sentence1,sentence2,score\n{0},aa,b,0\n{0},ab,b,1\n"
    for split, note in (("train", "all rows"), ("test", "test rows")):
        write(folder / "mine" / "data.csv.gz", table.format(split))
        assert local("mine", folder).note == note
        judged = f"query_id\tcorpus_id\trelevance\tsplit\nq1\t1\t1\t{split}\n"
        write(folder / "search" / "qrels.tsv.gz", judged)
        write(folder / "search" / "queries.jsonl.gz", lines(q1="a"))
        write(folder / "search" / "corpus.jsonl.gz", lines(**{"1": "aaa"}))
        assert local("search", folder).note == note


def test_judged_documents_are_reranked_and_a_corpus_is_searched(folder: Path) -> None:
    model = Letters()
    reranked = local("wikiqa", folder).evaluate(model).per_example
    assert reranked[["positives", "negatives"]].to_numpy().tolist() == [[1, 1], [1, 1]]
    assert "a" in model.asked
    searched = local("medline", folder).evaluate(Letters()).per_example
    assert searched["query_id"].tolist() == ["q1", "q2"]
    assert searched["relevant"].tolist() == [1, 1]


def test_the_default_tasks_of_the_local_preset_are_the_known_sets_of_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(local_tasks.DATA_VARIABLE, str(folder))
    known = ["stsb", "sickr", "twitter_url", "wikiqa", "medline", "stackoverflow_short"]
    assert default_tasks("local") == known, "other sets are asked for by name"


def test_a_sample_is_stated_and_is_the_same_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(local_tasks.LOCAL_SETS, "stackoverflow_short", local_tasks.LocalSet("all", sample=3))
    task = local("stackoverflow_short", folder)
    assert task.note == "all rows, 3 drawn"
    first, second = task.evaluate(Letters()).per_example, task.evaluate(Letters()).per_example
    assert first["text"].tolist() == second["text"].tolist()
    assert len(first) == 3


STS, LABELLED = "split,sentence1,sentence2,score\n", "split,text,label\n"
CORPUS = lines(**{"1": "aaa", "2": "b", "3": "ba", "4": "a"})


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("stsb/data.csv.gz", STS + "train,,x,0\ntest,aa,ab,1\ntest,ab, ,0\n", r"sentence2 is empty in 1 rows.* row 3 "),
        ("stsb/data.csv.gz", STS + "test,aa,ab,1\ntest,ab,b,\n", r"score is empty in 1 rows, .* row 2 "),
        (
            "stackoverflow_short/data.csv.gz",
            LABELLED + "all,a,x\nall,b,\nall,c,\n",
            r"label is empty in 2 rows.* row 2 ",
        ),
        (
            "stackoverflow_short/data.csv.gz",
            LABELLED + "all,,x\nall,b,y\n",
            r"text is empty .* row 1 .*; fill it in, or",
        ),
        ("medline/corpus.jsonl.gz", CORPUS + lines(**{"5": " "}), "text is empty in 1 rows.* row 5 "),
        ("medline/corpus.jsonl.gz", CORPUS + '{"id": "5", "text": null}\n', "text is empty in 1 rows.* row 5 "),
        ("medline/corpus.jsonl.gz", CORPUS + '{"id": "5"}\n', "text is empty in 1 rows.* row 5 "),
        ("medline/corpus.jsonl.gz", CORPUS + lines(**{"2": "c"}), "has the id '2' twice, in rows 2 and 5"),
        ("wikiqa/queries.jsonl.gz", lines(q1="a", q2="b", q3="") + lines(q1="c"), "text is empty"),
        (
            "wikiqa/queries.jsonl.gz",
            lines(q1="a", q2="b", q3="ab") + lines(q1="c"),
            "the id 'q1' twice, in rows 1 and 4",
        ),
    ],
)
def test_bad_rows_are_refused_by_file_and_row(folder: Path, file: str, text: str, message: str) -> None:
    write(folder / file, text)
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        local(file.partition("/")[0], folder).evaluate(Letters())


def test_an_empty_cell_of_another_split_or_column_is_ignored(folder: Path) -> None:
    write(
        folder / "stsb" / "data.csv.gz",
        "split,sentence1,sentence2,score,label\ntrain,,,,\ntest,aa,ab,1,\ntest,a,b,0,\n",
    )
    assert len(local("stsb", folder).evaluate(Letters()).per_example) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first,second,score\na,b,1\n", r"has the columns first, second, score; a task needs one of .*\(STS\)"),
        ("sentence1,sentence2,score\na,b,1\na,b,high\n", "data.csv.gz: scores must be numbers.*'high'"),
        ("sentence1,sentence2,score\n", "data.csv.gz has no rows; .*folder stsb"),
        (None, "data.csv.gz is missing; the set stsb needs data.csv.gz, or qrels.tsv.gz, queries"),
        (b"sentence1,sentence2,score\n", "data.csv.gz cannot be read.*it must be gzip"),
    ],
)
def test_a_broken_table_is_refused(folder: Path, text: str | bytes | None, message: str) -> None:
    path = folder / "stsb" / "data.csv.gz"
    path.unlink()
    if isinstance(text, str):
        write(path, text)
    elif text is not None:
        path.write_bytes(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        local("stsb", folder).evaluate(Letters())


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "qrels.tsv.gz",
            "query_id\tdoc\trelevance\nq1\t1\t1\n",
            "is missing corpus_id; its columns are query_id, doc, relev",
        ),
        ("qrels.tsv.gz", "query_id\tcorpus_id\trelevance\nq1\t9\t1\n", "1 rows whose corpus_id is not .* such as '9'"),
        ("qrels.tsv.gz", "query_id\tcorpus_id\trelevance\nq1\t1\tyes\n", "the relevance 'yes', expected a number"),
        ("corpus.jsonl.gz", '{"id": "1", "text"\n', "corpus.jsonl.gz cannot be read"),
        ("corpus.jsonl.gz", "", "corpus.jsonl.gz has no rows"),
    ],
)
def test_a_broken_retrieval_set_is_refused(folder: Path, file: str, text: str, message: str) -> None:
    write(folder / "medline" / file, text)
    with pytest.raises(ValueError, match=message):
        local("medline", folder).evaluate(Letters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stsb", 82.03),
        ("biosses", 81.21),
        pytest.param("sickr", 77.58, marks=pytest.mark.long),
        pytest.param("twitter_url", 77.09, marks=pytest.mark.long),
    ],
)
def test_minilm_gets_the_known_value_on_a_real_set(
    name: str, value: float, data_dir: Path, minilm: SentenceTransformer
) -> None:
    assert local(name, data_dir).evaluate(minilm).value == pytest.approx(value, abs=0.05)


@pytest.mark.long
def test_mpnet_gets_the_known_value_on_stsb(data_dir: Path) -> None:
    mpnet = SentenceTransformer("all-mpnet-base-v2", device="cpu")
    assert local("stsb", data_dir).evaluate(mpnet).value == pytest.approx(83.42, abs=0.05)
