"""Exact search among embeddings: nearest entries, the most similar pairs, and communities.

What compares everything with everything goes through the scores block by block and keeps the best of each block, so the
full score matrix is never in memory. Equal scores rank by position, so results are the same whatever the size of the
blocks, up to rounding in the last digit of a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sbertlab.similarity import Embeddings, as_tensor, cos_sim, dot_score

ScoreFunction = Callable[[Tensor, Tensor], Tensor]  # (q, dim) and (c, dim) to (q, c), higher is better
Matches = tuple[Tensor, Tensor]  # scores and indices, both (queries, k), best first

BLOCK_SCORES = 2**25  # scores in memory at a time, 128 MiB in float32, however large the chunks asked for


class Encoder(Protocol):
    """Whatever turns texts into embeddings; `SentenceTransformer` does."""

    def encode(self, sentences: list[str], **kwargs: Any) -> Any:
        """Return the embeddings `(n, dim)` of `n` texts."""


def _blocks(n: int, size: int, width: int) -> Iterator[slice]:
    """Slices over `n` rows of `width` scores each: at most `size` rows and `BLOCK_SCORES` scores a slice."""
    rows = min(size, max(1, BLOCK_SCORES // max(1, width)))
    return (slice(start, start + rows) for start in range(0, n, rows))


def _largest(scores: Tensor, k: int) -> Matches:
    """The `k` largest scores of each row, best first, and their columns; of equal scores the lower column first."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    tied = values[:, k - 1] == values[:, -1]  # across the edge, where topk takes any of the equal ones
    values, columns = values[:, :k], columns[:, :k]
    if scores.shape[1] > k and tied.any():
        exact = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], columns[tied] = exact.values[:, :k], exact.indices[:, :k]
    columns, order = columns.sort(dim=1)
    values, by_score = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, by_score)


def merge_matches(first: Matches, second: Matches, top_k: int) -> Matches:
    """The best `top_k` of two lists of matches of the same queries; of equal scores those of `first` come first.

    >>> one = torch.tensor([[0.9, 0.2]]), torch.tensor([[4, 7]])
    >>> two = torch.tensor([[0.9, 0.5]]), torch.tensor([[1, 3]])
    >>> merge_matches(one, two, top_k=3)
    (tensor([[0.9000, 0.9000, 0.5000]]), tensor([[4, 1, 3]]))
    """
    scores, order = torch.cat([first[0], second[0]], dim=1).sort(dim=1, descending=True, stable=True)
    indices = torch.cat([first[1], second[1]], dim=1).gather(1, order)
    return scores[:, :top_k], indices[:, :top_k]


@torch.no_grad()
def top_matches(
    query_embeddings: Embeddings,
    corpus_embeddings: Embeddings,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> Matches:
    """The `top_k` corpus entries with the highest score for each query, exactly; `semantic_search` in tensors.

    Args:
        query_embeddings: `(queries, dim)`.
        corpus_embeddings: `(corpus, dim)`.
        query_chunk_size: most queries scored at a time.
        corpus_chunk_size: most corpus entries scored at a time.
        top_k: entries to keep for each query.
        score_function: `(q, dim), (c, dim) -> (q, c)`, higher is better.

    Returns:
        Scores and corpus indices, both `(queries, min(top_k, corpus))`, best first; of equal scores the lower index
        first. They lie on the corpus' device.

    Raises:
        ValueError: wrong shapes, values that are not finite, sizes below 1, a score function with another shape or NaN.

    >>> top_matches([[1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]], top_k=2)
    (tensor([[1., 1.]]), tensor([[1, 2]]))
    """
    for name, size in (("query_chunk_size", query_chunk_size), ("corpus_chunk_size", corpus_chunk_size)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    corpus = torch.atleast_2d(as_tensor(corpus_embeddings, "corpus_embeddings", finite=True))
    queries = torch.atleast_2d(as_tensor(query_embeddings, "query_embeddings", finite=True)).to(corpus.device)
    if queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"query_embeddings have {queries.shape[1]} dimensions and corpus_embeddings {corpus.shape[1]}; "
            "embed both with the same model"
        )
    unit = score_function is cos_sim  # then rows are brought to unit length once a chunk, not once a block
    queries = F.normalize(queries, dim=1) if unit else queries
    best = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long, device=corpus.device)
    if not len(queries):
        return best
    for start in range(0, len(corpus), corpus_chunk_size):
        chunk = corpus[start : start + corpus_chunk_size]
        chunk = F.normalize(chunk, dim=1) if unit else chunk
        found = [
            _largest(_scores(queries[rows], chunk, dot_score if unit else score_function), min(top_k, len(chunk)))
            for rows in _blocks(len(queries), query_chunk_size, len(chunk))
        ]
        values, columns = (torch.cat(parts) for parts in zip(*found, strict=True))
        if torch.isnan(values).any():  # NaN ranks first
            raise ValueError("score_function returned NaN for finite embeddings")
        best = merge_matches(best, (values, columns + start), top_k)
    return best


def _scores(queries: Tensor, corpus: Tensor, score_function: ScoreFunction) -> Tensor:
    """The scores `(queries, corpus)` of one block, checked: a score function may be the user's."""
    scores = score_function(queries, corpus)
    if scores.shape != (len(queries), len(corpus)):
        raise ValueError(
            f"score_function returned the shape {tuple(scores.shape)} for {len(queries)} queries and "
            f"{len(corpus)} corpus entries; it must score every query with every entry"
        )
    return scores


def semantic_search(
    query_embeddings: Embeddings,
    corpus_embeddings: Embeddings,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[dict[str, int | float]]]:
    """The `top_k` corpus entries with the highest score for each query, exactly.

    Arguments and errors as in `top_matches`.

    Returns:
        One list a query, best first, of `{"corpus_id": index into the corpus, "score": score}`; of equal scores the
        lower index first.

    >>> semantic_search([[1.0, 0.0]], [[0.0, 1.0], [3.0, 0.0]], top_k=1)
    [[{'corpus_id': 1, 'score': 1.0}]]
    """
    scores, indices = top_matches(
        query_embeddings, corpus_embeddings, query_chunk_size, corpus_chunk_size, top_k, score_function
    )
    return [
        [{"corpus_id": index, "score": score} for index, score in zip(*row, strict=True)]
        for row in zip(indices.tolist(), scores.tolist(), strict=True)
    ]


information_retrieval = semantic_search


def paraphrase_mining(
    model: Encoder,
    sentences: Sequence[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    **encode_arguments: Any,
) -> list[list[float | int]]:
    """The most similar pairs among `sentences`; `paraphrase_mining_embeddings` on what `model` makes of them.

    Args:
        model: whatever has `encode`.
        sentences: the texts.
        show_progress_bar: of the encoding.
        batch_size: of the encoding.
        query_chunk_size: see `paraphrase_mining_embeddings`, like the four that follow.
        corpus_chunk_size: most texts to compare with at a time.
        max_pairs: most pairs returned.
        top_k: most partners considered for a text.
        score_function: symmetric.
        encode_arguments: `prompt`, `prompt_name` or `truncate_dim`, for `model.encode`.

    Returns:
        Rows `[score, i, j]` with `i < j`, best first.

    Raises:
        ValueError: no list of texts, or what `paraphrase_mining_embeddings` raises.

    >>> from types import SimpleNamespace
    >>> toy = SimpleNamespace(encode=lambda texts, **_: [[len(text), 1.0] for text in texts])
    >>> [(i, j) for score, i, j in paraphrase_mining(toy, ["cat", "horse", "dog"], max_pairs=1)]
    [(0, 2)]
    """
    if isinstance(sentences, str):
        raise ValueError("sentences must be a list of texts, got one string; put it into a list")
    embeddings = model.encode(
        list(sentences),
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
        convert_to_tensor=True,
        **encode_arguments,
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


@torch.no_grad()
def paraphrase_mining_embeddings(
    embeddings: Embeddings,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """The most similar pairs of rows, found through the `top_k` nearest rows of each.

    Args:
        embeddings: `(n, dim)`.
        query_chunk_size: rows whose partners are sought at a time.
        corpus_chunk_size: most rows to compare with at a time.
        max_pairs: most pairs returned.
        top_k: most partners considered for a row.
        score_function: `(q, dim), (c, dim) -> (q, c)`, symmetric, higher is better.

    Returns:
        Rows `[score, i, j]` with `i < j`, each pair once, best first; of equal scores the lower i, then j, first.

    Raises:
        ValueError: wrong shapes, values that are not finite, sizes below 1.

    >>> paraphrase_mining_embeddings([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]], top_k=1)
    [[1.0, 1, 2], [0.0, 0, 1]]
    """
    for name, size in (("max_pairs", max_pairs), ("top_k", top_k), ("query_chunk_size", query_chunk_size)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    rows = torch.atleast_2d(as_tensor(embeddings, finite=True))
    if score_function is cos_sim:
        rows, score_function = F.normalize(rows, dim=1), dot_score
    n = len(rows)
    best, pairs = np.empty(0), np.empty(0, dtype=np.int64)  # a pair (i, j) is held as the number i * n + j
    for start in range(0, n, query_chunk_size):
        queries = rows[start : start + query_chunk_size]
        found = top_matches(queries, rows, query_chunk_size, corpus_chunk_size, top_k + 1, score_function)
        scores, partners = (part.cpu().numpy() for part in found)  # (queries, top_k + 1)
        own = np.arange(start, start + len(queries))[:, None]
        other = partners != own
        other &= other.cumsum(axis=1) <= top_k  # among top_k + 1 equals a row may not have found itself
        numbers = np.minimum(partners, own) * n + np.maximum(partners, own)
        best, pairs = np.append(best, scores[other]), np.append(pairs, numbers[other])
        pairs, first = np.unique(pairs, return_index=True)
        best = best[first]
        order = np.argsort(-best, kind="stable")[:max_pairs]
        best, pairs = best[order], pairs[order]
    return [[score, pair // n, pair % n] for score, pair in zip(best.tolist(), pairs.tolist(), strict=True)]


@torch.no_grad()
def community_detection(
    embeddings: Embeddings,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Groups of rows around a central row: every member has at least cosine `threshold` with the centre.

    Rows with the most neighbours become centres first; a row belongs to one group at most. The scores are gone through
    twice, once to count neighbours and once to collect them, so that memory stays at `batch_size * n` scores.

    Args:
        embeddings: `(n, dim)`.
        threshold: least cosine similarity of a member with its centre.
        min_community_size: least members of a group, the centre among them.
        batch_size: most rows scored at a time.
        show_progress_bar: show one.

    Returns:
        Groups of row indices, largest first, each with its centre first and then its members by falling similarity.

    Raises:
        ValueError: wrong shapes, values that are not finite, threshold outside [-1, 1], sizes below 1.

    >>> community_detection([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [0.0, -1.0]], threshold=0.9, min_community_size=2)
    [[0, 2]]
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f"threshold is a cosine similarity between -1 and 1, got {threshold}")
    for name, size in (("min_community_size", min_community_size), ("batch_size", batch_size)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    rows = F.normalize(torch.atleast_2d(as_tensor(embeddings, finite=True)), dim=1)
    neighbours = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    blocks = list(_blocks(len(rows), batch_size, len(rows)))
    for block in tqdm(blocks, desc="Counting neighbours", disable=not show_progress_bar):
        neighbours[block] = (rows[block] @ rows.T >= threshold).sum(dim=1)
    by_size = neighbours.argsort(descending=True, stable=True)
    candidates = by_size[neighbours[by_size] >= min_community_size].cpu().numpy()
    taken = np.zeros(len(rows), dtype=bool)
    communities: list[list[int]] = []
    blocks = list(_blocks(len(candidates), batch_size, len(rows)))
    for block in tqdm(blocks, desc="Collecting communities", disable=not show_progress_bar):
        centres = candidates[block][~taken[candidates[block]]]
        for centre, scores in zip(centres.tolist(), rows[centres] @ rows.T, strict=True):
            if taken[centre]:
                continue
            values, members = scores.sort(descending=True, stable=True)
            group = members[values >= threshold].cpu().numpy()
            group = group[~taken[group]]
            if len(group) >= min_community_size:
                communities.append([centre, *group[group != centre].tolist()])
                taken[communities[-1]] = True
    return sorted(communities, key=len, reverse=True)
