"""Blocks between others against sentence-transformers' own, and bad arguments."""

import copy

import pytest
import torch
from sentence_transformers.base import modules as peer_base
from sentence_transformers.sentence_transformer import modules as peer
from torch import nn

from sbertlab import models
from sbertlab.models import Pooling
from tests.models.blocks import padded_batch, pooled


def same_block(ours, theirs):
    """Give both the same weights; fails where their names or shapes differ."""
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.ReLU(), None])
def test_dense_equals_the_peers(bias, activation):
    ours = models.Dense(4, 3, bias=bias, activation_function=activation)
    theirs = peer_base.Dense(4, 3, bias=bias, activation_function=activation)
    same_block(ours, theirs)
    vectors = torch.randn(5, 4)
    expected = pooled(theirs, {"sentence_embedding": vectors})
    torch.testing.assert_close(pooled(ours, {"sentence_embedding": vectors}), expected)


def test_dense_has_tanh_by_default_and_takes_initial_values():
    weight, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])
    block = models.Dense(2, 1, init_weight=weight, init_bias=bias)
    vectors = pooled(block, {"sentence_embedding": torch.tensor([[0.1, 0.2]])})
    torch.testing.assert_close(vectors, torch.tensor([[1.0]]).tanh())
    block.linear.weight.data.zero_()
    assert weight.tolist() == [[1.0, 2.0]], "the initial values are copied"
    tanh = "torch.nn.modules.activation.Tanh"
    assert block.config() == {"in_features": 2, "out_features": 1, "bias": True, "activation_function": tanh}
    again = models.Dense(**{**block.config(), "bias": False})
    assert isinstance(again.activation_function, nn.Tanh)
    assert again.linear.bias is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"activation_function": "os.system"}, ValueError, r"'os.system' is not a module of torch\.nn"),
        ({"activation_function": "torch.nnx.Tanh"}, ValueError, r"is not a module of torch\.nn"),
        ({"activation_function": "torch.nn.functional.tanh"}, ValueError, r"is not a module of torch\.nn"),
        ({"activation_function": torch.tanh}, TypeError, r"such as nn\.Tanh"),
        ({"init_bias": torch.zeros(1)}, RuntimeError, "size mismatch for bias"),
    ],
)
def test_bad_arguments_of_dense_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        models.Dense(4, 3, **arguments)
    with pytest.raises(ValueError, match="put a Pooling after the Transformer"):
        models.Dense(4, 3)(padded_batch())


def test_layer_norm_and_normalize_equal_the_peers():
    ours, theirs = models.LayerNorm(4), peer.LayerNorm(4)
    nn.init.normal_(ours.norm.weight)
    nn.init.normal_(ours.norm.bias)
    same_block(ours, theirs)
    features = {"sentence_embedding": torch.cat([torch.randn(5, 4), torch.zeros(1, 4)])}
    torch.testing.assert_close(pooled(ours, features), pooled(theirs, features))
    torch.testing.assert_close(pooled(models.Normalize(), features), pooled(peer_base.Normalize(), features))
    assert ours.config() == {"dimension": 4}


def test_dropout_thins_while_training_and_not_afterwards():
    block, features = models.Dropout(0.25), {"sentence_embedding": torch.ones(100, 100)}
    thinned = pooled(block.train(), features)
    assert 0.2 < (thinned == 0).float().mean() < 0.3
    torch.testing.assert_close(thinned[thinned > 0].unique(), torch.tensor([1 / 0.75]))
    assert pooled(block.eval(), features).equal(features["sentence_embedding"])
    assert block.config() == {"dropout": 0.25}


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
    assert models.LSTM(**ours.config()).config() == ours.config()
    with pytest.raises(ValueError, match='padding_side = "right"'):
        ours(padded_batch("left"))


def test_cnn_equals_the_peers_where_there_is_no_padding_and_ignores_padding_elsewhere():
    ours, theirs = models.CNN(4, 3, [1, 3]), peer.CNN(4, 3, [1, 3])
    same_block(ours, theirs)
    features = {"token_embeddings": torch.randn(2, 5, 4), "attention_mask": torch.ones(2, 5).long()}
    expected = theirs(dict(features))["token_embeddings"]
    torch.testing.assert_close(ours(features)["token_embeddings"], expected)
    assert ours.get_word_embedding_dimension() == expected.shape[-1] == 6
    assert models.CNN(**{**ours.config(), "stride_sizes": [1, 1]}).config() == ours.config()
    padded = padded_batch()
    alone = {"token_embeddings": padded["token_embeddings"][1:2, :3], "attention_mask": torch.ones(1, 3).long()}
    torch.testing.assert_close(ours(alone)["token_embeddings"][0], ours(padded)["token_embeddings"][1, :3])
    for wrong in ({"kernel_sizes": [1, 2]}, {"stride_sizes": [1, 2, 1]}):
        with pytest.raises(ValueError, match="kernel_sizes must be odd and stride_sizes 1"):
            models.CNN(4, 3, **wrong)
