"""Losses on distances: given or mined triplets, and pairs that belong together or not."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sbertlab.checks import checked_number
from sbertlab.losses.base import Columns, Loss, Metric, Model
from sbertlab.util import cos_sim, pairwise_cos_sim, pairwise_euclidean_sim, pairwise_manhattan_sim

BatchMetric = Callable[[Tensor], Tensor]  # (n, dim) embeddings to their distances (n, n)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return `1 - cos(a_i, b_i)` of two `(n, dim)` tensors, `(n,)`."""
    return 1 - pairwise_cos_sim(a, b)


def euclidean_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return `|a_i - b_i|_2` of two `(n, dim)` tensors, `(n,)`; the gradient between equal rows is 0."""
    return -pairwise_euclidean_sim(a, b)


def manhattan_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return `|a_i - b_i|_1` of two `(n, dim)` tensors, `(n,)`."""
    return -pairwise_manhattan_sim(a, b)


class TripletDistanceMetric:
    """Distances for TripletLoss, row by row."""

    COSINE = staticmethod(cosine_distance)
    EUCLIDEAN = staticmethod(euclidean_distance)
    MANHATTAN = staticmethod(manhattan_distance)


class SiameseDistanceMetric(TripletDistanceMetric):
    """Distances for the contrastive losses, row by row."""

    COSINE_DISTANCE = staticmethod(cosine_distance)


class BatchHardTripletLossDistanceFunction:
    """Distances for the losses that mine triplets: all pairs of `(n, dim)` embeddings, `(n, n)`."""

    @staticmethod
    def cosine_distance(embeddings: Tensor) -> Tensor:
        """Return `1 - cos(e_i, e_j)`."""
        return 1 - cos_sim(embeddings, embeddings)

    @staticmethod
    def euclidean_distance(embeddings: Tensor, squared: bool = False) -> Tensor:
        """Return `|e_i - e_j|_2` from the differences: dot products would lose the digits of small distances."""
        distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.square() if squared else distances

    eucledian_distance = euclidean_distance  # the field's spelling in version 2.2


class TripletLoss(Loss):
    """The positive must be nearer than the negative by a margin: `mean max(0, d(a, p) - d(a, n) + margin)`.

    Rows: (anchor, positive, negative), no labels.
    A `triplet_margin` of 5 suits Euclidean distance, but not cosine distance, which is at most 2.
    Relatives: MultipleNegativesRankingLoss uses the whole batch; BatchHardTripletLoss and its siblings mine triplets.
    Source: Schroff et al., 2015, FaceNet (arXiv:1503.03832), equation 2.

    >>> anchor, positive, negative = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 6.0]])
    >>> TripletLoss().compute([anchor, positive, negative]).item()  # 5 - 6 + 5
    4.0
    """

    columns = (3, 3)

    def __init__(
        self, model: Model = None, distance_metric: Metric = euclidean_distance, triplet_margin: float = 5.0
    ) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.triplet_margin = checked_number("triplet_margin", triplet_margin)

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        anchors, positives, negatives = embeddings
        excess = self.distance_metric(anchors, positives) - self.distance_metric(anchors, negatives)
        return F.relu(excess + self.triplet_margin).mean()


class ContrastiveLoss(Loss):
    """Pull pairs labelled 1 together and push pairs labelled 0 beyond a margin.

    `loss_i = (label_i * d_i^2 + (1 - label_i) * max(0, margin - d_i)^2) / 2`, d_i the distance between a_i and b_i;
    the mean over the batch, or with `size_average=False` the sum.

    Rows: (a, b), label 1 if they belong together, 0 if not.
    Relatives: OnlineContrastiveLoss uses only the hard pairs of the batch and usually does better.
    Source: Hadsell et al., 2006, Dimensionality Reduction by Learning an Invariant Mapping, equation 4.

    >>> a, b = torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # cosine distances 1 and 0
    >>> ContrastiveLoss().compute([a, b], torch.tensor([1, 0])).item()  # mean of 1 / 2 and 0.5^2 / 2
    0.3125
    """

    label, label_range = "binary", (0, 1)

    def __init__(
        self,
        model: Model = None,
        distance_metric: Metric = cosine_distance,
        margin: float = 0.5,
        size_average: bool = True,
    ) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.margin = checked_number("margin", margin)
        self.size_average = size_average

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        distances = self.distance_metric(*embeddings)
        losses = (labels * distances.square() + (1 - labels) * F.relu(self.margin - distances).square()) / 2
        return losses.mean() if self.size_average else losses.sum()


class OnlineContrastiveLoss(ContrastiveLoss):
    """Contrastive loss of the hard pairs of a batch, summed: `sum d^2 + sum max(0, margin - d)^2`.

    The first sum runs over the pairs labelled 1 that are farther apart than the nearest pair labelled 0, the second
    over the pairs labelled 0 that are nearer than the farthest pair labelled 1. If one label does not occur in the
    batch, the mean distance of the other takes its place.

    Rows: (a, b), label 1 if they belong together, 0 if not.
    Relatives: ContrastiveLoss averages over all pairs; this sum, and so its gradient, grows with the batch.
    Source: Hadsell et al., 2006 (as ContrastiveLoss); the choice of hard pairs is that of sentence-transformers.

    >>> a, b = torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # cosine distances 1 and 0: both are hard
    >>> OnlineContrastiveLoss().compute([a, b], torch.tensor([1, 0])).item()  # 1 + 0.5^2
    1.25
    """

    def __init__(self, model: Model = None, distance_metric: Metric = cosine_distance, margin: float = 0.5) -> None:
        super().__init__(model, distance_metric, margin)

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        distances = self.distance_metric(*embeddings)
        together, apart = distances[labels == 1], distances[labels == 0]
        nearest_apart = apart.min() if len(apart) else together.mean()
        farthest_together = together.max() if len(together) else apart.mean()
        pulled = together[together > nearest_apart]
        pushed = F.relu(self.margin - apart[apart < farthest_together])
        return pulled.square().sum() + pushed.square().sum()


class BatchHardTripletLoss(Loss):
    """Each text of the batch with its farthest positive and its nearest negative.

    `mean_a max(0, max_p d(a, p) - min_n d(a, n) + margin)`, p among the texts of a's class (a itself, at distance 0,
    included), n among the others. As with its siblings, a batch without a triplet (a single class, or no class twice)
    gives 0; batches should hold several texts per class (SentenceLabelDataset).

    Rows: a text, labelled with its class, an int.
    Relatives: BatchSemiHardTripletLoss and BatchAllTripletLoss suffer less from wrong labels.
    Source: Hermans et al., 2017, In Defense of the Triplet Loss (arXiv:1703.07737), equation 5.

    >>> texts, classes = torch.tensor([[0.0], [3.0], [7.0]]), torch.tensor([0, 0, 1])
    >>> BatchHardTripletLoss().compute([texts], classes).item()  # (3 - 7 + 5, 3 - 4 + 5, 0 - 4 + 5): mean of 1, 4, 1
    2.0
    """

    columns, label = (1, 1), "int"

    def __init__(
        self,
        model: Model = None,
        distance_metric: BatchMetric = BatchHardTripletLossDistanceFunction.euclidean_distance,
        margin: float = 5.0,
    ) -> None:
        super().__init__(model)
        self.distance_metric = distance_metric
        self.margin = checked_number("margin", margin)

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        return F.relu(self._excess(embeddings[0], labels) + self.margin).mean()

    def _excess(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return farthest positive minus nearest negative of each text, `(batch,)`; -inf if there is no triplet."""
        distances, positives, negatives = self._batch(embeddings, labels)
        farthest_positive = distances.masked_fill(~positives, 0).max(dim=1).values
        nearest_negative = distances.masked_fill(~negatives, torch.inf).min(dim=1).values
        return (farthest_positive - nearest_negative).masked_fill(~positives.any(), -torch.inf)

    def _triplets(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return, for each pair (anchor, positive) that has a negative, its distance `(pairs, 1)`, the anchor's
        distances to the batch `(pairs, batch)`, and which of these are to negatives `(pairs, batch)`."""
        distances, positives, negatives = self._batch(embeddings, labels)
        anchors, others = (positives & negatives.any(dim=1, keepdim=True)).nonzero(as_tuple=True)
        return distances[anchors, others].unsqueeze(1), distances[anchors], negatives[anchors]

    def _batch(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances, positives and negatives of each text, all `(batch, batch)`."""
        same_class = labels.unsqueeze(1) == labels.unsqueeze(0)
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        return self.distance_metric(embeddings), same_class & ~itself, ~same_class


class BatchHardSoftMarginTripletLoss(BatchHardTripletLoss):
    """BatchHardTripletLoss with a soft margin: `mean_a log(1 + exp(max_p d(a, p) - min_n d(a, n)))`.

    Rows: a text, labelled with its class, an int.
    Relatives: BatchHardTripletLoss stops once the margin is reached; this loss never stops and has nothing to tune.
    Source: Hermans et al., 2017, In Defense of the Triplet Loss (arXiv:1703.07737), section 2.

    >>> texts, classes = torch.tensor([[0.0], [3.0], [3.0], [0.0]]), torch.tensor([0, 0, 1, 1])
    >>> round(BatchHardSoftMarginTripletLoss().compute([texts], classes).item(), 4)  # log(1 + e^(3 - 0)) each
    3.0486
    """

    def __init__(
        self,
        model: Model = None,
        distance_metric: BatchMetric = BatchHardTripletLossDistanceFunction.euclidean_distance,
    ) -> None:
        super().__init__(model, distance_metric)

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        return F.softplus(self._excess(embeddings[0], labels)).mean()


class BatchSemiHardTripletLoss(BatchHardTripletLoss):
    """Each pair (a, p) of a class with the nearest negative that is farther from a than p is.

    `mean_(a, p) max(0, d(a, p) - d(a, n) + margin)`; if no negative is farther than p, n is the farthest negative.

    Rows: a text, labelled with its class, an int.
    Relatives: BatchHardTripletLoss uses the hardest negatives, which include the mislabelled ones.
    Source: Schroff et al., 2015, FaceNet (arXiv:1503.03832), section 3.2.

    >>> texts, classes = torch.tensor([[0.0], [3.0], [2.0], [7.0]]), torch.tensor([0, 0, 1, 2])
    >>> BatchSemiHardTripletLoss().compute([texts], classes).item()  # the negative of 0 and of 3 is 7: mean of 1 and 4
    2.5
    """

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        positive, distances, negatives = self._triplets(embeddings[0], labels)
        farther = negatives & (distances > positive)
        nearest_farther = distances.masked_fill(~farther, torch.inf).min(dim=1).values
        farthest = distances.masked_fill(~negatives, -torch.inf).max(dim=1).values
        negative = torch.where(farther.any(dim=1), nearest_farther, farthest)
        return F.relu(positive.squeeze(1) - negative + self.margin).sum() / max(len(negative), 1)


class BatchAllTripletLoss(BatchHardTripletLoss):
    """All triplets of the batch that violate the margin: the mean of the positive `d(a, p) - d(a, n) + margin`.

    Rows: a text, labelled with its class, an int.
    Relatives: BatchHardTripletLoss takes one triplet per text; this needs memory for all pairs of a class x the batch.
    Source: Hermans et al., 2017, In Defense of the Triplet Loss (arXiv:1703.07737), equation 6 and section 2.

    >>> texts, classes = torch.tensor([[0.0], [3.0], [9.0]]), torch.tensor([0, 0, 1])
    >>> BatchAllTripletLoss().compute([texts], classes).item()  # 3 - 9 + 5 keeps the margin, 3 - 6 + 5 violates it
    2.0
    """

    def _formula(self, embeddings: Columns, labels: Tensor) -> Tensor:
        positive, distances, negatives = self._triplets(embeddings[0], labels)
        excess = F.relu(positive - distances + self.margin)[negatives]
        return excess.sum() / (excess > 0).sum().clamp(min=1)
