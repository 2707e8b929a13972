"""Losses: each is mathematics on the embeddings of a batch, `compute(embeddings, labels)`.

| a row of the data                         | start with                                                       |
| ----------------------------------------- | ---------------------------------------------------------------- |
| (anchor, positive), with negatives or not | MultipleNegativesRankingLoss; with a guide model GISTEmbedLoss   |
| (a, b), similarity score                  | CoSENTLoss, CosineSimilarityLoss                                 |
| (a, b), 0 or 1                            | OnlineContrastiveLoss                                            |
| (a, b), class of the pair                 | SoftmaxLoss                                                      |
| text, its class                           | BatchHardSoftMarginTripletLoss                                   |
| texts, a teacher's scores or vectors      | MarginMSELoss, DistillKLDivLoss; MSELoss                         |
| text                                      | DenoisingAutoEncoderLoss, ContrastiveTensionLossInBatchNegatives |
| any of these, short embeddings wanted     | MatryoshkaLoss around the loss                                   |

Arguments that several losses share:

| argument        | meaning                                                                                            |
| --------------- | -------------------------------------------------------------------------------------------------- |
| model           | the encoder, needed by `forward` only                                                              |
| scale           | inverse temperature: 20 suits cosine similarity, 1 the dot product                                 |
| similarity_fct  | similarity s of two tensors: ranking losses `(n, dim)`, `(m, dim)` to `(n, m)`; others row by row  |
| distance_metric | distance d, a function like those of the loss's `...Metric` or `...DistanceFunction` class         |
| margin          | how much farther a negative must be, in units of the distance                                      |
"""

from sbertlab.losses.base import Loss, fitting_losses
from sbertlab.losses.denoising import DenoisingAutoEncoderLoss
from sbertlab.losses.distance import (
    BatchAllTripletLoss,
    BatchHardSoftMarginTripletLoss,
    BatchHardTripletLoss,
    BatchHardTripletLossDistanceFunction,
    BatchSemiHardTripletLoss,
    ContrastiveLoss,
    OnlineContrastiveLoss,
    SiameseDistanceMetric,
    TripletDistanceMetric,
    TripletLoss,
)
from sbertlab.losses.labels import (
    AnglELoss,
    CoSENTLoss,
    CosineSimilarityLoss,
    DistillKLDivLoss,
    DistillKLLoss,
    MarginMSELoss,
    MSELoss,
    SoftmaxLoss,
)
from sbertlab.losses.matryoshka import MatryoshkaLoss
from sbertlab.losses.ranking import (
    ContrastiveTensionLossInBatchNegatives,
    GISTEmbedLoss,
    MegaBatchMarginLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)

__all__ = [
    "AnglELoss",
    "BatchAllTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchHardTripletLoss",
    "BatchHardTripletLossDistanceFunction",
    "BatchSemiHardTripletLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "ContrastiveTensionLossInBatchNegatives",
    "CosineSimilarityLoss",
    "DenoisingAutoEncoderLoss",
    "DistillKLDivLoss",
    "DistillKLLoss",
    "GISTEmbedLoss",
    "Loss",
    "MSELoss",
    "MarginMSELoss",
    "MatryoshkaLoss",
    "MegaBatchMarginLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "OnlineContrastiveLoss",
    "SiameseDistanceMetric",
    "SoftmaxLoss",
    "TripletDistanceMetric",
    "TripletLoss",
    "fitting_losses",
]
