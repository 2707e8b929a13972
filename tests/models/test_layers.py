"""Blocks between others against sentence-transformers' own, and bad arguments."""

from __future__ import annotations

import copy

import pytest
import torch
from sentence_transformers.base import modules as peer_base
from sentence_transformers.sentence_transformer import modules as peer
from torch import nn

from sbertlab import SentenceTransformer, models
from sbertlab.models import Pooling
from tests.models.blocks import padded_batch, pooled

TEXTS = ["the cat sits on the garden", "dog", "", "how can i change my e mail address , please ? xylophone", "🐈"]


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
    again = models.Dense.from_config({**block.config(), "bias": False})
    assert isinstance(again.activation_function, nn.Tanh)
    assert again.linear.bias is None


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
def test_bad_arguments_of_dense_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        models.Dense(4, 3, **arguments)


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
def test_a_missing_pooling_is_named(block):
    with pytest.raises(ValueError, match="put a Pooling after the Transformer"):
        block(padded_batch())


@pytest.mark.parametrize("block", [Pooling(4), models.CNN(4, 2), models.LSTM(4, 2)], ids=lambda b: type(b).__name__)
def test_a_block_does_not_change_the_features_it_is_given(block):
    features = padded_batch()
    before = copy.deepcopy(features)
    block(features)
    assert features.keys() == before.keys()
    assert all(features[name].equal(before[name]) for name in before)


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


def test_a_mix_without_all_layers_is_refused():
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
def test_bad_layers_and_weights_are_refused(arguments, message):
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


@pytest.mark.parametrize(
    ("block", "features", "message"),
    [
        (models.LSTM(4, 3), padded_batch("left"), 'padding_side = "right"'),
        (models.Dense(4, 3), {"sentence_embedding": torch.randn(2, 5)}, r"in_features=4\).*size 5"),
    ],
    ids=["LSTM", "Dense"],
)
def test_bad_features_are_refused(block, features, message):
    with pytest.raises(ValueError, match=message):
        block(features)


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
def test_bad_widths_of_cnn_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        models.CNN(4, 3, **arguments)
