"""The store of embeddings: what is found bit for bit, and what damage, a full disk and other processes do."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sbertlab import SentenceTransformer, models
from sbertlab.encoder.fingerprint import key_of
from sbertlab.encoder.stored_embeddings import EmbeddingStore, EmbeddingStoreWarning, StoredEmbeddings

Tiny = Callable[..., SentenceTransformer]

TEXTS = [
    "the cat sits",
    "a dog runs",
    "",
    "ein Süßes Rätsel",
    "猫が座る 🐈‍⬛",
    "e\u0301",
    "\u00e9",
    "line\nbreak\0",
    "the cat sits",
]
MODEL = "ab" * 32


class Digits:
    """An encoder whose embeddings are known: the digits of a text's hash. It counts, and can fail or be changed."""

    def __init__(self, dim: int = 4, fails_at: int = 10**9) -> None:
        self.dim, self.fails_at = dim, fails_at
        self.asked: list[str] = []

    def encode(self, texts: list[str]) -> np.ndarray:
        if len(self.asked) + len(texts) > self.fails_at:
            raise KeyboardInterrupt
        self.asked += texts
        return digits(texts, self.dim)

    def __getstate__(self) -> dict[str, Any]:
        return {"dim": self.dim}  # what joblib hashes


def digits(texts: list[str], dim: int = 4) -> np.ndarray:
    hashes = [hashlib.sha512(text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    return np.array([list(digest[:dim]) for digest in hashes], dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "store")


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """A warning that a test does not expect fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmbeddingStoreWarning)
        yield


def fill(store: EmbeddingStore, texts: list[str], model: str = MODEL) -> None:
    store.write(model, [key_of(text) for text in texts], digits(texts))


def test_a_second_run_does_no_forward_pass_and_gives_the_same_bits(tiny: Tiny, store: EmbeddingStore) -> None:
    model = tiny()
    forwards: list[int] = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    first = StoredEmbeddings(model, store, block=3)
    embeddings = first.encode(TEXTS)
    assert first.computed == len(set(TEXTS)) == 8
    assert forwards
    assert embeddings.shape == (len(TEXTS), 32)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, model.encode(TEXTS), atol=1e-6)
    forwards.clear()
    again = StoredEmbeddings(tiny(), EmbeddingStore(store.folder))
    again.model.register_forward_hook(lambda *_: forwards.append(1))
    backwards = again.encode(TEXTS[::-1], convert_to_tensor=True)
    assert torch.equal(backwards, torch.from_numpy(embeddings[::-1].copy()))
    assert again.computed == 0
    assert not forwards


def test_another_model_finds_nothing(tiny: Tiny, store: EmbeddingStore) -> None:
    StoredEmbeddings(tiny(), store).encode(TEXTS)
    other = StoredEmbeddings(tiny(pooling="cls"), store)
    np.testing.assert_allclose(other.encode(TEXTS), other.model.encode(TEXTS), atol=1e-6)
    assert other.computed == 8


def test_texts_may_come_alone_in_a_series_or_not_at_all(store: EmbeddingStore) -> None:
    import pandas as pd

    memory = StoredEmbeddings(Digits(), store)
    assert memory.encode([]).shape == (0, 0)
    assert memory.encode("ab").tolist() == digits(["ab"])[0].tolist()
    assert memory.encode(pd.Series(["ab", "c"], index=[5, 7])).tolist() == digits(["ab", "c"]).tolist()
    assert memory.encode([]).shape == (0, 4)
    assert memory.encode(["c"], truncate_dim=2).tolist() == digits(["c"], 2).tolist()
    assert memory.model.asked == ["ab", "c"]
    with pytest.raises(TypeError, match=r"sentences\[1\] is float"):
        memory.encode(["a", 1.5])


def test_a_model_that_cannot_encode_or_returns_the_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeError, match=r"encode\(texts\) or transform\(texts\), got int"):
        StoredEmbeddings(3)
    with pytest.raises(ValueError, match="block must be a whole number of at least 1"):
        StoredEmbeddings(Digits(), block=0)
    with pytest.raises(ValueError, match="role must be"):
        StoredEmbeddings(Digits()).encode(["a"], role="passage")
    with pytest.raises(ValueError, match="prompt_name must be one of"):
        StoredEmbeddings(Digits()).encode(["a"], prompt_name="query")

    class Flat:
        def transform(self, texts: list[str]) -> np.ndarray:
            return np.zeros(len(texts))

    with pytest.raises(ValueError, match=r"returned the shape \(2,\) for 2 texts, expected \(2, dim\)"):
        StoredEmbeddings(Flat()).encode(["a", "b"])


def test_a_run_that_is_broken_off_keeps_its_blocks_and_goes_on_in_the_same_company(store: EmbeddingStore) -> None:
    texts = [f"text {number}" for number in range(25)]
    with pytest.raises(KeyboardInterrupt):
        StoredEmbeddings(Digits(fails_at=15), store, block=5).encode(texts)
    again = StoredEmbeddings(Digits(), store, block=5)
    assert again.encode(texts).tolist() == digits(texts).tolist()
    assert again.model.asked == texts[15:]
    assert again.computed == 10


def test_with_a_store_memory_holds_the_texts_of_the_last_call_and_the_others_are_read_again(
    store: EmbeddingStore,
) -> None:
    memory = StoredEmbeddings(Digits(), store)
    first = memory.encode(["a", "b", "c"])
    memory.encode(["c", "d"])
    assert len(memory._rows) == 2
    assert memory.encode(["a", "b", "c"]).tolist() == first.tolist()
    assert memory.computed == 4
    alone = StoredEmbeddings(Digits())
    alone.encode(["a", "b"])
    alone.encode(["c"])
    assert len(alone._rows) == 3


def test_a_model_that_was_trained_meanwhile_is_refused(tiny: Tiny, store: EmbeddingStore) -> None:
    memory = StoredEmbeddings(tiny(), store)
    memory.encode(["the cat sits"])
    with torch.no_grad():
        memory.model[0].auto_model.embeddings.word_embeddings.weight.mul_(2)
    with pytest.raises(ValueError, match=r"has changed since .* make a new one"):
        memory.encode(["a dog runs"])
    assert store.read(memory.fingerprint or "", [key_of("a dog runs")]) == {}


def test_what_is_not_finite_is_not_inherited_by_the_next_run(store: EmbeddingStore, monkeypatch: Any) -> None:
    monkeypatch.setattr(Digits, "encode", lambda self, texts: np.full((len(texts), 4), np.nan))
    assert np.isnan(StoredEmbeddings(Digits(), store).encode(["a"])).all()
    assert not store.file.exists()


def test_roles_with_prompts_of_their_own_are_kept_apart_and_others_are_shared(
    tiny: Tiny, store: EmbeddingStore
) -> None:
    plain = StoredEmbeddings(tiny(), store)
    plain.encode_query(["the cat sits"])
    plain.encode_document(["the cat sits"])
    plain.encode(["the cat sits"])
    assert plain.computed == 1

    model = tiny()
    model.prompts = {"query": "question ", "passage": "answer "}
    roles = StoredEmbeddings(model, store)
    for memory in (roles, StoredEmbeddings(model, store)):
        vectors = {
            "query": memory.encode_query(["the cat sits"]),
            "document": memory.encode_document(["the cat sits"]),
            "plain": memory.encode(["the cat sits"]),
            "named": memory.encode(["the cat sits"], prompt_name="query"),
            "given": memory.encode(["the cat sits"], prompt="help "),
        }
        np.testing.assert_allclose(vectors["query"], model.encode_query(["the cat sits"]), atol=1e-6)
        np.testing.assert_allclose(vectors["document"], model.encode_document(["the cat sits"]), atol=1e-6)
        np.testing.assert_allclose(vectors["plain"], model.encode(["the cat sits"]), atol=1e-6)
        np.testing.assert_allclose(vectors["given"], model.encode(["help the cat sits"]), atol=1e-6)
        assert np.array_equal(vectors["named"], vectors["query"])
        assert len({vector.tobytes() for vector in vectors.values()}) == 4
    assert roles.computed == 4
    assert memory.computed == 0


def test_a_default_prompt_is_that_of_a_role_without_one(tiny: Tiny, store: EmbeddingStore) -> None:
    model = tiny()
    model.prompts, model.default_prompt_name = {"std": "answer ", "query": ""}, "std"
    memory = StoredEmbeddings(model, store)
    np.testing.assert_allclose(memory.encode_document(["a"]), model.encode_document(["a"]), atol=1e-6)
    np.testing.assert_allclose(memory.encode(["a"]), model.encode(["a"]), atol=1e-6)
    assert memory.computed == 1
    np.testing.assert_allclose(memory.encode_query(["a"]), model.encode_query(["a"]), atol=1e-6)
    assert memory.computed == 2


def test_routes_are_kept_apart(tiny: Tiny, store: EmbeddingStore) -> None:
    routes = {name: [tiny(seed=seed)[0], models.Pooling(32)] for seed, name in enumerate(("query", "document"))}
    model = SentenceTransformer(modules=[models.Router(routes, default_route="document")], device="cpu")
    memory = StoredEmbeddings(model, store)
    np.testing.assert_allclose(memory.encode_query(["a cat"]), model.encode_query(["a cat"]), atol=1e-6)
    np.testing.assert_allclose(memory.encode_document(["a cat"]), model.encode_document(["a cat"]), atol=1e-6)
    np.testing.assert_allclose(memory.encode([{"query": "a cat"}]), model.encode_query(["a cat"]), atol=1e-6)
    assert not np.allclose(memory.encode_query(["a cat"]), memory.encode_document(["a cat"]))


def test_a_model_that_treats_queries_in_its_own_way_is_asked_for_each_role(store: EmbeddingStore) -> None:
    model = Digits()
    model.encode_query = lambda texts: -digits(texts)  # type: ignore[attr-defined]
    memory = StoredEmbeddings(model, store)
    for asked in (memory, StoredEmbeddings(model, store)):
        assert asked.encode(["a"]).tolist() == digits(["a"]).tolist()
        assert asked.encode_query(["a"]).tolist() == (-digits(["a"])).tolist()
        assert asked.encode_document(["a"]).tolist() == digits(["a"]).tolist()
    assert (memory.computed, asked.computed) == (2, 0)


def test_mixed_precision_is_kept_apart(tiny: Tiny, store: EmbeddingStore) -> None:
    memory = StoredEmbeddings(tiny(), store)
    exact = memory.encode(["the cat sits"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not np.array_equal(memory.encode(["the cat sits"]), exact)
    assert np.array_equal(memory.encode(["the cat sits"]), exact)
    assert memory.computed == 2


def test_ten_thousand_texts_come_back_quickly(store: EmbeddingStore) -> None:
    texts = [f"text {number}" for number in range(10_000)]
    StoredEmbeddings(Digits(64), store).encode(texts)
    again = StoredEmbeddings(Digits(64), store)
    start = time.process_time()
    found = again.encode(texts)
    assert time.process_time() - start < 2
    assert again.computed == 0
    assert np.array_equal(found, digits(texts, 64))


def test_stored_bits_come_back_whatever_they_are(store: EmbeddingStore) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, (50, 7), dtype=np.uint32)
    bits[0] = [0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F7FFFFF]  # zeros, subnormal, infinities, NaN
    keys = [key_of(str(row)) for row in range(50)]
    store.write(MODEL, keys, bits.view(np.float32))
    found = EmbeddingStore(store.folder).read(MODEL, [*keys[::-1], key_of("more")])
    assert len(found) == 50
    assert all(np.array_equal(found[key].view(np.uint32), row) for key, row in zip(keys, bits, strict=True))
    assert store.read("another model", keys) == {}


def test_what_was_stored_first_is_kept(store: EmbeddingStore) -> None:
    fill(store, ["a"])
    store.write(MODEL, [key_of("a")], np.zeros((1, 4)))
    assert store.read(MODEL, [key_of("a")])[key_of("a")].tolist() == digits(["a"])[0].tolist()


def test_the_folder_is_beside_the_models_and_made_when_something_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path / "cache"))
    store = EmbeddingStore()
    assert store.folder == tmp_path / "cache" / "embeddings"
    assert store.read(MODEL, [key_of("a")]) == {}
    assert not store.folder.exists()
    fill(store, ["a"])
    assert [path.name for path in store.folder.iterdir()] == ["embeddings.sqlite"]
    monkeypatch.delenv("SBERTLAB_CACHE")
    assert EmbeddingStore().folder == Path("~/.cache/sbertlab/embeddings").expanduser()


def test_wrong_arguments_are_refused(store: EmbeddingStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        EmbeddingStore(tmp_path / "file")
    with pytest.raises(ValueError, match="most_bytes must be"):
        EmbeddingStore(tmp_path, most_bytes=0)


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def replaced(file: Path) -> None:
    file.write_bytes(b"\xff" * 40_000)


def overwritten(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(16384)
        stream.write(b"\xff" * 200_000)


def one_bit_flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[data.index(digits(["text 3"]).tobytes()) + 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [truncated, emptied, replaced, overwritten, one_bit_flipped])
def test_a_damaged_file_is_a_warning_and_its_texts_are_computed_again(
    damage: Callable[[Path], None], store: EmbeddingStore
) -> None:
    texts = [f"text {number}" for number in range(2000)]
    StoredEmbeddings(Digits(), store).encode(texts)
    damage(store.file)
    again = StoredEmbeddings(Digits(), EmbeddingStore(store.folder))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert again.encode(texts).tolist() == digits(texts).tolist()
    assert again.computed == (1 if damage is one_bit_flipped else 2000)
    assert damage is emptied or {warning.category for warning in caught} == {EmbeddingStoreWarning}
    for repaired in (again.store, EmbeddingStore(store.folder)):
        third = StoredEmbeddings(Digits(), repaired)
        assert third.encode(texts).tolist() == digits(texts).tolist()
        assert third.computed == 0


def test_the_models_unused_for_longest_are_removed_when_room_runs_out(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(1000)]
    first = EmbeddingStore(tmp_path)
    store = EmbeddingStore(tmp_path, most_bytes=1_000_000)
    for model in ("a", "b", "c"):
        first.write(model, [key_of(text) for text in texts], digits(texts, 64))
    assert len(store.read("a", [key_of("text 5")])) == 1  # the oldest is used again
    store.write("d", [key_of(text) for text in texts], digits(texts, 64))
    kept = [model for model in "abcd" if store.read(model, [key_of("text 5")])]
    assert kept[-1] == "d"
    assert "a" in kept
    assert "b" not in kept


def test_one_model_that_is_too_large_keeps_what_fits(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, most_bytes=600_000)
    texts = [f"text {number}" for number in range(10_000)]
    memory = StoredEmbeddings(Digits(), store)
    with pytest.warns(EmbeddingStoreWarning, match="need more than 600,000 bytes"):
        assert memory.encode(texts).tolist() == digits(texts).tolist()
    assert 300_000 < store.file.stat().st_size <= 600_000
    again = StoredEmbeddings(Digits(), EmbeddingStore(tmp_path))
    again.encode(texts[:512])
    assert again.computed == 0


def test_a_full_disk_costs_a_warning_and_nothing_stored_before(store: EmbeddingStore) -> None:
    fill(store, ["before"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    texts = [f"text {number}" for number in range(5000)]
    memory = StoredEmbeddings(Digits(64), store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.warns(EmbeddingStoreWarning, match="cannot be written: .*; embeddings are computed again"):
            found = memory.encode(texts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found.tolist() == digits(texts, 64).tolist()
    assert len(EmbeddingStore(store.folder).read(MODEL, [key_of("before")])) == 1


def test_a_folder_that_is_only_read_serves_what_it_has(store: EmbeddingStore, monkeypatch: Any) -> None:
    StoredEmbeddings(Digits(), store).encode(["a", "b"])
    monkeypatch.setattr(os, "access", lambda *_: False)
    memory = StoredEmbeddings(Digits(), store)
    assert memory.encode(["b", "a"]).tolist() == digits(["b", "a"]).tolist()
    assert memory.computed == 0
    with pytest.warns(EmbeddingStoreWarning, match="cannot be written"):
        assert memory.encode(["c"]).tolist() == digits(["c"]).tolist()


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = StoredEmbeddings(Digits(), EmbeddingStore(tmp_path / "file" / "store"))
    with pytest.warns(EmbeddingStoreWarning, match="cannot be written"):
        found = memory.encode(["a"])
    assert found.tolist() == digits(["a"]).tolist()


WRITER = f"""
import sys, time, warnings
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from test_stored_embeddings import MODEL, EmbeddingStore, EmbeddingStoreWarning, digits, fill, key_of

warnings.simplefilter("error", EmbeddingStoreWarning)
folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = EmbeddingStore(folder)
Path(folder, f"ready-{{first}}").write_text("")
deadline = time.monotonic() + 300
while len(list(Path(folder).glob("ready-*"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
for start in range(first, last, 5):
    texts = [f"text {{number}}" for number in range(start, start + 5)]
    fill(store, texts)
    found = store.read(MODEL, map(key_of, texts))
    assert all((found[key_of(text)] == digits([text])[0]).all() for text in texts)
print("done")
"""


@pytest.mark.slow
def test_two_processes_write_at_once_and_a_killed_one_leaves_a_sound_store(store: EmbeddingStore) -> None:
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
    texts = [f"text {number}" for number in range(200)]
    found = store.read(MODEL, map(key_of, texts))
    assert all(np.array_equal(found[key_of(text)], digits([text])[0]) for text in texts)
    with sqlite3.connect(store.file) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    fill(store, ["after"])
    assert len(store.read(MODEL, [key_of("after")])) == 1
