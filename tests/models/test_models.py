"""Building blocks against sentence-transformers' own, against arithmetic by hand, and against bad input."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from sentence_transformers.base import modules as peer_base
from sentence_transformers.sentence_transformer import modules as peer
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import ByT5Tokenizer

from sbertlab import SentenceTransformer, models
from sbertlab.data.texts import TruncationWarning
from sbertlab.models import POOLING_MODES, Pooling

Tiny = Callable[..., SentenceTransformer]
TEXTS = ["the cat sits on the garden", "dog", "", "how can i change my e mail address , please ? xylophone", "🐈"]
LONG = "the cat sits on the garden and reads a book " * 20


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def padded_batch(side: str = "right", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Random token vectors of texts with 5, 3 and 1 tokens; what lies in the padding is large and must not matter."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    mask = mask.flip(1) if side == "left" else mask
    vectors = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    vectors = torch.where(mask.bool().unsqueeze(-1), vectors, torch.full_like(vectors, 1e3))
    return {"token_embeddings": vectors.to(dtype), "attention_mask": mask}


def pooled(block: nn.Module, features: dict[str, Any]) -> Tensor:
    return block(dict(features))["sentence_embedding"]


# -- Pooling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("modes", [*POOLING_MODES, ["cls", "mean"], ["lasttoken", "cls", "max"], list(POOLING_MODES)])
def test_pooling_equals_the_peers_on_padded_batches(modes, side):
    features = padded_batch(side)
    ours, theirs = Pooling(4, modes), peer.Pooling(4, modes)
    torch.testing.assert_close(pooled(ours, features), pooled(theirs, features), atol=1e-6, rtol=1e-6)
    assert ours.get_sentence_embedding_dimension() == pooled(ours, features).shape[1]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [1.0, 8.0]),
        ("max", [4.0, 8.0]),
        ("mean", [3.0, 4.0]),
        ("mean_sqrt_len_tokens", [9.0 / 3**0.5, 12.0 / 3**0.5]),
        ("mean_sqrt_len", [9.0 / 3**0.5, 12.0 / 3**0.5]),
        ("weightedmean", [(1 * 1 + 2 * 4 + 3 * 4) / 6, (1 * 8 + 2 * 4 + 3 * 0) / 6]),
        ("lasttoken", [4.0, 0.0]),
    ],
)
def test_every_pooling_mode_gives_the_numbers_of_its_formula(mode, expected):
    vectors = torch.tensor([[[1.0, 8.0], [4.0, 4.0], [4.0, 0.0], [99.0, -99.0]]])
    features = {"token_embeddings": vectors, "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    torch.testing.assert_close(pooled(Pooling(2, mode), features), torch.tensor([expected]))


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_pooling_gives_a_text_the_same_vector_with_any_padding(mode):
    features = padded_batch()
    alone = {"token_embeddings": features["token_embeddings"][1:2, :3], "attention_mask": torch.ones(1, 3).long()}
    torch.testing.assert_close(pooled(Pooling(4, mode), alone)[0], pooled(Pooling(4, mode), features)[1])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", POOLING_MODES)
def test_pooling_without_the_prompt_equals_the_peers(mode, side):
    features = padded_batch(side)
    features = {name: value[:2] for name, value in features.items()} | {"prompt_length": 2}
    ours, theirs = Pooling(4, mode, include_prompt=False), peer.Pooling(4, mode, include_prompt=False)
    expected = pooled(theirs, features)
    torch.testing.assert_close(pooled(ours, features), expected, atol=1e-6, rtol=1e-6)
    if mode != "lasttoken":
        assert not torch.allclose(pooled(Pooling(4, mode), features), expected)


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_text_without_tokens_becomes_zeros_and_leaves_the_others_alone(mode):
    features = padded_batch()
    features["attention_mask"] = features["attention_mask"].clone()
    features["attention_mask"][1] = 0
    vectors = pooled(Pooling(4, mode), features)
    assert vectors[1].tolist() == [0.0] * 4
    torch.testing.assert_close(vectors[[0, 2]], pooled(Pooling(4, mode), padded_batch())[[0, 2]])


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens", "weightedmean"])
def test_sums_over_many_tokens_are_exact_inside_autocast(mode):
    vectors, mask = torch.rand(2, 700, 3) + 1, torch.ones(2, 700).long()
    features = {"token_embeddings": vectors, "attention_mask": mask}
    expected = pooled(Pooling(3, mode), features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pooled(Pooling(3, mode), features)
        half = pooled(Pooling(3, mode), {**features, "token_embeddings": vectors.bfloat16()})
    torch.testing.assert_close(found, expected)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=2**-7, atol=0)


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_pooling_in_float64_passes_torchs_gradient_check(mode):
    features = padded_batch(dtype=torch.float64)
    vectors = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda values: pooled(Pooling(4, mode), {**features, "token_embeddings": values}), vectors
    )


@pytest.mark.parametrize(
    ("flags", "modes"),
    [
        ({}, ("mean",)),
        ({"pooling_mode_mean_tokens": True}, ("mean",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_max_tokens": False}, ("mean",)),
        (
            {"pooling_mode_lasttoken": True, "pooling_mode_mean_sqrt_len_tokens": True},
            ("mean_sqrt_len_tokens", "lasttoken"),
        ),
    ],
)
def test_the_fields_flags_choose_the_modes(flags, modes):
    assert Pooling(4, **flags).modes == modes


def test_pooling_writes_version_2s_keys_and_later_ones_only_where_they_are_needed():
    plain = {
        "word_embedding_dimension": 4,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    assert Pooling(4).config() == plain
    later = Pooling(4, ["weightedmean", "lasttoken"], include_prompt=False).config()
    assert later.keys() - plain.keys() == {
        "pooling_mode_weightedmean_tokens",
        "pooling_mode_lasttoken",
        "include_prompt",
    }


@pytest.mark.parametrize("modes", [["mean"], ["mean", "cls"], ["lasttoken", "max"], list(POOLING_MODES)])
def test_pooling_is_made_again_from_its_configuration_here_and_by_the_peer(modes):
    block = Pooling(4, modes, include_prompt=False)
    config = json.loads(json.dumps(block.config()))
    again = Pooling.from_config(config)
    assert (again.modes, again.include_prompt) == (tuple(modes), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.Pooling(**config)
    torch.testing.assert_close(pooled(theirs, padded_batch()), pooled(block, padded_batch()))


@pytest.mark.parametrize(
    "arguments",
    [
        {"pooling_mode": "median"},
        {"pooling_mode": []},
        {"pooling_mode": ["mean", "mean"]},
        {"pooling_mode_mean_tokens": False},
    ],
)
def test_pooling_refuses_unknown_repeated_and_no_modes(arguments):
    with pytest.raises(ValueError, match="pooling_mode must name some of cls, max, mean"):
        Pooling(4, **arguments)


# -- From one vector to another ----------------------------------------------------------------------------------------


def same_block(ours: nn.Module, theirs: nn.Module) -> None:
    """Give both the same weights; fails where their names or shapes differ."""
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Identity(), None])
def test_dense_equals_the_peers(bias, activation):
    ours = models.Dense(4, 3, bias=bias, activation_function=activation)
    theirs = peer_base.Dense(4, 3, bias=bias, activation_function=activation)
    same_block(ours, theirs)
    vectors = torch.randn(5, 4)
    expected = pooled(theirs, {"sentence_embedding": vectors})
    torch.testing.assert_close(pooled(ours, {"sentence_embedding": vectors}), expected)
    assert ours.get_sentence_embedding_dimension() == 3


def test_dense_has_tanh_by_default_and_takes_initial_values():
    weight, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])
    block = models.Dense(2, 1, init_weight=weight, init_bias=bias)
    vectors = pooled(block, {"sentence_embedding": torch.tensor([[0.1, 0.2]])})
    torch.testing.assert_close(vectors, torch.tensor([[1.0]]).tanh())
    block.linear.weight.data.zero_()
    assert weight.tolist() == [[1.0, 2.0]], "the initial values are copied"
    assert block.config() == {
        "in_features": 2,
        "out_features": 1,
        "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }


def test_dense_is_made_again_from_its_configuration():
    block = models.Dense(4, 3, bias=False, activation_function=nn.Sigmoid())
    again = models.Dense.from_config(json.loads(json.dumps(block.config())))
    assert isinstance(again.activation_function, nn.Sigmoid)
    assert again.linear.bias is None
    assert again.config() == block.config()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"activation_function": "os.system"}, ValueError, "only modules of torch.nn"),
        ({"activation_function": "torch.nnx.Tanh"}, ValueError, "only modules of torch.nn"),
        ({"activation_function": "torch.nn.nowhere.Tanh"}, ValueError, "is not a module of torch"),
        ({"activation_function": "torch.nn.modules.activation.Tanhh"}, ValueError, "is not a module of torch"),
        ({"activation_function": "torch.nn.Linear"}, ValueError, "is not a module of torch"),
        ({"activation_function": "torch.nn.functional.tanh"}, ValueError, "is not a module of torch"),
        ({"activation_function": nn.Tanh}, TypeError, "such as nn.Tanh"),
        ({"activation_function": torch.tanh}, TypeError, "such as nn.Tanh"),
        ({"init_weight": torch.zeros(4)}, ValueError, r"init_weight must be of shape \(3, 4\), got shape \(4,\)"),
        ({"init_bias": torch.zeros(1)}, ValueError, r"init_bias must be of shape \(3,\)"),
        ({"bias": False, "init_bias": torch.zeros(3)}, ValueError, "init_bias must be None without a bias"),
    ],
)
def test_dense_refuses_what_it_cannot_use_and_says_why(arguments, error, message):
    with pytest.raises(error, match=message):
        models.Dense(4, 3, **arguments)


def test_dense_refuses_vectors_of_another_size():
    with pytest.raises(ValueError, match=r"in_features=4\).*size 5"):
        pooled(models.Dense(4, 3), {"sentence_embedding": torch.randn(2, 5)})


def test_layer_norm_equals_the_peers():
    ours, theirs = models.LayerNorm(4), peer.LayerNorm(4)
    nn.init.normal_(ours.norm.weight)
    nn.init.normal_(ours.norm.bias)
    same_block(ours, theirs)
    features = {"sentence_embedding": torch.randn(5, 4)}
    torch.testing.assert_close(pooled(ours, features), pooled(theirs, features))
    assert ours.config() == {"dimension": 4}


def test_normalize_gives_length_one_and_leaves_zeros():
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    found = pooled(models.Normalize(), {"sentence_embedding": vectors})
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
    torch.testing.assert_close(found, pooled(peer_base.Normalize(), {"sentence_embedding": vectors}))


def test_dropout_thins_while_training_and_not_afterwards():
    block, features = models.Dropout(0.25), {"sentence_embedding": torch.ones(100, 100)}
    thinned = pooled(block.train(), features)
    assert 0.2 < (thinned == 0).float().mean() < 0.3
    torch.testing.assert_close(thinned[thinned > 0].unique(), torch.tensor([1 / 0.75]))
    assert pooled(block.eval(), features).equal(features["sentence_embedding"])
    assert block.config() == {"dropout": 0.25}


@pytest.mark.parametrize(
    "block",
    [models.Dense(4, 3), models.Normalize(), models.LayerNorm(4), models.Dropout()],
    ids=lambda b: type(b).__name__,
)
def test_blocks_on_the_texts_vector_say_that_a_pooling_is_missing(block):
    with pytest.raises(ValueError, match="put a Pooling after the Transformer"):
        block(padded_batch())


@pytest.mark.parametrize("block", [Pooling(4), models.CNN(4, 2), models.LSTM(4, 2)], ids=lambda b: type(b).__name__)
def test_a_block_does_not_change_the_features_it_is_given(block):
    features = padded_batch()
    before = copy.deepcopy(features)
    block(features)
    assert features.keys() == before.keys()
    assert all(features[name].equal(before[name]) for name in before)


# -- From token vectors to token vectors -------------------------------------------------------------------------------


def test_the_mix_of_layers_equals_the_peers_and_learns():
    layers = tuple(torch.randn(2, 5, 4) for _ in range(4))
    weights = torch.tensor([1.0, 2.0, 0.5])
    ours = models.WeightedLayerPooling(4, num_hidden_layers=3, layer_start=1, layer_weights=weights)
    theirs = peer.WeightedLayerPooling(4, 3, 1, nn.Parameter(weights))
    features = {"all_layer_embeddings": layers, "token_embeddings": layers[-1]}
    mixed = ours(features)["token_embeddings"]
    torch.testing.assert_close(mixed, theirs(dict(features))["token_embeddings"])
    torch.testing.assert_close(mixed, (layers[1] + 2 * layers[2] + 0.5 * layers[3]) / 3.5)
    mixed.square().sum().backward()
    assert ours.layer_weights.grad.abs().min() > 0
    assert ours.config() == {"word_embedding_dimension": 4, "layer_start": 1, "num_hidden_layers": 3}


def test_the_mix_of_layers_takes_the_layers_of_a_transformer(tiny):
    encoder = tiny()[0]
    encoder.auto_model.config.output_hidden_states = True
    mix = models.WeightedLayerPooling(32, num_hidden_layers=2, layer_start=0)
    features = encoder(encoder.tokenize(TEXTS[:2]))
    assert len(features["all_layer_embeddings"]) == 3
    torch.testing.assert_close(features["all_layer_embeddings"][-1], features["token_embeddings"])
    expected = torch.stack(features["all_layer_embeddings"]).mean(dim=0)
    torch.testing.assert_close(mix(features)["token_embeddings"], expected)
    assert SentenceTransformer(modules=[encoder, mix, Pooling(32)], device="cpu").encode(TEXTS).shape == (5, 32)


def test_the_mix_of_layers_says_how_to_get_all_layers():
    with pytest.raises(ValueError, match="output_hidden_states"):
        models.WeightedLayerPooling(4)({"token_embeddings": torch.randn(1, 2, 4)})
    with pytest.raises(ValueError, match="expect 9 layers, the transformer has 2"):
        models.WeightedLayerPooling(4)({"all_layer_embeddings": (torch.randn(1, 2, 4),) * 6})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_start": 4}, "layer_start must be .* at most 3"),
        ({"layer_start": -1}, "layer_start must be .* at most 3"),
        ({"layer_start": 1, "layer_weights": torch.ones(2)}, r"shape \(3,\) for the layers 1 to 3, got \(2,\)"),
    ],
)
def test_the_mix_of_layers_refuses_layers_and_weights_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.WeightedLayerPooling(4, num_hidden_layers=3, **arguments)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_lstm_equals_the_peers_on_padded_batches(bidirectional):
    ours = models.LSTM(4, 3, num_layers=2, bidirectional=bidirectional)
    theirs = peer.LSTM(4, 3, num_layers=2, bidirectional=bidirectional)
    same_block(ours, theirs)
    features = padded_batch()
    features["sentence_lengths"] = features["attention_mask"].sum(dim=1)
    expected = theirs(dict(features))["token_embeddings"]
    torch.testing.assert_close(ours(features)["token_embeddings"], expected)
    assert ours.get_word_embedding_dimension() == expected.shape[-1]
    assert models.LSTM.from_config(ours.config()).config() == ours.config()


def test_lstm_refuses_padding_in_front():
    with pytest.raises(ValueError, match='padding_side = "right"'):
        models.LSTM(4, 3)(padded_batch("left"))


def test_cnn_equals_the_peers_where_there_is_no_padding():
    ours, theirs = models.CNN(4, 3, [1, 3]), peer.CNN(4, 3, [1, 3])
    same_block(ours, theirs)
    features = {"token_embeddings": torch.randn(2, 5, 4), "attention_mask": torch.ones(2, 5).long()}
    expected = theirs(dict(features))["token_embeddings"]
    torch.testing.assert_close(ours(features)["token_embeddings"], expected)
    assert ours.get_word_embedding_dimension() == expected.shape[-1] == 6
    assert models.CNN.from_config({**ours.config(), "stride_sizes": [1, 1]}).config() == ours.config()


def test_cnn_gives_a_text_the_same_vectors_with_any_padding():
    block, features = models.CNN(4, 3, [1, 3, 5]), padded_batch()
    alone = {"token_embeddings": features["token_embeddings"][1:2, :3], "attention_mask": torch.ones(1, 3).long()}
    torch.testing.assert_close(block(alone)["token_embeddings"][0], block(features)["token_embeddings"][1, :3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_sizes": [1, 2]}, "must be odd"),
        ({"kernel_sizes": []}, "must be odd"),
        ({"kernel_sizes": [-1]}, "must be odd"),
        ({"stride_sizes": [1, 2, 1]}, "stride_sizes must be 1"),
        ({"stride_sizes": [1]}, "stride_sizes must be 1"),
    ],
)
def test_cnn_refuses_widths_that_shift_the_tokens(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.CNN(4, 3, **arguments)


# -- Transformer -------------------------------------------------------------------------------------------------------

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any], int]] = {
    "BERT": ("Bert", {**SMALL, "max_position_embeddings": 40}, 40),
    "RoBERTa": ("Roberta", {**SMALL, "max_position_embeddings": 40, "pad_token_id": 1}, 38),
    "RoBERTa padded by 0": ("Roberta", {**SMALL, "max_position_embeddings": 40, "pad_token_id": 0}, 39),
    "MPNet": ("MPNet", {**SMALL, "max_position_embeddings": 40}, 38),
    "MPNet padded by 0": ("MPNet", {**SMALL, "max_position_embeddings": 40, "pad_token_id": 0}, 38),
    "DeBERTa": ("DebertaV2", {**SMALL, "relative_attention": True, "position_biased_input": False}, 64),
    "T5": ("T5", T5, 64),
}
"""Names of classes, their small configurations, and the longest input with a tokenizer that allows 64 tokens."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Any], Path]:
    """Save a tiny random model of an architecture, with a tokenizer of real words, and return its folder."""

    def save(name: str, tokenizer: Any) -> Path:
        kind, config, _ = ARCHITECTURES[name]
        folder = tmp_path_factory.getbasetemp() / "architectures" / name
        if not folder.exists():
            torch.manual_seed(0)
            config = getattr(transformers, f"{kind}Config")(vocab_size=len(tokenizer), **config)
            getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_gives_the_peers_embeddings_also_at_its_longest_input(tiny, folders, name):
    folder = folders(name, tiny()[0].tokenizer)
    encoder = models.Transformer(folder)
    ours = SentenceTransformer(modules=[encoder, Pooling(encoder.get_word_embedding_dimension())], device="cpu")
    body = peer_base.Transformer(str(folder))
    theirs = sentence_transformers.SentenceTransformer(modules=[body, peer.Pooling(32)], device="cpu")
    assert ours.max_seq_length == ARCHITECTURES[name][2]
    theirs.max_seq_length = ours.max_seq_length  # the peer allows positions that RoBERTa does not have
    texts = [*TEXTS, LONG]
    assert encoder.tokenize([LONG])["input_ids"].shape[1] == ours.max_seq_length
    with pytest.warns(TruncationWarning):
        found = ours.encode(texts)
    assert encoder.tokenize(["the cat"])["input_ids"][0, 1] > 4, "known words must not become [UNK]"
    np.testing.assert_allclose(found, theirs.encode(texts), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.01


@pytest.mark.parametrize("name", ["BERT", "RoBERTa", "MPNet padded by 0"])
def test_no_length_limit_leads_beyond_the_models_positions(tiny, folders, name):
    folder, longest = folders(name, tiny()[0].tokenizer), ARCHITECTURES[name][2]
    with pytest.raises(ValueError, match=f"max_seq_length must be at most {longest}, the positions"):
        models.Transformer(folder, max_seq_length=longest + 1)
    encoder = models.Transformer(folder, max_seq_length=7)
    assert encoder.tokenize([LONG])["input_ids"].shape == (1, 7)
    encoder.max_seq_length = None
    assert encoder.max_seq_length == longest
    assert encoder(encoder.tokenize([LONG]))["token_embeddings"].shape == (1, longest, 32)


@pytest.mark.parametrize("kind", ["T5EncoderModel", "T5Model", "T5ForConditionalGeneration"])
def test_of_a_t5_model_the_encoder_half_is_taken_whatever_was_saved(tiny, tmp_path, kind):
    tokenizer = tiny()[0].tokenizer
    model = getattr(transformers, kind)(transformers.T5Config(vocab_size=len(tokenizer), **T5))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = models.Transformer(tmp_path)
    assert type(encoder.auto_model).__name__ == "T5EncoderModel"
    features = encoder.tokenize(TEXTS)
    expected = model.get_encoder().eval()(features["input_ids"], features["attention_mask"]).last_hidden_state
    mask = features["attention_mask"].bool()
    torch.testing.assert_close(encoder(features)["token_embeddings"][mask], expected[mask], atol=1e-5, rtol=1e-5)
    assert encoder.get_word_embedding_dimension() == 32


def test_a_tokenizer_written_in_python_gives_the_peers_embeddings(tmp_path):
    tokenizer = ByT5Tokenizer()
    transformers.T5EncoderModel(transformers.T5Config(vocab_size=len(tokenizer), **T5)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = models.Transformer(tmp_path, max_seq_length=12)
    ours = SentenceTransformer(modules=[encoder, Pooling(32)], device="cpu")
    body = peer_base.Transformer(str(tmp_path), max_seq_length=12)
    theirs = sentence_transformers.SentenceTransformer(modules=[body, peer.Pooling(32)], device="cpu")
    tokens = encoder.token_ids(TEXTS)
    assert tokens.lengths == [12, 4, 1, 12, 5]
    assert tokens.cut == [len(text.encode()) + 1 - length for text, length in zip(TEXTS, tokens.lengths, strict=True)]
    with pytest.warns(TruncationWarning):
        found = ours.encode(TEXTS)
    np.testing.assert_allclose(found, theirs.encode(TEXTS), atol=1e-5)


def test_a_model_that_reads_characters_needs_no_embedding_matrix():
    config = transformers.CanineConfig(**{**SMALL, "max_position_embeddings": 256}, num_hash_buckets=256)
    encoder = models.Transformer.from_parts(transformers.CanineModel(config).eval(), transformers.CanineTokenizer())
    model = SentenceTransformer(modules=[encoder, Pooling(32)], device="cpu")
    assert model.encode(TEXTS).shape == (5, 32)


def test_the_lengths_of_a_limit_count_special_tokens(tiny):
    encoder = tiny()[0]
    encoder.max_seq_length = 5
    tokens = encoder.token_ids(["the cat sits", "the cat sits on", "the cat sits on the garden", ""])
    assert tokens.lengths == [5, 5, 5, 2]
    assert tokens.cut == [0, 1, 3, 0]
    encoder.max_seq_length = 2
    assert encoder.token_ids(["the cat sits"]).ids == encoder.token_ids([""]).ids
    assert encoder.token_ids(["the cat sits"]).cut == [3]


@pytest.mark.parametrize("value", [1, 0, -3, 5.0, True, "12"])
def test_a_length_limit_that_holds_no_special_tokens_or_is_no_number_is_refused(tiny, value):
    encoder = tiny()[0]
    before = encoder.max_seq_length
    with pytest.raises(ValueError, match="max_seq_length must be a whole number of at least 2"):
        encoder.max_seq_length = value
    assert encoder.max_seq_length == before


def test_a_refused_length_limit_leaves_the_old_one(tiny):
    encoder = tiny()[0]
    encoder.max_seq_length = np.int64(9)
    with pytest.raises(ValueError, match="at most 64, the positions"):
        encoder.max_seq_length = 65
    assert encoder.max_seq_length == 9
    assert json.dumps(encoder.config()) == '{"max_seq_length": 9, "do_lower_case": false}'


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_cut_and_padded_on_the_tokenizers_sides(tiny, side):
    encoder = tiny()[0]
    encoder.tokenizer.truncation_side = encoder.tokenizer.padding_side = side
    encoder.max_seq_length = 5
    texts = ["the cat sits on the garden", "dog", "a big dog"]
    expected = encoder.tokenizer(texts, truncation=True, max_length=5, padding=True, return_tensors="pt")
    found = encoder.tokenize(texts)
    assert found["input_ids"].tolist() == expected["input_ids"].tolist()
    assert found["attention_mask"].tolist() == expected["attention_mask"].tolist()


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_padding_in_front_gives_the_same_embeddings_from_relative_positions(tiny, folders, mode):
    encoder = models.Transformer(folders("T5", tiny()[0].tokenizer))
    model = SentenceTransformer(modules=[encoder, Pooling(32, mode)], device="cpu")
    right = model.encode(TEXTS)
    encoder.tokenizer.padding_side = "left"
    np.testing.assert_allclose(model.encode(TEXTS), right, atol=1e-5)


def test_do_lower_case_lowers_texts_before_a_tokenizer_that_knows_capitals(tiny, folders):
    folder = folders("BERT", tiny()[0].tokenizer)
    encoder = models.Transformer(folder, do_lower_case=True)
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


def test_model_arguments_reach_the_configuration_and_the_model(tiny, folders):
    arguments = {"output_hidden_states": True, "dtype": torch.bfloat16, "attn_implementation": "eager"}
    encoder = models.Transformer(folders("BERT", tiny()[0].tokenizer), model_args=arguments)
    features = encoder(encoder.tokenize(["the cat"]))
    assert features["token_embeddings"].dtype == torch.bfloat16
    assert len(features["all_layer_embeddings"]) == 3
    assert encoder.auto_model.config._attn_implementation == "eager"


def test_a_folder_without_a_vocabulary_is_refused_instead_of_reading_everything_as_unknown(tiny, folders, tmp_path):
    transformers.AutoModel.from_pretrained(folders("BERT", tiny()[0].tokenizer)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no vocabulary.*tokenizer\.json"):
        models.Transformer(tmp_path)


def test_a_folder_without_weights_or_with_a_broken_configuration_is_refused_by_name(tiny, folders, tmp_path):
    tiny()[0].tokenizer.save_pretrained(tmp_path)
    transformers.AutoConfig.from_pretrained(folders("BERT", tiny()[0].tokenizer)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"cannot load an encoder .*{tmp_path.name}"):
        models.Transformer(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=f"cannot load an encoder .*{tmp_path.name}"):
        models.Transformer(tmp_path)


@pytest.mark.parametrize("texts", [["fine", 3], ["fine", None], ["fine", b"bytes"], ["fine", float("nan")]])
def test_tokenising_something_else_than_text_names_its_position(tiny, texts):
    with pytest.raises(TypeError, match=r"texts\[1\] must be a text"):
        tiny()[0].tokenize(texts)


def test_tokenising_one_string_instead_of_several_is_refused(tiny):
    with pytest.raises(TypeError, match="got the text 'the cat'"):
        tiny()[0].tokenize("the cat")


@pytest.mark.parametrize("mode", POOLING_MODES)
def test_a_tokenizer_without_special_tokens_leaves_an_empty_text_zeros_alone_and_among_others(tiny, mode):
    model = tiny(mode)
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert model[0].token_ids(["", "the cat"]).lengths == [0, 2]
    assert model.encode("").tolist() == [0.0] * 32
    found = model.encode(["the cat", "", "a dog sits"])
    assert found[1].tolist() == [0.0] * 32
    np.testing.assert_allclose(found[0], model.encode("the cat"), atol=1e-6)


def test_half_a_surrogate_pair_is_refused_with_the_remedy(tiny):
    with pytest.raises(ValueError, match=r"half a surrogate pair.; repair it"):
        tiny()[0].tokenize(["fine", "broken \ud83d"])


# -- Special tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_added_special_tokens_get_rows_of_their_own_whenever_they_are_added(tiny, folders, before):
    encoder = models.Transformer(folders("BERT", tiny()[0].tokenizer))
    tokens = ["[DOC]", "[QRY]"]
    if before:
        encoder.tokenizer.add_tokens(tokens, special_tokens=True)
        model = SentenceTransformer(modules=[encoder, Pooling(encoder.get_word_embedding_dimension())], device="cpu")
    else:
        model = SentenceTransformer(modules=[encoder, Pooling(encoder.get_word_embedding_dimension())], device="cpu")
        model._first_module().tokenizer.add_tokens(tokens, special_tokens=True)
    rows = len(encoder.token_matrix())
    old = encoder.token_matrix().detach().clone()
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
        torch.manual_seed(seed)
        with pytest.warns(UserWarning, match="1 tokens were added"):
            encoder.match_vocabulary()
        grown.append(encoder.token_matrix()[-1].detach())
        after = torch.rand(1)
        torch.manual_seed(seed)
        assert torch.rand(1) == after
    assert grown[0].abs().min() > 0
    assert grown[0].equal(grown[1])


def test_static_embeddings_grow_with_their_tokenizer(tiny):
    block = models.StaticEmbedding.from_transformer(tiny()[0])
    model = SentenceTransformer(modules=[block], device="cpu")
    before = model.encode(["the cat"])
    block.tokenizer.add_tokens(["[DOC]"], special_tokens=True)
    with pytest.warns(UserWarning, match="1 tokens were added"):
        marked, plain = model.encode(["[DOC] the cat", "the cat"])
    assert np.abs(marked - plain).max() > 1e-3
    np.testing.assert_allclose(plain, before[0], atol=1e-6)
    assert block.embedding.weight.requires_grad


# -- Static embeddings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transformers", "tokenizers"])
def test_static_embeddings_equal_the_peers_with_unknown_words_and_no_words(tiny, kind):
    tokenizer = tiny()[0].tokenizer
    given = tokenizer if kind == "transformers" else tokenizer.backend_tokenizer
    weights = torch.randn(len(tokenizer), 8)
    ours = SentenceTransformer(modules=[models.StaticEmbedding(given, weights)], device="cpu")
    tokenizer.backend_tokenizer.no_truncation()
    theirs = sentence_transformers.SentenceTransformer(
        modules=[peer.StaticEmbedding(given, weights.clone())], device="cpu"
    )
    texts = [*TEXTS, LONG, "[CLS] typed [SEP]"]
    found = ours.encode(texts)
    np.testing.assert_allclose(found, theirs.encode(texts), atol=1e-6)
    assert found[2].tolist() == [0.0] * 8
    assert ours.max_seq_length is None


def test_static_embeddings_keep_the_truncation_of_a_tokenizer_as_the_peers_do(tiny):
    tokenizer, weights = tiny()[0].tokenizer.backend_tokenizer, torch.randn(400, 8)
    tokenizer.enable_truncation(max_length=7)
    ours = SentenceTransformer(modules=[models.StaticEmbedding(tokenizer, weights)], device="cpu")
    theirs = sentence_transformers.SentenceTransformer(modules=[peer.StaticEmbedding(tokenizer, weights)], device="cpu")
    with pytest.warns(TruncationWarning, match="1 of 2 texts"):
        found = ours.encode(["the cat", LONG])
    np.testing.assert_allclose(found, theirs.encode(["the cat", LONG]), atol=1e-6)


def test_static_embeddings_cut_out_of_a_transformer_are_means_of_its_token_vectors(tiny):
    encoder = tiny()[0]
    block = models.StaticEmbedding.from_transformer(encoder)
    table = encoder.auto_model.embeddings.word_embeddings.weight
    ids = encoder.token_ids(["the cat sits"]).ids[0][1:-1]
    expected = torch.stack([table[token] for token in ids]).mean(dim=0)
    torch.testing.assert_close(block(block.tokenize(["the cat sits"]))["sentence_embedding"][0], expected)
    block.embedding.weight.data.zero_()
    assert table.abs().sum() > 0, "a copy"


def test_static_embeddings_begin_seeded_and_copy_what_they_are_given(tiny):
    tokenizer = tiny()[0].tokenizer
    first, second = (models.StaticEmbedding(tokenizer, embedding_dim=6) for _ in range(2))
    assert first.embedding.weight.equal(second.embedding.weight)
    assert first.get_sentence_embedding_dimension() == first.get_word_embedding_dimension() == 6
    given = np.ones((len(tokenizer), 4))
    models.StaticEmbedding(tokenizer, given.astype(np.float32)).embedding.weight.data.zero_()
    assert given.min() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "pass either embedding_weights"),
        ({"embedding_weights": torch.ones(400, 4), "embedding_dim": 4}, "pass either embedding_weights"),
        ({"embedding_weights": torch.ones(3, 4)}, r"one row per token, got \(3, 4\)"),
        ({"embedding_weights": torch.ones(400)}, r"one row per token, got \(400,\)"),
        ({"embedding_dim": 0}, r"one row per token, got \(\d+, 0\)"),
    ],
)
def test_static_embeddings_refuse_a_matrix_that_does_not_fit(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        models.StaticEmbedding(tiny()[0].tokenizer, **arguments)


# -- Router ------------------------------------------------------------------------------------------------------------


def marked(value: float) -> models.Dense:
    """A block that adds a number, so that the route taken shows."""
    return models.Dense(2, 2, activation_function=None, init_weight=torch.eye(2), init_bias=torch.full((2,), value))


def routed(router: models.Router, **features: Any) -> list[float]:
    return pooled(router, {"sentence_embedding": torch.zeros(1, 2), **features})[0].tolist()


def test_a_router_runs_the_route_that_is_named():
    router = models.Router({"query": [marked(1), marked(2)], "document": [marked(5)], "raw": []})
    assert routed(router, route="query") == [3, 3]
    assert routed(router, route="document") == [5, 5]
    assert routed(router, route="raw") == [0, 0]


def test_without_a_name_the_default_route_is_taken_else_the_first_where_that_is_allowed():
    routes = {"query": [marked(1)], "document": [marked(5)]}
    assert routed(models.Router(routes, default_route="document")) == [5, 5]
    assert routed(models.Router(routes)) == [1, 1]
    assert routed(models.Router.for_query_document(routes["query"], routes["document"])) == [5, 5]
    with pytest.raises(ValueError, match=r"route None is not one of \['query', 'document'\]; choose one"):
        routed(models.Router(routes, allow_empty_key=False))


def test_an_unknown_route_is_refused_with_the_known_ones():
    router = models.Router({"query": [marked(1)], "document": [marked(5)]}, default_route="query")
    with pytest.raises(ValueError, match=r"route 'passage' is not one of \['query', 'document'\]"):
        routed(router, route="passage")


@pytest.mark.parametrize(
    ("routes", "default", "message"),
    [
        ({}, None, "must name at least one route"),
        ({"query": []}, "document", r"default_route 'document' is not one of the routes \['query'\]"),
        ({"a.b": []}, None, "torch does not allow this name of a route"),
        ({"keys": []}, None, "torch does not allow this name of a route"),
    ],
)
def test_a_router_refuses_routes_that_cannot_be(routes, default, message):
    with pytest.raises(ValueError, match=message):
        models.Router(routes, default_route=default)


def test_a_router_takes_version_2s_arguments_under_its_older_name():
    router = models.Asym({"query": [marked(1)], "document": [marked(5)]}, allow_empty_key=False)
    assert routed(router, route="document") == [5, 5]
    assert router.get_sentence_embedding_dimension() == 2


def test_the_size_of_a_routers_vectors_is_that_of_the_first_route_which_states_one():
    assert models.Router({"query": [], "document": [models.Dense(4, 3)]}).get_sentence_embedding_dimension() == 3
    assert models.Router({"query": [models.Normalize()]}).get_sentence_embedding_dimension() is None


def test_a_router_in_front_shows_the_tokenizer_and_the_length_limit_of_its_routes(tiny):
    encoder = tiny()[0]
    static = models.StaticEmbedding.from_transformer(encoder)
    router = models.Router.for_query_document([static], [encoder, Pooling(32)])
    assert router.tokenizer is encoder.tokenizer
    assert router.max_seq_length == 64
    router.max_seq_length = 9
    assert static.max_seq_length == encoder.max_seq_length == 9
