"""Similarities, search, mining, communities, quantisation: against sentence-transformers, slow formulas, by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import util as peer

from sbertlab import util

MATRIX = ["cos_sim", "pytorch_cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"]
PAIRWISE = [f"pairwise_{name}" for name in ("cos_sim", "dot_score", "euclidean_sim", "manhattan_sim", "angle_sim")]


def embeddings(n, dim=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def groups_of_neighbours(groups, size, noise=0.25, dim=16, seed=0):
    rows = np.repeat(embeddings(groups, dim, seed), size, axis=0) + noise * embeddings(groups * size, dim, seed + 1)
    return rows[np.random.default_rng(seed).permutation(len(rows))]


@pytest.mark.parametrize("name", MATRIX)
def test_similarity_matrices_equal_those_of_the_peer(name):
    a, b = embeddings(7), embeddings(40, seed=1)
    ours, theirs = getattr(util, name)(a, b), getattr(peer, name)(a, b)
    assert ours.shape == (7, 40)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize("dim", [12, 5])
def test_pairwise_similarities_equal_those_of_the_peer(name, dim):
    a, b = embeddings(9, dim), embeddings(9, dim, seed=1)
    ours, theirs = getattr(util, name)(a, b), getattr(peer, name)(a, b)
    assert ours.shape == (9,)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "spelling",
    [
        np.ndarray.tolist,
        list,
        lambda rows: [torch.from_numpy(row.copy()) for row in rows],
        lambda rows: pd.Series(list(rows), index=range(5, 5 + len(rows))),
        lambda rows: pd.DataFrame(rows, columns=list("abcdefghijkl")),
        lambda rows: np.ascontiguousarray(rows[::-1])[::-1],
    ],
    ids=["nested list", "list of arrays", "list of tensors", "Series", "DataFrame", "negative strides"],
)
def test_any_array_like_is_accepted_without_a_warning(spelling, recwarn):
    rows = embeddings(4)
    rows.flags.writeable = False
    similarity = util.cos_sim(spelling(rows), rows)
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity, util.cos_sim(rows, rows))
    assert not list(recwarn)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float64])
def test_scores_are_computed_in_float32_at_least(dtype):
    rows = torch.tensor([[100, 100], [100, 27]]).to(dtype)
    assert util.dot_score(rows, rows.float()).dtype == torch.promote_types(dtype, torch.float32)
    assert util.dot_score(rows, rows).tolist() == [[20000, 12700], [12700, 10729]]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([3.0, 4.0], [[0.0, 1.0], [1.0, 0.0]], [[0.8, 0.6]]),
        ([[0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0]]),
        ([[float("nan"), 1.0]], [[1.0, 0.0]], [[float("nan")]]),
    ],
    ids=["a vector is one row", "zeros are similar to nothing", "nan stays nan"],
)
def test_special_rows(a, b, expected):
    torch.testing.assert_close(util.cos_sim(a, b), torch.tensor(expected), equal_nan=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "rows of numbers"),
        (np.zeros((2, 2, 2)), r"got \(2, 2, 2\)"),
        (np.zeros((3, 0)), r"got \(3, 0\)"),
        ([[1.0, 2.0], [3.0]], "one length"),
        (["a", "b"], "rows of numbers"),
        (None, "rows of numbers"),
        (embeddings(3, dim=8), None),
    ],
)
def test_what_is_no_matrix_or_does_not_fit_is_refused(wrong, message):
    message = f"^a must .*{message}" if message else "a has 8 dimensions and b has 2"
    with pytest.raises(ValueError, match=message):
        util.cos_sim(wrong, [[1.0, 2.0]])


def test_pairs_of_other_lengths_and_unknown_functions_are_refused():
    with pytest.raises(ValueError, match=r"row i of a .* \(3, 12\) and \(1, 12\)"):
        util.pairwise_dot_score(embeddings(3), embeddings(1))
    with pytest.raises(ValueError, match="'dot', 'euclidean', 'manhattan', got 'cosin'"):
        util.SimilarityFunction("cosin")


def test_similarity_functions_are_found_by_name_or_member():
    function = util.SimilarityFunction
    assert function.possible_values() == ["cosine", "dot", "euclidean", "manhattan"]
    assert function.DOT is function.DOT_PRODUCT
    for name in function.possible_values():
        a, b = embeddings(5), embeddings(5, seed=1)
        theirs = peer.SimilarityFunction
        torch.testing.assert_close(function.to_similarity_fn(name)(a, b), theirs.to_similarity_fn(name)(a, b))
        ours = function.to_similarity_pairwise_fn(function(name))(a, b)
        torch.testing.assert_close(ours, theirs.to_similarity_pairwise_fn(name)(a, b))


def test_truncation_keeps_the_first_dimensions():
    rows = embeddings(3)
    assert np.array_equal(util.truncate_embeddings(rows, 4), rows[:, :4])
    assert util.truncate_embeddings(rows, None) is not None
    with pytest.raises(ValueError, match=r"truncate_dim must be .* at most 12, got 13"):
        util.truncate_embeddings(rows, 13)


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("dim", [16, 13])
def test_quantised_embeddings_equal_those_of_the_peer(precision, dim):
    rows, sample = embeddings(120, dim), 0.5 * embeddings(300, dim, seed=1)
    ranges = np.vstack((np.full(dim, -1.5), np.full(dim, 1.25)))
    for arguments in ({}, {"ranges": ranges}, {"calibration_embeddings": sample}):
        ours, theirs = (lib.quantize_embeddings(rows, precision, **arguments) for lib in (util, peer))
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
        assert np.array_equal(util.quantize_embeddings(torch.from_numpy(rows), precision, **arguments), theirs)
        one = [lib.quantize_embeddings(rows[0], precision, **arguments) for lib in (util, peer) if arguments]
        assert not one or np.array_equal(*one)


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (embeddings(3), {"precision": "int4"}, "precision must be .* got 'int4'"),
        (embeddings(1), {"precision": "int8"}, "more than 1 `calibration_embeddings`"),
        (np.full((3, 2), np.inf), {"precision": "binary"}, "infinite values in 3 rows"),
    ],
)
def test_bad_input_to_quantisation_is_refused(rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        util.quantize_embeddings(rows, **arguments)
    with pytest.warns(UserWarning, match="from 5 embeddings"):
        util.quantize_embeddings(embeddings(5), "int8")


@pytest.mark.parametrize("score_function", ["cos_sim", "dot_score", "euclidean_sim"])
@pytest.mark.parametrize("chunks", [(100, 500_000), (3, 17), (1, 1)])
def test_search_finds_what_the_peer_finds_whatever_the_chunks(score_function, chunks):
    queries, corpus = embeddings(11), embeddings(60, seed=1)
    arguments = {"query_chunk_size": chunks[0], "corpus_chunk_size": chunks[1], "top_k": 7}
    ours = util.semantic_search(queries, corpus, **arguments, score_function=getattr(util, score_function))
    theirs = peer.semantic_search(
        torch.from_numpy(queries), torch.from_numpy(corpus), top_k=7, score_function=getattr(peer, score_function)
    )
    assert [[hit["corpus_id"] for hit in row] for row in ours] == [[hit["corpus_id"] for hit in row] for row in theirs]
    scores = [[[hit["score"] for hit in row] for row in rows] for rows in (ours, theirs)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-5)
    assert isinstance(ours[0][0]["corpus_id"], int)
    assert isinstance(ours[0][0]["score"], float)


@pytest.mark.parametrize("corpus_chunk_size", [1, 4, 7, 100])
def test_equal_scores_rank_by_position(corpus_chunk_size):
    corpus = np.random.default_rng(0).integers(0, 3, (50, 2)).astype(np.float32)
    queries = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], dtype=np.float32)
    scores = queries @ corpus.T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    settings = {"corpus_chunk_size": corpus_chunk_size, "top_k": 9, "score_function": util.dot_score}
    found = util.top_matches(queries, corpus, **settings)
    assert found[1].tolist() == expected.tolist()
    assert found[0].tolist() == np.take_along_axis(scores, expected, axis=1).tolist()


def test_no_block_of_scores_is_larger_than_the_limit(monkeypatch):
    queries, corpus, blocks = embeddings(50), embeddings(80, seed=1), []

    def score(a, b):
        blocks.append(len(a) * len(b))
        return a @ b.T

    expected = util.top_matches(queries, corpus, score_function=score)
    assert blocks == [50 * 80]
    blocks.clear()
    monkeypatch.setattr(util, "BLOCK_SCORES", 200)
    found = util.top_matches(queries, corpus, score_function=score)
    assert max(blocks) <= 200
    assert len(blocks) == 25
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda: util.semantic_search(np.empty((0, 12)), embeddings(3)), []),
        (lambda: util.semantic_search(embeddings(2), np.empty((0, 12))), [[], []]),
        (lambda: util.information_retrieval([1.0, 0.0], [[0.0, 1.0], [1.0, 0.0]])[0][0]["corpus_id"], 1),
        (lambda: util.paraphrase_mining_embeddings(np.empty((0, 3))), []),
        (lambda: util.paraphrase_mining_embeddings([[1.0, 2.0]]), []),
        (lambda: util.community_detection(np.empty((0, 4))), []),
        (lambda: util.community_detection(embeddings(5), min_community_size=6), []),
    ],
)
def test_few_rows_are_enough(found, expected):
    assert found() == expected


NAN_ROW = np.array([[1.0, 0.0], [0.0, 1.0], [np.nan, 1.0]])
TWO_ROWS = NAN_ROW[:2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: util.top_matches(embeddings(2), embeddings(3, dim=4)), "a has 12 dimensions and b has 4"),
        (lambda: util.top_matches(NAN_ROW, TWO_ROWS), "query_embeddings has NaN .* in 1 rows, first in row 2"),
        (lambda: util.top_matches(TWO_ROWS, TWO_ROWS, top_k=0), "top_k must be a whole number of at least 1, got 0"),
        (lambda: util.paraphrase_mining_embeddings(NAN_ROW), "row 2"),
        (lambda: util.paraphrase_mining_embeddings(TWO_ROWS, max_pairs=0), "max_pairs must be .* got 0"),
        (lambda: util.paraphrase_mining(SimpleNamespace(encode=None), "one text"), "got the text 'one text'"),
        (lambda: util.community_detection(NAN_ROW), "row 2"),
        (lambda: util.community_detection(embeddings(3), threshold=75), "threshold must be .* at most 1, got 75"),
        (lambda: util.community_detection(TWO_ROWS, min_community_size=0), "min_community_size must be .* got 0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("chunks", [(5000, 100_000), (7, 11), (1, 1)])
def test_mined_pairs_equal_those_of_the_peer_whatever_the_chunks(chunks):
    rows = embeddings(45)
    theirs = peer.paraphrase_mining_embeddings(torch.from_numpy(rows), top_k=4)
    for limit in (20, 10_000):
        ours = util.paraphrase_mining_embeddings(rows, *chunks, max_pairs=limit, top_k=4)
        assert [pair[1:] for pair in ours] == [pair[1:] for pair in theirs[:limit]]
        np.testing.assert_allclose([pair[0] for pair in ours], [pair[0] for pair in theirs[:limit]], rtol=0, atol=1e-6)


def test_each_of_many_twins_keeps_top_k_partners_of_the_lowest_positions():
    pairs = util.paraphrase_mining_embeddings(np.ones((5, 3)), top_k=2, score_function=util.dot_score)
    assert [pair[1:] for pair in pairs] == [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [1, 3], [1, 4]]


def test_mining_encodes_with_the_arguments_given():
    seen = {}

    def encode(texts, **arguments):
        seen.update(arguments)
        return [[len(text), 1.0] for text in texts]

    texts = ["cat", "horses", "dog"]
    pairs = util.paraphrase_mining(SimpleNamespace(encode=encode), texts, batch_size=7, max_pairs=1, prompt="query: ")
    assert pairs[0][1:] == [0, 2]
    assert seen["batch_size"] == 7
    assert seen["prompt"] == "query: "


@pytest.mark.parametrize(("threshold", "least"), [(0.75, 10), (0.6, 3), (0.9, 2), (-1.0, 5)])
@pytest.mark.parametrize("batch_size", [1024, 7])
def test_communities_equal_those_of_the_peer(threshold, least, batch_size):
    rows = groups_of_neighbours(groups=8, size=15)
    ours = util.community_detection(rows, threshold, least, batch_size)
    assert ours
    assert ours == peer.community_detection(rows, threshold, least)


def test_a_batch_moves_in_place_and_keeps_other_values():
    batch = {"input_ids": torch.ones(2, 3), "texts": ["a", "b"]}
    assert util.batch_to_device(batch, torch.device("meta")) is batch
    assert batch["input_ids"].device.type == "meta"
    assert batch["texts"] == ["a", "b"]
