"""The store of embeddings: what misses, what is found bit for bit, and what a damaged or full disk does."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
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
from safetensors.numpy import load, save
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from torch import nn

import sbertlab
from sbertlab import SentenceTransformer, models
from sbertlab.encoder.embedding_store import EmbeddingStore, EmbeddingStoreWarning
from sbertlab.encoder.fingerprint import ENCODING, MEASURING, fingerprint, key_of, source_digest
from sbertlab.encoder.stored_embeddings import StoredEmbeddings

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
PACKAGE = Path(sbertlab.__file__).parent


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


class Scaled(models.Module):
    """A building block of one's own, with a plain attribute that torch knows nothing of."""

    def __init__(self, factor: float, table: Any = None) -> None:
        super().__init__()
        self._factor, self.table = factor, table

    def forward(self, features: models.Features) -> models.Features:
        return {**features, "sentence_embedding": self._factor * features["sentence_embedding"]}


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    return EmbeddingStore(tmp_path / "store")


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """A warning that a test does not expect fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmbeddingStoreWarning)
        yield


def shards(store: EmbeddingStore) -> list[Path]:
    return sorted(store.folder.glob("*/*.safetensors"))


def fill(store: EmbeddingStore, texts: list[str], model: str = MODEL) -> None:
    store.write(model, [key_of(text) for text in texts], digits(texts))


# -- Fingerprints ------------------------------------------------------------------------------------------------------


def changes() -> dict[str, Callable[[SentenceTransformer], object]]:
    def one_bit(model: SentenceTransformer) -> None:
        weight = model[0].auto_model.encoder.layer[1].output.dense.weight.data
        weight.view(torch.int32)[3, 5] ^= 1

    def transformer(**values: Any) -> Callable[[SentenceTransformer], object]:
        return lambda model: [setattr(model[0], name, value) for name, value in values.items()]

    def lower(model: SentenceTransformer) -> None:
        from tokenizers import normalizers

        model.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)

    def replace(model: SentenceTransformer, place: int, block: nn.Module) -> None:
        model[place] = block

    def padded(block: nn.Module) -> None:
        next(part for part in block.modules() if isinstance(part, nn.Conv1d)).padding = (0,)

    return {
        "nothing": lambda model: None,
        "one bit of the weights": one_bit,
        "the sign of a zero": lambda model: model[0].auto_model.encoder.layer[0].output.dense.bias.data.neg_(),
        "dtype": lambda model: model.half(),
        "another dtype": lambda model: model.bfloat16(),
        "length": lambda model: setattr(model, "max_seq_length", 20),
        "lower case": transformer(do_lower_case=True),
        "a word more": lambda model: model.tokenizer.add_tokens(["aardvark"]),
        "normaliser": lower,
        "side of the padding": lambda model: setattr(model.tokenizer, "padding_side", "left"),
        "pooling": lambda model: replace(model, 1, models.Pooling(32, "cls")),
        "order of poolings": lambda model: replace(model, 1, models.Pooling(32, ["max", "mean"])),
        "other order of poolings": lambda model: replace(model, 1, models.Pooling(32, ["mean", "max"])),
        "pooling without the prompt": lambda model: replace(model, 1, models.Pooling(32, include_prompt=False)),
        "activation": lambda model: setattr(model[2], "activation_function", nn.ReLU()),
        "epsilon": lambda model: setattr(model[0].auto_model.embeddings.LayerNorm, "eps", 1e-5),
        "padding of a convolution": lambda model: model.insert(1, models.CNN(32, 32, [3])),
        "other padding": lambda model: (model.insert(1, models.CNN(32, 32, [3])), padded(model[1])),
        "a block more": lambda model: model.append(models.Normalize()),
        "a block of one's own": lambda model: model.append(Scaled(1.0)),
        "with another setting": lambda model: model.append(Scaled(2.0)),
        "with a table": lambda model: model.append(Scaled(1.0, table=np.arange(3))),
        "with another table": lambda model: model.append(Scaled(1.0, table=np.arange(4))),
        "with a tensor": lambda model: model.append(Scaled(1.0, table=torch.arange(3))),
        "prompts": lambda model: model.prompts.update(query="query: "),
        "other prompts": lambda model: model.prompts.update(query="Query: "),
        "default prompt": lambda model: (
            model.prompts.update(query="query: "),
            setattr(model, "default_prompt_name", "query"),
        ),
        "truncated": lambda model: setattr(model, "truncate_dim", 3),
    }


def dense(tiny: Tiny) -> SentenceTransformer:
    torch.manual_seed(1)
    return tiny(modules=[models.Dense(32, 5, activation_function=nn.Tanh())])


def test_every_change_that_embeddings_depend_on_has_a_fingerprint_of_its_own(tiny: Tiny) -> None:
    found: dict[str, str] = {}
    for name, change in changes().items():
        model = dense(tiny)
        change(model)
        found[name] = fingerprint(model)
    assert fingerprint(dense(tiny)) == found["nothing"]
    same = {name for name in found if list(found.values()).count(found[name]) > 1}
    assert not same
    assert all(len(value) == 64 for value in found.values())


def test_what_embeddings_do_not_depend_on_leaves_the_fingerprint_alone(tiny: Tiny, tmp_path: Path) -> None:
    model = dense(tiny)
    before = fingerprint(model)
    model.encode(["the cat sits", "a dog"], batch_size=1)
    model.train()
    model.similarity_fn_name = "dot"
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert fingerprint(model) == before
    model.save(tmp_path / "a")
    assert fingerprint(SentenceTransformer(tmp_path / "a", device="cpu")) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint(SentenceTransformer(tmp_path / "b", device="cpu")) == before


def test_models_of_sentence_transformers_have_fingerprints_by_the_same_rule(tiny: Tiny, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer as Original

    dense(tiny).save(tmp_path / "model")
    found = set()
    for change in (
        lambda model: None,
        lambda model: setattr(model, "max_seq_length", 20),
        lambda model: model.prompts.update(query="query: "),
        lambda model: model[2].linear.bias.data.add_(1),
        lambda model: model.half(),
    ):
        model = Original(str(tmp_path / "model"), device="cpu")
        change(model)
        before = fingerprint(model)
        model.encode(["the cat sits"])
        model.encode_query(["a dog"])
        assert fingerprint(model) == before
        found.add(before)
    assert len(found) == 5


def test_an_adapter_and_its_strength_change_the_fingerprint(tiny: Tiny) -> None:
    peft = pytest.importorskip("peft")
    model = tiny()
    found = {fingerprint(model)}
    model[0].auto_model.add_adapter(peft.LoraConfig(r=2, target_modules=["query"]))
    found.add(fingerprint(model))
    layer = model[0].auto_model.encoder.layer[0].attention.self.query
    layer.scaling["default"] = 7.0
    found.add(fingerprint(model))
    model[0].auto_model.disable_adapters()
    found.add(fingerprint(model))
    assert len(found) == 4


def pipeline(dimensions: int = 2) -> Any:
    words = TfidfVectorizer(stop_words=["padding", "the"])
    return make_pipeline(words, TruncatedSVD(dimensions, random_state=0)).fit(["the cat sits", "a dog runs", "cat dog"])


OTHER_PROCESS = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from test_embedding_store import Digits, fingerprint, pipeline
from conftest import tiny_transformer
made = pipeline()
print(fingerprint(made), fingerprint(tiny_transformer()))
"""


@pytest.mark.slow
def test_a_fingerprint_is_the_same_in_another_process_and_after_use(tiny: Tiny) -> None:
    made = pipeline()
    before = fingerprint(made)
    made.transform(["cat"])
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split()[0] == before == fingerprint(made) == fingerprint(pipeline())
    assert done.stdout.split()[1] == fingerprint(tiny()[0])


def test_what_a_pipeline_was_fitted_on_and_how_is_in_its_fingerprint() -> None:
    other = make_pipeline(TfidfVectorizer(stop_words=["padding", "the"]), TruncatedSVD(2, random_state=0))
    models_ = [pipeline(), pipeline(1), other.fit(["the cat sits", "a dog runs", "cat bird"]), Digits(3), Digits(4)]
    words = [TfidfVectorizer(vocabulary={"padding": 0, "cat": 1}), TfidfVectorizer(vocabulary={"dtype": 0, "cat": 1})]
    assert len({fingerprint(model) for model in [*models_, *words]}) == 7


def test_code_that_may_change_unseen_is_refused_with_a_store_and_serves_without(
    tiny: Tiny, store: EmbeddingStore, monkeypatch: Any
) -> None:
    class Local(Digits):
        pass

    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # as in a notebook
    typed_in = type("TypedIn", (Digits,), {"__module__": "__main__", "__qualname__": "TypedIn"})
    for model in (Local(), typed_in()):
        with pytest.raises(TypeError, match=r"cannot be fingerprinted: .* Without a store \(store=None\)"):
            StoredEmbeddings(model, store)
        assert StoredEmbeddings(model).encode(["a"]).tolist() == digits(["a"]).tolist()
    model = tiny(modules=[Scaled(1.0, table=lambda x: x)])
    with pytest.raises(TypeError, match="lambda"):
        StoredEmbeddings(model, store)
    assert StoredEmbeddings(model).encode(["a"]).shape == (1, 32)
    with pytest.raises(TypeError, match="a tensor on meta"):
        fingerprint(nn.Linear(2, 2, device="meta"))


@pytest.mark.slow
def test_the_fingerprint_of_a_real_model_takes_about_as_long_as_hashing_its_weights(
    minilm: SentenceTransformer,
) -> None:
    weights = b"".join(parameter.detach().numpy().tobytes() for parameter in minilm.parameters())
    plain, whole = [], []
    for _ in range(3):
        start = time.process_time()
        hashlib.sha256(weights).hexdigest()
        middle = time.process_time()
        fingerprint(minilm)
        plain.append(middle - start)
        whole.append(time.process_time() - middle)
    assert min(whole) < 3 * min(plain) + 0.5


# -- A model with a memory ---------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="block must be a positive number"):
        StoredEmbeddings(Digits(), block=0)
    with pytest.raises(ValueError, match="role must be"):
        StoredEmbeddings(Digits()).encode(["a"], role="passage")
    with pytest.raises(ValueError, match="prompt_name 'query' is not one of the model's"):
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
    assert not shards(store)


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
    assert len(shards(store)) == 20
    again = StoredEmbeddings(Digits(64), store)
    start = time.process_time()
    found = again.encode(texts)
    assert time.process_time() - start < 2
    assert again.computed == 0
    assert np.array_equal(found, digits(texts, 64))


# -- The folder --------------------------------------------------------------------------------------------------------


def test_stored_bits_come_back_whatever_they_are(store: EmbeddingStore) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, (50, 7), dtype=np.uint32)
    bits[0] = [0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F7FFFFF]  # zeros, subnormal, infinities, NaN
    keys = [key_of(str(row)) for row in range(50)]
    store.write(MODEL, keys, bits.view(np.float32))
    found = EmbeddingStore(store.folder).read(MODEL, [*keys[::-1], key_of("more")])
    assert len(found) == 50
    assert all(np.array_equal(found[key].view(np.uint32), row) for key, row in zip(keys, bits, strict=True))


def test_half_of_a_surrogate_pair_is_a_key_like_any_other() -> None:
    assert key_of("\ud83d") != key_of("\udc08") != key_of("?")


def test_the_folder_is_beside_the_models_and_made_when_something_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path / "cache"))
    store = EmbeddingStore()
    assert store.folder == tmp_path / "cache" / "embeddings"
    assert store.read(MODEL, [key_of("a")]) == {}
    assert store.size() == 0
    assert not store.folder.exists()
    fill(store, ["a"])
    assert len(shards(store)) == 1
    monkeypatch.delenv("SBERTLAB_CACHE")
    assert EmbeddingStore().folder == Path("~/.cache/sbertlab/embeddings").expanduser()


def test_wrong_arguments_are_refused(store: EmbeddingStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        EmbeddingStore(tmp_path / "file")
    with pytest.raises(ValueError, match="most_bytes must be a positive number"):
        EmbeddingStore(tmp_path, most_bytes=0)
    with pytest.raises(ValueError, match=r"64 hexadecimal digits, got '\.\./up'"):
        store.write("../up", [key_of("a")], digits(["a"]))
    with pytest.raises(ValueError, match="1 keys for embeddings of shape"):
        store.write(MODEL, [key_of("a")], digits(["a", "b"]))


def test_a_person_sees_what_is_there_and_can_clear_it(store: EmbeddingStore) -> None:
    StoredEmbeddings(Digits(6), store, name="digits").encode(["a", "b"])
    fill(store, ["c"])
    (store.folder / "notes.txt").write_text("mine")
    table = store.contents()
    row = table[table["name"] == "digits"].iloc[0]
    assert (row["dimensions"], row["dtype"], row["fingerprint"]) == (6, "float32", fingerprint(Digits(6)))
    assert abs(row["used"].timestamp() - time.time()) < 60
    on_disk = sum(path.stat().st_size for path in store.folder.glob("*/*"))
    assert table["bytes"].sum() == store.size() == on_disk > 0
    store.clear()
    assert store.size() == 0
    assert [path.name for path in store.folder.iterdir()] == ["notes.txt"]


def altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-33] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced(path: Path) -> None:
    path.write_bytes(b"\xff" * 4096)


def of_another_shard(path: Path) -> None:
    other = next(shard for shard in path.parent.glob("*.safetensors") if shard != path)
    path.write_bytes(other.read_bytes())


def with_other_values(path: Path) -> None:
    path.write_bytes(save({**load(path.read_bytes()), "embeddings": np.zeros((3, 4), np.float32)}))


@pytest.mark.parametrize("damage", [altered, cut, emptied, replaced, of_another_shard, with_other_values])
def test_a_damaged_shard_is_named_left_out_and_computed_again(
    damage: Callable[[Path], None], store: EmbeddingStore
) -> None:
    texts = [f"text {number}" for number in range(6)]
    StoredEmbeddings(Digits(), store, block=3).encode(texts)
    path, whole = shards(store)
    damage(path)
    again = StoredEmbeddings(Digits(), EmbeddingStore(store.folder))
    with pytest.warns(EmbeddingStoreWarning, match=rf"{path.name} is damaged .* computed again"):
        assert again.encode(texts).tolist() == digits(texts).tolist()
    assert again.computed == 3
    assert whole.exists()
    for repaired in (again.store, EmbeddingStore(store.folder)):
        third = StoredEmbeddings(Digits(), repaired)
        assert third.encode(texts).tolist() == digits(texts).tolist()
        assert third.computed == 0


def test_a_shard_of_another_model_is_not_believed(store: EmbeddingStore) -> None:
    fill(store, ["a"])
    (path,) = shards(store)
    other = store.folder / ("cd" * 32)
    other.mkdir()
    (other / path.name).write_bytes(path.read_bytes())
    with pytest.warns(EmbeddingStoreWarning, match="belongs to another model"):
        assert store.read("cd" * 32, [key_of("a")]) == {}
    assert path.exists()
    assert len(store.read(MODEL, [key_of("a")])) == 1


def test_the_models_unused_for_longest_leave_when_room_runs_out(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(1000)]
    fill(EmbeddingStore(tmp_path), texts, "00" * 32)
    one = EmbeddingStore(tmp_path).size()
    store = EmbeddingStore(tmp_path, most_bytes=int(3.5 * one))
    for number in (1, 2):
        fill(store, texts, f"{number:02}" * 32)
    for number, age in ((0, 300), (1, 200), (2, 100)):
        past = time.time() - age
        os.utime(tmp_path / (f"{number:02}" * 32) / "manifest.json", (past, past))
    store.read("00" * 32, [key_of("text 5")])  # the oldest is used again
    fill(store, texts, "03" * 32)
    assert {path.name[:2] for path in tmp_path.iterdir()} == {"00", "02", "03"}
    assert store.size() <= store.most_bytes


def test_one_model_that_is_too_large_keeps_what_fits(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, most_bytes=100_000)
    texts = [f"text {number}" for number in range(10_000)]
    memory = StoredEmbeddings(Digits(), store)
    with pytest.warns(EmbeddingStoreWarning, match="100,000 bytes do not hold the embeddings of this model"):
        assert memory.encode(texts).tolist() == digits(texts).tolist()
    assert 50_000 < store.size() <= 100_000
    again = StoredEmbeddings(Digits(), EmbeddingStore(tmp_path))
    again.encode(texts[:512])
    assert again.computed == 0


def test_a_full_disk_costs_a_warning_and_leaves_nothing_half_written(store: EmbeddingStore) -> None:
    fill(store, ["before"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    texts = [f"text {number}" for number in range(500)]
    memory = StoredEmbeddings(Digits(), store)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.warns(EmbeddingStoreWarning, match="not kept in .*: File too large; they go on in memory"):
            found = memory.encode(texts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found.tolist() == digits(texts).tolist()
    assert len(shards(store)) == 1
    assert not list(store.folder.rglob("*.partial"))
    assert len(store.read(MODEL, [key_of("before")])) == 1


def test_a_folder_that_is_only_read_serves_what_it_has(store: EmbeddingStore, monkeypatch: Any) -> None:
    StoredEmbeddings(Digits(), store).encode(["a", "b"])

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    for owner, name in ((os, "utime"), (os, "replace"), (os, "unlink"), (Path, "mkdir"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, refuse)
    memory = StoredEmbeddings(Digits(), store)
    assert memory.encode(["b", "a"]).tolist() == digits(["b", "a"]).tolist()
    assert memory.computed == 0
    with pytest.warns(EmbeddingStoreWarning, match="Read-only file system; they go on in memory"):
        assert memory.encode(["c"]).tolist() == digits(["c"]).tolist()


def test_a_file_where_a_models_folder_should_be_is_a_warning_not_an_end(store: EmbeddingStore) -> None:
    store.folder.mkdir()
    (store.folder / fingerprint(Digits())).write_text("")
    with pytest.warns(EmbeddingStoreWarning):
        assert StoredEmbeddings(Digits(), store).encode(["a"]).tolist() == digits(["a"]).tolist()


# -- Many processes ----------------------------------------------------------------------------------------------------

WRITER = f"""
import os, signal, sys, time, warnings
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from test_embedding_store import MODEL, digits, fill, key_of
from sbertlab.encoder.embedding_store import EmbeddingStore, EmbeddingStoreWarning

warnings.simplefilter("error", EmbeddingStoreWarning)
folder, first, kill_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store, renamed, replace = EmbeddingStore(folder), [], os.replace

def replace_or_die(source, target):
    renamed.append(target)
    if len(renamed) == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

os.replace = replace_or_die
Path(folder, f"ready-{{first}}").write_text("")
deadline = time.monotonic() + 300
while len(list(Path(folder).glob("ready-*"))) < 2 and not kill_at and time.monotonic() < deadline:
    time.sleep(0.01)
for start in range(first, first + 200, 5):
    texts = [f"text {{number}}" for number in range(start, start + 5)]
    fill(store, texts)
    found = store.read(MODEL, map(key_of, texts))
    assert all((found[key_of(text)] == digits([text])[0]).all() for text in texts)
print("done")
"""


def write_in_another_process(folder: Path, first: int, kill_at: int = 0) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(kill_at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_write_at_the_same_time_and_nothing_is_lost(store: EmbeddingStore) -> None:
    writers = [write_in_another_process(store.folder, first) for first in (0, 100)]
    for writer in writers:
        out, error = writer.communicate(timeout=600)
        assert out == "done\n", error
    texts = [f"text {number}" for number in range(300)]
    found = store.read(MODEL, map(key_of, texts))
    assert all(np.array_equal(found[key_of(text)], digits([text])[0]) for text in texts)
    assert len(shards(store)) == 60, "equal shards have equal names"
    assert not list(store.folder.rglob("*.partial"))


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_a_sound_store(store: EmbeddingStore) -> None:
    writer = write_in_another_process(store.folder, 0, kill_at=4)  # the manifest is the first to be renamed
    writer.communicate(timeout=600)
    assert writer.returncode == -signal.SIGKILL
    (left,) = store.folder.rglob("*.partial")
    left.write_bytes(left.read_bytes()[:100])
    texts = [f"text {number}" for number in range(20)]
    found = store.read(MODEL, map(key_of, texts))
    assert found.keys() == {key_of(text) for text in texts[:10]}
    fill(EmbeddingStore(store.folder), texts[10:])
    assert left.exists(), "another process might be writing it"
    os.utime(left, (0, 0))
    fill(EmbeddingStore(store.folder), texts[10:12])
    assert not left.exists()
    assert len(store.read(MODEL, map(key_of, texts))) == 20


# -- Code --------------------------------------------------------------------------------------------------------------


def edited(root: Path, part: str) -> None:
    """Append a comment to one source file of a part of the package."""
    path = root / part if part.endswith(".py") else sorted((root / part).rglob("*.py"))[0]
    path.write_text(path.read_text() + "# edited\n")


@pytest.mark.parametrize("part", MEASURING)
def test_an_edit_of_any_part_that_a_number_follows_from_changes_its_digest(part: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "package")
    before = [source_digest.__wrapped__(parts, tmp_path / "package") for parts in (ENCODING, MEASURING)]
    edited(tmp_path / "package", part)
    after = [source_digest.__wrapped__(parts, tmp_path / "package") for parts in (ENCODING, MEASURING)]
    assert (before[0] != after[0]) == (part in ENCODING)
    assert before[1] != after[1]


@pytest.mark.parametrize("part", ["widgets", "plots", "analysis/intervals.py", "benchmark/results.py", "commands"])
def test_an_edit_of_what_draws_or_reads_finished_numbers_changes_no_digest(part: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "package")
    before = [source_digest.__wrapped__(parts, tmp_path / "package") for parts in (ENCODING, MEASURING)]
    edited(tmp_path / "package", part)
    assert before == [source_digest.__wrapped__(parts, tmp_path / "package") for parts in (ENCODING, MEASURING)]


def test_a_part_that_does_not_exist_is_refused_instead_of_hashed_as_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="would not notice"):
        source_digest.__wrapped__(("models",), tmp_path)


def test_other_code_of_the_package_gives_another_fingerprint(
    tiny: Callable[..., SentenceTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(tiny())
    monkeypatch.setattr("sbertlab.encoder.fingerprint.source_digest", lambda *parts: "changed")
    assert fingerprint(tiny()) != before
