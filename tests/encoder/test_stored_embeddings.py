"""The store of embeddings: what is found bit for bit, and what damage, a full disk and other processes do."""

import hashlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sbertlab import SentenceTransformer, models
from sbertlab.encoder import stored_embeddings
from sbertlab.encoder.stored_embeddings import EmbeddingStore, EmbeddingStoreWarning, StoredEmbeddings

TEXTS = [
    "the cat sits",
    "a dog runs",
    "",
    "ein Süßes Rätsel",
    "猫が座る 🐈‍⬛",
    "e\u0301",
    "\u00e9",
    "\0\n",
    "the cat sits",
]


class Digits:
    """An encoder whose embeddings are known: the digits of a text's hash. It counts, and can fail or be changed."""

    def __init__(self, dim=4, fails_at=10**9):
        self.dim, self.fails_at = dim, fails_at
        self.asked = []

    def encode(self, texts):
        if len(self.asked) + len(texts) > self.fails_at:
            raise KeyboardInterrupt
        self.asked += texts
        return digits(texts, self.dim)

    def __getstate__(self):
        return {"dim": self.dim}  # what joblib hashes


def digits(texts, dim=4):
    hashes = [hashlib.sha512(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    return np.array([list(digest[:dim]) for digest in hashes], dtype=np.float32)


def numbered(stop, start=0):
    return [f"text {number}" for number in range(start, stop)]


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


@pytest.fixture(autouse=True)
def silence():
    """A warning that a test does not expect fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmbeddingStoreWarning)
        yield


def fill(store, texts):
    store.write([text.encode() for text in texts], digits(texts))


def found(store, texts):
    """The texts that the store has, after checking their bits."""
    rows = store.read([text.encode() for text in texts])
    assert all(np.array_equal(row, digits([key.decode()])[0]) for key, row in rows.items())
    return [key.decode() for key in rows]


def test_a_second_run_does_no_forward_pass_and_gives_the_same_bits(tiny, store, monkeypatch):
    monkeypatch.setattr(stored_embeddings, "BLOCK", 3)
    model = tiny()
    first = StoredEmbeddings(model, store)
    embeddings = first.encode(TEXTS)
    assert first.computed == len(set(TEXTS)) == 8
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, model.encode(TEXTS), atol=1e-6)
    again = StoredEmbeddings(tiny(), EmbeddingStore(store.folder))
    again.model.register_forward_hook(lambda *_: pytest.fail("a forward pass"))
    backwards = again.encode(TEXTS[::-1], convert_to_tensor=True)
    assert torch.equal(backwards, torch.from_numpy(embeddings[::-1].copy()))
    assert again.computed == 0


def test_another_model_and_mixed_precision_find_nothing(tiny, store):
    StoredEmbeddings(tiny(), store).encode(TEXTS)
    other = StoredEmbeddings(tiny(pooling="cls"), store)
    exact = other.encode(TEXTS)
    np.testing.assert_allclose(exact, other.model.encode(TEXTS), atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not np.array_equal(other.encode(TEXTS), exact)
    assert np.array_equal(other.encode(TEXTS), exact)
    assert other.computed == 16


def test_texts_may_come_alone_in_a_series_or_not_at_all(store):
    memory = StoredEmbeddings(Digits(), store)
    assert memory.encode([]).shape == (0, 0)
    assert memory.encode("ab").tolist() == digits(["ab"])[0].tolist()
    assert memory.encode(pd.Series(["ab", "c"], index=[5, 7])).tolist() == digits(["ab", "c"]).tolist()
    assert memory.encode([]).shape == (0, 4)
    assert memory.encode(["c"], truncate_dim=2).tolist() == digits(["c"], 2).tolist()
    assert memory.model.asked == ["ab", "c"]


def test_a_model_that_cannot_encode_or_returns_the_wrong_shape_is_refused():
    with pytest.raises(TypeError, match=r"encode\(texts\) or transform\(texts\), got int"):
        StoredEmbeddings(3)

    class Flat:
        def transform(self, texts):
            return np.zeros(len(texts))

    with pytest.raises(ValueError, match=r"returned \(2,\), expected \(2, dim\)"):
        StoredEmbeddings(Flat()).encode(["a", "b"])


def test_a_run_that_is_broken_off_keeps_its_blocks_and_goes_on_in_the_same_company(store, monkeypatch):
    monkeypatch.setattr(stored_embeddings, "BLOCK", 5)
    with pytest.raises(KeyboardInterrupt):
        StoredEmbeddings(Digits(fails_at=15), store).encode(numbered(25))
    again = StoredEmbeddings(Digits(), store)
    assert again.encode(numbered(25)).tolist() == digits(numbered(25)).tolist()
    assert again.model.asked == numbered(25, start=15)


def test_with_a_store_memory_holds_the_texts_of_the_last_call_and_the_others_are_read_again(store):
    memory, alone = StoredEmbeddings(Digits(), store), StoredEmbeddings(Digits())
    for model in (memory, alone):
        first = model.encode(["a", "b", "c"])
        model.encode(["c", "d"])
        assert len(model._rows) == (2 if model is memory else 4)
        assert model.encode(["a", "b", "c"]).tolist() == first.tolist()
        assert model.computed == 4


@pytest.mark.parametrize("stored", [True, False])
def test_a_model_that_was_trained_meanwhile_encodes_again(stored, tiny, store):
    memory = StoredEmbeddings(tiny(), store if stored else None)
    before = memory.encode(["the cat sits"])
    with torch.no_grad():
        memory.model[0].auto_model.embeddings.word_embeddings.weight.mul_(2)
    np.testing.assert_array_equal(memory.encode(["the cat sits"]), memory.model.encode(["the cat sits"]))
    np.testing.assert_array_equal(StoredEmbeddings(tiny(), store).encode(["the cat sits"]), before)
    memory.model.max_seq_length = 3
    with pytest.raises(ValueError, match="settings have changed") if stored else nullcontext():
        memory.encode(["a dog runs"])


def test_roles_with_prompts_of_their_own_are_kept_apart_and_others_are_shared(tiny, store):
    plain = StoredEmbeddings(tiny(), store)
    for encode in (plain.encode_query, plain.encode_document, plain.encode):
        encode(["the cat sits"])
    assert plain.computed == 1

    model = tiny()
    model.prompts, model.default_prompt_name = {"query": "question ", "passage": "answer ", "std": "text "}, "std"
    for computed in (5, 0):
        memory = StoredEmbeddings(model, store)
        pairs = [
            (memory.encode_query(["a cat"]), model.encode_query(["a cat"])),
            (memory.encode_document(["a cat"]), model.encode_document(["a cat"])),
            (memory.encode(["a cat"]), model.encode(["a cat"])),
            (memory.encode(["a cat"], prompt_name="query"), model.encode_query(["a cat"])),
            (memory.encode(["a cat"], prompt="help "), model.encode(["a cat"], prompt="help ")),
        ]
        for ours, expected in pairs:
            np.testing.assert_allclose(ours, expected, atol=1e-6)
        assert memory.computed == computed


def test_routes_are_kept_apart(tiny, store):
    routes = {name: [tiny(seed=seed)[0], models.Pooling(32)] for seed, name in enumerate(("query", "document"))}
    model = SentenceTransformer(modules=[models.Router(routes, default_route="document")], device="cpu")
    memory = StoredEmbeddings(model, store)
    np.testing.assert_allclose(memory.encode_query(["a cat"]), model.encode_query(["a cat"]), atol=1e-6)
    np.testing.assert_allclose(memory.encode_document(["a cat"]), model.encode_document(["a cat"]), atol=1e-6)
    np.testing.assert_allclose(memory.encode([{"query": "a cat"}]), model.encode_query(["a cat"]), atol=1e-6)
    assert not np.allclose(memory.encode_query(["a cat"]), memory.encode_document(["a cat"]))


def test_a_model_that_treats_queries_in_its_own_way_is_asked_for_each_role(store):
    model = Digits()
    model.encode_query = lambda texts: -digits(texts)
    for computed in (2, 0):
        asked = StoredEmbeddings(model, store)
        assert asked.encode(["a"]).tolist() == digits(["a"]).tolist()
        assert asked.encode_query(["a"]).tolist() == (-digits(["a"])).tolist()
        assert asked.encode_document(["a"]).tolist() == digits(["a"]).tolist()
        assert asked.computed == computed


def test_stored_bits_come_back_whatever_they_are(store):
    bits = np.random.default_rng(0).integers(0, 2**32, (50, 7), dtype=np.uint32)
    bits[0] = [0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F7FFFFF]  # zeros, subnormal, infinities, NaN
    keys = [str(row).encode() for row in range(50)]
    store.write(keys, bits.view(np.float32))
    store.write(keys[:1], np.zeros((1, 7)))  # the first is kept
    rows = EmbeddingStore(store.folder).read([*keys[::-1], b"more"])
    assert len(rows) == 50
    assert all(np.array_equal(rows[key].view(np.uint32), row) for key, row in zip(keys, bits, strict=True))


def test_the_folder_is_beside_the_models_and_made_when_something_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path / "cache"))
    store = EmbeddingStore()
    assert store.folder == tmp_path / "cache" / "embeddings"
    assert found(store, ["a"]) == []
    assert not store.folder.exists()
    fill(store, ["a"])
    assert [path.name for path in store.folder.iterdir()] == ["vectors.sqlite"]
    monkeypatch.delenv("SBERTLAB_CACHE")
    assert EmbeddingStore().folder == Path("~/.cache/sbertlab/embeddings").expanduser()


def overwritten(file):
    with file.open("r+b") as stream:
        stream.seek(16384)
        stream.write(b"\xff" * 200_000)


DAMAGES = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: file.write_bytes(b""),
    "replaced": lambda file: file.write_bytes(b"\xff" * 40_000),
    "overwritten": overwritten,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_a_warning_and_its_texts_are_computed_again(damage, store):
    texts = numbered(5000)
    StoredEmbeddings(Digits(), store).encode(texts)
    DAMAGES[damage](store.file)
    again = StoredEmbeddings(Digits(), EmbeddingStore(store.folder))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert again.encode(texts).tolist() == digits(texts).tolist()
    assert again.computed == 5000
    assert damage == "emptied" or {warning.category for warning in caught} == {EmbeddingStoreWarning}
    third = StoredEmbeddings(Digits(), EmbeddingStore(store.folder))
    assert third.encode(texts).tolist() == digits(texts).tolist()
    assert third.computed == 0


def test_a_file_that_is_too_large_loses_its_older_half(tmp_path):
    store = EmbeddingStore(tmp_path, most_bytes=600_000)
    for start in range(0, 40_000, 2000):
        fill(store, numbered(start + 2000, start))
    assert store.file.stat().st_size < 1_000_000
    kept = found(store, numbered(40_000))
    assert 2000 < len(kept) < 20_000
    assert set(kept) == set(numbered(40_000)[-len(kept) :])


def test_a_full_disk_costs_a_warning_and_nothing_stored_before(store):
    fill(store, ["before"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    texts = numbered(5000)
    memory = StoredEmbeddings(Digits(64), store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.warns(EmbeddingStoreWarning, match="cannot be written: .*; embeddings are computed again"):
            rows = memory.encode(texts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert rows.tolist() == digits(texts, 64).tolist()
    assert found(EmbeddingStore(store.folder), ["before"]) == ["before"]


WRITER = f"""
import sys, time, warnings
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from test_stored_embeddings import EmbeddingStore, EmbeddingStoreWarning, fill, found, numbered

warnings.simplefilter("error", EmbeddingStoreWarning)
folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = EmbeddingStore(folder)
Path(folder, f"ready-{{first}}").write_text("")
deadline = time.monotonic() + 300
while len(list(Path(folder).glob("ready-*"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
for start in range(first, last, 5):
    fill(store, numbered(start + 5, start))
    assert len(found(store, numbered(start + 5, start))) == 5
print("done")
"""


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    memory = StoredEmbeddings(Digits(), EmbeddingStore(tmp_path / "file" / "store"))
    with pytest.warns(EmbeddingStoreWarning, match="cannot be written"):
        rows = memory.encode(["a"])
    assert rows.tolist() == digits(["a"]).tolist()


@pytest.mark.slow
def test_two_processes_write_at_once_and_a_killed_one_leaves_a_sound_store(store):
    store.folder.mkdir()
    command = [sys.executable, "-c", WRITER, str(store.folder)]
    whole, killed = (
        subprocess.Popen([*command, *reach], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for reach in (("0", "200"), ("100", "1000000"))
    )
    out, error = whole.communicate(timeout=600)
    assert out == "done\n", error
    assert killed.poll() is None, "it is in the middle of writing"
    killed.kill()
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(found(store, numbered(200))) == 200
    with sqlite3.connect(store.file) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    fill(store, ["after"])
    assert found(store, ["after"]) == ["after"]
