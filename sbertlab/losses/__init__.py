"""Losses: each is mathematics on the embeddings of a batch, `compute(embeddings, labels)`.

`docs/data.md` says which loss suits which rows, `fitting_losses` which losses take them. Shared arguments:

| argument        | meaning                                                                                           |
| --------------- | ------------------------------------------------------------------------------------------------- |
| model           | the encoder, needed by `forward` only                                                             |
| scale           | inverse temperature: 20 suits cosine similarity, 1 the dot product                                |
| similarity_fct  | similarity s of two tensors: ranking losses `(n, dim)`, `(m, dim)` to `(n, m)`; others row by row |
| distance_metric | distance d, a function like those of the loss's `...Metric` or `...DistanceFunction` class        |
| margin          | how much farther a negative must be, in units of the distance                                     |
"""

from sbertlab.losses.base import Loss, MatryoshkaLoss, fitting_losses
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
    MarginMSELoss,
    MSELoss,
    SoftmaxLoss,
)
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
