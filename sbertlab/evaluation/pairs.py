"""Evaluators of pairs, triplets and translations: does similarity follow the label?

`similarity_fn_names` are the similarities to compute; None takes all four, for triplets all but the dot product. The
best of them, or the one named as main, is primary. Tables hold distances negated, so that higher is more similar.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, Unpack

import numpy as np
import pandas as pd
from torch import Tensor

from sbertlab.checks import checked_binary, checked_number, checked_numbers
from sbertlab.data import InputExample
from sbertlab.data.texts import checked_texts
from sbertlab.evaluation.base import Measurement, SentenceEvaluator, Settings
from sbertlab.util import Encoder, SimilarityFunction, top_matches

SimilarityName = Literal["cosine", "dot", "euclidean", "manhattan"]


class _PairEvaluator(SentenceEvaluator):
    """What the evaluators of pairs and triplets share: similarities by name, and construction from examples."""

    n_texts = 2

    @classmethod
    def from_input_examples(cls, examples: Sequence[InputExample], **kwargs: Any) -> Self:
        """Make one from examples with two texts and a score or label, or with three texts (triplets)."""
        rows = [example.texts or [] for example in examples]
        if {len(texts) for texts in rows} != {cls.n_texts}:
            raise ValueError(f"examples must have {cls.n_texts} texts each, got {rows[:1]}")
        labels = [[example.label for example in examples]] if cls.n_texts == 2 else []
        make: Callable[..., Self] = cls
        return make(*map(list, zip(*rows, strict=True)), *labels, **kwargs)


class EmbeddingSimilarityEvaluator(_PairEvaluator):
    """Correlation of the similarity of two texts with the score that people gave the pair, on any scale.

    Metrics: `pearson_*` and `spearman_*` for each similarity, `*_max` over them; 0 where undefined, because all pairs
    have the same similarity. `per_example`: sentence1, sentence2, score and the similarities.

    >>> from types import SimpleNamespace
    >>> toy = SimpleNamespace(encode=lambda texts, **_: [[len(text), 1.0] for text in texts])
    >>> evaluator = EmbeddingSimilarityEvaluator(["a", "a", "a"], ["b", "bb", "bbbb"], [1.0, 0.5, 0.2], name="dev")
    >>> evaluator(toy)["dev_spearman_euclidean"], evaluator.primary_metric
    (1.0, 'dev_spearman_max')
    """

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        scores: Sequence[float],
        main_similarity: str | SimilarityFunction | None = None,
        similarity_fn_names: Sequence[SimilarityName] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self.similarity_fn_names, main = _similarities(similarity_fn_names, main_similarity)
        super().__init__(f"spearman_{main}", "similarity_evaluation{}_results.csv", **settings)
        self.sentences1, self.sentences2 = checked_texts(sentences1=sentences1, sentences2=sentences2)
        self.scores = checked_numbers("scores", scores, length=len(self.sentences1))
        if np.ptp(self.scores) == 0:
            raise ValueError(f"scores are all {self.scores[0]:g}; a correlation needs at least two different scores")

    def measure(self, model: Encoder) -> Measurement:
        """Return the correlations, and the table of pairs."""
        from scipy.stats import pearsonr, spearmanr

        first, second = self._embed(model, self.sentences1, self.sentences2)
        table = pd.DataFrame({"sentence1": self.sentences1, "sentence2": self.sentences2, "score": self.scores})
        for name in self.similarity_fn_names:
            table[name] = _pair_scores(name, first, second)
        metrics: dict[str, float] = {}
        for metric, correlation in (("pearson", pearsonr), ("spearman", spearmanr)):
            found = {
                name: correlation(self.scores, table[name]).statistic if np.ptp(table[name]) else 0.0
                for name in self.similarity_fn_names
            }
            found |= {"max": max(found.values())} if len(found) > 1 else {}
            metrics |= {f"{metric}_{name}": value for name, value in found.items()}
        return metrics, table


class BinaryClassificationEvaluator(_PairEvaluator):
    """How well similarity separates positive pairs (label 1) from negative ones (0).

    Metrics for each similarity: `*_ap` (average precision), `*_accuracy` and `*_f1` at their best thresholds
    (`*_accuracy_threshold`, `*_f1_threshold`), `*_precision`, `*_recall` and `*_mcc` (Matthews correlation) at the F1
    threshold; `max_*` over the similarities. Thresholds of euclidean and manhattan are distances: positive is below.
    `per_example`: sentence1, sentence2, label and the similarities.
    """

    def __init__(
        self,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        labels: Sequence[int],
        similarity_fn_names: Sequence[SimilarityName] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self.similarity_fn_names, main = _similarities(similarity_fn_names)
        super().__init__(f"{main}_ap", "binary_classification_evaluation{}_results.csv", **settings)
        self.sentences1, self.sentences2 = checked_texts(sentences1=sentences1, sentences2=sentences2)
        self.labels = checked_binary("labels", labels, length=len(self.sentences1))

    def measure(self, model: Encoder) -> Measurement:
        """Return the metrics of classification, and the table of pairs."""
        from sklearn.metrics import average_precision_score, matthews_corrcoef

        first, second = self._embed(model, self.sentences1, self.sentences2)
        table = pd.DataFrame({"sentence1": self.sentences1, "sentence2": self.sentences2, "label": self.labels})
        metrics: dict[str, float] = {}
        for name in self.similarity_fn_names:
            table[name] = scores = _pair_scores(name, first, second)
            best = best_thresholds(self.labels, scores)
            best["ap"] = average_precision_score(self.labels, scores)
            best["mcc"] = matthews_corrcoef(self.labels, scores >= best["f1_threshold"])
            if name in ("euclidean", "manhattan"):
                best |= {key: -value for key, value in best.items() if key.endswith("threshold")}
            metrics |= {f"{name}_{key}": value for key, value in best.items()}
        if len(self.similarity_fn_names) > 1:
            for key in ("accuracy", "f1", "precision", "recall", "ap", "mcc"):
                metrics[f"max_{key}"] = max(metrics[f"{name}_{key}"] for name in self.similarity_fn_names)
        return metrics, table


class TripletEvaluator(_PairEvaluator):
    """Share of triplets whose anchor is more similar to the positive than to the negative, by more than `margin`.

    Metrics: `*_accuracy` for each similarity, `max_accuracy` over them; a tie counts as wrong. `per_example`: texts,
    `*_positive`, `*_negative` and `*_accuracy` (0 or 1). `margin` is one number or one per similarity;
    `main_distance_function` is an older name of `main_similarity_function`.
    """

    n_texts = 3

    def __init__(
        self,
        anchors: Sequence[str],
        positives: Sequence[str],
        negatives: Sequence[str],
        main_similarity_function: str | SimilarityFunction | None = None,
        margin: float | Mapping[str, float] | None = None,
        similarity_fn_names: Sequence[SimilarityName] | None = None,
        main_distance_function: str | SimilarityFunction | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        main_function = main_similarity_function or main_distance_function
        wanted = similarity_fn_names or ("cosine", "euclidean", "manhattan", main_function or "cosine")
        self.similarity_fn_names, main = _similarities(wanted, main_function)
        super().__init__(f"{main}_accuracy", "triplet_evaluation{}_results.csv", **settings)
        texts = checked_texts(anchors=anchors, positives=positives, negatives=negatives)
        self.anchors, self.positives, self.negatives = texts
        margins = margin if isinstance(margin, Mapping) else dict.fromkeys(self.similarity_fn_names, margin or 0.0)
        self.margin = dict.fromkeys(self.similarity_fn_names, 0.0)
        for key, value in margins.items():
            self.margin[SimilarityFunction(key).value] = checked_number(f"margin of {key}", value)

    def measure(self, model: Encoder) -> Measurement:
        """Return the accuracies, and the table of triplets."""
        (anchors,) = self._embed(model, self.anchors, role="query")
        positives, negatives = self._embed(model, self.positives, self.negatives, role="document")
        table = pd.DataFrame({"anchor": self.anchors, "positive": self.positives, "negative": self.negatives})
        for name in self.similarity_fn_names:
            table[f"{name}_positive"] = _pair_scores(name, anchors, positives)
            table[f"{name}_negative"] = _pair_scores(name, anchors, negatives)
            won = table[f"{name}_positive"] > table[f"{name}_negative"] + self.margin[name]
            table[f"{name}_accuracy"] = won.astype(float)
        metrics = {f"{name}_accuracy": table[f"{name}_accuracy"].mean() for name in self.similarity_fn_names}
        if len(self.similarity_fn_names) > 1:
            metrics["max_accuracy"] = max(metrics.values())
        return metrics, table


class TranslationEvaluator(SentenceEvaluator):
    """Is the most similar target (by cosine) of each source its translation, and vice versa?

    Metrics: `src2trg_accuracy`, `trg2src_accuracy` and their mean `mean_accuracy` (primary). The same text found in
    another row counts as right. `per_example`: source, target, found_target, found_source and the accuracies.
    """

    def __init__(
        self,
        source_sentences: Sequence[str],
        target_sentences: Sequence[str],
        print_wrong_matches: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__("mean_accuracy", "translation_evaluation{}_results.csv", **settings)
        texts = checked_texts(source_sentences=source_sentences, target_sentences=target_sentences)
        self.source_sentences, self.target_sentences = texts
        self.print_wrong_matches = print_wrong_matches

    def measure(self, model: Encoder) -> Measurement:
        """Return the accuracies, and the table of translations."""
        sources, targets = self._embed(model, self.source_sentences, self.target_sentences)
        table = pd.DataFrame({"source": self.source_sentences, "target": self.target_sentences})
        ways = {"src2trg_accuracy": ("target", sources, targets), "trg2src_accuracy": ("source", targets, sources)}
        for key, (texts, queries, corpus) in ways.items():
            places = top_matches(queries, corpus, 1000, top_k=1)[1][:, 0].cpu().numpy()
            table[f"found_{texts}"] = table[texts].to_numpy()[places]
            table[key] = (table[f"found_{texts}"] == table[texts]).astype(float)
        if self.print_wrong_matches:
            for row in table[table["src2trg_accuracy"] == 0].itertuples():
                print(f"{row.Index}: {row.source}\n  found:    {row.found_target}\n  expected: {row.target}")
        metrics = {key: table[key].mean() for key in ways}
        return metrics | {"mean_accuracy": sum(metrics.values()) / 2}, table


def best_thresholds(labels: np.ndarray, scores: np.ndarray, positives: int | None = None) -> dict[str, float]:
    """Return the best accuracy and the best F1, with precision and recall at the latter, and their thresholds.

    A score at or above the threshold means positive. A threshold lies halfway between two scores, never between equal
    ones; of several best ones the highest counts. `labels` `(n,)` are 0 or 1, `scores` are `(n,)`; `positives` is the
    number of positives in all, if some have no score.

    >>> best = best_thresholds(np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.4, 0.1]))
    >>> best["accuracy"], best["accuracy_threshold"], best["f1"], best["f1_threshold"]
    (0.75, 0.7, 0.8, 0.25)
    """
    order = np.argsort(-scores, kind="stable")
    labels, scores = np.asarray(labels, dtype=bool)[order], scores[order]
    n, total = len(labels), int(labels.sum()) if positives is None else positives
    last = np.append(np.flatnonzero(np.diff(scores)), n - 1)  # last row of each run of equal scores
    cuts = (scores[last].astype(float) + scores[np.minimum(last + 1, n - 1)]) / 2
    right, called = labels.cumsum()[last], last + 1  # true positives, and all called positive
    f1 = 2 * right / (called + total)
    top = int(f1.argmax())
    # the first choice is to call nothing positive
    accuracy = np.append(n - labels.sum(), right + (n - labels.sum()) - (called - right)) / n
    accuracy_cuts = np.append(np.nextafter(scores[0], scores.dtype.type(np.inf)), cuts)
    return {
        "accuracy": float(accuracy.max()),
        "accuracy_threshold": float(accuracy_cuts[accuracy.argmax()]),
        "f1": float(f1[top]),
        "f1_threshold": float(cuts[top]),
        "precision": float(right[top] / called[top]),
        "recall": float(right[top] / total),
    }


def _pair_scores(name: str, first: Tensor, second: Tensor) -> np.ndarray:
    return SimilarityFunction.to_similarity_pairwise_fn(name)(first, second).cpu().numpy()


def _similarities(names: Sequence[Any] | None, main: str | SimilarityFunction | None = None) -> tuple[list[str], str]:
    """Return the names of the similarities to compute, and of the primary one, or "max" if the best one counts."""
    if isinstance(names, str):
        raise ValueError(f"similarity_fn_names must be a list of names, got {names!r}")
    wanted = names or SimilarityFunction.possible_values()
    chosen = list(dict.fromkeys(SimilarityFunction(name).value for name in wanted))
    if main is None:
        return chosen, chosen[0] if len(chosen) == 1 else "max"
    if SimilarityFunction(main).value not in chosen:
        raise ValueError(f"the main similarity {SimilarityFunction(main).value!r} is not among {', '.join(chosen)}")
    return chosen, SimilarityFunction(main).value
