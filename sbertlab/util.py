"""The field's `util`: similarities, exact search, paraphrase mining, communities, truncation and quantisation.

Embeddings are `(n, dim)` as a tensor, an array or a list; a vector `(dim,)` counts as one row. Scores are computed in
float32 at least. NaN and infinity raise a ValueError, except in the similarities, so that a loss may pass NaN on.

Search, mining and communities score block by block, so the full matrix of scores is never in memory. Equal scores rank
by position, whatever the size of the blocks. `query_chunk_size` and `corpus_chunk_size` limit the rows scored at once,
`top_k` the entries kept per query; `score_function` maps `(q, dim), (c, dim)` to `(q, c)`, higher is better.
"""

import warnings
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from sbertlab.checks import Embeddings, as_tensor, check_choice, check_sizes, checked_number

Array = TypeVar("Array", Tensor, np.ndarray)
ScoreFunction = Callable[[Tensor, Tensor], Tensor]
Matches = tuple[Tensor, Tensor]  # scores and indices, both (queries, k), best first

BLOCK_SCORES = 2**25  # maximum number of scores in memory: 128 MiB in float32, however large the chunks


class Encoder(Protocol):
    """Anything that embeds texts, such as a `SentenceTransformer`."""

    def encode(self, sentences: list[str], **kwargs: Any) -> Any:
        """Return the embeddings `(n, dim)` of `n` texts."""


def _comparable(a: Embeddings, b: Embeddings, pairwise: bool = False) -> tuple[Tensor, Tensor]:
    """Return both as tensors of one dtype on one device, of fitting shapes; two-dimensional unless `pairwise`."""
    first, second = as_tensor(a, "a"), as_tensor(b, "b")
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(f"a has {first.shape[-1]} dimensions and b has {second.shape[-1]}; embed both with one model")
    if pairwise and first.shape != second.shape:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(f"row i of a is compared with row i of b, but their shapes are {shapes}")
    dtype = torch.promote_types(first.dtype, second.dtype)
    first, second = first.to(dtype), second.to(first.device, dtype)
    return (first, second) if pairwise else (torch.atleast_2d(first), torch.atleast_2d(second))


def normalize_embeddings(embeddings: Embeddings) -> Tensor:
    """`x / |x|` of each row; a row of zeros stays zero."""
    return F.normalize(as_tensor(embeddings), p=2, dim=-1)


def cos_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Cosine similarity of every row of `a` `(n, dim)` with every row of `b` `(m, dim)`: `(n, m)`.

    >>> cos_sim([[1.0, 0.0]], [[2.0, 0.0], [0.0, 3.0], [3.0, 4.0]])
    tensor([[1.0000, 0.0000, 0.6000]])
    """
    first, second = _comparable(a, b)
    return F.normalize(first, dim=1) @ F.normalize(second, dim=1).T


def dot_score(a: Embeddings, b: Embeddings) -> Tensor:
    """Dot product of every row of `a` `(n, dim)` with every row of `b` `(m, dim)`: `(n, m)`."""
    first, second = _comparable(a, b)
    return first @ second.T


def euclidean_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """`-|a_i - b_j|_2` of every row of `a` `(n, dim)` with every row of `b` `(m, dim)`: `(n, m)`."""
    return -torch.cdist(*_comparable(a, b), p=2.0)


def manhattan_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """`-|a_i - b_j|_1` of every row of `a` `(n, dim)` with every row of `b` `(m, dim)`: `(n, m)`."""
    return -torch.cdist(*_comparable(a, b), p=1.0)


def pairwise_cos_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Cosine similarity of row i of `a` `(n, dim)` with row i of `b` `(n, dim)`: `(n,)`.

    >>> pairwise_cos_sim([[1.0, 0.0], [3.0, 4.0]], [[2.0, 0.0], [0.0, 1.0]])
    tensor([1.0000, 0.8000])
    """
    first, second = _comparable(a, b, pairwise=True)
    return (F.normalize(first, dim=-1) * F.normalize(second, dim=-1)).sum(dim=-1)


def pairwise_dot_score(a: Embeddings, b: Embeddings) -> Tensor:
    """Dot product of row i of `a` `(n, dim)` with row i of `b` `(n, dim)`: `(n,)`."""
    first, second = _comparable(a, b, pairwise=True)
    return (first * second).sum(dim=-1)


def pairwise_euclidean_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """`-|a_i - b_i|_2` of two `(n, dim)`: `(n,)`."""
    first, second = _comparable(a, b, pairwise=True)
    return -torch.linalg.vector_norm(first - second, dim=-1)


def pairwise_manhattan_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """`-|a_i - b_i|_1` of two `(n, dim)`: `(n,)`."""
    first, second = _comparable(a, b, pairwise=True)
    return -(first - second).abs().sum(dim=-1)


def pairwise_angle_sim(x: Embeddings, y: Embeddings) -> Tensor:
    """`|cos + sin|` of the angles between row i of `x` and of `y`, both `(n, dim)`, as complex vectors: `(n,)`.

    The first half of a row is the real part, the second the imaginary one (an odd dimension is padded by a zero). With
    unit vectors `x = a + bi` and `y = c + di`: `|sum(ac + bd) + sum(bc - ad)|`.
    Source: Li and Li, 2023, AnglE-optimized Text Embeddings (arXiv:2309.12871), equations 4 to 6.

    >>> pairwise_angle_sim([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]])
    tensor([1.0000, 1.4000])
    """
    first, second = _comparable(x, y, pairwise=True)
    odd = first.shape[-1] % 2
    a, b = F.normalize(F.pad(first, (0, odd)), dim=-1).chunk(2, dim=-1)  # each (n, dim / 2)
    c, d = F.normalize(F.pad(second, (0, odd)), dim=-1).chunk(2, dim=-1)
    return (a * c + b * d + b * c - a * d).sum(dim=-1).abs()


class SimilarityFunction(Enum):
    """The four similarities by name; higher means more similar, distances are negated."""

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"  # noqa: PIE796, the second name is the field's
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @classmethod
    def _missing_(cls, value: object) -> None:
        check_choice("similarity function", value, cls.possible_values())

    @classmethod
    def possible_values(cls) -> list[str]:
        """Return the names."""
        return [function.value for function in cls]

    @classmethod
    def to_similarity_fn(cls, similarity_function: str | Self) -> Callable[[Embeddings, Embeddings], Tensor]:
        """Return the function `(n, dim), (m, dim) -> (n, m)`."""
        return _SIMILARITIES[cls(similarity_function)][0]

    @classmethod
    def to_similarity_pairwise_fn(cls, similarity_function: str | Self) -> Callable[[Embeddings, Embeddings], Tensor]:
        """Return the function `(n, dim), (n, dim) -> (n,)`."""
        return _SIMILARITIES[cls(similarity_function)][1]


_SIMILARITIES = {
    SimilarityFunction.COSINE: (cos_sim, pairwise_cos_sim),
    SimilarityFunction.DOT_PRODUCT: (dot_score, pairwise_dot_score),
    SimilarityFunction.EUCLIDEAN: (euclidean_sim, pairwise_euclidean_sim),
    SimilarityFunction.MANHATTAN: (manhattan_sim, pairwise_manhattan_sim),
}


def _blocks(n: int, size: int, width: int) -> list[slice]:
    """Return slices over `n` rows of `width` scores: at most `size` rows and `BLOCK_SCORES` scores each."""
    rows = min(size, max(1, BLOCK_SCORES // max(1, width)))
    return [slice(start, start + rows) for start in range(0, n, rows)]


def _largest(scores: Tensor, k: int) -> Matches:
    """Return the `k` largest scores of each row and their columns, best first, of equal scores the lower column."""
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    tied = values[:, k - 1] == values[:, -1]  # at the edge, where topk takes any of the equal ones
    values, columns = values[:, :k], columns[:, :k]
    if scores.shape[1] > k and tied.any():
        exact = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], columns[tied] = exact.values[:, :k], exact.indices[:, :k]
    columns, order = columns.sort(dim=1)
    values, by_score = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, by_score)


def merge_matches(first: Matches, second: Matches, top_k: int) -> Matches:
    """Return the best `top_k` of two matches of the same queries; of equal scores, those of `first` come first."""
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
    """Return the scores and corpus indices of the best entries per query, both `(queries, min(top_k, corpus))`.

    The best come first, of equal scores the lower index. The tensors are on the corpus' device.

    >>> top_matches([[1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]], top_k=2)
    (tensor([[1., 1.]]), tensor([[1, 2]]))
    """
    check_sizes(query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size, top_k=top_k)
    corpus = torch.atleast_2d(as_tensor(corpus_embeddings, "corpus_embeddings", finite=True))
    queries = torch.atleast_2d(as_tensor(query_embeddings, "query_embeddings", finite=True)).to(corpus.device)
    unit = score_function is cos_sim  # then rows are scaled to unit length once per chunk, not once per block
    if unit:
        queries, score_function = F.normalize(queries, dim=1), dot_score
    best = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long, device=corpus.device)
    if not len(queries):
        return best
    for start in range(0, len(corpus), corpus_chunk_size):
        chunk = corpus[start : start + corpus_chunk_size]
        chunk = F.normalize(chunk, dim=1) if unit else chunk
        found = []
        for rows in _blocks(len(queries), query_chunk_size, len(chunk)):
            found.append(_largest(score_function(queries[rows], chunk), min(top_k, len(chunk))))
        values, columns = (torch.cat(parts) for parts in zip(*found, strict=True))
        best = merge_matches(best, (values, columns + start), top_k)
    return best


def semantic_search(
    query_embeddings: Embeddings,
    corpus_embeddings: Embeddings,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[dict[str, int | float]]]:
    """Return for each query its `top_matches` as `{"corpus_id": index, "score": score}`, best first.

    >>> semantic_search([[1.0, 0.0]], [[0.0, 1.0], [3.0, 0.0]], top_k=1)
    [[{'corpus_id': 1, 'score': 1.0}]]
    """
    sizes = query_chunk_size, corpus_chunk_size, top_k
    scores, indices = top_matches(query_embeddings, corpus_embeddings, *sizes, score_function)
    return [
        [{"corpus_id": index, "score": score} for index, score in zip(*row, strict=True)]
        for row in zip(indices.tolist(), scores.tolist(), strict=True)
    ]


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
    """Return the most similar pairs of texts: `paraphrase_mining_embeddings` of what `model.encode` returns.

    `encode_arguments` are for `encode`: `prompt`, `prompt_name`, `truncate_dim`.
    """
    if isinstance(sentences, str):
        raise ValueError(f"sentences must be a list of texts, got the text {sentences!r:.80}")
    settings = {"batch_size": batch_size, "show_progress_bar": show_progress_bar, "convert_to_tensor": True}
    embeddings = model.encode(list(sentences), **settings, **encode_arguments)
    limits = query_chunk_size, corpus_chunk_size, max_pairs, top_k
    return paraphrase_mining_embeddings(embeddings, *limits, score_function)


@torch.no_grad()
def paraphrase_mining_embeddings(
    embeddings: Embeddings,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """Return the `max_pairs` most similar pairs of rows, found through the `top_k` nearest rows of each.

    Each pair is one `[score, i, j]` with `i < j`, best first; of equal scores the lower i, then j.

    >>> paraphrase_mining_embeddings([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]], top_k=1)
    [[1.0, 1, 2], [0.0, 0, 1]]
    """
    check_sizes(max_pairs=max_pairs, top_k=top_k, query_chunk_size=query_chunk_size)
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
        other &= other.cumsum(axis=1) <= top_k  # a row with top_k + 1 equals may not have found itself
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
    """Return groups of rows in which every member has at least cosine `threshold` with the centre.

    A row is in at most one group. A group is the index of its centre and then its members, most similar first; the
    largest group comes first. Scores are computed twice, so that only `batch_size * n` are in memory.

    >>> community_detection([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [0.0, -1.0]], threshold=0.9, min_community_size=2)
    [[0, 2]]
    """
    checked_number("threshold", threshold, -1, 1)
    check_sizes(min_community_size=min_community_size, batch_size=batch_size)
    rows = F.normalize(torch.atleast_2d(as_tensor(embeddings, finite=True)), dim=1)
    neighbours = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    for block in tqdm(_blocks(len(rows), batch_size, len(rows)), "Counting neighbours", disable=not show_progress_bar):
        neighbours[block] = (rows[block] @ rows.T >= threshold).sum(dim=1)
    by_size = neighbours.argsort(descending=True, stable=True)
    candidates = by_size[neighbours[by_size] >= min_community_size].cpu().numpy()
    taken = np.zeros(len(rows), dtype=bool)
    communities: list[list[int]] = []
    for block in tqdm(
        _blocks(len(candidates), batch_size, len(rows)), "Collecting groups", disable=not show_progress_bar
    ):
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


def truncate_embeddings(embeddings: Array, truncate_dim: int | None) -> Array:
    """Return the first `truncate_dim` dimensions of each row (Matryoshka); None keeps all."""
    if truncate_dim is not None:
        checked_number("truncate_dim", truncate_dim, 1, embeddings.shape[-1], whole=True)
    return embeddings[..., :truncate_dim]


def quantize_embeddings(
    embeddings: Embeddings,
    precision: str,
    ranges: np.ndarray | None = None,
    calibration_embeddings: Embeddings | None = None,
) -> np.ndarray:
    """Return embeddings in fewer bytes, according to `precision` ("float32" keeps them).

    "int8", "uint8": one byte per dimension, whose range is divided into 255 steps. `ranges` `(2, dim)` are its minimum
    and maximum; default: those of `calibration_embeddings`, a sample of at least 100 rows, or of the embeddings.
    "binary", "ubinary": one bit per dimension, set for positive values, eight packed into one byte: `(n, dim / 8)`,
    rounded up. "binary" is shifted by -128 into int8.

    >>> quantize_embeddings(np.array([[0.3, -0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0]]), "ubinary")
    array([[160]], dtype=uint8)
    """
    check_choice("precision", precision, ["float32", "int8", "uint8", "binary", "ubinary"])
    values = as_tensor(embeddings, finite=True).detach().cpu().numpy()
    if precision == "float32":
        return values.astype(np.float32)
    if precision in ("binary", "ubinary"):
        packed = np.packbits(values > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    if ranges is None:
        sample = embeddings if calibration_embeddings is None else calibration_embeddings
        rows = torch.atleast_2d(as_tensor(sample, "calibration_embeddings", finite=True))
        if len(rows) < 2:
            raise ValueError(f"{precision} needs `ranges`, or more than {len(rows)} `calibration_embeddings`")
        if len(rows) < 100:
            warnings.warn(f"{precision} ranges are taken from {len(rows)} embeddings; pass `ranges`", stacklevel=2)
        ranges = torch.stack(rows.aminmax(dim=0)).detach().cpu().numpy()
    low, high = np.asarray(ranges, dtype=np.float32)
    steps = (high - low) / 255
    levels = np.clip(np.floor((values - low) / np.where(steps == 0, 1, steps)), 0, 255)
    return levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)


def batch_to_device(batch: dict[str, Any], target_device: torch.device | str) -> dict[str, Any]:
    """Move the tensors of `batch` to a device, in place, and return it."""
    batch.update({key: value.to(target_device) for key, value in batch.items() if isinstance(value, Tensor)})
    return batch


pytorch_cos_sim, information_retrieval = cos_sim, semantic_search  # names of older releases of the field
