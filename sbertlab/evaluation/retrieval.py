"""Evaluators of search: do the right texts come first?"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import Any, Unpack

import numpy as np
import pandas as pd
from torch import Tensor
from tqdm.auto import tqdm

from sbertlab import util
from sbertlab.checks import check_choice, checked_number
from sbertlab.data.texts import checked_texts
from sbertlab.evaluation.base import Measurement, SentenceEvaluator, Settings
from sbertlab.evaluation.pairs import best_thresholds
from sbertlab.util import Encoder, Matches, ScoreFunction, SimilarityFunction, cos_sim


class InformationRetrievalEvaluator(SentenceEvaluator):
    """Search for each query in a corpus, and rank the relevant documents.

    The corpus is encoded in chunks, of which the best hits of each query are kept, so neither all its embeddings nor
    all scores are in memory together. Documents with equal scores rank by their id. Metrics for each score function are
    those of `ranking_metrics`, such as `cos_sim_ndcg@10`; primary is `max_map@k`, the best of the functions.
    `per_example`: query_id, query, relevant (how many) and the metrics.

    Args:
        queries, corpus: texts by id.
        relevant_docs: ids of the relevant documents by query id; queries without any are left out.
        corpus_chunk_size: number of documents encoded and scored at a time.
        score_functions: `(q, dim), (c, dim) -> (q, c)` by name; None is cos_sim and dot_score.
        main_score_function: the one whose MAP is primary; None takes the greatest.
        query_prompt, query_prompt_name, corpus_prompt, corpus_prompt_name: passed to `encode`.
    """

    def __init__(
        self,
        queries: Mapping[Any, str],
        corpus: Mapping[Any, str],
        relevant_docs: Mapping[Any, Iterable[Any]],
        corpus_chunk_size: int = 50_000,
        mrr_at_k: Sequence[int] = (10,),
        ndcg_at_k: Sequence[int] = (10,),
        accuracy_at_k: Sequence[int] = (1, 3, 5, 10),
        precision_recall_at_k: Sequence[int] = (1, 3, 5, 10),
        map_at_k: Sequence[int] = (100,),
        score_functions: Mapping[str, ScoreFunction] | None = None,
        main_score_function: str | SimilarityFunction | None = None,
        query_prompt: str | None = None,
        query_prompt_name: str | None = None,
        corpus_prompt: str | None = None,
        corpus_prompt_name: str | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self.score_functions = dict(score_functions or {"cos_sim": cos_sim, "dot_score": util.dot_score})
        main = main_score_function or (next(iter(self.score_functions)) if len(self.score_functions) == 1 else "max")
        if isinstance(main, SimilarityFunction):
            main = {"cosine": "cos_sim", "dot": "dot_score"}.get(main.value, main.value)
        check_choice("main_score_function", main, (*self.score_functions, "max"))
        cutoffs = (accuracy_at_k, precision_recall_at_k, precision_recall_at_k, ndcg_at_k, mrr_at_k, map_at_k)
        kinds = ("accuracy", "precision", "recall", "ndcg", "mrr", "map")
        self.cutoffs = dict(zip(kinds, map(list, cutoffs), strict=True))
        for metric, ks in self.cutoffs.items():
            checked_number(f"the least of {metric}_at_k", min(ks, default=0), 1, whole=True)
        self.corpus_chunk_size = checked_number("corpus_chunk_size", corpus_chunk_size, 1, whole=True)
        self.map_key = f"map@{max(map_at_k)}"
        super().__init__(f"{main}_{self.map_key}", "Information-Retrieval_evaluation{}_results.csv", **settings)
        self.relevant_docs = _relevant(queries, corpus, relevant_docs)
        self.queries_ids = list(self.relevant_docs)
        self.corpus_ids = sorted(corpus, key=lambda name: (str(type(name)), name))  # equal scores rank by id
        (self.queries,) = checked_texts(queries=[queries[query] for query in self.queries_ids])
        (self.corpus,) = checked_texts(corpus=[corpus[document] for document in self.corpus_ids])
        self.query_arguments = {"prompt": query_prompt, "prompt_name": query_prompt_name}
        self.corpus_arguments = {"prompt": corpus_prompt, "prompt_name": corpus_prompt_name}

    def measure(self, model: Encoder) -> Measurement:
        """Return the metrics of ranking, and the table of queries."""
        counts = np.array([len(self.relevant_docs[query]) for query in self.queries_ids])
        table = pd.DataFrame({"query_id": self.queries_ids, "query": self.queries, "relevant": counts})
        metrics: dict[str, float] = {}
        for name, (_, places) in self._best_matches(model).items():
            found = zip(self.queries_ids, places.tolist(), strict=True)
            hits = np.array(
                [[self.corpus_ids[place] in self.relevant_docs[query] for place in row] for query, row in found]
            )  # (queries, greatest k)
            for key, values in ranking_metrics(hits, counts, self.cutoffs).items():
                table[f"{name}_{key}"] = values
                metrics[f"{name}_{key}"] = values.mean()
        if len(self.score_functions) > 1:
            metrics[f"max_{self.map_key}"] = max(metrics[f"{name}_{self.map_key}"] for name in self.score_functions)
        return metrics, table

    def _best_matches(self, model: Encoder) -> dict[str, Matches]:
        """Return scores and places `(queries, greatest k)` of the best documents under each score function."""
        (queries,) = self._embed(model, self.queries, role="query", **self.query_arguments)
        most = max(chain.from_iterable(self.cutoffs.values()))
        best: dict[str, Matches] = {}
        starts = range(0, len(self.corpus), self.corpus_chunk_size)
        for start in tqdm(starts, desc="Corpus chunks", disable=not self.show_progress_bar):
            texts = self.corpus[start : start + self.corpus_chunk_size]
            (documents,) = self._embed(model, texts, role="document", **self.corpus_arguments)
            for name, function in self.score_functions.items():
                scores, places = util.top_matches(queries, documents, 1000, len(texts), most, function)
                found = scores, places + start
                best[name] = util.merge_matches(best[name], found, most) if name in best else found
        return best


class RerankingEvaluator(SentenceEvaluator):
    """Order the documents of each query by similarity to it: do the positives come first?

    Metrics: `map` (mean of scikit-learn's average precision; primary), `mrr@k`, `ndcg@k`. A negative that scores as
    high as a positive comes first. `per_example`: query, positives and negatives (how many) and the metrics.

    Args:
        samples: dicts with "query", "positive" and "negative" (lists of texts); those without either are left out.
        at_k, mrr_at_k: cut-off of `mrr` and `ndcg`.
        similarity_fct: `(1, dim), (c, dim) -> (1, c)`.
        use_batched_encoding: encode all samples together; False encodes sample by sample, in less memory.
    """

    def __init__(
        self,
        samples: Sequence[Mapping[str, Any]] | Mapping[Any, Mapping[str, Any]],
        at_k: int = 10,
        similarity_fct: ScoreFunction = cos_sim,
        use_batched_encoding: bool = True,
        mrr_at_k: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self.at_k = checked_number("at_k", at_k if mrr_at_k is None else mrr_at_k, 1, whole=True)
        super().__init__("map", f"RerankingEvaluator{{}}_results_@{self.at_k}.csv", **settings)
        self.samples: list[dict[str, Any]] = []
        for place, sample in enumerate(samples.values() if isinstance(samples, Mapping) else samples):
            if not isinstance(sample, Mapping) or not {"query", "positive", "negative"} <= set(sample):
                raise ValueError(f"samples[{place}] must be a dict with query, positive and negative: {sample!r:.80}")
            found: dict[str, Any] = {"query": sample["query"]}
            for side in ("positive", "negative"):
                found[side] = [sample[side]] if isinstance(sample[side], str) else list(sample[side])
            if found["positive"] and found["negative"]:
                checked_texts(**{f"samples[{place}]": [found["query"], *found["positive"], *found["negative"]]})
                self.samples.append(found)
        if not self.samples:
            raise ValueError("samples holds no query that has a positive and a negative document; nothing to rank")
        self.similarity_fct = similarity_fct
        self.use_batched_encoding = use_batched_encoding

    def measure(self, model: Encoder) -> Measurement:
        """Return the metrics of ranking, and the table of queries."""
        from sklearn.metrics import average_precision_score, ndcg_score

        rows = []
        for sample, (query, documents) in zip(self.samples, self._embedded(model), strict=True):
            sizes = [len(sample["positive"]), len(sample["negative"])]
            scores, places = util.top_matches(query, documents, 1, len(documents), len(documents), self.similarity_fct)
            ranked, positive = scores[0].cpu().numpy(), (places[0] >= sizes[1]).cpu().numpy()
            rank = int(positive.argmax()) + 1
            reciprocal = 1 / rank if rank <= self.at_k else 0.0
            gain = ndcg_score([positive], [ranked], k=self.at_k)
            rows.append([sample["query"], *sizes, average_precision_score(positive, ranked), reciprocal, gain])
        metrics = ["map", f"mrr@{self.at_k}", f"ndcg@{self.at_k}"]
        table = pd.DataFrame(rows, columns=["query", "positives", "negatives", *metrics])
        return {key: table[key].mean() for key in metrics}, table

    def _embedded(self, model: Encoder) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the query `(1, dim)` and the documents `(n, dim)`, negatives first, of each sample."""
        groups = [self.samples] if self.use_batched_encoding else [[sample] for sample in self.samples]
        for group in groups:
            (queries,) = self._embed(model, [sample["query"] for sample in group], role="query")
            columns = [sample["negative"] + sample["positive"] for sample in group]  # the negative wins a tie
            yield from zip(queries.split(1), self._embed(model, *columns, role="document"), strict=True)


class ParaphraseMiningEvaluator(SentenceEvaluator):
    """Mine the most similar pairs among all texts: are they the known duplicates?

    Metrics: `average_precision` over all known duplicates, mined or not (primary); `f1`, `precision` and `recall` at
    the `threshold` with the best F1. `per_example`: one row per mined pair, best first, then the duplicates that were
    not mined, with id1, id2, score (NaN if not mined) and label (whether a known duplicate).

    Args:
        sentences_map: texts by id.
        duplicates_list, duplicates_dict: pairs of ids, or `{id: {id: True}}`; those with an unknown id are left out.
        add_transitive_closure: if (a, b) and (b, c) are duplicates, so are (a, c).
        query_chunk_size, corpus_chunk_size, max_pairs, top_k: as in `util.paraphrase_mining`.
    """

    def __init__(
        self,
        sentences_map: Mapping[Any, str],
        duplicates_list: Iterable[tuple[Any, Any]] | None = None,
        duplicates_dict: Mapping[Any, Mapping[Any, bool]] | None = None,
        add_transitive_closure: bool = False,
        query_chunk_size: int = 5000,
        corpus_chunk_size: int = 100_000,
        max_pairs: int = 500_000,
        top_k: int = 100,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__("average_precision", "paraphrase_mining_evaluation{}_results.csv", **settings)
        self.ids = list(sentences_map)
        (self.sentences,) = checked_texts(sentences_map=list(sentences_map.values()))
        marked = ((a, b) for a, others in (duplicates_dict or {}).items() for b, alike in others.items() if alike)
        self.duplicates = _duplicate_places(self.ids, chain(duplicates_list or (), marked), add_transitive_closure)
        self.mining = (query_chunk_size, corpus_chunk_size, max_pairs, top_k)

    def measure(self, model: Encoder) -> Measurement:
        """Return the metrics of mining, and the table of pairs."""
        from sklearn.metrics import average_precision_score

        (embeddings,) = self._embed(model, self.sentences)
        mined = util.paraphrase_mining_embeddings(embeddings, *self.mining)
        pairs = [(int(i), int(j)) for _, i, j in mined]
        labels = np.array([pair in self.duplicates for pair in pairs])
        scores = np.array([score for score, _, _ in mined])
        total, found = len(self.duplicates), int(labels.sum())
        best = best_thresholds(labels, scores, positives=total)
        average = average_precision_score(labels, scores) * found / total if found else 0.0
        metrics = {"average_precision": average, "threshold": best["f1_threshold"]}
        metrics |= {key: best[key] for key in ("f1", "precision", "recall")}
        missed = sorted(self.duplicates.difference(pairs))
        table = pd.DataFrame([(self.ids[i], self.ids[j]) for i, j in pairs + missed], columns=["id1", "id2"])
        table["score"] = np.append(scores, [np.nan] * len(missed))
        table["label"] = np.append(labels, [True] * len(missed)).astype(int)
        return metrics, table


def ranking_metrics(
    hits: np.ndarray, relevant: np.ndarray, cutoffs: Mapping[str, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Return metrics of truncated ranked lists, `(queries,)` by key such as "ndcg@10".

    With `h_r` whether rank r is a hit, and R relevant documents: accuracy@k is `max h_r`, precision@k `sum h_r / k`,
    recall@k `sum h_r / R`, mrr@k `max h_r / r`, map@k `sum h_r * precision@r / min(k, R)`, and ndcg@k
    `sum h_r / log2(r + 1)` divided by that of a perfect list; over r <= k. `hits` is `(queries, ranks)`, `relevant`
    R `(queries,)`. Source: Manning et al., 2008, Introduction to Information Retrieval, chapter 8.

    >>> every = {"mrr": [2], "map": [3], "precision": [3], "recall": [3], "accuracy": [1]}
    >>> values = ranking_metrics(np.array([[0, 1, 1]]), np.array([4]), every)
    >>> {key: round(value.item(), 3) for key, value in values.items()}
    {'mrr@2': 0.5, 'map@3': 0.389, 'precision@3': 0.667, 'recall@3': 0.5, 'accuracy@1': 0.0}
    """
    hits = np.asarray(hits, dtype=float)
    ranks = np.arange(1, hits.shape[1] + 1)
    precisions = hits.cumsum(axis=1) / ranks
    discounts = 1 / np.log2(1 + np.arange(1, 1 + max(chain(cutoffs.get("ndcg", ()), (hits.shape[1],)))))
    formulas: dict[str, Callable[[int], np.ndarray]] = {
        "accuracy": lambda k: hits[:, :k].max(axis=1),
        "precision": lambda k: hits[:, :k].sum(axis=1) / k,
        "recall": lambda k: hits[:, :k].sum(axis=1) / relevant,
        "ndcg": lambda k: (
            (hits * discounts[: len(ranks)])[:, :k].sum(axis=1) / discounts.cumsum()[np.minimum(k, relevant) - 1]
        ),
        "mrr": lambda k: (hits / ranks)[:, :k].max(axis=1),
        "map": lambda k: (hits * precisions)[:, :k].sum(axis=1) / np.minimum(k, relevant),
    }
    return {f"{metric}@{k}": formulas[metric](k) for metric, ks in cutoffs.items() for k in ks}


def _relevant(
    queries: Mapping[Any, str], corpus: Mapping[Any, str], relevant_docs: Mapping[Any, Iterable[Any]]
) -> dict[Any, set[Any]]:
    """Return the relevant documents of each query that has any, in the order of the queries; all ids must be known."""
    if not (isinstance(queries, Mapping) and isinstance(corpus, Mapping)):
        raise ValueError(f"queries and corpus must be dicts from id to text, got {type(queries)} and {type(corpus)}")
    for query, documents in relevant_docs.items():
        if isinstance(documents, (str, Mapping)):
            raise ValueError(f"relevant_docs[{query!r}] must be a set of document ids, got {documents!r:.80}")
        if unknown := {query} - queries.keys() | set(documents) - corpus.keys():
            raise ValueError(f"relevant_docs[{query!r}] names unknown ids, such as {min(unknown, key=str)!r}")
    found = {query: set(relevant_docs[query]) for query in queries if relevant_docs.get(query)}
    if not found:
        raise ValueError("relevant_docs names no relevant document for any query")
    return found


def _duplicate_places(ids: Sequence[Any], pairs: Iterable[tuple[Any, Any]], closure: bool) -> set[tuple[int, int]]:
    """Return places (i, j), i < j, of the duplicate pairs; with `closure` of all pairs that duplicates connect."""
    places, named = {id: place for place, id in enumerate(ids)}, list(pairs)
    known = [(places[a], places[b]) for a, b in named if a in places and b in places]
    if len(known) < len(named):
        unknown = f"{len(named) - len(known)} of {len(named)} duplicate pairs"
        warnings.warn(f"{unknown} name an id that is not in sentences_map", stacklevel=3)
    duplicates = {(min(pair), max(pair)) for pair in known if pair[0] != pair[1]}
    if not duplicates:
        raise ValueError(f"none of the {len(named)} pairs is a duplicate pair of two different ids of sentences_map")
    if closure:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        rows, columns = zip(*duplicates, strict=True)
        graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(ids), len(ids)))
        groups = pd.Series(range(len(ids))).groupby(connected_components(graph, directed=False)[1])
        duplicates = {pair for _, group in groups for pair in combinations(group.tolist(), 2)}
    return duplicates
