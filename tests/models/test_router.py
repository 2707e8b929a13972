"""Routes: which is used, and what a router shows of them."""

import pytest
import torch

from sbertlab import models
from sbertlab.models import Pooling
from tests.models.blocks import pooled


def marked(value):
    """A block that adds a number, so that the route taken shows."""
    return models.Dense(2, 2, activation_function=None, init_weight=torch.eye(2), init_bias=torch.full((2,), value))


def routed(router, **features):
    return pooled(router, {"sentence_embedding": torch.zeros(1, 2), **features})[0].tolist()


def test_a_router_runs_the_route_that_is_named():
    router = models.Router({"query": [marked(1), marked(2)], "document": [marked(5)], "raw": []})
    assert routed(router, route="query") == [3, 3]
    assert routed(router, route="document") == [5, 5]
    assert routed(router, route="raw") == [0, 0]


def test_without_a_name_the_default_or_first_route_is_used():
    routes = {"query": [marked(1)], "document": [marked(5)]}
    assert routed(models.Router(routes, default_route="document")) == [5, 5]
    assert routed(models.Router(routes)) == [1, 1]
    assert routed(models.Router.for_query_document(routes["query"], routes["document"])) == [5, 5]
    with pytest.raises(ValueError, match=r"route 'passage' is not one of \['query', 'document'\]"):
        routed(models.Asym(routes), route="passage")
    with pytest.raises(ValueError, match=r"route None is not one of \['query', 'document'\]; choose one"):
        routed(models.Router(routes, allow_empty_key=False))
    with pytest.raises(ValueError, match=r"default_route must be one of 'query', 'document', got 'passage'"):
        models.Router(routes, default_route="passage")


def test_the_size_of_the_vectors_comes_from_the_first_route_that_states_one():
    assert models.Router({"query": [], "document": [models.Dense(4, 3)]}).get_sentence_embedding_dimension() == 3
    assert models.Router({"query": [models.Normalize()]}).get_sentence_embedding_dimension() is None


def test_a_router_has_the_tokenizer_and_length_limit_of_its_routes(tiny):
    encoder = tiny()[0]
    static = models.StaticEmbedding.from_transformer(encoder)
    router = models.Router.for_query_document([static], [encoder, Pooling(32)])
    assert router.tokenizer is encoder.tokenizer
    assert router.max_seq_length == 64
    router.max_seq_length = 9
    assert static.max_seq_length == encoder.max_seq_length == 9
