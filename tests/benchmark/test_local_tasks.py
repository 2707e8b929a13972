"""Tasks from a folder of data sets: which rows count, which family they are, and what is refused."""

import json

import pytest

from sbertlab import SentenceTransformer
from sbertlab.benchmark import local_tasks
from sbertlab.benchmark.presets import select_tasks
from tests.benchmark.sets import Letters, write


def lines(**texts):
    return "".join(json.dumps({"id": key, "text": text}) + "\n" for key, text in texts.items())


HEADER = "split,sentence1,sentence2,score\n"
CORPUS = lines(**{"1": "aaa", "2": "b", "3": "ba", "4": "a"})


@pytest.fixture
def folder(tmp_path):
    """Small sets of every kind."""
    for name in ("stsb", "sickr"):
        rows = 'train,x,y,0\ntest,aa,ab,1\ntest,"a, ""b""",NA,0.2\ntest,ba,null,0.4\n'
        write(tmp_path / name / "data.csv.gz", HEADER + rows)
    write(tmp_path / "mine" / "data.csv.gz", "sentence1,sentence2,label\naa,ab,1\nab,bb,0\n")
    write(tmp_path / "stackoverflow_short" / "data.csv.gz", "split,text,label\nall,a,x\nall,aa,x\nall,b,y\nall,bb,y\n")
    for name in ("wikiqa", "medline"):
        write(tmp_path / name / "queries.jsonl.gz", lines(q1="a", q2="b", q3="ab"))
        write(tmp_path / name / "corpus.jsonl.gz", CORPUS)
        judged = ["q1\t1\t1\ttest", "q1\t2\t0\ttest", "q2\t3\t2\ttest", "q2\t1\t0\ttest", "q3\t4\t1\ttrain"]
        write(tmp_path / name / "qrels.tsv.gz", "query_id\tcorpus_id\trelevance\tsplit", *judged)
    return tmp_path


def local(name, folder):
    (task,) = select_tasks([name], folder)
    return task


def test_the_family_of_a_local_set_follows_from_its_files_and_the_note_says_which_rows_are_used(folder):
    names = ["stsb", "sickr", "mine", "stackoverflow_short", "wikiqa", "medline"]
    tasks = select_tasks(names, folder)
    assert {task.name: (task.family, task.metric, task.note) for task in tasks} == {
        "stsb": ("STS", "spearman_cosine", "test rows"),
        "sickr": ("STS", "spearman_cosine", "all rows"),
        "mine": ("duplicates", "cosine_ap", "test rows, if there are any"),
        "stackoverflow_short": ("clustering", "v_measure", "all rows, 5,000 drawn"),
        "wikiqa": ("reranking", "map", "test rows"),
        "medline": ("retrieval", "cos_sim_map@100", "test rows"),
    }
    for task in tasks:
        assert -100 <= task.evaluate(Letters()).value <= 100
        assert all(file.exists() for file in task.files)


def test_only_test_rows_are_used_and_na_and_null_are_texts(folder):
    model = Letters()
    local("stsb", folder).evaluate(model)
    assert set(model.asked) == {"aa", "ab", 'a, "b"', "NA", "ba", "null"}
    assert len(local("sickr", folder).evaluate(Letters()).per_example) == 4, "every split of SICK-R counts"
    write(folder / "other" / "data.csv.gz", HEADER + "x,aa,b,0\ny,ab,b,1\n")
    assert len(local("other", folder).evaluate(Letters()).per_example) == 2, "a set without test rows counts whole"
    write(folder / "other" / "data.csv.gz", HEADER + "train,,,\ntest,aa,ab,1\ntest,a,b,0\n")
    assert len(local("other", folder).evaluate(Letters()).per_example) == 2, "an empty cell of another split is ignored"
    write(folder / "stsb" / "data.csv.gz", HEADER + "x,aa,b,0\ny,ab,b,1\n")
    with pytest.raises(ValueError, match="sentences1 must be"):
        local("stsb", folder).evaluate(Letters())


def test_judged_documents_are_reranked_and_a_corpus_is_searched(folder):
    model = Letters()
    reranked = local("wikiqa", folder).evaluate(model).per_example
    assert reranked[["positives", "negatives"]].to_numpy().tolist() == [[1, 1], [1, 1]]
    assert "a" in model.asked
    searched = local("medline", folder).evaluate(Letters()).per_example
    assert searched["query_id"].tolist() == ["q1", "q2"]
    assert searched["relevant"].tolist() == [1, 1]


def test_a_sample_is_the_same_every_time(folder, monkeypatch):
    monkeypatch.setitem(local_tasks.LOCAL_SETS, "stackoverflow_short", local_tasks.LocalSet("all", sample=3))
    task = local("stackoverflow_short", folder)
    first, second = task.evaluate(Letters()).per_example, task.evaluate(Letters()).per_example
    assert first["text"].tolist() == second["text"].tolist()
    assert len(first) == 3


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("stsb/data.csv.gz", HEADER + "train,,x,0\ntest,aa,ab,1\ntest,ab, ,0\n", "sentence2 is empty in 1 .* row 3"),
        ("stsb/data.csv.gz", "first,second,score\na,b,1\n", r"columns first, second, score; a task needs .*\(STS\)"),
        ("stsb/data.csv.gz", HEADER + "test,a,b,1\ntest,a,b,high\n", "scores must be numbers.*'high'"),
        ("stsb/data.csv.gz", HEADER, "sentences1 must be"),
        ("stsb/data.csv.gz", None, "stsb/data.csv.gz"),
        ("stsb/data.csv.gz", b"sentence1,sentence2,score\n", "data.csv.gz cannot be read.*it must be gzip"),
        ("medline/qrels.tsv.gz", "query_id\tdoc\trelevance\nq1\t1\t1\n", "is missing corpus_id; its columns are query"),
        ("medline/qrels.tsv.gz", "query_id\tcorpus_id\trelevance\nq1\t9\t1\n", "such as '9'"),
        ("medline/qrels.tsv.gz", "query_id\tcorpus_id\trelevance\nq1\t1\tyes\n", "yes"),
        ("medline/corpus.jsonl.gz", CORPUS + '{"id": "5"}\n', "corpus.jsonl.gz: text is empty in 1 rows.* row 5"),
        ("medline/corpus.jsonl.gz", '{"id": "1", "text"\n', "corpus.jsonl.gz cannot be read"),
        ("medline/corpus.jsonl.gz", "", "corpus.jsonl.gz is missing id, text"),
    ],
)
def test_a_broken_set_is_refused(folder, file, text, message):
    if isinstance(text, str):
        write(folder / file, text)
    elif text is not None:
        (folder / file).write_bytes(text)
    else:
        (folder / file).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        local(file.partition("/")[0], folder).evaluate(Letters())


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
def test_minilm_gets_the_known_value_on_a_real_set(name, value, data_dir, minilm):
    assert local(name, data_dir).evaluate(minilm).value == pytest.approx(value, abs=0.05)


@pytest.mark.long
def test_mpnet_gets_the_known_value_on_stsb(data_dir):
    mpnet = SentenceTransformer("all-mpnet-base-v2", device="cpu")
    assert local("stsb", data_dir).evaluate(mpnet).value == pytest.approx(83.42, abs=0.05)
