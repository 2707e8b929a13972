"""Losses that find their negatives in the batch: every text of it is a candidate for every anchor."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.checks import check_choice, checked_number
from sbertlab.losses.base import Columns, Groups, Loss, Metric, Model, Texts
from sbertlab.losses.known_positives import known_positives
from sbertlab.util import cos_sim


class MultipleNegativesRankingLoss(Loss):
    """Cross-entropy of picking one's own positive among all positives and negatives of the batch (InfoNCE).

    `loss_i = -log softmax_j(scale * s(anchor_i, candidate_j))[i]`, with the positives of the batch as the first
    candidates and the hard negatives after them. `hard_negatives="shared"` lets every anchor compete with every hard
    negative of the batch, "own" only with those of its own row (as in NeMo).

    Rows: (anchor, positive) or (anchor, positive, negative_1, ..., n), no labels.
    Relatives: MultipleNegativesSymmetricRankingLoss adds the way back, GISTEmbedLoss a model that checks negatives.
    Source: Henderson et al., 2017, Efficient Natural Language Response Suggestion (arXiv:1705.00652), section 4.4.

    >>> anchors, far = torch.eye(2), -torch.eye(2)
    >>> loss = MultipleNegativesRankingLoss(scale=1.0, hard_negatives="own")
    >>> round(loss.compute([anchors, anchors]).item(), 4)  # log(1 + e^-1)
    0.3133
    >>> round(loss.compute([anchors, anchors, far]).item(), 4)  # log(1 + e^-1 + e^-2)
    0.4076
    """

    columns, in_batch = (2, None), True

    def __init__(
        self, model: Model = None, scale: float = 20.0, similarity_fct: Metric = cos_sim, hard_negatives: str = "shared"
    ) -> None:
        super().__init__(model)
        check_choice("hard_negatives", hard_negatives, ("shared", "own"))
        self.scale = checked_number("scale", scale, above=True)
        self.similarity_fct, self.hard_negatives = similarity_fct, hard_negatives

    def known_positives(self, columns: Texts, groups: Groups = None) -> Tensor | None:
        """Return the mask of this loss's scores: `(batch, batch * (1 + n))`, or `(batch, batch + n)` for "own"."""
        known = super().known_positives(columns, groups)
        if known is None or self.hard_negatives == "shared":
            return known
        known = _with_own(*known.split(len(known), dim=1))
        return known if known.any() else None

    def _formula(self, embeddings: Columns, labels: Tensor, known: Tensor | None = None) -> Tensor:
        return _own_entropy(self._scores(embeddings, known))

    def _scores(self, embeddings: Columns, known: Tensor | None) -> Tensor:
        """Return scaled similarities of anchors and candidates, positives first: `(batch, candidates)`."""
        anchors, *columns = embeddings
        if self.hard_negatives == "shared":
            scores = self.similarity_fct(anchors, torch.cat(columns))  # (batch, batch * (1 + n))
        else:
            scores = _with_own(*(self.similarity_fct(anchors, column) for column in columns))  # (batch, batch + n)
        return _without_known(self.scale * scores, known)


class MultipleNegativesSymmetricRankingLoss(MultipleNegativesRankingLoss):
    """Mean of the ranking losses from anchors to candidates and from positives to anchors.

    `(CE(S) + CE(S[:, :batch]^T)) / 2` with `S_ij = scale * s(anchor_i, candidate_j)` and row i's own as the target.

    Rows: (anchor, positive) or (anchor, positive, negative_1, ..., n), no labels.
    Relatives: MultipleNegativesRankingLoss suits questions and answers; this one pairs that may be read either way.
    Source: Radford et al., 2021, CLIP (arXiv:2103.00020), figure 3.

    >>> anchors, positives = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> loss = MultipleNegativesSymmetricRankingLoss(scale=1.0).compute([anchors, positives])
    >>> round(loss.item(), 4)  # forward log 2 twice; backward log(1 + 1/e) and log(1 + e), 0.8133 on average
    0.7532
    """

    def _formula(self, embeddings: Columns, labels: Tensor, known: Tensor | None = None) -> Tensor:
        scores = self._scores(embeddings, known)
        backward = _own_entropy(scores[:, : len(scores)].T)
        return (_own_entropy(scores) + backward) / 2


class MegaBatchMarginLoss(Loss):
    """Each anchor with its positive and the nearest other positive of the batch, with a margin for each.

    `mean max(0, positive_margin - cos(a, p)) + max(0, max_other cos(a, other) - negative_margin)`. The last two
    arguments are ignored: the training loop's gradient cache saves memory instead.

    Rows: (anchor, positive), no labels.
    Relatives: MultipleNegativesRankingLoss weighs all negatives; this takes the hardest, so batches should be large.
    Source: Wieting and Gimpel, 2018, ParaNMT-50M (doi:10.18653/v1/P18-1042), section 4.1.

    >>> anchors, positives = torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> round(MegaBatchMarginLoss().compute([anchors, positives]).item(), 4)  # (0 + 0.6 - 0.3) / 2; 0.8 is near enough
    0.15
    """

    in_batch = True

    def __init__(
        self,
        model: Model = None,
        positive_margin: float = 0.8,
        negative_margin: float = 0.3,
        use_mini_batched_version: bool = True,
        mini_batch_size: int = 50,
    ) -> None:
        super().__init__(model)
        self.positive_margin, self.negative_margin = positive_margin, negative_margin

    def _formula(self, embeddings: Columns, labels: Tensor, known: Tensor | None = None) -> Tensor:
        scores = cos_sim(*embeddings)
        own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        nearest_other = _without_known(scores, known).masked_fill(own, -torch.inf).max(dim=1).values
        return (F.relu(self.positive_margin - scores.diagonal()) + F.relu(nearest_other - self.negative_margin)).mean()


class ContrastiveTensionLossInBatchNegatives(Loss):
    """Two embeddings of the same text must find each other among those of the batch; needs nothing but texts.

    `(CE(S) + CE(S^T)) / 2` with `S_ij = exp(logit_scale) * s(a_i, b_j)`; the scale is learned, starting from `scale`.
    The field trains two copies of the encoder. Here one encoder embeds each text twice (`views = 2`), and dropout makes
    a and b differ, as in SimCSE. Given one embedding, `compute` only pushes different texts apart.

    Rows: a text, no label.
    Relatives: DenoisingAutoEncoderLoss also learns from texts alone, more about their words.
    Source: Carlsson et al., 2021, Semantic Re-tuning with Contrastive Tension (ICLR); SimCSE (arXiv:2104.08821).

    >>> a, b = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> loss = ContrastiveTensionLossInBatchNegatives(scale=1.0).compute([a, b])
    >>> round(loss.item(), 4)  # from a log 2 twice; from b log(1 + 1/e) and log(1 + e), 0.8133 on average
    0.7532
    """

    columns, views, in_batch = (1, 1), 2, True

    def __init__(self, model: Model = None, scale: float = 20.0, similarity_fct: Metric = cos_sim) -> None:
        super().__init__(model)
        self.similarity_fct = similarity_fct
        self.logit_scale = nn.Parameter(torch.tensor(math.log(checked_number("scale", scale, above=True))))

    def _formula(self, embeddings: Columns, labels: Tensor, known: Tensor | None = None) -> Tensor:
        scores = _without_known(self.logit_scale.exp() * self.similarity_fct(embeddings[0], embeddings[-1]), known)
        return (_own_entropy(scores) + _own_entropy(scores.T)) / 2


class GISTEmbedLoss(Loss):
    """Ranking loss over anchors, positives and negatives, without the candidates that a guide takes for positives.

    `loss_i = -log(exp(cos(a_i, p_i) / temperature) / sum_c exp(cos(c) / temperature))`. The sum runs over p_i and over
    all pairs (a_i, p_j), (a_i, a_j) with `contrast_anchors`, (p_i, p_j) with `contrast_positives`, and (a_i, n_j) whose
    cosine under the guide is not above `cos_guide(a_i, p_i) - margin`; `margin_strategy="relative"` multiplies the
    margin by `|cos_guide(a_i, p_i)|`. The guide, a SentenceTransformer, is neither trained nor saved.

    Rows: (anchor, positive) or (anchor, positive, negative_1, ..., n), no labels; `compute` takes the guide's
    embeddings `(columns, batch, guide_dim)` as labels, made by `prepare`.
    Relatives: MultipleNegativesRankingLoss trusts that all others are negatives.
    Source: Solatorio, 2024, GISTEmbed (arXiv:2402.16829); the margins are those of NV-Retriever (arXiv:2407.15831).

    >>> guide = nn.Identity()  # `compute` does not need it
    >>> loss = GISTEmbedLoss(None, guide, temperature=1.0, contrast_anchors=False, contrast_positives=False)
    >>> pairs, guided = torch.eye(2), torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    >>> round(loss.compute([pairs, pairs], torch.stack([pairs, pairs])).item(), 4)  # nothing left out: log(1 + e^-1)
    0.3133
    >>> loss.compute([pairs, pairs], torch.stack([pairs, guided])).item()  # p_1 is nearer to a_0 than p_0 is: left out
    0.0
    """

    columns, in_batch, needs_texts = (2, None), True, True

    def __init__(
        self,
        model: Model,
        guide: nn.Module,
        temperature: float = 0.01,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
    ) -> None:
        super().__init__(model)
        check_choice("margin_strategy", margin_strategy, ("absolute", "relative"))
        self.__dict__["guide"] = guide  # not a submodule, so that it is neither trained nor saved
        self.temperature = checked_number("temperature", temperature, above=True)
        self.margin_strategy, self.margin = margin_strategy, margin
        self.contrast_anchors, self.contrast_positives = contrast_anchors, contrast_positives

    def prepare(self, columns: Texts, labels: Tensor | None) -> Tensor:
        """Return the guide's embeddings of the texts, `(columns, batch, guide_dim)`."""
        guide: Any = self.guide
        texts = [text for column in columns for text in column]
        embeddings = guide.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return embeddings.reshape(len(columns), len(columns[0]), -1)

    def known_positives(self, columns: Texts, groups: Groups = None) -> Tensor | None:
        """Return the mask of all pairs, in the order of the formula.

        (a_i, a_j) and (p_i, p_j) are masked if a_j or p_j is known to be a positive of row i.
        """
        known = known_positives(columns, groups, anchors=True)
        if known is None:
            return None
        positives, *negatives, anchors = known.split(len(known), dim=1)
        rows = [positives | anchors] * (self.contrast_anchors + self.contrast_positives)
        return torch.cat([positives, *rows, *negatives], dim=1)

    def _formula(self, embeddings: Columns, labels: Tensor, known: Tensor | None = None) -> Tensor:
        if labels.shape[:-1] != (len(embeddings), len(embeddings[0])):
            raise ValueError("GISTEmbedLoss.compute takes the guide's embeddings, which prepare(columns, None) makes")
        guided = cos_sim(labels[0], labels[1]).diagonal()
        slack = self.margin if self.margin_strategy == "absolute" else self.margin * guided.abs()
        threshold = (guided - slack).unsqueeze(1)  # (batch, 1)
        itself = torch.eye(len(guided), dtype=torch.bool, device=guided.device)
        pairs = [(0, 1)] + [(0, 0)] * self.contrast_anchors + [(1, 1)] * self.contrast_positives
        scores = []
        for first, second in pairs + [(0, negative) for negative in range(2, len(embeddings))]:
            left_out = cos_sim(labels[first], labels[second]) > threshold
            left_out = left_out & ~itself if (first, second) == (0, 1) else left_out | itself & (first == second)
            scores.append(cos_sim(embeddings[first], embeddings[second]).masked_fill(left_out, -torch.inf))
        return _own_entropy(_without_known(torch.cat(scores, dim=1), known) / self.temperature)


def _with_own(positives: Tensor, *negatives: Tensor) -> Tensor:
    """Join `(batch, batch)` of the positives and the diagonal of each `(batch, batch)` of negatives."""
    return torch.cat([positives, *(column.diagonal().unsqueeze(1) for column in negatives)], dim=1)


def _own_entropy(scores: Tensor) -> Tensor:
    """Return the cross-entropy of scores `(batch, candidates)`, in which column i is row i's own candidate."""
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def _without_known(scores: Tensor, known: Tensor | None) -> Tensor:
    """Return scores `(batch, candidates)` with -inf at known positives; unchanged for None."""
    return scores if known is None else scores.masked_fill(known.to(scores.device), -torch.inf)
