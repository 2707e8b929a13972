"""The encoder against sentence-transformers on the same folder, with every kind of input, good and bad."""

import copy
import json
import logging
import pickle
import subprocess
import sys
import warnings

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import sentence_transformers
import torch

from sbertlab import SentenceTransformer, models
from sbertlab.data.texts import TruncationWarning
from sbertlab.encoder import sentence_transformer as encoder
from sbertlab.models import Pooling

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
def minilm_peer(minilm_folder):
    return Peer(str(minilm_folder), device="cpu")


@pytest.fixture
def quiet():
    """Let cut texts pass without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        yield


def both(model, folder):
    """Save a model; return it as it is read here and as the peer reads it."""
    model.save(folder)
    return SentenceTransformer(folder, device="cpu"), Peer(str(folder), device="cpu")


def spread(embeddings):
    """How much the embeddings differ from text to text."""
    return float(np.ptp(np.asarray(embeddings), axis=0).max())


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


def test_token_vectors_and_all_features_equal_the_peers_without_padding(minilm, minilm_peer):
    def close(ours, theirs):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)

    texts = TEXTS[:9]
    ours, theirs = (model.encode(texts, output_value="token_embeddings") for model in (minilm, minilm_peer))
    for mine, reference in zip(ours, theirs, strict=True):
        close(mine, reference)
    close(minilm.encode(texts[0], output_value="token_embeddings"), ours[0])
    ours, theirs = (model.encode(texts, output_value=None) for model in (minilm, minilm_peer))
    for mine, reference in zip(ours, theirs, strict=True):
        tokens = int(mine["attention_mask"].sum())
        assert tokens == reference["attention_mask"].sum()
        assert mine["input_ids"][:tokens].equal(reference["input_ids"][:tokens])
        close(mine["token_embeddings"][:tokens], reference["token_embeddings"][:tokens])
        close(mine["sentence_embedding"], reference["sentence_embedding"])
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
    assert difference.max() <= ("binary" not in precision)  # a value on the edge of a step falls to either side of it
    assert (difference == 0).mean() > 0.98
    assert len(np.unique(found)) > 3
    tensor = ours.encode(texts, precision=precision, convert_to_tensor=True)
    assert np.array_equal(tensor.numpy(), found)


def test_truncated_and_normalised_embeddings_equal_the_peers(tiny, tmp_path):
    ours, theirs = both(tiny(), tmp_path / "model")
    arguments = {"truncate_dim": 10, "normalize_embeddings": True}
    found = ours.encode(WORDS, **arguments)
    np.testing.assert_allclose(found, theirs.encode(WORDS, **arguments), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    whole = ours.encode(WORDS)
    ours.truncate_dim = 8
    np.testing.assert_array_equal(ours.encode(WORDS), whole[:, :8])
    np.testing.assert_array_equal(ours.encode(WORDS, truncate_dim=20), whole[:, :20])
    assert ours.get_sentence_embedding_dimension() == 8


def test_the_similarity_is_the_one_that_is_named_as_in_the_peer(tiny, tmp_path):
    model = tiny()
    model.similarity_fn_name = "euclidean"
    ours, theirs = both(model, tmp_path / "model")
    a, b = ours.encode(WORDS), ours.encode(WORDS[::-1])
    torch.testing.assert_close(ours.similarity(a, b), theirs.similarity(a, b), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.similarity_pairwise(a, b), theirs.similarity_pairwise(a, b), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("mode", ["mean", "cls", "weightedmean"])
def test_prompts_equal_the_peers_with_and_without_their_tokens_in_the_pooling(tiny, tmp_path, include_prompt, mode):
    blocks = [tiny()[0], Pooling(32, mode, include_prompt=include_prompt)]
    prompts = {"query": "question : ", "document": "answer : ", "other": "price : "}
    ours, theirs = both(SentenceTransformer(modules=blocks, prompts=prompts, device="cpu"), tmp_path / "model")
    assert ours.prompts == theirs.prompts == prompts
    arguments = [{"prompt_name": "other"}, {"prompt": "help : "}, {"prompt": ""}, {}]
    for given in arguments:
        np.testing.assert_allclose(ours.encode(WORDS, **given), theirs.encode(WORDS, **given), atol=1e-5)
    np.testing.assert_allclose(ours.encode_query(WORDS), theirs.encode_query(WORDS), atol=1e-5)
    np.testing.assert_allclose(ours.encode_document(WORDS), theirs.encode_document(WORDS), atol=1e-5)
    assert np.abs(ours.encode_query(WORDS) - ours.encode(WORDS)).max() > 1e-3


def test_the_default_prompt_is_taken_unless_another_is_named(tiny):
    prompts = {"query": "question : ", "none": ""}
    model = SentenceTransformer(modules=list(tiny()), prompts=prompts, default_prompt_name="query", device="cpu")
    np.testing.assert_array_equal(model.encode(WORDS), model.encode(WORDS, prompt_name="query"))
    np.testing.assert_array_equal(model.encode(WORDS, prompt=""), tiny().encode(WORDS))
    np.testing.assert_array_equal(model.encode(WORDS, prompt_name="none"), tiny().encode(WORDS))
    assert np.abs(model.encode(WORDS) - tiny().encode(WORDS)).max() > 1e-3


@pytest.mark.parametrize("name", ["document", "passage", "corpus"])
def test_documents_take_the_prompt_that_the_model_has_for_them(tiny, name):
    model = tiny()
    model.prompts = {"query": "question : ", name: "answer : "}
    np.testing.assert_array_equal(model.encode_document(WORDS), model.encode(WORDS, prompt="answer : "))
    np.testing.assert_array_equal(model.encode_document(WORDS, prompt=""), model.encode(WORDS))


def test_texts_may_come_in_any_one_dimensional_shape(tiny):
    model = tiny()
    expected = model.encode(WORDS)
    series = pd.Series(WORDS, index=[7, 7, -1, 0, 3, 2], dtype="category")
    for given in (iter(WORDS), series, np.array(WORDS[::-1])[::-1], [np.str_(text) for text in WORDS]):
        np.testing.assert_array_equal(model.encode(given), expected)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, TypeError, "got NoneType"),
        (["fine", float("nan")], TypeError, r"sentences\[1\] is float"),
        (["fine", "broken \ud83d"], ValueError, "half a surrogate pair"),
    ],
)
def test_what_is_no_text_is_refused_and_the_mode_comes_back(tiny, given, error, message):
    model = tiny().train()
    with pytest.raises(error, match=message):
        model.encode(given)
    assert model[0].auto_model.training


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_name": "qury"}, "prompt_name must be one of"),
        ({"output_value": "cls"}, "output_value must be .* got 'cls'"),
        ({"precision": "float16"}, "precision must be one of .* got 'float16'"),
        ({"truncate_dim": 0}, "truncate_dim must be a whole number of at least 1, got 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused_by_name(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny().encode(WORDS, **arguments)


def test_no_texts_give_an_array_of_no_rows(tiny):
    model = tiny()
    assert model.encode([]).dtype == np.float32
    assert model.encode(pd.Series([], dtype=str), convert_to_tensor=True).shape == model.embed([]).shape == (0, 32)
    assert model.encode([], convert_to_numpy=False) == model.encode([], output_value="token_embeddings") == []
    assert model.encode([], truncate_dim=5, normalize_embeddings=True).shape == (0, 5)
    assert model.encode([], precision="ubinary").shape == (0, 4)


def test_the_result_is_an_array_a_tensor_or_a_list_of_tensors(tiny):
    model = tiny()
    array, tensor = model.encode(WORDS), model.encode(WORDS, convert_to_tensor=True)
    tensors = model.encode(WORDS, convert_to_numpy=False)
    assert (type(array), type(tensor), type(tensors)) == (np.ndarray, torch.Tensor, list)
    assert np.array_equal(tensor.numpy(), array)
    assert np.array_equal(torch.stack(tensors).numpy(), array)
    assert not tensor.requires_grad
    assert model.encode("a").shape == model.encode("a", convert_to_tensor=True).shape == (32,)


def forward_sizes(model, monkeypatch):
    """Record the shape of every forward pass."""
    shapes = []
    plain = model[0].forward
    monkeypatch.setattr(model[0], "forward", lambda f: (shapes.append(f["input_ids"].shape), plain(f))[1])
    return shapes


@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_windows_of_texts_give_the_same_embeddings_in_the_same_order(tiny, monkeypatch, count):
    model = tiny()
    texts = [" ".join(["cat"] * (1 + 7 * index % 11)) for index in range(count)]
    expected = model.encode(texts)
    tokens = model.encode(texts, output_value="token_embeddings")
    monkeypatch.setattr(encoder, "WINDOW", 4)
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
        model.encode(WORDS)
        assert [module.training for module in model.modules()] == before


def test_a_bfloat16_model_gives_float32_arrays_near_the_float32_ones(tiny, tmp_path):
    model = tiny(modules=[models.Dense(32, 16), models.LayerNorm(16)])
    model.save(tmp_path / "model")
    half = SentenceTransformer(tmp_path / "model", model_kwargs={"dtype": torch.bfloat16}, device="cpu")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    found = half.encode(WORDS)
    assert found.dtype == half.encode([]).dtype == np.float32
    assert 0 < np.abs(found - model.encode(WORDS)).max() < 0.05
    assert half.encode(WORDS, convert_to_tensor=True).dtype == torch.bfloat16


def test_the_progress_bar_appears_when_asked_for_or_when_the_logger_informs(tiny, capfd, caplog):
    model = tiny()
    for asked, level, shown in ((None, "WARNING", False), (True, "WARNING", True), (None, "INFO", True)):
        with caplog.at_level(getattr(logging, level), logger="sbertlab.encoder.sentence_transformer"):
            model.encode(WORDS, show_progress_bar=asked)
        assert ("Encoding: 100%" in capfd.readouterr().err) == shown


def test_without_a_device_the_best_one_is_taken(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert encoder.best_device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    assert encoder.best_device() == torch.device("cuda")


def test_one_warning_counts_the_cut_texts_and_tokens(tiny, monkeypatch):
    monkeypatch.setattr(encoder, "WINDOW", 2)
    model = tiny()
    model.max_seq_length = 5  # three words
    texts = ["the cat sits on a bed", "the cat", "a dog sits on", "the cat sits on a bed", "a dog runs"]
    with pytest.warns(TruncationWarning) as caught:
        model.encode(texts)
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "3 of 5 texts are longer than max_seq_length=5: 7 of 31 tokens (22.6%) were not read" in message
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(["the cat sits", "", "a dog"])
        model.embed(["the cat sits"])


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: SentenceTransformer(), "give either model_name_or_path or modules"),
        (lambda m: SentenceTransformer("name", modules=list(m)), "not both"),
        (lambda m: SentenceTransformer(modules=list(m), default_prompt_name="q"), "prompt_name must be one of"),
        (lambda m: SentenceTransformer(modules=list(m), similarity_fn_name="cosin"), "must be one of .* got 'cosin'"),
        (lambda m: SentenceTransformer(modules=[m[0]]).encode("a"), "put a Pooling after the Transformer"),
    ],
)
def test_an_encoder_that_cannot_be_made_says_why(tiny, make, message):
    with pytest.raises(ValueError, match=message):
        make(tiny())


def test_a_model_can_be_copied_and_pickled_for_another_process(tiny, tmp_path):
    model = tiny(modules=[models.Dense(32, 4)])
    expected = model.encode(WORDS)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(twin.encode(WORDS), expected)
    twin[2].linear.weight.data.zero_()
    np.testing.assert_array_equal(model.encode(WORDS, precision=None), expected)
    torch.save(model, tmp_path / "model.pt")  # in another process, no model has been made before
    code = (
        f"import torch; print(torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False).encode({WORDS}).tolist())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose(json.loads(found), expected, atol=1e-6)


def test_names_of_the_field_reach_what_they_name(tiny, tmp_path):
    model = tiny()
    evaluator = lambda encoder, output_path=None: {"reached": encoder is model, "at": output_path}  # noqa: E731
    assert model.evaluate(evaluator, tmp_path) == {"reached": True, "at": tmp_path}
    model.max_seq_length = 9
    assert model[0].max_seq_length == model.get_max_seq_length() == 9
    assert (model._first_module(), model._last_module()) == (model[0], model[1])


def test_push_to_hub_makes_the_repository_and_uploads_a_model_that_loads(tiny, monkeypatch):
    class FakeApi:
        def __init__(self, token):
            assert token == "secret"

        def create_repo(self, repo_id, private, exist_ok):
            assert (repo_id, private, exist_ok) == ("mine", True, True)
            return huggingface_hub.RepoUrl("https://huggingface.co/someone/mine")

        def upload_folder(self, repo_id, folder_path, commit_message):
            loaded = SentenceTransformer(folder_path, device="cpu")
            np.testing.assert_allclose(loaded.encode(WORDS), tiny().encode(WORDS), atol=1e-6)
            return f"{repo_id}: {commit_message}"

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    assert tiny().push_to_hub("mine", token="secret", private=True, commit_message="First") == "someone/mine: First"
