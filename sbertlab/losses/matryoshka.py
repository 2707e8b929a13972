"""MatryoshkaLoss: any other loss, applied to the leading dimensions of the embeddings as well."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sbertlab.checks import checked_number
from sbertlab.losses.base import Columns, Groups, Loss, Texts, model_dimension


class MatryoshkaLoss(Loss):
    """Weighted sum of a loss on truncated embeddings: `sum_k weight_k * loss(normalised e[:dim_k])`.

    | texts             | labels                                                                       |
    | ----------------- | ---------------------------------------------------------------------------- |
    | as the inner loss | as the inner loss; target vectors are truncated likewise, but not normalised |

    Relatives: none; it wraps any other loss. All dimensions share the weights of a loss that has some (SoftmaxLoss,
    DenoisingAutoEncoderLoss). `encode(truncate_dim=...)` makes use of it.
    Source: Kusupati et al., 2022, Matryoshka Representation Learning (arXiv:2205.13147), section 3.

    Args:
        loss: the inner loss.
        matryoshka_dims: numbers of leading dimensions; include the model's own.
        matryoshka_weights: one per dimension; 1 by default.
        n_dims_per_step: number of dimensions drawn per step with torch's generator; -1 uses all.

    >>> from sbertlab import losses
    >>> a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> loss = MatryoshkaLoss(None, losses.CosineSimilarityLoss(), matryoshka_dims=[2, 1], matryoshka_weights=[1, 0.5])
    >>> round(loss.compute([a, b], torch.tensor([1.0, 0.0])).item(), 4)
    0.43

    In two dimensions the cosines are 1 and 0.6, in one both are 1: `0.6^2 / 2 + 0.5 * 1^2 / 2`.
    """

    columns = (0, 0)  # each instance takes these rules from the inner loss

    def __init__(
        self,
        model: nn.Module | None,
        loss: Loss,
        matryoshka_dims: Sequence[int],
        matryoshka_weights: Sequence[float] | None = None,
        n_dims_per_step: int = -1,
    ) -> None:
        super().__init__(model)
        if not isinstance(loss, Loss):
            raise ValueError(f"loss must be a loss of sbertlab.losses, got {type(loss).__name__}")
        weights = [1.0] * len(matryoshka_dims) if matryoshka_weights is None else list(matryoshka_weights)
        if not matryoshka_dims or len(weights) != len(matryoshka_dims):
            raise ValueError(
                f"matryoshka_dims must hold at least one dimension and matryoshka_weights one weight for each, "
                f"got {list(matryoshka_dims)} and {weights}"
            )
        width = model_dimension(model)
        for dim, weight in zip(matryoshka_dims, weights, strict=True):
            checked_number("each of matryoshka_dims", dim, 1, width or math.inf, whole=True)
            checked_number("each of matryoshka_weights", weight)
        if width is not None and width not in matryoshka_dims:
            warnings.warn(f"add {width} to matryoshka_dims, or the whole embedding is not trained", stacklevel=2)
        if n_dims_per_step != -1:
            checked_number("n_dims_per_step, unless -1 for all,", n_dims_per_step, 1, whole=True)
        self.loss = loss
        self.n_dims_per_step = n_dims_per_step
        by_dim = sorted(zip(matryoshka_dims, weights, strict=True), reverse=True)
        self.matryoshka_dims, self.matryoshka_weights = (list(column) for column in zip(*by_dim, strict=True))
        for rule in ("columns", "label", "fewer_scores", "embedded", "views", "needs_texts", "in_batch"):
            setattr(self, rule, getattr(loss, rule))

    def prepare(self, columns: Texts, labels: Tensor | None) -> Tensor | None:
        """Prepare as the inner loss does."""
        return self.loss.prepare(columns, labels)

    def known_positives(self, columns: Texts, groups: Groups = None) -> Tensor | None:
        """Return the mask of the inner loss."""
        return self.loss.known_positives(columns, groups)

    def check_batch(self, columns: Texts, labels: Tensor | None) -> None:
        """Check the batch as the inner loss does."""
        self.loss.check_batch(columns, labels)

    def _formula(self, embeddings: Columns, labels: Tensor, known: Tensor | None = None) -> Tensor:
        width, count = embeddings[0].shape[1], len(self.matryoshka_dims)
        if self.matryoshka_dims[0] > width:
            raise ValueError(f"matryoshka_dims go up to {self.matryoshka_dims[0]}, but the embeddings have {width}")
        drawn = torch.randperm(count)[: self.n_dims_per_step].tolist() if self.n_dims_per_step > 0 else range(count)
        losses = []
        for index in drawn:
            dim, weight = self.matryoshka_dims[index], self.matryoshka_weights[index]
            truncated = [F.normalize(column[:, :dim], dim=-1) for column in embeddings]
            targets = labels[..., :dim] if self.label == "vector" and labels.shape[-1] == width else labels
            losses.append(weight * self.loss.compute(truncated, targets, known))
        return torch.stack(losses).sum()
