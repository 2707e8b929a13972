"""The explanation of a similarity: it adds up, is what the formula says, and is honest where it cannot be whole."""

import numpy as np
import pytest
import torch
from torch import nn

from sbertlab import SentenceTransformer, models
from sbertlab.analysis.explain import REST, explain, token_parts
from tests.training.runs import assert_equal, weights

PAIR = ("the cat sits in the garden", "a dog plays in the house")


def cosine(model, a, b):
    first, second = model.encode([a, b])
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def tokens_of(model, text):
    return model.tokenizer.convert_ids_to_tokens(model.tokenizer(text)["input_ids"])


@pytest.mark.parametrize(
    "pooling", ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ["mean", "max"]]
)
def test_pairs_of_tokens_add_up_to_the_cosine_for_every_pooling(tiny, pooling):
    model = tiny(pooling=pooling, modules=[models.Normalize()])
    found = explain(model, *PAIR)
    assert found.exact
    assert found.pairs.index.tolist() == tokens_of(model, PAIR[0])
    assert found.pairs.columns.tolist() == tokens_of(model, PAIR[1])
    assert found.pairs.to_numpy().sum() == pytest.approx(found.score, abs=1e-9)
    assert found.score == pytest.approx(cosine(model, *PAIR), abs=1e-6)


def test_under_mean_pooling_a_pair_has_the_product_of_its_token_vectors(tiny):
    model = tiny()
    first, second = (model.encode(text, output_value="token_embeddings").numpy() for text in PAIR)
    lengths = [np.linalg.norm(vectors.mean(axis=0)) for vectors in (first, second)]
    expected = first @ second.T / (len(first) * len(second) * lengths[0] * lengths[1])
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(explain(model, *PAIR).pairs.to_numpy(), expected, atol=1e-6)


def test_a_linear_map_without_a_bias_keeps_the_explanation_exact(tiny):
    dense = models.Dense(32, 8, bias=False, activation_function=nn.Identity())
    model = tiny(modules=[dense, models.Normalize()])
    found = explain(model, *PAIR)
    assert found.exact
    assert found.score == pytest.approx(cosine(model, *PAIR), abs=1e-6)


@pytest.mark.parametrize("activation", [nn.Identity(), nn.Tanh()])
def test_what_no_token_gives_is_shown_as_the_rest_and_everything_still_adds_up(tiny, activation):
    model = tiny(modules=[models.Dense(32, 8, activation_function=activation)])
    found = explain(model, *PAIR)
    assert not found.exact
    assert found.pairs.index[-1] == found.pairs.columns[-1] == REST
    assert found.pairs.to_numpy().sum() == pytest.approx(found.score, abs=1e-9)
    assert found.score == pytest.approx(cosine(model, *PAIR), abs=1e-6)
    if isinstance(activation, nn.Identity):
        rest = token_parts(model, PAIR[0])[1][-1]
        torch.testing.assert_close(rest.float(), model[2].linear.bias.detach(), atol=1e-5, rtol=0)


def test_static_embeddings_are_explained_word_by_word(tiny):
    static = models.StaticEmbedding.from_transformer(tiny()[0])
    model = SentenceTransformer(modules=[static, models.Normalize()], device="cpu")
    found = explain(model, "the cat", "the dog")
    assert found.exact
    assert found.pairs.index.tolist() == ["the", "cat"]
    assert found.pairs.at["the", "the"] == found.strongest(1)["share"].item()
    assert found.score == pytest.approx(cosine(model, "the cat", "the dog"), abs=1e-6)


def test_texts_are_cut_and_prompts_added_as_encode_does(tiny):
    model = tiny()
    model.max_seq_length = 6
    model.prompts, model.default_prompt_name = {"query": "query "}, "query"
    found = explain(model, "the cat sits in the garden", "a dog")
    assert found.pairs.index.tolist() == ["[CLS]", "query", "the", "cat", "sits", "[SEP]"]
    assert found.score == pytest.approx(cosine(model, "the cat sits in the garden", "a dog"), abs=1e-6)


def test_explaining_changes_nothing_of_the_model(tiny):
    model = tiny(dropout=0.1, modules=[models.Dense(32, 8)])
    before = weights(model)
    model.train()
    assert explain(model, *PAIR).score == explain(model, *PAIR).score
    assert model.training
    assert_equal(weights(model), before)


def test_what_cannot_be_explained_is_refused_in_words(tiny):
    with pytest.raises(ValueError, match="no Pooling or StaticEmbedding"):
        explain(SentenceTransformer(modules=[tiny()[0]], device="cpu"), *PAIR)
    model = tiny(modules=[models.Dense(32, 4, init_weight=torch.zeros(4, 32), init_bias=torch.zeros(4))])
    with pytest.raises(ValueError, match=r"'the cat sits in the garden' .* is the zero vector"):
        explain(model, *PAIR)
