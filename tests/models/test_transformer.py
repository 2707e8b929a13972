"""Blocks that read texts against sentence-transformers' own, and bad input."""

import json
import warnings

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from sentence_transformers.base import modules as peer_base
from sentence_transformers.sentence_transformer import modules as peer
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer

from sbertlab import SentenceTransformer, models
from sbertlab.data.texts import TruncationWarning
from sbertlab.models import POOLING_MODES, Pooling

TEXTS = ["the cat sits on the garden", "dog", "", "how can i change my e mail address , please ? xylophone", "🐈"]
LONG = "the cat sits on the garden and reads a book " * 20

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SHORT = {**SIZES, "max_position_embeddings": 40}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
ARCHITECTURES = {
    "BERT": ("Bert", SHORT, 40),
    "RoBERTa": ("Roberta", {**SHORT, "pad_token_id": 1}, 38),
    "RoBERTa padded by 0": ("Roberta", {**SHORT, "pad_token_id": 0}, 39),
    "MPNet": ("MPNet", SHORT, 38),
    "MPNet padded by 0": ("MPNet", {**SHORT, "pad_token_id": 0}, 38),
    "DeBERTa": ("DebertaV2", {**SIZES, "relative_attention": True, "position_biased_input": False}, 64),
    "T5": ("T5", T5, 64),
}
"""Names of classes, their small configurations, and the longest input with a tokenizer that allows 64 tokens."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Save a tiny random model of an architecture, with a tokenizer of real words, and return its folder."""

    def save(name, tokenizer):
        kind, config, _ = ARCHITECTURES[name]
        folder = tmp_path_factory.getbasetemp() / "architectures" / name
        if not folder.exists():
            torch.manual_seed(0)
            config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **config)
            getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return save


def both(folder, limit):
    """The encoder of a folder here and in sentence-transformers, which allows positions that RoBERTa does not have."""
    ours = SentenceTransformer(modules=[models.Transformer(folder), Pooling(32)], device="cpu")
    body = [peer_base.Transformer(str(folder)), peer.Pooling(32)]
    theirs = sentence_transformers.SentenceTransformer(modules=body, device="cpu")
    theirs.max_seq_length = limit
    return ours, theirs


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_gives_the_peers_embeddings_up_to_its_longest_input(tiny, folders, name):
    longest, texts = ARCHITECTURES[name][2], [*TEXTS, LONG]
    ours, theirs = both(folders(name, tiny()[0].tokenizer), longest)
    assert ours.tokenize([LONG])["input_ids"].shape[1] == ours.max_seq_length == longest
    assert ours.tokenize(["the cat"])["input_ids"][0, 1] > 4, "known words must not become [UNK]"
    with pytest.warns(TruncationWarning):
        found = ours.encode(texts)
    np.testing.assert_allclose(found, theirs.encode(texts), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.01


def test_without_a_limit_the_models_longest_input_is_read(tiny, folders):
    encoder = models.Transformer(folders("RoBERTa", tiny()[0].tokenizer), max_seq_length=7)
    assert encoder.tokenize([LONG])["input_ids"].shape == (1, 7)
    encoder.max_seq_length = None
    assert encoder(encoder.tokenize([LONG]))["token_embeddings"].shape == (1, 38, 32)


def test_of_t5_the_encoder_half_is_loaded_whatever_was_saved(tiny, tmp_path):
    tokenizer = tiny()[0].tokenizer
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=len(tokenizer), **T5))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = models.Transformer(tmp_path)
    assert type(encoder.auto_model).__name__ == "T5EncoderModel"
    features = encoder.tokenize(TEXTS)
    expected = model.get_encoder().eval()(features["input_ids"], features["attention_mask"]).last_hidden_state
    mask = features["attention_mask"].bool()
    torch.testing.assert_close(encoder(features)["token_embeddings"][mask], expected[mask], atol=1e-5, rtol=1e-5)


def test_a_tokenizer_written_in_python_gives_the_peers_embeddings(tmp_path):
    tokenizer = ByT5Tokenizer(model_max_length=12)
    transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(tokenizer), **T5)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ours, theirs = both(tmp_path, 12)
    tokens = ours[0].token_ids(TEXTS)
    lengths = [len(ids) for ids in tokens.ids]
    assert lengths == [12, 4, 1, 12, 5]
    assert tokens.cut == [len(text.encode()) + 1 - length for text, length in zip(TEXTS, lengths, strict=True)]
    with pytest.warns(TruncationWarning):
        np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)


def test_the_lengths_of_a_limit_count_special_tokens(tiny):
    encoder = tiny()[0]
    encoder.max_seq_length = 5
    tokens = encoder.token_ids(["the cat sits", "the cat sits on", "the cat sits on the garden", ""])
    assert [len(ids) for ids in tokens.ids] == [5, 5, 5, 2]
    assert tokens.cut == [0, 1, 3, 0]


@pytest.mark.parametrize("value", [1, 5.0, True, "12", 65])
def test_a_bad_length_limit_is_refused_and_leaves_the_old_one(tiny, value):
    encoder = tiny()[0]
    encoder.max_seq_length = np.int64(9)
    with pytest.raises(ValueError, match="max_seq_length must be a whole number of at least 2 and at most 64"):
        encoder.max_seq_length = value
    assert json.dumps(encoder.config()) == '{"max_seq_length": 9, "do_lower_case": false}'


def test_a_single_text_and_half_a_surrogate_pair_are_refused(tiny):
    with pytest.raises(TypeError, match="got the text 'the cat'"):
        tiny()[0].tokenize("the cat")
    with pytest.raises(ValueError, match=r"broken .*half a surrogate pair"):
        tiny()[0].tokenize(["fine", "broken \ud83d"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_truncated_on_the_side_of_the_tokenizer(tiny, side):
    encoder = tiny()[0]
    encoder.tokenizer.truncation_side = side
    encoder.max_seq_length = 5
    texts = ["the cat sits on the garden", "dog", "a big dog"]
    expected = encoder.tokenizer(texts, truncation=True, max_length=5, padding=True, return_tensors="pt")
    found = encoder.tokenize(texts)
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    assert found["attention_mask"].tolist() == expected["attention_mask"].tolist()


def test_a_tokenizer_that_pads_on_the_left_does_not_move_the_positions(tiny):
    model = tiny(list(POOLING_MODES))
    alone = [model.encode(text) for text in TEXTS]
    model.tokenizer.padding_side = "left"
    np.testing.assert_allclose(model.encode(TEXTS), alone, atol=1e-5)


def test_do_lower_case_lowers_texts_for_a_cased_tokenizer(tiny, folders):
    encoder = models.Transformer(folders("BERT", tiny()[0].tokenizer), do_lower_case=True)
    encoder.tokenizer.backend_tokenizer.normalizer = None
    assert encoder.token_ids(["The CAT"]).ids == encoder.token_ids(["the cat"]).ids
    encoder.do_lower_case = False
    assert encoder.token_ids(["The CAT"]).ids != encoder.token_ids(["the cat"]).ids


def test_the_tokenizer_may_come_from_another_folder(tiny, folders, tmp_path):
    folder = folders("BERT", tiny()[0].tokenizer)
    transformers.AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    encoder = models.Transformer(tmp_path, tokenizer_name_or_path=folder, tokenizer_args={"model_max_length": 11})
    assert encoder.max_seq_length == 11
    assert encoder.token_ids(["the cat"]).ids == models.Transformer(folder).token_ids(["the cat"]).ids
    with pytest.raises(ValueError, match=r"has no vocabulary.*tokenizer\.json"):
        models.Transformer(tmp_path)


def test_model_arguments_reach_the_configuration_and_the_model(tiny, folders):
    arguments = {"output_hidden_states": True, "dtype": torch.bfloat16, "attn_implementation": "eager"}
    encoder = models.Transformer(folders("BERT", tiny()[0].tokenizer), model_args=arguments)
    features = encoder(encoder.tokenize(["the cat"]))
    assert features["token_embeddings"].dtype == torch.bfloat16
    assert len(features["all_layer_embeddings"]) == 3
    assert encoder.auto_model.config._attn_implementation == "eager"


def test_without_special_tokens_an_empty_text_becomes_zeros(tiny):
    model = tiny(list(POOLING_MODES))
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert model[0].token_ids(["", "the cat"]).ids[0] == []
    assert not model.encode("").any()
    found = model.encode(["the cat", "", "a dog sits"])
    assert not found[1].any()
    np.testing.assert_allclose(found[0], model.encode("the cat"), atol=1e-6)


def test_added_special_tokens_get_rows_of_their_own(tiny):
    model = tiny()
    encoder = model._first_module()
    encoder.tokenizer.add_tokens(["[DOC]", "[QRY]"], special_tokens=True)
    rows, old = len(encoder.token_matrix()), encoder.token_matrix().detach().clone()
    with pytest.warns(UserWarning, match=f"2 tokens were added.*grew from {rows} to {rows + 2}.*fine-tune"):
        marked, other, plain = model.encode(["[DOC] the cat", "[QRY] the cat", "the cat"])
    assert encoder.token_ids(["[DOC] the cat"]).ids[0][1] == rows, "one token, not its letters"
    assert np.abs(marked - other).max() > 1e-3
    assert np.abs(marked - plain).max() > 1e-3
    grown = encoder.token_matrix()
    assert grown.requires_grad
    assert grown[:rows].equal(old)
    assert 0.3 < grown[rows:].std() / old.std() < 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(["[DOC] once more"])


def test_the_rows_of_added_tokens_are_seeded_and_leave_the_random_state_alone(tiny):
    grown = []
    for seed in (1, 2):
        encoder = tiny()[0]
        encoder.tokenizer.add_tokens(["[DOC]"], special_tokens=True)
        before = torch.manual_seed(seed).get_state()
        with pytest.warns(UserWarning, match="1 tokens were added"):
            encoder.match_vocabulary()
        assert torch.get_rng_state().equal(before)
        grown.append(encoder.token_matrix()[-1])
    assert grown[0].abs().min() > 0
    assert grown[0].equal(grown[1])


@pytest.mark.parametrize("limit", [None, 7])
@pytest.mark.parametrize("kind", ["transformers", "tokenizers"])
def test_static_embeddings_equal_the_peers_with_unknown_words_no_words_and_a_limit(tiny, kind, limit):
    tokenizer, weights = tiny()[0].tokenizer, torch.randn(400, 8)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    if limit:
        backend.enable_truncation(max_length=limit)
    given = tokenizer if kind == "transformers" else backend
    ours = SentenceTransformer(modules=[models.StaticEmbedding(given, weights)], device="cpu")
    if kind == "transformers":
        ours.max_seq_length = limit
    theirs = sentence_transformers.SentenceTransformer(modules=[peer.StaticEmbedding(given, weights)], device="cpu")
    texts = [*TEXTS, LONG, "[CLS] typed [SEP]"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)
        found = ours.encode(texts)
    np.testing.assert_allclose(found, theirs.encode(texts), atol=1e-6)
    assert not found[2].any()
    assert ours.max_seq_length == limit


def test_static_embeddings_from_a_transformer_are_means_of_its_token_vectors(tiny):
    encoder = tiny()[0]
    block = models.StaticEmbedding.from_transformer(encoder)
    table = encoder.auto_model.embeddings.word_embeddings.weight
    ids = encoder.token_ids(["the cat sits"]).ids[0][1:-1]
    expected = torch.stack([table[token] for token in ids]).mean(dim=0)
    torch.testing.assert_close(block(block.tokenize(["the cat sits"]))["sentence_embedding"][0], expected)
    block.embedding.weight.data.zero_()
    assert table.abs().sum() > 0, "a copy"


@pytest.mark.parametrize("arguments", [{}, {"embedding_weights": torch.ones(3, 4)}, {"embedding_dim": 0}])
def test_a_bad_matrix_of_static_embeddings_is_refused(tiny, arguments):
    with pytest.raises(ValueError, match=r"one row per token, got \(\d+, [04]\)"):
        models.StaticEmbedding(tiny()[0].tokenizer, **arguments)
