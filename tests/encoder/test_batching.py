"""Token-budget chunks against the rules they promise; training and routes through them against encode and the peer."""

from functools import cache

import numpy as np
import pytest
import sentence_transformers
import torch

from sbertlab import InputExample, SentenceTransformer, models
from sbertlab.encoder.batching import CHUNK_COST, token_budget_chunks

WORDS = ["the cat sits", "a dog", "", "where is my parcel ?", "the cat sits", "how can i change my e mail address"]
RANDOM = [np.random.default_rng(seed).integers(0, 80, size=200).tolist() for seed in range(3)]


def least_cost(lengths, budget):
    """The least cost of any cuts of the sorted texts, by trying them all."""
    sizes = sorted(lengths, reverse=True)
    overhead = max(1, budget // CHUNK_COST)

    @cache
    def of(first):
        if first == len(sizes):
            return 0
        fitting = [n for n in range(1, len(sizes) - first + 1) if n == 1 or n * sizes[first] <= budget]
        return min(n * sizes[first] + overhead + of(first + n) for n in fitting)

    return of(0)


def cost_of(chunks, lengths, budget):
    return sum(len(chunk) * max(lengths[i] for i in chunk) + max(1, budget // CHUNK_COST) for chunk in chunks)


@pytest.mark.parametrize("lengths", RANDOM)
@pytest.mark.parametrize("budget", [1, 64, 256, 1024, 5000])
def test_no_other_cuts_are_much_cheaper(lengths, budget):
    lengths = [max(1, length) for length in lengths]
    least = least_cost(lengths, budget)
    assert least <= cost_of(token_budget_chunks(lengths, budget), lengths, budget) <= 1.03 * least


@pytest.mark.parametrize("lengths", RANDOM)
def test_every_text_is_in_one_chunk_and_no_chunk_with_two_exceeds_the_budget(lengths):
    chunks = token_budget_chunks(lengths, budget=100)
    assert sorted(index for chunk in chunks for index in chunk) == list(range(len(lengths)))
    assert any(len(chunk) > 1 for chunk in chunks)
    assert all(len(chunk) * max(lengths[i] for i in chunk) <= 100 for chunk in chunks if len(chunk) > 1)


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


def test_tokenize_and_collate_give_what_the_model_reads(tiny):
    model = tiny()
    features = model.tokenize(WORDS)
    np.testing.assert_allclose(model(features)["sentence_embedding"].detach().numpy(), model.encode(WORDS), atol=1e-6)
    assert model.tokenize("the cat")["input_ids"].tolist() == model.tokenize(["the cat"])["input_ids"].tolist()
    examples = [InputExample(texts=["the cat", "a big dog"], label=0.5), InputExample(texts=["a", "red"], label=1.0)]
    columns, labels = model.smart_batching_collate(examples)
    assert [column["input_ids"].shape for column in columns] == [(2, 4), (2, 5)]
    assert columns[1]["input_ids"].equal(model.tokenize(["a big dog", "red"])["input_ids"])
    assert labels.tolist() == [0.5, 1.0]


@pytest.fixture
def routed(tiny):
    """One body; queries and documents have a Dense of their own behind it."""
    torch.manual_seed(0)
    routes = {"query": [models.Dense(32, 8)], "document": [models.Dense(32, 8)]}
    return tiny(modules=[models.Router(routes, default_route="document"), models.Normalize()])


def test_texts_take_the_route_of_their_task_or_their_key_as_in_the_peer(routed, tmp_path):
    query, document = routed.encode(WORDS, task="query"), routed.encode(WORDS, task="document")
    assert np.abs(query - document).max() > 0.1
    np.testing.assert_array_equal(routed.encode(WORDS), document)
    np.testing.assert_array_equal(routed.encode_query(WORDS), query)
    np.testing.assert_array_equal(routed.encode_document(WORDS), document)
    mixed = [{"query": WORDS[0]}, WORDS[0], {"document": WORDS[1]}, {"query": WORDS[1]}]
    expected = [query[0], document[0], document[1], query[1]]
    np.testing.assert_allclose(routed.encode(mixed), expected, atol=1e-6)
    np.testing.assert_allclose(routed.embed(mixed).detach().numpy(), expected, atol=1e-6)
    routed.save(tmp_path / "model")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(theirs.encode_query(WORDS), query, atol=1e-5)
    np.testing.assert_allclose(theirs.encode(WORDS), document, atol=1e-5)
    for call in (lambda: routed.encode(WORDS, task="passage"), lambda: routed.encode({"passage": "a"})):
        with pytest.raises(ValueError, match=r"route 'passage' is not one of \['query', 'document'\]"):
            call()


@pytest.mark.parametrize("allowed", [True, False])
def test_without_a_default_plain_texts_take_the_first_route_as_the_peers_or_are_refused(tiny, tmp_path, allowed):
    torch.manual_seed(0)
    routes = {"query": [models.Dense(32, 8)], "document": [models.Dense(32, 8)]}
    ours = tiny(modules=[models.Router(routes, allow_empty_key=allowed)])
    if allowed:
        ours.save(tmp_path / "model")
        theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
        np.testing.assert_allclose(ours.encode(WORDS), theirs.encode(WORDS), atol=1e-5)
        np.testing.assert_array_equal(ours.encode(WORDS), ours.encode_query(WORDS))
    else:
        with pytest.raises(ValueError, match="choose one with encode"):
            ours.encode(WORDS)
        assert ours.encode_document(WORDS).shape == (6, 8)


def test_a_router_in_front_tokenises_every_route_in_its_own_way(tiny):
    body = tiny()[0]
    static = models.StaticEmbedding.from_transformer(tiny(seed=3)[0])
    router = models.Router.for_query_document([static], [body, models.Pooling(32)])
    model = SentenceTransformer(modules=[router], device="cpu")
    np.testing.assert_allclose(model.encode_document(WORDS), tiny().encode(WORDS), atol=1e-6)
    expected = SentenceTransformer(modules=[static], device="cpu").encode(WORDS)
    np.testing.assert_allclose(model.encode_query(WORDS), expected, atol=1e-6)
    assert model.tokenizer is body.tokenizer
    assert model.get_sentence_embedding_dimension() == 32


def test_features_of_a_batch_carry_its_route(routed):
    features = routed.tokenize([{"query": text} for text in WORDS])
    found = routed(features)["sentence_embedding"].detach().numpy()
    np.testing.assert_allclose(found, routed.encode_query(WORDS), atol=1e-6)
    with pytest.raises(ValueError, match=r"routes \['query', None\] cannot share a batch"):
        routed.tokenize([{"query": "a"}, "b"])
