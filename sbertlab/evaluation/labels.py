"""Evaluators by class labels and by a teacher's embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import pandas as pd
import torch
from torch.utils.data import DataLoader

from sbertlab.checks import check_columns, check_same_length, checked_number
from sbertlab.data import collate
from sbertlab.data.texts import checked_texts
from sbertlab.evaluation.base import Measurement, SentenceEvaluator, Settings
from sbertlab.util import Encoder


class LabelAccuracyEvaluator(SentenceEvaluator):
    """Share of examples whose class the softmax head of a `SoftmaxLoss` predicts.

    `dataloader` gives InputExamples with a class label; `softmax_model` is the `SoftmaxLoss` of the training.
    `per_example`: text_1, text_2, ..., label, prediction and accuracy (0 or 1).
    """

    def __init__(
        self, dataloader: DataLoader, name: str = "", softmax_model: Any = None, write_csv: bool = True
    ) -> None:
        super().__init__("accuracy", "accuracy_evaluation{}_results.csv", name, write_csv)
        if not callable(getattr(softmax_model, "logits", None)):
            raise ValueError(f"softmax_model must be the SoftmaxLoss with the trained head, got {softmax_model!r:.80}")
        self.dataloader = dataloader
        self.softmax_model = softmax_model

    @torch.no_grad()
    def measure(self, model: Encoder) -> Measurement:
        """Return the accuracy, and the table of examples."""
        self.dataloader.collate_fn = list
        columns, labels = collate([example for batch in self.dataloader for example in batch])
        if labels is None or labels.dim() != 1 or labels.is_floating_point():
            raise ValueError("dataloader must give InputExamples with a whole number as label, the class")
        logits = self.softmax_model.logits(self._embed(model, *columns))  # (n, classes)
        table = pd.DataFrame({f"text_{place}": column for place, column in enumerate(columns, start=1)})
        table["label"], table["prediction"] = labels.tolist(), logits.argmax(dim=1).tolist()
        table["accuracy"] = (table["label"] == table["prediction"]).astype(float)
        return {"accuracy": table["accuracy"].mean()}, table


class MSEEvaluator(SentenceEvaluator):
    """`-100 * mean((teacher(source) - student(target))^2)` over texts and dimensions, in key `negative_mse`.

    The teacher embeds the sources once, on construction; the targets may be translations of them. `per_example`:
    source, target and negative_mse.
    """

    def __init__(
        self,
        source_sentences: Sequence[str],
        target_sentences: Sequence[str],
        teacher_model: Encoder | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__("negative_mse", "mse_evaluation{}_results.csv", **settings)
        texts = checked_texts(source_sentences=source_sentences, target_sentences=target_sentences)
        self.source_sentences, self.target_sentences = texts
        if teacher_model is None:
            raise ValueError("teacher_model is missing; give the model whose embeddings are to be matched")
        (self.source_embeddings,) = self._embed(teacher_model, self.source_sentences)

    def measure(self, model: Encoder) -> Measurement:
        """Return the negated mean squared error, and the table of texts."""
        (embeddings,) = self._embed(model, self.target_sentences)
        if embeddings.shape != self.source_embeddings.shape:
            sizes = f"{embeddings.shape[1]} dimensions, the teacher's {self.source_embeddings.shape[1]}"
            raise ValueError(f"the model's embeddings have {sizes}; add a models.Dense, or set truncate_dim")
        errors = (self.source_embeddings.to(embeddings.device) - embeddings).square().mean(dim=1)  # (n,)
        columns = {"source": self.source_sentences, "target": self.target_sentences}
        table = pd.DataFrame({**columns, "negative_mse": -100 * errors.cpu().numpy()})
        return {"negative_mse": table["negative_mse"].mean()}, table


class MSEEvaluatorFromDataFrame(SentenceEvaluator):
    """`MSEEvaluator` for several pairs of languages: `en-de_negative_mse` and so on, and their mean `negative_mse`.

    `per_example`: the tables of all pairs, with a column "pair".

    `dataframe` has one column of parallel texts per language, `combinations` are pairs (language for the teacher,
    language for the model). Rows in which either text of a pair is missing or blank are left out for that pair.
    """

    def __init__(
        self,
        dataframe: pd.DataFrame | Sequence[Mapping[str, str]],
        teacher_model: Encoder,
        combinations: Sequence[tuple[str, str]],
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__("negative_mse", "mse_evaluation{}_results.csv", **settings)
        table = pd.DataFrame(dataframe).fillna("")
        self.evaluators = {}
        for source, target in combinations:
            check_columns("dataframe", table, (source, target))
            rows = table[(table[source].str.strip() != "") & (table[target].str.strip() != "")]
            texts = rows[source].tolist(), rows[target].tolist()
            self.evaluators[f"{source}-{target}"] = MSEEvaluator(*texts, teacher_model, **settings)

    def measure(self, model: Encoder) -> Measurement:
        """Return the negated mean squared errors, and the table of texts."""
        measured = {pair: evaluator.measure(model) for pair, evaluator in self.evaluators.items()}
        metrics = {f"{pair}_negative_mse": values["negative_mse"] for pair, (values, _) in measured.items()}
        table = pd.concat([examples.assign(pair=pair) for pair, (_, examples) in measured.items()], ignore_index=True)
        return {"negative_mse": sum(metrics.values()) / len(metrics), **metrics}, table


def cluster_columns(starts: int) -> tuple[str, ...]:
    """Return the columns of `per_example` with the clusters of each start: cluster, cluster_2, cluster_3, ..."""
    return ("cluster", *(f"cluster_{number}" for number in range(2, starts + 1)))


class ClusteringEvaluator(SentenceEvaluator):
    """Cluster the embeddings into as many groups as there are labels: do the groups match the labels?

    Mini-batch k-means (batches of 2000 texts). Metrics: `v_measure` (primary), the harmonic mean of `homogeneity` (a
    cluster holds one label) and `completeness` (a label lies in one cluster); of the first of several `starts`.
    `per_example`: text, label, `cluster_columns`. Source: Rosenberg and Hirschberg, 2007 (aclanthology.org/D07-1043).
    """

    def __init__(
        self, texts: Sequence[str], labels: Sequence[Any], seed: int = 42, starts: int = 1, **settings: Unpack[Settings]
    ) -> None:
        super().__init__("v_measure", "clustering_evaluation{}_results.csv", **settings)
        (self.texts,) = checked_texts(texts=texts)
        self.labels = list(labels)
        check_same_length(texts=self.texts, labels=self.labels)
        if len(set(self.labels)) < 2:
            raise ValueError(f"labels must name at least two classes, got only {self.labels[0]!r}")
        self.seed, self.starts = seed, checked_number("starts", starts, 1, whole=True)

    def measure(self, model: Encoder) -> Measurement:
        """Return the agreement of clusters and labels, and the table of texts."""
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.metrics import homogeneity_completeness_v_measure

        (embeddings,) = self._embed(model, self.texts)
        points = embeddings.cpu().numpy()
        kmeans = MiniBatchKMeans(n_clusters=len(set(self.labels)), batch_size=2000)
        table = pd.DataFrame({"text": self.texts, "label": self.labels})
        for number, column in enumerate(cluster_columns(self.starts)):
            kmeans.set_params(random_state=self.seed + number)
            table[column] = kmeans.fit_predict(points)
        homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(self.labels, table["cluster"])
        return {"v_measure": v_measure, "homogeneity": homogeneity, "completeness": completeness}, table
