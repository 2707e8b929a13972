"""The encoder against sentence-transformers on the same folder, with every kind of input, good and bad."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import sentence_transformers
import torch

from sbertlab import InputExample, SentenceTransformer, models
from sbertlab.data.texts import TruncationWarning
from sbertlab.encoder import batching
from sbertlab.encoder import sentence_transformer as encoder
from sbertlab.models import Pooling

Tiny = Callable[..., SentenceTransformer]
Peer = sentence_transformers.SentenceTransformer
LONG = "An unusually long text goes on about garden chairs, parcels and refunds; " * 25
TEXTS = [
    "How do I change the e-mail address that I sign in with?",
    "refund",
    "",
    "   leading and trailing spaces   ",
    "Ein Paket für Zoë: naïve façade, 東京 🐈‍⬛ 👩‍👩‍👧 ﷽",
    "two\nlines\tand a tab",
    "😀",
    "refund",
    "A [MASK] and a [SEP] that somebody typed, and ##pieces.",
    LONG,
    LONG[:300],
]
WORDS = ["the cat sits", "a dog", "", "where is my parcel ?", "the cat sits", "how can i change my e mail address"]


@pytest.fixture(scope="module")
def minilm_peer(minilm_folder: Path) -> Peer:
    return Peer(str(minilm_folder), device="cpu")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Let cut texts pass without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        yield


def both(model: SentenceTransformer, folder: Path) -> tuple[SentenceTransformer, Peer]:
    """Save a model; return it as it is read here and as the peer reads it."""
    model.save(folder)
    return SentenceTransformer(folder, device="cpu"), Peer(str(folder), device="cpu")


def spread(embeddings: Any) -> float:
    """How much the embeddings differ from text to text."""
    return float(np.ptp(np.asarray(embeddings), axis=0).max())


# -- The same numbers as the peer --------------------------------------------------------------------------------------


def test_minilm_embeddings_equal_the_peers_on_every_kind_of_text(minilm, minilm_peer, quiet):
    ours = minilm.encode(TEXTS)
    assert ours.dtype == np.float32
    assert ours.shape == (len(TEXTS), 384)
    assert spread(ours) > 0.1
    np.testing.assert_allclose(ours, minilm_peer.encode(TEXTS), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_embeddings_depend_neither_on_the_batch_size_nor_on_the_order(minilm, quiet, batch_size):
    expected = minilm.encode(TEXTS)
    order = np.random.default_rng(batch_size).permutation(len(TEXTS))
    found = minilm.encode([TEXTS[index] for index in order], batch_size=batch_size)
    assert np.abs(found - expected[order]).max() < 1e-6


def test_encoding_twice_gives_identical_numbers_also_in_a_model_that_is_training(tiny):
    model = tiny(dropout=0.3)
    expected = model.encode(WORDS)
    model.train()
    assert np.array_equal(model.encode(WORDS), expected)
    thinned = model.embed(WORDS).detach().numpy()
    assert np.abs(thinned - expected).max() > 0.01, "dropout is on in a forward pass while training"


@pytest.mark.parametrize("pooling", ["cls", ["mean", "max"], "lasttoken"])
def test_a_tiny_model_with_a_head_equals_the_peer(tiny, tmp_path, pooling):
    width = 32 if isinstance(pooling, str) else 64
    head = [models.Dense(width, 12), models.LayerNorm(12), models.Dropout(0.5), models.Normalize()]
    ours, theirs = both(tiny(pooling, modules=head), tmp_path / "model")
    np.testing.assert_allclose(ours.encode(WORDS), theirs.encode(WORDS), atol=1e-5)
    assert spread(ours.encode(WORDS)) > 1e-3


def test_token_embeddings_equal_the_peers_without_padding(minilm, minilm_peer):
    texts = TEXTS[:9]
    ours = minilm.encode(texts, output_value="token_embeddings")
    theirs = minilm_peer.encode(texts, output_value="token_embeddings")
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=0)
    one = minilm.encode(texts[0], output_value="token_embeddings")
    torch.testing.assert_close(one, ours[0], atol=1e-5, rtol=0)


def test_all_features_equal_the_peers_up_to_padding(minilm, minilm_peer):
    texts = TEXTS[:9]
    ours = minilm.encode(texts, output_value=None)
    theirs = minilm_peer.encode(texts, output_value=None)
    for mine, reference in zip(ours, theirs, strict=True):
        tokens = int(mine["attention_mask"].sum())
        assert tokens == reference["attention_mask"].sum()
        assert mine["input_ids"][:tokens].equal(reference["input_ids"][:tokens])
        torch.testing.assert_close(
            mine["token_embeddings"][:tokens], reference["token_embeddings"][:tokens], atol=1e-5, rtol=0
        )
        torch.testing.assert_close(mine["sentence_embedding"], reference["sentence_embedding"], atol=1e-5, rtol=0)
    assert minilm.encode(texts[0], output_value=None).keys() == ours[0].keys()


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_quantised_embeddings_equal_the_peers(tiny, tmp_path, precision):
    ours, theirs = both(tiny(), tmp_path / "model")
    verbs = ("sits", "runs", "is", "my", "and")
    texts = [f"{a} {b} {c}" for a in "abcde" for b in ("cat", "dog", "red", "sun") for c in verbs]
    found, expected = ours.encode(texts, precision=precision), theirs.encode(texts, precision=precision)
    assert found.shape == expected.shape == (100, 4 if "binary" in precision else 32)
    assert found.dtype == expected.dtype
    difference = np.abs(found.astype(int) - expected.astype(int))
    if "binary" in precision:
        assert not difference.any()
    else:
        assert difference.max() <= 1  # a value on the edge of a step falls to either side of it
        assert (difference == 0).mean() > 0.98
    assert len(np.unique(found)) > 3
    tensor = ours.encode(texts, precision=precision, convert_to_tensor=True)
    assert np.array_equal(tensor.numpy(), found)


def test_truncated_and_normalised_embeddings_equal_the_peers(tiny, tmp_path):
    ours, theirs = both(tiny(), tmp_path / "model")
    arguments: dict[str, Any] = {"truncate_dim": 10, "normalize_embeddings": True}
    found = ours.encode(WORDS, **arguments)
    np.testing.assert_allclose(found, theirs.encode(WORDS, **arguments), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    whole = ours.encode(WORDS)
    np.testing.assert_allclose(found, whole[:, :10] / np.linalg.norm(whole[:, :10], axis=1, keepdims=True), atol=1e-6)


# -- Prompts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", ["mean", "cls", "weightedmean"])
def test_prompts_equal_the_peers_with_and_without_their_tokens_in_the_pooling(tiny, tmp_path, include_prompt, mode):
    body = tiny()[0]
    prompts = {"query": "question : ", "document": "answer : ", "other": "price : "}
    model = SentenceTransformer(
        modules=[body, Pooling(32, mode, include_prompt=include_prompt)], prompts=prompts, device="cpu"
    )
    ours, theirs = both(model, tmp_path / "model")
    assert ours.prompts == theirs.prompts == prompts
    arguments: list[dict[str, Any]] = [{"prompt_name": "other"}, {"prompt": "help : "}, {"prompt": ""}, {}]
    for given in arguments:
        np.testing.assert_allclose(ours.encode(WORDS, **given), theirs.encode(WORDS, **given), atol=1e-5)
    np.testing.assert_allclose(ours.encode_query(WORDS), theirs.encode_query(WORDS), atol=1e-5)
    np.testing.assert_allclose(ours.encode_document(WORDS), theirs.encode_document(WORDS), atol=1e-5)
    assert np.abs(ours.encode_query(WORDS) - ours.encode(WORDS)).max() > 1e-3


def test_the_default_prompt_is_taken_unless_another_is_named(tiny):
    body, pooling = tiny()
    prompts = {"query": "question : ", "none": ""}
    model = SentenceTransformer(modules=[body, pooling], prompts=prompts, default_prompt_name="query", device="cpu")
    np.testing.assert_array_equal(model.encode(WORDS), model.encode(WORDS, prompt_name="query"))
    np.testing.assert_array_equal(model.encode(WORDS, prompt=""), tiny().encode(WORDS))
    np.testing.assert_array_equal(model.encode(WORDS, prompt_name="none"), tiny().encode(WORDS))
    assert np.abs(model.encode(WORDS) - tiny().encode(WORDS)).max() > 1e-3


# -- Inputs ------------------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "series": pd.Series,
    "series with an odd index": lambda texts: pd.Series(texts, index=[7, 7, -1, 0, 3, 2], name="text"),
    "categorical series": lambda texts: pd.Series(texts, dtype="category"),
    "index": pd.Index,
    "array of objects": lambda texts: np.array(texts, dtype=object),
    "array of strings": np.array,
    "reversed array": lambda texts: np.array(texts[::-1])[::-1],
    "list of numpy's strings": lambda texts: [np.str_(text) for text in texts],
}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_may_come_in_any_one_dimensional_shape(tiny, kind):
    model = tiny()
    np.testing.assert_array_equal(model.encode(KINDS[kind](WORDS)), model.encode(WORDS))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "got NoneType"),
        (5, "got int"),
        (float("nan"), "got float"),
        (b"bytes", "got bytes"),
        ({"a", "set"}, "got set"),
        (np.array("one"), r"got ndarray of shape \(\)"),
        (np.array([["a", "b"]]), r"got ndarray of shape \(1, 2\)"),
        (pd.DataFrame({"text": ["a"]}), r"got DataFrame of shape \(1, 1\)"),
    ],
)
def test_what_holds_no_texts_is_refused_by_its_type(tiny, given, message):
    with pytest.raises(TypeError, match=f"sentences must be a text or a list.*{message}"):
        tiny().encode(given)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["fine", None], "NoneType"),
        (["fine", float("nan")], "float"),
        (["fine", 7], "int"),
        (["fine", b"bytes"], "bytes"),
        (["fine", ["nested"]], "list"),
        (["fine", ("a", "pair")], "tuple"),
        (["fine", {"query": 3}], "dict"),
        (pd.Series(["fine", None], index=[5, 6]), "float|NoneType"),
        (np.array(["fine", 7], dtype=object), "int"),
        (np.array([b"x", b"y"])[[0, 1]], "bytes"),
    ],
)
def test_something_else_than_a_text_is_refused_by_its_position(tiny, given, named):
    with pytest.raises(TypeError, match=rf"sentences\[[01]\] is ({named}) \(.*expected str"):
        tiny().encode(given)


def test_half_a_surrogate_pair_is_refused_with_the_remedy(tiny):
    with pytest.raises(ValueError, match="half a surrogate pair"):
        tiny().encode(["fine", "broken \ud83d"])


@pytest.mark.parametrize(
    "empty", [[], (), np.array([], dtype=str), pd.Series([], dtype=str)], ids=lambda e: type(e).__name__
)
def test_no_texts_give_an_array_of_no_rows(tiny, empty):
    model = tiny()
    found = model.encode(empty)
    assert found.shape == (0, 32)
    assert found.dtype == np.float32
    assert model.encode(empty, convert_to_tensor=True).shape == (0, 32)
    assert model.encode(empty, convert_to_numpy=False) == []
    assert model.encode(empty, output_value="token_embeddings") == []
    assert model.encode(empty, truncate_dim=5, normalize_embeddings=True).shape == (0, 5)
    assert model.encode(empty, precision="ubinary").shape == (0, 4)
    assert model.embed([]).shape == (0, 32)
    model.truncate_dim = 8
    assert model.encode(empty).shape == (0, 8)
    assert model.encode(empty, truncate_dim=16).shape == model.encode(["a"], truncate_dim=16)[:0].shape


def test_the_result_is_an_array_a_tensor_or_a_list_of_tensors(tiny):
    model = tiny()
    array = model.encode(WORDS)
    tensor = model.encode(WORDS, convert_to_tensor=True)
    tensors = model.encode(WORDS, convert_to_numpy=False)
    assert isinstance(array, np.ndarray)
    assert isinstance(tensors, list)
    assert len(tensors) == len(WORDS)
    assert np.array_equal(tensor.numpy(), array)
    assert np.array_equal(torch.stack(tensors).numpy(), array)
    assert not tensor.requires_grad
    assert [model.encode("a", **a).shape for a in ({}, {"convert_to_tensor": True}, {"convert_to_numpy": False})] == [
        (32,)
    ] * 3
    array[0] = 0
    assert np.abs(model.encode(WORDS)[0]).sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_name": "qury"}, "prompt_name must be one of"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"output_value": "cls"}, "output_value must be .* got 'cls'"),
        ({"precision": "float16"}, "precision must be one of .* got 'float16'"),
        ({"truncate_dim": 0}, "truncate_dim must be a whole number of at least 1, got 0"),
        ({"precision": "int8", "sentences": "one"}, "more than 1 `calibration"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_name(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny().encode(**{"sentences": WORDS, **arguments})


# -- How it runs -------------------------------------------------------------------------------------------------------


def forward_sizes(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Record the shape of every forward pass."""
    shapes: list[torch.Size] = []
    plain = model[0].forward
    monkeypatch.setattr(model[0], "forward", lambda f: (shapes.append(f["input_ids"].shape), plain(f))[1])
    return shapes


@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_windows_of_texts_give_the_same_embeddings_in_the_same_order(tiny, monkeypatch, count):
    model = tiny()
    texts = [" ".join(["cat"] * (1 + 7 * index % 11)) for index in range(count)]
    expected = model.encode(texts)
    tokens = model.encode(texts, output_value="token_embeddings")
    monkeypatch.setattr(batching, "WINDOW", 4)
    shapes = forward_sizes(model, monkeypatch)
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-6)
    assert len(shapes) == -(-count // 4)
    for mine, reference in zip(model.encode(texts, output_value="token_embeddings"), tokens, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=0)
    assert spread(expected) > 0.01 or count == 1


def test_equal_texts_are_computed_once(tiny, monkeypatch):
    model = tiny()
    shapes = forward_sizes(model, monkeypatch)
    found = model.encode(["the cat", "a dog", "the cat", "the cat"])
    assert sum(shape[0] for shape in shapes) == 2
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])


def test_the_batch_size_bounds_what_goes_through_the_encoder_at_a_time(tiny, monkeypatch):
    model = tiny()
    shapes = forward_sizes(model, monkeypatch)
    texts = [f"{a} {b}" for a in "abcdefgh" for b in "stuvwxyz"]  # 64 texts of 4 tokens
    model.encode(texts, batch_size=2)
    assert {tuple(shape) for shape in shapes} == {(16, 4)}
    shapes.clear()
    model.encode(texts, batch_size=32)
    assert [tuple(shape) for shape in shapes] == [(64, 4)]


def test_every_block_goes_back_to_its_own_mode(tiny):
    model = tiny()
    for mode in (True, False):
        model.train(mode)
        model[0].auto_model.encoder.train(not mode)
        before = [module.training for module in model.modules()]
        assert len(set(before)) == 2
        model.encode(WORDS)
        assert [module.training for module in model.modules()] == before


def test_a_bfloat16_model_gives_float32_arrays_near_the_float32_ones(tiny):
    head = [models.Dense(32, 16), models.Normalize()]
    expected = tiny(modules=head).encode(WORDS)
    model = tiny(modules=copy.deepcopy(head)).to(torch.bfloat16)
    found = model.encode(WORDS)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 0.05
    assert model.encode(WORDS, convert_to_tensor=True).dtype == torch.bfloat16
    assert model.encode([]).dtype == np.float32


def test_what_lies_behind_a_bfloat16_encoder_follows_its_type(tiny, tmp_path):
    model = tiny(modules=[models.Dense(32, 16), models.LayerNorm(16)])
    model.save(tmp_path / "model")
    half = SentenceTransformer(tmp_path / "model", model_kwargs={"dtype": torch.bfloat16}, device="cpu")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    np.testing.assert_allclose(half.encode(WORDS), model.encode(WORDS), atol=0.05)


def test_the_progress_bar_appears_when_asked_for_or_when_the_logger_informs(tiny, capfd, caplog):
    model = tiny()
    model.encode(WORDS)
    assert "Encoding" not in capfd.readouterr().err
    model.encode(WORDS, show_progress_bar=True)
    assert "Encoding: 100%" in capfd.readouterr().err
    with caplog.at_level(logging.INFO, logger="sbertlab.encoder.sentence_transformer"):
        model.encode(WORDS)
        assert "Encoding" in capfd.readouterr().err
        model.encode(WORDS, show_progress_bar=False)
        assert "Encoding" not in capfd.readouterr().err


def test_without_a_device_the_best_one_is_taken(tiny, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert encoder.best_device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert encoder.best_device() == torch.device("cuda")


# -- Texts that are cut ------------------------------------------------------------------------------------------------


def test_one_warning_counts_the_cut_texts_and_tokens(tiny, monkeypatch):
    monkeypatch.setattr(batching, "WINDOW", 2)
    model = tiny()
    model.max_seq_length = 5  # three words
    texts = ["the cat sits on a bed", "the cat", "a dog sits on", "the cat sits on a bed", "a dog runs"]
    with pytest.warns(TruncationWarning) as caught:
        model.encode(texts)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "3 of 5 texts are longer than max_seq_length=5: 7 of 31 tokens (22.6%) were not read" in message
    assert caught[0].filename == __file__


def test_nothing_is_said_where_nothing_is_cut(tiny):
    model = tiny()
    model.max_seq_length = 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(["the cat sits", "", "a dog"])
        model.embed(["the cat sits"])
        model.encode([])


def test_cut_texts_are_reported_in_the_same_words_at_every_step_of_training(tiny):
    model = tiny()
    model.max_seq_length = 5
    with pytest.warns(TruncationWarning) as first:
        model.embed(["the cat sits on a bed"])
    with pytest.warns(TruncationWarning) as second:
        model.embed(["a dog sits on the chair", "the cat sits on a bed", "a"])
    assert len(first) == len(second) == 1
    assert str(first[0].message) == str(second[0].message)
    assert first[0].filename == __file__


def test_the_length_limit_is_read_and_set_through_the_encoder(tiny):
    model = tiny()
    assert model.max_seq_length == model.get_max_seq_length() == 64
    model.max_seq_length = 9
    assert model[0].max_seq_length == 9
    for value, message in ((65, "at most 64"), (0, "at least 2"), ("9", "at least 2"), (3.5, "at least 2")):
        with pytest.raises(ValueError, match=message):
            model.max_seq_length = value
    assert model.max_seq_length == 9
    model.max_seq_length = None
    assert model.max_seq_length == 64


# -- Embedding for training --------------------------------------------------------------------------------------------


def test_embed_equals_encode_in_any_chunks_and_keeps_order(tiny):
    model = tiny()
    expected = model.encode(WORDS)
    for budget in (1, 8, 24, None):
        found = model.embed(WORDS, token_budget=budget)
        assert found.requires_grad
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)


def test_gradients_through_chunks_equal_those_of_one_padded_batch(tiny):
    texts = ["the cat sits on the red chair", "a dog", "where is my parcel ?"]
    weights = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for chunked in (True, False):
        model = tiny()
        found = model.embed(texts, token_budget=8) if chunked else model(model.tokenize(texts))["sentence_embedding"]
        (found * weights).sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 20
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert max(gradient.abs().max() for gradient in gradients[0]) > 0.01


# -- Routes ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def routed(tiny: Tiny) -> SentenceTransformer:
    """One body; queries and documents have a Dense of their own behind it."""
    torch.manual_seed(0)
    router = models.Router(
        {"query": [models.Dense(32, 8)], "document": [models.Dense(32, 8)]}, default_route="document"
    )
    return tiny(modules=[router, models.Normalize()])


def test_texts_take_the_route_of_their_task_or_their_key(routed):
    query, document = routed.encode(WORDS, task="query"), routed.encode(WORDS, task="document")
    assert np.abs(query - document).max() > 0.1
    np.testing.assert_array_equal(routed.encode(WORDS), document)
    np.testing.assert_array_equal(routed.encode_query(WORDS), query)
    np.testing.assert_array_equal(routed.encode_document(WORDS), document)
    np.testing.assert_allclose(routed.encode([{"query": text} for text in WORDS]), query, atol=1e-6)


def test_texts_of_several_routes_may_be_mixed(routed):
    found = routed.encode([{"query": "the cat"}, "the cat", {"document": "a dog"}, {"query": "a dog"}])
    query, document = (routed.encode(["the cat", "a dog"], task=task) for task in ("query", "document"))
    np.testing.assert_allclose(found, [query[0], document[0], document[1], query[1]], atol=1e-6)
    np.testing.assert_allclose(routed.encode({"query": "the cat"}), query[0], atol=1e-6)
    np.testing.assert_allclose(routed.embed([{"query": "the cat"}, "the cat"]).detach().numpy(), found[:2], atol=1e-6)


def test_a_routed_model_equals_the_peer(routed, tmp_path):
    ours, theirs = both(routed, tmp_path / "model")
    np.testing.assert_allclose(ours.encode_query(WORDS), theirs.encode_query(WORDS), atol=1e-5)
    np.testing.assert_allclose(ours.encode_document(WORDS), theirs.encode_document(WORDS), atol=1e-5)
    np.testing.assert_allclose(ours.encode(WORDS), theirs.encode(WORDS), atol=1e-5)


@pytest.mark.parametrize("allowed", [True, False])
def test_without_a_default_plain_texts_take_the_first_route_as_the_peers_or_are_refused(tiny, tmp_path, allowed):
    torch.manual_seed(0)
    routes = {"query": [models.Dense(32, 8)], "document": [models.Dense(32, 8)]}
    ours, theirs = both(tiny(modules=[models.Router(routes, allow_empty_key=allowed)]), tmp_path / "model")
    if allowed:
        np.testing.assert_allclose(ours.encode(WORDS), theirs.encode(WORDS), atol=1e-5)
        np.testing.assert_array_equal(ours.encode(WORDS), ours.encode_query(WORDS))
    else:
        with pytest.raises(ValueError, match="choose one with encode"):
            ours.encode(WORDS)
        assert ours.encode_document(WORDS).shape == (6, 8)


def test_a_router_in_front_tokenises_every_route_in_its_own_way(tiny):
    body = tiny()[0]
    static = models.StaticEmbedding.from_transformer(tiny(seed=3)[0])
    router = models.Router.for_query_document([static], [body, Pooling(32)])
    model = SentenceTransformer(modules=[router], device="cpu")
    np.testing.assert_allclose(model.encode_document(WORDS), tiny().encode(WORDS), atol=1e-6)
    expected = SentenceTransformer(modules=[static], device="cpu").encode(WORDS)
    np.testing.assert_allclose(model.encode_query(WORDS), expected, atol=1e-6)
    assert model.tokenizer is body.tokenizer
    assert model.get_sentence_embedding_dimension() == 32


def test_an_unknown_route_is_refused_with_the_known_ones(routed):
    for call in (lambda: routed.encode(WORDS, task="passage"), lambda: routed.encode({"passage": "a"})):
        with pytest.raises(ValueError, match=r"route 'passage' is not one of \['query', 'document'\]"):
            call()


def test_prompts_are_left_out_by_the_tokenizer_of_the_route(tiny):
    body = tiny()[0]
    routes = {"query": [body, Pooling(32, include_prompt=False)], "document": [body, Pooling(32)]}
    model = SentenceTransformer(
        modules=[models.Router(routes, allow_empty_key=False)], prompts={"query": "question : "}, device="cpu"
    )
    plain = SentenceTransformer(modules=[body, Pooling(32, include_prompt=False)], device="cpu")
    expected = plain.encode(WORDS, prompt="question : ")
    np.testing.assert_allclose(model.encode_query(WORDS), expected, atol=1e-6)


def test_features_of_a_batch_carry_its_route(routed):
    features = routed.tokenize([{"query": text} for text in WORDS])
    found = routed(features)["sentence_embedding"].detach().numpy()
    np.testing.assert_allclose(found, routed.encode_query(WORDS), atol=1e-6)
    with pytest.raises(ValueError, match=r"routes \['query', None\] cannot share a batch"):
        routed.tokenize([{"query": "a"}, "b"])


# -- Comparing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarities_equal_the_peers(tiny, tmp_path, name):
    model = tiny()
    model.similarity_fn_name = name
    ours, theirs = both(model, tmp_path / "model")
    assert ours.similarity_fn_name == theirs.similarity_fn_name == name
    a, b = ours.encode(WORDS), ours.encode(WORDS[::-1])
    torch.testing.assert_close(ours.similarity(a, b), theirs.similarity(a, b), atol=1e-4, rtol=1e-4)
    pairwise = ours.similarity_pairwise(a, b)
    torch.testing.assert_close(pairwise, theirs.similarity_pairwise(a, b), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pairwise, ours.similarity(a, b).diagonal(), atol=1e-4, rtol=1e-4)


def test_an_unknown_similarity_is_refused(tiny):
    with pytest.raises(ValueError, match=r"similarity function must be one of .* got 'cosin'"):
        tiny().similarity_fn_name = "cosin"
    with pytest.raises(ValueError, match="similarity function must be"):
        SentenceTransformer(modules=list(tiny()), similarity_fn_name="cosin")


def test_evaluate_calls_the_evaluator_with_a_folder_that_exists(tiny, tmp_path):
    calls = []

    def evaluator(model: SentenceTransformer, output_path: Path | None = None) -> dict[str, float]:
        calls.append((model, output_path, output_path is None or output_path.is_dir()))
        return {"score": 0.5}

    model = tiny()
    assert model.evaluate(evaluator) == {"score": 0.5}
    assert model.evaluate(evaluator, tmp_path / "a" / "b") == {"score": 0.5}
    assert calls == [(model, None, True), (model, tmp_path / "a" / "b", True)]


# -- Making one --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: SentenceTransformer(), ValueError, "give either model_name_or_path or modules"),
        (lambda m: SentenceTransformer("name", modules=list(m)), ValueError, "not both"),
        (lambda m: SentenceTransformer(list(m)), TypeError, r"got list; building blocks go to modules=\[...\]"),
        (lambda m: SentenceTransformer(5), TypeError, "must be a name or a folder, got int"),
        (lambda m: SentenceTransformer(modules=[]), ValueError, "modules is empty"),
        (lambda m: SentenceTransformer(modules=m[0]), TypeError, "must be a list of building blocks, got Transformer"),
        (lambda m: SentenceTransformer(modules=[m[0], "mean"]), TypeError, r"module 1 \(str\) is not a building block"),
        (lambda m: SentenceTransformer(modules=list(m), prompts={"a": 1}), TypeError, r"prompts\['a'\] must be a text"),
        (
            lambda m: SentenceTransformer(modules=list(m), default_prompt_name="q"),
            ValueError,
            "default_prompt_name must be one of",
        ),
        (lambda m: SentenceTransformer(modules=list(m), truncate_dim=0), ValueError, "truncate_dim must be"),
    ],
)
def test_an_encoder_that_cannot_be_made_says_why(tiny, make, error, message):
    with pytest.raises(error, match=message):
        make(tiny())


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([Pooling(16)], r"module 1 \(Pooling\) expects vectors of size 16, but the block before it returns 32"),
        (
            [Pooling(32), models.Dense(16, 4)],
            r"module 2 \(Dense\) expects vectors of size 16, but the block before it returns 32",
        ),
        ([Pooling(32, ["cls", "mean"]), models.LayerNorm(32)], r"module 2 \(LayerNorm\) expects .* 32, .* returns 64"),
        ([models.CNN(16, 4), Pooling(12)], r"module 1 \(CNN\) expects vectors of size 16"),
        (
            [models.LSTM(32, 4), Pooling(4)],
            r"module 2 \(Pooling\) expects vectors of size 4, but the block before it returns 8",
        ),
        ([models.WeightedLayerPooling(16), Pooling(32)], r"module 1 \(WeightedLayerPooling\) expects .* 16"),
        ([Pooling(32), models.Router({"q": [], "d": [models.Dense(8, 4)]})], r"d 0 \(Dense\) expects .* 8"),
        (
            [Pooling(32), models.Router({"q": [models.Dense(32, 4)]}), models.Dense(32, 4)],
            "size 32, but the block before it returns 4",
        ),
    ],
)
def test_blocks_that_do_not_fit_each_other_are_refused_before_anything_runs(tiny, blocks, message):
    with pytest.raises(ValueError, match=message):
        SentenceTransformer(modules=[tiny()[0], *blocks])


def test_without_a_pooling_there_are_token_vectors_and_a_clear_error(tiny):
    model = SentenceTransformer(modules=[tiny()[0]], device="cpu")
    assert model.encode("the cat", output_value="token_embeddings").shape == (4, 32)
    with pytest.raises(ValueError, match="put a Pooling after the Transformer"):
        model.encode("the cat")


def test_truncate_dim_of_the_model_holds_until_another_is_given(tiny, tmp_path):
    model = SentenceTransformer(modules=list(tiny()), truncate_dim=8, device="cpu")
    whole = tiny().encode(WORDS)
    np.testing.assert_array_equal(model.encode(WORDS), whole[:, :8])
    np.testing.assert_array_equal(model.encode(WORDS, truncate_dim=20), whole[:, :20])
    assert model.get_sentence_embedding_dimension() == 8
    ours, theirs = both(model, tmp_path / "model")
    np.testing.assert_allclose(ours.encode(WORDS), theirs.encode(WORDS), atol=1e-5)


def test_a_model_can_be_copied_and_pickled(tiny):
    model = tiny(modules=[models.Dense(32, 4)])
    expected = model.encode(WORDS)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.encode(WORDS), expected)
    twin[2].linear.weight.data.zero_()
    np.testing.assert_array_equal(model.encode(WORDS), expected)


# -- Batches for hand-written loops ------------------------------------------------------------------------------------


def test_tokenize_gives_what_the_model_reads(tiny):
    model = tiny()
    features = model.tokenize(WORDS)
    assert features["input_ids"].shape == features["attention_mask"].shape == (6, 10)
    found = model(features)["sentence_embedding"].detach().numpy()
    np.testing.assert_allclose(found, model.encode(WORDS), atol=1e-6)
    assert model.tokenize("the cat")["input_ids"].tolist() == model.tokenize(["the cat"])["input_ids"].tolist()
    assert model.tokenize(pd.Series(WORDS, index=range(5, 11)))["input_ids"].equal(features["input_ids"])
    with pytest.raises(TypeError, match=r"sentences\[1\] is NoneType"):
        model.tokenize(["a", None])


def test_smart_batching_collate_gives_one_features_dictionary_a_column(tiny):
    model = tiny()
    examples = [InputExample(texts=["the cat", "a big dog"], label=0.5), InputExample(texts=["a", "red"], label=1.0)]
    features, labels = model.smart_batching_collate(examples)
    assert [column["input_ids"].shape for column in features] == [(2, 4), (2, 5)]
    assert features[1]["input_ids"].equal(model.tokenize(["a big dog", "red"])["input_ids"])
    assert labels.tolist() == [0.5, 1.0]
    assert model.smart_batching_collate([InputExample(texts=["a"], label=None)])[1] is None


# -- Keeping -----------------------------------------------------------------------------------------------------------


def test_tokens_added_just_before_saving_are_saved(tiny, tmp_path):
    model = tiny()
    model.tokenizer.add_tokens(["[DOC]"], special_tokens=True)
    with pytest.warns(UserWarning, match="1 tokens were added"):
        model.save(tmp_path / "model")
    again = SentenceTransformer(tmp_path / "model", device="cpu")
    np.testing.assert_allclose(again.encode("[DOC] a cat"), model.encode("[DOC] a cat"), atol=1e-6)


def test_the_model_card_names_model_sizes_blocks_and_data(tiny, tmp_path):
    model = tiny(modules=[models.Dense(32, 8)])
    model.save(tmp_path / "model", model_name="my model", train_datasets=["helpdesk"])
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    for part in ("# my model", "- helpdesk", "up to 64 tokens to vectors of 8 dimensions", "cosine similarity"):
        assert part in card
    blocks = card.split("```")[-2].strip().splitlines()
    assert blocks == [
        "0. Transformer(max_seq_length=64, architecture=BertModel)",
        "1. Pooling(32, 'mean')",
        "2. Dense()",
    ]
    model.save(tmp_path / "bare", create_model_card=False)
    assert not (tmp_path / "bare" / "README.md").exists()
    static = SentenceTransformer(modules=[models.StaticEmbedding.from_transformer(model[0])], device="cpu")
    static.save(tmp_path / "static")
    assert "texts of any length to vectors of 32 dimensions" in (tmp_path / "static" / "README.md").read_text()


def test_push_to_hub_makes_the_repository_and_uploads_a_model_that_loads(tiny, tmp_path, monkeypatch):
    calls: dict[str, Any] = {}

    class FakeApi:
        def __init__(self, token: str | None = None) -> None:
            calls["token"] = token

        def create_repo(self, repo_id: str, **arguments: Any) -> Any:
            calls["create"] = (repo_id, arguments)
            return huggingface_hub.RepoUrl(f"https://huggingface.co/someone/{repo_id}")

        def upload_folder(self, repo_id: str, folder_path: Path, **arguments: Any) -> str:
            loaded = SentenceTransformer(folder_path, device="cpu")
            calls["upload"] = (repo_id, arguments, loaded.encode(WORDS), (folder_path / "README.md").read_text())
            return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    model = tiny()
    address = model.push_to_hub("mine", token="secret", private=True, commit_message="First")
    assert address == "https://huggingface.co/someone/mine/commit/1"
    assert calls["token"] == "secret"
    assert calls["create"] == ("mine", {"private": True, "exist_ok": True})
    repo_id, arguments, embeddings, card = calls["upload"]
    assert (repo_id, arguments) == ("someone/mine", {"commit_message": "First"})
    assert "# someone/mine" in card
    np.testing.assert_allclose(embeddings, model.encode(WORDS), atol=1e-6)


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_documents_take_the_prompt_that_the_model_has_for_them(tiny, name):
    model = tiny()
    model.prompts = {"query": "question : ", name: "answer : "}
    np.testing.assert_array_equal(model.encode_document(WORDS), model.encode(WORDS, prompt="answer : "))
    np.testing.assert_array_equal(model.encode_document(WORDS, prompt=""), model.encode(WORDS))
    np.testing.assert_array_equal(model.encode_query(WORDS), model.encode(WORDS, prompt="question : "))


def test_the_mode_comes_back_after_an_error_too(tiny):
    model = tiny().train()
    with pytest.raises(ValueError, match="surrogate"):
        model.encode(["\ud83d"])
    assert model.training
    assert model[0].auto_model.training
