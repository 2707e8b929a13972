"""Pooling against sentence-transformers' own and by hand."""

import json
import warnings

import pytest
import torch
from sentence_transformers.sentence_transformer import modules as peer

from sbertlab.models import POOLING_MODES, Pooling
from tests.models.blocks import padded_batch, pooled


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("modes", [*POOLING_MODES, ["cls", "mean"], ["lasttoken", "cls", "max"], list(POOLING_MODES)])
def test_pooling_equals_the_peers_on_padded_batches(modes, side):
    features = padded_batch(side)
    ours, theirs = Pooling(4, modes), peer.Pooling(4, modes)
    torch.testing.assert_close(pooled(ours, features), pooled(theirs, features), atol=1e-6, rtol=1e-6)
    assert ours.get_sentence_embedding_dimension() == pooled(ours, features).shape[1]


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
def test_a_text_without_tokens_becomes_zeros(mode):
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


@pytest.mark.parametrize(
    ("flags", "modes"),
    [
        ({}, ("mean",)),
        ({"pooling_mode": "mean_sqrt_len"}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_max_tokens": False}, ("mean",)),
        ({"pooling_mode_lasttoken": True}, ("lasttoken",)),
    ],
)
def test_the_fields_flags_choose_the_modes(flags, modes):
    assert Pooling(4, **flags).modes == modes


@pytest.mark.parametrize("modes", [["mean"], ["mean", "cls"], ["lasttoken", "max"], list(POOLING_MODES)])
def test_the_configuration_makes_the_same_pooling_here_and_in_the_peer(modes):
    block = Pooling(4, modes, include_prompt=False)
    config = json.loads(json.dumps(block.config()))
    again = Pooling(**config)
    assert (again.modes, again.include_prompt) == (tuple(modes), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.Pooling(**config)
    torch.testing.assert_close(pooled(theirs, padded_batch()), pooled(block, padded_batch()))


@pytest.mark.parametrize("mode", ["median", [], ["mean", "mean"]])
def test_pooling_refuses_unknown_repeated_and_no_modes(mode):
    with pytest.raises(ValueError, match="pooling_mode must name some of cls, max, mean"):
        Pooling(4, mode)
