"""Evaluators: how good are the embeddings of a model on labelled texts?

An evaluator holds labelled texts. Called with a model (anything with `encode`) it returns a dict of metrics, appends
them to a CSV if given an `output_path`, and keeps `per_example`: a table from which metrics and intervals follow.

| evaluator | examples | primary metric, higher is better |
| --- | --- | --- |
| EmbeddingSimilarity | pair, graded score | greatest Spearman over the similarities |
| BinaryClassification | pair, 0 or 1 | greatest average precision over the similarities |
| Triplet | anchor, positive, negative | greatest accuracy over the similarities |
| InformationRetrieval | queries, corpus, relevant documents | greatest MAP@k over the score functions |
| Reranking | query, positives, negatives | MAP |
| ParaphraseMining | texts, duplicate pairs | average precision |
| Translation | pair of translations | accuracy, mean of both directions |
| LabelAccuracy | texts, class | accuracy of a softmax head |
| MSE, MSE...FromDataFrame | pair, teacher model | -100 * mean squared error |
| Clustering | text, class | V-measure |
| Sequential | other evaluators | that of the last |
"""

from sbertlab.evaluation.base import BaseEvaluator, SentenceEvaluator, SequentialEvaluator
from sbertlab.evaluation.labels import (
    ClusteringEvaluator,
    LabelAccuracyEvaluator,
    MSEEvaluator,
    MSEEvaluatorFromDataFrame,
)
from sbertlab.evaluation.pairs import (
    BinaryClassificationEvaluator,
    EmbeddingSimilarityEvaluator,
    TranslationEvaluator,
    TripletEvaluator,
)
from sbertlab.evaluation.retrieval import InformationRetrievalEvaluator, ParaphraseMiningEvaluator, RerankingEvaluator
from sbertlab.util import SimilarityFunction

__all__ = [
    "BaseEvaluator",
    "BinaryClassificationEvaluator",
    "ClusteringEvaluator",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "LabelAccuracyEvaluator",
    "MSEEvaluator",
    "MSEEvaluatorFromDataFrame",
    "ParaphraseMiningEvaluator",
    "RerankingEvaluator",
    "SentenceEvaluator",
    "SequentialEvaluator",
    "SimilarityFunction",
    "TranslationEvaluator",
    "TripletEvaluator",
]
